//! Norms of integer matrices.

use marill_numeric::PublicMatrix;
use rayon::prelude::*;

use crate::{reference::range::span::length, weights::Lora};

/// How far a matrix can stretch: its rows' L2 and L1 norms, and a bound of its operator norm.
pub(super) struct MatrixNorms {
    pub rows: Vec<f64>,
    pub rows_l1: Vec<f64>,
    pub operator: f64,
}

/// Matrices whose smaller side is longer than this are bounded by their Frobenius norm alone.
const LARGEST_GRAM: usize = 1536;

impl MatrixNorms {
    /// Of a public matrix, at the scale at which it multiplies.
    pub fn of_public(matrix: &PublicMatrix) -> Self {
        let rows = matrix.rows();
        let cols = matrix.cols();
        // `weight` divides by 2^frac_bits what multiplies as an integer.
        const FRAC_BITS: u32 = 24;
        let unit = f64::from(FRAC_BITS).exp2();
        let row = |i: usize| {
            (0..cols)
                .map(|j| matrix.weight(i, j, FRAC_BITS) * unit)
                .collect::<Vec<f64>>()
        };
        if rows > 4 * cols {
            // An output head: nothing behind it needs the length of a row.
            let (l2, l1): (Vec<f64>, Vec<f64>) = (0..rows)
                .into_par_iter()
                .map(|i| (length(&row(i)), row(i).iter().map(|w| w.abs()).sum::<f64>()))
                .unzip();
            let operator = length(&l2);
            return Self {
                rows: l2,
                rows_l1: l1,
                operator,
            };
        }
        Self::of((0..rows).into_par_iter().flat_map_iter(row).collect(), cols)
    }

    /// Of `B·A`.
    pub fn of_addition(lora: &Lora, cols: usize) -> Self {
        let rank = lora.a.len() / cols;
        let real = |v: &u64| *v as i64 as f64;
        let product = lora.b.chunks_exact(rank).flat_map(|b| {
            let mut row = vec![0.0; cols];
            for (b, a) in b.iter().zip(lora.a.chunks_exact(cols)) {
                row.iter_mut()
                    .zip(a)
                    .for_each(|(r, a)| *r += real(b) * real(a));
            }
            row
        });
        Self::of(product.collect(), cols)
    }

    fn of(values: Vec<f64>, cols: usize) -> Self {
        let rows: Vec<f64> = values.chunks_exact(cols).map(length).collect();
        let rows_l1 = values
            .chunks_exact(cols)
            .map(|row| row.iter().map(|w| w.abs()).sum())
            .collect();
        // The Frobenius norm bounds it as well, and better for matrices of low rank.
        let operator = operator_norm(&values, cols).min(length(&rows));
        Self {
            rows,
            rows_l1,
            operator,
        }
    }
}

/// `|(W Wᵀ)²|_F^(1/4)`, at least the largest singular value and near it.
fn operator_norm(values: &[f64], cols: usize) -> f64 {
    let rows = values.len() / cols;
    if rows.min(cols) > LARGEST_GRAM {
        return f64::INFINITY;
    }
    // W·Wᵀ and Wᵀ·W have the same singular values: the smaller one will do.
    let gram = if rows <= cols {
        gram(values, cols)
    } else {
        gram(&transposed(values, cols), rows)
    };
    let side = rows.min(cols);
    // The Gram matrix is symmetric, so its square is its own Gram matrix.
    let square = self::gram(&gram, side);
    length(&square).powf(0.25)
}

fn transposed(values: &[f64], cols: usize) -> Vec<f64> {
    let rows = values.len() / cols;
    (0..cols)
        .flat_map(|j| (0..rows).map(move |i| values[i * cols + j]))
        .collect()
}

/// `W Wᵀ`.
fn gram(values: &[f64], cols: usize) -> Vec<f64> {
    let n = values.len() / cols;
    let dot = |a: &[f64], b: &[f64]| {
        // Eight sums side by side, so that the compiler may use vector instructions.
        let mut lanes = [0.0f64; 8];
        let a8 = a.chunks_exact(8);
        let b8 = b.chunks_exact(8);
        let rest: f64 = a8
            .remainder()
            .iter()
            .zip(b8.remainder())
            .map(|(a, b)| a * b)
            .sum();
        for (a, b) in a8.zip(b8) {
            (0..8).for_each(|l| lanes[l] += a[l] * b[l]);
        }
        rest + lanes.iter().sum::<f64>()
    };
    let mut out = vec![0.0; n * n];
    out.par_chunks_mut(n).enumerate().for_each(|(i, row)| {
        let own = &values[i * cols..][..cols];
        // Below the diagonal it is the mirror image, which the second loop fills in.
        (i..n).for_each(|j| row[j] = dot(own, &values[j * cols..][..cols]));
    });
    for i in 0..n {
        for j in 0..i {
            out[i * n + j] = out[j * n + i];
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operator_norm_is_bounded_from_above_and_closely() {
        // A diagonal matrix, and one of rank one, have norms that are known.
        let diagonal: Vec<f64> = (0..64)
            .map(|k| {
                if k % 9 == 0 {
                    f64::from(k) / 9.0 + 1.0
                } else {
                    0.0
                }
            })
            .collect();
        let bound = operator_norm(&diagonal, 8);
        assert!((8.0..9.5).contains(&bound), "{bound}");
        let rank_one: Vec<f64> = (0..6)
            .flat_map(|i| (0..40).map(move |j| f64::from(i + 1) * f64::from(j % 3)))
            .collect();
        let exact = length(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
            * length(&(0..40).map(|j| f64::from(j % 3)).collect::<Vec<_>>());
        // Power iteration on rank one ends after a step: exact but for the last bits.
        assert!((operator_norm(&rank_one, 40) / exact - 1.0).abs() < 1e-9);
        // As above.
        assert!((operator_norm(&transposed(&rank_one, 40), 6) / exact - 1.0).abs() < 1e-9);
    }
}
