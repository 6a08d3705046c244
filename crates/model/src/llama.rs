//! LLaMA and models of its shape, with everything that is its own: configuration, tensors, layers.
//! Axes: `N` rows (tokens of all sequences, without padding), hidden size, `H * D`.
//!
//! The rotation and the attention are [`ops`]: candle-nn's rotation has no gradient, and nothing
//! there lets heads share a softmax.

mod config;
pub(crate) mod read;

use std::{ops::Range, sync::Arc};

use candle_core::Tensor;
use candle_nn::{Embedding, Module, VarBuilder};
use marill_numeric::Approximations;
pub use marill_numeric::MODULES;

pub use self::config::{LlamaConfig, module_path};
use crate::{
    LayerHeads, ModelConfig, ModelError, Transforms,
    layers::{Folded, Linear, RmsNorm, Rows},
    ops::{self, FakeQuant, RopeTable},
};

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

/// One layer.
#[derive(Clone)]
pub struct LlamaBlock {
    pub input_layernorm: RmsNorm,
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    /// Norms of queries and keys in front of the rotation, where the family has them.
    pub qk_norms: Option<[RmsNorm; 2]>,
    pub o_proj: Linear,
    pub post_attention_layernorm: RmsNorm,
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
    pub heads: Arc<LayerHeads>,
    /// What the secure program multiplies each row of the query map by.
    query_factors: Arc<Vec<f64>>,
    /// And each row of the maps that add to the stream, where it is not 1.
    out_factors: Option<Arc<Vec<f64>>>,
    /// None in a frozen layer.
    pub approx: Approximations,
}

impl LlamaBlock {
    /// The tensors of layer `layer`, counted over the whole model; `vb` is at that layer.
    fn new(
        config: &LlamaConfig,
        transforms: &Transforms,
        layer: usize,
        vb: &VarBuilder<'_>,
    ) -> candle_core::Result<Self> {
        let frozen = layer < transforms.frozen_layers;
        let lora = transforms.lora.as_ref().filter(|_| !frozen);
        let linear = |part: &str, module: &str| {
            let shape = config.module_shape(module).expect("a module of the list");
            let update = lora.map(|lora| (lora.rank_of(module), lora.scale_of(module)));
            let vb = vb.pp(part).pp(module);
            Linear::new(shape, config.has_bias(module), update, vb)
        };
        let eps = config.rms_norm_eps;
        let norm = |name: &str| RmsNorm::new(config.hidden_size, eps, &vb.pp(name));
        let attention = vb.pp("self_attn");
        let qk_norms = |[q, k]: [usize; 2]| {
            let q = RmsNorm::new(q, eps, &attention.pp("q_norm"))?;
            Ok::<_, candle_core::Error>([q, RmsNorm::new(k, eps, &attention.pp("k_norm"))?])
        };
        let heads = transforms.heads_of(config, layer);
        Ok(Self {
            input_layernorm: norm("input_layernorm")?,
            q_proj: linear("self_attn", "q_proj")?,
            k_proj: linear("self_attn", "k_proj")?,
            v_proj: linear("self_attn", "v_proj")?,
            qk_norms: config.qk_norm_sizes().map(qk_norms).transpose()?,
            o_proj: linear("self_attn", "o_proj")?,
            post_attention_layernorm: norm("post_attention_layernorm")?,
            gate_proj: linear("mlp", "gate_proj")?,
            up_proj: linear("mlp", "up_proj")?,
            down_proj: linear("mlp", "down_proj")?,
            query_factors: Arc::new(query_factors(&heads, config.head_dim)),
            out_factors: Some(config.residual_multiplier())
                .filter(|multiplier| *multiplier != 1.0)
                .map(|multiplier| Arc::new(vec![multiplier; config.hidden_size])),
            heads: Arc::new(heads),
            approx: if frozen {
                Approximations::default()
            } else {
                transforms.approx
            },
        })
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
            // Behind a norm of the queries they are part of its gain.
            rows: match module {
                0 if self.qk_norms.is_none() => Some(self.query_factors.as_slice()),
                3 | 6 => self.out_factors.as_deref().map(Vec::as_slice),
                _ => None,
            },
        }
    }
}

