//! Division by a public number.
//!
//! # Functionality
//! Of `x`, signed and shared modulo `2^bits`: additive shares of `floor(x / divisor)` in the same
//! ring, never one off. [`marill_numeric::integer::divide_by`].
//!
//! # Construction
//! CrypTFlow2, CCS '20, section 3.2.2 (division), with other comparisons. With `x + 2^(bits-1) =
//! u_0 + u_1 - w·2^bits`, quotients and remainders `u_0 - 2^(bits-1) = q_0·d + r_0`, `u_1 = q_1·d +
//! r_1` and `2^bits = q·d + r`, the result is `q_0 + q_1 - w·q + c` with `c = floor((r_0 + r_1 -
//! w·r)/d)`. Without a wrap `c = 1{r_0 + r_1 >= d}`, with one `c = 1{r_0 + r_1 >= d + r} - 1{r_0 +
//! r_1 < r}`: three comparisons of a bit or two more than the divisor has, of values that the
//! parties have by themselves, in the rounds of the wrap's. An AND chooses by the wrap, and three
//! bits move to the ring. There comparisons wait for the wrap, and the sign takes one of its own.
//!
//! # Cost
//! Three comparisons of the divisor's width, one of `bits`, and `6 + 3·bits` bits; two rounds more
//! than the longest comparison.
//!
//! # Security
//! A composition of comparison, ANDs and conversion; nothing is opened. Each party's quotient and
//! remainder are of its own share.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    Bits, Needs, OtError, Party, Session, Source,
    transfer::{And, and},
};

use crate::{Comparisons, Cost, Radix, ToRing, conversions, conversions_cost};

/// `floor(x / divisor)` of signed values, for a divisor from 1 to below `2^(bits-1)` and `2^62`.
#[derive(Debug, Clone, Copy)]
pub struct DivideBy {
    pub bits: u32,
    pub divisor: u64,
    pub radix: Radix,
}

/// A share's quotient and remainder.
struct Parts {
    quotient: u64,
    remainder: u64,
}

impl DivideBy {
    /// The ring's size by the divisor.
    fn ring(&self) -> Parts {
        let whole = 1u128 << self.bits;
        let divisor = u128::from(self.divisor);
        Parts {
            quotient: (whole / divisor) as u64,
            remainder: (whole % divisor) as u64,
        }
    }

    /// Widths of the wrap's comparison and of the remainders': below three divisors.
    fn comparisons(&self) -> Comparisons {
        let remainders = 128 - (3 * u128::from(self.divisor) - 1).leading_zeros();
        Comparisons {
            widths: vec![self.bits, remainders, remainders, remainders],
            radix: self.radix,
        }
    }

    fn to_ring(self) -> ToRing {
        let bits = self.bits;
        ToRing { bits }
    }

    /// Additive shares of the quotients.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When the divisor is not from 1 to below `2^(bits-1)` and `2^62`, or the ring above 64 bits.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let bits = self.bits;
        assert!(
            (2..=64).contains(&bits) && (1..1 << (bits - 1).min(62)).contains(&self.divisor),
            "{bits} bits by {}",
            self.divisor
        );
        if self.divisor == 1 {
            return Ok(shares.to_vec());
        }
        session.ensure(&self.needs(shares.len()))?;
        let party = session.party();
        let parts: Vec<Parts> = shares
            .iter()
            .map(|share| self.parts(*share, party))
            .collect();
        let inputs = self.inputs(shares, &parts, party);
        let found = self.comparisons().run(session, &inputs)?;
        let [wrap, plain, wrapped, below] = [0, 1, 2, 3].map(|i| &found[i]);
        // E0 compares for "at least the remainder" and turns it around.
        let below = match party {
            Party::E0 => !below,
            Party::E1 => below.clone(),
        };
        let change = plain ^ wrapped;
        let chosen = And {
            bit: wrap,
            string: vec![&change, &below],
        };
        let chosen = and(session, "quotient", &[chosen])?.remove(0);
        let more: Bits = plain ^ &chosen[0];
        let list = [wrap, &more, &chosen[1]].map(|bit| (self.to_ring(), bit));
        let [ring, _] = conversions(session, &list, &[])?;
        let quotient = self.ring().quotient;
        let of = |i: usize| {
            let whole = parts[i].quotient.wrapping_add(ring[1][i]);
            let wrapped = ring[0][i].wrapping_mul(quotient);
            whole.wrapping_sub(wrapped).wrapping_sub(ring[2][i]) & low_mask(bits)
        };
        Ok((0..shares.len()).map(of).collect())
    }

    /// A share by the divisor; E0's is moved by half the ring, which is taken back as an integer.
    /// In constant time: a division's would tell of the share.
    fn parts(&self, share: u64, party: Party) -> Parts {
        let half = 1u64 << (self.bits - 1);
        match party {
            Party::E0 => {
                let moved = self.divided(share.wrapping_add(half));
                let taken = self.divided(half);
                let remainder = moved.remainder.wrapping_sub(taken.remainder);
                // All ones below zero; a remainder has 62 bits.
                let below = (remainder as i64 >> 63) as u64;
                Parts {
                    quotient: moved
                        .quotient
                        .wrapping_sub(taken.quotient)
                        .wrapping_add(below),
                    remainder: remainder.wrapping_add(self.divisor & below),
                }
            }
            Party::E1 => self.divided(share),
        }
    }

    /// Quotient and remainder by the divisor's reciprocal: at most one too low, then made right.
    fn divided(&self, value: u64) -> Parts {
        let value = value & low_mask(self.bits);
        let reciprocal = (1u128 << 64) / u128::from(self.divisor);
        let quotient = ((u128::from(value) * reciprocal) >> 64) as u64;
        let remainder = value.wrapping_sub(quotient.wrapping_mul(self.divisor));
        let rest = remainder.wrapping_sub(self.divisor);
        // All ones where the remainder is below the divisor: both have 63 bits at most.
        let keeps = (rest as i64 >> 63) as u64;
        Parts {
            quotient: quotient.wrapping_add(1).wrapping_add(keeps),
            remainder: rest.wrapping_add(self.divisor & keeps),
        }
    }

    /// What is compared: the moved shares for the wrap, then `r_0 + d` with `t - 1 - r_1 + d` for
    /// `r_0 + r_1 >= t`, of each `t`.
    fn inputs(&self, shares: &[u64], parts: &[Parts], party: Party) -> Vec<Vec<u64>> {
        let mask = low_mask(self.bits);
        let divisor = self.divisor;
        let rest = self.ring().remainder;
        let bias = 1 << (self.bits - 1);
        let wrap = shares.iter().map(|share| match party {
            Party::E0 => share.wrapping_add(bias) & mask,
            Party::E1 => !share & mask,
        });
        let mut inputs = vec![wrap.collect()];
        for threshold in [divisor, divisor + rest, rest] {
            let of = |parts: &Parts| match party {
                Party::E0 => parts.remainder + divisor,
                Party::E1 => threshold + divisor - 1 - parts.remainder,
            };
            inputs.push(parts.iter().map(of).collect());
        }
        inputs
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        if self.divisor == 1 {
            return Needs::none();
        }
        let mut needs = self.comparisons().needs(n);
        needs.add_triples(2, n);
        needs.merge(&self.to_ring().needs(3 * n));
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        if self.divisor == 1 {
            return Cost::none();
        }
        let mut cost = self.comparisons().cost(n);
        cost.exchange([3 * n; 2]);
        cost + conversions_cost(&[(self.to_ring(), 3 * n)], &[])
    }
}
