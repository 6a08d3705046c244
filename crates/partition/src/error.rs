//! Errors of writing and opening a partition, each with the file or tensor at fault.

use std::path::PathBuf;

use marill_model::ModelError;
use marill_mpc::SpecError;

/// What can go wrong when a partition is written or opened. Every variant names the place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PartitionError {
    #[error("cannot access `{}`", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` is no partition: it has no `manifest.json`\n\
        hint: `marill export` writes one from a fine-tuned model", path.display())]
    NotAPartition { path: PathBuf },
    #[error(
        "`{}` has schema version {found}, this program reads version {supported}",
        path.display(),
    )]
    Schema {
        path: PathBuf,
        found: u64,
        supported: u64,
    },
    #[error("`{}` is not a valid manifest: {reason}", path.display())]
    Manifest { path: PathBuf, reason: String },
    #[error("`{}` is listed in the manifest and missing", path.display())]
    MissingFile { path: PathBuf },
    #[error("`{}` is missing; it says which partition the folder belongs to", path.display())]
    MissingId { path: PathBuf },
    #[error("`{}` is not listed in the manifest\n\
        hint: a partition holds what its manifest lists and nothing else", path.display())]
    UnlistedFile { path: PathBuf },
    #[error("`{}` has SHA-256 {found}, the manifest says {expected}", path.display())]
    Digest {
        path: PathBuf,
        expected: String,
        found: String,
    },
    #[error("`{}` belongs to partition {found}, the manifest to {expected}\n\
        hint: copy `manifest.json`, `public/` and `private/` together", path.display())]
    MixedPartitions {
        path: PathBuf,
        expected: String,
        found: String,
    },
    #[error("`{}` holds only what a client gets: there is no `private/`", path.display())]
    NoPrivatePart { path: PathBuf },
    #[error(
        "tensor `{tensor}` would be published and differs from the base at element {element}\n\
         hint: only private layers may change; in a recipe without `[lora]`, `freeze.embedding = \
         true` keeps embedding, final norm and head as they are"
    )]
    PublicPartDiffers { tensor: String, element: usize },
    #[error(
        "tensor `{tensor}` is in the base and not in the model to be exported, or the other way \
         round"
    )]
    PublicPartMissing { tensor: String },
    #[error("tensor `{tensor}` has no place in the private part: {reason}")]
    PrivateTensor { tensor: String, reason: String },
    #[error("`{}` exists and is not empty\n\
        hint: choose another folder or remove it first", path.display())]
    OutputExists { path: PathBuf },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Spec(#[from] SpecError),
}

impl PartitionError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
