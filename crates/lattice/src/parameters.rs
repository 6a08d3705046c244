//! The parameter sets, pinned, with what their security rests on.
//!
//! Security is that of RLWE with a ternary secret and errors of standard deviation 3.24, as the
//! lattice estimator rates it (malb/lattice-estimator, commit 27a581b, of LWE with the same `n`,
//! `q`, `Xs = Uniform(-1, 1)`, `Xe = DiscreteGaussian(3.2)`): log2 of the operations of the
//! cheapest attack.
//!
//! | n | log2 q | primal uSVP | dual hybrid |
//! |---|---|---|---|
//! | 4096 | 103 | 133.6 | 133.4 |
//! | 4096 | 106 (the most for 128 bits) | 129.4 | 129.6 |
//! | 8192 | 150 | 189.4 | 189.0 |
//! | 8192 | 200 (keys for packing) | 138.0 | 138.4 |
//! | 8192 | 212 (the most for 128 bits) | 129.6 | 130.4 |
//!
//! [`ParameterSet::N4096`] has 100 bits, fewer than the first row, which is harder to attack.
//! Primal hybrid attacks take about one bit more off the second column. The customary limits of
//! the 2018 standard, 109 and 218 bits, are below 128 bits by the same count.

use sha2::{Digest, Sha256};

/// The largest primes below 2^50 that are 1 modulo 16384: both sets have roots of order `2n`.
pub(crate) const PRIMES: [u64; 3] = [0x3_ffff_ffff_c001, 0x3_ffff_fffc_c001, 0x3_ffff_ffef_4001];

/// The next prime of that form: what keys for packing have above `q`, so that switching keys adds
/// little noise.
pub(crate) const SPECIAL: u64 = 0x3_ffff_ffe9_4001;

/// Errors are the difference of the number of ones in two draws of 21 bits: standard deviation
/// `sqrt(21/2) = 3.24`, never above 21 in magnitude.
pub(crate) const ERROR_BITS: u32 = 21;

/// A ring and a modulus of ciphertexts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParameterSet {
    /// `n = 4096`, two primes of 50 bits: plaintexts to 37 bits and small public factors.
    N4096,
    /// `n = 8192`, three primes of 50 bits: plaintexts to 64 bits, products of masks to 48.
    N8192,
}

impl ParameterSet {
    /// Coefficients of a polynomial.
    #[must_use]
    pub fn n(self) -> usize {
        match self {
            Self::N4096 => 4096,
            Self::N8192 => 8192,
        }
    }

    pub(crate) fn primes(self) -> &'static [u64] {
        match self {
            Self::N4096 => &PRIMES[..2],
            Self::N8192 => &PRIMES,
        }
    }

    /// The prime above `q` of keys for packing; `N4096` has no room for one.
    pub(crate) fn special(self) -> Option<u64> {
        match self {
            Self::N4096 => None,
            Self::N8192 => Some(SPECIAL),
        }
    }

    /// `floor(log2 q)`; `q` itself is less than 0.001 bits below the next power of two.
    #[must_use]
    pub fn modulus_bits(self) -> u32 {
        50 * self.primes().len() as u32 - 1
    }

    /// Bytes of a polynomial as it is sent: 50 bits a residue.
    pub(crate) fn polynomial_bytes(self) -> usize {
        let bits = |p: &u64| (64 - p.leading_zeros()) as usize;
        self.primes().iter().map(|p| self.n() * bits(p) / 8).sum()
    }

    /// What both parties compare before they believe a message: a digest of all that decides how
    /// one is read.
    #[must_use]
    pub fn digest(self) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(b"marill lattice 1");
        hash.update((self.n() as u64).to_le_bytes());
        hash.update(ERROR_BITS.to_le_bytes());
        for prime in self.primes() {
            hash.update(prime.to_le_bytes());
        }
        hash.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Miller-Rabin with the first twelve primes decides below 3.3e24 (Sorenson, Webster 2015).
    fn is_prime(p: u64) -> bool {
        let mul = |a: u64, b: u64| (u128::from(a) * u128::from(b) % u128::from(p)) as u64;
        let twos = (p - 1).trailing_zeros();
        let odd = (p - 1) >> twos;
        [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]
            .iter()
            .all(|base| {
                let mut x = (0..odd.ilog2() + 1).rev().fold(1, |x, bit| {
                    let squared = mul(x, x);
                    if odd >> bit & 1 == 1 {
                        mul(squared, *base)
                    } else {
                        squared
                    }
                });
                let mut passes = x == 1 || x == p - 1;
                for _ in 1..twos {
                    x = mul(x, x);
                    passes |= x == p - 1;
                }
                passes
            })
    }

    #[test]
    fn primes_are_the_largest_of_their_form() {
        let largest: Vec<u64> = (1..)
            .map(|k| (1 << 50) - (k << 14) + 1)
            .filter(|p| is_prime(*p))
            .take(4)
            .collect();
        assert_eq!(largest[..3], PRIMES);
        assert_eq!(largest[3], SPECIAL);
    }

    #[test]
    fn moduli_stay_below_what_the_estimator_allows() {
        for (set, most) in [(ParameterSet::N4096, 106.0), (ParameterSet::N8192, 212.0)] {
            let bits: f64 = set.primes().iter().map(|p| (*p as f64).log2()).sum();
            assert!(bits > f64::from(set.modulus_bits()) + 0.999);
            let special = set.special().map_or(0.0, |p| (p as f64).log2());
            assert!(bits + special < most);
        }
    }

    #[test]
    fn sets_have_different_digests() {
        assert_ne!(ParameterSet::N4096.digest(), ParameterSet::N8192.digest());
    }
}
