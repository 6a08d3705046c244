//! Checkpoints of a running training: written whole or not at all, checked by digest when a run is
//! resumed.

pub(crate) mod best;

use std::{
    collections::HashMap,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
};

use candle_core::{Device, Tensor};
use marill_model::HeadTransform;
use marill_numeric::hex;
use marill_recipe::{Checkpointing, Data, Export, Recipe, Train};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{HeadError, Progress, Sample, TrainError, params::Params};

/// Checkpoints kept on disk.
const KEEP: usize = 2;
const TENSORS: &str = "state.safetensors";
const STATE: &str = "state.json";
/// Digests of the two, as `sha256sum -c` reads them.
const SUMS: &str = "SHA256SUMS";
/// Held by the run that writes into a folder.
const LOCK: &str = ".lock";

/// Everything of a run that is not a tensor. The order of the data follows from the recipe.
#[derive(Debug, Serialize, Deserialize)]
struct RunState {
    step: usize,
    /// sha256 of what decides the run; a checkpoint of another recipe is refused.
    recipe_sha256: String,
    seconds: f64,
    history: Vec<Progress>,
    /// Heads that were measured: a resumed run goes on with these, whatever it would measure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    heads: Option<MeasuredHeads>,
    /// sha256 of the rows that the validation losses were measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    validation_sha256: Option<String>,
}

/// What was chosen by measuring, and what was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MeasuredHeads {
    pub transform: HeadTransform,
    pub errors: Vec<HeadError>,
}

/// The heads with which the newest checkpoint was trained, where they were measured. Whether it is
/// whole is for [`load`] to say.
pub(crate) fn measured_heads(root: &Path) -> Option<MeasuredHeads> {
    let json = std::fs::read_to_string(newest(root)?.join(STATE)).ok()?;
    serde_json::from_str::<RunState>(&json).ok()?.heads
}

/// Where a run stood.
pub(crate) struct Resumed {
    pub path: PathBuf,
    pub step: usize,
    pub seconds: f64,
    pub history: Vec<Progress>,
    pub validation_sha256: Option<String>,
}

/// What decides the steps that a run has done: the weights it began with, knobs and rows. Not where
/// its folder or its data lie, not how long it goes on, and nothing that gives the same bits.
pub(crate) fn digest(recipe: &Recipe, samples: &[Sample], base_sha256: &str) -> String {
    let mut decides = recipe.clone();
    decides.output.dir.clear();
    // Its weights are known, wherever they lie.
    (decides.model.base_model, decides.model.revision) = (None, None);
    if let Some(lora) = &mut decides.lora {
        lora.init_from = None;
    }
    (decides.dataset, decides.data, decides.eval) = (Vec::new(), Data::default(), None);
    decides.export = Export::default();
    let train = Train::default();
    decides.train.epochs = train.epochs;
    (decides.train.max_steps, decides.train.max_tokens) = (train.max_steps, train.max_tokens);
    decides.train.checkpoint_steps = train.checkpoint_steps;
    decides.train.early_stopping_patience = train.early_stopping_patience;
    decides.train.early_stopping_threshold = train.early_stopping_threshold;
    decides.train.keep_best = train.keep_best;
    decides.output.tensorboard = true;
    decides.train.gradient_checkpointing = Checkpointing::Auto;
    let mut hash = Sha256::new();
    hash.update(decides.to_toml());
    hash.update(base_sha256);
    for sample in samples {
        hash.update(format!("{sample:?}\n"));
    }
    hex(&hash.finalize())
}

/// Takes a run's folder for this process, until the file is dropped.
///
/// # Errors
/// [`TrainError::InUse`] when another run holds it.
pub(crate) fn lock(dir: &Path) -> Result<File, TrainError> {
    let path = dir.join(LOCK);
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(TrainError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TrainError::InUse { path: dir.into() }),
        Err(TryLockError::Error(error)) => Err(TrainError::io(&path)(error)),
    }
}

