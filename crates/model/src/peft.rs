//! Adapters that the `peft` package wrote: `adapter_config.json` and `adapter_model.safetensors`.
//!
//! Every key of the configuration is computed, known to change nothing, or refused by name. What
//! PEFT can say and [`LoraConfig`] cannot (ranks, scales and maps that differ from layer to layer)
//! becomes the same update in another form: factors get rows and columns of zeros up to the
//! module's largest rank, a scale that differs goes into `B`, and a map without factors gets zeros.

mod selection;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use serde_json::Value;

use self::selection::{Patterns, Selection};
use crate::{
    Adapter, LlamaConfig, LoraConfig, MODULES, ModelConfig, ModelError,
    account::{Account, Ignored, Known},
    fused, named_once,
    var_builder::PEFT_PREFIX,
};

/// PEFT's name of an adapter's description.
pub const CONFIG_FILE: &str = "adapter_config.json";
/// PEFT's name of its factors.
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// What older versions of PEFT wrote, and what `safe_serialization=False` writes.
const PICKLE_FILE: &str = "adapter_model.bin";
/// A rank that no matrix has, in a foreign file.
const MOST_RANK: f64 = 1e6;

/// The keys of `adapter_config.json`, as PEFT 0.5 to 0.21 write them.
const CONFIG: Known = Known {
    used: &[
        "alpha_pattern",
        "exclude_modules",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "peft_type",
        "r",
        "rank_pattern",
        "target_modules",
        "task_type",
        "use_rslora",
    ],
    harmless: &[
        // Names and versions.
        "auto_mapping",
        "base_model_name_or_path",
        "parent_library",
        "peft_version",
        "revision",
        // Of training alone.
        "corda_config",
        "eva_config",
        "inference_mode",
        "lora_dropout",
        "lora_ga_config",
        "runtime_config",
        // PEFT itself sets it to false where the map is no `Conv1D`, and here none is.
        "fan_in_fan_out",
        // They say how something is done that is refused itself.
        "ensure_weight_tying",
        "megatron_core",
        "qalora_group_size",
    ],
    neutral: &[
        ("alora_invocation_tokens", &[]),
        ("arrow_config", &[]),
        ("bias", &["\"none\""]),
        ("kasa_config", &[]),
        ("layer_replication", &["[]"]),
        ("loftq_config", &["{}"]),
        ("lora_bias", &["false"]),
        ("megatron_config", &[]),
        ("modules_to_save", &["[]"]),
        ("monteclora_config", &[]),
        ("target_parameters", &["[]"]),
        ("trainable_token_indices", &["[]", "{}"]),
        ("use_bdlora", &["false"]),
        ("use_dora", &["false"]),
        ("use_qalora", &["false"]),
        ("velora_config", &[]),
    ],
};

/// An adapter of PEFT in this crate's form.
#[derive(Debug, Clone)]
pub struct PeftAdapter {
    pub lora: LoraConfig,
    /// The first layer that has an update, counted over the whole model.
    pub first_layer: usize,
    /// Factors of every target module in the layers from [`Self::first_layer`] on; zeros where
    /// PEFT has none.
    adapter: Adapter,
}

/// One low-rank update as it lies in the file.
struct Update {
    a: Tensor,
    b: Tensor,
    /// The factor on `B A`.
    scale: f64,
}

