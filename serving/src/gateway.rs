//! The OpenAI interface on the user's own machine, in front of private sessions.

mod admission;
mod answer;
mod field;
mod fields;
mod live;
mod openapi;
mod page;
mod request;
mod running;
mod tokenize;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{Path as UrlPath, State},
    http::HeaderMap,
    middleware,
    response::Response,
    routing::{get, post},
};
use marill_net::{NetError, RequestId, peer_text};

pub use self::admission::{AdmissionOptions, Origin};
use crate::{
    client::{Client, ClientOptions},
    error::{HttpError, ServingError, SessionError},
    gateway::{
        admission::Admission,
        answer::{Form, Shape, respond},
        running::Running,
    },
    log,
    metrics::{self, Metrics},
    probe,
    ready::{Found, Readiness, Renewed, has_space, partition_changed},
    service::check_running,
    tls::Tls,
    web::{self, PartitionOf, Sessions},
};

/// Answers that may wait for a free session before further ones are told to come back later.
const MAX_WAITING: usize = 32;
const START_WAIT: Duration = Duration::from_secs(5);
const MAX_BODY_BYTES: usize = 4 << 20;

/// How to run a gateway.
pub struct GatewayOptions {
    pub listen: SocketAddr,
    /// Needed beyond this machine.
    pub tls: Tls,
    pub admission: AdmissionOptions,
    pub client: ClientOptions,
    /// Whether an answer's session waits for a prompt that goes on from it.
    pub keep: bool,
    /// Where its metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

pub(crate) struct Gateway {
    admission: Admission,
    client: Arc<Renewed<Client>>,
    sessions: Arc<Sessions>,
    keep: bool,
    metrics: Arc<Metrics>,
    created: u64,
    /// Holds its records.
    folder: PathBuf,
    readiness: Readiness,
    running: Arc<Running>,
    /// Where metrics are to be served.
    metrics_at: Option<SocketAddr>,
}

/// Fetches the public part, then serves until a signal.
///
/// # Errors
/// A port in use, and what [`Client::connect`] and [`web::run`] report.
pub fn run(options: &GatewayOptions, progress: &mut dyn FnMut(&str)) -> Result<(), ServingError> {
    let admission = Admission::new(&options.admission, options.listen)?;
    let folder = options.client.state.clone();
    let bound = web::bind(options.listen, options.tls.identity(&folder)?)?;
    let sessions = Sessions::with_queue(options.client.max_sessions, MAX_WAITING);
    let client = connect(&options.client, progress)?;
    let gateway = Gateway::new(client, sessions.clone(), folder, options, admission);
    let served = gateway.client();
    log::say(&format!(
        "model `{}`, partition `{}`: the prompt stays on this machine",
        peer_text(&served.model_name),
        peer_text(&served.parameters.partition_id)
    ));
    if !served.has_chat_template() {
        log::caution(marill_model::NO_TEMPLATE);
    }
    let services = options.client.clone();
    let make = move || Client::connect(&services, &mut |line| tracing::info!("{line}"));
    let server_of = |client: &Client| (client.server().clone(), client.parameters.clone());
    gateway.client.watch(server_of, make)?;
    // The first look is now.
    gateway.client.hint();
    let metrics = metrics::listen(options.metrics, &gateway.metrics, &sessions)?;
    Ok(web::run(bound, gateway.app(), &sessions, metrics)?)
}

/// Gives a server that was started in the same moment some time to listen.
fn connect(
    options: &ClientOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Client, ServingError> {
    let deadline = Instant::now() + START_WAIT;
    loop {
        match Client::connect(options, progress) {
            Err(ServingError::Session(SessionError::Net {
                source: NetError::Unreachable { .. },
                ..
            })) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(200));
            }
            done => return done,
        }
    }
}

