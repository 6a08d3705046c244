//! What a step costs its client.

use std::ops::{AddAssign, Sub};

/// Frames, payload bytes and time of one or more steps. A round is a step of the longest chain of
/// dependent messages.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    pub rounds: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    pub seconds: f64,
}

/// What two parties made that depends on no input: set-up, transfers, products of masks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Offline {
    /// In both directions.
    pub bytes: u64,
    /// Of preparations for further tokens; those of a prompt are part of its step. None where all
    /// are part of their steps.
    pub seconds: Option<f64>,
}

impl Sub for Offline {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            bytes: self.bytes - earlier.bytes,
            seconds: self
                .seconds
                .map(|seconds| seconds - earlier.seconds.unwrap_or_default()),
        }
    }
}

impl AddAssign for Cost {
    fn add_assign(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.bytes_sent += other.bytes_sent;
        self.bytes_received += other.bytes_received;
        self.seconds += other.seconds;
    }
}
