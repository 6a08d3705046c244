//! Piecewise linear functions on point functions: one opening of the argument, one of slopes and shifted arguments.

use marill_numeric::fixed::low_mask;
use marill_numeric::tables::Piecewise;

use super::Comparison;
use crate::masked::truncate::sign;
use crate::masked::{Masked, ProtocolError, Wire};

impl Masked {
    /// For each row `[s < threshold]` of every threshold but the first, then the borrow out of the low bits of every
    /// shift: shares modulo `2^64`.
    ///
    /// The sign of `s - t` is read from the key of `s` at `ŝ - t`, so all thresholds of a row cost one key.
    pub(in crate::masked) fn thresholds_by_points(
        &mut self,
        wire: &Wire,
        table: &Piecewise,
        shifts: &[u32],
    ) -> Result<Vec<u64>, ProtocolError> {
        let (rows, k) = (wire.len(), wire.bits);
        let thresholds = &table.threshold[1..];
        let per_row = thresholds.len();
        let public = |e: usize| wire.open[e / per_row].wrapping_sub(thresholds[e % per_row]) & low_mask(k);
        let top = |i: usize| wire.mask[i] >> (k - 1) & 1;
        let comparison = Comparison { rows, per_row, bits: k - 1, payload_bits: &[64] };
        let flips = self.compare_points(&comparison, |i| wire.mask[i], |i, _| sign(top(i)), public)?.remove(0);
        let tops = self.correct(rows, 64, top)?;
        let mut borrows = Vec::with_capacity(shifts.len());
        for &shift in shifts {
            borrows.push(if shift == 0 { vec![0; tops.len()] } else { self.borrow_by_points(wire, shift, 64)? });
        }
        let first = self.is_first();
        let mut out = Vec::with_capacity(flips.len() + rows * shifts.len());
        for (row, top) in tops.iter().enumerate() {
            out.extend((row * per_row..(row + 1) * per_row).map(|e| {
                let p = public(e) >> (k - 1) & 1;
                let u = top.wrapping_add(flips[e]);
                (if first { p } else { 0 }).wrapping_add(sign(p).wrapping_mul(u))
            }));
            out.extend(borrows.iter().map(|borrow| borrow[row]));
        }
        Ok(out)
    }
}
