//! Sigmoid and hyperbolic tangent of signed numbers.
//!
//! # Functionality
//! Of `x`, shared modulo `2^bits` and signed at `scale`: additive shares of `f(x)` at `out_scale`
//! modulo `2^out_bits`. The integer program is [`CurveTables`]: lines over intervals of equal width
//! and constant tails. Within 1 unit (sigmoid) and 2 (tangent) of the floor of the exact value, for
//! 16 bits and scales from 8 to 14; SIRNN's programs are within 3 and 4.
//!
//! # Construction
//! SIRNN, S&P '21, section V-C, computes an exponential of the absolute value, a reciprocal by
//! Goldschmidt's iteration and a product. A line costs less: the value's high bits are its index,
//! in the rounds of one comparison; value and slope are looked up with one one-hot vector and stay
//! shared by XOR; the slope's bits choose the distance while the value moves to the ring, in one
//! round ([`super::line`]); then one truncation. Where numbers go beyond the lines, [`Digits`] says
//! so and of which sign they are, in the same rounds, and a multiplexer takes the tail.
//!
//! # Cost
//! Sigmoid 16.12: 145 bytes and the extension's, 14 rounds, and 6 for the one-hot vectors; tangent
//! 172 bytes, 13 rounds and 7.
//!
//! # Security
//! What is opened is an index under a random one; the rest is a composition.

use marill_net::Channel;
use marill_numeric::{
    fixed::low_mask,
    integer::{CurveTables, Shape},
};
use marill_ot::{
    Needs, OtError, Session, Source,
    transfer::{And, and},
};

use super::{Function, Prepared, line::Line, place::Place};
use crate::{
    Bits, Cost, Digits, Multiplex, Radix, Run, ToRing, TruncateReduce, at_first,
    convert::words::{round, total},
    lookup::{Index, Query, Table, words, words_cost},
};

/// Sigmoid or tangent of signed numbers.
#[derive(Debug, Clone)]
pub struct Curve {
    tables: CurveTables,
    out_bits: u32,
    radix: Radix,
}

/// Where on the lines a number is.
struct Spot {
    index: Vec<u64>,
    distance: Vec<u64>,
    /// Whether it is on a line, and whether it is above all of them.
    clipped: Option<[Bits; 2]>,
}

impl Curve {
    /// Numbers of `bits` bits at `scale`, results of `out_bits` at `out_scale`.
    ///
    /// # Panics
    /// When the integer program has no such scales ([`CurveTables::new`]), or a line does not fit
    /// 64 bits or one not the result.
    #[must_use]
    pub fn new(
        shape: Shape,
        (bits, scale): (u32, u32),
        (out_bits, out_scale): (u32, u32),
        radix: Radix,
    ) -> Self {
        let tables = CurveTables::new(shape, bits, scale, out_scale);
        assert!(
            tables.span() < out_bits && out_bits + tables.frac <= 64,
            "results of {out_bits} bits at scale {out_scale}"
        );
        Self {
            tables,
            out_bits,
            radix,
        }
    }

    /// The integer program.
    #[must_use]
    pub fn tables(&self) -> &CurveTables {
        &self.tables
    }

    fn ring(&self) -> u32 {
        self.out_bits + self.tables.frac
    }

    fn line(&self) -> Line {
        Line {
            widths: self.tables.widths(),
            ring: self.ring(),
            falls: false,
        }
    }

    /// The place on the lines, where all numbers are on one.
    fn inside(&self) -> Place {
        Place {
            low: self.tables.low,
            index: self.tables.index,
            ring: self.ring(),
            radix: self.radix,
        }
    }

    /// The place on the lines, where there is more beside them.
    fn digits(&self) -> Digits {
        let CurveTables {
            bits,
            low,
            index,
            start,
            ..
        } = self.tables;
        Digits {
            bits,
            low,
            index,
            to: self.ring(),
            // Of the number as it came.
            sign: Some(start.wrapping_neg() & low_mask(bits)),
            radix: self.radix,
        }
    }

