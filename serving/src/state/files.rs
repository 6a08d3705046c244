//! [`State`] in the files of one folder: `ledger`, `charges`, and the keys beside them or elsewhere.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::charges::{self, Charges};
use super::keys::KeyFile;
use super::{Holder, Key, KeyDigest, Ledger, Limits, Refusal, State, WhenInUse, key_digest, unix_seconds};
use crate::ServingError;
use crate::secret_files::replace_file;

const CHARGES_FILE: &str = "charges";
/// Says that there were keys once: a lost file of keys must not open the server to everybody.
const KEYS_SEEN_FILE: &str = "keys.seen";

/// Kept by one process at a time; the folder's ledger is locked.
pub struct FileState {
    ledger: Ledger,
    keys: KeyFile,
    charges: Mutex<Charges>,
}

impl FileState {
    /// Opens or creates the records in `folder`; `keys` names the file of keys.
    ///
    /// # Errors
    /// [`ServingError::LedgerInUse`] while another process runs on the folder; [`ServingError::KeysGone`] where there were
    /// keys and are none; [`ServingError::Io`].
    pub fn open(folder: &Path, keys: &Path) -> Result<Self, ServingError> {
        let ledger = Ledger::open(&folder.join("ledger"), WhenInUse::Fail)?;
        let charges = Mutex::new(Charges::open(&folder.join(CHARGES_FILE))?);
        let state = Self { ledger, keys: KeyFile::open(keys)?, charges };
        let (has_keys, seen) = (state.keys.current()?.is_some(), folder.join(KEYS_SEEN_FILE));
        if has_keys && !seen.exists() {
            replace_file(&seen, b"this server has had API keys: without them it does not start\n")?;
        }
        // Only keys are charged, so a record of charges says the same of an older folder.
        let charges = folder.join(CHARGES_FILE);
        let was_charged = std::fs::metadata(&charges).is_ok_and(|metadata| metadata.len() > 0);
        let record = if was_charged { Some(charges) } else { seen.exists().then_some(seen) };
        match record {
            Some(record) if !has_keys => Err(ServingError::KeysGone { keys: keys.into(), record }),
            _ => Ok(state),
        }
    }

    /// Tokens and sessions that each key has used, without opening the folder for writing.
    ///
    /// # Errors
    /// [`ServingError::Io`].
    pub fn used(folder: &Path, digest: &KeyDigest) -> Result<(u64, u64), ServingError> {
        let (used, _) = charges::read(&folder.join(CHARGES_FILE))?;
        Ok(used.get(digest).map_or((0, 0), |used| (used.tokens, used.sessions)))
    }

    fn limits(&self, holder: &Holder) -> Result<Result<Limits, Refusal>, ServingError> {
        let keys = self.keys.current()?;
        let key = keys.as_ref().and_then(|keys| keys.find(&holder.digest));
        Ok(key.map(|key| key.limits).ok_or(Refusal::Unknown))
    }

