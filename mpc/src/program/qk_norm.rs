//! Queries, keys and values where queries and keys are normed in front of the rotation.
//!
//! The norm divides by a secret, so it needs the product truncated and opened, where it is else
//! rotated first. The gain is a public row that cannot be folded into a map: the norm is between
//! them, and the rotation behind it turns pairs of columns with gains of their own. It is a product
//! with the row, at 16 fractional bits, under the one truncation behind the rotation.

use marill_numeric::norm_bits;

use crate::{
    engine::{Engine, Truncation},
    error::ProtocolResult,
    program::{
        layers::{self, NormScale},
        project::project,
    },
    spec::{GAIN_FRAC_BITS, Module, ProgramSpec, width},
    weights::PublicWeights,
};

/// The normed and rotated queries and keys, and the values, of new rows as wires; in the last layer
/// the queries of the last row alone. `first` is the position of the first row.
pub(super) fn queries_keys_values<E: Engine>(
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
    let maps = [Module::Q, Module::K, Module::V].map(|module| spec.map(layer, module));
    let mut q = project(engine, weights, maps[0], x, &updates[0]);
    let k = project(engine, weights, maps[1], x, &updates[1]);
    let v = project(engine, weights, maps[2], x, &updates[2]);
    // In the last layer only the last row asks.
    let one = last && rows > 1;
    if one {
        q = engine.last_row(&q);
    }
    let q_cols = engine.cols(&q);
    let kv_cols = engine.cols(&k);
    let [q, k, v] = if one {
        let q = projected(engine, spec, &q, "attention.q")?;
        let kv = engine.concat(&[&k, &v]);
        let kv = projected(engine, spec, &kv, "attention.kv")?;
        let k = engine.columns(&kv, 0, kv_cols);
        [q, k, engine.columns(&kv, kv_cols, kv_cols)]
    } else {
        let qkv = engine.concat(&[&q, &k, &v]);
        let qkv = projected(engine, spec, &qkv, "attention.qkv")?;
        let q = engine.columns(&qkv, 0, q_cols);
        let k = engine.columns(&qkv, q_cols, kv_cols);
        [q, k, engine.columns(&qkv, q_cols + kv_cols, kv_cols)]
    };

    let gains = &weights.layers[layer].qk_gains;
    let [of_q, of_k] = spec.qk_norm_sizes(layer).unwrap_or([q_cols, kv_cols]);
    // Heads of one size are normed side by side; rows of different numbers are not.
    let [q, k] = if of_q == of_k && !one {
        let qk = engine.concat(&[&q, &k]);
        let qk = normed(engine, weights, layer, &qk, of_q, &gains.concat(), first)?;
        let q = engine.columns(&qk, 0, q_cols);
        [q, engine.columns(&qk, q_cols, kv_cols)]
    } else {
        let asking = if one { first + rows - 1 } else { first };
        let q = normed(engine, weights, layer, &q, of_q, &gains[0], asking)?;
        let k = normed(engine, weights, layer, &k, of_k, &gains[1], first)?;
        [q, k]
    };
    let parts = [&q, &k, &v].map(|part| (part, width::ACTIVATION));
    // q·k and weight·v are products of shared values, so both factors are opened.
    let mut wires = engine.open(&parts, "attention.qkv")?;
    let v = wires.remove(2);
    let k = wires.remove(1);
    Ok([wires.remove(0), k, v])
}

/// A product of the maps with the bits of an activation.
fn projected<E: Engine>(
    engine: &mut E,
    spec: &ProgramSpec,
    x: &E::Share,
    label: &'static str,
) -> ProtocolResult<E::Share> {
    let shift = spec.numeric.weight_frac_bits + spec.map_input_frac_bits() - spec.numeric.frac_bits;
    let truncation = Truncation {
        shift,
        from: width::PRODUCT,
        to: width::FULL,
    };
    engine.truncate(x, truncation, label)
}

/// `norm(x) · gain`, each row cut into rows of `size`, and rotated from position `first` on.
fn normed<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    layer: usize,
    x: &E::Share,
    size: usize,
    gain: &[u64],
    first: usize,
) -> ProtocolResult<E::Share> {
    let spec = &weights.spec;
    let cols = engine.cols(x);
    let scale = NormScale {
        input_frac_bits: spec.numeric.frac_bits,
        output_frac_bits: spec.numeric.frac_bits,
        norm_bits: norm_bits(size),
        epsilon: spec.rms_norm_eps,
    };
    let x = engine.reshape(x, size);
    // A norm opens what it scales.
    let wire = engine.open_bounded(&x, layers::NORM_INPUT_BITS, "attention.unnormed")?;
    let x = layers::rms_norm(engine, &wire, size, scale, width::FULL)?;
    let x = engine.reshape(&x, cols);
    let mut x = engine.scale_columns(&x, gain);
    let mut shift = GAIN_FRAC_BITS;
    if spec.rotates(layer) {
        x = engine.rotate(&x, &weights.rope, first);
        shift += spec.numeric.rope_frac_bits;
    }
    let truncation = Truncation {
        shift,
        from: width::FULL,
        to: width::ACTIVATION,
    };
    // Gain and rotation under one truncation.
    engine.truncate(&x, truncation, "attention.qk")
}
