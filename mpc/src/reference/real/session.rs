//! A whole session in real arithmetic, and its distance from the twin.

use std::sync::Arc;

use crate::{
    error::ProtocolResult,
    program,
    program::{
        cache::Cache,
        padding::{check_remaining_context, pad_prompt},
    },
    reference::real::Real,
    weights::{PrivateWeights, PublicWeights},
};

/// A session over reals.
pub struct RealTwin {
    weights: Arc<PublicWeights>,
    engine: Real,
    cache: Cache<Real>,
}

impl RealTwin {
    #[must_use]
    pub fn new(weights: Arc<PublicWeights>, private: Arc<PrivateWeights>) -> Self {
        let engine = Real::new(private, weights.spec.lora_rank);
        let cache = Cache::new(&weights.spec);
        Self {
            weights,
            engine,
            cache,
        }
    }

    /// Runs a prompt; returns what enters the output head, in units of activations.
    ///
    /// # Errors
    /// [`crate::ProtocolError::TooLong`] past the context.
    pub fn prefill(&mut self, boundary: &[u64]) -> ProtocolResult<Vec<f64>> {
        let (padded, bias, bucket) = pad_prompt(&self.weights.spec, boundary)?;
        self.step(&padded, Some(&bias), bucket)
    }

    /// Runs one more row.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, boundary: &[u64]) -> ProtocolResult<Vec<f64>> {
        self.step(boundary, None, 1)
    }

    fn step(
        &mut self,
        boundary: &[u64],
        bias: Option<&[u64]>,
        rows: usize,
    ) -> ProtocolResult<Vec<f64>> {
        check_remaining_context(&self.weights.spec, self.cache.len(), rows)?;
        program::step(
            &mut self.engine,
            &self.weights,
            &mut self.cache,
            Some(boundary),
            bias,
            rows,
        )?;
        let unit = f64::from(self.weights.spec.numeric.residual_frac_bits).exp2();
        Ok(self.engine.last_input.iter().map(|v| v / unit).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Twin,
        random_model::{gaussian, random_weights, tiny_spec},
    };

    #[test]
    fn the_twin_is_close_to_the_reals_and_not_equal() {
        let (public, private) = random_weights(&tiny_spec(), 9);
        let spec = public.spec.clone();
        let row = |seed, n: usize| {
            spec.encode(&gaussian(seed, "row", n * spec.hidden_size, 1.0))
                .unwrap()
        };
        let prompt = row(1, 9);
        let next = row(2, 1);
        let mut twin = Twin::new(public.clone(), private.clone());
        let mut real = RealTwin::new(public, private);
        let mut worst = 0f64;
        twin.prefill(&prompt).unwrap();
        let mut compare = |twin: &Twin, real: Vec<f64>| {
            for (a, b) in twin.last_hidden().iter().zip(real) {
                worst = worst.max((a - b).abs());
            }
        };
        compare(&twin, real.prefill(&prompt).unwrap());
        twin.decode(&next).unwrap();
        compare(&twin, real.decode(&next).unwrap());
        assert!(worst > 0.0 && worst < 2e-3, "{worst}");
    }
}
