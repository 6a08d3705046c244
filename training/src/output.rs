use crate::TrainError;
use marill_report::{LinePlot, Series};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// One line of `metrics.jsonl`, also given to the caller after every step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    pub step: usize,
    pub steps: usize,
    /// Mean over the tokens learnt in this step.
    pub loss: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub val_loss: Option<f64>,
    pub learning_rate: f64,
    pub grad_norm: f64,
    /// Tokens so far, prompts included; nothing is padded.
    pub tokens: usize,
    /// Over the whole run so far, the frozen prefix included.
    pub tokens_per_second: f64,
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
}

/// `metrics.jsonl`.
pub(crate) fn write_metrics(path: &Path, history: &[Progress]) -> Result<(), TrainError> {
    let lines = history.iter().map(|p| serde_json::to_string(p).expect("plain figures serialise") + "\n");
    std::fs::write(path, lines.collect::<String>()).map_err(TrainError::io(path))
}

/// Mean loss of the last tenth of the steps.
pub(crate) fn final_loss(history: &[Progress]) -> f64 {
    let count = history.len().div_ceil(10).max(1);
    let last = &history[history.len().saturating_sub(count)..];
    last.iter().map(|p| p.loss).sum::<f64>() / last.len().max(1) as f64
}

/// `loss.svg` and the figures beside it.
pub(crate) fn plot(dir: &Path, history: &[Progress]) -> Result<(), TrainError> {
    let first = history.first().map_or(f64::NAN, |p| p.loss);
    let mut series =
        vec![Series { name: "training".into(), points: history.iter().map(|p| (p.step as f64, p.loss)).collect() }];
    let measured: Vec<(f64, f64)> = history.iter().filter_map(|p| Some((p.step as f64, p.val_loss?))).collect();
    if !measured.is_empty() {
        series.push(Series { name: "validation".into(), points: measured });
    }
    let plot = LinePlot {
        title: format!("Loss fell from {first:.2} to {:.2} in {} steps", final_loss(history), history.len()),
        caption: "marill train; recipe.toml beside this file".into(),
        x_label: "step".into(),
        y_label: "loss (nats per token)".into(),
        series,
    };
    let path = dir.join("loss.svg");
    plot.write(&path).map_err(|e| TrainError::io(&path)(std::io::Error::other(e.to_string())))
}
