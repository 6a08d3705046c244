//! Frames over a WebSocket, driven by the protocol's own thread.
//!
//! The socket is non-blocking. A send that the kernel cannot take at once drains incoming frames
//! while it waits, so two parties that both send a large frame first never wait for each other, and
//! no thread hop is paid per message.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    time::{Duration, Instant},
};

use tungstenite::{
    error::ProtocolError,
    protocol::{CloseFrame, Message, Role, WebSocket, WebSocketConfig, frame::coding::CloseCode},
};

use crate::{
    Channel, MAX_FRAME_BYTES, NetError, peer_text,
    socket::{Interest, Socket, wait},
};

/// RFC 6455 leaves this much room in a close frame.
const MAX_REASON_BYTES: usize = 123;
const CLOSE_TIMEOUT: Duration = Duration::from_millis(200);
/// Frames that are taken in while a send waits for the peer to read: the next one of a round, and
/// an announcement.
const MAX_INBOX: usize = 2;
/// A handshake is a small message. Nothing larger is taken from a peer before its handshake.
const MAX_FIRST_FRAME_BYTES: usize = 1 << 20;
/// Pings in a row after which they are answered no faster than the pause allows.
const PINGS_AT_ONCE: usize = 16;
const PING_PAUSE: Duration = Duration::from_millis(5);
/// Number and length of a frame, four bytes each, follow its payload. A peer or a relay with a
/// fault, that loses, repeats, reorders or cuts frames, is noticed at once. Against an attacker in
/// the connection there is TLS.
const TRAILER_BYTES: usize = 8;

/// What the WebSocket's codec asks for at once. It fills that much with zeros before every read,
/// even if nothing has arrived, and a token takes thousands of reads.
const PIECE_BYTES: usize = 8 << 10;
/// What the kernel is asked for at once.
const BUFFER_BYTES: usize = 128 << 10;

/// Reads from the socket in large pieces and hands them on in small ones.
struct Buffered {
    socket: Box<dyn Socket>,
    buffer: Vec<u8>,
    at: usize,
    end: usize,
}

impl Buffered {
    fn new(socket: Box<dyn Socket>) -> Self {
        Self {
            socket,
            buffer: vec![0; BUFFER_BYTES],
            at: 0,
            end: 0,
        }
    }
}

impl Read for Buffered {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if self.at == self.end {
            (self.at, self.end) = (0, 0);
            self.end = self.socket.read(&mut self.buffer)?;
        }
        let count = out.len().min(self.end - self.at);
        out[..count].copy_from_slice(&self.buffer[self.at..][..count]);
        self.at += count;
        Ok(count)
    }
}

impl Write for Buffered {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.socket.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.socket.flush()
    }
}

/// A [`Channel`] over one upgraded connection.
///
/// Cost of a round of small frames on loopback: see the ignored test `round_trip_time`.
pub struct WebSocketChannel {
    socket: WebSocket<Buffered>,
    inbox: VecDeque<Vec<u8>>,
    timeout: Duration,
    /// The timeout once the peer has sent it.
    patience: Duration,
    /// No wait goes on after this moment, whatever the timeout.
    deadline: Option<Instant>,
    sent: u32,
    received: u32,
    /// The codec has met an error.
    broken: bool,
}

impl WebSocketChannel {
    /// Wraps a non-blocking socket whose HTTP upgrade is done; `already_read` holds bytes that
    /// followed the upgrade.
    pub fn new(
        socket: Box<dyn Socket>,
        already_read: Vec<u8>,
        role: Role,
        timeout: Duration,
    ) -> Self {
        let config = WebSocketConfig::default().read_buffer_size(PIECE_BYTES);
        let socket =
            WebSocket::from_partially_read(Buffered::new(socket), already_read, role, Some(config));
        let inbox = VecDeque::new();
        let deadline = None;
        let patience = timeout;
        let mut channel = Self {
            socket,
            inbox,
            timeout,
            patience,
            deadline,
            sent: 0,
            received: 0,
            broken: false,
        };
        channel.limit_frames(MAX_FRAME_BYTES);
        channel
    }

    /// As [`Self::new`], for a peer that has `limit` for one small first message;
    /// [`Self::handshake_done`] ends that.
    pub fn awaiting_handshake(
        socket: Box<dyn Socket>,
        already_read: Vec<u8>,
        role: Role,
        timeout: Duration,
        limit: Duration,
    ) -> Self {
        let mut channel = Self::new(socket, already_read, role, timeout);
        channel.limit_frames(MAX_FIRST_FRAME_BYTES);
        channel.timeout = timeout.min(limit);
        channel.deadline = Some(Instant::now() + limit);
        channel
    }

    /// The peer has said who it is: frames may have their full size, and each wait its full time.
    pub fn handshake_done(&mut self) {
        self.limit_frames(MAX_FRAME_BYTES);
        (self.timeout, self.deadline) = (self.patience, None);
    }

