//! Sigmoid and tangent at several widths and scales.

use marill_numeric::integer::Shape;
use marill_two_party::{Curve, Function, Radix};

use super::{Declared, outputs, scales, spread};
use crate::world::{Values, World, split};

const SHAPES: [Shape; 2] = [Shape::Sigmoid, Shape::Tanh];

fn equals(world: &World, shape: Shape, width: (u32, u32), out: (u32, u32), values: &[u64]) {
    let protocol = Curve::new(shape, width, out, Radix::Four);
    let n = values.len();
    let declared = Declared {
        needs: protocol.needs(n),
        offline: protocol.offline_cost(n),
        online: protocol.cost(n),
    };
    let shares = split(values, width.0);
    let name = format!("{shape:?} {width:?} to {out:?}");
    let found = outputs(world, &declared, out.0, &name, |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    for (value, got) in values.iter().zip(found) {
        let expected = protocol.tables().at(*value, out.0);
        assert_eq!(got, expected, "{name} of {value:#x}");
    }
}

#[test]
fn curves_equal_their_integer_programs() {
    let world = World::new();
    for shape in SHAPES {
        equals(&world, shape, (16, 12), (16, 12), &spread(1));
        equals(&world, shape, (16, 8), (16, 14), &spread(61));
    }
}

#[test]
fn curves_of_wide_numbers_are_exact() {
    let world = World::new();
    for shape in SHAPES {
        for (bits, scale, out, out_scale) in [(32, 12, 32, 12), (37, 12, 16, 10), (64, 20, 40, 14)]
        {
            // On the lines as well as beyond them.
            let near = Values::of(scale + 5, 300).into_iter();
            let near = near.map(|v| v.wrapping_sub(16 << scale) & (u64::MAX >> (64 - bits)));
            let values: Vec<u64> = near.chain(Values::of(bits, 300)).collect();
            equals(&world, shape, (bits, scale), (out, out_scale), &values);
        }
    }
}

#[test]
#[ignore = "a minute; the scales of most uses are above"]
fn curves_are_exact_at_all_scales() {
    let world = World::new();
    for shape in SHAPES {
        for (scale, out_scale) in scales() {
            equals(&world, shape, (16, scale), (16, out_scale), &spread(1));
        }
    }
}

#[test]
#[ignore = "a minute; fewer of them are above"]
fn a_million_curves_are_exact() {
    let world = World::new();
    for shape in SHAPES {
        for bits in [32, 37, 41, 64] {
            for batch in Values::of(bits, 1_000_000).chunks(1 << 16) {
                equals(&world, shape, (bits, 12), (32, 12), batch);
            }
        }
    }
}

#[test]
fn curves_cost_what_they_say() {
    let n = 64;
    let of = |shape| {
        let protocol = Curve::new(shape, (16, 12), (16, 12), Radix::Four);
        let [offline, online] = [protocol.offline_cost(n), protocol.cost(n)];
        let bits = |cost: marill_two_party::Cost| cost.bytes() * 8 / n as u64;
        (bits(offline), bits(online), offline.rounds, online.rounds)
    };
    assert_eq!(of(Shape::Sigmoid), (261, 899, 6, 14));
    assert_eq!(of(Shape::Tanh), (522, 850, 7, 13));
}
