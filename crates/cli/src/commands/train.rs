//! `marill train`: runs a recipe, then exports the partition.

mod dry_run;
pub mod program;
mod summary;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use marill_partition::{ExportReport, MANIFEST_FILE};
use marill_recipe::Recipe;
use marill_report::{bytes, count};
use marill_training::{Told, TrainError, TrainOptions, TrainReport, train_told};
use summary::measured_heads;

use crate::{
    args::{base_model::Search, folders::default_cache, model_dir::EXPORT_FOLDER},
    commands::export::{
        name_of,
        write::{ExportAs, export_run},
    },
    output::{failure::BadInput, progress::Progress},
};

/// Ended by Ctrl-C or SIGTERM, after a checkpoint.
const INTERRUPTED: u8 = 130;

#[derive(clap::Args)]
pub struct Args {
    /// The recipe, a TOML file
    recipe: PathBuf,
    /// Override a key of the recipe (repeatable)
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Where the run is written, in place of the recipe's `output.dir`
    #[arg(long, value_name = "DIR", env = "MARILL_OUTPUT_DIR")]
    output_dir: Option<PathBuf>,
    /// Seed of initialization and order, in place of the recipe's `train.seed`
    #[arg(long, env = "MARILL_SEED")]
    seed: Option<u64>,
    /// Go on from the newest checkpoint; the result is that of an uninterrupted run
    #[arg(long)]
    resume: bool,
    /// Check everything, try a few rows, and state memory, bytes, time and the cost of a token;
    /// write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    search: Search,
    /// Where outputs of frozen layers are kept for later runs, 4 GiB at most [default:
    /// ~/.cache/marill]
    #[arg(long, value_name = "DIR", env = "MARILL_CACHE")]
    cache: Option<PathBuf>,
    /// Show no progress
    #[arg(long, env = "MARILL_NO_PROGRESS", value_parser = clap::builder::FalseyValueParser::new())]
    no_progress: bool,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// # Errors
/// [`BadInput`] for recipe, data and model; others for the environment.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let overrides = overrides(&args);
    let mut recipe = Recipe::read(&args.recipe, &overrides).map_err(|e| BadInput(e.into()))?;
    let recipe_dir = args
        .recipe
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default();
    // Not behind the run.
    crate::commands::eval::chosen::check(&recipe, &recipe_dir)?;
    let (base, teacher) = args
        .search
        .pin(&mut recipe, &recipe_dir, args.no_progress)?;
    let cache_dir = args
        .cache
        .clone()
        .or_else(default_cache)
        .map(|dir| dir.join("activations"));
    let mut options = TrainOptions {
        recipe_dir,
        base,
        teacher,
        cache_dir,
        resume: args.resume,
        estimate_time: !args.no_progress,
        stop: None,
    };
    if args.dry_run {
        return dry_run::run(&recipe, &options, args.json);
    }
    let checkpoints = Path::new(&recipe.output.dir).join("checkpoints");
    if args.resume
        && checkpoints.read_dir().map_or(true, |found| {
            let names = found.flatten().map(|entry| entry.file_name());
            !names
                .into_iter()
                .any(|name| name.to_string_lossy().starts_with("step-"))
        })
    {
        eprintln!(
            "note: `{}` holds no checkpoint; the run starts from the beginning",
            checkpoints.display()
        );
    }
    options.stop = Some(stop_on_signal()?);
    let (report, exported) = match train_and_export(&recipe, &options, args.no_progress) {
        Err(error) if matches!(error.downcast_ref(), Some(TrainError::Interrupted { .. })) => {
            crate::output::failure::report(&error);
            return Ok(ExitCode::from(INTERRUPTED));
        }
        other => other?,
    };
    if args.json {
        let json = serde_json::json!({
            "train": report,
            "partition_id": exported.as_ref().map(|e| &e.partition_id),
            "export": exported.as_ref().map(|e| &e.dir),
        });
        println!("{json:#}");
    } else {
        let dir = exported
            .as_ref()
            .map_or(&report.output_dir, |exported| &exported.dir);
        println!("{}", dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// `--set` and the flags that stand for a key of the recipe.
fn overrides(args: &Args) -> Vec<String> {
    let mut overrides = args.set.clone();
    if let Some(dir) = &args.output_dir {
        // Quoted: `2026` and `nan` are folders here, not numbers.
        overrides.push(format!(
            "output.dir={}",
            serde_json::Value::from(dir.display().to_string())
        ));
    }
    if let Some(seed) = args.seed {
        overrides.push(format!("train.seed={seed}"));
    }
    overrides
}

/// Trains, shows progress, and exports where low-rank factors were trained; a full fine-tune may be
/// a base or a teacher as well, and waits for `marill export`.
///
/// # Errors
/// [`TrainError::Interrupted`] as it is, every other failure of the run as [`BadInput`].
pub fn train_and_export(
    recipe: &Recipe,
    options: &TrainOptions,
    quiet: bool,
) -> anyhow::Result<(TrainReport, Option<ExportReport>)> {
    let report = match train_and_show(recipe, options, quiet) {
        Ok(report) => report,
        Err(error @ TrainError::Interrupted { .. }) => return Err(error.into()),
        Err(error) => return Err(BadInput(error.into()).into()),
    };
    print_notes(&report, quiet);
    let out = report.output_dir.join(EXPORT_FOLDER);
    // An earlier partition of this very run; anything else in its place is left for the user to
    // look at.
    if out.join(MANIFEST_FILE).is_file() {
        std::fs::remove_dir_all(&out)
            .with_context(|| format!("cannot replace `{}`", out.display()))?;
    }
    if report.adapter.is_none() {
        return Ok((report, None));
    }
    let base = match &options.base {
        Some(path) => path.clone(),
        None => Search::default().base(recipe, &options.recipe_dir)?,
    };
    let name = name_of(&report.output_dir);
    let told = ExportAs {
        name: &name,
        data_dir: Some(&options.recipe_dir),
        quiet,
        ..Default::default()
    };
    let exported =
        export_run(&report.output_dir, recipe, &base, &out, &told).with_context(|| {
            let run = report.output_dir.display();
            format!(
                "the run is done, but not exported\n\
                 hint: `marill export {run}` tries that again without training"
            )
        })?;
    if !quiet {
        eprintln!(
            "partition {}: a client downloads {}, the private part is {}",
            &exported.partition_id[..12],
            bytes(exported.public_bytes),
            bytes(exported.private_bytes)
        );
    }
    Ok((report, Some(exported)))
}

/// Trains and shows what the run is about to do, and its steps.
fn train_and_show(
    recipe: &Recipe,
    options: &TrainOptions,
    quiet: bool,
) -> Result<TrainReport, TrainError> {
    let mut progress = Progress::new("training", quiet);
    let mut begun = false;
    let result = train_told(recipe, options, &mut |told| {
        let at = match told {
            Told::Begin(summary) => {
                // The run's own bar begins behind its teacher's.
                std::mem::replace(&mut progress, Progress::new("training", quiet)).finish();
                // A teacher's rows are the run's.
                if !begun {
                    eprint!("{}", summary.data);
                }
                begun = true;
                summary::notes(summary);
                if !quiet {
                    eprint!("{}", summary::text(recipe, summary));
                }
                return;
            }
            Told::Step(at) => at,
        };
        let validation = at
            .val_loss
            .map_or_else(String::new, |loss| format!(" val {loss:.3}"));
        let figures = format!(
            "{}loss {:.3}{validation} lr {:.1e} {:.0} tokens/s",
            if at.of_teacher { "teacher: " } else { "" },
            at.loss,
            at.learning_rate,
            at.tokens_per_second
        );
        progress.set(at.step, at.steps, &figures);
    });
    progress.finish();
    result
}

/// What a run has to say behind its progress.
fn print_notes(report: &TrainReport, quiet: bool) {
    if let Some(planned) = report.ended_early_of {
        eprintln!(
            "ended early behind step {} of {planned}: `train.early_stopping_patience` measurements \
             brought nothing",
            report.steps
        );
    }
    if let Some(best) = report.best.filter(|_| report.keeps_best) {
        eprintln!(
            "kept: step {}, whose validation loss of {:.3} is the least",
            best.step, best.val_loss
        );
    }
    if let Some(taught) = &report.taught {
        let loss = taught.val_loss;
        let loss = loss.map_or_else(String::new, |loss| format!(", validation loss {loss:.3}"));
        eprintln!(
            "teacher: all of the base on {} tokens{loss}{}",
            count(taught.tokens as u64),
            if taught.found {
                "; trained by an earlier call"
            } else {
                ""
            }
        );
    }
    if let Some(note) = &report.cache_note {
        eprintln!("note: the outputs of the frozen layers are not kept for later runs: {note}");
    }
    if !quiet {
        eprintln!(
            "{} steps, {} tokens in {:.0} s ({:.0} tokens/s); loss {:.3} to {:.3}; {} trained \
             parameters",
            report.steps,
            count(report.tokens as u64),
            report.seconds,
            report.tokens_per_second,
            report.first_loss,
            report.final_loss,
            count(report.trained_parameters as u64)
        );
    }
}

/// The first Ctrl-C or SIGTERM asks for a checkpoint, the second ends the program.
fn stop_on_signal() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot watch for signals")?;
    let mut signals = {
        let _inside = runtime.enter();
        Signals::new().context("cannot watch for signals")?
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            while signals.next().await {
                if flag.swap(true, Ordering::SeqCst) {
                    std::process::exit(i32::from(INTERRUPTED));
                }
                eprintln!("stopping after this step; a second signal ends at once");
            }
        });
    });
    Ok(stop)
}

/// What asks a run to end. The handlers are there from the beginning, not from the first wait on.
struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for the next one; false when none can come any more.
    async fn next(&mut self) -> bool {
        tokio::select! {
            told = self.interrupt.recv() => told.is_some(),
            told = self.terminate.recv() => told.is_some(),
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {})
    }

    async fn next(&mut self) -> bool {
        tokio::signal::ctrl_c().await.is_ok()
    }
}
