//! The committed tables, built with integer arithmetic only, so that every platform holds the same integers.
//!
//! Each table is pinned by one SHA-256 ([`digest`], checked against [`PINNED`] in a test): a change of any entry is a
//! change of the law and must raise [`crate::NumericSpec::law`].

use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::spec::hex;

/// Digest of all tables of law 2.
pub const PINNED: &str = "5baa8376ed53ed2284f1fc0d04bb7f4787de63322495794b7016f82445b6700d";

/// Fractional bits of the internal 128-bit fixed point used while building tables.
const ONE_BITS: u32 = 52;
const ONE: i128 = 1 << ONE_BITS;

/// Bits of the index of a [`LinearTable`]: 512 intervals.
pub const INDEX_BITS: u32 = 9;
/// Fractional bits of the argument and the result of the functions in [`LinearTable`]s.
pub const ARG_FRAC_BITS: u32 = 14;
/// A line before its truncation is below `2^(LINE_BITS - 2)` on its interval, so that it fits a wire of this width.
pub const LINE_BITS: u32 = 24;

/// All tables of the law.
pub struct Tables {
    /// `exp(-y)` on [0, 16), zero beyond.
    pub exp: LinearTable,
    /// `silu(x) - relu(x)` on [-16, 16).
    pub silu: LinearTable,
    /// `gelu(x) - relu(x)` on [-8, 8), `gelu(x) = x·Φ(x)`.
    pub gelu: LinearTable,
    /// `sigmoid(x) - [x >= 0]` on [-16, 16).
    pub sigmoid: LinearTable,
    /// `tanh(x) - sign(x)` on [-8, 8).
    pub tanh: LinearTable,
    /// `2^58 / sqrt(s)`.
    pub rsqrt: Piecewise,
    /// `2^40 / s`.
    pub recip: Piecewise,
}

/// What a [`LinearTable`]'s function does outside its domain, and what is added to the table inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Zero.
    Zero,
    /// `x` for `x >= 0`, else zero.
    Relu,
    /// `high` for `x >= 0`, else `low`; 14 fractional bits.
    Step { low: i64, high: i64 },
}

/// A function of a number with 14 fractional bits: a tail plus, on its domain, one of 512 lines of equal width,
/// `intercept[i] + slope[i]·x`, cut to 14 fractional bits.
pub struct LinearTable {
    /// Bits below the index: an interval is `2^low_bits` units wide.
    pub low_bits: u32,
    /// The first argument of the domain: 0, or minus half of it.
    pub start: i64,
    pub tail: Tail,
    /// Fractional bits of a slope; an intercept has [`ARG_FRAC_BITS`] more.
    pub slope_frac_bits: u32,
    pub intercept: Vec<i64>,
    pub slope: Vec<i64>,
}

/// A function of a positive integer over many octaves, linear on intervals: on `[threshold[j], threshold[j+1])` it is
/// `intercept[j] + slope[j]·(s >> shift[j])`. Below `threshold[0]` the first interval applies.
pub struct Piecewise {
    /// Bits of the ring in which the argument is opened.
    pub ring_bits: u32,
    /// Bits of one comparison digit.
    pub digit_bits: u32,
    pub threshold: Vec<u64>,
    pub shift: Vec<u32>,
    pub slope: Vec<u64>,
    pub intercept: Vec<u64>,
    /// The first argument outside the domain.
    pub end: u64,
}

/// The tables of the law, built once.
pub fn tables() -> &'static Tables {
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| Tables {
        exp: exp_table(),
        silu: linear_table(10, -(1 << 18), Tail::Relu, 9, |x| mul(x.abs(), -logistic(-x.abs()))),
        gelu: linear_table(9, -(1 << 17), Tail::Relu, 9, |x| mul(x.abs(), -normal_tail(x.abs()))),
        sigmoid: linear_table(10, -(1 << 18), Tail::Step { low: 0, high: 1 << 14 }, 8, |x| {
            if x < 0 { logistic(x) } else { -logistic(-x) }
        }),
        tanh: linear_table(9, -(1 << 17), Tail::Step { low: -(1 << 14), high: 1 << 14 }, 7, |x| {
            // tanh(x) = 1 - 2/(1 + exp(2x)); the distance to its sign.
            if x < 0 { 2 * logistic(2 * x) } else { -2 * logistic(-2 * x) }
        }),
        rsqrt: rsqrt_table(),
        recip: recip_table(),
    })
}

