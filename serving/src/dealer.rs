//! The dealer: hands each party of a session its seed, and streams corrections to the server; in
//! DCF sessions also the DCF keys to E0.
//!
//! It learns shapes, lengths and counts. Seeds of live sessions are in memory only, so a restart
//! ends every open one; E0's until its server takes the session up, since E0's half of every mask
//! is the dealer's business too. It opens sessions for whoever shows a [ticket](crate::ticket) of
//! one of its [owners](Owners), and for nobody else.

mod dcf_keys;
mod grants;
pub(crate) mod masks;
mod owners;
mod preprocessed;
mod produce;
mod session;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use marill_mpc::Seed;
use marill_net::peer_text;
use marill_numeric::{Rounding, hex, unhex};
use tracing::Span;
use zeroize::Zeroizing;

pub(crate) use crate::dealer::owners::owner_key;
pub use crate::dealer::{
    owners::{DEFAULT_OWNER, add_owner},
    produce::{PreprocessOptions, produce},
};
use crate::{
    compat,
    dealer::{
        dcf_keys::KeyConnections,
        grants::{Grant, Grants, Seeds},
        masks::Masks,
        owners::{Owner, Owners},
        produce::{SEEDS_FOLDER, StoredSession},
    },
    error::{HttpError, ServingError, StateError},
    kept::{Keeping, Kept},
    log,
    messages::{NewSession, SessionGrant, check_version},
    metrics::{self, Metrics},
    preprocessing::Vault,
    ready::{Readiness, has_space},
    secret_files::random,
    service,
    slots::{HeldSlot, Lobby, MAX_WAITING, SLOT_WAIT, Turn},
    state::{Store, WhenInUse},
    terms::{E0, PROTOCOL_VERSION, SessionParameters, Setting},
    ticket::Ticket,
    tls::Tls,
    web::{self, Sessions},
};

/// The file in the dealer's folder that a server must show; copy it to the server's machine.
pub const SERVER_KEY_FILE: &str = "server.key";

/// A partition's name is a digest; a little room for others.
const MAX_ID_BYTES: usize = 128;

/// How to run a dealer.
pub struct DealerOptions {
    pub listen: SocketAddr,
    /// Needed beyond this machine.
    pub tls: Tls,
    /// Holds the owners' keys, the records and the key of adapter masks.
    pub state: PathBuf,
    /// Holds the keys of preprocessed sessions; outside `state`, and restored from no backup.
    pub vault: PathBuf,
    pub max_sessions: usize,
    /// Sessions that wait for a further turn of their conversation.
    pub keeping: Keeping,
    /// Where its metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// Runs a dealer until a signal.
///
/// # Errors
/// A port or a state folder in use, and what [`web::run`] reports.
pub fn run(options: &DealerOptions) -> Result<(), ServingError> {
    let tls = options.tls.identity(&options.state)?;
    let bound = web::bind(options.listen, tls)?;
    let sessions = Sessions::with_queue(options.max_sessions, MAX_WAITING);
    let keeping = options.keeping;
    let dealer = Dealer::open(&options.state, &options.vault, sessions.clone(), keeping)?;
    let metrics = metrics::listen(options.metrics, &dealer.metrics, &sessions)?;
    let key = options.state.join(SERVER_KEY_FILE);
    log::say(&format!("servers show the key in `{}`", key.display()));
    Ok(web::run(bound, dealer.app(), &sessions, metrics)?)
}

pub(crate) struct Dealer {
    grants: Grants,
    records: Store,
    masks: Masks,
    /// Sessions that were preprocessed, and what opens them.
    preprocessed: PathBuf,
    vault: Vault,
    owners: Owners,
    key_connections: KeyConnections,
    /// Connections for DCF keys whose E0 has not shown its key.
    lobby: Arc<Lobby>,
    key_slots: Arc<Sessions>,
    sessions: Arc<Sessions>,
    kept: Arc<Kept>,
    metrics: Arc<Metrics>,
    /// Holds its records.
    folder: PathBuf,
    readiness: Readiness,
}

impl Dealer {
    pub(crate) fn open(
        state: &Path,
        vault: &Path,
        sessions: Arc<Sessions>,
        keeping: Keeping,
    ) -> Result<Arc<Self>, ServingError> {
        let records = Store::open(state, WhenInUse::Fail)?;
        let preprocessed = state.join(SEEDS_FOLDER);
        let vault = Vault::open(vault, state)?;
        vault.sweep()?;
        let lost = StoredSession::names(&preprocessed)
            .filter(|session| !vault.has(session))
            .count();
        if lost > 0 {
            tracing::warn!(
                "{lost} preprocessed sessions have no key any more and cannot be used: they were \
                 used, or the machine rebooted, or it is another vault"
            );
        }
        Ok(Arc::new(Self {
            grants: Grants::default(),
            records,
            masks: Masks::open(state)?,
            preprocessed,
            vault,
            owners: Owners::open(state)?,
            key_connections: KeyConnections::default(),
            lobby: Arc::default(),
            key_slots: Sessions::new(grants::MAX_OPEN),
            sessions,
            kept: Kept::new(keeping),
            metrics: Arc::default(),
            folder: state.into(),
            readiness: Readiness::default(),
        }))
    }

