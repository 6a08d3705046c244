//! LLaMA as a secure program: from a base, its transforms and an adapter to integers.

use std::collections::BTreeMap;

use candle_core::Tensor;
use marill_model::{
    Adapter, Architecture, Checkpoint, LoraConfig, ModelConfig, ModelError, Transforms, module_path,
};
use marill_mpc::{
    LayerFloats, LoraFloats, PrivateWeights, ProgramSpec, PublicWeights,
    spec::{MAX_POSITIONS, MapSpec},
};
use marill_numeric::NumericSpec;

use crate::{PartitionError, layers::floats};

/// The public description of the private layers that the secure program needs.
///
/// # Errors
/// [`PartitionError::Model`] when the transforms do not fit the architecture, or this is not
/// LLaMA's.
pub fn program_spec(
    config: &Architecture,
    transforms: &Transforms,
    numeric: NumericSpec,
) -> Result<ProgramSpec, PartitionError> {
    let config = config.llama()?;
    transforms.check(config)?;
    let (head_groups, attn_scale) = (transforms.frozen_layers..config.num_hidden_layers)
        .map(|layer| transforms.attention(config, layer))
        .unzip();
    let spec = ProgramSpec {
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_attention_heads: config.num_attention_heads,
        num_key_value_heads: config.num_key_value_heads,
        head_dim: config.head_dim,
        vocab_size: config.vocab_size,
        num_layers: transforms.private_layers(config),
        max_positions: config.max_position_embeddings.min(MAX_POSITIONS),
        rms_norm_eps: config.rms_norm_eps,
        rope_theta: config.rope_theta,
        head_groups,
        attn_scale,
        head_weights: Vec::new(),
        lora_rank: transforms.lora.as_ref().map_or(0, |lora| lora.rank),
        lora_ranks: Vec::new(),
        numeric,
        architecture: marill_mpc::Architecture::Llama,
        private: Default::default(),
        approx: transforms.approx,
    };
    // With one rank for all, a module without an update has one of zeros, as it always had.
    Ok(
        match transforms
            .lora
            .as_ref()
            .filter(|lora| !lora.ranks.is_empty())
        {
            Some(lora) => spec.with_ranks(ranks(config, lora)),
            None => spec,
        },
    )
}

/// The rank of each module in a layer, 0 where it has no update.
fn ranks(config: &dyn ModelConfig, lora: &LoraConfig) -> Vec<usize> {
    let rank = |module: &&str| {
        if lora.targets(module) {
            lora.rank_of(module)
        } else {
            0
        }
    };
    config.modules().iter().map(rank).collect()
}

/// Final norm and head as integers, and the base weights of the private layers unless these are
/// private as a whole. Every party may hold them.
///
/// # Errors
/// [`PartitionError::Model`] on a missing tensor, [`PartitionError::Spec`] on a value out of range.
pub fn public_weights(
    spec: &ProgramSpec,
    base: &Checkpoint,
    frozen_layers: usize,
) -> Result<PublicWeights, PartitionError> {
    let layers = if spec.is_full_rank() {
        0
    } else {
        spec.num_layers
    };
    let owned = layer_floats(frozen_layers..frozen_layers + layers, |name| {
        Ok(base.floats(name)?)
    })?;
    let layers: Vec<LayerFloats<'_>> = owned.iter().map(borrowed).collect();
    let norm = base.floats("model.norm.weight")?;
    let head = base.floats("lm_head.weight")?;
    Ok(PublicWeights::from_floats(spec, &layers, &norm, &head)?)
}

/// The private layers of a full fine-tune, as integers. Only the server holds them.
///
/// # Errors
/// [`PartitionError::Model`] on a missing tensor, [`PartitionError::Spec`] on a value out of range.
pub fn full_weights(
    spec: &ProgramSpec,
    tensors: &BTreeMap<String, Tensor>,
    frozen_layers: usize,
) -> Result<PrivateWeights, PartitionError> {
    let owned = layer_floats(frozen_layers..frozen_layers + spec.num_layers, |name| {
        floats(
            tensors
                .get(name)
                .ok_or_else(|| ModelError::MissingTensor { name: name.into() })?,
        )
    })?;
    let layers: Vec<LayerFloats<'_>> = owned.iter().map(borrowed).collect();
    Ok(PrivateWeights::full_from_floats(spec, &layers)?)
}

/// The tensors of some layers in the order of [`borrowed`].
fn layer_floats(
    layers: std::ops::Range<usize>,
    get: impl Fn(&str) -> Result<Vec<f32>, PartitionError>,
) -> Result<Vec<[Vec<f32>; 9]>, PartitionError> {
    let of = |layer: usize| {
        let linear = |module: &str| get(&format!("{}.weight", module_path(layer, module)));
        let norm = |name: &str| get(&format!("model.layers.{layer}.{name}.weight"));
        Ok([
            norm("input_layernorm")?,
            linear("q_proj")?,
            linear("k_proj")?,
            linear("v_proj")?,
            linear("o_proj")?,
            norm("post_attention_layernorm")?,
            linear("gate_proj")?,
            linear("up_proj")?,
            linear("down_proj")?,
        ])
    };
    layers.map(of).collect()
}

fn borrowed(
    [input_norm, q, k, v, o, post_norm, gate, up, down]: &[Vec<f32>; 9],
) -> LayerFloats<'_> {
    LayerFloats {
        input_layernorm: input_norm,
        q_proj: q,
        k_proj: k,
        v_proj: v,
        o_proj: o,
        post_attention_layernorm: post_norm,
        gate_proj: gate,
        up_proj: up,
        down_proj: down,
    }
}

/// The low-rank factors of the private layers, as integers. Only the server holds them.
///
/// # Errors
/// [`PartitionError::Model`] on a missing or misshapen factor, [`PartitionError::Spec`] on a value
/// out of range.
pub fn private_weights(
    public: &PublicWeights,
    config: &dyn ModelConfig,
    transforms: &Transforms,
    adapter: &Adapter,
) -> Result<PrivateWeights, PartitionError> {
    if let Some(lora) = &transforms.lora {
        adapter.check(config, lora, transforms.frozen_layers)?;
    }
    let update = |map: MapSpec| {
        let module = config.modules()[map.module as usize];
        let layer = transforms.frozen_layers + map.layer;
        let targets = |lora: &&LoraConfig| lora.targets(module);
        let Some(lora) = transforms.lora.as_ref().filter(targets) else {
            return Ok(None);
        };
        let factors = adapter.factors(layer, module);
        let (a, b) = factors.ok_or_else(|| PartitionError::PrivateTensor {
            tensor: Adapter::name(layer, module, 'A'),
            reason: "it is missing".into(),
        })?;
        Ok(Some(LoraFloats {
            a: floats(a)?,
            b: floats(b)?,
            scale: lora.scale_of(module) as f32,
        }))
    };
    let updates = public.spec.maps().map(update);
    let updates = updates.collect::<Result<Vec<_>, PartitionError>>()?;
    Ok(PrivateWeights::from_floats(public, updates)?)
}
