//! Truncation: to a smaller ring, or as an arithmetic shift in the same one. Faithful: the output
//! is `floor(x / 2^shift)`, always.
//!
//! # Construction
//! `x = x_0 + x_1 - wrap·2^bits`, so `floor(x / 2^s) = (x_0 >> s) + (x_1 >> s) + carry -
//! wrap·2^(bits-s)`, `carry` the one out of the low `s` bits. [`TruncateReduce`] keeps `bits - s`
//! bits, in which the wrap vanishes: a comparison of `s` bits and a conversion (SIRNN, S&P '21,
//! section III, truncate-and-reduce). [`Shift`] needs the wrap in `s` bits. Where the sign is known
//! publicly it is a product of the shares' top bits; else one tree gives both carries, of the low
//! `s` bits and of all bits of `x + 2^(bits-1)` (there two comparisons).
//!
//! [`local_truncate_reduce`] leaves the carry out: no message, no round. Its ideal functionality
//! takes `x`, draws `u` uniformly below `2^s`, gives `u` to E0 and `x - u` modulo `2^s` to E1, and
//! shares of `floor((x - u) / 2^s)` to both: each party knows the low bits of its own share, by
//! which the result is rounded. That is `floor(x / 2^s)`, or one less where `u` is above `x` modulo
//! `2^s`; its mean is `x / 2^s - (1 - 2^-s)/2`.
//!
//! # Security
//! A composition of comparison and conversion; nothing is opened.

mod bounded;

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{Needs, OtError, Session, Source, transfer::together};

pub use self::bounded::Truncate;
use crate::{
    Cost, Greater, at_first,
    compare::{
        Radix, carry_inputs, roots, top_bits,
        tree::{Plan, Segment},
    },
    convert::{BitProduct, ToRing},
};

/// `floor(x / 2^shift)` in the ring of `bits - shift` bits, for `shift` from 1 to `bits - 1`.
#[derive(Debug, Clone, Copy)]
pub struct TruncateReduce {
    pub bits: u32,
    pub shift: u32,
    pub radix: Radix,
}

impl TruncateReduce {
    fn parts(&self) -> (Greater, ToRing) {
        let carry = Greater {
            bits: self.shift,
            radix: self.radix,
        };
        let bits = self.bits - self.shift;
        (carry, ToRing { bits })
    }

    /// Additive shares modulo `2^(bits-shift)`.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When nothing is shifted out, or everything is.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        check(self.bits, self.shift);
        session.ensure(&self.needs(shares.len()))?;
        let (greater, to_ring) = self.parts();
        let low = carry_inputs(session, shares, self.shift);
        let carry = greater.run(session, &low)?;
        let carry = to_ring.run(session, &carry)?;
        let mask = low_mask(self.bits - self.shift);
        let sums = shares.iter().zip(carry);
        Ok(sums
            .map(|(share, carry)| (share >> self.shift).wrapping_add(carry) & mask)
            .collect())
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let (greater, to_ring) = self.parts();
        let mut needs = greater.needs(n);
        needs.merge(&to_ring.needs(n));
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let (greater, to_ring) = self.parts();
        greater.cost(n) + to_ring.cost(n)
    }
}

/// Shares of `floor(x / 2^shift)` or one less modulo `2^(bits-shift)`, without a message.
#[must_use]
pub fn local_truncate_reduce(shares: &[u64], bits: u32, shift: u32) -> Vec<u64> {
    let mask = low_mask(bits - shift);
    shares.iter().map(|share| (share >> shift) & mask).collect()
}

/// What both parties know of the signs of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    Unknown,
    NotNegative,
    Negative,
}

/// `floor(x / 2^shift)` of signed values in the same ring, for `shift` from 1 to `bits - 1`.
#[derive(Debug, Clone, Copy)]
pub struct Shift {
    pub bits: u32,
    pub shift: u32,
    pub sign: Sign,
    pub radix: Radix,
}

impl Shift {
    fn plan(&self) -> Plan {
        let low = Segment::greater(self.shift);
        match self.sign {
            Sign::Unknown => {
                let high = Segment::both(self.bits - self.shift);
                Plan::new(self.radix, &[low, high])
            }
            _ => Plan::new(self.radix, &[low]),
        }
    }

    fn carry(&self) -> ToRing {
        ToRing { bits: self.bits }
    }

