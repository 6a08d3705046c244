//! What answers the questions: the float model, the integer twin, or the secure protocol.

mod beginning;
mod float;
mod request;
mod secure;
mod twin;

pub use float::FloatEngine;
pub use request::{Listener, Reply, Request};
pub(crate) use secure::TWO_PARTY;
pub use secure::{SecureCost, SecureEngine};
pub use twin::TwinEngine;

use crate::EvalError;

/// Whether an answer ends before a token: `(answer so far, token)`.
pub type Stop<'a> = dyn Fn(&[u32], u32) -> bool + 'a;

/// A model that can be asked for tokens and, unless it is secure, for likelihoods.
pub trait Engine {
    /// `float`, `twin`, `secure` or `secure-2pc`.
    fn name(&self) -> &'static str;

    /// Most tokens (prompt and answer together) that fit.
    fn context(&self) -> usize;

    /// Whether it can be asked for likelihoods.
    fn gives_likelihoods(&self) -> bool {
        true
    }

    /// Natural logarithm of the probability of each continuation behind `prompt`, summed over its
    /// tokens.
    ///
    /// # Errors
    /// [`EvalError::NeedsLogits`] from the secure engine, [`EvalError::NotANumber`] for logits that
    /// are none.
    fn score(&mut self, prompt: &[u32], continuations: &[Vec<u32>]) -> Result<Vec<f64>, EvalError>;

    /// Natural logarithm of the probability of each token of `tokens` behind those before it; one
    /// value less than there are tokens.
    ///
    /// # Errors
    /// As [`Engine::score`].
    fn token_scores(&mut self, tokens: &[u32]) -> Result<Vec<f64>, EvalError>;

    /// Greedy answer of at most `max_new_tokens`; `stop` is asked about each token given the answer
    /// so far; the token it holds for is not part of the answer.
    ///
    /// # Errors
    /// What the engine itself may meet.
    fn generate(
        &mut self,
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &Stop<'_>,
    ) -> Result<Vec<u32>, EvalError>;

    /// Replies to all requests, `at_once` of them at a time at most where the engine works on
    /// several; without a number it chooses. Replies are those that the requests get one by one: in
    /// the twin and the secure engine bit for bit, in floats within float noise.
    ///
    /// # Errors
    /// What the engine itself may meet, such as a prompt without tokens
    /// ([`EvalError::EmptyPrompt`] in floats), and what `each` returns. Scores and logits that are
    /// no number are part of the replies.
    fn answer_all(
        &mut self,
        requests: &[Request],
        stop: &Stop<'_>,
        at_once: Option<usize>,
        each: &mut Listener<'_>,
    ) -> Result<(), EvalError> {
        let _ = at_once;
        answer_in_turn(self, requests, stop, each)
    }
}

/// Replies to one request after another.
fn answer_in_turn<E: Engine + ?Sized>(
    engine: &mut E,
    requests: &[Request],
    stop: &Stop<'_>,
    each: &mut Listener<'_>,
) -> Result<(), EvalError> {
    for (nth, request) in requests.iter().enumerate() {
        let Request {
            prompt,
            continuations,
            max_new_tokens,
        } = request;
        let scores = match &continuations[..] {
            [] => Ok(Vec::new()),
            some => engine.score(prompt, some),
        };
        let answer = match max_new_tokens {
            None => Ok(Vec::new()),
            Some(most) => engine.generate(prompt, *most, stop),
        };
        each(vec![(nth, Reply { scores, answer })])?;
    }
    Ok(())
}

const NO_LIKELIHOOD: EvalError = EvalError::NotANumber {
    what: "a likelihood",
};

const NO_LOGIT: EvalError = EvalError::NotANumber { what: "a logit" };

