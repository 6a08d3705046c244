//! Mistral: LLaMA's layers, in some versions with a window in all of them.

use super::{Family, PLAIN, window_of_all_layers};
use crate::account::Known;

pub(super) const FAMILY: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    keys: Known {
        used: &["sliding_window"],
        harmless: &[],
        neutral: &[],
    },
    traits: PLAIN,
    read: window_of_all_layers,
};
