//! The non-linear functions of the numeric specification, on integers.

use crate::{
    fixed::{low_mask, truncate},
    tables::{INDEX_BITS, LinearTable, Piecewise, Tail, approx_tables, tables},
};

/// `exp(-y)` with 14 fractional bits in and out; 0 from `y = 16 - 1/32` on.
///
/// Domain: `0 <= y < 2^31`. Error: at most 1.5e-4 (all 2^18 inputs swept in a test).
#[must_use]
pub fn exp_neg(y: u64) -> u64 {
    linear(&tables().exp, y)
}

/// `exp(-max(y, 0))`, of [`crate::approx::SoftmaxForm::Clipped`]: 14 fractional bits in and out.
///
/// Domain: `|y| < 2^31`. Error: at most 1.5e-4, and none below zero (all inputs to 16 swept).
#[must_use]
pub fn exp_clipped(y: u64) -> u64 {
    linear(&approx_tables().exp, y)
}

/// `2^40 / (s + 16)`, of approximated softmaxes. Domain: `0 <= s < 2^25`. Relative error at most
/// 7e-4 up to `s = 2^20`, 1.2e-2 at the end.
#[must_use]
pub fn recip_floored(s: u64) -> u64 {
    piecewise(&approx_tables().recip, s)
}

/// SiLU, `x·sigmoid(x)`: 14 fractional bits in and out.
///
/// Domain: `|x| < 2^30`. Error: at most 1.7e-4 (all inputs around [-16, 16) swept).
#[must_use]
pub fn silu(x: u64) -> u64 {
    linear(&tables().silu, x)
}

/// GeLU, `x·Φ(x)`: 14 fractional bits in and out. Same domain; error at most 9.2e-5.
#[must_use]
pub fn gelu(x: u64) -> u64 {
    linear(&tables().gelu, x)
}

/// The logistic function: 14 fractional bits in and out. Same domain; error at most 1e-4.
#[must_use]
pub fn sigmoid(x: u64) -> u64 {
    linear(&tables().sigmoid, x)
}

/// The hyperbolic tangent: 14 fractional bits in and out. Same domain; error at most 1.1e-4.
#[must_use]
pub fn tanh(x: u64) -> u64 {
    linear(&tables().tanh, x)
}

/// A tabulated function: its tail plus, inside the domain, its line.
#[must_use]
pub fn linear(table: &LinearTable, x: u64) -> u64 {
    linear_by(table, x, truncate)
}

/// As [`linear`], with the rounding of the line's truncation given: from the line and the bits to
/// cut.
pub fn linear_by(table: &LinearTable, x: u64, round: impl FnOnce(u64, u32) -> u64) -> u64 {
    let positive = x as i64 >= 0;
    let tail = match table.tail {
        Tail::Zero => 0,
        Tail::Relu => x & u64::from(positive).wrapping_neg(),
        Tail::Step { low, high } => (if positive { high } else { low }) as u64,
    };
    let shifted = x.wrapping_sub(table.start as u64);
    if shifted >> (INDEX_BITS + table.low_bits) != 0 {
        return tail;
    }
    let i = (shifted >> table.low_bits) as usize;
    let distance = shifted & low_mask(table.low_bits);
    let line = (table.value[i] as u64).wrapping_add((table.slope[i] as u64).wrapping_mul(distance));
    tail.wrapping_add(round(line, table.slope_frac_bits))
}

/// Fractional bits of [`rsqrt`].
pub const RSQRT_BITS: u32 = 58;
/// Fractional bits of [`recip`].
pub const RECIP_BITS: u32 = 40;

/// `2^58 / sqrt(s)`. Domain: `2^19 <= s < 2^62` (below, the first interval applies). Relative error
/// at most 2.5e-4.
#[must_use]
pub fn rsqrt(s: u64) -> u64 {
    piecewise(&tables().rsqrt, s)
}

/// `2^40 / s`. Domain: `2^14 <= s < 2^25`. Relative error at most 6e-4 up to `s = 2^20`, 1.2e-2 at
/// the end.
#[must_use]
pub fn recip(s: u64) -> u64 {
    piecewise(&tables().recip, s)
}

