//! The families of decoders that [`crate::Llama`] computes: a file for each, which says what its
//! configuration's keys mean and what no key says.

mod granite;
mod llama;
mod mistral;
mod phi3;
mod qwen2;
mod qwen3;
mod smollm3;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Account, Known};
use crate::ModelError;

/// A `model_type`.
pub(crate) struct Family {
    pub model_type: &'static str,
    /// The one entry of `architectures`.
    pub architecture: &'static str,
    /// Its own keys, beside [`super::DECODER`].
    pub keys: Known,
    pub traits: Traits,
    /// Reads its own keys, of a model of so many layers.
    pub read: fn(&Account<'_>, usize) -> Result<FamilyKeys, ModelError>,
}

/// Keys that not every family has, under Hugging Face's names and at values that say nothing where
/// a file leaves them out. They are not written then, so that older manifests and their digests
/// stay what they are.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FamilyKeys {
    /// Biases of queries, keys, values and the output map.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub attention_bias: bool,
    /// Biases of the MLP's maps.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub mlp_bias: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub use_sliding_window: bool,
    /// How many keys a row sees, itself included; of all layers unless `layer_types` names some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sliding_window: Option<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub layer_types: Vec<String>,
    /// 0 for a layer that does not rotate queries and keys, and 1 for one that does; all do where
    /// there is no list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_rope_layers: Vec<u8>,
    /// In place of 1 over the root of a head's size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_multiplier: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding_multiplier: Option<f64>,
    /// Of what attention and MLP add to the stream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residual_multiplier: Option<f64>,
    /// What logits are divided by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logits_scaling: Option<f64>,
}

impl FamilyKeys {
    /// The window of a layer.
    pub(crate) fn window(&self, layer: usize) -> Option<usize> {
        let here = self
            .layer_types
            .get(layer)
            .is_none_or(|kind| kind == SLIDING);
        self.sliding_window.filter(|_| here)
    }

    /// The multipliers, by their keys.
    pub(crate) fn multipliers(&self) -> [(&'static str, Option<f64>); 4] {
        [
            ("attention_multiplier", self.attention_multiplier),
            ("embedding_multiplier", self.embedding_multiplier),
            ("residual_multiplier", self.residual_multiplier),
            ("logits_scaling", self.logits_scaling),
        ]
    }
}

/// What a family's definition says and no key does, or what a key means that a file leaves out.
pub(crate) struct Traits {
    /// Queries, keys and values have biases.
    pub qkv_bias: bool,
    /// Norms of queries and keys in front of the rotation.
    pub qk_norm: Option<QkNorm>,
    /// Files have queries, keys and values as one map, and gate and up as another.
    pub fused: bool,
    pub tie_word_embeddings: bool,
    pub rope_theta: f64,
    /// Whether a file that leaves out `head_dim` means `hidden_size / num_attention_heads`.
    pub derives_head_dim: bool,
    /// Whether one without `num_key_value_heads` means as many as there are query heads; elsewhere
    /// it is a number of the family's own, and a file without it is refused.
    pub derives_kv_heads: bool,
}

/// What the norms of queries and keys take as a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head by itself; all heads share the gain.
    Head,
    /// All heads together.
    Whole,
}

/// What most families have.
const PLAIN: Traits = Traits {
    qkv_bias: false,
    qk_norm: None,
    fused: false,
    tie_word_embeddings: false,
    rope_theta: 10_000.0,
    derives_head_dim: true,
    derives_kv_heads: false,
};

pub(super) const FAMILIES: [&Family; 7] = [
    &llama::FAMILY,
    &mistral::FAMILY,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &smollm3::FAMILY,
    &phi3::FAMILY,
    &granite::FAMILY,
];

impl Family {
    /// LLaMA's, for a file that names none.
    pub fn llama() -> &'static Self {
        &llama::FAMILY
    }

    /// # Errors
    /// A sentence that names the families that there are.
    pub fn of(model_type: &str) -> Result<&'static Self, String> {
        let family = FAMILIES
            .into_iter()
            .find(|family| family.model_type == model_type);
        family.ok_or_else(|| format!("only {} are", names()))
    }
}

/// `a, b and c`.
pub(crate) fn names() -> String {
    let names = FAMILIES.map(|family| format!("`{}`", family.model_type));
    let [first @ .., last] = &names;
    format!("{} and {last}", first.join(", "))
}

/// `sliding_window`, of all layers where nothing else is said.
///
/// # Errors
/// As [`Account::size`].
fn window_of_all_layers(account: &Account<'_>, _: usize) -> Result<FamilyKeys, ModelError> {
    Ok(FamilyKeys {
        sliding_window: account.size("sliding_window")?,
        ..FamilyKeys::default()
    })
}

/// The window of Qwen's families: none unless `use_sliding_window` says so; then of the layers that
/// `layer_types` names, or of those from `max_window_layers` on.
fn window_of_some_layers(account: &Account<'_>, layers: usize) -> Result<FamilyKeys, ModelError> {
    const FIRST: usize = 28;
    if !account.flag("use_sliding_window")?.unwrap_or(false) {
        no_layer_slides(account)?;
        return Ok(FamilyKeys::default());
    }
    // A key that is `null` says something else than a missing one, and looks the same here.
    let window = account.size("sliding_window")?;
    let window = window.ok_or_else(|| account.missing("sliding_window"))?;
    let layer_types = match layer_types(account, layers)? {
        Some(types) => types,
        None => {
            let first = match account.keys.get("max_window_layers") {
                Some(Value::Number(n)) if n.as_u64() == Some(0) => 0,
                _ => account.size("max_window_layers")?.unwrap_or(FIRST),
            };
            let of = |layer| if layer >= first { SLIDING } else { FULL };
            (0..layers).map(|layer| of(layer).to_owned()).collect()
        }
    };
    Ok(FamilyKeys {
        use_sliding_window: true,
        sliding_window: Some(window),
        layer_types,
        ..FamilyKeys::default()
    })
}

const SLIDING: &str = "sliding_attention";
const FULL: &str = "full_attention";

/// `layer_types`, an entry for each layer.
fn layer_types(account: &Account<'_>, layers: usize) -> Result<Option<Vec<String>>, ModelError> {
    let Some(value) = account.keys.get("layer_types") else {
        return Ok(None);
    };
    let refuse = |why: &str| account.refuse("layer_types", value, why);
    let list = value.as_array().ok_or_else(|| refuse("is no list"))?;
    if list.len() != layers {
        return Err(refuse(&format!("is not for {layers} layers")));
    }
    let name = |value: &Value| {
        let name = value.as_str().filter(|name| [SLIDING, FULL].contains(name));
        name.map(str::to_owned)
    };
    let names = list.iter().map(name).collect::<Option<Vec<String>>>();
    let why = format!("has an entry that is neither \"{FULL}\" nor \"{SLIDING}\"");
    names.map(Some).ok_or_else(|| refuse(&why))
}

/// `layer_types` names no layer with a window, of a model without one.
fn no_layer_slides(account: &Account<'_>) -> Result<(), ModelError> {
    let Some(value) = account.keys.get("layer_types") else {
        return Ok(());
    };
    let full = |list: &Vec<Value>| list.iter().all(|kind| kind == FULL);
    match value.as_array().is_some_and(full) {
        true => Ok(()),
        false => Err(account.refuse(
            "layer_types",
            value,
            "is not computed, only \"full_attention\" where no window is in use",
        )),
    }
}