/// Sums over the tokens of each continuation; `each` gives the parts of one. What begins another
/// one is not asked for.
pub(crate) fn summed(
    continuations: &[Vec<u32>],
    mut each: impl FnMut(&[u32]) -> Result<Vec<f64>, EvalError>,
) -> Result<Vec<f64>, EvalError> {
    let mut order: Vec<usize> = (0..continuations.len()).collect();
    order.sort_by_key(|&nth| std::cmp::Reverse(continuations[nth].len()));
    let mut known: Vec<(&[u32], Vec<f64>)> = Vec::new();
    let mut sums = vec![0.0; continuations.len()];
    for nth in order {
        let tokens = continuations[nth].as_slice();
        if !known.iter().any(|(longer, _)| longer.starts_with(tokens)) {
            known.push((tokens, each(tokens)?));
        }
        let found = known.iter().find(|(longer, _)| longer.starts_with(tokens));
        sums[nth] = found.map_or(0.0, |(_, parts)| parts[..tokens.len()].iter().sum());
    }
    Ok(sums)
}

/// `ln softmax(logits)`, in double precision.
pub(crate) struct LogSoftmax<'a> {
    logits: &'a [f32],
    top: f32,
    ln_sum: f64,
}

impl<'a> LogSoftmax<'a> {
    pub fn of(logits: &'a [f32]) -> Self {
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|&l| f64::from(l - top).exp()).sum();
        Self {
            logits,
            top,
            ln_sum: sum.ln(),
        }
    }

    /// That of a token; none when it is no finite number.
    pub fn at(&self, token: u32) -> Option<f64> {
        let score = f64::from(self.logits[token as usize] - self.top) - self.ln_sum;
        score.is_finite().then_some(score)
    }
}

/// `ln softmax(logits)[token]`, in double precision.
///
/// # Errors
/// [`EvalError::NotANumber`] when it is no finite number.
pub(crate) fn log_softmax_at(logits: &[f32], token: u32) -> Result<f64, EvalError> {
    LogSoftmax::of(logits).at(token).ok_or(NO_LIKELIHOOD)
}

/// The most likely token; the lowest index wins a tie, as in the secure engine.
///
/// # Errors
/// [`EvalError::NotANumber`] when a logit is none: any token would do as well.
pub(crate) fn arg_max(logits: &[f32]) -> Result<u32, EvalError> {
    let mut best = 0;
    for (i, &logit) in logits.iter().enumerate() {
        if !logit.is_finite() {
            return Err(NO_LOGIT);
        }
        if logit > logits[best] {
            best = i;
        }
    }
    Ok(best as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_of_equal_logits_is_minus_ln_n() {
        // Exact but for the last bits of 64-bit floats.
        assert!((log_softmax_at(&[5.0; 4], 2).unwrap() + 4f64.ln()).abs() < 1e-12);
        // As above, and no overflow on the way.
        assert!((log_softmax_at(&[0.0, 1000.0], 1).unwrap()).abs() < 1e-12);
    }

    #[test]
    fn what_begins_another_continuation_is_asked_for_once() {
        let continuations = [
            vec![1],
            vec![1, 2, 3],
            vec![4, 5],
            vec![1, 2],
            vec![],
            vec![4, 5],
        ];
        let mut asked = Vec::new();
        let sums = summed(&continuations, |tokens| {
            asked.push(tokens.to_vec());
            Ok(tokens.iter().map(|&token| -f64::from(token)).collect())
        });
        assert_eq!(sums.unwrap(), [-1.0, -6.0, -9.0, -3.0, 0.0, -9.0]);
        assert_eq!(asked, [vec![1, 2, 3], vec![4, 5]]);
    }

    #[test]
    fn the_lowest_index_wins_a_tie() {
        assert_eq!(arg_max(&[1.0, 3.0, 3.0]).unwrap(), 1);
    }

    #[test]
    fn what_is_no_number_has_no_score_and_no_best_token() {
        for wrong in [f32::NAN, f32::INFINITY] {
            for place in 0..3 {
                let mut logits = [1.0, 2.0, 3.0];
                logits[place] = wrong;
                assert!(
                    log_softmax_at(&logits, 1).is_err() && arg_max(&logits).is_err(),
                    "{logits:?}"
                );
            }
        }
        assert!(log_softmax_at(&[f32::NEG_INFINITY, 0.0], 0).is_err());
    }
}
