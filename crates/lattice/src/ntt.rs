//! Negacyclic number-theoretic transforms: products modulo `X^n + 1` and a prime, value by value.
//!
//! Two implementations of one trait. [`Portable`] is ours: integer instructions of any machine.
//! The default feature `tfhe-ntt` brings the crate of that name, which chooses vector instructions
//! at run time (52-bit multiplications of AVX-512 for primes of 50 bits). The order and the root
//! of transformed values differ between the two, so that these never leave a party: what is sent
//! are coefficients, and both implementations make the same messages.
//!
//! Neither branches on a value nor uses one as an index.

use crate::modulus::Modulus;

/// A transform of `n` residues and its inverse.
pub(crate) trait Transform: Send + Sync {
    /// Coefficients to values, in place.
    fn forward(&self, x: &mut [u64]);

    /// Values to coefficients, in place.
    fn inverse(&self, x: &mut [u64]);

    /// `sums + a·b`, value by value.
    fn multiply_accumulate(&self, sums: &mut [u64], a: &[u64], b: &[u64]);
}

/// The fastest transform that was compiled in.
pub(crate) fn best(n: usize, modulus: Modulus) -> Box<dyn Transform> {
    #[cfg(feature = "tfhe-ntt")]
    {
        let plan = tfhe_ntt::prime64::Plan::try_new(n, modulus.p());
        Box::new(Vectors(plan.expect("the prime is 1 modulo 2n")))
    }
    #[cfg(not(feature = "tfhe-ntt"))]
    Box::new(Portable::new(n, modulus))
}

#[cfg(feature = "tfhe-ntt")]
struct Vectors(tfhe_ntt::prime64::Plan);

#[cfg(feature = "tfhe-ntt")]
impl Transform for Vectors {
    fn forward(&self, x: &mut [u64]) {
        self.0.fwd(x);
    }

    fn inverse(&self, x: &mut [u64]) {
        self.0.inv(x);
        self.0.normalize(x);
    }

    fn multiply_accumulate(&self, sums: &mut [u64], a: &[u64], b: &[u64]) {
        self.0.mul_accumulate(sums, a, b);
    }
}

/// A factor that many values are multiplied by, with `floor(w 2^64 / p)` (Shoup).
#[derive(Clone, Copy)]
pub(crate) struct Factor {
    w: u64,
    quotient: u64,
}

impl Factor {
    pub(crate) fn new(w: u64, modulus: Modulus) -> Self {
        let quotient = ((u128::from(w) << 64) / u128::from(modulus.p())) as u64;
        Self { w, quotient }
    }

    #[inline]
    pub(crate) fn mul(self, x: u64, modulus: Modulus) -> u64 {
        let estimate = ((u128::from(self.quotient) * u128::from(x)) >> 64) as u64;
        let rest = self
            .w
            .wrapping_mul(x)
            .wrapping_sub(estimate.wrapping_mul(modulus.p()));
        modulus.once(rest)
    }
}

/// Cooley-Tukey forward, Gentleman-Sande back, with the powers of the `2n`-th root merged into the
/// butterflies (Longa, Naehrig: CANS '16, algorithms 1 and 2).
#[cfg_attr(all(feature = "tfhe-ntt", not(test)), allow(dead_code))]
pub(crate) struct Portable {
    modulus: Modulus,
    roots: Vec<Factor>,
    inverse_roots: Vec<Factor>,
    inverse_n: Factor,
}

#[cfg_attr(all(feature = "tfhe-ntt", not(test)), allow(dead_code))]
impl Portable {
    /// `n` is a power of two and the prime 1 modulo `2n`.
    pub(crate) fn new(n: usize, modulus: Modulus) -> Self {
        let order = 2 * n as u64;
        assert!(n.is_power_of_two() && modulus.p() % order == 1, "no root");
        // A power of a non-residue has the full order: its n-th power is -1.
        let root = (2..)
            .map(|x| modulus.pow(x, (modulus.p() - 1) / order))
            .find(|root| modulus.pow(*root, n as u64) == modulus.p() - 1)
            .expect("a prime has non-residues");
        let powers = |root: u64| {
            let mut power = 1;
            let mut factors = vec![Factor::new(1, modulus); n];
            for at in 0..n {
                factors[at.reverse_bits() >> (usize::BITS - n.trailing_zeros())] =
                    Factor::new(power, modulus);
                power = modulus.mul(power, root);
            }
            factors
        };
        Self {
            modulus,
            roots: powers(root),
            inverse_roots: powers(modulus.inverse(root)),
            inverse_n: Factor::new(modulus.inverse(n as u64), modulus),
        }
    }
}

