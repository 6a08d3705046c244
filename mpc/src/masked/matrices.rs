//! What an evaluator holds of private full-rank matrices, and the product with one.

use std::sync::Arc;

use marill_numeric::ring;
use rayon::prelude::*;

use crate::weights::FullRankMap;

/// What an evaluator holds of the private matrices, map by map.
pub(super) enum Matrices {
    /// `W`, at E1.
    Own(Arc<Vec<FullRankMap>>),
    /// `Ŵ`, at E0.
    Masked(Arc<Vec<Vec<u64>>>),
}

/// `x · Mᵀ` of ring elements, spread over threads by rows of `M`.
pub(super) fn product(x: &[u64], matrix: &[u64], cols: usize) -> Vec<u64> {
    /// Rows of one piece of work: enough for the tiled kernel, few enough for a cache.
    const BLOCK: usize = 64;
    let n = x.len() / cols;
    let rows = matrix.len() / cols;
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

impl Matrices {
    /// How many, for a check against the spec.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Own(matrices) => matrices.len(),
            Self::Masked(matrices) => matrices.len(),
        }
    }
}