    fn limit_frames(&mut self, bytes: usize) {
        let limit = Some(bytes + TRAILER_BYTES);
        self.socket.set_config(|config| {
            config.max_frame_size = limit;
            config.max_message_size = limit;
        });
    }

    /// The moment at which every wait of this end is over, a running one included, or none. A peer
    /// that sends a frame just before each timeout is bounded by this.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// Sends the close frame with a reason (its first 123 bytes), as far as the peer still takes
    /// it; the peer's next receive is [`NetError::Ended`] with that reason.
    pub fn close(&mut self, reason: &str) {
        self.close_with(CloseCode::Normal.into(), reason);
    }

    /// As [`Self::close`], with a code of its own (4000 to 4999) that the peer's error then
    /// carries.
    pub fn close_with(&mut self, code: u16, reason: &str) {
        let end = (0..=reason.len().min(MAX_REASON_BYTES))
            .rev()
            .find(|&end| reason.is_char_boundary(end))
            .unwrap_or(0);
        let frame = CloseFrame {
            code: code.into(),
            reason: reason[..end].into(),
        };
        if self.socket.close(Some(frame)).is_ok() {
            (self.timeout, self.deadline) = (CLOSE_TIMEOUT, None);
            let _ = self.drain_writes();
            self.linger();
        }
    }

    /// Reads on for a moment until the peer closes too: closing a socket with unread data would
    /// reset the connection and could cost the peer the reason.
    fn linger(&mut self) {
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while Instant::now() < deadline {
            let read = if self.broken {
                self.discard()
            } else {
                self.try_read(deadline).map(|frame| frame.is_some())
            };
            match read {
                Ok(true) => {}
                Ok(false) if self.wait(Interest::Readable, deadline).is_ok() => {}
                Ok(false) | Err(_) => return,
            }
        }
    }

    /// Reads past the codec, which must not be asked again once it has refused a frame. `false`:
    /// nothing has arrived.
    fn discard(&mut self) -> Result<bool, NetError> {
        match self.socket.get_mut().read(&mut [0; PIECE_BYTES]) {
            Ok(0) => Err(NetError::Closed),
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// After a failed write: the reason that the peer gave before it went, if it did.
    fn reason_or(&mut self, error: NetError) -> NetError {
        if !matches!(error, NetError::Closed) {
            return error;
        }
        let deadline = Instant::now() + CLOSE_TIMEOUT;
        while Instant::now() < deadline {
            match self.try_read(deadline) {
                Ok(Some(_)) => {}
                Err(ended @ NetError::Ended { .. }) => return ended,
                Ok(None) | Err(_) => break,
            }
        }
        error
    }

    /// Looks whether the peer is still there, as far as what has arrived tells, and whether a frame
    /// of it waits for the next receive; no second one is read before.
    ///
    /// # Errors
    /// How the peer ended the connection, or a frame that is none.
    pub fn check_open(&mut self) -> Result<bool, NetError> {
        if self.inbox.is_empty() {
            // Nothing is waited for; pings alone do not keep this going.
            let early =
                self.try_read(Instant::now() + PING_PAUSE)
                    .or_else(|error| match error {
                        NetError::TimedOut { .. } => Ok(None),
                        error => Err(error),
                    })?;
            self.inbox.extend(early);
        }
        Ok(!self.inbox.is_empty())
    }

    /// Waits until `until` for a frame, which the next receive then gives; `false`: none came.
    ///
    /// # Errors
    /// As [`Self::check_open`].
    pub fn wait_for_frame(&mut self, until: Instant) -> Result<bool, NetError> {
        loop {
            if self.check_open()? {
                return Ok(true);
            }
            if !wait(&*self.socket.get_ref().socket, Interest::Readable, until)? {
                return Ok(false);
            }
        }
    }

    /// Takes in what has arrived, for later receives, as long as all of that is no more than so
    /// many bytes; returns whether there was anything.
    ///
    /// # Errors
    /// As [`Self::check_open`].
    pub fn absorb(&mut self, most_bytes: usize) -> Result<bool, NetError> {
        let held: usize = self.inbox.iter().map(Vec::len).sum();
        if held >= most_bytes {
            return Ok(false);
        }
        let frame = self.try_read(Instant::now() + PING_PAUSE);
        let frame = frame.or_else(|error| match error {
            NetError::TimedOut { .. } => Ok(None),
            error => Err(error),
        })?;
        let some = frame.is_some();
        self.inbox.extend(frame);
        Ok(some)
    }

    /// `Ok(None)`: nothing has arrived yet. Pings and pongs are silence: they are read past until
    /// the deadline.
    fn try_read(&mut self, deadline: Instant) -> Result<Option<Vec<u8>>, NetError> {
        if self.broken {
            return Err(NetError::Closed);
        }
        for pings in 0.. {
            if pings > 0 && Instant::now() >= deadline {
                return Err(self.timed_out());
            }
            if pings > PINGS_AT_ONCE {
                std::thread::sleep(PING_PAUSE);
            }
            match self.socket.read() {
                Ok(Message::Binary(payload)) => return self.check(payload.into()).map(Some),
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(Some(frame))) if !frame.reason.is_empty() => {
                    let reason = peer_text(frame.reason.as_str());
                    return Err(NetError::Ended {
                        code: frame.code.into(),
                        reason,
                    });
                }
                Ok(Message::Close(_)) => return Err(NetError::Closed),
                Ok(Message::Text(_) | Message::Frame(_)) => {
                    return Err(NetError::Protocol(
                        "the peer sent a text frame where a binary one was expected".into(),
                    ));
                }
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(None);
                }
                Err(error) => {
                    self.broken = true;
                    return Err(net_error(error));
                }
            }
        }
        unreachable!("the count has no end")
    }

