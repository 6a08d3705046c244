//! Sigmoid and hyperbolic tangent, by lines between the multiples of a power of two.
//!
//! Against the exact value, `|out - floor(f(x)·2^out_scale)|` is at most 1 for the sigmoid and 2
//! for the tangent, for all `x` of 16 bits at every pair of scales from 8 to 14 (a test).

use super::digit_at;
use crate::{
    fixed::{low_mask, sign_extend},
    tables::{ONE, ONE_BITS, logistic},
};

/// Which function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Sigmoid,
    Tanh,
}

impl Shape {
    /// Beyond `±2^reach` the function is its tail.
    fn reach(self) -> u32 {
        match self {
            Self::Sigmoid => 4,
            Self::Tanh => 3,
        }
    }

    /// Lines per unit, as a power of two. The error of the best line over a width `h` is `h²/16`
    /// times the second derivative, at most 0.097 and 0.77: 0.4 and 0.8 units of the result.
    fn fineness(self, out_scale: u32) -> u32 {
        let less = match self {
            Self::Sigmoid => 6,
            Self::Tanh => 4,
        };
        out_scale.saturating_sub(less).div_ceil(2).max(1)
    }

    /// What is added to a result so that it is not negative, as a power of two of the scale; the
    /// span of the results is twice that or one.
    fn lowest(self) -> i64 {
        match self {
            Self::Sigmoid => 0,
            Self::Tanh => -1,
        }
    }

    /// 52 fractional bits in and out.
    fn at(self, x: i128) -> i128 {
        match self {
            Self::Sigmoid => logistic(x),
            Self::Tanh => 2 * logistic(2 * x) - ONE,
        }
    }
}

/// `f(x)` of signed `x` of `bits` bits at `scale`, at `out_scale`.
#[derive(Debug, Clone)]
pub struct CurveTables {
    pub shape: Shape,
    pub bits: u32,
    pub out_scale: u32,
    /// Bits below the index.
    pub low: u32,
    pub index: u32,
    /// What is added to `x`: the domain begins there.
    pub start: u64,
    /// Fractional bits of a line beside those of the result.
    pub frac: u32,
    /// Of each interval, with the lowest result at zero.
    pub value: Vec<u64>,
    pub slope: Vec<u64>,
}

impl CurveTables {
    /// # Panics
    /// When scales or widths leave no index of 2 to 14 bits, or are above 24 bits.
    #[must_use]
    pub fn new(shape: Shape, bits: u32, scale: u32, out_scale: u32) -> Self {
        assert!(
            scale < bits && bits <= 64 && (2..=24).contains(&scale) && out_scale <= 24,
            "{bits} bits at scale {scale}, to {out_scale}"
        );
        let reach = shape.reach().min(bits - 1 - scale);
        let fineness = shape.fineness(out_scale).min(scale - 1);
        let index = reach + 1 + fineness;
        assert!(
            (2..=14).contains(&index),
            "an index of 2 to 14 bits, not {index}"
        );
        let low = scale - fineness;
        let mut tables = Self {
            shape,
            bits,
            out_scale,
            low,
            index,
            start: 1 << (reach + scale),
            // Of the slope's error, half a unit times half an interval, an eighth is left.
            frac: low + 1,
            value: Vec::new(),
            slope: Vec::new(),
        };
        for i in 0..1i128 << index {
            let first = (i << low) - i128::from(tables.start);
            let (value, slope) = tables.line(first, scale);
            tables.value.push(value);
            tables.slope.push(slope);
        }
        tables
    }

    /// The lowest result, negated.
    #[must_use]
    pub fn bias(&self) -> u64 {
        (-self.shape.lowest() as u64) << self.out_scale
    }

    /// Distance of the tails, as a power of two.
    #[must_use]
    pub fn span(&self) -> u32 {
        self.out_scale + u32::from(self.shape.lowest() != 0)
    }

