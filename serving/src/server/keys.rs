//! API keys: the file holds digests, so reading it does not let anybody in.

use std::collections::HashMap;
use std::path::Path;

use axum::http::{HeaderMap, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::ServingError;
use crate::web::HttpError;
use crate::wire::unhex;

/// Digest of a key to the name of its holder.
pub(super) struct ApiKeys(HashMap<[u8; 32], String>);

impl ApiKeys {
    /// Lines of `sha256-of-key name`; empty lines and lines that start with `#` are skipped.
    pub(super) fn open(path: &Path) -> Result<Self, ServingError> {
        let text = std::fs::read_to_string(path).map_err(ServingError::io(path))?;
        let mut keys = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (digest, name) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let digest = unhex::<32>(digest).ok_or_else(|| ServingError::Io {
                path: path.into(),
                source: std::io::Error::other(format!("line {} does not start with a SHA-256 digest", index + 1)),
            })?;
            keys.insert(digest, name.trim().to_string());
        }
        Ok(Self(keys))
    }

    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), HttpError> {
        let value = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = value.and_then(|value| value.strip_prefix("Bearer "));
        let known = key.is_some_and(|key| self.0.contains_key(&<[u8; 32]>::from(Sha256::digest(key.as_bytes()))));
        match known {
            true => Ok(()),
            false => {
                let message = "the server asks for an API key that it knows";
                Err(HttpError::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::hex;

    #[test]
    fn only_listed_keys_are_let_in() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("# keys\n{} alice\n", hex(&Sha256::digest(b"secret")))).unwrap();
        let keys = ApiKeys::open(file.path()).unwrap();
        let with = |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        assert!(keys.check(&with("Bearer secret")).is_ok());
        assert!(keys.check(&with("Bearer other")).is_err());
        assert!(keys.check(&HeaderMap::new()).is_err());
    }
}
