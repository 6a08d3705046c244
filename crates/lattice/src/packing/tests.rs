//! Trees: exactness, noise, and what a packed result would say of factors.

use super::*;
use crate::{
    bfv::{
        Ciphertext, Factor, Factors, Rerandomized, Sum,
        tests::{World, deviation, divide, encrypt, plaintext, small_factors, world},
    },
    ring::Ring,
};

const SET: ParameterSet = ParameterSet::N8192;
const BITS: u32 = 48;

fn with_keys() -> (World, PackingKeys) {
    let world = world(SET);
    let keys = world.key.packing_keys(13).unwrap();
    (world, PackingKeys::from_bytes(SET, 1, &keys).unwrap())
}

fn fresh(world: &World) -> (Vec<u64>, Ciphertext) {
    let plain = plaintext(SET.n(), BITS);
    let ciphertext = encrypt(world, BITS, &plain);
    (plain, ciphertext)
}

/// A ciphertext over `2^halvings`.
fn halved(ring: &Ring, ciphertext: &Ciphertext, halvings: u32) -> Packed {
    let mut x = ciphertext.to_packed(ring);
    ring.halve(&mut x.c0, halvings);
    ring.halve(&mut x.c1, halvings);
    x
}

#[test]
fn classes_are_a_permutation_of_places() {
    for depth in 0..=13 {
        let n = SET.n();
        let mut classes: Vec<usize> = (0..1 << depth)
            .map(|k| class(n, depth, k * (n >> depth)))
            .collect();
        classes.sort_unstable();
        assert!(classes.into_iter().eq(0..1 << depth));
    }
    assert_eq!(class(8192, 2, 2048), 2);
}

#[test]
fn a_column_is_taken_out_exactly_at_every_depth() {
    let (world, keys) = with_keys();
    let ring = &*world.public.ring;
    let (plain, ciphertext) = fresh(&world);
    for depth in [1, 3, 10, 13] {
        let mut rest = halved(ring, &ciphertext, depth);
        // Down a path of both kinds of turns.
        let mut place = 0;
        for step in 0..depth {
            let turn = usize::from(step % 2 == 0);
            let halves = split(&keys, step, &rest, [turn == 0, turn == 1]);
            rest = halves.into_iter().flatten().next().unwrap();
            place += turn << step;
        }
        let (read, noise) = world.key.decrypt_packed(&rest, BITS);
        for (i, read) in read.iter().enumerate() {
            let useful = i % (1 << depth) == 0;
            let exact = if useful { plain[i + place] } else { 0 };
            assert_eq!(*read, exact, "depth {depth}, {i}");
        }
        // Fresh errors, 21 at most, and the declared bound.
        let most = noise.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        assert!(most < super::noise(SET, depth) + 21.0, "{most}");
    }
}

#[test]
fn merged_polynomials_have_all_useful_coefficients() {
    let (world, keys) = with_keys();
    let ring = &*world.public.ring;
    let depth = 3;
    // Eight polynomials with anything between multiples of eight, one of them missing.
    let sources: Vec<_> = (0..7).map(|_| fresh(&world)).collect();
    let leaf = |k: usize| sources.get(k).map(|(_, x)| halved(ring, x, depth));
    let pair = |k: usize| merge(&keys, 2, leaf(k).unwrap(), leaf(k + 4));
    let half = |k: usize| merge(&keys, 1, pair(k), Some(pair(k + 2)));
    let whole = merge(&keys, 0, half(0), Some(half(1)));
    let (read, noise) = world.key.decrypt_packed(&whole, BITS);
    for (k, (plain, _)) in sources.iter().enumerate() {
        for i in (0..SET.n()).step_by(8) {
            assert_eq!(read[i + k], plain[i], "polynomial {k}, {i}");
            assert!(noise[i + k].abs() < super::noise(SET, depth) + 21.0);
        }
    }
}

/// A column times factors, by the way that takes columns out.
fn column_times(world: &World, keys: &PackingKeys, x: &Ciphertext, w: &[i64]) -> [Ciphertext; 2] {
    let ring = &*world.public.ring;
    let [even, _] = split(keys, 0, &halved(ring, x, 1), [true, false]);
    let column = even.unwrap().to_ciphertext(ring);
    let mut sum = Sum::new(ring);
    sum.add_product(ring, &column, &Factor::new(ring, w));
    [column, sum.pack(ring).to_ciphertext(ring)]
}

