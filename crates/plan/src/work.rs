//! What a step gives its parties to do, in public amounts that a calibration prices.

use marill_mpc::{ProgramSpec, ProtocolError, cost::Cost};
use serde::{Deserialize, Serialize};

use crate::{
    count::{counted, counted_alone},
    network::Side,
};

/// The amounts of one step that its local time is taken to be linear in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Work {
    /// Times that both evaluators wait for a message.
    pub rounds: f64,
    /// Products of rows with public weights, updates of low rank and the output head.
    pub public_products: f64,
    /// Products of rows with weights that are private as a whole.
    pub private_products: f64,
    /// Bytes that are dealt and exchanged: what is looked up, truncated and compared goes with
    /// them.
    pub bytes: f64,
}

/// How many amounts there are.
pub const AMOUNTS: usize = 4;

impl Work {
    /// What `rows` rows behind `cached` keys ask of the evaluators, and what they cost.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] past the context.
    pub fn of(
        spec: &ProgramSpec,
        side: Side,
        cached: usize,
        rows: usize,
    ) -> Result<(Self, Cost), ProtocolError> {
        let cost = match side.dealt_comparison() {
            Some(comparison) => counted(spec, comparison, cached, rows)?,
            None => counted_alone(spec, cached, rows)?,
        };
        let dealt = cost.dealer_to_e0_bytes + cost.dealer_to_e1_bytes;
        let weights: usize = spec.maps().map(|map| map.len()).sum();
        let factors: usize = spec.maps().flat_map(|map| map.factor_lens()).sum();
        // One row of a step goes through the output head.
        let head = spec.vocab_size * spec.hidden_size;
        let private = if spec.is_full_rank() { weights } else { 0 };
        let public = weights - private + factors;
        let work = Self {
            rounds: cost.rounds as f64,
            public_products: (rows * public + head) as f64,
            private_products: (rows * private) as f64,
            bytes: (dealt + cost.e0_to_e1_bytes + cost.e1_to_e0_bytes) as f64,
        };
        Ok((work, cost))
    }

    /// The amounts in one order.
    #[must_use]
    pub fn amounts(&self) -> [f64; AMOUNTS] {
        [
            self.rounds,
            self.public_products,
            self.private_products,
            self.bytes,
        ]
    }
}
