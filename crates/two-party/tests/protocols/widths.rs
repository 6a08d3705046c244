//! Widths that change: extension, products of factors of different widths.

use marill_numeric::{
    fixed::low_mask,
    integer::{extend, mixed_matrix, mixed_product},
};
use marill_two_party::{Extend, Factor, MixedMatrix, MixedProduct, Radix, Reading};

use crate::world::{Values, World, split, sum};

const READINGS: [Reading; 3] = [Reading::Unsigned, Reading::Signed, Reading::NotNegative];

fn is_signed(reading: Reading) -> bool {
    reading == Reading::Signed
}

/// What a reading allows of these.
fn allowed(values: &[u64], bits: u32, reading: Reading) -> Vec<u64> {
    let unused = u32::from(reading == Reading::NotNegative);
    let mask = low_mask(bits - unused);
    values.iter().map(|value| value & mask).collect()
}

fn extends(world: &World, protocol: Extend, values: &[u64]) {
    let Extend {
        from, to, reading, ..
    } = protocol;
    let values = allowed(values, from, reading);
    let shares = split(&values, from);
    let outcome = world.run(&protocol.needs(values.len()), |session| {
        protocol.run(session, &shares[session.party() as usize])
    });
    outcome.costs(protocol.cost(values.len()), &format!("{protocol:?}"));
    for (value, out) in values.iter().zip(sum(&outcome.shares, to)) {
        let expected = extend(*value, from, is_signed(reading), to);
        assert_eq!(out, expected, "{protocol:?} of {value:#x}");
    }
}

#[test]
fn extension_is_exact_on_all_of_16_bits() {
    let world = World::new();
    let values: Vec<u64> = (0..1 << 16).collect();
    let radix = Radix::Four;
    for reading in READINGS {
        for to in [16, 17, 32, 64] {
            let from = 16;
            let protocol = Extend {
                from,
                to,
                reading,
                radix,
            };
            extends(&world, protocol, &values);
        }
    }
}

#[test]
fn extension_is_exact_at_every_width() {
    let world = World::new();
    for radix in [Radix::Four, Radix::Sixteen] {
        for reading in READINGS {
            for (from, to) in [(2, 3), (8, 64), (37, 41), (41, 64), (63, 64)] {
                let protocol = Extend {
                    from,
                    to,
                    reading,
                    radix,
                };
                extends(&world, protocol, &Values::of(from, 500));
            }
        }
    }
}

fn multiplies(world: &World, protocol: MixedProduct, n: usize) {
    let MixedProduct { x, y, .. } = protocol;
    let x_values = allowed(&Values::of(x.bits, n), x.bits, x.reading);
    // Corners meet corners: those of the other factor come eight apart.
    let y_values = Values::of(y.bits, n).into_iter();
    let mut y_values = allowed(&y_values.collect::<Vec<_>>(), y.bits, y.reading);
    let corners: Vec<u64> = y_values[..8].to_vec();
    let spread = y_values[..64.min(n)].iter_mut().enumerate();
    spread.for_each(|(i, value)| *value = corners[i / 8]);
    let x_values: Vec<u64> = (0..n)
        .map(|i| if i < 64 { x_values[i % 8] } else { x_values[i] })
        .collect();
    // Messages that fit a frame: one that does not is a longer chain.
    for start in (0..n).step_by(1 << 16) {
        let part = start..n.min(start + (1 << 16));
        products_of(world, protocol, &x_values[part.clone()], &y_values[part]);
    }
}

fn products_of(world: &World, protocol: MixedProduct, x_values: &[u64], y_values: &[u64]) {
    let MixedProduct { x, y, out, .. } = protocol;
    let n = x_values.len();
    let shares = [split(x_values, x.bits), split(y_values, y.bits)];
    let outcome = world.run(&protocol.needs(n), |session| {
        let party = session.party() as usize;
        protocol.run(session, &shares[0][party], &shares[1][party])
    });
    outcome.costs(protocol.cost(n), &format!("{protocol:?}"));
    for (i, got) in sum(&outcome.shares, out).into_iter().enumerate() {
        let [a, b] = [(x_values[i], x), (y_values[i], y)]
            .map(|(value, factor)| (value, factor.bits, is_signed(factor.reading)));
        assert_eq!(got, mixed_product(a, b, out), "{protocol:?}: {a:?}, {b:?}");
    }
}

