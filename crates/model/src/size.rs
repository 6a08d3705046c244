//! Sizes are checked before anything of them is allocated or multiplied: a product that wraps is a
//! matrix that is shorter than its kernel believes.

use crate::ModelConfig;

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

fn sizes(config: &dyn ModelConfig) -> [usize; 8] {
    [
        config.hidden_size(),
        config.intermediate_size(),
        config.num_hidden_layers(),
        config.num_attention_heads(),
        config.num_key_value_heads(),
        config.head_dim(),
        config.vocab_size(),
        config.max_position_embeddings(),
    ]
}

/// Every size is at least 1 and of this world; their products, and the bytes of the model, then
/// fit 64 bits.
///
/// # Errors
/// A sentence that names the key.
pub(crate) fn check_sizes(config: &dyn ModelConfig) -> Result<(), String> {
    for ((key, limit), value) in LIMITS.into_iter().zip(sizes(config)) {
        if value == 0 {
            return Err(format!("`{key}` must be at least 1"));
        }
        if value > limit {
            return Err(format!(
                "`{key}` = {value} is more than any model has; the limit is {limit}"
            ));
        }
    }
    let width = config.num_attention_heads() * config.head_dim();
    if width > LIMITS[0].1 {
        return Err(format!(
            "`num_attention_heads` times `head_dim` is {width}, more than any model has; the \
             limit is {}",
            LIMITS[0].1
        ));
    }
    Ok(())
}

/// Bytes of the model as f32, with its rotary tables. Needs [`check_sizes`].
fn float_bytes(config: &dyn ModelConfig) -> u64 {
    let tensors = config.tensors().into_iter();
    let values = tensors.map(|(_, shape)| shape.iter().map(|n| *n as u64).product::<u64>());
    let tables = config.max_position_embeddings() as u64 * config.head_dim() as u64;
    values.fold(tables, u64::saturating_add).saturating_mul(4)
}

/// The model fits this machine's memory as f32.
///
/// # Errors
/// A sentence with the keys that make it large.
pub(crate) fn check_memory(config: &dyn ModelConfig) -> Result<(), String> {
    let needs = float_bytes(config);
    let has = memory();
    if needs <= has {
        return Ok(());
    }
    let keys = LIMITS
        .iter()
        .zip(sizes(config))
        .map(|((key, _), value)| format!("`{key}` = {value}"));
    let keys: Vec<String> = keys.collect();
    Err(format!(
        "the model needs {} and this machine has {} ({})",
        gib(needs),
        gib(has),
        keys.join(", ")
    ))
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
    use crate::LlamaConfig;

    /// `hidden_size` 64 and so on, which is small.
    fn small() -> LlamaConfig {
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
        assert!(check_sizes(&small()).is_ok() && check_memory(&small()).is_ok());
        for (key, limit) in LIMITS {
            for value in [0, limit + 1, 1 << 31, 1 << 60, 1 << 62, usize::MAX] {
                let mut config = serde_json::to_value(small()).unwrap();
                config[key] = value.into();
                let config: LlamaConfig = serde_json::from_value(config).unwrap();
                let error = check_sizes(&config).expect_err(key);
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
        check_sizes(&config).unwrap();
        let error = check_memory(&config).unwrap_err();
        assert!(error.contains("`intermediate_size` = 1048576"), "{error}");
        // The largest of everything keeps to 64 bits.
        (config.vocab_size, config.max_position_embeddings) = (1 << 22, 1 << 24);
        assert!(float_bytes(&config) < u64::MAX);
    }
}
