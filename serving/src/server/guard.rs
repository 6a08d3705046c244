//! Requests without a key that is known: counted, logged, and answered the later the more of them
//! there were.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Failures are forgotten after this time.
const WINDOW: Duration = Duration::from_secs(60);
/// What each failure of the window adds to the wait for the next one's answer.
const STEP: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(3);
/// Failures that wait for their answer; further ones are told at once, so that they hold no
/// connections.
const MAX_WAITING: usize = 64;

/// Failures of the last minute.
#[derive(Default)]
pub(crate) struct WrongKeys(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    since: Option<Instant>,
    failures: u32,
    waiting: usize,
}

impl WrongKeys {
    /// Counts a failure; returns when it may be answered.
    pub(crate) async fn failed(&self) {
        let Some(wait) = self.count(Instant::now()) else {
            return;
        };
        let _waiting = Waiting(self);
        tokio::time::sleep(wait).await;
    }

    /// How long the answer waits, or none where too many wait already.
    fn count(&self, now: Instant) -> Option<Duration> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recent
            .since
            .is_none_or(|since| now.duration_since(since) > WINDOW)
        {
            (recent.since, recent.failures) = (Some(now), 0);
        }
        recent.failures = recent.failures.saturating_add(1);
        // A line for the first, the second, the fourth: however many they are, the log stays short.
        if recent.failures.is_power_of_two() {
            tracing::warn!(
                "{} requests in the last minute had no key that is known",
                recent.failures
            );
        }
        let wait = (STEP * recent.failures).min(LONGEST);
        let may_wait = recent.waiting < MAX_WAITING;
        recent.waiting += usize::from(may_wait);
        may_wait.then_some(wait)
    }
}

struct Waiting<'a>(&'a WrongKeys);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .waiting -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guesses_are_slowed_and_forgotten() {
        let keys = WrongKeys::default();
        let now = Instant::now();
        let waits: Vec<_> = (0..MAX_WAITING).map(|_| keys.count(now).unwrap()).collect();
        assert_eq!((waits[0], waits[9]), (STEP, STEP * 10));
        assert_eq!(waits.last(), Some(&LONGEST));
        assert_eq!(keys.count(now), None, "so many wait");
        keys.0.lock().unwrap().waiting = 0;
        assert_eq!(keys.count(now + WINDOW * 2), Some(STEP));
    }
}
