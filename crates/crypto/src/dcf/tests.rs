//! Tests of distributed comparison functions.

use super::*;
use crate::prg::{Prg, Seed};

fn roots(n: usize, seed: u8) -> [Vec<u128>; 2] {
    let mut prg = Prg::new(&Seed::from_bytes([seed; 32]), "point roots");
    [true, false].map(|first| {
        prg.words(2 * n)
            .chunks(2)
            .map(|w| root(w[0], w[1], first))
            .collect()
    })
}

/// Both evaluators' results of every point, added up: `[element][input]`.
fn joined(
    shape: &Shape,
    alpha: &[u64],
    payload: &[Vec<u64>],
    inputs: &[u64],
    per_key: usize,
) -> Vec<Vec<u64>> {
    let roots = roots(alpha.len(), 3);
    let mut cws = Vec::new();
    generate(
        shape,
        [&roots[0], &roots[1]],
        alpha,
        |i, c| payload[c][i],
        7,
        &Cipher::new(&UNNAMED),
        &mut cws,
    );
    assert_eq!(cws.len(), alpha.len() * shape.key_bytes());
    let halves = [true, false].map(|first| {
        let mut sums = vec![vec![0u64; inputs.len()]; shape.columns()];
        let mut columns: Vec<&mut [u64]> = sums.iter_mut().map(Vec::as_mut_slice).collect();
        let roots = &roots[usize::from(!first)];
        Keys {
            shape,
            first,
            roots,
            cws: &cws,
            first_tree: 7,
            cipher: &Cipher::new(&UNNAMED),
        }
        .evaluate(inputs, per_key, &mut columns);
        sums
    });
    let add =
        |(a, b): (&Vec<u64>, &Vec<u64>)| a.iter().zip(b).map(|(a, b)| a.wrapping_add(*b)).collect();
    halves[0].iter().zip(&halves[1]).map(add).collect()
}

fn check(bits: u32, widths: &[usize], alpha: &[u64], inputs: &[u64], per_key: usize) {
    let shape = Shape::new(bits, widths);
    let mut prg = Prg::new(&Seed::from_bytes([9; 32]), "payload");
    let payload: Vec<Vec<u64>> = widths.iter().map(|_| prg.words(alpha.len())).collect();
    let sums = joined(&shape, alpha, &payload, inputs, per_key);
    for (c, &width) in widths.iter().enumerate() {
        for (j, &x) in inputs.iter().enumerate() {
            let key = j / per_key;
            let expected = if x < alpha[key] { payload[c][key] } else { 0 };
            let modulus = low_mask(8 * width as u32);
            assert_eq!(
                sums[c][j] & modulus,
                expected & modulus,
                "{bits} bits, {x} against {}",
                alpha[key]
            );
        }
    }
}

#[test]
fn small_domains_are_right_at_every_threshold() {
    for (bits, widths) in [
        (1, vec![8]),
        (2, vec![3]),
        (3, vec![4, 4]),
        (5, vec![1]),
        (6, vec![6, 6, 3]),
        (7, vec![8]),
    ] {
        let size = 1u64 << bits;
        let alpha: Vec<u64> = (0..size).collect();
        let inputs: Vec<u64> = (0..size).flat_map(|_| 0..size).collect();
        check(bits, &widths, &alpha, &inputs, size as usize);
    }
}

#[test]
fn wide_inputs_are_compared_at_random_and_beside_the_threshold() {
    let mut prg = Prg::new(&Seed::from_bytes([4; 32]), "points");
    for bits in [9, 14, 24, 31, 39, 47, 63, 64] {
        let alpha = prg.reduced(CHUNK, bits);
        let mut inputs = Vec::new();
        for &a in &alpha {
            let far = prg.reduced(2, bits);
            let near = [
                a,
                a.wrapping_sub(1),
                a.wrapping_add(1),
                a ^ 1 << (bits - 1),
                a ^ 1 << (far[0] % u64::from(bits)),
            ];
            inputs.extend(near.map(|x| x & low_mask(bits)));
            inputs.extend(far);
        }
        check(bits, &[8, 6], &alpha, &inputs, 7);
        check(bits, &[4], &alpha, &inputs, 7);
    }
}

#[test]
fn a_leaf_is_as_deep_as_saves_bytes() {
    let length = |leaf: u32, payload: usize, bits: u32| {
        (bits - leaf) as usize * (NODE_BYTES + payload) + ((1 << leaf) - 1) * payload
    };
    for payload in 1..=PAYLOAD_BYTES {
        let widths = if payload > 8 {
            vec![8, payload - 8]
        } else {
            vec![payload]
        };
        let shape = Shape::new(40, &widths);
        let shortest = (1..=4).map(|leaf| length(leaf, payload, 40)).min().unwrap();
        assert_eq!(shape.key_bytes(), shortest, "{payload} bytes");
    }
}

/// The same trees in two sessions share no hash: what is tried against one says nothing of the
/// other.
#[test]
fn the_keys_of_equal_trees_differ_from_session_to_session() {
    let shape = Shape::new(24, &[8]);
    let roots = roots(CHUNK, 5);
    let cws = |key: HashKey| {
        let mut cws = Vec::new();
        generate(
            &shape,
            [&roots[0], &roots[1]],
            &[7; CHUNK],
            |_, _| 1,
            0,
            &Cipher::new(&key),
            &mut cws,
        );
        cws
    };
    let a = cws([1; 16]);
    let b = cws([2; 16]);
    let equal = a.iter().zip(&b).filter(|(a, b)| a == b).count();
    assert!(
        equal < a.len() / 100,
        "{equal} of {} bytes are equal",
        a.len()
    );
    assert_eq!(a, cws([1; 16]), "all parties of one session make the same");
}

/// What travels says nothing of the threshold or the payload: the bytes of constant keys look
/// uniform.
#[test]
fn correction_words_look_uniform() {
    let shape = Shape::new(40, &[8]);
    let roots = roots(CHUNK, 5);
    for alpha in [0, 1, u64::MAX >> 24] {
        let mut cws = Vec::new();
        generate(
            &shape,
            [&roots[0], &roots[1]],
            &[alpha; CHUNK],
            |_, _| 0,
            0,
            &Cipher::new(&UNNAMED),
            &mut cws,
        );
        let mut counts = [0f64; 256];
        cws.iter().for_each(|&b| counts[usize::from(b)] += 1.0);
        let mean = cws.len() as f64 / 256.0;
        let chi_square: f64 = counts.iter().map(|c| (c - mean).powi(2) / mean).sum();
        // Of 255 degrees of freedom, 5.5 standard deviations above the mean. Enough bytes that
        // every value is expected hundreds of times.
        assert!(
            cws.len() > 100_000 && chi_square < 380.0,
            "{chi_square} for {alpha}"
        );
    }
}
