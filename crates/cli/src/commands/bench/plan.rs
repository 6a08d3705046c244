//! Which steps a benchmark takes, and which of them it measures.

use marill_mpc::ProtocolError;
use serde::{Deserialize, Serialize};

use super::clock::Spent;

/// What the three parties do: unmeasured steps first, then measured ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Rows of the prompt, a whole bucket.
    pub prompt: usize,
    /// Decoded tokens before the measured ones.
    pub warm: usize,
    /// Measured decoded tokens; the prompt itself is measured when there are none.
    pub tokens: usize,
}

impl Plan {
    /// A prompt of so many tokens, padded to its bucket.
    pub fn prefill(tokens: usize) -> Self {
        Self {
            prompt: tokens.next_multiple_of(16),
            warm: 0,
            tokens: 0,
        }
    }

    /// So many tokens, the first of which attends to `keys` keys.
    pub fn decode(keys: usize, tokens: usize) -> Self {
        let before = keys - 1;
        let prompt = before / 16 * 16;
        Self {
            prompt,
            warm: before - prompt,
            tokens,
        }
    }

    pub fn positions(&self) -> usize {
        self.prompt + self.warm + self.tokens
    }

    /// Whether step `k` (the prompt is step 0) is measured.
    pub fn measured(&self, k: usize) -> bool {
        if self.tokens == 0 {
            k == 0
        } else {
            k > self.warm
        }
    }

    pub fn steps(&self) -> usize {
        1 + self.warm + self.tokens
    }

    /// Keys before the first measured step, and its rows.
    pub fn first_measured(&self) -> (usize, usize) {
        if self.tokens == 0 {
            (0, self.prompt)
        } else {
            (self.prompt + self.warm, 1)
        }
    }

    /// Rows of step `k`.
    pub fn rows(&self, k: usize) -> usize {
        if k == 0 { self.prompt } else { 1 }
    }

    /// Runs every step of a party; what the measured ones take.
    pub fn clock(
        &self,
        mut step: impl FnMut(usize) -> Result<(), ProtocolError>,
    ) -> anyhow::Result<Spent> {
        let mut spent = Spent::default();
        for k in 0..self.steps() {
            if self.measured(k) {
                spent.measure(|| step(k))
            } else {
                step(k)
            }?;
        }
        Ok(spent)
    }
}
