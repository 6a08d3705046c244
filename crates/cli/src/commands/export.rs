//! `marill export`: from a training run, an adapter of PEFT, or a fully fine-tuned checkpoint, to a
//! partition.

pub mod peft;
pub mod write;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use marill_model::PeftAdapter;
use marill_numeric::Rounding;
use marill_partition::ExportReport;
use marill_recipe::Recipe;
use marill_report::bytes;

use crate::{
    args::{base_model::Search, model_dir::EXPORT_FOLDER},
    commands::export::write::{ExportAs, export_checkpoint, export_run},
    output::failure::BadInput,
};

#[derive(clap::Args)]
pub struct Args {
    /// Output folder of `marill train`, or (with --base) an adapter of PEFT, or a checkpoint that
    /// differs from its base in the last layers
    run_dir: PathBuf,
    /// The new folder [default: `export` in the run's folder]
    #[arg(long, short, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The base model, where no recipe says it or it is no longer there: a path, or a name on the
    /// hub
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// Of an adapter of PEFT: the layers below the first one that it changes become public and run
    /// on the client, which tells everyone which layers were tuned; otherwise all layers are
    /// private
    #[arg(long)]
    public_prefix: bool,
    /// A name for people [default: the run's folder]
    #[arg(long)]
    name: Option<String>,
    /// `peft-lossy` also writes `adapter_config.json` where PEFT cannot express the merged heads
    #[arg(long, value_parser = ["peft-lossy"])]
    format: Option<String>,
    /// How the secure program rounds: `exact` (the twin's integers, bit for bit) or `stochastic`
    /// (fewer rounds and bytes, near the twin) [default: the recipe's
    /// `export.rounding`, else `exact`]
    #[arg(long, value_name = "NAME", value_parser = parse_rounding)]
    rounding: Option<Rounding>,
    /// Go on although this key, tensor or token of the checkpoint is not used (again for each; `*`
    /// for one part of a name)
    #[arg(long, value_name = "KEY")]
    ignore: Vec<String>,
    #[command(flatten)]
    search: Search,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

fn parse_rounding(text: &str) -> Result<Rounding, String> {
    Rounding::parse(text).ok_or_else(|| "the roundings are `exact` and `stochastic`".into())
}

/// # Errors
/// [`BadInput`] for an incomplete run, a missing base or an occupied folder.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let out = args
        .out
        .clone()
        .unwrap_or_else(|| args.run_dir.join(EXPORT_FOLDER));
    let name = args.name.clone().unwrap_or_else(|| name_of(&args.run_dir));
    let peft_lossy = args.format.is_some();
    let rounding = args.rounding;
    let told = ExportAs {
        name: &name,
        peft_lossy,
        rounding,
        ignore: &args.ignore,
        data_dir: None,
        quiet: false,
    };
    let base = args.base.as_ref();
    let base = base.map(|base| args.search.named(base, args.json));
    let base = base.transpose()?;
    let report = match (Given::of(&args.run_dir), base) {
        (Given::Run, _) if args.public_prefix => {
            let problem = anyhow::anyhow!(
                "`--public-prefix` is for adapters of PEFT: what is public of a run is \
                 `freeze.layers` of its recipe"
            );
            return Err(BadInput(problem).into());
        }
        (Given::Adapter, Some(base)) => {
            peft::export(&args.run_dir, &base, &out, &told, args.public_prefix)?
        }
        (Given::Checkpoint, Some(_)) if args.public_prefix => {
            let problem = anyhow::anyhow!(
                "`--public-prefix` is for adapters of PEFT: of a checkpoint the layers that equal \
                 its base's are public"
            );
            return Err(BadInput(problem).into());
        }
        (Given::Checkpoint, Some(base)) => export_checkpoint(&args.run_dir, &base, &out, &told)?,
        (given @ (Given::Adapter | Given::Checkpoint), None) => {
            return Err(without_base(&args.run_dir, given).into());
        }
        (Given::Run, base) => {
            let recipe_path = args.run_dir.join("recipe.toml");
            let recipe = Recipe::read(&recipe_path, &[]).map_err(|e| BadInput(e.into()))?;
            let base = match base {
                Some(base) => base,
                None => args.search.base(&recipe, &args.run_dir)?,
            };
            export_run(&args.run_dir, &recipe, &base, &out, &told)?
        }
    };
    print(&args, &report);
    Ok(ExitCode::SUCCESS)
}

/// What a folder on the command line is.
#[derive(Clone, Copy)]
pub enum Given {
    /// Of `marill train`.
    Run,
    /// Of PEFT.
    Adapter,
    Checkpoint,
}

impl Given {
    /// A folder that is none of them counts as a run, whose messages say what is missing.
    pub fn of(dir: &Path) -> Self {
        if dir.join("recipe.toml").is_file() {
            Self::Run
        } else if PeftAdapter::is_in(dir) {
            Self::Adapter
        } else if dir.join("config.json").is_file() {
            Self::Checkpoint
        } else {
            Self::Run
        }
    }
}

/// The refusal of what is nothing without its base.
pub fn without_base(dir: &Path, given: Given) -> BadInput {
    let shown = dir.display();
    let problem = match given {
        Given::Adapter => anyhow::anyhow!(
            "`{shown}` is an adapter, and says nothing without its base\nhint: --base {}",
            peft::base_named_in(dir).unwrap_or_else(|| "PATH".into())
        ),
        _ => anyhow::anyhow!(
            "`{shown}` is a checkpoint, and what is private of it is what differs from its base\n\
             hint: --base PATH"
        ),
    };
    BadInput(problem)
}

fn print(args: &Args, report: &ExportReport) {
    if args.json {
        let measured = report.measured.as_ref().map(|m| {
            serde_json::json!({
                "rows": m.rows, "tokens": m.tokens, "fits": m.overflow.is_none(),
                "overflow": m.overflow,
                "bits_left": m.least.map(|headroom| headroom.bits()),
                "layer": m.least.and_then(|headroom| headroom.layer),
                "place": m.least.map(|headroom| headroom.label),
            })
        });
        let json = serde_json::json!({
            "dir": report.dir, "partition_id": report.partition_id,
            "public_bytes": report.public_bytes,
            "private_bytes": report.private_bytes, "adapter_config": report.wrote_peft_config,
            "public_layers": report.public_layers, "private_layers": report.private_layers,
            "range": { "proved": report.range.is_ok(),
                "finding": marill_partition::describe_range(&report.range),
                "measured": measured },
        });
        println!("{json:#}");
    } else {
        println!("{}", report.dir.display());
        eprintln!(
            "partition {}: public {}, private {}; {} of {} layers under secure computation",
            report.partition_id,
            bytes(report.public_bytes),
            bytes(report.private_bytes),
            report.private_layers,
            report.public_layers + report.private_layers
        );
        if report.range.is_ok() {
            eprintln!("range: {}", marill_partition::describe_range(&report.range));
        }
    }
}

/// A folder's own name.
pub fn name_of(dir: &Path) -> String {
    dir.file_name().map_or_else(
        || "model".into(),
        |name| name.to_string_lossy().into_owned(),
    )
}
