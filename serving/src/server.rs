//! The model owner's service: evaluator E1 of every session, and downloads of the public part.

mod files;
mod keys;
mod session;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{Path as UrlPath, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use marill_mpc::{DecoderSpec, PrivateWeights, PublicWeights};
use marill_net::Endpoint;
use marill_net::http::HttpClient;
use marill_partition::{Manifest, Partition};
use sha2::{Digest, Sha256};

use crate::ServingError;
use crate::ledger::{Ledger, WhenInUse};
use crate::metrics::Metrics;
use crate::state::read_line;
use crate::tls::Identity;
use crate::web::{self, HttpError, Sessions};
use crate::wire::{Terms, hex};
use keys::ApiKeys;

/// The longest pause of a client between two steps.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// How to run a server.
pub struct ServerOptions {
    /// The partition, private part included.
    pub partition: PathBuf,
    pub listen: SocketAddr,
    /// Needed beyond this machine; the certificate is made on first use and kept in the state folder.
    pub tls: bool,
    pub dealer: Endpoint,
    /// The dealer's `server.key`.
    pub dealer_key: PathBuf,
    pub state: PathBuf,
    pub max_sessions: usize,
    /// Lines of `sha256-of-key name`; without it everybody who can connect is served.
    pub api_keys: Option<PathBuf>,
}

/// What E1 computes with.
pub struct SecureModel {
    pub terms: Terms,
    pub spec: DecoderSpec,
    pub public: Arc<PublicWeights>,
    pub private: Arc<PrivateWeights>,
    private_sha256: String,
}

impl SecureModel {
    pub fn new(partition_id: &str, spec: DecoderSpec, public: PublicWeights, private: PrivateWeights) -> Self {
        let private_sha256 = hex(&Sha256::digest(private.to_bytes()));
        let terms = Terms::new(partition_id, &spec, &public);
        Self { terms, spec, public: Arc::new(public), private: Arc::new(private), private_sha256 }
    }
}

/// The published side of a model: what anybody may download.
struct Published {
    folder: PathBuf,
    manifest: Manifest,
    created: u64,
}

pub(crate) struct Server {
    model: SecureModel,
    published: Option<Published>,
    dealer: HttpClient,
    ledger: Ledger,
    keys: Option<ApiKeys>,
    sessions: Arc<Sessions>,
    metrics: Metrics,
}

/// Runs a server until a signal.
///
/// # Errors
/// A partition that cannot be served, a port or state in use, no dealer key, and what [`web::run`] reports.
pub fn run(options: &ServerOptions) -> Result<(), ServingError> {
    let tls = options.tls.then(|| Identity::read_or_create(&options.state)).transpose()?;
    let bound = web::bind(options.listen, tls)?;
    let partition = Partition::open(&options.partition)?;
    let spec = partition.decoder_spec().clone();
    let public = partition.public_weights()?;
    let private = partition.private_weights(&public)?;
    let model = SecureModel::new(partition.partition_id(), spec, public, private);
    let published =
        Published { folder: options.partition.clone(), manifest: partition.manifest.clone(), created: unix_seconds() };
    drop(partition);
    let sessions = Sessions::new(options.max_sessions);
    let server = Server {
        dealer: HttpClient::new(options.dealer.clone(), Some(read_line(&options.dealer_key)?)),
        ledger: Ledger::open(&options.state.join("ledger"), WhenInUse::Fail)?,
        keys: options.api_keys.as_deref().map(ApiKeys::open).transpose()?,
        published: Some(published),
        sessions: sessions.clone(),
        metrics: Metrics::default(),
        model,
    };
    web::run(bound, Arc::new(server).app(), &sessions)
}

impl Server {
    /// A server for sessions alone, without a partition on disk.
    pub(crate) fn bare(
        model: SecureModel,
        dealer: HttpClient,
        state: &Path,
        limit: usize,
    ) -> Result<Arc<Self>, ServingError> {
        Ok(Arc::new(Self {
            model,
            published: None,
            dealer,
            ledger: Ledger::open(&state.join("ledger"), WhenInUse::Fail)?,
            keys: None,
            sessions: Sessions::new(limit),
            metrics: Metrics::default(),
        }))
    }