    /// The wrap, as it is needed: in `shift` bits.
    fn wrap(&self) -> ToRing {
        ToRing { bits: self.shift }
    }

    fn product(&self) -> BitProduct {
        BitProduct { bits: self.shift }
    }

    /// Additive shares of the shifted values.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When nothing is shifted out, or everything is.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        check(self.bits, self.shift);
        session.ensure(&self.needs(shares.len()))?;
        match self.sign {
            Sign::Unknown => self.of_any_sign(session, shares),
            _ => self.of_known_sign(session, shares),
        }
    }

    fn of_any_sign<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let Self { bits, shift, .. } = *self;
        // Signed order as unsigned order.
        let bias = at_first(session, 1 << (bits - 1), 0);
        let moved = shares
            .iter()
            .map(|share| share.wrapping_add(bias) & low_mask(bits));
        let moved: Vec<u64> = moved.collect();
        let whole = carry_inputs(session, &moved, bits);
        let [low, high] = roots(session, &self.plan(), &whole)?;
        let carry = low.greater.as_ref().expect("asked for");
        let carry_values = self.carry().values(carry);
        let ands = [high.over(&low, false)];
        let list = self.carry().cots(session, carry, &carry_values);
        let (mut products, ring) = together(session, "carry and wrap", &ands, &list)?;
        let wrap = high.combined(products.remove(0), false);
        let wrap = self
            .wrap()
            .run(session, &wrap.greater.expect("asked for"))?;
        let carry = self.carry().finish(&carry_values, &ring);
        let unbias = at_first(session, 1 << (bits - 1 - shift), 0);
        Ok(self.finished(&moved, &carry, &wrap, unbias))
    }

    fn of_known_sign<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let Self { bits, shift, .. } = *self;
        let low = carry_inputs(session, shares, shift);
        let carry = self.plan().run(session, &low)?.remove(0);
        let carry = carry.greater.expect("asked for");
        let top = top_bits(shares, bits);
        let carry_values = self.carry().values(&carry);
        let top_values = self.carry().values(&top);
        let mut list = self.carry().cots(session, &carry, &carry_values);
        list.push(self.product().cot(session, &top, &top_values));
        let (_, ring) = together(session, "carry and wrap", &[], &list)?;
        let carry = self.carry().finish(&carry_values, &ring[..1]);
        // The shares wrap if one top bit is set; below zero, if both are.
        let not_negative = self.sign == Sign::NotNegative;
        let wrap = top_values.iter().zip(&ring[1]);
        let wrap: Vec<u64> = wrap
            .map(|(top, both)| {
                if not_negative {
                    top.wrapping_sub(*both)
                } else {
                    *both
                }
            })
            .collect();
        let sign = at_first(session, u64::from(!not_negative), 0);
        Ok(self.finished(shares, &carry, &wrap, sign << (bits - shift)))
    }

    /// `(x_b >> shift) + carry - wrap·2^(bits-shift) - constant`.
    fn finished(&self, shares: &[u64], carry: &[u64], wrap: &[u64], constant: u64) -> Vec<u64> {
        let Self { bits, shift, .. } = *self;
        let of = |i: usize| {
            let high = (shares[i] >> shift).wrapping_add(carry[i]);
            let wrapped = wrap[i] << (bits - shift);
            high.wrapping_sub(wrapped).wrapping_sub(constant) & low_mask(bits)
        };
        (0..shares.len()).map(of).collect()
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = self.plan().needs(n);
        needs.merge(&self.carry().needs(n));
        match self.sign {
            Sign::Unknown => {
                needs.add_triples(1, n);
                needs.merge(&self.wrap().needs(n));
            }
            _ => needs.merge(&BitProduct::needs(n)),
        }
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let mut cost = self.plan().cost(n);
        let carry = self.carry().message_bits();
        match self.sign {
            Sign::Unknown => {
                cost.exchange(carry.map(|bits| n * (bits + 2)));
                cost += self.wrap().cost(n);
            }
            _ => {
                let wrap = self.product().message_bits();
                cost.exchange([0, 1].map(|party| n * (carry[party] + wrap[party])));
            }
        }
        cost
    }
}

/// # Panics
/// When nothing is shifted out, or everything is.
fn check(bits: u32, shift: u32) {
    assert!(
        (1..bits).contains(&shift),
        "a shift of 1 to {}, not {shift}",
        bits - 1
    );
}
