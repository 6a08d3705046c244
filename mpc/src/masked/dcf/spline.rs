//! Piecewise linear functions with DCF: one opening of the argument, one of slopes and shifted
//! arguments.

use marill_numeric::tables::Piecewise;

use crate::{
    error::ProtocolError,
    masked::{Masked, share::Wire},
};

impl Masked {
    /// For each row `[s < threshold]` of every threshold but the first, then the borrow out of the
    /// low bits of every shift: shares modulo `2^64`.
    pub(in crate::masked) fn thresholds_by_dcf(
        &mut self,
        wire: &Wire,
        table: &Piecewise,
        shifts: &[u32],
    ) -> Result<Vec<u64>, ProtocolError> {
        let thresholds = &table.threshold[1..];
        let negative = self.negative_by_dcf(wire, thresholds, 64)?;
        let mut borrows = Vec::with_capacity(shifts.len());
        for &shift in shifts {
            let none = vec![0; if self.is_evaluator() { wire.len() } else { 0 }];
            borrows.push(if shift == 0 {
                none
            } else {
                self.borrow_by_dcf(wire, shift, 64)?
            });
        }
        let mut out = Vec::with_capacity(negative.len() + wire.len() * shifts.len());
        for (row, negative) in negative.chunks_exact(thresholds.len()).enumerate() {
            out.extend_from_slice(negative);
            out.extend(borrows.iter().map(|borrow| borrow[row]));
        }
        Ok(out)
    }
}
