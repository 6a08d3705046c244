//! The owners whose models a dealer serves: each has a key of its own, and masks of its own.
//!
//! `server.key` in the dealer's folder is the first owner's, named `default`; `owners/NAME.key` are
//! others'. A key is copied to its owner's server and to nobody else. It is read again when the
//! folder changes; an owner whose file is removed is served no longer.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use sha2::{Digest, Sha256};

use crate::{
    dealer::SERVER_KEY_FILE,
    error::StateError,
    secret_files::{read_key, read_or_create_key},
    ticket::{Signer, Ticket},
};

/// The owner whose key is `server.key`.
pub const DEFAULT_OWNER: &str = "default";
const FOLDER: &str = "owners";
const EXTENSION: &str = "key";

/// One owner.
pub(crate) struct Owner {
    pub(crate) name: String,
    key_sha256: [u8; 32],
    signer: Signer,
}

impl Owner {
    /// Whether a ticket of this owner's was signed for the client of this name.
    pub(crate) fn signed_for(&self, ticket: &Ticket, client_id: &str) -> bool {
        self.signer.signed(ticket) && self.signer.is_for(ticket, client_id)
    }

    fn new(name: &str, key: &str) -> Arc<Self> {
        let key_sha256 = Sha256::digest(key.as_bytes()).into();
        Arc::new(Self {
            name: name.into(),
            key_sha256,
            signer: Signer::new(key),
        })
    }
}

/// All owners of a dealer.
pub(crate) struct Owners {
    state: PathBuf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    stamp: Vec<(PathBuf, SystemTime)>,
    owners: Vec<Arc<Owner>>,
}

fn is_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty() && name.len() <= 64 && name.chars().all(letter)
}

fn path_of(state: &Path, name: &str) -> PathBuf {
    match name {
        DEFAULT_OWNER => state.join(SERVER_KEY_FILE),
        name => state.join(FOLDER).join(name).with_extension(EXTENSION),
    }
}

/// Makes the key of a further owner and returns its path; it is left as it is where it exists.
///
/// # Errors
/// [`StateError::KeyName`]; [`StateError::Io`].
pub fn add_owner(state: &Path, name: &str) -> Result<PathBuf, StateError> {
    if !is_name(name) {
        let reason = "is no name of an owner: letters, digits, `-` and `_`";
        return Err(StateError::KeyName {
            name: name.into(),
            reason,
        });
    }
    let path = path_of(state, name);
    read_or_create_key(&path)?;
    Ok(path)
}

/// The key of an owner, for whoever preprocesses.
///
/// # Errors
/// [`StateError::KeyName`] where there is no such owner; [`StateError::Io`].
pub(crate) fn owner_key(
    state: &Path,
    name: &str,
) -> Result<zeroize::Zeroizing<String>, StateError> {
    let path = path_of(state, name);
    match name {
        DEFAULT_OWNER => read_or_create_key(&path),
        name if is_name(name) && path.is_file() => read_key(&path),
        name => {
            let reason = "is no owner here: `marill dealer --add-owner NAME` makes one";
            Err(StateError::KeyName {
                name: name.into(),
                reason,
            })
        }
    }
}

impl Owners {
    /// # Errors
    /// [`StateError::Io`], also for a key that is damaged.
    pub(crate) fn open(state: &Path) -> Result<Self, StateError> {
        read_or_create_key(&state.join(SERVER_KEY_FILE))?;
        let owners = Self {
            state: state.into(),
            known: Mutex::default(),
        };
        drop(owners.known()?);
        Ok(owners)
    }

