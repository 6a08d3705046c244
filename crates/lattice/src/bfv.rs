//! BFV (Fan, Vercauteren: ePrint 2012/144) with plaintexts in coefficients, modulo `2^bits`, and
//! one key.
//!
//! A ciphertext `(c0, c1)` of `m` has `c0 + c1 s = round(q m / 2^bits) + e`. Scaling is
//! `round(q m / 2^bits)`, never `floor(q / 2^bits) m`: factors carry `m` past the modulus many
//! times, and each time the second form adds `q mod 2^bits` to the noise.
//!
//! What the evaluator gives back goes through three types in this order, which is what keeps its
//! factors private:
//! 1. [`Sum`]: products of ciphertexts and factors, summed in transformed form, one inverse
//!    transform at the end. Its `c1` is the sum of `a·w` with `a` known to the key's owner, who
//!    would learn `w` by a division.
//! 2. [`Rerandomized`]: a fresh public-key encryption of zero was added, so that `c1` is
//!    pseudorandom to the owner. Coefficients that are given are masked, and flooded: the owner
//!    sees noise of its own making drowned in noise 2^40 times as large.
//! 3. Bytes: only then is the modulus switched, to a power of two that just holds the result.
//!
//! Sources: Lyubashevsky, Peikert, Regev (ePrint 2012/230) for encryption under a public key;
//! Gentry (STOC '09) for flooding; Huang et al., Cheetah (ePrint 2022/207) for coefficients and
//! short results.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    error::LatticeError,
    parameters::{ERROR_BITS, ParameterSet},
    ring::{Coefficients, Ring, Values},
    sample::{Randomness, uniform},
    wire::{pack, pack_polynomial, packed_bytes, unpack, unpack_polynomial},
};

/// Bits of both polynomials of a result above those of its plaintext. The first one's rounding
/// moves a result by 1/16 of a unit. The second one's is multiplied by the secret: at `n = 8192`
/// the sum of about 5461 roundings has a standard deviation of `sqrt(5461/12) / 1024`, 1/48 of a
/// unit. With flooding (1/8) there are 5/16 of a unit left for it, 15 deviations: a result is
/// wrong with a probability below 2^-150.
const FIRST_BITS: u32 = 3;
const SECOND_BITS: u32 = 10;

/// Flooding is above the noise that it hides by these bits: a coefficient's noise is 2^-41 from
/// the noise of any other factors, in statistical distance.
pub(crate) const FLOOD_BITS: u32 = 40;

/// How many deviations a sum of errors is taken to reach: more with probability 2 exp(-81/2),
/// 2^-57.
pub(crate) const DEVIATIONS: f64 = 9.0;

/// What is known of the factors that a result is a sum of products with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Factors {
    /// Signed numbers of this many bits, the sign among them: any, so the bound holds for all.
    Signed(u32),
    /// Uniform modulo `2^bits` of the plaintext, which no input chose: random masks.
    Masks,
}

impl Factors {
    /// Bits of a factor, sign included.
    pub(crate) fn width(self, bits: u32) -> u32 {
        match self {
            Self::Signed(width) => width,
            Self::Masks => bits,
        }
    }

    /// A bound on the noise of a result, in units of `1/q`, when `count` factors that are not zero
    /// are involved in it; holds but for a probability of 2^-56 a coefficient.
    ///
    /// Errors are sub-Gaussian with variance `ERROR_BITS / 2`, so their products with any factors
    /// of magnitude `M` sum up to less than nine times `sqrt(count ERROR_BITS / 2) M`. The
    /// rounding of an encoding, half a unit at most, may be the same everywhere and add up to
    /// `count / 2 · M`, unless factors are uniform: nine times `sqrt(count / 12) M` then.
    pub(crate) fn noise(self, set: ParameterSet, bits: u32, count: usize) -> f64 {
        let magnitude = f64::from(self.width(bits) - 1).exp2();
        let count = count as f64;
        let errors = DEVIATIONS * (count * f64::from(ERROR_BITS) / 2.0).sqrt();
        let rounding = match self {
            Self::Signed(_) => count / 2.0,
            Self::Masks => DEVIATIONS * (count / 12.0).sqrt(),
        };
        // The encryption of zero, whatever was drawn; the rounding of a mask.
        let fresh = f64::from(ERROR_BITS) * (2 * set.n() + 1) as f64 + 1.0;
        (errors + rounding) * magnitude + fresh
    }

