//! What GPT-2 and BERT are made of: maps and layer norms with biases, plain multi-head attention.
//!
//! Axes: `N` rows, `M` keys, `H` heads, `D` head size.

use std::{collections::BTreeMap, path::Path};

use candle_core::{D, DType, Device, Tensor};

use crate::ModelError;

/// `x · Wᵀ + b`, `weight [out, in]`.
#[derive(Clone)]
pub struct Affine {
    pub weight: Tensor,
    pub bias: Tensor,
}

impl Affine {
    /// # Errors
    /// From candle.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)
    }
}

/// `(x - mean) / sqrt(variance + epsilon) · gain + bias` of every row.
#[derive(Clone)]
pub struct LayerNorm {
    pub gain: Tensor,
    pub bias: Tensor,
    pub epsilon: f64,
}

impl LayerNorm {
    /// # Errors
    /// From candle.
    pub fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let centered = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let variance = centered.sqr()?.mean_keepdim(D::Minus1)?;
        let scaled = centered.broadcast_div(&(variance + self.epsilon)?.sqrt()?)?;
        scaled.broadcast_mul(&self.gain)?.broadcast_add(&self.bias)
    }
}

/// The weights of one layer. GPT-2 has its norms before attention and MLP, BERT after.
#[derive(Clone)]
pub struct AffineBlock {
    pub norms: [LayerNorm; 2],
    pub q: Affine,
    pub k: Affine,
    pub v: Affine,
    pub o: Affine,
    pub up: Affine,
    pub down: Affine,
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
    let weights = scores
        .broadcast_sub(&scores.max_keepdim(D::Minus1)?)?
        .exp()?;
    let attended = weights
        .broadcast_div(&weights.sum_keepdim(D::Minus1)?)?
        .matmul(&v)?;
    attended.transpose(0, 1)?.contiguous()?.reshape((n, width))
}

/// Named f32 tensors of a folder, under a prefix that a file may or may not write.
pub(crate) struct Weights {
    tensors: BTreeMap<String, Tensor>,
    prefix: &'static str,
}

impl Weights {
    pub(crate) fn new(tensors: BTreeMap<String, Tensor>, prefix: &'static str) -> Self {
        Self { tensors, prefix }
    }

    /// All `*.safetensors` of a folder.
    pub(crate) fn read(dir: &Path, prefix: &'static str) -> Result<Self, ModelError> {
        crate::threads::keep_candle_from_spinning();
        let mut tensors = BTreeMap::new();
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
        Ok(Self::new(tensors, prefix))
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    fn find(&self, name: &str) -> Option<&Tensor> {
        self.tensors
            .get(name)
            .or_else(|| self.tensors.get(&format!("{}.{name}", self.prefix)))
    }

    pub(crate) fn tensor(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let tensor = self
            .find(name)
            .ok_or_else(|| ModelError::MissingTensor { name: name.into() })?;
        if tensor.dims() != shape {
            let (found, expected) = (tensor.dims().to_vec(), shape.to_vec());
            return Err(ModelError::Shape {
                name: name.into(),
                found,
                expected,
            });
        }
        Ok(tensor.clone())
    }

    /// A matrix of `cols` columns and whatever rows the file has.
    pub(crate) fn any_rows(&self, name: &str, cols: usize) -> Result<Tensor, ModelError> {
        let rows = self
            .find(name)
            .and_then(|t| t.dims().first().copied())
            .unwrap_or(0);
        self.tensor(name, &[rows, cols])
    }

    pub(crate) fn affine(
        &self,
        name: &str,
        out: usize,
        inner: usize,
    ) -> Result<Affine, ModelError> {
        let weight = self.tensor(&format!("{name}.weight"), &[out, inner])?;
        Ok(Affine {
            weight,
            bias: self.tensor(&format!("{name}.bias"), &[out])?,
        })
    }

    pub(crate) fn norm(
        &self,
        name: &str,
        width: usize,
        epsilon: f64,
    ) -> Result<LayerNorm, ModelError> {
        let gain = self.tensor(&format!("{name}.weight"), &[width])?;
        Ok(LayerNorm {
            gain,
            bias: self.tensor(&format!("{name}.bias"), &[width])?,
            epsilon,
        })
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
            why,
        });
    }
    serde_json::from_value(json).map_err(|e| ModelError::corrupt(&path, e))
}

/// Rows of an embedding table.
pub(crate) fn embed(table: &Tensor, tokens: &[u32]) -> Result<Tensor, ModelError> {
    let vocab_size = table.dim(0)?;
    if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab_size) {
        return Err(ModelError::TokenOutOfRange { token, vocab_size });
    }
    Ok(table.index_select(&Tensor::new(tokens, table.device())?, 0)?)
}
