//! Matrix kernels over Z_{2^64}.
//!
//! Two products are hot: 16-bit public weights times shares, and shares times shares. Both are
//! exact integer sums modulo 2^64, so every kernel and every blocking returns the same integers;
//! the widest instruction set that the machine offers is chosen at run time.

mod slices;
mod tensor;

use rayon::prelude::*;

use crate::fixed::NumericError;
pub use crate::ring::{
    slices::{add_scaled_to, add_to, negate, negated, subtract_from, sum},
    tensor::{RingTensor, Word},
};

/// A public weight matrix `[rows, cols]` in 16-bit fixed point with one scale per row.
///
/// `W[i][j] = data[i·cols + j] / 2^(frac_bits - shift[i])`: the product with a vector is shifted
/// left by `shift[i]`, so that all outputs carry `frac_bits` more fractional bits than the input.
pub struct PublicMatrix {
    rows: usize,
    cols: usize,
    data: Vec<i16>,
    shift: Vec<u8>,
}

impl PublicMatrix {
    /// Quantizes `weights` (`[rows, cols]`, row-major), each row with the finest power-of-two scale
    /// that fits 16 bits. `column_scale` multiplies column `j` first (a folded norm gain), and
    /// `row_factor` of `i` everything in row `i`.
    ///
    /// The rounding error of a weight is at most 2^-16 of its row's largest magnitude.
    ///
    /// # Errors
    /// [`NumericError::OutOfRange`] when a weight is not finite or at least 2^14.
    pub fn quantize(
        weights: &[f32],
        rows: usize,
        cols: usize,
        column_scale: Option<&[f32]>,
        row_factor: &dyn Fn(usize) -> f64,
        frac_bits: u32,
        label: &str,
    ) -> Result<Self, NumericError> {
        assert_eq!(
            weights.len(),
            rows * cols,
            "`{label}` has the wrong number of weights"
        );
        let limit = f64::from(1 << 14);
        let value = |i: usize, j: usize| {
            f64::from(weights[i * cols + j])
                * column_scale.map_or(1.0, |s| f64::from(s[j]))
                * row_factor(i)
        };
        let mut data = Vec::with_capacity(rows * cols);
        let mut shift = Vec::with_capacity(rows);
        for i in 0..rows {
            let mut largest = 0f64;
            for j in 0..cols {
                let v = value(i, j).abs();
                if v.is_nan() || v >= limit {
                    let index = i * cols + j;
                    return Err(NumericError::OutOfRange {
                        label: label.to_owned(),
                        index,
                        value: value(i, j),
                        limit,
                    });
                }
                largest = largest.max(v);
            }
            let mut bits = 0u32;
            while bits < frac_bits && (largest * f64::from(1u32 << (bits + 1))).round() <= 32767.0 {
                bits += 1;
            }
            shift.push((frac_bits - bits) as u8);
            let scale = f64::from(1u32 << bits);
            data.extend((0..cols).map(|j| nearest(value(i, j) * scale) as i16));
        }
        Ok(Self {
            rows,
            cols,
            data,
            shift,
        })
    }

    /// A matrix of a shape without entries: it has rows and columns and multiplies nothing.
    #[must_use]
    pub fn shape_only(rows: usize, cols: usize) -> Self {
        Self {
            rows,
            cols,
            data: Vec::new(),
            shift: Vec::new(),
        }
    }

    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Raises every row to one common scale, so that products of different rows compare without a
    /// shift that would cost range: the smallest shift becomes zero and the returned number of
    /// fractional bits is what products gain.
    #[must_use]
    pub fn with_common_scale(mut self, frac_bits: u32) -> (Self, u32) {
        let smallest = self.shift.iter().copied().min().unwrap_or(0);
        self.shift.iter_mut().for_each(|s| *s -= smallest);
        (self, frac_bits - u32::from(smallest))
    }

    /// `x · Wᵀ`: `x` is `[n, cols]`, the result `[n, rows]`.
    #[must_use]
    pub fn apply(&self, x: &[u64]) -> Vec<u64> {
        assert_eq!(
            x.len() % self.cols,
            0,
            "the input is not a whole number of rows"
        );
        let mut out = vec![0u64; x.len() / self.cols * self.rows];
        self.apply_to(x, &mut out);
        out
    }

    fn apply_to(&self, x: &[u64], out: &mut [u64]) {
        // Blocks of weight rows stay in cache while every input row passes over them.
        const BLOCK: usize = 16;
        for first in (0..self.rows).step_by(BLOCK) {
            let weights = &self.data[first * self.cols..(first + BLOCK).min(self.rows) * self.cols];
            kernels::product(weights, x, self.cols, |i, r, sum| {
                out[r * self.rows + first + i] = sum << self.shift[first + i];
            });
        }
    }

