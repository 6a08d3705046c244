//! What a service writes to standard error while it runs: lines of text, or of JSON.
//!
//! Each has a time (UTC), a level and, where it belongs to a request, the request's name
//! ([`marill_net::RequestId`]), the partition and the session. No line has a key, a seed, a share,
//! a prompt or an answer, and of an address only the pattern.

use std::sync::OnceLock;

use tracing::{Level, Span, field::Empty};

/// How a service writes its log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line, those of the start too.
    Json,
}

/// The format of this process, once it has begun.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Begins this process's log. The first call counts, and a log that the process set up itself
/// stays.
pub fn start(format: LogFormat) {
    if FORMAT.set(format).is_err() {
        return;
    }
    let log = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_max_level(Level::INFO)
        .with_ansi(false)
        .with_target(false);
    // Fails where there is one, which then serves.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => {
            let log = log.json().flatten_event(true);
            log.with_current_span(true).with_span_list(false).try_init()
        }
    };
}

/// Tells whoever started the service something about its start or end: a plain line, which
/// programs read (`listening on`), or a line of the log in JSON.
pub fn say(text: &str) {
    match FORMAT.get() {
        Some(LogFormat::Json) => tracing::info!("{text}"),
        _ => eprintln!("{text}"),
    }
}

/// As [`say`], of something to mind.
pub(crate) fn caution(text: &str) {
    match FORMAT.get() {
        Some(LogFormat::Json) => tracing::warn!("{text}"),
        _ => eprintln!("warning: {text}"),
    }
}

/// What the lines of a request have in common; session and partition are added once they are known.
pub(crate) fn request(id: &marill_net::RequestId, partition: Option<&str>) -> Span {
    let id = id.as_str();
    tracing::info_span!(parent: None, "request", request_id = id, partition, session = Empty)
}
