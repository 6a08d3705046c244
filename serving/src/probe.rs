//! What a service says of itself to whoever asks why something does not work.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use marill_net::{Endpoint, NetError, http::HttpClient, peer_text};
use serde_json::{Value, json};

use crate::{
    error::{SessionError, refused},
    terms::PROTOCOL_VERSION,
    tls::end_of,
};

/// A service that says nothing for so long does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: u64 = 1 << 20;

/// Seconds since 1970, to a thousandth.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |time| time.as_millis() as f64 / 1e3)
}

/// What every service says at `/health`: which one it is, the version of the protocol that it
/// speaks, and its clock in seconds since 1970.
pub(crate) fn health(service: &str) -> Value {
    json!({ "status": "ok", "service": service, "protocol": PROTOCOL_VERSION, "time": now() })
}

/// What a service answered at `/health`.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// `server`, `dealer`, `party` or `gateway`; none of one that does not say it, as former
    /// versions do not.
    pub service: Option<String>,
    /// The version of the protocol that it speaks, where it says that.
    pub protocol: Option<u64>,
    /// How many seconds its clock is ahead of this machine's, less than 0 where it is behind; up to
    /// half of what the request took may be the way.
    pub clock_ahead: Option<f64>,
    /// What the request took.
    pub took: Duration,
}

/// Why a service has nothing to say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error("what answers there is no service of marill: {reason}")]
    Other { reason: String },
    #[error("{message}")]
    NotReady { message: String },
}

/// Asks a service what it is.
///
/// # Errors
/// [`ProbeError::Net`]; [`ProbeError::Other`] for another program's answer.
pub fn ask(client: &HttpClient) -> Result<Health, ProbeError> {
    let client = client.clone().with_limit(PATIENCE);
    let before = now();
    let started = Instant::now();
    let answer = client.get("/health", MAX_ANSWER_BYTES)?;
    let took = started.elapsed();
    let other = |reason: String| ProbeError::Other { reason };
    if answer.status != 200 {
        return Err(other(format!("HTTP status {} at `/health`", answer.status)));
    }
    let told: Value = serde_json::from_slice(&answer.body)
        .map_err(|error| other(peer_text(&error.to_string())))?;
    if told["status"] != "ok" {
        return Err(other("`/health` says no `status`".into()));
    }
    let half_way = before + took.as_secs_f64() / 2.0;
    Ok(Health {
        service: told["service"].as_str().map(peer_text),
        protocol: told["protocol"].as_u64(),
        clock_ahead: told["time"].as_f64().map(|time| time - half_way),
        took,
    })
}

/// Asks a service whether it could open a session now.
///
/// # Errors
/// [`ProbeError::Net`]; [`ProbeError::NotReady`] with its reason.
pub fn ask_ready(client: &HttpClient, name: &'static str) -> Result<(), ProbeError> {
    let client = client.clone().with_limit(PATIENCE);
    let answer = client.get("/ready", MAX_ANSWER_BYTES)?;
    match answer.status {
        200 => Ok(()),
        _ => Err(ProbeError::NotReady {
            message: refused(name, &answer).to_string(),
        }),
    }
}

/// Asks a server for the names of its models, with the key of `client`.
///
/// # Errors
/// [`SessionError::Refused`] for a key that it does not take, or where it wants one and gets none.
pub fn ask_models(client: &HttpClient) -> Result<Vec<String>, SessionError> {
    const SERVER: &str = "server";
    let client = client.clone().with_limit(PATIENCE);
    let answer = client
        .get("/v1/models", MAX_ANSWER_BYTES)
        .map_err(SessionError::net(SERVER))?;
    if answer.status != 200 {
        return Err(refused(SERVER, &answer));
    }
    let bad = |reason: String| SessionError::BadMessage {
        peer: SERVER,
        reason,
    };
    let models: Value =
        serde_json::from_slice(&answer.body).map_err(|error| bad(peer_text(&error.to_string())))?;
    let models = models["data"].as_array();
    let models = models.ok_or_else(|| bad("its list of models is none".into()))?;
    let names = models.iter().filter_map(|model| model["id"].as_str());
    Ok(names.map(peer_text).collect())
}

/// When the first of the certificates that a service shows ends; none in plain text, or where the
/// certificate does not say it.
///
/// # Errors
/// [`NetError`]: it cannot be reached, or its certificate is not trusted.
pub fn certificate_end(endpoint: &Endpoint) -> Result<Option<SystemTime>, NetError> {
    let shown = endpoint.certificates()?;
    Ok(shown.iter().filter_map(end_of).min())
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        net::TcpListener,
        thread,
    };

    use super::*;

    /// A service that answers one request with this body.
    fn says(status: &'static str, body: String) -> HttpClient {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]).unwrap();
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).unwrap();
        });
        HttpClient::new(address.parse().unwrap(), None)
    }

    #[test]
    fn a_clock_that_is_ahead_is_seen() {
        let mut told = health("server");
        told["time"] = json!(now() + 100.0);
        let health = ask(&says("200 OK", told.to_string())).unwrap();
        assert_eq!(health.service.as_deref(), Some("server"));
        assert_eq!(health.protocol, Some(u64::from(PROTOCOL_VERSION)));
        // A busy machine may take a while for the answer.
        assert!(
            (health.clock_ahead.unwrap() - 100.0).abs() < 10.0,
            "{health:?}"
        );
    }

    #[test]
    fn a_former_service_says_less() {
        let health = ask(&says("200 OK", r#"{"status":"ok"}"#.into())).unwrap();
        assert_eq!((health.service, health.protocol), (None, None));
        assert_eq!(health.clock_ahead, None);
    }

    #[test]
    fn another_program_is_told_from_a_service() {
        for (status, body) in [("404 Not Found", ""), ("200 OK", "<p>"), ("200 OK", "{}")] {
            let error = ask(&says(status, body.into())).unwrap_err();
            assert!(matches!(error, ProbeError::Other { .. }), "{error}");
        }
    }
}
