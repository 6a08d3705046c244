//! GPT-2 as a secure program: what the float model holds, as integers.

use marill_model::Gpt2;
use marill_mpc::{Architecture, HeadFloats, MapFloats, PublicWeights};

use crate::{
    PartitionError,
    layers::{OwnedNorm, Shape, floats, quantize},
};

/// A GPT-2 whose first `frozen_layers` run at the client, as a secure program with LoRA updates of
/// rank `lora_rank`.
///
/// # Errors
/// [`PartitionError::Spec`] when no layer is left or a weight does not fit.
pub fn gpt2_weights(
    model: &Gpt2,
    frozen_layers: usize,
    lora_rank: usize,
) -> Result<PublicWeights, PartitionError> {
    let c = &model.config;
    let shape = Shape {
        hidden: c.n_embd,
        inner: c.inner(),
        heads: c.n_head,
        positions: c.n_positions,
    };
    let layers = c.n_layer.saturating_sub(frozen_layers);
    let spec = shape.spec(
        Architecture::Gpt2,
        c.vocab_size,
        layers,
        c.layer_norm_epsilon,
        lora_rank,
    );
    let wte = floats(model.wte.embeddings())?;
    let norm = OwnedNorm::of(&model.ln_f)?;
    let head = HeadFloats {
        norm: Some(norm.floats()),
        pooler: None,
        map: MapFloats {
            weight: &wte,
            bias: &[],
        },
    };
    quantize(
        &spec,
        model.blocks.get(frozen_layers..).unwrap_or(&[]),
        &head,
    )
}