    /// Takes the trailer off.
    fn check(&mut self, mut frame: Vec<u8>) -> Result<Vec<u8>, NetError> {
        let body = frame
            .len()
            .checked_sub(TRAILER_BYTES)
            .ok_or(NetError::Protocol("a frame has no trailer".into()))?;
        let trailer = frame.split_off(body);
        let [number, length] = [0, 4]
            .map(|at| u32::from_le_bytes(trailer[at..at + 4].try_into().expect("four bytes")));
        if length as usize != frame.len() {
            return Err(NetError::FrameSize {
                expected: length as usize,
                got: frame.len(),
            });
        }
        if number != self.received {
            let reason = format!("frame {number} arrived in place of frame {}", self.received);
            return Err(NetError::Protocol(reason));
        }
        self.received = self.received.wrapping_add(1);
        Ok(frame)
    }

    /// When a wait that begins now is over.
    fn until(&self) -> Instant {
        let timeout = Instant::now() + self.timeout;
        self.deadline
            .map_or(timeout, |deadline| deadline.min(timeout))
    }

    fn timed_out(&self) -> NetError {
        NetError::TimedOut {
            seconds: self.timeout.as_secs(),
        }
    }

    /// Writes out everything queued, reading meanwhile so that the peer can do the same; as far as
    /// the inbox has room.
    fn drain_writes(&mut self) -> Result<(), NetError> {
        let deadline = self.until();
        loop {
            match self.socket.flush() {
                Ok(()) => return Ok(()),
                Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(self.reason_or(net_error(error))),
            }
            let has_space = self.inbox.len() < MAX_INBOX;
            self.wait(
                if has_space {
                    Interest::ReadableOrWritable
                } else {
                    Interest::Writable
                },
                deadline,
            )?;
            while self.inbox.len() < MAX_INBOX
                && let Some(frame) = self.try_read(deadline)?
            {
                self.inbox.push_back(frame);
            }
        }
    }

    fn wait(&self, interest: Interest, deadline: Instant) -> Result<(), NetError> {
        match wait(&*self.socket.get_ref().socket, interest, deadline)? {
            true => Ok(()),
            false => Err(self.timed_out()),
        }
    }
}

impl Channel for WebSocketChannel {
    fn send(&mut self, mut frame: Vec<u8>) -> Result<(), NetError> {
        if frame.len() > MAX_FRAME_BYTES {
            return Err(NetError::FrameSize {
                expected: MAX_FRAME_BYTES,
                got: frame.len(),
            });
        }
        let length = frame.len() as u32;
        frame.extend_from_slice(&self.sent.to_le_bytes());
        frame.extend_from_slice(&length.to_le_bytes());
        self.sent = self.sent.wrapping_add(1);
        match self.socket.write(Message::Binary(frame.into())) {
            Ok(()) => {}
            Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(self.reason_or(net_error(error))),
        }
        self.drain_writes()
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        if let Some(frame) = self.inbox.pop_front() {
            return Ok(frame);
        }
        let deadline = self.until();
        loop {
            if let Some(frame) = self.try_read(deadline)? {
                return Ok(frame);
            }
            self.wait(Interest::Readable, deadline)?;
        }
    }
}

impl Drop for WebSocketChannel {
    fn drop(&mut self) {
        self.close("");
    }
}

fn net_error(error: tungstenite::Error) -> NetError {
    use tungstenite::Error as E;
    match error {
        E::ConnectionClosed | E::AlreadyClosed => NetError::Closed,
        E::Protocol(
            ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing,
        ) => NetError::Closed,
        E::Io(error) if is_gone(error.kind()) => NetError::Closed,
        E::Io(error) => NetError::Io(error),
        other => NetError::Protocol(format!("the peer broke the WebSocket protocol: {other}")),
    }
}

fn is_gone(kind: ErrorKind) -> bool {
    use ErrorKind::*;
    matches!(
        kind,
        UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected
    )
}
