//! The LLaMA-family decoder. Axes: `N` rows (tokens of all sequences, without padding), hidden
//! size, `H * D`.
//!
//! Weights come from a [`VarBuilder`], and layers are [`Module`]s. Three operations are not
//! candle-nn's: its product computes and stores a gradient for weights that are frozen, its RMS
//! norm and its rotation have none, and all of them sum in another order.

use std::{ops::Range, sync::Arc};

use candle_core::Tensor;
use candle_nn::{Embedding, Init, Module, VarBuilder};

use crate::{
    Config, LoraConfig, MODULES, ModelError, Transforms,
    ops::{self, Dropout, FakeQuant, RopeTable, Segment},
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
        }
    }
}

/// A projection, with its LoRA update where it has one. As a [`Module`] it is that sum, without
/// dropout.
#[derive(Clone)]
pub struct Linear {
    /// `[out, in]`; trained when it is a variable.
    pub weight: Tensor,
    /// `A [rank, in]`, `B [out, rank]`, `alpha / rank`.
    pub lora: Option<(Tensor, Tensor, f64)>,
}

/// What the secure program folds into a map before it rounds the map's weights.
#[derive(Clone, Copy)]
struct Folded<'a> {
    /// The gain of the norm before it.
    gain: Option<&'a Tensor>,
    /// The softmax scale's part that is no power of two, in the query map.
    factor: f64,
}

impl Module for Linear {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward_with(x, None, None)
    }
}

impl Linear {
    /// `weight`, and `lora_A.weight` and `lora_B.weight` where `lora` is given and `vb` has them.
    fn new(
        [out, inner]: [usize; 2],
        lora: Option<&LoraConfig>,
        vb: VarBuilder<'_>,
    ) -> candle_core::Result<Self> {
        let has = |factor: &str| vb.contains_tensor(factor);
        let factors = |lora: &LoraConfig| {
            let a = vb.get((lora.rank, inner), "lora_A.weight")?;
            let b = vb.get((out, lora.rank), "lora_B.weight")?;
            Ok::<_, candle_core::Error>((a, b, lora.scale()))
        };
        let lora = lora.filter(|_| has("lora_A.weight") && has("lora_B.weight"));
        let lora = lora.map(factors).transpose()?;
        let weight = candle_nn::linear_no_bias(inner, out, vb)?.weight().clone();
        Ok(Self { weight, lora })
    }

    fn forward_with(
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
                ops::round_factors((a, b), fold.gain, scale * fold.factor, format)?
            }
        };
        if self.weight.is_variable() {
            return ops::linear(x, &self.weight)?
                + ops::low_rank(x, None, (&a, &b), *scale, dropout)?;
        }
        ops::low_rank(x, Some(&self.weight), (&a, &b), *scale, dropout)
    }

    /// A frozen weight on the grid of the secure program; a trained one stays what it is.
    fn quantized(&self, fold: Folded<'_>, format: FakeQuant) -> candle_core::Result<Self> {
        let weight = match self.weight.is_variable() {
            true => self.weight.clone(),
            false => ops::round_weight(&self.weight, fold.gain, fold.factor, format)?,
        };
        Ok(Self {
            weight,
            lora: self.lora.clone(),
        })
    }
}

/// `x / sqrt(mean(x²) + eps) · weight` of every row.
#[derive(Clone)]
pub struct RmsNorm {
    pub weight: Tensor,
    pub eps: f64,
}

impl RmsNorm {
    fn new(size: usize, eps: f64, vb: &VarBuilder<'_>) -> candle_core::Result<Self> {
        let weight = vb.get_with_hints(size, "weight", Init::Const(1.0))?;
        Ok(Self { weight, eps })
    }

    fn forward_with(&self, x: &Tensor, format: Option<FakeQuant>) -> candle_core::Result<Tensor> {
        ops::rms_norm(x, &self.weight, self.eps, format)
    }
}

impl Module for RmsNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.forward_with(x, None)
    }
}

/// Keys and values of one layer, `[rows so far, KV * D]`.
#[derive(Clone, Default)]
pub struct Cache {
    kv: Option<(Tensor, Tensor)>,
}

impl Cache {
    fn append(&mut self, k: Tensor, v: Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let joined = match &self.kv {
            None => (k, v),
            Some((old_k, old_v)) => (Tensor::cat(&[old_k, &k], 0)?, Tensor::cat(&[old_v, &v], 0)?),
        };
        self.kv = Some(joined.clone());
        Ok(joined)
    }

    /// Forgets all rows.
    pub fn clear(&mut self) {
        self.kv = None;
    }

    /// Forgets all rows but the first `len`.
    pub(crate) fn truncate(&mut self, len: usize) -> candle_core::Result<()> {
        if let Some((k, v)) = self.kv.take().filter(|_| len > 0) {
            let len = len.min(k.dim(0)?);
            self.kv = Some((
                k.narrow(0, 0, len)?.contiguous()?,
                v.narrow(0, 0, len)?.contiguous()?,
            ));
        }
        Ok(())
    }
}

