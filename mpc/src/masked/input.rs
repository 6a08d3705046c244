//! Where values enter from the client and leave to it.

use crate::{
    error::ProtocolError,
    masked::{
        Masked, Role, pack,
        pack::byte_width,
        share::{Held, Share, Wire, WireMask, masked_by},
    },
};

impl Masked {
    /// The client's values as a wire whose mask E0 alone holds; with shared inputs and outputs, its
    /// shares opened under masks of both.
    pub(super) fn input(
        &mut self,
        values: Option<&[u64]>,
        rows: usize,
        cols: usize,
        bits: u32,
    ) -> Result<Wire, ProtocolError> {
        let n = rows * cols;
        // The client is neither evaluator: its two shares are opened under masks of both.
        if self.shared_io {
            let data = match values {
                Some(values) if values.len() == n => values.to_vec(),
                _ if self.is_evaluator() => return Err(ProtocolError::MissingInput),
                _ => Vec::new(),
            };
            let (mut wires, _) =
                self.exchange(&[(&Share::new(rows, cols, bits, data), bits)], &[], "input")?;
            return Ok(wires.remove(0));
        }
        let mut held = match &mut self.role {
            Role::Tally(_) => Held::Shape,
            Role::Dealer(dealer) => {
                // E1 adds no mask: r = [r]_0.
                let of_e0 = dealer.randomness.client_masks(n, bits);
                let whole = of_e0.clone();
                Held::Dealer(WireMask { whole, of_e0 })
            }
            Role::Evaluator(e) if e.first => {
                let values = values
                    .filter(|v| v.len() == n)
                    .ok_or(ProtocolError::MissingInput)?;
                let half = e.randomness.wire_masks(values, bits, (bits, false));
                let opened = masked_by(values, &half, bits);
                Held::Evaluator { opened, half }
            }
            // [r]_1 = 0, and E0 sends x̂.
            Role::Evaluator(_) => Held::Evaluator {
                opened: Vec::new(),
                half: vec![0; n],
            },
        };
        let bytes = byte_width(bits);
        let open = held.opened();
        let pack_open = || {
            let mut payload = Vec::with_capacity(n * bytes + 8);
            pack(&mut payload, open, bytes);
            payload
        };
        // x̂ = x + r goes to E1.
        let received = self.one_way(true, n * bytes, "input", pack_open)?;
        if let (Some(payload), Held::Evaluator { opened, .. }) = (received, &mut held) {
            *opened = crate::masked::unpack(&payload, bytes);
        }
        Ok(Wire::new((rows, cols), bits, held))
    }

    /// E1's share goes to E0, reduced to the width revealed: given the value and E0's share it is
    /// determined.
    pub(super) fn reveal_to_client(
        &mut self,
        x: &Share,
        bits: u32,
        label: &'static str,
    ) -> Result<Option<Vec<u64>>, ProtocolError> {
        debug_assert!(
            bits.is_multiple_of(8) && x.bits >= bits,
            "whole bytes of a share at least as wide"
        );
        let bytes = byte_width(bits);
        let payload = || {
            let mut payload = Vec::with_capacity(x.len() * bytes + 8);
            pack(&mut payload, &x.data, bytes);
            payload
        };
        let Some(reply) = self.one_way(false, x.len() * bytes, label, payload)? else {
            return Ok(None);
        };
        // The value is the sum of both shares, which only E0 forms.
        let theirs = crate::masked::unpack(&reply, bytes);
        let value = |(a, b): (&u64, u64)| {
            marill_numeric::fixed::sign_extend(a.wrapping_add(b), bits) as u64
        };
        Ok(Some(x.data.iter().zip(theirs).map(value).collect()))
    }
}
