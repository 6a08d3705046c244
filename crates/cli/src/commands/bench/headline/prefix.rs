//! The public layers that the client runs in clear, timed over random weights.

use marill_model::{LlamaConfig, ModelConfig, Prefix};
use marill_mpc::random_model::gaussian;

use super::forms::Step;
use crate::commands::bench::clock::{Spent, alone};

/// Weights of one layer.
pub const WEIGHTS: usize = 2 * 576 * (576 + 192) + 3 * 576 * 1536;

/// How often a step is timed: a token takes milliseconds.
const TOKENS: usize = 8;

/// What a step costs in the first `layers` layers, embedding included, per token or for the prompt.
///
/// # Errors
/// When the system gives no thread.
pub fn time(layers: usize, step: Step) -> anyhow::Result<Spent> {
    let mut prefix = random(layers)?;
    let (cached, rows) = step.shape();
    let tokens = |n: usize| -> Vec<u32> { (0..n as u32).map(|k| k * 7919 % 49_152).collect() };
    // On one thread, as the parties of the secure part.
    alone(|| {
        if cached > 0 {
            prefix.forward(&tokens(cached))?;
        }
        let repeats = if rows == 1 { TOKENS } else { 1 };
        let mut spent = Spent::default();
        for _ in 0..repeats {
            prefix.truncate(cached);
            spent.measure(|| prefix.forward(&tokens(rows)))?;
        }
        let per = repeats as f64;
        Ok(Spent {
            cpu: spent.cpu / per,
            wall: spent.wall / per,
        })
    })?
}

/// What one weight of a public layer costs per row, by the difference of a few layers and many: the
/// embedding is looked up. The least of several.
///
/// # Errors
/// When the system gives no thread.
pub fn seconds_per_weight(repeats: usize) -> anyhow::Result<f64> {
    /// Many are more than caches hold.
    const LAYERS: [usize; 2] = [2, 10];
    let step = Step::Decode { keys: 113 };
    let mut least = [f64::INFINITY; 2];
    for _ in 0..repeats {
        for (least, layers) in least.iter_mut().zip(LAYERS) {
            *least = least.min(time(layers, step)?.wall);
        }
    }
    let weights = WEIGHTS * (LAYERS[1] - LAYERS[0]);
    Ok(((least[1] - least[0]) / weights as f64).max(0.0))
}

/// SmolLM2-135M's first layers with random weights.
fn random(layers: usize) -> anyhow::Result<Prefix> {
    let config: LlamaConfig = serde_json::from_value(serde_json::json!({
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536,
        "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
        "head_dim": 64, "vocab_size": 49_152, "rms_norm_eps": 1e-5, "rope_theta": 100_000.0,
        "max_position_embeddings": 2048, "tie_word_embeddings": true
    }))?;
    let weights = |name: &str| {
        let map = config.module_shape(name.rsplit('.').nth(1).unwrap_or_default());
        let [rows, cols] = match (map, name.contains("embed")) {
            (Some(shape), _) => shape,
            (None, true) => [config.vocab_size, config.hidden_size],
            // A norm's gain.
            (None, false) => return Ok(vec![1.0; config.hidden_size]),
        };
        Ok(gaussian(1, name, rows * cols, (cols as f32).powf(-0.5)))
    };
    Ok(Prefix::with_weights(config.clone(), layers, weights)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_and_tokens_take_time() {
        for step in [Step::Prefill { tokens: 16 }, Step::Decode { keys: 17 }] {
            assert!(time(1, step).unwrap().wall > 0.0);
        }
    }

    #[test]
    fn the_random_prefix_gives_finite_rows_that_differ() {
        let rows = random(2).unwrap().forward(&[1, 2]).unwrap();
        assert_eq!(rows.len(), 2 * 576);
        assert!(rows.iter().all(|x| x.is_finite()));
        assert_ne!(rows[..576], rows[576..]);
    }
}
