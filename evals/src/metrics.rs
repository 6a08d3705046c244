//! Scores of generated text and of counts, computed as their reference implementations compute
//! them.

mod bleu;
mod chrf;

pub use bleu::{BleuStats, bleu};
pub use chrf::{ChrfStats, chrf};

/// Mean of a sample and the standard error of that mean (with `n - 1`); the error of one value
/// is 0.
pub fn mean_and_stderr(values: &[f64]) -> (f64, f64) {
    let n = values.len() as f64;
    if values.is_empty() {
        return (0.0, 0.0);
    }
    let mean = values.iter().sum::<f64>() / n;
    if values.len() < 2 {
        return (mean, 0.0);
    }
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0);
    (mean, (variance / n).sqrt())
}

/// Standard error of a corpus score from bootstrap resamples of its segments.
///
/// `score` maps segment indices (with repetition) to the corpus score. Deterministic: resampling
/// uses a fixed seed.
pub fn bootstrap_stderr(segments: usize, resamples: usize, score: impl Fn(&[usize]) -> f64) -> f64 {
    if segments < 2 || resamples < 2 {
        return 0.0;
    }
    let mut state = 0x9E37_79B9_7F4A_7C15u64;
    let scores: Vec<f64> = (0..resamples)
        .map(|_| {
            let sampled: Vec<usize> = (0..segments)
                .map(|_| (split_mix(&mut state) % segments as u64) as usize)
                .collect();
            score(&sampled)
        })
        .collect();
    let mean = scores.iter().sum::<f64>() / resamples as f64;
    (scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (resamples as f64 - 1.0)).sqrt()
}

/// Steele, Lea, Flood, "Fast Splittable Pseudorandom Number Generators", OOPSLA '14.
pub(crate) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// Python's `str.isspace` for one character, which is wider than Rust's by the four separators of
/// ASCII.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stderr_of_a_proportion_is_the_sample_formula() {
        let (mean, stderr) = mean_and_stderr(&[1.0, 0.0, 1.0, 1.0]);
        // Exact but for the last bits.
        assert!((mean - 0.75).abs() < 1e-12);
        // As above.
        assert!((stderr - 0.25).abs() < 1e-12);
        assert_eq!(mean_and_stderr(&[0.5]), (0.5, 0.0));
    }

    #[test]
    fn bootstrap_agrees_with_the_formula_on_a_mean() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 3 == 0)).collect();
        let (_, formula) = mean_and_stderr(&values);
        let sampled = bootstrap_stderr(values.len(), 1000, |picked| {
            picked.iter().map(|&i| values[i]).sum::<f64>() / picked.len() as f64
        });
        // A standard deviation from 1,000 resamples is known to 2.2%: four times that, rounded up.
        assert!(
            (sampled / formula - 1.0).abs() < 0.1,
            "{sampled} against {formula}"
        );
    }
}
