//! What is compared: the forms of the model, and the steps.

use std::fmt;

use marill_mpc::ProgramSpec;
use marill_numeric::Rounding;
use serde::{Deserialize, Serialize};

use crate::commands::bench::{
    reopened::{self, Stage},
    shapes::{self, Form},
};

/// Layers of SmolLM2-135M.
const LAYERS: usize = 30;
/// Rank of every LoRA update.
const RANK: usize = 8;
/// Query heads that share a softmax once merged: 9 heads become 3.
const MERGED: usize = 3;
pub const SHAPE: &str = "smollm2-135m";

/// By what products with private weights are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Weights {
    /// Marill's own engine: masked once per client.
    MaskedOnce,
    /// The baseline: masked and opened in every call.
    OpenedEachCall,
}

impl Weights {
    pub const ALL: [Self; 2] = [Self::MaskedOnce, Self::OpenedEachCall];
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MaskedOnce => "masked once",
            Self::OpenedEachCall => "opened in each call",
        })
    }
}

/// One form of the model, by what was done to it.
pub struct ModelForm {
    /// Names the form in files.
    pub name: &'static str,
    /// As a person reads it.
    pub title: &'static str,
    /// First layers that are public and run at the client.
    pub frozen: usize,
    /// Whether maps are public but for an update of rank 8, or private as a whole.
    pub low_rank: bool,
    /// Whether 9 heads are merged to 3.
    pub merged: bool,
}

/// The ordinary fine-tune, each technique alone, and all of them.
pub const FORMS: [ModelForm; 7] = [
    form("full", "ordinary full fine-tune", 0, false, false),
    form("freezing", "15/30 frozen alone", 15, false, false),
    form("low-rank", "rank 8 alone", 0, true, false),
    form("merging", "9 to 3 heads alone", 0, false, true),
    form("marill-15", "Marill, 15/30 frozen", 15, true, true),
    form("marill-20", "Marill, 20/30 frozen", 20, true, true),
    form("marill-23", "Marill, 23/30 frozen", 23, true, true),
];

const fn form(
    name: &'static str,
    title: &'static str,
    frozen: usize,
    low_rank: bool,
    merged: bool,
) -> ModelForm {
    ModelForm {
        name,
        title,
        frozen,
        low_rank,
        merged,
    }
}

impl ModelForm {
    /// Its program, with room for `positions`.
    ///
    /// # Errors
    /// None of these forms is refused.
    pub fn spec(&self, positions: usize) -> anyhow::Result<ProgramSpec> {
        shapes::spec(SHAPE, self.shape(positions))
    }

    /// Whether embedding and output head are private too. They are one matrix in this model, which
    /// a frozen prefix makes public, and to which no update of low rank is made. Marill's own
    /// engine has no private head.
    pub fn private_ends(&self) -> bool {
        self.frozen == 0 && !self.low_rank
    }

    /// What the parties run as a session. Products with opened weights come beside it, so there
    /// nothing of a map is private.
    pub fn session_shape(&self, weights: Weights, positions: usize) -> Form {
        let shape = self.shape(positions);
        match weights {
            Weights::MaskedOnce => shape,
            Weights::OpenedEachCall => Form {
                rank: 0,
                full: false,
                ..shape
            },
        }
    }

    /// Products with weights that are opened in every call; `ends`: embedding and output head are
    /// private.
    ///
    /// # Errors
    /// None of these forms is refused.
    pub fn stages(&self, weights: Weights, step: Step, ends: bool) -> anyhow::Result<Vec<Stage>> {
        let (cached, rows) = step.shape();
        let spec = self.spec(cached + rows + 16)?;
        Ok(match weights {
            Weights::MaskedOnce => Vec::new(),
            Weights::OpenedEachCall => reopened::shapes::stages(&spec, rows, ends),
        })
    }

    fn shape(&self, positions: usize) -> Form {
        Form {
            layers: Some(LAYERS - self.frozen),
            head: true,
            rank: if self.low_rank { RANK } else { 0 },
            full: !self.low_rank,
            merge: if self.merged { MERGED } else { 1 },
            positions,
            rounding: Rounding::Exact,
        }
    }
}

/// What is evaluated once: a prompt, or one token behind one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Step {
    /// A prompt of so many tokens.
    Prefill { tokens: usize },
    /// A token that attends to so many keys, itself included.
    Decode { keys: usize },
}

impl Step {
    pub const ALL: [Self; 3] = [
        Self::Prefill { tokens: 64 },
        Self::Prefill { tokens: 256 },
        Self::Decode { keys: 128 },
    ];

    /// Keys before it, and its rows.
    pub fn shape(self) -> (usize, usize) {
        match self {
            Self::Prefill { tokens } => (0, tokens),
            Self::Decode { keys } => (keys - 1, 1),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Prefill { tokens } => write!(f, "prompt of {tokens}"),
            Self::Decode { keys } => write!(f, "token at {keys} keys"),
        }
    }
}
