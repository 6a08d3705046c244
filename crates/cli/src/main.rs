//! `marill`: fine-tune a language model so that it can be served privately, and serve it.
//!
//! One module per command: each has `Args` for clap and `run`. Standard output is data, standard error the rest.

mod chat;
mod dealer;
mod doctor;
mod failure;
mod gateway;
mod generate;
mod places;
mod serve;
mod target;

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
    /// Offer a partition to clients, together with a dealer
    Serve(serve::Args),
    /// Hand out seeds and corrections for sessions between clients and servers
    Dealer(dealer::Args),
    /// Answer the OpenAI interface on this machine with private sessions
    Gateway(gateway::Args),
    /// Talk to a model in the terminal
    Chat(chat::Args),
    /// Answer one prompt privately
    Generate(generate::Args),
    /// Check this machine: processor features, free ports, where data is looked for
    Doctor(doctor::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Dealer(args) => dealer::run(args),
        Command::Gateway(args) => gateway::run(args),
        Command::Chat(args) => chat::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Doctor(args) => doctor::run(args),
    };
    result.unwrap_or_else(|error| failure::report(&error))
}
