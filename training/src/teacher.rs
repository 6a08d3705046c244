//! A run and, before it, its teacher where the recipe asks for one: the same base on the same rows,
//! all of it, without transformations.

use std::path::{Path, PathBuf};

use marill_recipe::{FINE_TUNED, Recipe};
use serde::{Deserialize, Serialize};

use crate::{
    TrainError, TrainOptions,
    batches::Plan,
    output::{Progress, Summary, TaughtBy, Told, TrainReport},
    samples, state,
    trainer::{base_model, train_alone},
};

/// The teacher's folder inside the run's.
const FOLDER: &str = "teacher";
/// What was trained there, written when it is done.
const DONE: &str = "taught.json";
/// All weights want a lower rate than low-rank factors.
const LEARNING_RATE: f64 = 3e-4;

/// More passes over the rows than any number of tokens takes.
const EPOCHS: f64 = 1e6;

/// What decides a teacher, and what came out.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Done {
    run_sha256: String,
    steps: usize,
    tokens: usize,
    seconds: f64,
    val_loss: Option<f64>,
}

/// Trains as the recipe says and writes its output folder. `progress` hears of every step.
///
/// ```
/// use marill_recipe::Recipe;
/// use marill_training::{TrainOptions, train};
///
/// # let folder = tempfile::tempdir()?;
/// let rows = "{\"text\": \"red\", \"label\": 0}\n{\"text\": \"blue\", \"label\": 1}\n".repeat(8);
/// std::fs::write(folder.path().join("rows.jsonl"), rows)?;
/// let out = folder.path().join("out");
/// let text = format!(
///     r#"
///     [model]
///     init = "random"
///     architecture = {{ hidden_size = 16, intermediate_size = 16, num_hidden_layers = 1,
///         num_attention_heads = 2, num_key_value_heads = 2, head_dim = 8,
///         max_position_embeddings = 64 }}
///     [tokenizer]
///     vocab_size = 300
///     [[dataset]]
///     path = "rows.jsonl"
///     format = "classify"
///     labels = ["warm", "cold"]
///     [train]
///     max_steps = 2
///     [output]
///     dir = "{}"
///     "#,
///     out.display()
/// );
/// let recipe = Recipe::parse(&text, "recipe.toml", &[])?;
/// let options = TrainOptions {
///     recipe_dir: folder.path().into(),
///     ..TrainOptions::default()
/// };
/// let mut heard = 0;
/// let report = train(&recipe, &options, &mut |_| heard += 1)?;
/// assert!(heard > 0 && report.final_loss.is_finite());
/// assert!(out.join("model/model.safetensors").is_file());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`TrainError`]; a loss that is no finite number stops the run and names the last good
/// checkpoint.
pub fn train(
    recipe: &Recipe,
    options: &TrainOptions,
    progress: &mut dyn FnMut(&Progress),
) -> Result<TrainReport, TrainError> {
    train_told(recipe, options, &mut |told| match told {
        Told::Begin(_) => {}
        Told::Step(step) => progress(step),
    })
}

/// As [`train`]; `tell` also hears what the run is about to do, before its first step.
///
/// # Errors
/// As [`train`].
pub fn train_told(
    recipe: &Recipe,
    options: &TrainOptions,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<TrainReport, TrainError> {
    let taught = prepare(recipe, options, tell)?;
    let with_teacher;
    let options = match &taught {
        None => options,
        Some(taught) => {
            with_teacher = TrainOptions {
                teacher: Some(taught.model.clone()),
                ..options.clone()
            };
            &with_teacher
        }
    };
    let report = train_alone(recipe, options, tell)?;
    Ok(TrainReport { taught, ..report })
}

/// Trains the teacher of a recipe that asks for it, or finds the one that an earlier call has
/// trained; the path is `teacher/model` inside the run's folder.
fn prepare(
    recipe: &Recipe,
    options: &TrainOptions,
    tell: &mut dyn FnMut(Told<'_>),
) -> Result<Option<TaughtBy>, TrainError> {
    let asked = |distill: &&marill_recipe::Distill| distill.teacher == FINE_TUNED;
    if options.teacher.is_some() || recipe.distill.as_ref().filter(asked).is_none() {
        return Ok(None);
    }
    let dir = PathBuf::from(&recipe.output.dir).join(FOLDER);
    let teacher = recipe_of(recipe, &dir);
    let base = base_model(&teacher, options)?;
    let rows = samples::load(&teacher, &options.recipe_dir, &base)?;
    let run_sha256 = state::digest(&teacher, &rows.train, &base.digest());
    let steps = Plan::new(&rows.train, &teacher.train)?.len();
    drop((base, rows));
    let model = dir.join("model");
    let found = read(&dir.join(DONE))
        .filter(|done| done.run_sha256 == run_sha256 && done.steps == steps)
        .filter(|_| model.join("config.json").is_file());
    if let Some(done) = found {
        return Ok(Some(taught(model, done, true)));
    }
    let of_teacher = true;
    let trained = train_alone(&teacher, options, &mut |told| match told {
        Told::Begin(summary) => tell(Told::Begin(&Summary {
            of_teacher,
            ..summary.clone()
        })),
        Told::Step(step) => tell(Told::Step(&Progress {
            of_teacher,
            ..step.clone()
        })),
    })?;
    let done = Done {
        run_sha256,
        steps: trained.steps,
        tokens: trained.tokens,
        seconds: trained.seconds,
        val_loss: trained.val_loss,
    };
    let path = dir.join(DONE);
    let text = serde_json::to_string(&done).expect("plain figures serialize");
    std::fs::write(&path, text + "\n").map_err(TrainError::io(&path))?;
    // Six times the model's size, and of no use any more.
    let checkpoints = dir.join("checkpoints");
    std::fs::remove_dir_all(&checkpoints).map_err(TrainError::io(&checkpoints))?;
    Ok(Some(taught(model, done, false)))
}

fn taught(model: PathBuf, done: Done, found: bool) -> TaughtBy {
    TaughtBy {
        model,
        tokens: done.tokens,
        seconds: done.seconds,
        val_loss: done.val_loss,
        found,
    }
}

/// What an earlier call has left; a file that cannot be read is none.
fn read(path: &Path) -> Option<Done> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// The recipe without transformations.
fn recipe_of(recipe: &Recipe, dir: &Path) -> Recipe {
    let mut teacher = recipe.clone();
    let own = recipe
        .distill
        .as_ref()
        .and_then(|distill| distill.fine_tune);
    teacher.distill = None;
    teacher.lora = None;
    teacher.heads = None;
    teacher.approx = Default::default();
    teacher.freeze.layers = 0;
    teacher.freeze.embedding = true;
    teacher.train.quantize_last_steps = 0;
    // What it is does not depend on when the run was looked at.
    (
        teacher.train.early_stopping_patience,
        teacher.train.early_stopping_threshold,
    ) = (None, None);
    teacher.train.keep_best = false;
    teacher.output.dir = dir.display().to_string();
    let own = own.unwrap_or_default();
    teacher.optimizer.learning_rate = own.learning_rate.unwrap_or(LEARNING_RATE);
    if own.max_tokens.is_some() {
        // Its own number decides, however long the run is.
        teacher.train.max_tokens = own.max_tokens;
        teacher.train.max_steps = None;
        teacher.train.epochs = EPOCHS;
    }
    teacher
}
