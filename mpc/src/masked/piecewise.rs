//! Piecewise linear functions of a positive value over many octaves: reciprocal square root and reciprocal.

use marill_numeric::fixed::low_mask;
use marill_numeric::tables::Piecewise;

use super::bits::Pending;
use super::{Masked, ProtocolError, Share, Wire};

impl Masked {
    /// A piecewise linear function of a positive value. Rounds: 2 + ceil(log2(digits)).
    ///
    /// One opening of `s`; then one comparison a threshold and one borrow a shift, all over the same one-hot vectors;
    /// then one opening of the selected slopes and the shifted arguments.
    pub(super) fn piecewise_of(
        &mut self,
        s: &Share,
        table: &Piecewise,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        let (mut wires, _) = self.exchange(&[(s, table.ring_bits)], &[], place)?;
        let wire = wires.remove(0);
        let rows = wire.len();
        // Shift classes in order of appearance.
        let mut shifts: Vec<u32> = Vec::new();
        table.shift.iter().for_each(|c| {
            if !shifts.contains(c) {
                shifts.push(*c)
            }
        });
        // The first threshold is never compared: below it the first interval applies.
        let thresholds = table.threshold.len() - 1;
        let per_row = thresholds + shifts.len();
        let pending = self.compare_thresholds(&wire, table, &shifts, per_row, place)?;
        let (_, bits) = self.finish_sign(&pending, &[], place)?;
        let (negative, _) = bits.share(self, 64)?;

        let mut shifted = Vec::new();
        for (c, &shift) in shifts.iter().enumerate() {
            let mut part = if shift == 0 {
                Share { bits: 64, ..self.widened(&wire)? }
            } else {
                self.high_part(&wire, shift, 64, 0)?
            };
            if shift > 0 && self.is_evaluator() {
                for (row, value) in part.data.iter_mut().enumerate() {
                    *value = value.wrapping_sub(negative[row * per_row + thresholds + c]);
                }
            }
            shifted.push(part);
        }
        let (intercepts, slopes) = self.selected_lines(table, &shifts, &negative, rows, per_row);
        let parts: Vec<(&Share, u32)> = slopes.iter().chain(&shifted).map(|s| (s, 64)).collect();
        let (wires, _) = self.exchange(&parts, &[], place)?;
        let mut out = Share::new(s.rows, s.cols, 64, intercepts);
        for c in 0..shifts.len() {
            let product = self.multiply(&wires[c], &wires[shifts.len() + c]);
            out = self.add_shares(&out, &Share { rows: s.rows, cols: s.cols, ..product });
        }
        Ok(out)
    }

    /// Signs of `s - threshold`, then borrows out of the low `shift` bits, over one set of one-hot vectors a row.
    fn compare_thresholds(
        &mut self,
        wire: &Wire,
        table: &Piecewise,
        shifts: &[u32],
        per_row: usize,
        place: &'static str,
    ) -> Result<Pending, ProtocolError> {
        let (rows, held, first) = (wire.len(), self.is_evaluator(), self.is_first());
        let (k, width) = (table.ring_bits, table.digit_bits);
        let n = rows * per_row;
        let thresholds = per_row - shifts.len();
        let threshold = |e: usize| table.threshold.get(e % per_row + 1).copied().filter(|_| e % per_row < thresholds);
        let public = |e: usize| wire.open[e / per_row].wrapping_sub(threshold(e).unwrap_or(0)) & low_mask(k);
        let shift_of = |e: usize| (e % per_row).checked_sub(thresholds).map(|c| shifts[c]);
        let mask = low_mask(width) as usize;
        let mut digits = Vec::new();
        for d in 0..k / width {
            let vectors = self.one_hot(wire, d * width, width)?;
            let at = |e: usize| (e / per_row, (public(e) >> (d * width)) as usize & mask);
            let (mut less, mut equal) =
                if (d + 1) * width == k { vectors.sign(n, held, at) } else { vectors.compare(n, held, at) };
            // A borrow ignores the digits above its shift: not less, equal.
            for row in 0..if held { rows } else { 0 } {
                for e in row * per_row + thresholds..(row + 1) * per_row {
                    if shift_of(e).is_some_and(|c| d * width >= c) {
                        let one = 1u64 << (e % 64);
                        less.words[e / 64] &= !one;
                        equal.words[e / 64] =
                            if first { equal.words[e / 64] | one } else { equal.words[e / 64] & !one };
                    }
                }
            }
            digits.push((less, equal));
        }
        self.reduce(digits, if self.many(n) { 1 } else { 2 }, place)
    }

    /// Intercept, and slope within each shift class, of the interval that holds `s`: sums over its threshold bits.
    fn selected_lines(
        &self,
        table: &Piecewise,
        shifts: &[u32],
        negative: &[u64],
        rows: usize,
        per_row: usize,
    ) -> (Vec<u64>, Vec<Share>) {
        let slope_in = |c: u32, j: usize| if table.shift[j] == c { table.slope[j] } else { 0 };
        let mut intercepts = Vec::new();
        let mut slopes: Vec<Vec<u64>> = vec![Vec::new(); shifts.len()];
        if self.is_evaluator() {
            let first = self.is_first();
            for row in 0..rows {
                // [s >= threshold] = 1 - negative.
                let reached = |j: usize| (u64::from(first)).wrapping_sub(negative[row * per_row + j - 1]);
                let sum = |value: &dyn Fn(usize) -> u64| {
                    let start = if first { value(0) } else { 0 };
                    (1..table.threshold.len()).fold(start, |sum, j| {
                        sum.wrapping_add(value(j).wrapping_sub(value(j - 1)).wrapping_mul(reached(j)))
                    })
                };
                intercepts.push(sum(&|j| table.intercept[j]));
                for (column, &c) in slopes.iter_mut().zip(shifts) {
                    column.push(sum(&|j| slope_in(c, j)));
                }
            }
        }
        let share = |data| Share::new(1, rows, 64, data);
        (intercepts, slopes.into_iter().map(share).collect())
    }
}
