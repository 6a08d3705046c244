//! A value cut into what looks a table up: its index, the distance to the entry, and whether there
//! is an entry.
//!
//! # Functionality
//! Of `x`, shared modulo `2^bits`: additive shares of `floor(x / 2^low)` modulo `2^index` and of
//! `x` modulo `2^low`, XOR shares of whether everything above is zero; if asked for, XOR shares of
//! the sign bit of `x` plus a public offset.
//!
//! # Construction
//! Digit decomposition (SIRNN, S&P '21, section III), where a digit waits for the carry of the one
//! below. Here all parts are compared at once, in one tree each: the low bits give their carry,
//! those of the index a carry of their own and whether they pass one on, and what is above is
//! compared for both carries into it: `h_0 + h_1 + c` is zero where `h_0 = -h_1 - c`. An AND then
//! gives `c`, another one chooses. Both travel with the levels of the sign's tree.
//!
//! # Cost
//! Rounds: `4 + ⌈log2 q⌉` for `q` digits of the longest part, or the sign's comparison where that
//! is longer.
//!
//! # Security
//! A composition of comparison and conversion; nothing is opened.

mod decompose;

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{Bits, Needs, OtError, Session, Source, transfer::And};

pub use self::decompose::Decompose;
use crate::{
    Cost, at_first,
    compare::{
        Radix, carry_inputs, top_bits,
        tree::{Plan, Segment},
    },
    convert::ToRing,
};

/// Segments of the value itself: low, index, and above for a carry into it and for none.
const PARTS: usize = 4;

/// How a value of `bits` bits is cut. `low`, `index` and what is above have a bit at least.
#[derive(Debug, Clone, Copy)]
pub struct Digits {
    pub bits: u32,
    pub low: u32,
    pub index: u32,
    /// The distance is shared modulo `2^to`, which may be `2^low`.
    pub to: u32,
    /// What is added to a value before its sign bit is taken; `None` where no sign is wanted.
    pub sign: Option<u64>,
    pub radix: Radix,
}

/// Shares of a value's parts.
pub struct Parts {
    /// `floor(x / 2^low)` modulo `2^index`, additive.
    pub index: Vec<u64>,
    /// `x` modulo `2^low`, additive modulo `2^to`.
    pub distance: Vec<u64>,
    /// Whether both parties' shares, modulo `2^low`, add up to `2^low` or more.
    pub wrap: Bits,
    /// Whether nothing is set above the index.
    pub inside: Bits,
    /// The sign bit of the value plus the offset.
    pub negative: Option<Bits>,
}

impl Digits {
    fn above(&self) -> u32 {
        self.bits - self.low - self.index
    }

    fn plan(&self) -> Plan {
        let above = Segment::equal(self.above());
        let middle = Segment::both(self.index);
        let mut segments = vec![Segment::greater(self.low), middle, above, above];
        segments.extend(self.sign.map(|_| Segment::greater(self.bits - 1)));
        Plan::new(self.radix, &segments)
    }

    /// The low bits' carry, as the index and as the distance need it.
    fn carry(&self) -> ToRing {
        let bits = self.index.max(self.to.saturating_sub(self.low));
        ToRing { bits }
    }

    /// Additive and XOR shares of the parts.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When a part has no bit.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Parts, OtError> {
        assert!(
            self.bits <= 64 && self.low > 0 && self.index > 0 && self.low + self.index < self.bits,
            "{} bits cut at {} and {} more",
            self.bits,
            self.low,
            self.index
        );
        session.ensure(&self.needs(shares.len()))?;
        let plan = self.plan();
        let (planes, top) = self.planes(session, shares);
        let mut trees = plan.leaves(session, &planes)?;
        for _ in 0..plan.depth(PARTS) {
            plan.level(session, &mut trees, Vec::new(), &[])?;
        }
        let [low, middle, carried, plain] = [0, 1, 2, 3].map(|part| trees[part][0].clone());
        // The carry into what is above, and the low bits' in the ring.
        let carry = low.greater.as_ref().expect("asked for");
        let values = self.carry().values(carry);
        let ands = vec![middle.over(&low, false)];
        let list = self.carry().cots(session, carry, &values);
        let (mut products, ring) = plan.level(session, &mut trees, ands, &list)?;
        let into = middle.combined(products.remove(0), false).greater;
        let carry = self.carry().finish(&values, &ring);
        // The comparison that this carry chooses.
        let plain = plain.equal.expect("asked for");
        let change = &plain ^ carried.equal.as_ref().expect("asked for");
        let choice = And {
            bit: into.as_ref().expect("asked for"),
            string: vec![&change],
        };
        let (products, _) = plan.level(session, &mut trees, vec![choice], &[])?;
        while trees.iter().any(|tree| tree.len() > 1) {
            plan.level(session, &mut trees, Vec::new(), &[])?;
        }
        let sign = trees.get(PARTS).and_then(|tree| tree[0].greater.as_ref());
        let (index, distance) = self.finished(shares, &carry);
        Ok(Parts {
            index,
            distance,
            wrap: low.greater.expect("asked for"),
            inside: &plain ^ &products[0][0],
            negative: sign.map(|carry| &top ^ carry),
        })
    }

    /// What the segments compare, bit by bit, and the top bits of what has the sign.
    fn planes<C: Channel, S: Source>(
        &self,
        session: &Session<C, S>,
        shares: &[u64],
    ) -> (Vec<Bits>, Bits) {
        let bits = self.bits;
        let mut planes = Bits::planes(&carry_inputs(session, shares, bits), bits);
        // h_0 = -h_1 where no carry comes in.
        let mask = low_mask(self.above());
        let sign = at_first(session, 1, u64::MAX);
        let above = shares.iter().map(|share| {
            let above = (share & low_mask(bits)) >> (self.low + self.index);
            above.wrapping_mul(sign) & mask
        });
        planes.extend(Bits::planes(&above.collect::<Vec<_>>(), self.above()));
        let Some(offset) = self.sign else {
            return (planes, Bits::zeros(shares.len()));
        };
        let offset = at_first(session, offset, 0);
        let moved = shares.iter().map(|share| share.wrapping_add(offset));
        let moved: Vec<u64> = moved.collect();
        let carries = carry_inputs(session, &moved, bits - 1);
        planes.extend(Bits::planes(&carries, bits - 1));
        (planes, top_bits(&moved, bits))
    }

    /// `(x_b >> low) + carry`, and `x_b mod 2^low - carry·2^low`.
    fn finished(&self, shares: &[u64], carry: &[u64]) -> (Vec<u64>, Vec<u64>) {
        let low = self.low;
        let pairs = shares.iter().zip(carry);
        pairs
            .map(|(share, carry)| {
                let index = (share >> low).wrapping_add(*carry);
                let distance = (share & low_mask(low)).wrapping_sub(carry << low);
                (index & low_mask(self.index), distance & low_mask(self.to))
            })
            .unzip()
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = self.plan().needs(n);
        // The carry, and the choice by it.
        needs.add_triples(1, 2 * n);
        needs.merge(&self.carry().needs(n));
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let plan = self.plan();
        let carry = self.carry().message_bits();
        let more = [carry.map(|bits| bits + 2), [2, 2]];
        plan.cost_with(n, plan.depth(PARTS), &more)
    }
}