/// One decoder layer.
#[derive(Clone)]
pub struct Block {
    pub input_layernorm: RmsNorm,
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    pub post_attention_layernorm: RmsNorm,
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
    /// Query heads that share a softmax.
    pub groups: Arc<Vec<Vec<usize>>>,
    pub attn_scale: f64,
}

impl Block {
    /// The tensors of layer `layer`, counted over the whole model; `vb` is at that layer.
    fn new(
        config: &Config,
        transforms: &Transforms,
        layer: usize,
        vb: &VarBuilder<'_>,
    ) -> candle_core::Result<Self> {
        let frozen = layer < transforms.frozen_layers;
        let lora = transforms.lora.as_ref().filter(|_| !frozen);
        let linear = |part: &str, module: &str| {
            let shape = config.module_shape(module).expect("a module of the list");
            Linear::new(shape, lora, vb.pp(part).pp(module))
        };
        let norm = |name: &str| RmsNorm::new(config.hidden_size, config.rms_norm_eps, &vb.pp(name));
        let (groups, attn_scale) = transforms.attention(config, layer);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            q_proj: linear("self_attn", "q_proj")?,
            k_proj: linear("self_attn", "k_proj")?,
            v_proj: linear("self_attn", "v_proj")?,
            o_proj: linear("self_attn", "o_proj")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            gate_proj: linear("mlp", "gate_proj")?,
            up_proj: linear("mlp", "up_proj")?,
            down_proj: linear("mlp", "down_proj")?,
            groups: Arc::new(groups),
            attn_scale,
        })
    }

    /// The factor in (1/2, 1] that with a power of two makes up the softmax scale.
    fn query_factor(&self) -> f64 {
        self.attn_scale * (-self.attn_scale.log2()).floor().exp2()
    }

    /// By the module's place in [`MODULES`].
    fn folded(&self, module: usize) -> Folded<'_> {
        let gain = match module {
            0..=2 => Some(&self.input_layernorm.weight),
            4 | 5 => Some(&self.post_attention_layernorm.weight),
            _ => None,
        };
        Folded {
            gain,
            factor: if module == 0 {
                self.query_factor()
            } else {
                1.0
            },
        }
    }
}

/// The whole model: embedding, layers, final norm and head.
#[derive(Clone)]
pub struct Decoder {
    pub config: Config,
    pub embed_tokens: Embedding,
    pub layers: Vec<Block>,
    pub norm: RmsNorm,
    /// `[vocab, hidden]`; the embedding where `tie_word_embeddings` says so.
    pub lm_head: Tensor,
    rope: Arc<RopeTable>,
}

impl Decoder {
    /// Builds the model from tensors under Hugging Face's names; one that is a variable is trained.
    /// LoRA factors of private layers are `lora_A.weight` and `lora_B.weight` beside the `weight`
    /// of their module.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] or [`ModelError::Shape`], and [`ModelError::Transforms`] when
    /// the transforms do not fit the architecture.
    pub fn new(
        config: &Config,
        transforms: &Transforms,
        vb: VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        crate::threads::keep_candle_from_spinning();
        transforms.check(config)?;
        let (vocab, hidden) = (config.vocab_size, config.hidden_size);
        let model = vb.pp("model");
        let layers = (0..config.num_hidden_layers)
            .map(|layer| Block::new(config, transforms, layer, &model.pp("layers").pp(layer)))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let embed_tokens = candle_nn::embedding(vocab, hidden, model.pp("embed_tokens"))?;
        let lm_head = if config.tie_word_embeddings {
            embed_tokens.embeddings().clone()
        } else {
            candle_nn::linear_no_bias(hidden, vocab, vb.pp("lm_head"))?
                .weight()
                .clone()
        };
        let rope = RopeTable::new(
            config.head_dim,
            config.rope_theta,
            config.max_position_embeddings,
        );
        Ok(Self {
            config: config.clone(),
            embed_tokens,
            layers,
            norm: RmsNorm::new(hidden, config.rms_norm_eps, &model.pp("norm"))?,
            lm_head,
            rope: Arc::new(rope),
        })
    }

