//! A BERT encoder as a secure program: every row sees every row, and each residual sum is
//! normalized.
//!
//! The client runs token, type and position embeddings, their layer norm and the frozen layers in
//! floats, as it does for a decoder. Gain and bias of the norms inside cannot be folded away,
//! because the normalized rows are themselves the residual stream: they are a product with a public
//! row, a sum and one more truncation.
//!
//! The client alone knows which rows are padding, so pooling is a product with weights of its own:
//! zero for padding, `1/n` for the rows of a mean, one for the first row of the text. A client that
//! deviates may weigh rows otherwise; it is a computing party and can choose its rows anyway.

use marill_numeric::{PublicMatrix, tables::tables};

use crate::{
    engine::{Attention, Engine, Gate, Truncation},
    error::{ProtocolError, ProtocolResult},
    program::{
        blocks::{add_residual, attention, head, norm_scale, plain_mlp},
        cache::Cache,
        layers,
    },
    spec::{Architecture, GAIN_FRAC_BITS, Module, Pooling, width},
    weights::{PostNorm, PublicLayer, PublicWeights},
};

/// Fractional bits of the pooling weights.
pub(crate) const POOL_FRAC_BITS: u32 = 24;
/// Width in which a pooled row is revealed.
const REVEAL_BITS: u32 = 32;

/// Runs `rows` padded rows of boundary activations; the client learns the index of the largest
/// class.
///
/// # Errors
/// [`ProtocolError::Reveal`] when the partition reveals embeddings, and whatever the engine
/// reports.
pub(crate) fn classify<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    boundary: Option<&[u64]>,
    bias: Option<&[u64]>,
    rows: usize,
) -> ProtocolResult<Option<u32>> {
    if weights.spec.reveals_embedding() {
        return Err(ProtocolError::Reveal {
            revealed: "an embedding",
        });
    }
    let pooled = pooled(engine, weights, boundary, bias, rows)?;
    let logits = head(engine, weights, &pooled);
    engine.argmax_to_client(&logits, "argmax")
}

/// As [`classify`], but the client learns the pooled row, `hidden_size` values of the residual
/// scale.
///
/// # Errors
/// [`ProtocolError::Reveal`] when the partition does not reveal it, and whatever the engine
/// reports.
pub fn embed<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    boundary: Option<&[u64]>,
    bias: Option<&[u64]>,
    rows: usize,
) -> ProtocolResult<Option<Vec<u64>>> {
    if !weights.spec.reveals_embedding() {
        return Err(ProtocolError::Reveal {
            revealed: "an index",
        });
    }
    let pooled = pooled(engine, weights, boundary, bias, rows)?;
    engine.reveal_to_client(&pooled, REVEAL_BITS, "pool.reveal")
}