/// Evaluates a piecewise table; values below the first threshold use the first interval.
#[must_use]
pub fn piecewise(table: &Piecewise, s: u64) -> u64 {
    let j = table
        .threshold
        .partition_point(|&t| t <= s)
        .saturating_sub(1);
    table.intercept[j].wrapping_add(table.slope[j].wrapping_mul(s >> table.shift[j]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worst(range: std::ops::Range<i64>, step: usize, f: impl Fn(i64) -> f64) -> f64 {
        range.step_by(step).map(f).fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_within_its_bound_on_every_input() {
        let error = worst(0..1 << 18, 1, |y| {
            (exp_neg(y as u64) as f64 / 16384.0 - (-(y as f64) / 16384.0).exp()).abs()
        });
        // The bound that the documentation of the function states.
        assert!(error <= 1.5e-4, "{error}");
        assert_eq!(
            (exp_neg(0), exp_neg(1 << 18), exp_neg(1 << 30)),
            (1 << 14, 0, 0)
        );
    }

    #[test]
    fn gate_functions_are_within_their_bounds_on_every_input() {
        let logistic = |x: f64| 1.0 / (1.0 + (-x).exp());
        let real = |v: u64| v as i64 as f64 / f64::from(1 << 14);
        let span = -(1i64 << 18) - 5..(1i64 << 18) + 5;
        let silu_error = worst(span.clone(), 1, |x| {
            let r = x as f64 / 16384.0;
            (real(silu(x as u64)) - r * logistic(r)).abs()
        });
        // The bounds of this test are those that the documentation of the functions states.
        assert!(silu_error <= 1.7e-4, "{silu_error}");
        let sigmoid_error = worst(span.clone(), 1, |x| {
            (real(sigmoid(x as u64)) - logistic(x as f64 / 16384.0)).abs()
        });
        // As stated.
        assert!(sigmoid_error <= 1e-4, "{sigmoid_error}");
        let tanh_error = worst(span.clone(), 1, |x| {
            (real(tanh(x as u64)) - (x as f64 / 16384.0).tanh()).abs()
        });
        assert!(tanh_error <= 1.1e-4, "{tanh_error}");
        // Abramowitz and Stegun 7.1.26 is good to 1.5e-7, enough to check a bound of 9e-5.
        let tail = |x: f64| {
            let z = x / std::f64::consts::SQRT_2;
            let t = 1.0 / (1.0 + 0.327_591_1 * z);
            let poly = t
                * (0.254_829_592
                    + t * (-0.284_496_736
                        + t * (1.421_413_741 + t * (-1.453_152_027 + t * 1.061_405_429))));
            0.5 * poly * (-z * z).exp()
        };
        let gelu_error = worst(span, 1, |x| {
            let r = x as f64 / 16384.0;
            let exact = if r < 0.0 {
                r * tail(-r)
            } else {
                r * (1.0 - tail(r))
            };
            (real(gelu(x as u64)) - exact).abs()
        });
        // As stated.
        assert!(gelu_error <= 9.2e-5, "{gelu_error}");
    }

    #[test]
    fn reciprocals_are_within_their_bounds() {
        let relative = |value: u64, exact: f64| (value as f64 / exact - 1.0).abs();
        let error = worst(0..43 * 4096, 1, |k| {
            let s = (19.0 + k as f64 / 4096.0).exp2().ceil() as u64;
            relative(rsqrt(s), 58f64.exp2() / (s as f64).sqrt())
        });
        // The bounds of this test are those that the documentation of the functions states.
        assert!(error <= 2.5e-4, "{error}");
        let error = worst(1 << 14..1 << 20, 1, |s| {
            relative(recip(s as u64), 40f64.exp2() / s as f64)
        });
        // As stated, up to 2^20.
        assert!(error <= 6e-4, "{error}");
        let error = worst(1 << 20..1 << 25, 1, |s| {
            relative(recip(s as u64), 40f64.exp2() / s as f64)
        });
        // As stated, above 2^20.
        assert!(error <= 1.2e-2, "{error}");
    }
}
