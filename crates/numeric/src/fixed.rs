//! Fixed-point encoding, rounding and range checks.

/// What can go wrong when a number enters or leaves fixed point.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NumericError {
    #[error("`{label}`: {value} at index {index} does not fit in fixed point (limit {limit})")]
    OutOfRange {
        label: String,
        index: usize,
        value: f64,
        limit: f64,
    },
    #[error("`{label}`: value {value} at index {index} leaves its {bits}-bit range")]
    Overflow {
        label: &'static str,
        index: usize,
        value: i64,
        bits: u32,
    },
}

/// The low `bits` bits set.
#[inline]
pub const fn low_mask(bits: u32) -> u64 {
    if bits >= 64 {
        u64::MAX
    } else {
        (1 << bits) - 1
    }
}

/// Reads the low `bits` bits of `value` as a two's-complement integer.
#[inline]
pub const fn sign_extend(value: u64, bits: u32) -> i64 {
    let unused = 64 - bits;
    ((value << unused) as i64) >> unused
}

/// `round(log2(sqrt(width)))`: the power of two that stands for `sqrt(width)` in a norm over rows
/// of this many values. [`norm_rest`] is folded into the gain.
pub fn norm_bits(width: usize) -> u32 {
    (width as f64).sqrt().log2().round() as u32
}

/// What `2^norm_bits` leaves of `sqrt(width)`.
pub fn norm_rest(width: usize) -> f64 {
    (width as f64).sqrt() / f64::from(norm_bits(width)).exp2()
}

/// Rounds half up: `floor((z + 2^(shift-1)) / 2^shift)`, the rounding of `exact`.
#[inline]
pub const fn truncate(z: u64, shift: u32) -> u64 {
    if shift == 0 {
        return z;
    }
    ((z as i64).wrapping_add(1 << (shift - 1)) >> shift) as u64
}

/// Rounds by a random number in `[0, 2^shift)`: `floor((z + 2^shift - 1 - random) / 2^shift)`, the
/// rounding of `stochastic`.
///
/// Over a uniform random number the mean is exactly `z / 2^shift`.
#[inline]
pub const fn truncate_stochastically(z: u64, shift: u32, random: u64) -> u64 {
    let up = low_mask(shift) - (random & low_mask(shift));
    ((z as i64).wrapping_add(up as i64) >> shift) as u64
}

/// Encodes one float with `frac_bits` fractional bits, rounding to nearest.
///
/// # Errors
/// [`NumericError::OutOfRange`] when `|value| >= limit` or the value is not finite.
pub fn encode(
    value: f64,
    frac_bits: u32,
    limit: f64,
    label: &str,
    index: usize,
) -> Result<u64, NumericError> {
    // A NaN fails this comparison too.
    if value.abs() < limit {
        Ok((value * (1u64 << frac_bits) as f64).round_ties_even() as i64 as u64)
    } else {
        Err(NumericError::OutOfRange {
            label: label.to_owned(),
            index,
            value,
            limit,
        })
    }
}

/// Decodes a fixed-point integer.
#[inline]
pub fn decode(value: u64, frac_bits: u32) -> f64 {
    (value as i64) as f64 / (1u64 << frac_bits) as f64
}

/// Checks that every value lies strictly inside `(-2^(bits-2), 2^(bits-2))`, the headroom that an
/// exact truncation of a `bits`-bit wire needs.
///
/// # Errors
/// [`NumericError::Overflow`] naming the first offender.
pub fn check_range(values: &[u64], bits: u32, label: &'static str) -> Result<(), NumericError> {
    let limit = 1i64 << (bits - 2);
    match values
        .iter()
        .position(|&v| (v as i64) >= limit || (v as i64) <= -limit)
    {
        None => Ok(()),
        Some(index) => Err(NumericError::Overflow {
            label,
            index,
            value: values[index] as i64,
            bits,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_rounds_half_up_over_a_whole_16_bit_domain() {
        for z in i16::MIN..=i16::MAX {
            for shift in [1, 4, 9] {
                let expected = (f64::from(z) / f64::from(1 << shift) + 0.5).floor() as i64;
                assert_eq!(
                    truncate(i64::from(z) as u64, shift) as i64,
                    expected,
                    "z = {z}, shift = {shift}"
                );
            }
        }
    }

    #[test]
    fn a_norm_takes_the_nearest_power_of_two_and_leaves_the_rest() {
        assert_eq!([1, 64, 576, 4096].map(norm_bits), [0, 3, 5, 6]);
        for width in 1..20_000 {
            let root = (width as f64).sqrt();
            let power = f64::from(1u32 << norm_bits(width));
            let rest = norm_rest(width);
            // Half a bit to either side.
            assert!(rest > 0.7 && rest < 1.42, "{width}: {rest}");
            // Exact: dividing by a power of two rounds nothing.
            assert_eq!(rest * power, root);
            assert_eq!(rest.recip(), power / root);
        }
    }

    #[test]
    fn encoding_names_the_label_of_a_value_out_of_range() {
        let error = encode(f64::NAN, 16, 4.0, "layers.0.q_proj", 7).unwrap_err();
        assert!(
            error.to_string().contains("layers.0.q_proj") && error.to_string().contains("index 7")
        );
        assert_eq!(encode(-1.5, 16, 4.0, "x", 0).unwrap() as i64, -98_304);
    }
}
