//! The private LoRA updates of public maps.
//!
//! # Protocol
//! E1 holds `A`, `B`; E0 holds `Â = A + R_A`, `B̂ = B + R_B` with masks that E1 and the dealer can
//! expand. E0 reveals `x` to E1 ([`crate::masked::reveal`]): `[x]_0 = -[r]_0` and
//! `[x]_1 = x + [r]_0`.
//! - E0 sends `v = p + p' - Â·[r]_0` with it (both `p`, `p'` from its own streams). The dealer
//!   sends `c = R_A·[r]_0 - p'`. E1 forms `u_1 = A·[x]_1 + v + c = A·x + p`, so `[u]_0 = -p` is
//!   known to the dealer.
//! - `B·u = B·u_1 - B̂·p + R_B·p`, the last term known to the dealer, which puts it into the next
//!   mask.
//!
//! E1's view is `x + [r]_0`, `v` (uniform by `p'` given `c`) and `c` (uniform by `p'`); jointly
//! they are uniform by `[r]_0`, `p` and `p'`. E0 sees `Â`, `B̂`, one-time pads used for one adapter
//! only. Nothing is truncated between `A` and `B`.

use marill_numeric::ring;

use crate::{
    error::ProtocolError,
    masked::{Masked, Role, reveal::PendingReveal, share::Share},
    spec::{MapId, MapSpec},
};

impl Masked {
    /// Reveals a materialized share to E1 and makes the private LoRA updates of `maps`; see the
    /// module documentation.
    pub(super) fn reveal_and_add_private(
        &mut self,
        pending: PendingReveal,
        bits: u32,
        maps: &[MapId],
        label: &'static str,
    ) -> Result<(Share, Vec<Option<Share>>), ProtocolError> {
        let cols = pending.x.cols;
        let rows = pending.x.rows;
        // A map without an update takes no part, and has a place in the list.
        let ranks: Vec<usize> = maps
            .iter()
            .map(|&map| self.spec.map_spec(map).rank)
            .collect();
        let masks = self.masks_of_reveal(&pending.x, bits, maps);
        // `p` of every map at E0 and at the dealer; `c` or its E0 half.
        let mut ps = Vec::new();
        let mut cs = Vec::new();
        let mut note = Vec::new();
        for (&map, rank) in maps.iter().zip(&ranks) {
            let inner = rows * rank;
            let a = match &self.role {
                Role::Dealer(dealer) => Some(dealer.adapter_masks[map.index()].a.as_slice()),
                Role::Evaluator(e) if e.first => Some(e.adapter[map.index()].a.as_slice()),
                _ => None,
            };
            let product = match (self.precomputed(), a) {
                (_, None | Some([])) => Vec::new(),
                (precomputed, Some(a)) => precomputed
                    .and_then(|precomputed| precomputed.private(map))
                    .unwrap_or_else(|| ring::matmul_transposed(&masks, a, cols)),
            };
            let c = self.correct(inner, bits, |i| product[i])?;
            let mut p = Vec::new();
            match &mut self.role {
                Role::Dealer(dealer) => p = dealer.randomness.client_masks(inner, bits),
                Role::Evaluator(e) if e.first => {
                    // v = p + p' - Â·[r]_0, where E0's half of the correction is -p'.
                    let mut hidden = c.clone();
                    ring::subtract_from(&mut hidden, &product);
                    p = e.randomness.wire_masks(&hidden, bits, (bits, false));
                    ring::add_to(&mut hidden, &p);
                    note.extend(hidden);
                }
                _ => {}
            }
            ps.push(p);
            cs.push(c);
        }
        let inner = rows * ranks.iter().sum::<usize>();
        let notes = (inner, note.as_slice());
        let (share, vs) = self.reveal_under(&masks, pending, bits, notes, label)?;
        let mut updates = Vec::new();
        let mut taken = 0;
        for (m, &map) in maps.iter().enumerate() {
            let inner = rows * ranks[m];
            let v = vs.get(taken..taken + inner).unwrap_or(&[]);
            taken += inner;
            let update = || self.private_product(&share, map, &ps[m], &cs[m], v);
            updates.push((ranks[m] > 0).then(update));
        }
        Ok((share, updates))
    }

    /// What `B` makes of `A·x + p` and `-p`. `R_B·p`, which the dealer knows, is deferred.
    fn private_product(&self, x: &Share, map: MapId, p: &[u64], c: &[u64], v: &[u64]) -> Share {
        let MapSpec {
            rank, rows: out, ..
        } = self.spec.map_spec(map);
        let mut product = Vec::new();
        match &self.role {
            Role::Tally(_) => {}
            Role::Dealer(dealer) => {
                // R_B·p, for the mask of the next truncation.
                let masks = &dealer.adapter_masks[map.index()];
                product = ring::matmul_transposed(p, &masks.b, rank);
            }
            Role::Evaluator(e) => {
                let lora = &e.adapter[map.index()];
                let u = if e.first {
                    ring::negated(p)
                } else {
                    let mut u = ring::matmul_transposed(&x.data, &lora.a, x.cols);
                    // u_1 = A·[x]_1 + v + c = A·x + p.
                    ring::add_to(&mut u, v);
                    ring::add_to(&mut u, c);
                    u
                };
                // B·u_1 at E1, -B̂·p at E0.
                product = ring::matmul_transposed(&u, &lora.b, rank);
            }
        }
        self.with_term_deferred(x.rows, out, x.bits, product)
    }

    /// A row that E1 holds in clear is a share of itself: nothing is sent.
    pub(super) fn add_own_row(&self, x: &Share, map: MapId) -> Share {
        match &self.role {
            Role::Evaluator(e) if !e.first => {
                let row = &e.adapter[map.index()].row;
                if row.is_empty() {
                    x.clone()
                } else {
                    x.affine(|half| half.plus_row(row))
                }
            }
            _ => x.clone(),
        }
    }
}
