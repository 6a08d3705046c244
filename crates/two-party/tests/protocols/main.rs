//! Every protocol equals its integer program, and sends what it declares: bytes by party, rounds as
//! the longest chain of messages.

mod bits;
mod bounded;
mod digits;
mod functions;
mod narrow;
mod opened;
mod pool;
mod recurrent;
mod reference;
mod tables;
mod widths;
mod world;

use marill_numeric::{
    fixed::low_mask,
    integer::{arithmetic_shift, msb, product, relu, relu_truncate, truncate_reduce},
};
use marill_two_party::{
    Comparisons, CrossTerm, Equal, Greater, Msb, Multiplex, Party, Product, Radix, Relu,
    ReluTruncate, Shift, Sign, ToRing, TruncateReduce, conversions, conversions_cost,
    local_truncate_reduce,
};
use world::{Values, World, bits_of, split, split_bits, sum};

const RADICES: [Radix; 2] = [Radix::Four, Radix::Sixteen];

/// Runs a protocol of shares to shares over values and compares with its integer program.
macro_rules! shares_equal {
    ($world:expr, $protocol:expr, $values:expr, $bits:expr, $out:expr, $program:expr) => {{
        let protocol = $protocol;
        let values: &[u64] = $values;
        let shares = split(values, $bits);
        let outcome = $world.run(&protocol.needs(values.len()), |session| {
            protocol.run(session, &shares[session.party() as usize])
        });
        outcome.costs(protocol.cost(values.len()), &format!("{protocol:?}"));
        for (value, out) in values.iter().zip(sum(&outcome.shares, $out)) {
            assert_eq!(out, $program(*value), "{protocol:?} of {value:#x}");
        }
    }};
}

macro_rules! bits_equal {
    ($world:expr, $protocol:expr, $inputs:expr, $program:expr) => {{
        let protocol = $protocol;
        let inputs: [&[u64]; 2] = $inputs;
        let n = inputs[0].len();
        let outcome = $world.run(&protocol.needs(n), |session| {
            protocol.run(session, inputs[session.party() as usize])
        });
        outcome.costs(protocol.cost(n), &format!("{protocol:?}"));
        let out = &outcome.shares[0] ^ &outcome.shares[1];
        for i in 0..n {
            let expected: bool = $program(i);
            assert_eq!(out.get(i) == 1, expected, "{protocol:?} at {i}");
        }
    }};
}

fn every_16_bits() -> Vec<u64> {
    (0..1 << 16).collect()
}

#[test]
fn comparison_is_exact_on_all_pairs_of_8_bits() {
    let world = World::new();
    let x: Vec<u64> = (0..1 << 16).map(|i| i >> 8).collect();
    let y: Vec<u64> = (0..1 << 16).map(|i| i & 255).collect();
    for radix in RADICES {
        let greater = Greater { bits: 8, radix };
        bits_equal!(world, greater, [&x, &y], |i: usize| x[i] > y[i]);
        let equal = Equal { bits: 8, radix };
        bits_equal!(world, equal, [&x, &y], |i: usize| x[i] == y[i]);
    }
}

#[test]
fn comparison_is_exact_at_every_width() {
    let world = World::new();
    for radix in RADICES {
        for bits in (1..=20).chain([31, 32, 36, 63, 64]) {
            let [x, y] = Values::pairs(bits, 500);
            let greater = Greater { bits, radix };
            bits_equal!(world, greater, [&x, &y], |i: usize| x[i] > y[i]);
            let equal = Equal { bits, radix };
            bits_equal!(world, equal, [&x, &y], |i: usize| x[i] == y[i]);
        }
    }
}

