//! The private layers of a LLaMA-family decoder as one secure program.
//!
//! Axes: `T` rows of new tokens, `D` hidden, `H` query heads, `KV` key-value heads, `d` head width, `F` MLP width,
//! `C` cached keys. Fixed point: residual stream 15 fractional bits, everything else 14, products of weights 24.
//!
//! Where the law places things, and why:
//! - The norm's scalar is applied before the linear map: `x = h · 2^58/|h|`, cut to 14 bits. The 576 normalised values
//!   are then a bounded wire that public product and private addition share, instead of 4,032 unbounded ones.
//! - `W·x` and `B·(A·x)` meet at one scale, so the private addition costs no truncation and no round.
//! - Queries and keys are rotated before the one truncation that follows their projection.
//! - The softmax divides after the value product; its weights are `exp(s - max)`, so their sum is at least one.
//! - The final norm's positive scalar cannot change an arg-max and is not computed.

use marill_numeric::tables::tables;

use crate::engine::{Attention, Engine, Gate, Step};
use crate::nn::{self, NormScale};
use crate::spec::{DecoderSpec, Module};
use crate::weights::PublicWeights;

/// Widths of wires, in bits.
mod width {
    /// Residual stream, norms, attention: sums of products, divided later, need the whole ring.
    pub const FULL: u32 = 64;
    /// Projections before their truncation.
    pub const PRODUCT: u32 = 56;
    /// Scores before their truncation, gate and up activations.
    pub const ACTIVATION: u32 = 48;
    /// Scores and their differences.
    pub const SCORE: u32 = 32;
}

/// What a session keeps between steps: cached keys and values of every layer, and the padding's bias.
pub struct Cache<E: Engine> {
    layers: Vec<(Option<E::Wire>, Option<E::Wire>)>,
    bias: Option<E::Wire>,
    len: usize,
}

impl<E: Engine> Cache<E> {
    #[must_use]
    pub fn new(spec: &DecoderSpec) -> Self {
        Self { layers: (0..spec.num_layers).map(|_| (None, None)).collect(), bias: None, len: 0 }
    }

    /// Cached positions, padding included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A score this low (2^13 below zero, 14 fractional bits) has a softmax weight of exactly zero.
pub const PAD_BIAS: u64 = (1u64 << 27).wrapping_neg();

/// Runs one step: `rows` new rows of boundary activations in, one token out (at the client).
///
/// In the first step the rows are a padded prompt, padding first, and `bias` holds [`PAD_BIAS`] for every padded
/// position and zero for the others; neither reaches the server in clear.
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
) -> Step<Option<u32>> {
    let spec = &weights.spec;
    if cache.is_empty() {
        cache.bias = Some(engine.input(bias, 1, rows, width::SCORE)?);
    }
    let mut wire = engine.input(boundary, rows, spec.hidden_size, width::FULL)?;
    let mut hidden = engine.share(&wire);
    for layer in 0..spec.num_layers {
        let last = layer + 1 == spec.num_layers;
        hidden = attention(engine, weights, cache, layer, &hidden, &wire, last)?;
        wire = engine.open(&[(&hidden, width::FULL)], "mlp.hidden")?.remove(0);
        hidden = mlp(engine, weights, layer, &hidden, &wire)?;
        if !last {
            wire = engine.open(&[(&hidden, width::FULL)], "attention.hidden")?.remove(0);
        }
    }
    cache.len += rows;
    let logits = engine.linear(&weights.lm_head, &hidden);
    engine.argmax_to_client(&logits, "argmax")
}

/// `x = norm(h)` as a wire, with the private additions of `modules` applied to it.
fn normalise<E: Engine>(
    engine: &mut E,
    spec: &DecoderSpec,
    layer: usize,
    hidden: &E::Wire,
    modules: &[Module],
    bits: u32,
) -> Step<(E::Wire, Vec<Option<E::Share>>)> {
    let scale = NormScale {
        input_frac_bits: spec.numeric.residual_frac_bits,
        output_frac_bits: spec.numeric.frac_bits,
        norm_bits: spec.norm_bits(),
        epsilon: spec.rms_norm_eps,
    };
    let x = nn::rms_norm(engine, hidden, spec.hidden_size, scale, bits)?;
    engine.open_private(&x, bits, layer, modules, "norm.x")
}

/// `x · Wᵀ` plus the private addition.
fn project<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    layer: usize,
    module: Module,
    x: &E::Share,
    addition: &Option<E::Share>,
) -> E::Share {
    let product = engine.linear(weights.layers[layer].matrix(module), x);
    match addition {
        Some(addition) => engine.add(&product, addition),
        None => product,
    }
}