    fn charges(&self) -> MutexGuard<'_, Charges> {
        self.charges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State for FileState {
    fn claim(&self, role: &str, session: &str) -> Result<(), ServingError> {
        self.ledger.claim(role, session)
    }

    fn is_claimed(&self, role: &str, session: &str) -> bool {
        self.ledger.is_claimed(role, session)
    }

    fn holder(&self, key: Option<&str>) -> Result<Result<Option<Holder>, Refusal>, ServingError> {
        let Some(keys) = self.keys.current()? else { return Ok(Ok(None)) };
        let found = key.and_then(|key| keys.find(&key_digest(key)));
        let holder = |key: &Key| Holder { digest: key.digest, name: key.name.clone() };
        Ok(found.map(|key| Some(holder(key))).ok_or(Refusal::Unknown))
    }

    fn start_session(&self, holder: &Holder, now: SystemTime) -> Result<Result<(), Refusal>, ServingError> {
        let limits = match self.limits(holder)? {
            Ok(limits) => limits,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (mut charges, seconds) = (self.charges(), unix_seconds(now));
        let used = charges.used.entry(holder.digest).or_default();
        if let Some(limit) = limits.tokens.filter(|limit| used.tokens >= *limit) {
            return Ok(Err(Refusal::BudgetSpent { limit }));
        }
        type Amount = fn(&(u64, u64, u64)) -> u64;
        let rates: [(&str, Option<u64>, Amount); 2] = [
            ("tokens", limits.tokens_per_minute, |entry| entry.1),
            ("sessions", limits.sessions_per_minute, |entry| entry.2),
        ];
        for (what, limit, amount) in rates {
            let wait = limit.and_then(|limit| Some((limit, used.wait(seconds, limit, amount)?)));
            if let Some((limit, retry_after)) = wait {
                return Ok(Err(Refusal::TooFast { what, limit, retry_after }));
            }
        }
        charges.add(&holder.digest, seconds, 0, 1).map(Ok)
    }

    fn charge(&self, holder: &Holder, tokens: u64, now: SystemTime) -> Result<Result<(), Refusal>, ServingError> {
        let limits = match self.limits(holder)? {
            Ok(limits) => limits,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let mut charges = self.charges();
        let used = charges.used.entry(holder.digest).or_default().tokens;
        if let Some(limit) = limits.tokens.filter(|limit| used.saturating_add(tokens) > *limit) {
            return Ok(Err(Refusal::BudgetSpent { limit }));
        }
        charges.add(&holder.digest, unix_seconds(now), tokens, 0).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::super::Keys;
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn budgets_and_rates_hold_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let open = || FileState::open(folder.path(), &path).unwrap();
        assert_eq!(open().holder(None).unwrap(), Ok(None), "without a file everybody is served");

        let limits = Limits { tokens: Some(40), tokens_per_minute: None, sessions_per_minute: Some(2) };
        let key = Keys::add(&path, "alice", limits).unwrap();
        let state = open();
        assert_eq!(state.holder(None).unwrap(), Err(Refusal::Unknown));
        assert_eq!(state.holder(Some("guess")).unwrap(), Err(Refusal::Unknown));
        let alice = state.holder(Some(&key)).unwrap().unwrap().unwrap();
        assert_eq!(state.start_session(&alice, at(100)).unwrap(), Ok(()));
        assert_eq!(state.charge(&alice, 32, at(100)).unwrap(), Ok(()));
        drop(state);

        let state = open();
        assert_eq!(state.charge(&alice, 16, at(101)).unwrap(), Err(Refusal::BudgetSpent { limit: 40 }));
        assert_eq!(state.charge(&alice, 8, at(101)).unwrap(), Ok(()));
        assert_eq!(state.start_session(&alice, at(102)).unwrap(), Err(Refusal::BudgetSpent { limit: 40 }));
        assert_eq!(FileState::used(folder.path(), &alice.digest).unwrap(), (40, 1));
    }

    #[test]
    fn too_many_sessions_in_a_minute_are_told_when_to_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let limits = Limits { sessions_per_minute: Some(2), ..Limits::default() };
        let key = Keys::add(&path, "bob", limits).unwrap();
        let state = FileState::open(folder.path(), &path).unwrap();
        let bob = state.holder(Some(&key)).unwrap().unwrap().unwrap();
        assert_eq!(state.start_session(&bob, at(100)).unwrap(), Ok(()));
        assert_eq!(state.start_session(&bob, at(110)).unwrap(), Ok(()));
        let retry_after = Duration::from_secs(40);
        let refused = Err(Refusal::TooFast { what: "sessions", limit: 2, retry_after });
        assert_eq!(state.start_session(&bob, at(120)).unwrap(), refused);
        assert_eq!(state.start_session(&bob, at(160)).unwrap(), Ok(()));
    }

    #[test]
    fn a_revoked_key_or_a_vanished_file_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let key = Keys::add(&path, "carol", Limits::default()).unwrap();
        let state = FileState::open(folder.path(), &path).unwrap();
        let carol = state.holder(Some(&key)).unwrap().unwrap().unwrap();
        Keys::revoke(&path, "carol").unwrap();
        assert_eq!(state.holder(Some(&key)).unwrap(), Err(Refusal::Unknown));
        assert_eq!(state.charge(&carol, 1, at(1)).unwrap(), Err(Refusal::Unknown), "also within a session");
        std::fs::remove_file(&path).unwrap();
        assert!(state.holder(Some(&key)).is_err() && state.holder(None).is_err());
        drop(state);
        let open = || FileState::open(folder.path(), &path).map(|_| ());
        let error = open().unwrap_err().to_string();
        assert!(error.contains("keys` is gone") && error.contains("keys.seen"), "{error}");
        std::fs::remove_file(folder.path().join(KEYS_SEEN_FILE)).unwrap();
        open().unwrap();
        std::fs::write(folder.path().join(CHARGES_FILE), format!("1 {} 1 1\n", "ab".repeat(32))).unwrap();
        assert!(open().is_err(), "an older folder has charges and no other record");
    }
}
