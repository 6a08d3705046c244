//! Squares of masks, and masks times masks of scalars, in rings as wide as residual streams.
//!
//! A mask of 64 bits is too wide a factor: it is cut into digits of both signs, and what they meet
//! is sent once for each, multiplied by the digit's place. Of masks under a scalar either party
//! sends its scalar, and the other multiplies it by its own elements.

use marill_lattice::{BatchProduct, Factors as Kind, Input};
use marill_two_party::Party;

use super::ring::{Results, Rings, Side};
use crate::{
    error::ProtocolResult,
    two_party::{
        jobs::{ScaleJob, SquareJob},
        kept::SET,
    },
};

/// Digits of a factor, and bits of each but the last.
const DIGITS: usize = 3;
const DIGIT_BITS: u32 = 22;

/// A digit with its sign.
const DIGIT: Kind = Kind::Signed(DIGIT_BITS + 1);

/// What E0 sends of a number: one multiple for each digit of what it meets.
fn multiples(v: u64) -> [u64; DIGITS] {
    [0, 1, 2].map(|digit| v << (digit * DIGIT_BITS))
}

/// Digits that sum up to a number modulo `2^64`, as E1 multiplies by them.
fn digits(v: u64) -> [u64; DIGITS] {
    let spare = 64 - DIGIT_BITS;
    let mut rest = v as i64;
    [0, 1, 2].map(|digit| {
        let low = rest << spare >> spare;
        let own = if digit + 1 == DIGITS { rest } else { low };
        rest = rest.wrapping_sub(low) >> DIGIT_BITS;
        own as u64
    })
}

/// Which products have the cross terms of squares, row by row.
pub(super) struct SquarePlaces {
    side: Side,
    rows: Vec<usize>,
}

/// Sums of `r_0·r_1` over each row of a mask.
pub(super) fn add_squares(rings: &mut Rings, job: &SquareJob) -> SquarePlaces {
    let side = Side::of(Party::E0, job.mask.bits);
    // A row is one vector, of three columns a number.
    let columns = DIGITS * job.mask.cols;
    let rows = (0..job.mask.rows).map(|i| {
        let row = job.mask.data.get(i * job.mask.cols..).unwrap_or(&[]);
        let row = &row[..job.mask.cols.min(row.len())];
        let sent = row.iter().copied().flat_map(multiples);
        let sent = rings.send(side, Input::new(1, columns), sent.collect());
        let product = BatchProduct {
            terms: vec![sent.columns(0..columns)],
            rows: 1,
            factors: DIGIT,
            vectors: 0..1,
        };
        rings.multiply(side, product, || {
            row.iter().copied().flat_map(digits).collect()
        })
    });
    let rows = rows.collect();
    SquarePlaces { side, rows }
}

impl SquarePlaces {
    /// Shares of each row's sum of squares.
    pub(super) fn shares(&self, job: &SquareJob, results: &Results) -> Vec<u64> {
        let results = &results[&self.side];
        let pairs = job.own.iter().zip(&self.rows);
        // (r_0 + r_1)² has the cross term twice.
        pairs
            .map(|(own, row)| own.wrapping_add(results[*row][0] << 1))
            .collect()
    }
}

/// Which products have the cross terms of scaled masks, scalar by scalar: one of each side.
pub(super) struct ScalePlaces {
    scalars: Vec<[(Side, usize); 2]>,
}

/// Each party's scalars by the other's elements.
pub(super) fn add(rings: &mut Rings, job: &ScaleJob) -> ProtocolResult<ScalePlaces> {
    let input = Input::of_columns(SET, job.bits, Kind::Masks, [1, 1])?;
    let pairs = job.elements.iter().zip(&job.scalars);
    let scalars = pairs.map(|(elements, scalar)| {
        [Party::E0, Party::E1].map(|client| {
            let side = Side::of(client, job.bits);
            let sent = rings.send(side, input, vec![*scalar]);
            let product = BatchProduct {
                terms: vec![sent.columns(0..1)],
                rows: elements.len(),
                factors: Kind::Masks,
                vectors: 0..1,
            };
            let own = || elements.iter().map(|at| job.mask[*at]).collect();
            (side, rings.multiply(side, product, own))
        })
    });
    let scalars = scalars.collect();
    Ok(ScalePlaces { scalars })
}

impl ScalePlaces {
    /// This party's own products, and its shares of both cross terms.
    pub(super) fn shares(&self, job: &ScaleJob, results: &Results) -> Vec<u64> {
        let mut out = job.own.clone();
        for (elements, products) in job.elements.iter().zip(&self.scalars) {
            for (side, product) in products {
                for (at, share) in elements.iter().zip(results[side][*product].iter()) {
                    out[*at] = out[*at].wrapping_add(*share);
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_meet_their_multiples() {
        for (a, b) in [
            (1, u64::MAX),
            (u64::MAX, 1 << 63),
            (0x1234_5678_9abc_def0, 77),
        ] {
            let pairs = multiples(a).into_iter().zip(digits(b));
            let sum = pairs.fold(0u64, |sum, (a, b)| sum.wrapping_add(a.wrapping_mul(b)));
            assert_eq!(sum, a.wrapping_mul(b));
            let most = 1 << DIGIT_BITS;
            assert!(digits(b).iter().all(|d| (*d as i64).abs() < most));
        }
    }
}
