//! Open connections of a service: each has a time in which to say something, none may stand still,
//! and there are fewer of them than the process may have descriptors.

mod bodies;
mod places;
mod stream;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    response::Response,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use crate::connections::{
    bodies::{Answering, Unhurried},
    places::{ACCEPT_PAUSE, Connections},
};
pub(crate) use crate::connections::{
    places::{Place, Slot},
    stream::{Stream, TrackedStream},
};

/// From the connection to the end of the request's head, and from one request to the next.
const HEADER_LIMIT: Duration = Duration::from_secs(15);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// What a connection may hold of requests that are not read and of answers that are not sent.
const BUFFER_BYTES: usize = 128 << 10;

/// Serves until `stop` is done; then running requests end.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    app: Router,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let connections = Connections::for_this_process();
    let acceptor = tls.map(TlsAcceptor::from);
    let (ending, ended) = watch::channel(());
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let place = tokio::select! {
            () = &mut stop => break,
            place = connections.enter() => place,
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(connection(
            stream,
            peer,
            acceptor.clone(),
            app.clone(),
            place,
            ended.clone(),
        ));
    }
    drop((listener, ended));
    // Every connection holds a receiver.
    let _ = ending.send(());
    ending.closed().await;
    Ok(())
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    app: Router,
    place: Place,
    mut ended: watch::Receiver<()>,
) {
    let slot = place.slot.clone();
    let shaken = async {
        match acceptor {
            None => Some(Stream::Plain(stream)),
            Some(acceptor) => {
                let shaken = timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
                shaken
                    .ok()?
                    .ok()
                    .map(|stream| Stream::Tls(Box::new(stream)))
            }
        }
    };
    let stream = tokio::select! {
        stream = shaken => stream,
        () = slot.give_way.notified() => None,
    };
    let Some(stream) = stream else { return };
    let line = TokioIo::new(TrackedStream {
        stream: Some(stream),
        stall: None,
        place: Some(place),
    });
    let answering = slot.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let mut app = app.clone();
        let busy = answering.begin();
        let mut request: Request =
            request.map(|body| Body::new(Unhurried::new(body, answering.clone())));
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(answering.clone());
        async move {
            app.call(request).await.map(|response: Response| {
                response.map(|body| Body::new(Answering { body, _busy: busy }))
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(line, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if ended.is_err_and(|error| error.is_timeout()) {
                    slot.give_up();
                }
                return;
            }
            () = slot.give_way.notified() => {
                if slot.idle_since().or_else(|| slot.stalled_since()).is_some() {
                    slot.give_up();
                    return;
                }
            }
            _ = ended.changed() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
                return;
            }
        }
    }
}
