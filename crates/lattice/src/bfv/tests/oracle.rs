//! A second BFV of the same ciphertexts, as the paper has it (Fan, Vercauteren: ePrint 2012/144):
//! whole integers modulo `q`, schoolbook products, division and rounding. It shares neither
//! transforms nor residues nor rounding with the crate, so that a mistake there is no mistake here.

use super::*;

const BITS: u32 = 37;

/// `q` of [`ParameterSet::N4096`]: two primes, 100 bits, so that sums of two fit a word.
fn modulus() -> u128 {
    let primes = ParameterSet::N4096.primes();
    u128::from(primes[0]) * u128::from(primes[1])
}

fn add(a: u128, b: u128) -> u128 {
    let sum = a + b;
    if sum < modulus() {
        sum
    } else {
        sum - modulus()
    }
}

fn negated(a: u128) -> u128 {
    if a == 0 { 0 } else { modulus() - a }
}

/// `a·w` by doubling.
fn times(a: u128, w: i64) -> u128 {
    let mut sum = 0;
    for bit in (0..64 - w.unsigned_abs().leading_zeros()).rev() {
        sum = add(sum, sum);
        if w.unsigned_abs() >> bit & 1 == 1 {
            sum = add(sum, a);
        }
    }
    if w < 0 { negated(sum) } else { sum }
}

/// Numbers below `q` of residues: the second one and a multiple of its prime that makes it right
/// modulo the first, by extended Euclid on integers.
fn whole(x: &Coefficients) -> Vec<u128> {
    let [p, r] = [0, 1].map(|at: usize| i128::from(ParameterSet::N4096.primes()[at]));
    let mut old = (p, 0i128);
    let mut new = (r, 1i128);
    while new.0 != 0 {
        let quotient = old.0 / new.0;
        let next = (old.0 - quotient * new.0, old.1 - quotient * new.1);
        old = new;
        new = next;
    }
    // old.1 is 1/r modulo p.
    let (first, second) = x.0.split_at(x.0.len() / 2);
    let pairs = first.iter().zip(second);
    let number = |(a, b): (&u64, &u64)| {
        let apart = (i128::from(*a) - i128::from(*b)).rem_euclid(p);
        let steps = (apart * old.1.rem_euclid(p)).rem_euclid(p);
        (i128::from(*b) + steps * r) as u128
    };
    pairs.map(number).collect()
}

/// `x·w` modulo `X^n + 1`, for a `w` of few terms.
fn schoolbook(x: &[u128], w: &[(usize, i64)]) -> Vec<u128> {
    let n = x.len();
    let mut out = vec![0; n];
    for (shift, w) in w {
        for (i, x) in x.iter().enumerate() {
            let term = times(*x, *w);
            let signed = if i + shift < n { term } else { negated(term) };
            let sum = &mut out[(i + shift) % n];
            *sum = add(*sum, signed);
        }
    }
    out
}

/// `round(2^BITS x / q)` modulo `2^BITS`, by long division.
fn rounded(x: u128) -> u64 {
    let mut rest = x;
    let mut quotient = 0u64;
    for _ in 0..BITS {
        rest *= 2;
        quotient = 2 * quotient + u64::from(rest >= modulus());
        rest %= modulus();
    }
    (quotient + u64::from(2 * rest >= modulus())) & (u64::MAX >> (64 - BITS))
}

/// `c0 + c1·s`, rounded.
fn decrypt(c0: &[u128], c1: &[u128], s: &[i64]) -> Vec<u64> {
    let terms = s.iter().copied().enumerate().filter(|(_, s)| *s != 0);
    let secret = schoolbook(c1, &terms.collect::<Vec<_>>());
    let phase = c0.iter().zip(secret);
    phase.map(|(a, b)| rounded(add(*a, b))).collect()
}

#[test]
fn products_are_those_of_whole_integers() {
    let world = world(ParameterSet::N4096);
    let ring = &*world.public.ring;
    let plain = plaintext(ring.n, BITS);
    let fresh = encrypt(&world, BITS, &plain);
    let s = world.key.digits();
    let packed = fresh.to_packed(ring);
    let c0 = whole(&packed.c0);
    let c1 = whole(&packed.c1);
    assert_eq!(decrypt(&c0, &c1, &s), plain);

    // A product with some factors: the crate's ciphertext is the schoolbook's, number by number.
    let terms = [(0, 3), (1, -200), (77, 255), (4095, -256)];
    let mut w = vec![0; ring.n];
    terms.iter().for_each(|(at, factor)| w[*at] = *factor);
    let made = product(&world, &fresh, &w).pack(ring);
    let [d0, d1] = [&c0, &c1].map(|c| schoolbook(c, &terms));
    assert_eq!(whole(&made.c0), d0);
    assert_eq!(whole(&made.c1), d1);

    // And it decrypts to the product of the plaintexts.
    let wide: Vec<u128> = plain.iter().map(|x| u128::from(*x)).collect();
    let mask = u64::MAX >> (64 - BITS);
    let exact: Vec<u64> = schoolbook_of_integers(&wide, &terms, mask);
    assert_eq!(decrypt(&d0, &d1, &s), exact);
}

/// Plaintexts' product modulo `2^BITS`.
fn schoolbook_of_integers(x: &[u128], w: &[(usize, i64)], mask: u64) -> Vec<u64> {
    let n = x.len();
    let mut out = vec![0u64; n];
    for (shift, w) in w {
        for (i, x) in x.iter().enumerate() {
            let term = (*x as u64).wrapping_mul(*w as u64);
            let stays = i + shift < n;
            let signed = if stays { term } else { term.wrapping_neg() };
            let sum = &mut out[(i + shift) % n];
            *sum = sum.wrapping_add(signed);
        }
    }
    out.iter().map(|x| x & mask).collect()
}
