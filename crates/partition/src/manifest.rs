//! `manifest.json`: everything about a partition that all parties may know.

use std::{
    io::Read,
    path::{Component, Path, PathBuf},
};

use marill_model::{Architecture, ModelConfig, Transforms};
use marill_mpc::ProgramSpec;
use marill_numeric::hex;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::PartitionError;

/// The schema this program writes and the only one it reads.
pub const SCHEMA: u64 = 1;
/// Name of the manifest in a partition.
pub const MANIFEST_FILE: &str = "manifest.json";
/// Holds the partition's id inside `public/` and `private/`, so that mixed folders are told apart.
pub const ID_FILE: &str = "partition_id";

/// The base model that everyone may have.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// A name for people, for example the file's or folder's.
    pub name: String,
    pub format: BaseFormat,
    /// [`marill_model::Checkpoint::digest`]: SHA-256 over names, shapes and f32 values of all
    /// tensors.
    pub tensor_digest: String,
    /// What of the base's files the owner left out, see
    /// [`marill_model::Checkpoint::open_ignoring`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// How the base weights are stored in `public/`: as the base itself stores them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BaseFormat {
    /// `base.gguf`, with tokenizer and chat template inside.
    Gguf,
    /// A Hugging Face folder.
    Safetensors,
}

/// One file of a partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative to the partition, with `/`.
    pub path: String,
    pub bytes: u64,
    /// Hex.
    pub sha256: String,
}

/// What the client is told at the end of each step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reveal {
    /// The most likely token and nothing else, to the client alone.
    Token,
}

/// The public description of a partition.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub schema: u64,
    /// SHA-256 over this manifest with this field empty, in hex.
    pub partition_id: String,
    pub name: String,
    /// Version of the program that wrote the partition.
    pub marill_version: String,
    pub base: Base,
    pub config: Architecture,
    pub transforms: Transforms,
    /// What the secure program needs to know; holds the numeric format.
    pub decoder: ProgramSpec,
    pub reveal: Reveal,
    pub public_files: Vec<FileEntry>,
    /// Published as a commitment: names, sizes and digests, not contents.
    pub private_files: Vec<FileEntry>,
}

impl Manifest {
    /// Reads and checks `manifest.json` of a partition.
    ///
    /// # Errors
    /// [`PartitionError::NotAPartition`], [`PartitionError::Schema`] or
    /// [`PartitionError::Manifest`].
    pub fn load(dir: &Path) -> Result<Self, PartitionError> {
        let path = dir.join(MANIFEST_FILE);
        if !path.is_file() {
            return Err(PartitionError::NotAPartition { path: dir.into() });
        }
        let text = std::fs::read_to_string(&path).map_err(PartitionError::io(&path))?;
        Self::parse(&text, &path)
    }

    /// Checks a manifest's text; `origin` is named in errors.
    ///
    /// # Errors
    /// As [`Manifest::load`].
    pub fn parse(text: &str, origin: &Path) -> Result<Self, PartitionError> {
        let fail = |reason: String| PartitionError::Manifest {
            path: origin.into(),
            reason,
        };
        // The version first: an unknown schema may well have other fields.
        let value: serde_json::Value =
            serde_json::from_str(text).map_err(|e| fail(e.to_string()))?;
        let found = value["schema"]
            .as_u64()
            .ok_or_else(|| fail("`schema` is missing".into()))?;
        if found != SCHEMA {
            return Err(PartitionError::Schema {
                path: origin.into(),
                found,
                supported: SCHEMA,
            });
        }
        let manifest: Self =
            serde_json::from_value(value.clone()).map_err(|e| fail(e.to_string()))?;
        // Nested tables may have keys that nobody reads, and a key with a default that is misspelt
        // would then say nothing.
        let read = serde_json::to_value(&manifest).map_err(|e| fail(e.to_string()))?;
        if let Some(key) = unread(&value, &read) {
            return Err(fail(format!("the key `{}` is not understood", &key[1..])));
        }
        for (files, folder) in [
            (&manifest.public_files, "public"),
            (&manifest.private_files, "private"),
        ] {
            if let Some(entry) = files.iter().find(|entry| !stays_in(&entry.path, folder)) {
                return Err(fail(format!(
                    "`{}` does not stay in `{folder}/`",
                    entry.path
                )));
            }
        }
        let computed = manifest.compute_id();
        if computed != manifest.partition_id {
            return Err(fail(format!(
                "`partition_id` is {}, the content gives {computed}",
                manifest.partition_id
            )));
        }
        // Both may come from a server, and what follows allocates by them.
        manifest.config.check_sizes().map_err(fail)?;
        manifest.config.llama()?;
        manifest
            .decoder
            .validate()
            .map_err(|e| fail(format!("`decoder`: {e}")))?;
        manifest.transforms.check(&manifest.config)?;
        Ok(manifest)
    }

