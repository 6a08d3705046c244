//! Products of the prefix: every element is one [`dot`], whatever is computed beside it.

use rayon::prelude::*;

use crate::ops::dot;

/// Running sums of a [`dot`].
const LANES: usize = 16;

/// Outputs that one thread takes at a time: their weights stay in cache while all rows pass.
const OUTPUTS: usize = 32;

/// `x W^T`, `[rows, out]`; threads split the outputs, each of which is one [`dot`].
pub(super) fn linear(x: &[f32], weight: &[f32], inner: usize) -> Vec<f32> {
    let rows = x.len() / inner;
    let out = weight.len() / inner;
    let tasks: Vec<Vec<f32>> = weight
        .par_chunks(OUTPUTS * inner)
        .map(|weights| {
            let mut tile = vec![0f32; rows * weights.len() / inner];
            dots(x, weights, inner, &mut tile);
            tile
        })
        .collect();
    let mut y = vec![0f32; rows * out];
    for (task, tile) in tasks.iter().enumerate() {
        let width = tile.len() / rows;
        for (row, values) in tile.chunks_exact(width).enumerate() {
            y[row * out + task * OUTPUTS..][..width].copy_from_slice(values);
        }
    }
    y
}

/// All rows of `x` against all rows of `weights`.
fn dots(x: &[f32], weights: &[f32], inner: usize, tile: &mut [f32]) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        // SAFETY: the feature was detected.
        return unsafe { wide::dots(x, weights, inner, tile) };
    }
    blocks::<1, 1>(x, weights, inner, tile, |[x], [w]| [[dot(x, w)]]);
}

/// In blocks of `R` rows, which divides their number, and `O` outputs.
#[inline(always)]
fn blocks<const R: usize, const O: usize>(
    x: &[f32],
    weights: &[f32],
    inner: usize,
    tile: &mut [f32],
    block: impl Fn([&[f32]; R], [&[f32]; O]) -> [[f32; O]; R],
) {
    let outputs = weights.len() / inner;
    let rows = x.len() / inner;
    let row = |nth: usize| &x[nth * inner..][..inner];
    let output = |nth: usize| &weights[nth * inner..][..inner];
    let whole = outputs / O * O;
    for out in (0..whole).step_by(O) {
        let w = std::array::from_fn(|nth| output(out + nth));
        for first in (0..rows).step_by(R) {
            let x = std::array::from_fn(|nth| row(first + nth));
            for (nth, sums) in block(x, w).iter().enumerate() {
                tile[(first + nth) * outputs + out..][..O].copy_from_slice(sums);
            }
        }
    }
    for out in whole..outputs {
        for nth in 0..rows {
            tile[nth * outputs + out] = dot(row(nth), output(out));
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };

    use super::{LANES, blocks};

    /// In blocks of four elements: their sums and operands fill the registers, and each load serves
    /// two products where there are two rows.
    #[target_feature(enable = "avx2")]
    pub fn dots(x: &[f32], weights: &[f32], inner: usize, tile: &mut [f32]) {
        let outputs = weights.len() / inner;
        let pairs = x.len() / (2 * inner) * 2;
        let (pairs_of, last) = x.split_at(pairs * inner);
        let (tile, rest) = tile.split_at_mut(pairs * outputs);
        blocks::<2, 2>(pairs_of, weights, inner, tile, |x, w| block(x, w));
        blocks::<1, 4>(last, weights, inner, rest, |x, w| block(x, w));
    }

    /// [`crate::ops::dot`] of each row with each output: the same sums in the same order.
    #[target_feature(enable = "avx2")]
    fn block<const R: usize, const O: usize>(x: [&[f32]; R], w: [&[f32]; O]) -> [[f32; O]; R] {
        let whole = x[0].len() / LANES * LANES;
        let mut sums = [[[_mm256_setzero_ps(); 2]; O]; R];
        for at in (0..whole).step_by(LANES) {
            for half in 0..2 {
                let load = |slice: &[f32]| {
                    let lanes = &slice[at + half * LANES / 2..][..LANES / 2];
                    // SAFETY: the slice has as many lanes.
                    unsafe { _mm256_loadu_ps(lanes.as_ptr()) }
                };
                let mut right = [_mm256_setzero_ps(); O];
                for (right, w) in right.iter_mut().zip(w) {
                    *right = load(w);
                }
                for (sums, x) in sums.iter_mut().zip(x) {
                    let left = load(x);
                    for (sum, right) in sums.iter_mut().zip(right) {
                        // Two roundings, as in floats one by one.
                        sum[half] = _mm256_add_ps(sum[half], _mm256_mul_ps(left, right));
                    }
                }
            }
        }
        let mut out = [[0f32; O]; R];
        for (r, sums) in sums.iter().enumerate() {
            for (o, halves) in sums.iter().enumerate() {
                let mut lanes = [0f32; LANES / 2];
                // SAFETY: the array has as many lanes. The first step of the pairwise sum.
                unsafe {
                    _mm256_storeu_ps(lanes.as_mut_ptr(), _mm256_add_ps(halves[0], halves[1]));
                }
                let mut width = LANES / 4;
                while width > 0 {
                    for lane in 0..width {
                        lanes[lane] += lanes[lane + width];
                    }
                    width /= 2;
                }
                let tail = x[r][whole..].iter().zip(&w[o][whole..]);
                out[r][o] = tail.fold(lanes[0], |sum, (x, w)| sum + x * w);
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, step: u32) -> Vec<f32> {
        let value = |i: u32| (i.wrapping_mul(step) >> 8) as f32 / 1e6 - 8.0;
        (0..count as u32).map(value).collect()
    }

    #[test]
    fn every_element_is_one_dot_product() {
        for inner in [1, 15, 16, 50, 576] {
            for rows in [1, 2, 3, 4, 5, 9] {
                for out in [1, 3, 4, 31, 33, 70] {
                    let x = values(rows * inner, 2_654_435_761);
                    let w = values(out * inner, 2_246_822_519);
                    let y = linear(&x, &w, inner);
                    for row in 0..rows {
                        for o in 0..out {
                            let one = dot(&x[row * inner..][..inner], &w[o * inner..][..inner]);
                            let found = y[row * out + o];
                            assert_eq!(found.to_bits(), one.to_bits(), "{inner} {rows} {out}");
                        }
                    }
                }
            }
        }
    }
}
