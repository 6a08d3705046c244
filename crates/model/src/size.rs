//! Sizes are checked before anything of them is allocated or multiplied: a product that wraps is a
//! matrix that is shorter than its kernel believes.

use crate::{Config, MODULES};

/// The largest value of each size. All are far above any model that exists, and low enough that no
/// product of three leaves 64 bits.
const LIMITS: [(&str, usize); 8] = [
    ("hidden_size", 1 << 18),
    ("intermediate_size", 1 << 20),
    ("num_hidden_layers", 1 << 12),
    ("num_attention_heads", 1 << 12),
    ("num_key_value_heads", 1 << 12),
    ("head_dim", 1 << 13),
    ("vocab_size", 1 << 22),
    ("max_position_embeddings", 1 << 24),
];

impl Config {
    fn sizes(&self) -> [usize; 8] {
        [
            self.hidden_size,
            self.intermediate_size,
            self.num_hidden_layers,
            self.num_attention_heads,
            self.num_key_value_heads,
            self.head_dim,
            self.vocab_size,
            self.max_position_embeddings,
        ]
    }

    /// Every size is at least 1 and of this world; their products, and the bytes of the model, then
    /// fit 64 bits.
    ///
    /// # Errors
    /// A sentence that names the key.
    pub fn check_sizes(&self) -> Result<(), String> {
        for ((key, limit), value) in LIMITS.into_iter().zip(self.sizes()) {
            if value == 0 {
                return Err(format!("`{key}` must be at least 1"));
            }
            if value > limit {
                return Err(format!(
                    "`{key}` = {value} is more than any model has; the limit is {limit}"
                ));
            }
        }
        let width = self.num_attention_heads * self.head_dim;
        if width > LIMITS[0].1 {
            return Err(format!(
                "`num_attention_heads` times `head_dim` is {width}, more than any model has; the \
                 limit is {}",
                LIMITS[0].1
            ));
        }
        Ok(())
    }

    /// Bytes of the model as f32, with its rotary tables. Needs [`Config::check_sizes`].
    pub fn float_bytes(&self) -> u64 {
        let wide = |n: usize| n as u64;
        let module = |module: &&str| {
            self.module_shape(module)
                .map_or(0, |[out, inner]| wide(out) * wide(inner))
        };
        let layer: u64 = MODULES.iter().map(module).sum::<u64>() + 2 * wide(self.hidden_size);
        let embeddings = if self.tie_word_embeddings { 1 } else { 2 };
        let matrices = embeddings * wide(self.vocab_size) * wide(self.hidden_size);
        let tables = wide(self.max_position_embeddings) * wide(self.head_dim);
        let values = layer.saturating_mul(wide(self.num_hidden_layers));
        values
            .saturating_add(matrices + tables + wide(self.hidden_size))
            .saturating_mul(4)
    }

    /// The model fits this machine's memory as f32.
    ///
    /// # Errors
    /// A sentence with the keys that make it large.
    pub fn check_memory(&self) -> Result<(), String> {
        let (needs, has) = (self.float_bytes(), memory());
        if needs <= has {
            return Ok(());
        }
        let sizes = self.sizes();
        let keys = LIMITS
            .iter()
            .zip(sizes)
            .map(|((key, _), value)| format!("`{key}` = {value}"));
        let keys: Vec<String> = keys.collect();
        Err(format!(
            "the model needs {} and this machine has {} ({})",
            gib(needs),
            gib(has),
            keys.join(", ")
        ))
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// Bytes that a process may have here: memory and swap, or its limit where that is lower. 1 TiB
/// where the system does not say.
pub(crate) fn memory() -> u64 {
    const UNKNOWN: u64 = 1 << 40;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let info = read("/proc/meminfo");
    let kib = |key: &str| -> Option<u64> {
        let line = info.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    };
    let machine = kib("MemTotal:").map_or(UNKNOWN, |total| {
        (total + kib("SwapTotal:").unwrap_or(0)) * 1024
    });
    let limits = read("/proc/self/limits");
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"));
    let limit = limit
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|soft| soft.parse().ok());
    machine.min(limit.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `hidden_size` 64 and so on, which is small.
    fn small() -> Config {
        serde_json::from_value(serde_json::json!({
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 300, "rms_norm_eps": 1e-5,
            "max_position_embeddings": 64
        }))
        .unwrap()
    }

    #[test]
    fn a_size_without_sense_is_refused_by_its_key() {
        assert!(small().check_sizes().is_ok() && small().check_memory().is_ok());
        for (key, limit) in LIMITS {
            for value in [0, limit + 1, 1 << 31, 1 << 60, 1 << 62, usize::MAX] {
                let mut config = serde_json::to_value(small()).unwrap();
                config[key] = value.into();
                let config: Config = serde_json::from_value(config).unwrap();
                let error = config.check_sizes().expect_err(key);
                assert!(
                    error.contains(&format!("`{key}`")),
                    "{key} = {value}: {error}"
                );
            }
        }
    }

    #[test]
    fn sizes_that_pass_one_by_one_are_refused_together() {
        let mut config = small();
        (
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
        ) = (1 << 18, 1 << 20, 1 << 12);
        config.check_sizes().unwrap();
        let error = config.check_memory().unwrap_err();
        assert!(error.contains("`intermediate_size` = 1048576"), "{error}");
        // The largest of everything keeps to 64 bits.
        (config.vocab_size, config.max_position_embeddings) = (1 << 22, 1 << 24);
        assert!(config.float_bytes() < u64::MAX);
    }
}