/// `x` times a factor; itself where that is 1.
fn times(x: Tensor, factor: f64) -> candle_core::Result<Tensor> {
    match factor == 1.0 {
        true => Ok(x),
        false => x * factor,
    }
}

/// The factor in (1/2, 1] that with a power of two makes up a layer's softmax scale, times the
/// weight of the head of each row.
fn query_factors(heads: &LayerHeads, head_dim: usize) -> Vec<f64> {
    let scale = heads.scale();
    let factor = scale * (-scale.log2()).floor().exp2();
    let of_head = |head| std::iter::repeat_n(factor * heads.weight(head), head_dim);
    (0..heads.scales.len()).flat_map(of_head).collect()
}

/// The whole model: embedding, layers, final norm and head.
#[derive(Clone)]
pub struct Llama {
    pub config: LlamaConfig,
    pub embed_tokens: Embedding,
    pub layers: Vec<LlamaBlock>,
    pub norm: RmsNorm,
    /// `[vocab, hidden]`; the embedding where `tie_word_embeddings` says so.
    pub lm_head: Tensor,
    rope: Arc<RopeTable>,
}

impl Llama {
    /// Builds the model from tensors under Hugging Face's names; one that is a variable is trained.
    /// LoRA factors of private layers are `lora_A.weight` and `lora_B.weight` beside the `weight`
    /// of their module.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] or [`ModelError::Shape`], and [`ModelError::Transforms`] when
    /// the transforms do not fit the architecture.
    pub fn new(
        config: &LlamaConfig,
        transforms: &Transforms,
        vb: VarBuilder<'_>,
    ) -> Result<Self, ModelError> {
        crate::threads::keep_candle_from_spinning();
        transforms.check(config)?;
        let vocab = config.vocab_size;
        let hidden = config.hidden_size;
        let model = vb.pp("model");
        let layers = (0..config.num_hidden_layers)
            .map(|layer| LlamaBlock::new(config, transforms, layer, &model.pp("layers").pp(layer)))
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
            &config.rope_divisors(),
            config.max_position_embeddings(),
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
        Ok(times(
            self.embed_tokens.forward(&ids)?,
            self.config.embedding_multiplier(),
        )?)
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
        self.check_positions(rows)?;
        let mut x = x;
        for (nth, layer) in range.enumerate() {
            let cache = caches.as_deref_mut().map(|c| &mut c[nth]);
            x = self.block(layer, x, rows, cache)?.0;
        }
        Ok(x)
    }

    /// One layer, and what its maps take: queries, keys and values, the output map, gate and up,
    /// the down map.
    ///
    /// # Errors
    /// As [`Llama::run`].
    pub fn run_with_inputs(
        &self,
        x: Tensor,
        layer: usize,
        rows: &Rows,
    ) -> Result<(Tensor, [Tensor; 4]), ModelError> {
        self.check_positions(rows)?;
        Ok(self.block(layer, x, rows, None)?)
    }

    /// # Errors
    /// [`ModelError::ContextFull`] for a position that the model does not have.
    pub(crate) fn check_positions(&self, rows: &Rows) -> Result<(), ModelError> {
        let needed = rows.positions.iter().max().map_or(0, |p| p + 1);
        let limit = self.rope.positions();
        if needed > limit {
            return Err(ModelError::ContextFull { limit, needed });
        }
        Ok(())
    }

    /// What comes out of a layer, and what its maps took.
    fn block(
        &self,
        layer: usize,
        x: Tensor,
        rows: &Rows,
        cache: Option<&mut Cache>,
    ) -> candle_core::Result<(Tensor, [Tensor; 4])> {
        let b = &self.layers[layer];
        self.block_with(layer, x, rows, None, |q, k, v| {
            let (k, v) = match cache {
                None => (k.clone(), v.clone()),
                Some(cache) => cache.append(k.clone(), v.clone())?,
            };
            ops::attention(
                q,
                &k,
                &v,
                &rows.segments,
                &b.heads,
                self.config.head_dim,
                rows.own_share,
                &b.approx,
                rows.fake_quant,
            )
        })
    }

