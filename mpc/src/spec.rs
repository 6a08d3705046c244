//! What everyone may know of a secure program: shapes, head groups, scales.

use marill_numeric::{
    Approximations, NumericError, NumericSpec, Rounding, SoftmaxForm, encode, norm_bits, norm_rest,
};
use serde::{Deserialize, Serialize};

mod architecture;
mod heads;
mod maps;
#[cfg(test)]
mod tests;
mod variant;

pub use crate::spec::{
    architecture::{Architecture, Module, NormKind, Pooling, Reveal},
    maps::{MapId, MapSpec},
    variant::{QkNorm, Variant},
};

/// The public description of the private layers of a program. Two parties with different specs
/// refuse each other.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProgramSpec {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    /// Most query heads of a layer; see [`Self::heads`].
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
    /// `[private layer][group][query heads]`: the heads of a group share one softmax. A layer that
    /// was pruned has fewer heads, numbered from 0 all the same, and as many behind each key-value
    /// head.
    pub head_groups: Vec<Vec<Vec<usize>>>,
    /// Per private layer, the factor on the summed scores of a group.
    pub attn_scale: Vec<f64>,
    /// `[private layer][query head]`, in [-1, 1]: what a head's scores weigh in its group's sum,
    /// besides `attn_scale`. Left out where all weigh the same, so that older manifests and their
    /// digests stay what they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub head_weights: Vec<Vec<f64>>,
    /// Rank of the private LoRA updates; 0 when nothing is private.
    pub lora_rank: usize,
    /// Ranks by module, in the order of [`Architecture::modules`], where they differ: 0 is a map
    /// without an update, and `lora_rank` the largest. Left out where every map has `lora_rank`,
    /// so that older manifests and their digests stay what they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lora_ranks: Vec<usize>,
    pub numeric: NumericSpec,
    /// Left out where it is LLaMA's, so that older manifests and their digests stay what they are.
    #[serde(default, skip_serializing_if = "Architecture::is_llama")]
    pub architecture: Architecture,
    /// Left out where it is the low-rank one, for the same reason.
    #[serde(default, skip_serializing_if = "PrivateForm::is_lora")]
    pub private: PrivateForm,
    /// Left out where nothing is approximated, for the same reason.
    #[serde(default, skip_serializing_if = "Approximations::is_none")]
    pub approx: Approximations,
    /// Left out where it is LLaMA's own, for the same reason.
    #[serde(default, skip_serializing_if = "Variant::is_none")]
    pub variant: Variant,
}

/// What the server keeps of the private layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrivateForm {
    /// Public matrices with private LoRA adapters, or none with rank 0.
    #[default]
    Lora,
    /// Every linear map as a whole, with what is folded into it: the gain of the norm before it,
    /// its bias. What an ordinary full fine-tune needs. An encoder's own norms, its pooler and
    /// every output head stay public.
    #[serde(rename = "full")]
    FullRank,
}

impl PrivateForm {
    #[must_use]
    pub fn is_lora(&self) -> bool {
        *self == Self::Lora
    }
}

/// A program that cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    #[error("`{field}`: {problem}")]
    Invalid {
        field: &'static str,
        problem: String,
    },
    #[error("`{name}` has {got} values where {expected} were expected")]
    Length {
        name: String,
        expected: usize,
        got: usize,
    },
    #[error(transparent)]
    Numeric(#[from] NumericError),
    #[error("the private weights cannot be read: {0}")]
    Corrupt(String),
}

/// Most positions of a session, whatever the model's context: a softmax whose keys all weigh the
/// same must stay in the domain of the reciprocal, 2^25 with 14 fractional bits, and a session ends
/// on a whole bucket.
pub const MAX_POSITIONS: usize = 2032;

/// A score's truncation ends inside its wire.
const LEAST_SCALE: f64 = 1.0 / (1 << 20) as f64;

/// Prompts are padded to a multiple of this many tokens.
pub const BUCKET: usize = 16;

