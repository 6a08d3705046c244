//! Tables by one-hot vectors: what depends on no input is made before, and a lookup itself sends
//! few bits.
//!
//! # Functionality
//! Additive shares of `table[x]` modulo `2^out_bits`, of an additively shared index `x` modulo
//! `2^index_bits`. One index can be looked up in several tables.
//!
//! # Construction
//! Before: XOR shares of the one-hot vector of a random index `r`, additive shares of `r`
//! ([`OneHots`]), and random bits that both rings know ([`SharedBits`]). The vector is doubled bit
//! by bit, `e ← (e ⊕ b·e, b·e)`, by transfers whose random choice is the new bit, so that nothing
//! is corrected; its last entry is what the others leave of `b`. Then: open `x - r` (index bits
//! from each party), rotate the public table by it, and each party adds up the entries that its
//! share of the vector names; those XOR shares are opened under the random bits and move to the
//! ring. [`words()`] stops at the XOR shares, and takes XOR-shared indices too: `x ⊕ r` is opened,
//! and the table permuted instead of rotated.
//!
//! Sources: one-hot vectors by doubling, Heath and Kolesnikov, "One hot garbling" (CCS '21); shared
//! tables on a random index, Dessouky et al. (NDSS '17) and SIRNN (S&P '21, section III). SIRNN
//! sends the table itself, `2^index_bits · out_bits` bits.
//!
//! # Cost
//! Before: `2(2^k - k - 1) + k(k-1)/2` bits and `2k - 1` transfers for `k` index bits, and
//! `m(m-1)/2` bits and `m - 1` transfers for `m` output bits. Then: `2k + 2m` bits in two rounds.
//!
//! # Security
//! What is sent before is masked by pads; `x - r` and the output under random bits are uniform. No
//! index into memory depends on a share: rotations are by the opened, uniform difference.

mod onehot;
mod shared_bits;
mod words;

use marill_net::Channel;
use marill_ot::{BitWriter, OtError, Session, Source, transfer::exchange};

pub use self::{
    onehot::{OneHotList, OneHots},
    shared_bits::{SharedBits, Width},
    words::{Index, Query, words, words_cost},
};
use crate::Cost;

/// A public table of `2^index_bits` entries of `out_bits` bits.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    pub entries: &'a [u64],
    pub out_bits: u32,
}

impl Table<'_> {
    /// Bit planes of the table, twice in a row: a rotation is a window.
    fn planes(&self) -> Vec<Vec<u64>> {
        let size = self.entries.len();
        let plane = |bit: u32| {
            let mut words = vec![0u64; (2 * size).div_ceil(64) + 1];
            for i in 0..2 * size {
                words[i / 64] |= (self.entries[i % size] >> bit & 1) << (i % 64);
            }
            words
        };
        (0..self.out_bits).map(plane).collect()
    }
}

/// Additive shares of each table's entry at each index, in the ring of its random bits. Two rounds.
///
/// # Errors
/// Those of [`Session`].
///
/// # Panics
/// When a table has not `2^index_bits` entries, or material is of other sizes than the indices.
pub fn lookup<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    tables: &[Table<'_>],
    indices: &[u64],
    one_hots: OneHots,
    outputs: Vec<SharedBits>,
) -> Result<Vec<Vec<u64>>, OtError> {
    let n = indices.len();
    assert_eq!(outputs.len(), tables.len(), "random bits per table");
    let query = Query {
        index: Index::Sum(indices),
        tables,
        one_hots,
    };
    let shares = words(session, vec![query])?.remove(0);
    let mut message = BitWriter::new();
    let mut masked = Vec::with_capacity(tables.len());
    for ((table, output), shares) in tables.iter().zip(&outputs).zip(shares) {
        assert_eq!((output.n(), output.bits()), (n, table.out_bits));
        let hidden = output.mask(&shares);
        for value in &hidden {
            message.push(*value, table.out_bits);
        }
        masked.push(hidden);
    }
    let expected = message.len();
    let mut received = exchange(session, "table entries", message, expected)?;
    let party = session.party();
    let results = tables.iter().zip(&outputs).zip(masked);
    let results = results.map(|((table, output), mut opened)| {
        for value in &mut opened {
            *value ^= received.take(table.out_bits);
        }
        output.to_ring(&opened, party)
    });
    Ok(results.collect())
}

/// What a lookup in tables of these output widths sends, beside its material.
#[must_use]
pub fn cost(index_bits: u32, out_bits: &[u32], n: usize) -> Cost {
    let mut cost = Cost::none();
    let index = n * index_bits as usize;
    cost.exchange([index, index]);
    let entries = n * out_bits.iter().sum::<u32>() as usize;
    cost.exchange([entries, entries]);
    cost
}
