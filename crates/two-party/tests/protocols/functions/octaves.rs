//! Roots and reciprocals at several widths and scales.

use marill_numeric::integer::Power;
use marill_two_party::{Function, Octaves, Radix};

use super::{Declared, outputs, spread};
use crate::world::{Values, World, split};

const POWERS: [Power; 3] = [Power::Reciprocal, Power::InverseSqrt, Power::Sqrt];

fn equals(world: &World, protocol: &Octaves, values: &[u64]) {
    let n = values.len();
    let declared = Declared {
        needs: protocol.needs(n),
        offline: protocol.offline_cost(n),
        online: protocol.cost(n),
    };
    let tables = protocol.tables();
    let shares = split(values, tables.bits);
    let name = format!("{:?} of {} bits", tables.power, tables.bits);
    let found = outputs(world, &declared, tables.out_bits, &name, |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    for (value, got) in values.iter().zip(found) {
        assert_eq!(got, tables.at(*value), "{name} of {value:#x}");
    }
}

/// Positive values of 16 bits.
fn positive(step: usize) -> Vec<u64> {
    let all = spread(step).into_iter();
    all.filter(|value| *value < 1 << 15).collect()
}

#[test]
fn powers_equal_their_integer_programs() {
    let world = World::new();
    let radix = Radix::Four;
    for power in POWERS {
        let protocol = Octaves::new(power, (16, 12), (16, 12), 5, radix);
        equals(&world, &protocol, &positive(1));
        let protocol = Octaves::new(power, (16, 14), (16, 14), 6, radix);
        equals(&world, &protocol, &positive(61));
    }
}

#[test]
fn powers_of_wide_numbers_are_exact() {
    let world = World::new();
    for power in POWERS {
        for (bits, scale, out, out_scale, mantissa) in [
            (32, 20, 32, 14, 6),
            (37, 12, 24, 10, 5),
            (8, 4, 50, 20, 2),
            (40, 30, 28, 13, 8),
            (41, 20, 24, 12, 6),
            (64, 30, 9, 4, 8),
        ] {
            let number = (bits, scale);
            let out = (out, out_scale);
            let protocol = Octaves::new(power, number, out, mantissa, Radix::Sixteen);
            // Every octave.
            let of = |k: u32| Values::of(k, 12);
            let values: Vec<u64> = (1..bits).flat_map(of).collect();
            equals(&world, &protocol, &values);
        }
    }
}

#[test]
#[ignore = "minutes; the scales of most uses are above"]
fn powers_are_exact_at_all_scales() {
    let world = World::new();
    for power in POWERS {
        for scale in 4..=13 {
            for out_scale in [8, 11, 13] {
                let out = (16, out_scale);
                let protocol = Octaves::new(power, (16, scale), out, 5, Radix::Four);
                equals(&world, &protocol, &positive(1));
            }
        }
    }
}

#[test]
#[ignore = "minutes; fewer of them are above"]
fn a_million_powers_are_exact() {
    let world = World::new();
    for power in POWERS {
        // A line of 64 bits in all: a wider number leaves fewer bits to the result.
        for (bits, out, out_scale, mantissa) in [
            (32, 32, 12, 5),
            (37, 26, 12, 5),
            (41, 24, 12, 6),
            (64, 9, 4, 8),
        ] {
            let out = (out, out_scale);
            let protocol = Octaves::new(power, (bits, 20), out, mantissa, Radix::Four);
            for batch in Values::of(bits - 1, 1_000_000).chunks(1 << 16) {
                equals(&world, &protocol, batch);
            }
        }
    }
}

#[test]
fn powers_cost_what_they_say() {
    let n = 64;
    let of = |power| {
        let protocol = Octaves::new(power, (16, 12), (16, 12), 5, Radix::Four);
        let [offline, online] = [protocol.offline_cost(n), protocol.cost(n)];
        let bits = |cost: marill_two_party::Cost| cost.bytes() * 8 / n as u64;
        (bits(offline), bits(online), offline.rounds, online.rounds)
    };
    assert_eq!(of(Power::InverseSqrt), (1_040, 1_478, 8, 19));
    assert_eq!(of(Power::Sqrt), (1_040, 1_323, 8, 19));
}
