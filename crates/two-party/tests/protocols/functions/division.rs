//! Division of secrets by secrets.

use marill_numeric::fixed::low_mask;
use marill_two_party::{Divide, Function, Radix};

use super::{Declared, outputs};
use crate::world::{Values, World, split};

fn equals(world: &World, protocol: &Divide, a: &[u64], b: &[u64]) {
    let n = a.len();
    let declared = Declared {
        needs: protocol.needs(n),
        offline: protocol.offline_cost(n),
        online: protocol.cost(n),
    };
    let tables = protocol.tables();
    let shares = [a, b].map(|values| split(values, tables.bits));
    let name = format!("division of {} bits", tables.bits);
    let found = outputs(world, &declared, tables.out_bits, &name, |session| {
        let party = session.party() as usize;
        protocol.run(session, [&shares[0][party], &shares[1][party]])
    });
    for (i, got) in found.into_iter().enumerate() {
        let expected = tables.at(a[i], b[i]);
        assert_eq!(got, expected, "{name}: {:#x} by {:#x}", a[i], b[i]);
    }
}

/// Each divisor with numerators for which the quotient fits and for which it does not.
fn pairs(bits: u32, divisors: &[u64]) -> [Vec<u64>; 2] {
    let b: Vec<u64> = divisors.iter().map(|b| b & low_mask(bits - 1)).collect();
    let random = Values::of(bits, b.len());
    let numerators = b.iter().zip(random).enumerate().map(|(i, (b, random))| {
        let a = match i % 4 {
            0 => random,
            1 => random % (b + 1),
            2 => (random % (b + 1)).wrapping_neg(),
            _ => *b,
        };
        a & low_mask(bits)
    });
    let a = numerators.collect();
    [a, b]
}

#[test]
fn division_equals_its_integer_program() {
    let world = World::new();
    let protocol = Divide::new(16, 16, 14, Radix::Four);
    let [a, b] = pairs(16, &(0..1 << 15).collect::<Vec<_>>());
    equals(&world, &protocol, &a, &b);
}

#[test]
fn division_is_exact_at_other_widths() {
    let world = World::new();
    for (bits, out_bits, out_scale) in [
        (12, 16, 8),
        (24, 20, 16),
        (32, 22, 20),
        (8, 12, 11),
        (41, 16, 14),
    ] {
        let protocol = Divide::new(bits, out_bits, out_scale, Radix::Sixteen);
        let of = |k: u32| Values::of(k, 12);
        let [a, b] = pairs(bits, &(1..bits).flat_map(of).collect::<Vec<_>>());
        equals(&world, &protocol, &a, &b);
    }
}

#[test]
#[ignore = "minutes; fewer of them are above"]
fn a_million_quotients_are_exact() {
    let world = World::new();
    for (bits, out_bits, out_scale) in [(16, 16, 14), (32, 22, 20), (37, 16, 14), (41, 16, 14)] {
        let protocol = Divide::new(bits, out_bits, out_scale, Radix::Four);
        let [a, b] = pairs(bits, &Values::of(bits, 1_000_000));
        for (a, b) in a.chunks(1 << 16).zip(b.chunks(1 << 16)) {
            equals(&world, &protocol, a, b);
        }
    }
}

#[test]
fn a_division_costs_what_it_says() {
    let n = 64;
    let protocol = Divide::new(16, 16, 14, Radix::Four);
    let [offline, online] = [protocol.offline_cost(n), protocol.cost(n)];
    let bits = |cost: marill_two_party::Cost| cost.bytes() * 8 / n as u64;
    assert_eq!((bits(offline), offline.rounds), (261, 6));
    assert_eq!((bits(online), online.rounds), (3_195, 42));
}
