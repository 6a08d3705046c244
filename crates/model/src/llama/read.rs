//! Reading `config.json` of a decoder, every key of which is accounted for.

use std::{cell::RefCell, path::Path};

use serde_json::{Value, json};

use super::LlamaConfig;
use crate::{
    ModelError, TokenIds,
    account::{Account, DECODER, Ignored, families::Family, rope::rotation},
};

impl LlamaConfig {
    /// Reads a `config.json` whose every key is accounted for.
    ///
    /// # Errors
    /// As [`crate::Checkpoint::open`] for its configuration.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let met = RefCell::default();
        decoder_config(&Account::read(path, Ignored::new(&[], &met))?)
    }
}

/// A decoder's configuration, from a file whose every key is accounted for; others are refused.
///
/// # Errors
/// [`ModelError::Unsupported`] for another `model_type`, [`ModelError::Unaccounted`] for a key that
/// is not computed, [`ModelError::TooLarge`] and [`ModelError::Corrupt`] for sizes.
pub(crate) fn decoder_config(account: &Account<'_>) -> Result<LlamaConfig, ModelError> {
    let path = &account.path;
    let family = family(account)?;
    if let Some(value) = account.keys.get("architectures")
        && value != &json!([family.architecture])
        && value != &json!([])
    {
        let why = format!("is not computed, only [\"{}\"]", family.architecture);
        return Err(account.refuse("architectures", value, &why));
    }
    account.check(&[&family.keys, &DECODER])?;
    let traits = &family.traits;
    let needed = |key: &str| account.size(key)?.ok_or_else(|| account.missing(key));
    let hidden_size = needed("hidden_size")?;
    let num_attention_heads = needed("num_attention_heads")?;
    let head_dim = account.size("head_dim")?;
    let num_key_value_heads = account.size("num_key_value_heads")?;
    if !traits.derives_head_dim {
        head_dim.ok_or_else(|| account.missing("head_dim"))?;
    }
    if !traits.derives_kv_heads {
        num_key_value_heads.ok_or_else(|| account.missing("num_key_value_heads"))?;
    }
    if head_dim.is_none() && !hidden_size.is_multiple_of(num_attention_heads) {
        let reason =
            "`num_attention_heads` does not divide `hidden_size`, and there is no `head_dim`";
        return Err(ModelError::corrupt(path, reason));
    }
    let max_position_embeddings = needed("max_position_embeddings")?;
    let (rope_theta, rope_scaling) = rotation(account, traits.rope_theta, max_position_embeddings)?;
    let num_hidden_layers = needed("num_hidden_layers")?;
    let config = LlamaConfig {
        model_type: family.model_type.into(),
        hidden_size,
        intermediate_size: needed("intermediate_size")?,
        num_hidden_layers,
        num_attention_heads,
        num_key_value_heads: num_key_value_heads.unwrap_or(num_attention_heads),
        head_dim: head_dim.unwrap_or(0),
        vocab_size: needed("vocab_size")?,
        rms_norm_eps: account
            .number("rms_norm_eps")?
            .ok_or_else(|| account.missing("rms_norm_eps"))?,
        rope_theta,
        rope_scaling,
        max_position_embeddings,
        tie_word_embeddings: account
            .flag("tie_word_embeddings")?
            .unwrap_or(traits.tie_word_embeddings),
        bos_token_id: account.id("bos_token_id")?,
        pad_token_id: account.id("pad_token_id")?,
        quantization_config: account.table("quantization_config")?.map(Value::Object),
        keys: (family.read)(account, num_hidden_layers)?,
        ..LlamaConfig::default()
    };
    let mut config = config.normalize().map_err(|reason| ModelError::TooLarge {
        path: path.clone(),
        reason,
    })?;
    let ends = ends(account, config.vocab_size)?;
    add_ends(&mut config, ends);
    Ok(config)
}

/// A file that names none is LLaMA's.
fn family(account: &Account<'_>) -> Result<&'static Family, ModelError> {
    let value = match account.keys.get("model_type") {
        None => return Ok(Family::llama()),
        Some(value) => value,
    };
    let name = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    Family::of(&name).map_err(|why| ModelError::Unsupported {
        path: account.path.clone(),
        key: "model_type".into(),
        value: name,
        why: why.into(),
    })
}

/// Tokens that end a text, by a file.
pub(crate) fn ends(account: &Account<'_>, vocab_size: usize) -> Result<Vec<u32>, ModelError> {
    let ids = account.ids("eos_token_id")?;
    match ids.iter().find(|id| **id as usize >= vocab_size) {
        None => Ok(ids),
        Some(beyond) => {
            let why = format!("names {beyond}, and there are {vocab_size} tokens");
            Err(account.refuse("eos_token_id", &account.keys["eos_token_id"], &why))
        }
    }
}

/// Adds tokens that end a text, each once and in the order of the files.
pub(crate) fn add_ends(config: &mut LlamaConfig, more: Vec<u32>) {
    let mut ids = config
        .eos_token_id
        .as_ref()
        .map_or_else(Vec::new, |ids| ids.ids().to_vec());
    ids.extend(more);
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|id| seen.insert(*id));
    config.eos_token_id = match ids.as_slice() {
        [] => None,
        [id] => Some(TokenIds::One(*id)),
        _ => Some(TokenIds::Many(ids)),
    };
}
