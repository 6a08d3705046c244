//! The user's side: the public part and the plaintext prefix, evaluator E0 of every session.

mod answer;
mod cache;
mod comparison;
mod connection;
mod cost;
mod detokenize;
mod generate;
mod kept;
mod opener;
mod outsourced;
mod precompute;
mod prefixes;
mod progress;
mod prompt;
mod session;
mod state;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use marill_model::{ChatTemplate, Tokenizer};
use marill_mpc::{Comparison, PrivateProducts, ProgramSpec};
use marill_net::{Cutter, Endpoint, WireCount, http::HttpClient, peer_text};
use marill_partition::{Partition, PartitionError};

pub use crate::client::{
    answer::{Answer, Event, Finish, Request},
    cache::Supported,
    comparison::ComparisonChoice,
    cost::{Cost, Offline},
    generate::Opening,
    opener::{CorrelationPreference, SessionOpener},
    progress::{StepProgress, StepShape},
    session::SecureSession,
    state::ClientState,
};
use crate::{
    client::{kept::KeptSession, prefixes::Prefixes},
    error::{ClientError, ServingError},
    kept::Keeping,
    set_ups::SetUpLimits,
    terms::{E0, SessionParameters, Setting},
};

/// Which services to use and where to keep what is downloaded.
#[derive(Clone)]
pub struct ClientOptions {
    pub server: Endpoint,
    pub dealer: Endpoint,
    pub api_key: Option<String>,
    /// Downloads: the public part and masked adapters.
    pub cache: PathBuf,
    /// This client's random name and its record of sessions.
    pub state: PathBuf,
    /// Sessions that may run at once; they share the prefix's weights and have a cache each.
    pub max_sessions: usize,
    pub source: CorrelationPreference,
    /// The computing party that computes in the client's place, where the server wants one.
    pub party: Option<Endpoint>,
    pub comparison: ComparisonChoice,
    /// The only setting that will do; none: what the server offers.
    pub setting: Option<Setting>,
    /// The only way of private products that will do, where there is a dealer; none: the server's.
    pub private_products: Option<PrivateProducts>,
    /// In the setting `2pc`: what is kept between sessions.
    pub set_ups: SetUpLimits,
}

