//! How far a prompt is that is being computed: bytes so far, and what the tally says they will be.

use std::sync::Arc;

use marill_mpc::{
    Comparison, ProtocolError, Selection, cost::Cost, masked::prepared_bytes, tally_with,
};
use marill_net::Meter;
use marill_plan::count::counted_alone;

use crate::client::Client;

/// What the cost of a prompt depends on; all of it is public.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepShape {
    /// Positions behind which it is computed.
    pub cached: usize,
    /// Rows, with those that fill a bucket.
    pub rows: usize,
    pub comparison: Comparison,
    pub selection: Selection,
}

/// What the step of a prompt has sent and received so far, for any thread to look at.
#[derive(Clone)]
pub struct StepProgress {
    pub shape: StepShape,
    meter: Arc<Meter>,
    /// Bytes of the session before this step.
    before: u64,
}

/// Payload bytes in both directions.
fn total(meter: &Meter) -> u64 {
    meter.bytes_sent() + meter.bytes_received()
}

impl StepProgress {
    /// Of a step that is about to begin.
    pub(super) fn begin(shape: StepShape, meter: Arc<Meter>) -> Self {
        let before = total(&meter);
        Self {
            shape,
            meter,
            before,
        }
    }

    /// Payload bytes between this client and the evaluators since the step began, later steps
    /// included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        total(&self.meter) - self.before
    }
}

impl Client {
    /// Rounds and bytes that a prompt's step takes, counted over shapes. In the setting `2pc` an
    /// estimate, which leaves out what a first session sets up. None where this client computes
    /// nothing: its own messages are few, and say nothing of how far the evaluators are.
    ///
    /// # Errors
    /// As [`tally_with`].
    pub fn tallied(&self, shape: StepShape) -> Result<Option<Cost>, ProtocolError> {
        let StepShape {
            cached,
            rows,
            comparison,
            selection,
        } = shape;
        if self.parameters.is_shared() {
            return Ok(None);
        }
        if self.parameters.is_two_party() {
            return counted_alone(&self.spec, cached, rows).map(Some);
        }
        let products = self.parameters.private_products;
        let step = |cached, rows| {
            let ways = (comparison, products);
            let mut cost = tally_with(&self.spec, ways, selection, [cached, rows])?;
            // Of several rows; single ones take what was prepared for several tokens.
            if !products.is_masks() && rows > 1 {
                cost.e0_to_e1_bytes += prepared_bytes(&self.spec, rows, 1)?;
            }
            Ok::<_, ProtocolError>(cost)
        };
        // The first row of a further turn is a step of its own.
        let first = match cached {
            0 => Cost::default(),
            _ => step(cached, 1)?,
        };
        let alone = usize::from(cached > 0);
        let rest = match rows - alone {
            0 => Cost::default(),
            rest => step(cached + alone, rest)?,
        };
        Ok(Some(first + rest))
    }
}
