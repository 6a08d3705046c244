//! Matrix kernels over Z_{2^64}.
//!
//! Two products are hot: 16-bit public weights times shares, and shares times shares. Both are exact integer sums
//! modulo 2^64, so every kernel and every blocking returns the same integers; the widest instruction set that the
//! machine offers is chosen at run time.

use rayon::prelude::*;

use crate::fixed::NumericError;

/// A public weight matrix `[rows, cols]` in 16-bit fixed point with one scale per row.
///
/// `W[i][j] = data[i·cols + j] / 2^(frac_bits - shift[i])`: the product with a vector is shifted left by `shift[i]`,
/// so that all outputs carry `frac_bits` more fractional bits than the input.
pub struct PublicMatrix {
    rows: usize,
    cols: usize,
    data: Vec<i16>,
    shift: Vec<u8>,
}

impl PublicMatrix {
    /// Quantises `weights` (`[rows, cols]`, row-major), each row with the finest power-of-two scale that fits 16 bits.
    /// `column_scale` multiplies column `j` first (a folded norm gain), `factor` everything.
    ///
    /// The rounding error of a weight is at most 2^-16 of its row's largest magnitude.
    ///
    /// # Errors
    /// [`NumericError::OutOfRange`] when a weight is not finite or at least 2^14.
    pub fn quantise(
        weights: &[f32],
        rows: usize,
        cols: usize,
        column_scale: Option<&[f32]>,
        factor: f64,
        frac_bits: u32,
        place: &str,
    ) -> Result<Self, NumericError> {
        assert_eq!(weights.len(), rows * cols, "`{place}` has the wrong number of weights");
        let limit = f64::from(1 << 14);
        let value = |i: usize, j: usize| {
            f64::from(weights[i * cols + j]) * column_scale.map_or(1.0, |s| f64::from(s[j])) * factor
        };
        let mut data = Vec::with_capacity(rows * cols);
        let mut shift = Vec::with_capacity(rows);
        for i in 0..rows {
            let mut largest = 0f64;
            for j in 0..cols {
                let v = value(i, j).abs();
                if v.is_nan() || v >= limit {
                    let index = i * cols + j;
                    return Err(NumericError::OutOfRange { place: place.to_owned(), index, value: value(i, j), limit });
                }
                largest = largest.max(v);
            }
            let mut bits = 0u32;
            while bits < frac_bits && (largest * f64::from(1u32 << (bits + 1))).round() <= 32767.0 {
                bits += 1;
            }
            shift.push((frac_bits - bits) as u8);
            let scale = f64::from(1u32 << bits);
            data.extend((0..cols).map(|j| (value(i, j) * scale).round_ties_even() as i16));
        }
        Ok(Self { rows, cols, data, shift })
    }

    /// A matrix of a shape without entries: it has rows and columns and multiplies nothing.
    #[must_use]
    pub fn shape_only(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: Vec::new(), shift: Vec::new() }
    }

    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Raises every row to one common scale, so that products of different rows compare without a shift that would
    /// cost range: the smallest shift becomes zero and the returned number of fractional bits is what products gain.
    #[must_use]
    pub fn with_common_scale(mut self, frac_bits: u32) -> (Self, u32) {
        let smallest = self.shift.iter().copied().min().unwrap_or(0);
        self.shift.iter_mut().for_each(|s| *s -= smallest);
        (self, frac_bits - u32::from(smallest))
    }

    /// Keeps only the given rows, in the given order.
    #[must_use]
    pub fn select_rows(&self, rows: &[u32]) -> Self {
        let data = rows.iter().flat_map(|&r| &self.data[r as usize * self.cols..][..self.cols]).copied().collect();
        let shift = rows.iter().map(|&r| self.shift[r as usize]).collect();
        Self { rows: rows.len(), cols: self.cols, data, shift }
    }

    /// `x · Wᵀ`: `x` is `[n, cols]`, the result `[n, rows]`.
    #[must_use]
    pub fn apply(&self, x: &[u64]) -> Vec<u64> {
        assert_eq!(x.len() % self.cols, 0, "the input is not a whole number of rows");
        let n = x.len() / self.cols;
        let mut out = vec![0u64; n * self.rows];
        // Blocks of weight rows stay in cache while every input row passes over them.
        const BLOCK: usize = 16;
        for first in (0..self.rows).step_by(BLOCK) {
            let last = (first + BLOCK).min(self.rows);
            let mut r = 0;
            while r + 4 <= n {
                let xs: [&[u64]; 4] = std::array::from_fn(|k| &x[(r + k) * self.cols..][..self.cols]);
                for i in first..last {
                    let sums = kernels::dot4_i16(&self.data[i * self.cols..][..self.cols], xs);
                    for (k, sum) in sums.into_iter().enumerate() {
                        out[(r + k) * self.rows + i] = sum << self.shift[i];
                    }
                }
                r += 4;
            }
            for r in r..n {
                let row = &x[r * self.cols..][..self.cols];
                for i in first..last {
                    out[r * self.rows + i] =
                        kernels::dot_i16(&self.data[i * self.cols..][..self.cols], row) << self.shift[i];
                }
            }
        }
        out
    }

    /// As [`Self::apply`], spread over rayon's threads by blocks of weight rows. The same integers.
    #[must_use]
    pub fn par_apply(&self, x: &[u64]) -> Vec<u64> {
        let n = x.len() / self.cols;
        if n != 1 || rayon::current_num_threads() == 1 {
            return self.apply(x);
        }
        let mut out = vec![0u64; self.rows];
        out.par_chunks_mut(256).enumerate().for_each(|(c, chunk)| {
            for (k, value) in chunk.iter_mut().enumerate() {
                let i = c * 256 + k;
                *value = kernels::dot_i16(&self.data[i * self.cols..][..self.cols], x) << self.shift[i];
            }
        });
        out
    }

    /// The weight in floating point.
    #[must_use]
    pub fn weight(&self, row: usize, col: usize, frac_bits: u32) -> f64 {
        f64::from(self.data[row * self.cols + col]) / (1u64 << (frac_bits - u32::from(self.shift[row]))) as f64
    }

    /// Bytes of weights and scales in memory.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        self.data.len() * 2 + self.shift.len()
    }

    /// Feeds weights and scales to a hash.
    pub fn hash_into(&self, update: &mut dyn FnMut(&[u8])) {
        self.data.iter().for_each(|v| update(&v.to_le_bytes()));
        update(&self.shift);
    }
}

