//! Open connections of a service: each has a time in which to say something, none may stand still,
//! and there are fewer of them than the process may have descriptors.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    Router,
    body::Body,
    extract::{ConnectInfo, Request},
    response::Response,
};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{Notify, watch},
    time::{Instant, Sleep, sleep, sleep_until, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tower_service::Service;

/// From the connection to the end of the request's head, and from one request to the next.
const HEADER_LIMIT: Duration = Duration::from_secs(15);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// The longest pause within a request's body, and the time for all of it.
const BODY_PAUSE: Duration = Duration::from_secs(10);
const BODY_LIMIT: Duration = Duration::from_secs(60);
/// A peer that takes nothing of an answer for so long is given up.
const STALL_LIMIT: Duration = Duration::from_secs(30);
/// After so long without progress it gives way where connections are short.
const STALL_SUFFERED: Duration = Duration::from_secs(2);
/// What a connection may hold of requests that are not read and of answers that are not sent.
const BUFFER_BYTES: usize = 128 << 10;
/// Descriptors for the log, the records, the runtime and what else is no connection.
const OWN_DESCRIPTORS: u64 = 24;
const MAX_CONNECTIONS: u64 = 16_384;
/// After the system refuses a connection, on a shortage of descriptors for example.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The connections that are open, and how many may be.
pub(crate) struct Connections {
    limit: usize,
    open: Mutex<Open>,
    closed: Notify,
}

#[derive(Default)]
struct Open {
    count: u64,
    slots: HashMap<u64, Arc<Slot>>,
}

/// One connection, as the others see it.
pub(crate) struct Slot {
    number: u64,
    state: Mutex<Use>,
    give_way: Notify,
    given_up: AtomicBool,
    /// Since when its peer has taken nothing.
    stalled: Mutex<Option<Instant>>,
}

#[derive(Clone, Copy)]
enum Use {
    /// Since then nothing was asked here.
    Idle(Instant),
    /// Answers so many requests.
    Busy(usize),
    /// A session's.
    Taken,
}

impl Slot {
    fn state(&self) -> MutexGuard<'_, Use> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection becomes a session's and stays until that ends.
    pub(crate) fn take(&self) {
        *self.state() = Use::Taken;
    }

    /// The peer was too slow: the connection is reset, so that the system keeps nothing for it.
    fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    fn begin(self: &Arc<Self>) -> Busy {
        let mut state = self.state();
        *state = match *state {
            Use::Idle(_) => Use::Busy(1),
            Use::Busy(requests) => Use::Busy(requests + 1),
            Use::Taken => Use::Taken,
        };
        Busy(self.clone())
    }

    /// Where its peer takes nothing of an answer, and has not for a while.
    fn stalled_since(&self) -> Option<Instant> {
        let stalled = *self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        stalled.filter(|since| {
            since.elapsed() >= STALL_SUFFERED && !matches!(*self.state(), Use::Taken)
        })
    }

    fn set_stalled(&self, since: Option<Instant>) {
        *self.stalled.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    fn idle_since(&self) -> Option<Instant> {
        match *self.state() {
            Use::Idle(since) => Some(since),
            _ => None,
        }
    }
}

/// A request that is being answered.
struct Busy(Arc<Slot>);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.state();
        *state = match *state {
            Use::Taken => Use::Taken,
            Use::Busy(requests @ 2..) => Use::Busy(requests - 1),
            _ => Use::Idle(Instant::now()),
        };
    }
}

/// A place among the open connections; given back when dropped.
pub(crate) struct Place {
    all: Arc<Connections>,
    slot: Arc<Slot>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.open().slots.remove(&self.slot.number);
        self.all.closed.notify_one();
    }
}

impl Connections {
    /// As many as the process has descriptors for, where each may need a second one: a file, or a
    /// connection to another service.
    pub(crate) fn for_this_process() -> Arc<Self> {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile)
            .current
            .unwrap_or(u64::MAX);
        Self::new((limit.saturating_sub(OWN_DESCRIPTORS) / 2).clamp(8, MAX_CONNECTIONS) as usize)
    }

    fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            open: Mutex::default(),
            closed: Notify::new(),
        })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let mut open = self.open();
        if open.slots.len() >= self.limit {
            return None;
        }
        open.count += 1;
        let (state, number) = (Mutex::new(Use::Idle(Instant::now())), open.count);
        let (give_way, given_up) = (Notify::new(), AtomicBool::new(false));
        let slot = Arc::new(Slot {
            number,
            state,
            give_way,
            given_up,
            stalled: Mutex::default(),
        });
        open.slots.insert(number, slot.clone());
        Some(Place {
            all: self.clone(),
            slot,
        })
    }

    /// The connection that gives way to a new one: that has asked for nothing for longest, or else
    /// whose peer has taken nothing of its answer for longest.
    fn least_useful(&self) -> Option<Arc<Slot>> {
        let open = self.open();
        let idle = open
            .slots
            .values()
            .filter_map(|slot| Some((slot.idle_since()?, slot)));
        let stalled = || {
            open.slots
                .values()
                .filter_map(|slot| Some((slot.stalled_since()?, slot)))
        };
        idle.min_by_key(|idle| idle.0)
            .or_else(|| stalled().min_by_key(|stalled| stalled.0))
            .map(|(_, slot)| slot.clone())
    }

    /// A place for a new connection. Where all are taken, the least useful one gives way; where all
    /// are at work, the new one waits.
    async fn enter(self: &Arc<Self>) -> Place {
        loop {
            let closed = self.closed.notified();
            if let Some(place) = self.try_enter() {
                return place;
            }
            if let Some(slot) = self.least_useful() {
                slot.give_way.notify_one();
            }
            let _ = timeout(ACCEPT_PAUSE, closed).await;
        }
    }
}

