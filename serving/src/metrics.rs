//! Counters in the text format that Prometheus reads. No label carries text, ids of tokens or of clients.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one service since it started.
#[derive(Default)]
pub struct Metrics {
    pub sessions_started: AtomicU64,
    pub sessions_failed: AtomicU64,
    pub sessions_refused: AtomicU64,
    pub steps: AtomicU64,
    pub bytes_sent: AtomicU64,
    pub bytes_received: AtomicU64,
}

impl Metrics {
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// The counters, `marill_<thing>_<unit>_total` each, and the sessions that run now.
    pub fn render(&self, active: usize) -> String {
        let mut text = String::new();
        let counters = [
            ("marill_sessions_started_total", &self.sessions_started),
            ("marill_sessions_failed_total", &self.sessions_failed),
            ("marill_sessions_refused_total", &self.sessions_refused),
            ("marill_steps_total", &self.steps),
            ("marill_session_sent_bytes_total", &self.bytes_sent),
            ("marill_session_received_bytes_total", &self.bytes_received),
        ];
        for (name, counter) in counters {
            let _ = writeln!(text, "# TYPE {name} counter\n{name} {}", counter.load(Ordering::Relaxed));
        }
        let _ = writeln!(text, "# TYPE marill_sessions_active gauge\nmarill_sessions_active {active}");
        text
    }
}