    /// Bits of flooding for such a result. Signed factors serve many products, so all room that the
    /// modulus leaves floods them; what noise tells adds up over results. Masks serve one.
    ///
    /// # Errors
    /// Where noise and flooding would take more than an eighth of a unit of the plaintext.
    pub(crate) fn flood(
        self,
        set: ParameterSet,
        bits: u32,
        count: usize,
    ) -> Result<u32, LatticeError> {
        self.flood_above(set, bits, self.noise(set, bits, count))
    }

    /// As [`Self::flood`], for a noise that is bounded otherwise.
    pub(crate) fn flood_above(
        self,
        set: ParameterSet,
        bits: u32,
        noise: f64,
    ) -> Result<u32, LatticeError> {
        let least = noise.log2().ceil() as u32 + FLOOD_BITS;
        // q is about 2^(modulus_bits + 1).
        let available = set.modulus_bits();
        let needed = least + bits + 2;
        if needed > available {
            return Err(LatticeError::Noise { needed, available });
        }
        Ok(match self {
            // Floods are drawn as numbers of 128 bits.
            Self::Signed(_) => (available - bits - 2).min(126).max(least),
            Self::Masks => least,
        })
    }
}

/// The key's owner's side. Never printed, erased when dropped.
pub(crate) struct SecretKey {
    ring: Arc<Ring>,
    s: Values,
}

impl std::fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecretKey({:?}, ..)", self.ring.set)
    }
}

impl SecretKey {
    /// A fresh key.
    pub(crate) fn generate(set: ParameterSet) -> Self {
        Self::generate_in(Ring::of(set))
    }

    pub(crate) fn generate_in(ring: Arc<Ring>) -> Self {
        let s = Randomness::fresh().ternary(ring.n);
        let s = ring.forward(ring.small(&s));
        Self { ring, s }
    }

    pub(crate) fn set(&self) -> ParameterSet {
        self.ring.set
    }

    /// The secret's digits, -1, 0 or 1.
    pub(crate) fn digits(&self) -> Zeroizing<Vec<i64>> {
        let s = self.ring.inverse(self.s.clone());
        let modulus = self.ring.moduli().next().expect("a set has primes");
        let digits = s.0[..self.ring.n].iter().map(|x| modulus.balanced(*x));
        Zeroizing::new(digits.collect())
    }

