//! Ciphertexts alone: exactness, noise, and what results would say of factors.

mod oracle;

use super::*;

const SETS: [(ParameterSet, u32); 4] = [
    (ParameterSet::N4096, 37),
    (ParameterSet::N8192, 48),
    (ParameterSet::N8192, 56),
    (ParameterSet::N8192, 64),
];

pub(crate) struct World {
    pub(crate) key: SecretKey,
    pub(crate) public: PublicKey,
}

pub(crate) fn world(set: ParameterSet) -> World {
    let key = SecretKey::generate(set);
    let public = PublicKey::from_bytes(set, &key.public_key()).unwrap();
    World { key, public }
}

pub(crate) fn plaintext(n: usize, bits: u32) -> Vec<u64> {
    let mut plain = Randomness::fresh().words(n, bits).to_vec();
    let mask = u64::MAX >> (64 - bits);
    plain[..4].copy_from_slice(&[0, 1, mask, 1 << (bits - 1)]);
    plain
}

pub(crate) fn encrypt(world: &World, bits: u32, plain: &[u64]) -> Ciphertext {
    let mut bytes = Vec::new();
    world.key.encrypt(&mut bytes, bits, plain);
    assert_eq!(bytes.len(), ciphertext_bytes(world.key.set()));
    let mut rest = &bytes[..];
    let read = Ciphertext::read(&mut rest, &world.public.ring, "test").unwrap();
    assert!(rest.is_empty());
    read
}

/// The product of one ciphertext and one factor.
fn product(world: &World, ciphertext: &Ciphertext, w: &[i64]) -> Sum {
    let ring = &*world.public.ring;
    let mut sum = Sum::new(ring);
    sum.add_product(ring, ciphertext, &Factor::new(ring, w));
    sum
}

pub(crate) fn deviation(noise: &[f64]) -> f64 {
    (noise.iter().map(|x| x * x).sum::<f64>() / noise.len() as f64).sqrt()
}

pub(crate) fn small_factors(n: usize, width: u32) -> Vec<i64> {
    let words = Randomness::fresh().words(n, width);
    words
        .iter()
        .map(|w| *w as i64 - (1 << (width - 1)))
        .collect()
}

#[test]
fn fresh_ciphertexts_decrypt_and_have_small_noise() {
    for (set, bits) in SETS {
        let world = world(set);
        let plain = plaintext(set.n(), bits);
        let (read, noise) = world
            .key
            .decrypt_ciphertext(&encrypt(&world, bits, &plain), bits);
        assert_eq!(read, plain);
        assert!(noise.iter().all(|x| x.abs() <= f64::from(ERROR_BITS)));
        // Ten percent: seven deviations of an estimate from 4096 draws.
        assert!((deviation(&noise) / 10.5f64.sqrt() - 1.0).abs() < 0.1);
    }
}

#[test]
fn products_are_exact_and_noise_keeps_its_bound() {
    for (set, bits) in SETS {
        let world = world(set);
        let plain = plaintext(set.n(), bits);
        let mut w = vec![0; set.n()];
        let count = 300;
        w[..count].copy_from_slice(&small_factors(count, 8));
        let sum = product(&world, &encrypt(&world, bits, &plain), &w);
        let (read, noise) = world
            .key
            .decrypt_rerandomized(&sum.rerandomize(&world.public), bits);
        let mask = u64::MAX >> (64 - bits);
        for at in [0, 1, count, set.n() - 1] {
            let term = |j: usize| {
                let factor = w[j] as u64;
                if j <= at {
                    plain[at - j].wrapping_mul(factor)
                } else {
                    0u64.wrapping_sub(plain[set.n() + at - j].wrapping_mul(factor))
                }
            };
            let exact = (0..count).fold(0u64, |sum, j| sum.wrapping_add(term(j)));
            assert_eq!(read[at], exact & mask);
        }
        let bound = Factors::Signed(8).noise(set, bits, count).log2().ceil();
        let largest = noise.iter().fold(0.0f64, |most, x| most.max(x.abs()));
        assert!(largest.log2() <= bound, "{} of {bound}", largest.log2());
    }
}

#[test]
fn switched_results_decrypt_at_their_positions() {
    for (set, bits) in SETS {
        let world = world(set);
        let plain = plaintext(set.n(), bits);
        let mut w = vec![0; set.n()];
        w[0] = -3;
        let positions: Vec<usize> = (0..set.n()).step_by(7).collect();
        let masks = plaintext(positions.len(), bits);
        // The most flooding that any product has.
        let flood = set.modulus_bits() - 2 - bits;
        let mut bytes = Vec::new();
        product(&world, &encrypt(&world, bits, &plain), &w)
            .rerandomize(&world.public)
            .switch(&mut bytes, bits, &positions, &masks, flood);
        assert_eq!(bytes.len(), switched_bytes(set, bits, positions.len()));
        let mut rest = &bytes[..];
        let read = world
            .key
            .decrypt_switched(&mut rest, bits, &positions, "test")
            .unwrap();
        for ((read, at), mask) in read.iter().zip(&positions).zip(masks) {
            let exact = plain[*at].wrapping_mul(-3i64 as u64).wrapping_add(mask);
            assert_eq!(*read, exact & (u64::MAX >> (64 - bits)));
        }
    }
}

/// `c1 / a` by its values, back to coefficients of least magnitude.
pub(crate) fn divide(ring: &Ring, c1: &Values, a: &Values) -> Vec<i128> {
    let mut quotient = ring.zero();
    let rows = quotient.0.chunks_exact_mut(ring.n);
    let operands = c1.0.chunks_exact(ring.n).zip(a.0.chunks_exact(ring.n));
    for ((modulus, out), (c1, a)) in ring.moduli().zip(rows).zip(operands) {
        for ((out, c1), a) in out.iter_mut().zip(c1).zip(a) {
            *out = modulus.mul(*c1, modulus.inverse(*a));
        }
    }
    let quotient = ring.inverse(quotient);
    (0..ring.n).map(|at| ring.balanced(&quotient, at)).collect()
}

