//! The float model as an engine: the reference that the secure program is compared with.

use marill_model::{Adapter, Checkpoint, FloatModel, ModelConfig, Transforms};

use super::{Engine, Stop, arg_max, log_softmax_at, summed};
use crate::EvalError;

/// The float model: base, transforms and adapter.
pub struct FloatEngine {
    model: FloatModel,
    /// The tokens in the model's cache: prompts with the same few-shot examples read them once.
    cached: Vec<u32>,
    /// The prompt that was read last and the logits behind it: its labels and its greedy answer
    /// read it once.
    read: Option<(Vec<u32>, Vec<f32>)>,
    context: usize,
}

impl FloatEngine {
    /// # Errors
    /// [`EvalError::Model`] when the adapter or the transforms do not fit the base.
    pub fn new(
        base: &Checkpoint,
        transforms: &Transforms,
        adapter: Option<&Adapter>,
    ) -> Result<Self, EvalError> {
        let model = FloatModel::new(base, transforms, adapter)?;
        Ok(Self {
            model,
            cached: Vec::new(),
            read: None,
            context: base.config.max_position_embeddings(),
        })
    }

    /// Keeps the first `len` tokens of the cache.
    fn keep(&mut self, len: usize) -> Result<(), EvalError> {
        self.cached.truncate(len);
        Ok(self.model.truncate(len)?)
    }

    /// Makes the cache hold `prompt` and returns the logits behind it.
    fn read(&mut self, prompt: &[u32]) -> Result<Vec<f32>, EvalError> {
        if let Some((read, logits)) = &self.read
            && read == prompt
            && self.cached.starts_with(prompt)
        {
            let logits = logits.clone();
            self.keep(prompt.len())?;
            return Ok(logits);
        }
        let common = self
            .cached
            .iter()
            .zip(prompt)
            .take_while(|(a, b)| a == b)
            .count();
        self.keep(common.min(prompt.len().saturating_sub(1)))?;
        let logits = self.append(&prompt[self.cached.len()..])?;
        self.read = Some((prompt.to_vec(), logits.clone()));
        Ok(logits)
    }

    fn append(&mut self, tokens: &[u32]) -> Result<Vec<f32>, EvalError> {
        let logits = self.model.logits(tokens)?;
        self.cached.extend(tokens);
        Ok(logits)
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
        let next = self.read(prompt)?;
        summed(continuations, |continuation| {
            let [first, rest @ ..] = continuation else {
                return Ok(Vec::new());
            };
            let mut parts = vec![log_softmax_at(&next, *first)?];
            if !rest.is_empty() {
                let rows = self
                    .model
                    .all_logits(&continuation[..rest.len()])?
                    .to_vec2::<f32>()?;
                for (row, &token) in rows.iter().zip(rest) {
                    parts.push(log_softmax_at(row, token)?);
                }
                self.keep(prompt.len())?;
            }
            Ok(parts)
        })
    }

    fn token_scores(&mut self, tokens: &[u32]) -> Result<Vec<f64>, EvalError> {
        if tokens.len() < 2 {
            return Ok(Vec::new());
        }
        self.keep(0)?;
        let rows = self
            .model
            .all_logits(&tokens[..tokens.len() - 1])?
            .to_vec2::<f32>()?;
        rows.iter()
            .zip(&tokens[1..])
            .map(|(row, &token)| log_softmax_at(row, token))
            .collect()
    }

    fn generate(
        &mut self,
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &Stop<'_>,
    ) -> Result<Vec<u32>, EvalError> {
        let mut answer = Vec::new();
        let mut logits = self.read(prompt)?;
        while answer.len() < max_new_tokens {
            let token = arg_max(&logits)?;
            if stop(&answer, token) {
                break;
            }
            answer.push(token);
            if answer.len() < max_new_tokens {
                logits = self.append(&[token])?;
            }
        }
        Ok(answer)
    }
}
