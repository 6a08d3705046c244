//! What can go wrong between the services.

mod http;
mod peer;
mod refusal;

use std::path::PathBuf;

use marill_model::ModelError;
use marill_mpc::{ProtocolError, SpecError};
use marill_net::{NetError, http::Response, peer_text};

pub use self::{
    http::HttpError,
    peer::{CLOSE_BUDGET, CLOSE_SLOW},
    refusal::Refusal,
};

/// Every variant names the peer or the place; none carries text, token ids or shares.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServingError {
    #[error("the connection to the {peer} failed: {source}")]
    Net {
        peer: &'static str,
        source: NetError,
    },
    #[error("the secure step failed: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("client and server disagree on `{field}`: here `{ours}`, there `{theirs}`")]
    Mismatch {
        field: &'static str,
        ours: String,
        theirs: String,
    },
    #[error("the {by} refused: {message}")]
    Refused {
        by: &'static str,
        code: String,
        message: String,
        retry_after_seconds: Option<u64>,
    },
    #[error("{0}")]
    Quota(Refusal),
    #[error("the preprocessing request does not fit: {reason}")]
    BadPreprocessRequest { reason: String },
    /// Goes to the client too, so it carries the file's name and not where it lies.
    #[error("`{file}` is no file of correlations that can be used: {reason}")]
    BadPreprocessed { file: String, reason: String },
    #[error("there are no preprocessed correlations for session `{session}`")]
    NotPreprocessed { session: String },
    #[error(
        "no preprocessed correlations fit a prompt of {bucket} and {tokens} tokens, selection \
         `{selection}`"
    )]
    NothingPreprocessed {
        bucket: usize,
        tokens: usize,
        selection: &'static str,
    },
    #[error("DCF comparisons are not available: {reason}")]
    NoDcf { reason: &'static str },
    #[error("this server decodes greedily only: no temperature above 0")]
    GreedyOnly,
    #[error("client and computing party ask for different sampling")]
    SamplingDiffers,
    #[error("`{}` has {free_bytes} bytes free, and {needed_bytes} are needed", path.display())]
    NoSpace {
        path: PathBuf,
        needed_bytes: u64,
        free_bytes: u64,
    },
    #[error(
        "the tally declares {declared_bytes} bytes of corrections, the program made {got_bytes}"
    )]
    Tally { declared_bytes: u64, got_bytes: u64 },
    #[error("timed out after {seconds} s waiting for the client")]
    NoClient { seconds: u64 },
    #[error("no session `{session}` waits for a client")]
    NoSession { session: String },
    #[error("this server works with a separate computing party, and none is named")]
    NoParty,
    #[error("`{name}` {reason}")]
    KeyName { name: String, reason: &'static str },
    #[error("the {peer} sent a message that is not understood: {reason}")]
    BadMessage { peer: &'static str, reason: String },
    #[error("session `{session}` has already been used, or was never granted")]
    SessionUsed { session: String },
    #[error("`{}` is in use by another process", path.display())]
    LedgerInUse { path: PathBuf },
    #[error(
        "`{}` holds {digits} characters where a key of 64 hexadecimal digits belongs\n\
         hint: it is damaged; put the right one back, or delete it and a new one is made",
        path.display()
    )]
    BadSecret { path: PathBuf, digits: usize },
    #[error("session `{session}` was granted to another client")]
    WrongProof { session: String },
    #[error(
        "a server without API keys answers anyone, who can then read the adapter out of the \
         protocol; on `{address}` that is the whole network\nhint: `marill keys add NAME` makes a \
         key, and `--allow-anonymous` serves everyone all the same"
    )]
    Anonymous { address: String },
    #[error(
        "this server had API keys, and `{}` is gone\nhint: put it back; to serve everyone from \
         now on, remove `{}` too",
        keys.display(), record.display()
    )]
    KeysGone { keys: PathBuf, record: PathBuf },
    #[error("`{}`: {source}", path.display())]
    Io {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{0}")]
    Plain(NetError),
    #[error("the operating system gives no thread: {0}")]
    Thread(std::io::Error),
    #[error(
        "what was downloaded is damaged: {source}\n\
         hint: delete `{}`, and it is fetched again", folder.display()
    )]
    BadCache {
        folder: PathBuf,
        source: Box<marill_partition::PartitionError>,
    },
    #[error("`{}` cannot be used: {reason}\nhint: {hint}", path.display())]
    BadIdentity {
        path: PathBuf,
        reason: String,
        hint: String,
    },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        address: String,
        source: std::io::Error,
    },
    #[error("the prompt is {tokens} tokens, and {limit} fit with at least one token of answer")]
    PromptTooLong { tokens: usize, limit: usize },
    #[error("the model's template leaves out the turn that is to be continued")]
    NoContinuation,
    #[error("the prompt is empty")]
    PromptEmpty,
    #[error("`{what}` has the digest {got}, the server announced {expected}")]
    Digest {
        what: String,
        expected: String,
        got: String,
    },
    #[error("a task of the service failed: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("the operating system gives no random numbers: {0}")]
    Random(String),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Partition(#[from] marill_partition::PartitionError),
}

