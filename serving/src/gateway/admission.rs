//! Who may ask a gateway: programs on this machine, pages of named origins and, where there is a
//! file of keys, whoever shows one.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use marill_net::RequestId;
use tower_http::cors::{AllowHeaders, AllowOrigin, CorsLayer};

use crate::{
    error::{HttpError, Refusal, ServingError, StartError, StateError},
    gateway::Gateway,
    server::guard::WrongKeys,
    state::{KeyFile, Keys, key_digest},
};

/// What needs no key: what shows nothing of the model, the server or an answer.
const OPEN: [&str; 10] = [
    "/",
    "/icon.svg",
    "/markdown.js",
    "/page.js",
    "/panel.js",
    "/progress.js",
    "/style.css",
    "/health",
    "/ready",
    "/openapi.json",
];

/// Where a page may come from that asks a gateway, as browsers write it: `https://app.example`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Err(
                "every page that a user opens could ask in that user's name: name each \
                        origin",
            );
        }
        let form = "an origin is `https://HOST` or `http://HOST`, with `:PORT` where it is not the \
                    usual one, in small letters and without a path";
        let (usual, authority) = match text.split_once("://") {
            Some(("https", authority)) => (":443", authority),
            Some(("http", authority)) => (":80", authority),
            _ => return Err(form),
        };
        let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || b".-:[]".contains(&c);
        let is_named = !authority.is_empty() && authority.bytes().all(plain);
        if !is_named || authority.ends_with(usual) || authority.starts_with(':') {
            return Err(form);
        }
        HeaderValue::from_str(text).map(Self).map_err(|_| form)
    }
}

/// Whom a gateway admits, as it is started.
#[derive(Clone, Debug, Default)]
pub struct AdmissionOptions {
    /// The file of keys, as [`Keys`] has it, without limits; none: everyone who can connect.
    pub keys: Option<PathBuf>,
    /// Answer everyone beyond this machine too, where there are no keys: with this user's key at
    /// the server, and this user's budget.
    pub allow_anonymous: bool,
    /// Pages of other sites that may ask.
    pub origins: Vec<Origin>,
}

/// Whom a gateway admits.
pub(super) struct Admission {
    /// Whether only this machine can connect.
    is_local: bool,
    origins: Vec<Origin>,
    keys: Option<Arc<KeyFile>>,
    wrong_keys: WrongKeys,
}

impl Admission {
    /// # Errors
    /// An address beyond this machine without keys; a file of keys that is not there, cannot be
    /// read, or has limits.
    pub(super) fn new(
        options: &AdmissionOptions,
        listen: SocketAddr,
    ) -> Result<Self, ServingError> {
        let is_local = listen.ip().is_loopback();
        if !is_local && options.keys.is_none() && !options.allow_anonymous {
            let address = listen.to_string();
            return Err(StartError::OpenGateway { address }.into());
        }
        let keys = options.keys.as_deref().map(open_keys).transpose()?;
        Ok(Self {
            is_local,
            origins: options.origins.clone(),
            keys: keys.map(Arc::new),
            wrong_keys: WrongKeys::default(),
        })
    }

    /// What tells browsers that the named origins may ask.
    pub(super) fn cors(&self) -> CorsLayer {
        let origins = self.origins.iter().map(|origin| origin.0.clone());
        CorsLayer::new()
            .allow_origin(AllowOrigin::list(origins))
            .allow_methods([Method::GET, Method::POST])
            // Clients of OpenAI's interface send several of their own.
            .allow_headers(AllowHeaders::mirror_request())
            .allow_private_network(true)
            .expose_headers([
                HeaderName::from_static(RequestId::HEADER),
                header::RETRY_AFTER,
            ])
    }