fn attention<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    cache: &mut Cache<E>,
    layer: usize,
    hidden: &E::Share,
    wire: &E::Wire,
    last: bool,
) -> Step<E::Share> {
    let spec = &weights.spec;
    let (x, additions) = normalise(engine, spec, layer, wire, &[Module::Q, Module::K, Module::V], width::FULL)?;
    let x = engine.share(&x);
    let rows = engine.rows(&x);
    let first = cache.len;
    let mut q = project(engine, weights, layer, Module::Q, &x, &additions[0]);
    let k = project(engine, weights, layer, Module::K, &x, &additions[1]);
    let v = project(engine, weights, layer, Module::V, &x, &additions[2]);
    q = engine.rotate(&q, &weights.rope, first);
    let k = engine.rotate(&k, &weights.rope, first);
    let v = engine.shift_left(&v, spec.numeric.rope_frac_bits);

    // One truncation for all three; in the last layer only the last row asks.
    let shift = spec.numeric.weight_frac_bits + spec.numeric.rope_frac_bits;
    let (q_cols, kv_cols) = (spec.num_attention_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim);
    let (q, k, v) = if last && rows > 1 {
        let q = engine.last_row(&q);
        let q = engine.truncate(&q, shift, width::FULL, width::FULL, "attention.q")?;
        let kv = engine.concat(&[&k, &v]);
        let kv = engine.truncate(&kv, shift, width::FULL, width::FULL, "attention.kv")?;
        (q, engine.columns(&kv, 0, kv_cols), engine.columns(&kv, kv_cols, kv_cols))
    } else {
        let qkv = engine.concat(&[&q, &k, &v]);
        let qkv = engine.truncate(&qkv, shift, width::FULL, width::FULL, "attention.qkv")?;
        let mut part = |first, count| engine.columns(&qkv, first, count);
        (part(0, q_cols), part(q_cols, kv_cols), part(q_cols + kv_cols, kv_cols))
    };
    // Scores are products of 48 bits; the values' products are divided later and need the whole ring.
    let parts = [(&q, width::ACTIVATION), (&k, width::ACTIVATION), (&v, width::FULL)];
    let mut wires = engine.open(&parts, "attention.qkv")?;
    let (v, k, q) = (wires.remove(2), wires.remove(1), wires.remove(0));
    let (keys, values) = &mut cache.layers[layer];
    engine.append(keys, &k);
    engine.append(values, &v);
    let (Some(keys), Some(values)) = (keys.as_ref(), values.as_ref()) else { unreachable!("rows were just appended") };

    let asking = if last { 1 } else { rows };
    let shape = Attention {
        groups: &spec.head_groups[layer],
        num_attention_heads: spec.num_attention_heads,
        num_key_value_heads: spec.num_key_value_heads,
        head_dim: spec.head_dim,
        first: first + rows - asking,
        rows: asking,
    };
    let bias = cache.bias.as_ref();
    let mixed = attend(engine, spec, layer, &q, keys, values, bias, &shape)?;
    let (mixed, additions) = engine.open_private(&mixed, width::PRODUCT, layer, &[Module::O], "attention.mixed")?;
    let mixed = engine.share(&mixed);
    let out = project(engine, weights, layer, Module::O, &mixed, &additions[0]);
    let hidden = if last && rows > 1 { engine.last_row(hidden) } else { hidden.clone() };
    add_residual(engine, spec, &hidden, &out, "attention.out")
}

/// `softmax(scale · Σ_group Q Kᵀ) V`, 14 fractional bits, as a share.
fn attend<E: Engine>(
    engine: &mut E,
    spec: &DecoderSpec,
    layer: usize,
    q: &E::Wire,
    keys: &E::Wire,
    values: &E::Wire,
    bias: Option<&E::Wire>,
    shape: &Attention<'_>,
) -> Step<E::Share> {
    let scores = engine.scores(q, keys, shape)?;
    let shift = spec.numeric.frac_bits + spec.score_scale(layer).1;
    let mut scores = engine.truncate(&scores, shift, width::ACTIVATION, width::SCORE, "attention.scores")?;
    if let Some(bias) = bias {
        scores = engine.add_key_bias(&scores, bias, shape);
    }
    nn::softmax_mix(engine, &scores, values, shape, width::PRODUCT)
}

fn mlp<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    layer: usize,
    hidden: &E::Share,
    wire: &E::Wire,
) -> Step<E::Share> {
    let spec = &weights.spec;
    let (x, additions) = normalise(engine, spec, layer, wire, &[Module::Gate, Module::Up], width::PRODUCT)?;
    let x = engine.share(&x);
    let gate = project(engine, weights, layer, Module::Gate, &x, &additions[0]);
    let up = project(engine, weights, layer, Module::Up, &x, &additions[1]);
    let both = engine.concat(&[&gate, &up]);
    let bits = spec.numeric.weight_frac_bits;
    let both = engine.truncate(&both, bits, width::PRODUCT, width::ACTIVATION, "mlp.gate_up")?;
    let both = engine.open(&[(&both, width::ACTIVATION)], "mlp.gate_up")?.remove(0);
    let gate = engine.wire_columns(&both, 0, spec.intermediate_size);
    let up = engine.wire_columns(&both, spec.intermediate_size, spec.intermediate_size);
    let gate = engine.gate(&gate, Gate(&tables().silu), "mlp.silu")?;
    let gate = engine.open(&[(&gate, width::ACTIVATION)], "mlp.silu")?.remove(0);
    let product = engine.mul(&gate, &up)?;
    let product =
        engine.truncate(&product, spec.numeric.frac_bits, width::ACTIVATION, width::PRODUCT, "mlp.product")?;
    let (product, additions) = engine.open_private(&product, width::PRODUCT, layer, &[Module::Down], "mlp.product")?;
    let product = engine.share(&product);
    let out = project(engine, weights, layer, Module::Down, &product, &additions[0]);
    add_residual(engine, spec, hidden, &out, "mlp.out")
}

fn add_residual<E: Engine>(
    engine: &mut E,
    spec: &DecoderSpec,
    hidden: &E::Share,
    out: &E::Share,
    place: &'static str,
) -> Step<E::Share> {
    let shift = spec.numeric.frac_bits + spec.numeric.weight_frac_bits - spec.numeric.residual_frac_bits;
    let out = engine.truncate(out, shift, width::PRODUCT, width::FULL, place)?;
    Ok(engine.add(hidden, &out))
}