impl PeftAdapter {
    /// Whether a folder holds an adapter of PEFT.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(CONFIG_FILE).is_file()
            && (dir.join(WEIGHTS_FILE).is_file() || dir.join(PICKLE_FILE).is_file())
    }

    /// Reads an adapter of a model of this configuration.
    ///
    /// # Errors
    /// As [`Self::open_ignoring`].
    pub fn open(dir: &Path, config: &LlamaConfig) -> Result<Self, ModelError> {
        Ok(Self::open_ignoring(dir, config, &[])?.0)
    }

    /// As [`Self::open`], as if `adapter_config.json` had no key that `ignore` names, with the
    /// entries that stand for nothing in it.
    ///
    /// # Errors
    /// [`ModelError::Unaccounted`] for a key that is not computed, [`ModelError::MissingTensor`]
    /// and [`ModelError::Shape`] for factors that the configuration asks for,
    /// [`ModelError::Corrupt`] for a tensor that it does not ask for or that is not finite.
    pub fn open_ignoring(
        dir: &Path,
        config: &LlamaConfig,
        ignore: &[String],
    ) -> Result<(Self, Vec<String>), ModelError> {
        let met = RefCell::default();
        let ignored = Ignored::new(ignore, &met);
        let account = Account::read(&dir.join(CONFIG_FILE), ignored)?;
        let updates = updates(dir, &account, config)?;
        let lora = lora_config(&account, &updates)?;
        let first_layer = updates.keys().map(|(layer, _)| *layer).min();
        let first_layer = first_layer.ok_or_else(|| {
            account.refuse(
                "target_modules",
                &account.keys["target_modules"],
                "means no map of this model",
            )
        })?;
        let mut adapter = Adapter::default();
        for layer in first_layer..config.num_hidden_layers {
            for module in &lora.target_modules {
                let update = updates.get(&(layer, module.clone()));
                let shape = config.module_shape(module).unwrap_or_default();
                let [a, b] = in_form(update, &lora, module, shape)?;
                if !all_finite(&b)? {
                    let scale = update.map_or(1.0, |update| update.scale);
                    let why = format!(
                        "with `alpha_pattern`, the scale {scale} of `{module}` in layer {layer} is \
                         too large"
                    );
                    return Err(wrong_pattern(&account, "lora_alpha", &why));
                }
                adapter.tensors.insert(Adapter::name(layer, module, 'A'), a);
                adapter.tensors.insert(Adapter::name(layer, module, 'B'), b);
            }
        }
        let read = Self {
            lora,
            first_layer,
            adapter,
        };
        Ok((read, ignored.in_vain()))
    }

    /// The factors of the layers from `frozen` on, zeros below [`Self::first_layer`].
    ///
    /// # Errors
    /// From candle. `frozen` must not be above [`Self::first_layer`]: an update would be lost.
    pub fn from_layer(&self, frozen: usize, config: &LlamaConfig) -> Result<Adapter, ModelError> {
        assert!(frozen <= self.first_layer, "an update would be lost");
        let mut adapter = self.adapter.clone();
        for layer in frozen..self.first_layer {
            for module in &self.lora.target_modules {
                let shape = config.module_shape(module).unwrap_or_default();
                let [a, b] = in_form(None, &self.lora, module, shape)?;
                adapter.tensors.insert(Adapter::name(layer, module, 'A'), a);
                adapter.tensors.insert(Adapter::name(layer, module, 'B'), b);
            }
        }
        Ok(adapter)
    }
}

/// Every update of the file by layer and module, checked against the configuration.
fn updates(
    dir: &Path,
    account: &Account<'_>,
    config: &LlamaConfig,
) -> Result<BTreeMap<(usize, String), Update>, ModelError> {
    check_kind(account)?;
    account.check(&[&CONFIG])?;
    check_init(account)?;
    let selection = Selection::read(account)?;
    if let Some(layer) = selection
        .layers()
        .and_then(|layers| layers.iter().find(|l| **l >= config.num_hidden_layers))
    {
        let value = &account.keys["layers_to_transform"];
        let why = format!(
            "names layer {layer}, and the base has layers 0 to {}",
            config.num_hidden_layers - 1
        );
        return Err(account.refuse("layers_to_transform", value, &why));
    }
    let scales = Scales::read(account)?;
    let mut factors = factors(dir)?;
    let mut updates = BTreeMap::new();
    for layer in 0..config.num_hidden_layers {
        for (map, modules) in fused::maps(config) {
            let name = format!("model.layers.{layer}.{map}");
            let selected = selection.has(layer, &name);
            if !selected.map_err(|why| wrong_pattern(account, "target_modules", &why))? {
                continue;
            }
            let shapes: Vec<[usize; 2]> = modules
                .iter()
                .map(|m| config.module_shape(m).unwrap_or_default())
                .collect();
            let whole = [shapes.iter().map(|[out, _]| out).sum(), shapes[0][1]];
            let update = one_update(&mut factors, &name, whole, account, &scales)?;
            let mut first = 0;
            for (module, [out, _]) in modules.iter().zip(shapes) {
                let b = update.b.narrow(0, first, out)?.contiguous()?;
                let part = Update {
                    a: update.a.clone(),
                    b,
                    scale: update.scale,
                };
                updates.insert((layer, (*module).to_owned()), part);
                first += out;
            }
        }
    }
    match factors.keys().next() {
        None => Ok(updates),
        Some(name) => Err(ModelError::corrupt(
            dir.join(WEIGHTS_FILE),
            format!(
                "tensor `{name}` is no factor of a map of the base's layers that \
                 `target_modules` of `{CONFIG_FILE}` names"
            ),
        )),
    }
}