#[test]
fn mixed_products_are_exact_for_every_reading() {
    let world = World::new();
    for radix in [Radix::Four, Radix::Sixteen] {
        for (x_bits, y_bits, out) in [(16, 16, 32), (9, 5, 14), (12, 7, 12), (5, 9, 11)] {
            for x in READINGS {
                for y in READINGS {
                    let factor = |bits, reading| Factor { bits, reading };
                    let protocol = MixedProduct {
                        x: factor(x_bits, x),
                        y: factor(y_bits, y),
                        out,
                        radix,
                    };
                    multiplies(&world, protocol, 500);
                }
            }
        }
    }
}

#[test]
fn mixed_products_are_exact_in_wide_rings() {
    let world = World::new();
    for (x_bits, y_bits, out) in [(32, 32, 64), (37, 16, 53), (64, 12, 64), (41, 41, 41)] {
        multiplies(&world, signed(x_bits, y_bits, out), 500);
    }
}

#[test]
#[ignore = "a minute; the corners are above"]
fn a_million_mixed_products_are_exact() {
    let world = World::new();
    for (x_bits, y_bits, out) in [(16, 16, 32), (32, 32, 64), (37, 16, 53), (41, 12, 64)] {
        multiplies(&world, signed(x_bits, y_bits, out), 1_000_000);
    }
}

fn signed(x_bits: u32, y_bits: u32, out: u32) -> MixedProduct {
    let factor = |bits| Factor {
        bits,
        reading: Reading::Signed,
    };
    MixedProduct {
        x: factor(x_bits),
        y: factor(y_bits),
        out,
        radix: Radix::Four,
    }
}

/// Two comparisons, an extension, a multiplexer and two cross terms.
#[test]
fn a_signed_product_costs_what_it_says() {
    let cost = signed(16, 16, 32).cost(8);
    assert_eq!(cost.bytes(), 2 * 90 + 16 + 2 * 17 + 2 * 408);
    assert_eq!(cost.rounds, 7);
}

fn matrices(world: &World, protocol: MixedMatrix) {
    let MixedMatrix { x, y, out, .. } = protocol;
    let shape = [protocol.rows, protocol.inner, protocol.columns];
    let of = |factor: Factor, n| allowed(&Values::of(factor.bits, n), factor.bits, factor.reading);
    let [rows, inner, columns] = shape;
    let x_values = of(x, rows * inner);
    let y_values = of(y, inner * columns);
    let shares = [split(&x_values, x.bits), split(&y_values, y.bits)];
    let outcome = world.run(&protocol.needs(), |session| {
        let party = session.party() as usize;
        protocol.run(session, &shares[0][party], &shares[1][party])
    });
    outcome.costs_after(0, protocol.cost(), &format!("{protocol:?}"));
    let signed = [x, y].map(|factor| is_signed(factor.reading));
    let [x, y] = [
        (&x_values[..], x.bits, signed[0]),
        (&y_values[..], y.bits, signed[1]),
    ];
    let expected = mixed_matrix(shape, x, y, out);
    assert!(sum(&outcome.shares, out) == expected, "{protocol:?}");
}

#[test]
fn mixed_matrices_are_exact() {
    let world = World::new();
    for (shape, widths) in [
        ([5, 7, 3], [8, 16, 27]),
        ([1, 40, 1], [16, 16, 38]),
        ([3, 2, 200], [4, 9, 9]),
        ([9, 1, 5], [16, 12, 16]),
        ([4, 6, 2], [32, 32, 64]),
    ] {
        for x in READINGS {
            for y in READINGS {
                let factor = |bits, reading| Factor { bits, reading };
                matrices(
                    &world,
                    MixedMatrix {
                        rows: shape[0],
                        inner: shape[1],
                        columns: shape[2],
                        x: factor(widths[0], x),
                        y: factor(widths[1], y),
                        out: widths[2],
                        radix: Radix::Four,
                    },
                );
            }
        }
    }
}

/// A row of 64 products takes the transfers of one.
#[test]
fn a_row_of_a_mixed_matrix_shares_its_transfers() {
    let factor = Factor {
        bits: 16,
        reading: Reading::NotNegative,
    };
    let cots = |columns| {
        let protocol = MixedMatrix {
            rows: 10,
            inner: 1,
            columns,
            x: factor,
            y: factor,
            out: 32,
            radix: Radix::Four,
        };
        protocol.needs().cots()
    };
    // Of each element of `y` one for its extension, in which E0 sends.
    assert_eq!(cots(64)[0] - 64, cots(1)[0] - 1);
    assert_eq!(cots(64)[1], cots(1)[1]);
}
