//! A BERT encoder in floats, with mean or first-token pooling and, where the checkpoint has one, a
//! linear classifier.

use std::{collections::BTreeMap, ops::Range, path::Path};

use candle_core::{IndexOp, Tensor};
use serde::{Deserialize, Serialize};

use crate::{
    ModelError,
    affine::{Affine, AffineBlock, LayerNorm, Weights, attention, embed, read_config},
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
            let (act, positions) = (&self.hidden_act, &self.position_embedding_type);
            return Err(format!(
                "`hidden_act` = `{act}` with `{positions}` positions is not supported"
            ));
        }
        Ok(())
    }
}

/// The model.
#[derive(Clone)]
pub struct Bert {
    pub config: BertConfig,
    pub word_embeddings: Tensor,
    pub position_embeddings: Tensor,
    pub token_type_embeddings: Tensor,
    pub embedding_norm: LayerNorm,
    pub blocks: Vec<AffineBlock>,
    /// `pooler.dense`, in front of tanh, where the file has one. Mean pooling does not use it.
    pub pooler: Option<Affine>,
    /// `[classes, hidden]`, taken from `classifier` where the file has one.
    pub classifier: Option<Affine>,
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
        Self::assemble(config, &Weights::read(dir, "bert")?)
    }

    /// Builds the model from tensors under Hugging Face's names, with or without `bert.` before
    /// them.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::Shape`], or [`ModelError::Transforms`] for a
    /// configuration that is not supported.
    pub fn from_tensors(
        config: BertConfig,
        tensors: BTreeMap<String, Tensor>,
    ) -> Result<Self, ModelError> {
        config.check().map_err(|reason| ModelError::Transforms {
            what: "config",
            reason,
        })?;
        Self::assemble(config, &Weights::new(tensors, "bert"))
    }

    fn assemble(config: BertConfig, weights: &Weights) -> Result<Self, ModelError> {
        let (d, inner, epsilon) = (
            config.hidden_size,
            config.intermediate_size,
            config.layer_norm_eps,
        );
        let block = |l: usize| -> Result<AffineBlock, ModelError> {
            let at = |name: &str| format!("encoder.layer.{l}.{name}");
            Ok(AffineBlock {
                norms: [
                    weights.norm(&at("attention.output.LayerNorm"), d, epsilon)?,
                    weights.norm(&at("output.LayerNorm"), d, epsilon)?,
                ],
                q: weights.affine(&at("attention.self.query"), d, d)?,
                k: weights.affine(&at("attention.self.key"), d, d)?,
                v: weights.affine(&at("attention.self.value"), d, d)?,
                o: weights.affine(&at("attention.output.dense"), d, d)?,
                up: weights.affine(&at("intermediate.dense"), inner, d)?,
                down: weights.affine(&at("output.dense"), d, inner)?,
            })
        };
        let classifier = if weights.has("classifier.weight") {
            let weight = weights.any_rows("classifier.weight", d)?;
            let bias = weights.tensor("classifier.bias", &[weight.dim(0)?])?;
            Some(Affine { weight, bias })
        } else {
            None
        };
        Ok(Self {
            word_embeddings: weights
                .tensor("embeddings.word_embeddings.weight", &[config.vocab_size, d])?,
            position_embeddings: weights.tensor(
                "embeddings.position_embeddings.weight",
                &[config.max_position_embeddings, d],
            )?,
            token_type_embeddings: weights.tensor(
                "embeddings.token_type_embeddings.weight",
                &[config.type_vocab_size, d],
            )?,
            embedding_norm: weights.norm("embeddings.LayerNorm", d, epsilon)?,
            blocks: (0..config.num_hidden_layers)
                .map(block)
                .collect::<Result<_, _>>()?,
            pooler: if weights.has("pooler.dense.weight") {
                Some(weights.affine("pooler.dense", d, d)?)
            } else {
                None
            },
            classifier,
            config,
        })
    }

    /// Token, position and type embeddings behind their norm, `[N, hidden]`: what a client computes
    /// in clear. `tokens` hold `[CLS]` and `[SEP]` already; all are of type 0.
    ///
    /// # Errors
    /// [`ModelError::TokenOutOfRange`], [`ModelError::ContextFull`].
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor, ModelError> {
        let (needed, limit) = (tokens.len(), self.config.max_position_embeddings);
        if needed > limit {
            return Err(ModelError::ContextFull { limit, needed });
        }
        let words = (embed(&self.word_embeddings, tokens)?
            + self.position_embeddings.narrow(0, 0, needed)?)?;
        Ok(self
            .embedding_norm
            .forward(&words.broadcast_add(&self.token_type_embeddings.i(0)?)?)?)
    }

    /// A bound of the norm of every row that [`Self::embed`] can give, whatever the text:
    /// `sqrt(hidden) · max|gain| +
    /// |bias|` of the embedding norm.
    ///
    /// # Errors
    /// From candle.
    pub fn embedding_bound(&self) -> Result<f64, ModelError> {
        let gain: Vec<f32> = self.embedding_norm.gain.to_vec1()?;
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
            let (q, k, v) = (b.q.forward(&x)?, b.k.forward(&x)?, b.v.forward(&x)?);
            let attended = attention(&q, &k, &v, self.config.num_attention_heads, false)?;
            x = b.norms[0].forward(&(&x + b.o.forward(&attended)?)?)?;
            let inner = b.up.forward(&x)?.gelu_erf()?;
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
