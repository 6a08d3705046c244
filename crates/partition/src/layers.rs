//! What GPT-2 and BERT have in common on the way from floats to integers.

use candle_core::Tensor;
use candle_nn::Linear;
use marill_model::{AffineBlock, LayerNorm, ModelError};
use marill_mpc::{
    AffineLayerFloats, Architecture, HeadFloats, MapFloats, NormFloats, ProgramSpec, PublicWeights,
};
use marill_numeric::NumericSpec;

use crate::PartitionError;

/// Sizes that GPT-2 and BERT have in common.
pub(crate) struct Shape {
    pub hidden: usize,
    pub inner: usize,
    pub heads: usize,
    pub positions: usize,
}

impl Shape {
    pub fn spec(
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
            head_weights: Vec::new(),
            lora_rank: rank,
            lora_ranks: Vec::new(),
            numeric: NumericSpec::default(),
            architecture,
            private: Default::default(),
            approx: Default::default(),
            variant: Default::default(),
        }
    }
}

/// Gain and bias of a layer norm.
pub(crate) struct OwnedNorm(Vec<f32>, Vec<f32>);

impl OwnedNorm {
    pub fn of(norm: &LayerNorm) -> Result<Self, PartitionError> {
        Ok(Self(floats(&norm.weight)?, floats(&norm.bias)?))
    }

    pub fn floats(&self) -> NormFloats<'_> {
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

/// The program's weights of some layers and their head.
pub(crate) fn quantize(
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
pub(crate) fn map(linear: &Linear) -> Result<(Vec<f32>, Vec<f32>), PartitionError> {
    let bias = linear.bias().map_or_else(|| Ok(Vec::new()), floats)?;
    Ok((floats(linear.weight())?, bias))
}

/// The values of a tensor, row-major.
pub(crate) fn floats(tensor: &Tensor) -> Result<Vec<f32>, PartitionError> {
    let values = tensor.flatten_all().and_then(|flat| flat.to_vec1());
    Ok(values.map_err(ModelError::from)?)
}
