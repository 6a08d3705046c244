//! The services that a client uses: where they are, and how it talks to them.

use std::path::PathBuf;

use anyhow::Context;
use marill_mpc::PrivateProducts;
use marill_net::tls::Authorities;
use marill_serving::{
    Endpoint, SetUpLimits,
    client::{ComparisonChoice, CorrelationPreference},
    terms::Setting,
};

use crate::args::{
    folders::{Folders, default_cache, given_or},
    network::{link, network},
};

pub const DEFAULT_SERVER: &str = "http://127.0.0.1:8100";
pub const DEFAULT_DEALER: &str = "http://127.0.0.1:8200";

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
    /// No other setting will do: `dealer`, `3pc`, or `2pc` (no dealer) [default: what the server
    /// offers; where all parties run in this process, `dealer`]
    #[arg(long, value_name = "NAME", value_parser = parse_setting)]
    pub setting: Option<Setting>,
    /// No other way of private products will do, where there is a dealer: `masks`, or `lattice`,
    /// which promises nothing against a server that deviates [default: the server's]
    #[arg(long, value_name = "WAY", value_parser = parse_private_products)]
    private_products: Option<PrivateProducts>,
    /// In the setting `2pc`, make base transfers and keys anew (8.4 MB each way) instead of using
    /// those of an earlier session, and keep none: a file that is stolen later opens no session of
    /// now
    #[arg(long)]
    no_keep_set_up: bool,
    #[command(flatten)]
    authorities: AuthoritiesArgs,
    #[command(flatten)]
    pub folders: Folders,
}

/// How private products are made, by its name on the command line.
///
/// # Errors
/// Another name.
pub fn parse_private_products(text: &str) -> Result<PrivateProducts, String> {
    PrivateProducts::parse(text).ok_or_else(|| "it is `masks` or `lattice`".into())
}

/// A setting by its name on the command line.
pub fn parse_setting(text: &str) -> Result<Setting, String> {
    Setting::parse(text).ok_or_else(|| "the settings are `dealer`, `3pc` and `2pc`".into())
}

/// Names of comparison protocols on the command line.
#[derive(Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
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
        given_or(self.cache.as_ref(), default_cache(), "--cache")
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
            setting: self.setting,
            private_products: self.private_products,
            set_ups: match self.no_keep_set_up {
                true => SetUpLimits::NONE,
                false => SetUpLimits::CLIENT,
            },
            party: self
                .party
                .clone()
                .map(|endpoint| self.authorities.apply(endpoint))
                .transpose()?,
        })
    }
}

/// Whether further turns go on in the session of the earlier ones.
#[derive(clap::Args)]
pub struct NoKeepArgs {
    /// Begin every answer in a session of its own: the server does not see which answers belong to
    /// one conversation, and each turn computes all earlier ones again
    #[arg(long)]
    no_keep: bool,
}

impl NoKeepArgs {
    pub fn keeps(&self) -> bool {
        !self.no_keep
    }
}
