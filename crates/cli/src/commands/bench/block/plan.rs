//! Which steps a benchmark takes, and which of them it measures.

use marill_mpc::ProtocolError;

use super::Args;
use crate::commands::bench::clock::Spent;

/// What the three parties do: unmeasured steps first, then measured ones.
pub(super) struct Plan {
    /// Rows of the prompt, a whole bucket.
    pub(super) prompt: usize,
    /// Decoded tokens before the measured ones.
    pub(super) warm: usize,
    /// Measured decoded tokens; the prompt itself is measured when there are none.
    pub(super) tokens: usize,
}

impl Plan {
    pub(super) fn of(args: &Args) -> Self {
        if args.phase == "prefill" {
            let tokens = args.tokens.unwrap_or(128) as usize;
            return Self {
                prompt: tokens.next_multiple_of(16),
                warm: 0,
                tokens: 0,
            };
        }
        let before = args.context as usize - 1;
        let prompt = before / 16 * 16;
        Self {
            prompt,
            warm: before - prompt,
            tokens: args.tokens.unwrap_or(4) as usize,
        }
    }

    pub(super) fn positions(&self) -> usize {
        self.prompt + self.warm + self.tokens
    }

    /// Whether step `k` (the prompt is step 0) is measured.
    pub(super) fn measured(&self, k: usize) -> bool {
        if self.tokens == 0 {
            k == 0
        } else {
            k > self.warm
        }
    }

    pub(super) fn steps(&self) -> usize {
        1 + self.warm + self.tokens
    }

    /// Keys before the first measured step, and its rows.
    pub(super) fn first_measured(&self) -> (usize, usize) {
        if self.tokens == 0 {
            (0, self.prompt)
        } else {
            (self.prompt + self.warm, 1)
        }
    }

    /// Rows of step `k`.
    pub(super) fn rows(&self, k: usize) -> usize {
        if k == 0 { self.prompt } else { 1 }
    }

    /// Runs every step of a party; what the measured ones take.
    pub(super) fn clock(
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
