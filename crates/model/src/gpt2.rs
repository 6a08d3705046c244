//! GPT-2 in floats: learned positions, layer norms before attention and MLP, tied head.

use std::{collections::BTreeMap, ops::Range, path::Path};

use candle_core::Tensor;
use candle_nn::{Activation, Embedding, Linear, Module, VarBuilder, init::DEFAULT_KAIMING_NORMAL};
use serde::{Deserialize, Serialize};

use crate::{
    ModelConfig, ModelError, Sizes,
    config::read_config,
    layers::{AffineBlock, LayerNorm, attention, embed},
    size,
    var_builder::{read_tensors, under, var_builder},
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
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// `gelu` is exact, the other names are its approximation by tanh.
    fn activation(&self) -> Activation {
        match self.activation_function.as_str() {
            "gelu" => Activation::Gelu,
            _ => Activation::NewGelu,
        }
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

/// The linear maps of a layer.
const MODULES: [&str; 4] = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];

impl ModelConfig for Gpt2Config {
    fn sizes(&self) -> Sizes {
        Sizes {
            hidden_size: self.n_embd,
            intermediate_size: self.inner(),
            num_hidden_layers: self.n_layer,
            num_attention_heads: self.n_head,
            num_key_value_heads: self.n_head,
            head_dim: self.n_embd.checked_div(self.n_head).unwrap_or(0),
            vocab_size: self.vocab_size,
            max_position_embeddings: self.n_positions,
        }
    }

    fn modules(&self) -> &'static [&'static str] {
        &MODULES
    }

    fn module_shape(&self, module: &str) -> Option<[usize; 2]> {
        let d = self.n_embd;
        Some(match module {
            "attn.c_attn" => [3 * d, d],
            "attn.c_proj" => [d, d],
            "mlp.c_fc" => [self.inner(), d],
            "mlp.c_proj" => [d, self.inner()],
            _ => return None,
        })
    }

    /// Conv1D holds a map as `[in, out]`.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let d = self.n_embd;
        let mut all = vec![
            ("wte.weight".to_owned(), vec![self.vocab_size, d]),
            ("wpe.weight".to_owned(), vec![self.n_positions, d]),
        ];
        let mut add = |name: String, weight: Vec<usize>, out: usize| {
            all.push((format!("{name}.weight"), weight));
            all.push((format!("{name}.bias"), vec![out]));
        };
        for layer in 0..self.n_layer {
            let at = |part: &str| format!("{}{layer}.{part}", self.layer_prefix());
            for module in MODULES {
                let [out, inner] = self.module_shape(module).expect("a module of the list");
                add(at(module), vec![inner, out], out);
            }
            for norm in ["ln_1", "ln_2"] {
                add(at(norm), vec![d], d);
            }
        }
        add("ln_f".to_owned(), vec![d], d);
        all
    }

    fn layer_prefix(&self) -> &'static str {
        "h."
    }

    fn tied_head(&self) -> Option<(&'static str, &'static str)> {
        Some(("lm_head.weight", "wte.weight"))
    }

    fn check_sizes(&self) -> Result<(), String> {
        self.check()?;
        size::check_sizes(self)
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
    pub wte: Embedding,
    pub wpe: Embedding,
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
        Self::new(config, var_builder(read_tensors(dir)?))
    }

    /// As [`Self::new`], from tensors in memory.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn from_tensors(
        config: Gpt2Config,
        tensors: BTreeMap<String, Tensor>,
    ) -> Result<Self, ModelError> {
        Self::new(config, var_builder(tensors))
    }

    /// Builds the model from tensors under Hugging Face's names, with or without `transformer.`
    /// before them.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] or [`ModelError::Shape`], and [`ModelError::Transforms`] for a
    /// configuration that is not supported.
    pub fn new(config: Gpt2Config, vb: VarBuilder<'_>) -> Result<Self, ModelError> {
        config.check().map_err(|reason| ModelError::Transforms {
            what: "config",
            reason,
        })?;
        let vb = under(&vb, "transformer", "wte.weight");
        let d = config.n_embd;
        let epsilon = config.layer_norm_epsilon;
        let blocks = (0..config.n_layer).map(|l| block(&config, &vb.pp("h").pp(l)));
        Ok(Self {
            wte: candle_nn::embedding(config.vocab_size, d, vb.pp("wte"))?,
            wpe: candle_nn::embedding(config.n_positions, d, vb.pp("wpe"))?,
            blocks: blocks.collect::<Result<_, ModelError>>()?,
            ln_f: LayerNorm::new(d, epsilon, &vb.pp("ln_f"))?,
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
        let words = embed(&self.wte, tokens)?;
        let positions: Vec<u32> = (cache.len as u32..needed as u32).collect();
        Ok((words + embed(&self.wpe, &positions)?)?)
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
            let mut k = b.k.forward(&h)?;
            let mut v = b.v.forward(&h)?;
            if let Some((old_k, old_v)) = &cache.layers[l] {
                (k, v) = (Tensor::cat(&[old_k, &k], 0)?, Tensor::cat(&[old_v, &v], 0)?);
            }
            let attended = attention(&b.q.forward(&h)?, &k, &v, self.config.n_head, true)?;
            cache.layers[l] = Some((k, v));
            x = (x + b.o.forward(&attended)?)?;
            let inner = b.up.forward(&b.norms[1].forward(&x)?)?;
            let inner = self.config.activation().forward(&inner)?;
            x = (x + b.down.forward(&inner)?)?;
        }
        Ok(x)
    }

    /// Logits behind the final norm and the tied head, `[N, vocab]`.
    ///
    /// # Errors
    /// From candle.
    pub fn logits(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.ln_f.forward(x)?.matmul(&self.wte.embeddings().t()?)?)
    }
}

impl Gpt2Cache {
    /// Counts rows that every layer in use has seen.
    pub fn advance(&mut self, rows: usize) {
        self.len += rows;
    }
}

/// One layer; `vb` is at it. Conv1D holds `[in, out]`, and queries, keys and values in one map.
fn block(config: &Gpt2Config, vb: &VarBuilder<'_>) -> Result<AffineBlock, ModelError> {
    let d = config.n_embd;
    let inner = config.inner();
    let conv = |vb: VarBuilder<'_>, out: usize, inner: usize| {
        let weight = vb
            .get_with_hints((inner, out), "weight", DEFAULT_KAIMING_NORMAL)?
            .t()?
            .contiguous()?;
        Ok::<_, ModelError>((weight, vb.get(out, "bias")?))
    };
    let map = |vb, out, inner| {
        let (weight, bias) = conv(vb, out, inner)?;
        Ok::<_, ModelError>(Linear::new(weight, Some(bias)))
    };
    let attn = vb.pp("attn");
    let mlp = vb.pp("mlp");
    let (weight, bias) = conv(attn.pp("c_attn"), 3 * d, d)?;
    let part = |nth: usize| {
        let weight = weight.narrow(0, nth * d, d)?.contiguous()?;
        let bias = bias.narrow(0, nth * d, d)?.contiguous()?;
        Ok::<_, ModelError>(Linear::new(weight, Some(bias)))
    };
    let norm = |name: &str| LayerNorm::new(d, config.layer_norm_epsilon, &vb.pp(name));
    Ok(AffineBlock {
        norms: [norm("ln_1")?, norm("ln_2")?],
        q: part(0)?,
        k: part(1)?,
        v: part(2)?,
        o: map(attn.pp("c_proj"), d, d)?,
        up: map(mlp.pp("c_fc"), inner, d)?,
        down: map(mlp.pp("c_proj"), d, inner)?,
    })
}