/// Serves until `stop` is done; then running requests end.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    app: Router,
    stop: impl Future<Output = ()> + Send,
) -> io::Result<()> {
    let (connections, acceptor) = (Connections::for_this_process(), tls.map(TlsAcceptor::from));
    let (ending, ended) = watch::channel(());
    let mut stop = std::pin::pin!(stop);
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, peer)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let place = tokio::select! {
            () = &mut stop => break,
            place = connections.enter() => place,
        };
        let _ = stream.set_nodelay(true);
        tokio::spawn(connection(
            stream,
            peer,
            acceptor.clone(),
            app.clone(),
            place,
            ended.clone(),
        ));
    }
    drop((listener, ended));
    // Every connection holds a receiver.
    let _ = ending.send(());
    ending.closed().await;
    Ok(())
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: Option<TlsAcceptor>,
    app: Router,
    place: Place,
    mut ended: watch::Receiver<()>,
) {
    let slot = place.slot.clone();
    let shaken = async {
        match acceptor {
            None => Some(Stream::Plain(stream)),
            Some(acceptor) => {
                let shaken = timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await;
                shaken
                    .ok()?
                    .ok()
                    .map(|stream| Stream::Tls(Box::new(stream)))
            }
        }
    };
    let stream = tokio::select! {
        stream = shaken => stream,
        () = slot.give_way.notified() => None,
    };
    let Some(stream) = stream else { return };
    let line = TokioIo::new(TrackedStream {
        stream: Some(stream),
        stall: None,
        place: Some(place),
    });
    let answering = slot.clone();
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (mut app, busy) = (app.clone(), answering.begin());
        let mut request: Request =
            request.map(|body| Body::new(Unhurried::new(body, answering.clone())));
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(answering.clone());
        async move {
            app.call(request).await.map(|response: Response| {
                response.map(|body| Body::new(Answering { body, _busy: busy }))
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(line, service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if ended.is_err_and(|error| error.is_timeout()) {
                    slot.give_up();
                }
                return;
            }
            () = slot.give_way.notified() => {
                if slot.idle_since().or_else(|| slot.stalled_since()).is_some() {
                    slot.give_up();
                    return;
                }
            }
            _ = ended.changed() => {
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
                return;
            }
        }
    }
}

/// What is below HTTP.
pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection that fails when its peer takes nothing for too long.
pub(crate) struct TrackedStream {
    /// Until a session takes it over.
    stream: Option<Stream>,
    stall: Option<Pin<Box<Sleep>>>,
    place: Option<Place>,
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

/// A request's body that has to come in time.
struct Unhurried {
    body: Incoming,
    end: Instant,
    timer: Pin<Box<Sleep>>,
    slot: Arc<Slot>,
}

impl Unhurried {
    fn new(body: Incoming, slot: Arc<Slot>) -> Self {
        let now = Instant::now();
        Self {
            body,
            end: now + BODY_LIMIT,
            timer: Box::pin(sleep_until(now + BODY_PAUSE)),
            slot,
        }
    }
}

impl HttpBody for Unhurried {
    type Data = <Incoming as HttpBody>::Data;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            let next = (Instant::now() + BODY_PAUSE).min(self.end);
            self.timer.as_mut().reset(next);
            return Poll::Ready(frame.map(|frame| frame.map_err(axum::Error::new)));
        }
        self.timer.as_mut().poll(cx).map(|()| {
            self.slot.give_up();
            Some(Err(axum::Error::new(io::Error::new(
                io::ErrorKind::TimedOut,
                "the body is missing",
            ))))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body; while it lasts, its connection is at work.
struct Answering {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answering {
    type Data = <Body as HttpBody>::Data;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_longest_idle_connection_gives_way() {
        let all = Connections::new(3);
        let places = [all.enter().await, all.enter().await, all.enter().await];
        let [working, taken, idle] = &places;
        let busy = working.slot.begin();
        taken.slot.take();
        // Nobody leaves by itself: the idle one hears of it, and the new one waits until it has
        // gone.
        let told = idle.slot.clone();
        let entering = tokio::spawn({
            let all = all.clone();
            async move { all.enter().await }
        });
        told.give_way.notified().await;
        assert!(!entering.is_finished());
        let [working, taken, idle] = places;
        drop(idle);
        let newest = entering.await.unwrap();
        assert!(newest.slot.idle_since().is_some());
        assert!(working.slot.idle_since().is_none() && taken.slot.idle_since().is_none());
        working
            .slot
            .set_stalled(Instant::now().checked_sub(STALL_SUFFERED));
        taken
            .slot
            .set_stalled(Instant::now().checked_sub(STALL_SUFFERED * 2));
        assert_eq!(
            all.least_useful().unwrap().number,
            newest.slot.number,
            "idle ones first"
        );
        newest.slot.take();
        assert_eq!(
            all.least_useful().unwrap().number,
            working.slot.number,
            "then one that is not read"
        );
        working.slot.set_stalled(Some(Instant::now()));
        assert!(
            all.least_useful().is_none(),
            "a pause is no stall, and a session stays"
        );
        drop(busy);
        assert!(
            working.slot.idle_since().is_some(),
            "an answer that has ended leaves an idle connection"
        );
        assert!(all.try_enter().is_none(), "three are open");
    }
}
