//! What decoders and encoders are made of: norms, projections, attention, MLPs, residual sums.
//!
//! Axes and fixed point as in [`crate::program::decoder`].

use marill_numeric::{ActivationForm, tables::tables};

use crate::{
    engine::{Attention, Engine, Gate, Labels, Truncation},
    error::ProtocolResult,
    program::{cache::Cache, layers, layers::NormScale, project::project, qk_norm},
    spec::{MapId, Module, NormKind, ProgramSpec, width},
    weights::PublicWeights,
};

/// The public output head.
pub(crate) fn head<E: Engine>(engine: &mut E, weights: &PublicWeights, x: &E::Share) -> E::Share {
    let logits = engine.linear(&weights.lm_head, x);
    match weights.lm_head_bias.as_slice() {
        [] => logits,
        bias => engine.add_row(&logits, bias),
    }
}

pub(crate) fn norm_scale(spec: &ProgramSpec) -> NormScale {
    NormScale {
        input_frac_bits: spec.numeric.residual_frac_bits,
        output_frac_bits: spec.numeric.frac_bits,
        norm_bits: spec.norm_bits(),
        epsilon: spec.rms_norm_eps,
    }
}

/// `x = norm(h)`, revealed to E1, with the private LoRA updates of `maps` applied to it. An RMS
/// norm takes the stream as a wire, which the caller may have already.
pub(crate) fn normalize<E: Engine>(
    engine: &mut E,
    spec: &ProgramSpec,
    hidden: &E::Share,
    wire: Option<E::Wire>,
    label: &'static str,
    maps: &[MapId],
) -> ProtocolResult<Revealed<E>> {
    let scale = norm_scale(spec);
    // Queries and keys gain the rotation's bits before their truncation; other maps do not.
    let bits = maps
        .iter()
        .map(|&map| spec.map_spec(map).private_bits)
        .max();
    let bits = bits.unwrap_or(width::PRODUCT);
    let x = if spec.architecture.norm() == NormKind::Rms {
        // A norm opens what it scales, bounded by the residual stream's range.
        let wire = match wire {
            Some(wire) => wire,
            None => engine.open_bounded(hidden, layers::NORM_INPUT_BITS, label)?,
        };
        layers::rms_scaled(engine, &wire, spec.hidden_size, scale)?
    } else {
        layers::layer_scaled(engine, hidden, spec.hidden_size, scale)?
    };
    engine.truncate_and_reveal(
        &x,
        Truncation {
            shift: scale.shift(),
            from: width::FULL,
            to: bits,
        },
        maps,
        Labels::both("norm.x"),
    )
}

/// What the maps of a half layer take: a share, and the private LoRA updates already made of it.
pub(crate) type Revealed<E> = (<E as Engine>::Share, Vec<Option<<E as Engine>::Share>>);