#[test]
fn a_division_gives_factors_unless_rerandomized() {
    let set = ParameterSet::N8192;
    let world = world(set);
    let ring = &*world.public.ring;
    let ciphertext = encrypt(&world, 48, &plaintext(set.n(), 48));
    let w = small_factors(set.n(), 12);
    let exact: Vec<i128> = w.iter().map(|w| i128::from(*w)).collect();

    let sum = product(&world, &ciphertext, &w);
    assert_eq!(divide(ring, &sum.c1, &ciphertext.c1), exact);

    let result = sum.rerandomize(&world.public);
    // Numbers that are uniform modulo 2^128: one below 2^64 has probability 2^-63.
    let short = |x: &[i128]| x.iter().filter(|x| x.abs() < 1 << 64).count();
    let c1 = ring.forward(Coefficients(result.c1.0.clone()));
    assert_eq!(short(&divide(ring, &c1, &ciphertext.c1)), 0);
    // Nor does a guess of the factors find itself confirmed: `c1 - a·w` is not short.
    let guess = ring.inverse(product(&world, &ciphertext, &w).c1);
    let mut distance = result.c1;
    ring.subtract(&mut distance, &guess);
    let distance: Vec<i128> = (0..ring.n).map(|at| ring.balanced(&distance, at)).collect();
    assert_eq!(short(&distance), 0);
}

/// Noise of a product at all positions, with flooding or none.
fn noise_of(world: &World, ciphertext: &Ciphertext, w: &[i64], flood: Option<u32>) -> Vec<f64> {
    let set = world.key.set();
    let mut result = product(world, ciphertext, w).rerandomize(&world.public);
    if let Some(flood) = flood {
        let positions: Vec<usize> = (0..set.n()).collect();
        result.mask(48, &positions, &plaintext(set.n(), 48), flood);
    }
    world.key.decrypt_rerandomized(&result, 48).1
}

#[test]
fn flooding_hides_which_factors_made_the_noise() {
    let set = ParameterSet::N8192;
    let world = world(set);
    let ciphertext = encrypt(&world, 48, &plaintext(set.n(), 48));
    let zero = vec![0; set.n()];
    let large: Vec<i64> = small_factors(set.n(), 20);
    let flood = Factors::Signed(20).flood(set, 48, set.n()).unwrap();
    let without = [
        noise_of(&world, &ciphertext, &zero, None),
        noise_of(&world, &ciphertext, &large, None),
    ];
    // Unflooded noise tells the two apart at a glance.
    assert!(deviation(&without[1]) > 1e4 * deviation(&without[0]));
    let flooded = [
        noise_of(&world, &ciphertext, &zero, Some(flood)),
        noise_of(&world, &ciphertext, &large, Some(flood)),
    ];
    let uniform = f64::from(flood).exp2() / 3f64.sqrt();
    for noise in &flooded {
        // The square of a uniform draw deviates by 0.9 of its mean: 1 % of 8192, seven times.
        assert!((deviation(noise) / uniform - 1.0).abs() < 0.035);
    }
    // The owner knows what noise the large factors would make: it finds no trace of it.
    let signal = &without[1];
    let correlation = |noise: &[f64]| {
        let dot: f64 = noise.iter().zip(signal).map(|(a, b)| a * b).sum();
        dot / (set.n() as f64 * deviation(noise) * deviation(signal))
    };
    assert!(correlation(signal) > 0.999);
    // Seven deviations of the correlation of unrelated draws.
    let chance = 7.0 / (set.n() as f64).sqrt();
    assert!(correlation(&flooded[1]).abs() < chance);
    let largest = signal.iter().fold(0.0f64, |most, x| most.max(x.abs()));
    assert!(f64::from(flood) - largest.log2() >= f64::from(FLOOD_BITS));
}

#[test]
fn keys_of_another_set_are_refused() {
    let key = SecretKey::generate(ParameterSet::N4096).public_key();
    assert_eq!(key.len(), PublicKey::bytes(ParameterSet::N4096));
    let read = PublicKey::from_bytes(ParameterSet::N8192, &key);
    assert!(matches!(read.err(), Some(LatticeError::Length { .. })));
    let mut other = key.clone();
    other[0] ^= 1;
    let read = PublicKey::from_bytes(ParameterSet::N4096, &other);
    assert!(matches!(read.err(), Some(LatticeError::Parameters { .. })));
    let mut above = key;
    above[64..71].fill(0xff);
    let read = PublicKey::from_bytes(ParameterSet::N4096, &above);
    assert!(matches!(read.err(), Some(LatticeError::Malformed { .. })));
}

#[test]
fn keys_are_not_printed() {
    let key = SecretKey::generate(ParameterSet::N4096);
    assert_eq!(format!("{key:?}"), "SecretKey(N4096, ..)");
}

#[test]
fn noise_budgets_are_those_of_the_page() {
    let fits = |set, bits, factors: Factors, count| factors.flood(set, bits, count).is_ok();
    let n = 8192;
    assert!(fits(ParameterSet::N8192, 64, Factors::Signed(30), n));
    assert!(!fits(ParameterSet::N8192, 64, Factors::Signed(34), n));
    assert!(fits(ParameterSet::N8192, 48, Factors::Masks, n));
    assert!(!fits(ParameterSet::N8192, 50, Factors::Masks, n));
    assert!(fits(ParameterSet::N4096, 37, Factors::Signed(8), 576));
    assert!(!fits(ParameterSet::N4096, 37, Factors::Masks, 1));
}