    pub(crate) fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    pub(crate) fn app(self: &Arc<Self>) -> Router {
        let own = Router::new()
            .route("/ready", get(ready))
            .route("/v1/sessions", post(new_session))
            .route("/v1/release", post(preprocessed::release))
            .route("/v1/seeds", post(preprocessed::collect))
            .route("/v1/corrections", get(corrections_upgrade))
            .route(compat::CORRECTIONS_PATH, get(corrections_upgrade))
            .route("/v1/dcf-keys", get(dcf_keys_upgrade))
            .route(compat::DCF_KEYS_PATH, get(dcf_keys_upgrade));
        service::app("dealer", own, self, Arc::new(|| None::<String>))
    }

    /// Samples the seeds of a session, or reserves one that was preprocessed. The place is taken
    /// first, then the ticket is spent on disk, then a secret leaves.
    fn issue(&self, request: NewSession) -> Result<SessionGrant, HttpError> {
        check_supported(&request.parameters)?;
        check_names(&request)?;
        let owner = self.owner_of_ticket(&request)?;
        if request.candidates.is_empty() {
            return self.issue_live(request, &owner);
        }
        let granted = self.reserve(&request, &owner)?.ok_or_else(|| {
            let message = "none of these sessions is available: they have already been used, or \
                another dealer made them";
            HttpError::new(
                StatusCode::CONFLICT,
                "invalid_request_error",
                "session_used",
                message,
            )
        })?;
        self.spend(&request.ticket, granted)
    }

    /// The owner who signed the ticket, if the ticket is this client's and unused.
    fn owner_of_ticket(&self, request: &NewSession) -> Result<Arc<Owner>, HttpError> {
        let owner = self
            .owners
            .of_ticket(&request.ticket)
            .map_err(internal)?
            .ok_or_else(|| {
                let message = "this dealer serves no owner who signed this ticket";
                HttpError::new(
                    StatusCode::UNAUTHORIZED,
                    "authentication_error",
                    "invalid_ticket",
                    message,
                )
            })?;
        // An evaluator brings its client's ticket, and has a masked adapter of its own.
        if !request.parameters.is_shared() && !owner.signed_for(&request.ticket, &request.client_id)
        {
            return Err(bad_request("this ticket is another client's"));
        }
        let is_used = self.records.is_claimed("ticket", &request.ticket.nonce);
        if is_used.map_err(internal)? {
            return Err(ticket_used());
        }
        Ok(owner)
    }

