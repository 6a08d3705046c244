//! The configuration of a LLaMA-family decoder: sizes, maps and tensors by Hugging Face's names.

use serde::{Deserialize, Deserializer, Serialize, de::Error};

use super::MODULES;
use crate::{
    ModelConfig, QkNorm, RopeScaling, Sizes, TokenIds,
    account::families::{Family, FamilyKeys, Traits},
    size,
};

/// The architecture of a LLaMA-family decoder, with Hugging Face's names (`config.json`).
///
/// What a family has beside LLaMA is left out where it is not there, so that older manifests and
/// their digests stay what they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LlamaConfig {
    #[serde(default = "llama", deserialize_with = "known_family")]
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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rope_scaling: Option<RopeScaling>,
    pub max_position_embeddings: usize,
    /// What not every family has.
    #[serde(flatten)]
    pub keys: FamilyKeys,
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

/// A family that this version does not know would be computed as another one.
fn known_family<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    match Family::of(&name) {
        Ok(_) => Ok(name),
        Err(why) => Err(D::Error::custom(format!(
            "model_type = {name} is not supported: {why}"
        ))),
    }
}

/// LLaMA's, without sizes; what a file says is filled in.
impl Default for LlamaConfig {
    fn default() -> Self {
        Self {
            model_type: llama(),
            architectures: Vec::new(),
            hidden_size: 0,
            intermediate_size: 0,
            num_hidden_layers: 0,
            num_attention_heads: 0,
            num_key_value_heads: 0,
            head_dim: 0,
            vocab_size: 0,
            rms_norm_eps: 0.0,
            rope_theta: rope_theta(),
            rope_scaling: None,
            max_position_embeddings: 0,
            keys: FamilyKeys::default(),
            tie_word_embeddings: false,
            bos_token_id: None,
            eos_token_id: None,
            pad_token_id: None,
            quantization_config: None,
        }
    }
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
            self.architectures.push(self.family().architecture.into());
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
        if let Some(scaling) = &self.rope_scaling {
            let check = scaling.check(self.head_dim);
            check.map_err(|(key, problem)| format!("`rope_scaling.{key}` {problem}"))?;
            // It multiplies rotated queries and keys alone.
            let stays = (0..self.num_hidden_layers).any(|layer| !self.rotates(layer));
            if stays && (scaling.attention_factor() - 1.0).abs() > 1e-12 {
                let why = "scales the scores of layers that rotate alone, which is not computed";
                return Err(format!("`rope_scaling` beside `no_rope_layers` {why}"));
            }
        }
        for (key, value) in self.keys.multipliers() {
            if value.is_some_and(|value| !(value.is_finite() && value > 0.0)) {
                return Err(format!("`{key}` is no positive number"));
            }
        }
        size::check_memory(&self)?;
        Ok(self)
    }

    fn family(&self) -> &'static Family {
        Family::of(&self.model_type).expect("checked wherever a configuration comes from")
    }

    fn traits(&self) -> &'static Traits {
        &self.family().traits
    }

    /// Its `model_type`, as the family that it is.
    pub(crate) fn family_name(&self) -> &'static str {
        self.family().model_type
    }

    /// Whether a map of [`MODULES`] has a bias.
    pub fn has_bias(&self, module: &str) -> bool {
        match module {
            "q_proj" | "k_proj" | "v_proj" => self.keys.attention_bias || self.traits().qkv_bias,
            "o_proj" => self.keys.attention_bias,
            _ => self.keys.mlp_bias,
        }
    }

    /// Whether queries and keys of a layer are rotated by their position.
    pub fn rotates(&self, layer: usize) -> bool {
        self.keys.no_rope_layers.get(layer) != Some(&0)
    }

    /// What the rows of the embedding are multiplied by.
    pub fn embedding_multiplier(&self) -> f64 {
        self.keys.embedding_multiplier.unwrap_or(1.0)
    }

    /// What is multiplied by it is what attention and MLP add to the stream.
    pub fn residual_multiplier(&self) -> f64 {
        self.keys.residual_multiplier.unwrap_or(1.0)
    }

    /// What logits are divided by.
    pub fn logits_scaling(&self) -> f64 {
        self.keys.logits_scaling.unwrap_or(1.0)
    }

    /// Whether files of the family have queries, keys and values as one map.
    pub fn is_fused(&self) -> bool {
        self.traits().fused
    }

    /// Norms of queries and keys in front of the rotation.
    pub fn qk_norm(&self) -> Option<QkNorm> {
        self.traits().qk_norm
    }

    /// Sizes of the rows that the norms of queries and keys take, where there are norms.
    pub fn qk_norm_sizes(&self) -> Option<[usize; 2]> {
        Some(match self.qk_norm()? {
            QkNorm::Head => [self.head_dim; 2],
            QkNorm::Whole => [
                self.num_attention_heads * self.head_dim,
                self.num_key_value_heads * self.head_dim,
            ],
        })
    }

    /// What the frequencies of the rotation are divided by; empty where it is nothing.
    pub fn rope_divisors(&self) -> Vec<f64> {
        let scaling = self.rope_scaling.as_ref();
        scaling.map_or_else(Vec::new, |scaling| {
            scaling.divisors(self.head_dim, self.rope_theta)
        })
    }
}

impl ModelConfig for LlamaConfig {
    fn sizes(&self) -> Sizes {
        let limit = self.max_position_embeddings;
        let scaling = self.rope_scaling.as_ref();
        Sizes {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            vocab_size: self.vocab_size,
            max_position_embeddings: scaling.map_or(limit, |scaling| scaling.positions(limit)),
        }
    }

    fn score_factor(&self) -> f64 {
        let scaling = self.rope_scaling.as_ref();
        let rotated = scaling.map_or(1.0, |scaling| scaling.attention_factor().powi(2));
        let root = (self.head_dim as f64).sqrt();
        let multiplier = self.keys.attention_multiplier;
        multiplier.map_or(1.0, |multiplier| multiplier * root) * rotated
    }

    fn window(&self, layer: usize) -> Option<usize> {
        self.keys.window(layer)
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
                let path = module_path(layer, module);
                all.push((format!("{path}.weight"), shape.into()));
                if self.has_bias(module) {
                    all.push((format!("{path}.bias"), vec![shape[0]]));
                }
            }
            for (norm, size) in QK_NORMS
                .into_iter()
                .zip(self.qk_norm_sizes().into_iter().flatten())
            {
                all.push((format!("{}.weight", module_path(layer, norm)), vec![size]));
            }
            for norm in NORMS {
                let name = format!("{}{layer}.{norm}.weight", self.layer_prefix());
                all.push((name, vec![self.hidden_size]));
            }
        }
        all
    }

    /// The gains of the norms of queries and keys: the secure program has them as public rows.
    fn is_public(&self, tensor: &str) -> bool {
        QK_NORMS
            .iter()
            .any(|norm| tensor.ends_with(&format!("self_attn.{norm}.weight")))
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
/// Those of queries and keys, beside their maps.
const QK_NORMS: [&str; 2] = ["q_norm", "k_norm"];

/// Hugging Face's path of a module: `model.layers.3.self_attn.q_proj`.
pub fn module_path(layer: usize, module: &str) -> String {
    let part = if matches!(module, "gate_proj" | "up_proj" | "down_proj") {
        "mlp"
    } else {
        "self_attn"
    };
    format!("model.layers.{layer}.{part}.{module}")
}
