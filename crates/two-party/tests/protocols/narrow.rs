//! Products by values of few bits, and protocols whose parties play each other's part.

use marill_numeric::{
    fixed::low_mask,
    integer::{msb, truncate_reduce},
};
use marill_two_party::{Bits, Digits, Msb, NarrowProduct, Radix, TruncateReduce};

use crate::world::{Values, World, split, split_bits, sum};

/// Shares of `x` modulo `2^low`, and of whether they wrap.
fn narrow(x: &[u64], low: u32) -> ([Vec<u64>; 2], [Bits; 2]) {
    let shares = split(x, low);
    let wraps = Bits::from_fn(x.len(), |i| {
        u64::from(shares[0][i] + shares[1][i] > low_mask(low))
    });
    (shares, split_bits(&wraps))
}

fn equals(world: &World, protocol: NarrowProduct, x: &[u64], y: &[u64], exchanged: bool) {
    let n = x.len();
    let (narrow, wraps) = narrow(x, protocol.low);
    let wide = split(y, protocol.bits);
    let needs = protocol.needs(n);
    let cost = protocol.cost(n);
    let (needs, cost) = match exchanged {
        true => (needs.exchanged(), cost.exchanged()),
        false => (needs, cost),
    };
    let outcome = world.run(&needs, |session| {
        session.exchange_parts(exchanged);
        let party = session.party() as usize;
        let made = protocol.run(session, &narrow[party], &wraps[party], &wide[party]);
        session.exchange_parts(false);
        made
    });
    outcome.costs(cost, &format!("{protocol:?}"));
    for (i, found) in sum(&outcome.shares, protocol.bits).into_iter().enumerate() {
        let expected = x[i].wrapping_mul(y[i]) & low_mask(protocol.bits);
        assert_eq!(
            found, expected,
            "{protocol:?}: {:#x} times {:#x}",
            x[i], y[i]
        );
    }
}

#[test]
fn narrow_products_are_exact_on_all_of_8_bits() {
    let world = World::new();
    let x: Vec<u64> = (0..1 << 16).map(|i| i >> 8).collect();
    let y: Vec<u64> = (0..1 << 16).map(|i| i & 255).collect();
    equals(&world, NarrowProduct { bits: 9, low: 8 }, &x, &y, false);
    equals(&world, NarrowProduct { bits: 16, low: 8 }, &x, &y, true);
}

#[test]
fn narrow_products_are_exact_at_other_widths() {
    let world = World::new();
    for (bits, low) in [(25, 10), (64, 1), (64, 37), (2, 1), (48, 47)] {
        let x = Values::of(low, 1_000);
        let mut y = Values::of(bits, 1_000);
        y.reverse();
        for exchanged in [false, true] {
            equals(&world, NarrowProduct { bits, low }, &x, &y, exchanged);
        }
    }
}

/// A line of 25 bits at a distance of 10: 57 bytes where a product of both in the ring takes 87.
#[test]
fn a_narrow_product_sends_the_bytes_of_the_page() {
    let cost = NarrowProduct { bits: 25, low: 10 }.cost(8);
    assert_eq!((cost.bytes() / 8, cost.rounds), (57, 1));
}

/// Sums do not say who played which part; bytes do.
#[test]
fn parts_can_be_exchanged() {
    let world = World::new();
    let values = Values::of(37, 1_000);
    let n = values.len();
    let shares = split(&values, 37);
    let radix = Radix::Four;
    let protocol = TruncateReduce {
        bits: 37,
        shift: 12,
        radix,
    };
    let outcome = world.run(&protocol.needs(n).exchanged(), |session| {
        session.exchange_parts(true);
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(n).exchanged(), "truncation");
    assert_ne!(protocol.cost(n).exchanged(), protocol.cost(n));
    let sums = sum(&outcome.shares, 25);
    assert!((0..n).all(|i| sums[i] == truncate_reduce(values[i], 37, 12)));
    let protocol = Msb { bits: 37, radix };
    let outcome = world.run(&protocol.needs(n).exchanged(), |session| {
        session.exchange_parts(true);
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(n).exchanged(), "sign");
    let signs = &outcome.shares[0] ^ &outcome.shares[1];
    assert!((0..n).all(|i| signs.get(i) == msb(values[i], 37)));
}

/// What was made before serves the part that takes it, whoever plays it.
#[test]
fn parts_are_exchanged_within_a_session() {
    let world = World::new();
    let values = Values::of(32, 500);
    let shares = split(&values, 32);
    let protocol = Digits {
        bits: 32,
        low: 10,
        index: 9,
        to: 10,
        sign: Some(1 << 18),
        radix: Radix::Four,
    };
    let needs = protocol.needs(values.len());
    let mut both = needs.exchanged();
    both.merge(&needs);
    let outcome = world.run(&both, |session| {
        let mut found = Vec::new();
        for exchanged in [false, true] {
            // The same share at the same machine.
            let own = session.party() as usize;
            session.exchange_parts(exchanged);
            found.push(protocol.run(session, &shares[own])?);
            session.exchange_parts(false);
        }
        Ok(found
            .into_iter()
            .map(|parts| parts.index)
            .collect::<Vec<_>>())
    });
    let [first, second] = &outcome.shares;
    for run in 0..2 {
        let index = sum(&[first[run].clone(), second[run].clone()], 9);
        assert!((0..values.len()).all(|i| index[i] == values[i] >> 10 & 511));
    }
}
