//! What every HTTP service here shares: listening, errors, upgrades that leave the async world, an
//! orderly end.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use hyper_util::rt::TokioIo;
use marill_net::{
    Endpoint, RequestId, WebSocketChannel, WireCount,
    endpoint::check_listen,
    socket::{CountedTcp, Socket},
    tls::TlsSocket,
};
use rustls::StreamOwned;
use tokio::net::{TcpListener, TcpStream};
use tracing::{Instrument, Span};
use tungstenite::{handshake::derive_accept_key, protocol::Role};

pub use crate::slots::{SessionSlot, Sessions};
use crate::{
    connections::{self, Place, Slot, Stream, TrackedStream},
    error::{HttpError, StartError},
    log::{self, LogFormat},
    request_id,
    tls::Identity,
};

/// How long a peer may take for its handshake, apart from how long it may pause between steps.
const FIRST_FRAME_LIMIT: Duration = Duration::from_secs(5);

/// Which partition a service's requests are about, for its log; none: each says so itself.
pub(crate) type PartitionOf = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// Names each request by `x-request-id`, the client's own or a fresh one, in the answer, its error
/// and the log; and turns refusals of the framework (a body that is too large, a method that is not
/// there) into error objects.
pub(crate) async fn finish(
    State(partition): State<PartitionOf>,
    mut request: Request,
    next: Next,
) -> Response {
    let named = named(request.headers());
    let id = named
        .as_ref()
        .map_or_else(|_| request_id::fresh(), Clone::clone);
    request.extensions_mut().insert(id.clone());
    let span = log::request(&id, partition().as_deref());
    let answering = async {
        let began = Instant::now();
        let what = (request.method().clone(), pattern(&request));
        let response = match named {
            Ok(_) => next.run(request).await,
            Err(refused) => refused.into_response(),
        };
        let mut response = understandable(response);
        say_answered(what, &response, began.elapsed());
        if let Some(refused) = response.extensions_mut().remove::<HttpError>() {
            *response.body_mut() = Body::from(refused.of(&id).object().to_string());
            response.headers_mut().remove(header::CONTENT_LENGTH);
        }
        response
    };
    let mut response = answering.instrument(span).await;
    let value = HeaderValue::from_str(id.as_str()).expect("a request's name is plain");
    response
        .headers_mut()
        .insert(HeaderName::from_static(RequestId::HEADER), value);
    response
}

/// The name that a client gave its request, or a fresh one.
fn named(headers: &HeaderMap) -> Result<RequestId, HttpError> {
    let Some(value) = headers.get(RequestId::HEADER) else {
        return Ok(request_id::fresh());
    };
    let id = value.to_str().ok().and_then(RequestId::parse);
    id.ok_or_else(|| {
        let message = format!(
            "`{}` needs to be 1 to {} letters, digits and `-_.:`",
            RequestId::HEADER,
            RequestId::MAX_BYTES
        );
        let kind = "invalid_request_error";
        let code = "invalid_request_id";
        let mut refused = HttpError::new(StatusCode::BAD_REQUEST, kind, code, message);
        refused.param = Some(RequestId::HEADER.into());
        refused
    })
}

/// The address without what a client may have written into it.
fn pattern(request: &Request) -> String {
    let matched = request.extensions().get::<MatchedPath>();
    matched.map_or("(unknown)", MatchedPath::as_str).to_string()
}

/// What was read without trouble is no news.
fn say_answered((method, path): (Method, String), response: &Response, took: Duration) {
    let status = response.status().as_u16();
    let code = response.extensions().get::<HttpError>();
    let code = code.and_then(|refused| refused.code);
    let milliseconds = took.as_millis();
    match status {
        // Anyone can cause these: the guard counts wrong keys.
        401 | 404 => tracing::debug!(%method, path, status, code, milliseconds, "answered"),
        ..400 if method == Method::GET => {
            tracing::debug!(%method, path, status, milliseconds, "answered");
        }
        ..500 => tracing::info!(%method, path, status, code, milliseconds, "answered"),
        _ => tracing::warn!(%method, path, status, code, milliseconds, "answered"),
    }
}