impl ProgramSpec {
    /// Checks that the shapes fit together and that every head is in exactly one group.
    ///
    /// # Errors
    /// [`SpecError::Invalid`] naming the field.
    pub fn validate(&self) -> Result<(), SpecError> {
        let invalid = |field, problem: &str| {
            Err(SpecError::Invalid {
                field,
                problem: problem.to_owned(),
            })
        };
        if self.numeric != NumericSpec::with_rounding(self.numeric.rounding) {
            let theirs = self.numeric.version;
            let ours = NumericSpec::default().version;
            let problem = format!(
                "is of numeric version {theirs} or other scales; this version computes version \
                 {ours}\nhint: export the run again"
            );
            return invalid("numeric", &problem);
        }
        self.check_approximations()?;
        if self.is_full_rank() && self.lora_rank != 0 {
            return invalid("lora_rank", "must be 0 where full-rank weights are private");
        }
        self.check_ranks()?;
        // Before anything is multiplied or allocated by a size.
        self.check_sizes()?;
        if !self.head_dim.is_multiple_of(2) {
            return invalid("head_dim", "must be even");
        }
        if self.num_key_value_heads == 0
            || !self
                .num_attention_heads
                .is_multiple_of(self.num_key_value_heads)
        {
            return invalid("num_key_value_heads", "must divide num_attention_heads");
        }
        if self.head_groups.len() != self.num_layers || self.attn_scale.len() != self.num_layers {
            return invalid(
                "head_groups",
                "needs one entry per private layer, and so does attn_scale",
            );
        }
        self.check_heads()?;
        self.check_variant()?;
        if self
            .attn_scale
            .iter()
            .any(|s| !(*s >= LEAST_SCALE && *s <= 1.0))
        {
            return invalid("attn_scale", "must lie between 2^-20 and 1");
        }
        if !(self.rms_norm_eps >= 0.0 && self.rms_norm_eps <= 1.0) {
            return invalid("rms_norm_eps", "must lie between 0 and 1");
        }
        if !(self.rope_theta > 0.0 && self.rope_theta.is_finite()) {
            return invalid("rope_theta", "must be a positive number");
        }
        Ok(())
    }

    /// One form for one meaning: digests are taken of it.
    fn check_ranks(&self) -> Result<(), SpecError> {
        let ranks = &self.lora_ranks;
        let modules = self.architecture.modules().len();
        let problem = if ranks.is_empty() {
            return Ok(());
        } else if ranks.len() != modules {
            format!("has {} ranks for {modules} modules", ranks.len())
        } else if ranks.iter().max() != Some(&self.lora_rank) {
            "must have `lora_rank` as its largest".into()
        } else if ranks.iter().all(|rank| *rank == self.lora_rank) {
            "must be left out where all are `lora_rank`".into()
        } else {
            return Ok(());
        };
        let field = "lora_ranks";
        Err(SpecError::Invalid { field, problem })
    }

    /// Returns self with these ranks of the private updates, one for each of
    /// [`Architecture::modules`] in their order; 0 for a module without an update.
    #[must_use]
    pub fn with_ranks(mut self, ranks: Vec<usize>) -> Self {
        self.lora_rank = ranks.iter().copied().max().unwrap_or(0);
        let uniform = ranks.iter().all(|rank| *rank == self.lora_rank);
        self.lora_ranks = if uniform { Vec::new() } else { ranks };
        self
    }

    fn check_approximations(&self) -> Result<(), SpecError> {
        let approx = &self.approx;
        let refused = |field, problem: String| Err(SpecError::Invalid { field, problem });
        if let Err((field, problem)) = approx.check() {
            return refused(field, problem);
        }
        let field = if approx.activation.is_some() {
            "approx.activation"
        } else {
            "approx.softmax"
        };
        if !approx.is_none() && !self.architecture.is_llama() {
            let problem = "is for LLaMA-family models, and this is another architecture";
            return refused(field, problem.into());
        }
        let quad = approx.softmax == Some(SoftmaxForm::Quad);
        if quad && self.has_biases() {
            let problem = "is `2quad`, and with biases rows of padding would not stay zero";
            return refused("approx.softmax", problem.into());
        }
        if quad && self.numeric.rounding != Rounding::Exact {
            let problem = "is `2quad`, which needs rounding `exact`: rows of padding stay zero, \
                and out of every sum, only there";
            return refused("approx.softmax", problem.into());
        }
        Ok(())
    }

    /// Width of scores and of the padding's bias on them: what is squared or compared with zero
    /// becomes a weight without another opening.
    pub(crate) fn score_bits(&self) -> u32 {
        match self.approx.softmax {
            None | Some(SoftmaxForm::Clipped) => width::SCORE,
            Some(SoftmaxForm::Relu | SoftmaxForm::Quad) => width::WEIGHTED,
        }
    }

    /// Fractional bits of scores.
    pub(crate) fn score_frac_bits(&self) -> u32 {
        let form = self.approx.softmax;
        form.map_or(self.numeric.frac_bits, SoftmaxForm::score_frac_bits)
    }

    /// Every size alone and what they make together: a spec may come from a peer, and what follows
    /// allocates by it.
    fn check_sizes(&self) -> Result<(), SpecError> {
        let least_classes = if self.reveals_embedding() { 0 } else { 2 };
        let rank = self.lora_rank;
        let sizes = [
            ("hidden_size", self.hidden_size, 1, 1 << 18),
            ("intermediate_size", self.intermediate_size, 1, 1 << 20),
            ("num_attention_heads", self.num_attention_heads, 1, 1 << 12),
            ("num_key_value_heads", self.num_key_value_heads, 1, 1 << 12),
            ("head_dim", self.head_dim, 1, 1 << 13),
            ("vocab_size", self.vocab_size, least_classes, 1 << 22),
            ("num_layers", self.num_layers, 1, 1 << 12),
            ("max_positions", self.max_positions, 1, MAX_POSITIONS),
        ];
        let fail = |field, problem| Err(SpecError::Invalid { field, problem });
        for (field, value, least, most) in sizes {
            if !(least..=most).contains(&value) {
                return fail(
                    field,
                    format!("is {value}, and must lie between {least} and {most}"),
                );
            }
        }
        // Products of what passed alone: neither factor bounds them.
        let wide = self.num_attention_heads * self.head_dim;
        if wide > 1 << 18 {
            return fail(
                "num_attention_heads",
                format!("times head_dim is {wide}, more than 2^18"),
            );
        }
        // No factor is larger than the matrix that it is added to.
        let side = self.hidden_size.max(self.intermediate_size).max(wide);
        if rank > side {
            return fail(
                "lora_rank",
                format!("is {rank}, more than any matrix has rows"),
            );
        }
        if self.num_attention_heads * self.max_positions * self.max_positions > 1 << 32 {
            return fail(
                "num_attention_heads",
                format!(
                    "has more scores than 2^32 at {} positions",
                    self.max_positions
                ),
            );
        }
        Ok(())
    }

