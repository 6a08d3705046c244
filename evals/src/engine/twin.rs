//! The integer twin as an engine: the numbers of the secure program without its cost.

use std::sync::Arc;

use marill_model::Prefix;
use marill_mpc::{PrivateWeights, PublicWeights, Twin};
use marill_partition::Partition;

use super::{Engine, Stop, log_softmax_at, summed};
use crate::EvalError;

/// The integers in clear: the client's float prefix, then the private layers as the secure engine
/// computes them.
pub struct TwinEngine {
    prefix: Prefix,
    public: Arc<PublicWeights>,
    twin: Twin,
    /// The prompt that was read last: labels and the greedy answer behind one question read it
    /// once.
    read: Option<Read>,
}

/// A prompt that was read, and what came out behind it.
struct Read {
    prompt: Vec<u32>,
    /// Where it ends in the twin's cache.
    positions: usize,
    token: u32,
    logits: Vec<f32>,
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
    pub fn with_weights(
        prefix: Prefix,
        public: Arc<PublicWeights>,
        private: Arc<PrivateWeights>,
    ) -> Self {
        Self {
            prefix,
            twin: Twin::new(Arc::clone(&public), private),
            public,
            read: None,
        }
    }

    /// As [`Self::with_weights`], rounding half up whatever the partition says: the same answers
    /// every time, for secure ones to be compared with.
    pub fn exact(prefix: Prefix, public: Arc<PublicWeights>, private: Arc<PrivateWeights>) -> Self {
        Self {
            prefix,
            twin: Twin::exact(Arc::clone(&public), private),
            public,
            read: None,
        }
    }

    /// Starts over with a prompt and returns the first token of the answer. One that was just read
    /// is gone back to.
    fn prefill(&mut self, prompt: &[u32]) -> Result<u32, EvalError> {
        if let Some(read) = self.read.as_ref().filter(|read| read.prompt == prompt) {
            self.prefix.truncate(prompt.len());
            self.twin.rewind(read.positions);
            return Ok(read.token);
        }
        self.read = None;
        self.prefix.truncate(0);
        let boundary = self.public.spec.encode(&self.prefix.forward(prompt)?)?;
        let token = self.twin.prefill(&boundary)?;
        let positions = self.twin.positions();
        let logits = self.twin.last_logits();
        self.read = Some(Read {
            prompt: prompt.to_vec(),
            positions,
            token,
            logits,
        });
        Ok(token)
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
        summed(continuations, |continuation| {
            self.prefill(prompt)?;
            let [first, rest @ ..] = continuation else {
                return Ok(Vec::new());
            };
            let next = self.read.as_ref().map_or(&[][..], |read| &read.logits);
            let mut parts = vec![log_softmax_at(next, *first)?];
            for (&given, &token) in continuation.iter().zip(rest) {
                self.decode(given)?;
                parts.push(log_softmax_at(&self.twin.last_logits(), token)?);
            }
            Ok(parts)
        })
    }

    fn token_scores(&mut self, tokens: &[u32]) -> Result<Vec<f64>, EvalError> {
        let mut scores = Vec::with_capacity(tokens.len());
        for (i, pair) in tokens.windows(2).enumerate() {
            if i == 0 {
                self.prefill(&pair[..1])?;
            } else {
                self.decode(pair[0])?;
            }
            scores.push(log_softmax_at(&self.twin.last_logits(), pair[1])?);
        }
        Ok(scores)
    }

    fn generate(
        &mut self,
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &Stop<'_>,
    ) -> Result<Vec<u32>, EvalError> {
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
