//! The committed tables, built with integer arithmetic only, so that every platform holds the same
//! integers.
//!
//! Each table is pinned by one SHA-256 ([`digest`], checked against [`PINNED`] in a test): a change
//! of any entry is a change of the numeric specification and must raise
//! [`crate::NumericSpec::version`].

mod approx;

use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use crate::hex::hex;
pub use crate::tables::approx::{ApproxTables, RECIP_FLOOR, approx_tables};

/// Digest of all tables of version 3.
pub const PINNED: &str = "2ae2e59a4326edbddd6f5f00b384b28af0b41473e165f9969a30ff0c7429f581";

/// Fractional bits of the internal 128-bit fixed point used while building tables.
pub(crate) const ONE_BITS: u32 = 52;
pub(crate) const ONE: i128 = 1 << ONE_BITS;

/// Bits of the index of a [`LinearTable`]: 512 intervals.
pub const INDEX_BITS: u32 = 9;
/// Fractional bits of the argument and the result of the functions in [`LinearTable`]s.
pub const ARG_FRAC_BITS: u32 = 14;
/// A line before its truncation, with its bias, is below `2^(PIECE_BITS - 1)`, so that it fits a
/// wire of this width.
pub const PIECE_BITS: u32 = 24;

/// All tables of the numeric specification.
pub struct Tables {
    /// `exp(-y)` on [0, 16 - 1/32), zero beyond.
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

/// What a [`LinearTable`]'s function does outside its domain, and what is added to the table
/// inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Zero.
    Zero,
    /// `x` for `x >= 0`, else zero.
    Relu,
    /// `high` for `x >= 0`, else `low`; 14 fractional bits.
    Step { low: i64, high: i64 },
}

/// A function of a number with 14 fractional bits: a tail plus, on its domain, one of 512 lines of
/// equal width, `value[i] + slope[i]·d` for the distance `d` to the interval's start, truncated to
/// 14 fractional bits.
///
/// Where the function has no jump, neither has the table: each line ends where the next one starts,
/// and the last where the first does. A line continued to the left of its interval is then the
/// right value plus a change of slope, which spares a secure lookup one of its two candidates'
/// values.
pub struct LinearTable {
    /// Bits below the index: an interval is `2^low_bits` units wide.
    pub low_bits: u32,
    /// The first argument of the domain.
    pub start: i64,
    pub tail: Tail,
    /// Fractional bits of a slope; a value has [`ARG_FRAC_BITS`] more.
    pub slope_frac_bits: u32,
    /// What is added to a line so that it lies in `[0, 2^(PIECE_BITS - 1))`; a multiple of
    /// `2^slope_frac_bits`.
    pub bias: i64,
    pub value: Vec<i64>,
    pub slope: Vec<i64>,
    /// Where the line before ends, for a function with jumps; empty for one without.
    pub left: Vec<i64>,
}

/// A function of a positive integer over many octaves, linear on intervals: on
/// `[threshold[j], threshold[j+1])` it is `intercept[j] + slope[j]·(s >> shift[j])`. Below
/// `threshold[0]` the first interval applies.
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