#[test]
fn comparisons_of_many_widths_share_their_rounds() {
    let world = World::new();
    let widths = vec![1, 63, 7, 1, 16, 64];
    let n = 500;
    let radix = Radix::Four;
    let pairs: Vec<[Vec<u64>; 2]> = widths.iter().map(|bits| Values::pairs(*bits, n)).collect();
    let own = [0, 1].map(|party| pairs.iter().map(|pair| pair[party].clone()).collect());
    let own: [Vec<Vec<u64>>; 2] = own;
    let protocol = Comparisons { widths, radix };
    let outcome = world.run(&protocol.needs(n), |session| {
        protocol.run(session, &own[session.party() as usize])
    });
    outcome.costs(protocol.cost(n), "comparisons");
    let widest = Greater { bits: 64, radix };
    assert_eq!(protocol.cost(n).rounds, widest.cost(n).rounds);
    for (k, [x, y]) in pairs.iter().enumerate() {
        let found = &outcome.shares[0][k] ^ &outcome.shares[1][k];
        assert!((0..n).all(|i| (found.get(i) == 1) == (x[i] > y[i])));
    }
}

#[test]
fn the_sign_bit_is_exact_on_all_of_16_bits() {
    let world = World::new();
    let values = every_16_bits();
    let shares = split(&values, 16);
    for radix in RADICES {
        let inputs = [&shares[0][..], &shares[1][..]];
        let program = |i: usize| msb(values[i], 16) == 1;
        bits_equal!(world, Msb { bits: 16, radix }, inputs, program);
    }
    let shares = split(&[0, 1, 1, 0], 1);
    let inputs = [&shares[0][..], &shares[1][..]];
    let radix = Radix::Four;
    bits_equal!(world, Msb { bits: 1, radix }, inputs, |i: usize| i == 1
        || i == 2);
}

#[test]
fn relu_is_exact_on_all_of_16_bits() {
    let world = World::new();
    for radix in RADICES {
        let bits = 16;
        let protocol = Relu { bits, radix };
        shares_equal!(world, protocol, &every_16_bits(), 16, 16, |x| relu(x, 16));
    }
}

#[test]
fn truncations_are_exact_on_all_of_16_bits() {
    let world = World::new();
    let radix = Radix::Four;
    let bits = 16;
    for shift in [1, 2, 7, 12, 15] {
        let values = every_16_bits();
        let reduce = TruncateReduce { bits, shift, radix };
        let out = 16 - shift;
        shares_equal!(world, reduce, &values, 16, out, |x| truncate_reduce(
            x, 16, shift
        ));
        let program = |x| arithmetic_shift(x, 16, shift);
        let sign = Sign::Unknown;
        let any = Shift {
            bits,
            shift,
            sign,
            radix,
        };
        shares_equal!(world, any, &values, 16, 16, program);
        let known = [
            (Sign::NotNegative, &values[..1 << 15]),
            (Sign::Negative, &values[1 << 15..]),
        ];
        for (sign, values) in known {
            let known = Shift { sign, ..any };
            shares_equal!(world, known, values, 16, 16, program);
        }
        if shift < 15 {
            let fused = ReluTruncate { bits, shift, radix };
            shares_equal!(world, fused, &values, 16, 16, |x| relu_truncate(
                x, 16, shift
            ));
        }
    }
}

#[test]
fn wide_values_and_corners_are_exact() {
    let world = World::new();
    for radix in RADICES {
        for (bits, shift) in [(32, 12), (37, 12), (37, 13), (64, 12), (64, 1), (64, 40)] {
            wide(&world, bits, shift, radix, 2_000);
        }
    }
}

/// A million of each width, in a minute or two on an idle machine.
#[test]
#[ignore = "takes minutes; CI runs the corners above"]
fn a_million_wide_values_are_exact() {
    let world = World::new();
    for (bits, shift) in [(32, 12), (37, 12), (41, 12), (64, 12)] {
        wide(&world, bits, shift, Radix::Four, 1_000_000);
    }
}

fn wide(world: &World, bits: u32, shift: u32, radix: Radix, n: usize) {
    let values = Values::of(bits, n);
    shares_equal!(world, Relu { bits, radix }, &values, bits, bits, |x| relu(
        x, bits
    ));
    let reduce = TruncateReduce { bits, shift, radix };
    let program = |x| truncate_reduce(x, bits, shift);
    shares_equal!(world, reduce, &values, bits, bits - shift, program);
    let sign = Sign::Unknown;
    let any = Shift {
        bits,
        shift,
        sign,
        radix,
    };
    let program = |x| arithmetic_shift(x, bits, shift);
    shares_equal!(world, any, &values, bits, bits, program);
    let positive: Vec<u64> = values.iter().map(|x| x & low_mask(bits - 1)).collect();
    let sign = Sign::NotNegative;
    shares_equal!(world, Shift { sign, ..any }, &positive, bits, bits, program);
    let fused = ReluTruncate { bits, shift, radix };
    let program = |x| relu_truncate(x, bits, shift);
    shares_equal!(world, fused, &values, bits, bits, program);
    let [x, y] = Values::pairs(bits, n);
    let greater = Greater { bits, radix };
    bits_equal!(world, greater, [&x, &y], |i: usize| x[i] > y[i]);
}