/// The rotated queries, keys and values of new rows as wires; in the last layer the queries of the
/// last row alone. `first` is the position of the first row. Normed ones are another function's.
fn queries_keys_values<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    layer: usize,
    first: usize,
    x: &E::Share,
    updates: &[Option<E::Share>],
    last: bool,
) -> ProtocolResult<[E::Wire; 3]> {
    let spec = &weights.spec;
    let rows = engine.rows(x);
    let [q, k, v] = [Module::Q, Module::K, Module::V].map(|module| spec.map(layer, module));
    let wide = spec.map_spec(q).private_bits;
    let mut q = project(engine, weights, q, x, &updates[0]);
    let mut k = project(engine, weights, k, x, &updates[1]);
    let mut v = project(engine, weights, v, x, &updates[2]);
    let mut shift =
        spec.numeric.weight_frac_bits + spec.map_input_frac_bits() - spec.numeric.frac_bits;
    if spec.rotates(layer) {
        // Rotation multiplies by 12-bit tables; v gains the same bits, so that one truncation does.
        q = engine.rotate(&q, &weights.rope, first);
        k = engine.rotate(&k, &weights.rope, first);
        v = engine.shift_left(&v, spec.numeric.rope_frac_bits);
        shift += spec.numeric.rope_frac_bits;
    }

    // One truncation for all three; in the last layer only the last row asks.
    let q_cols = spec.heads(layer) * spec.head_dim;
    let kv_cols = spec.num_key_value_heads * spec.head_dim;
    let (q, k, v) = if last && rows > 1 {
        let q = engine.last_row(&q);
        let q = engine.truncate(
            &q,
            Truncation {
                shift,
                from: wide,
                to: width::ACTIVATION,
            },
            "attention.q",
        )?;
        let kv = engine.concat(&[&k, &v]);
        let kv = engine.truncate(
            &kv,
            Truncation {
                shift,
                from: wide,
                to: width::ACTIVATION,
            },
            "attention.kv",
        )?;
        (
            q,
            engine.columns(&kv, 0, kv_cols),
            engine.columns(&kv, kv_cols, kv_cols),
        )
    } else {
        let qkv = engine.concat(&[&q, &k, &v]);
        let qkv = engine.truncate(
            &qkv,
            Truncation {
                shift,
                from: wide,
                to: width::ACTIVATION,
            },
            "attention.qkv",
        )?;
        let mut part = |first, count| engine.columns(&qkv, first, count);
        (
            part(0, q_cols),
            part(q_cols, kv_cols),
            part(q_cols + kv_cols, kv_cols),
        )
    };
    let parts = [&q, &k, &v].map(|part| (part, width::ACTIVATION));
    // q·k and weight·v are products of shared values, so both factors are opened.
    let mut wires = engine.open(&parts, "attention.qkv")?;
    let v = wires.remove(2);
    let k = wires.remove(1);
    Ok([wires.remove(0), k, v])
}

/// Attention up to its output map, whose result it returns with the scale of a product of weights.
pub(crate) fn attention<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    cache: &mut Cache<E>,
    layer: usize,
    x: &E::Share,
    updates: &[Option<E::Share>],
    last: bool,
) -> ProtocolResult<E::Share> {
    let spec = &weights.spec;
    let rows = engine.rows(x);
    let first = cache.len;
    let [q, k, v] = if spec.variant.qk_norm.is_some() {
        qk_norm::queries_keys_values(engine, weights, layer, first, x, updates, last)?
    } else {
        queries_keys_values(engine, weights, layer, first, x, updates, last)?
    };
    let (keys, values) = &mut cache.layers[layer];
    // Past rows are opened once; a wire may enter any number of products.
    engine.append(keys, &k);
    engine.append(values, &v);
    let (Some(keys), Some(values)) = (keys.as_ref(), values.as_ref()) else {
        unreachable!("rows were just appended")
    };

    let asking = if last { 1 } else { rows };
    let shape = Attention {
        groups: &spec.head_groups[layer],
        num_attention_heads: spec.heads(layer),
        num_key_value_heads: spec.num_key_value_heads,
        head_dim: spec.head_dim,
        first: first + rows - asking,
        rows: asking,
        causal: spec.architecture.is_causal(),
    };
    let bias = cache.bias.as_ref();
    // softmax(scale·Q·Kᵀ)·V of the rows that ask.
    let attended = attend(engine, spec, layer, &q, keys, values, bias, &shape)?;
    let truncation = Truncation {
        shift: layers::DIVIDE_SHIFT,
        from: width::FULL,
        to: width::PRODUCT,
    };
    let labels = Labels::new("attention.divided", "attention.mixed");
    let map = spec.map(layer, Module::O);
    // The output map's private part needs the row at E1: truncate, and reveal under E0's mask.
    let (attended, updates) = engine.truncate_and_reveal(&attended, truncation, &[map], labels)?;
    Ok(project(engine, weights, map, &attended, &updates[0]))
}

