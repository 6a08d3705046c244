//! ReLU with a cap: ReLU6 where the cap is six.
//!
//! # Functionality
//! Additive shares of `min(relu(x), cap)`, of any signed `x`.
//! [`marill_numeric::integer::relu_capped`].
//!
//! # Construction
//! CrypTFlow2, CCS '20, on ReLU6: the signs of `x` and of `x - cap`, compared at once. Both bits'
//! AND says whether the cap is reached: where `x` is negative, `x - cap` may have wrapped. Then
//! `x` is multiplexed by the difference of both bits, and the cap by a conversion, in one round
//! (there two multiplexers).
//!
//! # Security
//! A composition of comparison, AND, conversion and multiplexer; nothing is opened.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    Needs, OtError, Session, Source,
    transfer::{And, and},
};

use super::negated;
use crate::{
    Comparisons, Cost, Multiplex, Radix, ToRing, at_first,
    compare::{carry_inputs, top_bits},
    conversions, conversions_cost,
};

/// `min(relu(x), cap)`, for a positive cap below `2^(bits-1)`.
#[derive(Debug, Clone, Copy)]
pub struct ReluCapped {
    pub bits: u32,
    pub cap: u64,
    pub radix: Radix,
}

impl ReluCapped {
    fn comparisons(&self) -> Comparisons {
        Comparisons {
            widths: vec![self.bits - 1; 2],
            radix: self.radix,
        }
    }

    fn choices(&self) -> (ToRing, Multiplex) {
        let bits = self.bits;
        (ToRing { bits }, Multiplex { bits })
    }

    /// Additive shares of the capped ReLU.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When the cap is not positive.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let Self { bits, cap, .. } = *self;
        assert!(
            (3..=64).contains(&bits) && (1..1 << (bits - 1)).contains(&cap),
            "a cap of {cap} in {bits} bits"
        );
        session.ensure(&self.needs(shares.len()))?;
        let mask = low_mask(bits);
        let own = at_first(session, cap, 0);
        let less = shares.iter().map(|share| share.wrapping_sub(own) & mask);
        let less: Vec<u64> = less.collect();
        let sides = [shares, &less];
        let inputs = sides.map(|shares| carry_inputs(session, shares, bits - 1));
        let carries = self.comparisons().run(session, &inputs)?;
        let not_negative = |side: usize| {
            let sign = &top_bits(sides[side], bits) ^ &carries[side];
            negated(session, sign)
        };
        let positive = not_negative(0);
        let reached = not_negative(1);
        let both = And {
            bit: &positive,
            string: vec![&reached],
        };
        let capped = and(session, "cap", &[both])?.remove(0).remove(0);
        let between = &positive ^ &capped;
        let (to_ring, multiplex) = self.choices();
        let list = [(multiplex, &between, shares)];
        let [caps, values] = conversions(session, &[(to_ring, &capped)], &list)?;
        let pairs = values[0].iter().zip(&caps[0]);
        Ok(pairs
            .map(|(value, capped)| value.wrapping_add(capped.wrapping_mul(cap)) & mask)
            .collect())
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let (to_ring, multiplex) = self.choices();
        let mut needs = self.comparisons().needs(n);
        needs.add_triples(1, n);
        needs.merge(&to_ring.needs(n));
        needs.merge(&multiplex.needs(n));
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let (to_ring, multiplex) = self.choices();
        let mut cost = self.comparisons().cost(n);
        cost.exchange([2 * n; 2]);
        cost + conversions_cost(&[(to_ring, n)], &[(multiplex, n)])
    }
}