/// Takes both factors of a map out of `factors`; `[out, inner]` is the map's shape.
fn one_update(
    factors: &mut BTreeMap<String, Tensor>,
    name: &str,
    [out, inner]: [usize; 2],
    account: &Account<'_>,
    scales: &Scales,
) -> Result<Update, ModelError> {
    let (rank, scale) = scales.of(account, name)?;
    let mut take = |factor: char, expected: [usize; 2]| {
        let name = format!("{PEFT_PREFIX}{name}.lora_{factor}.weight");
        let tensor = factors.remove(&name);
        let tensor = tensor.ok_or_else(|| ModelError::MissingTensor { name: name.clone() })?;
        if tensor.dims() != expected {
            let found = tensor.dims().to_vec();
            let expected = expected.to_vec();
            return Err(ModelError::Shape {
                name,
                found,
                expected,
            });
        }
        Ok(tensor)
    };
    Ok(Update {
        a: take('A', [rank, inner])?,
        b: take('B', [out, rank])?,
        scale,
    })
}

/// The tensors of `adapter_model.safetensors` in f32, all finite.
fn factors(dir: &Path) -> Result<BTreeMap<String, Tensor>, ModelError> {
    let path = dir.join(WEIGHTS_FILE);
    if !path.is_file() && dir.join(PICKLE_FILE).is_file() {
        let reason = "is a pickle, which can run any program\n\n\
            hint: load it where it was made and save it with `safe_serialization=True`";
        return Err(ModelError::corrupt(dir.join(PICKLE_FILE), reason));
    }
    std::fs::metadata(&path).map_err(ModelError::io(&path))?;
    named_once::check(&path)?;
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu)
        .map_err(|e| ModelError::corrupt(&path, e))?;
    let floats = tensors.into_iter().map(|(name, tensor)| {
        if !matches!(
            tensor.dtype(),
            DType::F16 | DType::BF16 | DType::F32 | DType::F64
        ) {
            let reason = format!(
                "tensor `{name}` holds {}, and factors are floats",
                tensor.dtype().as_str()
            );
            return Err(ModelError::corrupt(&path, reason));
        }
        let tensor = tensor.to_dtype(DType::F32)?;
        if all_finite(&tensor)? {
            return Ok((name, tensor));
        }
        let reason = format!("tensor `{name}` has a value that is no finite number");
        Err(ModelError::corrupt(&path, reason))
    });
    floats.collect()
}

/// Whether every value of an f32 tensor is finite.
fn all_finite(tensor: &Tensor) -> Result<bool, ModelError> {
    let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
    Ok(values.iter().all(|value| value.is_finite()))
}

/// LoRA of a language model, and nothing else.
fn check_kind(account: &Account<'_>) -> Result<(), ModelError> {
    let kind = account.text("peft_type")?;
    let kind = kind.ok_or_else(|| account.missing("peft_type"))?;
    if kind != "LORA" {
        let why = "is not computed, only \"LORA\"";
        return Err(account.refuse("peft_type", &Value::from(kind), why));
    }
    match account.text("task_type")? {
        None | Some("CAUSAL_LM") => Ok(()),
        Some(other) => {
            let why = "is not computed, only \"CAUSAL_LM\"";
            Err(account.refuse("task_type", &Value::from(other), why))
        }
    }
}

/// Beginnings that leave the base as it is. Others take something out of it, and the file is the
/// update of another base.
fn check_init(account: &Account<'_>) -> Result<(), ModelError> {
    let key = "init_lora_weights";
    match account.keys.get(key) {
        None | Some(Value::Bool(_)) => Ok(()),
        Some(Value::String(name)) if ["gaussian", "eva", "orthogonal"].contains(&name.as_str()) => {
            Ok(())
        }
        Some(other) => {
            let why = "changes the base's weights when training begins, so that these factors \
                       belong to another base\n\n\
                       hint: save them with `path_initial_model_for_weight_conversion`, which \
                       turns them into an ordinary LoRA";
            let text = format!("`{key}` = {other} {why}");
            Err(ModelError::corrupt(&account.path, text))
        }
    }
}

