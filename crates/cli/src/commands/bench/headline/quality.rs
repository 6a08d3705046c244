//! `marill bench headline --quality`: trains the full fine-tune and the arms against it, scores
//! them, and says how much of the gain each one keeps.

use std::{path::PathBuf, process::ExitCode};

use crate::{
    args::folders::default_cache,
    commands::bench::study::{plan, report, run::Study},
};

/// What the comparison of quality needs; without `--quality` only the minutes may be given.
#[derive(clap::Args)]
pub struct Quality {
    /// Compare quality: train and score the arms of a plan (hours; a second call goes on)
    #[arg(long)]
    quality: bool,
    /// The plan, a TOML file [default: the headline's]
    #[arg(long, value_name = "FILE", requires = "quality")]
    plan: Option<PathBuf>,
    /// Begin no cell after this many minutes; 0 runs none and reports
    #[arg(long, value_name = "N")]
    minutes: Option<u64>,
    /// Where cells are kept, one JSON file each
    #[arg(
        long,
        value_name = "DIR",
        requires = "quality",
        default_value = "docs/reports/headline/cells"
    )]
    cells: PathBuf,
    /// Where runs lie with their models meanwhile
    #[arg(
        long,
        value_name = "DIR",
        requires = "quality",
        default_value = "runs/headline"
    )]
    runs: PathBuf,
    /// Show no progress
    #[arg(
        long,
        requires = "quality",
        env = "MARILL_NO_PROGRESS",
        value_parser = clap::builder::FalseyValueParser::new(),
    )]
    no_progress: bool,
}

impl Quality {
    pub fn is_asked(&self) -> bool {
        self.quality
    }

    /// After which no cell begins, of quality or of cost.
    pub fn minutes(&self) -> Option<u64> {
        self.minutes
    }
}

/// Runs what is missing of the plan and prints the tables of what is there.
///
/// # Errors
/// [`crate::output::failure::BadInput`] for plan, data and model; cells that are done stay.
pub fn run(args: &Quality) -> anyhow::Result<ExitCode> {
    let plan = plan::open(args.plan.as_deref())?;
    eprint!("{}", report::expectations(&plan));
    let mut study = Study::new(
        plan,
        args.cells.clone(),
        args.runs.clone(),
        args.no_progress,
    )?;
    study.cache = default_cache().map(|dir| dir.join("activations"));
    let done = study.run(args.minutes)?;
    eprintln!("{} cells run, {} left", done.run, done.left);
    print!("{}", report::markdown(&study)?);
    Ok(ExitCode::SUCCESS)
}
