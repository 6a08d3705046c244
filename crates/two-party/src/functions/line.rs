//! A line whose value and slope are shared by XOR: `value + slope·x`, or minus, in one round.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{Needs, Session, Source};

use super::planes;
use crate::{
    Bits, Run, ToRing, conversions,
    convert::words::{Words, total},
};

/// Widths of a line's words, and the ring of its result.
pub(super) struct Line {
    /// Of value and slope.
    pub(super) widths: [u32; 2],
    pub(super) ring: u32,
    pub(super) falls: bool,
}

impl Line {
    fn words(&self) -> [Words; 2] {
        self.widths.map(|width| Words {
            width,
            ring: self.ring,
        })
    }

    /// Shares of the line at `x`, shared modulo `2^ring`, and in the same round of some bits.
    pub(super) fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        entries: &[Vec<u64>],
        x: &[u64],
        more: &[(ToRing, &Bits)],
    ) -> Run<(Vec<u64>, Vec<Vec<u64>>)> {
        let [value, slope] = self.words();
        let value_planes = planes(&entries[0], value.width);
        let slope_planes = planes(&entries[1], slope.width);
        let mut list = value.ring_list(&value_planes);
        list.extend_from_slice(more);
        let times = slope.times(&slope_planes, x);
        let [mut values, products] = conversions(session, &list, &times)?;
        let more = values.split_off(value.count());
        let products = slope.weighted(&products);
        let mut sums = value.weighted(&values);
        let sign = if self.falls { u64::MAX } else { 1 };
        for (sum, product) in sums.iter_mut().zip(products) {
            *sum = sum.wrapping_add(product.wrapping_mul(sign)) & low_mask(self.ring);
        }
        Ok((sums, more))
    }

    pub(super) fn needs(&self, n: usize) -> Needs {
        let [value, slope] = self.words();
        let mut needs = value.ring_needs(n);
        needs.merge(&slope.times_needs(n));
        needs
    }

    /// Bits of its round, of E0 and E1.
    pub(super) fn bits(&self) -> [usize; 2] {
        let [value, slope] = self.words();
        total([value.ring_bits(), slope.times_bits()])
    }
}
