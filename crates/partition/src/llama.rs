//! A decoder of the LLaMA family as a secure program: from a base, its transforms and an adapter to
//! integers.

use std::collections::BTreeMap;

use candle_core::Tensor;
use marill_model::{
    Adapter, Architecture, Checkpoint, LayerHeads, LlamaConfig, LoraConfig, MODULES, ModelConfig,
    ModelError, QkNorm, Transforms, module_path,
};
use marill_mpc::{
    LayerFloats, LoraFloats, PrivateWeights, ProgramSpec, PublicWeights, SpecError, Variant,
    spec::{BUCKET, MAX_POSITIONS, MapSpec},
};
use marill_numeric::NumericSpec;

use crate::{PartitionError, layers::floats};

/// The public description of the private layers that the secure program needs.
///
/// # Errors
/// [`PartitionError::Model`] when the transforms do not fit the architecture, or this is none of
/// the LLaMA family; [`PartitionError::Spec`] for a window that is too short for a session.
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
        max_positions: positions(config, transforms.frozen_layers)?,
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
        variant: variant(config, transforms.frozen_layers),
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

/// Most positions of a session. The program's rows see all keys up to their own, so that a session
/// ends where a private layer's window would begin to matter.
fn positions(config: &LlamaConfig, frozen_layers: usize) -> Result<usize, PartitionError> {
    let windows = (frozen_layers..config.num_hidden_layers).filter_map(|l| config.window(l));
    let limit = config.max_position_embeddings().min(MAX_POSITIONS);
    let Some(window) = windows.min().filter(|window| *window < limit) else {
        return Ok(limit);
    };
    if window < BUCKET {
        let problem =
            format!("of {window} keys is shorter than the shortest session, of {BUCKET} positions");
        let field = "sliding_window";
        return Err(SpecError::Invalid { field, problem }.into());
    }
    Ok(window)
}

/// What the family has beside LLaMA's own layers, in the private ones.
fn variant(config: &LlamaConfig, frozen_layers: usize) -> Variant {
    let private = frozen_layers..config.num_hidden_layers;
    let has_biases = MODULES.iter().any(|module| config.has_bias(module));
    let divisors = config.rope_divisors();
    let unrotated = private.filter(|layer| !config.rotates(*layer));
    Variant {
        // One form for one meaning: digests are taken of it.
        rope_divisors: if divisors.iter().all(|divisor| *divisor == 1.0) {
            Vec::new()
        } else {
            divisors
        },
        unrotated_layers: unrotated.map(|layer| layer - frozen_layers).collect(),
        biases: has_biases,
        qk_norm: config.qk_norm().map(|norm| match norm {
            QkNorm::Head => marill_mpc::QkNorm::Head,
            QkNorm::Whole => marill_mpc::QkNorm::Whole,
        }),
    }
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
    let config = base.config.llama()?;
    let get = |name: &str| Ok(base.floats(name)?);
    let owned = if spec.is_full_rank() {
        public_gains(config, transforms, get)?
    } else {
        layer_floats(config, transforms, spec.num_layers, get)?
    };
    let layers: Vec<LayerFloats<'_>> = owned.iter().map(OwnedLayer::floats).collect();
    let norm = base.floats("model.norm.weight")?;
    let mut head = base.floats("lm_head.weight")?;
    scale(&mut head, 1.0 / config.logits_scaling());
    Ok(PublicWeights::from_floats(spec, &layers, &norm, &head)?)
}

/// The private layers of a full fine-tune, as integers. Only the server holds them.
///
/// # Errors
/// [`PartitionError::Model`] on a missing tensor, [`PartitionError::Spec`] on a value out of range.
pub fn full_weights(
    spec: &ProgramSpec,
    config: &Architecture,
    transforms: &Transforms,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<PrivateWeights, PartitionError> {
    let owned = layer_floats(config.llama()?, transforms, spec.num_layers, |name| {
        floats(
            tensors
                .get(name)
                .ok_or_else(|| ModelError::MissingTensor { name: name.into() })?,
        )
    })?;
    let layers: Vec<LayerFloats<'_>> = owned.iter().map(OwnedLayer::floats).collect();
    Ok(PrivateWeights::full_from_floats(spec, &layers)?)
}

/// A private layer in floats, without what belongs to heads that are left out.
#[derive(Default)]
struct OwnedLayer {
    norms: [Vec<f32>; 2],
    /// In the order of [`MODULES`], as are the biases, which are empty where there are none.
    maps: Vec<Vec<f32>>,
    biases: Vec<Vec<f32>>,
    /// Empty where there are none.
    qk_norms: [Vec<f32>; 2],
}

impl OwnedLayer {
    fn floats(&self) -> LayerFloats<'_> {
        let [input_layernorm, post_attention_layernorm] = self.norms.each_ref();
        // A layer of gains alone has no maps.
        let map = |nth: usize| self.maps.get(nth).map_or(&[][..], Vec::as_slice);
        let [q_proj, k_proj, v_proj, o_proj] = [0, 1, 2, 3].map(map);
        let [gate_proj, up_proj, down_proj] = [4, 5, 6].map(map);
        LayerFloats {
            input_layernorm,
            q_proj,
            k_proj,
            v_proj,
            o_proj,
            post_attention_layernorm,
            gate_proj,
            up_proj,
            down_proj,
            biases: &self.biases,
            qk_norms: self.qk_norms.each_ref().map(Vec::as_slice),
        }
    }
}

