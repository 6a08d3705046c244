//! [`State`] in one folder: the records ([`super::store`]), and the keys beside them or elsewhere.

use std::{
    fs::{File, TryLockError},
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime},
};

use crate::{
    error::{Refusal, StateError},
    secret_files::replace_file,
    state::{
        Key, KeyDigest, Limits, Principal, State, WINDOW, WhenInUse, key_digest,
        keys::KeyFile,
        store::{self, Recent, Store},
        takeover::{KEYS_SEEN, KEYS_SEEN_FILE},
        unix_seconds,
    },
};

/// Kept by one process at a time, records and keys alike.
pub struct FileState {
    store: Store,
    keys: KeyFile,
    /// Where it is noted that there were keys, and whether it is.
    seen: (PathBuf, AtomicBool),
    /// Held as long as this server runs.
    _serving: Option<File>,
}

impl FileState {
    /// Opens or creates the records in `folder`; `keys` names the file of keys.
    ///
    /// # Errors
    /// [`StateError::LedgerInUse`] while another server runs on the folder or on the keys;
    /// [`StateError::KeysGone`] where there were keys and are none; [`StateError::Io`].
    pub fn open(folder: &Path, keys: &Path) -> Result<Self, StateError> {
        let store = Store::open(folder, WhenInUse::Fail)?;
        let seen = folder.join(KEYS_SEEN_FILE);
        let is_noted = AtomicBool::new(seen.exists());
        let serving = serve_alone(keys)?;
        let state = Self {
            store,
            keys: KeyFile::open(keys)?,
            seen: (seen, is_noted),
            _serving: serving,
        };
        if state.keys.current()?.is_some() {
            state.note_keys()?;
        } else if state.seen.1.load(Ordering::Relaxed) {
            return Err(StateError::KeysGone {
                keys: keys.into(),
                record: state.seen.0,
            });
        }
        Ok(state)
    }

    /// Tokens and sessions that each key has used, also beside a running server.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn used(folder: &Path, digest: &KeyDigest) -> Result<(u64, u64), StateError> {
        let used = store::used(folder, digest)?;
        Ok((used.tokens, used.sessions))
    }

    /// Notes, once, that this server has keys.
    fn note_keys(&self) -> Result<(), StateError> {
        let (path, is_noted) = &self.seen;
        if !is_noted.load(Ordering::Relaxed) {
            replace_file(path, KEYS_SEEN)?;
            is_noted.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    fn limits(&self, principal: &Principal) -> Result<Result<Limits, Refusal>, StateError> {
        let keys = self.keys.current()?;
        let key = keys.as_ref().and_then(|keys| keys.find(&principal.digest));
        Ok(key.map(|key| key.limits).ok_or(Refusal::Unknown))
    }
}

/// Locks a file beside the keys: budgets are counted by one server only.
fn serve_alone(keys: &Path) -> Result<Option<File>, StateError> {
    // The same file has one lock, by whatever path it is named.
    let whole = keys.canonicalize().unwrap_or_else(|_| keys.into());
    let mut path = whole.into_os_string();
    path.push(".serving");
    let path = PathBuf::from(path);
    let file = match File::options().create(true).append(true).open(&path) {
        Ok(file) => file,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
            ) =>
        {
            tracing::warn!(
                "`{}` cannot be locked, so nobody sees whether another server has these keys: \
                 {error}",
                path.display()
            );
            return Ok(None);
        }
        Err(source) => return Err(StateError::Io { path, source }),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(StateError::LedgerInUse { path: keys.into() }),
        Err(TryLockError::Error(source)) => Err(StateError::Io { path, source }),
    }
}

/// How long until less than `limit` of `amount` lies within the window; `None`: it does now.
fn wait(
    recent: &Recent,
    now: u64,
    limit: u64,
    amount: fn(&(u64, u64, u64)) -> u64,
) -> Option<Duration> {
    let limit = u128::from(limit);
    let mut within: u128 = recent.iter().map(|entry| u128::from(amount(entry))).sum();
    if within < limit {
        return None;
    }
    for entry in recent {
        within -= u128::from(amount(entry));
        if within < limit {
            return Some(Duration::from_secs(
                (entry.0 + WINDOW.as_secs()).saturating_sub(now).max(1),
            ));
        }
    }
    Some(WINDOW)
}