impl ServingError {
    /// For `map_err`: a failed connection to the named peer.
    pub fn net(peer: &'static str) -> impl Fn(NetError) -> Self {
        move |source| match source {
            NetError::Refused {
                body,
                retry_after_seconds,
                ..
            } if message_of(&body).is_some() => {
                let (code, message) = message_of(&body).unwrap_or_default();
                Self::Refused {
                    by: peer,
                    code,
                    message,
                    retry_after_seconds,
                }
            }
            source => Self::Net { peer, source },
        }
    }

    /// For `map_err`: what this service would answer over HTTP, for the other end of a connection.
    pub(crate) fn refused_by(service: &'static str) -> impl FnOnce(HttpError) -> Self {
        move |refused| Self::Refused {
            by: service,
            code: refused.code.unwrap_or_default().into(),
            message: refused.message,
            retry_after_seconds: refused.retry_after_seconds,
        }
    }

    /// For `map_err`: a failed operation on the named file.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// What went wrong on the connection to the peer, where that is what failed.
    pub fn net_source(&self) -> Option<&NetError> {
        match self {
            Self::Net { source, .. }
            | Self::Protocol(ProtocolError::Peer { source, .. })
            | Self::Protocol(ProtocolError::Dealer(source)) => Some(source),
            _ => None,
        }
    }

    /// The peer is at fault or gone, not this process or its input.
    pub fn is_peer(&self) -> bool {
        matches!(
            self,
            Self::Net { .. } | Self::Protocol(_) | Self::Refused { .. } | Self::BadMessage { .. }
        )
    }
}

/// For an answer of HTTP that is no success: what the service says of it.
pub(crate) fn refused(by: &'static str, answer: &Response) -> ServingError {
    let text = String::from_utf8_lossy(&answer.body);
    let (code, message) = message_of(&text)
        .unwrap_or_else(|| (String::new(), format!("HTTP status {}", answer.status)));
    ServingError::Refused {
        by,
        code,
        message,
        retry_after_seconds: answer.retry_after_seconds,
    }
}

/// `code` and `message` of an error object as the services write it.
pub(crate) fn message_of(body: &str) -> Option<(String, String)> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    let error = value.get("error")?;
    let text = |key| {
        error
            .get(key)
            .and_then(|value| value.as_str())
            .map(str::to_string)
    };
    Some((
        peer_text(&text("code").unwrap_or_default()),
        peer_text(&text("message")?),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_a_service_is_one_line() {
        let body = "{\"error\":{\"code\":\"x\\u001b[2J\",\"message\":\"a\\nhint: b\\u001b]0;t\"}}";
        assert_eq!(
            message_of(body),
            Some(("x [2J".into(), "a hint: b ]0;t".into()))
        );
        let long = format!("{{\"error\":{{\"message\":\"{}\"}}}}", "x".repeat(100_000));
        // The limit of a peer's text is 300 characters and the mark of a cut.
        assert!(message_of(&long).unwrap().1.len() < 400);
    }
}
