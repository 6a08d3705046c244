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

pub(super) fn positive(
    fields: &Map<String, Value>,
    name: &str,
) -> Result<Option<usize>, HttpError> {
    match present(fields, name) {
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number @ 1..) => Ok(Some(usize::try_from(number).unwrap_or(usize::MAX))),
            _ => Err(invalid(
                name,
                format!("`{name}` needs to be a number of at least 1"),
            )),
        },
    }
}

pub(super) fn boolean(fields: &Map<String, Value>, name: &str) -> Result<bool, HttpError> {
    match present(fields, name) {
        None => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(invalid(name, format!("`{name}` needs to be true or false"))),
    }
}

pub(super) fn bad(code: &'static str, message: impl Into<String>) -> HttpError {
    HttpError::new(
        StatusCode::BAD_REQUEST,
        "invalid_request_error",
        code,
        message,
    )
}

pub(super) fn invalid(param: &str, message: impl Into<String>) -> HttpError {
    with_param(StatusCode::BAD_REQUEST, param, "invalid_value", message)
}