impl Gateway {
    fn new(
        client: Client,
        sessions: Arc<Sessions>,
        folder: PathBuf,
        options: &GatewayOptions,
        admission: Admission,
    ) -> Arc<Self> {
        let created = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs());
        let client = Arc::new(Renewed::new(client));
        // Several users would go on in each other's sessions, and learn by it what was asked.
        let keep = options.keep && admission.is_one_users();
        Arc::new(Self {
            admission,
            client,
            sessions,
            keep,
            metrics: Arc::default(),
            created,
            folder,
            readiness: Readiness::default(),
            running: Arc::default(),
            metrics_at: options.metrics,
        })
    }

    /// What is computed with now; a request keeps it to its end.
    fn client(&self) -> Arc<Client> {
        self.client.current()
    }

    fn app(self: &Arc<Self>) -> Router {
        let gateway = self.clone();
        let partition: PartitionOf =
            Arc::new(move || Some(gateway.client().parameters.partition_id.clone()));
        Router::new()
            .merge(page::routes())
            .route("/status", get(live::status))
            .route("/health", get(health))
            .route("/ready", get(ready))
            .route("/v1/models", get(models))
            .route("/v1/models/{id}", get(model))
            .route("/v1/chat/completions", post(chat))
            .route("/v1/completions", post(complete))
            .route("/v1/responses", post(create_response))
            .route("/tokenize", post(tokenize::tokenize))
            .route("/detokenize", post(tokenize::detokenize))
            .route("/openapi.json", get(openapi::openapi))
            .fallback(|| async { HttpError::not_found("such address") })
            .layer(axum::extract::DefaultBodyLimit::max(MAX_BODY_BYTES))
            .layer(middleware::from_fn_with_state(
                self.clone(),
                admission::guard,
            ))
            // Outside the guard, so that a page can read why it is refused.
            .layer(self.admission.cors())
            .layer(middleware::from_fn_with_state(partition, web::finish))
            .with_state(self.clone())
    }

    fn model_object(&self) -> serde_json::Value {
        serde_json::json!({
            "id": self.client().model_name, "object": "model", "created": self.created,
            "owned_by": "marill",
        })
    }
}

async fn health(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
) -> Json<serde_json::Value> {
    let client = gateway.client();
    let parameters = &client.parameters;
    let mut told = probe::health("gateway");
    // Where there are keys, the rest is for those who have one.
    if !gateway.admission.admits(&headers).await {
        return Json(told);
    }
    let more = serde_json::json!({
        "model": client.model_name, "partition_id": parameters.partition_id,
        "server": client.server().endpoint.to_string(), "setting": parameters.setting,
        "e0": parameters.e0,
        "rounding": parameters.rounding,
        "demonstration": client.is_demonstration(),
        "public_layers": client.public_layers(), "private_layers": client.private_layers(),
    });
    if let (Some(told), serde_json::Value::Object(more)) = (told.as_object_mut(), more) {
        told.extend(more);
    }
    Json(told)
}

/// Ready means that an answer could start now: server and dealer say so too.
async fn ready(State(gateway): State<Arc<Gateway>>) -> Result<&'static str, HttpError> {
    check_running("gateway", &gateway.sessions)?;
    let folder = gateway.folder.clone();
    gateway.readiness.check(move || has_space(&folder)).await?;
    let look = move || {
        let client = gateway.client();
        gateway.client.look(client.server(), &client.parameters)
    };
    match tokio::task::spawn_blocking(look).await {
        Ok(Found::Ready) => Ok("ready"),
        Ok(Found::Changed) => Err(partition_changed()),
        _ => Err(web::not_ready("the server is not ready")),
    }
}

async fn models(State(gateway): State<Arc<Gateway>>) -> Json<serde_json::Value> {
    Json(serde_json::json!({ "object": "list", "data": [gateway.model_object()] }))
}

async fn model(
    State(gateway): State<Arc<Gateway>>,
    UrlPath(id): UrlPath<String>,
) -> Result<Json<serde_json::Value>, HttpError> {
    match &gateway.client().model_name {
        served if id == *served => Ok(Json(gateway.model_object())),
        served => Err(request::unknown_model(&id, served)),
    }
}

async fn chat(
    State(gateway): State<Arc<Gateway>>,
    Extension(id): Extension<RequestId>,
    body: Bytes,
) -> Result<Response, HttpError> {
    let client = gateway.client();
    let mut parsed = request::chat(&body, &client)?;
    parsed.request.keep = gateway.keep;
    parsed.request.id = Some(id);
    respond(gateway, client, parsed, Form::Completion(Shape::Chat)).await
}

async fn complete(
    State(gateway): State<Arc<Gateway>>,
    Extension(id): Extension<RequestId>,
    body: Bytes,
) -> Result<Response, HttpError> {
    let client = gateway.client();
    let mut parsed = request::completion(&body, &client)?;
    parsed.request.keep = gateway.keep;
    parsed.request.id = Some(id);
    respond(gateway, client, parsed, Form::Completion(Shape::Completion)).await
}

async fn create_response(
    State(gateway): State<Arc<Gateway>>,
    Extension(id): Extension<RequestId>,
    body: Bytes,
) -> Result<Response, HttpError> {
    let client = gateway.client();
    let (mut parsed, repeated) = request::response(&body, &client)?;
    parsed.request.keep = gateway.keep;
    parsed.request.id = Some(id);
    respond(gateway, client, parsed, Form::Response(repeated)).await
}