    /// The upper tail, as a multiple of the tails' distance.
    fn tail(&self) -> ToRing {
        let bits = self.out_bits - self.tables.span();
        ToRing { bits }
    }

    fn cut(&self) -> TruncateReduce {
        TruncateReduce {
            bits: self.ring(),
            shift: self.tables.frac,
            radix: self.radix,
        }
    }

    fn choice(&self) -> Multiplex {
        let bits = self.out_bits;
        Multiplex { bits }
    }

    fn entries(&self) -> [Table<'_>; 2] {
        let [value, slope] = self.tables.widths();
        let table = |entries, out_bits| Table { entries, out_bits };
        [
            table(&self.tables.value[..], value),
            table(&self.tables.slope[..], slope),
        ]
    }

    fn place<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Run<Spot> {
        let bits = self.tables.bits;
        let start = at_first(session, self.tables.start, 0);
        let moved = shares.iter().map(|share| share.wrapping_add(start));
        let moved: Vec<u64> = moved.map(|share| share & low_mask(bits)).collect();
        if !self.tables.clips() {
            let [index, distance] = self.inside().run(session, &moved)?;
            return Ok(Spot {
                index,
                distance,
                clipped: None,
            });
        }
        let parts = self.digits().run(session, &moved)?;
        let not = |bits: &Bits| at_first(session, !bits, bits.clone());
        let outside = not(&parts.inside);
        let positive = not(parts.negative.as_ref().expect("asked for"));
        let above = And {
            bit: &outside,
            string: vec![&positive],
        };
        let above = and(session, "tail", &[above])?.remove(0).remove(0);
        Ok(Spot {
            index: parts.index,
            distance: parts.distance,
            clipped: Some([parts.inside, above]),
        })
    }
}

impl Function for Curve {
    type Inputs<'a> = &'a [u64];

    fn index_widths(&self) -> Vec<u32> {
        vec![self.tables.index]
    }

    fn run_with<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
        material: Prepared,
    ) -> Result<Vec<u64>, OtError> {
        let place = self.place(session, shares)?;
        let tables = self.entries();
        let query = Query {
            index: Index::Sum(&place.index),
            tables: &tables,
            one_hots: material.of(shares.len()).remove(0),
        };
        let entries = words(session, vec![query])?.remove(0);
        let above = place.clipped.iter().map(|[_, above]| (self.tail(), above));
        let above: Vec<(ToRing, &Bits)> = above.collect();
        let (lines, tails) = self
            .line()
            .run(session, &entries, &place.distance, &above)?;
        let mut out = self.cut().run(session, &lines)?;
        if let Some([inside, _]) = &place.clipped {
            out = self.choice().run(session, inside, &out)?;
            for (out, tail) in out.iter_mut().zip(&tails[0]) {
                *out = out.wrapping_add(tail << self.tables.span());
            }
        }
        let bias = at_first(session, self.tables.bias(), 0);
        out.iter_mut()
            .for_each(|out| *out = out.wrapping_sub(bias) & low_mask(self.out_bits));
        Ok(out)
    }

    fn online_needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        if self.tables.clips() {
            needs.merge(&self.digits().needs(n));
            needs.add_triples(1, n);
            needs.merge(&self.tail().needs(n));
            needs.merge(&self.choice().needs(n));
        } else {
            needs.merge(&self.inside().needs(n));
        }
        needs.merge(&self.line().needs(n));
        needs.merge(&self.cut().needs(n));
        needs
    }

    fn cost(&self, n: usize) -> Cost {
        let index = words_cost(&[self.tables.index], n);
        let line = self.line().bits();
        if !self.tables.clips() {
            let place = self.inside().cost(n);
            return place + index + round([line], n) + self.cut().cost(n);
        }
        let mut place = self.digits().cost(n);
        place.exchange([2 * n; 2]);
        let line = total([line, self.tail().message_bits()]);
        place + index + round([line], n) + self.cut().cost(n) + self.choice().cost(n)
    }
}
