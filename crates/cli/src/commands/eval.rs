//! `marill eval`: scores on tasks, and what they cost when computed securely.

pub mod chosen;
mod parts;

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use chrono::Local;
use clap::ValueEnum;
use marill_evals::{
    Checks, EvalError, Kind, PromptFormatter, Report, Scope, Task, compare,
    engine::{Engine, FloatEngine, SecureEngine, TwinEngine},
    harness, results,
    sandbox::{Limits, Sandbox},
    table,
};
use marill_model::Transforms;
use marill_recipe::Example;

use self::chosen::Chosen;
use crate::{
    args::{base_model::Search, model_dir::Model},
    output::{
        failure::{BadInput, INPUT_FAILED},
        progress::Progress,
    },
};

/// What answers.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineKind {
    /// The float model
    Float,
    /// The integers that the secure engine computes, in clear
    Twin,
    /// The secure protocol with all parties in this process, compared with the twin that rounds
    /// exactly
    Secure,
    /// The same in the setting `2pc`: client and server without a dealer
    #[value(name = "secure-2pc")]
    SecureTwoParty,
}

#[derive(clap::Args)]
pub struct Args {
    /// A partition, a training run's folder, a checkpoint (folder or GGUF file), or a model's name
    /// on the hub
    #[arg(required_unless_present_any = ["compare", "merge"])]
    model: Option<PathBuf>,
    /// Tasks, separated by commas: names, or TOML files of one's own [default: what `[eval]` of the
    /// recipe beside the model says]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    tasks: Vec<String>,
    /// What answers; with several, separated by commas, the second table says how well they agree
    #[arg(long, value_enum, value_delimiter = ',', default_value = "float")]
    engine: Vec<EngineKind>,
    /// The first N examples only; with `--compare` the first N rows of the task
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..),
    )]
    limit: Option<usize>,
    /// The rows from A up to but not including B only, by their numbers in the task from 0: a part
    /// for `--merge`
    #[arg(long, value_name = "A..B", value_parser = parts::parse_rows, conflicts_with = "limit")]
    rows: Option<[usize; 2]>,
    /// Leave out examples whose prompt also stands in this file of the task's format, such as
    /// training rows
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    exclude: Option<PathBuf>,
    /// Rows of the task's format, in place of its own
    #[arg(long, value_name = "FILE")]
    data: Option<PathBuf>,
    /// The other side of `--data`, line by line (translation)
    #[arg(long, value_name = "FILE", requires = "data")]
    reference: Option<PathBuf>,
    /// Few-shot examples before each question
    #[arg(
        long,
        value_name = "K",
        default_value_t = 0,
        visible_alias = "few-shot"
    )]
    shots: usize,
    /// Tokens of a written answer, in place of the task's own number; 0 scores code by the
    /// likelihood of its solutions alone
    #[arg(long, value_name = "N")]
    max_new_tokens: Option<usize>,
    /// Seed of the few-shot examples
    #[arg(long, default_value_t = 0, env = "MARILL_SEED")]
    seed: u64,
    /// Ask with the prompt format of this recipe [default: the recipe beside the model, where there
    /// is one]
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Print the first N prompts and answers to standard error
    #[arg(long, value_name = "N", default_value_t = 0)]
    show: usize,
    /// Write every question and answer, one JSON object a line
    #[arg(long, value_name = "FILE")]
    log_samples: Option<PathBuf>,
    /// Write `results_*.json` and `samples_*.jsonl` into a folder of the model's name, as
    /// lm-evaluation-harness does
    #[arg(long, value_name = "DIR", conflicts_with = "compare")]
    output_path: Option<PathBuf>,
    /// Run the programs that the model writes (in a sandbox; needs `python3`) and score `pass@1`
    #[arg(long)]
    allow_code_execution: bool,
    /// Exit with 1 when the first task's score is below [default: `eval.min` of the recipe, for its
    /// first task]
    #[arg(long, value_name = "SCORE", value_parser = parse_score)]
    min: Option<f64>,
    /// Compare two runs on the same questions (what `--json` printed or `--log-samples` wrote)
    /// instead of running one
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["model", "tasks"])]
    compare: Option<Vec<PathBuf>>,
    /// Put parts of a run (what `--rows A..B --json` printed) together, in place of running one
    #[arg(
        long,
        num_args = 1..,
        value_name = "FILES",
        conflicts_with_all = [
            "model", "tasks", "compare", "rows", "limit", "data", "reference", "exclude", "engine",
            "shots", "max_new_tokens", "recipe", "show", "log_samples", "output_path",
            "allow_code_execution", "batch_size", "ignore",
        ],
    )]
    merge: Option<Vec<PathBuf>>,
    /// Questions that the float model works on at once [default: up to 64, as memory allows]
    #[arg(
        long,
        value_name = "N",
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..),
    )]
    batch_size: Option<usize>,
    /// Go on although this key, tensor or token of the checkpoint is not used (again for each; `*`
    /// for one part of a name)
    #[arg(long, value_name = "KEY")]
    ignore: Vec<String>,
    #[command(flatten)]
    search: Search,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
    /// Show no progress
    #[arg(long, env = "MARILL_NO_PROGRESS", value_parser = clap::builder::FalseyValueParser::new())]
    no_progress: bool,
}

