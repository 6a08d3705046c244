//! Secure layers as programs over [`Engine`]: what the decoder is made of, and what other
//! architectures need.
//!
//! Each function states its domain and error against real arithmetic; a test checks both in the
//! twin, and that the secure engines return the twin's integers.

use marill_numeric::{
    Approximations, SoftmaxForm,
    functions::{RECIP_BITS, RSQRT_BITS},
    tables::{approx_tables, tables},
};

use crate::{
    engine::{Attention, Engine, Labels, Truncation, WEIGHTED_BITS},
    error::ProtocolResult,
};

/// The scales between which a normalization works.
#[derive(Clone, Copy)]
pub struct NormScale {
    /// Fractional bits of the input and of the result.
    pub input_frac_bits: u32,
    pub output_frac_bits: u32,
    /// The result is `x / |x| · 2^norm_bits`; what is missing to `sqrt(columns)` belongs into the
    /// gain behind it.
    pub norm_bits: u32,
    pub epsilon: f64,
}

impl NormScale {
    /// Bits to be truncated from a scaled row.
    #[must_use]
    pub fn shift(&self) -> u32 {
        RSQRT_BITS - self.output_frac_bits - self.norm_bits
    }
}

/// Width of what is normalized: below 2^31 in magnitude, as its norm is.
pub const NORM_INPUT_BITS: u32 = 33;

/// Root-mean-square normalization of every row, without its gain: `[rows, cols]`,
/// `scale.output_frac_bits`, modulo `2^out_bits`.
///
/// Domain: the row's norm below `2^(31 - input_frac_bits)`. Relative error at most 2.5e-4, plus
/// half an output unit. Cost: 5 rounds for the scaling with few rows, 6 with many, then the
/// truncation; 2 and 1 with DCF.
///
/// # Errors
/// A lost peer, or an overflow in the twin.
pub fn rms_norm<E: Engine>(
    engine: &mut E,
    x: &E::Wire,
    cols: usize,
    scale: NormScale,
    out_bits: u32,
) -> ProtocolResult<E::Share> {
    let scaled = rms_scaled(engine, x, cols, scale)?;
    engine.truncate(
        &scaled,
        Truncation {
            shift: scale.shift(),
            from: 64,
            to: out_bits,
        },
        "norm.x",
    )
}

/// As [`rms_norm`], before truncation by [`NormScale::shift`] from 64 bits.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_scaled<E: Engine>(
    engine: &mut E,
    x: &E::Wire,
    cols: usize,
    scale: NormScale,
) -> ProtocolResult<E::Share> {
    let unit = f64::from(2 * scale.input_frac_bits).exp2();
    // Σ x², with epsilon at the scale of a square.
    let squares = engine.square_sum(x)?;
    let squares = engine.add_constant(
        &squares,
        (scale.epsilon * cols as f64 * unit).round() as u64,
    );
    // x·2^58/sqrt(Σ x²): below 2^58 by Cauchy-Schwarz.
    engine.scale_rows_piecewise(
        x,
        &squares,
        &tables().rsqrt,
        Labels::new("norm.rsqrt", "norm.scale"),
    )
}

/// Layer normalization without gain and bias: the mean is taken off, then [`rms_norm`].
///
/// The mean is `Σ·round(2^24/cols)`, truncated to the input's scale: off by at most one input unit.
///
/// # Errors
/// As [`rms_norm`].
pub fn layer_norm<E: Engine>(
    engine: &mut E,
    x: &E::Share,
    cols: usize,
    scale: NormScale,
    out_bits: u32,
) -> ProtocolResult<E::Share> {
    let scaled = layer_scaled(engine, x, cols, scale)?;
    engine.truncate(
        &scaled,
        Truncation {
            shift: scale.shift(),
            from: 64,
            to: out_bits,
        },
        "norm.x",
    )
}

/// As [`layer_norm`], before truncation by [`NormScale::shift`] from 64 bits.
///
/// # Errors
/// As [`rms_norm`].
pub fn layer_scaled<E: Engine>(
    engine: &mut E,
    x: &E::Share,
    cols: usize,
    scale: NormScale,
) -> ProtocolResult<E::Share> {
    let lens = vec![cols; engine.rows(x)];
    // mean = Σ x·round(2^24/n)/2^24.
    let sums = engine.ragged_sum(x, &lens);
    let factor = ((1u64 << 24) as f64 / cols as f64).round() as u64;
    let means = engine.scale_constant(&sums, factor);
    let means = engine.truncate(
        &means,
        Truncation {
            shift: 24,
            from: 64,
            to: 64,
        },
        "norm.mean",
    )?;
    // mean - x, then times -1: x - mean is what is scaled.
    let centered = engine.ragged_rsub(x, &means, &lens);
    let centered = engine.reshape(&centered, cols);
    let negated = engine.scale_constant(&centered, u64::MAX);
    let wire = engine.open_bounded(&negated, NORM_INPUT_BITS, "norm.centred")?;
    rms_scaled(engine, &wire, cols, scale)
}