    /// What [`Self::from_bytes`] reads: the set's digest, then two bits a digit.
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let digits = self.digits();
        let mut out = Zeroizing::new(Vec::with_capacity(Self::bytes(self.set())));
        out.extend(self.set().digest());
        let four = |four: &[i64]| {
            let places = four.iter().enumerate();
            places.fold(0, |byte, (i, digit)| byte | ((digit + 1) as u8) << (2 * i))
        };
        out.extend(digits.chunks_exact(4).map(four));
        out
    }

    fn bytes(set: ParameterSet) -> usize {
        32 + set.n() / 4
    }

    /// # Errors
    /// Another length or set, a digit that no secret has.
    pub(crate) fn from_bytes(set: ParameterSet, bytes: &[u8]) -> Result<Self, LatticeError> {
        let message = "saved secret key";
        let expected = Self::bytes(set);
        if bytes.len() != expected {
            let got = bytes.len();
            return Err(LatticeError::Length {
                message,
                expected,
                got,
            });
        }
        let (digest, rest) = bytes.split_at(32);
        if digest != set.digest() {
            return Err(LatticeError::Parameters { message });
        }
        // All are looked at, so that the time says nothing of them.
        if rest
            .iter()
            .fold(0, |wrong, byte| wrong | (byte & byte >> 1 & 0x55))
            != 0
        {
            return Err(LatticeError::Malformed {
                message,
                reason: "a digit that no secret has",
            });
        }
        let pairs = rest
            .iter()
            .flat_map(|byte| [0, 2, 4, 6].map(|at| byte >> at & 3));
        let digits: Zeroizing<Vec<i64>> = Zeroizing::new(pairs.map(|d| i64::from(d) - 1).collect());
        let ring = Ring::of(set);
        let s = ring.forward(ring.small(&digits));
        Ok(Self { ring, s })
    }

    /// A fresh public key of this key, as [`PublicKey::from_bytes`] reads it: the set's digest, a
    /// seed, a polynomial.
    pub(crate) fn public_key(&self) -> Vec<u8> {
        let (seed, b) = self.encrypt_zero(&mut Randomness::fresh());
        let mut out = self.set().digest().to_vec();
        out.extend(seed);
        pack_polynomial(&mut out, &self.ring, &b);
        out
    }

    /// A seed's `a`, and `-a s + e`.
    fn encrypt_zero(&self, randomness: &mut Randomness) -> ([u8; 32], Coefficients) {
        let seed = marill_crypto::Seed::random().to_bytes();
        let a = self.ring.forward(uniform(&self.ring, &seed));
        let mut product = self.ring.zero();
        self.ring.multiply_accumulate(&mut product, &a, &self.s);
        let mut c0 = self.ring.small(&randomness.errors(self.ring.n));
        self.ring.subtract(&mut c0, &self.ring.inverse(product));
        (seed, c0)
    }

    /// Appends a fresh encryption of `n` coefficients modulo `2^bits`: a seed and a polynomial.
    pub(crate) fn encrypt(&self, out: &mut Vec<u8>, bits: u32, plaintext: &[u64]) {
        let ring = &*self.ring;
        assert_eq!(plaintext.len(), ring.n, "a plaintext fills a polynomial");
        let (seed, mut c0) = self.encrypt_zero(&mut Randomness::fresh());
        ring.add(
            &mut c0,
            &ring.polynomial(|m, i| ring.encode(m, bits, plaintext[i])),
        );
        out.extend(seed);
        pack_polynomial(out, ring, &c0);
    }

    /// Coefficients at `positions` of a result of [`Rerandomized::switch`], from the front of
    /// `bytes`, which moves on.
    pub(crate) fn decrypt_switched(
        &self,
        bytes: &mut &[u8],
        bits: u32,
        positions: &[usize],
        message: &'static str,
    ) -> Result<Zeroizing<Vec<u64>>, LatticeError> {
        let ring = &*self.ring;
        let first = unpack(bytes, positions.len(), bits + FIRST_BITS, message)?;
        let second = unpack(bytes, ring.n, bits + SECOND_BITS, message)?;
        // Below n 2^(bits+10), which q holds, so that the product is that of the integers.
        let c1 = ring.forward(ring.polynomial(|m, i| m.reduce_double(second[i])));
        let mut product = ring.zero();
        ring.multiply_accumulate(&mut product, &c1, &self.s);
        let product = ring.inverse(product);
        let half = 1 << (SECOND_BITS - 1);
        let value = |(first, at): (&u128, &usize)| {
            let sum = (first << (SECOND_BITS - FIRST_BITS))
                .wrapping_add(ring.balanced(&product, *at) as u128);
            (sum.wrapping_add(half) >> SECOND_BITS) as u64 & (u64::MAX >> (64 - bits))
        };
        Ok(Zeroizing::new(
            first.iter().zip(positions).map(value).collect(),
        ))
    }
}

/// Plaintexts and noise of what has not been switched: for tests and for measuring.
#[cfg(test)]
impl SecretKey {
    /// `c0 + c1 s`.
    fn phase(&self, c0: &Coefficients, c1: &Values) -> Coefficients {
        let mut product = self.ring.zero();
        self.ring.multiply_accumulate(&mut product, c1, &self.s);
        let mut phase = self.ring.inverse(product);
        self.ring.add(&mut phase, c0);
        phase
    }

    /// All coefficients, and by how much each misses `round(q m / 2^bits)`.
    fn decrypt(&self, c0: &Coefficients, c1: &Values, bits: u32) -> (Vec<u64>, Vec<f64>) {
        let ring = &*self.ring;
        let mut phase = self.phase(c0, c1);
        let mask = u64::MAX >> (64 - bits);
        let round = |at| {
            let fraction = ring.fraction(&phase, at).wrapping_add(1 << (127 - bits));
            (fraction >> (128 - bits)) as u64 & mask
        };
        let plain: Vec<u64> = (0..ring.n).map(round).collect();
        let exact = ring.polynomial(|m, i| ring.encode(m, bits, plain[i]));
        ring.subtract(&mut phase, &exact);
        let noise = (0..ring.n).map(|at| ring.magnitude(&phase, at)).collect();
        (plain, noise)
    }

