//! Answers as the OpenAI interface has them, at once or as server-sent events.

use std::{
    convert::Infallible,
    ops::ControlFlow,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use axum::{
    Json,
    http::StatusCode,
    response::{
        IntoResponse, Response,
        sse::{Event as SseEvent, KeepAlive, Sse},
    },
};
use marill_net::NetError;
use marill_numeric::hex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    client::{Answer, Client, Event, Finish},
    error::{CLOSE_BUDGET, CLOSE_SLOW, ClientError, HttpError, ServingError, SessionError},
    gateway::{Gateway, request::Parsed},
    metrics::Metrics,
    ready::partition_changed,
    secret_files::random,
    web::SessionSlot,
};

/// Which of the two interfaces was asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Chat,
    Completion,
}

/// From the session's thread to the response.
enum Update {
    /// The session stands: from here on the status is 200.
    Opened,
    Text(String),
    Done(Box<Answer>),
    Failed(ServingError),
}

const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long an answer waits for its turn; programs give up after some minutes.
const QUEUE_WAIT: Duration = Duration::from_secs(300);
/// How long an answer that has its turn here waits for a slot at the server, and between two tries.
const SLOT_PATIENCE: Duration = Duration::from_secs(120);
const MIN_PAUSE: Duration = Duration::from_millis(500);
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A budget grows by hand only.
const BUDGET_RETRY_SECONDS: u64 = 3600;

pub(super) async fn respond(
    gateway: Arc<Gateway>,
    client: Arc<Client>,
    parsed: Parsed,
    shape: Shape,
) -> Result<Response, HttpError> {
    if gateway.client.is_changed() {
        gateway.metrics.refuse("partition_changed");
        return Err(partition_changed());
    }
    let frame = Frame::new(
        &client,
        shape,
        parsed
            .return_token_ids
            .then(|| parsed.request.prompt.clone()),
    )?;
    let (stream, include_usage) = (parsed.stream, parsed.include_usage);
    // First come, first served; who hangs up has left the queue.
    let slot = gateway.sessions.admit_in_turn(QUEUE_WAIT).await;
    let slot = slot.inspect_err(|full| gateway.metrics.refuse(full.code.unwrap_or("other")))?;
    let mut updates = start(gateway, client, parsed, slot)?;
    // Until the session stands, a failure has an HTTP status of its own.
    match updates.recv().await {
        Some(Update::Opened) => {}
        Some(Update::Failed(error)) => return Err(http_error(&error)),
        _ => return Err(stopped()),
    }
    if stream {
        return Ok(sse(updates, frame, include_usage));
    }
    loop {
        match updates.recv().await {
            Some(Update::Done(answer)) => return Ok(Json(frame.whole(&answer)).into_response()),
            Some(Update::Failed(error)) => return Err(http_error(&error)),
            Some(Update::Text(_) | Update::Opened) => {}
            None => return Err(stopped()),
        }
    }
}

