//! Folders of this user: a flag, a variable of XDG, or a default below the home folder.

use std::path::PathBuf;

use anyhow::Context;

/// Folders of this user.
#[derive(clap::Args)]
pub struct Folders {
    /// Keys and records of sessions [default: ~/.local/state/marill]
    #[arg(long, value_name = "DIR", env = "MARILL_STATE", global = true)]
    state: Option<PathBuf>,
}

impl Folders {
    /// # Errors
    /// Neither the flag nor a home folder is there.
    pub fn state(&self) -> anyhow::Result<PathBuf> {
        below(&self.state, "XDG_STATE_HOME", ".local/state", "--state")
    }
}

/// Where downloads and keys of one use go unless a flag says otherwise.
///
/// # Errors
/// There is no home folder.
pub fn default_cache() -> anyhow::Result<PathBuf> {
    below(&None, "XDG_CACHE_HOME", ".cache", "--vault")
}

/// The folder `given` by a flag, or `marill` below what the variable names, or below the home
/// folder.
///
/// # Errors
/// Neither the flag nor a home folder is there.
pub fn below(
    given: &Option<PathBuf>,
    variable: &str,
    in_home: &str,
    flag: &str,
) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    if let Some(base) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(base).join("marill"));
    }
    let home = std::env::home_dir()
        .with_context(|| format!("there is no home folder\nhint: give `{flag}`"))?;
    Ok(home.join(in_home).join("marill"))
}
