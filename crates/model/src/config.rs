//! What code for every architecture asks of a model's configuration.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::ModelError;

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

/// The sizes of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// Rows of the token embedding.
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
}

/// Sizes, maps and tensors of an architecture, by the names of its checkpoints.
pub trait ModelConfig {
    fn sizes(&self) -> Sizes;

    fn hidden_size(&self) -> usize {
        self.sizes().hidden_size
    }

    fn intermediate_size(&self) -> usize {
        self.sizes().intermediate_size
    }

    fn num_hidden_layers(&self) -> usize {
        self.sizes().num_hidden_layers
    }

    fn num_attention_heads(&self) -> usize {
        self.sizes().num_attention_heads
    }

    fn num_key_value_heads(&self) -> usize {
        self.sizes().num_key_value_heads
    }

    fn head_dim(&self) -> usize {
        self.sizes().head_dim
    }

    fn vocab_size(&self) -> usize {
        self.sizes().vocab_size
    }

    fn max_position_embeddings(&self) -> usize {
        self.sizes().max_position_embeddings
    }

    /// The linear maps of a layer, by their names in it, in the order of the checkpoint.
    fn modules(&self) -> &'static [&'static str];

    /// `[out, in]` of a map of [`Self::modules`].
    fn module_shape(&self, module: &str) -> Option<[usize; 2]>;

    /// Every tensor of the checkpoint with its shape. A tied head is the embedding, and not named.
    fn tensors(&self) -> Vec<(String, Vec<usize>)>;

    /// What stands in front of a layer's number: `model.layers.`.
    fn layer_prefix(&self) -> &'static str;

    /// A head that is the embedding: the names of both. A file may have the head too.
    fn tied_head(&self) -> Option<(&'static str, &'static str)>;

    /// # Errors
    /// A sentence about the first size that no model can have.
    fn check_sizes(&self) -> Result<(), String>;

    /// What scores are multiplied by in front of their softmax, beside `1 / sqrt(head_dim)`.
    fn score_factor(&self) -> f64 {
        1.0
    }

    /// What scores are multiplied by in front of their softmax.
    fn score_scale(&self) -> f64 {
        self.score_factor() / (self.head_dim() as f64).sqrt()
    }

    /// How many keys a row of a layer sees, itself included; none: all up to it.
    fn window(&self, _layer: usize) -> Option<usize> {
        None
    }

    /// The layer of a tensor; `None` for one outside the layers.
    fn layer_of(&self, tensor: &str) -> Option<usize> {
        let rest = tensor.strip_prefix(self.layer_prefix())?;
        rest.split('.').next()?.parse().ok()
    }

    /// Whether a tensor of a private layer is public all the same, in every form of a private
    /// part.
    fn is_public(&self, _tensor: &str) -> bool {
        false
    }

    /// The key-value head that a query head reads.
    fn kv_head(&self, query_head: usize) -> usize {
        query_head / (self.num_attention_heads() / self.num_key_value_heads())
    }
}

/// Reads `config.json` of a folder, which must name `model_type`.
pub(crate) fn read_config<T: serde::de::DeserializeOwned>(
    dir: &Path,
    model_type: &'static str,
    why: &'static str,
) -> Result<T, ModelError> {
    let path = dir.join("config.json");
    if !path.is_file() {
        return Err(ModelError::NotACheckpoint { path: dir.into() });
    }
    let text = std::fs::read_to_string(&path).map_err(ModelError::io(&path))?;
    let json: serde_json::Value =
        serde_json::from_str(&text).map_err(|e| ModelError::corrupt(&path, e))?;
    let found = json["model_type"].as_str().unwrap_or_default();
    if found != model_type {
        return Err(ModelError::Unsupported {
            path,
            key: "model_type".into(),
            value: found.into(),
            why: why.into(),
        });
    }
    serde_json::from_value(json).map_err(|e| ModelError::corrupt(&path, e))
}
