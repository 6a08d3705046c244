//! Automorphisms of ciphertexts: `X` becomes `X^g`, under the same key, for the `g` that packing
//! takes; and the keys that this needs.
//!
//! # Construction
//! Of `(c0, c1)` the automorphism gives a ciphertext under the secret `s(X^g)`. Its `c1` is cut
//! into its residues of each prime, digits of 50 bits, and each multiplies an encryption of
//! `P (q/p) ((q/p)^-1 mod p) s(X^g)` modulo `P q`; the sum is divided by the special prime `P` and
//! rounded (Gentry, Halevi, Smart: ePrint 2012/099; residues as digits: Bajard et al.,
//! ePrint 2016/510).
//!
//! # Noise
//! Digits are residues of least magnitude: of a polynomial that is a sum of products with uniform
//! ones, so uniform, of variance `p²/12`. They meet errors of variance `ERROR_BITS / 2`, one a
//! coefficient and digit, over `P`, which is 2^-30 less than `p`:
//! `primes · n · ERROR_BITS / 24`. Rounding adds at most half a unit to `c0`, of variance 1/12,
//! and to each coefficient of `c1`, which meet digits of the secret, of variance 2/3: `n / 18`.
//! Together a deviation of 148 units at `n = 8192` with three primes ([`variance`]).
//!
//! # Security
//! The keys are RLWE ciphertexts of the secret's automorphisms modulo `P q`, 200 bits, under the
//! same secret (circular security, as everywhere where keys are switched). Which automorphisms are
//! made is public. Nothing here branches on a value.

use std::sync::{Arc, OnceLock};

use marill_crypto::Seed;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    bfv::{Packed, SecretKey},
    error::LatticeError,
    modulus::Modulus,
    ntt::{Factor, Transform, best},
    parameters::{ERROR_BITS, ParameterSet},
    ring::{Coefficients, Ring},
    sample::{Randomness, uniform_rows},
    wire::{pack_rows, packed_bytes, unpack_rows},
};

const MESSAGE: &str = "set of packing keys";

/// A ring and its special prime.
pub(crate) struct Switcher {
    ring: Arc<Ring>,
    /// The primes of `q`, then the special one.
    moduli: Vec<Modulus>,
    special: Box<dyn Transform>,
    /// `1 / P` modulo each prime.
    over: Vec<Factor>,
}

impl Switcher {
    pub(crate) fn of(set: ParameterSet) -> Result<Arc<Self>, LatticeError> {
        static SWITCHERS: [OnceLock<Arc<Switcher>>; 2] = [OnceLock::new(), OnceLock::new()];
        let special = set.special().ok_or(LatticeError::Range {
            what: "the ring of packed products",
            allowed: "that of N8192",
            got: set.n() as u64,
        })?;
        let made = SWITCHERS[set as usize]
            .get_or_init(|| Arc::new(Self::with(Ring::of(set), Modulus::new(special))));
        Ok(Arc::clone(made))
    }

    fn with(ring: Arc<Ring>, special: Modulus) -> Self {
        let over = |m: Modulus| Factor::new(m.inverse(m.reduce(special.p())), m);
        Self {
            over: ring.moduli().map(over).collect(),
            moduli: ring.moduli().chain([special]).collect(),
            special: best(ring.n, special),
            ring,
        }
    }

    fn transform(&self, k: usize) -> &dyn Transform {
        if k == self.over.len() {
            &*self.special
        } else {
            self.ring.transform(k)
        }
    }

    /// Residues of `n` small numbers, transformed.
    fn small(&self, x: &[i64]) -> Zeroizing<Vec<u64>> {
        let mut out = Zeroizing::new(Vec::with_capacity(x.len() * self.moduli.len()));
        for modulus in &self.moduli {
            out.extend(x.iter().map(|x| modulus.small(*x)));
        }
        for (k, row) in out.chunks_exact_mut(self.ring.n).enumerate() {
            self.transform(k).forward(row);
        }
        out
    }

    /// The transformed uniform polynomial of a digit of a key.
    fn uniform(&self, seed: &[u8; 32], level: u32, digit: usize) -> Vec<u64> {
        let seed = Seed::from_bytes(*seed).derive(&format!("packing key {level} {digit}"));
        let mut out = Vec::with_capacity(self.ring.n * self.moduli.len());
        let moduli = self.moduli.iter().copied();
        uniform_rows(&mut out, self.ring.n, moduli, &seed.to_bytes());
        for (k, row) in out.chunks_exact_mut(self.ring.n).enumerate() {
            self.transform(k).forward(row);
        }
        out
    }

