//! Qwen 3: norms of queries and keys, head by head, and a size of heads that nothing else says.

use super::{Family, FamilyKeys, PLAIN, QkNorm, Traits, window_of_some_layers};
use crate::account::Known;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    keys: Known {
        used: &[
            "attention_bias",
            "layer_types",
            "max_window_layers",
            "sliding_window",
            "use_sliding_window",
        ],
        harmless: &[],
        neutral: &[],
    },
    traits: Traits {
        qk_norm: Some(QkNorm::Head),
        derives_head_dim: false,
        ..PLAIN
    },
    read: |account, layers| {
        Ok(FamilyKeys {
            attention_bias: account.flag("attention_bias")?.unwrap_or(false),
            ..window_of_some_layers(account, layers)?
        })
    },
};
