//! Errors of an evaluation, each with the task, row or file at fault.

use std::path::PathBuf;

use marill_model::ModelError;
use marill_mpc::{ProtocolError, SpecError};
use marill_partition::PartitionError;
use marill_recipe::RecipeError;
use marill_training::TrainError;

use crate::sandbox::SandboxError;

/// What to look at when a score is not a number.
const NUMBERS: &str = "a weight is NaN or infinite, or values grow beyond 32-bit floats";

/// What can go wrong in an evaluation. Every variant names the place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    #[error("there is no task `{name}`\nhint: the tasks are {known}")]
    UnknownTask { name: String, known: String },
    #[error("task `{task}`: {reason}")]
    Task { task: String, reason: String },
    #[error("task `{task}`: `{metric}` has no value{}: {source}\nhint: {NUMBERS}", place(.example))]
    NoScore {
        task: String,
        metric: &'static str,
        example: Option<usize>,
        source: Box<EvalError>,
    },
    #[error("the prompt of request {request} has no token that an answer could stand behind")]
    EmptyPrompt { request: usize },
    #[error("{what} of the model is no finite number")]
    NotANumber { what: &'static str },
    #[error("`--exclude` needs rows of the format of task `{task}`: {source}")]
    Exclude { task: String, source: RecipeError },
    #[error("cannot write `{}`", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "task `{task}` needs its data: {source}\n\
         hint: give a file of the task's format with `--data`"
    )]
    Data { task: String, source: RecipeError },
    #[error(
        "the secure engine reveals tokens only, so `{task}` cannot be scored with it\n\
         hint: use `--engine twin`, whose integers are the same"
    )]
    NeedsLogits { task: String },
    #[error(
        "the twin and the secure engine need a partition\n\
         hint: `marill export` writes one; a checkpoint runs with `--engine float`"
    )]
    NeedsPartition,
    #[error("{party} ended unexpectedly")]
    PartyEnded { party: &'static str },
    #[error("cannot compare: {reason}")]
    Compare { reason: String },
    #[error("cannot merge: {reason}")]
    Merge { reason: String },
    #[error("cannot read `{}`: {reason}", path.display())]
    Scores { path: PathBuf, reason: String },
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Partition(#[from] PartitionError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    #[error(transparent)]
    Train(#[from] TrainError),
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

fn place(example: &Option<usize>) -> String {
    example.map_or_else(String::new, |nth| format!(" at example {nth}"))
}
