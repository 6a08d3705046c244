//! A linear map of a program with what is private of it.

use crate::{
    engine::Engine,
    spec::MapId,
    weights::{PublicMap, PublicWeights},
};

/// `x · Wᵀ` plus the bias and the private LoRA update, or the private product alone.
pub(super) fn project<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    map: MapId,
    x: &E::Share,
    update: &Option<E::Share>,
) -> E::Share {
    let spec = &weights.spec;
    let PublicMap { matrix, bias } = weights.map(map);
    // W·x is local; B·(A·x) was made when x was revealed, at the same scale.
    let mut out = match update {
        // All of the map is private; what is made of the row is its product.
        Some(product) if spec.is_full_rank() => product.clone(),
        Some(update) => {
            let public = engine.linear(matrix, x);
            engine.add(&public, update)
        }
        None => engine.linear(matrix, x),
    };
    if update.is_some() && spec.has_private_rows() {
        out = engine.add_private_row(&out, map);
    }
    match bias.as_slice() {
        [] => out,
        bias => engine.add_row(&out, bias),
    }
}
