//! What is below HTTP: a connection that fails when its peer takes nothing for too long.

use std::{
    io,
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};
use tokio_rustls::server::TlsStream;

use crate::connections::places::Place;

/// A peer that takes nothing of an answer for so long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// What is below HTTP.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that fails when its peer takes nothing for too long.
pub(crate) struct TrackedStream {
    /// Until a session takes it over.
    pub(super) stream: Option<Stream>,
    pub(super) stall: Option<Pin<Box<Sleep>>>,
    pub(super) place: Option<Place>,
}

impl TrackedStream {
    /// What is left to a session: the stream, and its place among the open ones.
    pub(crate) fn into_parts(mut self) -> Option<(Stream, Place)> {
        self.stream.take().zip(self.place.take())
    }

    fn is_given_up(&self) -> bool {
        self.place
            .as_ref()
            .is_some_and(|place| place.slot.given_up.load(Ordering::Relaxed))
    }

    fn stream(&mut self) -> io::Result<&mut Stream> {
        self.stream
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }

    fn progress<T>(
        &mut self,
        cx: &mut Context<'_>,
        poll: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            if self.stall.take().is_some() {
                self.place
                    .iter()
                    .for_each(|place| place.slot.set_stalled(None));
            }
            return poll;
        }
        if self.stall.is_none() {
            self.place
                .iter()
                .for_each(|place| place.slot.set_stalled(Some(Instant::now())));
        }
        let stall = self
            .stall
            .get_or_insert_with(|| Box::pin(sleep(STALL_LIMIT)));
        match stall.as_mut().poll(cx) {
            Poll::Ready(()) => {
                self.place.iter().for_each(|place| place.slot.give_up());
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for TrackedStream {
    fn drop(&mut self) {
        let given_up = self.is_given_up();
        if let Some(stream) = self.stream.as_ref().filter(|_| given_up) {
            let tcp = match stream {
                Stream::Plain(tcp) => tcp,
                Stream::Tls(stream) => stream.get_ref().0,
            };
            let _ = tcp.set_zero_linger();
        }
    }
}

impl AsyncRead for TrackedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.stream()? {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for TrackedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let poll = match self.stream()? {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        self.progress(cx, poll)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = match self.stream()? {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        self.progress(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // It is reset when it is dropped, which an orderly end would come before.
        if self.is_given_up() {
            return Poll::Ready(Ok(()));
        }
        let poll = match self.stream()? {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        };
        self.progress(cx, poll)
    }
}
