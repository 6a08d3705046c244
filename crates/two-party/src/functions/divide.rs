//! Division of a signed number by a positive one, both secret.
//!
//! # Functionality
//! Of `a` and `b`, shared modulo `2^bits`, `a` signed and the top bit of `b` zero: additive shares
//! of `a/b` at `out_scale` modulo `2^out_bits`. The integer program is [`DivisionTables`], within 1
//! unit of the floor of the exact quotient for 16 bits at scale 14 wherever that fits; SIRNN's is
//! within 5. A division by zero gives zero.
//!
//! # Construction
//! As SIRNN, S&P '21, section V-B, without Goldschmidt's iteration. The divisor's bits ([`ToBits`])
//! give its leading one ([`LeadingOne`]), whose vector, read from its other end, is the power of
//! two that normalizes divisor and numerator: bits that choose ([`Words`]), in one round, so that
//! nothing is to be undone afterwards. The reciprocal of the normalized divisor is a line
//! ([`super::line`]); one [`MixedProduct`] and one truncation end it.
//!
//! # Cost
//! 16.14: 432 bytes and the extension's, 42 rounds, and 6 for the one-hot vectors.
//!
//! # Security
//! What is opened is an index under a random one; the rest is a composition.

use marill_net::Channel;
use marill_numeric::integer::DivisionTables;
use marill_ot::{Needs, OtError, Session, Source};

use super::{Function, Prepared, line::Line, place::Place};
use crate::{
    Cost, Extend, Factor, LeadingOne, MixedProduct, Radix, Reading, Run, ToBits, TruncateReduce,
    conversions,
    convert::words::{Words, round},
    lookup::{Index, Query, Table, words, words_cost},
};

/// `a/b` of shared numbers.
#[derive(Debug, Clone)]
pub struct Divide {
    tables: DivisionTables,
    radix: Radix,
}

impl Divide {
    /// Numbers of `bits` bits and any one scale, results of `out_bits` at `out_scale`.
    ///
    /// # Panics
    /// When the integer program has no such widths ([`DivisionTables::new`]).
    #[must_use]
    pub fn new(bits: u32, out_bits: u32, out_scale: u32, radix: Radix) -> Self {
        Self {
            tables: DivisionTables::new(bits, out_bits, out_scale),
            radix,
        }
    }

    /// The integer program.
    #[must_use]
    pub fn tables(&self) -> &DivisionTables {
        &self.tables
    }

    /// The numerator, with room for what normalizes it.
    fn extension(&self) -> Extend {
        let from = self.tables.bits;
        Extend {
            from,
            to: self.tables.numerator().max(from),
            reading: Reading::Signed,
            radix: self.radix,
        }
    }

    fn leading(&self) -> (ToBits, LeadingOne) {
        let bits = self.tables.divisor();
        (ToBits { bits }, LeadingOne { bits })
    }

    /// The power of two times the divisor, and times the numerator.
    fn normalizing(&self) -> [Words; 2] {
        let width = self.tables.divisor();
        [self.tables.divisor(), self.tables.numerator()].map(|ring| Words { width, ring })
    }

    fn place(&self) -> Place {
        Place {
            low: self.tables.low(),
            index: self.tables.index,
            ring: self.tables.ring(),
            radix: self.radix,
        }
    }

    fn line(&self) -> Line {
        Line {
            widths: self.tables.widths(),
            ring: self.tables.ring(),
            falls: true,
        }
    }

    fn reciprocal(&self) -> TruncateReduce {
        TruncateReduce {
            bits: self.tables.ring(),
            shift: self.tables.low(),
            radix: self.radix,
        }
    }

    fn product(&self) -> MixedProduct {
        let factor = |bits, reading| Factor { bits, reading };
        MixedProduct {
            x: factor(self.tables.numerator(), Reading::Signed),
            y: factor(self.tables.reciprocal(), Reading::NotNegative),
            out: self.tables.product(),
            radix: self.radix,
        }
    }

    fn cut(&self) -> TruncateReduce {
        TruncateReduce {
            bits: self.tables.product(),
            shift: self.tables.shift(),
            radix: self.radix,
        }
    }

    /// Divisor and numerator times the power of two that moves the divisor's leading one to its
    /// highest place.
    fn normalized<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        a: &[u64],
        b: &[u64],
    ) -> Run<[Vec<u64>; 2]> {
        let (to_bits, leading) = self.leading();
        let bits = to_bits.run(session, b)?;
        let mut power = leading.run(session, &bits)?.one_hot;
        power.reverse();
        let [of_divisor, of_numerator] = self.normalizing();
        let mut list = of_divisor.times(&power, b);
        list.extend(of_numerator.times(&power, a));
        let [_, mut divisor] = conversions(session, &[], &list)?;
        let numerator = divisor.split_off(of_divisor.count());
        Ok([
            of_divisor.weighted(&divisor),
            of_numerator.weighted(&numerator),
        ])
    }
}

impl Function for Divide {
    type Inputs<'a> = [&'a [u64]; 2];

    fn index_widths(&self) -> Vec<u32> {
        vec![self.tables.index]
    }

    fn run_with<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        [a, b]: [&[u64]; 2],
        material: Prepared,
    ) -> Result<Vec<u64>, OtError> {
        assert_eq!(a.len(), b.len(), "as many numerators as divisors");
        let a = self.extension().run(session, a)?;
        let [divisor, a] = self.normalized(session, &a, b)?;
        let [index, distance] = self.place().run(session, &divisor)?;
        let [value, slope] = self.tables.widths();
        let table = |entries, out_bits| Table { entries, out_bits };
        let tables = [
            table(&self.tables.value[..], value),
            table(&self.tables.slope[..], slope),
        ];
        let query = Query {
            index: Index::Sum(&index),
            tables: &tables,
            one_hots: material.of(a.len()).remove(0),
        };
        let entries = words(session, vec![query])?.remove(0);
        let (lines, _) = self.line().run(session, &entries, &distance, &[])?;
        let reciprocal = self.reciprocal().run(session, &lines)?;
        let products = self.product().run(session, &a, &reciprocal)?;
        self.cut().run(session, &products)
    }

    fn online_needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        let (to_bits, leading) = self.leading();
        for words in self.normalizing() {
            needs.merge(&words.times_needs(n));
        }
        for more in [
            self.extension().needs(n),
            to_bits.needs(n),
            leading.needs(n),
            self.place().needs(n),
            self.line().needs(n),
            self.reciprocal().needs(n),
            self.product().needs(n),
            self.cut().needs(n),
        ] {
            needs.merge(&more);
        }
        needs
    }

    fn cost(&self, n: usize) -> Cost {
        let (to_bits, leading) = self.leading();
        let normalizing = self.normalizing().map(|words| words.times_bits());
        self.extension().cost(n)
            + to_bits.cost(n)
            + leading.cost(n)
            + round(normalizing, n)
            + self.place().cost(n)
            + words_cost(&[self.tables.index], n)
            + round([self.line().bits()], n)
            + self.reciprocal().cost(n)
            + self.product().cost(n)
            + self.cut().cost(n)
    }
}
