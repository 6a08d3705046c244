//! What a run tells while it goes on and leaves behind: progress, metrics, notes, report and plot.

use std::path::{Path, PathBuf};

use marill_recipe::Recipe;
use marill_report::{LinePlot, Scale, Series};
use serde::{Deserialize, Serialize};

use crate::TrainError;

/// One line of `metrics.jsonl`, also given to the caller after every step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub step: usize,
    pub steps: usize,
    /// Mean over the tokens learned in this step.
    pub loss: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    pub learning_rate: f64,
    pub grad_norm: f64,
    /// Tokens so far, prompts included; nothing is padded.
    pub tokens: usize,
    /// Over the whole run so far, the frozen prefix included.
    pub tokens_per_second: f64,
    /// A step of the teacher that is trained before the run.
    #[serde(skip)]
    pub of_teacher: bool,
}

/// The least validation loss of a run.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Best {
    pub step: usize,
    pub val_loss: f64,
}

/// What a run tells its caller.
pub enum Told<'a> {
    /// Once, before the first step.
    Begin(&'a Summary),
    /// After every step.
    Step(&'a Progress),
}

/// What a run is about to do.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Rows that are learned from, and rows that are held out.
    pub rows: usize,
    pub held_out: usize,
    /// Layers of the model, and those that stay as they are.
    pub layers: usize,
    pub frozen_layers: usize,
    /// Low-rank factors are trained, not the weights themselves.
    pub low_rank: bool,
    pub trained_parameters: usize,
    pub steps: usize,
    /// Steps that an earlier call has done.
    pub done: usize,
    /// Tokens of all steps.
    pub tokens: usize,
    /// Steps over which the learning rate rises.
    pub warmup_steps: usize,
    /// The peak of the process, as it is estimated.
    pub memory_bytes: usize,
    /// What is left of the run, where a few rows were tried.
    pub seconds: Option<f64>,
    pub data: DataNotes,
    /// What was measured of each private layer's heads; empty where nothing was.
    pub heads: Vec<HeadError>,
    /// As [`TrainReport::replanned`].
    pub replanned: Option<[usize; 2]>,
    /// The teacher that is trained before the run.
    pub of_teacher: bool,
}

/// What had to be done to rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DataNotes {
    pub rows: usize,
    /// Longer than `data.max_seq_len`: the prompt lost its beginning.
    pub shortened_prompts: usize,
    /// Longer than `data.max_seq_len` alone: the answer lost its end.
    pub shortened_answers: usize,
    /// Conversations of which each answer is learned behind the turns before it, one by one.
    pub divided: usize,
    /// Pairs of lines of which one side is empty; left out.
    pub unpaired: usize,
    /// Nothing to learn in them; left out.
    pub without_answer: usize,
    /// Their prompts stand in a file of `dataset.exclude`; left out.
    pub excluded: usize,
    /// A validation loss was asked for, and no row is held out to measure it on.
    pub no_validation: bool,
    /// Conversations for a model without a chat template; see [`marill_model::NO_TEMPLATE`].
    pub no_template: bool,
}

impl std::fmt::Display for DataNotes {
    /// One line a finding; empty when there is nothing to say.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let findings = [
            (
                self.shortened_prompts,
                "are longer than `data.max_seq_len` or the model's context: their prompts lost the \
                 beginning",
            ),
            (
                self.shortened_answers,
                "have answers longer than `data.max_seq_len` or the model's context: they lost the \
                 end",
            ),
            (
                self.divided,
                "are conversations longer than `data.max_seq_len`, or written otherwise by the \
                 chat template later on: their answers are learned one by one",
            ),
            (
                self.unpaired,
                "are pairs of lines with an empty side and were left out",
            ),
            (
                self.without_answer,
                "have nothing to learn in them and were left out",
            ),
            (
                self.excluded,
                "ask what a file of `dataset.exclude` asks and were left out",
            ),
        ];
        for (count, what) in findings.iter().filter(|(count, _)| *count > 0) {
            writeln!(f, "note: {count} of {} rows {what}", self.rows)?;
        }
        if self.no_validation {
            writeln!(
                f,
                "note: no row is held out, so no validation loss is measured; \
                 `data.val_fraction` sets how many"
            )?;
        }
        if self.no_template {
            writeln!(f, "warning: {}", marill_model::NO_TEMPLATE)?;
        }
        Ok(())
    }
}

/// How far one private layer's attention block is off with the heads that it has got.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadError {
    /// Counted over the whole model.
    pub layer: usize,
    /// Mean squared change of the block's output on calibration rows, relative to the residual
    /// stream; where the layer was left whole, what it would have been.
    pub error: f64,
    /// Whether the layer was left whole.
    pub kept: bool,
}

