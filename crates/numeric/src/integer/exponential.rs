//! `exp(-z)` as a product of tables of the digits of `z` (SIRNN, S&P '21, section V-A).
//!
//! Against the exact value, `|out - floor(exp(-z)·2^out_scale)|` is at most 2 for all `z` of 16
//! bits at every pair of scales from 8 to 14 (a test); the real distance is below 3 units.

use super::digit_at;
use crate::tables::{ONE_BITS, exp_neg};

/// Bits of a digit; a highest one of a single bit goes with the digit below.
const DIGIT: u32 = 8;

/// `exp(-z)` of unsigned `z` of `bits` bits at `scale`, as an unsigned number at `out_scale`.
#[derive(Debug, Clone)]
pub struct ExpTables {
    pub out_scale: u32,
    /// Widths of the digits, the lowest first.
    pub widths: Vec<u32>,
    /// Of each digit, `floor(exp(-digit)·2^out_scale)`.
    pub tables: Vec<Vec<u64>>,
}

impl ExpTables {
    /// # Panics
    /// When a scale is above 30 bits, or there are not 2 to 64 bits.
    #[must_use]
    pub fn new(bits: u32, scale: u32, out_scale: u32) -> Self {
        assert!((2..=64).contains(&bits), "{bits} bits");
        assert!(scale.max(out_scale) <= 30, "a scale of 30 bits at most");
        let mut widths = Vec::new();
        let mut at = 0;
        while at < bits {
            let left = bits - at;
            let width = if left <= DIGIT + 1 { left } else { DIGIT };
            widths.push(width);
            at += width;
        }
        let places = (0u32..).zip(&widths);
        let tables = places.map(|(i, width)| {
            let entry = |digit: u64| {
                // 52 fractional bits; what does not fit is far beyond the last entry above zero.
                let z = i128::from(digit) << (DIGIT * i).min(64) << (ONE_BITS - scale);
                (exp_neg(z) >> (ONE_BITS - out_scale)) as u64
            };
            (0..1u64 << width).map(entry).collect()
        });
        let tables = tables.collect();
        Self {
            out_scale,
            widths,
            tables,
        }
    }

    /// Bits of an entry: one is the largest.
    #[must_use]
    pub fn entry_bits(&self) -> u32 {
        self.out_scale + 1
    }

    /// The integer program: neighbors are multiplied and cut off, until one is left.
    #[must_use]
    pub fn at(&self, z: u64) -> u64 {
        let mut place = 0;
        let mut factors: Vec<u64> = Vec::with_capacity(self.widths.len());
        for (width, table) in self.widths.iter().zip(&self.tables) {
            factors.push(table[digit_at(z, place, *width) as usize]);
            place += width;
        }
        while factors.len() > 1 {
            let pairs = factors.chunks(2);
            factors = pairs
                .map(|pair| match pair {
                    [a, b] => (a * b) >> self.out_scale,
                    rest => rest[0],
                })
                .collect();
        }
        factors[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_within_their_ulp() {
        let mut worst = [0.0f64; 2];
        for scale in 8..=14 {
            for out_scale in 8..=14 {
                let tables = ExpTables::new(16, scale, out_scale);
                for z in 0..1u64 << 16 {
                    let exact = (-(z as f64) / f64::from(1 << scale)).exp();
                    let exact = exact * f64::from(1 << out_scale);
                    let out = tables.at(z) as f64;
                    worst[0] = worst[0].max((out - exact.floor()).abs());
                    worst[1] = worst[1].max((out - exact).abs());
                }
            }
        }
        // The paper proves 3 units.
        assert!(worst[0] <= 2.0 && worst[1] < 3.0, "{worst:?}");
    }

    #[test]
    fn one_is_one_and_far_values_vanish() {
        for bits in [2, 8, 9, 15, 17, 24, 32, 37, 64] {
            let tables = ExpTables::new(bits, 12, 12);
            assert_eq!(tables.widths.iter().sum::<u32>(), bits);
            assert_eq!(tables.at(0), 1 << 12);
            assert!(tables.widths.iter().all(|width| (2..=9).contains(width)));
            if bits > 17 {
                assert_eq!(tables.at((1 << (bits - 1)) | 5), 0);
            }
        }
    }
}