/// Digests of a folder's files, a line each.
fn sums(folder: &Path, names: &[&str]) -> std::io::Result<String> {
    let mut text = String::new();
    for name in names {
        let mut hash = Sha256::new();
        std::io::copy(&mut File::open(folder.join(name))?, &mut hash)?;
        text += &format!("{}  {name}\n", hex(&hash.finalize()));
    }
    Ok(text)
}

/// Fills a folder under another name, with the digests of its files, and renames it, so that `done`
/// is there completely or not at all. `fill` says what it wrote.
///
/// # Errors
/// [`TrainError::Checkpoint`] with the last one that is good.
fn write_whole(
    root: &Path,
    partial: &str,
    done: &Path,
    fill: impl FnOnce(&Path) -> Result<Vec<&'static str>, String>,
) -> Result<(), TrainError> {
    let partial = root.join(partial);
    let write = || -> Result<(), String> {
        let text = |e: std::io::Error| e.to_string();
        let _ = std::fs::remove_dir_all(&partial);
        std::fs::create_dir_all(&partial).map_err(text)?;
        let mut names = fill(&partial)?;
        let digests = sums(&partial, &names).map_err(text)?;
        std::fs::write(partial.join(SUMS), digests).map_err(text)?;
        names.push(SUMS);
        for name in names {
            File::open(partial.join(name))
                .and_then(|file| file.sync_all())
                .map_err(text)?;
        }
        if done.exists() {
            std::fs::remove_dir_all(done).map_err(text)?;
        }
        std::fs::rename(&partial, done).map_err(text)
    };
    write().map_err(|reason| {
        // What is left of it must not take the space that the next attempt needs.
        let _ = std::fs::remove_dir_all(&partial);
        TrainError::Checkpoint {
            path: done.into(),
            reason,
            last_checkpoint: newest(root),
        }
    })
}

/// Writes `checkpoints/step-N` completely or not at all, then drops all but the newest ones.
///
/// # Errors
/// [`TrainError::Checkpoint`] with the last one that is good.
pub(crate) fn save(
    root: &Path,
    params: &Params,
    history: &[Progress],
    seconds: f64,
    recipe_sha256: &str,
    validation_sha256: &str,
    heads: Option<MeasuredHeads>,
) -> Result<PathBuf, TrainError> {
    let step = history.last().map_or(0, |p| p.step);
    let done = root.join(format!("step-{step:06}"));
    let state = RunState {
        step,
        recipe_sha256: recipe_sha256.into(),
        seconds,
        history: history.to_vec(),
        heads,
        validation_sha256: Some(validation_sha256.into()),
    };
    write_whole(root, ".partial", &done, |partial| {
        let tensors = tensors(params).map_err(|e| e.to_string())?;
        candle_core::safetensors::save(&tensors, partial.join(TENSORS))
            .map_err(|e| e.to_string())?;
        let json = serde_json::to_string(&state).expect("plain figures serialize");
        std::fs::write(partial.join(STATE), json).map_err(|e| e.to_string())?;
        Ok(vec![TENSORS, STATE])
    })?;
    let mut all = list(root);
    all.truncate(all.len().saturating_sub(KEEP));
    for old in all {
        std::fs::remove_dir_all(&old).map_err(TrainError::io(&old))?;
    }
    Ok(done)
}

fn tensors(params: &Params) -> candle_core::Result<HashMap<String, Tensor>> {
    let mut tensors = HashMap::new();
    for param in &params.all {
        let vector = |v: &[f32]| Tensor::from_slice(v, v.len(), &Device::Cpu);
        tensors.insert(param.name.clone(), param.var.as_tensor().clone());
        tensors.insert(
            format!("first.{}", param.name),
            vector(&param.moments.first)?,
        );
        tensors.insert(
            format!("second.{}", param.name),
            vector(&param.moments.second)?,
        );
    }
    Ok(tensors)
}

