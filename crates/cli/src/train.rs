//! `marill train`: runs a recipe, then exports the partition.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use marill_model::Checkpoint;
use marill_mpc::{tally_decode, tally_prefill};
use marill_partition::{ExportReport, MANIFEST_FILE, decoder_spec};
use marill_recipe::Recipe;
use marill_report::{bytes, count};
use marill_training::{TrainError, TrainOptions, TrainReport, train, transforms_for};

use crate::base_model::Search;
use crate::export::name_of;
use crate::failure::BadInput;
use crate::model_dir::{EXPORT_FOLDER, export_run};
use crate::progress::Progress;

/// Ended by Ctrl-C, after a checkpoint.
const INTERRUPTED: u8 = 130;
/// Keys in the cache at which a dry run states the cost of a token.
const DRY_RUN_KEYS: usize = 128;

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
    /// Seed of initialisation and order, in place of the recipe's `train.seed`
    #[arg(long, env = "MARILL_SEED")]
    seed: Option<u64>,
    /// Go on from the newest checkpoint; the result is that of an uninterrupted run
    #[arg(long)]
    resume: bool,
    /// Check everything and state what would be trained and what a token would cost; train nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    search: Search,
    /// Show no progress
    #[arg(long, env = "MARILL_NO_PROGRESS")]
    no_progress: bool,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// # Errors
/// [`BadInput`] for recipe, data and model; others for the environment.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut overrides = args.set.clone();
    if let Some(dir) = &args.output_dir {
        overrides.push(format!("output.dir={}", dir.display()));
    }
    if let Some(seed) = args.seed {
        overrides.push(format!("train.seed={seed}"));
    }
    let mut recipe = Recipe::read(&args.recipe, &overrides).map_err(|e| BadInput(e.into()))?;
    let recipe_dir = args.recipe.parent().map(Path::to_path_buf).unwrap_or_default();
    let (base, teacher) = args.search.pin(&mut recipe, &recipe_dir, args.no_progress)?;
    let mut options = TrainOptions { recipe_dir, base, teacher, resume: args.resume, stop: None };
    if args.dry_run {
        return dry_run(&recipe, &options, args.json);
    }
    options.stop = Some(stop_on_ctrl_c()?);
    let (report, exported) = match train_and_export(&recipe, &options, args.no_progress) {
        Err(error) if matches!(error.downcast_ref(), Some(TrainError::Interrupted { .. })) => {
            crate::failure::report(&error);
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
        let dir = exported.as_ref().map_or(&report.output_dir, |exported| &exported.dir);
        println!("{}", dir.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// Trains, shows progress, and exports where only low-rank factors were trained.
///
/// # Errors
/// [`TrainError::Interrupted`] as it is, every other failure of the run as [`BadInput`].
pub fn train_and_export(
    recipe: &Recipe,
    options: &TrainOptions,
    quiet: bool,
) -> anyhow::Result<(TrainReport, Option<ExportReport>)> {
    let mut progress = Progress::new("training", quiet);
    let result = train(recipe, options, &mut |at| {
        let validation = at.val_loss.map_or_else(String::new, |loss| format!(" val {loss:.3}"));
        let figures =
            format!("loss {:.3}{validation} lr {:.1e} {:.0} tokens/s", at.loss, at.learning_rate, at.tokens_per_second);
        progress.set(at.step, at.steps, &figures);
    });
    progress.finish();
    let report = match result {
        Ok(report) => report,
        Err(error @ TrainError::Interrupted { .. }) => return Err(error.into()),
        Err(error) => return Err(BadInput(error.into()).into()),
    };
    if !quiet {
        eprintln!(
            "{} steps, {} tokens in {:.0} s ({:.0} tokens/s); loss {:.3} to {:.3}; {} trained parameters",
            report.steps,
            count(report.tokens as u64),
            report.seconds,
            report.tokens_per_second,
            report.first_loss,
            report.final_loss,
            count(report.trained_parameters as u64)
        );
    }
    if report.adapter.is_none() {
        return Ok((report, None));
    }
    let base = match &options.base {
        Some(path) => path.clone(),
        None => Search::default().base(recipe, &options.recipe_dir)?,
    };
    let out = report.output_dir.join(EXPORT_FOLDER);
    // An earlier partition of this very run; anything else in its place is left for the user to look at.
    if out.join(MANIFEST_FILE).is_file() {
        std::fs::remove_dir_all(&out).with_context(|| format!("cannot replace `{}`", out.display()))?;
    }
    let name = name_of(&report.output_dir);
    let exported = export_run(&report.output_dir, recipe, &base, &out, &name, false)?;
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

/// The first Ctrl-C asks for a checkpoint, the second ends the program.
fn stop_on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot watch for Ctrl-C")?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                if flag.swap(true, Ordering::SeqCst) {
                    std::process::exit(i32::from(INTERRUPTED));
                }
                eprintln!("stopping after this step; Ctrl-C again ends at once");
            }
        });
    });
    Ok(stop)
}

