//! A BERT encoder in floats, with mean or first-token pooling and, where the checkpoint has one, a
//! linear classifier.

use std::{collections::BTreeMap, ops::Range, path::Path};

use candle_core::{IndexOp, Tensor};
use candle_nn::{Activation, Embedding, Linear, Module, VarBuilder};
use serde::{Deserialize, Serialize};

use crate::{
    ModelConfig, ModelError, Sizes,
    config::read_config,
    layers::{AffineBlock, LayerNorm, attention, embed},
    size,
    var_builder::{read_tensors, under, var_builder},
};

/// Hugging Face's `config.json` of a BERT model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BertConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub intermediate_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub layer_norm_eps: f64,
    #[serde(default = "gelu")]
    pub hidden_act: String,
    #[serde(default = "absolute")]
    pub position_embedding_type: String,
}

fn gelu() -> String {
    "gelu".into()
}

fn absolute() -> String {
    "absolute".into()
}

impl BertConfig {
    fn check(&self) -> Result<(), String> {
        let heads = self.num_attention_heads;
        if heads == 0 || self.num_hidden_layers == 0 || !self.hidden_size.is_multiple_of(heads) {
            return Err(
                "`num_attention_heads` must divide `hidden_size`, and there be at least one layer"
                    .into(),
            );
        }
        if self.hidden_act != "gelu" || self.position_embedding_type != "absolute" {
            let act = &self.hidden_act;
            let positions = &self.position_embedding_type;
            return Err(format!(
                "`hidden_act` = `{act}` with `{positions}` positions is not supported"
            ));
        }
        Ok(())
    }
}

/// The linear maps of a layer.
const MODULES: [&str; 6] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
];

impl ModelConfig for BertConfig {
    fn sizes(&self) -> Sizes {
        let heads = self.num_attention_heads;
        Sizes {
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: heads,
            num_key_value_heads: heads,
            head_dim: self.hidden_size.checked_div(heads).unwrap_or(0),
            vocab_size: self.vocab_size,
            max_position_embeddings: self.max_position_embeddings,
        }
    }

    fn modules(&self) -> &'static [&'static str] {
        &MODULES
    }

    fn module_shape(&self, module: &str) -> Option<[usize; 2]> {
        let d = self.hidden_size;
        Some(match module {
            "intermediate.dense" => [self.intermediate_size, d],
            "output.dense" => [d, self.intermediate_size],
            _ => MODULES.contains(&module).then_some([d, d])?,
        })
    }

    /// Without pooler and classifier, which a checkpoint need not have.
    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let d = self.hidden_size;
        let mut all = Vec::new();
        for (name, rows) in [
            ("word", self.vocab_size),
            ("position", self.max_position_embeddings),
            ("token_type", self.type_vocab_size),
        ] {
            all.push((
                format!("embeddings.{name}_embeddings.weight"),
                vec![rows, d],
            ));
        }
        let mut add = |name: String, weight: Vec<usize>| {
            all.push((format!("{name}.bias"), vec![weight[0]]));
            all.push((format!("{name}.weight"), weight));
        };
        add("embeddings.LayerNorm".to_owned(), vec![d]);
        for layer in 0..self.num_hidden_layers {
            let at = |part: &str| format!("{}{layer}.{part}", self.layer_prefix());
            for module in MODULES {
                let shape = self.module_shape(module).expect("a module of the list");
                add(at(module), shape.into());
            }
            for norm in ["attention.output.LayerNorm", "output.LayerNorm"] {
                add(at(norm), vec![d]);
            }
        }
        all
    }

    fn layer_prefix(&self) -> &'static str {
        "encoder.layer."
    }

    fn tied_head(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    fn check_sizes(&self) -> Result<(), String> {
        self.check()?;
        size::check_sizes(self)
    }
}

/// The model.
#[derive(Clone)]
pub struct Bert {
    pub config: BertConfig,
    pub word_embeddings: Embedding,
    pub position_embeddings: Embedding,
    pub token_type_embeddings: Embedding,
    pub embedding_norm: LayerNorm,
    pub blocks: Vec<AffineBlock>,
    /// `pooler.dense`, in front of tanh, where the file has one. Mean pooling does not use it.
    pub pooler: Option<Linear>,
    /// `[classes, hidden]`, taken from `classifier` where the file has one.
    pub classifier: Option<Linear>,
}

impl Bert {
    /// Opens a Hugging Face folder: `config.json` and `*.safetensors`.
    ///
    /// # Errors
    /// [`ModelError`] naming the file, key or tensor.
    pub fn open(dir: &Path) -> Result<Self, ModelError> {
        let config: BertConfig = read_config(dir, "bert", "only `bert` is, here")?;
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
        config: BertConfig,
        tensors: BTreeMap<String, Tensor>,
    ) -> Result<Self, ModelError> {
        Self::new(config, var_builder(tensors))
    }