/// Refusals of the framework as error objects.
fn understandable(response: Response) -> Response {
    let is_json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/json");
    let status = response.status();
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (code, message) = match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            ("request_too_large", "the body of the request is too large")
        }
        StatusCode::METHOD_NOT_ALLOWED => (
            "method_not_allowed",
            "this address does not take that method",
        ),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => (
            "unsupported_media_type",
            "the body needs to be `application/json`",
        ),
        status if status.is_client_error() => ("bad_request", "the request is not understood"),
        _ => ("internal", "the service failed"),
    };
    let kind = if status.is_client_error() {
        "invalid_request_error"
    } else {
        "server_error"
    };
    HttpError::new(status, kind, code, message).into_response()
}

/// The name of a request that [`finish`] has seen.
pub(crate) fn id_of(extensions: &axum::http::Extensions) -> RequestId {
    let id = extensions.get::<RequestId>();
    id.cloned().unwrap_or_else(request_id::fresh)
}

/// Where a request comes from, as far as limits care.
pub fn address_of(extensions: &axum::http::Extensions) -> std::net::IpAddr {
    let peer = extensions.get::<axum::extract::ConnectInfo<SocketAddr>>();
    peer.map_or(std::net::Ipv4Addr::UNSPECIFIED.into(), |peer| peer.0.ip())
}

/// 503 with a reason, for `/ready`.
pub fn not_ready(message: &str) -> HttpError {
    HttpError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "server_error",
        "not_ready",
        message,
    )
}

