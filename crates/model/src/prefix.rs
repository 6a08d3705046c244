//! The part of the model that a client runs in clear. Every output element is one sum in a fixed
//! order over its own row, so the result depends neither on how many rows are fed at once nor on
//! the number of threads.

mod product;

use std::sync::Arc;

use rayon::prelude::*;

use self::product::linear;
use crate::{
    Checkpoint, LlamaConfig, ModelConfig, ModelError, module_path,
    ops::{RopeTable, dot},
};

/// Embedding and first layers with a key-value cache, in plain f32.
pub struct Prefix {
    config: LlamaConfig,
    embed_tokens: Arc<Vec<f32>>,
    layers: Vec<Layer>,
    rope: Arc<RopeTable>,
    len: usize,
}

#[derive(Clone)]
struct Layer {
    input_layernorm: Arc<Vec<f32>>,
    q_proj: Map,
    k_proj: Map,
    v_proj: Map,
    o_proj: Map,
    qk_norms: Option<[Arc<Vec<f32>>; 2]>,
    post_attention_layernorm: Arc<Vec<f32>>,
    gate_proj: Map,
    up_proj: Map,
    down_proj: Map,
    /// Whether queries and keys are rotated.
    rotates: bool,
    /// How many keys a row sees, where it is not all of them.
    window: Option<usize>,
    keys: Vec<f32>,
    values: Vec<f32>,
}

/// A linear map `[out, in]`, and its bias where it has one.
#[derive(Clone)]
struct Map {
    weight: Arc<Vec<f32>>,
    bias: Option<Arc<Vec<f32>>>,
}

impl Map {
    fn forward(&self, x: &[f32], inner: usize) -> Vec<f32> {
        let mut y = linear(x, &self.weight, inner);
        if let Some(bias) = &self.bias {
            y.chunks_exact_mut(bias.len())
                .for_each(|row| add(row, bias));
        }
        y
    }
}

impl Prefix {
    /// Takes the embedding and the first `layers` layers of a checkpoint, which needs to hold no
    /// others.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::NotLlama`].
    pub fn new(checkpoint: &Checkpoint, layers: usize) -> Result<Self, ModelError> {
        let config = checkpoint.config.llama()?.clone();
        Self::with_weights(config, layers, |name| checkpoint.floats(name))
    }

    /// The same from weights by their names in a checkpoint.
    ///
    /// # Errors
    /// What `weights` reports.
    pub fn with_weights(
        config: LlamaConfig,
        layers: usize,
        weights: impl Fn(&str) -> Result<Vec<f32>, ModelError>,
    ) -> Result<Self, ModelError> {
        let layers = (0..layers).map(|layer| {
            let norm =
                |name: &str| weights(&format!("model.layers.{layer}.{name}.weight")).map(Arc::new);
            let beside = |module: &str, kind: &str| {
                weights(&format!("{}.{kind}", module_path(layer, module))).map(Arc::new)
            };
            let linear = |module: &str| {
                let has_bias = config.has_bias(module);
                Ok::<_, ModelError>(Map {
                    weight: beside(module, "weight")?,
                    bias: has_bias.then(|| beside(module, "bias")).transpose()?,
                })
            };
            let qk_norms = config.qk_norm().map(|_| {
                Ok::<_, ModelError>([beside("q_norm", "weight")?, beside("k_norm", "weight")?])
            });
            Ok(Layer {
                input_layernorm: norm("input_layernorm")?,
                q_proj: linear("q_proj")?,
                k_proj: linear("k_proj")?,
                v_proj: linear("v_proj")?,
                o_proj: linear("o_proj")?,
                qk_norms: qk_norms.transpose()?,
                post_attention_layernorm: norm("post_attention_layernorm")?,
                gate_proj: linear("gate_proj")?,
                up_proj: linear("up_proj")?,
                down_proj: linear("down_proj")?,
                rotates: config.rotates(layer),
                window: config.window(layer),
                keys: Vec::new(),
                values: Vec::new(),
            })
        });
        let layers = layers.collect::<Result<_, ModelError>>()?;
        let rope = Arc::new(RopeTable::new(
            config.head_dim,
            config.rope_theta,
            &config.rope_divisors(),
            config.max_position_embeddings(),
        ));
        let embed_tokens = Arc::new(weights("model.embed_tokens.weight")?);
        Ok(Self {
            embed_tokens,
            config,
            layers,
            rope,
            len: 0,
        })
    }

    /// An empty cache over the same weights, which stay in memory once.
    pub fn fork(&self) -> Self {
        let mut fork = Self {
            config: self.config.clone(),
            embed_tokens: self.embed_tokens.clone(),
            layers: self.layers.clone(),
            rope: self.rope.clone(),
            len: self.len,
        };
        fork.truncate(0);
        fork
    }

