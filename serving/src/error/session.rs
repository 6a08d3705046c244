//! What ends a session, or a request to another service: what a peer did or said.

use marill_mpc::ProtocolError;
use marill_net::{NetError, http::Response, peer_text};

use crate::error::{HttpError, Refusal};

/// An error between this process and the named peer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    #[error("the connection to the {peer} failed: {source}")]
    Net {
        peer: &'static str,
        source: NetError,
    },
    #[error("{}", of_step(.0))]
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
    #[error("the {peer} sent a message that is not understood: {reason}")]
    BadMessage { peer: &'static str, reason: String },
    #[error("DCF comparisons are not available: {reason}")]
    NoDcf { reason: &'static str },
    #[error("this server decodes greedily only: no temperature above 0")]
    GreedyOnly,
    #[error("in the setting `2pc` there are no correlations, live or preprocessed")]
    NoCorrelations,
    #[error("in the setting `2pc` there is no choice of comparisons: they are made of transfers")]
    NoComparison,
    #[error("client and computing party ask for different sampling")]
    SamplingDiffers,
    #[error("timed out after {seconds} s waiting for the client")]
    NoClient { seconds: u64 },
    #[error("no session `{session}` waits for a client")]
    NoSession { session: String },
    #[error("a session with a computing party does not go on in a further turn")]
    KeepsNothing,
    #[error("this server works with a separate computing party, and none is named")]
    NoParty,
}

/// A program or a token that a setting does not have is no failed step.
fn of_step(error: &ProtocolError) -> String {
    match error {
        ProtocolError::Unsupported { .. } => error.to_string(),
        _ => format!("the secure step failed: {error}"),
    }
}

impl SessionError {
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
pub(crate) fn refused(by: &'static str, answer: &Response) -> SessionError {
    let text = String::from_utf8_lossy(&answer.body);
    let (code, message) = message_of(&text)
        .unwrap_or_else(|| (String::new(), format!("HTTP status {}", answer.status)));
    SessionError::Refused {
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
