//! The configuration of a LLaMA-family decoder: sizes, maps and tensors by Hugging Face's names.

use serde::{Deserialize, Serialize};

use super::MODULES;
use crate::{ModelConfig, TokenIds, size};

/// The architecture of a LLaMA-family decoder, with Hugging Face's names (`config.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    #[serde(default = "llama")]
    pub model_type: String,
    #[serde(default)]
    pub architectures: Vec<String>,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Equal to `num_attention_heads` where a file leaves it out; see [`Self::normalize`].
    #[serde(default)]
    pub num_key_value_heads: usize,
    /// `hidden_size / num_attention_heads` where a file leaves it out; see [`Self::normalize`].
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

impl LlamaConfig {
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
        size::check_memory(&self)?;
        Ok(self)
    }
}

impl ModelConfig for LlamaConfig {
    fn hidden_size(&self) -> usize {
        self.hidden_size
    }

    fn intermediate_size(&self) -> usize {
        self.intermediate_size
    }

    fn num_hidden_layers(&self) -> usize {
        self.num_hidden_layers
    }

    fn num_attention_heads(&self) -> usize {
        self.num_attention_heads
    }

    fn num_key_value_heads(&self) -> usize {
        self.num_key_value_heads
    }

    fn head_dim(&self) -> usize {
        self.head_dim
    }

    fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    fn max_position_embeddings(&self) -> usize {
        self.max_position_embeddings
    }

    fn modules(&self) -> &'static [&'static str] {
        &MODULES
    }

    fn module_shape(&self, module: &str) -> Option<[usize; 2]> {
        let q = self.num_attention_heads * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        Some(match module {
            "q_proj" => [q, self.hidden_size],
            "k_proj" | "v_proj" => [kv, self.hidden_size],
            "o_proj" => [self.hidden_size, q],
            "gate_proj" | "up_proj" => [self.intermediate_size, self.hidden_size],
            "down_proj" => [self.hidden_size, self.intermediate_size],
            _ => return None,
        })
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let table = vec![self.vocab_size, self.hidden_size];
        let mut all = vec![(EMBEDDING.to_owned(), table.clone())];
        if !self.tie_word_embeddings {
            all.push((HEAD.to_owned(), table));
        }
        all.push(("model.norm.weight".to_owned(), vec![self.hidden_size]));
        for layer in 0..self.num_hidden_layers {
            for module in MODULES {
                let shape = self.module_shape(module).expect("a module of the list");
                all.push((
                    format!("{}.weight", module_path(layer, module)),
                    shape.into(),
                ));
            }
            for norm in NORMS {
                let name = format!("{}{layer}.{norm}.weight", self.layer_prefix());
                all.push((name, vec![self.hidden_size]));
            }
        }
        all
    }

    fn layer_prefix(&self) -> &'static str {
        "model.layers."
    }

    fn tied_head(&self) -> Option<(&'static str, &'static str)> {
        self.tie_word_embeddings.then_some((HEAD, EMBEDDING))
    }

    fn check_sizes(&self) -> Result<(), String> {
        size::check_sizes(self)
    }
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";
/// The norms of a layer.
const NORMS: [&str; 2] = ["input_layernorm", "post_attention_layernorm"];

/// Hugging Face's path of a module: `model.layers.3.self_attn.q_proj`.
pub fn module_path(layer: usize, module: &str) -> String {
    let part = if matches!(module, "gate_proj" | "up_proj" | "down_proj") {
        "mlp"
    } else {
        "self_attn"
    };
    format!("model.layers.{layer}.{part}.{module}")
}
