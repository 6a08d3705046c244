//! GPT-2 in floats: learned positions, layer norms before attention and MLP, tied head.

use std::{collections::BTreeMap, ops::Range, path::Path};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    ModelError,
    affine::{Affine, AffineBlock, LayerNorm, Weights, attention, embed, read_config},
};

/// Hugging Face's `config.json` of a GPT-2 model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Gpt2Config {
    pub vocab_size: usize,
    pub n_positions: usize,
    pub n_embd: usize,
    pub n_layer: usize,
    pub n_head: usize,
    #[serde(default)]
    pub n_inner: Option<usize>,
    #[serde(default = "epsilon")]
    pub layer_norm_epsilon: f64,
    #[serde(default = "gelu_new")]
    pub activation_function: String,
}

fn epsilon() -> f64 {
    1e-5
}

fn gelu_new() -> String {
    "gelu_new".into()
}

impl Gpt2Config {
    /// Width of the MLP.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(4 * self.n_embd)
    }

    fn check(&self) -> Result<(), String> {
        if self.n_head == 0 || self.n_layer == 0 || !self.n_embd.is_multiple_of(self.n_head) {
            return Err("`n_head` must divide `n_embd`, and `n_layer` be at least 1".into());
        }
        if !["gelu_new", "gelu", "gelu_pytorch_tanh"].contains(&self.activation_function.as_str()) {
            return Err(format!(
                "`activation_function` = `{}` is not supported",
                self.activation_function
            ));
        }
        Ok(())
    }
}

/// Keys and values of every layer.
#[derive(Clone, Default)]
pub struct Gpt2Cache {
    layers: Vec<Option<(Tensor, Tensor)>>,
    len: usize,
}

/// The model. Maps are `[out, in]`; the checkpoint's Conv1D holds the transpose.
#[derive(Clone)]
pub struct Gpt2 {
    pub config: Gpt2Config,
    pub wte: Tensor,
    pub wpe: Tensor,
    pub blocks: Vec<AffineBlock>,
    pub ln_f: LayerNorm,
}

impl Gpt2 {
    /// Opens a Hugging Face folder: `config.json` and `*.safetensors`.
    ///
    /// # Errors
    /// [`ModelError`] naming the file, key or tensor.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let config: Gpt2Config = read_config(dir, "gpt2", "only `gpt2` is, here")?;
        config
            .check()
            .map_err(|e| ModelError::corrupt(dir.join("config.json"), e))?;
        Self::assemble(config, &Weights::read(dir, "transformer")?)
    }

    /// Builds the model from tensors under Hugging Face's names, with or without `transformer.`
    /// before them.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] or [`ModelError::Shape`].
    pub fn from_tensors(
        config: Gpt2Config,
        tensors: BTreeMap<String, Tensor>,
    ) -> Result<Self, ModelError> {
        config.check().map_err(|reason| ModelError::Transforms {
            what: "config",
            reason,
        })?;
        Self::assemble(config, &Weights::new(tensors, "transformer"))
    }

    fn assemble(config: Gpt2Config, weights: &Weights) -> Result<Self, ModelError> {
        let (d, inner, epsilon) = (config.n_embd, config.inner(), config.layer_norm_epsilon);
        let conv = |name: String, out: usize, inner: usize| -> Result<Affine, ModelError> {
            let weight = weights
                .tensor(&format!("{name}.weight"), &[inner, out])?
                .t()?
                .contiguous()?;
            Ok(Affine {
                weight,
                bias: weights.tensor(&format!("{name}.bias"), &[out])?,
            })
        };
        let block = |l: usize| -> Result<AffineBlock, ModelError> {
            let qkv = conv(format!("h.{l}.attn.c_attn"), 3 * d, d)?;
            let part = |nth: usize| -> Result<Affine, ModelError> {
                let weight = qkv.weight.narrow(0, nth * d, d)?.contiguous()?;
                Ok(Affine {
                    weight,
                    bias: qkv.bias.narrow(0, nth * d, d)?.contiguous()?,
                })
            };
            Ok(AffineBlock {
                norms: [
                    weights.norm(&format!("h.{l}.ln_1"), d, epsilon)?,
                    weights.norm(&format!("h.{l}.ln_2"), d, epsilon)?,
                ],
                q: part(0)?,
                k: part(1)?,
                v: part(2)?,
                o: conv(format!("h.{l}.attn.c_proj"), d, d)?,
                up: conv(format!("h.{l}.mlp.c_fc"), inner, d)?,
                down: conv(format!("h.{l}.mlp.c_proj"), d, inner)?,
            })
        };
        Ok(Self {
            wte: weights.tensor("wte.weight", &[config.vocab_size, d])?,
            wpe: weights.tensor("wpe.weight", &[config.n_positions, d])?,
            blocks: (0..config.n_layer).map(block).collect::<Result<_, _>>()?,
            ln_f: weights.norm("ln_f", d, epsilon)?,
            config,
        })
    }

    /// Token and position embeddings of tokens that follow `cache`, `[N, n_embd]`.
    ///
    /// # Errors
    /// [`ModelError::TokenOutOfRange`], [`ModelError::ContextFull`].
    pub fn embed(&self, tokens: &[u32], cache: &Gpt2Cache) -> Result<Tensor, ModelError> {
        let needed = cache.len + tokens.len();
        if needed > self.config.n_positions {
            return Err(ModelError::ContextFull {
                limit: self.config.n_positions,
                needed,
            });
        }
        Ok((embed(&self.wte, tokens)? + self.wpe.narrow(0, cache.len, tokens.len())?)?)
    }

    /// Runs the layers of `range` on rows that follow `cache`; the caller then adds the rows with
    /// [`Gpt2Cache::advance`].
    ///
    /// # Errors
    /// From candle.
    pub fn run(
        &self,
        x: Tensor,
        range: Range<usize>,
        cache: &mut Gpt2Cache,
    ) -> Result<Tensor, ModelError> {
        cache.layers.resize(self.blocks.len(), None);
        let mut x = x;
        for l in range {
            let b = &self.blocks[l];
            let h = b.norms[0].forward(&x)?;
            let (mut k, mut v) = (b.k.forward(&h)?, b.v.forward(&h)?);
            if let Some((old_k, old_v)) = &cache.layers[l] {
                (k, v) = (Tensor::cat(&[old_k, &k], 0)?, Tensor::cat(&[old_v, &v], 0)?);
            }
            let attended = attention(&b.q.forward(&h)?, &k, &v, self.config.n_head, true)?;
            cache.layers[l] = Some((k, v));
            x = (x + b.o.forward(&attended)?)?;
            let inner = b.up.forward(&b.norms[1].forward(&x)?)?;
            let inner = if self.config.activation_function == "gelu" {
                inner.gelu_erf()?
            } else {
                inner.gelu()?
            };
            x = (x + b.down.forward(&inner)?)?;
        }
        Ok(x)
    }

    /// Logits behind the final norm and the tied head, `[N, vocab]`.
    ///
    /// # Errors
    /// From candle.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.ln_f.forward(x)?.matmul(&self.wte.t()?)?)
    }
}

impl Gpt2Cache {
    /// Counts rows that every layer in use has seen.
    pub fn advance(&mut self, rows: usize) {
        self.len += rows;
    }
}
