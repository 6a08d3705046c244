//! `marill`: fine-tune a language model so that it can be served privately, and serve it.
//!
//! One module per command: each has `Args` for clap and `run`. Standard output is data, standard error the rest.

mod doctor;
mod failure;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "marill", version, about, max_term_width = 100, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check this machine: processor features, free ports, where data is looked for
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Doctor(args) => doctor::run(args),
    };
    result.unwrap_or_else(|error| failure::report(&error))
}
