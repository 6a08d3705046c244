//! Integer programs of what two parties compute on additive shares: comparison, ReLU, truncation,
//! shifts, tables. A value of `bits` bits is a `u64` below `2^bits`; signed values are in two's
//! complement. Protocols equal these functions bit for bit.
//!
//! Truncations are faithful: `floor(x / 2^shift)`, never one off, never off by a wrap. Sources:
//! CrypTFlow2 (CCS '20), SIRNN (S&P '21), as integers.

mod curve;
mod division;
mod exponential;
mod octaves;
mod recurrent;

pub use self::{
    curve::{CurveTables, Shape},
    division::DivisionTables,
    exponential::ExpTables,
    octaves::{OctaveTables, Power},
    recurrent::{
        FastGrnn, FastGrnnWeights, GATE, Linear, MIX, RangeError, RealFastGrnn, VALUE_BITS,
        WEIGHT_BITS,
    },
};
use crate::fixed::{low_mask, sign_extend};

/// The sign bit.
#[inline]
#[must_use]
pub const fn msb(x: u64, bits: u32) -> u64 {
    (x >> (bits - 1)) & 1
}

/// `x` where it is positive, else zero.
#[inline]
#[must_use]
pub const fn relu(x: u64, bits: u32) -> u64 {
    if msb(x, bits) == 1 { 0 } else { x }
}

/// `floor(x / 2^shift)` in the ring of `bits - shift` bits: truncate and reduce.
#[inline]
#[must_use]
pub const fn truncate_reduce(x: u64, bits: u32, shift: u32) -> u64 {
    (x & low_mask(bits)) >> shift
}

/// `floor(x / 2^shift)` of a signed value, in the same ring.
#[inline]
#[must_use]
pub const fn arithmetic_shift(x: u64, bits: u32, shift: u32) -> u64 {
    (sign_extend(x, bits) >> shift) as u64 & low_mask(bits)
}

/// `floor((x + added) / 2^shift)` of a signed value, modulo `2^to`.
#[inline]
#[must_use]
pub const fn truncate_to(x: u64, from: u32, shift: u32, added: u64, to: u32) -> u64 {
    let sum = sign_extend(x, from) as i128 + added as i128;
    (sum >> shift) as u64 & low_mask(to)
}

/// `floor(relu(x) / 2^shift)`, in the same ring.
#[inline]
#[must_use]
pub const fn relu_truncate(x: u64, bits: u32, shift: u32) -> u64 {
    relu(x, bits) >> shift
}

/// A value cut in three: `floor(x / 2^low)` modulo `2^index`, `x` modulo `2^low`, and whether
/// nothing is set above both.
#[inline]
#[must_use]
pub const fn digits(x: u64, bits: u32, low: u32, index: u32) -> (u64, u64, bool) {
    let x = x & low_mask(bits);
    let above = x >> low;
    (
        above & low_mask(index),
        x & low_mask(low),
        above >> index == 0,
    )
}

/// The digit of `width` bits from bit `at` on.
#[inline]
#[must_use]
pub const fn digit_at(x: u64, at: u32, width: u32) -> u64 {
    (x >> at) & low_mask(width)
}

/// The larger of two signed values whose distance is below `2^(bits-1)`.
#[inline]
#[must_use]
pub const fn max(x: u64, y: u64, bits: u32) -> u64 {
    let distance = x.wrapping_sub(y) & low_mask(bits);
    y.wrapping_add(relu(distance, bits)) & low_mask(bits)
}

/// The largest of signed values less than `2^(bits-1)` apart, and the first place that has it.
///
/// # Panics
/// When there are none.
#[must_use]
pub fn arg_max(values: &[u64], bits: u32) -> (u64, usize) {
    let later = values.iter().enumerate().skip(1);
    later.fold((values[0], 0), |best, (place, value)| {
        if max(best.0, *value, bits) == best.0 {
            best
        } else {
            (*value, place)
        }
    })
}

/// `x` where it is positive and below `cap`, zero below, `cap` above (ReLU6 with `cap = 6`).
#[inline]
#[must_use]
pub const fn relu_capped(x: u64, bits: u32, cap: u64) -> u64 {
    let positive = relu(x, bits);
    if positive < cap { positive } else { cap }
}

/// `floor(x / divisor)` of a signed value.
#[inline]
#[must_use]
pub const fn divide_by(x: u64, bits: u32, divisor: u64) -> u64 {
    let quotient = (sign_extend(x, bits) as i128).div_euclid(divisor as i128);
    quotient as u64 & low_mask(bits)
}

