//! Pooling, capped ReLU and division by a public number.

use marill_numeric::{
    fixed::{low_mask, sign_extend},
    integer::{arg_max, average, divide_by, relu_capped},
};
use marill_two_party::{ArgMax, Average, DivideBy, Maximum, Radix, ReluCapped, Windows};

use crate::world::{Values, World, split, sum};

const RADICES: [Radix; 2] = [Radix::Four, Radix::Sixteen];

/// Lists of values less than half the ring apart: corners and equals among them, and each list in
/// another order.
fn lists(bits: u32, count: usize, n: usize) -> Vec<Vec<u64>> {
    let small = Values::of(bits - 1, n * count);
    let near = small.chunks(count).enumerate().flat_map(|(i, list)| {
        // In every third list all values are near each other.
        let unused = if i % 3 == 0 { bits - 3 } else { 0 };
        let of = move |v: u64| (sign_extend(v, bits - 1) >> unused) as u64;
        list.iter().map(move |v| of(*v) & low_mask(bits))
    });
    let near: Vec<u64> = near.collect();
    let of = |i: usize| near.iter().skip(i).step_by(count).copied().collect();
    (0..count).map(of).collect()
}

/// Each party's shares of all lists.
fn shared(values: &[Vec<u64>], bits: u32) -> [Vec<Vec<u64>>; 2] {
    let halves: Vec<[Vec<u64>; 2]> = values.iter().map(|list| split(list, bits)).collect();
    [0, 1].map(|party: usize| halves.iter().map(|half| half[party].clone()).collect())
}

fn instance(values: &[Vec<u64>], i: usize) -> Vec<u64> {
    values.iter().map(|list| list[i]).collect()
}

