//! Scalings of the rotary positions: what a configuration's `rope_scaling` or `rope_parameters`
//! makes of the frequencies `theta^(-2 i / D)`.
//!
//! Definitions are those of transformers' `modeling_rope_utils.py`: position interpolation (Chen et
//! al., arXiv 2306.15595), dynamic NTK, YaRN (Peng et al., arXiv 2309.00071, section 3), LongRoPE
//! (Ding et al., arXiv 2402.13753) and the one of Llama 3.1.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// A scaling, under its `rope_type`, with everything that it leaves open filled in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "rope_type", rename_all = "lowercase", deny_unknown_fields)]
pub enum RopeScaling {
    /// Every frequency divided by the factor.
    Linear { factor: f64 },
    /// A base that grows with a text longer than `max_position_embeddings`, where the context ends
    /// here: up to there nothing is scaled.
    Dynamic { factor: f64 },
    /// Low frequencies divided by the factor, high ones as they are, in between a mix.
    Llama3 {
        factor: f64,
        low_freq_factor: f64,
        high_freq_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// As `llama3` with another ramp, and scores multiplied by the square of `attention_factor`.
    Yarn {
        factor: f64,
        attention_factor: f64,
        beta_fast: f64,
        beta_slow: f64,
        original_max_position_embeddings: usize,
        /// Whether the ends of the ramp are whole pairs.
        truncate: bool,
    },
    /// A divisor for each frequency. The long ones are for texts longer than
    /// `original_max_position_embeddings`, where the context ends here, so that they are never
    /// used.
    Longrope {
        short_factor: Vec<f64>,
        long_factor: Vec<f64>,
        attention_factor: f64,
        original_max_position_embeddings: usize,
    },
    /// Divisors that a GGUF file has as a tensor, `rope_freqs.weight`.
    Divisors { divisors: Vec<f64> },
}

impl RopeScaling {
    /// What each of the `D / 2` frequencies is divided by; empty where nothing is scaled.
    pub fn divisors(&self, head_dim: usize, theta: f64) -> Vec<f64> {
        let pairs = head_dim / 2;
        let wavelength = |i: usize| 2.0 * PI * theta.powf(2.0 * i as f64 / head_dim as f64);
        match self {
            Self::Linear { factor } => vec![*factor; pairs],
            Self::Dynamic { .. } => Vec::new(),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let original = *original_max_position_embeddings as f64;
                let span = high_freq_factor - low_freq_factor;
                let kept = |i| (original / wavelength(i) - low_freq_factor) / span;
                (0..pairs).map(|i| mixed(*factor, kept(i))).collect()
            }
            Self::Yarn { factor, .. } => {
                let [low, high] = self.ramp(head_dim, theta);
                let kept = |i: usize| 1.0 - (i as f64 - low) / (high - low);
                (0..pairs).map(|i| mixed(*factor, kept(i))).collect()
            }
            Self::Longrope { short_factor, .. } => short_factor.clone(),
            Self::Divisors { divisors } => divisors.clone(),
        }
    }

    /// Between which pairs YaRN's ramp falls from frequencies that are kept to divided ones.
    fn ramp(&self, head_dim: usize, theta: f64) -> [f64; 2] {
        let Self::Yarn {
            beta_fast,
            beta_slow,
            original_max_position_embeddings,
            truncate,
            ..
        } = self
        else {
            return [0.0, 1.0];
        };
        // The pair that turns so often over the original context.
        let pair = |turns: f64| {
            let original = *original_max_position_embeddings as f64;
            head_dim as f64 * (original / (turns * 2.0 * PI)).ln() / (2.0 * theta.ln())
        };
        let mut low = pair(*beta_fast);
        let mut high = pair(*beta_slow);
        if *truncate {
            low = low.floor();
            high = high.ceil();
        }
        low = low.max(0.0);
        high = high.min(head_dim as f64 - 1.0);
        // As transformers keeps the ramp from being vertical.
        if low == high {
            high += 0.001;
        }
        [low, high]
    }

    /// What sines and cosines are multiplied by: scores by its square.
    pub fn attention_factor(&self) -> f64 {
        match self {
            Self::Yarn {
                attention_factor, ..
            }
            | Self::Longrope {
                attention_factor, ..
            } => *attention_factor,
            _ => 1.0,
        }
    }

    /// Positions that are computed as the definition says, of `max_position_embeddings`.
    pub fn positions(&self, max_position_embeddings: usize) -> usize {
        match self {
            Self::Longrope {
                original_max_position_embeddings,
                ..
            } => max_position_embeddings.min(*original_max_position_embeddings),
            _ => max_position_embeddings,
        }
    }

    /// # Errors
    /// The key of a number that no scaling has, and a sentence.
    pub fn check(&self, head_dim: usize) -> Result<(), (&'static str, String)> {
        let positive = |key, value: f64| match value.is_finite() && value > 0.0 {
            true => Ok(()),
            false => Err((key, format!("= {value} is no positive number"))),
        };
        let list = |key, values: &[f64]| {
            if values.len() != head_dim / 2 {
                let pairs = head_dim / 2;
                return Err((
                    key,
                    format!("has {} numbers for {pairs} pairs", values.len()),
                ));
            }
            values.iter().try_for_each(|value| positive(key, *value))
        };
        match self {
            Self::Linear { factor } | Self::Dynamic { factor } => positive("factor", *factor),
            Self::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                ..
            } => {
                positive("factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor", *high_freq_factor)?;
                if high_freq_factor <= low_freq_factor {
                    let reason = format!("= {high_freq_factor} is not above `low_freq_factor`");
                    return Err(("high_freq_factor", reason));
                }
                Ok(())
            }
            Self::Yarn {
                factor,
                attention_factor,
                beta_fast,
                beta_slow,
                ..
            } => {
                positive("factor", *factor)?;
                positive("attention_factor", *attention_factor)?;
                positive("beta_fast", *beta_fast)?;
                positive("beta_slow", *beta_slow)
            }
            Self::Longrope {
                short_factor,
                long_factor,
                attention_factor,
                ..
            } => {
                positive("attention_factor", *attention_factor)?;
                list("short_factor", short_factor)?;
                list("long_factor", long_factor)
            }
            Self::Divisors { divisors } => list("divisors", divisors),
        }
    }
}

/// The divisor of a frequency of which the part `kept` stays and the rest is divided by `factor`.
fn mixed(factor: f64, kept: f64) -> f64 {
    let kept = kept.clamp(0.0, 1.0);
    1.0 / ((1.0 - kept) / factor + kept)
}

/// YaRN's `attention_factor` where a file leaves it out.
pub(crate) fn yarn_attention(factor: f64, mscale: Option<f64>, all_dim: Option<f64>) -> f64 {
    let of = |scale: f64| match factor > 1.0 {
        true => 0.1 * scale * factor.ln() + 1.0,
        false => 1.0,
    };
    // A zero counts as absent, as it does there.
    let given = |value: Option<f64>| value.filter(|value| *value != 0.0);
    match (given(mscale), given(all_dim)) {
        (Some(mscale), Some(all_dim)) => of(mscale) / of(all_dim),
        _ => of(1.0),
    }
}

/// LongRoPE's `attention_factor` where a file leaves it out.
pub(crate) fn longrope_attention(factor: f64, original: usize) -> f64 {
    if factor <= 1.0 {
        return 1.0;
    }
    (1.0 + factor.ln() / (original as f64).ln()).sqrt()
}
