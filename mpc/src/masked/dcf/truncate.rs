//! A truncation's borrow with DCF: no round beyond the opening.
//!
//! What is around it (what is opened, the high part, stochastic rounding) is the same for both
//! comparison protocols and stands in [`crate::masked::onehot::truncate`].

use crate::{
    error::ProtocolError,
    masked::{Masked, dcf::DcfBatch, share::Wire},
};

impl Masked {
    /// `[x̂ mod 2^f < r mod 2^f]` as an additive share modulo `2^out_bits`.
    pub(in crate::masked) fn borrow_by_dcf(
        &mut self,
        wire: &Wire,
        f: u32,
        out_bits: u32,
    ) -> Result<Vec<u64>, ProtocolError> {
        let batch = DcfBatch {
            rows: wire.len(),
            per_row: 1,
            bits: f,
            payload_bits: &[out_bits],
        };
        // Payload one: the comparison itself.
        let r = wire.mask();
        let x_hat = wire.opened();
        let mut columns = self.compare_dcf(&batch, |i| r[i], |_, _| 1, |i| x_hat[i])?;
        Ok(columns.remove(0))
    }
}
