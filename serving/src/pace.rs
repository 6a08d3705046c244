//! How long a session may take: each step has its time, and all of it together what its steps have
//! earned, so that no frame sent just before each timeout keeps a slot for hours.

use std::time::{Duration, Instant};

use marill_net::{SharedChannel, WebSocketChannel};

/// From the handshake to the first step, without what it takes to send the masked adapter.
const OPENING: Duration = Duration::from_secs(300);
/// What a step may take, and how much more for each position of a prompt.
const STEP: Duration = Duration::from_secs(150);
const POSITION: Duration = Duration::from_secs(4);
/// What a step adds to the session's time, the pause before the next one included, beside its
/// positions.
const EARNED: Duration = Duration::from_secs(60);

/// A peer that takes the adapter more slowly than this is given up.
const SLOWEST_BYTES_PER_SECOND: u64 = 64 << 10;

type Connection = SharedChannel<WebSocketChannel>;

/// The time of one session, kept on its connections.
pub(crate) struct Pace {
    connections: Vec<Connection>,
    end: Instant,
}

impl Pace {
    /// A session begins after its peer's handshake.
    pub(crate) fn start(connection: &Connection) -> Self {
        let pace = Self {
            connections: vec![connection.clone()],
            end: Instant::now() + OPENING,
        };
        pace.set(pace.end);
        pace
    }

    /// A further connection belongs to the session.
    pub(crate) fn with(&mut self, connection: &Connection) {
        connection.lock().set_deadline(Some(self.end));
        self.connections.push(connection.clone());
    }

    /// So many bytes have to be sent before the first step.
    pub(crate) fn earn(&mut self, bytes: u64) {
        self.end += Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND);
        self.set(self.end);
    }

    /// A step of so many positions begins.
    pub(crate) fn step(&mut self, positions: usize) {
        let positions = POSITION * u32::try_from(positions).unwrap_or(u32::MAX);
        self.end += EARNED + positions;
        self.set(self.end.min(Instant::now() + STEP + positions));
    }

    /// A step has ended; the next one is waited for.
    pub(crate) fn pause(&self) {
        self.set(self.end);
    }

    /// The session rests for `time` at most, which is no time of its own; [`Self::resume`] goes on.
    pub(crate) fn rest(&self, time: Duration) -> Duration {
        self.set(Instant::now() + time);
        self.end.saturating_duration_since(Instant::now())
    }

    /// Behind a rest, with the time that was left before it.
    pub(crate) fn resume(&mut self, left: Duration) {
        self.end = Instant::now() + left;
        self.set(self.end);
    }

    fn set(&self, deadline: Instant) {
        self.connections
            .iter()
            .for_each(|connection| connection.lock().set_deadline(Some(deadline)));
    }
}
