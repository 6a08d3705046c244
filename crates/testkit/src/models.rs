//! A tiny random model for tests: every byte per token, a few layers, grouped queries.

use std::{collections::HashMap, path::Path};

use candle_core::{Device, Tensor};
use marill_model::{
    Adapter, Checkpoint, HeadMethod, HeadTransform, LlamaConfig, LoraConfig, MODULES, ModelConfig,
    ModelError, Transforms, module_path, strided_groups,
};
use serde_json::{Value, json};

/// Chat template of the tiny model: one line a turn.
pub const TEMPLATE: &str = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content \
    }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}";

/// Writes a random base of 4 layers into `dir` and opens it. The same `seed` gives the same bits.
///
/// # Errors
/// [`ModelError`] when a file cannot be written.
pub fn tiny_base(dir: &Path, seed: u64) -> Result<Checkpoint, ModelError> {
    let config = serde_json::json!({
        "model_type": "llama", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 259,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "max_position_embeddings": 256, "tie_word_embeddings": true,
        "eos_token_id": 256
    });
    write_settings(dir, &config)?;
    let config: LlamaConfig = serde_json::from_value(config).expect("the literal above");
    let mut random = Random(seed);
    let mut tensors = HashMap::new();
    tensors.insert(
        "model.embed_tokens.weight".to_string(),
        random.tensor(&[259, 32], 1.0)?,
    );
    tensors.insert("model.norm.weight".to_string(), random.gain(32)?);
    for layer in 0..config.num_hidden_layers {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.insert(
                format!("model.layers.{layer}.{norm}.weight"),
                random.gain(32)?,
            );
        }
        for module in MODULES {
            let [rows, cols] = config
                .module_shape(module)
                .expect("MODULES are the modules");
            let weight = random.tensor(&[rows, cols], 1.5 / (cols as f32).sqrt())?;
            tensors.insert(format!("{}.weight", module_path(layer, module)), weight);
        }
    }
    let path = dir.join("model.safetensors");
    candle_core::safetensors::save(&tensors, path)?;
    Checkpoint::open(dir)
}

/// As [`tiny_base`] for another family: `keys` are those of its `config.json` beside, or in place
/// of, the tiny base's, and the tensors are what they ask for. A key that is `null` is left out.
///
/// # Errors
/// [`ModelError`] when a file cannot be written, or the checkpoint is refused.
pub fn tiny_family(dir: &Path, keys: &Value, seed: u64) -> Result<Checkpoint, ModelError> {
    let mut config = json!({
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 259,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256, "tie_word_embeddings": true, "eos_token_id": 256
    });
    for (key, value) in keys.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    let config_keys = config.as_object_mut().expect("the literal above");
    config_keys.retain(|_, value| !value.is_null());
    write_settings(dir, &config)?;
    let account = LlamaConfig::read(&dir.join("config.json"))?;
    let mut random = Random(seed);
    let mut tensors = HashMap::new();
    for (name, shape) in account.tensors() {
        let tensor = match shape[..] {
            [_, cols] if account.layer_of(&name).is_some() => {
                random.tensor(&shape, 1.5 / (cols as f32).sqrt())?
            }
            [size] if name.ends_with("norm.weight") => random.gain(size)?,
            _ => random.tensor(&shape, 1.0)?,
        };
        tensors.insert(name, tensor);
    }
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors"))?;
    Checkpoint::open(dir)
}

/// What stands beside the weights of a tiny model.
fn write_settings(dir: &Path, config: &Value) -> Result<(), ModelError> {
    let io = |path: &Path, text: String| {
        std::fs::write(path, text).map_err(|source| ModelError::Io {
            path: path.into(),
            source,
        })
    };
    std::fs::create_dir_all(dir).map_err(|source| ModelError::Io {
        path: dir.into(),
        source,
    })?;
    io(&dir.join("config.json"), config.to_string())?;
    io(&dir.join("tokenizer.json"), tokenizer_json())?;
    let settings = json!({ "chat_template": TEMPLATE }).to_string();
    io(&dir.join("tokenizer_config.json"), settings)
}

/// Two frozen layers, rank 2 on every module, two heads a softmax when `merged`.
pub fn tiny_transforms(config: &dyn ModelConfig, merged: bool) -> Transforms {
    let heads = merged.then(|| HeadTransform {
        method: HeadMethod::Merge,
        merge: 2,
        grouping: "strided".into(),
        groups: vec![
            strided_groups(config, 2).expect("two key-value heads");
            config.num_hidden_layers() - 2
        ],
        scale: Some(0.25),
        scales: Vec::new(),
        measured: false,
    });
    let target_modules = MODULES.iter().map(ToString::to_string).collect();
    Transforms {
        frozen_layers: 2,
        lora: Some(LoraConfig {
            rank: 2,
            alpha: 4.0,
            rslora: false,
            ranks: Default::default(),
            target_modules,
        }),
        heads,
        approx: Default::default(),
    }
}

