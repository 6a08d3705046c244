use std::sync::Arc;

use marill_model::Prefix;
use marill_mpc::{PrivateWeights, PublicWeights, Twin};
use marill_partition::Partition;

use super::{Engine, Stop, log_softmax_at};
use crate::EvalError;

/// The integers in clear: the client's float prefix, then the private layers as the secure engine computes them.
pub struct TwinEngine {
    prefix: Prefix,
    public: Arc<PublicWeights>,
    twin: Twin,
}

impl TwinEngine {
    /// # Errors
    /// [`EvalError::Partition`] when the weights do not fit the numeric format.
    pub fn new(partition: &Partition) -> Result<Self, EvalError> {
        let public = Arc::new(partition.public_weights()?);
        let private = Arc::new(partition.private_weights(&public)?);
        Ok(Self::with_weights(partition.prefix()?, public, private))
    }

    /// The same from weights that are already at hand.
    pub fn with_weights(prefix: Prefix, public: Arc<PublicWeights>, private: Arc<PrivateWeights>) -> Self {
        Self { prefix, twin: Twin::new(Arc::clone(&public), private), public }
    }

    /// As [`Self::with_weights`], rounding half up whatever the partition says: the same answers every time, for secure ones
    /// to be compared with.
    pub fn exact(prefix: Prefix, public: Arc<PublicWeights>, private: Arc<PrivateWeights>) -> Self {
        Self { prefix, twin: Twin::exact(Arc::clone(&public), private), public }
    }

    /// Starts over with a prompt and returns the first token of the answer.
    fn prefill(&mut self, prompt: &[u32]) -> Result<u32, EvalError> {
        self.prefix.truncate(0);
        let boundary = self.public.spec.encode(&self.prefix.forward(prompt)?)?;
        Ok(self.twin.prefill(&boundary)?)
    }

    fn decode(&mut self, token: u32) -> Result<u32, EvalError> {
        let boundary = self.public.spec.encode(&self.prefix.forward(&[token])?)?;
        Ok(self.twin.decode(&boundary)?)
    }
}

impl Engine for TwinEngine {
    fn name(&self) -> &'static str {
        "twin"
    }

    fn context(&self) -> usize {
        // A prompt is padded to its bucket, so the last incomplete bucket may be out of reach.
        let spec = &self.public.spec;
        spec.max_positions + 1 - spec.bucket(1)
    }

    fn score(&mut self, prompt: &[u32], continuations: &[Vec<u32>]) -> Result<Vec<f64>, EvalError> {
        self.prefill(prompt)?;
        let next = self.twin.last_logits();
        let mut at_prompt = true;
        let mut scores = Vec::with_capacity(continuations.len());
        for continuation in continuations {
            let mut score = continuation.first().map_or(0.0, |&first| log_softmax_at(&next, first));
            if continuation.len() > 1 && !std::mem::replace(&mut at_prompt, false) {
                self.prefill(prompt)?;
            }
            for pair in continuation.windows(2) {
                self.decode(pair[0])?;
                score += log_softmax_at(&self.twin.last_logits(), pair[1]);
            }
            scores.push(score);
        }
        Ok(scores)
    }

    fn token_scores(&mut self, tokens: &[u32]) -> Result<Vec<f64>, EvalError> {
        let mut scores = Vec::with_capacity(tokens.len());
        for (i, pair) in tokens.windows(2).enumerate() {
            if i == 0 {
                self.prefill(&pair[..1])?;
            } else {
                self.decode(pair[0])?;
            }
            scores.push(log_softmax_at(&self.twin.last_logits(), pair[1]));
        }
        Ok(scores)
    }

    fn generate(&mut self, prompt: &[u32], max_new_tokens: usize, stop: &Stop<'_>) -> Result<Vec<u32>, EvalError> {
        let mut answer = Vec::new();
        let mut token = self.prefill(prompt)?;
        while answer.len() < max_new_tokens && !stop(&answer, token) {
            answer.push(token);
            if answer.len() < max_new_tokens {
                token = self.decode(token)?;
            }
        }
        Ok(answer)
    }
}
