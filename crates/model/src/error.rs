//! Errors of checkpoints, tokenizers and float models, each with the file or tensor at fault.

use std::path::PathBuf;

/// What can go wrong with checkpoints, tokenizers and the float model. Every variant names the
/// place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    #[error("cannot read `{}`: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "cannot write `{}`: {reason}\n\n\
         hint: what stood there before is still there; look for space and permissions",
        path.display(),
    )]
    Write { path: PathBuf, reason: String },
    #[error("`{}` is neither a checkpoint folder nor a `.gguf` file\n\n\
        hint: a folder needs `config.json`, `tokenizer.json` and `*.safetensors`", path.display())]
    NotACheckpoint { path: PathBuf },
    #[error("`{}`: {reason}", path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error("the checkpoint has no tensor `{name}`")]
    MissingTensor { name: String },
    #[error("tensor `{name}` has shape {found:?}, expected {expected:?}")]
    Shape {
        name: String,
        found: Vec<usize>,
        expected: Vec<usize>,
    },
    #[error("`{}`: {key} = {value} is not supported: {why}", path.display())]
    Unsupported {
        path: PathBuf,
        key: String,
        value: String,
        why: Box<str>,
    },
    /// A model in memory, where only decoders of the LLaMA family are computed.
    #[error(
        "model_type = {model_type} is not supported here: only decoders with rotary positions are"
    )]
    NotLlama { model_type: &'static str },
    /// A key, tensor or token that the answers may depend on and that is not used.
    #[error("`{}`: {what} {why}\n\n\
        hint: if the model is the same without it, say so: `model.ignore = [\"{key}\"]` in the \
        recipe, `--ignore {key}` on the command line", path.display())]
    Unaccounted {
        path: PathBuf,
        what: String,
        key: String,
        why: String,
    },
    /// An entry of `model.ignore` or `--ignore` that stands for nothing: a slip, or another
    /// checkpoint's.
    #[error("`{}`: `{entry}` of `model.ignore` or `--ignore` is no key, tensor or token that could \
        be left out\n\n\
        hint: look for a slip of the pen, or take the entry away", path.display())]
    NothingToIgnore { path: PathBuf, entry: String },
    /// A size that no machine, or not this one, could hold; nothing was allocated.
    #[error("`{}`: {reason}", path.display())]
    TooLarge { path: PathBuf, reason: String },
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    #[error("chat template: {0}")]
    Template(String),
    #[error("`{what}`: {reason}")]
    Transforms { what: &'static str, reason: String },
    #[error("the context holds {limit} tokens, {needed} were asked for")]
    ContextFull { limit: usize, needed: usize },
    #[error("token {token} is outside the vocabulary of {vocab_size}")]
    TokenOutOfRange { token: u32, vocab_size: usize },
    #[error(transparent)]
    Tensor(candle_core::Error),
}

impl From<candle_core::Error> for ModelError {
    /// A tensor that a [`candle_nn::VarBuilder`] does not have, or has in another shape, keeps its
    /// full name.
    fn from(error: candle_core::Error) -> Self {
        use candle_core::Error;
        match error {
            Error::CannotFindTensor { path } => Self::MissingTensor { name: path },
            Error::UnexpectedShape { msg, expected, got } => {
                // How candle-nn says it of a tensor by name; other operations say other things.
                match msg.strip_prefix("shape mismatch for ") {
                    Some(name) => Self::Shape {
                        name: name.into(),
                        found: got.into_dims(),
                        expected: expected.into_dims(),
                    },
                    None => Self::Tensor(Error::UnexpectedShape { msg, expected, got }),
                }
            }
            // `RUST_BACKTRACE` wraps every error.
            Error::WithBacktrace { inner, backtrace } => match Self::from(*inner) {
                Self::Tensor(inner) => Self::Tensor(Error::WithBacktrace {
                    inner: inner.into(),
                    backtrace,
                }),
                named => named,
            },
            other => Self::Tensor(other),
        }
    }
}

impl ModelError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn write<E: std::fmt::Display>(path: impl Into<PathBuf>) -> impl FnOnce(E) -> Self {
        let path = path.into();
        move |error| Self::Write {
            path,
            reason: error.to_string(),
        }
    }

    pub(crate) fn unaccounted(path: impl Into<PathBuf>, what: &str, key: &str, why: &str) -> Self {
        Self::Unaccounted {
            path: path.into(),
            what: what.into(),
            key: key.into(),
            why: why.into(),
        }
    }

    pub(crate) fn corrupt(path: impl Into<PathBuf>, reason: impl std::fmt::Display) -> Self {
        Self::Corrupt {
            path: path.into(),
            reason: reason.to_string(),
        }
    }
}
