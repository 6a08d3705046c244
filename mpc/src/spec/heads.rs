//! Query heads of each private layer: how many there are, which share a softmax, what they weigh.

use crate::spec::{ProgramSpec, SpecError};

impl ProgramSpec {
    /// The heads of each layer, their groups and weights.
    pub(super) fn check_heads(&self) -> Result<(), SpecError> {
        let invalid = |field, problem: &str| {
            let problem = problem.to_owned();
            Err(SpecError::Invalid { field, problem })
        };
        for (layer, groups) in self.head_groups.iter().enumerate() {
            if groups.iter().any(Vec::is_empty) {
                return invalid("head_groups", "has a group without heads");
            }
            // Pruned heads are gone, so that those that are left are counted anew.
            let count = self.heads(layer);
            if count == 0 || count > self.num_attention_heads {
                return invalid("head_groups", "has a layer without heads, or with too many");
            }
            // A head in two groups would be counted twice, one in none would be lost.
            let mut heads: Vec<usize> = groups.iter().flatten().copied().collect();
            heads.sort_unstable();
            if heads != (0..count).collect::<Vec<_>>() {
                return invalid("head_groups", "must hold every head exactly once");
            }
            // Query head h asks the keys of h / (heads / key-value heads).
            if !count.is_multiple_of(self.num_key_value_heads) {
                return invalid(
                    "head_groups",
                    "must have as many heads behind each key-value head",
                );
            }
        }
        if self.head_weights.is_empty() {
            return Ok(());
        }
        let lens = self.head_weights.iter().map(Vec::len);
        if !lens.eq((0..self.num_layers).map(|layer| self.heads(layer))) {
            return invalid(
                "head_weights",
                "needs one number for each head of each layer",
            );
        }
        // The largest factor is `attn_scale`, and the others are stated in its units.
        let mut weights = self.head_weights.iter().flatten();
        if !weights.all(|w| w.abs() <= 1.0) {
            return invalid("head_weights", "must lie between -1 and 1");
        }
        Ok(())
    }

    /// Query heads of a private layer.
    #[must_use]
    pub fn heads(&self, layer: usize) -> usize {
        self.head_groups[layer].iter().map(Vec::len).sum()
    }

    /// What a head's scores weigh in its group's sum, besides `attn_scale`.
    #[must_use]
    pub fn head_weight(&self, layer: usize, head: usize) -> f64 {
        self.head_weights.get(layer).map_or(1.0, |w| w[head])
    }
}
