//! What a fine-tune changes about the architecture: private layers, LoRA factors, merged heads.
//! Training, export and evaluation read it from `transforms.json`.

use std::path::Path;

use marill_numeric::Approximations;
use serde::{Deserialize, Serialize};

use crate::{LoraConfig, ModelConfig, ModelError};

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
    pub heads: Option<HeadMerge>,
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

/// Groups of query heads that share one softmax: `S_G = scale * sum_{i in G} Q_i K_i^T`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadMerge {
    /// Heads per group.
    pub merge: usize,
    /// `strided`, `adjacent`, or a name given by the owner of calibrated groups.
    pub grouping: String,
    /// `[private layer][group][query heads]`; every query head exactly once a layer.
    pub groups: Vec<Vec<Vec<usize>>>,
    pub scale: f64,
}

/// Group `j` takes the `j`-th head of each of `merge` key-value groups, so that no two heads of a
/// group share keys.
///
/// With 9 query and 3 key-value heads and `merge = 3`: `{0,3,6}, {1,4,7}, {2,5,8}`. Without grouped
/// queries the stride is `num_attention_heads / merge`.
///
/// # Errors
/// A sentence when `merge` does not fit the heads.
pub fn strided_groups(config: &dyn ModelConfig, merge: usize) -> Result<Vec<Vec<usize>>, String> {
    let heads = config.num_attention_heads();
    let kv = config.num_key_value_heads();
    let per_kv = heads / kv;
    if !kv.is_multiple_of(merge) {
        return Err(format!(
            "{merge} heads a group do not divide the {kv} key-value heads"
        ));
    }
    let mut groups = Vec::with_capacity(heads / merge);
    for block in 0..kv / merge {
        for member in 0..per_kv {
            groups.push(
                (0..merge)
                    .map(|step| (block + step * (kv / merge)) * per_kv + member)
                    .collect(),
            );
        }
    }
    Ok(groups)
}

/// Neighboring heads `{0..merge}, {merge..2*merge}, ...`.
///
/// # Errors
/// When `merge` does not divide the heads, or when a group would hold two heads with the same keys
/// and `allow_kv_collapse` is false: `Q_1 K^T + Q_2 K^T = (Q_1 + Q_2) K^T` loses rank.
pub fn adjacent_groups(
    config: &dyn ModelConfig,
    merge: usize,
    allow_kv_collapse: bool,
) -> Result<Vec<Vec<usize>>, String> {
    let heads = config.num_attention_heads();
    if !heads.is_multiple_of(merge) {
        return Err(format!(
            "{merge} heads a group do not divide the {heads} query heads"
        ));
    }
    let groups: Vec<Vec<usize>> = (0..heads / merge)
        .map(|g| (g * merge..(g + 1) * merge).collect())
        .collect();
    let collapses = groups.iter().any(|g| {
        g.windows(2)
            .any(|w| config.kv_head(w[0]) == config.kv_head(w[1]))
    });
    if collapses && !allow_kv_collapse {
        return Err(
            "adjacent heads of this model share keys: merged, they collapse to one query of lower \
             rank"
                .into(),
        );
    }
    Ok(groups)
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

    /// Head groups and scale of a layer, counted over the whole model; a frozen layer is never
    /// merged.
    pub fn attention(&self, config: &dyn ModelConfig, layer: usize) -> (Vec<Vec<usize>>, f64) {
        match (&self.heads, layer.checked_sub(self.frozen_layers)) {
            (Some(heads), Some(private)) => (heads.groups[private].clone(), heads.scale),
            _ => (
                (0..config.num_attention_heads()).map(|h| vec![h]).collect(),
                1.0 / (config.head_dim() as f64).sqrt(),
            ),
        }
    }

    /// Checks the transforms against an architecture.
    ///
    /// # Errors
    /// [`ModelError::Transforms`] naming the table that does not fit.
    pub fn check(&self, config: &dyn ModelConfig) -> Result<(), ModelError> {
        let fail = |what, reason: String| Err(ModelError::Transforms { what, reason });
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
            if heads.groups.len() != self.private_layers(config) {
                return fail(
                    "heads.groups",
                    format!(
                        "{} layers of groups for {} private layers",
                        heads.groups.len(),
                        self.private_layers(config)
                    ),
                );
            }
            for groups in &heads.groups {
                let mut seen: Vec<usize> = groups.iter().flatten().copied().collect();
                seen.sort_unstable();
                if !seen.iter().copied().eq(0..config.num_attention_heads()) {
                    return fail(
                        "heads.groups",
                        "every query head must occur exactly once per layer".into(),
                    );
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LlamaConfig;

    fn config(heads: usize, kv: usize) -> LlamaConfig {
        let json = format!(
            r#"{{"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4,
            "num_attention_heads": {heads},
            "num_key_value_heads": {kv}, "head_dim": 64, "vocab_size": 100, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64}}"#
        );
        serde_json::from_str::<LlamaConfig>(&json)
            .unwrap()
            .normalize()
            .unwrap()
    }

    #[test]
    fn strided_takes_one_head_of_each_key_value_group() {
        assert_eq!(
            strided_groups(&config(9, 3), 3).unwrap(),
            [[0, 3, 6], [1, 4, 7], [2, 5, 8]]
        );
        assert_eq!(
            strided_groups(&config(6, 2), 2).unwrap(),
            [[0, 3], [1, 4], [2, 5]]
        );
        assert_eq!(strided_groups(&config(4, 4), 2).unwrap(), [[0, 2], [1, 3]]);
        assert!(strided_groups(&config(9, 3), 2).is_err());
    }

    #[test]
    fn adjacent_is_refused_inside_a_key_value_group() {
        assert!(adjacent_groups(&config(9, 3), 3, false).is_err());
        assert_eq!(
            adjacent_groups(&config(9, 3), 3, true).unwrap(),
            [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
        );
        assert_eq!(
            adjacent_groups(&config(4, 4), 2, false).unwrap(),
            [[0, 1], [2, 3]]
        );
    }

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

    #[test]
    fn groups_must_cover_every_head_once() {
        let config = config(4, 4);
        let heads = HeadMerge {
            merge: 2,
            grouping: "own".into(),
            groups: vec![vec![vec![0, 1], vec![1, 3]]; 2],
            scale: 0.1,
        };
        let transforms = Transforms {
            frozen_layers: 2,
            lora: None,
            heads: Some(heads),
            approx: Default::default(),
        };
        assert!(
            transforms
                .check(&config)
                .unwrap_err()
                .to_string()
                .contains("exactly once")
        );
    }
}