    /// Builds the model from tensors under Hugging Face's names, with or without `bert.` before
    /// those of the encoder.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::Shape`], or [`ModelError::Transforms`] for a
    /// configuration that is not supported.
    pub fn new(config: BertConfig, vb: VarBuilder<'_>) -> Result<Self, ModelError> {
        config.check().map_err(|reason| ModelError::Transforms {
            what: "config",
            reason,
        })?;
        let d = config.hidden_size;
        let classifier = vb.pp("classifier");
        let vb = under(&vb, "bert", "embeddings.word_embeddings.weight");
        let embeddings = vb.pp("embeddings");
        let table = |name: &str, rows| candle_nn::embedding(rows, d, embeddings.pp(name));
        let layers = vb.pp("encoder.layer");
        let blocks = (0..config.num_hidden_layers).map(|l| block(&config, &layers.pp(l)));
        let pooler = vb.pp("pooler.dense");
        Ok(Self {
            word_embeddings: table("word_embeddings", config.vocab_size)?,
            position_embeddings: table("position_embeddings", config.max_position_embeddings)?,
            token_type_embeddings: table("token_type_embeddings", config.type_vocab_size)?,
            embedding_norm: LayerNorm::new(d, config.layer_norm_eps, &embeddings.pp("LayerNorm"))?,
            blocks: blocks.collect::<candle_core::Result<_>>()?,
            pooler: if pooler.contains_tensor("weight") {
                Some(candle_nn::linear(d, d, pooler)?)
            } else {
                None
            },
            classifier: if classifier.contains_tensor("weight") {
                let weight = classifier.get_unchecked("weight")?;
                let classes = weight.dims().first().copied().unwrap_or(0);
                Some(candle_nn::linear(d, classes, classifier)?)
            } else {
                None
            },
            config,
        })
    }

    /// Token, position and type embeddings behind their norm, `[N, hidden]`: what a client computes
    /// in clear. `tokens` hold `[CLS]` and `[SEP]` already; all are of type 0.
    ///
    /// # Errors
    /// [`ModelError::TokenOutOfRange`], [`ModelError::ContextFull`].
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor, ModelError> {
        let needed = tokens.len();
        let limit = self.config.max_position_embeddings;
        if needed > limit {
            return Err(ModelError::ContextFull { limit, needed });
        }
        let positions: Vec<u32> = (0..needed as u32).collect();
        let words = embed(&self.word_embeddings, tokens)?;
        let placed = (words + embed(&self.position_embeddings, &positions)?)?;
        let kind = self.token_type_embeddings.embeddings().i(0)?;
        Ok(self.embedding_norm.forward(&placed.broadcast_add(&kind)?)?)
    }

    /// A bound of the norm of every row that [`Self::embed`] can give, whatever the text:
    /// `sqrt(hidden) · max|gain| +
    /// |bias|` of the embedding norm.
    ///
    /// # Errors
    /// From candle.
    pub fn embedding_bound(&self) -> Result<f64, ModelError> {
        let gain: Vec<f32> = self.embedding_norm.weight.to_vec1()?;
        let bias: Vec<f32> = self.embedding_norm.bias.to_vec1()?;
        let largest = gain.iter().fold(0f32, |m, g| m.max(g.abs()));
        let length = bias
            .iter()
            .map(|b| f64::from(*b).powi(2))
            .sum::<f64>()
            .sqrt();
        Ok((self.config.hidden_size as f64).sqrt() * f64::from(largest) + length)
    }

    /// Runs the layers of `range` on one text, `[N, hidden]`.
    ///
    /// # Errors
    /// From candle.
    pub fn run(&self, x: Tensor, range: Range<usize>) -> Result<Tensor, ModelError> {
        let mut x = x;
        for b in &self.blocks[range] {
            let q = b.q.forward(&x)?;
            let k = b.k.forward(&x)?;
            let v = b.v.forward(&x)?;
            let attended = attention(&q, &k, &v, self.config.num_attention_heads, false)?;
            x = b.norms[0].forward(&(&x + b.o.forward(&attended)?)?)?;
            let inner = Activation::Gelu.forward(&b.up.forward(&x)?)?;
            x = b.norms[1].forward(&(&x + b.down.forward(&inner)?)?)?;
        }
        Ok(x)
    }

    /// `tanh` of the dense map of the first row, `[1, hidden]`; the first row itself without a
    /// pooler.
    ///
    /// # Errors
    /// From candle.
    pub fn first_pool(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        let first = x.i(..1)?;
        Ok(match &self.pooler {
            Some(pooler) => pooler.forward(&first)?.tanh()?,
            None => first,
        })
    }

    /// The mean of a text's rows, `[hidden]`; sentence-transformers divide it by its norm.
    ///
    /// # Errors
    /// From candle.
    pub fn mean_pool(&self, x: &Tensor) -> Result<Vec<f32>, ModelError> {
        Ok(x.mean(0)?.to_vec1()?)
    }
}

/// One layer; `vb` is at it.
fn block(config: &BertConfig, vb: &VarBuilder<'_>) -> candle_core::Result<AffineBlock> {
    let d = config.hidden_size;
    let inner = config.intermediate_size;
    let map = |name: &str, out, inner| candle_nn::linear(inner, out, vb.pp(name));
    let norm = |name: &str| LayerNorm::new(d, config.layer_norm_eps, &vb.pp(name));
    Ok(AffineBlock {
        norms: [
            norm("attention.output.LayerNorm")?,
            norm("output.LayerNorm")?,
        ],
        q: map("attention.self.query", d, d)?,
        k: map("attention.self.key", d, d)?,
        v: map("attention.self.value", d, d)?,
        o: map("attention.output.dense", d, d)?,
        up: map("intermediate.dense", inner, d)?,
        down: map("output.dense", d, inner)?,
    })
}
