//! Folders of this user: a flag, a variable of XDG, or a default below the home folder.

use std::path::PathBuf;

use anyhow::Context;
use marill_hub::user_folder;

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
        let found = user_folder("XDG_STATE_HOME", ".local/state").map(|dir| dir.join("marill"));
        given_or(self.state.as_ref(), found, "--state")
    }
}

/// Where downloads, cached activations and keys of one use go unless a flag says otherwise; none
/// without a home folder.
pub fn default_cache() -> Option<PathBuf> {
    user_folder("XDG_CACHE_HOME", ".cache").map(|dir| dir.join("marill"))
}

/// What the flag gives, or else what was found.
///
/// # Errors
/// Neither is there.
pub fn given_or(
    given: Option<&PathBuf>,
    found: Option<PathBuf>,
    flag: &str,
) -> anyhow::Result<PathBuf> {
    let folder = given.cloned().or(found);
    folder.with_context(|| format!("there is no home folder\nhint: give `{flag}`"))
}
