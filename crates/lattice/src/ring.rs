//! Polynomials modulo `X^n + 1` and `q`, a product of primes, held prime by prime; and what turns
//! residues into numbers.
//!
//! [`Coefficients`] and [`Values`] (after a transform) are types of their own, so that none is
//! taken for the other; the residues of one prime lie in a row, primes one after the other. Both
//! are erased when dropped, since either may be secret.

use std::sync::{Arc, OnceLock};

use zeroize::Zeroizing;

use crate::{
    modulus::Modulus,
    ntt::{Factor, Transform, best},
    parameters::ParameterSet,
};

/// A polynomial by its coefficients.
pub(crate) struct Coefficients(pub(crate) Zeroizing<Vec<u64>>);

/// A transformed polynomial.
#[derive(Clone)]
pub(crate) struct Values(pub(crate) Zeroizing<Vec<u64>>);

/// One prime and what residues of it need.
struct Limb {
    modulus: Modulus,
    ntt: Box<dyn Transform>,
    /// `(q / p)^-1 mod p`.
    lift: u64,
    /// `2^128 / p`: the integer and 64 bits of the fraction.
    step: u128,
    step_fraction: u64,
    /// Inverses of the primes before this one, for [`Ring::balanced`].
    before: Vec<u64>,
}

/// The ring of a parameter set.
pub(crate) struct Ring {
    pub(crate) set: ParameterSet,
    pub(crate) n: usize,
    limbs: Vec<Limb>,
    /// `q mod 2^64`.
    q_low: u64,
}

impl Ring {
    /// The ring of a set, made once in a process.
    pub(crate) fn of(set: ParameterSet) -> Arc<Self> {
        static RINGS: [OnceLock<Arc<Ring>>; 2] = [OnceLock::new(), OnceLock::new()];
        Arc::clone(RINGS[set as usize].get_or_init(|| Arc::new(Self::with(set, best))))
    }

    /// With these transforms.
    pub(crate) fn with(
        set: ParameterSet,
        transform: fn(usize, Modulus) -> Box<dyn Transform>,
    ) -> Self {
        let n = set.n();
        let primes = set.primes();
        let limb = |at: usize| {
            let modulus = Modulus::new(primes[at]);
            let others = primes.iter().filter(|p| **p != modulus.p());
            let punctured = others.fold(1, |all, p| modulus.mul(all, modulus.reduce(*p)));
            // 2^128 = step·p + rest
            let step = u128::MAX / u128::from(modulus.p());
            let rest = (u128::MAX % u128::from(modulus.p())) + 1;
            let before = primes[..at].iter();
            Limb {
                modulus,
                ntt: transform(n, modulus),
                lift: modulus.inverse(punctured),
                step,
                step_fraction: ((rest << 64) / u128::from(modulus.p())) as u64,
                before: before
                    .map(|p| modulus.inverse(modulus.reduce(*p)))
                    .collect(),
            }
        };
        Self {
            set,
            n,
            limbs: (0..primes.len()).map(limb).collect(),
            q_low: primes.iter().fold(1, |q: u64, p| q.wrapping_mul(*p)),
        }
    }

    pub(crate) fn moduli(&self) -> impl Iterator<Item = Modulus> {
        self.limbs.iter().map(|limb| limb.modulus)
    }

    pub(crate) fn zero(&self) -> Values {
        Values(Zeroizing::new(vec![0; self.n * self.limbs.len()]))
    }

    /// A polynomial of `n` residues a prime, each made by `residue`.
    pub(crate) fn polynomial(
        &self,
        mut residue: impl FnMut(Modulus, usize) -> u64,
    ) -> Coefficients {
        let mut out = Zeroizing::new(Vec::with_capacity(self.n * self.limbs.len()));
        for limb in &self.limbs {
            out.extend((0..self.n).map(|i| residue(limb.modulus, i)));
        }
        Coefficients(out)
    }