#[test]
fn a_division_of_a_taken_column_gives_its_factors() {
    let (world, keys) = with_keys();
    let ring = &*world.public.ring;
    let (_, ciphertext) = fresh(&world);
    let w = small_factors(SET.n(), 12);
    let [column, result] = column_times(&world, &keys, &ciphertext, &w);
    let exact: Vec<i128> = w.iter().map(|w| i128::from(*w)).collect();
    // The client computes the column itself: all that it takes is its own or was sent.
    assert_eq!(divide(ring, &result.c1, &column.c1), exact);
    let given = result.to_packed(ring).rerandomize(&world.public);
    let c1 = ring.forward(Coefficients(given.c1.0.clone()));
    let quotient = divide(ring, &c1, &column.c1);
    // Numbers that are uniform modulo 2^128: one below 2^64 has probability 2^-63.
    assert!(quotient.iter().all(|x| x.abs() >= 1 << 64));
}

/// Rows of factors times a ciphertext, merged.
fn merged_rows(world: &World, keys: &PackingKeys, x: &Ciphertext, rows: [&[i64]; 2]) -> Packed {
    let ring = &*world.public.ring;
    let leaf = |w: &[i64]| {
        let numbers: Vec<_> = w.iter().enumerate().map(|(i, w)| (i, false, *w)).collect();
        let mut sum = Sum::new(ring);
        sum.add_product(ring, x, &Factor(ring.sparse(&numbers, 1)));
        sum.pack(ring)
    };
    merge(keys, 0, leaf(rows[0]), Some(leaf(rows[1])))
}

#[test]
fn a_guess_of_merged_rows_is_confirmed_unless_rerandomized() {
    let (world, keys) = with_keys();
    let ring = &*world.public.ring;
    let (_, x) = fresh(&world);
    let w = [(); 2].map(|()| small_factors(SET.n(), 12));
    let result = merged_rows(&world, &keys, &x, [&w[0], &w[1]]);
    // Merging is deterministic, so whoever guesses factors knows the second polynomial.
    let guess = merged_rows(&world, &keys, &x, [&w[0], &w[1]]);
    assert_eq!(*result.c1.0, *guess.c1.0);
    let Rerandomized { c1: mut given, .. } = result.rerandomize(&world.public);
    ring.subtract(&mut given, &guess.c1);
    let far = (0..SET.n()).all(|at| ring.balanced(&given, at).abs() >= 1 << 64);
    assert!(far, "the difference is uniform");
}

#[test]
fn flooding_hides_factors_after_merging() {
    let (world, keys) = with_keys();
    let (_, x) = fresh(&world);
    let zero = vec![0; SET.n()];
    let large = [(); 2].map(|()| small_factors(SET.n(), 20));
    let own = Factors::Signed(20).noise(SET, BITS, SET.n()) + noise(SET, 1);
    let flood = Factors::Signed(20).flood_above(SET, BITS, own).unwrap();
    let measured = |rows, flooded| {
        let mut result = merged_rows(&world, &keys, &x, rows).rerandomize(&world.public);
        if flooded {
            let all: Vec<usize> = (0..SET.n()).collect();
            result.mask(BITS, &all, &plaintext(SET.n(), BITS), flood);
        }
        world.key.decrypt_rerandomized(&result, BITS).1
    };
    let small = [&zero[..], &zero[..]];
    let wide = [&large[0][..], &large[1][..]];
    let signal = measured(wide, false);
    // Unflooded noise tells the two apart at a glance.
    assert!(deviation(&signal) > 1e4 * deviation(&measured(small, false)));
    let uniform = f64::from(flood).exp2() / 3f64.sqrt();
    for rows in [small, wide] {
        // The square of a uniform draw deviates by 0.9 of its mean: 1 % of 8192, seven times.
        assert!((deviation(&measured(rows, true)) / uniform - 1.0).abs() < 0.035);
    }
    let most = signal.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    assert!(most < own, "{most} of {own}");
    assert!(f64::from(flood) - most.log2() >= 40.0);
}
