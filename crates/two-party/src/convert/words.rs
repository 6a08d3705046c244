//! XOR-shared words, bit by bit: to the ring, and as a factor of a shared value.
//!
//! Bit `t` of a word counts `2^t`, so that a share of it is needed modulo `2^(ring-t)` only: a
//! conversion of a word takes `Σ (ring - t)` bits, a product `2·Σ (ring - t + 1)`, in one round. A
//! word that is a factor is never moved to the ring, and has no wrap.

use marill_numeric::fixed::low_mask;
use marill_ot::{Bits, Needs};

use super::{Multiplex, ToRing};
use crate::Cost;

/// Words of `width` bits and what they become: shares modulo `2^ring`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Words {
    pub width: u32,
    pub ring: u32,
}

impl Words {
    /// Bits that show.
    fn places(&self) -> std::ops::Range<u32> {
        0..self.width.min(self.ring)
    }

    fn conversion(&self, t: u32) -> ToRing {
        let bits = self.ring - t;
        ToRing { bits }
    }

    fn factor(&self, t: u32) -> Multiplex {
        let bits = self.ring - t;
        Multiplex { bits }
    }

    /// A conversion per bit.
    pub(crate) fn ring_list<'a>(&self, planes: &'a [Bits]) -> Vec<(ToRing, &'a Bits)> {
        let places = self.places().zip(planes);
        places
            .map(|(t, plane)| (self.conversion(t), plane))
            .collect()
    }

    /// A choice of `values` per bit.
    pub(crate) fn times<'a>(
        &self,
        planes: &'a [Bits],
        values: &'a [u64],
    ) -> Vec<(Multiplex, &'a Bits, &'a [u64])> {
        let places = self.places().zip(planes);
        places
            .map(|(t, plane)| (self.factor(t), plane, values))
            .collect()
    }

    /// `Σ 2^t·share_t`.
    pub(crate) fn weighted(&self, shares: &[Vec<u64>]) -> Vec<u64> {
        let mut sums = vec![0u64; shares[0].len()];
        for (t, shares) in shares.iter().enumerate() {
            for (sum, share) in sums.iter_mut().zip(shares) {
                *sum = sum.wrapping_add(share << t);
            }
        }
        sums.iter_mut().for_each(|sum| *sum &= low_mask(self.ring));
        sums
    }

    /// How many shares a word has.
    pub(crate) fn count(&self) -> usize {
        self.places().len()
    }

    pub(crate) fn ring_needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        self.places()
            .for_each(|t| needs.merge(&self.conversion(t).needs(n)));
        needs
    }

    pub(crate) fn times_needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        self.places()
            .for_each(|t| needs.merge(&self.factor(t).needs(n)));
        needs
    }

    /// Bits that E0 and E1 send for a conversion.
    pub(crate) fn ring_bits(&self) -> [usize; 2] {
        total(self.places().map(|t| self.conversion(t).message_bits()))
    }

    /// Bits that E0 and E1 send for a product.
    pub(crate) fn times_bits(&self) -> [usize; 2] {
        total(self.places().map(|t| self.factor(t).message_bits()))
    }
}

/// Messages that share a round.
pub(crate) fn total(messages: impl IntoIterator<Item = [usize; 2]>) -> [usize; 2] {
    let add = |sum: [usize; 2], bits: [usize; 2]| [sum[0] + bits[0], sum[1] + bits[1]];
    messages.into_iter().fold([0; 2], add)
}

/// One round of `n` instances of such messages.
pub(crate) fn round(messages: impl IntoIterator<Item = [usize; 2]>, n: usize) -> Cost {
    let mut cost = Cost::none();
    cost.exchange(total(messages).map(|bits| n * bits));
    cost
}
