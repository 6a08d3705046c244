//! Arithmetic modulo one prime, without a branch, an index or a division that depends on a value.

/// Bits of the longest prime. What is added before a reduction then stays far below 64 bits, and
/// transforms find instructions that multiply 52 bits.
pub(crate) const MAX_BITS: u32 = 50;

/// A prime of 33 to 50 bits and what reductions need.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Modulus {
    p: u64,
    bits: u32,
    /// `floor(2^(2 bits) / p)`.
    barrett: u64,
    /// `2^64 mod p` and its inverse.
    two_64: u64,
    inverse_64: u64,
}

impl Modulus {
    /// `p` must be prime; that is not tested.
    pub(crate) fn new(p: u64) -> Self {
        let bits = 64 - p.leading_zeros();
        assert!((33..=MAX_BITS).contains(&bits), "primes have 33 to 50 bits");
        let mut modulus = Self {
            p,
            bits,
            barrett: ((1u128 << (2 * bits)) / u128::from(p)) as u64,
            two_64: ((1u128 << 64) % u128::from(p)) as u64,
            inverse_64: 0,
        };
        modulus.inverse_64 = modulus.inverse(modulus.two_64);
        modulus
    }

    pub(crate) fn p(&self) -> u64 {
        self.p
    }

    /// `x mod p` for `x < 2p`.
    #[inline]
    pub(crate) fn once(&self, x: u64) -> u64 {
        let less = x.wrapping_sub(self.p);
        // All ones where the difference is negative.
        let borrow = ((less as i64) >> 63) as u64;
        less.wrapping_add(self.p & borrow)
    }

    #[inline]
    pub(crate) fn add(&self, a: u64, b: u64) -> u64 {
        self.once(a + b)
    }

    #[inline]
    pub(crate) fn sub(&self, a: u64, b: u64) -> u64 {
        self.once(a + self.p - b)
    }

    /// `x mod p` for `x < 2^(2 bits)` (Barrett; Handbook of Applied Cryptography, 14.42: the
    /// estimate of the quotient is at most two too small).
    #[inline]
    pub(crate) fn reduce_product(&self, x: u128) -> u64 {
        let top = (x >> (self.bits - 1)) as u64;
        let quotient = ((u128::from(top) * u128::from(self.barrett)) >> (self.bits + 1)) as u64;
        let rest = (x as u64).wrapping_sub(quotient.wrapping_mul(self.p));
        self.once(self.once(rest))
    }

    #[inline]
    pub(crate) fn mul(&self, a: u64, b: u64) -> u64 {
        self.reduce_product(u128::from(a) * u128::from(b))
    }

    /// `x mod p`.
    #[inline]
    pub(crate) fn reduce(&self, x: u64) -> u64 {
        self.reduce_product(u128::from(x))
    }

    /// `x mod p`, of a signed number.
    #[inline]
    pub(crate) fn signed(&self, x: i64) -> u64 {
        let wrapped = (x >> 63) as u64 & self.two_64;
        self.sub(self.reduce(x as u64), wrapped)
    }

    /// As [`Self::signed`], of a magnitude below `p`.
    #[inline]
    pub(crate) fn small(&self, x: i64) -> u64 {
        (x as u64).wrapping_add((x >> 63) as u64 & self.p)
    }

    /// `x mod p`.
    #[inline]
    pub(crate) fn reduce_double(&self, x: u128) -> u64 {
        let high = self.mul(self.reduce((x >> 64) as u64), self.two_64);
        self.add(high, self.reduce(x as u64))
    }

    /// `x / 2^64 mod p`.
    #[inline]
    pub(crate) fn over_64(&self, x: u64) -> u64 {
        self.mul(x, self.inverse_64)
    }

    /// The residue of least magnitude: `(p - 1) / 2` at most.
    #[inline]
    pub(crate) fn balanced(&self, x: u64) -> i64 {
        let half = self.p / 2;
        let over = ((half.wrapping_sub(x) as i64) >> 63) as u64;
        (x as i64).wrapping_sub((self.p & over) as i64)
    }

    /// `base^exponent`; the exponent is public.
    pub(crate) fn pow(&self, base: u64, exponent: u64) -> u64 {
        let mut result = 1;
        for bit in (0..64).rev() {
            result = self.mul(result, result);
            if exponent >> bit & 1 == 1 {
                result = self.mul(result, base);
            }
        }
        result
    }

    /// `1 / x` for `x` other than zero.
    pub(crate) fn inverse(&self, x: u64) -> u64 {
        self.pow(x, self.p - 2)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const P: u64 = 1_125_899_905_744_897;

    proptest! {
        #[test]
        fn reductions_equal_divisions(a in any::<u64>(), b in any::<u64>(), wide in any::<u128>()) {
            let m = Modulus::new(P);
            prop_assert_eq!(m.reduce(a), a % P);
            prop_assert_eq!(m.reduce_double(wide), (wide % u128::from(P)) as u64);
            let signed = i128::from(a as i64).rem_euclid(i128::from(P)) as u64;
            prop_assert_eq!(m.signed(a as i64), signed);
            let a = a % P;
            let b = b % P;
            let product = (u128::from(a) * u128::from(b) % u128::from(P)) as u64;
            prop_assert_eq!(m.mul(a, b), product);
            prop_assert_eq!(m.add(m.sub(a, b), b), a);
            prop_assert_eq!(m.add(a, m.sub(0, a)), 0);
            let balanced = m.balanced(a);
            prop_assert!(balanced.unsigned_abs() <= P / 2);
            prop_assert_eq!(m.signed(balanced), a);
            prop_assert_eq!(m.small(balanced), a);
        }
    }

    #[test]
    fn corners_are_reduced() {
        let m = Modulus::new(P);
        for x in [
            0,
            1,
            P - 1,
            P,
            P + 1,
            2 * P - 1,
            u64::MAX,
            u64::MAX - 1,
            1 << 63,
        ] {
            assert_eq!(m.reduce(x), x % P);
        }
        assert_eq!(m.sub(0, 0), 0);
        assert_eq!(m.mul(P - 1, P - 1), 1);
        assert_eq!(m.mul(m.inverse(7), 7), 1);
    }
}
