//! Truncation of values with room above them, and sums of vectors by scalars.

use marill_crypto::{Prg, Seed};
use marill_numeric::{
    fixed::{low_mask, sign_extend},
    integer::truncate_to,
};
use marill_two_party::{
    Combination, Combine, Party, Radix, Truncate, combinations, combinations_cost,
};

use crate::world::{Values, World, split, sum};

/// Everything strictly below `2^(bits-2)` in magnitude that is among these, as `bits`-bit words.
fn bounded(values: impl Iterator<Item = u64>, bits: u32) -> Vec<u64> {
    let limit = 1i64 << (bits - 2);
    values
        .map(|v| v & low_mask(bits))
        .filter(|v| sign_extend(*v, bits).abs() < limit)
        .collect()
}

fn truncates(world: &World, protocol: Truncate, values: &[u64]) {
    let Truncate {
        from,
        shift,
        to,
        added,
        ..
    } = protocol;
    let shares = split(values, from);
    let outcome = world.run(&protocol.needs(values.len()), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(values.len()), &format!("{protocol:?}"));
    for (value, out) in values.iter().zip(sum(&outcome.shares, to)) {
        let expected = truncate_to(*value, from, shift, added, to);
        assert_eq!(out, expected, "{protocol:?} of {value:#x}");
    }
}

#[test]
fn bounded_truncation_is_exact_on_all_of_14_bits() {
    let world = World::new();
    let radix = Radix::Four;
    let values = bounded(0..1 << 14, 14);
    for shift in [0, 1, 5, 12] {
        for to in [1, 3, 14 - shift, 15 - shift, 14, 20, 64] {
            truncates(&world, Truncate::half_up(14, shift, to, radix), &values);
            let down = Truncate {
                added: 0,
                ..Truncate::half_up(14, shift, to, radix)
            };
            truncates(&world, down, &values);
        }
    }
}

/// Rounded by what E0's share has in the low bits, without a message where the result's ring is
/// inside what the shares know.
#[test]
fn shares_round_by_the_low_bits_of_the_first() {
    let world = World::new();
    let radix = Radix::Four;
    for (from, shift, to) in [
        (14, 5, 9),
        (14, 5, 14),
        (14, 12, 20),
        (48, 14, 34),
        (64, 24, 64),
    ] {
        let random = Values::of(from, 4000).into_iter();
        let values = bounded(random.map(|v| (sign_extend(v, from) >> 2) as u64), from);
        let protocol = Truncate::by_shares(from, shift, to, radix);
        let silent = shift + to <= from;
        assert_eq!(protocol.cost(values.len()).rounds, u64::from(!silent));
        let shares = split(&values, from);
        let outcome = world.run(&protocol.needs(values.len()), |session| {
            protocol.run(session, &shares[session.party() as usize])
        });
        outcome.costs(protocol.cost(values.len()), &format!("{protocol:?}"));
        let outs = sum(&outcome.shares, to);
        for ((value, own), out) in values.iter().zip(&shares[0]).zip(outs) {
            let low = i128::from(own & low_mask(shift));
            let expected = (i128::from(sign_extend(*value, from)) + (1 << shift) - low) >> shift;
            assert_eq!(
                out,
                expected as u64 & low_mask(to),
                "{protocol:?} of {value:#x}"
            );
        }
    }
}

#[test]
fn bounded_truncation_is_exact_in_wide_rings() {
    let world = World::new();
    for radix in [Radix::Four, Radix::Sixteen] {
        for (from, shift, to) in [
            (64, 29, 56),
            (64, 40, 64),
            (56, 23, 64),
            (48, 0, 64),
            (33, 31, 64),
            (64, 62, 64),
        ] {
            let limit = 1u64 << (from - 2);
            let half = 1u64 << shift.max(1) >> 1;
            let edges = [0, 1, limit - 1, limit - half, limit - half - 1, half];
            let edges = edges.into_iter().flat_map(|v| [v, v.wrapping_neg()]);
            let random = Values::of(from, 400).into_iter().map(|v| {
                let small = sign_extend(v, from) >> 2;
                small as u64
            });
            let values = bounded(edges.chain(random), from);
            truncates(&world, Truncate::half_up(from, shift, to, radix), &values);
        }
    }
}

/// A scalar as the integer that it is.
fn scalar(value: u64, shape: &Combination) -> u64 {
    if shape.signed {
        sign_extend(value, shape.chooser_bits) as u64
    } else {
        value
    }
}

#[test]
fn combinations_are_exact_in_both_directions() {
    let world = World::new();
    let shape = |chooser, bits, chooser_bits, signed, count, width| Combination {
        chooser,
        bits,
        chooser_bits,
        signed,
        count,
        width,
    };
    let shapes = [
        shape(Party::E1, 64, 13, true, 70, 3),
        shape(Party::E0, 48, 48, false, 9, 130),
        shape(Party::E1, 17, 17, false, 1, 255),
        shape(Party::E0, 56, 1, true, 65, 1),
        shape(Party::E1, 1, 1, false, 3, 2),
    ];
    let mut prg = Prg::new(&Seed::from_bytes([8; 32]), "combinations");
    let parts: Vec<[Vec<u64>; 2]> = shapes
        .iter()
        .map(|shape| {
            let mut scalars = prg.reduced(shape.count, shape.chooser_bits);
            scalars[0] = low_mask(shape.chooser_bits);
            [scalars, prg.reduced(shape.count * shape.width, shape.bits)]
        })
        .collect();
    let mut needs = marill_two_party::Needs::none();
    shapes.iter().for_each(|shape| needs.merge(&shape.needs()));
    let outcome = world.run(&needs, |session| {
        let party = session.party();
        let list = shapes.iter().zip(&parts).map(|(shape, parts)| Combine {
            shape: *shape,
            own: &parts[usize::from(shape.chooser != party)],
        });
        combinations(session, "combinations", &list.collect::<Vec<_>>())
    });
    outcome.costs(combinations_cost(&shapes), "combinations");
    for (i, shape) in shapes.iter().enumerate() {
        let [scalars, vectors] = &parts[i];
        let halves = [0, 1].map(|party| outcome.shares[party][i].clone());
        let mut expected = vec![0u64; shape.width];
        for (c, row) in scalars.iter().zip(vectors.chunks_exact(shape.width)) {
            for (sum, v) in expected.iter_mut().zip(row) {
                *sum = sum.wrapping_add(scalar(*c, shape).wrapping_mul(*v)) & low_mask(shape.bits);
            }
        }
        assert!(sum(&halves, shape.bits) == expected, "{shape:?}");
    }
}