impl Args {
    /// What of a task is run, whatever its rows are.
    fn scope(&self) -> Scope<'static> {
        Scope {
            rows: self.rows,
            limit: self.limit,
            few_shot: self.shots,
            seed: self.seed,
            batch_size: self.batch_size,
            ..Scope::default()
        }
    }
}

/// Every score is above or below a number; nothing is below what is none.
fn parse_score(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|score: &f64| score.is_finite())
        .ok_or_else(|| "a score is a finite number".into())
}

/// # Errors
/// [`BadInput`] for model, task and data.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(runs) = &args.compare {
        return compare_runs([&runs[0], &runs[1]], args.limit, args.json);
    }
    if let Some(files) = &args.merge {
        parts::check_seed(args.seed)?;
        return parts::merge(files, args.min, args.json);
    }
    let mut engines = args.engine.iter().enumerate();
    if engines.any(|(nth, engine)| args.engine[..nth].contains(engine)) {
        return Err(BadInput(anyhow::anyhow!("`--engine` names one twice")).into());
    }
    let path = args
        .search
        .named(&args.model.clone().unwrap_or_default(), args.no_progress)?;
    let started = Local::now();
    let model = Model::open_ignoring(&path, &args.ignore)?;
    let chosen = Chosen::new(&args, &path)?;
    // Refused before anything is computed.
    let sandbox = args
        .allow_code_execution
        .then(|| Sandbox::open(Limits::default()))
        .transpose()?;
    let told = Told::new(&args, &model, &chosen, sandbox.as_ref())?;
    let reports = &told.reports;
    if let Some(path) = &args.log_samples {
        log_samples(path, reports)?;
    }
    if let Some(dir) = &args.output_path {
        let template = model.checkpoint().chat_template.as_ref();
        let template = template.filter(|_| told.chats);
        let asked = results::Asked {
            model: &path.display().to_string(),
            tasks: &chosen.tasks,
            rows: &told.rows,
            limit: args.limit,
            batch_size: args.batch_size,
            seed: args.seed,
            chat_template: template.map(|template| template.source.as_str()),
            started,
            ended: Local::now(),
        };
        write_results(dir, &asked, reports)?;
    }
    if args.json {
        let mut json = as_json(&path, reports)?;
        if args.rows.is_some() {
            json["model_sha256"] = parts::digest(&model).into();
        }
        println!("{json:#}");
    } else {
        print_tables(reports);
    }
    Ok(verdict(reports, model.rounds_stochastically(), chosen.min))
}

/// What the engines answered.
struct Told {
    reports: Vec<Report>,
    /// Rows of each task, those left out included, in the tasks' order.
    rows: Vec<usize>,
    /// Whether some of it was asked as a conversation.
    chats: bool,
}

impl Told {
    fn new(
        args: &Args,
        model: &Model,
        chosen: &Chosen,
        sandbox: Option<&Sandbox>,
    ) -> anyhow::Result<Self> {
        let mut told = Self {
            reports: Vec::new(),
            rows: Vec::new(),
            chats: false,
        };
        for &kind in &args.engine {
            let mut engines = Engines::new(model, kind).map_err(bad)?;
            told.rows.clear();
            for task in &chosen.tasks {
                let questions = Questions::new(task, chosen, args).map_err(bad)?;
                let chats = questions.are_chats();
                told.chats |= chats;
                let untold = model.checkpoint().chat_template.is_none();
                if chats && untold && told.reports.is_empty() {
                    eprintln!("warning: {}", marill_model::NO_TEMPLATE);
                }
                let scope = Scope {
                    task_rows: Some(questions.all),
                    doc_ids: &questions.doc_ids,
                    checks: &questions.checks,
                    sandbox,
                    ..args.scope()
                };
                let mut progress = Progress::new(&task.name, args.no_progress);
                let examples = &questions.examples;
                let report = engines.run(model, task, examples, scope, &mut |done, all| {
                    progress.set(done, all, "")
                });
                progress.finish();
                let report = report.map_err(bad)?;
                show(&report, args.show);
                remark(&report, args, task);
                told.reports.push(report);
                told.rows.push(questions.all);
            }
        }
        Ok(told)
    }
}

fn print_tables(reports: &[Report]) {
    println!("{}", table::scores(reports));
    let cost = table::fidelity_and_cost(reports);
    if !cost.is_empty() {
        println!("\n{cost}");
    }
}

