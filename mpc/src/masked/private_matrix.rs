//! Products of shared values with private full-rank weights.
//!
//! # Functionality
//! E1 holds `W`; E0 and E1 share `x`. They get additive shares of `x · Wᵀ`.
//!
//! # Protocol
//! E0 holds `Ŵ = W + R_W` with masks that E1 and the dealer expand (see `weights/full.rs`). It
//! hands `x` over ([`super::opening`]), so that E1 holds `x + [r]_0`:
//! `W·x = W·(x + [r]_0) - Ŵ·[r]_0 + R_W·[r]_0`. E1 computes the first term, E0 the second, before
//! that if it likes, since both factors are its own. The third is a function of masks that the
//! dealer knows and defers into the mask of the truncation behind the product (see
//! [`Share::deferred`]). No round, no byte between the evaluators beyond the reveal, and no
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

use std::sync::Arc;

use marill_numeric::ring;
use rayon::prelude::*;

use crate::{
    masked::{Masked, ProtocolError, Role, Share, reveal::PendingReveal},
    spec::Module,
    weights::{FullRankLayer, RingLayer},
};

/// What an evaluator holds of the private matrices.
pub(super) enum Matrices {
    /// `W`, at E1.
    Own(Arc<Vec<FullRankLayer>>),
    /// `Ŵ`, at E0.
    Masked(Arc<Vec<RingLayer>>),
}

impl Matrices {
    /// Layers, for a check against the spec.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Own(layers) => layers.len(),
            Self::Masked(layers) => layers.len(),
        }
    }
}

/// `x · Mᵀ` of ring elements, spread over threads by rows of `M`.
pub(super) fn product(x: &[u64], matrix: &[u64], cols: usize) -> Vec<u64> {
    /// Rows of one piece of work: enough for the tiled kernel, few enough for a cache.
    const BLOCK: usize = 64;
    let (n, rows) = (x.len() / cols, matrix.len() / cols);
    let parts: Vec<Vec<u64>> = matrix
        .par_chunks(BLOCK * cols)
        .map(|part| ring::matmul_transposed(x, part, cols))
        .collect();
    if n == 1 {
        return parts.concat();
    }
    let mut out = Vec::with_capacity(n * rows);
    for i in 0..n {
        for part in &parts {
            let width = part.len() / n;
            out.extend_from_slice(&part[i * width..][..width]);
        }
    }
    out
}

impl Masked {
    /// Reveals a materialized share to E1, then shares of its products with the private matrices of
    /// `modules`.
    pub(super) fn reveal_and_multiply_private(
        &mut self,
        pending: PendingReveal,
        bits: u32,
        layer: usize,
        modules: &[Module],
        label: &'static str,
    ) -> Result<(Share, Vec<Option<Share>>), ProtocolError> {
        let masks = self.masks_of_reveal(&pending.x, bits, layer, modules);
        let (share, _) = self.reveal_under(&masks, pending, bits, (0, &[]), label)?;
        let products = modules
            .iter()
            .map(|&module| Some(self.full_product(&share, &masks, layer, module)))
            .collect();
        Ok((share, products))
    }

    fn full_product(&self, x: &Share, masks: &[u64], layer: usize, module: Module) -> Share {
        debug_assert!(
            x.bits <= self.spec.private_bits(module),
            "a mask of fewer bits than the wire hides less"
        );
        let (cols, out) = self.spec.shape(module);
        let data = match &self.role {
            Role::Tally(_) => Vec::new(),
            Role::Dealer(dealer) => {
                product(masks, &dealer.matrix_masks.0[layer][module as usize], cols)
            }
            Role::Evaluator(e) => match &e.matrices {
                Matrices::Masked(layers) => e
                    .precomputed
                    .private(layer, module)
                    .unwrap_or_else(|| product(&x.data, &layers[layer][module as usize], cols)),
                Matrices::Own(layers) => layers[layer].matrices[module as usize].par_apply(&x.data),
            },
        };
        Share {
            deferred: true,
            ..Share::new(x.rows, out, x.bits, data)
        }
    }

    /// A row that E1 holds in clear is a share of itself: nothing is sent.
    pub(super) fn add_full_row(&self, x: &Share, layer: usize, module: Module) -> Share {
        let Role::Evaluator(e) = &self.role else {
            return x.clone();
        };
        let Matrices::Own(layers) = &e.matrices else {
            return x.clone();
        };
        match layers[layer].rows[module as usize].as_slice() {
            [] => x.clone(),
            row => {
                let data = x
                    .data
                    .iter()
                    .enumerate()
                    .map(|(i, v)| v.wrapping_add(row[i % x.cols]))
                    .collect();
                Share { data, ..*x }
            }
        }
    }
}