    /// As [`Self::apply`], spread over rayon's threads where that is worth waking them: by blocks
    /// of weight rows for one input row, by input rows for more. The same integers.
    #[must_use]
    pub fn par_apply(&self, x: &[u64]) -> Vec<u64> {
        /// Multiplications that take longer than waking a thread, about a tenth of a millisecond.
        const WORTH_A_THREAD: usize = 1 << 20;
        /// Weight rows, or input rows, of one piece of work.
        const WEIGHT_ROWS: usize = 256;
        const INPUT_ROWS: usize = 16;
        let n = x.len() / self.cols;
        if n * self.rows * self.cols < 2 * WORTH_A_THREAD || rayon::current_num_threads() == 1 {
            return self.apply(x);
        }
        assert_eq!(
            x.len() % self.cols,
            0,
            "the input is not a whole number of rows"
        );
        let mut out = vec![0u64; n * self.rows];
        if n == 1 {
            out.par_chunks_mut(WEIGHT_ROWS)
                .enumerate()
                .for_each(|(c, chunk)| {
                    let first = c * WEIGHT_ROWS;
                    let weights = &self.data[first * self.cols..(first + chunk.len()) * self.cols];
                    kernels::product(weights, x, self.cols, |i, _, sum| {
                        chunk[i] = sum << self.shift[first + i]
                    });
                });
        } else {
            let pieces = out
                .par_chunks_mut(INPUT_ROWS * self.rows)
                .zip(x.par_chunks(INPUT_ROWS * self.cols));
            pieces.for_each(|(out, x)| self.apply_to(x, out));
        }
        out
    }

    /// The weight in floating point.
    #[must_use]
    pub fn weight(&self, row: usize, col: usize, frac_bits: u32) -> f64 {
        f64::from(self.data[row * self.cols + col])
            / (1u64 << (frac_bits - u32::from(self.shift[row]))) as f64
    }

    /// Feeds weights and scales to a hash.
    pub fn hash_into(&self, update: &mut dyn FnMut(&[u8])) {
        for values in self.data.chunks(4096) {
            update(
                &values
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect::<Vec<u8>>(),
            );
        }
        update(&self.shift);
    }
}

/// Rounds to the nearest integer, ties to even, for magnitudes below 2^51: the addition rounds to
/// the last bit kept.
#[inline]
fn nearest(value: f64) -> f64 {
    const SHIFT: f64 = 6_755_399_441_055_744.0; // 1.5 · 2^52
    (value + SHIFT) - SHIFT
}

/// Dot product modulo 2^64.
#[must_use]
pub fn dot(a: &[u64], b: &[u64]) -> u64 {
    kernels::dot_u64(a, b)
}

/// `a · bᵀ` modulo 2^64: `a` is `[m, k]`, `b` is `[n, k]`, the result `[m, n]`.
#[must_use]
pub fn matmul_transposed(a: &[u64], b: &[u64], k: usize) -> Vec<u64> {
    let m = a.len() / k;
    let n = b.len() / k;
    let mut out = vec![0u64; m * n];
    kernels::product(b, a, k, |j, i, sum| out[i * n + j] = sum);
    out
}

/// `Σ table[i]` over the set bits `i` of a bit vector, modulo 2^32. `bits` has one word per 64
/// table entries.
#[must_use]
pub fn masked_sum(bits: &[u64], table: &[u32]) -> u32 {
    kernels::masked_sum(bits, table)
}

mod kernels {
    /// An operand of a product: ring elements, or weights that extend to them.
    pub trait Operand: Copy {
        fn dot(a: &[Self], x: &[u64]) -> u64;
        /// Eight elements, or as many as the mask names, as ring elements.
        ///
        /// # Safety
        /// Needs AVX-512 F, BW and VL; `at` must be readable for the elements named.
        #[cfg(target_arch = "x86_64")]
        unsafe fn load(at: *const Self, mask: u8) -> std::arch::x86_64::__m512i;
    }

    impl Operand for i16 {
        fn dot(a: &[Self], x: &[u64]) -> u64 {
            dot_i16(a, x)
        }

        #[cfg(target_arch = "x86_64")]
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn load(at: *const Self, mask: u8) -> std::arch::x86_64::__m512i {
            use std::arch::x86_64::{_mm_maskz_loadu_epi16, _mm512_cvtepi16_epi64};
            // SAFETY: the caller vouches for the elements named.
            _mm512_cvtepi16_epi64(unsafe { _mm_maskz_loadu_epi16(mask, at) })
        }
    }

