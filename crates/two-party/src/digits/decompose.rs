//! A value cut into digits, the lowest first.
//!
//! # Functionality
//! Of `x`, shared modulo `2^bits`: additive shares of each digit, modulo two to its width.
//! [`marill_numeric::integer::digit_at`].
//!
//! # Construction
//! SIRNN, S&P '21, section III-D: a digit is the sum of the shares' digits and the carry from
//! below, which is the carry out of the digit below, or that digit's passing on of its own carry:
//! `c_{i+1} = g_i ⊕ e_i·c_i`. All `g` and `e` are compared at once, then the carries follow one
//! another. There digit 0 converts a carry that is always zero; here nothing is sent for it.
//!
//! # Security
//! A composition of comparison, ANDs and conversion; nothing is opened.

use marill_net::Channel;
use marill_numeric::{fixed::low_mask, integer::digit_at};
use marill_ot::{Bits, Needs, OtError, Session, Source, transfer::and};

use crate::{
    Cost, Radix, ToRing,
    compare::{
        carry_inputs,
        tree::{Plan, Segment},
    },
    convert::conversions,
};

/// Digits of these widths, the lowest first; their sum is the value's width.
#[derive(Debug, Clone)]
pub struct Decompose {
    pub widths: Vec<u32>,
    pub radix: Radix,
}

impl Decompose {
    fn bits(&self) -> u32 {
        self.widths.iter().sum()
    }

    /// All digits but the highest, whose carry leaves the ring.
    fn plan(&self) -> Plan {
        let carrying = &self.widths[..self.widths.len() - 1];
        let segments = carrying.iter().enumerate().map(|(i, bits)| {
            if i == 0 {
                Segment::greater(*bits)
            } else {
                Segment::both(*bits)
            }
        });
        Plan::new(self.radix, &segments.collect::<Vec<_>>())
    }

    fn conversions(&self) -> impl Iterator<Item = ToRing> {
        self.widths[1..].iter().map(|bits| ToRing { bits: *bits })
    }

    /// Additive shares of each digit.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When there are no digits, one without bits, or more than 64 bits.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<Vec<u64>>, OtError> {
        let places = !self.widths.contains(&0) && (1..=64).contains(&self.bits());
        assert!(places, "digits of {:?} bits", self.widths);
        session.ensure(&self.needs(shares.len()))?;
        let mut digits = self.own(shares);
        if self.widths.len() == 1 {
            return Ok(digits);
        }
        let low = self.bits() - self.widths.last().expect("not empty");
        let inputs = carry_inputs(session, shares, low);
        let roots = self.plan().run(session, &inputs)?;
        let mut carries: Vec<Bits> = vec![roots[0].greater.clone().expect("asked for")];
        for pair in 1..roots.len() {
            let below = marill_ot::transfer::And {
                bit: roots[pair].equal.as_ref().expect("asked for"),
                string: vec![&carries[pair - 1]],
            };
            let passed = and(session, "carries", &[below])?.remove(0);
            let own = roots[pair].greater.as_ref().expect("asked for");
            carries.push(own ^ &passed[0]);
        }
        let list = self.conversions().zip(&carries).collect::<Vec<_>>();
        let [carries, _] = conversions(session, &list, &[])?;
        for (i, carries) in carries.iter().enumerate() {
            let mask = low_mask(self.widths[i + 1]);
            for (digit, carry) in digits[i + 1].iter_mut().zip(carries) {
                *digit = digit.wrapping_add(*carry) & mask;
            }
        }
        Ok(digits)
    }

    /// The digits of the shares themselves.
    fn own(&self, shares: &[u64]) -> Vec<Vec<u64>> {
        let mut at = 0;
        let digits = self.widths.iter().map(|width| {
            let digit = shares.iter().map(|share| digit_at(*share, at, *width));
            let digit = digit.collect();
            at += width;
            digit
        });
        digits.collect()
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let count = self.widths.len();
        if count == 1 {
            return Needs::none();
        }
        let mut needs = self.plan().needs(n);
        needs.add_triples(1, (count - 2) * n);
        self.conversions()
            .for_each(|to_ring| needs.merge(&to_ring.needs(n)));
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        if self.widths.len() == 1 {
            return Cost::none();
        }
        let mut cost = self.plan().cost(n);
        (2..self.widths.len()).for_each(|_| cost.exchange([2 * n; 2]));
        let list: Vec<(ToRing, usize)> = self.conversions().map(|to_ring| (to_ring, n)).collect();
        cost + crate::convert::conversions_cost(&list, &[])
    }
}
