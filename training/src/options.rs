//! What a caller adds to a recipe.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
};

/// What the command line adds to a recipe.
#[derive(Debug, Clone, Default)]
pub struct TrainOptions {
    /// The folder of the recipe file; its paths may start there.
    pub recipe_dir: PathBuf,
    /// Where the base model was found already; otherwise the recipe's name is a path.
    pub base: Option<PathBuf>,
    /// The same for the teacher of a distillation.
    pub teacher: Option<PathBuf>,
    /// Where outputs of frozen layers are kept from run to run; only in memory when `None`.
    pub cache_dir: Option<PathBuf>,
    /// Go on from the newest checkpoint of the output folder, where there is one.
    pub resume: bool,
    /// Try a few rows before the first step, so that [`crate::Summary`] says how long the run will
    /// take. The result has the same bits.
    pub estimate_time: bool,
    /// Set from a signal handler: the run writes a checkpoint and ends with
    /// [`crate::TrainError::Interrupted`].
    pub stop: Option<Arc<AtomicBool>>,
}
