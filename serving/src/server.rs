//! The model owner's service: evaluator E1 of every session, and downloads of the public part.

mod charging;
mod files;
pub(crate) mod guard;
mod input;
mod masked;
mod model;
mod session;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use axum::{
    Json, Router,
    extract::{Path as UrlPath, Request, State},
    http::{Extensions, HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use marill_mpc::{EncryptedAdapter, PrivateProducts, ProgramSpec, TwoParty};
use marill_net::{Endpoint, http::HttpClient, peer_text};
use marill_numeric::unhex;
use marill_partition::{Manifest, Partition};
use zeroize::Zeroizing;

pub use self::model::SecureModel;
use crate::{
    error::{
        HttpError, PreprocessingError, Refusal, ServingError, SessionError, StartError, StateError,
    },
    kept::{Keeping, Kept},
    log,
    messages::{GrantedTicket, NewTicket},
    metrics::{self, Metrics},
    preprocessing::{CorrelationStore, SealingKey},
    ready::{Readiness, has_space, says_ready},
    secret_files::{read_key, replace_file},
    server::{guard::WrongKeys, input::Inputs, masked::MaskedParts},
    service,
    set_ups::{Owner, SetUpLimits, SetUps},
    slots::{Lobby, MAX_WAITING, Turn},
    state::{FileState, KEYS_FILE, Principal, State as Durable},
    terms::{E0, PROTOCOL_VERSION, Setting},
    ticket::{For, Signer},
    tls::Tls,
    web::{self, Sessions},
};

/// The server's key for preprocessed correlations, in its folder.
pub const PREPROCESSING_KEY_FILE: &str = "ahead.key";

/// The dealer of a server.
pub struct DealerOptions {
    pub endpoint: Endpoint,
    /// The dealer's `server.key`.
    pub key: PathBuf,
}

/// How to run a server.
pub struct ServerOptions {
    /// The partition, private part included.
    pub partition: PathBuf,
    pub listen: SocketAddr,
    /// Needed beyond this machine.
    pub tls: Tls,
    /// None in the setting `2pc`.
    pub dealer: Option<DealerOptions>,
    pub state: PathBuf,
    pub max_sessions: usize,
    /// Sessions that wait for a further turn of their conversation.
    pub keeping: Keeping,
    /// The file of keys, [`crate::state::Keys`]; `None`: `keys` in the state folder. Where there is
    /// no such file everyone who can connect is served, on this machine alone unless
    /// `allow_anonymous`.
    pub keys: Option<PathBuf>,
    /// Serve everyone beyond this machine too, where there are no keys: whoever is a client can
    /// extract the adapter from the protocol, and so can the dealer's operator by being one.
    pub allow_anonymous: bool,
    /// Where correlations lie that were preprocessed.
    pub preprocessed: Option<PathBuf>,
    pub setting: Setting,
    pub e0: E0,
    /// Whether tokens are sampled where a client asks for it; else decoding is greedy only.
    pub allow_sampling: bool,
    /// Whether comparisons use DCF where a client asks for it; else one-hot only.
    pub allow_dcf: bool,
    /// How private LoRA updates are made where there is a dealer.
    pub private_products: PrivateProducts,
    /// In the setting `2pc`: what it keeps of its clients between their sessions.
    pub set_ups: SetUpLimits,
    /// Where its metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

/// The published side of a model: what anyone may download.
struct Published {
    folder: PathBuf,
    manifest: Manifest,
    created: u64,
}

/// A server's dealer.
struct Dealt {
    dealer: HttpClient,
    /// Signs tickets for this server's clients.
    signer: Signer,
}

impl Dealt {
    fn new(dealer: HttpClient) -> Self {
        let signer = Signer::new(dealer.bearer.as_deref().unwrap_or_default());
        Self { dealer, signer }
    }
}

pub(crate) struct Server {
    model: SecureModel,
    published: Option<Published>,
    /// None in the setting `2pc`.
    dealt: Option<Dealt>,
    state: Arc<dyn Durable>,
    store: Option<CorrelationStore>,
    inputs: Inputs,
    input_slots: Arc<Sessions>,
    lobby: Arc<Lobby>,
    sessions: Arc<Sessions>,
    kept: Arc<Kept>,
    metrics: Arc<Metrics>,
    wrong_keys: WrongKeys,
    /// Holds its records.
    folder: PathBuf,
    readiness: Readiness,
    masked: MaskedParts,
    set_ups: SetUps,
}

/// Runs a server until a signal.
///
/// # Errors
/// A partition that cannot be served, a port or state in use, no dealer key, and what [`web::run`]
/// reports.
pub fn run(options: &ServerOptions) -> Result<(), ServingError> {
    let keys = options
        .keys
        .clone()
        .unwrap_or_else(|| options.state.join(KEYS_FILE));
    check_clients(options, &keys)?;
    check_parties(options)?;
    let tls = options.tls.identity(&options.state)?;
    let bound = web::bind(options.listen, tls)?;
    if options.keys.is_some() && !keys.is_file() {
        return Err(StateError::io(&keys)(std::io::ErrorKind::NotFound.into()).into());
    }
    check_correlations(options)?;
    let state = FileState::open(&options.state, &keys)?;
    let dealer = options.dealer.as_ref().map(|dealer| {
        let key = read_key(&dealer.key)?;
        let client = HttpClient::new(dealer.endpoint.clone(), Some(key.to_string()));
        Ok::<_, ServingError>((client, key))
    });
    let (dealer, dealer_key) = dealer.transpose()?.unzip();
    let files = options.preprocessed.as_deref().zip(dealer_key.as_ref());
    let store = files
        .map(|(folder, key)| open_store(&options.state, folder, key))
        .transpose()?;
    let (model, published) = open_model(options)?;
    let server = Server::new(
        model,
        Some(published),
        dealer,
        state,
        store,
        &options.state,
        (options.max_sessions, options.keeping, options.set_ups),
    )?;
    let metrics = metrics::listen(options.metrics, &server.metrics, &server.sessions)?;
    let partition = peer_text(&server.model.parameters.partition_id);
    log::say(&format!("partition `{partition}`"));
    Ok(web::run(bound, server.app(), &server.sessions, metrics)?)
}

/// Beyond this machine it takes keys, or the owner's word that everyone may be a client.
fn check_clients(options: &ServerOptions, keys: &Path) -> Result<(), StartError> {
    let asks_for_keys = options.keys.is_some() || keys.exists();
    if asks_for_keys || options.allow_anonymous || options.listen.ip().is_loopback() {
        return Ok(());
    }
    Err(StartError::Anonymous {
        address: options.listen.to_string(),
    })
}

/// Two parties have neither a dealer nor a computing party; the others cannot do without a dealer.
fn check_parties(options: &ServerOptions) -> Result<(), StartError> {
    let reason = match (options.setting, options.e0, &options.dealer) {
        (Setting::TwoParties, E0::Party, _) => "in the setting `2pc` the client is E0",
        (Setting::TwoParties, _, Some(_)) => "in the setting `2pc` there is no dealer",
        (Setting::Dealer | Setting::ThreeParties, _, None) => "this setting needs a dealer",
        _ => return Ok(()),
    };
    Err(StartError::Parties { reason })
}

/// Products by lattice are of LoRA updates, where there is a dealer.
fn check_products(options: &ServerOptions, spec: &ProgramSpec) -> Result<(), ServingError> {
    if options.private_products.is_masks() {
        return Ok(());
    }
    if options.setting == Setting::TwoParties {
        let reason = "in the setting `2pc` private products have no other way than theirs: \
                      `--private-products` is for a dealer";
        return Err(StartError::Parties { reason }.into());
    }
    EncryptedAdapter::bytes_of(spec).map_err(SessionError::from)?;
    Ok(())
}

/// Correlations are preprocessed in the setting `dealer` only, for clients that are E0.
fn check_correlations(options: &ServerOptions) -> Result<(), PreprocessingError> {
    let fits = options.setting == Setting::Dealer && options.e0 == E0::Client;
    if options.preprocessed.is_none() || fits {
        return Ok(());
    }
    let reason = match options.setting {
        Setting::TwoParties => "in the setting `2pc` there are no correlations",
        _ => {
            "in the setting `3pc` and with a computing party, correlations are made while a \
             session runs"
        }
    };
    Err(PreprocessingError::BadRequest {
        reason: reason.into(),
    })
}

/// The partition as it is computed with, and what is published of it.
fn open_model(options: &ServerOptions) -> Result<(SecureModel, Published), ServingError> {
    let partition = Partition::open(&options.partition)?;
    let spec = partition.program_spec().clone();
    let public = partition.public_weights()?;
    let private = partition.private_weights(&public)?;
    let id = partition.partition_id();
    if options.setting == Setting::TwoParties {
        TwoParty::check(&spec, None).map_err(SessionError::from)?;
    }
    let mut model = SecureModel::new(id, spec, public, private, options.setting);
    check_products(options, &model.spec)?;
    model.parameters = model
        .parameters
        .with_e0(options.e0)
        .with_private_products(options.private_products);
    model.allow_sampling = options.allow_sampling;
    model.allow_dcf = options.allow_dcf;
    let published = Published {
        folder: options.partition.clone(),
        manifest: partition.manifest.clone(),
        created: unix_seconds(),
    };
    Ok((model, published))
}

/// Writes what a dealer needs to know to preprocess for this server, which makes private products
/// so.
///
/// # Errors
/// A partition that cannot be served; [`StateError::Io`].
pub fn write_request(
    partition: &Path,
    products: PrivateProducts,
    state: &Path,
    to: &Path,
) -> Result<(), ServingError> {
    let partition = Partition::open(partition)?;
    let public = partition.public_weights()?;
    let private = partition.private_weights(&public)?;
    let id = partition.partition_id();
    let spec = partition.program_spec().clone();
    if !products.is_masks() {
        EncryptedAdapter::bytes_of(&spec).map_err(SessionError::from)?;
    }
    let mut model = SecureModel::new(id, spec, public, private, Setting::Dealer);
    model.parameters = model.parameters.with_private_products(products);
    let request = model.request(&SealingKey::read_or_create(
        &state.join(PREPROCESSING_KEY_FILE),
    )?);
    let text =
        serde_json::to_vec_pretty(&request).map_err(|error| StateError::io(to)(error.into()))?;
    Ok(replace_file(to, &text)?)
}

fn open_store(
    state: &Path,
    folder: &Path,
    dealer_key: &str,
) -> Result<CorrelationStore, ServingError> {
    std::fs::read_dir(folder).map_err(StateError::io(folder))?;
    Ok(CorrelationStore::new(
        folder,
        SealingKey::read_or_create(&state.join(PREPROCESSING_KEY_FILE))?,
        dealer_key,
    ))
}

impl Server {
    /// A server for sessions alone, without a partition on disk.
    pub(crate) fn bare(
        model: SecureModel,
        dealer: Option<HttpClient>,
        state: &Path,
        (limit, set_ups): (usize, SetUpLimits),
        preprocessed: Option<&Path>,
    ) -> Result<Arc<Self>, ServingError> {
        let dealer_key = dealer.as_ref().and_then(|dealer| dealer.bearer.clone());
        let dealer_key = dealer_key.unwrap_or_default();
        let store = preprocessed
            .map(|folder| open_store(state, folder, &dealer_key))
            .transpose()?;
        let records = FileState::open(state, &state.join(KEYS_FILE))?;
        let limits = (limit, Keeping::of(limit), set_ups);
        Self::new(model, None, dealer, records, store, state, limits)
    }

    /// Shows the dealer's key of `dealer`, and keeps its records in `folder`.
    fn new(
        model: SecureModel,
        published: Option<Published>,
        dealer: Option<HttpClient>,
        state: FileState,
        store: Option<CorrelationStore>,
        folder: &Path,
        (limit, keeping, set_ups): (usize, Keeping, SetUpLimits),
    ) -> Result<Arc<Self>, ServingError> {
        Ok(Arc::new(Self {
            model,
            published,
            dealt: dealer.map(Dealt::new),
            state: Arc::new(state),
            store,
            inputs: Inputs::default(),
            input_slots: Sessions::with_queue(limit, MAX_WAITING),
            lobby: Arc::default(),
            sessions: Sessions::with_queue(limit, MAX_WAITING),
            kept: Kept::new(keeping),
            metrics: Arc::default(),
            wrong_keys: WrongKeys::default(),
            folder: folder.into(),
            readiness: Readiness::default(),
            masked: MaskedParts::open(folder.join("masked"))?,
            set_ups: SetUps::open(folder, set_ups),
        }))
    }

    pub(crate) fn app(self: &Arc<Self>) -> Router {
        let own = Router::new()
            .route("/ready", get(ready))
            .route("/v1/models", get(models))
            .route("/v1/models/{id}/manifest", get(manifest))
            .route("/v1/models/{id}/files/{*path}", get(file))
            .route("/v1/tickets", post(tickets))
            .route("/v1/ahead", get(former_query))
            .route("/v1/session", get(session_upgrade))
            .route("/v1/input", get(input::upgrade));
        let id = self.model.parameters.partition_id.clone();
        service::app("server", own, self, Arc::new(move || Some(id.clone())))
    }

    /// For whom a set-up with a client is kept.
    fn owner(&self, principal: Option<&Principal>) -> Owner {
        let model = &self.model;
        let whose = [&*model.private_sha256, &*model.parameters.public_sha256];
        Owner::client(principal.map(|principal| &principal.digest), whose)
    }

    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    pub(crate) fn kept(&self) -> &Arc<Kept> {
        &self.kept
    }

    /// For how long a session waits for a further turn; a computing party's does not.
    fn keep_seconds(&self) -> u64 {
        match self.model.parameters.is_shared() {
            true => 0,
            false => self.kept.keeping().seconds(),
        }
    }

    /// The dealer, in the settings that have one.
    fn dealt(&self) -> Result<&Dealt, SessionError> {
        let no_dealer = || SessionError::BadMessage {
            peer: "client",
            reason: "this server works without a dealer".into(),
        };
        self.dealt.as_ref().ok_or_else(no_dealer)
    }

    /// Whose request this is; `None` where no keys are asked for.
    async fn check_key(
        self: &Arc<Self>,
        headers: &HeaderMap,
    ) -> Result<Option<Principal>, HttpError> {
        let value = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let key = value
            .and_then(|value| value.strip_prefix("Bearer "))
            .map(|key| Zeroizing::new(key.to_string()));
        // The file of keys may have changed, and may be long.
        let state = self.state.clone();
        let held = tokio::task::spawn_blocking(move || {
            state.principal(key.as_ref().map(|key| key.as_str()))
        })
        .await;
        let held = held
            .map_err(|error| state_failed(StartError::from(error)))?
            .map_err(state_failed)?;
        if held == Err(Refusal::Unknown) {
            self.metrics.refuse("invalid_api_key");
            self.wrong_keys.failed().await;
        }
        Ok(held?)
    }

    /// A connection's place in the lobby, from which it gets a slot after its handshake.
    fn turn(&self, request: &Request, slots: &Arc<Sessions>) -> Result<Turn, HttpError> {
        let guest = self.lobby.enter(web::address_of(request.extensions()))?;
        Ok(Turn::new(guest, slots))
    }

    /// Counts a session against the key's rate, on disk.
    fn start_session(&self, principal: Option<&Principal>) -> Result<(), ServingError> {
        let Some(principal) = principal else {
            return Ok(());
        };
        let counted = self.state.start_session(principal, SystemTime::now())?;
        Ok(counted.map_err(SessionError::Quota)?)
    }

    /// Counts a refusal, but for those that the check of the key has counted.
    fn refuse(&self, refused: &HttpError) {
        if refused.status != StatusCode::UNAUTHORIZED {
            self.metrics.refuse(refused.code.unwrap_or("other"));
        }
    }

    fn published(&self, id: &str) -> Result<&Published, HttpError> {
        let named = |published: &&Published| {
            id == published.manifest.name || id == published.manifest.partition_id
        };
        self.published
            .as_ref()
            .filter(named)
            .ok_or_else(|| HttpError::not_found("such model"))
    }
}

/// Who cannot be checked is not served.
fn state_failed(error: impl Into<ServingError>) -> HttpError {
    let error = error.into();
    tracing::error!("the server's records cannot be used: {error}");
    HttpError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "server_error",
        "state",
        "the server's records cannot be used",
    )
}

fn unix_seconds() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}

/// Ready means that a session would start now: the dealer answers and nothing is being shut down.
async fn ready(State(server): State<Arc<Server>>) -> Result<&'static str, HttpError> {
    service::check_running("server", &server.sessions)?;
    let dealer = server.dealt.as_ref().map(|dealt| dealt.dealer.clone());
    let folder = server.folder.clone();
    let find = move || {
        has_space(&folder)?;
        match dealer {
            Some(dealer) if !says_ready(&dealer) => Err("the dealer is not ready"),
            _ => Ok(()),
        }
    };
    server.readiness.check(find).await.map(|()| "ready")
}

