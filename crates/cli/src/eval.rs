//! `marill eval`: scores on tasks, and what they cost when computed securely.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use marill_evals::engine::{Engine, FloatEngine, SecureEngine, TwinEngine};
use marill_evals::{EvalError, Kind, Report, Scope, Speaker, Task, harness, table};
use marill_model::Transforms;
use marill_recipe::Recipe;

use crate::failure::{BadInput, INPUT_FAILED};
use crate::model_dir::{Model, recipe_beside};
use crate::progress::Progress;

/// What answers.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// The float model
    Float,
    /// The integers that the secure engine computes, in clear
    Twin,
    /// The secure protocol with all parties in this process, compared with the twin
    Secure,
}

#[derive(clap::Args)]
pub struct Args {
    /// A partition, a training run's folder, or a checkpoint (folder or GGUF file)
    model: PathBuf,
    /// Tasks, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', required = true)]
    tasks: Vec<String>,
    #[arg(long, value_enum, default_value = "float")]
    engine: EngineKind,
    /// The first N examples only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Rows of the task's format, in place of its own
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The other side of `--data`, line by line (translation)
    #[arg(long, value_name = "FILE", requires = "data")]
    reference: Option<PathBuf>,
    /// Worked examples before each question
    #[arg(long, value_name = "K", default_value_t = 0)]
    few_shot: usize,
    /// Ask in the words of this recipe [default: the recipe beside the model, where there is one]
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Write every question and answer, one JSON object a line
    #[arg(long, value_name = "FILE")]
    log_samples: Option<PathBuf>,
    /// Exit with 1 when the first task's score is below
    #[arg(long, value_name = "SCORE")]
    min: Option<f64>,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long, env = "MARILL_NO_PROGRESS")]
    no_progress: bool,
}

/// # Errors
/// [`BadInput`] for model, task and data.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let model = Model::open(&args.model)?;
    let mut tasks = args.tasks.iter().map(|name| Task::find(name)).collect::<Result<Vec<_>, _>>().map_err(bad)?;
    let recipe = args.recipe.clone().or_else(|| recipe_beside(&args.model));
    if let Some(path) = &recipe {
        let recipe = Recipe::read(path, &[]).map_err(|e| BadInput(e.into()))?;
        for task in &mut tasks {
            if task.ask_as(&recipe.dataset) {
                eprintln!("`{}` is asked in the words of `{}`", task.name, path.display());
            }
        }
    }
    let mut engines = Engines::new(&model, args.engine).map_err(bad)?;
    let mut reports = Vec::new();
    for task in &tasks {
        let examples = task.examples(args.data.as_deref(), args.reference.as_deref()).map_err(bad)?;
        let scope = Scope { limit: args.limit, few_shot: args.few_shot };
        let mut progress = Progress::new(&task.name, args.no_progress);
        let report = engines.run(&model, task, &examples, scope, &mut |done, all| progress.set(done, all, ""));
        progress.finish();
        reports.push(report.map_err(bad)?);
    }
    if let Some(path) = &args.log_samples {
        log_samples(path, &reports)?;
    }
    if args.json {
        let engine = engines.name();
        let model = args.model.display().to_string();
        let results: serde_json::Map<_, _> =
            reports.iter().map(|r| Ok((r.task.clone(), serde_json::to_value(r)?))).collect::<anyhow::Result<_>>()?;
        let mut json = serde_json::json!({ "model": model, "engine": engine, "results": results });
        if let [only] = &reports[..] {
            // The usual case reads without knowing the task's name.
            for (key, value) in [
                ("n", only.n.into()),
                ("score", only.score.into()),
                ("stderr", only.stderr.into()),
                ("samples_sha256", only.samples_sha256.clone().into()),
            ] {
                json[key] = value;
            }
        }
        println!("{json:#}");
    } else {
        println!("{}", table::scores(&reports));
        let cost = table::fidelity_and_cost(&reports);
        if !cost.is_empty() {
            println!("\n{cost}");
        }
    }
    Ok(verdict(&reports, args.min))
}

