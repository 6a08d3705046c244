//! Automorphisms alone: exactness and noise; keys that are refused.

use super::*;
use crate::bfv::tests::{deviation, encrypt, plaintext, world};

const SET: ParameterSet = ParameterSet::N8192;

#[test]
fn automorphisms_are_exact_and_noise_is_as_declared() {
    let world = world(SET);
    let keys = world.key.packing_keys(13).unwrap();
    let keys = PackingKeys::from_bytes(SET, 1, &keys).unwrap();
    let plain = plaintext(SET.n(), 48);
    let fresh = encrypt(&world, 48, &plain).to_packed(&world.public.ring);
    for level in 1..=13 {
        let turned = keys.turn(level, &fresh);
        let (read, noise) = world.key.decrypt_packed(&turned, 48);
        let g = exponent(SET.n(), level);
        for (i, plain) in plain.iter().enumerate() {
            let at = i * g % (2 * SET.n());
            let exact = if at < SET.n() {
                *plain
            } else {
                plain.wrapping_neg() & (u64::MAX >> 16)
            };
            assert_eq!(read[at % SET.n()], exact, "level {level}, {i}");
        }
        // The errors of a key are the same for all coefficients, and the square of their norm,
        // of 24,576 draws, deviates by 1 %; that of 8192 noises by 1.6 %: seven times both.
        let declared = variance(SET).sqrt();
        let measured = deviation(&noise);
        assert!((measured / declared - 1.0).abs() < 0.1, "{measured}");
        assert!(noise.iter().all(|x| x.abs() < 9.0 * declared));
    }
}

#[test]
fn levels_keep_and_negate_what_packing_needs() {
    for level in 1..=13 {
        let g = exponent(SET.n(), level);
        for i in (0..SET.n()).step_by(1 << (level - 1)) {
            let at = i * g % (2 * SET.n());
            let odd = i >> (level - 1) & 1;
            assert_eq!(at, (i + odd * SET.n()) % (2 * SET.n()));
        }
    }
}

#[test]
fn packing_keys_that_are_not_whole_are_refused() {
    let key = SecretKey::generate(SET);
    let keys = key.packing_keys(2).unwrap();
    let vectors = SET.n() / 4;
    assert_eq!(keys.len(), PackingKeys::bytes(SET, vectors));
    assert!(PackingKeys::from_bytes(SET, vectors, &keys).is_ok());
    let refused = |vectors, bytes: &[u8]| PackingKeys::from_bytes(SET, vectors, bytes).err();
    for other in [
        refused(vectors, &keys[1..]),
        refused(vectors, &[&keys[..], &[0]].concat()),
        refused(vectors / 2, &keys),
    ] {
        assert!(matches!(other, Some(LatticeError::Length { .. })));
    }
    let mut changed = keys.clone();
    changed[3] ^= 1;
    let other = refused(vectors, &changed);
    assert!(matches!(other, Some(LatticeError::Parameters { .. })));
    // A residue above its prime, of the first and of the last, special one.
    for at in [64, keys.len() - 7] {
        let mut changed = keys.clone();
        changed[at..at + 7].fill(0xff);
        let other = refused(vectors, &changed);
        assert!(matches!(other, Some(LatticeError::Malformed { .. })));
    }
}

#[test]
fn the_small_set_has_no_packing_keys() {
    let set = ParameterSet::N4096;
    let refused = SecretKey::generate(set).packing_keys(1).err();
    assert!(matches!(refused, Some(LatticeError::Range { .. })));
    let refused = PackingKeys::from_bytes(set, 1, &[]).err();
    assert!(matches!(refused, Some(LatticeError::Range { .. })));
}
