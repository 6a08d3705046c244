//! The private layers of a decoder as one secure program: the LLaMA family, and GPT-2 (see
//! [`crate::Architecture`]). The encoder ([`crate::program::encoder`]) is made of the same
//! attention and the same plain MLP.
//!
//! Axes: `T` rows of new tokens, `D` hidden, `H` query heads, `KV` key-value heads, `d` head width,
//! `F` MLP width, `C` cached keys. Fixed point: residual stream 15 fractional bits, everything else
//! 14, products of weights 24.
//!
//! Where things are computed, and why:
//! - The norm's scalar is applied before the linear map: `x = h · 2^58/|h|`, truncated to 14 bits.
//!   The 576 normalized values are then a bounded wire that public product and private LoRA update
//!   share, instead of 4,032 unbounded ones.
//! - `W·x` and `B·(A·x)` meet at one scale, so the private LoRA update costs no truncation and no
//!   round. Where full-rank weights are private, their products take the place of both, in the same
//!   rings.
//! - Queries and keys are rotated before the one truncation that follows their projection.
//! - The softmax divides after the value product; its weights are `exp(s - max)`, so their sum is
//!   at least one.
//! - LLaMA's final norm is a positive scalar, which cannot change an arg-max, and is not computed.
//!   GPT-2's has a bias, which can: it is computed, for the one row that asks. A sampled token
//!   needs both (see [`crate::sampling`]).
//! - A layer norm's gain is folded into the columns of the maps behind it and its bias into their
//!   biases; what the private LoRA update makes of that bias is a row that the server adds to its
//!   own share.

use crate::{
    engine::Engine,
    error::ProtocolResult,
    program::{
        blocks::{add_residual, attention, gated_mlp, head, norm_scale, normalize, plain_mlp},
        cache::Cache,
        layers::{self},
        sampling::sample,
    },
    spec::{Module, NormKind, width},
    weights::PublicWeights,
};

/// Runs one step: `rows` new rows of boundary activations in, one token out (at the client).
///
/// In the first step the rows are a padded prompt, padding first, and `bias` holds
/// what excludes a key ([`crate::program::padding`]) for every padded position and zero for the
/// others; neither reaches the server in clear.
///
/// # Errors
/// Whatever the engine reports: a lost peer, or a value out of range in the twin.
pub fn step<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    cache: &mut Cache<E>,
    boundary: Option<&[u64]>,
    bias: Option<&[u64]>,
    rows: usize,
) -> ProtocolResult<Option<u32>> {
    let spec = &weights.spec;
    engine.begin_step(weights, cache.sampling, rows)?;
    if cache.is_empty() {
        // The padding's bias on the scores: entered masked, once per session, since the server must
        // not see the length.
        cache.bias = Some(engine.input(bias, 1, rows, spec.score_bits())?);
    }
    // The boundary activations, masked by the client: x̂ = x + r.
    let wire = engine.input(boundary, rows, spec.hidden_size, width::FULL)?;
    let mut hidden = engine.share(&wire);
    let mut wire = Some(wire);
    for layer in 0..spec.num_layers {
        engine.enter_layer(Some(layer));
        let last = layer + 1 == spec.num_layers;
        let label = "attention.hidden";
        let maps = [Module::Q, Module::K, Module::V].map(|module| spec.map(layer, module));
        // x = norm(h); the first layer's input is a wire already.
        let (x, updates) = normalize(engine, spec, &hidden, wire.take(), label, &maps)?;
        let out = attention(engine, weights, cache, layer, &x, &updates, last)?;
        // Only the last row is read from here on.
        if last && rows > 1 {
            hidden = engine.last_row(&hidden);
        }
        // h ← h + attention(x).
        hidden = add_residual(engine, spec, &hidden, &out, "attention.out")?;
        let out = if spec.architecture.is_gated() {
            gated_mlp(engine, weights, layer, &hidden)?
        } else {
            let up = [spec.map(layer, Module::Up)];
            let (x, updates) = normalize(engine, spec, &hidden, None, "mlp.hidden", &up)?;
            plain_mlp(engine, weights, layer, &x, &updates)?
        };
        // h ← h + mlp(norm(h)).
        hidden = add_residual(engine, spec, &hidden, &out, "mlp.out")?;
    }
    cache.len += rows;
    engine.enter_layer(None);
    // The final norm. An RMS norm is a positive factor, which an arg-max does not see.
    if spec.architecture.norm() == NormKind::Layer {
        hidden = layers::layer_norm(
            engine,
            &hidden,
            spec.hidden_size,
            norm_scale(spec),
            width::FULL,
        )?;
    }
    if let Some(sampling) = cache.sampling {
        return sample(engine, weights, &hidden, sampling);
    }
    // Greedy: the client adds E1's share of the index to its own.
    let logits = head(engine, weights, &hidden);
    engine.argmax_to_client(&logits, "argmax")
}
