//! LLaMA 2 and 3, and models that call themselves so.

use super::{Family, FamilyKeys, PLAIN, Traits};
use crate::account::Known;

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    keys: Known {
        used: &["attention_bias", "mlp_bias"],
        harmless: &[],
        neutral: &[],
    },
    traits: Traits {
        derives_kv_heads: true,
        ..PLAIN
    },
    read: |account, _| {
        Ok(FamilyKeys {
            attention_bias: account.flag("attention_bias")?.unwrap_or(false),
            mlp_bias: account.flag("mlp_bias")?.unwrap_or(false),
            ..FamilyKeys::default()
        })
    },
};
