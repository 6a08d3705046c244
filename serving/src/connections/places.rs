//! The open connections of a service, which one of them gives way to a new one, and how many there
//! may be.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, timeout},
};

/// After the system refuses a connection, on a shortage of descriptors for example.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After so long without progress it gives way where connections are short.
const STALL_SUFFERED: Duration = Duration::from_secs(2);

/// Descriptors for the log, the records, the runtime and what else is no connection.
const OWN_DESCRIPTORS: u64 = 24;

const MAX_CONNECTIONS: u64 = 16_384;

/// The connections that are open, and how many may be.
pub(super) struct Connections {
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
    pub(super) give_way: Notify,
    pub(super) given_up: AtomicBool,
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
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }

    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        let mut state = self.state();
        *state = match *state {
            Use::Idle(_) => Use::Busy(1),
            Use::Busy(requests) => Use::Busy(requests + 1),
            Use::Taken => Use::Taken,
        };
        Busy(self.clone())
    }

    /// Where its peer takes nothing of an answer, and has not for a while.
    pub(super) fn stalled_since(&self) -> Option<Instant> {
        let stalled = *self.stalled.lock().unwrap_or_else(PoisonError::into_inner);
        stalled.filter(|since| {
            since.elapsed() >= STALL_SUFFERED && !matches!(*self.state(), Use::Taken)
        })
    }

    pub(super) fn set_stalled(&self, since: Option<Instant>) {
        *self.stalled.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    pub(super) fn idle_since(&self) -> Option<Instant> {
        match *self.state() {
            Use::Idle(since) => Some(since),
            _ => None,
        }
    }
}

/// A request that is being answered.
pub(super) struct Busy(Arc<Slot>);

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
    pub(super) slot: Arc<Slot>,
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
    pub(super) fn for_this_process() -> Arc<Self> {
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
        let state = Mutex::new(Use::Idle(Instant::now()));
        let number = open.count;
        let give_way = Notify::new();
        let given_up = AtomicBool::new(false);
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
    pub(super) async fn enter(self: &Arc<Self>) -> Place {
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
