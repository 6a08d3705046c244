//! What can go wrong between the services.

use std::path::PathBuf;

use marill_model::ModelError;
use marill_mpc::{ProtocolError, SpecError};
use marill_net::NetError;

/// Every variant names the peer or the place; none carries text, token ids or shares.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServingError {
    #[error("the connection to the {peer} failed: {source}")]
    Net { peer: &'static str, source: NetError },
    #[error("the secure step failed: {0}")]
    Protocol(#[from] ProtocolError),
    #[error("client and server disagree on `{field}`: here `{ours}`, there `{theirs}`")]
    Mismatch { field: &'static str, ours: String, theirs: String },
    #[error("the {by} refused: {message}")]
    Refused { by: &'static str, code: String, message: String },
    #[error("the {peer} sent a message that is not understood: {reason}")]
    BadMessage { peer: &'static str, reason: String },
    #[error("session `{session}` was used before; its seeds are burnt")]
    SessionUsed { session: String },
    #[error("`{}` is in use by another process", path.display())]
    LedgerInUse { path: PathBuf },
    #[error("`{}`: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Plain(NetError),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("cannot listen on `{address}`: {source}")]
    Listen { address: String, source: std::io::Error },
    #[error("the prompt is {tokens} tokens, and {limit} fit with at least one token of answer")]
    PromptTooLong { tokens: usize, limit: usize },
    #[error("the prompt is empty")]
    PromptEmpty,
    #[error("`{what}` has the digest {got}, the server announced {expected}")]
    Digest { what: String, expected: String, got: String },
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
            NetError::Refused { body, .. } if message_of(&body).is_some() => {
                let (code, message) = message_of(&body).unwrap_or_default();
                Self::Refused { by: peer, code, message }
            }
            source => Self::Net { peer, source },
        }
    }

    /// For `map_err`: a failed operation on the named file.
    pub fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// The peer is at fault or gone, not this process or its input.
    pub fn is_peer(&self) -> bool {
        matches!(self, Self::Net { .. } | Self::Protocol(_) | Self::Refused { .. } | Self::BadMessage { .. })
    }
}

/// `code` and `message` of an error object as the services write it.
pub(crate) fn message_of(body: &str) -> Option<(String, String)> {
    let value: serde_json::Value = serde_json::from_str(body).ok()?;
    let error = value.get("error")?;
    let text = |key| error.get(key).and_then(|value| value.as_str()).map(str::to_string);
    Some((text("code").unwrap_or_default(), text("message")?))
}
