//! A value cut in two: the index of a line, and the distance to where that line begins.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{Needs, Session, Source};

use crate::{Cost, Greater, Radix, Run, ToRing, compare::carry_inputs};

/// `floor(x / 2^low)` modulo `2^index`, and `x` modulo `2^low` in a ring of its own.
pub(super) struct Place {
    pub(super) low: u32,
    pub(super) index: u32,
    /// Of the distance.
    pub(super) ring: u32,
    pub(super) radix: Radix,
}

impl Place {
    fn carry(&self) -> (Greater, ToRing) {
        let greater = Greater {
            bits: self.low,
            radix: self.radix,
        };
        let bits = self.index.max(self.ring.saturating_sub(self.low));
        (greater, ToRing { bits })
    }

    /// Additive shares of index and distance.
    pub(super) fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Run<[Vec<u64>; 2]> {
        let low = self.low;
        let (greater, to_ring) = self.carry();
        let inputs = carry_inputs(session, shares, low);
        let carry = greater.run(session, &inputs)?;
        let carry = to_ring.run(session, &carry)?;
        let pairs = shares.iter().zip(&carry);
        let pairs = pairs.map(|(share, carry)| {
            let place = (share >> low).wrapping_add(*carry);
            let distance = (share & low_mask(low)).wrapping_sub(carry << low);
            (place & low_mask(self.index), distance & low_mask(self.ring))
        });
        let (index, distance) = pairs.unzip();
        Ok([index, distance])
    }

    pub(super) fn needs(&self, n: usize) -> Needs {
        let (greater, to_ring) = self.carry();
        let mut needs = greater.needs(n);
        needs.merge(&to_ring.needs(n));
        needs
    }

    pub(super) fn cost(&self, n: usize) -> Cost {
        let (greater, to_ring) = self.carry();
        greater.cost(n) + to_ring.cost(n)
    }
}