/// Runs the answer on a thread; dropping the receiver breaks it off after the current step.
fn start(
    gateway: Arc<Gateway>,
    client: Arc<Client>,
    parsed: Parsed,
    slot: SessionSlot,
) -> Result<mpsc::UnboundedReceiver<Update>, HttpError> {
    // A token is a few bytes and the context bounds their number.
    let (sender, receiver) = mpsc::unbounded_channel();
    let spawned = std::thread::Builder::new()
        .name("answer".into())
        .spawn(move || {
            let _slot = slot;
            Metrics::add(&gateway.metrics.sessions_started, 1);
            let mut on_event = |event| {
                let sent = match event {
                    Event::Phase("prefill") => sender.send(Update::Opened),
                    Event::Phase(_) if sender.is_closed() => return ControlFlow::Break(()),
                    Event::Phase(_) => Ok(()),
                    Event::Text(text) => sender.send(Update::Text(text)),
                };
                if sent.is_ok() {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            };
            let mut opening = |open: &mut dyn FnMut() -> Result<_, _>| in_turn(&sender, open);
            let result = client.generate_once_open(&parsed.request, &mut opening, &mut on_event);
            let update = match result {
                Ok(answer) => {
                    gateway.metrics.answered(&answer);
                    let sent = answer.prefill.bytes_sent + answer.decode.bytes_sent;
                    Metrics::add(&gateway.metrics.bytes_sent, sent);
                    let received = answer.prefill.bytes_received + answer.decode.bytes_received;
                    Metrics::add(&gateway.metrics.bytes_received, received);
                    Update::Done(Box::new(answer))
                }
                Err(error) => {
                    Metrics::add(&gateway.metrics.sessions_failed, 1);
                    tracing::warn!("an answer failed: {error}");
                    if matches!(
                        &error,
                        ServingError::Session(SessionError::Refused { code, .. })
                            if code == "partition_changed"
                    ) {
                        gateway.client.hint();
                    }
                    Update::Failed(error)
                }
            };
            let _ = sender.send(update);
        });
    spawned.map(|_| receiver).map_err(|_| stopped())
}

/// Where the server has no slot, or the dealer no place, the answer waits for one, as those before
/// it at this gateway did.
fn in_turn<T>(
    updates: &mpsc::UnboundedSender<Update>,
    mut open: impl FnMut() -> Result<T, ServingError>,
) -> Result<T, ServingError> {
    let deadline = Instant::now() + SLOT_PATIENCE;
    loop {
        let full = match open() {
            Err(full @ ServingError::Session(SessionError::Refused { .. }))
                if is_full_rank(&full) =>
            {
                full
            }
            done => return done,
        };
        let pause = full
            .retry_after_seconds()
            .map_or(MIN_PAUSE, Duration::from_secs)
            .clamp(MIN_PAUSE, MAX_PAUSE);
        let again = Instant::now() + pause;
        while Instant::now() < again {
            // Who has hung up does not wait.
            if updates.is_closed() || again > deadline {
                return Err(full);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn is_full_rank(error: &ServingError) -> bool {
    matches!(
        error,
        ServingError::Session(SessionError::Refused { code, .. })
            if code == "too_many_sessions" || code == "too_many_grants"
    )
}

fn sse(updates: mpsc::UnboundedReceiver<Update>, frame: Frame, include_usage: bool) -> Response {
    let first = frame.opening().map(|chunk| event(&chunk));
    let rest = futures_util::stream::unfold((updates, false), move |(mut updates, finished)| {
        let frame = frame.clone();
        async move {
            if finished {
                return None;
            }
            let (chunks, finished) = match updates.recv().await? {
                Update::Opened => (Vec::new(), false),
                Update::Text(text) => (vec![event(&frame.piece(&text, None))], false),
                Update::Done(answer) => {
                    let mut chunks = vec![event(&frame.last(&answer))];
                    if include_usage {
                        chunks.push(event(&frame.usage_only(&answer)));
                    }
                    chunks.push(SseEvent::default().data("[DONE]"));
                    (chunks, true)
                }
                Update::Failed(error) => (vec![event(&http_error(&error).object())], true),
            };
            let chunks = chunks
                .into_iter()
                .map(Ok::<_, Infallible>)
                .collect::<Vec<_>>();
            Some((futures_util::stream::iter(chunks), (updates, finished)))
        }
    });
    use futures_util::StreamExt;
    let stream = futures_util::stream::iter(first.into_iter().map(Ok)).chain(rest.flatten());
    Sse::new(stream)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response()
}

fn event(value: &Value) -> SseEvent {
    SseEvent::default().data(value.to_string())
}

/// What all objects of one answer share.
#[derive(Clone)]
struct Frame {
    shape: Shape,
    id: String,
    created: u64,
    model: String,
    /// The prompt's ids, where ids are asked for.
    prompt_token_ids: Option<Vec<u32>>,
}

impl Frame {
    fn new(
        client: &Client,
        shape: Shape,
        prompt_token_ids: Option<Vec<u32>>,
    ) -> Result<Self, HttpError> {
        let prefix = if shape == Shape::Chat {
            "chatcmpl"
        } else {
            "cmpl"
        };
        let bytes = random::<12>().map_err(|error| http_error(&error.into()))?;
        Ok(Self {
            shape,
            id: format!("{prefix}-{}", hex(bytes.as_slice())),
            created: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |elapsed| elapsed.as_secs()),
            model: client.model_name.clone(),
            prompt_token_ids,
        })
    }

    fn object(&self, chunk: bool, choices: Value) -> Value {
        let object = match (self.shape, chunk) {
            (Shape::Chat, false) => "chat.completion",
            (Shape::Chat, true) => "chat.completion.chunk",
            (Shape::Completion, _) => "text_completion",
        };
        json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model,
            "choices": choices
        })
    }

    fn whole(&self, answer: &Answer) -> Value {
        let finish = answer.finish.as_str();
        let choice = match self.shape {
            Shape::Chat => json!({
                "index": 0, "finish_reason": finish, "logprobs": null,
                "message": { "role": "assistant", "content": answer.text, "refusal": null },
            }),
            Shape::Completion => {
                json!({
                    "index": 0, "finish_reason": finish, "logprobs": null, "text": answer.text
                })
            }
        };
        let mut object = self.object(false, json!([choice]));
        object["usage"] = usage(answer);
        object["marill"] = cost(answer);
        self.add_ids(&mut object, answer);
        object
    }

    fn add_ids(&self, object: &mut Value, answer: &Answer) {
        if let Some(prompt) = &self.prompt_token_ids {
            object["prompt_token_ids"] = json!(prompt);
            object["choices"][0]["token_ids"] = json!(answer.tokens);
        }
    }

    /// The chunk that names the role, where there is one.
    fn opening(&self) -> Option<Value> {
        let choice = json!({
            "index": 0, "finish_reason": null, "logprobs": null,
            "delta": { "role": "assistant", "content": "" },
        });
        (self.shape == Shape::Chat).then(|| self.object(true, json!([choice])))
    }

    fn piece(&self, text: &str, finish: Option<Finish>) -> Value {
        let finish = finish.map(Finish::as_str);
        let choice = match self.shape {
            Shape::Chat => {
                let delta = if text.is_empty() {
                    json!({})
                } else {
                    json!({ "content": text })
                };
                json!({ "index": 0, "finish_reason": finish, "logprobs": null, "delta": delta })
            }
            Shape::Completion => {
                json!({ "index": 0, "finish_reason": finish, "logprobs": null, "text": text })
            }
        };
        self.object(true, json!([choice]))
    }

    fn last(&self, answer: &Answer) -> Value {
        let mut object = self.piece("", Some(answer.finish));
        object["marill"] = cost(answer);
        self.add_ids(&mut object, answer);
        object
    }

    fn usage_only(&self, answer: &Answer) -> Value {
        let mut object = self.object(true, json!([]));
        object["usage"] = usage(answer);
        object
    }
}

fn usage(answer: &Answer) -> Value {
    let (prompt, completion) = (answer.prompt_tokens, answer.tokens.len());
    json!({
        "prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion
    })
}

/// What this answer cost on the wire between client and server.
fn cost(answer: &Answer) -> Value {
    json!({
        "correlations": answer.correlations.as_str(), "material": answer.comparison,
        "rounds": answer.prefill.rounds + answer.decode.rounds,
        "bytes_sent": answer.prefill.bytes_sent + answer.decode.bytes_sent,
        "bytes_received": answer.prefill.bytes_received + answer.decode.bytes_received,
        "prefill_seconds": answer.prefill.seconds,
        "decode_seconds": answer.decode.seconds,
        "decode_steps": answer.decode_steps,
    })
}

fn http_error(error: &ServingError) -> HttpError {
    let (status, code) = match error {
        ServingError::Session(SessionError::Refused {
            code,
            message,
            retry_after_seconds,
            ..
        }) if refusal_status(code).is_some() => {
            let (status, kind, code) = refusal_status(code).unwrap_or_default();
            let mut refused = HttpError::new(status, kind, code, message.clone());
            refused.retry_after_seconds = retry_after_seconds.or(refused.retry_after_seconds);
            return refused;
        }
        error
            if matches!(
                error.net_source(),
                Some(NetError::Ended {
                    code: CLOSE_BUDGET,
                    ..
                })
            ) =>
        {
            let status = StatusCode::TOO_MANY_REQUESTS;
            let mut spent = HttpError::new(
                status,
                "rate_limit_error",
                "budget_spent",
                error.to_string(),
            );
            spent.retry_after_seconds = Some(BUDGET_RETRY_SECONDS);
            return spent;
        }
        error
            if matches!(
                error.net_source(),
                Some(
                    NetError::TimedOut { .. }
                        | NetError::Ended {
                            code: CLOSE_SLOW,
                            ..
                        }
                )
            ) =>
        {
            (StatusCode::GATEWAY_TIMEOUT, "peer_slow")
        }
        ServingError::Client(ClientError::PromptEmpty | ClientError::PromptTooLong { .. }) => {
            let message = error.to_string();
            return HttpError::new(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "context_length_exceeded",
                message,
            );
        }
        ServingError::Session(error) if error.is_peer() => (StatusCode::BAD_GATEWAY, "peer_lost"),
        ServingError::Session(SessionError::GreedyOnly) => {
            let mut refused = HttpError::new(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "unsupported_parameter",
                error.to_string(),
            );
            refused.param = Some("temperature".into());
            return refused;
        }
        ServingError::Session(SessionError::Mismatch { .. }) => {
            (StatusCode::BAD_GATEWAY, "peer_mismatch")
        }
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    };
    HttpError::new(status, "server_error", code, error.to_string())
}

/// Refusals of server or dealer that the program behind the gateway can act on.
fn refusal_status(code: &str) -> Option<(StatusCode, &'static str, &'static str)> {
    let (limit, gone) = ("rate_limit_error", StatusCode::SERVICE_UNAVAILABLE);
    Some(match code {
        "invalid_api_key" => (
            StatusCode::UNAUTHORIZED,
            "authentication_error",
            "invalid_api_key",
        ),
        "budget_spent" => (StatusCode::TOO_MANY_REQUESTS, limit, "budget_spent"),
        "rate_limited" => (StatusCode::TOO_MANY_REQUESTS, limit, "rate_limited"),
        "too_many_sessions" => (StatusCode::TOO_MANY_REQUESTS, limit, "too_many_sessions"),
        "too_many_grants" => (StatusCode::TOO_MANY_REQUESTS, limit, "too_many_grants"),
        "shutting_down" => (gone, "server_error", "shutting_down"),
        "not_ready" => (gone, "server_error", "not_ready"),
        "partition_changed" => (gone, "server_error", "partition_changed"),
        "peer_slow" => (StatusCode::GATEWAY_TIMEOUT, "server_error", "peer_slow"),
        _ => return None,
    })
}

fn stopped() -> HttpError {
    HttpError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "server_error",
        "internal",
        "the answer was broken off",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_say_who_has_to_do_what() {
        let refused = |code: &str, retry_after_seconds| {
            ServingError::from(SessionError::Refused {
                by: "computing party",
                code: code.into(),
                message: "no".into(),
                retry_after_seconds,
            })
        };
        let ended = |code| {
            let source = NetError::Ended {
                code,
                reason: "x".into(),
            };
            let peer = "server";
            ServingError::from(SessionError::Net { peer, source })
        };
        for (error, status, code, retry) in [
            (
                refused("too_many_sessions", Some(9)),
                429,
                "too_many_sessions",
                Some(9),
            ),
            (
                refused("too_many_grants", None),
                429,
                "too_many_grants",
                Some(2),
            ),
            (
                refused("shutting_down", Some(3)),
                503,
                "shutting_down",
                Some(3),
            ),
            (
                refused("partition_changed", None),
                503,
                "partition_changed",
                Some(2),
            ),
            (refused("peer_slow", None), 504, "peer_slow", None),
            (refused("bad_greeting", None), 502, "peer_lost", None),
            (ended(CLOSE_SLOW), 504, "peer_slow", None),
            (
                ended(CLOSE_BUDGET),
                429,
                "budget_spent",
                Some(BUDGET_RETRY_SECONDS),
            ),
            (ended(1000), 502, "peer_lost", None),
        ] {
            let found = http_error(&error);
            let found = (
                found.status.as_u16(),
                found.code.unwrap(),
                found.retry_after_seconds,
            );
            assert_eq!(found, (status, code, retry), "{error}");
        }
    }

    #[test]
    fn a_full_server_is_waited_for_as_long_as_the_client_listens() {
        let full = || {
            ServingError::from(SessionError::Refused {
                by: "server",
                code: "too_many_sessions".into(),
                message: "full".into(),
                retry_after_seconds: Some(1),
            })
        };
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut tries = 0;
        let other = in_turn::<()>(&sender, || {
            tries += 1;
            Err(if tries < 2 {
                full()
            } else {
                ClientError::PromptEmpty.into()
            })
        });
        assert!(tries == 2 && matches!(other, Err(ServingError::Client(ClientError::PromptEmpty))));
        drop(receiver);
        let mut tries = 0;
        let left = in_turn::<()>(&sender, || {
            tries += 1;
            Err(full())
        });
        assert!(
            tries == 1
                && matches!(
                    left,
                    Err(ServingError::Session(SessionError::Refused { .. }))
                ),
            "who has hung up holds nobody up"
        );
    }
}