/// The pooled row of the last layer, `[1, hidden_size]`, residual scale.
fn pooled<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    boundary: Option<&[u64]>,
    bias: Option<&[u64]>,
    rows: usize,
) -> ProtocolResult<E::Share> {
    let spec = &weights.spec;
    let Architecture::Bert { pooling, .. } = spec.architecture else {
        return Err(ProtocolError::Reveal {
            revealed: "a token",
        });
    };
    engine.begin_step(weights, None, rows)?;
    let mut cache = Cache::new(spec);
    // Padding is the client's secret: a bias on the scores, and zero weights in the pooling.
    cache.bias = Some(engine.input(bias, 1, rows, width::SCORE)?);
    let pool = bias.map(|bias| pool_weights(bias, pooling));
    let pool = engine.input(pool.as_deref(), 1, rows, width::FULL)?;
    let wire = engine.input(boundary, rows, spec.hidden_size, width::FULL)?;
    let mut hidden = engine.share(&wire);
    for (layer, PublicLayer { post_norms, .. }) in weights.layers.iter().enumerate() {
        engine.enter_layer(Some(layer));
        let maps = [Module::Q, Module::K, Module::V].map(|module| spec.map(layer, module));
        let label = "attention.hidden";
        let (x, updates) = engine.reveal_to_e1(&hidden, width::PRODUCT, &maps, label)?;
        // Every row asks: the pooling may read all of them.
        let out = attention(engine, weights, &mut cache, layer, &x, &updates, false)?;
        let sum = add_residual(engine, spec, &hidden, &out, "attention.out")?;
        // h ← norm(h + attention(h)).
        hidden = post_norm(engine, weights, &post_norms[0], &sum)?;
        let up = [spec.map(layer, Module::Up)];
        let (x, updates) = engine.reveal_to_e1(&hidden, width::PRODUCT, &up, "mlp.hidden")?;
        let out = plain_mlp(engine, weights, layer, &x, &updates)?;
        let sum = add_residual(engine, spec, &hidden, &out, "mlp.out")?;
        // h ← norm(h + mlp(h)).
        hidden = post_norm(engine, weights, &post_norms[1], &sum)?;
    }
    engine.enter_layer(None);
    let hidden = engine
        .open(&[(&hidden, width::FULL)], "pool.hidden")?
        .remove(0);
    // Σ weight·row is a weighted sum of values with one head as wide as the row.
    let whole_row = Attention {
        groups: &[vec![0]],
        num_attention_heads: 1,
        num_key_value_heads: 1,
        head_dim: spec.hidden_size,
        first: rows - 1,
        rows: 1,
        causal: false,
    };
    let pooled = engine.weighted_values(&pool, &hidden, &whole_row)?;
    let pooled = engine.truncate(
        &pooled,
        Truncation {
            shift: POOL_FRAC_BITS,
            from: width::FULL,
            to: width::FULL,
        },
        "pool.mean",
    )?;
    match &weights.pooler {
        None => Ok(pooled),
        Some((matrix, bias)) => pooler(engine, weights, matrix, bias, &pooled),
    }
}

/// `tanh(x · Wᵀ + b)`, residual scale again.
fn pooler<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    matrix: &PublicMatrix,
    bias: &[u64],
    x: &E::Share,
) -> ProtocolResult<E::Share> {
    let numeric = &weights.spec.numeric;
    let x = engine.linear(matrix, x);
    let x = engine.add_row(&x, bias);
    let shift = numeric.weight_frac_bits + numeric.residual_frac_bits - numeric.frac_bits;
    let x = engine.truncate(
        &x,
        Truncation {
            shift,
            from: width::PRODUCT,
            to: width::ACTIVATION,
        },
        "pool.dense",
    )?;
    let x = engine
        .open(&[(&x, width::ACTIVATION)], "pool.dense")?
        .remove(0);
    let x = engine.gate(&x, Gate(&tables().tanh), "pool.tanh")?;
    Ok(engine.shift_left(&x, numeric.residual_frac_bits - numeric.frac_bits))
}

/// `norm(x) · gain + bias`, residual scale.
fn post_norm<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    norm: &PostNorm,
    x: &E::Share,
) -> ProtocolResult<E::Share> {
    let spec = &weights.spec;
    let x = layers::layer_norm(engine, x, spec.hidden_size, norm_scale(spec), 64)?;
    // x·gain + bias at 14 + 16 fractional bits, then back to the residual's.
    let x = engine.scale_columns(&x, &norm.gain);
    let x = engine.add_row(&x, &norm.bias);
    let shift = spec.numeric.frac_bits + GAIN_FRAC_BITS - spec.numeric.residual_frac_bits;
    engine.truncate(
        &x,
        Truncation {
            shift,
            from: width::PRODUCT,
            to: width::FULL,
        },
        "norm.gain",
    )
}

/// Weights of the rows, from the scores' bias: rows without one are the text.
fn pool_weights(bias: &[u64], pooling: Pooling) -> Vec<u64> {
    let one = 1u64 << POOL_FRAC_BITS;
    let padding = bias.iter().filter(|&&b| b != 0).count();
    let n = (bias.len() - padding).max(1) as u64;
    let weight = |i: usize| match pooling {
        _ if bias[i] != 0 => 0,
        Pooling::Mean => (one + n / 2) / n,
        Pooling::Cls | Pooling::Pooler => u64::from(i == padding) * one,
    };
    (0..bias.len()).map(weight).collect()
}
