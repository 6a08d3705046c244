//! Which architecture a checkpoint is of. A new one is a file beside `llama.rs` and a variant here;
//! a family of decoders like LLaMA is a file in `account/families`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
use serde_json::Value;

use crate::{BertConfig, Gpt2Config, LlamaConfig, ModelConfig, ModelError, Sizes};

/// The configuration of a model, whose `model_type` says of which architecture; what all of them
/// have is [`ModelConfig`]'s.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
#[expect(clippy::large_enum_variant, reason = "a program has a few of them")]
pub enum Architecture {
    Llama(LlamaConfig),
    Gpt2(Gpt2Config),
    Bert(BertConfig),
}

impl Architecture {
    /// As in `config.json`.
    pub fn model_type(&self) -> &'static str {
        match self {
            Self::Llama(config) => config.family_name(),
            Self::Gpt2(_) => "gpt2",
            Self::Bert(_) => "bert",
        }
    }

    /// For what only decoders of the LLaMA family have: training, export and the plaintext prefix.
    ///
    /// # Errors
    /// [`ModelError::NotLlama`].
    pub fn llama(&self) -> Result<&LlamaConfig, ModelError> {
        match self {
            Self::Llama(config) => Ok(config),
            other => Err(ModelError::NotLlama {
                model_type: other.model_type(),
            }),
        }
    }

    fn config(&self) -> &dyn ModelConfig {
        match self {
            Self::Llama(config) => config,
            Self::Gpt2(config) => config,
            Self::Bert(config) => config,
        }
    }

    /// Of weights in memory, into which the scales of stored ones went.
    pub(crate) fn without_scales(&self) -> Self {
        match self {
            Self::Llama(config) => Self::Llama(LlamaConfig {
                quantization_config: None,
                ..config.clone()
            }),
            other => other.clone(),
        }
    }
}

impl ModelConfig for Architecture {
    fn sizes(&self) -> Sizes {
        self.config().sizes()
    }

    fn modules(&self) -> &'static [&'static str] {
        self.config().modules()
    }

    fn score_factor(&self) -> f64 {
        self.config().score_factor()
    }

    fn window(&self, layer: usize) -> Option<usize> {
        self.config().window(layer)
    }

    fn is_public(&self, tensor: &str) -> bool {
        self.config().is_public(tensor)
    }

    fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        self.config().tensors()
    }

    fn layer_prefix(&self) -> &'static str {
        self.config().layer_prefix()
    }

    fn tied_head(&self) -> Option<(&'static str, &'static str)> {
        self.config().tied_head()
    }

    fn check_sizes(&self) -> Result<(), String> {
        self.config().check_sizes()
    }

    fn module_shape(&self, module: &str) -> Option<[usize; 2]> {
        self.config().module_shape(module)
    }
}

impl From<LlamaConfig> for Architecture {
    fn from(config: LlamaConfig) -> Self {
        Self::Llama(config)
    }
}

impl From<Gpt2Config> for Architecture {
    fn from(config: Gpt2Config) -> Self {
        Self::Gpt2(config)
    }
}

impl From<BertConfig> for Architecture {
    fn from(config: BertConfig) -> Self {
        Self::Bert(config)
    }
}

/// A `config.json`: [`LlamaConfig`] has its own `model_type`, the others get theirs here.
impl Serialize for Architecture {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        #[serde(tag = "model_type", rename_all = "lowercase")]
        enum Tagged<'a> {
            Gpt2(&'a Gpt2Config),
            Bert(&'a BertConfig),
        }
        match self {
            Self::Llama(config) => config.serialize(serializer),
            Self::Gpt2(config) => Tagged::Gpt2(config).serialize(serializer),
            Self::Bert(config) => Tagged::Bert(config).serialize(serializer),
        }
    }
}

/// A file that names no `model_type` is LLaMA's, as it was when there was no other; one that names
/// an unknown one is refused.
impl<'de> Deserialize<'de> for Architecture {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match value["model_type"].as_str() {
            Some("gpt2") => serde_json::from_value(value).map(Self::Gpt2),
            Some("bert") => serde_json::from_value(value).map(Self::Bert),
            _ => serde_json::from_value(value).map(Self::Llama),
        }
        .map_err(D::Error::custom)
    }
}
