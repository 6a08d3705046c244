//! GPT-2 and BERT as secure programs: what the float models hold, as integers.

use candle_core::Tensor;
use candle_nn::Linear;
use marill_model::{AffineBlock, Bert, Gpt2, LayerNorm, ModelError};
use marill_mpc::{
    AffineLayerFloats, Architecture, HeadFloats, MapFloats, NormFloats, Pooling, ProgramSpec,
    PublicWeights, Reveal, SpecError,
};
use marill_numeric::NumericSpec;

use crate::PartitionError;

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
    let wte = values(model.wte.embeddings())?;
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

struct Shape {
    hidden: usize,
    inner: usize,
    heads: usize,
    positions: usize,
}

impl Shape {
    fn spec(
        &self,
        architecture: Architecture,
        classes: usize,
        num_layers: usize,
        epsilon: f64,
        rank: usize,
    ) -> ProgramSpec {
        let head_dim = self.hidden / self.heads;
        ProgramSpec {
            hidden_size: self.hidden,
            intermediate_size: self.inner,
            num_attention_heads: self.heads,
            num_key_value_heads: self.heads,
            head_dim,
            vocab_size: classes,
            num_layers,
            max_positions: self.positions,
            rms_norm_eps: epsilon,
            rope_theta: 10_000.0,
            head_groups: vec![(0..self.heads).map(|h| vec![h]).collect(); num_layers],
            attn_scale: vec![(head_dim as f64).powf(-0.5); num_layers],
            lora_rank: rank,
            numeric: NumericSpec::default(),
            architecture,
            private: Default::default(),
        }
    }
}

struct OwnedNorm(Vec<f32>, Vec<f32>);

impl OwnedNorm {
    fn of(norm: &LayerNorm) -> Result<Self, PartitionError> {
        Ok(Self(values(&norm.weight)?, values(&norm.bias)?))
    }

    fn floats(&self) -> NormFloats<'_> {
        NormFloats {
            gain: &self.0,
            bias: &self.1,
        }
    }
}

struct OwnedLayer {
    norms: [OwnedNorm; 2],
    maps: [(Vec<f32>, Vec<f32>); 6],
}

impl OwnedLayer {
    fn of(block: &AffineBlock) -> Result<Self, PartitionError> {
        Ok(Self {
            norms: [
                OwnedNorm::of(&block.norms[0])?,
                OwnedNorm::of(&block.norms[1])?,
            ],
            maps: [
                map(&block.q)?,
                map(&block.k)?,
                map(&block.v)?,
                map(&block.o)?,
                map(&block.up)?,
                map(&block.down)?,
            ],
        })
    }

    fn floats(&self) -> AffineLayerFloats<'_> {
        let [q, k, v, o, up, down] = self
            .maps
            .each_ref()
            .map(|(weight, bias)| MapFloats { weight, bias });
        AffineLayerFloats {
            norms: self.norms.each_ref().map(OwnedNorm::floats),
            q,
            k,
            v,
            o,
            up,
            down,
        }
    }
}

fn quantize(
    spec: &ProgramSpec,
    blocks: &[AffineBlock],
    head: &HeadFloats<'_>,
) -> Result<PublicWeights, PartitionError> {
    let owned = blocks
        .iter()
        .map(OwnedLayer::of)
        .collect::<Result<Vec<_>, _>>()?;
    let layers: Vec<AffineLayerFloats<'_>> = owned.iter().map(OwnedLayer::floats).collect();
    Ok(PublicWeights::from_affine_floats(spec, &layers, head)?)
}

/// Weight and bias, which is empty where a map has none.
fn map(linear: &Linear) -> Result<(Vec<f32>, Vec<f32>), PartitionError> {
    let bias = linear.bias().map_or_else(|| Ok(Vec::new()), values)?;
    Ok((values(linear.weight())?, bias))
}

fn values(tensor: &Tensor) -> Result<Vec<f32>, PartitionError> {
    Ok(tensor
        .flatten_all()
        .and_then(|flat| flat.to_vec1())
        .map_err(ModelError::from)?)
}
