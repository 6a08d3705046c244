//! One field of a request's object.

use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::error::HttpError;

/// A field that is there and not null.
pub(super) fn present<'a>(fields: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    fields.get(name).filter(|value| !value.is_null())
}

pub(super) fn unsupported(param: &str, message: impl Into<String>) -> HttpError {
    with_param(
        StatusCode::BAD_REQUEST,
        param,
        "unsupported_parameter",
        message,
    )
}

pub(super) fn with_param(
    status: StatusCode,
    param: &str,
    code: &'static str,
    message: impl Into<String>,
) -> HttpError {
    let mut error = HttpError::new(status, "invalid_request_error", code, message);
    error.param = Some(param.to_string());
    error
}
