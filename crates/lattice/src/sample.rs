//! Random polynomials: uniform ones from a public seed, and secret ones in constant time.
//!
//! Secret draws take the same words and instructions whatever they give. Only the uniform
//! polynomial of a public seed is drawn by rejection.

use marill_crypto::{Prg, Seed};
use zeroize::Zeroizing;

use crate::{
    modulus::Modulus,
    parameters::ERROR_BITS,
    ring::{Coefficients, Ring},
};

/// Fresh secret randomness, from the operating system's generator.
pub(crate) struct Randomness(Prg);

impl Randomness {
    pub(crate) fn fresh() -> Self {
        Self(Prg::new(&Seed::random(), "lattice secrets"))
    }

    pub(crate) fn words(&mut self, n: usize, bits: u32) -> Zeroizing<Vec<u64>> {
        Zeroizing::new(self.0.reduced(n, bits))
    }

    /// `n` of -1, 0 and 1, uniform to 2^-62.
    pub(crate) fn ternary(&mut self, n: usize) -> Zeroizing<Vec<i64>> {
        let third = |word: &u64| ((u128::from(*word) * 3) >> 64) as i64 - 1;
        Zeroizing::new(self.words(n, 64).iter().map(third).collect())
    }

    /// `n` errors: the number of ones in 21 bits less that in 21 others.
    pub(crate) fn errors(&mut self, n: usize) -> Zeroizing<Vec<i64>> {
        let error = |word: &u64| {
            let ones = (word >> ERROR_BITS).count_ones() as i64;
            ones - i64::from((word & ((1 << ERROR_BITS) - 1)).count_ones())
        };
        let words = self.words(n, 2 * ERROR_BITS);
        Zeroizing::new(words.iter().map(error).collect())
    }

    /// `n` numbers of `bits` bits, 128 at most.
    pub(crate) fn doubles(&mut self, n: usize, bits: u32) -> Zeroizing<Vec<u128>> {
        let words = self.words(2 * n, 64);
        let double = |pair: &[u64]| {
            let whole = u128::from(pair[1]) << 64 | u128::from(pair[0]);
            whole.checked_shr(128 - bits).unwrap_or(0)
        };
        Zeroizing::new(words.chunks_exact(2).map(double).collect())
    }
}

/// The uniform polynomial of a public seed, the same for everyone.
pub(crate) fn uniform(ring: &Ring, seed: &[u8; 32]) -> Coefficients {
    let mut out = Vec::with_capacity(ring.n * ring.set.primes().len());
    uniform_rows(&mut out, ring.n, ring.moduli(), seed);
    Coefficients(Zeroizing::new(out))
}

/// Appends `n` uniform residues of each prime, four at most, of a public seed.
pub(crate) fn uniform_rows(
    out: &mut Vec<u64>,
    n: usize,
    moduli: impl Iterator<Item = Modulus>,
    seed: &[u8; 32],
) {
    const DOMAINS: [&str; 4] = ["lattice 0", "lattice 1", "lattice 2", "lattice 3"];
    let seed = Seed::from_bytes(*seed);
    for (modulus, domain) in moduli.zip(DOMAINS) {
        let mut prg = Prg::new(&seed, domain);
        let bits = 64 - modulus.p().leading_zeros();
        let full = out.len() + n;
        while out.len() < full {
            let draws = prg.reduced(n, bits);
            let below = draws.into_iter().filter(|draw| *draw < modulus.p());
            let missing = full - out.len();
            out.extend(below.take(missing));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::ParameterSet;

    const N: usize = 1 << 16;

    #[test]
    fn ternary_draws_are_uniform() {
        let draws = Randomness::fresh().ternary(N);
        for value in -1..=1 {
            let count = draws.iter().filter(|draw| **draw == value).count() as f64;
            // Seven standard deviations of a binomial count.
            let deviation = (N as f64 * 2.0 / 9.0).sqrt();
            assert!(
                (count - N as f64 / 3.0).abs() < 7.0 * deviation,
                "{value}: {count}"
            );
        }
    }

    #[test]
    fn errors_have_the_declared_deviation() {
        let draws = Randomness::fresh().errors(N);
        assert!(draws.iter().all(|draw| draw.abs() <= i64::from(ERROR_BITS)));
        let mean = draws.iter().sum::<i64>() as f64 / N as f64;
        let square = draws.iter().map(|draw| draw * draw).sum::<i64>() as f64 / N as f64;
        // Seven standard deviations: 3.24 / 256 for the mean, 10.5 sqrt(2) / 256 for the square.
        assert!(mean.abs() < 0.09, "{mean}");
        assert!((square - 10.5).abs() < 0.41, "{square}");
    }

    #[test]
    fn doubles_fill_their_bits_and_no_more() {
        for bits in [1, 64, 65, 100, 128] {
            let draws = Randomness::fresh().doubles(256, bits);
            let used = draws.iter().fold(0, |all, draw| all | draw);
            // A bit is zero in 256 draws with probability 2^-256.
            assert_eq!(used, u128::MAX >> (128 - bits));
        }
    }

    #[test]
    fn uniform_polynomials_are_reduced_and_depend_on_the_seed() {
        let ring = Ring::of(ParameterSet::N4096);
        let one = uniform(&ring, &[1; 32]);
        for (modulus, row) in ring.moduli().zip(one.0.chunks_exact(ring.n)) {
            assert!(row.iter().all(|x| *x < modulus.p()));
        }
        assert_eq!(*one.0, *uniform(&ring, &[1; 32]).0);
        assert_ne!(*one.0, *uniform(&ring, &[2; 32]).0);
    }
}