    impl Operand for u64 {
        fn dot(a: &[Self], x: &[u64]) -> u64 {
            dot_u64(a, x)
        }

        #[cfg(target_arch = "x86_64")]
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn load(at: *const Self, mask: u8) -> std::arch::x86_64::__m512i {
            // SAFETY: the caller vouches for the elements named.
            unsafe { std::arch::x86_64::_mm512_maskz_loadu_epi64(mask, at.cast()) }
        }
    }

    /// Every dot product of a row of `a` (rows of `k`) with a row of `x`:
    /// `put(row of a, row of x, sum)`.
    pub fn product<T: Operand>(
        a: &[T],
        x: &[u64],
        k: usize,
        mut put: impl FnMut(usize, usize, u64),
    ) {
        let m = a.len() / k;
        let n = x.len() / k;
        let mut done = 0;
        #[cfg(target_arch = "x86_64")]
        if has_tiles() {
            done = m / 4 * 4;
            for i in (0..done).step_by(4) {
                let rows = a[i * k..(i + 4) * k].as_ptr();
                for r in (0..n / 4 * 4).step_by(4) {
                    // SAFETY: the features were detected, and four whole rows of each operand lie
                    // at these places.
                    let sums = unsafe { tile::<T, 4>(rows, x[r * k..(r + 4) * k].as_ptr(), k) };
                    for (di, row) in sums.iter().enumerate() {
                        row.iter()
                            .enumerate()
                            .for_each(|(dr, &sum)| put(i + di, r + dr, sum));
                    }
                }
                for r in n / 4 * 4..n {
                    // SAFETY: as above, with one row of `x`.
                    let sums = unsafe { tile::<T, 1>(rows, x[r * k..(r + 1) * k].as_ptr(), k) };
                    sums.iter()
                        .enumerate()
                        .for_each(|(di, &[sum])| put(i + di, r, sum));
                }
            }
        }
        for i in done..m {
            for r in 0..n {
                put(i, r, T::dot(&a[i * k..][..k], &x[r * k..][..k]));
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn has_tiles() -> bool {
        std::is_x86_feature_detected!("avx512dq")
            && std::is_x86_feature_detected!("avx512bw")
            && std::is_x86_feature_detected!("avx512vl")
    }

    /// Dot products of length `k` of four rows of `a` with `R` rows of `x` at once.
    ///
    /// # Safety
    /// Needs AVX-512 DQ, BW and VL, `4 * k` readable elements at `a` and `R * k` at `x`.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl")]
    unsafe fn tile<T: Operand, const R: usize>(
        a: *const T,
        x: *const u64,
        k: usize,
    ) -> [[u64; R]; 4] {
        use std::arch::x86_64::{
            _MM_HINT_T0, _mm_prefetch, _mm512_add_epi64, _mm512_mullo_epi64,
            _mm512_reduce_add_epi64, _mm512_setzero_si512,
        };
        let mut sums = [[_mm512_setzero_si512(); R]; 4];
        for start in (0..k).step_by(8) {
            let mask = if k - start >= 8 {
                0xff
            } else {
                (1u8 << (k - start)) - 1
            };
            let mut right = [_mm512_setzero_si512(); R];
            for (r, right) in right.iter_mut().enumerate() {
                // SAFETY: the mask keeps every load inside its row of `k` elements.
                *right = unsafe { u64::load(x.add(r * k + start), mask) };
            }
            for (i, row) in sums.iter_mut().enumerate() {
                if R == 1 && start % 32 == 0 {
                    // A model's weights come from memory, and one row of `x` is through before they
                    // are there unasked.
                    _mm_prefetch::<_MM_HINT_T0>(a.wrapping_add((i + 8) * k + start).cast());
                }
                // SAFETY: as above.
                let left = unsafe { T::load(a.add(i * k + start), mask) };
                for (sum, right) in row.iter_mut().zip(right) {
                    *sum = _mm512_add_epi64(*sum, _mm512_mullo_epi64(left, right));
                }
            }
        }
        // A closure would be compiled without the features, and called.
        let mut out = [[0; R]; 4];
        for (out, row) in out.iter_mut().zip(sums) {
            for (out, sum) in out.iter_mut().zip(row) {
                *out = _mm512_reduce_add_epi64(sum) as u64;
            }
        }
        out
    }

    /// Defines a kernel whose generic body is compiled for three instruction sets and chosen at run
    /// time.
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
                    if std::is_x86_feature_detected!("avx512dq")
                        && std::is_x86_feature_detected!("avx512bw")
                        && std::is_x86_feature_detected!("avx512vl")
                    {
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
        /// Dot product of ring elements.
        dot_u64 / dot_u64_body(a: &[u64], b: &[u64]) -> u64
    );

    /// Sum of the table entries whose bit is set. Every entry is read whatever the bits are.
    #[inline]
    pub fn masked_sum(bits: &[u64], table: &[u32]) -> u32 {
        assert_eq!(bits.len() * 64, table.len(), "one bit an entry");
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just detected, and the lengths were just compared.
            return unsafe { masked_sum_wide(bits, table) };
        }
        masked_sum_body(bits, table)
    }

    /// # Safety
    /// Needs AVX-512 F, and 64 entries for each word of `bits`.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    unsafe fn masked_sum_wide(bits: &[u64], table: &[u32]) -> u32 {
        use std::arch::x86_64::{
            _mm512_loadu_si512, _mm512_mask_add_epi32, _mm512_reduce_add_epi32,
            _mm512_setzero_si512,
        };
        let mut sums = [_mm512_setzero_si512(); 4];
        for (word, entries) in bits.iter().zip(table.chunks_exact(64)) {
            for (part, sum) in sums.iter_mut().enumerate() {
                let select = (word >> (16 * part)) as u16;
                // SAFETY: `entries` has 64 values, of which this reads 16 from `16 * part` on.
                let values = unsafe { _mm512_loadu_si512(entries.as_ptr().add(16 * part).cast()) };
                *sum = _mm512_mask_add_epi32(*sum, select, *sum, values);
            }
        }
        sums.iter().fold(0u32, |total, sum| {
            total.wrapping_add(_mm512_reduce_add_epi32(*sum) as u32)
        })
    }

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
        let wc = w.chunks_exact(LANES);
        let xc = x.chunks_exact(LANES);
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
        w.iter().zip(x).fold(0, |sum, (&w, &x)| {
            sum.wrapping_add((i64::from(w) as u64).wrapping_mul(x))
        })
    }

