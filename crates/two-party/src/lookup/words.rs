//! Lookups whose results stay shared by XOR: one round, the index's bits from each party, and no
//! material but one-hot vectors. What uses words bit by bit, as a factor of a product does, needs
//! no more.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{BitWriter, OtError, Session, Source, transfer::exchange};

use super::{OneHots, Table};
use crate::Cost;

/// Shares of indices.
#[derive(Clone, Copy)]
pub enum Index<'a> {
    /// Additive, modulo `2^bits` of the one-hot vectors.
    Sum(&'a [u64]),
    /// By XOR.
    Xor(&'a [u64]),
}

/// Indices and the tables in which they are looked up.
pub struct Query<'a> {
    pub index: Index<'a>,
    pub tables: &'a [Table<'a>],
    pub one_hots: OneHots,
}

/// XOR shares of the entries, query by query and table by table. One round for all.
///
/// # Errors
/// Those of [`Session`].
///
/// # Panics
/// When a table has not `2^bits` entries, or there are other than as many vectors as indices.
pub fn words<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    queries: Vec<Query<'_>>,
) -> Result<Vec<Vec<Vec<u64>>>, OtError> {
    let mut message = BitWriter::new();
    let mut own = Vec::with_capacity(queries.len());
    for query in &queries {
        let differences = query.own_differences();
        let bits = query.one_hots.bits();
        differences.iter().for_each(|d| message.push(*d, bits));
        own.push(differences);
    }
    let expected = message.len();
    let mut received = exchange(session, "table index", message, expected)?;
    let answers = queries.iter().zip(own).map(|(query, mut differences)| {
        let bits = query.one_hots.bits();
        for difference in &mut differences {
            let other = received.take(bits);
            *difference = match query.index {
                Index::Sum(_) => difference.wrapping_add(other) & low_mask(bits),
                Index::Xor(_) => *difference ^ other,
            };
        }
        query.entries(&differences)
    });
    Ok(answers.collect())
}

/// What lookups by indices of these widths send, beside their material.
#[must_use]
pub fn words_cost(index_bits: &[u32], n: usize) -> Cost {
    let bits = n * index_bits.iter().sum::<u32>() as usize;
    let mut cost = Cost::none();
    cost.exchange([bits, bits]);
    cost
}

impl Query<'_> {
    fn own_differences(&self) -> Vec<u64> {
        let bits = self.one_hots.bits();
        let (Index::Sum(shares) | Index::Xor(shares)) = self.index;
        assert_eq!(
            self.one_hots.n(),
            shares.len(),
            "a one-hot vector per index"
        );
        let entries = self.tables.iter().map(|table| table.entries.len());
        assert!({ entries }.all(|entries| entries == 1 << bits));
        match self.index {
            Index::Sum(shares) => {
                let pairs = shares.iter().zip(self.one_hots.index());
                pairs
                    .map(|(x, r)| x.wrapping_sub(*r) & low_mask(bits))
                    .collect()
            }
            Index::Xor(shares) => {
                let pairs = shares.iter().zip(self.one_hots.word());
                pairs.map(|(x, r)| (x ^ r) & low_mask(bits)).collect()
            }
        }
    }

    /// XOR of the entries that this party's share of each one-hot vector names.
    fn entries(&self, differences: &[u64]) -> Vec<Vec<u64>> {
        let tables = self.tables.iter();
        match self.index {
            Index::Sum(_) => tables
                .map(|table| rotated(table, &self.one_hots, differences))
                .collect(),
            Index::Xor(_) => {
                let vectors = permuted(&self.one_hots, differences);
                let stride = self.one_hots.stride();
                tables
                    .map(|table| {
                        let planes = table.planes();
                        let vectors = vectors.chunks_exact(stride);
                        vectors.map(|vector| named(vector, &planes)).collect()
                    })
                    .collect()
            }
        }
    }
}

/// The entries that a vector names, of a table in planes.
fn named(vector: &[u64], planes: &[Vec<u64>]) -> u64 {
    let bits = planes.iter().enumerate().map(|(bit, plane)| {
        let both = vector.iter().zip(plane).map(|(a, b)| a & b);
        u64::from(both.fold(0, |sum, word| sum ^ word).count_ones() & 1) << bit
    });
    bits.fold(0, |value, bit| value | bit)
}

/// Entries of the table rotated by the opened differences.
fn rotated(table: &Table<'_>, one_hots: &OneHots, differences: &[u64]) -> Vec<u64> {
    let planes = table.planes();
    let stride = one_hots.stride();
    let of = |(i, difference): (usize, &u64)| {
        let vector = &one_hots.vectors()[i * stride..(i + 1) * stride];
        let word = *difference as usize / 64;
        let shift = *difference % 64;
        let mut value = 0;
        for (bit, plane) in planes.iter().enumerate() {
            let mut sum = 0;
            for (w, vector) in vector.iter().enumerate() {
                let low = plane[word + w] >> shift;
                let high = plane[word + w + 1] << 1 << (63 - shift);
                sum ^= vector & (low | high);
            }
            value |= u64::from(sum.count_ones() & 1) << bit;
        }
        value
    };
    differences.iter().enumerate().map(of).collect()
}

/// Vectors of which entry `i ⊕ difference` is what entry `i` was.
fn permuted(one_hots: &OneHots, differences: &[u64]) -> Vec<u64> {
    /// Bit `i` of every 64 has bit `s` of `i` zero.
    const LOW: [u64; 6] = [
        0x5555_5555_5555_5555,
        0x3333_3333_3333_3333,
        0x0f0f_0f0f_0f0f_0f0f,
        0x00ff_00ff_00ff_00ff,
        0x0000_ffff_0000_ffff,
        0x0000_0000_ffff_ffff,
    ];
    let stride = one_hots.stride();
    let mut out = Vec::with_capacity(one_hots.vectors().len());
    for (vector, difference) in one_hots.vectors().chunks_exact(stride).zip(differences) {
        for w in 0..stride {
            let mut word = vector[w ^ (*difference as usize / 64)];
            // The difference is public.
            for (s, low) in LOW.iter().enumerate() {
                if difference >> s & 1 == 1 {
                    word = (word & low) << (1 << s) | (word >> (1 << s)) & low;
                }
            }
            out.push(word);
        }
    }
    out
}
