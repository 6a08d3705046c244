//! What a protocol declares: bytes by party, rounds.

use std::ops::{Add, AddAssign};

/// Messages of a protocol on so many instances, material apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes that E0 and E1 send.
    pub sent: [u64; 2],
    pub rounds: u64,
}

impl Cost {
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// One round, in which E0 and E1 send messages of so many bits; no message, no round.
    pub fn exchange(&mut self, bits: [usize; 2]) {
        for (sent, bits) in self.sent.iter_mut().zip(bits) {
            *sent += bits.div_ceil(8) as u64;
        }
        self.rounds += u64::from(bits != [0, 0]);
    }

    /// The same where each party plays the other's part
    /// ([`Session::exchange_parts`](marill_ot::Session::exchange_parts)).
    #[must_use]
    pub fn exchanged(self) -> Self {
        let [first, second] = self.sent;
        Self {
            sent: [second, first],
            ..self
        }
    }

    /// Bytes in both directions.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.sent.iter().sum()
    }
}

impl Add for Cost {
    type Output = Self;

    fn add(mut self, other: Self) -> Self {
        self += other;
        self
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.sent[0] += other.sent[0];
        self.sent[1] += other.sent[1];
        self.rounds += other.rounds;
    }
}
