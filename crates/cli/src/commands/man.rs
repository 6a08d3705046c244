//! `marill man`: the manual pages, made from the commands' own help.

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Command;

#[derive(clap::Args)]
pub struct Args {
    /// Folder for the pages, `marill.1` and one for each command; made if it is not there
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

/// Writes the pages of a program.
///
/// # Errors
/// A folder or file that cannot be written, by the folder's path.
pub fn run(args: &Args, program: Command) -> anyhow::Result<ExitCode> {
    let folder = &args.folder;
    let place = || format!("cannot write manual pages into `{}`", folder.display());
    fs::create_dir_all(folder).with_context(place)?;
    clap_mangen::generate_to(program, folder).with_context(place)?;
    Ok(ExitCode::SUCCESS)
}