impl State for FileState {
    fn claim(&self, role: &str, session: &str) -> Result<(), StateError> {
        self.store.claim(role, session)
    }

    fn is_claimed(&self, role: &str, session: &str) -> Result<bool, StateError> {
        self.store.is_claimed(role, session)
    }

    fn principal(
        &self,
        key: Option<&str>,
    ) -> Result<Result<Option<Principal>, Refusal>, StateError> {
        let Some(keys) = self.keys.current()? else {
            return Ok(Ok(None));
        };
        self.note_keys()?;
        let found = key.and_then(|key| keys.find(&key_digest(key)));
        let principal = |key: &Key| Principal {
            digest: key.digest,
            name: key.name.clone(),
        };
        Ok(found
            .map(|key| Some(principal(key)))
            .ok_or(Refusal::Unknown))
    }

    fn check(&self, principal: &Principal) -> Result<Result<(), Refusal>, StateError> {
        Ok(self.limits(principal)?.map(|_| ()))
    }

    fn refund(&self, principal: &Principal, tokens: u64) -> Result<(), StateError> {
        self.store.refund(&principal.digest, tokens)
    }

    fn start_session(
        &self,
        principal: &Principal,
        now: SystemTime,
    ) -> Result<Result<(), Refusal>, StateError> {
        let limits = match self.limits(principal)? {
            Ok(limits) => limits,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let seconds = unix_seconds(now);
        self.store
            .charge(&principal.digest, seconds, (0, 1), |used, recent| {
                if let Some(limit) = limits.tokens.filter(|limit| used.tokens >= *limit) {
                    return Err(Refusal::BudgetSpent { limit });
                }
                type Amount = fn(&(u64, u64, u64)) -> u64;
                let rates: [(&str, Option<u64>, Amount); 2] = [
                    ("tokens", limits.tokens_per_minute, |entry| entry.1),
                    ("sessions", limits.sessions_per_minute, |entry| entry.2),
                ];
                for (what, limit, amount) in rates {
                    let wait = limit
                        .and_then(|limit| Some((limit, wait(recent, seconds, limit, amount)?)));
                    if let Some((limit, retry_after)) = wait {
                        return Err(Refusal::TooFast {
                            what,
                            limit,
                            retry_after,
                        });
                    }
                }
                Ok(())
            })
    }

    fn charge(
        &self,
        principal: &Principal,
        tokens: u64,
        now: SystemTime,
    ) -> Result<Result<(), Refusal>, StateError> {
        let limits = match self.limits(principal)? {
            Ok(limits) => limits,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.store.charge(
            &principal.digest,
            unix_seconds(now),
            (tokens, 0),
            |used, _| match limits
                .tokens
                .filter(|limit| used.tokens.saturating_add(tokens) > *limit)
            {
                Some(limit) => Err(Refusal::BudgetSpent { limit }),
                None => Ok(()),
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::{super::Keys, *};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn budgets_and_rates_hold_over_restarts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let open = || FileState::open(folder.path(), &path).unwrap();
        assert_eq!(
            open().principal(None).unwrap(),
            Ok(None),
            "without a file everyone is served"
        );

        let limits = Limits {
            tokens: Some(40),
            tokens_per_minute: None,
            sessions_per_minute: Some(2),
        };
        let key = Keys::add(&path, "alice", limits).unwrap();
        let state = open();
        assert_eq!(state.principal(None).unwrap(), Err(Refusal::Unknown));
        assert_eq!(
            state.principal(Some("guess")).unwrap(),
            Err(Refusal::Unknown)
        );
        let alice = state.principal(Some(&key)).unwrap().unwrap().unwrap();
        assert_eq!(state.start_session(&alice, at(100)).unwrap(), Ok(()));
        assert_eq!(state.charge(&alice, 32, at(100)).unwrap(), Ok(()));
        drop(state);

        let state = open();
        assert_eq!(
            state.charge(&alice, 16, at(101)).unwrap(),
            Err(Refusal::BudgetSpent { limit: 40 })
        );
        assert_eq!(state.charge(&alice, 8, at(101)).unwrap(), Ok(()));
        assert_eq!(
            state.start_session(&alice, at(102)).unwrap(),
            Err(Refusal::BudgetSpent { limit: 40 })
        );
        assert_eq!(
            FileState::used(folder.path(), &alice.digest).unwrap(),
            (40, 1)
        );
    }

    #[test]
    fn a_rate_frees_up_as_the_window_moves_on() {
        let recent = vec![(100, 10, 1), (130, 10, 1)];
        assert_eq!(wait(&recent, 131, 21, |entry| entry.1), None);
        assert_eq!(
            wait(&recent, 131, 20, |entry| entry.1),
            Some(Duration::from_secs(29))
        );
        assert_eq!(
            wait(&recent, 131, 1, |entry| entry.2),
            Some(Duration::from_secs(59))
        );
        let largest = vec![(100, u64::MAX, 1), (130, 10, 1)];
        assert_eq!(
            wait(&largest, 131, 5, |entry| entry.1),
            Some(Duration::from_secs(59))
        );
    }

    #[test]
    fn one_server_counts_the_budgets_of_a_file_of_keys() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let key = Keys::add(&keys, "alice", Limits::default()).unwrap();
        let first = FileState::open(&folder.path().join("a"), &keys).unwrap();
        let error = FileState::open(&folder.path().join("b"), &keys)
            .map(|_| ())
            .unwrap_err();
        assert!(
            matches!(&error, StateError::LedgerInUse { path } if *path == keys),
            "{error}"
        );
        // `marill keys` works beside it.
        let alice = first.principal(Some(&key)).unwrap().unwrap().unwrap();
        assert_eq!(first.charge(&alice, 5, at(1)).unwrap(), Ok(()));
        assert_eq!(
            FileState::used(&folder.path().join("a"), &alice.digest).unwrap(),
            (5, 0)
        );
        Keys::add(&keys, "bob", Limits::default()).unwrap();
        drop(first);
        FileState::open(&folder.path().join("b"), &keys).unwrap();
    }

    #[test]
    fn too_many_sessions_in_a_minute_are_told_when_to_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let limits = Limits {
            sessions_per_minute: Some(2),
            ..Limits::default()
        };
        let key = Keys::add(&path, "bob", limits).unwrap();
        let state = FileState::open(folder.path(), &path).unwrap();
        let bob = state.principal(Some(&key)).unwrap().unwrap().unwrap();
        assert_eq!(state.start_session(&bob, at(100)).unwrap(), Ok(()));
        assert_eq!(state.start_session(&bob, at(110)).unwrap(), Ok(()));
        let retry_after = Duration::from_secs(40);
        let refused = Err(Refusal::TooFast {
            what: "sessions",
            limit: 2,
            retry_after,
        });
        assert_eq!(state.start_session(&bob, at(120)).unwrap(), refused);
        assert_eq!(state.start_session(&bob, at(160)).unwrap(), Ok(()));
    }

    #[test]
    fn a_revoked_key_or_a_vanished_file_lets_nobody_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let key = Keys::add(&path, "carol", Limits::default()).unwrap();
        let state = FileState::open(folder.path(), &path).unwrap();
        let carol = state.principal(Some(&key)).unwrap().unwrap().unwrap();
        Keys::revoke(&path, "carol").unwrap();
        assert_eq!(state.principal(Some(&key)).unwrap(), Err(Refusal::Unknown));
        assert_eq!(
            state.charge(&carol, 1, at(1)).unwrap(),
            Err(Refusal::Unknown),
            "also within a session"
        );
        std::fs::remove_file(&path).unwrap();
        assert!(state.principal(Some(&key)).is_err() && state.principal(None).is_err());
        drop(state);
        let open = || FileState::open(folder.path(), &path).map(|_| ());
        let error = open().unwrap_err().to_string();
        assert!(
            error.contains("keys` is gone") && error.contains("keys.seen"),
            "{error}"
        );
        std::fs::remove_file(folder.path().join(KEYS_SEEN_FILE)).unwrap();
        open().unwrap();
        std::fs::write(
            folder.path().join("charges"),
            format!("1 {} 1 1\n", "ab".repeat(32)),
        )
        .unwrap();
        assert!(
            open().is_err(),
            "an older folder has charges and no other record"
        );
    }
}
