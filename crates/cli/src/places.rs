//! Where the services listen and keep their files unless told otherwise.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use marill_serving::Endpoint;

pub const DEFAULT_SERVER: &str = "http://127.0.0.1:8100";
pub const DEFAULT_DEALER: &str = "http://127.0.0.1:8200";

/// Where a service listens.
#[derive(clap::Args)]
pub struct Listen {
    /// Address to listen on; plain text stays on this machine
    #[arg(long, env = "MARILL_HOST", default_value = "127.0.0.1")]
    pub host: IpAddr,
}

impl Listen {
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.host, port)
    }
}

/// Folders of this user.
#[derive(clap::Args)]
pub struct Folders {
    /// Keys and records of sessions [default: ~/.local/state/marill]
    #[arg(long, value_name = "DIR", env = "MARILL_STATE")]
    state: Option<PathBuf>,
}

impl Folders {
    /// # Errors
    /// Neither the flag nor a home folder is there.
    pub fn state(&self) -> anyhow::Result<PathBuf> {
        below(&self.state, "XDG_STATE_HOME", ".local/state", "--state")
    }
}

/// The services that a client uses, and what it keeps.
#[derive(clap::Args)]
pub struct Services {
    /// The dealer
    #[arg(long, value_name = "URL", env = "MARILL_DEALER", default_value = DEFAULT_DEALER)]
    pub dealer: Endpoint,
    /// Key for the server, where it asks for one
    #[arg(long, value_name = "KEY", env = "MARILL_API_KEY", hide_env_values = true)]
    pub api_key: Option<String>,
    /// Downloads [default: ~/.cache/marill]
    #[arg(long, value_name = "DIR", env = "MARILL_CACHE")]
    cache: Option<PathBuf>,
    #[command(flatten)]
    pub folders: Folders,
}

impl Services {
    /// # Errors
    /// Neither the flag nor a home folder is there.
    pub fn cache(&self) -> anyhow::Result<PathBuf> {
        below(&self.cache, "XDG_CACHE_HOME", ".cache", "--cache")
    }

    /// The options of a client of `server`.
    ///
    /// # Errors
    /// As [`Self::cache`].
    pub fn client(
        &self,
        server: Endpoint,
        max_sessions: usize,
    ) -> anyhow::Result<marill_serving::client::ClientOptions> {
        Ok(marill_serving::client::ClientOptions {
            server,
            dealer: self.dealer.clone(),
            api_key: self.api_key.clone(),
            cache: self.cache()?,
            state: self.folders.state()?.join("client"),
            max_sessions,
        })
    }
}

fn below(given: &Option<PathBuf>, variable: &str, in_home: &str, flag: &str) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.clone());
    }
    if let Some(base) = std::env::var_os(variable).filter(|value| !value.is_empty()) {
        return Ok(PathBuf::from(base).join("marill"));
    }
    let home = std::env::home_dir().with_context(|| format!("there is no home folder\nhint: give `{flag}`"))?;
    Ok(home.join(in_home).join("marill"))
}
