//! Sessions that wait for the next turn of their conversation: without a slot, a bounded number for
//! a bounded time.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use marill_net::{NetError, SharedChannel, WebSocketChannel};

/// How often a session that waits looks whether it has to go.
const LOOK: Duration = Duration::from_millis(200);
/// What a server holds of corrections that were written early; a dealer is one token ahead.
const ABSORBED_BYTES: usize = 256 << 20;

/// How many sessions wait for a further turn, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keeping {
    /// 0: every session ends with its answer.
    pub sessions: usize,
    pub time: Duration,
}

impl Keeping {
    /// No session outlives its answer.
    pub const NONE: Self = Self {
        sessions: 0,
        time: Duration::ZERO,
    };

    /// Ten minutes, for so many sessions.
    #[must_use]
    pub fn of(sessions: usize) -> Self {
        let time = Duration::from_secs(600);
        Self { sessions, time }
    }

    /// Whole seconds for which a session waits, 0 where none does.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        match self.sessions {
            0 => 0,
            _ => self.time.as_secs(),
        }
    }
}

/// A session that waits, and whether it has to go.
type Waiting = (u64, Arc<AtomicBool>);

/// The sessions of a service that wait, longest first.
pub(crate) struct Kept {
    keeping: Keeping,
    waiting: Mutex<VecDeque<Waiting>>,
    next: AtomicU64,
}

impl Kept {
    pub(crate) fn new(keeping: Keeping) -> Arc<Self> {
        Arc::new(Self {
            keeping,
            waiting: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    pub(crate) fn keeping(&self) -> Keeping {
        self.keeping
    }

    /// Sessions that wait now.
    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more; whoever waits longest goes where there are too many. `None` where none
    /// is kept at all.
    fn enter(&self) -> Option<Place<'_>> {
        if self.keeping.seconds() == 0 {
            return None;
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let leave = Arc::<AtomicBool>::default();
        let mut waiting = self.lock();
        while waiting.len() >= self.keeping.sessions
            && let Some((_, leave)) = waiting.pop_front()
        {
            leave.store(true, Ordering::Relaxed);
        }
        waiting.push_back((number, leave.clone()));
        Some(Place {
            kept: self,
            number,
            leave,
        })
    }

    /// Waits until the peer says something; `false` where the session is not kept any longer.
    /// Meanwhile what the `other` peer still sends is taken in.
    ///
    /// # Errors
    /// A peer that is gone.
    pub(crate) fn wait(
        &self,
        peer: &SharedChannel<WebSocketChannel>,
        other: Option<&SharedChannel<WebSocketChannel>>,
    ) -> Result<bool, NetError> {
        let Some(place) = self.enter() else {
            return Ok(false);
        };
        let end = Instant::now() + self.keeping.time;
        while Instant::now() < end && !place.leave.load(Ordering::Relaxed) {
            let more = match other {
                Some(other) => other.lock().absorb(ABSORBED_BYTES)?,
                None => false,
            };
            let until = if more {
                Instant::now()
            } else {
                Instant::now() + LOOK
            };
            if peer.lock().wait_for_frame(until.min(end))? {
                // Who had to go has no place any more.
                return Ok(!place.leave.load(Ordering::Relaxed));
            }
        }
        Ok(false)
    }
}

struct Place<'a> {
    kept: &'a Kept,
    number: u64,
    leave: Arc<AtomicBool>,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let number = self.number;
        self.kept.lock().retain(|(other, _)| *other != number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_that_waits_longest_makes_room() {
        let kept = Kept::new(Keeping::of(2));
        let places: Vec<_> = (0..3).map(|_| kept.enter().unwrap()).collect();
        let leave = |place: &Place<'_>| place.leave.load(Ordering::Relaxed);
        assert_eq!(
            places.iter().map(leave).collect::<Vec<_>>(),
            [true, false, false]
        );
        assert_eq!(kept.count(), 2);
        drop(places);
        assert_eq!(kept.count(), 0);
    }

    #[test]
    fn nothing_is_kept_without_room_or_time() {
        let no_time = Keeping {
            sessions: 4,
            time: Duration::ZERO,
        };
        for keeping in [Keeping::NONE, Keeping::of(0), no_time] {
            assert_eq!(keeping.seconds(), 0);
            assert!(Kept::new(keeping).enter().is_none());
        }
    }
}
