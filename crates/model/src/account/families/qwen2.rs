//! Qwen 2 and 2.5: biases of queries, keys and values.

use super::{Family, PLAIN, Traits, window_of_some_layers};
use crate::account::Known;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    keys: Known {
        used: &[
            "layer_types",
            "max_window_layers",
            "sliding_window",
            "use_sliding_window",
        ],
        harmless: &[],
        // Rotations of images and films.
        neutral: &[("use_mrope", &["false"])],
    },
    traits: Traits {
        qkv_bias: true,
        ..PLAIN
    },
    read: window_of_some_layers,
};
