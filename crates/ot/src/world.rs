//! Both parties in one process, for tests and measurements: two threads, a channel in memory with a
//! limit on silence, and the longest chain of messages measured beside the declared rounds.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use marill_net::{Channel, NetError};

use crate::link::{Link, Party};

/// A frame and how many messages led to it.
type Frame = (u64, Vec<u8>);

/// One end in memory. Waits for a frame no longer than its limit.
pub struct MemoryEnd {
    sender: mpsc::Sender<Frame>,
    receiver: mpsc::Receiver<Frame>,
    limit: Duration,
    depth: Arc<AtomicU64>,
}

impl MemoryEnd {
    /// The longest chain of messages, each sent after the one before was received, that this end
    /// has seen.
    #[must_use]
    pub fn depth(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.depth)
    }
}

impl Channel for MemoryEnd {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        let depth = self.depth.load(Ordering::Relaxed) + 1;
        self.sender
            .send((depth, frame))
            .map_err(|_| NetError::Closed)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        let received = self.receiver.recv_timeout(self.limit);
        let (depth, frame) = received.map_err(|error| match error {
            mpsc::RecvTimeoutError::Timeout => NetError::TimedOut {
                seconds: self.limit.as_secs(),
            },
            mpsc::RecvTimeoutError::Disconnected => NetError::Closed,
        })?;
        self.depth.fetch_max(depth, Ordering::Relaxed);
        Ok(frame)
    }
}

/// Two ends in memory with this limit on silence.
#[must_use]
pub fn memory_ends(limit: Duration) -> (MemoryEnd, MemoryEnd) {
    let (to_second, from_first) = mpsc::channel();
    let (to_first, from_second) = mpsc::channel();
    let end = |sender, receiver| MemoryEnd {
        sender,
        receiver,
        limit,
        depth: Arc::new(AtomicU64::new(0)),
    };
    (end(to_second, from_second), end(to_first, from_first))
}

/// Longer than any test's step on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(120);

/// Runs both parties, each on a thread, with the ends of one link.
///
/// # Panics
/// When a party panics.
pub fn run<A: Send, B: Send>(
    first: impl FnOnce(Link<MemoryEnd>) -> A + Send,
    second: impl FnOnce(Link<MemoryEnd>) -> B + Send,
) -> (A, B) {
    let (own, other) = memory_ends(LIMIT);
    run_on(own, other, first, second)
}

/// As [`run`], on channels of one's own.
///
/// # Panics
/// When a party panics.
pub fn run_on<C: Channel, A: Send, B: Send>(
    own: C,
    other: C,
    first: impl FnOnce(Link<C>) -> A + Send,
    second: impl FnOnce(Link<C>) -> B + Send,
) -> (A, B) {
    thread::scope(|scope| {
        let second = scope.spawn(move || second(Link::new(other, Party::E1)));
        let result = first(Link::new(own, Party::E0));
        (result, second.join().expect("E1 panicked"))
    })
}
