//! The dealer: hands each party of a session its seed, and streams corrections to the server; in sessions on point
//! functions also the correction words to E0.
//!
//! It learns shapes, lengths and counts. Seeds live in memory only, so a restart burns every open session.

pub(crate) mod masks;
mod source;
mod words;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use marill_mpc::{Material, Seed};
use marill_numeric::Rounding;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::ServingError;
use crate::ahead::{SEEDS_FOLDER, StoredSeed};
use crate::metrics::Metrics;
use crate::secret_files::{random, read_or_create_key};
use crate::state::{Ledger, WhenInUse};
use crate::tls::Tls;
use crate::web::{self, HttpError, Sessions};
use crate::wire::{E0, NewSession, PROTOCOL_VERSION, SessionGrant, Setting, Terms, hex, unhex};
use masks::Masks;
use words::Lines;

/// Seeds of adapter masks, in the dealer's folder.
pub(crate) const MASKS_FILE: &str = "masks";
/// The file in the dealer's folder that a server must show; copy it to the server's machine.
pub const SERVER_KEY_FILE: &str = "server.key";

/// A session that no server takes up in this time is burnt.
const GRANT_LIFETIME: Duration = Duration::from_secs(60);
const MAX_OPEN_GRANTS: usize = 1024;
const MAX_CANDIDATES: usize = 64;
/// The longest pause of a server between two steps.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How to run a dealer.
pub struct DealerOptions {
    pub listen: SocketAddr,
    /// Needed beyond this machine.
    pub tls: Tls,
    /// Holds the server's key, the ledger and one adapter mask per client.
    pub state: PathBuf,
    pub max_sessions: usize,
}

/// Runs a dealer until a signal.
///
/// # Errors
/// A port or a state folder in use, and what [`web::run`] reports.
pub fn run(options: &DealerOptions) -> Result<(), ServingError> {
    let tls = options.tls.identity(&options.state)?;
    let bound = web::bind(options.listen, tls)?;
    let sessions = Sessions::new(options.max_sessions);
    let dealer = Dealer::open(&options.state, sessions.clone())?;
    eprintln!("servers show the key in `{}`", options.state.join(SERVER_KEY_FILE).display());
    web::run(bound, dealer.app(), &sessions)
}

/// E0's half of the seeds is gone by the time a grant is stored here: the client has it.
struct Grant {
    terms: Terms,
    client_id: String,
    seed0: Seed,
    seed1: Seed,
    issued_at: Instant,
}

pub(crate) struct Dealer {
    grants: Mutex<HashMap<String, Grant>>,
    ledger: Ledger,
    masks: Masks,
    /// E0's seeds of sessions that were written ahead.
    ahead: PathBuf,
    server_key_sha256: [u8; 32],
    lines: Lines,
    line_seats: Arc<Sessions>,
    sessions: Arc<Sessions>,
    metrics: Metrics,
}

impl Dealer {
    pub(crate) fn open(state: &Path, sessions: Arc<Sessions>) -> Result<Arc<Self>, ServingError> {
        let ledger = Ledger::open(&state.join("ledger"), WhenInUse::Fail)?;
        let key = read_or_create_key(&state.join(SERVER_KEY_FILE))?;
        Ok(Arc::new(Self {
            grants: Mutex::default(),
            ledger,
            masks: Masks::open(&state.join(MASKS_FILE))?,
            ahead: state.join(SEEDS_FOLDER),
            server_key_sha256: Sha256::digest(key.as_bytes()).into(),
            lines: Lines::default(),
            line_seats: Sessions::new(MAX_OPEN_GRANTS),
            sessions,
            metrics: Metrics::default(),
        }))
    }

    pub(crate) fn app(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/health", get(|| async { Json(serde_json::json!({ "status": "ok" })) }))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .route("/v1/sessions", post(new_session))
            .route("/v1/source", get(source_upgrade))
            .route("/v1/words", get(words_upgrade))
            .fallback(|| async { HttpError::not_found("such address") })
            .layer(middleware::from_fn(web::finish))
            .with_state(self.clone())
    }

