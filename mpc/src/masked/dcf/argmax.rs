//! Signs with DCF, and with them maximum and arg-max: one round per level.

use std::num::Wrapping;

use marill_numeric::{Word, fixed::low_mask, ring};

use crate::{
    error::ProtocolError,
    masked::{Masked, dcf::DcfBatch, onehot::affine::sign, share::Wire},
};

/// A share of `p ⊕ u = p + (1 - 2p)·u` for a public bit, which the first party adds.
fn flipped(p: u64, u: Word, first: bool) -> Word {
    let public = if first { Wrapping(p) } else { Wrapping(0) };
    public + sign(p) * u
}

impl Masked {
    /// `[x_i - offset_j < 0]` modulo `2^bits`, offsets side by side: all of a row are read from one
    /// key, at `x̂ - offset`.
    pub(in crate::masked) fn negative_by_dcf(
        &mut self,
        x: &Wire,
        offsets: &[u64],
        bits: u32,
    ) -> Result<Vec<u64>, ProtocolError> {
        let rows = x.len();
        let per_row = offsets.len();
        let k = x.bits;
        let x_hat = x.opened();
        let r = x.mask();
        let public = |e: usize| x_hat[e / per_row].wrapping_sub(offsets[e % per_row]) & low_mask(k);
        let top = |i: usize| r[i] >> (k - 1) & 1;
        let batch = DcfBatch {
            rows,
            per_row,
            bits: k - 1,
            payload_bits: &[bits],
        };
        // The borrow c below the top bit, with payload 1 - 2m: u = m + (1 - 2m)·c.
        let flips = self
            .compare_dcf(&batch, |i| r[i], |i, _| sign(top(i)).0, public)?
            .remove(0);
        let msbs = self.correct(rows, bits, top)?;
        let first = self.is_first();
        let negative = flips.iter().enumerate().map(|(e, flip)| {
            let p = public(e) >> (k - 1) & 1;
            // u = msb(r) ⊕ the wrap below it, and the sign is p ⊕ u.
            let u = Wrapping(msbs[e / per_row]) + Wrapping(*flip);
            flipped(p, u, first).0
        });
        Ok(negative.collect())
    }

    /// `[d < 0]·y` for a wire `d` and each of some wires opened with it, as shares modulo the width
    /// of `y`; before them `[d < 0]` itself, modulo the width of `d`.
    pub(in crate::masked) fn negative_times(
        &mut self,
        d: &Wire,
        factors: &[&Wire],
    ) -> Result<Vec<Vec<u64>>, ProtocolError> {
        let n = d.len();
        let k = d.bits;
        let top = |r: u64| r >> (k - 1) & 1;
        let widths: Vec<u32> = std::iter::once(k)
            .chain(factors.iter().map(|y| y.bits))
            .collect();
        let hidden = |i: usize, column: usize| {
            if column == 0 {
                1
            } else {
                factors[column - 1].mask()[i]
            }
        };
        let batch = DcfBatch {
            rows: n,
            per_row: 1,
            bits: k - 1,
            payload_bits: &widths,
        };
        let r = d.mask();
        let d_hat = d.opened();
        let top_of = |i: usize| top(r[i]);
        let payload = |i: usize, column: usize| (sign(top_of(i)) * Wrapping(hidden(i, column))).0;
        let mut flips = self.compare_dcf(&batch, |i| r[i], payload, |i| d_hat[i])?;
        // `u` and `u·r_y`.
        for (column, (flips, &bits)) in flips.iter_mut().zip(&widths).enumerate() {
            let msbs = self.correct(n, bits, |i| top_of(i) * hidden(i, column))?;
            ring::add_to(flips, &msbs);
        }
        let first = self.is_first();
        let (bits, products) = flips.split_at(1);
        let mut out = Vec::with_capacity(widths.len());
        for (column, (products, y)) in products.iter().zip(factors).enumerate() {
            debug_assert!(
                y.bits <= k,
                "the bit is a share modulo the width of `d`: {column}"
            );
            let own = self.share(y);
            let value = |i: usize| {
                let p = top(d_hat[i]);
                // u·y = [u]·ŷ - [u·r_y], and (p ⊕ u)·y = p·[y] + (1 - 2p)·u·y.
                let u_y = Wrapping(bits[0][i]) * y.x_hat(i) - Wrapping(products[i]);
                (Wrapping(p) * own.at(i) + sign(p) * u_y).0
            };
            out.push((0..own.data.len()).map(value).collect());
        }
        let negative = bits[0]
            .iter()
            .zip(d_hat)
            .map(|(u, open)| flipped(top(*open), Wrapping(*u), first).0 & low_mask(k));
        out.insert(0, negative.collect());
        Ok(out)
    }
}