    /// Whether there are values beyond the lines.
    #[must_use]
    pub fn clips(&self) -> bool {
        self.low + self.index < self.bits
    }

    /// The line of an interval: the chord's slope, and the value that halves the largest residual.
    fn line(&self, first: i128, scale: u32) -> (u64, u64) {
        let last = i128::from(low_mask(self.low));
        let at = |d: i128| {
            let x = (first + d) << (ONE_BITS - scale);
            let bias = i128::from(self.bias()) << self.frac;
            (self.shape.at(x) >> (ONE_BITS - self.out_scale - self.frac)) + bias
        };
        let slope = ((2 * (at(last) - at(0)) + last) / (2 * last)).max(0);
        let places = if self.low <= 6 { last } else { 64 };
        let residuals = (0..=places).map(|k| {
            let d = last * k / places;
            at(d) - slope * d
        });
        let ends = residuals.fold((i128::MAX, i128::MIN), |(l, h), r| (l.min(r), h.max(r)));
        let value = ((ends.0 + ends.1) >> 1).max(0);
        (value as u64, slope as u64)
    }

    /// Widths of values and of slopes.
    #[must_use]
    pub fn widths(&self) -> [u32; 2] {
        [&self.value, &self.slope].map(|entries| widest(entries))
    }

    /// The integer program, modulo `2^out_bits`.
    #[must_use]
    pub fn at(&self, x: u64, out_bits: u32) -> u64 {
        let moved = x.wrapping_add(self.start) & low_mask(self.bits);
        let i = moved >> self.low;
        let out = if i >> self.index == 0 {
            let d = digit_at(moved, 0, self.low);
            (self.value[i as usize] + self.slope[i as usize] * d) >> self.frac
        } else {
            u64::from(sign_extend(x, self.bits) >= 0) << self.span()
        };
        out.wrapping_sub(self.bias()) & low_mask(out_bits)
    }
}

/// Bits of the largest entry, at least one.
pub(super) fn widest(entries: &[u64]) -> u32 {
    let largest = entries.iter().max().copied().unwrap_or_default();
    (64 - largest.leading_zeros()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(shape: Shape, f: fn(f64) -> f64) -> [f64; 2] {
        let mut worst = [0.0f64; 2];
        for scale in 8..=14 {
            for out_scale in 8..=14 {
                let tables = CurveTables::new(shape, 16, scale, out_scale);
                for x in i16::MIN..=i16::MAX {
                    let exact = f(f64::from(x) / f64::from(1 << scale));
                    let exact = exact * f64::from(1 << out_scale);
                    let out = sign_extend(tables.at(x as u16 as u64, 16), 16) as f64;
                    worst[0] = worst[0].max((out - exact.floor()).abs());
                    worst[1] = worst[1].max((out - exact).abs());
                }
            }
        }
        worst
    }

    #[test]
    fn sigmoids_are_within_their_ulp() {
        let [floor, real] = worst(Shape::Sigmoid, |x| 1.0 / (1.0 + (-x).exp()));
        // The paper's has 3.
        assert!(floor <= 1.0 && real < 1.6, "{floor} {real}");
    }

    #[test]
    fn tangents_are_within_their_ulp() {
        let [floor, real] = worst(Shape::Tanh, f64::tanh);
        // The paper's has 4.
        assert!(floor <= 2.0 && real < 2.0, "{floor} {real}");
    }

    #[test]
    fn wide_numbers_have_tails() {
        for (shape, low, high) in [(Shape::Sigmoid, 0, 4096), (Shape::Tanh, -4096, 4096)] {
            let tables = CurveTables::new(shape, 37, 12, 12);
            assert!(tables.clips());
            for x in [1i64 << 20, 1 << 35, (1 << 36) - 1] {
                let at = |x: i64| sign_extend(tables.at(x as u64, 37), 37);
                assert_eq!([at(-x), at(x)], [low, high]);
                assert_eq!(at(-x - 1), low);
            }
        }
    }
}