/// What would happen: the split, the trained parameters and the secure cost, without training.
fn dry_run(recipe: &Recipe, options: &TrainOptions, json: bool) -> anyhow::Result<ExitCode> {
    let plan = || -> anyhow::Result<serde_json::Value> {
        let base = match &options.base {
            Some(path) => path.clone(),
            None => Search::default().base(recipe, &options.recipe_dir)?,
        };
        let base = Checkpoint::open(&base)?;
        let transforms = transforms_for(recipe, &base.config)?;
        let spec = decoder_spec(&base.config, &transforms, Default::default())?;
        let decode = tally_decode(&spec, DRY_RUN_KEYS.min(spec.max_positions - 1))?;
        let prefill = tally_prefill(&spec, spec.bucket(64.min(spec.max_positions)))?;
        let trained: usize = transforms.lora.as_ref().map_or(0, |lora| {
            let shapes = lora.target_modules.iter().filter_map(|module| base.config.module_shape(module));
            transforms.private_layers(&base.config)
                * shapes.map(|[out, inner]| lora.rank * (out + inner)).sum::<usize>()
        });
        Ok(serde_json::json!({
            "frozen_layers": transforms.frozen_layers,
            "private_layers": spec.num_layers,
            "softmaxes_a_layer": spec.head_groups.first().map(Vec::len),
            "lora_rank": spec.lora_rank,
            "trained_parameters": trained,
            "output_dir": recipe.output.dir,
            "decode": {
                "keys": DRY_RUN_KEYS, "rounds": decode.rounds,
                "client_bytes_sent": decode.e0_to_e1_bytes, "client_bytes_received": decode.e1_to_e0_bytes,
                "dealer_to_server_bytes": decode.source_to_e1_bytes,
            },
            "prefill": {
                "tokens": 64, "rounds": prefill.rounds,
                "client_bytes_sent": prefill.e0_to_e1_bytes, "client_bytes_received": prefill.e1_to_e0_bytes,
                "dealer_to_server_bytes": prefill.source_to_e1_bytes,
            },
        }))
    };
    let plan = plan().map_err(BadInput)?;
    if json {
        println!("{plan:#}");
        return Ok(ExitCode::SUCCESS);
    }
    println!("client, in clear   embedding and {} layers", plan["frozen_layers"]);
    println!("under MPC          {} layers, {} softmaxes each", plan["private_layers"], plan["softmaxes_a_layer"]);
    println!("private            {} parameters, rank {}", plan["trained_parameters"], plan["lora_rank"]);
    let size = |step: &str, key: &str| bytes(plan[step][key].as_u64().unwrap_or_default());
    for (step, what) in [("decode", "a token at 128 keys"), ("prefill", "a prompt of 64 tokens")] {
        println!(
            "{what}: {} rounds, client sends {} and receives {}, dealer to server {}",
            plan[step]["rounds"],
            size(step, "client_bytes_sent"),
            size(step, "client_bytes_received"),
            size(step, "dealer_to_server_bytes")
        );
    }
    Ok(ExitCode::SUCCESS)
}