    /// A session whose seeds are sampled now.
    fn issue_live(&self, request: NewSession, owner: &Owner) -> Result<SessionGrant, HttpError> {
        let session = hex(random::<16>().map_err(internal)?.as_slice());
        let seed = || {
            random::<32>()
                .map(|bytes| Seed::from_bytes(*bytes))
                .map_err(internal)
        };
        let seed0 = seed()?;
        let seed1 = seed()?;
        let token = new_token()?;
        let text = Zeroizing::new(hex(&*Zeroizing::new(seed0.to_bytes())));
        let ticket = request.ticket;
        let grant = Grant::new(
            &owner.name,
            (request.parameters, request.client_id),
            &ticket,
            token.clone(),
            Seeds::Live { seed0, seed1 },
        );
        self.grants.insert(&session, grant)?;
        let granted = SessionGrant {
            session,
            token,
            seed: Some(text),
        };
        let granted = self.spend(&ticket, granted)?;
        Metrics::add(&self.metrics.sessions_started, 1);
        Ok(granted)
    }

    /// A ticket buys one session; the record is on disk before the grant leaves, and without it the
    /// place is given back.
    fn spend(&self, ticket: &Ticket, granted: SessionGrant) -> Result<SessionGrant, HttpError> {
        let spent = self
            .records
            .claim("ticket", &ticket.nonce)
            .map_err(|error| match error {
                StateError::SessionUsed { .. } => ticket_used(),
                error => internal(error),
            });
        if spent.is_err() {
            self.grants.remove(&granted.session);
        }
        spent.map(|()| granted)
    }

    /// The owner whose server this request is from.
    fn owner_of(&self, headers: &HeaderMap) -> Result<Arc<Owner>, HttpError> {
        let value = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let key = value.and_then(|value| value.strip_prefix("Bearer "));
        let owner = key
            .map(|key| self.owners.of_key(key))
            .transpose()
            .map_err(internal)?
            .flatten();
        owner.ok_or_else(|| {
            let message = "the key of this server is not the one in the dealer's `server.key`, nor \
                another owner's";
            HttpError::new(
                StatusCode::UNAUTHORIZED,
                "authentication_error",
                "invalid_key",
                message,
            )
        })
    }
}

/// Digests and names in a request have the form that records and files expect.
fn check_names(request: &NewSession) -> Result<(), HttpError> {
    let digests = [
        ("client_id", &request.client_id),
        ("spec_sha256", &request.parameters.spec_sha256),
        ("public_sha256", &request.parameters.public_sha256),
    ];
    let mut bad = digests
        .into_iter()
        .filter(|(_, text)| unhex::<32>(text).is_none());
    if let Some((name, _)) = bad.next() {
        return Err(bad_request(format!("`{name}` needs 64 hexadecimal digits")));
    }
    if request.parameters.partition_id.len() > MAX_ID_BYTES {
        return Err(bad_request(format!(
            "`partition_id` is longer than {MAX_ID_BYTES} bytes"
        )));
    }
    Ok(())
}

/// What a client proves to know, to open or collect its session.
fn new_token() -> Result<Zeroizing<String>, HttpError> {
    let bytes = random::<32>().map_err(internal)?;
    Ok(Zeroizing::new(hex(bytes.as_slice())))
}

fn ticket_used() -> HttpError {
    let message = "this ticket has already been used";
    HttpError::new(
        StatusCode::CONFLICT,
        "invalid_request_error",
        "ticket_used",
        message,
    )
}

fn internal(error: impl Into<ServingError>) -> HttpError {
    let error = error.into();
    tracing::error!("no session could be issued: {error}");
    let message = format!("no session could be issued: {}", error.for_peer());
    HttpError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "server_error",
        "dealer",
        message,
    )
}

/// A message with session parameters; one of another version is refused by its version, whatever
/// else differs.
fn body<T: serde::de::DeserializeOwned>(request: serde_json::Value) -> Result<T, HttpError> {
    check_version(&request).map_err(|error| bad_request(error.to_string()))?;
    serde_json::from_value(request)
        .map_err(|error| bad_request(format!("the request is not understood: {error}")))
}

