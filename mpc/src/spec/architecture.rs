//! What tells one architecture from another. A program asks here, never which architecture it is.

use serde::{Deserialize, Serialize};

/// The linear maps that a transformer layer may have.
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
    pub const ALL: &[Self] = &[
        Self::Q,
        Self::K,
        Self::V,
        Self::O,
        Self::Gate,
        Self::Up,
        Self::Down,
    ];
}

/// The maps of a layer whose MLP has no gate.
const WITHOUT_GATE: [Module; 6] = [
    Module::Q,
    Module::K,
    Module::V,
    Module::O,
    Module::Up,
    Module::Down,
];

/// The norms of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// A root-mean-square norm before attention and before the MLP; its gain is folded into the
    /// maps behind it.
    Rms,
    /// A layer norm at the same places; gain and bias are folded into the maps behind it.
    Layer,
    /// A layer norm behind each residual sum; gain and bias are public rows.
    PostLayer,
}

/// How a layer is built. `rms_norm_eps` is the epsilon of whichever norm there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Architecture {
    /// RMS norm before each part, rotary positions, gated SiLU, no biases.
    #[default]
    Llama,
    /// Layer norm before each part, positions in the client's prefix, GeLU, biases.
    Gpt2,
    /// An encoder: every row sees every row, layer norm after each residual sum, GeLU, biases. One
    /// step, no cache.
    Bert { pooling: Pooling, reveal: Reveal },
}

impl Architecture {
    /// Whether it is the one that manifests leave out.
    #[must_use]
    pub fn is_llama(&self) -> bool {
        *self == Self::Llama
    }

    /// How a layer normalizes.
    #[must_use]
    pub fn norm(&self) -> NormKind {
        match self {
            Self::Llama => NormKind::Rms,
            Self::Gpt2 => NormKind::Layer,
            Self::Bert { .. } => NormKind::PostLayer,
        }
    }

    /// Whether queries and keys are rotated by their position; otherwise positions are in the
    /// client's prefix.
    #[must_use]
    pub fn is_rotary(&self) -> bool {
        matches!(self, Self::Llama)
    }

    /// Whether the MLP is `down(silu(gate(x)) · up(x))`; otherwise it is `down(gelu(up(x)))`.
    #[must_use]
    pub fn is_gated(&self) -> bool {
        matches!(self, Self::Llama)
    }

    /// Whether it is one step over all rows, without a cache.
    #[must_use]
    pub fn is_encoder(&self) -> bool {
        matches!(self, Self::Bert { .. })
    }

    /// Whether a row sees no later one.
    #[must_use]
    pub fn is_causal(&self) -> bool {
        !self.is_encoder()
    }

    /// Whether maps have biases.
    #[must_use]
    pub fn has_biases(&self) -> bool {
        !matches!(self, Self::Llama)
    }

    /// The linear maps of a layer, in the order in which adapters are stored.
    #[must_use]
    pub fn modules(&self) -> &'static [Module] {
        match self {
            Self::Llama => Module::ALL,
            Self::Gpt2 | Self::Bert { .. } => &WITHOUT_GATE,
        }
    }
}

/// What an encoder makes of its rows. The client alone knows which rows are padding, so it enters
/// the weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The mean of all rows of the text.
    Mean,
    /// The first row of the text.
    Cls,
    /// The first row behind a dense map and tanh, as in BERT's own classifiers.
    Pooler,
}

/// What an encoder reveals to its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reveal {
    /// The index of the largest of `vocab_size` classes.
    Class,
    /// The pooled row itself: `hidden_size` numbers per request, which is far more of the model
    /// than a class.
    Embedding,
}
