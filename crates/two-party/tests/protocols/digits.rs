//! Values cut into index, distance and what is above, with the sign in the same rounds.

use marill_numeric::integer::{digit_at, digits, msb};
use marill_two_party::{Decompose, Digits, Radix};

use crate::world::{Values, World, split, sum};

fn cuts(world: &World, protocol: Digits, values: &[u64]) {
    let n = values.len();
    let shares = split(values, protocol.bits);
    let outcome = world.run(&protocol.needs(n), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(n), &format!("{protocol:?}"));
    let [first, second] = &outcome.shares;
    let both = |of: fn(&marill_two_party::Parts) -> &Vec<u64>, bits| {
        sum(&[of(first).clone(), of(second).clone()], bits)
    };
    let index = both(|parts| &parts.index, protocol.index);
    let distance = both(|parts| &parts.distance, protocol.to);
    let inside = &first.inside ^ &second.inside;
    let mask = marill_numeric::fixed::low_mask(protocol.to);
    for (i, value) in values.iter().enumerate() {
        let expected = digits(*value, protocol.bits, protocol.low, protocol.index);
        let found = (index[i], distance[i], inside.get(i) == 1);
        let expected = (expected.0, expected.1 & mask, expected.2);
        assert_eq!(found, expected, "{protocol:?} of {value:#x}");
    }
    let wrap = &first.wrap ^ &second.wrap;
    let low = marill_numeric::fixed::low_mask(protocol.low);
    let wraps = |i: usize| u64::from((shares[0][i] & low) + (shares[1][i] & low) > low);
    // Of 64 bits and more the sum is one of 65.
    assert!(protocol.low > 62 || (0..n).all(|i| wrap.get(i) == wraps(i)));
    let negative = first.negative.as_ref().zip(second.negative.as_ref());
    assert_eq!(negative.is_some(), protocol.sign.is_some());
    if let (Some((a, b)), Some(offset)) = (negative, protocol.sign) {
        let negative = a ^ b;
        let sign = |value: u64| msb(value.wrapping_add(offset), protocol.bits);
        assert!((0..n).all(|i| negative.get(i) == sign(values[i])));
    }
}

#[test]
fn digits_are_exact_on_all_of_16_bits() {
    let world = World::new();
    let values: Vec<u64> = (0..1 << 16).collect();
    for (low, index, to) in [(1, 1, 16), (3, 9, 20), (5, 4, 3), (9, 6, 64), (14, 1, 16)] {
        for sign in [None, Some(0), Some(40_000)] {
            let protocol = Digits {
                bits: 16,
                low,
                index,
                to,
                sign,
                radix: Radix::Four,
            };
            cuts(&world, protocol, &values);
        }
    }
}

#[test]
fn digits_of_wide_values_are_exact() {
    let world = World::new();
    for radix in [Radix::Four, Radix::Sixteen] {
        for (bits, low, index, to) in [(32, 9, 9, 48), (64, 20, 12, 64), (64, 61, 2, 64)] {
            // Many inside the domain, where random values of this width are not.
            let inside = Values::of(low + index, 1_000);
            let edge = inside.iter().map(|v| v.wrapping_neg());
            let edge = edge.map(|v| v & marill_numeric::fixed::low_mask(bits));
            let random = Values::of(bits, 1_000);
            let values = inside.iter().copied().chain(edge).chain(random);
            let protocol = Digits {
                bits,
                low,
                index,
                to,
                sign: Some(1 << (bits - 3)),
                radix,
            };
            cuts(&world, protocol, &values.collect::<Vec<_>>());
        }
    }
}

/// The comparison of the longest part, then two rounds; a sign that is longer hides them.
#[test]
fn digits_take_the_rounds_of_one_comparison() {
    let rounds = |sign| {
        let protocol = Digits {
            bits: 32,
            low: 9,
            index: 9,
            to: 48,
            sign,
            radix: Radix::Four,
        };
        protocol.cost(1).rounds
    };
    assert_eq!([None, Some(0)].map(rounds), [7, 7]);
}

fn decomposes(world: &World, widths: &[u32], values: &[u64]) {
    let bits = widths.iter().sum();
    let protocol = Decompose {
        widths: widths.to_vec(),
        radix: Radix::Four,
    };
    let shares = split(values, bits);
    let outcome = world.run(&protocol.needs(values.len()), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(values.len()), &format!("{widths:?}"));
    let [first, second] = &outcome.shares;
    let mut at = 0;
    for (i, width) in widths.iter().enumerate() {
        let digits = sum(&[first[i].clone(), second[i].clone()], *width);
        for (value, digit) in values.iter().zip(digits) {
            assert_eq!(digit, digit_at(*value, at, *width), "{widths:?} {value:#x}");
        }
        at += width;
    }
}

#[test]
fn a_value_is_cut_into_digits() {
    let world = World::new();
    let all: Vec<u64> = (0..1 << 16).collect();
    for widths in [&[16][..], &[8, 8], &[1, 3, 5, 7], &[4, 4, 4, 4], &[15, 1]] {
        decomposes(&world, widths, &all);
    }
    for widths in [&[8; 4][..], &[8, 8, 8, 8, 5], &[8; 8], &[9, 2, 26]] {
        let bits = widths.iter().sum();
        decomposes(&world, widths, &Values::of(bits, 1_000));
    }
}
