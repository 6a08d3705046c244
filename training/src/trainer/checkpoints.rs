//! What a run keeps beside its output: checkpoints, from which it goes on, and the best step's
//! parameters.

use std::path::{Path, PathBuf};

use super::Run;
use crate::{
    TrainError,
    best::best,
    distill::Distillation,
    init_from::InitFrom,
    state::{self, MeasuredHeads},
};

/// A file of the run that could not be written, with the checkpoint to go on from.
pub(super) fn not_written(checkpoints: &Path, error: TrainError) -> TrainError {
    match state::newest(checkpoints) {
        Some(checkpoint) => TrainError::Output {
            error: error.into(),
            checkpoint,
        },
        None => error,
    }
}

impl Run<'_> {
    /// Goes on from the newest checkpoint where that is asked for, and clears the place otherwise.
    pub(super) fn find_checkpoint(&mut self) -> Result<(), TrainError> {
        let base = self
            .base_sha256
            .take()
            .unwrap_or_else(|| self.base.digest());
        // Another teacher is another run.
        let teacher = self.distillation.as_ref().and_then(Distillation::sha256);
        let beginning = self.init_from.as_ref().map(InitFrom::sha256).transpose()?;
        let weights = base + teacher.unwrap_or_default() + beginning.as_deref().unwrap_or("");
        self.digest = state::digest(self.recipe, &self.samples.train, &weights);
        let checkpoints = self.dir.join("checkpoints");
        if self.options.resume {
            if let Some(resumed) = state::load(&checkpoints, &mut self.params, &self.digest)? {
                let planned = resumed.history.last().map_or(0, |p| p.steps);
                if resumed.step > self.plan.len() {
                    let reason = format!(
                        "it is of step {}, and the run has {} steps now\n\n\
                         hint: raise `train.max_steps` or `train.epochs`, or train without \
                         `--resume`",
                        resumed.step,
                        self.plan.len()
                    );
                    return Err(TrainError::Resume {
                        path: resumed.path,
                        reason,
                    });
                }
                self.replanned = (planned != self.plan.len()).then_some([planned, resumed.step]);
                self.check_comparable(&resumed)?;
                (self.history, self.earlier_seconds) = (resumed.history, resumed.seconds);
                if let Some(best) = best(&self.history).filter(|_| self.recipe.train.keep_best) {
                    state::best::check(&checkpoints, best.step)?;
                }
            }
            // Of steps that are done again, or of a run that kept none.
            self.prune_best(None)?;
        } else if checkpoints.exists() {
            // A later `--resume` must not find the checkpoints of another run.
            std::fs::remove_dir_all(&checkpoints).map_err(TrainError::io(&checkpoints))?;
        }
        Ok(())
    }

    /// That losses were measured on the rows of now, where they decide something.
    fn check_comparable(&self, resumed: &state::Resumed) -> Result<(), TrainError> {
        let train = &self.recipe.train;
        let decides = train.keep_best || train.early_stopping_patience.is_some();
        let now = state::validation_digest(&self.samples.validation);
        match &resumed.validation_sha256 {
            Some(then) if decides && *then != now => Err(TrainError::Resume {
                path: resumed.path.clone(),
                reason: "its validation losses are of other rows, and `train.keep_best` or \
                         `train.early_stopping_patience` would compare them\n\n\
                         hint: bring the rows back, drop these keys, or train without `--resume`"
                    .into(),
            }),
            _ => Ok(()),
        }
    }

    /// That more than one loss is measured, on a row at least, where they decide something.
    pub(crate) fn check_measured(&self) -> Result<(), TrainError> {
        let train = &self.recipe.train;
        let key = match (train.keep_best, train.early_stopping_patience) {
            (true, _) => "train.keep_best",
            (false, Some(_)) => "train.early_stopping_patience",
            (false, None) => return Ok(()),
        };
        if self.samples.validation.is_empty() {
            let reason =
                "no row is held out to measure a loss on; raise `data.val_fraction`, or name rows \
                 by `dataset.val_path`"
                    .into();
            return Err(TrainError::Setting { key, reason });
        }
        let every = self.recipe.eval.as_ref().and_then(|eval| eval.every_steps);
        if every.is_none_or(|every| every >= self.plan.len()) {
            let reason = format!(
                "the run has {} steps, so that `eval.every_steps` measures one loss, and there is \
                 nothing to compare; lower it",
                self.plan.len()
            );
            return Err(TrainError::Setting { key, reason });
        }
        Ok(())
    }

    pub(super) fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }

    /// Keeps the parameters of this step where they are the best so far and asked for.
    pub(super) fn keep_best(&self, step: usize) -> Result<(), TrainError> {
        let is_best = best(&self.history).is_some_and(|best| best.step == step);
        if !self.recipe.train.keep_best || !is_best {
            return Ok(());
        }
        state::best::save(&self.checkpoints(), &self.params, step)?;
        self.prune_best(Some(step))
    }

    /// Leaves the best steps of all checkpoints, from any of which a run may go on, and this one.
    fn prune_best(&self, step: Option<usize>) -> Result<(), TrainError> {
        let checkpoints = self.checkpoints();
        let mut kept: Vec<usize> = step.into_iter().collect();
        if self.recipe.train.keep_best {
            let saved = state::steps(&checkpoints).into_iter();
            let known = saved.map(|saved| &self.history[..saved.min(self.history.len())]);
            kept.extend(known.filter_map(best).map(|best| best.step));
        }
        let pruned = state::best::keep_only(&checkpoints, &kept);
        pruned.map_err(|error| self.not_written(error))
    }

    /// As [`not_written`], of this run.
    pub(super) fn not_written(&self, error: TrainError) -> TrainError {
        not_written(&self.checkpoints(), error)
    }

    /// Writes a checkpoint.
    pub(super) fn save_checkpoint(&self, seconds: f64) -> Result<PathBuf, TrainError> {
        let checkpoints = self.checkpoints();
        let path = state::save(
            &checkpoints,
            &self.params,
            &self.history,
            seconds,
            &self.digest,
            &state::validation_digest(&self.samples.validation),
            self.measured_heads(),
        )?;
        self.prune_best(None)?;
        Ok(path)
    }

    /// What came out of the parameters that step `left_by` left: a checkpoint of that step is no
    /// good one.
    pub(super) fn not_finite(&self, what: &'static str, step: usize, left_by: usize) -> TrainError {
        let last_checkpoint = state::newest_before(&self.dir.join("checkpoints"), left_by);
        TrainError::NotFinite {
            what,
            step,
            last_checkpoint,
        }
    }

    /// What a checkpoint has to say of heads that were measured.
    fn measured_heads(&self) -> Option<MeasuredHeads> {
        let transform = self.transforms.heads.clone()?;
        (!self.head_errors.is_empty()).then(|| MeasuredHeads {
            transform,
            errors: self.head_errors.clone(),
        })
    }
}
