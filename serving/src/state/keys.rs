//! API keys and their limits, in a text file that holds digests: reading it does not let anybody in.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::{KeyDigest, key_digest};
use crate::ServingError;
use crate::secret_files::{random, replace_file};
use crate::wire::{hex, unhex};

/// Name of the file in the server's folder, unless another is named.
pub const KEYS_FILE: &str = "keys";

const HEADER: &str = "\
# One key a line: sha256-of-the-key name [tokens=N] [tokens-per-minute=N] [sessions-per-minute=N] [revoked]
# A token is a position that the server computes: prompts count in whole buckets of 16, each further token counts one.
";

/// What the holder of a key may use; `None` is no limit.
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
        let digest = words.next().and_then(unhex::<32>).ok_or("it does not start with a SHA-256 digest")?;
        let name = words.next().ok_or("the name is missing")?.to_string();
        let mut key = Self { digest, name, limits: Limits::default(), revoked: false };
        for word in words {
            let limit = match word.split_once('=') {
                None if word == "revoked" => {
                    key.revoked = true;
                    continue;
                }
                Some(("tokens", number)) => (&mut key.limits.tokens, number),
                Some(("tokens-per-minute", number)) => (&mut key.limits.tokens_per_minute, number),
                Some(("sessions-per-minute", number)) => (&mut key.limits.sessions_per_minute, number),
                _ => return Err(format!("`{word}` is not understood")),
            };
            *limit.0 = Some(limit.1.parse().map_err(|_| format!("`{word}` needs a whole number"))?);
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
}

impl Keys {
    /// Reads the file; `None` where there is none.
    ///
    /// # Errors
    /// [`ServingError::Io`] naming the line that is not understood.
    pub fn read(path: &Path) -> Result<Option<Self>, ServingError> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(ServingError::Io { path: path.into(), source }),
        };
        let mut keys: Vec<Key> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bad = |reason: String| std::io::Error::other(format!("line {}: {reason}", index + 1));
            let key = Key::parse(line).map_err(bad).map_err(ServingError::io(path))?;
            if keys.iter().any(|other| other.digest == key.digest) {
                return Err(ServingError::io(path)(bad("the same key stands above".into())));
            }
            keys.push(key);
        }
        Ok(Some(Self { path: path.into(), keys }))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Key> {
        self.keys.iter()
    }

    pub(super) fn find(&self, digest: &KeyDigest) -> Option<&Key> {
        self.keys.iter().find(|key| key.digest == *digest && !key.revoked)
    }

    /// Draws a key for a new holder and writes its digest; the key itself is returned and kept nowhere.
    ///
    /// # Errors
    /// [`ServingError::KeyName`] for a name in use or with blanks; [`ServingError::Io`]; [`ServingError::Random`].
    pub fn add(path: &Path, name: &str, limits: Limits) -> Result<String, ServingError> {
        let refuse = |reason| ServingError::KeyName { name: name.into(), reason };
        if name.is_empty() || name.contains(char::is_whitespace) || name.starts_with('#') {
            return Err(refuse("is not one word"));
        }
        let _lock = lock(path)?;
        let mut keys = Self::read(path)?.unwrap_or(Self { path: path.into(), keys: Vec::new() });
        if keys.keys.iter().any(|key| key.name == name && !key.revoked) {
            return Err(refuse("has a key already"));
        }
        let key = format!("mk-{}", hex(random::<24>()?.as_slice()));
        keys.keys.push(Key { digest: key_digest(&key), name: name.into(), limits, revoked: false });
        keys.write()?;
        Ok(key)
    }

    /// Marks the key of `name` as revoked; a server that runs sees it with the next session.
    ///
    /// # Errors
    /// [`ServingError::KeyName`] where nobody of this name has a key; [`ServingError::Io`].
    pub fn revoke(path: &Path, name: &str) -> Result<(), ServingError> {
        let _lock = lock(path)?;
        let mut keys = Self::read(path)?.unwrap_or(Self { path: path.into(), keys: Vec::new() });
        let key = keys.keys.iter_mut().find(|key| key.name == name && !key.revoked);
        key.ok_or(ServingError::KeyName { name: name.into(), reason: "has no key" })?.revoked = true;
        keys.write()
    }

    fn write(&self) -> Result<(), ServingError> {
        let lines: String = self.keys.iter().map(Key::line).collect();
        replace_file(&self.path, format!("{HEADER}{lines}").as_bytes())
    }
}

/// Two commands that change the file take turns.
fn lock(path: &Path) -> Result<File, ServingError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(ServingError::io(folder))?;
    }
    let lock = path.with_extension("lock");
    let file = File::create(&lock).map_err(ServingError::io(&lock))?;
    file.lock().map_err(ServingError::io(&lock))?;
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
        let limits = Limits { tokens: Some(9), sessions_per_minute: Some(2), ..Limits::default() };
        let key = Keys::add(&path, "alice", limits).unwrap();
        assert!(Keys::add(&path, "alice", limits).is_err() && Keys::add(&path, "a b", limits).is_err());
        assert!(!std::fs::read_to_string(&path).unwrap().contains(&key), "the key itself is stored nowhere");
        let keys = Keys::read(&path).unwrap().unwrap();
        assert_eq!(keys.find(&key_digest(&key)).map(|key| (key.name.as_str(), key.limits)), Some(("alice", limits)));
        Keys::revoke(&path, "alice").unwrap();
        assert!(Keys::revoke(&path, "alice").is_err());
        assert!(Keys::read(&path).unwrap().unwrap().find(&key_digest(&key)).is_none());
        assert_ne!(Keys::add(&path, "alice", limits).unwrap(), key, "a name can be given a new key");
    }

    #[test]
    fn a_line_that_is_not_understood_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let digest = "ab".repeat(32);
        for (text, expected) in [
            ("zz alice", "line 1: it does not start"),
            (&*format!("# x\n\n{digest}"), "line 3: the name is missing"),
            (&*format!("{digest} a token=3"), "`token=3` is not understood"),
            (&*format!("{digest} a tokens=-3"), "needs a whole number"),
            (&*format!("{digest} a\n{digest} b"), "line 2: the same key"),
        ] {
            std::fs::write(file.path(), text).unwrap();
            let error = Keys::read(file.path()).map(|_| ()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