impl Transform for Portable {
    fn forward(&self, x: &mut [u64]) {
        let m = self.modulus;
        assert_eq!(x.len(), self.roots.len(), "one value a coefficient");
        let mut half = x.len() / 2;
        let mut blocks = 1;
        while half > 0 {
            for (block, root) in x
                .chunks_exact_mut(2 * half)
                .zip(&self.roots[blocks..2 * blocks])
            {
                let (left, right) = block.split_at_mut(half);
                for (a, b) in left.iter_mut().zip(right) {
                    let turned = root.mul(*b, m);
                    *b = m.sub(*a, turned);
                    *a = m.add(*a, turned);
                }
            }
            half /= 2;
            blocks *= 2;
        }
    }

    fn inverse(&self, x: &mut [u64]) {
        let m = self.modulus;
        assert_eq!(x.len(), self.roots.len(), "one coefficient a value");
        let mut half = 1;
        let mut blocks = x.len() / 2;
        while blocks > 0 {
            for (block, root) in x
                .chunks_exact_mut(2 * half)
                .zip(&self.inverse_roots[blocks..2 * blocks])
            {
                let (left, right) = block.split_at_mut(half);
                for (a, b) in left.iter_mut().zip(right) {
                    let difference = m.sub(*a, *b);
                    *a = m.add(*a, *b);
                    *b = root.mul(difference, m);
                }
            }
            half *= 2;
            blocks /= 2;
        }
        x.iter_mut().for_each(|x| *x = self.inverse_n.mul(*x, m));
    }

    fn multiply_accumulate(&self, sums: &mut [u64], a: &[u64], b: &[u64]) {
        let m = self.modulus;
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = m.add(*sum, m.mul(*a, *b));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::parameters::PRIMES;

    /// `a·b` modulo `X^n + 1`, term by term.
    fn schoolbook(a: &[u64], b: &[u64], m: Modulus) -> Vec<u64> {
        let n = a.len();
        let mut out = vec![0; n];
        for (i, a) in a.iter().enumerate() {
            for (j, b) in b.iter().enumerate() {
                let product = m.mul(*a, *b);
                let at = (i + j) % n;
                out[at] = if i + j < n {
                    m.add(out[at], product)
                } else {
                    m.sub(out[at], product)
                };
            }
        }
        out
    }

    fn product(ntt: &dyn Transform, a: &[u64], b: &[u64]) -> Vec<u64> {
        let mut a = a.to_vec();
        let mut b = b.to_vec();
        let mut sums = vec![0; a.len()];
        ntt.forward(&mut a);
        ntt.forward(&mut b);
        ntt.multiply_accumulate(&mut sums, &a, &b);
        ntt.multiply_accumulate(&mut sums, &a, &b);
        ntt.inverse(&mut sums);
        sums
    }

    fn polynomial(log_n: u32) -> impl Strategy<Value = (Vec<u64>, Vec<u64>)> {
        let residue = prop_oneof![Just(0), Just(u64::MAX), any::<u64>()];
        let one = prop::collection::vec(residue, 1 << log_n);
        (one.clone(), one)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn products_equal_the_schoolbook(
            (a, b) in (4..8u32).prop_flat_map(polynomial),
            prime in prop::sample::select(PRIMES.to_vec()),
        ) {
            let m = Modulus::new(prime);
            let residues = |x: Vec<u64>| -> Vec<u64> {
                x.into_iter().map(|x| if x == u64::MAX { prime - 1 } else { x % prime }).collect()
            };
            let (a, b) = (residues(a), residues(b));
            let once = schoolbook(&a, &b, m);
            let twice: Vec<u64> = once.iter().map(|x| m.add(*x, *x)).collect();
            prop_assert_eq!(&product(&Portable::new(a.len(), m), &a, &b), &twice);
            prop_assert_eq!(&product(&*best(a.len(), m), &a, &b), &twice);
        }
    }

    #[test]
    fn both_transforms_give_the_same_products() {
        for (n, prime) in [4096, 8192].into_iter().zip(PRIMES) {
            let m = Modulus::new(prime);
            let a: Vec<u64> = (0..n as u64)
                .map(|i| m.reduce(i.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
                .collect();
            let b: Vec<u64> = a.iter().rev().map(|x| m.sub(0, *x)).collect();
            assert_eq!(
                product(&Portable::new(n, m), &a, &b),
                product(&*best(n, m), &a, &b)
            );
        }
    }
}
