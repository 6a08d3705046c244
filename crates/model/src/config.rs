//! The `config.json` of a LLaMA-family decoder, its defaults and the checks on it.

use serde::{Deserialize, Serialize};

/// Token ids that Hugging Face writes as one number or as a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TokenIds {
    One(u32),
    Many(Vec<u32>),
}

impl TokenIds {
    /// All ids, in the order of the file.
    pub fn ids(&self) -> &[u32] {
        match self {
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }
}

/// The architecture of a LLaMA-family decoder, with Hugging Face's names (`config.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    #[serde(default = "llama")]
    pub model_type: String,
    #[serde(default)]
    pub architectures: Vec<String>,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Equal to `num_attention_heads` where a file leaves it out; see [`Config::normalize`].
    #[serde(default)]
    pub num_key_value_heads: usize,
    /// `hidden_size / num_attention_heads` where a file leaves it out; see [`Config::normalize`].
    #[serde(default)]
    pub head_dim: usize,
    pub vocab_size: usize,
    pub rms_norm_eps: f64,
    #[serde(default = "rope_theta")]
    pub rope_theta: f64,
    pub max_position_embeddings: usize,
    #[serde(default)]
    pub tie_word_embeddings: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bos_token_id: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eos_token_id: Option<TokenIds>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pad_token_id: Option<u32>,
    /// How stored weights are scaled, where they are; see [`crate::Checkpoint::open`]. Weights in
    /// memory are not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization_config: Option<serde_json::Value>,
}

fn llama() -> String {
    "llama".into()
}

fn rope_theta() -> f64 {
    10_000.0
}

impl Config {
    /// Fills in what Hugging Face files may leave out and says what cannot be right.
    ///
    /// # Errors
    /// A sentence about the first field that no LLaMA-family model of this crate can have, or that
    /// this machine's memory cannot hold. Nothing is allocated before.
    pub fn normalize(mut self) -> Result<Self, String> {
        if self.num_key_value_heads == 0 {
            self.num_key_value_heads = self.num_attention_heads;
        }
        if self.head_dim == 0 && self.num_attention_heads > 0 {
            self.head_dim = self.hidden_size / self.num_attention_heads;
        }
        if self.architectures.is_empty() {
            self.architectures.push("LlamaForCausalLM".into());
        }
        self.check_sizes()?;
        if !self
            .num_attention_heads
            .is_multiple_of(self.num_key_value_heads)
        {
            return Err("`num_attention_heads` must be a multiple of `num_key_value_heads`".into());
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err("`head_dim` must be even".into());
        }
        if !(0.0..=1.0).contains(&self.rms_norm_eps) {
            return Err(format!(
                "`rms_norm_eps` = {} is no small number",
                self.rms_norm_eps
            ));
        }
        if !(self.rope_theta.is_finite() && self.rope_theta > 0.0) {
            return Err(format!("`rope_theta` = {} is no base", self.rope_theta));
        }
        self.check_memory()?;
        Ok(self)
    }

    /// The key-value head that a query head reads.
    pub fn kv_head(&self, query_head: usize) -> usize {
        query_head / (self.num_attention_heads / self.num_key_value_heads)
    }

    /// Whether the architecture has a tensor of this Hugging Face name.
    pub(crate) fn has_tensor(&self, name: &str) -> bool {
        let Some((layer, rest)) = name
            .strip_prefix("model.layers.")
            .and_then(|rest| rest.split_once('.'))
        else {
            return [
                "model.embed_tokens.weight",
                "model.norm.weight",
                "lm_head.weight",
            ]
            .contains(&name);
        };
        let part = |rest: &str| rest.strip_suffix(".weight").map(str::to_owned);
        let Some((layer, part)) = layer.parse::<usize>().ok().zip(part(rest)) else {
            return false;
        };
        let norm = ["input_layernorm", "post_attention_layernorm"].contains(&part.as_str());
        let module = MODULES
            .iter()
            .any(|module| module_path(layer, module) == format!("model.layers.{layer}.{part}"));
        layer < self.num_hidden_layers && (norm || module)
    }

    /// `[out, in]` of a projection by its Hugging Face name (`q_proj`, ..., `down_proj`).
    pub fn module_shape(&self, module: &str) -> Option<[usize; 2]> {
        let (q, kv) = (
            self.num_attention_heads * self.head_dim,
            self.num_key_value_heads * self.head_dim,
        );
        Some(match module {
            "q_proj" => [q, self.hidden_size],
            "k_proj" | "v_proj" => [kv, self.hidden_size],
            "o_proj" => [self.hidden_size, q],
            "gate_proj" | "up_proj" => [self.intermediate_size, self.hidden_size],
            "down_proj" => [self.hidden_size, self.intermediate_size],
            _ => return None,
        })
    }
}

/// The linear layers of a block, in the order of the checkpoint.
pub const MODULES: [&str; 7] = [
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "gate_proj",
    "up_proj",
    "down_proj",
];

/// Hugging Face's path of a module: `model.layers.3.self_attn.q_proj`.
pub fn module_path(layer: usize, module: &str) -> String {
    let part = if matches!(module, "gate_proj" | "up_proj" | "down_proj") {
        "mlp"
    } else {
        "self_attn"
    };
    format!("model.layers.{layer}.{part}.{module}")
}
