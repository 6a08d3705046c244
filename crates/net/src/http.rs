//! The few HTTP requests a client of a session makes: one at a time, blocking, counted.

mod body;

use std::{
    io::{ErrorKind, Write},
    sync::Arc,
    time::{Duration, Instant},
};

use tungstenite::{
    handshake::{client::generate_key, derive_accept_key},
    protocol::Role,
};

use crate::{
    Cutter, Endpoint, NetError, RequestId,
    http::body::{Body, Length},
    peer_text,
    socket::{Interest, Socket, WireCount, wait},
    websocket::WebSocketChannel,
};

const MAX_HEAD_BYTES: usize = 64 << 10;
const MAX_HEADERS: usize = 64;
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// A request and its answer, in all, but for the time that a long body takes at the slowest rate.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(75);
/// A body that comes more slowly than this is given up.
const SLOWEST_BYTES_PER_SECOND: u64 = 16 << 10;
/// A TLS record of the kind `alert`: what a TLS service says to plain HTTP.
const TLS_ALERT: [u8; 2] = [21, 3];

/// A complete answer.
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
    pub retry_after_seconds: Option<u64>,
}

/// Makes requests to one service.
#[derive(Clone)]
pub struct HttpClient {
    pub endpoint: Endpoint,
    /// Sent as `Authorization: Bearer ...` where present.
    pub bearer: Option<String>,
    pub count: Arc<WireCount>,
    /// For a request and its answer, but for a long body.
    limit: Duration,
    /// What may end its connections from another thread.
    cutter: Option<Cutter>,
    /// Sent as `x-request-id` where present.
    request_id: Option<RequestId>,
}

impl HttpClient {
    pub fn new(endpoint: Endpoint, bearer: Option<String>) -> Self {
        Self {
            endpoint,
            bearer,
            count: Arc::default(),
            limit: TOTAL_TIMEOUT,
            cutter: None,
            request_id: None,
        }
    }

    /// The same for requests of this name.
    #[must_use]
    pub fn named(mut self, id: &RequestId) -> Self {
        self.request_id = Some(id.clone());
        self
    }

    /// The same with connections that `cutter` can end.
    #[must_use]
    pub fn ended_by(mut self, cutter: &Cutter) -> Self {
        self.cutter = Some(cutter.clone());
        self
    }

    fn connect(&self) -> Result<Box<dyn Socket>, NetError> {
        let socket = self.endpoint.connect(&self.count)?;
        match &self.cutter {
            Some(cutter) => cutter.watch(socket),
            None => Ok(socket),
        }
    }

    /// The same with less time for a request and its answer.
    #[must_use]
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit.min(TOTAL_TIMEOUT);
        self
    }

    /// # Errors
    /// A lost connection, an answer that is not HTTP, or a body above `max_bytes`.
    pub fn get(&self, path: &str, max_bytes: u64) -> Result<Response, NetError> {
        let mut body = Vec::new();
        let head = self.request("GET", path, &[], &mut body, max_bytes)?;
        Ok(Response {
            status: head.status,
            body,
            retry_after_seconds: head.retry_after_seconds,
        })
    }

    /// # Errors
    /// As [`Self::get`].
    pub fn post_json(&self, path: &str, json: &[u8], max_bytes: u64) -> Result<Response, NetError> {
        let mut body = Vec::new();
        let head = self.request("POST", path, json, &mut body, max_bytes)?;
        Ok(Response {
            status: head.status,
            body,
            retry_after_seconds: head.retry_after_seconds,
        })
    }

    /// Writes the body of a `200` answer to `sink` as it arrives; other statuses are returned with
    /// nothing written but their body, so that the caller can read the error there.
    ///
    /// # Errors
    /// As [`Self::get`]; [`NetError::Local`] for what `sink` reports.
    pub fn download(
        &self,
        path: &str,
        sink: &mut dyn Write,
        max_bytes: u64,
    ) -> Result<u16, NetError> {
        Ok(self.request("GET", path, &[], sink, max_bytes)?.status)
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        json: &[u8],
        sink: &mut dyn Write,
        max_bytes: u64,
    ) -> Result<Head, NetError> {
        let mut deadline = Instant::now() + self.limit;
        let mut socket = self.connect()?;
        let mut head = self.head(method, path);
        head.push_str("connection: close\r\n");
        if method == "POST" {
            head.push_str(&format!(
                "content-type: application/json\r\ncontent-length: {}\r\n",
                json.len()
            ));
        }
        head.push_str("\r\n");
        write_all(socket.as_mut(), head.as_bytes())?;
        write_all(socket.as_mut(), json)?;

        let (head, rest) = self.read_head(socket.as_mut(), deadline)?;
        if let Length::Bytes(length) = head.length
            && length > max_bytes
        {
            return Err(NetError::Protocol(format!(
                "`{path}` is {length} bytes, more than the limit of {max_bytes}"
            )));
        }
        let most = match head.length {
            Length::Bytes(length) => length,
            Length::Chunked | Length::Open => max_bytes,
        };
        deadline += Duration::from_secs(most / SLOWEST_BYTES_PER_SECOND);
        let body = Body {
            socket: socket.as_mut(),
            bytes: rest,
            sink,
            limit: max_bytes,
            deadline,
        };
        body.read(head.length)?;
        Ok(head)
    }

    /// Opens a WebSocket at `path`.
    ///
    /// # Errors
    /// [`NetError::Refused`] with the service's answer when it does not upgrade.
    pub fn websocket(&self, path: &str, timeout: Duration) -> Result<WebSocketChannel, NetError> {
        let deadline = Instant::now() + self.limit;
        let mut socket = self.connect()?;
        let key = generate_key();
        let mut head = self.head("GET", path);
        head.push_str("connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n");
        head.push_str(&format!("sec-websocket-key: {key}\r\n\r\n"));
        write_all(socket.as_mut(), head.as_bytes())?;

        let (head, rest) = self.read_head(socket.as_mut(), deadline)?;
        if head.status != 101 {
            let mut body = Vec::new();
            let reading = Body {
                socket: socket.as_mut(),
                bytes: rest,
                sink: &mut body,
                limit: MAX_HEAD_BYTES as u64,
                deadline,
            };
            // What it says of its refusal may be cut; that it refuses is certain.
            let _ = reading.read(head.length);
            return Err(NetError::Refused {
                status: head.status,
                body: String::from_utf8_lossy(&body).into_owned(),
                retry_after_seconds: head.retry_after_seconds,
            });
        }
        if head.accept_key.as_deref() != Some(derive_accept_key(key.as_bytes()).as_str()) {
            return Err(NetError::Protocol(
                "the peer answered the WebSocket upgrade with a wrong key".into(),
            ));
        }
        Ok(WebSocketChannel::new(socket, rest, Role::Client, timeout))
    }

    fn head(&self, method: &str, path: &str) -> String {
        let mut head = format!(
            "{method} {}{path} HTTP/1.1\r\nhost: {}\r\n",
            self.endpoint.prefix(),
            self.endpoint.authority()
        );
        if let Some(bearer) = &self.bearer {
            head.push_str(&format!("authorization: Bearer {bearer}\r\n"));
        }
        if let Some(id) = &self.request_id {
            head.push_str(&format!("{}: {id}\r\n", RequestId::HEADER));
        }
        head
    }
}

