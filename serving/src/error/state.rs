//! What can go wrong with what a service keeps on disk: records, keys and other files.

use std::path::PathBuf;

/// An error of the named file, or of what the records say of a session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    #[error("`{}`: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("session `{session}` has already been used, or was never granted")]
    SessionUsed { session: String },
    #[error("session `{session}` was granted to another client")]
    WrongProof { session: String },
    #[error("`{}` is in use by another process", path.display())]
    LedgerInUse { path: PathBuf },
    #[error(
        "`{}` holds {digits} characters where a key of 64 hexadecimal digits belongs\n\
         hint: it is damaged; put the right one back, or delete it and a new one is made",
        path.display()
    )]
    BadSecret { path: PathBuf, digits: usize },
    #[error("`{name}` {reason}")]
    KeyName { name: String, reason: &'static str },
    #[error(
        "this server had API keys, and `{}` is gone\nhint: put it back; to serve everyone from \
         now on, remove `{}` too",
        keys.display(), record.display()
    )]
    KeysGone { keys: PathBuf, record: PathBuf },
    #[error("the operating system gives no random numbers: {0}")]
    Random(String),
}

impl StateError {
    /// For `map_err`: a failed operation on the named file.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
