//! What is kept of a teacher's logits: all of them, the likeliest, or drawn ones.

use candle_core::Tensor;
use half::f16;
use marill_model::{Llama, ops::KeptRow};

use crate::{Rng, TrainError};

/// Rows of logits that exist at a time.
const ROWS: usize = 128;

/// How much is kept.
#[derive(Clone, Copy)]
pub(super) enum Kept {
    All,
    /// The likeliest tokens, so many, and the mass of the others.
    TopK(usize),
    /// So many draws, from a seed. The shares of the draws have the distribution as their mean,
    /// where the likeliest tokens alone are a biased target. Source: Anshumann et al., "Sparse
    /// Logit Sampling", ACL 2025.
    Sampled(usize, u64),
}

/// What a teacher says at the targets of a sample.
pub(super) enum Answer {
    /// Final normed rows, from which all logits follow.
    Hidden(Vec<f16>),
    Tokens(Vec<KeptRow>),
}

impl Answer {
    pub fn hidden(&self) -> &[f16] {
        match self {
            Self::Hidden(rows) => rows,
            Self::Tokens(_) => &[],
        }
    }

    pub fn tokens(&self) -> &[KeptRow] {
        match self {
            Self::Hidden(_) => &[],
            Self::Tokens(rows) => rows,
        }
    }
}

impl Kept {
    /// What is kept of the distributions that follow from `finished [M, hidden]` rows of sample
    /// `nth`, softened.
    pub fn of(
        self,
        decoder: &Llama,
        finished: &Tensor,
        temperature: f32,
        nth: usize,
    ) -> Result<Vec<KeptRow>, TrainError> {
        let count = finished.dim(0)?;
        let mut draws = match self {
            Self::Sampled(_, seed) => Some(Rng::new(seed, &format!("teacher {nth}"))),
            _ => None,
        };
        let mut kept = Vec::with_capacity(count);
        for first in (0..count).step_by(ROWS) {
            let rows = finished.narrow(0, first, ROWS.min(count - first))?;
            let logits: Vec<Vec<f32>> = decoder.logits(&rows)?.to_vec2()?;
            for row in logits {
                let shares = softened(&row, temperature);
                kept.push(match (self, &mut draws) {
                    (Self::Sampled(tokens, _), Some(draws)) => drawn(&shares, tokens, draws),
                    (Self::TopK(tokens) | Self::Sampled(tokens, _), _) => {
                        likeliest(&shares, tokens)
                    }
                    (Self::All, _) => likeliest(&shares, shares.len()),
                });
            }
        }
        Ok(kept)
    }
}

/// Probabilities of logits over a temperature.
fn softened(logits: &[f32], temperature: f32) -> Vec<f64> {
    let top = logits.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    let weight = |&logit: &f32| f64::from((logit - top) / temperature).exp();
    let weights: Vec<f64> = logits.iter().map(weight).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// The `count` likeliest tokens in the order of their numbers; of equally likely ones the first.
fn likeliest(shares: &[f64], count: usize) -> KeptRow {
    let mut order: Vec<u32> = (0..shares.len() as u32).collect();
    let share = |&token: &u32| shares[token as usize];
    if count < order.len() {
        order.select_nth_unstable_by(count, |a, b| share(b).total_cmp(&share(a)).then(a.cmp(b)));
        order.truncate(count);
    }
    order.sort_unstable();
    KeptRow {
        tokens: order
            .iter()
            .map(|token| (*token, share(token) as f32))
            .collect(),
        has_rest: true,
    }
}

/// `count` tokens drawn with repetition, each with its share of the draws.
fn drawn(shares: &[f64], count: usize, draws: &mut Rng) -> KeptRow {
    let mut places: Vec<f64> = (0..count).map(|_| draws.uniform()).collect();
    places.sort_unstable_by(f64::total_cmp);
    let mut tokens: Vec<(u32, f32)> = Vec::new();
    let mut token = 0;
    let mut upto = shares[0];
    for place in places {
        while place >= upto && token + 1 < shares.len() {
            token += 1;
            upto += shares[token];
        }
        match tokens.last_mut() {
            Some((last, times)) if *last == token as u32 => *times += 1.0,
            _ => tokens.push((token as u32, 1.0)),
        }
    }
    tokens
        .iter_mut()
        .for_each(|(_, times)| *times /= count as f32);
    KeptRow {
        tokens,
        has_rest: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shares() -> Vec<f64> {
        softened(&[0.0, 2.0, 1.0, 2.0, -1.0], 1.0)
    }

    #[test]
    fn the_likeliest_are_kept_in_the_order_of_their_numbers() {
        let shares = shares();
        let KeptRow { tokens, has_rest } = likeliest(&shares, 3);
        assert!(has_rest);
        let numbers: Vec<u32> = tokens.iter().map(|(token, _)| *token).collect();
        assert_eq!(numbers, [1, 2, 3]);
        // Of two equally likely ones, the first.
        assert_eq!(likeliest(&shares, 1).tokens[0].0, 1);
        let all: f32 = likeliest(&shares, 9)
            .tokens
            .iter()
            .map(|(_, share)| share)
            .sum();
        // Five probabilities in f32.
        assert!((all - 1.0).abs() < 1e-6);
    }

    #[test]
    fn shares_of_many_draws_come_near_the_distribution() {
        let shares = shares();
        let mut draws = Rng::new(7, "teacher 0");
        let KeptRow { tokens, has_rest } = drawn(&shares, 40_000, &mut draws);
        assert!(!has_rest && tokens.len() == shares.len());
        for (token, share) in tokens {
            let expected = shares[token as usize];
            let deviation = (expected * (1.0 - expected) / 40_000.0).sqrt();
            // Five deviations: one draw of a million sets misses it.
            assert!(
                (f64::from(share) - expected).abs() < 5.0 * deviation,
                "{token}"
            );
        }
        let again = drawn(&shares, 16, &mut Rng::new(7, "teacher 1"));
        assert_eq!(again, drawn(&shares, 16, &mut Rng::new(7, "teacher 1")));
    }
}
