//! Message channels between the parties of a session.
//!
//! A channel carries whole frames, in order, between two parties. Protocol code is synchronous: it
//! sends, then receives. A send therefore never waits for the peer to read (both parties of a round
//! send first).

use std::sync::mpsc;

pub mod cutter;
pub mod endpoint;
pub mod http;
pub mod meter;
mod proxy;
mod request_id;
pub mod shape;
pub mod shared;
pub mod socket;
mod text;
pub mod tls;
pub mod websocket;

pub use cutter::Cutter;
pub use endpoint::Endpoint;
pub use meter::{Meter, Metered};
pub use request_id::RequestId;
pub use shape::{Link, Shaped};
pub use shared::SharedChannel;
pub use socket::{Socket, WireCount};
pub use text::peer_text;
pub use websocket::WebSocketChannel;

/// Frames above this many bytes are refused on both sides.
pub const MAX_FRAME_BYTES: usize = 64 << 20;

/// What can go wrong on a channel.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    #[error("the peer closed the connection")]
    Closed,
    /// By a [`Cutter`].
    #[error("the connection was ended on this side")]
    Cut,
    /// `code` is the WebSocket's: 1000, or one that the services agree on.
    #[error("the peer ended the session: {reason}")]
    Ended { code: u16, reason: String },
    #[error("the peer did not answer within {seconds} s")]
    TimedOut { seconds: u64 },
    #[error("the peer sent a frame of {got} bytes where {expected} were expected")]
    FrameSize { expected: usize, got: usize },
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    #[error("{0}")]
    Protocol(String),
    #[error("`{text}` is not the address of a service: {reason}")]
    BadEndpoint { text: String, reason: &'static str },
    #[error("`{name}` is not understood: {reason}")]
    BadProxy {
        name: &'static str,
        reason: &'static str,
    },
    #[error(
        "plain text is only allowed on this machine, not on `{address}`\n\
         hint: give the service `--tls` and use the `https://` address that it prints"
    )]
    NotLoopback { address: String },
    #[error("nothing answers at `{endpoint}`: {source}")]
    Unreachable {
        endpoint: String,
        source: std::io::Error,
    },
    /// It answers and is not the service that was named.
    #[error("the service at `{endpoint}` is not believed: {reason}")]
    Untrusted { endpoint: String, reason: String },
    #[error("the handshake with `{endpoint}` failed: {source}")]
    Handshake {
        endpoint: String,
        source: std::io::Error,
    },
    #[error(
        "the service at `{endpoint}` speaks TLS\nhint: use the `https://` address that it prints"
    )]
    SpeaksTls { endpoint: String },
    /// Neither the peer nor the connection failed.
    #[error("what arrived cannot be kept: {source}")]
    Local { source: std::io::Error },
    #[error("the service refused the session (HTTP {status}): {}", peer_text(body))]
    Refused {
        status: u16,
        body: String,
        retry_after_seconds: Option<u64>,
    },
}

/// An ordered, reliable, two-way stream of frames.
pub trait Channel: Send {
    /// Queues one frame. Does not wait for the peer to receive it.
    ///
    /// # Errors
    /// [`NetError::Closed`] once the peer is known to be gone.
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError>;

    /// Waits for the next frame.
    ///
    /// # Errors
    /// [`NetError::Closed`] on an orderly end, [`NetError::TimedOut`] when the channel has a limit
    /// and it passed.
    fn recv(&mut self) -> Result<Vec<u8>, NetError>;
}

impl<C: Channel + ?Sized> Channel for Box<C> {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        (**self).send(frame)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        (**self).recv()
    }
}

/// One end of an in-process channel.
pub struct MemoryChannel {
    sender: mpsc::Sender<Vec<u8>>,
    receiver: mpsc::Receiver<Vec<u8>>,
}

/// Two ends connected to each other; frames are passed on without copying.
pub fn memory_pair() -> (MemoryChannel, MemoryChannel) {
    let (to_b, from_a) = mpsc::channel();
    let (to_a, from_b) = mpsc::channel();
    (
        MemoryChannel {
            sender: to_b,
            receiver: from_b,
        },
        MemoryChannel {
            sender: to_a,
            receiver: from_a,
        },
    )
}

impl Channel for MemoryChannel {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.sender.send(frame).map_err(|_| NetError::Closed)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.receiver.recv().map_err(|_| NetError::Closed)
    }
}