    pub(crate) fn app(self: &Arc<Self>) -> Router {
        Router::new()
            .route("/health", get(|| async { Json(serde_json::json!({ "status": "ok" })) }))
            .route("/ready", get(ready))
            .route("/metrics", get(metrics))
            .route("/v1/models", get(models))
            .route("/v1/models/{id}/manifest", get(manifest))
            .route("/v1/models/{id}/files/{*path}", get(file))
            .route("/v1/session", get(session_upgrade))
            .fallback(|| async { HttpError::not_found("such address") })
            .with_state(self.clone())
    }

    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    fn check_key(&self, headers: &HeaderMap) -> Result<(), HttpError> {
        self.keys.as_ref().map_or(Ok(()), |keys| keys.check(headers))
    }

    fn published(&self, id: &str) -> Result<&Published, HttpError> {
        let named = |published: &&Published| id == published.manifest.name || id == published.manifest.partition_id;
        self.published.as_ref().filter(named).ok_or_else(|| HttpError::not_found("such model"))
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

/// Ready means that a session would start now: the dealer answers and nothing is being shut down.
async fn ready(State(server): State<Arc<Server>>) -> Response {
    if server.sessions.is_draining() {
        return (StatusCode::SERVICE_UNAVAILABLE, "shutting down").into_response();
    }
    let dealer = server.dealer.clone();
    match tokio::task::spawn_blocking(move || dealer.get("/ready", 1 << 16)).await {
        Ok(Ok(answer)) if answer.status == 200 => (StatusCode::OK, "ready").into_response(),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "the dealer is not ready").into_response(),
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> String {
    server.metrics.render(server.sessions.active())
}

async fn models(State(server): State<Arc<Server>>, headers: HeaderMap) -> Result<Json<serde_json::Value>, HttpError> {
    server.check_key(&headers)?;
    let data: Vec<_> = server
        .published
        .iter()
        .map(|published| {
            serde_json::json!({
                "id": published.manifest.name, "object": "model", "created": published.created,
                "owned_by": "marill", "partition_id": published.manifest.partition_id,
            })
        })
        .collect();
    Ok(Json(serde_json::json!({ "object": "list", "data": data })))
}

async fn manifest(
    State(server): State<Arc<Server>>,
    UrlPath(id): UrlPath<String>,
    headers: HeaderMap,
) -> Result<Json<Manifest>, HttpError> {
    server.check_key(&headers)?;
    Ok(Json(server.published(&id)?.manifest.clone()))
}

async fn file(
    State(server): State<Arc<Server>>,
    UrlPath((id, path)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    server.check_key(&headers)?;
    let published = server.published(&id)?;
    let listed = published.manifest.public_files.iter().find(|entry| entry.path == path);
    let entry = listed.ok_or_else(|| HttpError::not_found("such file in the public part"))?;
    files::send(published.folder.join(&entry.path), entry.bytes).await
}

async fn session_upgrade(State(server): State<Arc<Server>>, request: Request) -> Response {
    let seat = server.check_key(request.headers()).and_then(|()| server.sessions.admit());
    match seat {
        Err(refused) => {
            Metrics::add(&server.metrics.sessions_refused, 1);
            refused.into_response()
        }
        Ok(seat) => web::upgrade(request, seat, IDLE_TIMEOUT, move |channel, count| {
            Metrics::add(&server.metrics.sessions_started, 1);
            let result = session::run(&server, channel);
            Metrics::add(&server.metrics.bytes_sent, count.sent_bytes());
            Metrics::add(&server.metrics.bytes_received, count.received_bytes());
            if let Err(error) = result {
                Metrics::add(&server.metrics.sessions_failed, 1);
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
