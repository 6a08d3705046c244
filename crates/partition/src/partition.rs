//! Opening a partition: every file is checked against the manifest before anything is used.

use std::path::{Path, PathBuf};

use marill_model::{Adapter, ChatTemplate, Checkpoint, Prefix, Tokenizer};
use marill_mpc::{PrivateWeights, ProgramSpec, PublicWeights};

use crate::{
    MANIFEST_FILE, PartitionError, PrivatePart, llama,
    manifest::{FileEntry, ID_FILE, Manifest},
};

/// An open partition, checked.
pub struct Partition {
    pub manifest: Manifest,
    dir: PathBuf,
    base: Checkpoint,
    private: Option<PrivatePart>,
}

impl Partition {
    /// Opens a partition with its private part, as the server does.
    ///
    /// ```
    /// use marill_partition::{ExportOptions, Partition, export};
    /// use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let (base, out) = (folder.path().join("base"), folder.path().join("out"));
    /// let base = tiny_base(&base, 1)?;
    /// let transforms = tiny_transforms(&base.config, true);
    /// let adapter = tiny_adapter(&base.config, &transforms, 2)?;
    /// export(&base, &transforms, &adapter, &out, &ExportOptions::default())?;
    ///
    /// let server = Partition::open(&out)?;
    /// assert!(server.private().is_some());
    /// let client = Partition::open_public(&out)?;
    /// assert!(client.private().is_none());
    /// assert_eq!(client.partition_id(), server.partition_id());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`PartitionError`] naming the file that is missing, unlisted, of another partition or
    /// altered.
    pub fn open(dir: &Path) -> Result<Self, PartitionError> {
        let mut partition = Self::open_base(dir, true)?;
        if !dir.join("private").is_dir() {
            return Err(PartitionError::NoPrivatePart { path: dir.into() });
        }
        check_folder(
            dir,
            "private",
            &partition.manifest,
            &partition.manifest.private_files,
            true,
        )?;
        let private = PrivatePart::load(dir, partition.manifest.decoder.is_full_rank())?;
        private.check(&partition.base, &partition.manifest.transforms)?;
        partition.private = Some(private);
        Ok(partition)
    }

    /// Opens `manifest.json` and `public/` only, as the client does; a private part, if any, is not
    /// read.
    ///
    /// # Errors
    /// As [`Partition::open`].
    pub fn open_public(dir: &Path) -> Result<Self, PartitionError> {
        // A client's copy holds the files of the manifest alone.
        Self::open_base(dir, false)
    }