/// SHA-256 over every entry of every table, in hex.
#[must_use]
pub fn digest() -> String {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST
        .get_or_init(|| {
            let t = tables();
            let mut hash = Sha256::new();
            let mut add = |values: &mut dyn Iterator<Item = u64>| values.for_each(|v| hash.update(v.to_le_bytes()));
            for table in [&t.exp, &t.silu, &t.gelu, &t.sigmoid, &t.tanh] {
                add(&mut [u64::from(table.low_bits), u64::from(table.slope_frac_bits), table.start as u64].into_iter());
                add(&mut table.intercept.iter().chain(&table.slope).map(|&v| v as u64));
            }
            for table in [&t.rsqrt, &t.recip] {
                add(&mut table.threshold.iter().chain(&table.slope).chain(&table.intercept).copied());
                add(&mut table.shift.iter().map(|&v| u64::from(v)));
            }
            hex(&hash.finalize())
        })
        .clone()
}

fn mul(a: i128, b: i128) -> i128 {
    (a * b) >> ONE_BITS
}

/// `exp(-x)` for `x >= 0`, 52 fractional bits: halve the argument until it is small, sum the series, square back.
fn exp_neg(x: i128) -> i128 {
    if x >= 42 * ONE {
        return 0;
    }
    let halvings = 10;
    let small = x >> halvings;
    let (mut term, mut sum) = (ONE, ONE);
    for k in 1..16 {
        term = -mul(term, small) / k;
        sum += term;
    }
    (0..halvings).fold(sum, |value, _| mul(value, value))
}

/// `1 / (1 + exp(-x))`.
fn logistic(x: i128) -> i128 {
    let e = exp_neg(x.abs());
    if x >= 0 { (ONE << ONE_BITS) / (ONE + e) } else { (e << ONE_BITS) / (ONE + e) }
}

/// The upper tail of the normal distribution, `Φ(-x)` for `x >= 0`: the Taylor series of the error function up to 4,
/// its continued fraction beyond (both in 52-bit fixed point; the error is far below the tables' last bit).
fn normal_tail(x: i128) -> i128 {
    // 1/sqrt(2π), 52 fractional bits.
    const INV_SQRT_TAU: i128 = 1_796_676_305_358_228;
    if x >= 9 * ONE {
        return 0;
    }
    let density = mul(INV_SQRT_TAU, exp_neg(mul(x, x) >> 1));
    if x < 4 * ONE {
        // Φ(x) - 1/2 = φ(x)·(x + x³/3 + x⁵/15 + …), every term positive.
        let (mut term, mut sum, square) = (x, x, mul(x, x));
        for k in 1..120 {
            term = mul(term, square) / (2 * k + 1);
            sum += term;
        }
        return (ONE >> 1) - mul(density, sum);
    }
    let mut tail = x;
    for k in (1..60).rev() {
        tail = x + ((i128::from(k) << (2 * ONE_BITS)) / tail);
    }
    (density << ONE_BITS) / tail
}

/// Fits `f` (52 fractional bits in and out) on the 512 intervals: the chord's slope, then the intercept that halves
/// the largest residual over 33 points.
fn linear_table(low_bits: u32, start: i64, tail: Tail, slope_frac_bits: u32, f: impl Fn(i128) -> i128) -> LinearTable {
    let (mut intercept, mut slope) = (Vec::new(), Vec::new());
    let width = 1i128 << low_bits;
    let up = ONE_BITS - ARG_FRAC_BITS;
    let frac_bits = ARG_FRAC_BITS + slope_frac_bits;
    for i in 0..1i128 << INDEX_BITS {
        let left = i128::from(start) + i * width;
        let rise = f((left + width - 1) << up) - f(left << up);
        let chord = round_div(rise << ARG_FRAC_BITS, (width - 1) << (ONE_BITS - slope_frac_bits));
        let residuals = (0..=32).map(|k| {
            let x = left + (width - 1) * k / 32;
            (f(x << up) >> (ONE_BITS - frac_bits)) - chord * x
        });
        let (low, high) = residuals.fold((i128::MAX, i128::MIN), |(l, h), r| (l.min(r), h.max(r)));
        let middle = (low + high) >> 1;
        for x in [left, left + width - 1] {
            assert!((middle + chord * x).abs() < 1 << (LINE_BITS - 2), "a line leaves its wire");
        }
        intercept.push(middle as i64);
        slope.push(chord as i64);
    }
    LinearTable { low_bits, start, tail, slope_frac_bits, intercept, slope }
}

