//! API keys and their limits, in a text file that holds digests: reading it does not let anyone in.

use std::{
    collections::HashMap,
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError},
    time::SystemTime,
};

use marill_numeric::{hex, unhex};

use crate::{
    error::StateError,
    secret_files::{random, replace_file},
    state::{KeyDigest, key_digest},
};

/// Name of the file in the server's folder, unless another is named.
pub const KEYS_FILE: &str = "keys";

const HEADER: &str = "\
# One key per line: sha256-of-the-key name [tokens=N] [tokens-per-minute=N] \
[sessions-per-minute=N] [revoked]
# A token is a position that the server computes: prompts count in whole buckets of 16, \
each further token counts one.
";

/// What the user of a key may use; `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// In all.
    pub tokens: Option<u64>,
    pub tokens_per_minute: Option<u64>,
    pub sessions_per_minute: Option<u64>,
}

/// A line of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub digest: KeyDigest,
    pub name: String,
    pub limits: Limits,
    pub revoked: bool,
}

impl Key {
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let digest = words
            .next()
            .and_then(unhex::<32>)
            .ok_or("it does not start with a SHA-256 digest")?;
        let name = words.next().ok_or("the name is missing")?.to_string();
        let mut key = Self {
            digest,
            name,
            limits: Limits::default(),
            revoked: false,
        };
        for word in words {
            let limit = match word.split_once('=') {
                None if word == "revoked" => {
                    key.revoked = true;
                    continue;
                }
                Some(("tokens", number)) => (&mut key.limits.tokens, number),
                Some(("tokens-per-minute", number)) => (&mut key.limits.tokens_per_minute, number),
                Some(("sessions-per-minute", number)) => {
                    (&mut key.limits.sessions_per_minute, number)
                }
                _ => return Err(format!("`{word}` is not understood")),
            };
            *limit.0 = Some(
                limit
                    .1
                    .parse()
                    .map_err(|_| format!("`{word}` needs a whole number"))?,
            );
        }
        Ok(key)
    }

    fn line(&self) -> String {
        let mut line = format!("{} {}", hex(&self.digest), self.name);
        let limits = [
            ("tokens", self.limits.tokens),
            ("tokens-per-minute", self.limits.tokens_per_minute),
            ("sessions-per-minute", self.limits.sessions_per_minute),
        ];
        for (name, limit) in limits {
            if let Some(limit) = limit {
                line.push_str(&format!(" {name}={limit}"));
            }
        }
        if self.revoked {
            line.push_str(" revoked");
        }
        line + "\n"
    }
}

/// The file of keys. Where it exists, even empty, nobody is served without a key.
pub struct Keys {
    path: PathBuf,
    keys: Vec<Key>,
    /// Where each digest's key stands.
    places: HashMap<KeyDigest, usize>,
}

/// The keys as a running server sees them: read again when the file has changed, beside those who
/// are being served.
pub(crate) struct KeyFile {
    path: PathBuf,
    loaded: Mutex<Loaded>,
    /// Held by the one who reads; the others go on with the keys as they were.
    reading: Mutex<()>,
}

/// The keys as they were when the file had this stamp.
#[derive(Clone, Default)]
struct Loaded {
    stamp: Option<Stamp>,
    keys: Option<Arc<Keys>>,
}

type Stamp = (SystemTime, u64, u64);