/// `floor(Σ x_i / count)` of signed values whose sum fits.
#[must_use]
pub fn average(values: &[u64], bits: u32) -> u64 {
    let sum = values.iter().fold(0u64, |sum, x| sum.wrapping_add(*x));
    divide_by(sum, bits, values.len() as u64)
}

/// The product in the ring.
#[inline]
#[must_use]
pub const fn product(x: u64, y: u64, bits: u32) -> u64 {
    x.wrapping_mul(y) & low_mask(bits)
}

/// A value as the integer that it stands for.
#[inline]
#[must_use]
pub const fn read(x: u64, bits: u32, signed: bool) -> i128 {
    if signed {
        sign_extend(x, bits) as i128
    } else {
        (x & low_mask(bits)) as i128
    }
}

/// The same integer in a wider ring.
#[inline]
#[must_use]
pub const fn extend(x: u64, from: u32, signed: bool, to: u32) -> u64 {
    read(x, from, signed) as u64 & low_mask(to)
}

/// The product of integers of different widths, each with whether it is signed, modulo `2^out`.
#[inline]
#[must_use]
pub const fn mixed_product(x: (u64, u32, bool), y: (u64, u32, bool), out: u32) -> u64 {
    let [x, y] = [read(x.0, x.1, x.2), read(y.0, y.1, y.2)];
    (x as u64).wrapping_mul(y as u64) & low_mask(out)
}

/// The product of a matrix of `shape[0]` by `shape[1]` and one of `shape[1]` by `shape[2]`, row by
/// row, of integers of different widths, each with whether it is signed, modulo `2^out`.
#[must_use]
pub fn mixed_matrix(
    shape: [usize; 3],
    x: (&[u64], u32, bool),
    y: (&[u64], u32, bool),
    out: u32,
) -> Vec<u64> {
    let [rows, inner, columns] = shape;
    let of = |i: usize| {
        let terms = (0..inner).map(|k| {
            let x = (x.0[i / columns * inner + k], x.1, x.2);
            let y = (y.0[k * columns + i % columns], y.1, y.2);
            mixed_product(x, y, out)
        });
        terms.fold(0u64, u64::wrapping_add) & low_mask(out)
    };
    (0..rows * columns).map(of).collect()
}

/// What each party's own high bits add up to: `floor(x / 2^shift)` or one less, in the ring of
/// `bits - shift` bits. No message; rounding by the shares' own low bits.
#[inline]
#[must_use]
pub const fn local_truncate_reduce(shares: [u64; 2], bits: u32, shift: u32) -> u64 {
    (shares[0] >> shift).wrapping_add(shares[1] >> shift) & low_mask(bits - shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_16_bits_agree_with_signed_division() {
        for value in i16::MIN..=i16::MAX {
            let x = value as u16 as u64;
            for shift in [1u32, 7, 12, 15] {
                let floor = i32::from(value).div_euclid(1 << shift) as i16 as u16;
                assert_eq!(arithmetic_shift(x, 16, shift), u64::from(floor));
                let reduced = u64::from(floor) & low_mask(16 - shift);
                assert_eq!(truncate_reduce(x, 16, shift), reduced);
                let positive = i32::from(value.max(0)) >> shift;
                assert_eq!(relu_truncate(x, 16, shift), positive as u64);
            }
            assert_eq!(msb(x, 16) == 1, value < 0);
        }
    }

    #[test]
    fn digits_add_up_to_the_value() {
        for x in 0..1u64 << 16 {
            for (low, index) in [(1, 1), (5, 4), (9, 6)] {
                let (place, distance, inside) = digits(x, 16, low, index);
                assert!(place < 1 << index && distance < 1 << low);
                let within = place << low | distance;
                assert_eq!((x - within) % (1 << (low + index)), 0);
                assert_eq!(inside, within == x);
            }
        }
    }

    #[test]
    fn a_local_truncation_is_at_most_one_less() {
        for x in 0..256u64 {
            for share in 0..256u64 {
                let shares = [share, x.wrapping_sub(share) & 0xff];
                let exact = truncate_reduce(x, 8, 3);
                let less = exact.wrapping_sub(local_truncate_reduce(shares, 8, 3)) & 31;
                assert!(less <= 1, "{x} as {shares:?}");
            }
        }
    }

    #[test]
    fn the_larger_is_found_within_half_the_ring() {
        for (x, y) in [(5i64, -3), (-3, 5), (-7, -9), (0, 0), (100, -27)] {
            let ring = |v: i64| v as u64 & 0xff;
            assert_eq!(max(ring(x), ring(y), 8), ring(x.max(y)));
        }
    }
}
