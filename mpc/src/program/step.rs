//! One step of a program, whatever the architecture.

use crate::{
    engine::Engine,
    error::{ProtocolError, ProtocolResult},
    program::{cache::Cache, decoder, encoder},
    weights::PublicWeights,
};

/// Runs one step: `rows` new rows of boundary activations in, one index out (at the client).
///
/// In the first step the rows are a padded prompt, padding first, and `bias` holds
/// the bias of `program/padding.rs` for every padded position and zero for the
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
    if !weights.spec.architecture.is_encoder() {
        return decoder::step(engine, weights, cache, boundary, bias, rows);
    }
    // An encoder reveals its class or its row; nothing is drawn.
    if cache.sampling.is_some() {
        return Err(ProtocolError::Reveal {
            revealed: "the largest class",
        });
    }
    encoder::classify(engine, weights, boundary, bias, rows)
}

/// Runs what the spec says at a party without input: the next step of a decoder, or a whole
/// encoder.
pub(crate) fn run_blind<E: Engine>(
    engine: &mut E,
    weights: &PublicWeights,
    cache: &mut Cache<E>,
    rows: usize,
) -> Result<(), ProtocolError> {
    if weights.spec.reveals_embedding() {
        return encoder::embed(engine, weights, None, None, rows).map(|_| ());
    }
    step(engine, weights, cache, None, None, rows).map(|_| ())
}
