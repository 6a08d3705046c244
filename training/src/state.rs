use crate::params::Params;
use crate::{Progress, TrainError};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Checkpoints kept on disk.
const KEEP: usize = 2;

/// Everything of a run that is not a tensor. The order of the data follows from the recipe.
#[derive(Debug, Serialize, Deserialize)]
struct RunState {
    step: usize,
    /// sha256 of what decides the run; a checkpoint of another recipe is refused.
    recipe_sha256: String,
    seconds: f64,
    history: Vec<Progress>,
}

/// Where a run stood.
pub(crate) struct Resumed {
    pub step: usize,
    pub seconds: f64,
    pub history: Vec<Progress>,
}

pub(crate) fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

/// Writes `checkpoints/step-N` completely or not at all, then drops all but the newest ones.
pub(crate) fn save(
    root: &Path,
    params: &Params,
    history: &[Progress],
    seconds: f64,
    recipe_sha256: &str,
) -> Result<PathBuf, TrainError> {
    let step = history.last().map_or(0, |p| p.step);
    let (partial, done) = (root.join(".partial"), root.join(format!("step-{step:06}")));
    let _ = std::fs::remove_dir_all(&partial);
    std::fs::create_dir_all(&partial).map_err(TrainError::io(&partial))?;
    let mut tensors = HashMap::new();
    for param in &params.all {
        let vector = |v: &[f32]| Tensor::from_slice(v, v.len(), &Device::Cpu);
        tensors.insert(param.name.clone(), param.var.as_tensor().clone());
        tensors.insert(format!("first.{}", param.name), vector(&param.moments.first)?);
        tensors.insert(format!("second.{}", param.name), vector(&param.moments.second)?);
    }
    candle_core::safetensors::save(&tensors, partial.join("state.safetensors"))?;
    let state = RunState { step, recipe_sha256: recipe_sha256.into(), seconds, history: history.to_vec() };
    let json = serde_json::to_string(&state).expect("plain figures serialise");
    std::fs::write(partial.join("state.json"), json).map_err(TrainError::io(&partial))?;
    let _ = std::fs::remove_dir_all(&done);
    std::fs::rename(&partial, &done).map_err(TrainError::io(&done))?;
    let mut all = list(root);
    all.truncate(all.len().saturating_sub(KEEP));
    for old in all {
        std::fs::remove_dir_all(&old).map_err(TrainError::io(&old))?;
    }
    Ok(done)
}

/// Checkpoints, oldest first.
fn list(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root).into_iter().flatten().filter_map(|e| e.ok().map(|e| e.path()));
    let mut all: Vec<PathBuf> =
        entries.filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("step-"))).collect();
    all.sort();
    all
}

/// The newest checkpoint.
pub(crate) fn newest(root: &Path) -> Option<PathBuf> {
    list(root).pop()
}

/// Puts the newest checkpoint's values and moments into `params`; `None` when there is none.
pub(crate) fn load(root: &Path, params: &mut Params, recipe_sha256: &str) -> Result<Option<Resumed>, TrainError> {
    let Some(path) = newest(root) else { return Ok(None) };
    let fail = |reason: String| TrainError::Resume { path: path.clone(), reason };
    let json = std::fs::read_to_string(path.join("state.json")).map_err(|e| fail(e.to_string()))?;
    let state: RunState = serde_json::from_str(&json).map_err(|e| fail(e.to_string()))?;
    if state.recipe_sha256 != recipe_sha256 {
        let reason =
            "it belongs to another recipe or data set\n\nhint: train without `--resume`, or into another folder";
        return Err(fail(reason.into()));
    }
    let tensors = candle_core::safetensors::load(path.join("state.safetensors"), &Device::Cpu)
        .map_err(|e| fail(e.to_string()))?;
    for param in &mut params.all {
        let get = |name: &str| tensors.get(name).ok_or_else(|| fail(format!("`{name}` is missing")));
        param.var.set(get(&param.name)?)?;
        param.moments.first = get(&format!("first.{}", param.name))?.to_vec1()?;
        param.moments.second = get(&format!("second.{}", param.name))?.to_vec1()?;
    }
    Ok(Some(Resumed { step: state.step, seconds: state.seconds, history: state.history }))
}