    /// Rows of the embedding, `[N, hidden]`.
    ///
    /// # Errors
    /// [`ModelError::TokenOutOfRange`].
    pub fn embed(&self, tokens: &[u32]) -> Result<Tensor, ModelError> {
        let vocab_size = self.config.vocab_size;
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab_size) {
            return Err(ModelError::TokenOutOfRange { token, vocab_size });
        }
        let ids = Tensor::new(tokens, self.embed_tokens.embeddings().device())?;
        Ok(self.embed_tokens.forward(&ids)?)
    }

    /// Runs the layers of `range` on `x [N, hidden]`. `caches`, where given, has one entry for each
    /// layer of the range.
    ///
    /// # Errors
    /// [`ModelError::ContextFull`] for a position that the model does not have.
    pub fn run(
        &self,
        x: Tensor,
        range: Range<usize>,
        rows: &Rows,
        mut caches: Option<&mut [Cache]>,
    ) -> Result<Tensor, ModelError> {
        let (needed, limit) = (
            rows.positions.iter().max().map_or(0, |p| p + 1),
            self.rope.positions(),
        );
        if needed > limit {
            return Err(ModelError::ContextFull { limit, needed });
        }
        let mut x = x;
        for (nth, layer) in range.enumerate() {
            x = self.block(layer, x, rows, caches.as_deref_mut().map(|c| &mut c[nth]))?;
        }
        Ok(x)
    }

    fn block(
        &self,
        layer: usize,
        x: Tensor,
        rows: &Rows,
        cache: Option<&mut Cache>,
    ) -> candle_core::Result<Tensor> {
        let b = &self.layers[layer];
        let format = rows.fake_quant;
        let forward = |linear: &Linear, module: usize, x: &Tensor| {
            let dropout = rows
                .dropout
                .map(|d| d.at((layer * MODULES.len() + module) as u64));
            linear.forward_with(x, dropout, format.map(|format| (format, b.folded(module))))
        };
        let rescale = |x: Tensor| format.map_or(Ok(x.clone()), |format| format.activation(&x));
        let x = format.map_or(Ok(x.clone()), |format| format.residual(&x))?;
        let h = b.input_layernorm.forward_with(&x, format)?;
        let mut q = ops::rope(&forward(&b.q_proj, 0, &h)?, &self.rope, &rows.positions)?;
        if let Some(format) = format {
            q = ops::round_to(&q, f64::from(format.frac_bits).exp2() * b.query_factor())?;
        }
        let k = rescale(ops::rope(
            &forward(&b.k_proj, 1, &h)?,
            &self.rope,
            &rows.positions,
        )?)?;
        let v = rescale(forward(&b.v_proj, 2, &h)?)?;
        let (k, v) = match cache {
            None => (k, v),
            Some(cache) => cache.append(k, v)?,
        };
        let attended = ops::attention(
            &q,
            &k,
            &v,
            &rows.segments,
            &b.groups,
            self.config.head_dim,
            b.attn_scale,
            format,
        )?;
        let x = self.add_residual(x, forward(&b.o_proj, 3, &rescale(attended)?)?, format)?;

        let h = b.post_attention_layernorm.forward_with(&x, format)?;
        let (gate, up) = (
            rescale(forward(&b.gate_proj, 4, &h)?)?,
            rescale(forward(&b.up_proj, 5, &h)?)?,
        );
        let inner = ops::swiglu(&gate, &up, format)?;
        self.add_residual(x, forward(&b.down_proj, 6, &inner)?, format)
    }

    fn add_residual(
        &self,
        x: Tensor,
        out: Tensor,
        format: Option<FakeQuant>,
    ) -> candle_core::Result<Tensor> {
        x + format.map_or(Ok(out.clone()), |format| format.residual(&out))?
    }

    /// The model with rotary tables, and frozen weights of the layers from `first` on, as the
    /// secure program holds them; what is trained is shared with this one. [`Rows::fake_quant`]
    /// does the rest.
    ///
    /// # Errors
    /// From candle.
    pub fn quantized(&self, first: usize, format: FakeQuant) -> Result<Self, ModelError> {
        let rope = Arc::new(self.rope.rounded(format.rope_frac_bits));
        let mut rounded = Self {
            rope,
            ..self.clone()
        };
        for b in &mut rounded.layers[first..] {
            let fold = |module: usize| b.folded(module);
            let [q_proj, k_proj, v_proj, o_proj] = [
                b.q_proj.quantized(fold(0), format)?,
                b.k_proj.quantized(fold(1), format)?,
                b.v_proj.quantized(fold(2), format)?,
                b.o_proj.quantized(fold(3), format)?,
            ];
            let [gate_proj, up_proj, down_proj] = [
                b.gate_proj.quantized(fold(4), format)?,
                b.up_proj.quantized(fold(5), format)?,
                b.down_proj.quantized(fold(6), format)?,
            ];
            *b = Block {
                q_proj,
                k_proj,
                v_proj,
                o_proj,
                gate_proj,
                up_proj,
                down_proj,
                ..b.clone()
            };
        }
        Ok(rounded)
    }

    /// The final norm, `[N, hidden]`.
    ///
    /// # Errors
    /// From candle.
    pub fn finish(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        Ok(self.norm.forward(x)?)
    }

    /// Logits `[N, vocab]` of rows that went through [`Decoder::finish`].
    ///
    /// # Errors
    /// From candle.
    pub fn logits(&self, finished: &Tensor) -> Result<Tensor, ModelError> {
        Ok(ops::linear(finished, &self.lm_head)?)
    }
}