/// Answers a WebSocket upgrade and hands the raw socket to `run` on a new thread: a protocol round
/// then costs no task switch inside the runtime. The handshake has to be soon and brief; `run` ends
/// that by [`WebSocketChannel::handshake_done`], and `timeout` then bounds each wait.
pub fn upgrade(
    mut request: Request,
    timeout: Duration,
    run: impl FnOnce(WebSocketChannel, Arc<WireCount>) + Send + 'static,
) -> Response {
    let header = |name| {
        request
            .headers()
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let asks_for_it =
        header(header::UPGRADE).is_some_and(|value| value.eq_ignore_ascii_case("websocket"));
    let key = header(header::SEC_WEBSOCKET_KEY)
        .filter(|_| asks_for_it)
        .map(|key| derive_accept_key(key.as_bytes()));
    let Some(key) = key else {
        let message = "this address speaks WebSocket only";
        return HttpError::new(
            StatusCode::UPGRADE_REQUIRED,
            "invalid_request_error",
            "upgrade_required",
            message,
        )
        .into_response();
    };
    if let Some(slot) = request.extensions().get::<Arc<Slot>>() {
        slot.take();
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let span = Span::current();
    let on_thread = span.clone();
    let upgrading = async move {
        let Ok(upgraded) = upgraded.await else { return };
        match hijack(upgraded, timeout) {
            Ok((channel, count, place)) => {
                let spawned = std::thread::Builder::new()
                    .name("session".into())
                    .spawn(move || {
                        on_thread.in_scope(|| run(channel, count));
                        drop(place);
                    });
                if let Err(error) = spawned {
                    tracing::error!("no thread for a session: {error}");
                }
            }
            Err(error) => tracing::warn!("an upgraded connection was lost: {error}"),
        }
    };
    tokio::spawn(upgrading.instrument(span));
    Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_ACCEPT, key)
        .body(Body::empty())
        .expect("fixed headers")
}

fn hijack(
    upgraded: hyper::upgrade::Upgraded,
    timeout: Duration,
) -> std::io::Result<(WebSocketChannel, Arc<WireCount>, Place)> {
    let count = Arc::<WireCount>::default();
    let parts = upgraded.downcast::<TokioIo<TrackedStream>>();
    let parts = parts.map_err(|_| std::io::Error::other("it is no connection of this service"))?;
    let gone = || std::io::Error::other("the connection is another session's");
    let (stream, place) = parts.io.into_inner().into_parts().ok_or_else(gone)?;
    // Leaves the runtime's poller; the descriptor stays non-blocking, which the channel wants.
    let raw = |stream: TcpStream| {
        let socket = CountedTcp::new(stream.into_std()?, count.clone())?;
        socket.set_nonblocking(true).map(|()| socket)
    };
    let socket: Box<dyn Socket> = match stream {
        Stream::Plain(stream) => Box::new(raw(stream)?),
        Stream::Tls(stream) => {
            let (tcp, connection) = stream.into_inner();
            Box::new(TlsSocket::Server(StreamOwned::new(connection, raw(tcp)?)))
        }
    };
    let read = parts.read_buf.to_vec();
    Ok((
        WebSocketChannel::awaiting_handshake(
            socket,
            read,
            Role::Server,
            timeout,
            FIRST_FRAME_LIMIT,
        ),
        count,
        place,
    ))
}

/// A bound listener and where it listens.
pub struct Bound {
    listener: std::net::TcpListener,
    pub address: SocketAddr,
    tls: Option<Identity>,
}

impl Bound {
    /// The address that clients are given, with the certificate's digest under TLS.
    ///
    /// # Errors
    /// None in practice: the text is made here.
    pub fn endpoint(&self) -> Result<Endpoint, StartError> {
        let text = match &self.tls {
            None => format!("http://{}", self.address),
            Some(identity) if identity.is_vouched() => format!("https://{}", self.address),
            Some(identity) => format!("https://{}#{}", self.address, identity.pin()),
        };
        text.parse()
            .map_err(|source| StartError::Endpoint { source })
    }
}

/// Binds before anything slow is done, so that a port in use is reported at once.
///
/// # Errors
/// [`StartError::Listen`]; plain text beyond this machine is refused.
pub fn bind(address: SocketAddr, tls: Option<Identity>) -> Result<Bound, StartError> {
    if tls.is_none() {
        check_listen(&address).map_err(StartError::PlainText)?;
    }
    listen(address, tls)
}

/// Binds in plain text what is for the service's operator: whoever names an address beyond this
/// machine wants that.
///
/// # Errors
/// [`StartError::Listen`].
pub(crate) fn bind_for_metrics(address: SocketAddr) -> Result<Bound, StartError> {
    let bound = listen(address, None)?;
    if !address.ip().is_loopback() {
        log::caution(&format!(
            "whoever reaches `{}` sees lengths and times of all sessions",
            bound.address
        ));
    }
    Ok(bound)
}

fn listen(address: SocketAddr, tls: Option<Identity>) -> Result<Bound, StartError> {
    let failed = |source| StartError::Listen {
        address: address.to_string(),
        source,
    };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok(Bound {
        listener,
        address,
        tls,
    })
}

/// Where the metrics of a service are served, once it is bound.
pub struct MetricsListener(pub(crate) Option<(Bound, Router)>);

/// Serves until SIGINT or SIGTERM, then lets running sessions end; a second signal ends the process
/// at once.
///
/// # Errors
/// [`StartError::Listen`].
pub fn run(
    bound: Bound,
    app: Router,
    sessions: &Sessions,
    metrics: MetricsListener,
) -> Result<(), StartError> {
    log::start(LogFormat::Text);
    let address = bound.address;
    let endpoint = bound.endpoint()?;
    let listen = |source| StartError::Listen {
        address: address.to_string(),
        source,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(listen)?;
    let result = runtime.block_on(async {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let server = spawn(bound, app, async { drop(stopped.await) }).map_err(listen)?;
        if let Some((bound, app)) = metrics.0 {
            log::say(&format!("metrics at http://{}/metrics", bound.address));
            // Told until the end.
            spawn(bound, app, std::future::pending()).map_err(listen)?;
        }
        log::say(&format!("listening on {endpoint}"));
        signal().await;
        let active = sessions.active();
        log::say(&format!("shutting down: {active} sessions still run"));
        tokio::spawn(async {
            signal().await;
            std::process::exit(130);
        });
        sessions.drain().await;
        drop(stop);
        let _ = tokio::time::timeout(Duration::from_secs(5), server).await;
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Serves in the background of the current runtime until `stop` is done.
fn spawn(
    bound: Bound,
    app: Router,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<tokio::task::JoinHandle<std::io::Result<()>>> {
    let listener = TcpListener::from_std(bound.listener)?;
    let tls = bound.tls.map(|identity| identity.config());
    Ok(tokio::spawn(connections::serve(listener, tls, app, stop)))
}

/// A service on a runtime of its own, ended when dropped.
pub struct Running {
    pub endpoint: Endpoint,
    runtime: Option<tokio::runtime::Runtime>,
}

/// Starts a service in the background of this process.
///
/// # Errors
/// [`StartError::Listen`].
pub fn start(bound: Bound, app: Router) -> Result<Running, StartError> {
    let address = bound.address;
    let endpoint = bound.endpoint()?;
    let listen = |source| StartError::Listen {
        address: address.to_string(),
        source,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(listen)?;
    {
        let _inside = runtime.enter();
        drop(spawn(bound, app, std::future::pending()).map_err(listen)?);
    }
    Ok(Running {
        endpoint,
        runtime: Some(runtime),
    })
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}
