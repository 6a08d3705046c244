//! `exp(-z)` of an unsigned number.
//!
//! # Functionality
//! Of `z`, shared modulo `2^bits` and read as unsigned at `scale`: additive shares of `exp(-z)` at
//! `out_scale` modulo `2^out_bits`. The integer program is [`ExpTables`]: one table per digit of 8
//! bits, their product cut off after each multiplication, in a tree (SIRNN, S&P '21, section V-A).
//! Within 2 units of the floor of the exact value for 16 bits and scales from 8 to 14.
//!
//! # Construction
//! Digits by [`Decompose`]; each is looked up in its table, shared by XOR. Of a pair one factor
//! goes to the ring and the other one chooses bit by bit ([`Words`]), so that products of entries
//! have no wraps at all; [`Truncate`] cuts them off. Products of products are [`MixedProduct`]s of
//! values that are not negative.
//!
//! # Cost
//! 16.12: 257 bytes and the extension's, 14 rounds, and 7 for the one-hot vectors.
//!
//! # Security
//! What is opened is an index under a random one; the rest is a composition.

use marill_net::Channel;
use marill_numeric::integer::ExpTables;
use marill_ot::{Needs, OtError, Session, Source};

use super::{Function, Prepared, planes};
use crate::{
    Bits, Cost, Decompose, Factor, MixedProduct, Radix, Reading, Run, Truncate, conversions,
    convert::words::{Words, round},
    lookup::{Index, Query, Table, words, words_cost},
};

/// `exp(-z)` of unsigned numbers.
#[derive(Debug, Clone)]
pub struct Exp {
    tables: ExpTables,
    out_bits: u32,
    radix: Radix,
}

impl Exp {
    /// Numbers of `bits` bits at `scale`, results of `out_bits` at `out_scale`.
    ///
    /// # Panics
    /// When a scale is above 30, or one does not fit the result.
    #[must_use]
    pub fn new(bits: u32, scale: u32, out_bits: u32, out_scale: u32, radix: Radix) -> Self {
        assert!(
            out_scale < out_bits && out_bits <= 64,
            "one does not fit {out_bits} bits at scale {out_scale}"
        );
        Self {
            tables: ExpTables::new(bits, scale, out_scale),
            out_bits,
            radix,
        }
    }

    /// The integer program.
    #[must_use]
    pub fn tables(&self) -> &ExpTables {
        &self.tables
    }

    fn count(&self) -> usize {
        self.tables.widths.len()
    }

    fn digits(&self) -> Decompose {
        Decompose {
            widths: self.tables.widths.clone(),
            radix: self.radix,
        }
    }

    /// Width of a factor above the lowest level: one is the largest, and the top bit is zero.
    fn factor_bits(&self) -> u32 {
        self.tables.out_scale + 2
    }

    /// Width of a product, with room above it.
    fn product_bits(&self) -> u32 {
        2 * self.tables.out_scale + 3
    }

    /// The ring of the entries of digit `i`.
    fn entry(&self, i: usize) -> Words {
        let ring = if self.count() == 1 {
            self.out_bits
        } else if i + 1 < self.count() {
            self.product_bits()
        } else {
            self.factor_bits()
        };
        let width = self.tables.entry_bits();
        Words { width, ring }
    }

    /// A pair's second factor.
    fn chooser(&self) -> Words {
        Words {
            width: self.tables.entry_bits(),
            ring: self.product_bits(),
        }
    }

    fn cut(&self, last: bool) -> Truncate {
        Truncate {
            from: self.product_bits(),
            shift: self.tables.out_scale,
            to: if last {
                self.out_bits
            } else {
                self.factor_bits()
            },
            added: 0,
            by_shares: false,
            radix: self.radix,
        }
    }

    fn product(&self) -> MixedProduct {
        let factor = Factor {
            bits: self.factor_bits(),
            reading: Reading::NotNegative,
        };
        MixedProduct {
            x: factor,
            y: factor,
            out: self.product_bits(),
            radix: self.radix,
        }
    }

    /// How many factors each level of the tree has, from the digits on.
    fn levels(&self) -> Vec<usize> {
        let mut levels = vec![self.count()];
        while levels[levels.len() - 1] > 1 {
            levels.push(levels[levels.len() - 1].div_ceil(2));
        }
        levels
    }

