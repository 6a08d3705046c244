//! The error object of every service's HTTP interface.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use marill_net::RequestId;

use crate::error::refusal::Refusal;

/// The error object of the OpenAI interface, used by every service.
#[derive(Clone, Debug)]
pub struct HttpError {
    pub status: StatusCode,
    pub message: String,
    pub kind: &'static str,
    pub param: Option<String>,
    pub code: Option<&'static str>,
    /// Seconds after which the request may succeed.
    pub retry_after_seconds: Option<u64>,
    /// The request that it answers, by which it is found in logs.
    pub request_id: Option<Box<RequestId>>,
}

impl HttpError {
    pub fn new(
        status: StatusCode,
        kind: &'static str,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let retry_after_seconds = match status {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => Some(2),
            _ => None,
        };
        Self {
            status,
            message: message.into(),
            kind,
            param: None,
            code: Some(code),
            retry_after_seconds,
            request_id: None,
        }
    }

    /// The same as the answer to this request.
    #[must_use]
    pub fn of(mut self, id: &RequestId) -> Self {
        self.request_id = Some(Box::new(id.clone()));
        self
    }

    pub fn not_found(what: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            "not_found",
            format!("there is no {what} here"),
        )
    }

    /// The body alone.
    pub fn object(&self) -> serde_json::Value {
        let mut object = serde_json::json!({ "error": {
            "message": self.message, "type": self.kind, "param": self.param, "code": self.code,
        }});
        if let Some(id) = &self.request_id {
            object["error"]["request_id"] = id.as_str().into();
        }
        object
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.object())).into_response();
        if let Some(seconds) = self.retry_after_seconds {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, seconds.into());
        }
        // Whoever knows the request's name adds it.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        let (status, kind) = match refusal {
            Refusal::Unknown => (StatusCode::UNAUTHORIZED, "authentication_error"),
            _ => (StatusCode::TOO_MANY_REQUESTS, "rate_limit_error"),
        };
        let mut error = Self::new(status, kind, refusal.code(), refusal.to_string());
        error.retry_after_seconds =
            (status == StatusCode::TOO_MANY_REQUESTS).then(|| refusal.retry_after_seconds());
        error
    }
}