    /// Whether the private layers have no public matrices at all.
    #[must_use]
    pub fn is_full_rank(&self) -> bool {
        self.private == PrivateForm::FullRank
    }

    /// Whether E1 adds a row of its own to what a private map or update gives: what the update
    /// makes of a norm's bias, or the bias of a private map.
    pub(crate) fn has_private_rows(&self) -> bool {
        let folds_bias = self.architecture.norm() == NormKind::Layer;
        self.has_biases() && (self.is_full_rank() || folds_bias)
    }

    /// Whether the pooled row goes through a dense map and tanh.
    #[must_use]
    pub fn has_pooler(&self) -> bool {
        matches!(
            self.architecture,
            Architecture::Bert {
                pooling: Pooling::Pooler,
                ..
            }
        )
    }

    /// Whether the client learns a pooled row instead of an index.
    #[must_use]
    pub fn reveals_embedding(&self) -> bool {
        matches!(
            self.architecture,
            Architecture::Bert {
                reveal: Reveal::Embedding,
                ..
            }
        )
    }

    /// Padded length of a prompt of `n_tokens`.
    #[must_use]
    pub fn bucket(&self, n_tokens: usize) -> usize {
        n_tokens.max(1).next_multiple_of(BUCKET)
    }

    /// Boundary activations as integers of the residual scale.
    ///
    /// # Errors
    /// [`NumericError::OutOfRange`] when a value is not finite or would leave the range of the sums
    /// of squares.
    pub fn encode(&self, values: &[f32]) -> Result<Vec<u64>, SpecError> {
        let limit = f64::from(1 << 15);
        let frac_bits = self.numeric.residual_frac_bits;
        let encoded = values
            .iter()
            .enumerate()
            .map(|(i, &v)| encode(f64::from(v), frac_bits, limit, "boundary", i));
        let encoded = encoded.collect::<Result<Vec<u64>, _>>()?;
        // The first norm sums the squares of a row in the ring.
        let norm_limit = f64::from(31 - frac_bits).exp2();
        for (row, values) in values.chunks(self.hidden_size).enumerate() {
            let norm = values
                .iter()
                .map(|v| f64::from(*v).powi(2))
                .sum::<f64>()
                .sqrt();
            if norm >= norm_limit {
                let label = format!("norm of boundary row {row}");
                let index = row * self.hidden_size;
                return Err(NumericError::OutOfRange {
                    label,
                    index,
                    value: norm,
                    limit: norm_limit,
                }
                .into());
            }
        }
        Ok(encoded)
    }

    /// `round(log2(sqrt(hidden_size)))`: the power of two that stands for `sqrt(hidden_size)` in
    /// the norm; the rest is folded into the norm's gain.
    #[must_use]
    pub fn norm_bits(&self) -> u32 {
        norm_bits(self.hidden_size)
    }

    /// What `2^norm_bits` leaves of `sqrt(hidden_size)`.
    #[must_use]
    pub fn norm_rest(&self) -> f64 {
        norm_rest(self.hidden_size)
    }

    /// `attn_scale = factor · 2^-bits` with `factor` in (1/2, 1].
    #[must_use]
    pub fn score_scale(&self, layer: usize) -> (f64, u32) {
        // A power of two costs nothing: it joins the truncation of the scores.
        let bits = (-self.attn_scale[layer].log2()).floor() as u32;
        (self.attn_scale[layer] * f64::from(1u32 << bits), bits)
    }
}

/// Widths of wires, in bits.
pub(crate) mod width {
    /// Residual stream, norms, attention: sums of products, divided later, need the whole ring.
    pub const FULL: u32 = 64;
    /// Projections before their truncation.
    pub const PRODUCT: u32 = 56;
    /// Scores before their truncation, gate and up activations.
    pub const ACTIVATION: u32 = 48;
    /// Softmax weights, values and their products.
    pub const WEIGHTED: u32 = 48;
    /// Scores and their differences.
    pub const SCORE: u32 = 32;
}

/// Fractional bits of a post-norm's gain.
pub(crate) const GAIN_FRAC_BITS: u32 = 16;