/// Dot product modulo 2^64.
#[must_use]
pub fn dot(a: &[u64], b: &[u64]) -> u64 {
    kernels::dot_u64(a, b)
}

/// `a · bᵀ` modulo 2^64: `a` is `[m, k]`, `b` is `[n, k]`, the result `[m, n]`.
#[must_use]
pub fn matmul_transposed(a: &[u64], b: &[u64], k: usize) -> Vec<u64> {
    let (m, n) = (a.len() / k, b.len() / k);
    let mut out = vec![0u64; m * n];
    for (row, out) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        for (column, out) in b.chunks_exact(k).zip(out) {
            *out = kernels::dot_u64(row, column);
        }
    }
    out
}

/// `Σ table[i]` over the set bits `i` of a bit vector, modulo 2^32. `bits` has one word per 64 table entries.
#[must_use]
pub fn masked_sum(bits: &[u64], table: &[u32]) -> u32 {
    kernels::masked_sum(bits, table)
}

mod kernels {
    /// Defines a kernel whose generic body is compiled for three instruction sets and chosen at run time.
    macro_rules! dispatched {
        ($(#[$doc:meta])* $name:ident / $generic:ident ($($arg:ident : $ty:ty),*) -> $ret:ty) => {
            $(#[$doc])*
            #[inline]
            pub fn $name($($arg: $ty),*) -> $ret {
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
                    unsafe fn wide($($arg: $ty),*) -> $ret { $generic($($arg),*) }
                    #[target_feature(enable = "avx2")]
                    unsafe fn middle($($arg: $ty),*) -> $ret { $generic($($arg),*) }
                    if std::is_x86_feature_detected!("avx512dq") && std::is_x86_feature_detected!("avx512bw") && std::is_x86_feature_detected!("avx512vl") {
                        // SAFETY: the features were just detected.
                        return unsafe { wide($($arg),*) };
                    }
                    if std::is_x86_feature_detected!("avx2") {
                        // SAFETY: the feature was just detected.
                        return unsafe { middle($($arg),*) };
                    }
                }
                $generic($($arg),*)
            }
        };
    }

    dispatched!(
        /// Dot product of 16-bit weights and ring elements.
        dot_i16 / dot_i16_body(w: &[i16], x: &[u64]) -> u64
    );
    dispatched!(
        /// Four dot products that share their weights.
        dot4_i16 / dot4_i16_body(w: &[i16], x: [&[u64]; 4]) -> [u64; 4]
    );
    dispatched!(
        /// Dot product of ring elements.
        dot_u64 / dot_u64_body(a: &[u64], b: &[u64]) -> u64
    );

    dispatched!(
        /// Sum of the table entries whose bit is set. Every entry is read whatever the bits are.
        masked_sum / masked_sum_body(bits: &[u64], table: &[u32]) -> u32
    );

    const LANES: usize = 16;

    #[inline(always)]
    fn masked_sum_body(bits: &[u64], table: &[u32]) -> u32 {
        let mut lanes = [0u32; LANES];
        for (word, entries) in bits.iter().zip(table.chunks_exact(64)) {
            for part in 0..64 / LANES {
                let chunk = (word >> (part * LANES)) as u32;
                for l in 0..LANES {
                    let select = ((chunk >> l) & 1).wrapping_neg();
                    lanes[l] = lanes[l].wrapping_add(entries[part * LANES + l] & select);
                }
            }
        }
        lanes.iter().fold(0, |a: u32, &b| a.wrapping_add(b))
    }

    #[inline(always)]
    fn dot_i16_body(w: &[i16], x: &[u64]) -> u64 {
        let mut lanes = [0u64; LANES];
        let (wc, xc) = (w.chunks_exact(LANES), x.chunks_exact(LANES));
        let tail: u64 = sum_products(wc.remainder(), xc.remainder());
        for (w, x) in wc.zip(xc) {
            for l in 0..LANES {
                lanes[l] = lanes[l].wrapping_add((i64::from(w[l]) as u64).wrapping_mul(x[l]));
            }
        }
        lanes.iter().fold(tail, |a, &b| a.wrapping_add(b))
    }

    #[inline(always)]
    fn sum_products(w: &[i16], x: &[u64]) -> u64 {
        w.iter().zip(x).fold(0, |sum, (&w, &x)| sum.wrapping_add((i64::from(w) as u64).wrapping_mul(x)))
    }

    #[inline(always)]
    fn dot4_i16_body(w: &[i16], x: [&[u64]; 4]) -> [u64; 4] {
        const WIDTH: usize = 8;
        let mut lanes = [[0u64; WIDTH]; 4];
        let whole = w.len() / WIDTH * WIDTH;
        let x = x.map(|x| &x[..w.len()]);
        for start in (0..whole).step_by(WIDTH) {
            let mut wide = [0u64; WIDTH];
            for l in 0..WIDTH {
                wide[l] = i64::from(w[start + l]) as u64;
            }
            for k in 0..4 {
                let part = &x[k][start..start + WIDTH];
                for l in 0..WIDTH {
                    lanes[k][l] = lanes[k][l].wrapping_add(wide[l].wrapping_mul(part[l]));
                }
            }
        }
        std::array::from_fn(|k| {
            lanes[k].iter().fold(sum_products(&w[whole..], &x[k][whole..]), |a, &b| a.wrapping_add(b))
        })
    }

    #[inline(always)]
    fn dot_u64_body(a: &[u64], b: &[u64]) -> u64 {
        const WIDTH: usize = 16;
        let mut lanes = [0u64; WIDTH];
        let (ac, bc) = (a.chunks_exact(WIDTH), b.chunks_exact(WIDTH));
        let tail =
            ac.remainder().iter().zip(bc.remainder()).fold(0u64, |s, (&a, &b)| s.wrapping_add(a.wrapping_mul(b)));
        for (a, b) in ac.zip(bc) {
            for l in 0..WIDTH {
                lanes[l] = lanes[l].wrapping_add(a[l].wrapping_mul(b[l]));
            }
        }
        lanes.iter().fold(tail, |a, &b| a.wrapping_add(b))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn every_kernel_equals_the_plain_sum() {
            let mut state = 1u64;
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state ^ (state >> 29)
            };
            for len in [1, 7, 8, 15, 16, 17, 63, 576, 1000] {
                let w: Vec<i16> = (0..len).map(|_| next() as i16).collect();
                let x: Vec<Vec<u64>> = (0..4).map(|_| (0..len).map(|_| next()).collect()).collect();
                let plain = |x: &[u64]| sum_products(&w, x);
                assert_eq!(dot_i16(&w, &x[0]), plain(&x[0]));
                assert_eq!(
                    dot4_i16(&w, [&x[0], &x[1], &x[2], &x[3]]),
                    [plain(&x[0]), plain(&x[1]), plain(&x[2]), plain(&x[3])]
                );
                let wide: Vec<u64> = w.iter().map(|&v| i64::from(v) as u64).collect();
                assert_eq!(dot_u64(&wide, &x[0]), plain(&x[0]));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantised_products_are_close_to_the_float_ones_and_independent_of_the_batch() {
        let (rows, cols) = (5, 37);
        let weights: Vec<f32> = (0..rows * cols).map(|k| ((k * 37 % 101) as f32 - 50.0) / 173.0).collect();
        let matrix = PublicMatrix::quantise(&weights, rows, cols, None, 1.0, 24, "w").unwrap();
        let x: Vec<u64> = (0..6 * cols).map(|k| (((k * 71 % 997) as i64 - 500) << 5) as u64).collect();
        let all = matrix.apply(&x);
        for r in 0..6 {
            let row = &x[r * cols..][..cols];
            assert_eq!(all[r * rows..][..rows], matrix.apply(row)[..]);
            assert_eq!(all[r * rows..][..rows], matrix.par_apply(row)[..]);
            for i in 0..rows {
                let exact: f64 = (0..cols).map(|j| f64::from(weights[i * cols + j]) * row[j] as i64 as f64).sum();
                let got = all[r * rows + i] as i64 as f64 / f64::from(1 << 24);
                assert!((got - exact).abs() < 3.0, "{got} {exact}");
            }
        }
    }

    #[test]
    fn a_weight_that_does_not_fit_is_named() {
        let error =
            PublicMatrix::quantise(&[1.0, f32::INFINITY], 1, 2, None, 1.0, 24, "layers.3.q_proj").err().unwrap();
        assert!(error.to_string().contains("layers.3.q_proj"));
    }
}
