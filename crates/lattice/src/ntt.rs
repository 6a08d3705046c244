//! Negacyclic number-theoretic transforms: products modulo `X^n + 1` and a prime, value by value.
//!
//! Three implementations of one trait. [`Portable`] takes integer instructions of any machine,
//! `Doubles` floating point with AVX2. The default feature `tfhe-ntt` brings the crate of that
//! name, which is the fastest where AVX-512 multiplies 52 bits. The order and the root of
//! transformed values differ between them, so that these never leave a party: what is sent are
//! coefficients, and all implementations make the same messages.
//!
//! None branches on a value or uses one as an index.

#[cfg(target_arch = "x86_64")]
mod doubles;

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

/// The fastest transform that was compiled in and that the machine has instructions for.
pub(crate) fn best(n: usize, modulus: Modulus) -> Box<dyn Transform> {
    #[cfg(all(feature = "tfhe-ntt", target_arch = "x86_64"))]
    if std::is_x86_feature_detected!("avx512ifma") {
        return Box::new(Vectors::new(n, modulus));
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(doubles) = doubles::Doubles::new(n, modulus) {
        return Box::new(doubles);
    }
    #[cfg(feature = "tfhe-ntt")]
    return Box::new(Vectors::new(n, modulus));
    #[cfg(not(feature = "tfhe-ntt"))]
    Box::new(Portable::new(n, modulus))
}

/// All transforms that this machine can run.
#[cfg(test)]
pub(crate) fn every(n: usize, modulus: Modulus) -> Vec<(&'static str, Box<dyn Transform>)> {
    let mut all: Vec<(_, Box<dyn Transform>)> =
        vec![("portable", Box::new(Portable::new(n, modulus)))];
    #[cfg(target_arch = "x86_64")]
    if let Some(doubles) = doubles::Doubles::new(n, modulus) {
        all.push(("doubles", Box::new(doubles)));
    }
    #[cfg(feature = "tfhe-ntt")]
    all.push(("tfhe-ntt", Box::new(Vectors::new(n, modulus))));
    all
}

/// A root of order `2n`.
fn root(n: usize, modulus: Modulus) -> u64 {
    let order = 2 * n as u64;
    assert!(
        n.is_power_of_two() && modulus.p() % order == 1,
        "no root of order {order}"
    );
    // A power of a non-residue has the full order: its n-th power is -1.
    (2..)
        .map(|x| modulus.pow(x, (modulus.p() - 1) / order))
        .find(|root| modulus.pow(*root, n as u64) == modulus.p() - 1)
        .expect("a prime has non-residues")
}

/// The first `n` powers, in bit-reversed order.
fn powers(root: u64, n: usize, modulus: Modulus) -> Vec<u64> {
    let mut power = 1;
    let mut powers = vec![1; n];
    for at in 0..n {
        powers[at.reverse_bits() >> (usize::BITS - n.trailing_zeros())] = power;
        power = modulus.mul(power, root);
    }
    powers
}

#[cfg(feature = "tfhe-ntt")]
struct Vectors(tfhe_ntt::prime64::Plan);

#[cfg(feature = "tfhe-ntt")]
impl Vectors {
    fn new(n: usize, modulus: Modulus) -> Self {
        let plan = tfhe_ntt::prime64::Plan::try_new(n, modulus.p());
        Self(plan.expect("the prime is 1 modulo 2n"))
    }
}

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
        let root = root(n, modulus);
        let powers = |root: u64| {
            let powers = powers(root, n, modulus).into_iter();
            powers.map(|power| Factor::new(power, modulus)).collect()
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
    use crate::parameters::{PRIMES, SPECIAL};

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
            for (name, ntt) in every(a.len(), m) {
                prop_assert_eq!(&product(&*ntt, &a, &b), &twice, "{}", name);
            }
        }
    }

    #[test]
    fn all_transforms_give_the_same_products() {
        let primes = [PRIMES[0], PRIMES[2], SPECIAL];
        for (n, prime) in [4096, 8192, 8192].into_iter().zip(primes) {
            let m = Modulus::new(prime);
            let mixed = |i: u64| m.reduce(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            // What lets sums grow most, and what looks like any message.
            let shapes: [&dyn Fn(u64) -> u64; 4] = [
                &mixed,
                &|_| prime - 1,
                &|i| if i % 2 == 0 { prime / 2 } else { prime / 2 + 1 },
                &|i| if mixed(i) % 2 == 0 { 0 } else { prime - 1 },
            ];
            for (a, b) in shapes.iter().zip(shapes.iter().cycle().skip(1)) {
                let [a, b] = [a, b].map(|shape| (0..n as u64).map(shape).collect::<Vec<u64>>());
                let [(_, first), rest @ ..] = &every(n, m)[..] else {
                    panic!("the portable one runs anywhere")
                };
                let expected = product(&**first, &a, &b);
                for (name, ntt) in rest {
                    assert_eq!(product(&**ntt, &a, &b), expected, "{name}, {n}");
                }
            }
        }
    }

    #[test]
    fn what_is_transformed_back_is_what_it_was() {
        for n in [16, 32, 64, 8192] {
            let m = Modulus::new(SPECIAL);
            let x: Vec<u64> = (0..n as u64).map(|i| m.sub(0, i * i)).collect();
            for (name, ntt) in every(n, m) {
                let mut y = x.clone();
                ntt.forward(&mut y);
                assert!(y.iter().all(|y| *y < m.p()), "{name}, {n}");
                ntt.inverse(&mut y);
                assert_eq!(y, x, "{name}, {n}");
            }
        }
    }
}
