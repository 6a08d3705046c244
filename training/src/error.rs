//! Errors of a training run, each with the step, setting or file at fault.

use std::path::PathBuf;

use marill_model::ModelError;
use marill_recipe::RecipeError;

/// What can go wrong in a training run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    #[error("the base model `{name}` was not found\n\nhint: {}", model_hint(.name, .looked_in))]
    NoModel {
        name: String,
        looked_in: Vec<PathBuf>,
    },
    #[error("cannot write `{}`: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{key}`: {reason}")]
    Setting { key: &'static str, reason: String },
    #[error("the data sets hold no row that fits into `data.max_seq_len` = {max_seq_len}")]
    NoData { max_seq_len: usize },
    #[error(
        "the {what} is not a finite number at step {step}{}",
        checkpoint_hint(.last_checkpoint),
    )]
    NotFinite {
        what: &'static str,
        step: usize,
        last_checkpoint: Option<PathBuf>,
    },
    #[error(
        "cannot write the checkpoint `{}`: {reason}{}",
        path.display(),
        kept_hint(.last_checkpoint),
    )]
    Checkpoint {
        path: PathBuf,
        reason: String,
        last_checkpoint: Option<PathBuf>,
    },
    #[error("{error}\n\nhint: make space, then `--resume` goes on from `{}`", checkpoint.display())]
    Output {
        error: Box<TrainError>,
        checkpoint: PathBuf,
    },
    #[error("stopped after step {step}\n\n\
        hint: `--resume` goes on from `{}`", checkpoint.display())]
    Interrupted { step: usize, checkpoint: PathBuf },
    #[error("another run writes into `{}`\n\n\
        hint: wait for it, or name another folder with `--output-dir`", path.display())]
    InUse { path: PathBuf },
    #[error("`{}` cannot be resumed: {reason}", path.display())]
    Resume { path: PathBuf, reason: String },
    #[error("tokenizer: {0}")]
    Tokenizer(String),
}

fn checkpoint_hint(path: &Option<PathBuf>) -> String {
    match path {
        Some(path) => format!(
            "\n\nhint: the last good checkpoint is `{}`; try a lower learning rate",
            path.display()
        ),
        None => "\n\nhint: no checkpoint was written yet; try a lower learning rate".into(),
    }
}

fn kept_hint(path: &Option<PathBuf>) -> String {
    match path {
        Some(path) => format!(
            "\n\nhint: make space, then `--resume` goes on from `{}`",
            path.display()
        ),
        None => "\n\nhint: make space and start again; no checkpoint was written yet".into(),
    }
}

fn model_hint(name: &str, looked_in: &[PathBuf]) -> String {
    if name.contains("SmolLM2-135M-Instruct") {
        return "`recipes/fetch-smollm2.sh` fetches it into `models/`".into();
    }
    let places: Vec<String> = looked_in
        .iter()
        .map(|p| format!("`{}`", p.display()))
        .collect();
    format!(
        "name a checkpoint folder or a `.gguf` file; looked for {}",
        places.join(", ")
    )
}

impl TrainError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }
}
