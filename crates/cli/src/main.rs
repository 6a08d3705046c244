//! `marill`: fine-tune a language model so that it can be served privately, and serve it.
//!
//! Standard output is data, standard error the rest.

mod args;
mod commands;
mod compat;
mod help;
mod output;
mod process;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use marill_serving::{
    log::{self, LogFormat},
    wipe::{WipingAllocator, hold_secrets},
};

use crate::{
    args::variables::{refuse_unknown_variables, with_variables},
    commands::{
        ablate, bench, chat, dealer, demo, doctor, eval, export, gateway, generate, inspect, keys,
        man, merge, party, plan, recipes, serve, state, train, up,
    },
    output::failure,
};

/// Wipes what is freed in commands that hold secrets, and does nothing in the others.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator::system();

#[derive(Parser)]
#[command(
    name = "marill",
    version,
    about,
    max_term_width = 100,
    propagate_version = true
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Fine-tune language models for private inference, serve them, evaluate them.
#[derive(Subcommand)]
enum Command {
    /// Fine-tune as a recipe says, then export the partition
    Train(train::Args),
    /// Choose what to freeze and merge, and the setting, so that a token keeps within a budget
    Plan(plan::Args),
    /// Train a recipe's techniques alone and together, and set quality against secure cost
    Ablate(ablate::Args),
    /// Split a fine-tuned model into public and private part
    Export(export::Args),
    /// Write base and adapter as one checkpoint that other programs open
    Merge(merge::Args),
    /// What is in a partition, and what each party learns
    Inspect(inspect::Args),
    /// Serve a partition: the model owner's side
    Serve(serve::Args),
    /// Say who may use a server, and how much: add, list, revoke API keys
    Keys(keys::Args),
    /// Look into what services have recorded
    State(state::Args),
    /// Deal correlations to clients and servers
    Dealer(dealer::Args),
    /// Run an independent computing party (P0) for clients that only send shares
    #[command(alias = "evaluate")]
    Party(party::Args),
    /// Serve OpenAI's HTTP interface on this machine, answering privately
    Gateway(gateway::Args),
    /// Start dealer, server and gateway on this machine from one file: a demonstration
    Up(up::Args),
    /// Hold a private conversation in the terminal
    Chat(chat::Args),
    /// Get one private answer to one prompt
    Generate(generate::Args),
    /// Score a model on tasks: in floats, as the integer twin, or under the secure protocol
    Eval(eval::Args),
    /// Time a private answer of a partition, and compare tokens with the twin and traffic with the
    /// tally
    Bench(bench::Args),
    /// Train, export, serve and ask a small model on this machine, offline, and check everything
    Demo(demo::Args),
    /// List, copy or check recipes
    Recipes(recipes::Args),
    /// Say why something does not work: this machine, and the services that are named
    Doctor(doctor::Args),
    /// Write manual pages into a folder
    Man(man::Args),
    /// Print a completion script for a shell
    Completions { shell: clap_complete::Shell },
}

impl Command {
    /// Whether the process will hold seeds, shares, prompts or a private part while others depend
    /// on it.
    fn holds_secrets(&self) -> bool {
        match self {
            Self::Serve(_)
            | Self::Dealer(_)
            | Self::Party(_)
            | Self::Gateway(_)
            | Self::Chat(_) => true,
            // Timed as they are served.
            Self::Generate(_) | Self::Bench(_) => true,
            Self::Train(_)
            | Self::Plan(_)
            | Self::Ablate(_)
            | Self::Export(_)
            | Self::Merge(_)
            | Self::Inspect(_)
            | Self::Keys(_)
            | Self::State(_)
            | Self::Eval(_) => false,
            Self::Demo(_)
            | Self::Recipes(_)
            | Self::Doctor(_)
            | Self::Up(_)
            | Self::Man(_)
            | Self::Completions { .. } => false,
        }
    }

    /// How it writes its log, where it is a service.
    fn log_format(&self) -> Option<LogFormat> {
        let log = match self {
            Self::Serve(args) => &args.log,
            Self::Dealer(args) => &args.log,
            Self::Party(args) => &args.log,
            Self::Gateway(args) => &args.log,
            _ => return None,
        };
        Some(log.format())
    }
}

/// Exit code of a program that a closed pipe ended: 128 and the signal's number.
const CLOSED_PIPE: i32 = 141;

/// A reader that has seen enough (`| head`) is no bug: the program ends without a message, as
/// others do.
fn end_quietly_when_nobody_reads() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = panic.payload().downcast_ref::<String>();
        if said.is_some_and(|said| {
            said.starts_with("failed printing to stdout") && said.contains("Broken pipe")
        }) {
            std::process::exit(CLOSED_PIPE);
        }
        usual(panic);
    }));
}

/// The commands with their help arranged.
fn program() -> clap::Command {
    help::arranged(Cli::command())
}

/// What the command line and the environment say; ends the process where that is not understood.
fn parse() -> Cli {
    let mut program = with_variables(program());
    let matches = program.get_matches_mut();
    refuse_unknown_variables(&mut program, &matches);
    Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut program).exit())
}

fn main() -> ExitCode {
    end_quietly_when_nobody_reads();
    compat::read_former_variables();
    let cli = parse();
    if let Some(format) = cli.command.log_format() {
        log::start(format);
    }
    if cli.command.holds_secrets() {
        hold_secrets();
    }
    let result = match cli.command {
        Command::Train(args) => train::run(args),
        Command::Plan(args) => plan::run(&args),
        Command::Ablate(args) => ablate::run(&args),
        Command::Export(args) => export::run(args),
        Command::Merge(args) => merge::run(&args),
        Command::Inspect(args) => inspect::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Keys(args) => keys::run(args),
        Command::State(args) => state::run(args),
        Command::Dealer(args) => dealer::run(args),
        Command::Party(args) => party::run(args),
        Command::Gateway(args) => gateway::run(args),
        Command::Up(args) => up::run(&args, &Cli::command()),
        Command::Chat(args) => chat::run(args),
        Command::Generate(args) => generate::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Recipes(args) => recipes::run(args),
        Command::Doctor(args) => doctor::run(args),
        Command::Man(args) => man::run(&args, program()),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut program(), "marill", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|error| failure::report(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_arranges_flags_that_exist() {
        let program = Cli::command();
        for (command, name) in help::names() {
            let command = program.find_subcommand(command).expect(command);
            let known = command.get_arguments().any(|arg| arg.get_id() == name);
            assert!(known, "`{}` has no `{name}`", command.get_name());
        }
    }

    #[test]
    fn short_help_leaves_out_flags_that_exist() {
        let program = Cli::command();
        for name in help::rare() {
            let has =
                |command: &clap::Command| command.get_arguments().any(|arg| arg.get_id() == *name);
            assert!(
                program.get_subcommands().any(has),
                "no command has `{name}`"
            );
        }
    }

    #[test]
    fn arguments_fit_together() {
        with_variables(program()).debug_assert();
    }
}
