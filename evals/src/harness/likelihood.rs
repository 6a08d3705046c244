//! Scores answers and running text by their likelihood.

use std::collections::BTreeMap;

use marill_recipe::Example;

use super::{Outcome, Run, Sample};
use crate::measure::Measure;

impl Run<'_, '_> {
    /// How likely the right answers are.
    pub(super) fn likelihood(&mut self, examples: &[Example], shots: &[Example]) -> Outcome {
        self.needs_logits()?;
        let mut samples = Vec::with_capacity(examples.len());
        for (doc_id, example) in examples.iter().enumerate() {
            let answer_len = self
                .formatter
                .tokenizer
                .encode_continuing(&example.completion)?
                .len();
            let question = self.ask(shots, example, answer_len)?;
            let nats = self.nats(&question, &example.completion, doc_id)?;
            samples.push(Sample {
                doc_id,
                prompt: question.text,
                target: example.completion.clone(),
                score: -nats[0],
                figures: BTreeMap::from([(Measure::NatsPerToken.name(), nats.to_vec())]),
                ..Sample::default()
            });
            (self.progress)(doc_id + 1, examples.len());
        }
        Ok((samples, vec![Measure::NatsPerToken]))
    }

    /// How likely running text is, window by window.
    pub(super) fn perplexity(&mut self, examples: &[Example], limit: Option<usize>) -> Outcome {
        self.needs_logits()?;
        let text: String = examples
            .iter()
            .map(|e| e.completion.as_str())
            .collect::<Vec<_>>()
            .join("\n");
        let tokens = self.formatter.tokenizer.encode_plain(&text)?;
        let window = self.task.window.min(self.engine.context());
        let mut windows: Vec<&[u32]> = tokens.chunks(window).filter(|w| w.len() > 1).collect();
        windows.truncate(limit.unwrap_or(usize::MAX));
        let mut samples = Vec::new();
        for (doc_id, window) in windows.iter().enumerate() {
            let scores = self.engine.token_scores(window);
            let scores =
                scores.map_err(|error| self.no_score(Measure::TokenPerplexity, doc_id, error))?;
            let score: f64 = scores.iter().sum();
            samples.push(Sample {
                doc_id,
                prompt: self.formatter.tokenizer.decode(window)?,
                score,
                figures: BTreeMap::from([(
                    Measure::TokenPerplexity.name(),
                    vec![-score, scores.len() as f64],
                )]),
                ..Sample::default()
            });
            (self.progress)(doc_id + 1, windows.len());
        }
        Ok((samples, vec![Measure::TokenPerplexity]))
    }
}
