//! LLaMA as a secure program: from a base, its transforms and an adapter to integers.

use std::collections::BTreeMap;

use candle_core::Tensor;
use marill_model::{
    Adapter, Architecture, Checkpoint, LayerHeads, LoraConfig, ModelConfig, ModelError, Transforms,
    module_path,
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
    let layers = transforms.frozen_layers..config.num_hidden_layers;
    let heads: Vec<LayerHeads> = layers
        .map(|layer| transforms.heads_of(config, layer))
        .collect();
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
        head_groups: heads.iter().map(numbered).collect(),
        attn_scale: heads.iter().map(LayerHeads::scale).collect(),
        head_weights: head_weights(&heads),
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

/// The groups of a layer with the heads that are left counted from 0.
fn numbered(heads: &LayerHeads) -> Vec<Vec<usize>> {
    let kept = heads.kept();
    let number = |head: &usize| kept.partition_point(|other| other < head);
    let groups = heads.groups.iter();
    groups
        .map(|group| group.iter().map(number).collect())
        .collect()
}

/// What each head that is left weighs; nothing where all weigh the same.
fn head_weights(heads: &[LayerHeads]) -> Vec<Vec<f64>> {
    let of_layer = |heads: &LayerHeads| -> Vec<f64> {
        let kept = heads.kept();
        kept.iter().map(|&head| heads.weight(head)).collect()
    };
    let weights: Vec<Vec<f64>> = heads.iter().map(of_layer).collect();
    if weights.iter().flatten().all(|&weight| weight == 1.0) {
        return Vec::new();
    }
    weights
}

/// The heads of a layer that are not left out, and how wide each is.
struct KeptHeads {
    kept: Vec<usize>,
    all: usize,
    head_dim: usize,
}

impl KeptHeads {
    fn of(config: &dyn ModelConfig, transforms: &Transforms, layer: usize) -> Self {
        Self {
            kept: transforms.heads_of(config, layer).kept(),
            all: config.num_attention_heads(),
            head_dim: config.head_dim(),
        }
    }

    /// Their rows of `values`, row-major with `width` columns and `head_dim` rows for each head.
    fn rows(&self, values: Vec<f32>, width: usize) -> Vec<f32> {
        if self.kept.len() == self.all {
            return values;
        }
        let run = self.head_dim * width;
        let kept = self.kept.iter().map(|head| &values[head * run..][..run]);
        kept.flatten().copied().collect()
    }

    /// Their columns of `values`, row-major with `head_dim` columns for each head.
    fn columns(&self, values: Vec<f32>) -> Vec<f32> {
        if self.kept.len() == self.all {
            return values;
        }
        let rows = values.chunks_exact(self.all * self.head_dim);
        rows.flat_map(|row| self.rows(row.to_vec(), 1)).collect()
    }
}

/// Final norm and head as integers, and the base weights of the private layers unless these are
/// private as a whole. Every party may hold them.
///
/// # Errors
/// [`PartitionError::Model`] on a missing tensor, [`PartitionError::Spec`] on a value out of range.
pub fn public_weights(
    spec: &ProgramSpec,
    base: &Checkpoint,
    transforms: &Transforms,
) -> Result<PublicWeights, PartitionError> {
    let layers = if spec.is_full_rank() {
        0
    } else {
        spec.num_layers
    };
    let owned = layer_floats(&base.config, transforms, layers, |name| {
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
    config: &dyn ModelConfig,
    transforms: &Transforms,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<PrivateWeights, PartitionError> {
    let owned = layer_floats(config, transforms, spec.num_layers, |name| {
        floats(
            tensors
                .get(name)
                .ok_or_else(|| ModelError::MissingTensor { name: name.into() })?,
        )
    })?;
    let layers: Vec<LayerFloats<'_>> = owned.iter().map(borrowed).collect();
    Ok(PrivateWeights::full_from_floats(spec, &layers)?)
}

/// The tensors of the first private layers in the order of [`borrowed`], without what belongs to
/// heads that are left out.
fn layer_floats(
    config: &dyn ModelConfig,
    transforms: &Transforms,
    count: usize,
    get: impl Fn(&str) -> Result<Vec<f32>, PartitionError>,
) -> Result<Vec<[Vec<f32>; 9]>, PartitionError> {
    let layers = transforms.frozen_layers..transforms.frozen_layers + count;
    let of = |layer: usize| {
        let heads = KeptHeads::of(config, transforms, layer);
        let linear = |module: &str| {
            let weight = get(&format!("{}.weight", module_path(layer, module)))?;
            Ok::<_, PartitionError>(match module {
                "q_proj" => heads.rows(weight, config.hidden_size()),
                "o_proj" => heads.columns(weight),
                _ => weight,
            })
        };
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
        let heads = KeptHeads::of(config, transforms, layer);
        let a = floats(a)?;
        let b = floats(b)?;
        Ok(Some(LoraFloats {
            a: if module == "o_proj" {
                heads.columns(a)
            } else {
                a
            },
            b: if module == "q_proj" {
                heads.rows(b, map.rank)
            } else {
                b
            },
            scale: lora.scale_of(module) as f32,
        }))
    };
    let updates = public.spec.maps().map(update);
    let updates = updates.collect::<Result<Vec<_>, PartitionError>>()?;
    Ok(PrivateWeights::from_floats(public, updates)?)
}
