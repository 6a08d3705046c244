//! Products by a value that is shared in a narrow ring, whose wrap is known.
//!
//! # Functionality
//! Of `x` below `2^low`, shared modulo `2^low`, XOR shares of the wrap `w` of those shares (whether
//! they add up to `2^low` or more), and `y` shared modulo `2^bits`: additive shares of `x·y` modulo
//! `2^bits`.
//!
//! # Construction
//! `x = x_0 + x_1 - w·2^low` as integers, so `x·y = Σ x_a·y_b - 2^low·w·y`: as in a
//! [`super::Product`], with transfers for the `low` bits of either share alone, and a multiplexer
//! of `bits - low` bits, all in one round. Comparisons that cut a value give the wrap anyway. SIRNN
//! (S&P '21, section III-C) has the same sum with a comparison of its own.
//!
//! # Security
//! Nothing is sent but messages of correlated transfers ([`marill_ot::transfer`]).

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    Bits, Needs, OtError, Party, Session, Source,
    transfer::{Cot, cot_needs, cots},
};

use super::{add_up, chooses, message_bits, sends};
use crate::{Cost, Multiplex};

/// `x·y` modulo `2^bits` of `x` below `2^low`.
#[derive(Debug, Clone, Copy)]
pub struct NarrowProduct {
    pub bits: u32,
    pub low: u32,
}

impl NarrowProduct {
    /// The wrap times `y`, where it shows.
    fn wrapped(&self) -> Multiplex {
        Multiplex {
            bits: self.bits - self.low,
        }
    }

    /// Additive shares of the products: `x` modulo `2^low`, its wraps, and `y`.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When `low` is not from 1 to below `bits`.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        x: &[u64],
        wrap: &Bits,
        y: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let Self { bits, low } = *self;
        assert!((1..bits).contains(&low), "{low} bits of {bits}");
        let x: Vec<u64> = x.iter().map(|x| x & low_mask(low)).collect();
        let planes = Bits::planes(&x, low);
        let signed = self.wrapped().signed(wrap, y);
        let send: Vec<Cot<'_>> = sends(bits, low, y).collect();
        let choose: Vec<Cot<'_>> = chooses(bits, &planes).collect();
        // x_1·y_0 first, then x_0·y_1, then the wraps.
        let mut list = match session.party() {
            Party::E0 => [send, choose].concat(),
            Party::E1 => [choose, send].concat(),
        };
        list.extend(self.wrapped().cots(session, wrap, &signed));
        let shares = cots(session, "narrow product", &list)?;
        let own = x.iter().zip(y).map(|(x, y)| x.wrapping_mul(*y));
        let mut sums: Vec<u64> = own.collect();
        let low = low as usize;
        add_up(&mut sums, &shares[..low]);
        add_up(&mut sums, &shares[low..2 * low]);
        let wrapped = self.wrapped().finish(wrap, y, &shares[2 * low..]);
        for (sum, wrapped) in sums.iter_mut().zip(wrapped) {
            *sum = sum.wrapping_sub(wrapped << low) & low_mask(bits);
        }
        Ok(sums)
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = self.wrapped().needs(n);
        for sender in [Party::E0, Party::E1] {
            cot_needs(&mut needs, sender, n * self.low as usize);
        }
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let [sent, chosen] = message_bits(self.bits, self.low);
        let wrapped = self.wrapped().message_bits();
        let mut cost = Cost::none();
        cost.exchange(wrapped.map(|wrapped| n * (sent + chosen + wrapped)));
        cost
    }
}
