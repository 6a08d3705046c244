//! What the architectures are made of, as [`Module`]s: projections with a LoRA update, norms, and
//! the maps and plain attention of GPT-2 and BERT.
//!
//! Axes: `N` rows (tokens of all sequences, without padding), `M` keys, `H` heads, `D` head size.

use std::sync::Arc;

use candle_core::{D, Tensor};
use candle_nn::{Embedding, Init, Module, VarBuilder, ops::softmax};

use crate::{
    ModelError,
    ops::{self, Dropout, FakeQuant, Segment},
};

/// Where each row stands: its position, and which rows form a sequence.
#[derive(Clone)]
pub struct Rows {
    pub positions: Arc<Vec<usize>>,
    pub segments: Arc<Vec<Segment>>,
    /// What the LoRA updates do not see in this pass; training only.
    pub dropout: Option<Dropout>,
    /// Computes with the values of the secure program; training only.
    pub fake_quant: Option<FakeQuant>,
    /// How much of its own scores a merged head still has; training only, 0 otherwise.
    pub own_share: f32,
}

impl Rows {
    /// Whole sequences of these lengths, one after another.
    pub fn packed(lengths: &[usize]) -> Self {
        let mut start = 0;
        let segments = lengths.iter().map(|&len| {
            let segment = Segment {
                q_start: start,
                q_len: len,
                k_start: start,
                k_len: len,
            };
            start += len;
            segment
        });
        let segments = Arc::new(segments.collect());
        let positions = Arc::new(lengths.iter().flat_map(|&len| 0..len).collect());
        Self {
            positions,
            segments,
            dropout: None,
            fake_quant: None,
            own_share: 0.0,
        }
    }

    /// Rows at these positions, whose attention is computed elsewhere.
    pub(crate) fn at(positions: Vec<usize>) -> Self {
        Self {
            positions: Arc::new(positions),
            segments: Arc::default(),
            dropout: None,
            fake_quant: None,
            own_share: 0.0,
        }
    }

    /// `new` rows behind `past` cached ones.
    pub fn appended(past: usize, new: usize) -> Self {
        let segment = Segment {
            q_start: 0,
            q_len: new,
            k_start: 0,
            k_len: past + new,
        };
        let positions = Arc::new((past..past + new).collect());
        Self {
            positions,
            segments: Arc::new(vec![segment]),
            dropout: None,
            fake_quant: None,
            own_share: 0.0,
        }
    }
}

/// A projection, with its LoRA update where it has one. As a [`Module`] it is that sum, without
/// dropout.
///
/// Not candle-nn's: its product computes and stores a gradient for weights that are frozen.
#[derive(Clone)]
pub struct Linear {
    /// `[out, in]`; trained when it is a variable.
    pub weight: Tensor,
    /// `[out]`, where it has one.
    pub bias: Option<Tensor>,
    /// `A [rank, in]`, `B [out, rank]`, and [`crate::LoraConfig::scale_of`].
    pub lora: Option<(Tensor, Tensor, f64)>,
}

/// What the secure program folds into a map before it rounds the map's weights.
#[derive(Clone, Copy)]
pub(crate) struct Folded<'a> {
    /// The gain of the norm before it.
    pub gain: Option<&'a Tensor>,
    /// In the query map, of each row the softmax scale's part that is no power of two, and the
    /// weight of its head.
    pub rows: Option<&'a [f64]>,
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward_with(x, None, None)
    }
}

impl Linear {
    /// `weight`, and `bias` where asked for; with rank and scale of an update also `lora_A.weight`
    /// and `lora_B.weight`, where `vb` has them.
    pub(crate) fn new(
        [out, inner]: [usize; 2],
        has_bias: bool,
        lora: Option<(usize, f64)>,
        vb: VarBuilder<'_>,
    ) -> candle_core::Result<Self> {
        let has = |factor: &str| vb.contains_tensor(factor);
        let factors = |(rank, scale): (usize, f64)| {
            let a = vb.get((rank, inner), "lora_A.weight")?;
            let b = vb.get((out, rank), "lora_B.weight")?;
            Ok::<_, candle_core::Error>((a, b, scale))
        };
        let lora = lora.filter(|_| has("lora_A.weight") && has("lora_B.weight"));
        let lora = lora.map(factors).transpose()?;
        let bias = has_bias.then(|| vb.get(out, "bias")).transpose()?;
        let weight = candle_nn::linear_no_bias(inner, out, vb)?.weight().clone();
        Ok(Self { weight, bias, lora })
    }

