//! What a decoder of the LLaMA family has beside LLaMA's own layers.

use serde::{Deserialize, Serialize};

use crate::spec::{ProgramSpec, SpecError};

/// What families of decoders add to LLaMA's layers. Each is left out where it is not there, so that
/// older manifests and their digests stay what they are, and a reader that does not know one
/// refuses it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Variant {
    /// What the frequencies of the rotation are divided by, one for each pair of a head.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rope_divisors: Vec<f64>,
    /// Private layers without rotation, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unrotated_layers: Vec<usize>,
    /// Whether maps may have biases.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub biases: bool,
    /// Norms of queries and keys in front of the rotation. Their gains are public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qk_norm: Option<QkNorm>,
}

/// What the norms of queries and keys take as a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QkNorm {
    /// Each head by itself; all heads share the gain.
    Head,
    /// All heads together.
    Whole,
}

impl Variant {
    /// Whether it is LLaMA's own.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl ProgramSpec {
    /// Whether maps may have biases.
    #[must_use]
    pub fn has_biases(&self) -> bool {
        self.architecture.has_biases() || self.variant.biases
    }

    /// Whether queries and keys of a layer are rotated by their position.
    #[must_use]
    pub fn rotates(&self, layer: usize) -> bool {
        self.architecture.is_rotary() && !self.variant.unrotated_layers.contains(&layer)
    }

    /// Sizes of the rows that the norms of a layer's queries and keys take, where there are norms.
    #[must_use]
    pub fn qk_norm_sizes(&self, layer: usize) -> Option<[usize; 2]> {
        Some(match self.variant.qk_norm? {
            QkNorm::Head => [self.head_dim; 2],
            QkNorm::Whole => {
                [self.heads(layer), self.num_key_value_heads].map(|heads| heads * self.head_dim)
            }
        })
    }

    pub(super) fn check_variant(&self) -> Result<(), SpecError> {
        let variant = &self.variant;
        let invalid = |field, problem: String| Err(SpecError::Invalid { field, problem });
        if variant.is_none() {
            return Ok(());
        }
        if !self.architecture.is_llama() {
            let problem = "is for LLaMA-family models, and this is another architecture";
            return invalid("variant", problem.into());
        }
        let divisors = &variant.rope_divisors;
        if !divisors.is_empty() && divisors.len() != self.head_dim / 2 {
            let problem = format!("has {} for {} pairs", divisors.len(), self.head_dim / 2);
            return invalid("variant.rope_divisors", problem);
        }
        if !divisors.iter().all(|d| d.is_finite() && *d > 0.0) {
            let problem = "must be positive numbers".to_owned();
            return invalid("variant.rope_divisors", problem);
        }
        let layers = &variant.unrotated_layers;
        let ordered = layers.windows(2).all(|pair| pair[0] < pair[1]);
        if !ordered || layers.last().is_some_and(|last| *last >= self.num_layers) {
            let problem = format!("must be some of {} layers, in order", self.num_layers);
            return invalid("variant.unrotated_layers", problem);
        }
        // The norm would be over other heads than the model's.
        let whole = variant.qk_norm == Some(QkNorm::Whole);
        if whole && (0..self.num_layers).any(|l| self.heads(l) != self.num_attention_heads) {
            let problem = "is `whole`, and a layer has fewer heads".to_owned();
            return invalid("variant.qk_norm", problem);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random_model::tiny_spec;

    fn with(variant: Variant) -> ProgramSpec {
        ProgramSpec {
            variant,
            ..tiny_spec()
        }
    }

    #[test]
    fn a_variant_is_written_where_there_is_one() {
        let json = |spec: &ProgramSpec| serde_json::to_string(spec).unwrap();
        assert!(!json(&tiny_spec()).contains("variant"));
        let spec = with(Variant {
            rope_divisors: vec![1.0, 2.5, 4.0, 4.0],
            unrotated_layers: vec![1],
            biases: true,
            qk_norm: Some(QkNorm::Head),
        });
        spec.validate().unwrap();
        let text = json(&spec);
        assert_eq!(serde_json::from_str::<ProgramSpec>(&text).unwrap(), spec);
        // What a later version adds is refused rather than left out.
        let later = text.replace("\"biases\":true", "\"biases\":true,\"caps\":true");
        let error = serde_json::from_str::<ProgramSpec>(&later).unwrap_err();
        assert!(error.to_string().contains("`caps`"), "{error}");
    }

    #[test]
    fn a_variant_that_does_not_fit_is_refused_by_name() {
        let none = Variant::default;
        let divided = |rope_divisors| Variant {
            rope_divisors,
            ..none()
        };
        let unrotated = |unrotated_layers| Variant {
            unrotated_layers,
            ..none()
        };
        for (variant, field) in [
            (divided(vec![1.0; 3]), "variant.rope_divisors"),
            (divided(vec![1.0, 1.0, 0.0, 1.0]), "variant.rope_divisors"),
            (divided(vec![f64::NAN; 4]), "variant.rope_divisors"),
            (unrotated(vec![2]), "variant.unrotated_layers"),
            (unrotated(vec![1, 0]), "variant.unrotated_layers"),
        ] {
            let error = with(variant).validate().unwrap_err().to_string();
            assert!(error.contains(field), "{error}");
        }
        let pruned = ProgramSpec {
            head_groups: vec![vec![vec![0], vec![1]]; 2],
            ..with(Variant {
                qk_norm: Some(QkNorm::Whole),
                ..none()
            })
        };
        let error = pruned.validate().unwrap_err().to_string();
        assert!(error.contains("variant.qk_norm"), "{error}");
        let gpt2 = ProgramSpec {
            architecture: crate::Architecture::Gpt2,
            ..with(Variant {
                biases: true,
                ..none()
            })
        };
        let error = gpt2.validate().unwrap_err().to_string();
        assert!(error.contains("`variant`"), "{error}");
    }
}
