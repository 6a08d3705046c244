//! A sampled token, as a program: Gumbel noise of the server's own, and top-k by a search
//! under sharing. What it computes and who learns what: [`crate::sampling`].

use crate::{
    engine::{Engine, Truncation},
    error::ProtocolResult,
    program::{
        blocks::{head, norm_scale},
        layers,
    },
    sampling::{FRAC_BITS, PENALTY, RAW_FRAC_BITS, Sampling, WIDTH},
    spec::{NormKind, width},
    weights::PublicWeights,
};

/// Samples a token, from the last row of the residual stream where the final norm is an RMS norm,
/// or else of the normalized one.
pub(crate) fn sample<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    hidden: &E::Share,
    sampling: Sampling,
) -> ProtocolResult<Option<u32>> {
    let spec = &weights.spec;
    let x = if spec.architecture.norm() == NormKind::Rms {
        let wire = engine
            .open(&[(hidden, width::FULL)], "sample.hidden")?
            .remove(0);
        &layers::rms_norm(
            engine,
            &wire,
            spec.hidden_size,
            norm_scale(spec),
            width::FULL,
        )?
    } else {
        hidden
    };
    let logits = head(engine, weights, x);
    let frac_bits = spec.numeric.frac_bits + weights.lm_head_frac_bits;
    choose(
        engine,
        &logits,
        frac_bits,
        sampling,
        sampling.noise_scale(spec),
    )
}

/// Chooses an index from a row of logits with `frac_bits` fractional bits, at most
/// [`RAW_FRAC_BITS`]. `scale` is the noise's, in units of [`FRAC_BITS`].
pub fn choose<E: Engine>(
    engine: &mut E,
    logits: &E::Share,
    frac_bits: u32,
    sampling: Sampling,
    scale: f64,
) -> ProtocolResult<Option<u32>> {
    let label = "sample.logits";
    // How many bits per head's weights have is the model's own affair: the dealer must truncate
    // alike for all.
    let logits = engine.shift_left(logits, RAW_FRAC_BITS - frac_bits);
    let logits = engine.truncate(
        &logits,
        Truncation {
            shift: RAW_FRAC_BITS - FRAC_BITS,
            from: width::ACTIVATION,
            to: WIDTH,
        },
        label,
    )?;
    let noisy = engine.add_noise(&logits, scale);
    let Some(keep) = sampling.top_k() else {
        return engine.argmax_to_client(&noisy, "argmax");
    };
    let below = engine.below_largest(&logits, keep as usize, "sample.top_k")?;
    let penalty = engine.scale_constant(&below, PENALTY);
    let noisy = engine.sub(&noisy, &penalty);
    engine.argmax_to_client(&noisy, "argmax")
}

#[cfg(test)]
mod tests;
