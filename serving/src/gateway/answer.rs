//! Answers as the OpenAI interface has them, at once or as server-sent events.

mod frame;
mod response;
mod status;
mod turn;

use std::{convert::Infallible, ops::ControlFlow, sync::Arc, time::Duration};

use axum::{
    Json,
    response::{
        IntoResponse, Response,
        sse::{Event as SseEvent, KeepAlive, Sse},
    },
};
use marill_net::RequestId;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

pub(super) use self::{frame::Shape, status::http_error as failed};
use crate::{
    client::{Answer, Client, Event},
    error::{HttpError, ServingError, SessionError},
    gateway::{
        Gateway,
        answer::{
            frame::Frame,
            response::ResponseFrame,
            status::{http_error, stopped},
            turn::in_turn,
        },
        request::Parsed,
        running::Entry,
    },
    metrics::Metrics,
    ready::partition_changed,
    web::SessionSlot,
};

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

/// How an answer is written.
pub(super) enum Form {
    Completion(Shape),
    /// With the fields of the request that it repeats.
    Response(Map<String, Value>),
}

/// The objects of one answer.
enum Frames {
    Completion { frame: Frame, with_usage: bool },
    Response(ResponseFrame),
}

impl Frames {
    fn new(client: &Client, form: Form, parsed: &Parsed) -> Result<Self, HttpError> {
        Ok(match form {
            Form::Completion(shape) => {
                let prompt = &parsed.request.prompt;
                let ids = parsed.return_token_ids.then(|| prompt.clone());
                let frame = Frame::new(client, shape, ids)?;
                let with_usage = parsed.include_usage;
                Self::Completion { frame, with_usage }
            }
            Form::Response(repeated) => Self::Response(ResponseFrame::new(client, repeated)?),
        })
    }

    /// Names the answer, to its caller and at `/status`.
    fn id(&self) -> &str {
        match self {
            Self::Completion { frame, .. } => frame.id(),
            Self::Response(frame) => frame.id(),
        }
    }

    fn whole(&self, answer: &Answer) -> Value {
        match self {
            Self::Completion { frame, .. } => frame.whole(answer),
            Self::Response(frame) => frame.whole(answer),
        }
    }

    /// Before the first piece.
    fn opening(&mut self) -> Vec<SseEvent> {
        match self {
            Self::Completion { frame, .. } => frame.opening().iter().map(event).collect(),
            Self::Response(frame) => frame.opening(),
        }
    }

    fn piece(&mut self, text: &str) -> Vec<SseEvent> {
        match self {
            Self::Completion { frame, .. } => vec![event(&frame.piece(text, None))],
            Self::Response(frame) => frame.piece(text),
        }
    }

    fn last(&mut self, answer: &Answer) -> Vec<SseEvent> {
        match self {
            Self::Completion { frame, with_usage } => {
                let mut chunks = vec![event(&frame.last(answer))];
                if *with_usage {
                    chunks.push(event(&frame.usage_only(answer)));
                }
                chunks.push(SseEvent::default().data("[DONE]"));
                chunks
            }
            Self::Response(frame) => frame.last(answer),
        }
    }

    fn failed(&mut self, error: &HttpError) -> Vec<SseEvent> {
        match self {
            Self::Completion { .. } => vec![event(&error.object())],
            Self::Response(frame) => frame.failed(error),
        }
    }
}

pub(super) async fn respond(
    gateway: Arc<Gateway>,
    client: Arc<Client>,
    parsed: Parsed,
    form: Form,
) -> Result<Response, HttpError> {
    if gateway.client.is_changed() {
        gateway.metrics.refuse("partition_changed");
        return Err(partition_changed());
    }
    let frames = Frames::new(&client, form, &parsed)?;
    let stream = parsed.stream;
    let entry = gateway.running.enter(frames.id(), client.clone());
    // First come, first served; who hangs up has left the queue.
    let slot = gateway.sessions.admit_in_turn(QUEUE_WAIT).await;
    let slot = slot.inspect_err(|full| gateway.metrics.refuse(full.code.unwrap_or("other")))?;
    let id = parsed.request.id.clone();
    let mut updates = start(gateway, client, parsed, (slot, entry))?;
    // Until the session stands, a failure has an HTTP status of its own.
    match updates.recv().await {
        Some(Update::Opened) => {}
        Some(Update::Failed(error)) => return Err(http_error(&error)),
        _ => return Err(stopped()),
    }
    if stream {
        return Ok(sse(updates, frames, id));
    }
    loop {
        match updates.recv().await {
            Some(Update::Done(answer)) => return Ok(Json(frames.whole(&answer)).into_response()),
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
    (slot, entry): (SessionSlot, Entry),
) -> Result<mpsc::UnboundedReceiver<Update>, HttpError> {
    // A token is a few bytes and the context bounds their number.
    let (sender, receiver) = mpsc::unbounded_channel();
    let span = tracing::Span::current();
    let spawned = std::thread::Builder::new()
        .name("answer".into())
        .spawn(move || {
            let _named = span.entered();
            let _slot = slot;
            Metrics::add(&gateway.metrics.sessions_started, 1);
            let mut on_event = |event| {
                entry.hear(&event);
                let sent = match event {
                    Event::Phase("prefill") => sender.send(Update::Opened),
                    Event::Phase(_) if sender.is_closed() => return ControlFlow::Break(()),
                    Event::Phase(_) | Event::Step(_) => Ok(()),
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
                    tracing::info!(tokens = answer.tokens.len(), "an answer is complete");
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

fn sse(
    updates: mpsc::UnboundedReceiver<Update>,
    mut frames: Frames,
    id: Option<RequestId>,
) -> Response {
    let first = frames.opening();
    let state = (updates, frames, false);
    let rest = futures_util::stream::unfold(state, move |(mut updates, mut frames, finished)| {
        let id = id.clone();
        async move {
            if finished {
                return None;
            }
            let (events, finished) = match updates.recv().await? {
                Update::Opened => (Vec::new(), false),
                Update::Text(text) => (frames.piece(&text), false),
                Update::Done(answer) => (frames.last(&answer), true),
                Update::Failed(error) => {
                    let mut failed = http_error(&error);
                    failed.request_id = id.map(Box::new);
                    (frames.failed(&failed), true)
                }
            };
            let events = events.into_iter().map(Ok::<_, Infallible>);
            let events = events.collect::<Vec<_>>();
            Some((
                futures_util::stream::iter(events),
                (updates, frames, finished),
            ))
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