async fn models(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
) -> Result<Json<serde_json::Value>, HttpError> {
    let _ = server.check_key(&headers).await?;
    let data: Vec<_> = server
        .published
        .iter()
        .map(|published| {
            serde_json::json!({
                "id": published.manifest.name, "object": "model", "created": published.created,
                "owned_by": "marill", "partition_id": published.manifest.partition_id,
                "setting": server.model.parameters.setting,
                "rounding": server.model.parameters.rounding,
                "e0": server.model.parameters.e0, "sampling": server.model.allow_sampling,
                "materials": server.model.offered_comparisons(),
                "keep_seconds": server.keep_seconds(),
                "private_products": server.model.offered_products(),
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
    let _ = server.check_key(&headers).await?;
    Ok(Json(server.published(&id)?.manifest.clone()))
}

async fn file(
    State(server): State<Arc<Server>>,
    UrlPath((id, path)): UrlPath<(String, String)>,
    headers: HeaderMap,
) -> Result<Response, HttpError> {
    let _ = server.check_key(&headers).await?;
    let published = server.published(&id)?;
    let listed = published
        .manifest
        .public_files
        .iter()
        .find(|entry| entry.path == path);
    let entry = listed.ok_or_else(|| HttpError::not_found("such file in the public part"))?;
    files::send(published.folder.join(&entry.path), entry.bytes).await
}

/// A ticket for the dealer, and the preprocessed sessions that fit. Signing costs nothing and is
/// not remembered: what a key user may open at once, the dealer counts.
async fn tickets(
    State(server): State<Arc<Server>>,
    headers: HeaderMap,
    extensions: Extensions,
    Json(query): Json<NewTicket>,
) -> Result<Json<GrantedTicket>, HttpError> {
    let principal = server.check_key(&headers).await?;
    if unhex::<32>(&query.client_id).is_none() {
        let message = "`client_id` needs 64 hexadecimal digits";
        return Err(HttpError::new(
            StatusCode::BAD_REQUEST,
            "invalid_request_error",
            "client_id",
            message,
        ));
    }
    let whose = match &principal {
        Some(principal) => For::Key(&principal.digest),
        None => For::Address(web::address_of(&extensions)),
    };
    let no_dealer = || {
        let message = "this server works without a dealer, in the setting `2pc`";
        HttpError::new(
            StatusCode::CONFLICT,
            "invalid_request_error",
            "setting",
            message,
        )
    };
    let ticket = server
        .dealt
        .as_ref()
        .ok_or_else(no_dealer)?
        .signer
        .issue(&whose, &query.client_id)
        .map_err(state_failed)?;
    let Some(bucket) = query.bucket.filter(|_| server.store.is_some()) else {
        return Ok(Json(GrantedTicket {
            ticket,
            preprocessed: Vec::new(),
        }));
    };
    // The folder and the records are read, which may take a while.
    let look = move || {
        let used = |session: &str| server.state.is_claimed("e1", session);
        let available = server
            .store
            .as_ref()
            .map(|store| store.available(bucket, 1, query.selection, used));
        available.transpose().map(Option::unwrap_or_default)
    };
    let preprocessed = tokio::task::spawn_blocking(look)
        .await
        .map_err(|error| state_failed(StartError::from(error)))?;
    Ok(Json(GrantedTicket {
        ticket,
        preprocessed: preprocessed.map_err(state_failed)?,
    }))
}

/// What clients of version 5 ask first.
async fn former_query() -> HttpError {
    let message = format!(
        "this server speaks protocol {PROTOCOL_VERSION}, and this client an older one: update it"
    );
    HttpError::new(
        StatusCode::BAD_REQUEST,
        "invalid_request_error",
        "terms",
        message,
    )
}

async fn session_upgrade(State(server): State<Arc<Server>>, request: Request) -> Response {
    let principal = server.check_key(request.headers()).await;
    let admitted =
        principal.and_then(|principal| Ok((principal, server.turn(&request, &server.sessions)?)));
    let (principal, turn) = match admitted {
        Ok(admitted) => admitted,
        Err(refused) => {
            server.refuse(&refused);
            return refused.into_response();
        }
    };
    let metrics = server.metrics.clone();
    let id = web::id_of(request.extensions());
    service::session(request, &metrics, move |channel, count| {
        session::run(&server, channel, principal, turn, &id).inspect(|()| service::say_ended(count))
    })
}