/// The teacher that was trained for a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TaughtBy {
    pub model: PathBuf,
    pub tokens: usize,
    pub seconds: f64,
    pub val_loss: Option<f64>,
    /// An earlier call had trained it.
    pub found: bool,
}

/// What a finished run leaves behind.
#[derive(Debug, Clone, Serialize)]
pub struct TrainReport {
    pub output_dir: PathBuf,
    /// `adapter.safetensors`, when low-rank factors were trained.
    pub adapter: Option<PathBuf>,
    /// A whole checkpoint folder, when all weights were.
    pub model: Option<PathBuf>,
    pub steps: usize,
    pub tokens: usize,
    pub seconds: f64,
    pub tokens_per_second: f64,
    pub first_loss: f64,
    /// Mean of the last tenth of the steps.
    pub final_loss: f64,
    pub val_loss: Option<f64>,
    pub trained_parameters: usize,
    pub data: DataNotes,
    /// What was measured of each private layer's heads; empty where nothing was.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub heads: Vec<HeadError>,
    /// Where a resumed run has another number of steps: those of the earlier plan, and those done
    /// by then. The learning rate and the stages follow the new plan from there on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replanned: Option<[usize; 2]>,
    /// The teacher that was trained first, where the recipe asks for one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub taught: Option<TaughtBy>,
    /// The least validation loss, where one was measured. With `train.keep_best` the run leaves
    /// what it had at that step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub best: Option<Best>,
    /// Whether what the run leaves is of the best step and not of the last one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keeps_best: bool,
    /// Steps that were planned, where the run ended early.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_early_of: Option<usize>,
    /// Rows whose frozen part an earlier run had left on the disk.
    pub cached_rows: usize,
    /// Why the frozen part was not kept on the disk, where it was not.
    pub cache_note: Option<String>,
    /// The most memory that the process held, where the system says it.
    pub peak_memory_bytes: Option<usize>,
}

/// The recipe as the run's folder keeps it: test rows, tasks and an adapter that are found only
/// beside the recipe file are named in full, since the folder lies elsewhere.
pub(crate) fn resolved(recipe: &Recipe, recipe_dir: &Path) -> Recipe {
    let mut recipe = recipe.clone();
    let mut files: Vec<&mut String> = Vec::new();
    if let Some(eval) = &mut recipe.eval {
        files.extend(eval.path.iter_mut().chain(&mut eval.target_path));
        // Names of embedded tasks are no paths.
        files.extend(eval.tasks.iter_mut().filter(|name| name.ends_with(".toml")));
    }
    if let Some(lora) = &mut recipe.lora {
        files.extend(&mut lora.init_from);
    }
    for file in files {
        let beside = recipe_dir.join(&*file);
        if !Path::new(file).exists()
            && let Ok(whole) = beside.canonicalize()
        {
            *file = whole.display().to_string();
        }
    }
    recipe
}

/// Mean loss of the last tenth of the steps.
pub(crate) fn final_loss(history: &[Progress]) -> f64 {
    let count = history.len().div_ceil(10).max(1);
    let last = &history[history.len().saturating_sub(count)..];
    last.iter().map(|p| p.loss).sum::<f64>() / last.len().max(1) as f64
}

/// From so many steps on the loss of single steps is smoothed.
const SMOOTHED_FROM: usize = 20;
/// What a step before weighs beside the step behind it.
const KEEP: f64 = 0.9;

/// `loss.svg` and the figures beside it.
pub(crate) fn plot(dir: &Path, history: &[Progress]) -> Result<(), TrainError> {
    let first = history.first().map_or(f64::NAN, |p| p.loss);
    let raw = Series {
        name: "training".into(),
        points: history.iter().map(|p| (p.step as f64, p.loss)).collect(),
        is_faint: history.len() >= SMOOTHED_FROM,
        ..Series::default()
    };
    let smoothed = raw
        .is_faint
        .then(|| raw.smoothed("training, smoothed", KEEP));
    let mut series = vec![raw];
    series.extend(smoothed);
    let measured: Vec<(f64, f64)> = history
        .iter()
        .filter_map(|p| Some((p.step as f64, p.val_loss?)))
        .collect();
    if !measured.is_empty() {
        series.push(Series {
            name: "validation".into(),
            points: measured,
            ..Series::default()
        });
    }
    let plot = LinePlot {
        title: format!(
            "Loss fell from {first:.2} to {:.2} in {} steps",
            final_loss(history),
            history.len()
        ),
        caption: "marill train; recipe.toml beside this file".into(),
        x_label: "step".into(),
        y_label: "loss (nats per token)".into(),
        y_scale: Scale::fitting(series.iter().flat_map(|s| s.points.iter().map(|p| p.1))),
        series,
    };
    let path = dir.join("loss.svg");
    plot.write(&path)
        .map_err(|e| TrainError::io(&path)(std::io::Error::other(e.to_string())))
}
