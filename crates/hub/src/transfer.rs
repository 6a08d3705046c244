//! Requests to the hub and the transfer of one file into a cache.
//!
//! The client library has downloads of its own, but it shows its token to the storage hosts that
//! the hub redirects to and keeps none of the hub's words for a refusal. Here the token stays with
//! the hub's own host.

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
    time::Duration,
};

use ureq::{
    Agent, Body,
    config::RedirectAuthHeaders,
    http::{HeaderMap, Response, StatusCode},
};

/// Silence of a peer after which it counts as gone: connecting, answering, and every single read of
/// a body.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
/// Before the second try; doubled before every further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The hub redirects renamed repositories, and then to storage.
const REDIRECTS: u32 = 5;

/// Why a request came to nothing.
#[derive(Debug)]
pub(crate) enum Failed {
    /// The hub answered and refuses: its status, its own code (`X-Error-Code`) and words.
    Refused {
        status: StatusCode,
        code: String,
        said: Option<String>,
    },
    /// The connection or what came over it.
    Line(String),
    /// This machine's disk.
    Disk(std::io::Error),
}

impl Failed {
    /// Whether another try may help.
    fn passes(&self) -> bool {
        match self {
            Self::Refused { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Line(_) => true,
            Self::Disk(_) => false,
        }
    }
}

impl From<ureq::Error> for Failed {
    fn from(error: ureq::Error) -> Self {
        Self::Line(error.to_string())
    }
}

/// Runs `attempt` again while it fails in passing, `retries` times at most.
pub(crate) fn patiently<T>(
    retries: usize,
    mut attempt: impl FnMut() -> Result<T, Failed>,
) -> Result<T, Failed> {
    let mut wait = FIRST_WAIT;
    for _ in 0..retries {
        match attempt() {
            Err(error) if error.passes() => std::thread::sleep(wait),
            result => return result,
        }
        wait *= 2;
    }
    attempt()
}

/// Passes an answer on unless it is a refusal.
pub(crate) fn accept(answer: Response<Body>) -> Result<Response<Body>, Failed> {
    let status = answer.status();
    if !status.is_client_error() && !status.is_server_error() {
        return Ok(answer);
    }
    let said = text(answer.headers(), "x-error-message");
    Err(Failed::Refused {
        status,
        code: text(answer.headers(), "x-error-code").unwrap_or_default(),
        said,
    })
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// What the hub says of a file before it sends it.
pub(crate) struct Described {
    /// The digest that names the blob, where the hub's storage names blobs so.
    pub tag: String,
    pub bytes: Option<u64>,
}

/// One file at a time, the token for the hub's own host only.
pub(crate) struct Transfer {
    agent: Agent,
    bearer: Option<String>,
}

impl Transfer {
    pub fn new(token: Option<&str>) -> Self {
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .accept_encoding("identity")
            .max_redirects(REDIRECTS)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(SILENCE))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE));
        Self {
            agent: agent.build().into(),
            bearer: token.map(|token| format!("Bearer {token}")),
        }
    }

    /// Digest and size of the file behind a `resolve` address.
    ///
    /// They stand in the hub's own answer, which for large files is a redirect to storage: only
    /// redirects within the hub are followed.
    pub fn describe(&self, url: &str) -> Result<Described, Failed> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let mut request = self.agent.head(&url);
            if let Some(bearer) = &self.bearer {
                request = request.header("Authorization", bearer);
            }
            let answer = accept(request.config().max_redirects(0).build().call()?)?;
            let headers = answer.headers();
            let to = text(headers, "location").filter(|_| answer.status().is_redirection());
            let linked = text(headers, "x-linked-etag");
            if let (None, Some(path)) = (
                &linked,
                to.filter(|to| to.starts_with('/') && !to.starts_with("//")),
            ) {
                url = format!("{}{path}", origin(&url));
                continue;
            }
            let tag = linked
                .or_else(|| text(headers, "etag"))
                .map(|tag| plain_tag(&tag))
                .unwrap_or_default();
            if tag.is_empty() || !tag.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                return Err(Failed::Line(
                    "the hub names no digest that could be a file's name".into(),
                ));
            }
            let bytes = text(headers, "x-linked-size").or_else(|| text(headers, "content-length"));
            return Ok(Described {
                tag,
                bytes: bytes.and_then(|bytes| bytes.parse().ok()),
            });
        }
        Err(Failed::Line("the hub redirects in a circle".into()))
    }

    /// Appends to `part` what is missing of the file; `heard` is told the bytes so far.
    pub fn append(
        &self,
        url: &str,
        part: &Path,
        bytes: Option<u64>,
        heard: &dyn Fn(u64),
    ) -> Result<(), Failed> {
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(part)
            .map_err(Failed::Disk)?;
        let mut done = file.metadata().map_err(Failed::Disk)?.len();
        if bytes.is_some_and(|bytes| done > bytes) {
            file.set_len(0).map_err(Failed::Disk)?;
            done = 0;
        }
        if bytes == Some(done) {
            heard(done);
            return Ok(());
        }
        let mut request = self.agent.get(url);
        if let Some(bearer) = &self.bearer {
            request = request.header("Authorization", bearer);
        }
        if done > 0 {
            request = request.header("Range", format!("bytes={done}-"));
        }
        let answer = accept(request.call()?)?;
        if answer.status() != StatusCode::PARTIAL_CONTENT {
            file.set_len(0).map_err(Failed::Disk)?;
            done = 0;
        }
        let mut body = answer.into_body().into_reader();
        let mut buffer = vec![0u8; 1 << 16];
        loop {
            let count = body
                .read(&mut buffer)
                .map_err(|e| Failed::Line(e.to_string()))?;
            if count == 0 {
                break;
            }
            file.write_all(&buffer[..count]).map_err(Failed::Disk)?;
            done += count as u64;
            heard(done);
        }
        match bytes {
            Some(bytes) if bytes != done => {
                Err(Failed::Line(format!("{done} of {bytes} bytes arrived")))
            }
            _ => Ok(()),
        }
    }
}

/// An entity tag without its quotes and its mark of weakness.
fn plain_tag(tag: &str) -> String {
    tag.trim_start_matches("W/").trim_matches('"').to_owned()
}

/// Scheme and host of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    url[host..].find('/').map_or(url, |at| &url[..host + at])
}