    /// `x / P`, rounded, of a transformed polynomial.
    fn down(&self, mut x: Zeroizing<Vec<u64>>) -> Coefficients {
        let n = self.ring.n;
        for (k, row) in x.chunks_exact_mut(n).enumerate() {
            self.transform(k).inverse(row);
        }
        let special = self.moduli[self.over.len()];
        let (rows, last) = x.split_at_mut(n * self.over.len());
        for ((row, m), over) in rows.chunks_exact_mut(n).zip(&self.moduli).zip(&self.over) {
            for (x, rest) in row.iter_mut().zip(&*last) {
                *x = over.mul(m.sub(*x, m.small(special.balanced(*rest))), *m);
            }
        }
        x.truncate(n * self.over.len());
        Coefficients(x)
    }
}

/// The variance of the noise that switching a key adds to a coefficient.
pub(crate) fn variance(set: ParameterSet) -> f64 {
    let n = set.n() as f64;
    let digits = set.primes().len() as f64 * n * f64::from(ERROR_BITS) / 24.0;
    digits + n / 18.0 + 1.0 / 12.0
}

/// The automorphism of a level: with it coefficients at multiples of `2^level` stay and those at
/// odd multiples of half of that change their sign.
pub(crate) fn exponent(n: usize, level: u32) -> usize {
    ((2 * n) >> level) + 1
}

/// Levels that take coefficients apart until `vectors` are left, or bring them together again.
pub(crate) fn levels(set: ParameterSet, vectors: usize) -> u32 {
    (set.n() / vectors.next_power_of_two().min(set.n())).ilog2()
}

fn digest(set: ParameterSet, levels: u32) -> [u8; 32] {
    Sha256::new_with_prefix(b"marill lattice packing 1")
        .chain_update(set.digest())
        .chain_update(set.special().unwrap_or(0).to_le_bytes())
        .chain_update(levels.to_le_bytes())
        .finalize()
        .into()
}

impl SecretKey {
    /// Keys of so many levels, as [`PackingKeys::from_bytes`] reads them: a digest of the
    /// parameters, a seed, and for each level and digit a polynomial of four residues.
    pub(crate) fn packing_keys(&self, levels: u32) -> Result<Vec<u8>, LatticeError> {
        let set = self.set();
        let switcher = Switcher::of(set)?;
        let n = set.n();
        let seed = Seed::random().to_bytes();
        let mut out = digest(set, levels).to_vec();
        out.extend(seed);
        let digits = self.digits();
        let secret = switcher.small(&digits);
        let special = switcher.moduli[switcher.over.len()];
        let mut randomness = Randomness::fresh();
        for level in 1..=levels {
            let g = exponent(n, level);
            let mut turned = Zeroizing::new(vec![0; n]);
            for (i, digit) in digits.iter().enumerate() {
                let at = (i * g) & (2 * n - 1);
                turned[at & (n - 1)] = if at < n { *digit } else { -*digit };
            }
            let turned = switcher.small(&turned);
            for digit in 0..switcher.over.len() {
                // -a s + e, and P s(X^g) where the digit's own prime counts.
                let a = switcher.uniform(&seed, level, digit);
                let mut product = Zeroizing::new(vec![0; a.len()]);
                for k in 0..switcher.moduli.len() {
                    let row = k * n..(k + 1) * n;
                    let ntt = switcher.transform(k);
                    let sums = &mut product[row.clone()];
                    ntt.multiply_accumulate(sums, &a[row.clone()], &secret[row]);
                }
                let mut key = switcher.small(&randomness.errors(n));
                for (k, m) in switcher.moduli.iter().enumerate() {
                    let factor = m.reduce(special.p());
                    for at in k * n..(k + 1) * n {
                        key[at] = m.sub(key[at], product[at]);
                        if k == digit {
                            key[at] = m.add(key[at], m.mul(factor, turned[at]));
                        }
                    }
                    switcher.transform(k).inverse(&mut key[k * n..(k + 1) * n]);
                }
                pack_rows(&mut out, n, switcher.moduli.iter().copied(), &key);
            }
        }
        Ok(out)
    }
}