fn maxima(world: &World, bits: u32, count: usize, radix: Radix, n: usize) {
    let values = lists(bits, count, n);
    let shares = shared(&values, bits);
    let protocol = Maximum { bits, count, radix };
    let outcome = world.run(&protocol.needs(n), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs_after(0, protocol.cost(n), &format!("{protocol:?}"));
    for (i, largest) in sum(&outcome.shares, bits).into_iter().enumerate() {
        let (expected, _) = arg_max(&instance(&values, i), bits);
        assert_eq!(largest, expected, "{protocol:?} at {i}");
    }
    let place_bits = 5;
    let protocol = ArgMax {
        bits,
        count,
        place_bits,
        radix,
    };
    let outcome = world.run(&protocol.needs(n), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs_after(0, protocol.cost(n), &format!("{protocol:?}"));
    let halves = |which: usize| [0, 1].map(|party| outcome.shares[party][which].clone());
    let places = sum(&halves(1), place_bits);
    for (i, largest) in sum(&halves(0), bits).into_iter().enumerate() {
        let (expected, place) = arg_max(&instance(&values, i), bits);
        let found = (largest, places[i]);
        assert_eq!(found, (expected, place as u64), "{protocol:?} at {i}");
    }
}

#[test]
fn the_largest_and_its_place_are_exact() {
    let world = World::new();
    for radix in RADICES {
        for count in [1, 2, 3, 4, 5, 9, 12, 13] {
            maxima(&world, 32, count, radix, 300);
        }
        for bits in [8, 16, 37, 64] {
            maxima(&world, bits, 4, radix, 300);
        }
    }
}

#[test]
#[ignore = "a minute; fewer of them are above"]
fn a_million_maxima_are_exact() {
    let world = World::new();
    for bits in [32, 37, 41, 64] {
        maxima(&world, bits, 4, Radix::Four, 250_000);
    }
}

#[test]
fn maxima_of_equals_take_the_first_place() {
    let world = World::new();
    let values = vec![vec![7u64; 50]; 6];
    let shares = shared(&values, 16);
    let protocol = ArgMax {
        bits: 16,
        count: 6,
        place_bits: 3,
        radix: Radix::Four,
    };
    let outcome = world.run(&protocol.needs(50), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    let places = [0, 1].map(|party: usize| outcome.shares[party][1].clone());
    assert_eq!(sum(&places, 3), [0; 50]);
}

/// Seven rounds a level; the last three values of nine in eight.
#[test]
fn maxima_cost_what_they_say() {
    let of = |count| {
        let protocol = Maximum {
            bits: 32,
            count,
            radix: Radix::Four,
        };
        let cost = protocol.cost(8);
        (cost.bytes(), cost.rounds)
    };
    // Of eight instances: three ReLUs of 31.625 bytes, less a bit of their comparisons' width.
    assert_eq!(of(4), (3 * 253, 14));
    assert_eq!(of(9).1, 22);
    assert_eq!(of(3).1, 8);
}

fn caps(world: &World, bits: u32, cap: u64, radix: Radix, values: &[u64]) {
    let shares = split(values, bits);
    let protocol = ReluCapped { bits, cap, radix };
    let outcome = world.run(&protocol.needs(values.len()), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(values.len()), &format!("{protocol:?}"));
    for (value, out) in values.iter().zip(sum(&outcome.shares, bits)) {
        let expected = relu_capped(*value, bits, cap);
        assert_eq!(out, expected, "{protocol:?} of {value:#x}");
    }
}

#[test]
fn a_capped_relu_is_exact() {
    let world = World::new();
    for radix in RADICES {
        let all: Vec<u64> = (0..1 << 16).collect();
        for cap in [1, 6 << 8, 0x7fff] {
            caps(&world, 16, cap, radix, &all);
        }
        for bits in [3, 32, 37, 64] {
            caps(&world, bits, 1 << (bits - 2), radix, &Values::of(bits, 500));
        }
    }
}

fn divides(world: &World, bits: u32, divisor: u64, radix: Radix, values: &[u64]) {
    let shares = split(values, bits);
    let protocol = DivideBy {
        bits,
        divisor,
        radix,
    };
    let outcome = world.run(&protocol.needs(values.len()), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(values.len()), &format!("{protocol:?}"));
    for (value, out) in values.iter().zip(sum(&outcome.shares, bits)) {
        let expected = divide_by(*value, bits, divisor);
        assert_eq!(out, expected, "{protocol:?} of {value:#x}");
    }
}

#[test]
fn a_public_division_is_exact_on_all_of_16_bits() {
    let world = World::new();
    let all: Vec<u64> = (0..1 << 16).collect();
    for divisor in [1, 2, 3, 7, 9, 49, 64, 255, 0x7fff] {
        divides(&world, 16, divisor, Radix::Four, &all);
    }
}

#[test]
fn a_public_division_is_exact_in_wide_rings() {
    let world = World::new();
    for radix in RADICES {
        for bits in [4, 32, 37, 41, 64] {
            let most = (1u64 << (bits - 1).min(62)) - 1;
            for divisor in [3, 7, most / 3 + 1, most] {
                divides(&world, bits, divisor, radix, &Values::of(bits, 500));
            }
        }
    }
}

#[test]
#[ignore = "a minute; fewer of them are above"]
fn a_million_public_divisions_are_exact() {
    let world = World::new();
    for bits in [32, 37, 41, 64] {
        for batch in Values::of(bits, 1_000_000).chunks(1 << 16) {
            divides(&world, bits, 49, Radix::Four, batch);
            caps(&world, bits, 6 << 12, Radix::Four, batch);
        }
    }
}

#[test]
fn averages_of_windows_are_exact() {
    let world = World::new();
    let windows = Windows {
        height: 7,
        width: 9,
        side: 3,
        stride: 2,
    };
    assert_eq!(windows.grid(), [3, 4]);
    let image = Values::of(16, 2 * 63).into_iter();
    let image: Vec<u64> = image
        .map(|v| sign_extend(v, 16) as u64 & low_mask(37))
        .collect();
    let values = windows.gathered(&image);
    // The last window of the second plane, from its lowest right value.
    assert_eq!(values[8][23], image[63 + 6 * 9 + 8]);
    let shares = split(&image, 37).map(|share| windows.gathered(&share));
    let protocol = Average {
        bits: 37,
        count: windows.count(),
        radix: Radix::Four,
    };
    let outcome = world.run(&protocol.needs(24), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(24), "averages");
    for (i, out) in sum(&outcome.shares, 37).into_iter().enumerate() {
        assert_eq!(out, average(&instance(&values, i), 37), "window {i}");
    }
}
