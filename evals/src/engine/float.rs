use marill_model::{Adapter, Checkpoint, FloatModel, Transforms};

use super::{Engine, Stop, arg_max, log_softmax_at};
use crate::EvalError;

/// The float model: base, transforms and adapter.
pub struct FloatEngine {
    model: FloatModel,
    context: usize,
}

impl FloatEngine {
    /// # Errors
    /// [`EvalError::Model`] when the adapter or the transforms do not fit the base.
    pub fn new(base: &Checkpoint, transforms: &Transforms, adapter: Option<&Adapter>) -> Result<Self, EvalError> {
        let model = FloatModel::new(base, transforms, adapter)?;
        Ok(Self { model, context: base.config.max_position_embeddings })
    }
}

impl Engine for FloatEngine {
    fn name(&self) -> &'static str {
        "float"
    }

    fn context(&self) -> usize {
        self.context
    }

    fn score(&mut self, prompt: &[u32], continuations: &[Vec<u32>]) -> Result<Vec<f64>, EvalError> {
        self.model.reset();
        let next = self.model.logits(prompt)?;
        let mut scores = Vec::with_capacity(continuations.len());
        for continuation in continuations {
            let Some((&first, rest)) = continuation.split_first() else {
                scores.push(0.0);
                continue;
            };
            let mut score = log_softmax_at(&next, first);
            if !rest.is_empty() {
                self.model.reset();
                let whole: Vec<u32> = prompt.iter().chain(continuation).copied().collect();
                let rows = self.model.all_logits(&whole)?.to_vec2::<f32>()?;
                let places = prompt.len()..;
                score += places.zip(rest).map(|(row, &token)| log_softmax_at(&rows[row], token)).sum::<f64>();
            }
            scores.push(score);
        }
        Ok(scores)
    }

    fn token_scores(&mut self, tokens: &[u32]) -> Result<Vec<f64>, EvalError> {
        if tokens.len() < 2 {
            return Ok(Vec::new());
        }
        self.model.reset();
        let rows = self.model.all_logits(&tokens[..tokens.len() - 1])?.to_vec2::<f32>()?;
        Ok(rows.iter().zip(&tokens[1..]).map(|(row, &token)| log_softmax_at(row, token)).collect())
    }

    fn generate(&mut self, prompt: &[u32], max_new_tokens: usize, stop: &Stop<'_>) -> Result<Vec<u32>, EvalError> {
        self.model.reset();
        let mut answer = Vec::new();
        let mut logits = self.model.logits(prompt)?;
        while answer.len() < max_new_tokens {
            let token = arg_max(&logits);
            if stop(&answer, token) {
                break;
            }
            answer.push(token);
            if answer.len() < max_new_tokens {
                logits = self.model.logits(&[token])?;
            }
        }
        Ok(answer)
    }
}
