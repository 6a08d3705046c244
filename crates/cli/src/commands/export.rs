//! `marill export`: from a training run, or a fully fine-tuned checkpoint, to a partition.

pub mod write;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use marill_numeric::Rounding;
use marill_recipe::Recipe;
use marill_report::bytes;

use crate::{
    args::{base_model::Search, model_dir::EXPORT_FOLDER},
    commands::export::write::{ExportAs, export_checkpoint, export_run},
    output::failure::BadInput,
};

#[derive(clap::Args)]
pub struct Args {
    /// Output folder of `marill train`, or (with --base) a checkpoint that differs from its base in
    /// the last layers
    run_dir: PathBuf,
    /// The new folder [default: `export` in the run's folder]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// The base model, where it is no longer where the recipe says
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
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
    let recipe_path = args.run_dir.join("recipe.toml");
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
    };
    let is_checkpoint = !recipe_path.is_file() && args.run_dir.join("config.json").is_file();
    let report = match (is_checkpoint, &args.base) {
        (true, Some(base)) => export_checkpoint(&args.run_dir, base, &out, &told)?,
        (true, None) => {
            let problem = anyhow::anyhow!(
                "`{}` is a checkpoint, and what is private of it is what differs from its base\n\
                 hint: --base PATH",
                args.run_dir.display()
            );
            return Err(BadInput(problem).into());
        }
        (false, base) => {
            let recipe = Recipe::read(&recipe_path, &[]).map_err(|e| BadInput(e.into()))?;
            let base = match base {
                Some(base) => base.clone(),
                None => args.search.base(&recipe, &args.run_dir)?,
            };
            export_run(&args.run_dir, &recipe, &base, &out, &told)?
        }
    };
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
            "range": { "proved": report.range.is_ok(),
                "finding": marill_partition::describe_range(&report.range),
                "measured": measured },
        });
        println!("{json:#}");
    } else {
        println!("{}", report.dir.display());
        eprintln!(
            "partition {}: public {}, private {}",
            report.partition_id,
            bytes(report.public_bytes),
            bytes(report.private_bytes)
        );
        if report.range.is_ok() {
            eprintln!("range: {}", marill_partition::describe_range(&report.range));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A folder's own name.
pub fn name_of(dir: &Path) -> String {
    dir.file_name().map_or_else(
        || "model".into(),
        |name| name.to_string_lossy().into_owned(),
    )
}