#[test]
fn shared_bits_move_to_every_ring() {
    let world = World::new();
    let bits = bits_of(1_000);
    let shares = split_bits(&bits);
    for width in [1, 2, 8, 37, 64] {
        let protocol = ToRing { bits: width };
        let outcome = world.run(&protocol.needs(1_000), |session| {
            protocol.run(session, &shares[session.party() as usize])
        });
        outcome.costs(protocol.cost(1_000), "bit to ring");
        let sums = sum(&outcome.shares, width);
        assert!((0..1_000).all(|i| sums[i] == bits.get(i)));
    }
}

#[test]
fn a_bit_selects_a_value_or_zero() {
    let world = World::new();
    let bits = bits_of(1_000);
    let bit_shares = split_bits(&bits);
    for width in [1, 16, 37, 64] {
        let values = Values::of(width, 1_000);
        let shares = split(&values, width);
        let protocol = Multiplex { bits: width };
        let outcome = world.run(&protocol.needs(1_000), |session| {
            let party = session.party() as usize;
            protocol.run(session, &bit_shares[party], &shares[party])
        });
        outcome.costs(protocol.cost(1_000), "multiplexer");
        let sums = sum(&outcome.shares, width);
        assert!((0..1_000).all(|i| sums[i] == values[i] * bits.get(i)));
    }
}

#[test]
fn bits_convert_and_choose_in_one_round() {
    let world = World::new();
    let n = 1_000;
    let bits = bits_of(n);
    let bit_shares = split_bits(&bits);
    let values = Values::of(37, n);
    let shares = split(&values, 37);
    let rings = [1, 9, 64].map(|bits| ToRing { bits });
    let choice = Multiplex { bits: 37 };
    let mut needs = choice.needs(n);
    rings.iter().for_each(|ring| needs.merge(&ring.needs(n)));
    let outcome = world.run(&needs, |session| {
        let party = session.party() as usize;
        let bit = &bit_shares[party];
        let list = rings.map(|ring| (ring, bit));
        conversions(session, &list, &[(choice, bit, &shares[party])])
    });
    let declared = conversions_cost(&rings.map(|ring| (ring, n)), &[(choice, n)]);
    outcome.costs(declared, "conversions");
    assert_eq!(declared.rounds, 1);
    let [first, second] = &outcome.shares;
    for (k, ring) in rings.iter().enumerate() {
        let sums = sum(&[first[0][k].clone(), second[0][k].clone()], ring.bits);
        assert!((0..n).all(|i| sums[i] == bits.get(i)), "{ring:?}");
    }
    let sums = sum(&[first[1][0].clone(), second[1][0].clone()], 37);
    assert!((0..n).all(|i| sums[i] == values[i] * bits.get(i)));
}

#[test]
fn products_are_exact_in_every_ring() {
    let world = World::new();
    for bits in [1, 8, 16, 37, 64] {
        let n = 1_000;
        let [x, y] = Values::pairs(bits, n);
        let shares = [split(&x, bits), split(&y, bits)];
        let protocol = Product { bits };
        let outcome = world.run(&protocol.needs(n), |session| {
            let party = session.party() as usize;
            protocol.run(session, &shares[0][party], &shares[1][party])
        });
        outcome.costs(protocol.cost(n), "product");
        let sums = sum(&outcome.shares, bits);
        assert!((0..n).all(|i| sums[i] == product(x[i], y[i], bits)));
    }
    let each = Product { bits: 32 }.cost(8).bytes() / 8;
    assert_eq!(each, 140);
}

