//! A checkpoint folder of one small layer, written with changes.

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Tensor};
use marill_model::{Checkpoint, FloatModel, ModelError, Transforms};
use serde_json::{Value, json};

pub struct Folder {
    pub config: Value,
    pub tokenizer: Value,
    pub tokenizer_config: Value,
    pub tensors: HashMap<String, Tensor>,
    /// Further files and their JSON.
    pub more: Vec<(&'static str, Value)>,
    dir: tempfile::TempDir,
}

/// Rows of the embedding.
pub const VOCAB: usize = 400;

impl Folder {
    pub fn new() -> Self {
        let config = json!({
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "head_dim": 4,
            "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "max_position_embeddings": 64,
            "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu"
        });
        let mut tensors = HashMap::new();
        let ramp = |shape: &[usize]| {
            let count: usize = shape.iter().product();
            let values = (0..count)
                .map(|i| (i * 7919 % 211) as f32 / 211.0 - 0.5)
                .collect::<Vec<f32>>();
            Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
        };
        tensors.insert("model.embed_tokens.weight".into(), ramp(&[VOCAB, 8]));
        tensors.insert("model.norm.weight".into(), ramp(&[8]));
        for (name, shape) in [
            ("self_attn.q_proj", [8, 8].as_slice()),
            ("self_attn.k_proj", &[4, 8]),
            ("self_attn.v_proj", &[4, 8]),
            ("self_attn.o_proj", &[8, 8]),
            ("mlp.gate_proj", &[16, 8]),
            ("mlp.up_proj", &[16, 8]),
            ("mlp.down_proj", &[8, 16]),
            ("input_layernorm", &[8]),
            ("post_attention_layernorm", &[8]),
        ] {
            tensors.insert(format!("model.layers.0.{name}.weight"), ramp(shape));
        }
        let dir = tempfile::tempdir().unwrap();
        Self {
            config,
            tokenizer: golden()["tokenizers"]["bytes"].clone(),
            tokenizer_config: json!({}),
            tensors,
            more: vec![],
            dir,
        }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self) {
        let write = |name: &str, value: &Value| {
            std::fs::write(self.path().join(name), value.to_string()).unwrap()
        };
        write("config.json", &self.config);
        write("tokenizer.json", &self.tokenizer);
        write("tokenizer_config.json", &self.tokenizer_config);
        self.more
            .iter()
            .for_each(|(name, value)| write(name, value));
        candle_core::safetensors::save(&self.tensors, self.path().join("model.safetensors"))
            .unwrap();
    }

    pub fn open(&self) -> Result<Checkpoint, ModelError> {
        self.open_ignoring(&[])
    }

    pub fn open_ignoring(&self, ignore: &[&str]) -> Result<Checkpoint, ModelError> {
        self.write();
        Checkpoint::open_ignoring(
            self.path(),
            &ignore.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>(),
        )
    }

    pub fn error(&self) -> String {
        self.open().err().expect("it is refused").to_string()
    }
}

/// What `golden/make.py` wrote.
pub fn golden() -> Value {
    serde_json::from_str(include_str!("templates.json")).unwrap()
}

pub fn f8(t: &Tensor) -> Tensor {
    t.to_dtype(DType::F8E4M3).unwrap()
}

pub fn logits(model: &Checkpoint) -> Vec<f32> {
    FloatModel::new(model, &Transforms::default(), None)
        .unwrap()
        .logits(&[20, 30, 40, 50])
        .unwrap()
}

pub fn with_config(key: &str, value: Value) -> Folder {
    let mut folder = Folder::new();
    folder.config[key] = value;
    folder
}
