//! A slower link in user space: each frame carries the moment before which it must not be seen.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use crate::{Channel, NetError};

const STAMP_BYTES: usize = 8;

/// One direction of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub one_way_delay: Duration,
    pub bits_per_second: u64,
}

impl Link {
    /// Time the frame occupies the link.
    fn transmission(&self, bytes: usize) -> Duration {
        Duration::from_nanos(
            (bytes as u128 * 8 * 1_000_000_000 / u128::from(self.bits_per_second.max(1))) as u64,
        )
    }
}

/// Delays what the other end of the wrapped channel sees. Both ends must be wrapped and on one
/// machine: the frame's release time is in that machine's monotonic clock. Eight bytes a frame are
/// added and do not count as occupancy.
pub struct Shaped<C> {
    inner: C,
    link: Link,
    link_free_at: Duration,
}

impl<C: Channel> Shaped<C> {
    pub fn new(inner: C, link: Link) -> Self {
        Self {
            inner,
            link,
            link_free_at: Duration::ZERO,
        }
    }
}

impl<C: Channel> Channel for Shaped<C> {
    fn send(&mut self, mut frame: Vec<u8>) -> Result<(), NetError> {
        let start = self.link_free_at.max(monotonic_now());
        self.link_free_at = start + self.link.transmission(frame.len());
        let release_at = self.link_free_at + self.link.one_way_delay;
        frame.extend_from_slice(&(release_at.as_nanos() as u64).to_le_bytes());
        self.inner.send(frame)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        let mut frame = self.inner.recv()?;
        let Some((_, stamp)) = frame.split_last_chunk::<STAMP_BYTES>() else {
            return Err(NetError::Protocol(
                "the peer's end of a shaped link is not shaped".into(),
            ));
        };
        let release_at = Duration::from_nanos(u64::from_le_bytes(*stamp));
        frame.truncate(frame.len() - STAMP_BYTES);
        sleep_until(release_at);
        Ok(frame)
    }
}

/// Sleeps for the most part and spins for the rest: the kernel's timer is late by about 60 µs.
fn sleep_until(release_at: Duration) {
    const SPIN: Duration = Duration::from_micros(120);
    let wait = release_at.saturating_sub(monotonic_now());
    let deadline = Instant::now() + wait;
    if wait > SPIN {
        std::thread::sleep(wait - SPIN);
    }
    while Instant::now() < deadline {
        std::hint::spin_loop();
    }
}

fn monotonic_now() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory_pair;

    #[test]
    fn delay_and_bandwidth_are_paid_once_each() {
        let link = Link {
            one_way_delay: Duration::from_millis(10),
            bits_per_second: 8_000_000,
        };
        let (a, b) = memory_pair();
        let mut a = Shaped::new(a, link);
        let mut plain = b;
        let start = monotonic_now();
        for _ in 0..3 {
            a.send(vec![7; 10_000]).unwrap();
        }
        let sending = monotonic_now() - start;
        let released: Vec<Duration> = (0..3)
            .map(|_| {
                let frame = plain.recv().unwrap();
                let (_, stamp) = frame.split_last_chunk::<STAMP_BYTES>().unwrap();
                Duration::from_nanos(u64::from_le_bytes(*stamp))
            })
            .collect();
        // 10 ms of occupancy each and one delay; a busy machine may hold the sender up between two
        // frames.
        let occupied = Duration::from_millis(10);
        let delay = Duration::from_millis(10);
        assert!(
            released[0] >= start + occupied + delay
                && released[0] <= start + sending + occupied + delay
        );
        for pair in released.windows(2) {
            let apart = pair[1] - pair[0];
            assert!(
                apart >= occupied && apart <= occupied + sending,
                "{apart:?}"
            );
        }
    }

    #[test]
    fn a_frame_is_not_seen_before_its_time() {
        let link = Link {
            one_way_delay: Duration::from_millis(10),
            bits_per_second: 8_000_000,
        };
        let (a, b) = memory_pair();
        let mut a = Shaped::new(a, link);
        let mut b = Shaped::new(b, link);
        let start = Instant::now();
        a.send(vec![7; 10_000]).unwrap();
        assert_eq!(b.recv().unwrap(), vec![7; 10_000]);
        assert!(start.elapsed() >= Duration::from_millis(20));
    }
}