/// The tables of the numeric specification, built once.
pub fn tables() -> &'static Tables {
    // For lines between -0.28 and zero.
    const NEGATIVE: i64 = 3 << (PIECE_BITS - 3);
    static TABLES: OnceLock<Tables> = OnceLock::new();
    TABLES.get_or_init(|| Tables {
        exp: exp_table(),
        silu: continuous_table((10, -(1 << 18), 0), Tail::Relu, 10, NEGATIVE, |x| {
            mul(x.abs(), -logistic(-x.abs()))
        }),
        gelu: continuous_table((9, -(1 << 17), 0), Tail::Relu, 10, NEGATIVE, |x| {
            mul(x.abs(), -normal_tail(x.abs()))
        }),
        sigmoid: stepped_table(
            10,
            -(1 << 18),
            Tail::Step {
                low: 0,
                high: 1 << 14,
            },
            8,
            STEPPED_BIAS,
            |x| {
                if x < 0 { logistic(x) } else { -logistic(-x) }
            },
        ),
        tanh: stepped_table(
            9,
            -(1 << 17),
            Tail::Step {
                low: -(1 << 14),
                high: 1 << 14,
            },
            7,
            STEPPED_BIAS,
            |x| {
                // tanh(x) = 1 - 2/(1 + exp(2x)); the distance to its sign.
                if x < 0 {
                    2 * logistic(2 * x)
                } else {
                    -2 * logistic(-2 * x)
                }
            },
        ),
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
            let mut add = |values: &mut dyn Iterator<Item = u64>| {
                values.for_each(|v| hash.update(v.to_le_bytes()))
            };
            for table in [&t.exp, &t.silu, &t.gelu, &t.sigmoid, &t.tanh] {
                add(&mut [u64::from(table.low_bits), u64::from(table.slope_frac_bits)].into_iter());
                add(&mut [table.start as u64, table.bias as u64].into_iter());
                add(&mut table
                    .value
                    .iter()
                    .chain(&table.slope)
                    .chain(&table.left)
                    .map(|&v| v as u64));
            }
            for table in [&t.rsqrt, &t.recip] {
                add(&mut table
                    .threshold
                    .iter()
                    .chain(&table.slope)
                    .chain(&table.intercept)
                    .copied());
                add(&mut table.shift.iter().map(|&v| u64::from(v)));
            }
            hex(&hash.finalize())
        })
        .clone()
}

fn mul(a: i128, b: i128) -> i128 {
    (a * b) >> ONE_BITS
}

/// `exp(-x)` for `x >= 0`, 52 fractional bits: halve the argument until it is small, sum the
/// series, square back.
pub(crate) fn exp_neg(x: i128) -> i128 {
    if x >= 42 * ONE {
        return 0;
    }
    let halvings = 10;
    let small = x >> halvings;
    let mut term = ONE;
    let mut sum = ONE;
    for k in 1..16 {
        term = -mul(term, small) / k;
        sum += term;
    }
    (0..halvings).fold(sum, |value, _| mul(value, value))
}

/// `1 / (1 + exp(-x))`.
pub(crate) fn logistic(x: i128) -> i128 {
    let e = exp_neg(x.abs());
    if x >= 0 {
        (ONE << ONE_BITS) / (ONE + e)
    } else {
        (e << ONE_BITS) / (ONE + e)
    }
}

