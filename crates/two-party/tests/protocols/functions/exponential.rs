//! `exp(-z)` at several widths and scales.

use marill_two_party::{Exp, Function, Radix};

use super::{Declared, outputs, scales, spread};
use crate::world::{Values, World, split};

fn declared(protocol: &Exp, n: usize) -> Declared {
    Declared {
        needs: protocol.needs(n),
        offline: protocol.offline_cost(n),
        online: protocol.cost(n),
    }
}

fn equals(world: &World, width: (u32, u32), out: (u32, u32), values: &[u64]) {
    let radix = Radix::Four;
    let protocol = Exp::new(width.0, width.1, out.0, out.1, radix);
    let shares = split(values, width.0);
    let name = format!("exp {width:?} to {out:?}");
    let declared = declared(&protocol, values.len());
    let found = outputs(world, &declared, out.0, &name, |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    for (value, out) in values.iter().zip(found) {
        assert_eq!(out, protocol.tables().at(*value), "{name} of {value:#x}");
    }
}

#[test]
fn an_exponential_equals_its_integer_program() {
    let world = World::new();
    equals(&world, (16, 12), (16, 12), &spread(1));
    equals(&world, (16, 8), (16, 14), &spread(61));
}

#[test]
fn exponentials_of_any_count_of_digits_are_exact() {
    let world = World::new();
    for (bits, scale, out, out_scale) in [
        (8, 5, 12, 10),
        (24, 18, 16, 12),
        (32, 24, 32, 24),
        (37, 12, 37, 12),
        (41, 30, 64, 16),
        (64, 20, 13, 12),
    ] {
        // Small arguments too, where the result is not zero.
        let small = Values::of((scale + 3).min(bits), 100);
        let values: Vec<u64> = small.into_iter().chain(Values::of(bits, 100)).collect();
        equals(&world, (bits, scale), (out, out_scale), &values);
    }
}

#[test]
#[ignore = "a minute; the scales of most uses are above"]
fn an_exponential_is_exact_at_all_scales() {
    let world = World::new();
    for (scale, out_scale) in scales() {
        equals(&world, (16, scale), (16, out_scale), &spread(1));
    }
}

#[test]
#[ignore = "minutes; fewer of them are above"]
fn a_million_exponentials_are_exact() {
    let world = World::new();
    for bits in [32, 37, 41, 64] {
        for batch in Values::of(bits, 1_000_000).chunks(1 << 15) {
            // The integer program has scales of 30 bits at most.
            let scale = 30.min(bits - 6);
            equals(&world, (bits, scale), (32, 12), batch);
        }
    }
}

/// 48 bits for the digits, 1,044 for both vectors, 32 for their indices; 273 and 572 for the
/// product; 82 to cut it off.
#[test]
fn an_exponential_costs_what_it_says() {
    let protocol = Exp::new(16, 12, 16, 12, Radix::Four);
    let n = 64;
    let bits = |cost: marill_two_party::Cost| cost.bytes() * 8 / n;
    let n = n as usize;
    assert_eq!(bits(protocol.offline_cost(n)), 1_044);
    assert_eq!(bits(protocol.cost(n)), 48 + 32 + 273 + 572 + 82);
    assert_eq!(protocol.cost(n).rounds, 14);
    assert_eq!(protocol.offline_cost(n).rounds, 7);
}
