//! Exact truncation for random widths, shifts and values, in every build of the gate.

use proptest::{collection::vec, prelude::*};

use super::{Truncate, run_everywhere};

/// A shift, a width above it, and values below `2^(width - 2)` in magnitude.
fn cases() -> impl Strategy<Value = (u32, u32, Vec<i64>)> {
    (16u32..=64)
        .prop_flat_map(|bits| (2..=bits - 4, Just(bits)))
        .prop_flat_map(|(shift, bits)| {
            // Rounding up must not leave the range.
            let limit = (1i64 << (bits - 2)) - (1i64 << (shift - 1));
            let near_half = (-limit >> shift..limit >> shift, -2i64..=2)
                .prop_map(move |(n, off)| (n << shift) + (1i64 << (shift - 1)) + off);
            let value = prop_oneof![-limit..limit, near_half]
                .prop_map(move |value| value.clamp(1 - limit, limit - 1));
            (Just(shift), Just(bits), vec(value, 1..40))
        })
}

proptest! {
    // Three sessions of three parties a case. A failing case is printed, no file remembers it.
    #![proptest_config(ProptestConfig {
        cases: 40,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn truncation_rounds_half_up((shift, bits, values) in cases()) {
        let words: Vec<u64> = values.iter().map(|&value| value as u64).collect();
        let out = run_everywhere(&Truncate(shift, bits), &words, 1, 64);
        for (value, out) in values.iter().zip(out) {
            let expected = (i128::from(*value) + (1i128 << (shift - 1))) >> shift;
            prop_assert_eq!(i128::from(out as i64), expected, "{} by {}", value, shift);
        }
    }
}