struct Head {
    status: u16,
    length: Length,
    accept_key: Option<String>,
    retry_after_seconds: Option<u64>,
}

impl HttpClient {
    /// Reads the status line and headers; also returns the bytes that came after them.
    fn read_head(
        &self,
        socket: &mut dyn Socket,
        deadline: Instant,
    ) -> Result<(Head, Vec<u8>), NetError> {
        let mut bytes = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let n = read_some(socket, &mut chunk, deadline)?;
            if n == 0 {
                return Err(NetError::Closed);
            }
            bytes.extend_from_slice(&chunk[..n]);
            if bytes.starts_with(&TLS_ALERT) {
                return Err(NetError::SpeaksTls {
                    endpoint: self.endpoint.to_string(),
                });
            }
            if let Some((head, end)) = parse_head(&bytes)? {
                return Ok((head, bytes.split_off(end)));
            }
            if bytes.len() > MAX_HEAD_BYTES {
                return Err(NetError::Protocol(
                    "the answer's headers are too long".into(),
                ));
            }
        }
    }
}

/// The head and its length, once all of it is there.
fn parse_head(bytes: &[u8]) -> Result<Option<(Head, usize)>, NetError> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut headers);
    let status = parsed
        .parse(bytes)
        .map_err(|error| NetError::Protocol(format!("the answer is not HTTP: {error}")))?;
    let httparse::Status::Complete(end) = status else {
        return Ok(None);
    };
    let find = |name: &str| {
        let header = parsed
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(header.value).ok().map(str::to_string)
    };
    let unknown = |what: &str, text: &str| {
        NetError::Protocol(format!("the answer's {what} is `{}`", peer_text(text)))
    };
    let length = match (find("transfer-encoding"), find("content-length")) {
        (None, None) => Length::Open,
        (None, Some(text)) => match text.parse() {
            Ok(length) => Length::Bytes(length),
            Err(_) => return Err(unknown("length", &text)),
        },
        (Some(coding), None) if coding.eq_ignore_ascii_case("chunked") => Length::Chunked,
        (Some(coding), _) => return Err(unknown("transfer coding", &coding)),
    };
    let head = Head {
        status: parsed.code.unwrap_or(0),
        length,
        accept_key: find("sec-websocket-accept"),
        retry_after_seconds: find("retry-after").and_then(|text| text.parse().ok()),
    };
    Ok(Some((head, end)))
}

/// Requests are short, so the kernel takes them at once or the connection is stuck.
fn write_all(socket: &mut dyn Socket, mut bytes: &[u8]) -> Result<(), NetError> {
    let deadline = Instant::now() + READ_TIMEOUT;
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if !wait(socket, Interest::ReadableOrWritable, deadline)? {
                    return Err(NetError::TimedOut {
                        seconds: READ_TIMEOUT.as_secs(),
                    });
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// What has arrived, after at most the time for a read, and never after the deadline.
fn read_some(
    socket: &mut dyn Socket,
    chunk: &mut [u8],
    deadline: Instant,
) -> Result<usize, NetError> {
    let late = if Instant::now() + READ_TIMEOUT < deadline {
        READ_TIMEOUT
    } else {
        TOTAL_TIMEOUT
    };
    let late = NetError::TimedOut {
        seconds: late.as_secs(),
    };
    let deadline = deadline.min(Instant::now() + READ_TIMEOUT);
    if Instant::now() >= deadline {
        return Err(late);
    }
    loop {
        match socket.read(chunk) {
            Ok(n) => return Ok(n),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        }
        if !wait(socket, Interest::Readable, deadline)? {
            return Err(late);
        }
    }
}
