//! ReLU, alone and with the truncation that follows it.
//!
//! # Functionality
//! [`Relu`]: additive shares of `relu(x)`. [`ReluTruncate`]: of `floor(relu(x) / 2^shift)` in the
//! same ring, never one off.
//!
//! # Construction
//! The sign bit and a multiplexer (CrypTFlow2, CCS '20, section 3.2). With a truncation one tree
//! gives both: the root of its lowest `shift` bits is the carry that a truncation needs, the root
//! of all its bits the sign. Only positive values matter, and of those the shares wrap exactly if
//! one of their top bits is set: one product of private bits instead of a comparison of the whole
//! width (SIRNN, S&P '21, section on known sign bits).
//!
//! # Security
//! A composition of comparison, conversion and multiplexer; nothing is opened.

mod capped;

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{Bits, Needs, OtError, Session, Source, transfer::together};

pub use self::capped::ReluCapped;
use crate::{
    Cost, at_first,
    compare::{
        Msb, Radix, carry_inputs, roots, top_bits,
        tree::{Plan, Segment},
    },
    convert::{BitProduct, Multiplex, ToRing},
};

/// `relu(x)` of signed values of `bits` bits.
#[derive(Debug, Clone, Copy)]
pub struct Relu {
    pub bits: u32,
    pub radix: Radix,
}

impl Relu {
    fn parts(&self) -> (Msb, Multiplex) {
        let Self { bits, radix } = *self;
        (Msb { bits, radix }, Multiplex { bits })
    }

    /// Additive shares of `relu(x)`.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        session.ensure(&self.needs(shares.len()))?;
        let (msb, multiplex) = self.parts();
        let negative = msb.run(session, shares)?;
        let positive = negated(session, negative);
        multiplex.run(session, &positive, shares)
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let (msb, multiplex) = self.parts();
        let mut needs = msb.needs(n);
        needs.merge(&multiplex.needs(n));
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let (msb, multiplex) = self.parts();
        msb.cost(n) + multiplex.cost(n)
    }
}

/// XOR shares of the opposite bit.
fn negated<C: Channel, S: Source>(session: &Session<C, S>, bits: Bits) -> Bits {
    let flipped = !&bits;
    at_first(session, flipped, bits)
}

/// `floor(relu(x) / 2^shift)`, for `shift` from 1 to `bits - 2`.
#[derive(Debug, Clone, Copy)]
pub struct ReluTruncate {
    pub bits: u32,
    pub shift: u32,
    pub radix: Radix,
}

impl ReluTruncate {
    fn plan(&self) -> Plan {
        let high = Segment::both(self.bits - 1 - self.shift);
        Plan::new(self.radix, &[Segment::greater(self.shift), high])
    }

    fn carry(&self) -> ToRing {
        ToRing { bits: self.bits }
    }

    fn wrap(&self) -> BitProduct {
        BitProduct { bits: self.shift }
    }

    /// Additive shares of the truncated ReLU.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let bits = self.bits;
        session.ensure(&self.needs(shares.len()))?;
        let low = carry_inputs(session, shares, bits - 1);
        let [low, high] = roots(session, &self.plan(), &low)?;
        let carry = low.greater.as_ref().expect("asked for");
        // The sign's last AND, the carry in the ring, and the product of both top bits.
        let top = top_bits(shares, bits);
        let carry_values = self.carry().values(carry);
        let top_values = self.carry().values(&top);
        let ands = [high.over(&low, false)];
        let mut list = self.carry().cots(session, carry, &carry_values);
        list.push(self.wrap().cot(session, &top, &top_values));
        let (mut products, ring) = together(session, "sign and carry", &ands, &list)?;
        let sign = high.combined(products.remove(0), false);
        let sign = &top ^ sign.greater.as_ref().expect("asked for");
        let carry = self.carry().finish(&carry_values, &ring[..1]);
        let truncated = self.truncated(shares, &carry, &ring[1]);
        let positive = negated(session, sign);
        Multiplex { bits }.run(session, &positive, &truncated)
    }

    /// Shares of `x >> shift`, where `x` is positive: both top bits' OR is the wrap.
    fn truncated(&self, shares: &[u64], carry: &[u64], product: &[u64]) -> Vec<u64> {
        let Self { bits, shift, .. } = *self;
        let of = |i: usize| {
            let wrap = (shares[i] >> (bits - 1)).wrapping_sub(product[i]);
            let high = (shares[i] >> shift).wrapping_add(carry[i]);
            high.wrapping_sub(wrap << (bits - shift)) & low_mask(bits)
        };
        (0..shares.len()).map(of).collect()
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = self.plan().needs(n);
        needs.add_triples(1, n);
        needs.merge(&self.carry().needs(n));
        needs.merge(&BitProduct::needs(n));
        needs.merge(&Multiplex { bits: self.bits }.needs(n));
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let mut cost = self.plan().cost(n);
        let carry = self.carry().message_bits();
        let wrap = self.wrap().message_bits();
        cost.exchange([0, 1].map(|party| n * (2 + carry[party] + wrap[party])));
        cost + Multiplex { bits: self.bits }.cost(n)
    }
}