/// `softmax(scale · Σ_group Q Kᵀ) V` as a share, before truncation.
fn attend<E: Engine>(
    engine: &mut E,
    spec: &ProgramSpec,
    layer: usize,
    q: &E::Wire,
    keys: &E::Wire,
    values: &E::Wire,
    bias: Option<&E::Wire>,
    shape: &Attention<'_>,
) -> ProtocolResult<E::Share> {
    // Σ_group q·k; the scale's part that is no power of two is in the query map.
    let scores = engine.scores(q, keys, shape)?;
    let shift = 2 * spec.numeric.frac_bits - spec.score_frac_bits() + spec.score_scale(layer).1;
    let mut scores = engine.truncate(
        &scores,
        Truncation {
            shift,
            from: width::ACTIVATION,
            to: spec.score_bits(),
        },
        "attention.scores",
    )?;
    if let Some(bias) = bias {
        scores = engine.add_key_bias(&scores, bias, shape);
    }
    layers::softmax_mix(engine, &spec.approx, &scores, values, shape)
}

/// LLaMA's MLP, norm included: `down(silu(gate(x)) · up(x))`, with the scale of a product of
/// weights.
pub(crate) fn gated_mlp<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    layer: usize,
    hidden: &E::Share,
) -> ProtocolResult<E::Share> {
    let spec = &weights.spec;
    let maps = [Module::Gate, Module::Up].map(|module| spec.map(layer, module));
    let (x, updates) = normalize(engine, spec, hidden, None, "mlp.hidden", &maps)?;
    let gate = project(engine, weights, maps[0], &x, &updates[0]);
    let up = project(engine, weights, maps[1], &x, &updates[1]);
    let both = engine.concat(&[&gate, &up]);
    let bits = spec.numeric.weight_frac_bits;
    let truncation = Truncation {
        shift: bits,
        from: width::PRODUCT,
        to: width::ACTIVATION,
    };
    // silu(gate)·up, with one opening for the truncation of both.
    let product = match spec.approx.activation {
        None => {
            let labels = Labels::new("mlp.gate_up", "mlp.silu");
            engine.gated_product(&both, Gate(&tables().silu), truncation, labels)?
        }
        Some(ActivationForm::Quad) => {
            engine.quad_product(&both, truncation, Labels::new("mlp.gate_up", "mlp.quad"))?
        }
    };
    let truncation = Truncation {
        shift: spec.numeric.frac_bits,
        from: width::ACTIVATION,
        to: width::PRODUCT,
    };
    let down = spec.map(layer, Module::Down);
    let (product, updates) =
        engine.truncate_and_reveal(&product, truncation, &[down], Labels::both("mlp.product"))?;
    Ok(project(engine, weights, down, &product, &updates[0]))
}

/// The MLP of GPT-2 and BERT: `down(gelu(up(x)))`, with the scale of a product of weights.
pub(crate) fn plain_mlp<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    layer: usize,
    x: &E::Share,
    updates: &[Option<E::Share>],
) -> ProtocolResult<E::Share> {
    let spec = &weights.spec;
    let up = spec.map(layer, Module::Up);
    let up = project(engine, weights, up, x, &updates[0]);
    let shift = spec.numeric.weight_frac_bits + spec.map_input_frac_bits() - spec.numeric.frac_bits;
    let truncation = Truncation {
        shift,
        from: width::PRODUCT,
        to: width::PRODUCT,
    };
    // gelu(up).
    let inner = engine.truncate_gate(
        &up,
        Gate(&tables().gelu),
        truncation,
        Labels::new("mlp.up", "mlp.gelu"),
    )?;
    let down = spec.map(layer, Module::Down);
    let (inner, updates) = engine.reveal_to_e1(&inner, width::PRODUCT, &[down], "mlp.inner")?;
    Ok(project(engine, weights, down, &inner, &updates[0]))
}

pub(crate) fn add_residual<E: Engine>(
    engine: &mut E,
    spec: &ProgramSpec,
    hidden: &E::Share,
    out: &E::Share,
    label: &'static str,
) -> ProtocolResult<E::Share> {
    let shift =
        spec.numeric.frac_bits + spec.numeric.weight_frac_bits - spec.numeric.residual_frac_bits;
    // From the scale of a product of weights to the residual's.
    let out = engine.truncate(
        out,
        Truncation {
            shift,
            from: width::PRODUCT,
            to: width::FULL,
        },
        label,
    )?;
    Ok(engine.add(hidden, &out))
}
