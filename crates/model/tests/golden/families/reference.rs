//! The definition of a family, and its model in `f64`, row by row.

use marill_model::{Checkpoint, ModelConfig};

/// What a family computes, as its authors say it.
pub(super) struct Definition {
    /// Radians per position of each pair of a head.
    pub(super) frequencies: Vec<f64>,
    /// What sines and cosines are multiplied by.
    pub(super) attention_factor: f64,
    /// Keys that a row of each layer sees.
    pub(super) windows: [usize; 4],
    /// Whether each layer rotates.
    pub(super) rotates: [bool; 4],
    /// What scores, embeddings and what layers add are multiplied by, and logits divided.
    pub(super) scores: f64,
    pub(super) embeddings: f64,
    pub(super) residuals: f64,
    pub(super) logits: f64,
}

pub(super) const ALL: usize = usize::MAX;

impl Definition {
    /// LLaMA's, with heads of this size.
    pub(super) fn plain(head_dim: usize, theta: f64) -> Self {
        let exponent = |i: usize| -2.0 * i as f64 / head_dim as f64;
        Self {
            frequencies: (0..head_dim / 2).map(|i| theta.powf(exponent(i))).collect(),
            attention_factor: 1.0,
            windows: [ALL; 4],
            rotates: [true; 4],
            scores: 1.0 / (head_dim as f64).sqrt(),
            embeddings: 1.0,
            residuals: 1.0,
            logits: 1.0,
        }
    }
}

/// The model in `f64`, row by row.
pub(super) struct Reference<'a> {
    pub(super) base: &'a Checkpoint,
    pub(super) definition: Definition,
}

pub(super) type Rows = Vec<Vec<f64>>;

impl Reference<'_> {
    fn values(&self, name: &str) -> Option<Vec<f64>> {
        let floats = self.base.floats(name).ok()?;
        Some(floats.into_iter().map(f64::from).collect())
    }

    fn map(&self, path: &str, rows: &Rows) -> Rows {
        let weight = self.values(&format!("{path}.weight")).unwrap();
        let bias = self.values(&format!("{path}.bias"));
        let of_row = |x: &Vec<f64>| {
            let products = weight.chunks(x.len()).map(|w| dot(w, x)).enumerate();
            let bias = |i: usize| bias.as_ref().map_or(0.0, |bias| bias[i]);
            products.map(|(i, product)| product + bias(i)).collect()
        };
        rows.iter().map(of_row).collect()
    }

    /// The norm of each row, or of each piece of it that is as long as the gain.
    fn norm(&self, path: &str, rows: &Rows) -> Rows {
        let Some(gain) = self.values(&format!("{path}.weight")) else {
            return rows.clone();
        };
        let eps = self.base.config.llama().unwrap().rms_norm_eps;
        let of_piece = |piece: &[f64]| -> Vec<f64> {
            let scale = (dot(piece, piece) / piece.len() as f64 + eps).sqrt();
            piece
                .iter()
                .zip(&gain)
                .map(|(x, g)| x / scale * g)
                .collect()
        };
        let pieces = |row: &Vec<f64>| row.chunks(gain.len()).flat_map(of_piece).collect();
        rows.iter().map(pieces).collect()
    }

    fn rotated(&self, layer: usize, rows: &Rows) -> Rows {
        if !self.definition.rotates[layer] {
            return rows.clone();
        }
        let pairs = self.definition.frequencies.len();
        let mut out = rows.clone();
        for (position, row) in out.iter_mut().enumerate() {
            for head in row.chunks_mut(2 * pairs) {
                for i in 0..pairs {
                    let (sin, cos) = (position as f64 * self.definition.frequencies[i]).sin_cos();
                    let factor = self.definition.attention_factor;
                    let x = head[i];
                    let y = head[i + pairs];
                    head[i] = factor * (x * cos - y * sin);
                    head[i + pairs] = factor * (y * cos + x * sin);
                }
            }
        }
        out
    }

    fn attention(&self, layer: usize, x: &Rows) -> Rows {
        let config = self.base.config.llama().unwrap();
        let d = config.head_dim;
        let path = format!("model.layers.{layer}.self_attn");
        let of = |name: &str| self.map(&format!("{path}.{name}_proj"), x);
        let q = self.rotated(layer, &self.norm(&format!("{path}.q_norm"), &of("q")));
        let k = self.rotated(layer, &self.norm(&format!("{path}.k_norm"), &of("k")));
        let v = of("v");
        let mut out = vec![vec![0.0; config.num_attention_heads * d]; x.len()];
        for (i, row) in out.iter_mut().enumerate() {
            let first = (i + 1).saturating_sub(self.definition.windows[layer]);
            for head in 0..config.num_attention_heads {
                let own = head * d..(head + 1) * d;
                let kv = config.kv_head(head) * d;
                let score =
                    |j: usize| dot(&q[i][own.clone()], &k[j][kv..kv + d]) * self.definition.scores;
                let scores: Vec<f64> = (first..=i).map(score).collect();
                let largest = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights = scores.iter().map(|s| (s - largest).exp());
                let sum: f64 = weights.clone().sum();
                for (j, weight) in (first..=i).zip(weights) {
                    for c in 0..d {
                        row[own.start + c] += weight / sum * v[j][kv + c];
                    }
                }
            }
        }
        self.map(&format!("{path}.o_proj"), &out)
    }

    fn mlp(&self, layer: usize, x: &Rows) -> Rows {
        let path = format!("model.layers.{layer}.mlp");
        let gate = self.map(&format!("{path}.gate_proj"), x);
        let up = self.map(&format!("{path}.up_proj"), x);
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let inner = gate.iter().zip(&up);
        let inner = inner.map(|(gate, up)| {
            let pairs = gate.iter().zip(up);
            pairs.map(|(g, u)| silu(*g) * u).collect::<Vec<f64>>()
        });
        self.map(&format!("{path}.down_proj"), &inner.collect())
    }

    /// Logits behind every token.
    pub(super) fn logits(&self, tokens: &[u32]) -> Rows {
        let config = self.base.config.llama().unwrap();
        let table = self.values("model.embed_tokens.weight").unwrap();
        let hidden = config.hidden_size;
        let row = |token: &u32| table[*token as usize * hidden..][..hidden].to_vec();
        let h: Rows = tokens.iter().map(row).collect();
        let mut h = scaled(&h, self.definition.embeddings);
        let residuals = self.definition.residuals;
        for layer in 0..config.num_hidden_layers {
            let path = format!("model.layers.{layer}");
            let x = self.norm(&format!("{path}.input_layernorm"), &h);
            h = sum(&h, &scaled(&self.attention(layer, &x), residuals));
            let x = self.norm(&format!("{path}.post_attention_layernorm"), &h);
            h = sum(&h, &scaled(&self.mlp(layer, &x), residuals));
        }
        let logits = self.map("lm_head", &self.norm("model.norm", &h));
        scaled(&logits, 1.0 / self.definition.logits)
    }
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

pub(super) fn scaled(rows: &Rows, factor: f64) -> Rows {
    let of_row = |row: &Vec<f64>| row.iter().map(|v| v * factor).collect();
    rows.iter().map(of_row).collect()
}

pub(super) fn sum(a: &Rows, b: &Rows) -> Rows {
    let add = |(a, b): (&Vec<f64>, &Vec<f64>)| a.iter().zip(b).map(|(a, b)| a + b).collect();
    a.iter().zip(b).map(add).collect()
}