    /// Draws the seeds of a session and records it before E0's seed leaves.
    fn issue(&self, request: NewSession) -> Result<SessionGrant, HttpError> {
        check_offer(&request.terms)?;
        if unhex::<32>(&request.client_id).is_none() {
            return Err(bad_request("`client_id` needs 64 hexadecimal digits"));
        }
        let internal = |error: ServingError| {
            tracing::error!("no session could be issued: {error}");
            let message = format!("no session could be issued: {}", error.for_peer());
            HttpError::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", "dealer", message)
        };
        if !request.candidates.is_empty() {
            return self.issue_ahead(&request).map_err(internal)?.ok_or_else(|| {
                let message = "none of these sessions is to be had: they were used before, or another dealer made them";
                HttpError::new(StatusCode::CONFLICT, "invalid_request_error", "session_used", message)
            });
        }
        let session = hex(random::<16>().map_err(internal)?.as_slice());
        let seed = || random::<32>().map(|bytes| Seed::from_bytes(*bytes)).map_err(internal);
        let (seed0, seed1) = (seed()?, seed()?);
        self.ledger.claim("issued", &session).map_err(internal)?;
        let grant = SessionGrant { session: session.clone(), seed: hex(&seed0.to_bytes()) };

        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.retain(|_, grant| grant.issued_at.elapsed() < GRANT_LIFETIME);
        if grants.len() >= MAX_OPEN_GRANTS {
            let message = "too many sessions wait for their server";
            return Err(HttpError::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", "too_many_grants", message));
        }
        let NewSession { terms, client_id, .. } = request;
        grants.insert(session, Grant { terms, client_id, seed0, seed1, issued_at: Instant::now() });
        Metrics::add(&self.metrics.sessions_started, 1);
        Ok(grant)
    }

    /// E0's seed of the first candidate that was written ahead under these terms and is not handed out yet.
    fn issue_ahead(&self, request: &NewSession) -> Result<Option<SessionGrant>, ServingError> {
        for session in request.candidates.iter().take(MAX_CANDIDATES).filter(|name| unhex::<16>(name).is_some()) {
            let path = self.ahead.join(session);
            let Ok(json) = std::fs::read(&path).map(Zeroizing::new) else { continue };
            let stored: Result<StoredSeed, _> = serde_json::from_slice(&json);
            let stored = stored.map_err(|error| ServingError::io(&path)(std::io::Error::other(error)))?;
            if stored.terms != request.terms {
                continue;
            }
            match self.ledger.claim("issued", session) {
                Err(ServingError::SessionUsed { .. }) => continue,
                claimed => claimed?,
            }
            std::fs::remove_file(&path).map_err(ServingError::io(&path))?;
            Metrics::add(&self.metrics.sessions_started, 1);
            return Ok(Some(SessionGrant { session: session.clone(), seed: stored.seed0 }));
        }
        Ok(None)
    }

    /// Takes a grant out: no other server gets this session.
    fn redeem(&self, session: &str) -> Option<Grant> {
        let mut grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.remove(session).filter(|grant| grant.issued_at.elapsed() < GRANT_LIFETIME)
    }

    /// Material and E0's seed of a session that waits for its server.
    fn granted(&self, session: &str) -> Option<(Material, Seed)> {
        let grants = self.grants.lock().unwrap_or_else(PoisonError::into_inner);
        grants.get(session).map(|grant| (grant.terms.material, grant.seed0.clone()))
    }

    fn is_server(&self, request: &Request) -> bool {
        let value = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let key = value.and_then(|value| value.strip_prefix("Bearer "));
        // Digests are compared, so the time taken says nothing about the key.
        key.is_some_and(|key| <[u8; 32]>::from(Sha256::digest(key.as_bytes())) == self.server_key_sha256)
    }
}

/// What this dealer can serve, whatever the model.
pub(crate) fn check_offer(terms: &Terms) -> Result<(), HttpError> {
    let version = PROTOCOL_VERSION.to_string();
    let fields =
        [("protocol", terms.protocol.to_string(), version.as_str()), ("reveal", terms.reveal.clone(), "token")];
    match fields.into_iter().find(|(_, asked, offered)| asked != offered) {
        None if Setting::parse(&terms.setting).is_none() => {
            Err(bad_request(format!("this dealer offers the settings `dealer` and `3pc`, not `{}`", terms.setting)))
        }
        None if Rounding::parse(&terms.rounding).is_none() => {
            let message = "this dealer offers the roundings `exact` and `stochastic`, not";
            Err(bad_request(format!("{message} `{}`", terms.rounding)))
        }
        None if E0::parse(&terms.e0).is_none() => Err(bad_request(format!("`{}` is no known `e0`", terms.e0))),
        None => Ok(()),
        Some((field, asked, offered)) => {
            Err(bad_request(format!("this dealer offers `{field}` `{offered}`, not `{asked}`")))
        }
    }
}

fn bad_request(message: impl Into<String>) -> HttpError {
    HttpError::new(StatusCode::BAD_REQUEST, "invalid_request_error", "terms", message)
}

async fn ready(State(dealer): State<Arc<Dealer>>) -> Result<&'static str, HttpError> {
    match dealer.sessions.is_draining() {
        true => Err(web::not_ready("the dealer is shutting down")),
        false => Ok("ready"),
    }
}

