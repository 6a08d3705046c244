//! Convolutions in clear, modulo 2^64: what the twin computes, and what the server adds of its own
//! share.
//!
//! An image is padded and taken apart into its pixels of equal rest modulo the stride. For each
//! weight the pixels that meet it are then neighbors in one stretch, of as many as the output has
//! with the borders between its rows, which are cut off at the end. Every weight takes the same
//! time, zeros too.

use marill_lattice::ConvolutionShape;
use zeroize::Zeroizing;

/// Outputs whose sums are filled together, so that pixels are read once for all of them.
const TOGETHER: usize = 4;

/// Rows and columns of one part of a padded image.
fn part_sides(shape: &ConvolutionShape) -> [usize; 2] {
    shape
        .image
        .map(|side| (side + 2 * shape.padding).div_ceil(shape.stride))
}

/// Pixels of a channel by their rests modulo the stride, a part after the other.
fn parts(shape: &ConvolutionShape, image: &[u64]) -> Zeroizing<Vec<u64>> {
    let [rows, columns] = part_sides(shape);
    let stride = shape.stride;
    let mut parts = Zeroizing::new(vec![0; stride * stride * rows * columns]);
    for (at, x) in image.iter().enumerate() {
        let row = at / shape.image[1] + shape.padding;
        let column = at % shape.image[1] + shape.padding;
        let part = row % stride * stride + column % stride;
        parts[(part * rows + row / stride) * columns + column / stride] = *x;
    }
    parts
}

/// Sums by output, row and column of products modulo 2^64; weights by output, channel, row and
/// column.
///
/// # Panics
/// When there are other than all pixels and weights.
#[must_use]
pub fn convolve(shape: &ConvolutionShape, x: &[u64], weights: &[i64]) -> Zeroizing<Vec<u64>> {
    assert_eq!(x.len(), shape.inputs(), "whole images");
    assert_eq!(weights.len(), shape.weights(), "all weights");
    let [tall, wide] = shape.kernel;
    let stride = shape.stride;
    let [part_rows, part_columns] = part_sides(shape);
    let [rows, columns] = shape.output();
    // With the borders between rows.
    let stretch = (rows - 1) * part_columns + columns;
    let mut sums = Zeroizing::new(vec![0u64; shape.outputs * stretch]);
    for (channel, image) in x.chunks_exact(shape.image[0] * shape.image[1]).enumerate() {
        let parts = parts(shape, image);
        let groups = sums.chunks_mut(TOGETHER * stretch).enumerate();
        for (group, sums) in groups {
            for (a, b) in (0..tall).flat_map(|a| (0..wide).map(move |b| (a, b))) {
                let part = a % stride * stride + b % stride;
                let first = (part * part_rows + a / stride) * part_columns + b / stride;
                let pixels = &parts[first..][..stretch];
                let weight = |m: usize| {
                    let output = group * TOGETHER + m;
                    weights[((output * shape.channels + channel) * tall + a) * wide + b] as u64
                };
                accumulate(sums, pixels, weight);
            }
        }
    }
    let mut out = Zeroizing::new(Vec::with_capacity(shape.results()));
    for sums in sums.chunks_exact(stretch) {
        for row in sums.chunks(part_columns) {
            out.extend_from_slice(&row[..columns]);
        }
    }
    out
}

/// Adds pixels times a weight to the sums of each output of a group.
fn accumulate(sums: &mut [u64], pixels: &[u64], weight: impl Fn(usize) -> u64) {
    let stretch = pixels.len();
    if sums.len() == TOGETHER * stretch {
        let weights: [u64; TOGETHER] = std::array::from_fn(weight);
        let (first, second) = sums.split_at_mut(2 * stretch);
        let (s0, s1) = first.split_at_mut(stretch);
        let (s2, s3) = second.split_at_mut(stretch);
        let sums = s0.iter_mut().zip(s1).zip(s2.iter_mut().zip(s3));
        for (((s0, s1), (s2, s3)), x) in sums.zip(pixels) {
            *s0 = s0.wrapping_add(x.wrapping_mul(weights[0]));
            *s1 = s1.wrapping_add(x.wrapping_mul(weights[1]));
            *s2 = s2.wrapping_add(x.wrapping_mul(weights[2]));
            *s3 = s3.wrapping_add(x.wrapping_mul(weights[3]));
        }
        return;
    }
    for (m, sums) in sums.chunks_exact_mut(stretch).enumerate() {
        let weight = weight(m);
        for (sum, x) in sums.iter_mut().zip(pixels) {
            *sum = sum.wrapping_add(x.wrapping_mul(weight));
        }
    }
}

#[cfg(test)]
mod tests {
    use marill_crypto::{Prg, Seed};

    use super::*;

    /// The definition, pixel by pixel.
    fn slow(shape: &ConvolutionShape, x: &[u64], weights: &[i64]) -> Vec<u64> {
        let [rows, columns] = shape.image;
        let [tall, wide] = shape.kernel;
        let [out_rows, out_columns] = shape.output();
        let mut out = Vec::new();
        for output in 0..shape.outputs {
            for at in 0..out_rows * out_columns {
                let mut sum = 0u64;
                for tap in 0..shape.channels * tall * wide {
                    let channel = tap / (tall * wide);
                    let row = (at / out_columns * shape.stride + tap / wide % tall)
                        .wrapping_sub(shape.padding);
                    let column =
                        (at % out_columns * shape.stride + tap % wide).wrapping_sub(shape.padding);
                    if row < rows && column < columns {
                        let w = weights[output * shape.channels * tall * wide + tap] as u64;
                        let x = x[(channel * rows + row) * columns + column];
                        sum = sum.wrapping_add(x.wrapping_mul(w));
                    }
                }
                out.push(sum);
            }
        }
        out
    }

    #[test]
    fn sums_are_those_of_the_definition() {
        let mut random = Prg::new(&Seed::from_bytes([1; 32]), "convolutions");
        for (channels, image, outputs, side, stride, padding) in [
            (3, [9, 8], 5, 3, 1, 1),
            (2, [9, 8], 4, 3, 2, 1),
            (1, [7, 7], 9, 1, 2, 0),
            (3, [12, 11], 2, 7, 2, 3),
            (4, [5, 5], 3, 5, 3, 0),
            (5, [1, 1], 6, 1, 1, 0),
        ] {
            let shape = ConvolutionShape {
                channels,
                image,
                outputs,
                kernel: [side; 2],
                stride,
                padding,
            };
            let x = random.words(shape.inputs());
            let words = random.words(shape.weights());
            let weights: Vec<i64> = words.iter().map(|w| *w as i64 >> 40).collect();
            assert_eq!(
                *convolve(&shape, &x, &weights),
                slow(&shape, &x, &weights),
                "{shape:?}"
            );
        }
    }
}