    fn table<'a>(&self, entries: &'a [u64]) -> [Table<'a>; 1] {
        let out_bits = self.tables.entry_bits();
        [Table { entries, out_bits }]
    }

    /// The tree's lowest level, on entries shared by XOR.
    fn multiplied<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        entries: &[Vec<Bits>],
    ) -> Run<Vec<u64>> {
        let lower = entries.iter().step_by(2).enumerate();
        let list = lower.flat_map(|(pair, planes)| self.entry(2 * pair).ring_list(planes));
        let [shares, _] = conversions(session, &list.collect::<Vec<_>>(), &[])?;
        let count = self.chooser().count();
        let values = shares.chunks_exact(count).enumerate();
        let mut values: Vec<Vec<u64>> = values
            .map(|(pair, shares)| self.entry(2 * pair).weighted(shares))
            .collect();
        if entries.len() == 1 {
            return Ok(values.remove(0));
        }
        let rest = (entries.len() % 2 == 1).then(|| values.pop().expect("the last digit"));
        let pairs = entries.iter().skip(1).step_by(2).zip(&values);
        let list = pairs.flat_map(|(planes, values)| self.chooser().times(planes, values));
        let [_, shares] = conversions(session, &[], &list.collect::<Vec<_>>())?;
        let pairs = shares.chunks_exact(count);
        let products: Vec<Vec<u64>> = pairs.map(|s| self.chooser().weighted(s)).collect();
        let mut factors = self.cut_off(session, products, entries.len() == 2)?;
        factors.extend(rest);
        while factors.len() > 1 {
            factors = self.level(session, factors)?;
        }
        Ok(factors.remove(0))
    }

    /// Products of neighbors.
    fn level<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        mut factors: Vec<Vec<u64>>,
    ) -> Run<Vec<Vec<u64>>> {
        let last = factors.len() == 2;
        let rest = (factors.len() % 2 == 1).then(|| factors.pop().expect("odd"));
        let side = |first: usize| factors.iter().skip(first).step_by(2);
        let [x, y] = [0, 1].map(|first| side(first).flatten().copied().collect::<Vec<u64>>());
        let n = factors[0].len();
        let products = self.product().run(session, &x, &y)?;
        let products = products.chunks(n).map(<[u64]>::to_vec).collect();
        let mut next = self.cut_off(session, products, last)?;
        next.extend(rest);
        Ok(next)
    }

    fn cut_off<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        products: Vec<Vec<u64>>,
        last: bool,
    ) -> Run<Vec<Vec<u64>>> {
        let n = products[0].len();
        let cut = self.cut(last).run(session, &products.concat())?;
        Ok(cut.chunks(n).map(<[u64]>::to_vec).collect())
    }
}

impl Function for Exp {
    type Inputs<'a> = &'a [u64];

    fn index_widths(&self) -> Vec<u32> {
        self.tables.widths.clone()
    }

    fn run_with<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
        material: Prepared,
    ) -> Result<Vec<u64>, OtError> {
        let one_hots = material.of(shares.len());
        let digits = self.digits().run(session, shares)?;
        let tables: Vec<[Table<'_>; 1]> =
            self.tables.tables.iter().map(|t| self.table(t)).collect();
        let queries = digits.iter().zip(&tables).zip(one_hots);
        let queries = queries.map(|((digit, tables), one_hots)| Query {
            index: Index::Sum(digit),
            tables,
            one_hots,
        });
        let entries = words(session, queries.collect())?;
        let width = self.tables.entry_bits();
        let entries: Vec<Vec<Bits>> = entries.iter().map(|e| planes(&e[0], width)).collect();
        self.multiplied(session, &entries)
    }

    fn online_needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        needs.merge(&self.digits().needs(n));
        for i in (0..self.count()).step_by(2) {
            needs.merge(&self.entry(i).ring_needs(n));
        }
        let levels = self.levels();
        for (i, count) in levels.iter().take(levels.len() - 1).enumerate() {
            let pairs = n * (count / 2);
            let product = if i == 0 {
                self.chooser().times_needs(pairs)
            } else {
                self.product().needs(pairs)
            };
            needs.merge(&product);
            needs.merge(&self.cut(*count == 2).needs(pairs));
        }
        needs
    }

    fn cost(&self, n: usize) -> Cost {
        let mut cost = self.digits().cost(n) + words_cost(&self.tables.widths, n);
        let lower = (0..self.count()).step_by(2);
        cost += round(lower.map(|i| self.entry(i).ring_bits()), n);
        let levels = self.levels();
        for (i, count) in levels.iter().take(levels.len() - 1).enumerate() {
            let pairs = n * (count / 2);
            cost += if i == 0 {
                round([self.chooser().times_bits()], pairs)
            } else {
                self.product().cost(pairs)
            };
            cost += self.cut(*count == 2).cost(pairs);
        }
        cost
    }
}