    fn decrypt_ciphertext(&self, ciphertext: &Ciphertext, bits: u32) -> (Vec<u64>, Vec<f64>) {
        let c0 = self.ring.inverse(ciphertext.c0.clone());
        self.decrypt(&c0, &ciphertext.c1, bits)
    }

    pub(crate) fn decrypt_packed(&self, x: &Packed, bits: u32) -> (Vec<u64>, Vec<f64>) {
        self.decrypt(&x.c0, &x.to_ciphertext(&self.ring).c1, bits)
    }

    pub(crate) fn decrypt_rerandomized(
        &self,
        result: &Rerandomized,
        bits: u32,
    ) -> (Vec<u64>, Vec<f64>) {
        let c1 = Coefficients(result.c1.0.clone());
        self.decrypt(&result.c0, &self.ring.forward(c1), bits)
    }
}

/// The evaluator's side of a key: with it anyone encrypts, and re-randomizes results.
pub struct PublicKey {
    pub(crate) ring: Arc<Ring>,
    /// A digest of its bytes, by which what belongs to a key is told apart.
    pub(crate) id: [u8; 32],
    b: Values,
    a: Values,
}

impl PublicKey {
    const MESSAGE: &str = "public key";

    /// Bytes of a public key of this set.
    #[must_use]
    pub fn bytes(set: ParameterSet) -> usize {
        32 + ciphertext_bytes(set)
    }

    /// Reads what [`Client::public_key`](crate::Client::public_key) made.
    ///
    /// # Errors
    /// Another length or set, a residue that is not below its prime.
    pub fn from_bytes(set: ParameterSet, bytes: &[u8]) -> Result<Self, LatticeError> {
        let ring = Ring::of(set);
        let expected = Self::bytes(set);
        if bytes.len() != expected {
            return Err(LatticeError::Length {
                message: Self::MESSAGE,
                expected,
                got: bytes.len(),
            });
        }
        let (digest, mut rest) = bytes.split_at(32);
        if digest != set.digest() {
            return Err(LatticeError::Parameters {
                message: Self::MESSAGE,
            });
        }
        let Ciphertext { c0, c1 } = Ciphertext::read(&mut rest, &ring, Self::MESSAGE)?;
        Ok(Self {
            ring,
            id: Sha256::digest(bytes).into(),
            b: c0,
            a: c1,
        })
    }

    #[must_use]
    pub fn set(&self) -> ParameterSet {
        self.ring.set
    }
}

/// Bytes of a fresh ciphertext: a seed and a polynomial.
pub(crate) fn ciphertext_bytes(set: ParameterSet) -> usize {
    32 + set.polynomial_bytes()
}

/// A fresh ciphertext at the evaluator, or what was taken out of one, transformed.
pub(crate) struct Ciphertext {
    c0: Values,
    pub(crate) c1: Values,
}

/// A ciphertext or a sum by its coefficients, while packing turns it. Holds factors: must not be
/// given away, see the module.
pub(crate) struct Packed {
    pub(crate) c0: Coefficients,
    pub(crate) c1: Coefficients,
}

impl Packed {
    pub(crate) fn to_ciphertext(&self, ring: &Ring) -> Ciphertext {
        let forward = |x: &Coefficients| ring.forward(Coefficients(x.0.clone()));
        Ciphertext {
            c0: forward(&self.c0),
            c1: forward(&self.c1),
        }
    }

    /// Adds a fresh encryption of zero under the owner's public key.
    pub(crate) fn rerandomize(self, key: &PublicKey) -> Rerandomized {
        let mut result = Sum::new(&key.ring).rerandomize(key);
        key.ring.add(&mut result.c0, &self.c0);
        key.ring.add(&mut result.c1, &self.c1);
        result
    }
}

impl Ciphertext {
    pub(crate) fn to_packed(&self, ring: &Ring) -> Packed {
        Packed {
            c0: ring.inverse(self.c0.clone()),
            c1: ring.inverse(self.c1.clone()),
        }
    }

    /// From the front of `bytes`, long enough, which moves on.
    pub(crate) fn read(
        bytes: &mut &[u8],
        ring: &Ring,
        message: &'static str,
    ) -> Result<Self, LatticeError> {
        let (seed, rest) = bytes.split_at(32);
        *bytes = rest;
        let c0 = unpack_polynomial(bytes, ring, message)?;
        let seed = seed.try_into().expect("32 bytes were split off");
        Ok(Self {
            c0: ring.forward(c0),
            c1: ring.forward(uniform(ring, seed)),
        })
    }
}