    /// A host or origin that may not ask.
    fn foreign(&self, headers: &HeaderMap) -> Option<String> {
        let text = |name| {
            headers
                .get(name)
                .map(|value: &HeaderValue| value.to_str().unwrap_or("?").to_string())
        };
        let host = text(header::HOST).unwrap_or_default();
        if self.is_local && !is_local(&host) {
            return Some(host);
        }
        let origin = text(header::ORIGIN)?;
        let secure = origin.strip_prefix("https://");
        let authority = secure.or_else(|| origin.strip_prefix("http://"));
        let is_own = match (self.is_local, authority) {
            (true, authority) => is_local(authority.unwrap_or(&origin)),
            // Its own page. Under TLS no other site has its name.
            (false, _) => secure == Some(host.as_str()),
        };
        let is_named = || {
            self.origins
                .iter()
                .any(|named| named.0.as_bytes() == origin.as_bytes())
        };
        (!is_own && !is_named()).then_some(origin)
    }

    /// Whether all requests are of one user: programs of this machine, without keys.
    pub(super) fn is_one_users(&self) -> bool {
        self.is_local && self.keys.is_none()
    }

    /// Whether it listens beyond this machine.
    pub(super) fn is_elsewhere(&self) -> bool {
        !self.is_local
    }

    /// Whether a request needs no key, or shows one.
    pub(super) async fn admits(&self, headers: &HeaderMap) -> bool {
        let shows_one = headers.contains_key(header::AUTHORIZATION);
        self.keys.is_none() || shows_one && self.check_key(headers).await.is_ok()
    }

    /// That a request needs no key, or shows one.
    ///
    /// # Errors
    /// 401, and 500 where the file of keys cannot be used.
    pub(super) async fn check_key(&self, headers: &HeaderMap) -> Result<(), HttpError> {
        let Some(keys) = self.keys.clone() else {
            return Ok(());
        };
        let shown = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.strip_prefix("Bearer "));
        let digest = shown.map(key_digest);
        // The file may have changed, and may be long.
        let look = move || -> Result<bool, StateError> {
            let keys = current(&keys)?;
            Ok(digest.is_some_and(|digest| keys.find(&digest).is_some()))
        };
        let found = tokio::task::spawn_blocking(look).await;
        let found = found.map_err(|error| unusable(&error))?;
        match found.map_err(|error| unusable(&error))? {
            true => Ok(()),
            false => {
                self.wrong_keys.failed().await;
                Err(Refusal::Unknown.into())
            }
        }
    }
}

fn open_keys(path: &Path) -> Result<KeyFile, StateError> {
    if !path.is_file() {
        return Err(StateError::io(path)(std::io::ErrorKind::NotFound.into()));
    }
    let keys = KeyFile::open(path)?;
    current(&keys)?;
    Ok(keys)
}

/// The keys, none of which has a limit: a gateway counts nothing.
fn current(file: &KeyFile) -> Result<Arc<Keys>, StateError> {
    let missing = || StateError::io(file.path())(std::io::ErrorKind::NotFound.into());
    let keys = file.current()?.ok_or_else(missing)?;
    let limited = keys.iter().find(|key| key.limits != Default::default());
    match limited {
        None => Ok(keys),
        Some(key) => {
            let reason = format!(
                "the key of `{}` has limits, and a gateway counts nothing: give them to the key \
                 that the gateway has at its server",
                key.name
            );
            Err(StateError::io(file.path())(std::io::Error::other(reason)))
        }
    }
}

fn unusable(error: &dyn std::error::Error) -> HttpError {
    tracing::error!("the gateway's keys cannot be used: {error}");
    HttpError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "server_error",
        "state",
        "the gateway's keys cannot be used",
    )
}

/// Refuses pages of other sites, by `Host` and `Origin`, and requests without a key that is known.
pub(super) async fn guard(
    State(gateway): State<Arc<Gateway>>,
    request: Request,
    next: Next,
) -> Response {
    let admission = &gateway.admission;
    if let Some(what) = admission.foreign(request.headers()) {
        let message = match admission.is_local {
            true => format!(
                "`{what}` is not this machine: the gateway answers local programs only, and pages \
                 of the origins that `--allow-origin` names"
            ),
            false => format!("`{what}` is no origin that `--allow-origin` names"),
        };
        let kind = "invalid_request_error";
        let code = "forbidden_host";
        return HttpError::new(StatusCode::FORBIDDEN, kind, code, message).into_response();
    }
    // A browser asks first, without a key, whether it may.
    let asks_first = request.method() == Method::OPTIONS;
    if !asks_first
        && !OPEN.contains(&request.uri().path())
        && let Err(refused) = admission.check_key(request.headers()).await
    {
        gateway.metrics.refuse(refused.code.unwrap_or("other"));
        return refused.into_response();
    }
    next.run(request).await
}