/// Fetches what is missing of the public part; also says how the server offers to compute.
///
/// # Errors
/// As [`Client::connect`].
pub fn fetch(
    options: &ClientOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<(PathBuf, Supported), ServingError> {
    let server = HttpClient::new(options.server.clone(), options.api_key.clone());
    cache::fetch(&server, &options.cache, progress)
}

/// Opens a partition's public part that was downloaded; what is damaged is named with its folder.
///
/// # Errors
/// [`ClientError::BadCache`].
pub(crate) fn open_cached(folder: &Path) -> Result<Partition, ServingError> {
    Partition::open_public(folder).map_err(|source| match source {
        PartitionError::Schema { .. } | PartitionError::Spec(_) => ServingError::Partition(source),
        source => {
            let folder = folder.into();
            let source = Box::new(source);
            ClientError::BadCache { folder, source }.into()
        }
    })
}

/// A model that is evaluated together with a server.
pub struct Client {
    pub model_name: String,
    pub parameters: SessionParameters,
    spec: ProgramSpec,
    tokenizer: Tokenizer,
    chat_template: Option<ChatTemplate>,
    public_layers: usize,
    prefixes: Prefixes<KeptSession>,
    sessions: SessionOpener,
    source: CorrelationPreference,
    sampling: bool,
    /// For how long the server keeps a session for a further turn.
    keep: Duration,
    cutter: Cutter,
}

impl Client {
    /// Fetches what is missing of the public part and checks every digest; `progress` hears of
    /// downloads.
    ///
    /// # Errors
    /// An unreachable server, a wrong digest, a partition that this build cannot run.
    pub fn connect(
        options: &ClientOptions,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Self, ServingError> {
        let (folder, supported) = fetch(options, progress)?;
        Self::open(&open_cached(&folder)?, options, supported)
    }

    /// Uses a partition that is on this machine already; its private part is not read.
    ///
    /// # Errors
    /// As [`Self::connect`], without the downloads.
    pub fn with_partition(
        partition: &Partition,
        options: &ClientOptions,
    ) -> Result<Self, ServingError> {
        let setting = options.setting.unwrap_or_default();
        let supported = Supported {
            setting,
            e0: E0::Client,
            sampling: true,
            dcf: setting != Setting::TwoParties,
            // A server that keeps none says so by its end.
            keep_seconds: Keeping::of(1).seconds(),
            private_products: options.private_products.unwrap_or_default(),
        };
        Self::open(partition, options, supported)
    }

    fn open(
        partition: &Partition,
        options: &ClientOptions,
        supported: Supported,
    ) -> Result<Self, ServingError> {
        let cutter = Cutter::default();
        let sessions = SessionOpener::new(partition, options, supported)?.ended_by(&cutter);
        let prefix = partition.prefix()?;
        let mut prefixes: Vec<_> = (1..options.max_sessions).map(|_| prefix.fork()).collect();
        prefixes.push(prefix);
        Ok(Self {
            model_name: peer_text(&partition.manifest.name),
            tokenizer: partition.tokenizer().clone(),
            chat_template: partition.chat_template().cloned(),
            public_layers: partition.manifest.transforms.frozen_layers,
            prefixes: Prefixes::new(prefixes),
            spec: sessions.spec.clone(),
            parameters: sessions.parameters.clone(),
            sessions,
            source: options.source,
            sampling: supported.sampling,
            keep: Duration::from_secs(supported.keep_seconds.min(3600)),
            cutter,
        })
    }

    /// Bytes on the sockets to the server and to the dealer since the start, headers included.
    pub fn wire_counts(&self) -> (&Arc<WireCount>, &Arc<WireCount>) {
        (&self.sessions.server.count, &self.sessions.dealer.count)
    }

    /// What ends all connections of this client from another thread, those of sessions that wait
    /// for a further turn too. An answer in the making then fails within its step, whose masks are
    /// spent; until it is renewed, no session opens.
    #[must_use]
    pub fn cutter(&self) -> Cutter {
        self.cutter.clone()
    }

    /// Ends the sessions that wait for a further turn.
    pub fn end_kept(&self) {
        self.prefixes.end_all();
    }

    /// Sessions that wait for a further turn.
    pub fn kept(&self) -> usize {
        self.prefixes.kept()
    }

    pub fn server(&self) -> &HttpClient {
        &self.sessions.server
    }

    /// Server and dealer (or the computing party in its place, or no third party in the setting
    /// `2pc`) are all on this machine:
    /// whoever runs it sees everything.
    pub fn is_demonstration(&self) -> bool {
        if self.parameters.is_two_party() {
            return self.sessions.server.endpoint.is_here();
        }
        let third = self
            .sessions
            .party
            .as_ref()
            .unwrap_or(&self.sessions.dealer);
        self.sessions.server.endpoint.is_here() && third.endpoint.is_here()
    }

    /// The services that this client talks to, by role: `server`, and `dealer` or `party` where it
    /// talks to one.
    pub fn services(&self) -> Vec<(&'static str, &HttpClient)> {
        let server = ("server", &self.sessions.server);
        let third = match &self.sessions.party {
            _ if self.parameters.is_two_party() => None,
            Some(party) => Some(("party", party)),
            None => Some(("dealer", &self.sessions.dealer)),
        };
        std::iter::once(server).chain(third).collect()
    }

    /// Whether streamed sessions of this client can wait for a further turn, as
    /// [`SecureSession::can_wait`] has it, and the server keeps them.
    pub fn keeps_sessions(&self) -> bool {
        let can_wait = match self.parameters.is_two_party() {
            true => true,
            false => {
                !self.parameters.is_shared() && self.parameters.comparison == Comparison::OneHot
            }
        };
        can_wait && !self.keep.is_zero()
    }

    /// Whether the server samples tokens.
    pub fn samples(&self) -> bool {
        self.sampling
    }

    /// Layers that run here in clear.
    pub fn public_layers(&self) -> usize {
        self.public_layers
    }

    /// Layers that are evaluated together with the server.
    pub fn private_layers(&self) -> usize {
        self.spec.num_layers
    }

    /// Most tokens of prompt and answer together, padding included.
    pub fn max_positions(&self) -> usize {
        self.spec.max_positions
    }

    /// Token ids are below this number.
    pub fn vocabulary(&self) -> usize {
        self.spec.vocab_size
    }

    /// Whether the model has a chat template; without one, a conversation is its contents, line by
    /// line.
    pub fn has_chat_template(&self) -> bool {
        self.chat_template.is_some()
    }
}

/// Sessions that wait hold what they wait in.
impl Drop for Client {
    fn drop(&mut self) {
        self.prefixes.end_all();
    }
}
