//! Extension of a value to a wider ring.
//!
//! # Functionality
//! Of `x`, shared modulo `2^from`: additive shares modulo `2^to` of the same integer, read as
//! [`Reading`] says. [`marill_numeric::integer::extend`].
//!
//! # Construction
//! SIRNN, S&P '21, section III-B: `x = x_0 + x_1 - w·2^from`, so that the shares of the wrap `w` in
//! `to - from` bits are all that is missing. `w` is a comparison of `from` bits and a conversion;
//! a signed value is moved by `2^(from-1)` before and back after. Where the top bit is known to be
//! zero the wrap is the OR of both top bits, one product of private bits (there one of four
//! messages).
//!
//! # Cost
//! A comparison of `from` bits and `to - from` bits; of a value that is not negative `to - from +
//! 1` bits in one round.
//!
//! # Security
//! A composition of comparison and conversion; nothing is opened.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    Needs, OtError, Session, Source,
    transfer::{Cot, cots},
};

use crate::{
    Cost, Greater, Radix, at_first,
    compare::{carry_inputs, top_bits},
    convert::{BitProduct, ToRing},
};

/// What a value of so many bits stands for, and what both parties know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// Any value, not negative.
    Unsigned,
    /// Two's complement.
    Signed,
    /// The top bit is zero.
    NotNegative,
}

impl Reading {
    /// Whether wraps take a comparison.
    pub(crate) fn compares(self) -> bool {
        self != Self::NotNegative
    }

    /// What makes a value of so many bits not negative.
    pub(crate) fn bias(self, bits: u32) -> u64 {
        match self {
            Self::Signed => 1 << (bits - 1),
            _ => 0,
        }
    }

    /// Shares of the value plus its bias, modulo `2^bits`.
    pub(crate) fn moved<C: Channel, S: Source>(
        self,
        session: &Session<C, S>,
        shares: &[u64],
        bits: u32,
    ) -> Vec<u64> {
        let bias = at_first(session, self.bias(bits), 0);
        let moved = shares.iter().map(|share| share.wrapping_add(bias));
        moved.map(|share| share & low_mask(bits)).collect()
    }
}

/// The same integer in a ring of `to` bits, at least `from`.
#[derive(Debug, Clone, Copy)]
pub struct Extend {
    pub from: u32,
    pub to: u32,
    pub reading: Reading,
    pub radix: Radix,
}

impl Extend {
    fn more(&self) -> u32 {
        self.to - self.from
    }

    fn wrap(&self) -> (Greater, ToRing) {
        let greater = Greater {
            bits: self.from,
            radix: self.radix,
        };
        (greater, ToRing { bits: self.more() })
    }

    /// Additive shares modulo `2^to`.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When `to` is below `from` or above 64.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let Self { from, to, .. } = *self;
        assert!(
            from > 0 && from <= to && to <= 64,
            "from {from} bits to {to}"
        );
        if from == to {
            return Ok(shares.to_vec());
        }
        session.ensure(&self.needs(shares.len()))?;
        let moved = self.reading.moved(session, shares, from);
        let wrap = if self.reading.compares() {
            let (greater, to_ring) = self.wrap();
            let inputs = carry_inputs(session, &moved, from);
            let wrap = greater.run(session, &inputs)?;
            to_ring.run(session, &wrap)?
        } else {
            let top = top_bits(&moved, from);
            let values = self.wrap().1.values(&top);
            let either = self.either(session, &top, &values);
            let products = cots(session, "wrap", &[either])?;
            or(&values, &products[0])
        };
        Ok(self.finished(session, &moved, &wrap))
    }

    /// The product of both top bits, of a value that is not negative.
    pub(crate) fn either<'a, C: Channel, S: Source>(
        &self,
        session: &Session<C, S>,
        top: &'a marill_ot::Bits,
        values: &'a [u64],
    ) -> Cot<'a> {
        let bits = self.more();
        BitProduct { bits }.cot(session, top, values)
    }

    /// `x_b - 2^from·w_b`, and the bias taken off.
    pub(crate) fn finished<C: Channel, S: Source>(
        &self,
        session: &Session<C, S>,
        moved: &[u64],
        wrap: &[u64],
    ) -> Vec<u64> {
        let bias = at_first(session, self.reading.bias(self.from), 0);
        let pairs = moved.iter().zip(wrap);
        pairs
            .map(|(share, wrap)| {
                let whole = share.wrapping_sub(wrap << self.from);
                whole.wrapping_sub(bias) & low_mask(self.to)
            })
            .collect()
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        if self.from == self.to {
            return Needs::none();
        }
        if !self.reading.compares() {
            return BitProduct::needs(n);
        }
        let (greater, to_ring) = self.wrap();
        let mut needs = greater.needs(n);
        needs.merge(&to_ring.needs(n));
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        if self.from == self.to {
            return Cost::none();
        }
        if self.reading.compares() {
            let (greater, to_ring) = self.wrap();
            return greater.cost(n) + to_ring.cost(n);
        }
        let either = BitProduct { bits: self.more() };
        let mut cost = Cost::none();
        cost.exchange(either.message_bits().map(|bits| n * bits));
        cost
    }
}

/// Shares of `a ∨ b` of each party's own bit, given shares of `a·b`.
pub(crate) fn or(own: &[u64], products: &[u64]) -> Vec<u64> {
    let pairs = own.iter().zip(products);
    pairs
        .map(|(own, product)| own.wrapping_sub(*product))
        .collect()
}
