//! BERT as a secure program: what the float model holds, as integers.

use marill_model::Bert;
use marill_mpc::{Architecture, HeadFloats, MapFloats, Pooling, PublicWeights, Reveal, SpecError};

use crate::{
    PartitionError,
    layers::{Shape, map, quantize},
};

/// A BERT encoder whose embeddings and first `frozen_layers` run at the client, as a secure
/// program.
///
/// # Errors
/// [`PartitionError::Spec`] when no layer is left, a weight does not fit, or the model has no
/// classifier or pooler where one is asked for.
pub fn bert_weights(
    model: &Bert,
    frozen_layers: usize,
    lora_rank: usize,
    pooling: Pooling,
    reveal: Reveal,
) -> Result<PublicWeights, PartitionError> {
    let c = &model.config;
    let (weight, bias) = match (&model.classifier, reveal) {
        (_, Reveal::Embedding) => (Vec::new(), Vec::new()),
        (Some(classifier), Reveal::Class) => map(classifier)?,
        (None, Reveal::Class) => {
            let problem = "is `class`, and the checkpoint has no `classifier.weight`".to_owned();
            return Err(SpecError::Invalid {
                field: "reveal",
                problem,
            }
            .into());
        }
    };
    let shape = Shape {
        hidden: c.hidden_size,
        inner: c.intermediate_size,
        heads: c.num_attention_heads,
        positions: c.max_position_embeddings,
    };
    let layers = c.num_hidden_layers.saturating_sub(frozen_layers);
    let architecture = Architecture::Bert { pooling, reveal };
    let spec = shape.spec(
        architecture,
        bias.len(),
        layers,
        c.layer_norm_eps,
        lora_rank,
    );
    let pooler = match (&model.pooler, pooling) {
        (Some(pooler), Pooling::Pooler) => Some(map(pooler)?),
        (None, Pooling::Pooler) => {
            let problem = "is `pooler`, and the checkpoint has no `pooler.dense.weight`".to_owned();
            return Err(SpecError::Invalid {
                field: "pooling",
                problem,
            }
            .into());
        }
        _ => None,
    };
    let pooler = pooler
        .as_ref()
        .map(|(weight, bias)| MapFloats { weight, bias });
    let head = HeadFloats {
        norm: None,
        pooler,
        map: MapFloats {
            weight: &weight,
            bias: &bias,
        },
    };
    quantize(
        &spec,
        model.blocks.get(frozen_layers..).unwrap_or(&[]),
        &head,
    )
}