/// Factors in the coefficients of a polynomial, transformed once.
pub(crate) struct Factor(pub(crate) Values);

impl Factor {
    /// `n` signed numbers.
    pub(crate) fn new(ring: &Ring, coefficients: &[i64]) -> Self {
        Self(ring.forward(ring.signed(coefficients)))
    }
}

/// Sum of products of ciphertexts and factors. Must not be given away: see the module.
pub(crate) struct Sum {
    c0: Values,
    pub(crate) c1: Values,
}

impl Sum {
    pub(crate) fn new(ring: &Ring) -> Self {
        Self {
            c0: ring.zero(),
            c1: ring.zero(),
        }
    }

    pub(crate) fn add_product(&mut self, ring: &Ring, ciphertext: &Ciphertext, factor: &Factor) {
        ring.multiply_accumulate(&mut self.c0, &ciphertext.c0, &factor.0);
        ring.multiply_accumulate(&mut self.c1, &ciphertext.c1, &factor.0);
    }

    pub(crate) fn pack(self, ring: &Ring) -> Packed {
        Packed {
            c0: ring.inverse(self.c0),
            c1: ring.inverse(self.c1),
        }
    }

    /// Adds a fresh encryption of zero under the owner's public key.
    pub(crate) fn rerandomize(mut self, key: &PublicKey) -> Rerandomized {
        let ring = Arc::clone(&key.ring);
        let mut randomness = Randomness::fresh();
        let u = ring.forward(ring.small(&randomness.ternary(ring.n)));
        ring.multiply_accumulate(&mut self.c0, &key.b, &u);
        ring.multiply_accumulate(&mut self.c1, &key.a, &u);
        let mut c0 = ring.inverse(self.c0);
        let mut c1 = ring.inverse(self.c1);
        ring.add(&mut c0, &ring.small(&randomness.errors(ring.n)));
        ring.add(&mut c1, &ring.small(&randomness.errors(ring.n)));
        Rerandomized { ring, c0, c1 }
    }
}

/// A result whose second polynomial says nothing of the factors.
pub(crate) struct Rerandomized {
    ring: Arc<Ring>,
    c0: Coefficients,
    pub(crate) c1: Coefficients,
}

impl Rerandomized {
    /// Adds `masks`, modulo `2^bits`, to the coefficients at `positions`, and to each a number
    /// that is uniform in `-2^flood .. 2^flood`.
    pub(crate) fn mask(&mut self, bits: u32, positions: &[usize], masks: &[u64], flood: u32) {
        let ring = &*self.ring;
        let noise = Randomness::fresh().doubles(positions.len(), flood + 1);
        for ((at, mask), noise) in positions.iter().zip(masks).zip(&*noise) {
            ring.add_at(&mut self.c0, *at, |m| {
                let centered = m.sub(m.reduce_double(*noise), m.reduce_double(1 << flood));
                m.add(ring.encode(m, bits, *mask), centered)
            });
        }
    }

    /// Masks and floods the coefficients at `positions` and appends them, switched: the first
    /// polynomial at these alone, then the second one.
    pub(crate) fn switch(
        mut self,
        out: &mut Vec<u8>,
        bits: u32,
        positions: &[usize],
        masks: &[u64],
        flood: u32,
    ) {
        self.mask(bits, positions, masks, flood);
        let ring = &*self.ring;
        let round = |x: &Coefficients, at: usize, bits: u32| {
            ring.fraction(x, at).wrapping_add(1 << (127 - bits)) >> (128 - bits)
        };
        let first = positions
            .iter()
            .map(|at| round(&self.c0, *at, bits + FIRST_BITS));
        pack(out, first, bits + FIRST_BITS);
        let second = (0..ring.n).map(|at| round(&self.c1, at, bits + SECOND_BITS));
        pack(out, second, bits + SECOND_BITS);
    }
}

/// Bytes that [`Rerandomized::switch`] appends.
pub(crate) fn switched_bytes(set: ParameterSet, bits: u32, positions: usize) -> usize {
    packed_bytes(positions, bits + FIRST_BITS) + packed_bytes(set.n(), bits + SECOND_BITS)
}

#[cfg(test)]
pub(crate) mod tests;