    /// Appends tokens and returns their boundary activations, `tokens.len() * hidden`.
    ///
    /// # Errors
    /// [`ModelError::ContextFull`], [`ModelError::TokenOutOfRange`]; the cache is then unchanged.
    pub fn forward(&mut self, tokens: &[u32]) -> Result<Vec<f32>, ModelError> {
        let vocab_size = self.config.vocab_size;
        let hidden = self.config.hidden_size;
        if let Some(&token) = tokens.iter().find(|&&t| t as usize >= vocab_size) {
            return Err(ModelError::TokenOutOfRange { token, vocab_size });
        }
        let needed = self.len + tokens.len();
        let limit = self.config.max_position_embeddings();
        if needed > limit {
            return Err(ModelError::ContextFull { limit, needed });
        }
        let mut x: Vec<f32> = tokens
            .iter()
            .flat_map(|&t| &self.embed_tokens[t as usize * hidden..][..hidden])
            .copied()
            .collect();
        scale(&mut x, self.config.embedding_multiplier());
        for layer in &mut self.layers {
            layer.forward(&self.config, &self.rope, &mut x, self.len);
        }
        self.len = needed;
        Ok(x)
    }

    /// Keeps the first `len` tokens only; what was known of the others is overwritten.
    pub fn truncate(&mut self, len: usize) {
        let width = self.config.num_key_value_heads * self.config.head_dim;
        self.len = self.len.min(len);
        for rows in self
            .layers
            .iter_mut()
            .flat_map(|layer| [&mut layer.keys, &mut layer.values])
        {
            let kept = rows.len().min(self.len * width);
            rows[kept..].fill(0.0);
            rows.truncate(kept);
        }
    }

    /// Number of tokens in the cache.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the cache holds no token.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of layers that run here.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }
}

impl Layer {
    fn forward(&mut self, config: &LlamaConfig, rope: &RopeTable, x: &mut [f32], past: usize) {
        let hidden = config.hidden_size;
        let q_width = config.num_attention_heads * config.head_dim;
        let kv_width = config.num_key_value_heads * config.head_dim;
        let h = rms_norm(x, &self.input_layernorm, config.rms_norm_eps);
        let mut q = self.q_proj.forward(&h, hidden);
        let mut k = self.k_proj.forward(&h, hidden);
        if let Some([of_q, of_k]) = &self.qk_norms {
            q = rms_norm(&q, of_q, config.rms_norm_eps);
            k = rms_norm(&k, of_k, config.rms_norm_eps);
        }
        if self.rotates {
            let rotate = |rows: &mut [f32], width: usize| {
                let rows = rows.chunks_mut(width).enumerate();
                rows.for_each(|(row, values)| rope.rotate(values, past + row, 1.0));
            };
            rotate(&mut q, q_width);
            rotate(&mut k, kv_width);
        }
        self.keys.extend_from_slice(&k);
        self.values
            .extend_from_slice(&self.v_proj.forward(&h, hidden));
        let mut attended = vec![0f32; q.len()];
        attended
            .par_chunks_mut(q_width)
            .zip(q.par_chunks(q_width))
            .enumerate()
            .for_each(|(row, (out, q))| {
                self.attend(config, q, past + row + 1, out);
            });
        let mut out = self.o_proj.forward(&attended, q_width);
        scale(&mut out, config.residual_multiplier());
        add(x, &out);

        let h = rms_norm(x, &self.post_attention_layernorm, config.rms_norm_eps);
        let mut inner = self.gate_proj.forward(&h, hidden);
        let up = self.up_proj.forward(&h, hidden);
        inner
            .iter_mut()
            .zip(&up)
            .for_each(|(g, u)| *g = *g / (1.0 + (-*g).exp()) * u);
        let mut out = self.down_proj.forward(&inner, config.intermediate_size);
        scale(&mut out, config.residual_multiplier());
        add(x, &out);
    }

    /// One row of queries against the first `keys` cached positions.
    fn attend(&self, config: &LlamaConfig, q: &[f32], keys: usize, out: &mut [f32]) {
        let d = config.head_dim;
        let width = config.num_key_value_heads * d;
        let scale = config.score_factor() as f32 / (d as f32).sqrt();
        let first = keys - self.window.unwrap_or(keys).min(keys);
        let mut p = vec![0f32; keys - first];
        for (head, (q, out)) in q.chunks_exact(d).zip(out.chunks_exact_mut(d)).enumerate() {
            let at = config.kv_head(head) * d;
            for (j, p) in p.iter_mut().enumerate() {
                *p = dot(q, &self.keys[(first + j) * width + at..][..d]) * scale;
            }
            let max = p.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
            let mut sum = 0f32;
            for p in &mut p {
                *p = (*p - max).exp();
                sum += *p;
            }
            for (j, &p) in p.iter().enumerate() {
                let weight = p / sum;
                let row = &self.values[(first + j) * width + at..][..d];
                out.iter_mut().zip(row).for_each(|(o, v)| *o += weight * v);
            }
        }
    }
}

/// Nothing is rounded where the factor is 1.
fn scale(x: &mut [f32], factor: f64) {
    if factor != 1.0 {
        x.iter_mut().for_each(|x| *x *= factor as f32);
    }
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn rms_norm(x: &[f32], weight: &[f32], eps: f64) -> Vec<f32> {
    let mut out = Vec::with_capacity(x.len());
    for row in x.chunks_exact(weight.len()) {
        let inverse = 1.0 / (dot(row, row) / row.len() as f32 + eps as f32).sqrt();
        out.extend(row.iter().zip(weight).map(|(x, w)| x * inverse * w));
    }
    out
}