/// Where tensors come from, by their names in a checkpoint.
type Source<'a> = &'a dyn Fn(&str) -> Result<Vec<f32>, PartitionError>;

/// The first private layers.
fn layer_floats(
    config: &LlamaConfig,
    transforms: &Transforms,
    count: usize,
    get: impl Fn(&str) -> Result<Vec<f32>, PartitionError>,
) -> Result<Vec<OwnedLayer>, PartitionError> {
    let layers = transforms.frozen_layers..transforms.frozen_layers + count;
    let of = |layer: usize| {
        let heads = KeptHeads::of(config, transforms, layer);
        let norm = |name: &str| get(&format!("model.layers.{layer}.{name}.weight"));
        let mut owned = OwnedLayer {
            norms: [norm("input_layernorm")?, norm("post_attention_layernorm")?],
            qk_norms: gains(config, layer, &get)?,
            ..OwnedLayer::default()
        };
        for module in MODULES {
            let path = module_path(layer, module);
            let weight = get(&format!("{path}.weight"))?;
            let mut map = match module {
                "q_proj" => heads.rows(weight, config.hidden_size),
                "o_proj" => heads.columns(weight),
                _ => weight,
            };
            let mut bias = Vec::new();
            if config.has_bias(module) {
                bias = get(&format!("{path}.bias"))?;
                if module == "q_proj" {
                    bias = heads.rows(bias, 1);
                }
            }
            scale(&mut map, out_factor(config, module));
            scale(&mut bias, out_factor(config, module));
            owned.maps.push(map);
            owned.biases.push(bias);
        }
        Ok(owned)
    };
    layers.map(of).collect()
}

/// What a family multiplies the results of a map by, in front of a residual sum.
fn out_factor(config: &LlamaConfig, module: &str) -> f64 {
    match module {
        "o_proj" | "down_proj" => config.residual_multiplier(),
        _ => 1.0,
    }
}

/// Nothing is rounded where the factor is 1.
fn scale(values: &mut [f32], factor: f64) {
    if factor != 1.0 {
        let scaled = |value: f32| (f64::from(value) * factor) as f32;
        values.iter_mut().for_each(|value| *value = scaled(*value));
    }
}

/// What is public of layers that are private as a whole: the gains of the norms of queries and
/// keys, where there are such norms; nothing elsewhere.
fn public_gains(
    config: &LlamaConfig,
    transforms: &Transforms,
    get: impl Fn(&str) -> Result<Vec<f32>, PartitionError>,
) -> Result<Vec<OwnedLayer>, PartitionError> {
    if config.qk_norm().is_none() {
        return Ok(Vec::new());
    }
    let of = |layer| {
        Ok(OwnedLayer {
            qk_norms: gains(config, layer, &get)?,
            ..OwnedLayer::default()
        })
    };
    (transforms.frozen_layers..config.num_hidden_layers)
        .map(of)
        .collect()
}

/// The gains of the norms of a layer's queries and keys.
fn gains(
    config: &LlamaConfig,
    layer: usize,
    get: Source<'_>,
) -> Result<[Vec<f32>; 2], PartitionError> {
    if config.qk_norm().is_none() {
        return Ok([Vec::new(), Vec::new()]);
    }
    let gain = |name: &str| get(&format!("{}.weight", module_path(layer, name)));
    Ok([gain("q_norm")?, gain("k_norm")?])
}

/// The low-rank factors of the private layers, as integers. Only the server holds them.
///
/// # Errors
/// [`PartitionError::Model`] on a missing or misshapen factor, [`PartitionError::Spec`] on a value
/// out of range.
pub fn private_weights(
    public: &PublicWeights,
    config: &Architecture,
    transforms: &Transforms,
    adapter: &Adapter,
) -> Result<PrivateWeights, PartitionError> {
    if let Some(lora) = &transforms.lora {
        adapter.check(config, lora, transforms.frozen_layers)?;
    }
    let config = config.llama()?;
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
            scale: (lora.scale_of(module) * out_factor(config, module)) as f32,
        }))
    };
    let updates = public.spec.maps().map(update);
    let updates = updates.collect::<Result<Vec<_>, PartitionError>>()?;
    Ok(PrivateWeights::from_floats(public, updates)?)
}
