//! What GPT-2 and BERT are made of: maps and layer norms with biases, plain multi-head attention.
//!
//! Axes: `N` rows, `M` keys, `H` heads, `D` head size.

use std::{collections::HashMap, path::Path};

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Embedding, Init, Linear, Module, VarBuilder, ops::softmax};

use crate::ModelError;

/// `(x - mean) / sqrt(variance + eps) · weight + bias` of every row.
///
/// Not candle-nn's: that one takes the variance as `mean(x²) - mean²`, which loses the last bits of
/// rows far from zero.
#[derive(Clone)]
pub struct LayerNorm {
    pub weight: Tensor,
    pub bias: Tensor,
    pub eps: f64,
}

impl LayerNorm {
    pub(crate) fn new(size: usize, eps: f64, vb: &VarBuilder<'_>) -> candle_core::Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(size, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(size, "bias", Init::Const(0.0))?,
            eps,
        })
    }
}

impl Module for LayerNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
        let scaled = centered.broadcast_div(&(variance + self.eps)?.sqrt()?)?;
        scaled
            .broadcast_mul(&self.weight)?
            .broadcast_add(&self.bias)
    }
}

/// The weights of one layer. GPT-2 has its norms before attention and MLP, BERT after.
#[derive(Clone)]
pub struct AffineBlock {
    pub norms: [LayerNorm; 2],
    pub q: Linear,
    pub k: Linear,
    pub v: Linear,
    pub o: Linear,
    pub up: Linear,
    pub down: Linear,
}

/// `softmax(Q Kᵀ / sqrt(D)) V` for every head: `q [N, H·D]`, `k` and `v` `[M, H·D]`. Causal: the
/// queries are the last `N` of `M` positions.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    causal: bool,
) -> candle_core::Result<Tensor> {
    let (n, width) = q.dims2()?;
    let (m, d) = (k.dim(0)?, width / heads);
    let split = |t: &Tensor, rows| t.reshape((rows, heads, d))?.transpose(0, 1)?.contiguous();
    let (q, k, v) = (split(q, n)?, split(k, m)?, split(v, m)?);
    let mut scores = (q.matmul(&k.transpose(1, 2)?.contiguous()?)? / (d as f64).sqrt())?;
    if causal {
        let hidden = |i: usize, j: usize| {
            if j > m - n + i {
                f32::NEG_INFINITY
            } else {
                0.0
            }
        };
        let mask: Vec<f32> = (0..n)
            .flat_map(|i| (0..m).map(move |j| hidden(i, j)))
            .collect();
        scores = scores.broadcast_add(&Tensor::from_vec(mask, (n, m), q.device())?)?;
    }
    let attended = softmax(&scores, D::Minus1)?.matmul(&v)?;
    attended.transpose(0, 1)?.contiguous()?.reshape((n, width))
}

/// All `*.safetensors` of a folder, in f32.
pub(crate) fn read_tensors(dir: &Path) -> Result<HashMap<String, Tensor>, ModelError> {
    crate::threads::keep_candle_from_spinning();
    let mut tensors = HashMap::new();
    for entry in std::fs::read_dir(dir).map_err(ModelError::io(dir))? {
        let path = entry.map_err(ModelError::io(dir))?.path();
        if path.extension().is_none_or(|e| e != "safetensors") {
            continue;
        }
        let loaded = candle_core::safetensors::load(&path, &Device::Cpu);
        for (name, tensor) in loaded.map_err(|e| ModelError::corrupt(&path, e))? {
            tensors.insert(name, tensor.to_dtype(DType::F32)?);
        }
    }
    if tensors.is_empty() {
        return Err(ModelError::NotACheckpoint { path: dir.into() });
    }
    Ok(tensors)
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
            why,
        });
    }
    serde_json::from_value(json).map_err(|e| ModelError::corrupt(&path, e))
}

/// Rows of an embedding table, `[N, hidden]`.
pub(crate) fn embed(table: &Embedding, tokens: &[u32]) -> Result<Tensor, ModelError> {
    let vocab_size = table.embeddings().dim(0)?;
    if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab_size) {
        return Err(ModelError::TokenOutOfRange { token, vocab_size });
    }
    let ids = Tensor::new(tokens, table.embeddings().device())?;
    Ok(table.forward(&ids)?)
}