async fn metrics(State(dealer): State<Arc<Dealer>>) -> String {
    dealer.metrics.render(dealer.sessions.active())
}

async fn new_session(
    State(dealer): State<Arc<Dealer>>,
    Json(request): Json<NewSession>,
) -> Result<Json<SessionGrant>, HttpError> {
    if dealer.sessions.is_draining() {
        let message = "the dealer is shutting down";
        return Err(HttpError::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", "shutting_down", message));
    }
    // The record is synced to disk, which may take milliseconds.
    let issued = tokio::task::spawn_blocking(move || dealer.issue(request)).await;
    issued.map(|grant| grant.map(Json)).unwrap_or_else(|_| Err(bad_request("the dealer failed")))
}

async fn source_upgrade(State(dealer): State<Arc<Dealer>>, request: Request) -> Response {
    if !dealer.is_server(&request) {
        Metrics::add(&dealer.metrics.sessions_refused, 1);
        let message = "the key of this server is not the one in the dealer's `server.key`";
        return HttpError::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_key", message)
            .into_response();
    }
    match dealer.sessions.admit() {
        Err(refused) => refused.into_response(),
        Ok(seat) => web::upgrade(request, seat, IDLE_TIMEOUT, move |channel, count| {
            let result = source::run(&dealer, channel);
            Metrics::add(&dealer.metrics.bytes_sent, count.sent_bytes());
            Metrics::add(&dealer.metrics.bytes_received, count.received_bytes());
            if let Err(error) = result {
                Metrics::add(&dealer.metrics.sessions_failed, 1);
                tracing::warn!("a session failed: {error}");
            } else {
                tracing::info!(
                    "a session ended: {} bytes sent, {} received",
                    count.sent_bytes(),
                    count.received_bytes()
                );
            }
        }),
    }
}

/// E0's line for correction words, which shows a key made from E0's seed.
async fn words_upgrade(State(dealer): State<Arc<Dealer>>, request: Request) -> Response {
    match dealer.line_seats.admit() {
        Err(refused) => refused.into_response(),
        Ok(seat) => web::upgrade(request, seat, IDLE_TIMEOUT, move |channel, count| {
            if let Err(error) = words::run(&dealer, channel) {
                tracing::warn!("a line for correction words ended: {error}");
            }
            Metrics::add(&dealer.metrics.bytes_sent, count.sent_bytes());
            Metrics::add(&dealer.metrics.bytes_received, count.received_bytes());
        }),
    }
}