/// What a model is asked, and where that stands in the task's rows.
struct Questions {
    examples: Vec<Example>,
    doc_ids: Vec<usize>,
    checks: Vec<Checks>,
    /// Rows of the task, those left out included.
    all: usize,
}

impl Questions {
    fn are_chats(&self) -> bool {
        let mut prompts = self.examples.iter().map(|example| &example.prompt);
        prompts.any(|prompt| matches!(prompt, marill_recipe::Prompt::Chat(_)))
    }

    fn new(task: &Task, chosen: &Chosen, args: &Args) -> Result<Self, EvalError> {
        let rows = task.rows(chosen.data.as_deref(), chosen.reference.as_deref())?;
        let checks = task.checks(chosen.data.as_deref())?;
        if rows.unpaired > 0 {
            eprintln!(
                "`{}`: {} pairs of lines with an empty side are left out",
                task.name, rows.unpaired
            );
        }
        let examples = rows.examples;
        let all = examples.len();
        let Some(file) = &args.exclude else {
            return Ok(Self {
                examples,
                doc_ids: Vec::new(),
                checks,
                all,
            });
        };
        let asked = task.formatted_as(&examples, file)?;
        let left_out = asked.iter().filter(|asked| **asked).count();
        if left_out == examples.len() {
            let reason = format!("every row of it is also in `{}`", file.display());
            return Err(EvalError::Task {
                task: task.name.clone(),
                reason,
            });
        }
        eprintln!(
            "`{}`: {left_out} of {} rows are also in `{}` and left out",
            task.name,
            examples.len(),
            file.display()
        );
        let doc_ids = (0..examples.len()).filter(|&n| !asked[n]).collect();
        Ok(Self {
            examples: without(examples, &asked),
            doc_ids,
            checks: without(checks, &asked),
            all,
        })
    }
}

fn without<T>(rows: Vec<T>, asked: &[bool]) -> Vec<T> {
    rows.into_iter()
        .zip(asked)
        .filter(|(_, asked)| !**asked)
        .map(|(row, _)| row)
        .collect()
}

fn as_json(model: &Path, reports: &[Report]) -> anyhow::Result<serde_json::Value> {
    let of = |engine: &str| -> anyhow::Result<serde_json::Map<String, serde_json::Value>> {
        let mine = reports.iter().filter(|report| report.engine == engine);
        mine.map(|r| Ok((r.task.clone(), serde_json::to_value(r)?)))
            .collect()
    };
    let mut engines: Vec<&str> = reports.iter().map(|report| report.engine).collect();
    engines.dedup();
    let first = engines.first().copied().unwrap_or_default();
    let model = model.display().to_string();
    let mut json = serde_json::json!({ "model": model, "engine": first, "results": of(first)? });
    if engines.len() > 1 {
        let all = engines
            .iter()
            .map(|engine| Ok((engine.to_string(), of(engine)?.into())));
        json["engines"] = serde_json::Value::Object(all.collect::<anyhow::Result<_>>()?);
    }
    if let [only] = reports {
        // The usual case reads without knowing the task's name.
        for (key, value) in [
            ("n", only.n.into()),
            ("metric", only.metric.into()),
            ("score", only.score.into()),
            ("stderr", only.stderr.into()),
            ("samples_sha256", only.samples_sha256.clone().into()),
        ] {
            json[key] = value;
        }
    }
    Ok(json)
}

fn compare_runs([a, b]: [&Path; 2], limit: Option<usize>, json: bool) -> anyhow::Result<ExitCode> {
    let read = |path: &Path| {
        let mut scored = compare::read(path)?;
        compare::first_rows(&mut scored, limit.unwrap_or(usize::MAX));
        Ok(scored)
    };
    let differences = read(a)
        .and_then(|a| compare::compare(&a, &read(b)?))
        .map_err(bad)?;
    eprint!("{}", table::left_out(&differences));
    if json {
        let json = serde_json::json!({
            "a": a.display().to_string(), "b": b.display().to_string(), "differences": differences
        });
        println!("{json:#}");
    } else {
        println!("{}", table::differences(&differences));
    }
    Ok(ExitCode::SUCCESS)
}

fn show(report: &Report, count: usize) {
    for sample in report.samples.iter().take(count) {
        eprintln!(
            "--- {} {}, {}, score {:.3}",
            report.task, sample.doc_id, report.engine, sample.score
        );
        eprintln!(
            "{}\n>>> {}\n=== {}",
            sample.prompt, sample.answer, sample.target
        );
    }
}