fn is_local(authority: &str) -> bool {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|c| c.is_ascii_digit()) => host,
        _ => authority,
    };
    matches!(host, "127.0.0.1" | "localhost" | "[::1]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Limits;

    fn headers(host: &str, origin: Option<&str>) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        let mut headers = HeaderMap::from_iter([(header::HOST, value(host))]);
        headers.extend(origin.map(|origin| (header::ORIGIN, value(origin))));
        headers
    }

    fn admission(listen: &str, options: AdmissionOptions) -> Result<Admission, ServingError> {
        Admission::new(&options, listen.parse().unwrap())
    }

    #[test]
    fn only_local_names_pass() {
        for host in ["127.0.0.1", "127.0.0.1:8080", "localhost:1", "[::1]:80"] {
            assert!(is_local(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "127.0.0.1.example.org:80",
            "localhost.evil:80",
            "10.0.0.1:80",
        ] {
            assert!(!is_local(host), "{host}");
        }
        let local = admission("127.0.0.1:0", AdmissionOptions::default()).unwrap();
        let foreign = |host, origin| local.foreign(&headers(host, origin));
        let page = Some("https://example.org");
        assert_eq!(foreign("localhost:1", page).as_deref(), page);
        assert_eq!(foreign("example.org", None).as_deref(), Some("example.org"));
        assert_eq!(foreign("localhost:1", Some("http://127.0.0.1:2")), None);
    }

    #[test]
    fn named_origins_pass_and_their_neighbors_do_not() {
        let options = AdmissionOptions {
            origins: vec!["https://app.example".parse().unwrap()],
            ..Default::default()
        };
        let local = admission("127.0.0.1:0", options).unwrap();
        let foreign = |origin| local.foreign(&headers("localhost:1", Some(origin)));
        assert_eq!(foreign("https://app.example"), None);
        for other in [
            "http://app.example",
            "https://app.example:444",
            "https://app.example.evil",
            "https://x.app.example",
            "null",
        ] {
            assert_eq!(foreign(other).as_deref(), Some(other));
        }
    }

    #[test]
    fn origins_are_written_as_browsers_do() {
        for good in [
            "https://a.example",
            "http://localhost:3000",
            "http://[::1]:9",
        ] {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in [
            "*",
            "null",
            "a.example",
            "https://",
            "https://A.example",
            "https://a.example/",
            "https://a.example:443",
            "http://a.example:80",
            "https://u@a.example",
            "https://*.example",
            "ftp://a.example",
        ] {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }

    #[test]
    fn other_machines_need_a_key_or_the_users_word() {
        let beyond = "0.0.0.0:0";
        let refused = admission(beyond, AdmissionOptions::default())
            .err()
            .unwrap();
        assert!(
            refused.to_string().contains("--allow-anonymous"),
            "{refused}"
        );
        let options = AdmissionOptions {
            allow_anonymous: true,
            ..Default::default()
        };
        let open = admission(beyond, options).unwrap();
        let foreign = |host, origin| open.foreign(&headers(host, origin));
        assert_eq!(foreign("gateway.example", None), None);
        assert_eq!(
            foreign("gateway.example", Some("https://gateway.example")),
            None
        );
        assert!(foreign("gateway.example", Some("https://evil.example")).is_some());
    }

    #[test]
    fn keys_with_limits_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        let options = AdmissionOptions {
            keys: Some(keys.clone()),
            ..Default::default()
        };
        let of = || {
            admission("0.0.0.0:0", options.clone())
                .err()
                .map(|error| error.to_string())
        };
        assert!(of().is_some(), "there is no file");
        Keys::add(&keys, "ann", Limits::default()).unwrap();
        assert_eq!(of(), None);
        let limits = Limits {
            tokens: Some(5),
            ..Limits::default()
        };
        Keys::add(&keys, "bob", limits).unwrap();
        assert!(of().unwrap().contains("`bob`"));
    }
}
