//! Bits of a value, and its highest set one.

use marill_numeric::fixed::low_mask;
use marill_two_party::{Bits, LeadingOne, ToBits};

use crate::world::{Values, World, split};

fn bits_of_values(world: &World, bits: u32, values: &[u64]) {
    let shares = split(values, bits);
    let protocol = ToBits { bits };
    let outcome = world.run(&protocol.needs(values.len()), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(values.len()), &format!("{protocol:?}"));
    let planes = outcome.shares[0].iter().zip(&outcome.shares[1]);
    let planes: Vec<Bits> = planes.map(|(a, b)| a ^ b).collect();
    assert!(Bits::values(&planes) == values, "{bits} bits");
}

#[test]
fn the_bits_of_a_value_are_exact() {
    let world = World::new();
    bits_of_values(&world, 16, &(0..1 << 16).collect::<Vec<_>>());
    for bits in [1, 2, 3, 5, 9, 15, 17, 31, 37, 41, 63, 64] {
        bits_of_values(&world, bits, &Values::of(bits, 500));
    }
}

fn leads(world: &World, bits: u32, values: &[u64]) {
    let planes = Bits::planes(values, bits);
    // E0's share is random, or all of it.
    let first = Bits::planes(&Values::of(bits, values.len()), bits);
    let second: Vec<Bits> = planes.iter().zip(&first).map(|(a, b)| a ^ b).collect();
    let shares = [first, second];
    let protocol = LeadingOne { bits };
    let outcome = world.run(&protocol.needs(values.len()), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(values.len()), &format!("{protocol:?}"));
    let [first, second] = &outcome.shares;
    let found = first.one_hot.iter().zip(&second.one_hot);
    let found: Vec<Bits> = found.map(|(a, b)| a ^ b).collect();
    let zero = &first.zero ^ &second.zero;
    for (i, (value, found)) in values.iter().zip(Bits::values(&found)).enumerate() {
        let expected = value.checked_ilog2().map_or(0, |k| 1 << k);
        assert_eq!(found, expected, "{bits} bits of {value:#x}");
        assert_eq!(zero.get(i) == 1, *value == 0);
    }
}

#[test]
fn the_leading_one_is_found() {
    let world = World::new();
    leads(&world, 16, &(0..1 << 16).collect::<Vec<_>>());
    for bits in [1, 2, 3, 7, 15, 32, 37, 64] {
        let of = |k: u32| {
            Values::of(bits, 20)
                .into_iter()
                .map(move |v| v & low_mask(k))
        };
        leads(&world, bits, &(0..=bits).flat_map(of).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "half a minute; fewer of them are above"]
fn a_million_values_have_their_bits() {
    let world = World::new();
    for bits in [32, 37, 41, 64] {
        for batch in Values::of(bits, 1_000_000).chunks(1 << 16) {
            bits_of_values(&world, bits, batch);
            leads(&world, bits, batch);
        }
    }
}

#[test]
fn bits_cost_what_they_say() {
    let bits = ToBits { bits: 15 }.cost(8);
    assert_eq!((bits.bytes(), bits.rounds), (134, 5));
    let leading = LeadingOne { bits: 15 }.cost(8);
    assert_eq!((leading.bytes(), leading.rounds), (84, 4));
}
