//! The step's part of a private update: see [`super`].

use marill_numeric::{fixed::low_mask, ring};

use super::steps::{Peer, ReadyReveal, next};
use crate::{
    error::ProtocolResult,
    masked::{Masked, Role, precompute::RevealSpec, reveal::PendingReveal, share::Share},
    spec::MapId,
};

impl Masked {
    fn prepared(&mut self, of: &RevealSpec) -> ProtocolResult<ReadyReveal> {
        let Role::Evaluator(e) = &mut self.role else {
            unreachable!("only evaluators hold products")
        };
        let mut peer = Peer {
            channel: e.peer.as_mut(),
            traffic: &mut e.traffic,
        };
        let preparing = e.preparing.as_mut().expect("in sessions of this kind");
        next(&mut peer, &self.spec, preparing, of)
    }

    /// Reveals a materialized share to E1 and makes the private LoRA updates of `maps` with
    /// products that were made before.
    pub(in crate::masked) fn reveal_and_add_encrypted(
        &mut self,
        pending: PendingReveal,
        bits: u32,
        maps: &[MapId],
        label: &'static str,
    ) -> ProtocolResult<(Share, Vec<Option<Share>>)> {
        let of = RevealSpec {
            maps: maps.to_vec(),
            rows: pending.x.rows,
            cols: pending.x.cols,
            bits,
        };
        let mut ready = None;
        match &mut self.role {
            Role::Tally(tally) => tally.reveals.push(of),
            Role::Dealer(_) => {}
            Role::Evaluator(_) => ready = Some(self.prepared(&of)?),
        }
        let masks = ready.as_ref().map_or(&[][..], |ready| &ready.masks);
        // x + r at E1, -r at E0.
        let (share, _) = self.reveal_under(masks, pending, bits, (0, &[]), label)?;
        let mut updates = Vec::with_capacity(maps.len());
        for &map in maps {
            let spec = self.spec.map_spec(map);
            if spec.rank == 0 {
                updates.push(None);
                continue;
            }
            let mut product = Vec::new();
            if let (Role::Evaluator(e), Some(ready)) = (&self.role, &mut ready) {
                let shares = ready.take(map);
                product = if e.first {
                    // -b_0.
                    ring::negated(&shares.b)
                } else {
                    let lora = &e.adapter[map.index()];
                    // u = A·(x + r) - a_1 = A·x + a_0.
                    let mut u = ring::matmul_transposed(&share.data, &lora.a, share.cols);
                    ring::subtract_from(&mut u, &shares.a);
                    // B·u - b_1.
                    let mut product = ring::matmul_transposed(&u, &lora.b, spec.rank);
                    ring::subtract_from(&mut product, &shares.b);
                    product
                };
                product.iter_mut().for_each(|v| *v &= low_mask(share.bits));
            }
            updates.push(Some(Share::new(share.rows, spec.rows, share.bits, product)));
        }
        Ok((share, updates))
    }
}