    /// As `block`, where attention is what `attend` makes of rotated queries, keys and values. Of
    /// `some` rows (`[W]`, u32), where they are given, alone comes something out, `[W, hidden]`.
    pub(crate) fn block_with(
        &self,
        layer: usize,
        x: Tensor,
        rows: &Rows,
        some: Option<&Tensor>,
        attend: impl FnOnce(&Tensor, &Tensor, &Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<(Tensor, [Tensor; 4])> {
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
        let h_attn = b.input_layernorm.forward_with(&x, format)?;
        let mut q = forward(&b.q_proj, 0, &h_attn)?;
        let mut k = forward(&b.k_proj, 1, &h_attn)?;
        if b.qk_norms.is_some() {
            q = rescale(q)?;
            k = rescale(k)?;
        }
        let [mut q, k] = self.rotated(layer, [q, k], rows)?;
        if let Some(format) = format {
            let units = f64::from(format.frac_bits).exp2();
            let units = b.query_factors.iter().map(|factor| factor * units);
            q = ops::round_columns_to(&q, units.collect())?;
        }
        let k = rescale(k)?;
        let v = rescale(forward(&b.v_proj, 2, &h_attn)?)?;
        let attended = attend(&q, &k, &v)?;
        let (x, attended) = match some {
            None => (x, attended),
            Some(some) => (x.index_select(some, 0)?, attended.index_select(some, 0)?),
        };
        let attended = rescale(attended)?;
        let x = self.add_residual(x, forward(&b.o_proj, 3, &attended)?, format)?;

        let h = b.post_attention_layernorm.forward_with(&x, format)?;
        let gate = rescale(forward(&b.gate_proj, 4, &h)?)?;
        let up = rescale(forward(&b.up_proj, 5, &h)?)?;
        let inner = ops::swiglu(&gate, &up, b.approx.activation, format)?;
        let x = self.add_residual(x, forward(&b.down_proj, 6, &inner)?, format)?;
        Ok((x, [h_attn, attended, h, inner]))
    }

    /// Queries and keys of a layer as their scores take them: normed where the family norms them,
    /// and rotated.
    fn rotated(
        &self,
        layer: usize,
        [q, k]: [Tensor; 2],
        rows: &Rows,
    ) -> candle_core::Result<[Tensor; 2]> {
        let [q, k] = match &self.layers[layer].qk_norms {
            None => [q, k],
            Some([of_q, of_k]) => [
                of_q.forward_heads(&q, rows.fake_quant)?,
                of_k.forward_heads(&k, rows.fake_quant)?,
            ],
        };
        if !self.config.rotates(layer) {
            return Ok([q, k]);
        }
        let rotate = |x: &Tensor| ops::rope(x, &self.rope, &rows.positions);
        Ok([rotate(&q)?, rotate(&k)?])
    }

    fn add_residual(
        &self,
        x: Tensor,
        out: Tensor,
        format: Option<FakeQuant>,
    ) -> candle_core::Result<Tensor> {
        let out = times(out, self.config.residual_multiplier())?;
        x + format.map_or(Ok(out.clone()), |format| format.residual(&out))?
    }

    /// Queries, keys and values of a layer for `x [N, hidden]`, rotated: `[N, H * D]` and twice
    /// `[N, KV * D]`.
    ///
    /// # Errors
    /// From candle.
    pub fn attention_inputs(
        &self,
        layer: usize,
        x: &Tensor,
        rows: &Rows,
    ) -> Result<[Tensor; 3], ModelError> {
        let b = &self.layers[layer];
        let h = b.input_layernorm.forward(x)?;
        let qk = [b.q_proj.forward(&h)?, b.k_proj.forward(&h)?];
        let [q, k] = self.rotated(layer, qk, rows)?;
        Ok([q, k, b.v_proj.forward(&h)?])
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
            *b = LlamaBlock {
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

    /// The final norm, `[N, hidden]`, over what the family divides logits by.
    ///
    /// # Errors
    /// From candle.
    pub fn finish(&self, x: &Tensor) -> Result<Tensor, ModelError> {
        // Their divisor in front of the head, whose products losses make by themselves.
        Ok(times(
            self.norm.forward(x)?,
            1.0 / self.config.logits_scaling(),
        )?)
    }

    /// Logits `[N, vocab]` of rows that went through [`Llama::finish`].
    ///
    /// # Errors
    /// From candle.
    pub fn logits(&self, finished: &Tensor) -> Result<Tensor, ModelError> {
        Ok(ops::linear(finished, &self.lm_head)?)
    }
}
