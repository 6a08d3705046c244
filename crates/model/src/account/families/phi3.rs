//! Phi 3: queries, keys and values in one tensor, gate and up in another, which are cut apart when
//! a checkpoint is opened.

use super::{Family, PLAIN, Traits, window_of_all_layers};
use crate::account::Known;

pub(super) const FAMILY: Family = Family {
    model_type: "phi3",
    architecture: "Phi3ForCausalLM",
    keys: Known {
        used: &["original_max_position_embeddings", "sliding_window"],
        harmless: &[],
        neutral: &[],
    },
    traits: Traits {
        fused: true,
        ..PLAIN
    },
    read: window_of_all_layers,
};
