//! Opening a checkpoint, whatever form it has.

use std::{cell::RefCell, path::Path};

use crate::{Checkpoint, ModelError, account::Ignored, folder, gguf};

impl Checkpoint {
    /// Opens a Hugging Face folder (`config.json`, `tokenizer.json`, `*.safetensors`) or a `.gguf`
    /// file.
    ///
    /// # Errors
    /// [`ModelError`] naming the file and, for a file cut short, the first tensor that is missing
    /// bytes. [`ModelError::Unaccounted`] for a key or tensor that the answers may depend on and
    /// that is not used.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        Self::open_ignoring(path, &[])
    }

    /// As [`Checkpoint::open`], as if the files did not have the keys, tensors and tokens named in
    /// `ignore`. Keys of tables are written `table.key`; `*` stands for one part of a name between
    /// dots, a last `.*` for all that follows.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    /// [`ModelError::NothingToIgnore`] for an entry that stands for nothing in the files.
    pub fn open_ignoring(path: &Path, ignore: &[String]) -> Result<Self, ModelError> {
        let (checkpoint, in_vain) = Self::open_ignoring_any(path, ignore)?;
        match in_vain.into_iter().next() {
            None => Ok(checkpoint),
            Some(entry) => Err(ModelError::NothingToIgnore {
                path: path.into(),
                entry,
            }),
        }
    }

    /// As [`Checkpoint::open_ignoring`] for entries that may be another checkpoint's, with those
    /// that stand for nothing in this one.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open_ignoring_any(
        path: &Path,
        ignore: &[String],
    ) -> Result<(Self, Vec<String>), ModelError> {
        let met = RefCell::default();
        let ignored = Ignored::new(ignore, &met);
        let checkpoint = Self::open_accounted(path, ignored)?;
        let in_vain = ignored.in_vain();
        Ok((checkpoint, in_vain))
    }

    fn open_accounted(path: &Path, ignored: Ignored<'_>) -> Result<Self, ModelError> {
        crate::threads::keep_candle_from_spinning();
        if path.is_dir() {
            return folder::open(path, ignored);
        }
        std::fs::metadata(path).map_err(ModelError::io(path))?;
        if path.extension().is_none_or(|e| e != "gguf") {
            return Err(ModelError::NotACheckpoint { path: path.into() });
        }
        gguf::open(path, ignored)
    }
}
