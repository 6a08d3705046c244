//! `[distill]`: what a run learns from a teacher, and in which stages.

use serde::{Deserialize, Serialize};

use crate::recipe::one;

/// The name of a teacher that is trained before the run.
pub const FINE_TUNED: &str = "fine-tune";

/// `[distill]`: learn from the logits of a teacher too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Distill {
    /// `base`, `fine-tune` (the base, all of it trained on the same rows first), or a checkpoint
    /// with the same tokenizer.
    pub teacher: String,
    /// How a teacher `fine-tune` is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fine_tune: Option<FineTune>,
    /// Commit, branch or tag of a teacher on the hub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    #[serde(default = "one")]
    pub temperature: f64,
    /// Part of the loss that follows the teacher's logits, the rest follows the labels; 0.5 when
    /// left out. Says the same as one stage with `logits = weight` and `labels = 1 - weight`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<f64>,
    /// How much of the teacher's logits is kept from its first answer to a row on.
    #[serde(default, skip_serializing_if = "KeepLogits::is_all")]
    pub keep_logits: KeepLogits,
    /// Tokens kept of each answer, or drawn; 64 when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_tokens: Option<usize>,
    /// Parts that queries, keys and values are cut into for `relations`; as many as the base has
    /// heads of keys when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relation_heads: Option<usize>,
    /// Parts of the run with losses of their own, one after another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stages: Vec<Stage>,
}

/// `distill.fine_tune`: what the teacher's training has of its own; the rest is the recipe's,
/// without transformations.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FineTune {
    /// 3e-4 when left out: all weights want a lower rate than low-rank factors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub learning_rate: Option<f64>,
    /// As many as the run itself when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
}

/// What a teacher's answer is kept as.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeepLogits {
    /// Its last hidden state: all logits follow from it.
    #[default]
    All,
    /// The likeliest tokens, and the mass of all others as one.
    TopK,
    /// Tokens drawn from it, each with its share of the draws: no bias, some noise.
    Sampled,
}

impl KeepLogits {
    fn is_all(&self) -> bool {
        *self == Self::All
    }
}

/// One of `distill.stages`: the loss is the sum of parts with these weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Part of the run's steps; the shares of all stages are 1 together.
    pub share: f64,
    /// Distance of the private layers' outputs from the teacher's, relative to their size.
    #[serde(default)]
    pub hidden: f64,
    /// The same with every layer alone, on the teacher's own input of it.
    #[serde(default, skip_serializing_if = "is_zero_weight")]
    pub outputs: f64,
    /// `KL(teacher || student)` of how the last layer's queries, keys and values relate among
    /// themselves.
    #[serde(default, skip_serializing_if = "is_zero_weight")]
    pub relations: f64,
    /// `temperature^2 KL(teacher || student)` at the labels.
    #[serde(default)]
    pub logits: f64,
    /// Cross-entropy with the labels.
    #[serde(default)]
    pub labels: f64,
}

fn is_zero_weight(weight: &f64) -> bool {
    *weight == 0.0
}

impl Stage {
    /// A stage of the labels alone, the whole run.
    pub const LABELS: Self = Self {
        share: 1.0,
        hidden: 0.0,
        outputs: 0.0,
        relations: 0.0,
        logits: 0.0,
        labels: 1.0,
    };

    /// Weight of what needs the output head.
    pub fn head(&self) -> f64 {
        self.logits + self.labels
    }

    /// Whether a layer's output depends on the ones before it.
    pub fn runs_through(&self) -> bool {
        self.hidden + self.relations + self.head() > 0.0
    }

    /// Whether the teacher has to be run even where its logits are known.
    pub fn needs_states(&self) -> bool {
        self.hidden + self.outputs + self.relations > 0.0
    }
}

impl Distill {
    /// The stages, also where only `weight` or nothing is written.
    pub fn stages(&self) -> Vec<Stage> {
        if !self.stages.is_empty() {
            return self.stages.clone();
        }
        let logits = self.weight.unwrap_or(0.5);
        vec![Stage {
            logits,
            labels: 1.0 - logits,
            ..Stage::LABELS
        }]
    }
}
