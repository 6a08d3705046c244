//! Opening a partition: every file is checked against the manifest before anything is used.

use std::path::{Path, PathBuf};

use marill_model::{Adapter, Checkpoint, Prefix, Tokenizer};
use marill_mpc::{DecoderSpec, PrivateWeights, PublicWeights};

use crate::manifest::{FileEntry, ID_FILE, Manifest};
use crate::{ADAPTER_FILE, PartitionError, weights};

/// An open partition, checked.
pub struct Partition {
    pub manifest: Manifest,
    dir: PathBuf,
    base: Checkpoint,
    adapter: Option<Adapter>,
}

impl Partition {
    /// Opens a partition with its private part, as the server does.
    ///
    /// # Errors
    /// [`PartitionError`] naming the file that is missing, unlisted, of another partition or altered.
    pub fn open(dir: &Path) -> Result<Self, PartitionError> {
        let mut partition = Self::open_public(dir)?;
        if !dir.join("private").is_dir() {
            return Err(PartitionError::NoPrivatePart { path: dir.into() });
        }
        check_folder(dir, "private", &partition.manifest, &partition.manifest.private_files)?;
        partition.adapter = Some(Adapter::load(&dir.join(ADAPTER_FILE))?);
        Ok(partition)
    }

    /// Opens `manifest.json` and `public/` only, as the client does; a private part, if any, is not read.
    ///
    /// # Errors
    /// As [`Partition::open`].
    pub fn open_public(dir: &Path) -> Result<Self, PartitionError> {
        let manifest = Manifest::load(dir)?;
        check_folder(dir, "public", &manifest, &manifest.public_files)?;
        let base = Checkpoint::open(&manifest.base_path(dir))?;
        Ok(Self { manifest, dir: dir.into(), base, adapter: None })
    }

    /// The folder this partition was opened from.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// See [`Manifest::partition_id`].
    pub fn partition_id(&self) -> &str {
        &self.manifest.partition_id
    }

    /// What the secure program needs to know.
    pub fn decoder_spec(&self) -> &DecoderSpec {
        &self.manifest.decoder
    }

    /// The base model.
    pub fn base(&self) -> &Checkpoint {
        &self.base
    }

    /// The low-rank factors; none where only the public part was opened.
    pub fn adapter(&self) -> Option<&Adapter> {
        self.adapter.as_ref()
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.base.tokenizer
    }

    pub fn chat_template(&self) -> Option<&str> {
        self.base.chat_template.as_deref()
    }

    /// Base weights of the private layers as integers.
    ///
    /// # Errors
    /// [`PartitionError::Spec`] on a value out of range.
    pub fn public_weights(&self) -> Result<PublicWeights, PartitionError> {
        weights::public_weights(&self.manifest.decoder, &self.base, self.manifest.transforms.frozen_layers)
    }

    /// The server's factors as integers; `public` are this partition's, whose scales the factors share.
    ///
    /// # Errors
    /// [`PartitionError::NoPrivatePart`] where only the public part was opened, [`PartitionError::Spec`] on a value
    /// out of range.
    pub fn private_weights(&self, public: &PublicWeights) -> Result<PrivateWeights, PartitionError> {
        let adapter = self.adapter.as_ref().ok_or_else(|| PartitionError::NoPrivatePart { path: self.dir.clone() })?;
        weights::private_weights(public, &self.base.config, &self.manifest.transforms, adapter)
    }

    /// What the client runs in clear: the embedding and the frozen layers.
    ///
    /// # Errors
    /// [`PartitionError::Model`] on a missing tensor.
    pub fn prefix(&self) -> Result<Prefix, PartitionError> {
        Ok(Prefix::new(&self.base, self.manifest.transforms.frozen_layers)?)
    }
}

/// The folder holds the listed files with their digests, its id file names this partition, and nothing else is there.
fn check_folder(dir: &Path, folder: &str, manifest: &Manifest, files: &[FileEntry]) -> Result<(), PartitionError> {
    let root = dir.join(folder);
    let id_path = root.join(ID_FILE);
    if id_path.is_file() {
        let found = std::fs::read_to_string(&id_path).map_err(PartitionError::io(&id_path))?.trim().to_string();
        if found != manifest.partition_id {
            let expected = manifest.partition_id.clone();
            return Err(PartitionError::MixedPartitions { path: id_path, expected, found });
        }
    }
    for entry in std::fs::read_dir(&root).map_err(PartitionError::io(&root))? {
        let name = entry.map_err(PartitionError::io(&root))?.file_name();
        let listed = files.iter().any(|file| Path::new(&file.path) == Path::new(folder).join(&name));
        if !listed && name != ID_FILE {
            return Err(PartitionError::UnlistedFile { path: root.join(name) });
        }
    }
    files.iter().try_for_each(|file| file.verify(dir))
}