    pub(crate) fn forward_with(
        &self,
        x: &Tensor,
        dropout: Option<Dropout>,
        format: Option<(FakeQuant, Folded<'_>)>,
    ) -> candle_core::Result<Tensor> {
        let product = self.product(x, dropout, format)?;
        match &self.bias {
            None => Ok(product),
            Some(bias) => product.broadcast_add(bias),
        }
    }

    fn product(
        &self,
        x: &Tensor,
        dropout: Option<Dropout>,
        format: Option<(FakeQuant, Folded<'_>)>,
    ) -> candle_core::Result<Tensor> {
        let Some((a, b, scale)) = &self.lora else {
            return ops::linear(x, &self.weight);
        };
        let (a, b) = match format {
            None => (a.clone(), b.clone()),
            Some((format, fold)) => {
                ops::round_factors((a, b), fold.gain, fold.rows, *scale, format)?
            }
        };
        if self.weight.is_variable() {
            return ops::linear(x, &self.weight)?
                + ops::low_rank(x, None, (&a, &b), *scale, dropout)?;
        }
        ops::low_rank(x, Some(&self.weight), (&a, &b), *scale, dropout)
    }

    /// A frozen weight on the grid of the secure program; a trained one stays what it is.
    pub(crate) fn quantized(
        &self,
        fold: Folded<'_>,
        format: FakeQuant,
    ) -> candle_core::Result<Self> {
        let weight = match self.weight.is_variable() {
            true => self.weight.clone(),
            false => ops::round_weight(&self.weight, fold.gain, fold.rows, format)?,
        };
        Ok(Self {
            weight,
            ..self.clone()
        })
    }
}

/// `x / sqrt(mean(x²) + eps) · weight` of every row.
///
/// Not candle-nn's, which has no gradient.
#[derive(Clone)]
pub struct RmsNorm {
    pub weight: Tensor,
    pub eps: f64,
}

impl RmsNorm {
    pub(crate) fn new(size: usize, eps: f64, vb: &VarBuilder<'_>) -> candle_core::Result<Self> {
        let weight = vb.get_with_hints(size, "weight", Init::Const(1.0))?;
        Ok(Self { weight, eps })
    }

    pub(crate) fn forward_with(
        &self,
        x: &Tensor,
        format: Option<FakeQuant>,
    ) -> candle_core::Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps, format)
    }

    /// As [`Self::forward_with`] of queries or keys, whose rows are one or several of this norm's.
    pub(crate) fn forward_heads(
        &self,
        x: &Tensor,
        format: Option<FakeQuant>,
    ) -> candle_core::Result<Tensor> {
        // The secure program takes them with the bits of activations.
        let format = format.map(|format| FakeQuant {
            residual_frac_bits: format.frac_bits,
            ..format
        });
        let rows = x.reshape(((), self.weight.dim(0)?))?;
        self.forward_with(&rows, format)?.reshape(x.shape())
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward_with(x, None)
    }
}

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
    pub q: candle_nn::Linear,
    pub k: candle_nn::Linear,
    pub v: candle_nn::Linear,
    pub o: candle_nn::Linear,
    pub up: candle_nn::Linear,
    pub down: candle_nn::Linear,
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
    let m = k.dim(0)?;
    let d = width / heads;
    let split = |t: &Tensor, rows| t.reshape((rows, heads, d))?.transpose(0, 1)?.contiguous();
    let q = split(q, n)?;
    let k = split(k, m)?;
    let v = split(v, m)?;
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

/// Rows of an embedding table, `[N, hidden]`.
pub(crate) fn embed(table: &Embedding, tokens: &[u32]) -> Result<Tensor, ModelError> {
    let vocab_size = table.embeddings().dim(0)?;
    if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab_size) {
        return Err(ModelError::TokenOutOfRange { token, vocab_size });
    }
    let ids = Tensor::new(tokens, table.embeddings().device())?;
    Ok(table.forward(&ids)?)
}
