//! A secure answer beside the twin that rounds half up, over the same boundary rows.
//!
//! Where the session rounds so too, every token is the twin's or something is wrong. Where it
//! rounds stochastically, the twin has other randomness: the tokens agree where the best one is not
//! nearly tied, and any other is nearly as good. How nearly is what a check can hold: the logit
//! that the twin gives to the session's token, below that of its own.

use std::{path::Path, sync::Arc};

use marill_mpc::Twin;
use marill_numeric::Rounding;
use marill_partition::Partition;
use marill_serving::client::Answer;
use serde::Serialize;

use crate::output::failure::BadInput;

/// A token of a session that rounds stochastically lies no further below the exact twin's best, in
/// logits. Randomness moves a logit of SmolLM2-135M by 0.015 at most
/// (`crates/partition/examples/rounding.rs`), so this allows eight times what two such make.
const NEAR_LOGITS: f64 = 0.25;

/// What a comparison with the twin found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct TwinCheck {
    #[serde(skip)]
    rounding: Rounding,
    pub tokens: usize,
    /// Tokens that are the twin's own, given the answer before them.
    pub equal: usize,
    /// The most that a token lies below the twin's best, in logits.
    pub largest_shortfall: f64,
}

impl TwinCheck {
    /// Compares with the twin of the partition in `folder`, whose private part this needs.
    ///
    /// # Errors
    /// [`BadInput`] for a folder that is no such partition; a value that leaves its range.
    pub fn run(folder: &Path, answer: &Answer) -> anyhow::Result<Self> {
        let partition = Partition::open(folder).map_err(|error| BadInput(error.into()))?;
        let public = Arc::new(partition.public_weights()?);
        let private = Arc::new(partition.private_weights(&public)?);
        let rounding = public.spec.numeric.rounding;
        let mut twin = Twin::exact(public, private);
        anyhow::ensure!(
            answer.boundary.len() == answer.tokens.len(),
            "the answer came without its boundary rows"
        );
        let mut check = Self {
            rounding,
            tokens: answer.tokens.len(),
            equal: 0,
            largest_shortfall: 0.0,
        };
        for (step, (boundary, &token)) in answer.boundary.iter().zip(&answer.tokens).enumerate() {
            let best = if step == 0 {
                twin.prefill(boundary)?
            } else {
                twin.decode(boundary)?
            };
            check.equal += usize::from(best == token);
            let logits = twin.last_logits();
            let shortfall = f64::from(logits[best as usize] - logits[token as usize]);
            check.largest_shortfall = check.largest_shortfall.max(shortfall);
        }
        Ok(check)
    }

    /// Whether every token is the twin's; `None` where the session rounds stochastically, which
    /// promises less.
    pub fn is_equal(&self) -> Option<bool> {
        (self.rounding == Rounding::Exact).then_some(self.equal == self.tokens)
    }

    /// Equality, or where the session rounds stochastically, tokens that the exact twin finds
    /// nearly as good as its own.
    pub fn passes(&self) -> bool {
        self.is_equal()
            .unwrap_or(self.largest_shortfall <= NEAR_LOGITS)
    }

    /// One line for people.
    pub fn describe(&self) -> String {
        match self.is_equal() {
            Some(true) => "twin: every token is equal".into(),
            Some(false) => format!(
                "twin: tokens DIFFER, {} of {} are equal",
                self.equal, self.tokens
            ),
            None => format!(
                "exact twin: {} of {} tokens are equal, none is more than {:.4} logits below its \
                 best ({NEAR_LOGITS} pass)",
                self.equal, self.tokens, self.largest_shortfall
            ),
        }
    }
}