    /// The id that this content has, whatever `partition_id` says.
    pub fn compute_id(&self) -> String {
        let unnamed = Self {
            partition_id: String::new(),
            ..self.clone()
        };
        hex(&Sha256::digest(
            serde_json::to_vec(&unnamed).expect("a plain struct serializes"),
        ))
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<(), PartitionError> {
        let path = dir.join(MANIFEST_FILE);
        let text = serde_json::to_string_pretty(self).expect("a plain struct serializes");
        std::fs::write(&path, text + "\n").map_err(PartitionError::io(path))
    }

    /// Bytes a client downloads once: the public part.
    pub fn public_bytes(&self) -> u64 {
        self.public_files.iter().map(|file| file.bytes).sum()
    }

    /// Where `Checkpoint::open` finds the base inside a partition.
    pub fn base_path(&self, dir: &Path) -> PathBuf {
        match self.base.format {
            BaseFormat::Gguf => dir.join("public/base.gguf"),
            BaseFormat::Safetensors => dir.join("public"),
        }
    }
}

/// `folder/name` with plain names only: a manifest may come from a server that is not trusted with
/// this disk. The first key, as a path, that stands in `written` and not in what was read of it.
fn unread(written: &serde_json::Value, read: &serde_json::Value) -> Option<String> {
    use serde_json::Value;
    let below =
        |key: String, written, read| unread(written, read).map(|rest| format!("{key}{rest}"));
    match (written, read) {
        (Value::Object(written), Value::Object(read)) => {
            written.iter().find_map(|(key, value)| match read.get(key) {
                // A key that is left out and one that is `null` say the same.
                None if value.is_null() => None,
                None => Some(format!(".{key}")),
                Some(read) => below(format!(".{key}"), value, read),
            })
        }
        (Value::Array(written), Value::Array(read)) => (0..written.len().min(read.len()))
            .find_map(|i| below(format!("[{i}]"), &written[i], &read[i])),
        _ => None,
    }
}

fn stays_in(path: &str, folder: &str) -> bool {
    let mut parts = Path::new(path).components();
    parts.next() == Some(Component::Normal(folder.as_ref()))
        && parts.clone().count() > 0
        && parts.all(|part| matches!(part, Component::Normal(_)))
        && !path.contains('\\')
}

impl FileEntry {
    /// Measures a file of a partition.
    pub(crate) fn of(dir: &Path, path: &str) -> Result<Self, PartitionError> {
        let (sha256, bytes) = file_digest(&dir.join(path))?;
        Ok(Self {
            path: path.into(),
            bytes,
            sha256,
        })
    }

    /// Compares a file with its entry.
    ///
    /// # Errors
    /// [`PartitionError::MissingFile`] or [`PartitionError::Digest`], naming the file.
    pub fn verify(&self, dir: &Path) -> Result<(), PartitionError> {
        let path = dir.join(&self.path);
        if !path.is_file() {
            return Err(PartitionError::MissingFile { path });
        }
        let (found, _) = file_digest(&path)?;
        if found == self.sha256 {
            return Ok(());
        }
        Err(PartitionError::Digest {
            path,
            expected: self.sha256.clone(),
            found,
        })
    }
}

/// SHA-256 in hex and length of a file, read in pieces.
fn file_digest(path: &Path) -> Result<(String, u64), PartitionError> {
    let mut file = std::fs::File::open(path).map_err(PartitionError::io(path))?;
    let mut hash = Sha256::new();
    let mut piece = vec![0u8; 1 << 20];
    let mut total = 0;
    loop {
        let read = file.read(&mut piece).map_err(PartitionError::io(path))?;
        if read == 0 {
            return Ok((hex(&hash.finalize()), total));
        }
        hash.update(&piece[..read]);
        total += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_nobody_reads_is_named() {
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let read = value(r#"{"a": {"b": 1, "c": [{"d": 2}]}}"#);
        assert_eq!(
            unread(
                &value(r#"{"a": {"b": 1, "c": [{"d": 2}], "e": null}}"#),
                &read
            ),
            None
        );
        for (written, path) in [
            (r#"{"a": {"b": 1, "x": 1}}"#, ".a.x"),
            (r#"{"a": {"c": [{"d": 2, "e": 1}]}}"#, ".a.c[0].e"),
            (r#"{"x": 1}"#, ".x"),
        ] {
            assert_eq!(unread(&value(written), &read).as_deref(), Some(path));
        }
    }

    #[test]
    fn a_listed_path_stays_in_its_folder() {
        assert!(stays_in("public/base.gguf", "public"));
        for path in [
            "public/../../etc/passwd",
            "/etc/passwd",
            "private/adapter",
            "public",
            "public/..\\x",
            "../public/x",
        ] {
            assert!(!stays_in(path, "public"), "{path}");
        }
    }
}
