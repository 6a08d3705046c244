//! Where the services listen and keep their files unless told otherwise.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
};

use anyhow::Context;
use marill_net::tls::Authorities;
use marill_serving::{
    Endpoint,
    client::{ComparisonChoice, CorrelationPreference},
    tls::Tls,
};

use crate::args::network::{link, network};

pub const DEFAULT_SERVER: &str = "http://127.0.0.1:8100";
pub const DEFAULT_DEALER: &str = "http://127.0.0.1:8200";
/// Each session is a thread.
const MAX_SESSIONS: usize = 10_000;

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

/// Where a service exports its metrics.
#[derive(clap::Args)]
pub struct MetricsArgs {
    /// Export metrics to Prometheus at `/metrics` of this address, in plain text: a port of this
    /// machine, or ADDRESS:PORT. Whoever reads them sees the lengths and times of all sessions
    /// [default: nowhere]
    #[arg(
        long,
        value_name = "ADDR",
        env = "MARILL_METRICS_LISTEN",
        value_parser = parse_metrics_address,
    )]
    pub metrics_listen: Option<SocketAddr>,
}

fn parse_metrics_address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        Err(_) => text
            .parse()
            .map_err(|_| "it is neither a port nor ADDRESS:PORT".to_string()),
    }
}

/// How many sessions a service may run at once.
pub fn parse_sessions(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(sessions @ 1..=MAX_SESSIONS) => Ok(sessions),
        _ => Err(format!("it is no number from 1 to {MAX_SESSIONS}")),
    }
}

/// Whether and as whom a service speaks TLS.
#[derive(clap::Args)]
pub struct TlsArgs {
    /// Speak TLS, which other machines need; the printed address names the certificate that clients
    /// then insist on
    #[arg(long)]
    tls: bool,
    /// Speak TLS with this certificate and its chain (PEM), which an authority signed for this
    /// host's name
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl TlsArgs {
    pub fn tls(self) -> Tls {
        match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Tls::Files { certificate, key },
            _ if self.tls => Tls::SelfSigned,
            _ => Tls::Off,
        }
    }
}

/// Whose word is taken for services at `https://host:port` without a pinned certificate.
#[derive(clap::Args)]
pub struct AuthoritiesArgs {
    /// Believe the certificate authorities in this PEM file, instead of the public ones, for
    /// `https://` addresses that pin no certificate
    #[arg(long, value_name = "FILE", env = "MARILL_TLS_CA")]
    tls_ca: Option<PathBuf>,
}

impl AuthoritiesArgs {
    /// # Errors
    /// The file holds no certificate.
    pub fn apply(&self, endpoint: Endpoint) -> anyhow::Result<Endpoint> {
        let Some(path) = &self.tls_ca else {
            return Ok(endpoint);
        };
        let authorities =
            Authorities::from_pem(path).with_context(|| format!("`{}`", path.display()))?;
        Ok(endpoint.trusting(&authorities))
    }
}

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

/// Names of [`CorrelationPreference`] on the command line.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
pub enum CorrelationsArg {
    #[default]
    Any,
    #[value(alias = "ahead")]
    Preprocessed,
    Live,
}

impl From<CorrelationsArg> for CorrelationPreference {
    fn from(arg: CorrelationsArg) -> Self {
        match arg {
            CorrelationsArg::Any => Self::Any,
            CorrelationsArg::Preprocessed => Self::Preprocessed,
            CorrelationsArg::Live => Self::Live,
        }
    }
}

/// The services that a client uses, and what it keeps.
#[derive(clap::Args)]
pub struct Services {
    /// The dealer
    #[arg(long, value_name = "URL", env = "MARILL_DEALER", default_value = DEFAULT_DEALER)]
    pub dealer: Endpoint,
    /// The computing party to send shares to, where the server asks for one (`marill serve --e0
    /// party`)
    #[arg(long, value_name = "URL", env = "MARILL_PARTY", alias = "evaluator")]
    party: Option<Endpoint>,
    /// Key for the server, where it asks for one
    #[arg(
        long,
        value_name = "KEY",
        env = "MARILL_API_KEY",
        hide_env_values = true
    )]
    pub api_key: Option<String>,
    /// Downloads [default: ~/.cache/marill]
    #[arg(long, value_name = "DIR", env = "MARILL_CACHE")]
    cache: Option<PathBuf>,
    /// Correlations: preprocessed ones where the server has some that fit (`any`), only these
    /// (`preprocessed`), or only those that the dealer streams (`live`)
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        default_value_t,
        env = "MARILL_CORRELATIONS"
    )]
    correlations: CorrelationsArg,
    /// Comparison protocol: `one-hot` (fewer bytes), `dcf` (fewer rounds; the dealer sends keys to
    /// E0 too), or what takes less time on the network of `--network`. With a computing party,
    /// `auto` leaves the choice to it, and its `auto` follows what a client insists on
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        default_value_t,
        env = "MARILL_COMPARISON",
        alias = "material"
    )]
    comparison: ComparisonArg,
    /// The network to the server and to the dealer, for `--comparison auto`: lan (0.2 ms, 10 Gbps),
    /// wan (40 ms, 200 Mbps), RTTms/Mbps such as 10/500, or none
    #[arg(
        long,
        value_name = "LINK",
        default_value = "none",
        env = "MARILL_NETWORK"
    )]
    network: String,
    #[command(flatten)]
    authorities: AuthoritiesArgs,
    #[command(flatten)]
    pub folders: Folders,
}

/// Names of comparison protocols on the command line.
#[derive(Clone, Copy, Default, clap::ValueEnum)]
pub enum ComparisonArg {
    #[default]
    Auto,
    #[value(alias = "digits")]
    OneHot,
    #[value(alias = "points")]
    Dcf,
}

impl Services {
    fn comparison(&self) -> anyhow::Result<ComparisonChoice> {
        Ok(match (self.comparison, link(&self.network)?) {
            (ComparisonArg::Dcf, _) => ComparisonChoice::Dcf,
            (ComparisonArg::Auto, Some(link)) => ComparisonChoice::Quickest(network(&link)),
            (ComparisonArg::Auto, None) => ComparisonChoice::Open,
            (ComparisonArg::OneHot, _) => ComparisonChoice::OneHot,
        })
    }

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
        for endpoint in [Some(&server), Some(&self.dealer), self.party.as_ref()]
            .into_iter()
            .flatten()
        {
            endpoint.check()?;
        }
        Ok(marill_serving::client::ClientOptions {
            server: self.authorities.apply(server)?,
            dealer: self.authorities.apply(self.dealer.clone())?,
            api_key: self.api_key.clone(),
            cache: self.cache()?,
            state: self.folders.state()?.join("client"),
            max_sessions,
            source: self.correlations.into(),
            comparison: self.comparison()?,
            party: self
                .party
                .clone()
                .map(|endpoint| self.authorities.apply(endpoint))
                .transpose()?,
        })
    }
}

/// Where downloads and keys of one use go unless a flag says otherwise.
///
/// # Errors
/// There is no home folder.
pub fn default_cache() -> anyhow::Result<PathBuf> {
    below(&None, "XDG_CACHE_HOME", ".cache", "--vault")
}

fn below(
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