/// What the evaluator packs with: automorphisms under the owner's key. They are ciphertexts of
/// automorphisms of the secret modulo 200 bits, under the same secret: RLWE with circular security,
/// 138 bits by the estimate of [`ParameterSet`].
pub struct PackingKeys {
    switcher: Arc<Switcher>,
    /// By level, then by digit: both polynomials, transformed.
    levels: Vec<Vec<[Vec<u64>; 2]>>,
}

impl PackingKeys {
    /// Bytes of keys for inputs of `vectors` vectors and more.
    #[must_use]
    pub fn bytes(set: ParameterSet, vectors: usize) -> usize {
        let moduli = set.primes().len() + 1;
        let polynomial = moduli * packed_bytes(set.n(), crate::modulus::MAX_BITS);
        64 + levels(set, vectors) as usize * set.primes().len() * polynomial
    }

    /// Reads what [`Client::packing_keys`](crate::Client::packing_keys) made for inputs of
    /// `vectors` vectors and more.
    ///
    /// # Errors
    /// Another length, set or number; a residue that is not below its prime; `N4096`, which has no
    /// room for them.
    pub fn from_bytes(
        set: ParameterSet,
        vectors: usize,
        bytes: &[u8],
    ) -> Result<Self, LatticeError> {
        let switcher = Switcher::of(set)?;
        let expected = Self::bytes(set, vectors);
        if bytes.len() != expected {
            return Err(LatticeError::Length {
                message: MESSAGE,
                expected,
                got: bytes.len(),
            });
        }
        let levels = levels(set, vectors);
        let (header, mut rest) = bytes.split_at(64);
        if header[..32] != digest(set, levels) {
            return Err(LatticeError::Parameters { message: MESSAGE });
        }
        let seed = header[32..].try_into().expect("32 bytes were split off");
        let n = set.n();
        let mut read = |level, digit| {
            let mut b = Vec::with_capacity(n * switcher.moduli.len());
            let moduli = switcher.moduli.iter().copied();
            unpack_rows(&mut b, &mut rest, n, moduli, MESSAGE)?;
            for (k, row) in b.chunks_exact_mut(n).enumerate() {
                switcher.transform(k).forward(row);
            }
            Ok([b, switcher.uniform(seed, level, digit)])
        };
        let digits = switcher.over.len();
        let levels = (1..=levels)
            .map(|level| (0..digits).map(|digit| read(level, digit)).collect())
            .collect::<Result<_, LatticeError>>()?;
        Ok(Self { switcher, levels })
    }

    pub(crate) fn ring(&self) -> &Ring {
        &self.switcher.ring
    }

    /// Levels that it has.
    pub(crate) fn levels(&self) -> u32 {
        self.levels.len() as u32
    }

    /// `x` under the automorphism of a level.
    pub(crate) fn turn(&self, level: u32, x: &Packed) -> Packed {
        let switcher = &*self.switcher;
        let ring = &*switcher.ring;
        let n = ring.n;
        let g = exponent(n, level);
        let mut c0 = ring.substitute(&x.c0, g);
        let c1 = ring.substitute(&x.c1, g);
        let wide = n * switcher.moduli.len();
        let mut sums = [(); 2].map(|()| Zeroizing::new(vec![0; wide]));
        let mut lifted = Zeroizing::new(vec![0; n]);
        let digits = c1.0.chunks_exact(n).zip(&self.levels[level as usize - 1]);
        for (own, (digit, key)) in switcher.moduli.iter().zip(digits) {
            for (k, m) in switcher.moduli.iter().enumerate() {
                let numbers = lifted.iter_mut().zip(digit);
                numbers.for_each(|(out, x)| *out = m.small(own.balanced(*x)));
                let ntt = switcher.transform(k);
                ntt.forward(&mut lifted);
                let row = k * n..(k + 1) * n;
                for (sums, key) in sums.iter_mut().zip(key) {
                    ntt.multiply_accumulate(&mut sums[row.clone()], &lifted, &key[row.clone()]);
                }
            }
        }
        let [first, second] = sums;
        ring.add(&mut c0, &switcher.down(first));
        Packed {
            c0,
            c1: switcher.down(second),
        }
    }
}

#[cfg(test)]
mod tests;