    #[inline(always)]
    fn dot_u64_body(a: &[u64], b: &[u64]) -> u64 {
        const WIDTH: usize = 16;
        let mut lanes = [0u64; WIDTH];
        let ac = a.chunks_exact(WIDTH);
        let bc = b.chunks_exact(WIDTH);
        let tail = ac
            .remainder()
            .iter()
            .zip(bc.remainder())
            .fold(0u64, |s, (&a, &b)| s.wrapping_add(a.wrapping_mul(b)));
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
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state ^ (state >> 29)
            };
            for len in [1, 7, 8, 15, 16, 17, 63, 576, 1000] {
                let w: Vec<i16> = (0..len).map(|_| next() as i16).collect();
                let x: Vec<u64> = (0..6 * len).map(|_| next()).collect();
                let plain = |w: &[i16], x: &[u64]| sum_products(w, x);
                assert_eq!(dot_i16(&w, &x[..len]), plain(&w, &x[..len]));
                let tall: Vec<i16> = (0..7 * len).map(|_| next() as i16).collect();
                let widened: Vec<u64> = tall.iter().map(|&v| i64::from(v) as u64).collect();
                let mut seen = 0;
                product(&tall, &x, len, |i, r, sum| {
                    assert_eq!(sum, plain(&tall[i * len..][..len], &x[r * len..][..len]));
                    seen += 1;
                });
                product(&widened, &x, len, |i, r, sum| {
                    assert_eq!(sum, plain(&tall[i * len..][..len], &x[r * len..][..len]));
                    seen += 1;
                });
                assert_eq!(seen, 2 * 7 * 6);
                let bits: Vec<u64> = (0..8).map(|_| next()).collect();
                let table: Vec<u32> = (0..512).map(|_| next() as u32).collect();
                let expected = (0..512)
                    .filter(|i| bits[i / 64] >> (i % 64) & 1 == 1)
                    .fold(0u32, |s, i| s.wrapping_add(table[i]));
                assert_eq!(
                    (masked_sum(&bits, &table), masked_sum_body(&bits, &table)),
                    (expected, expected)
                );
                let wide: Vec<u64> = w.iter().map(|&v| i64::from(v) as u64).collect();
                assert_eq!(dot_u64(&wide, &x[..len]), plain(&w, &x[..len]));
            }
        }
    }
}

#[cfg(test)]
mod tests;
