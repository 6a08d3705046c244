//! An environment variable for every flag: `MARILL_<COMMAND>_<FLAG>`, as
//! `MARILL_SERVE_MAX_SESSIONS`.
//!
//! Some flags share a variable between commands (`MARILL_HOST`); where both are set, the command's
//! own decides. A variable that has a command's name in front and is no flag of it is refused when
//! that command runs: a slip of the hand would go unseen.

use std::{collections::BTreeSet, ffi::OsString};

use clap::{Arg, ArgAction, ArgMatches, Command, builder::BoolishValueParser, error::ErrorKind};

/// Returns a program whose flags read their variables.
pub fn with_variables(program: Command) -> Command {
    below(program, "MARILL")
}

/// `prefix` is what stands before a flag's name.
fn below(command: Command, prefix: &str) -> Command {
    command
        .mut_args(|arg| read(arg, prefix))
        .mut_subcommands(|inner| {
            let prefix = format!("{prefix}_{}", in_capitals(inner.get_name()));
            below(inner, &prefix)
        })
}

fn in_capitals(name: &str) -> String {
    name.replace('-', "_").to_ascii_uppercase()
}

fn read(arg: Arg, prefix: &str) -> Arg {
    let Some(long) = arg.get_long() else {
        return arg;
    };
    if matches!(long, "help" | "version") {
        return arg;
    }
    // Once for each flag of a process that ends with its command.
    let name: &str = format!("{prefix}_{}", in_capitals(long)).leak();
    // A switch that is off by a variable is what people expect of `0`, `no` and `false`.
    let arg = match arg.get_action() {
        ArgAction::SetTrue | ArgAction::SetFalse => arg.value_parser(BoolishValueParser::new()),
        _ => arg,
    };
    match arg.get_env() {
        Some(shared) if std::env::var_os(name).is_none() || shared == name => arg,
        Some(_) => arg.env(name),
        None => arg.env(name).hide_env(true),
    }
}

/// The names that flags of a command and those below it read.
fn names(command: &Command) -> BTreeSet<OsString> {
    let own = command.get_arguments().filter_map(Arg::get_env);
    let mut all: BTreeSet<OsString> = own.map(OsString::from).collect();
    command
        .get_subcommands()
        .for_each(|inner| all.extend(names(inner)));
    all
}

/// Ends the process where a variable of the command that runs is no flag of it.
pub fn refuse_unknown_variables(program: &mut Command, matches: &ArgMatches) {
    let Some((name, _)) = matches.subcommand() else {
        return;
    };
    let prefix = format!("MARILL_{}_", in_capitals(name));
    let known = names(program);
    let unknown = std::env::vars_os()
        .filter_map(|(name, _)| name.into_string().ok())
        .find(|name| name.starts_with(&prefix) && !known.contains(&OsString::from(name)));
    if let Some(variable) = unknown {
        let flag = variable[prefix.len()..]
            .to_ascii_lowercase()
            .replace('_', "-");
        let problem =
            format!("the environment has `{variable}`, and `marill {name}` has no flag `--{flag}`");
        program.error(ErrorKind::UnknownArgument, problem).exit();
    }
}
