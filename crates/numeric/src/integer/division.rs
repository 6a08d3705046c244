//! Division of a signed number by a positive one, by a line for the reciprocal of the normalized
//! divisor.
//!
//! Against the exact quotient, `|out - floor(a/b·2^14)|` is at most 1 over 16 bits at scale 14
//! wherever the quotient fits (a test over all divisors with the largest numerators and a spread of
//! others).

use super::curve::widest;
use crate::fixed::{low_mask, sign_extend};

/// `a/b` of signed `a` and positive `b` of `bits` bits and one scale; results of `out_bits` at
/// `out_scale`, for quotients below `2^(out_bits - 1 - out_scale)` in magnitude. Any others are
/// what the program says.
#[derive(Debug, Clone)]
pub struct DivisionTables {
    pub bits: u32,
    pub out_bits: u32,
    pub out_scale: u32,
    /// Bits of the divisor behind its leading one that are the index.
    pub index: u32,
    /// Of each interval of the normalized divisor, with [`Self::low`] fractional bits more than the
    /// reciprocal; slopes are taken off.
    pub value: Vec<u64>,
    pub slope: Vec<u64>,
}

impl DivisionTables {
    /// # Panics
    /// When there are not 6 to 46 bits, or products of more than 64.
    #[must_use]
    pub fn new(bits: u32, out_bits: u32, out_scale: u32) -> Self {
        assert!(
            (6..=46).contains(&bits) && (4..=28).contains(&out_bits) && out_scale < out_bits,
            "{bits} bits to {out_bits} at scale {out_scale}"
        );
        // Half of this many bits are right at first, a line doubles them.
        let index = (out_bits - 2).div_ceil(2).clamp(2, bits - 3);
        let mut tables = Self {
            bits,
            out_bits,
            out_scale,
            index,
            value: Vec::new(),
            slope: Vec::new(),
        };
        assert!(tables.product() <= 64, "{} bits", tables.product());
        for i in 0..1u64 << index {
            let (value, slope) = tables.line(i);
            tables.value.push(value);
            tables.slope.push(slope);
        }
        tables
    }

    /// Bits of the normalized divisor, the highest one set.
    #[must_use]
    pub fn divisor(&self) -> u32 {
        self.bits - 1
    }

    /// Bits of the normalized numerator, its sign included.
    #[must_use]
    pub fn numerator(&self) -> u32 {
        self.out_bits - 1 - self.out_scale + self.divisor() + 1
    }

    /// Bits of the normalized divisor below the index.
    #[must_use]
    pub fn low(&self) -> u32 {
        self.divisor() - 1 - self.index
    }

    /// Fractional bits of the reciprocal, which is in `(1/2, 1]`: its unit is a quarter of one of
    /// the result.
    #[must_use]
    pub fn scale(&self) -> u32 {
        self.out_bits + 2
    }

    /// Bits of the reciprocal, the top one zero.
    #[must_use]
    pub fn reciprocal(&self) -> u32 {
        self.scale() + 2
    }

    /// Bits of the product that are cut off.
    #[must_use]
    pub fn shift(&self) -> u32 {
        self.scale() + self.divisor() - 1 - self.out_scale
    }

    /// Bits of the product.
    #[must_use]
    pub fn product(&self) -> u32 {
        self.out_bits + self.shift()
    }

    /// Bits of a line.
    #[must_use]
    pub fn ring(&self) -> u32 {
        self.reciprocal() + self.low()
    }

    /// Widths of values and of slopes.
    #[must_use]
    pub fn widths(&self) -> [u32; 2] {
        [&self.value, &self.slope].map(|entries| widest(entries))
    }

    /// The chord's slope, and the value that halves the largest residual.
    fn line(&self, i: u64) -> (u64, u64) {
        let last = i128::from(low_mask(self.low()));
        let first = (1i128 << (self.divisor() - 1)) + (i128::from(i) << self.low());
        let one = self.scale() + self.low() + self.divisor() - 1;
        let at = |d: i128| (1i128 << one) / (first + d);
        let length = last.max(1);
        let slope = (2 * (at(0) - at(last)) + length) / (2 * length);
        let places = last.min(64);
        let residuals = (0..=places).map(|k| {
            let d = (last * k).checked_div(places).unwrap_or(0);
            at(d) + slope * d
        });
        let ends = residuals.fold((i128::MAX, i128::MIN), |(l, h), r| (l.min(r), h.max(r)));
        (((ends.0 + ends.1) >> 1) as u64, slope as u64)
    }

    /// The integer program.
    #[must_use]
    pub fn at(&self, a: u64, b: u64) -> u64 {
        let b = b & low_mask(self.divisor());
        let Some(k) = b.checked_ilog2() else {
            return 0;
        };
        let moved = self.divisor() - 1 - k;
        let divisor = b << moved;
        let i = ((divisor >> self.low()) & low_mask(self.index)) as usize;
        let d = divisor & low_mask(self.low());
        let line = self.value[i].wrapping_sub(self.slope[i].wrapping_mul(d));
        let reciprocal = (line & low_mask(self.ring())) >> self.low();
        let a = (sign_extend(a, self.bits) as u64) << moved;
        let a = sign_extend(a & low_mask(self.numerator()), self.numerator());
        let product = (a as u64).wrapping_mul(reciprocal) & low_mask(self.product());
        product >> self.shift()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotients_are_within_their_ulp() {
        let tables = DivisionTables::new(16, 16, 14);
        let mut worst = [0.0f64; 2];
        for b in 1i64..1 << 15 {
            let largest = (2 * b - 1).min((1 << 15) - 1);
            let spread = (-16..=16).map(|k| largest * k / 16);
            for a in spread.chain([b, -b, 1, -1]) {
                let exact = a as f64 / b as f64 * 16_384.0;
                if exact.abs() >= 32_767.0 {
                    continue;
                }
                let out = sign_extend(tables.at(a as u64 & 0xffff, b as u64), 16) as f64;
                worst[0] = worst[0].max((out - exact.floor()).abs());
                worst[1] = worst[1].max((out - exact).abs());
            }
        }
        // The paper's has 5.
        assert!(worst[0] <= 1.0 && worst[1] < 1.5, "{worst:?}");
    }

    #[test]
    fn nothing_divides_by_zero() {
        let tables = DivisionTables::new(16, 16, 14);
        assert_eq!([0, 5, 0xffff].map(|a| tables.at(a, 0)), [0; 3]);
    }
}
