//! SmolLM 3: some layers without rotation, every fourth where nothing else is said.

use serde_json::Value;

use super::{Family, FamilyKeys, PLAIN, Traits, window_of_some_layers};
use crate::{
    ModelError,
    account::{Account, Known},
};

pub(super) const FAMILY: Family = Family {
    model_type: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    keys: Known {
        used: &[
            "attention_bias",
            "layer_types",
            "max_window_layers",
            "mlp_bias",
            "no_rope_layer_interval",
            "no_rope_layers",
            "sliding_window",
            "use_sliding_window",
        ],
        harmless: &[],
        neutral: &[],
    },
    traits: Traits {
        tie_word_embeddings: true,
        rope_theta: 2_000_000.0,
        ..PLAIN
    },
    read: |account, layers| {
        // Which layers slide depends on which rotate where no list says it.
        if account.flag("use_sliding_window")? == Some(true)
            && !account.keys.contains_key("layer_types")
        {
            return Err(account.missing("layer_types"));
        }
        Ok(FamilyKeys {
            attention_bias: account.flag("attention_bias")?.unwrap_or(false),
            mlp_bias: account.flag("mlp_bias")?.unwrap_or(false),
            no_rope_layers: rotating(account, layers)?,
            ..window_of_some_layers(account, layers)?
        })
    },
};

/// `no_rope_layers`: 1 for a layer that rotates, whatever the name says, and 0 for one that does
/// not.
fn rotating(account: &Account<'_>, layers: usize) -> Result<Vec<u8>, ModelError> {
    const EVERY: usize = 4;
    let Some(value) = account.keys.get("no_rope_layers") else {
        let every = account.size("no_rope_layer_interval")?.unwrap_or(EVERY);
        return Ok((1..=layers).map(|nth| u8::from(nth % every != 0)).collect());
    };
    let refuse = |why: &str| account.refuse("no_rope_layers", value, why);
    let list = value.as_array().ok_or_else(|| refuse("is no list"))?;
    if list.len() != layers {
        return Err(refuse(&format!("is not for {layers} layers")));
    }
    let flag = |value: &Value| value.as_u64().filter(|flag| *flag <= 1);
    let flags = list.iter().map(|value| flag(value).map(|flag| flag as u8));
    let flags = flags.collect::<Option<Vec<u8>>>();
    flags.ok_or_else(|| refuse("has an entry that is neither 0 nor 1"))
}