impl KeyFile {
    /// # Errors
    /// As [`Keys::read`].
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let file = Self {
            path: path.into(),
            loaded: Mutex::default(),
            reading: Mutex::default(),
        };
        file.current()?;
        Ok(file)
    }

    /// The keys; `None` where none are asked for. Once there were keys, a missing file is an error:
    /// a slip of the hand must not open the server to everyone.
    ///
    /// # Errors
    /// As [`Keys::read`].
    pub(crate) fn current(&self) -> Result<Option<Arc<Keys>>, StateError> {
        let loaded = self.loaded().clone();
        if self.stamp(&loaded)? == loaded.stamp {
            return Ok(loaded.keys);
        }
        let reading = match self.reading.try_lock() {
            Ok(reading) => reading,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) if loaded.stamp.is_some() => return Ok(loaded.keys),
            Err(TryLockError::WouldBlock) => {
                self.reading.lock().unwrap_or_else(PoisonError::into_inner)
            }
        };
        let loaded = self.loaded().clone();
        let stamp = self.stamp(&loaded)?;
        if stamp == loaded.stamp {
            return Ok(loaded.keys);
        }
        let keys = Keys::read(&self.path)?.map(Arc::new);
        // A file that vanished meanwhile is met with the next look.
        if keys.is_some() {
            *self.loaded() = Loaded {
                stamp,
                keys: keys.clone(),
            };
        }
        drop(reading);
        Ok(keys)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn loaded(&self) -> MutexGuard<'_, Loaded> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self, loaded: &Loaded) -> Result<Option<Stamp>, StateError> {
        match std::fs::metadata(&self.path) {
            Ok(file) => {
                let modified = file.modified().map_err(StateError::io(&self.path))?;
                Ok(Some((modified, file.len(), file.ino())))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && loaded.keys.is_none() => {
                Ok(None)
            }
            Err(source) => Err(StateError::Io {
                path: self.path.clone(),
                source,
            }),
        }
    }
}