fn bad(error: EvalError) -> anyhow::Error {
    BadInput(error.into()).into()
}

/// Exit code 1 for a score under the threshold or an answer that is not the twin's.
fn verdict(reports: &[Report], min: Option<f64>) -> ExitCode {
    let mut failed = false;
    for report in reports {
        if report.twin_equal.is_some_and(|equal| equal != report.n) {
            eprintln!("error: `{}`: not every secure answer equals the twin's", report.task);
            failed = true;
        }
    }
    if let (Some(min), Some(first)) = (min, reports.first())
        && first.score < min
    {
        eprintln!("error: `{}` scored {:.4}, below {min}", first.task, first.score);
        failed = true;
    }
    if failed { ExitCode::from(INPUT_FAILED) } else { ExitCode::SUCCESS }
}

/// The engine asked for, and the twin beside the secure one.
pub enum Engines {
    Float(Box<FloatEngine>),
    Twin(Box<TwinEngine>),
    Secure(Box<SecureEngine>, Box<TwinEngine>),
}

impl Engines {
    /// # Errors
    /// [`EvalError::Task`] when a checkpoint is to be run on an engine that needs a partition.
    pub fn new(model: &Model, kind: EngineKind) -> Result<Self, EvalError> {
        match (kind, model) {
            (EngineKind::Float, Model::Partition(partition)) => {
                let adapter = partition.adapter();
                let engine = FloatEngine::new(partition.base(), &partition.manifest.transforms, adapter)?;
                Ok(Self::Float(Box::new(engine)))
            }
            (EngineKind::Float, Model::Checkpoint(checkpoint)) => {
                Ok(Self::Float(Box::new(FloatEngine::new(checkpoint, &Transforms::default(), None)?)))
            }
            (EngineKind::Twin, Model::Partition(partition)) => Ok(Self::Twin(Box::new(TwinEngine::new(partition)?))),
            (EngineKind::Secure, Model::Partition(partition)) => {
                let secure = SecureEngine::new(partition)?;
                let (public, private) = secure.weights();
                let twin = TwinEngine::with_weights(partition.prefix()?, public, private);
                Ok(Self::Secure(Box::new(secure), Box::new(twin)))
            }
            (_, Model::Checkpoint(_)) => Err(EvalError::NeedsPartition),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Float(engine) => engine.name(),
            Self::Twin(engine) => engine.name(),
            Self::Secure(engine, _) => engine.name(),
        }
    }

    /// Runs one task.
    ///
    /// # Errors
    /// As [`harness::run`].
    pub fn run(
        &mut self,
        model: &Model,
        task: &Task,
        examples: &[marill_recipe::Example],
        scope: Scope,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Report, EvalError> {
        let checkpoint = model.checkpoint();
        let speaker = Speaker { tokenizer: &checkpoint.tokenizer, chat_template: checkpoint.chat_template.as_deref() };
        let few_shot = if task.kind == Kind::Perplexity { 0 } else { scope.few_shot };
        let shots = task.worked_examples(few_shot)?;
        match self {
            Self::Float(engine) => {
                harness::run(task, engine.as_mut(), None, &speaker, examples, &shots, scope, progress)
            }
            Self::Twin(engine) => {
                harness::run(task, engine.as_mut(), None, &speaker, examples, &shots, scope, progress)
            }
            Self::Secure(engine, twin) => {
                let before = engine.cost();
                let twin: &mut dyn Engine = twin.as_mut();
                let report =
                    harness::run(task, engine.as_mut(), Some(twin), &speaker, examples, &shots, scope, progress)?;
                Ok(Report { cost: Some(engine.cost().since(&before)), ..report })
            }
        }
    }
}

fn log_samples(path: &Path, reports: &[Report]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for report in reports {
            for sample in &report.samples {
                let mut line = serde_json::to_value(sample)?;
                line["task"] = report.task.clone().into();
                writeln!(file, "{line}")?;
            }
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write `{}`", path.display()))
}
