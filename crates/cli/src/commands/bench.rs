//! `marill bench`: what private inference costs on this machine, all parties in this process.

mod answer;
mod block;
pub mod calibrate;
mod clock;
mod headline;
mod machine;
mod network;
mod ops;
mod parties;
mod plan;
mod processes;
mod protocols;
mod recurrent;
mod reopened;
mod shapes;
pub mod study;

use std::{path::PathBuf, process::ExitCode};

use crate::output::failure::BadInput;

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    operations: Option<Operations>,
    /// A partition with its private part: an answer of real weights
    #[arg(
        required_unless_present_any = ["arch", "calibrate", "check_calibration"],
        conflicts_with = "arch"
    )]
    dir: Option<PathBuf>,
    /// Tokens of the prompt, with DIR
    #[arg(
        long,
        value_name = "N",
        default_value_t = 64,
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    prompt_tokens: u32,
    #[command(flatten)]
    block: block::Args,
    #[command(flatten)]
    calibrate: calibrate::Args,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Operations {
    /// One line per operation: rounds, bytes, CPU time, error against real arithmetic
    Ops(ops::Args),
    /// Two parties without a dealer: one line per protocol, bytes, rounds, CPU time, mismatches
    Protocols(protocols::Args),
    /// A network between two parties: bytes, rounds and CPU time of ResNet-50 or DenseNet-121 by
    /// kind of layer, or of FastGRNN
    Network(network::Args),
    /// An ordinary full fine-tune against Marill's form: what a step costs, cell by cell
    Headline(headline::Args),
    /// Server or dealer of `--processes`, which starts it
    #[command(hide = true)]
    Party,
}

/// Runs the benchmark that the arguments ask for.
///
/// # Errors
/// [`crate::output::failure::BadInput`] for a damaged partition, an unknown shape, or sizes that do
/// not fit.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(done) = args.calibrate.run(args.json) {
        return done;
    }
    match (args.operations, args.dir) {
        (Some(Operations::Ops(ops)), _) => ops::run(&ops),
        (Some(Operations::Protocols(protocols)), _) => protocols::run(&protocols),
        (Some(Operations::Network(network)), _) => network::run(&network),
        (Some(Operations::Headline(headline)), _) => headline::run(&headline),
        (Some(Operations::Party), _) => processes::party::run(),
        (None, Some(_)) if args.block.setting() != "dealer" => Err(BadInput(anyhow::anyhow!(
            "`bench DIR` answers in the setting `dealer`\nhint: `--arch DIR --setting {}` runs the \
             steps of a partition",
            args.block.setting()
        ))
        .into()),
        (None, Some(dir)) => answer::run(
            &dir,
            args.prompt_tokens,
            args.block.tokens.unwrap_or(8),
            args.json,
        ),
        (None, None) => block::run(&args.block, args.json),
    }
}