    fn open_base(dir: &Path, has_id_file: bool) -> Result<Self, PartitionError> {
        let manifest = Manifest::load(dir)?;
        if manifest.decoder.is_full_rank() && manifest.transforms.lora.is_some() {
            let reason = "it has low-rank factors and private full-rank weights".into();
            return Err(PartitionError::Manifest {
                path: dir.join(MANIFEST_FILE),
                reason,
            });
        }
        check_folder(
            dir,
            "public",
            &manifest,
            &manifest.public_files,
            has_id_file,
        )?;
        let base =
            Checkpoint::open_ignoring_any(&manifest.base_path(dir), &manifest.base.ignored)?.0;
        Ok(Self {
            manifest,
            dir: dir.into(),
            base,
            private: None,
        })
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
    pub fn program_spec(&self) -> &ProgramSpec {
        &self.manifest.decoder
    }

    /// The base model.
    pub fn base(&self) -> &Checkpoint {
        &self.base
    }

    /// The private part; none where only the public part was opened.
    pub fn private(&self) -> Option<&PrivatePart> {
        self.private.as_ref()
    }

    /// The low-rank factors; none where only the public part was opened, or where whole layers are
    /// private.
    pub fn adapter(&self) -> Option<&Adapter> {
        match &self.private {
            Some(PrivatePart::LowRank(adapter)) => Some(adapter),
            _ => None,
        }
    }

    /// The base with the private layers of a full fine-tune in their place; the base itself for any
    /// other partition. Together with [`Self::adapter`] it is the owner's model in floats.
    ///
    /// # Errors
    /// [`PartitionError::NoPrivatePart`] where the layers are private and only the public part was
    /// opened.
    pub fn model(&self) -> Result<Checkpoint, PartitionError> {
        let mut model = self.base.clone();
        match &self.private {
            Some(PrivatePart::Full(tensors)) => model.tensors.extend(tensors.clone()),
            None if self.manifest.decoder.is_full_rank() => {
                return Err(PartitionError::NoPrivatePart {
                    path: self.dir.clone(),
                });
            }
            _ => {}
        }
        Ok(model)
    }

    pub fn tokenizer(&self) -> &Tokenizer {
        &self.base.tokenizer
    }

    pub fn chat_template(&self) -> Option<&ChatTemplate> {
        self.base.chat_template.as_ref()
    }

    /// Head and final norm as integers, and the base weights of the private layers unless these are
    /// private as a whole.
    ///
    /// # Errors
    /// [`PartitionError::Spec`] on a value out of range.
    pub fn public_weights(&self) -> Result<PublicWeights, PartitionError> {
        llama::public_weights(
            &self.manifest.decoder,
            &self.base,
            &self.manifest.transforms,
        )
    }

    /// The server's part as integers; `public` are this partition's, whose scales low-rank factors
    /// share.
    ///
    /// # Errors
    /// [`PartitionError::NoPrivatePart`] where only the public part was opened,
    /// [`PartitionError::Spec`] on a value out of range.
    pub fn private_weights(
        &self,
        public: &PublicWeights,
    ) -> Result<PrivateWeights, PartitionError> {
        let transforms = &self.manifest.transforms;
        match &self.private {
            None => Err(PartitionError::NoPrivatePart {
                path: self.dir.clone(),
            }),
            Some(PrivatePart::LowRank(a)) => {
                llama::private_weights(public, &self.base.config, transforms, a)
            }
            Some(PrivatePart::Full(tensors)) => llama::full_weights(
                &self.manifest.decoder,
                &self.base.config,
                transforms,
                tensors,
            ),
        }
    }

    /// What the client runs in clear: the embedding and the frozen layers.
    ///
    /// # Errors
    /// [`PartitionError::Model`] on a missing tensor.
    pub fn prefix(&self) -> Result<Prefix, PartitionError> {
        Ok(Prefix::new(
            &self.base,
            self.manifest.transforms.frozen_layers,
        )?)
    }
}

/// The folder holds the listed files with their digests, its id file, where it must have one, names
/// this partition, and nothing else is there.
fn check_folder(
    dir: &Path,
    folder: &str,
    manifest: &Manifest,
    files: &[FileEntry],
    has_id_file: bool,
) -> Result<(), PartitionError> {
    let root = dir.join(folder);
    let id_path = root.join(ID_FILE);
    if has_id_file && !id_path.is_file() {
        return Err(PartitionError::MissingId { path: id_path });
    }
    if id_path.is_file() {
        let found = std::fs::read_to_string(&id_path)
            .map_err(PartitionError::io(&id_path))?
            .trim()
            .to_string();
        if found != manifest.partition_id {
            let expected = manifest.partition_id.clone();
            return Err(PartitionError::MixedPartitions {
                path: id_path,
                expected,
                found,
            });
        }
    }
    for entry in std::fs::read_dir(&root).map_err(PartitionError::io(&root))? {
        let name = entry.map_err(PartitionError::io(&root))?.file_name();
        let listed = files
            .iter()
            .any(|file| Path::new(&file.path) == Path::new(folder).join(&name));
        if !listed && name != ID_FILE {
            return Err(PartitionError::UnlistedFile {
                path: root.join(name),
            });
        }
    }
    files.iter().try_for_each(|file| file.verify(dir))
}
