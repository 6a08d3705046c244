//! What the other end of a connection is told of an error: a kind, when to come back, how the
//! WebSocket closes.

use marill_net::NetError;

use crate::error::{ServingError, SessionError, StateError};

/// The WebSocket is closed with this code when the key's budget does not cover the next step.
pub const CLOSE_BUDGET: u16 = 4429;

/// The WebSocket is closed with this code when a further party did not answer in time.
pub const CLOSE_SLOW: u16 = 4504;

/// Refusals that end by themselves: they keep their kind on the way to the user.
const BUSY: [&str; 7] = [
    "too_many_sessions",
    "too_many_grants",
    "shutting_down",
    "not_ready",
    "rate_limited",
    "partition_changed",
    "peer_slow",
];

/// A further party refuses or is gone.
const DEALER_REFUSAL: &str = "dealer";

/// Anything else that ends a handshake.
const OTHER_REFUSAL: &str = "session";

/// The WebSocket's code for an end without a fault of the protocol.
const CLOSE_NORMAL: u16 = 1000;

impl ServingError {
    /// What the other end of a connection is sent: the files of this machine are its own business.
    pub fn for_peer(&self) -> String {
        match self {
            Self::State(error) => error.for_peer(),
            error => error.to_string(),
        }
    }

    /// The kind of a refused handshake, for the party that sent it: its own fault, or that of the
    /// further party that refused, where anyone can act on it, or what is wrong.
    pub(crate) fn refusal_code(&self, counterpart: &str) -> &'static str {
        match self {
            Self::Session(error) => error.refusal_code(counterpart),
            Self::State(StateError::SessionUsed { .. }) => "session_used",
            _ => OTHER_REFUSAL,
        }
    }

    /// What a further party said about when to come back.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        match self {
            Self::Session(SessionError::Refused {
                retry_after_seconds,
                ..
            }) => *retry_after_seconds,
            Self::Session(SessionError::Quota(refusal)) => Some(refusal.retry_after_seconds()),
            _ => None,
        }
    }

    /// The WebSocket's code for an end with this error.
    pub(crate) fn close_code(&self) -> u16 {
        match self {
            Self::Session(error) => error.close_code(),
            _ => CLOSE_NORMAL,
        }
    }
}

impl StateError {
    fn for_peer(&self) -> String {
        match self {
            Self::Io { source, .. } => format!("its records or files cannot be used: {source}"),
            Self::LedgerInUse { .. } => "its records are in use by another process".into(),
            Self::BadSecret { .. } => "one of its keys is damaged".into(),
            error => error.to_string(),
        }
    }
}

impl SessionError {
    fn refusal_code(&self, counterpart: &str) -> &'static str {
        match self {
            Self::Refused { code, .. } => BUSY
                .iter()
                .find(|busy| *busy == code)
                .copied()
                .unwrap_or(DEALER_REFUSAL),
            Self::Mismatch {
                field: "protocol" | "reveal" | "comparison",
                ..
            } => "terms",
            // All the others are the partition's, or how a server was started with it.
            Self::Mismatch { .. } => "partition_changed",
            Self::Quota(refusal) => refusal.code(),
            Self::BadMessage { peer, .. } | Self::Net { peer, .. } if *peer == counterpart => {
                "bad_greeting"
            }
            error if matches!(error.net_source(), Some(NetError::TimedOut { .. })) => "peer_slow",
            error if error.is_peer() => DEALER_REFUSAL,
            _ => OTHER_REFUSAL,
        }
    }

    /// What a further party ended with, where it is one of the services'.
    fn close_code(&self) -> u16 {
        match (self, self.net_source()) {
            (Self::Quota(_), _) => CLOSE_BUDGET,
            (
                _,
                Some(NetError::Ended {
                    code: code @ (CLOSE_BUDGET | CLOSE_SLOW),
                    ..
                }),
            ) => *code,
            (_, Some(NetError::TimedOut { .. })) => CLOSE_SLOW,
            _ => CLOSE_NORMAL,
        }
    }
}

#[cfg(test)]
mod tests {
    use marill_mpc::ProtocolError;

    use super::*;
    use crate::messages::Reply;

    fn refused(code: &str, retry_after_seconds: Option<u64>) -> ServingError {
        let refused = SessionError::Refused {
            by: "dealer",
            code: code.into(),
            message: "no".into(),
            retry_after_seconds,
        };
        refused.into()
    }

    #[test]
    fn a_refusal_that_ends_by_itself_keeps_its_kind() {
        for busy in [
            "too_many_sessions",
            "too_many_grants",
            "shutting_down",
            "not_ready",
            "peer_slow",
        ] {
            let reply = Reply::<()>::refused(&refused(busy, Some(7)), "client");
            let Reply::Refused {
                code,
                retry_after_seconds,
                ..
            } = reply
            else {
                panic!("a welcome")
            };
            assert_eq!((&*code, retry_after_seconds), (busy, Some(7)));
        }
        // The server's own key at the dealer is nothing that a client could change.
        assert_eq!(
            refused("invalid_key", None).refusal_code("client"),
            "dealer"
        );
        let late = |peer| SessionError::Net {
            peer,
            source: NetError::TimedOut { seconds: 60 },
        };
        assert_eq!(late("dealer").refusal_code("client"), "peer_slow");
        assert_eq!(
            late("client").refusal_code("client"),
            "bad_greeting",
            "whoever sends a bad handshake is not the dealer"
        );
        let bad = |peer| SessionError::BadMessage {
            peer,
            reason: "x".into(),
        };
        assert_eq!(
            (
                bad("client").refusal_code("client"),
                bad("dealer").refusal_code("client")
            ),
            ("bad_greeting", "dealer")
        );
        let differs = |field| SessionError::Mismatch {
            field,
            ours: "a".into(),
            theirs: "b".into(),
        };
        assert_eq!(
            differs("partition_id").refusal_code("client"),
            "partition_changed"
        );
        assert_eq!(differs("protocol").refusal_code("client"), "terms");
    }

    #[test]
    fn a_slow_party_is_told_apart_from_a_lost_one() {
        let source = |source| SessionError::Protocol(ProtocolError::Dealer(source));
        assert_eq!(
            source(NetError::TimedOut { seconds: 60 }).close_code(),
            CLOSE_SLOW
        );
        assert_eq!(source(NetError::Closed).close_code(), CLOSE_NORMAL);
        for code in [CLOSE_SLOW, CLOSE_BUDGET] {
            let ended = NetError::Ended {
                code,
                reason: String::new(),
            };
            assert_eq!(
                SessionError::Net {
                    peer: "server",
                    source: ended
                }
                .close_code(),
                code,
                "it is passed on"
            );
        }
        let other = NetError::Ended {
            code: 4999,
            reason: String::new(),
        };
        assert_eq!(
            SessionError::Net {
                peer: "server",
                source: other
            }
            .close_code(),
            CLOSE_NORMAL
        );
    }
}