fn wrong_pattern(account: &Account<'_>, key: &str, why: &str) -> ModelError {
    ModelError::corrupt(&account.path, format!("`{key}`: {why}"))
}

/// Ranks and scales by the names of maps.
struct Scales {
    rank: f64,
    alpha: f64,
    rslora: bool,
    ranks: Patterns,
    alphas: Patterns,
}

impl Scales {
    fn read(account: &Account<'_>) -> Result<Self, ModelError> {
        let number = |key: &str| account.number(key)?.ok_or_else(|| account.missing(key));
        Ok(Self {
            rank: number("r")?,
            alpha: number("lora_alpha")?,
            rslora: account.flag("use_rslora")?.unwrap_or(false),
            ranks: Patterns::read(account, "rank_pattern")?,
            alphas: Patterns::read(account, "alpha_pattern")?,
        })
    }

    /// Rank and scale of a map.
    fn of(&self, account: &Account<'_>, name: &str) -> Result<(usize, f64), ModelError> {
        let found = |key: &str, patterns: &Patterns| {
            let found = patterns.get(name);
            found.map_err(|why| wrong_pattern(account, key, &why))
        };
        let rank = found("rank_pattern", &self.ranks)?.unwrap_or(self.rank);
        let alpha = found("alpha_pattern", &self.alphas)?.unwrap_or(self.alpha);
        if !(1.0..=MOST_RANK).contains(&rank) || rank.fract() != 0.0 {
            let why = format!("{rank} is no rank of `{name}`");
            return Err(wrong_pattern(account, "r", &why));
        }
        if !alpha.is_finite() {
            let why = format!("{alpha} is no factor of `{name}`");
            return Err(wrong_pattern(account, "lora_alpha", &why));
        }
        let divisor = if self.rslora { rank.sqrt() } else { rank };
        Ok((rank as usize, alpha / divisor))
    }
}

/// The configuration under which as many updates as possible stay what they are.
fn lora_config(
    account: &Account<'_>,
    updates: &BTreeMap<(usize, String), Update>,
) -> Result<LoraConfig, ModelError> {
    let scales = Scales::read(account)?;
    let named: BTreeSet<&str> = updates.keys().map(|(_, module)| module.as_str()).collect();
    let target_modules = MODULES
        .iter()
        .filter(|module| named.contains(*module))
        .map(|module| (*module).to_owned());
    let mut ranks = BTreeMap::new();
    for ((_, module), update) in updates {
        let rank = update.a.dims()[0];
        let most: &mut usize = ranks.entry(module.clone()).or_default();
        *most = rank.max(*most);
    }
    let lora = LoraConfig {
        rank: ranks.values().copied().max().unwrap_or(1),
        // Scales are in `B` where this one is not theirs.
        alpha: if scales.alpha > 0.0 {
            scales.alpha
        } else {
            1.0
        },
        rslora: scales.rslora,
        target_modules: target_modules.collect(),
        ranks,
    };
    Ok(lora.in_one_form())
}

/// `A` and `B` of a module at the rank and scale that `lora` has for it.
fn in_form(
    update: Option<&Update>,
    lora: &LoraConfig,
    module: &str,
    [out, inner]: [usize; 2],
) -> Result<[Tensor; 2], ModelError> {
    let rank = lora.rank_of(module);
    let Some(update) = update else {
        return Ok([
            Tensor::zeros((rank, inner), DType::F32, &Device::Cpu)?,
            Tensor::zeros((out, rank), DType::F32, &Device::Cpu)?,
        ]);
    };
    let missing = rank - update.a.dims()[0];
    let a = update.a.pad_with_zeros(0, 0, missing)?;
    let factor = update.scale / lora.scale_of(module);
    let b = if factor == 1.0 {
        update.b.clone()
    } else {
        let scaled = (update.b.to_dtype(DType::F64)? * factor)?;
        scaled.to_dtype(DType::F32)?
    };
    Ok([
        a.contiguous()?,
        b.pad_with_zeros(1, 0, missing)?.contiguous()?,
    ])
}
