//! Products under masks: exact for all factors with room, and openings alone online.

use marill_numeric::{fixed::low_mask, fixed::sign_extend, integer::mixed_product};
use marill_ot::{Phase, Session};
use marill_two_party::{OpenedProduct, OtError, Radix};

use crate::{
    functions::{Declared, outputs},
    world::{Values, World, split},
};

fn product(x_bits: u32, y_bits: u32, out: u32) -> OpenedProduct {
    OpenedProduct {
        x_bits,
        y_bits,
        out,
        radix: Radix::Four,
    }
}

fn equals(world: &World, protocol: OpenedProduct, x: &[u64], y: &[u64]) {
    let OpenedProduct {
        x_bits,
        y_bits,
        out,
        ..
    } = protocol;
    let n = x.len();
    let shares = [split(x, x_bits), split(y, y_bits)];
    let declared = Declared {
        needs: protocol.prepare_needs(n),
        offline: protocol.offline_cost(n),
        online: protocol.cost(n),
    };
    let name = format!("{protocol:?}");
    let found = outputs(world, &declared, out, &name, |session| {
        let party = session.party() as usize;
        protocol.run(session, &shares[0][party], &shares[1][party])
    });
    for (i, got) in found.into_iter().enumerate() {
        let factors = [(x[i], x_bits, true), (y[i], y_bits, true)];
        let expected = mixed_product(factors[0], factors[1], out);
        assert_eq!(got, expected, "{name}: {:#x} times {:#x}", x[i], y[i]);
    }
}

/// Values with a bit of room beside their sign.
fn with_room(bits: u32, values: impl IntoIterator<Item = u64>) -> Vec<u64> {
    let of = |value| sign_extend(value & low_mask(bits - 1), bits - 1) as u64 & low_mask(bits);
    values.into_iter().map(of).collect()
}

#[test]
fn opened_products_are_exact_on_all_of_8_bits() {
    let world = World::new();
    let x = with_room(8, (0..1 << 14).map(|i| i >> 7));
    let y = with_room(8, (0..1 << 14).map(|i| i & 127));
    for out in [8, 11, 16, 24] {
        equals(&world, product(8, 8, out), &x, &y);
    }
}

#[test]
fn opened_products_are_exact_at_other_widths() {
    let world = World::new();
    for (x_bits, y_bits, out) in [
        (24, 24, 44),
        (16, 16, 32),
        (32, 32, 64),
        (37, 16, 53),
        (5, 41, 46),
        (2, 3, 9),
        (64, 64, 64),
    ] {
        let x = with_room(x_bits, Values::of(x_bits, 500));
        let mut y = with_room(y_bits, Values::of(y_bits, 500));
        y.reverse();
        equals(&world, product(x_bits, y_bits, out), &x, &y);
    }
}

#[test]
fn an_opened_product_sends_its_openings_alone() {
    let n = 64;
    let cost = product(24, 24, 44).cost(n);
    assert_eq!((cost.bytes(), cost.rounds), (12 * n as u64, 1));
}

/// Factors that do not change are opened as other values each time.
#[test]
fn what_is_opened_is_new_each_time() {
    let world = World::new();
    let n = 1000;
    let protocol = product(16, 16, 32);
    let zeros = vec![0; n];
    let opened = |session: &mut Session<_, _>| -> Result<_, OtError> {
        let before = session.traffic(Phase::Online);
        let out = protocol.run(session, &zeros, &zeros)?;
        let sent = session.traffic(Phase::Online).sent - before.sent;
        Ok((out, sent))
    };
    let runs = [(); 2].map(|()| world.run(&protocol.prepare_needs(n), opened));
    let shares = runs.map(|run| run.shares[0].0.clone());
    let same = shares[0].iter().zip(&shares[1]).filter(|(a, b)| a == b);
    // Uniform in 32 bits: none of a thousand is expected to be the same.
    assert!(same.count() < 3);
}
