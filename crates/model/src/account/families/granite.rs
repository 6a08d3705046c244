//! Granite: multipliers of the embedding, of what layers add, of scores, and a divisor of logits.

use super::{Family, FamilyKeys, PLAIN};
use crate::account::Known;

pub(super) const FAMILY: Family = Family {
    model_type: "granite",
    architecture: "GraniteForCausalLM",
    keys: Known {
        used: &[
            "attention_bias",
            "attention_multiplier",
            "embedding_multiplier",
            "logits_scaling",
            "mlp_bias",
            "residual_multiplier",
        ],
        harmless: &[],
        neutral: &[],
    },
    traits: PLAIN,
    read: |account, _| {
        Ok(FamilyKeys {
            attention_bias: account.flag("attention_bias")?.unwrap_or(false),
            mlp_bias: account.flag("mlp_bias")?.unwrap_or(false),
            // A missing one is 1, and no root of the head's size stands beside it.
            attention_multiplier: Some(account.number("attention_multiplier")?.unwrap_or(1.0)),
            embedding_multiplier: account.number("embedding_multiplier")?,
            residual_multiplier: account.number("residual_multiplier")?,
            logits_scaling: account.number("logits_scaling")?,
            ..FamilyKeys::default()
        })
    },
};