/// What a score leaves out or cuts is said.
fn remark(report: &Report, args: &Args, kind: &Task) {
    let Report {
        task,
        n,
        truncated,
        shortened,
        few_shot,
        ..
    } = report;
    if *truncated > 0 {
        eprintln!(
            "note: `{task}`: {truncated} of {n} prompts do not fit the context and lost their \
             beginning"
        );
    }
    if *shortened > 0 {
        eprintln!(
            "note: `{task}`: of {shortened} of {n} right answers only the beginning fits the \
             context"
        );
    }
    if args.max_new_tokens.is_some() && !matches!(kind.kind, Kind::Generate | Kind::Code) {
        eprintln!("note: `{task}` writes no text; `--max-new-tokens` changes nothing");
    }
    if *few_shot < args.shots {
        eprintln!(
            "note: `{task}` is running text and has no few-shot examples; `--shots` changes \
             nothing"
        );
    }
}

fn bad(error: EvalError) -> anyhow::Error {
    BadInput(error.into()).into()
}

/// Exit code 1 for a score under the threshold or an answer that is not the twin's; where the
/// program rounds `stochastic`, answers may differ.
fn verdict(reports: &[Report], stochastic: bool, min: Option<(f64, &'static str)>) -> ExitCode {
    let mut failed = false;
    for report in reports {
        if !stochastic && report.twin_equal.is_some_and(|equal| equal != report.n) {
            eprintln!(
                "error: `{}`: not every secure answer equals the twin's",
                report.task
            );
            failed = true;
        }
    }
    if let (Some((min, key)), Some(first)) = (min, reports.first())
        && first.score < min
    {
        eprintln!(
            "error: `{}` scored {:.4} ({}), below `{key}` = {min}",
            first.task, first.score, first.metric
        );
        failed = true;
    }
    if failed {
        ExitCode::from(INPUT_FAILED)
    } else {
        ExitCode::SUCCESS
    }
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
                let engine =
                    FloatEngine::new(&partition.model()?, &partition.manifest.transforms, adapter)?;
                Ok(Self::Float(Box::new(engine)))
            }
            (EngineKind::Float, Model::Checkpoint(checkpoint)) => Ok(Self::Float(Box::new(
                FloatEngine::new(checkpoint, &Transforms::default(), None)?,
            ))),
            (EngineKind::Twin, Model::Partition(partition)) => {
                Ok(Self::Twin(Box::new(TwinEngine::new(partition)?)))
            }
            (EngineKind::Secure | EngineKind::SecureTwoParty, Model::Partition(partition)) => {
                let secure = match kind {
                    EngineKind::SecureTwoParty => SecureEngine::two_party(partition)?,
                    _ => SecureEngine::new(partition)?,
                };
                let (public, private) = secure.weights();
                let twin = TwinEngine::exact(partition.prefix()?, public, private);
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
        scope: Scope<'_>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Report, EvalError> {
        let checkpoint = model.checkpoint();
        let formatter = PromptFormatter {
            tokenizer: &checkpoint.tokenizer,
            chat_template: checkpoint.chat_template.as_ref(),
        };
        let few_shot = if task.kind == Kind::Perplexity {
            0
        } else {
            scope.few_shot
        };
        let shots = task.few_shot_examples(few_shot, scope.seed, examples)?;
        match self {
            Self::Float(engine) => harness::run(
                task,
                engine.as_mut(),
                None,
                &formatter,
                examples,
                &shots,
                scope,
                progress,
            ),
            Self::Twin(engine) => harness::run(
                task,
                engine.as_mut(),
                None,
                &formatter,
                examples,
                &shots,
                scope,
                progress,
            ),
            Self::Secure(engine, twin) => {
                let before = engine.cost();
                let twin: &mut dyn Engine = twin.as_mut();
                let report = harness::run(
                    task,
                    engine.as_mut(),
                    Some(twin),
                    &formatter,
                    examples,
                    &shots,
                    scope,
                    progress,
                )?;
                Ok(Report {
                    cost: Some(engine.cost().since(&before)),
                    ..report
                })
            }
        }
    }
}

/// A results file an engine.
fn write_results(dir: &Path, asked: &results::Asked<'_>, reports: &[Report]) -> anyhow::Result<()> {
    let mut engines: Vec<&str> = reports.iter().map(|report| report.engine).collect();
    engines.dedup();
    for engine in engines {
        let mine: Vec<&Report> = reports.iter().filter(|r| r.engine == engine).collect();
        let written = results::write(dir, asked, &mine)?;
        eprintln!("results: {}", written.display());
    }
    Ok(())
}

fn log_samples(path: &Path, reports: &[Report]) -> anyhow::Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for report in reports {
            for sample in &report.samples {
                let mut line = serde_json::to_value(sample)?;
                line["task"] = report.task.clone().into();
                line["engine"] = report.engine.into();
                line["version"] = report.version.into();
                writeln!(file, "{line}")?;
            }
        }
        file.flush()
    };
    write().with_context(|| format!("cannot write `{}`", path.display()))
}