/// As [`tiny_transforms`] with the first private layer pruned to a head behind each key-value head,
/// or with heads of weights of their own, in pairs in the first private layer and alone behind it.
pub fn tiny_mixed_heads(config: &dyn ModelConfig, method: HeadMethod) -> Transforms {
    let heads = config.num_attention_heads();
    let alone: Vec<Vec<usize>> = (0..heads).map(|h| vec![h]).collect();
    let per_kv = heads / config.num_key_value_heads();
    let mut groups = vec![alone; config.num_hidden_layers() - 2];
    groups[0] = match method {
        HeadMethod::Merge => strided_groups(config, 2).expect("two key-value heads"),
        HeadMethod::Prune => (1..heads).step_by(per_kv).map(|h| vec![h]).collect(),
    };
    let scale_of = |head: usize| match method {
        HeadMethod::Merge => 0.3 - 0.05 * head as f64,
        HeadMethod::Prune => 1.0 / (config.head_dim() as f64).sqrt(),
    };
    let scales = vec![(0..heads).map(scale_of).collect(); groups.len()];
    let heads = HeadTransform {
        method,
        merge: 2,
        grouping: "measured".into(),
        groups,
        scale: None,
        scales,
        measured: true,
    };
    Transforms {
        heads: Some(heads),
        ..tiny_transforms(config, false)
    }
}

/// Random factors, `B` included, so that the private part matters.
///
/// # Errors
/// None in practice; candle's constructors return results.
pub fn tiny_adapter(
    config: &dyn ModelConfig,
    transforms: &Transforms,
    seed: u64,
) -> Result<Adapter, ModelError> {
    let mut random = Random(seed);
    let mut adapter = Adapter::default();
    let Some(lora) = &transforms.lora else {
        return Ok(adapter);
    };
    for layer in transforms.frozen_layers..config.num_hidden_layers() {
        for module in &lora.target_modules {
            let [out, inner] = config
                .module_shape(module)
                .expect("checked by Transforms::check");
            let scale = 1.0 / (inner as f32).sqrt();
            let rank = lora.rank_of(module);
            adapter.tensors.insert(
                Adapter::name(layer, module, 'A'),
                random.tensor(&[rank, inner], scale)?,
            );
            adapter.tensors.insert(
                Adapter::name(layer, module, 'B'),
                random.tensor(&[out, rank], 0.3)?,
            );
        }
    }
    Ok(adapter)
}

/// The base after an ordinary full fine-tune: every tensor of the layers from `frozen_layers` on is
/// another.
///
/// # Errors
/// None in practice; candle's operations return results.
pub fn tiny_fine_tune(
    base: &Checkpoint,
    frozen_layers: usize,
    seed: u64,
) -> Result<Checkpoint, ModelError> {
    let mut random = Random(seed);
    let mut model = base.clone();
    for (name, tensor) in &mut model.tensors {
        if base.config.layer_of(name) >= Some(frozen_layers) {
            *tensor = (&*tensor + random.tensor(tensor.dims(), 0.1)?)?;
        }
    }
    Ok(model)
}

struct Random(u64);

impl Random {
    /// Uniform in [-1, 1) from SplitMix64.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 23) as f32 - 1.0
    }

    fn tensor(&mut self, shape: &[usize], scale: f32) -> Result<Tensor, ModelError> {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| self.next() * scale)
            .collect();
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }

    fn gain(&mut self, len: usize) -> Result<Tensor, ModelError> {
        let values: Vec<f32> = (0..len).map(|_| 1.0 + 0.1 * self.next()).collect();
        Ok(Tensor::from_vec(values, len, &Device::Cpu)?)
    }
}

/// A byte-level tokenizer without merges: 256 bytes, then three special tokens.
fn tokenizer_json() -> String {
    let mut vocab = serde_json::Map::new();
    let mut stand_in = 256u32;
    for byte in 0..=255u8 {
        // GPT-2's printable stand-ins for bytes.
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let symbol = if printable {
            u32::from(byte)
        } else {
            stand_in += 1;
            stand_in - 1
        };
        let symbol = char::from_u32(symbol).expect("below the surrogates");
        vocab.insert(symbol.to_string(), byte.into());
    }
    let special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
    let added: Vec<_> = (256..)
        .zip(special)
        .map(|(id, content)| {
            serde_json::json!({
                "id": id, "content": content, "single_word": false, "lstrip": false,
                "rstrip": false,
                "normalized": false, "special": true })
        })
        .collect();
    let byte_level = serde_json::json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    serde_json::json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null,
        "pre_tokenizer": byte_level, "post_processor": null, "decoder": byte_level,
        "model": { "type": "BPE", "dropout": null, "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocab,
            "merges": [] }
    })
    .to_string()
}
