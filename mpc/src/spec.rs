//! What everybody may know of a secure program: shapes, head groups, scales.

use marill_numeric::{NumericError, NumericSpec, encode};
use serde::{Deserialize, Serialize};

/// The public description of the private layers of a decoder. Two parties with different specs refuse each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderSpec {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    /// Private layers only; the public prefix is the client's own business.
    pub num_layers: usize,
    /// Most positions (padding included) that a session may hold.
    pub max_positions: usize,
    pub rms_norm_eps: f64,
    pub rope_theta: f64,
    /// `[private layer][group][query heads]`: the heads of a group share one softmax.
    pub head_groups: Vec<Vec<Vec<usize>>>,
    /// Per private layer, the factor on the summed scores of a group.
    pub attn_scale: Vec<f64>,
    /// Rank of the private additions; 0 when nothing is private.
    pub lora_rank: usize,
    pub numeric: NumericSpec,
}

/// A program that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    #[error("`{field}`: {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error("`{name}` has {got} values where {expected} were expected")]
    Length { name: String, expected: usize, got: usize },
    #[error(transparent)]
    Numeric(#[from] NumericError),
    #[error("the private weights cannot be read: {0}")]
    Corrupt(String),
}

/// The seven linear maps of a layer, in the order in which adapters are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Module {
    pub const ALL: [Self; 7] = [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];
}

/// Prompts are padded to a multiple of this many tokens.
pub const BUCKET: usize = 16;

impl DecoderSpec {
    /// Checks that the shapes fit together and that every head is in exactly one group.
    ///
    /// # Errors
    /// [`SpecError::Invalid`] naming the field.
    pub fn validate(&self) -> Result<(), SpecError> {
        let invalid = |field, problem: &str| Err(SpecError::Invalid { field, problem: problem.to_owned() });
        if self.numeric != NumericSpec::default() {
            return invalid("numeric", "is not the numeric format of this version");
        }
        if self.hidden_size == 0 || self.vocab_size < 2 || self.num_layers == 0 || self.max_positions == 0 {
            return invalid("hidden_size", "and vocab_size, num_layers, max_positions must be positive");
        }
        if !self.head_dim.is_multiple_of(2) {
            return invalid("head_dim", "must be even");
        }
        if self.num_key_value_heads == 0 || !self.num_attention_heads.is_multiple_of(self.num_key_value_heads) {
            return invalid("num_key_value_heads", "must divide num_attention_heads");
        }
        if self.head_groups.len() != self.num_layers || self.attn_scale.len() != self.num_layers {
            return invalid("head_groups", "needs one entry a private layer, and so does attn_scale");
        }
        for groups in &self.head_groups {
            let mut heads: Vec<usize> = groups.iter().flatten().copied().collect();
            heads.sort_unstable();
            if heads != (0..self.num_attention_heads).collect::<Vec<_>>() {
                return invalid("head_groups", "must hold every head exactly once");
            }
        }
        if self.attn_scale.iter().any(|s| !(*s > 0.0 && *s <= 1.0)) {
            return invalid("attn_scale", "must lie in (0, 1]");
        }
        Ok(())
    }

    /// Columns in and rows out of a linear map.
    #[must_use]
    pub fn shape(&self, module: Module) -> (usize, usize) {
        let (heads, kv) = (self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim);
        match module {
            Module::Q => (self.hidden_size, heads),
            Module::K | Module::V => (self.hidden_size, kv),
            Module::O => (heads, self.hidden_size),
            Module::Gate | Module::Up => (self.hidden_size, self.intermediate_size),
            Module::Down => (self.intermediate_size, self.hidden_size),
        }
    }

    /// Padded length of a prompt of `n_tokens`.
    #[must_use]
    pub fn bucket(&self, n_tokens: usize) -> usize {
        n_tokens.max(1).next_multiple_of(BUCKET)
    }

    /// Boundary activations as integers of the residual scale.
    ///
    /// # Errors
    /// [`NumericError::OutOfRange`] when a value is not finite or would leave the range of the sums of squares.
    pub fn encode(&self, values: &[f32]) -> Result<Vec<u64>, SpecError> {
        let limit = f64::from(1 << 15);
        let frac_bits = self.numeric.residual_frac_bits;
        let encoded = values.iter().enumerate().map(|(i, &v)| encode(f64::from(v), frac_bits, limit, "boundary", i));
        let encoded = encoded.collect::<Result<Vec<u64>, _>>()?;
        // The first norm sums the squares of a row in the ring.
        let norm_limit = f64::from(31 - frac_bits).exp2();
        for (row, values) in values.chunks(self.hidden_size).enumerate() {
            let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            if norm >= norm_limit {
                let place = format!("norm of boundary row {row}");
                let index = row * self.hidden_size;
                return Err(NumericError::OutOfRange { place, index, value: norm, limit: norm_limit }.into());
            }
        }
        Ok(encoded)
    }

    /// `round(log2(sqrt(hidden_size)))`: the power of two that stands for `sqrt(hidden_size)` in the norm; the rest is
    /// folded into the norm's gain.
    #[must_use]
    pub fn norm_bits(&self) -> u32 {
        ((self.hidden_size as f64).sqrt().log2()).round() as u32
    }

    /// `attn_scale = factor · 2^-bits` with `factor` in (1/2, 1].
    #[must_use]
    pub fn score_scale(&self, layer: usize) -> (f64, u32) {
        let bits = (-self.attn_scale[layer].log2()).floor() as u32;
        (self.attn_scale[layer] * f64::from(1u32 << bits), bits)
    }
}
