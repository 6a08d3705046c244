//! `[heads]`: layers with fewer softmaxes than heads.

use serde::{Deserialize, Serialize};

use crate::recipe::is_zero;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grouping {
    /// Heads of different key-value heads, by their numbers.
    #[default]
    Strided,
    /// Neighbors.
    Adjacent,
    /// In each layer the one that changes the attention block's output least on training rows.
    Measured,
}

impl Grouping {
    /// As recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Strided => "strided",
            Self::Adjacent => "adjacent",
            Self::Measured => "measured",
        }
    }
}

/// How a layer gets by with fewer softmaxes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Groups of heads share one.
    #[default]
    Merge,
    /// One head of each group is left.
    Prune,
}

impl Method {
    fn is_merge(&self) -> bool {
        *self == Self::Merge
    }
}

/// `[heads]`: groups of `merge` query heads share one softmax, or one head of `merge` is left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Heads {
    pub merge: usize,
    #[serde(default)]
    pub grouping: Grouping,
    /// Factor of the summed scores; `1 / sqrt(merge * head_dim)` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f64>,
    #[serde(default)]
    pub allow_kv_collapse: bool,
    #[serde(default, skip_serializing_if = "Method::is_merge")]
    pub method: Method,
    /// A factor for the scores of each head, with which its group's softmax comes nearest to the
    /// mean of the heads' own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub fit_scales: bool,
    /// So many private layers stay whole: those that would change most.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub keep: usize,
    /// Layers that stay whole, counted over the whole model.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keep_layers: Vec<usize>,
    /// In this share of the steps, from the first one on, the scores of each head move from its own
    /// to its group's.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub progressive: f64,
    /// Training rows on which groups, scales and layers are measured, at most.
    #[serde(
        default = "calibration_rows",
        skip_serializing_if = "is_calibration_rows"
    )]
    pub calibration_rows: usize,
}

impl Heads {
    /// Whether groups, scales or layers are measured on training rows.
    pub fn is_measured(&self) -> bool {
        self.grouping == Grouping::Measured || self.fit_scales || self.keep > 0
    }

    pub(crate) fn has_calibration_rows(&self) -> bool {
        !is_calibration_rows(&self.calibration_rows)
    }
}

fn calibration_rows() -> usize {
    64
}

fn is_calibration_rows(rows: &usize) -> bool {
    *rows == calibration_rows()
}

fn is_nothing(share: &f64) -> bool {
    *share == 0.0
}
