//! What a folder on the command line holds: a partition, a training run, or a checkpoint.

use std::path::{Path, PathBuf};

use marill_model::Checkpoint;
use marill_numeric::Rounding;
use marill_partition::{MANIFEST_FILE, Partition};

use crate::output::failure::BadInput;

/// Name of the partition inside a training run's folder.
pub const EXPORT_FOLDER: &str = "export";

/// A model that can be asked something.
pub enum Model {
    Partition(Box<Partition>),
    Checkpoint(Box<Checkpoint>),
}

impl Model {
    /// Opens a partition, the partition of a training run, or a checkpoint (folder or GGUF file).
    ///
    /// # Errors
    /// [`BadInput`] when it is none of them or damaged.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::open_ignoring(path, &[])
    }

    /// As [`Self::open`], a checkpoint without the keys and tensors of `ignore`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_ignoring(path: &Path, ignore: &[String]) -> anyhow::Result<Self> {
        let bad = |error: anyhow::Error| anyhow::Error::new(BadInput(error));
        for dir in [path.to_path_buf(), path.join(EXPORT_FOLDER)] {
            if dir.join(MANIFEST_FILE).is_file() {
                if let Some(entry) = ignore.first() {
                    let error = anyhow::anyhow!(
                        "`--ignore {entry}`: a partition says itself what is left out"
                    );
                    return Err(bad(error));
                }
                let has_private = dir.join("private").is_dir();
                let opened = if has_private {
                    Partition::open(&dir)
                } else {
                    Partition::open_public(&dir)
                };
                return Ok(Self::Partition(Box::new(
                    opened.map_err(|e| bad(e.into()))?,
                )));
            }
        }
        let whole = path.join("model");
        let checkpoint = if whole.join("config.json").is_file() {
            whole
        } else {
            path.to_path_buf()
        };
        Ok(Self::Checkpoint(Box::new(
            Checkpoint::open_ignoring(&checkpoint, ignore).map_err(|e| bad(e.into()))?,
        )))
    }

    /// Whether a secure answer may differ from the exact twin's.
    pub fn rounds_stochastically(&self) -> bool {
        let partition = if let Self::Partition(partition) = self {
            Some(partition)
        } else {
            None
        };
        partition.is_some_and(|partition| {
            partition.program_spec().numeric.rounding == Rounding::Stochastic
        })
    }

    pub fn checkpoint(&self) -> &Checkpoint {
        match self {
            Self::Partition(partition) => partition.base(),
            Self::Checkpoint(checkpoint) => checkpoint,
        }
    }
}

/// The recipe that a model was trained with, where it lies beside it.
pub fn recipe_beside(path: &Path) -> Option<PathBuf> {
    let candidates = [path.join("recipe.toml"), path.parent()?.join("recipe.toml")];
    candidates.into_iter().find(|candidate| candidate.is_file())
}
