//! Products of shared values with private full-rank weights.
//!
//! # Functionality
//! E1 holds `W`; E0 and E1 share `x`. They get additive shares of `x · Wᵀ`.
//!
//! # Protocol
//! E0 holds `Ŵ = W + R_W` with masks that E1 and the dealer expand (see `weights/full.rs`). It
//! reveals `x` to E1 ([`crate::masked::reveal`]), so that E1 holds `x + [r]_0`:
//! `W·x = W·(x + [r]_0) - Ŵ·[r]_0 + R_W·[r]_0`. E1 computes the first term, E0 the second, before
//! that if it likes, since both factors are its own. The third is a function of masks that the
//! dealer knows and defers into the mask of the truncation behind the product (see
//! `Term` in `masked/share.rs`). No round, no byte between the evaluators beyond the reveal, and no
//! correction.
//!
//! # Who learns what
//! E0 sees `Ŵ`, uniform by `R_W`, of which no other message depends but through masks fresh from
//! streams that E0 does not hold. One `R_W` belongs to one `W`, however many sessions use it. E1
//! sees `x + [r]_0` and nothing more. The dealer sees shapes. So a simulator samples both views. E0
//! and the dealer together open `W`, as they open an adapter; E1 and the dealer open the prompt.
//!
//! Source: Beaver (CRYPTO '91), with one factor's mask kept, as in Mohassel and Zhang (SecureML,
//! S&P '17, section 4.1).

use crate::{
    error::ProtocolError,
    masked::{
        Masked, Role,
        matrices::{Matrices, product},
        reveal::PendingReveal,
        share::Share,
    },
    spec::MapId,
};

impl Masked {
    /// Reveals a materialized share to E1, then shares of its products with the private matrices of
    /// `maps`.
    pub(super) fn reveal_and_multiply_private(
        &mut self,
        pending: PendingReveal,
        bits: u32,
        maps: &[MapId],
        label: &'static str,
    ) -> Result<(Share, Vec<Option<Share>>), ProtocolError> {
        let masks = self.masks_of_reveal(&pending.x, bits, maps);
        // x + [r]_0 at E1, -[r]_0 at E0.
        let (share, _) = self.reveal_under(&masks, pending, bits, (0, &[]), label)?;
        let products = maps
            .iter()
            .map(|&map| Some(self.full_product(&share, &masks, map)))
            .collect();
        Ok((share, products))
    }

    fn full_product(&self, x: &Share, masks: &[u64], map: MapId) -> Share {
        let spec = self.spec.map_spec(map);
        debug_assert!(
            x.bits <= spec.private_bits,
            "a mask of fewer bits than the wire hides less"
        );
        let data = match &self.role {
            Role::Tally(_) => Vec::new(),
            Role::Dealer(dealer) => product(masks, &dealer.matrix_masks.0[map.index()], spec.cols),
            Role::Evaluator(e) => match &e.matrices {
                // -Ŵ·[r]_0, made before the step or now.
                Matrices::Masked(matrices) => e
                    .precomputed
                    .private(map)
                    .unwrap_or_else(|| product(&x.data, &matrices[map.index()], spec.cols)),
                // W·(x + [r]_0).
                Matrices::Own(matrices) => matrices[map.index()].matrix.par_apply(&x.data),
            },
        };
        self.with_term_deferred(x.rows, spec.rows, x.bits, data)
    }

    /// A row that E1 holds in clear is a share of itself: nothing is sent.
    pub(super) fn add_full_row(&self, x: &Share, map: MapId) -> Share {
        let Role::Evaluator(e) = &self.role else {
            return x.clone();
        };
        let Matrices::Own(matrices) = &e.matrices else {
            return x.clone();
        };
        match matrices[map.index()].row.as_slice() {
            [] => x.clone(),
            row => x.affine(|half| half.plus_row(row)),
        }
    }
}