#[test]
fn private_values_multiply_into_a_wider_ring() {
    let world = World::new();
    let x: Vec<u64> = (0..1 << 16).map(|i| i >> 8).collect();
    let y: Vec<u64> = (0..1 << 16).map(|i| i & 255).collect();
    let inputs = [&x, &y];
    let protocol = CrossTerm {
        bits: 16,
        chooser_bits: 8,
    };
    let outcome = world.run(&protocol.needs(1 << 16), |session| {
        protocol.run(session, inputs[session.party() as usize])
    });
    outcome.costs(protocol.cost(1 << 16), "cross term");
    let sums = sum(&outcome.shares, 16);
    assert!((0..1 << 16).all(|i| sums[i] == x[i] * y[i]));
}

#[test]
fn a_local_truncation_is_at_most_one_less() {
    let values = Values::of(37, 1_000);
    let shares = split(&values, 37);
    let own = [&shares[0], &shares[1]].map(|share| local_truncate_reduce(share, 37, 12));
    for (value, out) in values.iter().zip(sum(&own, 25)) {
        let less = truncate_reduce(*value, 37, 12).wrapping_sub(out) & low_mask(25);
        assert!(less <= 1);
    }
}

/// The figures of the published floors, to the byte, messages alone.
#[test]
fn messages_cost_what_the_floor_says() {
    let n = 65_536;
    let radix = Radix::Four;
    let each = |cost: marill_two_party::Cost| cost.bytes() as f64 / n as f64;
    let greater = |bits, radix| each(Greater { bits, radix }.cost(n));
    assert_eq!(greater(16, Radix::Four), 11.25);
    assert_eq!(greater(32, Radix::Four), 24.0);
    assert_eq!(greater(64, Radix::Four), 49.75);
    assert_eq!(greater(16, Radix::Sixteen), 16.875);
    assert_eq!(greater(32, Radix::Sixteen), 36.625);
    assert_eq!(greater(64, Radix::Sixteen), 76.375);
    assert_eq!(each(Relu { bits: 32, radix }.cost(n)), 31.625);
    let bits = 37;
    let shift = 12;
    assert_eq!(each(TruncateReduce { bits, shift, radix }.cost(n)), 11.125);
    let shift_of = |sign| Shift {
        bits,
        shift,
        sign,
        radix,
    };
    assert_eq!(each(shift_of(Sign::Unknown).cost(n)), 34.375);
    assert_eq!(each(shift_of(Sign::NotNegative).cost(n)), 14.25);
    assert_eq!(each(ReluTruncate { bits, shift, radix }.cost(n)), 43.0);
    let rounds = |bits, radix| Greater { bits, radix }.cost(n).rounds;
    assert_eq!(
        [16, 32, 64].map(|bits| rounds(bits, Radix::Four)),
        [5, 6, 7]
    );
    assert_eq!(
        [16, 32, 64].map(|bits| rounds(bits, Radix::Sixteen)),
        [4, 5, 6]
    );
    // A 32-bit comparison takes 62 transfers.
    let cots = Greater { bits: 32, radix }.needs(1).cots();
    assert_eq!(cots.iter().sum::<usize>(), 62);
}

#[test]
fn parties_keep_to_their_halves() {
    // Shares of the same value differ from run to run, and neither half says what it is.
    let world = World::new();
    let values = vec![5; 4_000];
    let shares = split(&values, 16);
    let bits = 16;
    let radix = Radix::Four;
    let protocol = Relu { bits, radix };
    let run = || {
        world.run(&protocol.needs(4_000), |session| {
            protocol.run(session, &shares[session.party() as usize])
        })
    };
    let [first, second] = [run(), run()];
    for party in [Party::E0, Party::E1] {
        let half = |shares: &[Vec<u64>; 2]| shares[party as usize].clone();
        let [a, b] = [half(&first.shares), half(&second.shares)];
        let same = a.iter().zip(&b).filter(|(a, b)| a == b).count();
        // By chance 4,000 / 2^16 are equal.
        assert!(same < 20, "{same} shares came twice");
        let ones: u32 = a.iter().map(|share| (share & 0xffff).count_ones()).sum();
        // Six deviations of 64,000 fair bits.
        assert!((f64::from(ones) - 32_000.0).abs() < 760.0, "{ones} ones");
    }
}