/// Softmax weights over ragged rows of scores (14 fractional bits, 32-bit shares), not yet divided,
/// and their reciprocal sums: `(exp(s - max), 2^40 / Σ)`.
///
/// Error of a weight: at most 1.9e-4 of the largest; of the reciprocal: at most 6e-4 up to 64 equal
/// keys.
///
/// # Errors
/// As [`rms_norm`].
pub fn softmax_parts<E: Engine>(
    engine: &mut E,
    scores: &E::Share,
    lens: &[usize],
) -> ProtocolResult<(E::Wire, E::Share)> {
    let weights = exponentials(engine, scores, lens)?;
    let inverse = engine.piecewise_sums(&weights, lens, &tables().recip, "attention.recip")?;
    Ok((weights, inverse))
}

/// `exp(s - max)` of ragged rows.
fn exponentials<E: Engine>(
    engine: &mut E,
    scores: &E::Share,
    lens: &[usize],
) -> ProtocolResult<E::Wire> {
    // max - s ≥ 0, so that exp is at most one.
    let largest = engine.ragged_max(scores, lens, "attention.max")?;
    let below = engine.ragged_rsub(scores, &largest, lens);
    let weights = engine.exp_neg(&below, WEIGHTED_BITS, "attention.exp")?;
    Ok(engine
        .open(&[(&weights, WEIGHTED_BITS)], "attention.weights")?
        .remove(0))
}

/// What stands in for [`exponentials`] ([`marill_numeric::approx`]), of scores with the form's
/// fractional bits.
fn approximate_weights<E: Engine>(
    engine: &mut E,
    approx: &Approximations,
    form: SoftmaxForm,
    scores: &E::Share,
) -> ProtocolResult<E::Wire> {
    let weights = match form {
        SoftmaxForm::Clipped => {
            // c - s, negative where the bound clips.
            let negated = engine.scale_constant(scores, u64::MAX);
            let below = engine.add_constant(&negated, approx.bound_units());
            engine.exp_clipped(&below, WEIGHTED_BITS, "attention.exp")?
        }
        SoftmaxForm::Relu => engine.relu(scores, WEIGHTED_BITS, "attention.relu")?,
        SoftmaxForm::Quad => {
            let shifted = engine.add_constant(scores, form.quad_added());
            let shifted = engine
                .open(&[(&shifted, WEIGHTED_BITS)], "attention.shifted")?
                .remove(0);
            let square = engine.mul(&shifted, &shifted)?;
            let truncation = Truncation {
                shift: form.square_shift(),
                from: WEIGHTED_BITS,
                to: WEIGHTED_BITS,
            };
            engine.truncate(&square, truncation, "attention.square")?
        }
    };
    Ok(engine
        .open(&[(&weights, WEIGHTED_BITS)], "attention.weights")?
        .remove(0))
}

/// `softmax(scores) · V` for grouped heads, 14 fractional bits once it is truncated by
/// [`DIVIDE_SHIFT`] from 64 bits: `[rows, heads · head_dim]`. The softmax may be approximated.
///
/// Values are below 2^7 (2^46 over the largest sum of weights); the division comes after the value
/// product.
///
/// # Errors
/// As [`rms_norm`].
pub fn softmax_mix<E: Engine>(
    engine: &mut E,
    approx: &Approximations,
    scores: &E::Share,
    values: &E::Wire,
    shape: &Attention<'_>,
) -> ProtocolResult<E::Share> {
    // Undivided weights first: Σ exp(s - max)·v, then one factor for each head.
    let (weights, table) = match approx.softmax {
        None => {
            let weights = exponentials(engine, scores, &shape.lens())?;
            (weights, &tables().recip)
        }
        // Their sums may be anything from zero up.
        Some(form) => {
            let weights = approximate_weights(engine, approx, form, scores)?;
            (weights, &approx_tables().recip)
        }
    };
    let mixed = engine.weighted_values(&weights, values, shape)?;
    let labels = Labels::new("attention.recip", "attention.divide");
    engine.scale_heads_piecewise(&mixed, &weights, table, shape, labels)
}

/// Bits to be truncated from what [`softmax_mix`] returns.
pub const DIVIDE_SHIFT: u32 = RECIP_BITS;