    fn known(&self) -> Result<std::sync::MutexGuard<'_, Known>, StateError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let paths = self.paths()?;
        let stamp_of =
            |path: &PathBuf| Some((path.clone(), std::fs::metadata(path).ok()?.modified().ok()?));
        let stamp: Vec<_> = paths
            .iter()
            .filter_map(|(_, path)| stamp_of(path))
            .collect();
        if known.owners.is_empty() || known.stamp != stamp {
            // At the start a damaged key is refused; later it concerns its owner alone.
            let is_start = known.owners.is_empty();
            let mut owners = Vec::new();
            for (name, path) in &paths {
                match read_key(path) {
                    Ok(key) => owners.push(Owner::new(name, &key)),
                    Err(error) if is_start => return Err(error),
                    Err(error) => tracing::error!("the owner `{name}` is not served: {error}"),
                }
            }
            known.owners = owners;
            known.stamp = stamp;
        }
        Ok(known)
    }

    /// Names of all owners and where their keys are.
    fn paths(&self) -> Result<Vec<(String, PathBuf)>, StateError> {
        let folder = self.state.join(FOLDER);
        let mut paths = vec![(
            DEFAULT_OWNER.to_string(),
            path_of(&self.state, DEFAULT_OWNER),
        )];
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(paths),
            Err(source) => {
                return Err(StateError::Io {
                    path: folder,
                    source,
                });
            }
        };
        for entry in entries {
            let path = entry.map_err(StateError::io(&folder))?.path();
            let name = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default()
                .to_string();
            let is_key = path
                .extension()
                .is_some_and(|extension| extension == EXTENSION);
            if is_key && is_name(&name) && name != DEFAULT_OWNER {
                paths.push((name, path));
            }
        }
        paths.sort_unstable();
        Ok(paths)
    }

    /// The owner whose server shows this key.
    pub(crate) fn of_key(&self, key: &str) -> Result<Option<Arc<Owner>>, StateError> {
        // Digests are compared, so the time taken says nothing about the key.
        let digest = <[u8; 32]>::from(Sha256::digest(key.as_bytes()));
        Ok(self
            .known()?
            .owners
            .iter()
            .find(|owner| owner.key_sha256 == digest)
            .cloned())
    }

    /// The owner whose server signed this ticket.
    pub(crate) fn of_ticket(&self, ticket: &Ticket) -> Result<Option<Arc<Owner>>, StateError> {
        Ok(self
            .known()?
            .owners
            .iter()
            .find(|owner| owner.signer.signed(ticket))
            .cloned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ticket::For;

    #[test]
    fn owners_come_and_go_while_a_dealer_runs() {
        let folder = tempfile::tempdir().unwrap();
        let owners = Owners::open(folder.path()).unwrap();
        let default = read_key(&folder.path().join(SERVER_KEY_FILE)).unwrap();
        assert_eq!(
            owners.of_key(&default).unwrap().unwrap().name,
            DEFAULT_OWNER
        );
        let path = add_owner(folder.path(), "alice").unwrap();
        let key = read_key(&path).unwrap();
        assert_ne!(key, default);
        assert_eq!(owners.of_key(&key).unwrap().unwrap().name, "alice");
        let ticket = Signer::new(&key).issue(&For::Key(&[0; 32]), "c").unwrap();
        assert_eq!(owners.of_ticket(&ticket).unwrap().unwrap().name, "alice");
        std::fs::remove_file(&path).unwrap();
        assert!(
            owners.of_key(&key).unwrap().is_none() && owners.of_ticket(&ticket).unwrap().is_none()
        );
        for name in ["", "a/b", "..", "a b"] {
            assert!(add_owner(folder.path(), name).is_err(), "{name}");
        }
        // A damaged key is its owner's trouble alone, while the dealer runs; one that was replaced
        // is the new one.
        let path = add_owner(folder.path(), "alice").unwrap();
        let other = add_owner(folder.path(), "bob").unwrap();
        let bob = read_key(&other).unwrap();
        std::fs::write(&path, "").unwrap();
        assert_eq!(owners.of_key(&bob).unwrap().unwrap().name, "bob");
        assert!(owners.of_key(&default).unwrap().is_some());
        std::thread::sleep(std::time::Duration::from_millis(20));
        let new = "cd".repeat(32);
        std::fs::write(&other, &new).unwrap();
        assert!(owners.of_key(&bob).unwrap().is_none() && owners.of_key(&new).unwrap().is_some());
        std::fs::write(folder.path().join(SERVER_KEY_FILE), "").unwrap();
        let error = Owners::open(folder.path()).err().unwrap().to_string();
        assert!(error.contains("server.key"), "{error}");
    }
}