/// `exp(-y)`, with `exp(0) = 1` exactly: a softmax of one key is that key, and a sum of weights is at least one.
fn exp_table() -> LinearTable {
    let mut table = linear_table(9, 0, Tail::Zero, 7, exp_neg);
    table.intercept[0] = 1 << (ARG_FRAC_BITS + table.slope_frac_bits);
    table
}

fn round_div(a: i128, b: i128) -> i128 {
    (2 * a + b).div_euclid(2 * b)
}

/// Thresholds in geometric steps: `steps` per octave over `[2^first, 2^last)`.
fn geometric_thresholds(first: u32, last: u32, steps: u32) -> Vec<u64> {
    // 2^(k/steps) with 52 fractional bits, by a bisection on the integer power.
    let root: Vec<u128> = (0..steps).map(|k| two_to_fraction(k, steps)).collect();
    (first..last).flat_map(|octave| root.iter().map(move |&r| ((r << octave) >> ONE_BITS) as u64)).collect()
}

/// `2^(k/steps)`, 52 fractional bits, for `steps` a power of two: repeated square roots.
fn two_to_fraction(k: u32, steps: u32) -> u128 {
    let mut value: u128 = 1 << ONE_BITS;
    let mut root: u128 = 2 << ONE_BITS;
    let mut weight = steps;
    while weight > 1 {
        weight /= 2;
        root = (root << ONE_BITS).isqrt();
        if k & weight != 0 {
            value = (value * root) >> ONE_BITS;
        }
    }
    value
}

/// `2^58 / sqrt(s)` for `s` in `[2^19, 2^62)`, 16 intervals an octave.
fn rsqrt_table() -> Piecewise {
    let f = |s: u128| -> i128 {
        // 2^58/sqrt(s) with 8 more bits: sqrt(2^132/s) by one integer square root of a 128-bit quotient.
        let quotient = (u128::MAX / s) + 1; // 2^128/s rounded
        ((quotient << 4).isqrt()) as i128
    };
    piecewise(64, 8, geometric_thresholds(19, 62, 16), 1 << 62, 8, f, |s| {
        // Shifts are whole digits and leave 11 to 19 significant bits.
        ((63 - s.leading_zeros()).saturating_sub(11) / 8) * 8
    })
}

/// `2^40 / s` for `s` in `[2^14, 2^25)`, 32 intervals an octave.
fn recip_table() -> Piecewise {
    let f = |s: u128| -> i128 { ((1u128 << 48) / s) as i128 };
    piecewise(28, 7, geometric_thresholds(14, 25, 32), 1 << 25, 8, f, |s| if s < 1 << 17 { 0 } else { 7 })
}

/// Builds a piecewise table of `f`, which returns its value with `extra` more fractional bits.
fn piecewise(
    ring_bits: u32,
    digit_bits: u32,
    threshold: Vec<u64>,
    end: u64,
    extra: u32,
    f: impl Fn(u128) -> i128,
    shift_of: impl Fn(u64) -> u32,
) -> Piecewise {
    let (mut shift, mut slope, mut intercept) = (Vec::new(), Vec::new(), Vec::new());
    for (j, &left) in threshold.iter().enumerate() {
        let right = threshold.get(j + 1).copied().unwrap_or(end);
        let c = shift_of(left);
        let (first, last) = (left >> c, ((right - 1) >> c).max((left >> c) + 1));
        let at = |reduced: u64| f((u128::from(reduced) << c) + ((1u128 << c) >> 1));
        let chord = round_div(at(last) - at(first), i128::from(last - first) << extra);
        let residuals = (0..=32).map(|k| {
            let reduced = first + (last - first) * k / 32;
            at(reduced) - ((chord * i128::from(reduced)) << extra)
        });
        let (low, high) = residuals.fold((i128::MAX, i128::MIN), |(l, h), r| (l.min(r), h.max(r)));
        shift.push(c);
        slope.push(chord as i64 as u64);
        intercept.push(round_div((low + high) >> 1, 1 << extra) as i64 as u64);
    }
    Piecewise { ring_bits, digit_bits, threshold, shift, slope, intercept, end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_the_committed_ones() {
        assert_eq!(digest(), PINNED);
    }

    #[test]
    fn normal_tail_and_exponential_agree_with_known_values() {
        let close = |value: i128, expected: f64| assert!((value as f64 / ONE as f64 - expected).abs() < 1e-12);
        close(exp_neg(ONE), 0.367_879_441_171_442_33);
        close(logistic(-2 * ONE), 0.119_202_922_022_117_56);
        close(normal_tail(ONE), 0.158_655_253_931_457_05);
        close(normal_tail(5 * ONE), 2.866_515_718_791_939e-7);
    }
}
