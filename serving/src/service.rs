//! What dealer, server and computing party have in common as services: the addresses beside their
//! own, refusals, and sessions on upgraded connections, whose bytes and failures are counted.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::Request,
    middleware,
    response::{IntoResponse, Response},
    routing::get,
};
use marill_net::{WebSocketChannel, WireCount};

use crate::{
    error::{HttpError, ServingError},
    metrics::Metrics,
    probe,
    slots::Sessions,
    web::{self, PartitionOf},
};

/// The longest pause of a peer between two steps.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// The `own` addresses of a service of this name, and those that each has; `partition` is what its
/// requests are about.
pub(crate) fn app<S: Send + Sync + 'static>(
    name: &'static str,
    own: Router<Arc<S>>,
    service: &Arc<S>,
    partition: PartitionOf,
) -> Router {
    let health = move || async move { Json(probe::health(name)) };
    own.route("/health", get(health))
        .fallback(|| async { HttpError::not_found("such address") })
        .layer(middleware::from_fn_with_state(partition, web::finish))
        .with_state(service.clone())
}

/// # Errors
/// 503 for `/ready` of a service that is shutting down.
pub(crate) fn check_running(service: &str, sessions: &Sessions) -> Result<(), HttpError> {
    if sessions.is_draining() {
        return Err(web::not_ready(&format!("the {service} is shutting down")));
    }
    Ok(())
}

/// Counts a refusal and answers with it.
pub(crate) fn refuse(metrics: &Metrics, refused: HttpError) -> Response {
    metrics.refuse(refused.code.unwrap_or("other"));
    refused.into_response()
}

/// Answers an upgrade; `run` has the connection on a thread of its own, and its bytes are counted.
pub(crate) fn upgrade(
    request: Request,
    metrics: &Arc<Metrics>,
    run: impl FnOnce(WebSocketChannel, &WireCount) + Send + 'static,
) -> Response {
    let metrics = metrics.clone();
    web::upgrade(request, IDLE_TIMEOUT, move |channel, count| {
        run(channel, &count);
        Metrics::add(&metrics.bytes_sent, count.sent_bytes());
        Metrics::add(&metrics.bytes_received, count.received_bytes());
    })
}

/// As [`upgrade`], for a session, whose failure is counted and said.
pub(crate) fn session(
    request: Request,
    metrics: &Arc<Metrics>,
    run: impl FnOnce(WebSocketChannel, &WireCount) -> Result<(), ServingError> + Send + 'static,
) -> Response {
    let counted = metrics.clone();
    upgrade(request, metrics, move |channel, count| {
        if let Err(error) = run(channel, count) {
            Metrics::add(&counted.sessions_failed, 1);
            tracing::warn!("a session failed: {error}");
        }
    })
}

/// Says that a session ended well.
pub(crate) fn say_ended(count: &WireCount) {
    tracing::info!(
        "a session ended: {} bytes sent, {} received",
        count.sent_bytes(),
        count.received_bytes()
    );
}