    /// Of `n` errors or digits of a secret.
    pub(crate) fn small(&self, x: &[i64]) -> Coefficients {
        self.polynomial(|modulus, i| modulus.small(x[i]))
    }

    /// Of `n` signed numbers.
    pub(crate) fn signed(&self, x: &[i64]) -> Coefficients {
        self.polynomial(|modulus, i| modulus.signed(x[i]))
    }

    /// The transform of prime `k`.
    pub(crate) fn transform(&self, k: usize) -> &dyn Transform {
        &*self.limbs[k].ntt
    }

    /// Transformed: signed numbers added to coefficients, each over `2^halvings` modulo `q`, and
    /// negated where said. Places and signs are public.
    pub(crate) fn sparse(&self, numbers: &[(usize, bool, i64)], halvings: u32) -> Values {
        let mut out = self.zero();
        for (limb, row) in self.limbs.iter().zip(out.0.chunks_exact_mut(self.n)) {
            let m = limb.modulus;
            let over = Factor::new(m.pow(m.inverse(2), u64::from(halvings)), m);
            for (at, negated, number) in numbers {
                let scaled = over.mul(m.signed(*number), m);
                let signed = if *negated { m.sub(0, scaled) } else { scaled };
                row[*at] = m.add(row[*at], signed);
            }
            limb.ntt.forward(row);
        }
        out
    }

    /// `x / 2^halvings` modulo `q`.
    pub(crate) fn halve(&self, x: &mut Coefficients, halvings: u32) {
        for (limb, row) in self.limbs.iter().zip(x.0.chunks_exact_mut(self.n)) {
            let m = limb.modulus;
            let over = Factor::new(m.pow(m.inverse(2), u64::from(halvings)), m);
            row.iter_mut().for_each(|x| *x = over.mul(*x, m));
        }
    }

    /// `X` becomes `X^g`, for an odd `g`.
    pub(crate) fn substitute(&self, x: &Coefficients, g: usize) -> Coefficients {
        let n = self.n;
        let mut out = Zeroizing::new(vec![0; x.0.len()]);
        let rows = out.chunks_exact_mut(n).zip(x.0.chunks_exact(n));
        for (limb, (out, row)) in self.limbs.iter().zip(rows) {
            let mut at = 0;
            for x in row {
                let negated = limb.modulus.sub(0, *x);
                out[at & (n - 1)] = if at < n { *x } else { negated };
                at = (at + g) & (2 * n - 1);
            }
        }
        Coefficients(out)
    }

    /// `X^by` times it, for `by` below `2n`.
    pub(crate) fn shifted(&self, x: &Coefficients, by: usize) -> Coefficients {
        let n = self.n;
        let mut out = Zeroizing::new(Vec::with_capacity(x.0.len()));
        for (limb, row) in self.limbs.iter().zip(x.0.chunks_exact(n)) {
            // What passes X^n changes its sign, and once more what passes X^2n.
            let (stays, wraps) = row.split_at(n - by % n);
            let negated = |x: &u64| limb.modulus.sub(0, *x);
            if by < n {
                out.extend(wraps.iter().map(negated));
                out.extend(stays);
            } else {
                out.extend(wraps);
                out.extend(stays.iter().map(negated));
            }
        }
        Coefficients(out)
    }

    pub(crate) fn forward(&self, x: Coefficients) -> Values {
        let mut x = x.0;
        for (limb, row) in self.limbs.iter().zip(x.chunks_exact_mut(self.n)) {
            limb.ntt.forward(row);
        }
        Values(x)
    }

    pub(crate) fn inverse(&self, x: Values) -> Coefficients {
        let mut x = x.0;
        for (limb, row) in self.limbs.iter().zip(x.chunks_exact_mut(self.n)) {
            limb.ntt.inverse(row);
        }
        Coefficients(x)
    }

