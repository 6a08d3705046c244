//! The parameters of the best step: beside the checkpoints, until a checkpoint knows a better one.
//! For each checkpoint that is kept there is the best step up to it, so that a run can go on from
//! any, and the best one of all.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};

use super::{SUMS, TENSORS, sums, write_whole};
use crate::{TrainError, params::Params};

/// Names of the folders, before the step.
const PREFIX: &str = "best-";
const PARTIAL: &str = ".best.partial";

fn folder(root: &Path, step: usize) -> PathBuf {
    root.join(format!("{PREFIX}{step:06}"))
}

/// Writes `checkpoints/best-N` completely or not at all.
///
/// # Errors
/// [`TrainError::Checkpoint`] with the last checkpoint that is good.
pub(crate) fn save(root: &Path, params: &Params, step: usize) -> Result<(), TrainError> {
    write_whole(root, PARTIAL, &folder(root, step), |partial| {
        let tensors: HashMap<String, Tensor> = params
            .all
            .iter()
            .map(|param| (param.name.clone(), param.var.as_tensor().clone()))
            .collect();
        candle_core::safetensors::save(&tensors, partial.join(TENSORS))
            .map_err(|e| e.to_string())?;
        Ok(vec![TENSORS])
    })
}

/// Removes all but those of these steps.
///
/// # Errors
/// [`TrainError::Io`].
pub(crate) fn keep_only(root: &Path, steps: &[usize]) -> Result<(), TrainError> {
    let kept: Vec<_> = steps.iter().map(|step| folder(root, *step)).collect();
    if !root.is_dir() {
        return Ok(());
    }
    // What a run that was killed had not finished.
    let _ = std::fs::remove_dir_all(root.join(PARTIAL));
    let entries = std::fs::read_dir(root).map_err(TrainError::io(root))?;
    for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
        let name = path.file_name().and_then(|name| name.to_str());
        if !kept.contains(&path) && name.is_some_and(|name| name.starts_with(PREFIX)) {
            std::fs::remove_dir_all(&path).map_err(TrainError::io(&path))?;
        }
    }
    Ok(())
}

/// That the parameters of a step are there and whole, which a run that goes on may have to leave.
///
/// # Errors
/// [`TrainError::Resume`].
pub(crate) fn check(root: &Path, step: usize) -> Result<(), TrainError> {
    let path = folder(root, step);
    let fail = |what: String| TrainError::Resume {
        path: path.clone(),
        reason: format!(
            "step {step} has the least validation loss so far, and {what}\n\n\
             hint: go on without `train.keep_best`, or train without `--resume`"
        ),
    };
    if !path.join(TENSORS).is_file() {
        return Err(fail("its parameters were not kept".into()));
    }
    let damaged = |error: std::io::Error| fail(format!("its parameters are damaged: {error}"));
    let expected = std::fs::read_to_string(path.join(SUMS)).map_err(damaged)?;
    if expected != sums(&path, &[TENSORS]).map_err(damaged)? {
        return Err(fail(format!("its `{TENSORS}` does not match `{SUMS}`")));
    }
    Ok(())
}

/// Puts the values of a step into `params`.
///
/// # Errors
/// [`TrainError::Resume`] for a folder that is damaged or not there.
pub(crate) fn load(root: &Path, params: &mut Params, step: usize) -> Result<(), TrainError> {
    check(root, step)?;
    let path = folder(root, step);
    let damaged = |reason: String| TrainError::Resume {
        path: path.clone(),
        reason: format!("{reason}\n\nhint: go on without `train.keep_best`"),
    };
    let tensors = candle_core::safetensors::load(path.join(TENSORS), &Device::Cpu)
        .map_err(|e| damaged(e.to_string()))?;
    for param in &mut params.all {
        let tensor = tensors.get(&param.name);
        param
            .var
            .set(tensor.ok_or_else(|| damaged(format!("`{}` is missing", param.name)))?)?;
    }
    Ok(())
}
