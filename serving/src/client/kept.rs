//! A session between two turns of a conversation.
//!
//! The server sees that the next turn belongs to the same conversation, how many tokens it adds and
//! when it comes; the cached keys and values were opened under their masks when they were made, and
//! are not opened again.

use std::time::{Duration, Instant};

use marill_mpc::Sampling;

use crate::client::{
    SecureSession,
    cost::Offline,
    prefixes::{self, Waits},
};

/// Less than the server's time, so that it does not end a session which is taken up just now.
const SPARE: Duration = Duration::from_secs(2);
/// A prefix of a session that may wait.
pub(super) type Borrowed = prefixes::Borrowed<KeptSession>;

/// A session that waits for its next turn.
pub(super) struct KeptSession {
    /// What it has seen.
    pub(super) tokens: Vec<u32>,
    pub(super) sampling: Option<Sampling>,
    /// Cached positions, padding included.
    pub(super) positions: usize,
    pub(super) prefix: Borrowed,
    /// [`SecureSession::offline`] at its answer's end.
    offline: Offline,
    session: SecureSession,
    until: Instant,
}

/// A session that goes on, its prefix, and what it had made before it rested.
pub(super) type Woken = (SecureSession, Borrowed, Offline);

impl KeptSession {
    /// Lets a session rest for as long as its server keeps it.
    pub(super) fn new(
        mut session: SecureSession,
        prefix: Borrowed,
        tokens: Vec<u32>,
        sampling: Option<Sampling>,
        time: Duration,
    ) -> Self {
        let positions = session.positions();
        let offline = session.offline().unwrap_or_default();
        session.wait();
        Self {
            tokens,
            sampling,
            positions,
            prefix,
            offline,
            session,
            until: Instant::now() + time.saturating_sub(SPARE),
        }
    }

    /// Whether a prompt goes on from here and leaves room for so many tokens of answer.
    pub(super) fn fits(
        &self,
        prompt: &[u32],
        sampling: Option<Sampling>,
        (limit, max_positions): (usize, usize),
    ) -> bool {
        let goes_on = prompt.len() > self.tokens.len() && prompt.starts_with(&self.tokens);
        let more = prompt.len().saturating_sub(self.tokens.len());
        // The last token of an answer takes no position.
        let needed = self.positions + more + limit.saturating_sub(1);
        goes_on && self.sampling == sampling && needed <= max_positions
    }

    /// The session, which goes on.
    pub(super) fn wake(self) -> Woken {
        (self.session, self.prefix, self.offline)
    }
}

impl Waits for KeptSession {
    /// Whether the server does not wait any longer.
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    fn saves(&self) -> usize {
        self.tokens.len()
    }
}
