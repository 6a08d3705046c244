//! One cell of an experiment: a model, how it was trained, and what it scored. A file each, named
//! by what decides it, so that a second call goes on where the first one stopped.

use std::path::{Path, PathBuf};

use anyhow::Context;
use marill_evals::{Report, Task, measure::Measure};
use marill_recipe::{Recipe, locate};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Raised whenever the same recipe would give another model, or the same model another score, by
/// more than the last bits. [`Cell::program_sha256`] says which program it was to the bit.
const VERSION: &str = "0.1.0";

/// What a cell is of. Arms that give a task the same recipe share it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Key {
    pub task: String,
    pub purpose: Purpose,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<usize>,
    /// Test rows, from the first on; 0 where only the loss counts.
    pub rows: usize,
    /// Few-shot examples.
    pub shots: usize,
    /// Longest answer, where it is not the task's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_tokens: Option<usize>,
    pub version: String,
    /// Over the task as the program knows it.
    pub task_sha256: String,
    /// Over the recipe as it was run.
    pub recipe_sha256: String,
    /// Over the base model and every data file of recipe and task.
    pub files_sha256: String,
    /// The cell that taught.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Purpose {
    /// A short run whose loss decides a rate.
    Rate,
    /// The base model, scored.
    Base,
    /// A run that is scored.
    Score,
}

/// A cell that was run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub key: Key,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train: Option<Trained>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Scored>,
    /// Of the whole cell.
    pub seconds: f64,
    /// The program that ran it.
    pub program_sha256: String,
}

/// What came out of the training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trained {
    pub tokens: usize,
    pub steps: usize,
    pub final_loss: f64,
    /// On rows kept out of training.
    pub val_loss: Option<f64>,
    pub trained_parameters: usize,
    pub seconds: f64,
}

/// What came out of the test rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    pub metric: String,
    pub value: f64,
    pub stderr: f64,
    /// Over prompts and right answers.
    pub samples_sha256: String,
    /// Of each example, see [`Measure`].
    pub figures: Vec<Vec<f64>>,
    pub seconds: f64,
}

impl Key {
    /// The cell's name.
    pub fn name(&self) -> String {
        let text = serde_json::to_vec(self).expect("texts and numbers serialize");
        let digest = marill_numeric::hex(&Sha256::digest(text)[..6]);
        let purpose = match self.purpose {
            Purpose::Rate => "rate",
            Purpose::Base => "base",
            Purpose::Score => "run",
        };
        format!("{}-{purpose}-{digest}", self.task)
    }

    /// The key without what differs between models of the same questions.
    ///
    /// # Errors
    /// A task that does not exist, files that are not there.
    pub fn new(task: &str, recipe: &Recipe, purpose: Purpose) -> anyhow::Result<Self> {
        let mut named = recipe.clone();
        named.output.dir = String::new();
        Ok(Self {
            task: task.into(),
            purpose,
            seed: None,
            rate: None,
            tokens: recipe.train.max_tokens,
            rows: 0,
            shots: 0,
            max_new_tokens: None,
            version: VERSION.into(),
            task_sha256: Task::digest_of(task)?,
            recipe_sha256: marill_numeric::hex(&Sha256::digest(named.to_toml())),
            files_sha256: files_digest(recipe, &Task::find(task)?)?,
            teacher: None,
        })
    }
}

/// Digest of the base model, of an adapter that a run begins from, and of every data file that
/// recipe and task name.
fn files_digest(recipe: &Recipe, task: &Task) -> anyhow::Result<String> {
    let lora = recipe.lora.iter().flat_map(|lora| &lora.init_from);
    let base = recipe.model.base_model.iter().chain(lora);
    let rows = recipe.dataset.iter().flat_map(|dataset| {
        let files = [Some(&dataset.path), dataset.target_path.as_ref()];
        files.into_iter().flatten().chain(&dataset.exclude)
    });
    let test = recipe.eval.iter();
    let test = test.flat_map(|eval| [eval.path.as_ref(), eval.target_path.as_ref()]);
    let mut hash = Sha256::new();
    let recipes = base.chain(rows).chain(test.flatten()).map(String::as_str);
    for name in recipes.chain(task.files().filter(|file| !is_embedded(file))) {
        let path = locate(name, Path::new("."))?;
        hash.update(file_digest(&path)?);
    }
    Ok(marill_numeric::hex(&hash.finalize()))
}

/// Rows inside the program are a part of its tasks.
fn is_embedded(file: &str) -> bool {
    file.starts_with("recipes/")
}

/// Digest of a file, or of the files of a folder in the order of their names.
fn file_digest(path: &Path) -> anyhow::Result<Vec<u8>> {
    let read = || format!("cannot read `{}`", path.display());
    let mut files = vec![path.to_path_buf()];
    if path.is_dir() {
        let entries = path.read_dir().with_context(read)?;
        files = entries
            .map(|entry| Ok(entry?.path()))
            .collect::<std::io::Result<Vec<_>>>()
            .with_context(read)?;
        files.retain(|file| file.is_file());
        files.sort();
    }
    let mut hash = Sha256::new();
    for file in files {
        let mut file = std::fs::File::open(file).with_context(read)?;
        std::io::copy(&mut file, &mut hash).with_context(read)?;
    }
    Ok(hash.finalize().to_vec())
}

impl Cell {
    pub fn path(dir: &Path, key: &Key) -> PathBuf {
        dir.join(key.name() + ".json")
    }

    /// The cell of this key, where it was run.
    ///
    /// # Errors
    /// A file of this name that is another cell, or none.
    pub fn read(dir: &Path, key: &Key) -> anyhow::Result<Option<Self>> {
        let path = Self::path(dir, key);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        let cell: Self = serde_json::from_str(&text)
            .with_context(|| format!("`{}` is no cell", path.display()))?;
        anyhow::ensure!(
            cell.key == *key,
            "`{}` holds another cell than its name says\nhint: remove it",
            path.display()
        );
        Ok(Some(cell))
    }

    /// Writes the cell, whole or not at all.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, dir: &Path) -> anyhow::Result<()> {
        let path = Self::path(dir, &self.key);
        let write = || -> anyhow::Result<()> {
            std::fs::create_dir_all(dir)?;
            let partial = path.with_extension("partial");
            std::fs::write(&partial, serde_json::to_string(self)? + "\n")?;
            Ok(std::fs::rename(&partial, &path)?)
        };
        write().with_context(|| format!("cannot write `{}`", path.display()))
    }
}

impl Scored {
    /// The first metric of a report.
    ///
    /// # Errors
    /// A report without a metric.
    pub fn of(report: &Report) -> anyhow::Result<Self> {
        let figures = report.examples.iter().map(|example| {
            let figures = example.figures.get(report.metric).cloned();
            figures.with_context(|| format!("an example has no figures of `{}`", report.metric))
        });
        Ok(Self {
            metric: report.metric.into(),
            value: report.score,
            stderr: report.stderr,
            samples_sha256: report.samples_sha256.clone(),
            figures: figures.collect::<anyhow::Result<_>>()?,
            seconds: report.seconds,
        })
    }

    /// # Errors
    /// A metric that this version does not know.
    pub fn measure(&self) -> anyhow::Result<Measure> {
        Measure::find(&self.metric).with_context(|| format!("unknown metric `{}`", self.metric))
    }
}
