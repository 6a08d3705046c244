//! Powers of positive numbers over many octaves: reciprocal, reciprocal square root, square root.
//!
//! # Functionality
//! Of `x`, shared modulo `2^bits`, whose top bit is zero, at `scale`: additive shares of `f(x)` at
//! `out_scale` modulo `2^out_bits`. The integer program is [`OctaveTables`]: `2^mantissa` lines an
//! octave, the largest result where the exact one does not fit. Within 2 units of the floor of the
//! exact value, 1 for the square root, at scale 12 with 5 bits of mantissa (6 for the reciprocal)
//! and at 14 with 6; SIRNN's reciprocal square root is within 4, from 0.1 on.
//!
//! # Construction
//! SIRNN, S&P '21, section V-D, multiplies the number into one octave, iterates Goldschmidt's step
//! on a start value from a table, and multiplies back. Here the line takes the number as it is: its
//! bits ([`ToBits`]) give the leading one ([`LeadingOne`]), whose vector selects the bits behind it
//! and, summed up, the number of the octave; both are the index of one lookup by XOR. Slope and
//! value stay shared by XOR ([`super::line`]), and one truncation ends it.
//!
//! # Cost
//! Reciprocal square root 16.12: 315 bytes and the extension's, 19 rounds, and 8 for the one-hot
//! vectors.
//!
//! # Security
//! What is opened is an index under a random one; the rest is a composition.

use marill_net::Channel;
use marill_numeric::integer::{OctaveTables, Power};
use marill_ot::{
    Needs, OtError, Session, Source,
    transfer::{And, and},
};

use super::{Function, Prepared, line::Line};
use crate::{
    Bits, Cost, Extend, Leading, LeadingOne, Radix, Reading, Run, ToBits, TruncateReduce,
    convert::words::round,
    lookup::{Index, Query, Table, words, words_cost},
};

/// A power of positive numbers.
#[derive(Debug, Clone)]
pub struct Octaves {
    tables: OctaveTables,
    radix: Radix,
}

impl Octaves {
    /// Numbers of `bits` bits at `scale`, results of `out_bits` at `out_scale`, `2^mantissa` lines
    /// an octave.
    ///
    /// # Panics
    /// When the integer program has no such widths ([`OctaveTables::new`]).
    #[must_use]
    pub fn new(
        power: Power,
        number: (u32, u32),
        out: (u32, u32),
        mantissa: u32,
        radix: Radix,
    ) -> Self {
        Self {
            tables: OctaveTables::new(power, number, out, mantissa),
            radix,
        }
    }

    /// The integer program.
    #[must_use]
    pub fn tables(&self) -> &OctaveTables {
        &self.tables
    }

    /// The number in the ring of its line.
    fn extension(&self) -> Extend {
        Extend {
            from: self.tables.bits,
            to: self.tables.ring().max(self.tables.bits),
            reading: Reading::NotNegative,
            radix: self.radix,
        }
    }

    fn place(&self) -> Normal {
        Normal {
            bits: self.tables.bits - 1,
            mantissa: self.tables.mantissa,
        }
    }

    fn line(&self) -> Line {
        Line {
            widths: self.tables.widths(),
            ring: self.tables.ring(),
            falls: self.tables.falls(),
        }
    }

    fn cut(&self) -> TruncateReduce {
        TruncateReduce {
            bits: self.tables.ring(),
            shift: self.tables.frac,
            radix: self.radix,
        }
    }
}

impl Function for Octaves {
    type Inputs<'a> = &'a [u64];

    fn index_widths(&self) -> Vec<u32> {
        vec![self.tables.index()]
    }

    fn run_with<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
        material: Prepared,
    ) -> Result<Vec<u64>, OtError> {
        let wide = self.extension().run(session, shares)?;
        let place = self.place();
        let bits = ToBits { bits: place.bits }.run(session, shares)?;
        let leading = place.leading().run(session, &bits)?;
        let index = place.index(session, &bits, &leading)?;
        let [value, slope] = self.tables.widths();
        let table = |entries, out_bits| Table { entries, out_bits };
        let tables = [
            table(&self.tables.value[..], value),
            table(&self.tables.slope[..], slope),
        ];
        let query = Query {
            index: Index::Xor(&index),
            tables: &tables,
            one_hots: material.of(shares.len()).remove(0),
        };
        let entries = words(session, vec![query])?.remove(0);
        let (lines, _) = self.line().run(session, &entries, &wide, &[])?;
        self.cut().run(session, &lines)
    }

    fn online_needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        let place = self.place();
        for more in [
            self.extension().needs(n),
            place.needs(n),
            self.line().needs(n),
            self.cut().needs(n),
        ] {
            needs.merge(&more);
        }
        needs
    }

    fn cost(&self, n: usize) -> Cost {
        self.extension().cost(n)
            + self.place().cost(n)
            + words_cost(&[self.tables.index()], n)
            + round([self.line().bits()], n)
            + self.cut().cost(n)
    }
}

/// A number's place: the bits behind its leading one, and which one that is.
pub(super) struct Normal {
    pub(super) bits: u32,
    pub(super) mantissa: u32,
}

impl Normal {
    pub(super) fn leading(&self) -> LeadingOne {
        LeadingOne { bits: self.bits }
    }

    /// How many of the bits behind place `k` there are.
    fn behind(&self, k: u32) -> u32 {
        k.min(self.mantissa)
    }

    /// XOR shares of the index, [`OctaveTables::place`]. One round.
    fn index<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        bits: &[Bits],
        leading: &Leading,
    ) -> Run<Vec<u64>> {
        let list = (1..self.bits).map(|k| {
            let behind = (1..=self.behind(k)).map(|j| &bits[(k - j) as usize]);
            And {
                bit: &leading.one_hot[k as usize],
                string: behind.collect(),
            }
        });
        let list: Vec<And<'_>> = list.collect();
        let products = and(session, "mantissa", &list)?;
        let octave = (self.bits - 1).ilog2() + 1;
        let n = leading.zero.n();
        let mut planes = vec![Bits::zeros(n); (self.mantissa + octave) as usize];
        for product in products {
            for (j, bit) in (1..).zip(&product) {
                planes[(self.mantissa - j) as usize] ^= bit;
            }
        }
        for (k, here) in leading.one_hot.iter().enumerate() {
            for (b, plane) in planes[self.mantissa as usize..].iter_mut().enumerate() {
                if k >> b & 1 == 1 {
                    *plane ^= here;
                }
            }
        }
        // Zero has a line of its own, in the octave of 1.
        planes[0] ^= &leading.zero;
        Ok(Bits::values(&planes))
    }

    /// Bits, leading one and index.
    fn needs(&self, n: usize) -> Needs {
        let mut needs = ToBits { bits: self.bits }.needs(n);
        needs.merge(&self.leading().needs(n));
        (1..self.bits).for_each(|k| needs.add_triples(self.behind(k) as u8, n));
        needs
    }

    fn cost(&self, n: usize) -> Cost {
        let mut cost = ToBits { bits: self.bits }.cost(n) + self.leading().cost(n);
        let widths = (1..self.bits).map(|k| 1 + self.behind(k) as usize);
        cost.exchange([n * widths.sum::<usize>(); 2]);
        cost
    }
}
