//! Prompts are padded on the left to a bucket, so that their length is not told.

use marill_numeric::SoftmaxForm;

use crate::{
    error::{ProtocolError, ProtocolResult},
    spec::MAX_POSITIONS,
};

/// A score this low (2^13 below zero with 14 fractional bits, 2^17 with 10) has a softmax weight of
/// exactly zero.
pub const PAD_BIAS: u64 = (1u64 << 27).wrapping_neg();

/// What a padded key's scores get: so low that the weight is exactly zero. Squares have no such
/// score but `-5`: rows of padding stay zero through all layers (where maps have biases, squares
/// are refused), so their keys' scores are zero, and `(0 - 5 + 5)²` is.
pub(crate) fn pad_bias(spec: &crate::ProgramSpec) -> u64 {
    match spec.approx.softmax {
        Some(form @ SoftmaxForm::Quad) => form.quad_added().wrapping_neg(),
        None | Some(SoftmaxForm::Clipped | SoftmaxForm::Relu) => PAD_BIAS,
    }
}

/// Pads a prompt in front to its bucket; the padding's rows are zero and its keys are excluded by
/// their bias.
pub(crate) fn pad_prompt(
    spec: &crate::ProgramSpec,
    boundary: &[u64],
) -> ProtocolResult<(Vec<u64>, Vec<u64>, usize)> {
    let n = boundary.len() / spec.hidden_size;
    if n == 0 || !boundary.len().is_multiple_of(spec.hidden_size) {
        return Err(ProtocolError::MissingInput);
    }
    let bucket = spec.bucket(n);
    check_remaining_context(spec, 0, bucket)?;
    let mut padded = vec![0; (bucket - n) * spec.hidden_size];
    padded.extend_from_slice(boundary);
    let pad = pad_bias(spec);
    let bias = (0..bucket)
        .map(|i| if i < bucket - n { pad } else { 0 })
        .collect();
    Ok((padded, bias, bucket))
}

/// Refuses a step that would leave the context.
pub(crate) fn check_remaining_context(
    spec: &crate::ProgramSpec,
    used: usize,
    more: usize,
) -> ProtocolResult<()> {
    // Whatever a spec says: past these the softmax's reciprocal is out of its domain, and tokens
    // would be wrong.
    let limit = spec.max_positions.min(MAX_POSITIONS);
    match used.checked_add(more) {
        Some(needed) if needed <= limit => Ok(()),
        _ => Err(ProtocolError::TooLong { limit }),
    }
}