/// The step of a checkpoint's folder.
fn step_of(path: &Path) -> Option<usize> {
    path.file_name()?
        .to_str()?
        .strip_prefix("step-")?
        .parse()
        .ok()
}

/// Checkpoints, oldest first.
fn list(root: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root)
        .into_iter()
        .flatten()
        .filter_map(|e| e.ok().map(|e| e.path()));
    let mut all: Vec<(usize, PathBuf)> = entries
        .filter_map(|path| Some((step_of(&path)?, path)))
        .collect();
    all.sort();
    all.into_iter().map(|(_, path)| path).collect()
}

/// The newest checkpoint.
pub(crate) fn newest(root: &Path) -> Option<PathBuf> {
    list(root).pop()
}

/// The steps of all checkpoints that are kept.
pub(crate) fn steps(root: &Path) -> Vec<usize> {
    list(root).iter().filter_map(|path| step_of(path)).collect()
}

/// What the validation loss is measured on.
pub(crate) fn validation_digest(samples: &[Sample]) -> String {
    let mut hash = Sha256::new();
    for sample in samples {
        hash.update(format!("{sample:?}\n"));
    }
    hex(&hash.finalize())
}

/// The newest checkpoint of a step before this one.
pub(crate) fn newest_before(root: &Path, step: usize) -> Option<PathBuf> {
    list(root)
        .into_iter()
        .rfind(|path| step_of(path).is_some_and(|found| found < step))
}

/// Puts the newest checkpoint's values and moments into `params`; `None` when there is none.
pub(crate) fn load(
    root: &Path,
    params: &mut Params,
    recipe_sha256: &str,
) -> Result<Option<Resumed>, TrainError> {
    let Some(path) = newest(root) else {
        return Ok(None);
    };
    let fail = |reason: String| TrainError::Resume {
        path: path.clone(),
        reason,
    };
    let damaged = |reason: String| {
        let hint = match step_of(&path).and_then(|step| newest_before(root, step)) {
            Some(older) => format!(
                "remove it, and `--resume` goes on from `{}`",
                older.display()
            ),
            None => "train without `--resume`".into(),
        };
        fail(format!("{reason}\n\nhint: it is damaged; {hint}"))
    };
    let told = |name: &str, error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => damaged(format!("`{name}` is missing")),
        _ => damaged(format!("`{name}`: {error}")),
    };
    let expected = std::fs::read_to_string(path.join(SUMS)).map_err(|e| told(SUMS, e))?;
    let found = sums(&path, &[TENSORS, STATE]).map_err(|e| damaged(e.to_string()))?;
    if let Some((wrong, _)) = [TENSORS, STATE]
        .iter()
        .zip(found.lines())
        .find(|(_, sum)| !expected.lines().any(|l| l == *sum))
    {
        return Err(damaged(format!("`{wrong}` does not match `{SUMS}`")));
    }
    let json = std::fs::read_to_string(path.join(STATE)).map_err(|e| told(STATE, e))?;
    let state: RunState = serde_json::from_str(&json).map_err(|e| damaged(e.to_string()))?;
    if state.recipe_sha256 != recipe_sha256 {
        let reason = "it belongs to another recipe, data set or base model\n\n\
            hint: train without `--resume`, or into another folder";
        return Err(fail(reason.into()));
    }
    let tensors = candle_core::safetensors::load(path.join(TENSORS), &Device::Cpu)
        .map_err(|e| damaged(e.to_string()))?;
    for param in &mut params.all {
        let get = |name: &str| {
            tensors
                .get(name)
                .ok_or_else(|| damaged(format!("`{name}` is missing")))
        };
        param.var.set(get(&param.name)?)?;
        param.moments.first = get(&format!("first.{}", param.name))?.to_vec1()?;
        param.moments.second = get(&format!("second.{}", param.name))?.to_vec1()?;
    }
    Ok(Some(Resumed {
        path: path.clone(),
        step: state.step,
        seconds: state.seconds,
        history: state.history,
        validation_sha256: state.validation_sha256,
    }))
}
