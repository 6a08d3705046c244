//! What can go wrong with correlations in files: the request for them, the file, its use.

use std::path::PathBuf;

use marill_net::NetError;

use crate::error::StateError;

/// An error of preprocessing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PreprocessingError {
    #[error("the preprocessing request does not fit: {reason}")]
    BadRequest { reason: String },
    /// Goes to the client too, so it carries the file's name and not where it lies.
    #[error("`{file}` is no file of correlations that can be used: {reason}")]
    BadFile { file: String, reason: String },
    #[error("there are no preprocessed correlations for session `{session}`")]
    NoFile { session: String },
    #[error(
        "no preprocessed correlations fit a prompt of {bucket} and {tokens} tokens, selection \
         `{selection}`"
    )]
    NoneFits {
        bucket: usize,
        tokens: usize,
        selection: &'static str,
    },
    #[error("`{}` has {free_bytes} bytes free, and {needed_bytes} are needed", path.display())]
    NoSpace {
        path: PathBuf,
        needed_bytes: u64,
        free_bytes: u64,
    },
    #[error(
        "the tally declares {declared_bytes} bytes of corrections, the program made {got_bytes}"
    )]
    Tally { declared_bytes: u64, got_bytes: u64 },
    /// Corrections go to a file as they go to a connection.
    #[error("{0}")]
    Write(NetError),
    #[error(transparent)]
    State(#[from] StateError),
}
