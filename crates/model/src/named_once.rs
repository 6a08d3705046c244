//! The header of a safetensors file names each tensor once: readers differ in which of two they
//! take.

use std::{collections::BTreeSet, fmt, fs::File, io::Read, path::Path};

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};

use crate::ModelError;

/// As the format allows.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Checks the names of a file's tensors; whatever else is wrong with it is for whoever reads it.
///
/// # Errors
/// [`ModelError::Corrupt`] naming a tensor that stands there twice; a file that cannot be read.
pub(crate) fn check(path: &Path) -> Result<(), ModelError> {
    let corrupt = |reason: String| ModelError::corrupt(path, reason);
    let mut file = File::open(path).map_err(|error| corrupt(error.to_string()))?;
    let mut length = [0; 8];
    if file.read_exact(&mut length).is_err() {
        return Ok(());
    }
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES {
        return Ok(());
    }
    let mut header = Vec::new();
    file.take(length)
        .read_to_end(&mut header)
        .map_err(|error| corrupt(error.to_string()))?;
    match serde_json::Deserializer::from_slice(&header).deserialize_map(Names) {
        Ok(Some(twice)) => Err(corrupt(format!("the tensor `{twice}` stands there twice"))),
        Ok(None) | Err(_) => Ok(()),
    }
}

/// The first name that a map has twice.
struct Names;

impl<'de> Visitor<'de> for Names {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a header")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<String>, A::Error> {
        let mut seen = BTreeSet::new();
        let mut twice = None;
        while let Some((name, _)) = map.next_entry::<String, IgnoredAny>()? {
            if twice.is_none() && seen.contains(&name) {
                twice = Some(name.clone());
            }
            seen.insert(name);
        }
        Ok(twice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tensor_that_stands_there_twice_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.safetensors");
        let file = |header: &str| {
            [
                &(header.len() as u64).to_le_bytes()[..],
                header.as_bytes(),
                &[0; 8],
            ]
            .concat()
        };
        let tensor = r#"{"dtype":"F32","shape":[1],"data_offsets":[0,4]}"#;
        let other = r#"{"dtype":"F32","shape":[1],"data_offsets":[4,8]}"#;
        std::fs::write(&path, file(&format!(r#"{{"a":{tensor},"b":{other}}}"#))).unwrap();
        check(&path).unwrap();
        std::fs::write(
            &path,
            file(&format!(r#"{{"a":{tensor},"b":{other},"a":{other}}}"#)),
        )
        .unwrap();
        let error = check(&path).unwrap_err().to_string();
        assert!(error.contains("`a` stands there twice"), "{error}");
    }
}