/// The upper tail of the normal distribution, `Φ(-x)` for `x >= 0`: the Taylor series of the error
/// function up to 4, its continued fraction beyond (both in 52-bit fixed point; the error is far
/// below the tables' last bit).
fn normal_tail(x: i128) -> i128 {
    // 1/sqrt(2π), 52 fractional bits.
    const INV_SQRT_TAU: i128 = 1_796_676_305_358_228;
    if x >= 9 * ONE {
        return 0;
    }
    let density = mul(INV_SQRT_TAU, exp_neg(mul(x, x) >> 1));
    if x < 4 * ONE {
        // Φ(x) - 1/2 = φ(x)·(x + x³/3 + x⁵/15 + …), every term positive.
        let mut term = x;
        let mut sum = x;
        let square = mul(x, x);
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

/// A function to be tabulated, 52 fractional bits in and out, sampled at 33 points of an interval.
struct Samples<F> {
    f: F,
    low_bits: u32,
    start: i64,
    frac_bits: u32,
}

impl<F: Fn(i128) -> i128> Samples<F> {
    /// The function at argument `start + offset`, at the scale of a line.
    fn at(&self, offset: i128) -> i128 {
        let x = (i128::from(self.start) + offset) << (ONE_BITS - ARG_FRAC_BITS);
        (self.f)(x) >> (ONE_BITS - self.frac_bits)
    }

    /// `(d, f(start of interval i + d))`
    fn interval(&self, i: usize) -> Vec<(i128, i128)> {
        let last = (1i128 << self.low_bits) - 1;
        let distances = (0..=32).map(|k| last * k / 32);
        distances
            .map(|d| (d, self.at(((i as i128) << self.low_bits) + d)))
            .collect()
    }
}

/// For lines on both sides of zero.
const STEPPED_BIAS: i64 = 1 << (PIECE_BITS - 2);

/// Fits a function with jumps: the chord's slope, then the value that halves the largest residual.
fn stepped_table(
    low_bits: u32,
    start: i64,
    tail: Tail,
    slope_frac_bits: u32,
    bias: i64,
    f: impl Fn(i128) -> i128,
) -> LinearTable {
    let samples = Samples {
        f,
        low_bits,
        start,
        frac_bits: ARG_FRAC_BITS + slope_frac_bits,
    };
    let mut value = Vec::new();
    let mut slope = Vec::new();
    for i in 0..1usize << INDEX_BITS {
        let points = samples.interval(i);
        let (last, end) = points[32];
        let chord = round_div(end - points[0].1, last);
        let residuals = points.iter().map(|(d, y)| y - chord * d);
        let (low, high) = residuals.fold((i128::MAX, i128::MIN), |(l, h), r| (l.min(r), h.max(r)));
        value.push(((low + high) >> 1) as i64);
        slope.push(chord as i64);
    }
    let end = |i: usize| value[i] + (slope[i] << low_bits);
    let left = (0..value.len())
        .map(|i| end((i + value.len() - 1) % value.len()))
        .collect();
    LinearTable {
        low_bits,
        start,
        tail,
        slope_frac_bits,
        bias,
        value,
        slope,
        left,
    }
    .checked()
}

/// Fits a function without jumps by lines that meet: the values at the ends of the intervals are
/// multiples of `2^low_bits` with the smallest sum of squared errors over all samples (a largest
/// error alone would leave the flat parts biased, which sums of many small values show), found by
/// dynamic programming over the five multiples around each. Interval `first` starts at `f`'s own
/// value and ends are equal, so that the table is a circle.
fn continuous_table(
    (low_bits, start, first): (u32, i64, usize),
    tail: Tail,
    slope_frac_bits: u32,
    bias: i64,
    f: impl Fn(i128) -> i128,
) -> LinearTable {
    const AROUND: i128 = 2;
    let samples = Samples {
        f,
        low_bits,
        start,
        frac_bits: ARG_FRAC_BITS + slope_frac_bits,
    };
    let count = 1usize << INDEX_BITS;
    let nearest = |i: usize| round_div(samples.at((i as i128) << low_bits), 1 << low_bits);
    // By interval and candidate of its end: the sum so far and the candidate of its start.
    let mut steps: Vec<Vec<(i128, i128)>> = Vec::new();
    let mut starts = vec![(0i128, nearest(first))];
    for i in first..count {
        let points = samples.interval(i);
        let ends: Vec<i128> = match i + 1 == count {
            // The circle closes at the value of its last end.
            true => vec![nearest(count)],
            false => (-AROUND..=AROUND)
                .map(|around| nearest(i + 1) + around)
                .collect(),
        };
        let best = |&end: &i128| {
            let error = |&(sofar, start): &(i128, i128)| {
                let off =
                    |&(d, y): &(i128, i128)| ((start << low_bits) + (end - start) * d - y).pow(2);
                (sofar + points.iter().map(off).sum::<i128>(), start)
            };
            starts.iter().map(error).min().unwrap_or((0, 0))
        };
        let step: Vec<(i128, i128)> = ends.iter().map(best).collect();
        starts = step
            .iter()
            .zip(&ends)
            .map(|((sum, _), end)| (*sum, *end))
            .collect();
        steps.push(step);
    }
    let mut value = vec![0; count];
    let mut slope = vec![0; count];
    let mut end = nearest(count);
    value[0] = (end << low_bits) as i64;
    for (k, step) in steps.iter().enumerate().rev() {
        let i = first + k;
        let candidate = if i + 1 == count {
            0
        } else {
            end - nearest(i + 1) + AROUND
        };
        let (_, begin) = step[candidate as usize];
        if i > 0 {
            value[i] = (begin << low_bits) as i64;
        }
        slope[i] = (end - begin) as i64;
        end = begin;
    }
    assert!(
        first > 0 || value[0] == (end << low_bits) as i64,
        "the first line starts where the last one ends"
    );
    LinearTable {
        low_bits,
        start,
        tail,
        slope_frac_bits,
        bias,
        value,
        slope,
        left: Vec::new(),
    }
    .checked()
}

impl LinearTable {
    /// Checks that every line, with its bias and what rounding adds, fits its wire.
    fn checked(self) -> Self {
        for (value, slope) in self.value.iter().zip(&self.slope) {
            for d in [0, (1 << self.low_bits) - 1] {
                let line = value + slope * d + self.bias;
                let half = 1 << (self.slope_frac_bits - 1);
                assert!(
                    line >= 0 && line + half < 1 << (PIECE_BITS - 1),
                    "a line leaves its wire"
                );
            }
        }
        assert_eq!(
            self.bias % (1 << self.slope_frac_bits),
            0,
            "the bias is cut off exactly"
        );
        self
    }
}

/// `exp(-y)` for `y >= 0`, with `exp(0) = 1` exactly: a softmax of one key is that key, and a sum
/// of weights is at least one. The first interval lies below zero, where no argument is: it keeps
/// the one at zero from meeting the end.
fn exp_table() -> LinearTable {
    continuous_table((9, -(1 << 9), 1), Tail::Zero, 8, 0, exp_neg)
}

fn round_div(a: i128, b: i128) -> i128 {
    (2 * a + b).div_euclid(2 * b)
}

/// Thresholds in geometric steps: `steps` per octave over `[2^first, 2^last)`.
fn geometric_thresholds(first: u32, last: u32, steps: u32) -> Vec<u64> {
    // 2^(k/steps) with 52 fractional bits, by a bisection on the integer power.
    let root: Vec<u128> = (0..steps).map(|k| two_to_fraction(k, steps)).collect();
    (first..last)
        .flat_map(|octave| {
            root.iter()
                .map(move |&r| ((r << octave) >> ONE_BITS) as u64)
        })
        .collect()
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

/// `2^58 / sqrt(s)` for `s` in `[2^19, 2^62)`, 16 intervals per octave.
fn rsqrt_table() -> Piecewise {
    let f = |s: u128| -> i128 {
        // 2^58/sqrt(s) with 8 more bits: sqrt(2^132/s) by one integer square root of a 128-bit
        // quotient.
        let quotient = (u128::MAX / s) + 1; // 2^128/s rounded
        ((quotient << 4).isqrt()) as i128
    };
    piecewise(
        64,
        8,
        geometric_thresholds(19, 62, 16),
        1 << 62,
        8,
        f,
        |s| {
            // Shifts are whole digits and leave 11 to 19 significant bits.
            ((63 - s.leading_zeros()).saturating_sub(11) / 8) * 8
        },
    )
}

/// `2^40 / s` for `s` in `[2^14, 2^25)`, 32 intervals an octave.
fn recip_table() -> Piecewise {
    let f = |s: u128| -> i128 { ((1u128 << 48) / s) as i128 };
    piecewise(
        28,
        7,
        geometric_thresholds(14, 25, 32),
        1 << 25,
        8,
        f,
        |s| if s < 1 << 17 { 0 } else { 7 },
    )
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
    let mut shift = Vec::new();
    let mut slope = Vec::new();
    let mut intercept = Vec::new();
    for (j, &left) in threshold.iter().enumerate() {
        let right = threshold.get(j + 1).copied().unwrap_or(end);
        let c = shift_of(left);
        let first = left >> c;
        let last = ((right - 1) >> c).max((left >> c) + 1);
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
    Piecewise {
        ring_bits,
        digit_bits,
        threshold,
        shift,
        slope,
        intercept,
        end,
    }
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
        let close = |value: i128, expected: f64| {
            // What a 64-bit float holds of the expected value, with room.
            assert!((value as f64 / ONE as f64 - expected).abs() < 1e-12)
        };
        close(exp_neg(ONE), 0.367_879_441_171_442_33);
        close(logistic(-2 * ONE), 0.119_202_922_022_117_56);
        close(normal_tail(ONE), 0.158_655_253_931_457_05);
        close(normal_tail(5 * ONE), 2.866_515_718_791_939e-7);
    }
}
