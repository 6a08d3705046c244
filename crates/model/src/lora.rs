//! What a low-rank fine-tune adds to the linear maps of its private layers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// LoRA: `W = W0 + scale · B A` for every module named, in every private layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct LoraConfig {
    /// Of every module that `ranks` does not name.
    pub rank: usize,
    pub alpha: f64,
    /// The scale is `alpha / sqrt(rank)` instead of `alpha / rank`, which keeps the size of the
    /// update from falling with the rank (Kalajdzievski, arXiv 2312.03732, section 3). PEFT's
    /// `use_rslora`.
    pub rslora: bool,
    /// Hugging Face module names: `q_proj`, `k_proj`, `v_proj`, `o_proj`, `gate_proj`, `up_proj`,
    /// `down_proj`.
    pub target_modules: Vec<String>,
    /// Ranks of single modules in place of `rank`; PEFT's `rank_pattern`.
    pub ranks: BTreeMap<String, usize>,
}

impl LoraConfig {
    /// Whether a module has an update.
    pub fn targets(&self, module: &str) -> bool {
        self.target_modules.iter().any(|target| target == module)
    }

    /// Rank of a module's update, where it has one.
    pub fn rank_of(&self, module: &str) -> usize {
        self.ranks.get(module).copied().unwrap_or(self.rank)
    }

    /// The factor on a module's `B A`: alpha over its rank, or over the root of its rank with
    /// [`Self::rslora`].
    pub fn scale_of(&self, module: &str) -> f64 {
        let rank = self.rank_of(module) as f64;
        self.alpha / if self.rslora { rank.sqrt() } else { rank }
    }

    /// The same updates in one form: no rank of a module that is `rank` anyway.
    #[must_use]
    pub fn in_one_form(mut self) -> Self {
        let mut ranks = self.target_modules.iter().map(|m| self.rank_of(m));
        let first = ranks.next();
        if let Some(rank) = first.filter(|rank| ranks.all(|other| other == *rank)) {
            self.rank = rank;
        }
        let common = self.rank;
        self.ranks.retain(|_, rank| *rank != common);
        self
    }

    /// The rank for people: `8`, or `4 to 32`.
    pub fn ranks_said(&self) -> String {
        let ranks = || self.target_modules.iter().map(|m| self.rank_of(m));
        match (ranks().min(), ranks().max()) {
            (Some(least), Some(most)) if least < most => format!("{least} to {most}"),
            (least, _) => least.unwrap_or(self.rank).to_string(),
        }
    }
}

/// What stands in `transforms.json` and in manifests.
///
/// An alpha over the square root of the rank has a key of its own: a version that does not know it
/// misses `alpha` and refuses the file, where a flag beside `alpha` would have it compute another
/// model.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    rank: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    alpha: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rslora_alpha: Option<f64>,
    target_modules: Vec<String>,
    /// A version that does not know them finds factors of another shape than `rank` says, and
    /// refuses them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    ranks: BTreeMap<String, usize>,
}

impl From<LoraConfig> for Stored {
    fn from(lora: LoraConfig) -> Self {
        Self {
            rank: lora.rank,
            alpha: (!lora.rslora).then_some(lora.alpha),
            rslora_alpha: lora.rslora.then_some(lora.alpha),
            target_modules: lora.target_modules,
            ranks: lora.ranks,
        }
    }
}

impl TryFrom<Stored> for LoraConfig {
    type Error = &'static str;

    fn try_from(stored: Stored) -> Result<Self, Self::Error> {
        let alpha = match (stored.alpha, stored.rslora_alpha) {
            (Some(alpha), None) | (None, Some(alpha)) => alpha,
            (None, None) => return Err("missing field `alpha`"),
            (Some(_), Some(_)) => return Err("`alpha` and `rslora_alpha` exclude each other"),
        };
        Ok(Self {
            rank: stored.rank,
            alpha,
            rslora: stored.rslora_alpha.is_some(),
            target_modules: stored.target_modules,
            ranks: stored.ranks,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lora(rslora: bool) -> LoraConfig {
        LoraConfig {
            rank: 16,
            alpha: 8.0,
            rslora,
            target_modules: vec!["q_proj".into(), "k_proj".into()],
            ranks: BTreeMap::new(),
        }
    }

    #[test]
    fn the_scale_is_alpha_over_the_rank_or_its_root() {
        assert_eq!(lora(false).scale_of("q_proj"), 0.5);
        assert_eq!(lora(true).scale_of("q_proj"), 2.0);
    }

    #[test]
    fn a_module_has_its_own_rank_and_its_own_scale() {
        let mut mixed = lora(true);
        mixed.ranks.insert("k_proj".into(), 4);
        assert_eq!([mixed.rank_of("q_proj"), mixed.rank_of("k_proj")], [16, 4]);
        assert_eq!(mixed.scale_of("k_proj"), 4.0);
        assert_eq!(mixed.ranks_said(), "4 to 16");
        let json = serde_json::to_string(&mixed).unwrap();
        assert_eq!(serde_json::from_str::<LoraConfig>(&json).unwrap(), mixed);
        // Ranks that do not differ are one rank, and leave no trace in a file.
        mixed.ranks.insert("q_proj".into(), 4);
        let uniform = mixed.in_one_form();
        assert_eq!((uniform.rank, uniform.ranks.len()), (4, 0));
        assert_eq!(uniform.ranks_said(), "4");
    }

    #[test]
    fn a_scale_over_the_root_cannot_be_misread() {
        let plain = serde_json::to_string(&lora(false)).unwrap();
        let rooted = serde_json::to_string(&lora(true)).unwrap();
        // Byte for byte what it was, since ids of partitions are digests of it.
        assert_eq!(
            plain,
            r#"{"rank":16,"alpha":8.0,"target_modules":["q_proj","k_proj"]}"#
        );
        assert!(
            !rooted.contains(r#""alpha""#),
            "an older version needs `alpha`, and must not find it: {rooted}"
        );
        for (text, config) in [(plain, lora(false)), (rooted, lora(true))] {
            assert_eq!(serde_json::from_str::<LoraConfig>(&text).unwrap(), config);
        }
    }

    #[test]
    fn an_unknown_or_doubtful_key_is_refused_by_name() {
        let refusal = |text: &str| {
            let text = format!(r#"{{"rank":4,"target_modules":[],{text}}}"#);
            serde_json::from_str::<LoraConfig>(&text)
                .unwrap_err()
                .to_string()
        };
        assert!(refusal(r#""alpha":1.0,"use_dora":true"#).contains("`use_dora`"));
        assert!(refusal(r#""alpha":1.0,"rslora_alpha":1.0"#).contains("exclude each other"));
        assert!(refusal(r#""alpha":null"#).contains("missing field `alpha`"));
    }
}
