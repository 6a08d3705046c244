//! What a fine-tune changes about the architecture: private layers, LoRA factors, heads.
//! Training, export and evaluation read it from `transforms.json`.

use std::path::Path;

use marill_numeric::Approximations;
use serde::{Deserialize, Serialize};

use crate::{HeadTransform, LayerHeads, LoraConfig, ModelConfig, ModelError};

/// What a fine-tune changed about the architecture; `transforms.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transforms {
    /// The embedding and this many first layers keep the base weights and run on the client in
    /// clear.
    pub frozen_layers: usize,
    #[serde(default)]
    pub lora: Option<LoraConfig>,
    #[serde(default)]
    pub heads: Option<HeadTransform>,
    /// Of the private layers.
    #[serde(default, skip_serializing_if = "Approximations::is_none")]
    pub approx: Approximations,
}

/// `transforms.json` with what version 1 cannot say. It has no `frozen_layers` at its top, so that
/// a program that only knows version 1 refuses it instead of leaving something out.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Versioned {
    version: Version,
    transforms: Transforms,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
enum Version {
    Two,
}

impl From<Version> for u64 {
    fn from(Version::Two: Version) -> Self {
        2
    }
}

impl TryFrom<u64> for Version {
    type Error = String;

    fn try_from(version: u64) -> Result<Self, String> {
        match version {
            2 => Ok(Self::Two),
            other => Err(format!("version {other} is not known, only 2 is")),
        }
    }
}

impl Transforms {
    /// Reads `transforms.json`.
    ///
    /// # Errors
    /// [`ModelError::Io`] or [`ModelError::Corrupt`], naming the file.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        let text = std::fs::read_to_string(path).map_err(ModelError::io(path))?;
        let read = || -> serde_json::Result<Self> {
            let value: serde_json::Value = serde_json::from_str(&text)?;
            match value.get("version") {
                None => serde_json::from_value(value),
                Some(_) => Ok(serde_json::from_value::<Versioned>(value)?.transforms),
            }
        };
        read().map_err(|e| ModelError::corrupt(path, e))
    }

    /// Writes `transforms.json`.
    ///
    /// # Errors
    /// [`ModelError::Write`], naming the file.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        let text = if self.approx.is_none() {
            serde_json::to_string_pretty(self)
        } else {
            serde_json::to_string_pretty(&Versioned {
                version: Version::Two,
                transforms: self.clone(),
            })
        };
        let text = text.expect("a plain struct serializes");
        std::fs::write(path, text + "\n").map_err(ModelError::write(path))
    }

    /// Number of layers after the frozen prefix.
    pub fn private_layers(&self, config: &dyn ModelConfig) -> usize {
        config.num_hidden_layers() - self.frozen_layers
    }

    /// The heads of a layer, counted over the whole model; a frozen layer has the base's.
    pub fn heads_of(&self, config: &dyn ModelConfig, layer: usize) -> LayerHeads {
        let heads = match (&self.heads, layer.checked_sub(self.frozen_layers)) {
            (Some(heads), Some(private)) => heads.layer(private, config),
            _ => LayerHeads::plain(config),
        };
        LayerHeads {
            window: config.window(layer),
            ..heads
        }
    }

    /// Checks the transforms against an architecture.
    ///
    /// # Errors
    /// [`ModelError::Transforms`] naming the table that does not fit.
    pub fn check(&self, config: &dyn ModelConfig) -> Result<(), ModelError> {
        let fail = |what, reason: String| Err(ModelError::Transforms { what, reason });
        if let Err((what, reason)) = self.approx.check() {
            return fail(what, reason);
        }
        if self.frozen_layers >= config.num_hidden_layers() {
            return fail(
                "freeze.layers",
                format!(
                    "{} of {} layers leaves none private",
                    self.frozen_layers,
                    config.num_hidden_layers()
                ),
            );
        }
        if let Some(lora) = &self.lora {
            if lora.rank == 0 {
                return fail("lora.rank", "must be at least 1".into());
            }
            if let Some((module, _)) = lora.ranks.iter().find(|(_, rank)| **rank == 0) {
                let reason = format!("the rank of `{module}` must be at least 1");
                return fail("lora.ranks", reason);
            }
            if let Some(module) = lora.ranks.keys().find(|module| !lora.targets(module)) {
                let reason = format!("`{module}` is not among the target modules");
                return fail("lora.ranks", reason);
            }
            if let Some(unknown) = lora
                .target_modules
                .iter()
                .find(|m| config.module_shape(m).is_none())
            {
                return fail(
                    "lora.target_modules",
                    format!("`{unknown}` is no linear layer of this model"),
                );
            }
        }
        if let Some(heads) = &self.heads {
            let layers = self.private_layers(config);
            if let Err((what, reason)) = heads.check(config, layers) {
                return fail(what, reason);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_of_version_1_refuses_a_run_that_approximates() {
        /// What version 1 read.
        #[derive(Debug, Deserialize)]
        struct First {
            #[allow(dead_code, reason = "only its presence counts")]
            frozen_layers: usize,
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("transforms.json");
        let exact = Transforms {
            frozen_layers: 3,
            ..Transforms::default()
        };
        exact.save(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(serde_json::from_str::<First>(&text).is_ok() && !text.contains("approx"));
        for approx in marill_numeric::approx::EACH {
            let approximated = Transforms {
                approx,
                ..exact.clone()
            };
            approximated.save(&path).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            assert!(serde_json::from_str::<First>(&text).is_err(), "{text}");
            assert_eq!(Transforms::load(&path).unwrap(), approximated);
            std::fs::write(&path, text.replace("\"version\": 2", "\"version\": 3")).unwrap();
            let error = Transforms::load(&path).unwrap_err().to_string();
            assert!(error.contains("version 3 is not known"), "{error}");
        }
    }
}
