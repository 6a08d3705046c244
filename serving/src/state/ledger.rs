//! The durable record of sessions, written before a session's seed is used.

use std::collections::HashSet;
use std::fs::{OpenOptions, TryLockError};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use super::Record;
use crate::ServingError;

/// One line per session and role: `role session unix-seconds`. Locked while open: two processes never share one.
pub struct Ledger {
    state: Mutex<State>,
}

struct State {
    record: Record,
    used: HashSet<String>,
}

/// Whether a ledger in use is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum WhenInUse {
    Wait,
    Fail,
}

impl Ledger {
    /// Opens or creates the record and its folder.
    ///
    /// # Errors
    /// [`ServingError::LedgerInUse`]; [`ServingError::Io`].
    pub fn open(path: &Path, when_in_use: WhenInUse) -> Result<Self, ServingError> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(ServingError::io(folder))?;
        }
        let file =
            OpenOptions::new().read(true).append(true).create(true).open(path).map_err(ServingError::io(path))?;
        match when_in_use {
            WhenInUse::Wait => file.lock().map_err(ServingError::io(path))?,
            WhenInUse::Fail => file.try_lock().map_err(|error| match error {
                TryLockError::WouldBlock => ServingError::LedgerInUse { path: path.into() },
                TryLockError::Error(source) => ServingError::Io { path: path.into(), source },
            })?,
        }
        let mut used = HashSet::new();
        let record = Record::of(path, file, |line| {
            let mut words = line.split(' ');
            if let (Some(role), Some(session)) = (words.next(), words.next()) {
                used.insert(key(role, session));
            }
        })?;
        Ok(Self { state: Mutex::new(State { record, used }) })
    }

    /// Records that `role` now uses `session`; on return the record is on disk.
    ///
    /// # Errors
    /// [`ServingError::SessionUsed`] when it was recorded before, by any run; [`ServingError::Io`] where the record cannot
    /// be written: the session is then not claimed, and the caller uses nothing of it.
    pub fn claim(&self, role: &str, session: &str) -> Result<(), ServingError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !state.used.insert(key(role, session)) {
            return Err(ServingError::SessionUsed { session: session.into() });
        }
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
        let written = state.record.append(&format!("{role} {session} {seconds}\n"));
        if written.is_err() {
            state.used.remove(&key(role, session));
        }
        written
    }

    pub(crate) fn is_claimed(&self, role: &str, session: &str) -> bool {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.used.contains(&key(role, session))
    }
}

fn key(role: &str, session: &str) -> String {
    format!("{role} {session}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_claimed_once_per_role_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/ledger");
        let ledger = Ledger::open(&path, WhenInUse::Fail).unwrap();
        ledger.claim("e0", "s").unwrap();
        ledger.claim("e1", "s").unwrap();
        assert!(matches!(ledger.claim("e0", "s"), Err(ServingError::SessionUsed { .. })));
        assert!(matches!(Ledger::open(&path, WhenInUse::Fail), Err(ServingError::LedgerInUse { .. })));
        drop(ledger);
        let ledger = Ledger::open(&path, WhenInUse::Fail).unwrap();
        assert!(matches!(ledger.claim("e1", "s"), Err(ServingError::SessionUsed { .. })));
        ledger.claim("e1", "t").unwrap();
    }
}