/// What this dealer can serve, whatever the model.
pub(crate) fn check_supported(parameters: &SessionParameters) -> Result<(), HttpError> {
    let version = PROTOCOL_VERSION.to_string();
    let fields = [
        (
            "protocol",
            parameters.protocol.to_string(),
            version.as_str(),
        ),
        ("reveal", parameters.reveal.clone(), "token"),
    ];
    match fields
        .into_iter()
        .find(|(_, asked, supported)| asked != supported)
    {
        None if Setting::parse(&parameters.setting).is_none() => Err(bad_request(format!(
            "this dealer offers the settings `dealer` and `3pc`, not `{}`",
            parameters.setting
        ))),
        None if Rounding::parse(&parameters.rounding).is_none() => {
            let message = "this dealer offers the roundings `exact` and `stochastic`, not";
            Err(bad_request(format!("{message} `{}`", parameters.rounding)))
        }
        None if E0::parse(&parameters.e0).is_none() => {
            Err(bad_request(format!("`{}` is no known `e0`", parameters.e0)))
        }
        None => Ok(()),
        Some((field, asked, supported)) => Err(bad_request(format!(
            "this dealer offers `{field}` `{supported}`, not `{asked}`"
        ))),
    }
}

fn bad_request(message: impl Into<String>) -> HttpError {
    HttpError::new(
        StatusCode::BAD_REQUEST,
        "invalid_request_error",
        "terms",
        message,
    )
}

async fn ready(State(dealer): State<Arc<Dealer>>) -> Result<&'static str, HttpError> {
    service::check_running("dealer", &dealer.sessions)?;
    let folder = dealer.folder.clone();
    dealer
        .readiness
        .check(move || has_space(&folder))
        .await
        .map(|()| "ready")
}

async fn new_session(
    State(dealer): State<Arc<Dealer>>,
    Json(request): Json<serde_json::Value>,
) -> Result<Json<SessionGrant>, HttpError> {
    let request: NewSession = body(request)?;
    let span = Span::current();
    let partition = peer_text(&request.parameters.partition_id);
    span.record("partition", partition.as_str());
    if dealer.sessions.is_draining() {
        let message = "the dealer is shutting down";
        return Err(HttpError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "server_error",
            "shutting_down",
            message,
        ));
    }
    // The record is synced to disk, which may take milliseconds.
    let issued = tokio::task::spawn_blocking(move || span.in_scope(|| dealer.issue(request))).await;
    if let Ok(Ok(granted)) = &issued {
        Span::current().record("session", granted.session.as_str());
    }
    issued
        .map(|grant| grant.map(Json))
        .unwrap_or_else(|_| Err(bad_request("the dealer failed")))
}

async fn corrections_upgrade(State(dealer): State<Arc<Dealer>>, request: Request) -> Response {
    let owner = match dealer.owner_of(request.headers()) {
        Ok(owner) => owner,
        Err(refused) => return service::refuse(&dealer.metrics, refused),
    };
    let slot = match dealer.sessions.admit_in_turn(SLOT_WAIT).await {
        Ok(slot) => slot,
        Err(refused) => return service::refuse(&dealer.metrics, refused),
    };
    let metrics = dealer.metrics.clone();
    let held = HeldSlot::taken(Turn::again(&dealer.sessions), slot);
    service::session(request, &metrics, move |channel, count| {
        session::run(&dealer, &owner, channel, held).inspect(|()| service::say_ended(count))
    })
}

/// E0's connection for DCF keys, which shows a key made from E0's seed.
async fn dcf_keys_upgrade(State(dealer): State<Arc<Dealer>>, request: Request) -> Response {
    let guest = match dealer.lobby.enter(web::address_of(request.extensions())) {
        Ok(guest) => guest,
        Err(refused) => return refused.into_response(),
    };
    let metrics = dealer.metrics.clone();
    service::upgrade(request, &metrics, move |channel, _| {
        if let Err(error) = dcf_keys::run(&dealer, channel, guest) {
            tracing::warn!("a connection for DCF keys ended: {error}");
        }
    })
}
