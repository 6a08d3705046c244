//! Which HTTP status a failed answer has, and what it says.

use axum::http::StatusCode;
use marill_mpc::{ProtocolError, two_party::TOP_K};
use marill_net::NetError;

use crate::error::{CLOSE_BUDGET, CLOSE_SLOW, ClientError, HttpError, ServingError, SessionError};

/// A budget grows by hand only.
const BUDGET_RETRY_SECONDS: u64 = 3600;

pub(in crate::gateway) fn http_error(error: &ServingError) -> HttpError {
    match error {
        ServingError::Session(error) => session_error(error),
        ServingError::Client(ClientError::PromptEmpty | ClientError::PromptTooLong { .. }) => {
            let message = error.to_string();
            HttpError::new(
                StatusCode::BAD_REQUEST,
                "invalid_request_error",
                "context_length_exceeded",
                message,
            )
        }
        _ => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            HttpError::new(status, "server_error", "internal", error.to_string())
        }
    }
}

fn session_error(error: &SessionError) -> HttpError {
    let (status, code) = match (error, error.net_source()) {
        (
            SessionError::Refused {
                code,
                message,
                retry_after_seconds,
                ..
            },
            _,
        ) if refusal_status(code).is_some() => {
            let (status, kind, code) = refusal_status(code).unwrap_or_default();
            let mut refused = HttpError::new(status, kind, code, message.clone());
            refused.retry_after_seconds = retry_after_seconds.or(refused.retry_after_seconds);
            return refused;
        }
        (
            _,
            Some(NetError::Ended {
                code: CLOSE_BUDGET, ..
            }),
        ) => {
            let status = StatusCode::TOO_MANY_REQUESTS;
            let kind = "rate_limit_error";
            let mut spent = HttpError::new(status, kind, "budget_spent", error.to_string());
            spent.retry_after_seconds = Some(BUDGET_RETRY_SECONDS);
            return spent;
        }
        (
            _,
            Some(
                NetError::TimedOut { .. }
                | NetError::Ended {
                    code: CLOSE_SLOW, ..
                },
            ),
        ) => (StatusCode::GATEWAY_TIMEOUT, "peer_slow"),
        (SessionError::Protocol(ProtocolError::Unsupported { what }), _) => {
            let status = StatusCode::BAD_REQUEST;
            let kind = "invalid_request_error";
            let code = "unsupported_parameter";
            let mut refused = HttpError::new(status, kind, code, error.to_string());
            refused.param = (*what == TOP_K).then(|| "top_k".into());
            return refused;
        }
        _ if error.is_peer() => (StatusCode::BAD_GATEWAY, "peer_lost"),
        (SessionError::GreedyOnly, _) => {
            let status = StatusCode::BAD_REQUEST;
            let kind = "invalid_request_error";
            let code = "unsupported_parameter";
            let mut refused = HttpError::new(status, kind, code, error.to_string());
            refused.param = Some("temperature".into());
            return refused;
        }
        (SessionError::Mismatch { .. }, _) => (StatusCode::BAD_GATEWAY, "peer_mismatch"),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
    };
    HttpError::new(status, "server_error", code, error.to_string())
}

/// Refusals of server or dealer that the program behind the gateway can act on.
fn refusal_status(code: &str) -> Option<(StatusCode, &'static str, &'static str)> {
    let limit = "rate_limit_error";
    let gone = StatusCode::SERVICE_UNAVAILABLE;
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

pub(super) fn stopped() -> HttpError {
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
    fn what_a_setting_does_not_have_is_the_requests_fault() {
        let error = SessionError::from(ProtocolError::Unsupported { what: TOP_K });
        let found = http_error(&ServingError::from(error));
        assert_eq!(found.status, StatusCode::BAD_REQUEST);
        assert_eq!(found.code, Some("unsupported_parameter"));
        assert_eq!(found.param.as_deref(), Some("top_k"));
        assert!(!found.message.contains("failed"), "{}", found.message);
    }

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
}