impl Keys {
    /// Reads the file; `None` where there is none.
    ///
    /// # Errors
    /// [`StateError::Io`] naming the line that is not understood.
    pub fn read(path: &Path) -> Result<Option<Self>, StateError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => {
                return Err(StateError::Io {
                    path: path.into(),
                    source,
                });
            }
        };
        let mut keys = Self {
            path: path.into(),
            keys: Vec::new(),
            places: HashMap::new(),
        };
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad =
                |reason: String| std::io::Error::other(format!("line {}: {reason}", index + 1));
            let key = Key::parse(line)
                .map_err(bad)
                .map_err(StateError::io(path))?;
            if keys.places.insert(key.digest, keys.keys.len()).is_some() {
                return Err(StateError::io(path)(
                    bad("the same key stands above".into()),
                ));
            }
            keys.keys.push(key);
        }
        Ok(Some(keys))
    }

    /// For a first key.
    fn none_yet(path: &Path) -> Self {
        Self {
            path: path.into(),
            keys: Vec::new(),
            places: HashMap::new(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    pub(crate) fn find(&self, digest: &KeyDigest) -> Option<&Key> {
        self.places
            .get(digest)
            .map(|&place| &self.keys[place])
            .filter(|key| !key.revoked)
    }

    /// Makes a key for a new user and writes its digest; the key itself is returned and kept
    /// nowhere.
    ///
    /// # Errors
    /// [`StateError::KeyName`] for a name in use or with blanks; [`StateError::Io`];
    /// [`StateError::Random`].
    pub fn add(path: &Path, name: &str, limits: Limits) -> Result<String, StateError> {
        let refuse = |reason| StateError::KeyName {
            name: name.into(),
            reason,
        };
        if name.is_empty() || name.contains(char::is_whitespace) || name.starts_with('#') {
            return Err(refuse("is not one word"));
        }
        let _lock = lock(path)?;
        let mut keys = Self::read(path)?.unwrap_or_else(|| Self::none_yet(path));
        if keys.keys.iter().any(|key| key.name == name && !key.revoked) {
            return Err(refuse("has a key already"));
        }
        let key = format!("mk-{}", hex(random::<24>()?.as_slice()));
        keys.keys.push(Key {
            digest: key_digest(&key),
            name: name.into(),
            limits,
            revoked: false,
        });
        keys.write()?;
        Ok(key)
    }

    /// Marks the key of `name` as revoked; a server that runs sees it with the next session.
    ///
    /// # Errors
    /// [`StateError::KeyName`] where nobody of this name has a key; [`StateError::Io`].
    pub fn revoke(path: &Path, name: &str) -> Result<(), StateError> {
        let _lock = lock(path)?;
        let mut keys = Self::read(path)?.unwrap_or_else(|| Self::none_yet(path));
        let key = keys
            .keys
            .iter_mut()
            .find(|key| key.name == name && !key.revoked);
        key.ok_or(StateError::KeyName {
            name: name.into(),
            reason: "has no key",
        })?
        .revoked = true;
        keys.write()
    }

    fn write(&self) -> Result<(), StateError> {
        let lines: String = self.keys.iter().map(Key::line).collect();
        replace_file(&self.path, format!("{HEADER}{lines}").as_bytes())
    }
}

/// Two commands that change the file take turns.
fn lock(path: &Path) -> Result<File, StateError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(StateError::io(folder))?;
    }
    let lock = path.with_extension("lock");
    let file = File::create(&lock).map_err(StateError::io(&lock))?;
    file.lock().map_err(StateError::io(&lock))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_added_found_and_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server/keys");
        assert!(Keys::read(&path).unwrap().is_none());
        let limits = Limits {
            tokens: Some(9),
            sessions_per_minute: Some(2),
            ..Limits::default()
        };
        let key = Keys::add(&path, "alice", limits).unwrap();
        assert!(
            Keys::add(&path, "alice", limits).is_err() && Keys::add(&path, "a b", limits).is_err()
        );
        assert!(
            !std::fs::read_to_string(&path).unwrap().contains(&key),
            "the key itself is stored nowhere"
        );
        let keys = Keys::read(&path).unwrap().unwrap();
        assert_eq!(
            keys.find(&key_digest(&key))
                .map(|key| (key.name.as_str(), key.limits)),
            Some(("alice", limits))
        );
        Keys::revoke(&path, "alice").unwrap();
        assert!(Keys::revoke(&path, "alice").is_err());
        assert!(
            Keys::read(&path)
                .unwrap()
                .unwrap()
                .find(&key_digest(&key))
                .is_none()
        );
        assert_ne!(
            Keys::add(&path, "alice", limits).unwrap(),
            key,
            "a name can be given a new key"
        );
    }

    /// Reads a file of so many keys and finds every seventh.
    fn read_and_find(count: usize) -> std::time::Duration {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let line = |i: usize| format!("{i:064x} user{i} tokens={i}\n");
        std::fs::write(&path, (0..count).map(line).collect::<String>()).unwrap();
        let started = std::time::Instant::now();
        let keys = Keys::read(&path).unwrap().unwrap();
        for i in (0..count).step_by(7) {
            let digest = unhex::<32>(&format!("{i:064x}")).unwrap();
            assert_eq!(keys.find(&digest).unwrap().limits.tokens, Some(i as u64));
        }
        started.elapsed()
    }

    #[test]
    fn ten_times_as_many_keys_take_ten_times_as_long() {
        let few = read_and_find(10_000);
        let many = read_and_find(100_000);
        // Comparing each with each takes a hundred times as long.
        assert!(many < 40 * few, "{many:?}, {few:?}");
    }

    #[test]
    fn while_one_reads_the_others_go_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys");
        let key = Keys::add(&path, "alice", Limits::default()).unwrap();
        let file = KeyFile::open(&path).unwrap();
        let has = |key: &str| {
            file.current()
                .unwrap()
                .unwrap()
                .find(&key_digest(key))
                .is_some()
        };
        let reading = file.reading.lock().unwrap();
        let other = Keys::add(&path, "bob", Limits::default()).unwrap();
        assert!(
            has(&key) && !has(&other),
            "a reader is at work: the keys are as they were"
        );
        drop(reading);
        assert!(has(&key) && has(&other));
        Keys::revoke(&path, "alice").unwrap();
        assert!(!has(&key) && has(&other));
        std::fs::remove_file(&path).unwrap();
        assert!(
            file.current().is_err(),
            "a file that vanished opens nothing"
        );
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let digest = "ab".repeat(32);
        for (text, expected) in [
            ("zz alice", "line 1: it does not start"),
            (&*format!("# x\n\n{digest}"), "line 3: the name is missing"),
            (
                &*format!("{digest} a token=3"),
                "`token=3` is not understood",
            ),
            (&*format!("{digest} a tokens=-3"), "needs a whole number"),
            (&*format!("{digest} a\n{digest} b"), "line 2: the same key"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = Keys::read(file.path()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