    /// `sums + a·b`.
    pub(crate) fn multiply_accumulate(&self, sums: &mut Values, a: &Values, b: &Values) {
        let rows = sums.0.chunks_exact_mut(self.n);
        let factors = a.0.chunks_exact(self.n).zip(b.0.chunks_exact(self.n));
        for ((limb, sums), (a, b)) in self.limbs.iter().zip(rows).zip(factors) {
            limb.ntt.multiply_accumulate(sums, a, b);
        }
    }

    pub(crate) fn add(&self, sums: &mut Coefficients, x: &Coefficients) {
        let rows = sums.0.chunks_exact_mut(self.n);
        for ((limb, sums), x) in self.limbs.iter().zip(rows).zip(x.0.chunks_exact(self.n)) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = limb.modulus.add(*sum, *x);
            }
        }
    }

    /// `sums - x`.
    pub(crate) fn subtract(&self, sums: &mut Coefficients, x: &Coefficients) {
        let rows = sums.0.chunks_exact_mut(self.n);
        for ((limb, sums), x) in self.limbs.iter().zip(rows).zip(x.0.chunks_exact(self.n)) {
            for (sum, x) in sums.iter_mut().zip(x) {
                *sum = limb.modulus.sub(*sum, *x);
            }
        }
    }

    /// Adds a number to one coefficient, given by its residue of each prime.
    pub(crate) fn add_at(
        &self,
        sums: &mut Coefficients,
        at: usize,
        mut residue: impl FnMut(Modulus) -> u64,
    ) {
        for (limb, sums) in self.limbs.iter().zip(sums.0.chunks_exact_mut(self.n)) {
            sums[at] = limb.modulus.add(sums[at], residue(limb.modulus));
        }
    }

    /// `round(q m / 2^bits)` as a residue. With `M = 2^(64-bits) m` it is the same fraction of
    /// `2^64`: `(q M + 2^63 - r) / 2^64`, `r = (q M + 2^63) mod 2^64`. `q` is zero modulo each
    /// prime, so no number longer than a word is needed.
    #[inline]
    pub(crate) fn encode(&self, modulus: Modulus, bits: u32, m: u64) -> u64 {
        const HALF: u64 = 1 << 63;
        let rest = self.q_low.wrapping_mul(m << (64 - bits)).wrapping_add(HALF);
        modulus.over_64(modulus.sub(modulus.reduce(HALF), modulus.reduce(rest)))
    }

    /// `x / q` of coefficient `at`, as a fraction of `2^128`, less than four units too small:
    /// `x / q` is the sum of `(x (q/p)^-1 mod p) / p` less an integer, which wraps away.
    #[inline]
    pub(crate) fn fraction(&self, x: &Coefficients, at: usize) -> u128 {
        let mut sum = 0u128;
        for (limb, row) in self.limbs.iter().zip(x.0.chunks_exact(self.n)) {
            let y = u128::from(limb.modulus.mul(row[at], limb.lift));
            let low = (y * u128::from(limb.step_fraction)) >> 64;
            sum = sum
                .wrapping_add(y.wrapping_mul(limb.step))
                .wrapping_add(low);
        }
        sum
    }

    /// The number of least magnitude with the residues of coefficient `at`, modulo `2^128`, by
    /// mixed radix with digits of both signs (Garner).
    pub(crate) fn balanced(&self, x: &Coefficients, at: usize) -> i128 {
        let digits = self.digits(x, at);
        let mut weight = 1i128;
        let mut sum = 0i128;
        for (digit, limb) in digits.iter().zip(&self.limbs) {
            sum = sum.wrapping_add(i128::from(*digit).wrapping_mul(weight));
            weight = weight.wrapping_mul(i128::from(limb.modulus.p()));
        }
        sum
    }

    /// As [`Self::balanced`], of any length and with the precision of a float.
    #[cfg(test)]
    pub(crate) fn magnitude(&self, x: &Coefficients, at: usize) -> f64 {
        let digits = self.digits(x, at);
        let mut weight = 1.0;
        let mut sum = 0.0;
        for (digit, limb) in digits.iter().zip(&self.limbs) {
            sum += *digit as f64 * weight;
            weight *= limb.modulus.p() as f64;
        }
        sum
    }

    fn digits(&self, x: &Coefficients, at: usize) -> [i64; 3] {
        let mut digits = [0i64; 3];
        for (k, (limb, row)) in self.limbs.iter().zip(x.0.chunks_exact(self.n)).enumerate() {
            let m = limb.modulus;
            let mut rest = row[at];
            for (digit, inverse) in digits.iter().zip(&limb.before) {
                rest = m.mul(m.sub(rest, m.signed(*digit)), *inverse);
            }
            digits[k] = m.balanced(rest);
        }
        digits
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn set() -> impl Strategy<Value = ParameterSet> {
        prop_oneof![Just(ParameterSet::N4096), Just(ParameterSet::N8192)]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8))]
        #[test]
        fn numbers_come_back_from_their_residues(
            set in set(),
            numbers in prop::collection::vec(any::<i64>(), 64),
        ) {
            let ring = Ring::of(set);
            // Below 2^98 in magnitude, which both moduli hold.
            let number = |i: usize| i128::from(numbers[i % 64]) * (1i128 << (i % 35));
            let x = ring.polynomial(|m, i| number(i).rem_euclid(i128::from(m.p())) as u64);
            for i in 0..64 {
                prop_assert_eq!(ring.balanced(&x, i), number(i));
                let float = number(i) as f64;
                prop_assert!((ring.magnitude(&x, i) - float).abs() <= 1e-9 * float.abs());
            }
        }

        #[test]
        fn encoded_numbers_are_the_same_fractions(
            set in set(),
            bits in 1..=64u32,
            numbers in prop::collection::vec(any::<u64>(), 64),
        ) {
            let ring = Ring::of(set);
            let number = |i: usize| numbers[i % 64] >> (64 - bits);
            let x = ring.polynomial(|m, i| ring.encode(m, bits, number(i)));
            let scaled = ring.polynomial(|m, i| {
                m.mul(ring.encode(m, bits, number(i)), m.pow(2, u64::from(bits)))
            });
            for i in 0..64 {
                let fraction = ring.fraction(&x, i);
                let exact = u128::from(number(i)) << (128 - bits);
                let off = fraction.wrapping_sub(exact) as i128;
                // Rounding to a multiple of 1/q moves it by half of one.
                let most = 1i128 << (126 - set.modulus_bits().min(126));
                prop_assert!(off.abs() <= most + 4, "{off} of {most}");
                // 2^bits times it is a multiple of q, half of 2^bits away at most.
                let rest = ring.balanced(&scaled, i);
                prop_assert!(rest.abs() <= 1 << (bits - 1), "{rest} of {bits} bits");
            }
        }

        #[test]
        fn products_and_sums_are_the_polynomials(set in set(), shift in 0..64usize) {
            let ring = Ring::of(set);
            // x^shift times a polynomial turns it, with a sign where it wraps.
            let mut monomial = vec![0; ring.n];
            monomial[shift] = 1;
            let counting: Vec<i64> = (0..ring.n as i64).map(|i| i - 5).collect();
            let mut sums = ring.zero();
            let a = ring.forward(ring.signed(&monomial));
            let b = ring.forward(ring.signed(&counting));
            ring.multiply_accumulate(&mut sums, &a, &b);
            let mut product = ring.inverse(sums);
            ring.add(&mut product, &ring.signed(&counting));
            ring.subtract(&mut product, &ring.signed(&monomial));
            for i in 0..ring.n {
                let turned = if i < shift {
                    -counting[ring.n + i - shift]
                } else {
                    counting[i - shift]
                };
                let expected = turned + counting[i] - monomial[i];
                prop_assert_eq!(ring.balanced(&product, i), i128::from(expected));
            }
        }
    }
}
