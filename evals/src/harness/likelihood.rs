//! Scores answers and running text by their likelihood.

use std::collections::BTreeMap;

use marill_recipe::Example;

use super::{Outcome, Run, Sample, complete, no_score};
use crate::{engine::Request, measure::Measure};

impl Run<'_, '_> {
    /// How likely the right answers are.
    pub(super) fn likelihood(&mut self, examples: &[Example]) -> Outcome {
        self.needs_logits()?;
        let mut texts = Vec::with_capacity(examples.len());
        let mut requests = Vec::with_capacity(examples.len());
        for example in examples {
            let answer_len = self
                .formatter
                .tokenizer
                .encode_continuing(&example.completion)?
                .len();
            let question = self.ask(example, answer_len)?;
            requests.push(Request {
                continuations: vec![self.right_answer(&question, &example.completion)?],
                prompt: question.tokens,
                max_new_tokens: None,
            });
            texts.push(question.text);
        }
        let mut samples = vec![None; examples.len()];
        let scope = self.scope;
        let measures = [Measure::NatsPerToken; 2];
        let never = |_: &[u32], _| false;
        self.ask_all(&requests, measures, &never, |nth, scores, _| {
            let score = scores.iter().sum::<f64>();
            let figures = vec![-score, requests[nth].continuations[0].len() as f64];
            samples[nth] = Some(Sample {
                doc_id: scope.doc_id(nth),
                prompt: std::mem::take(&mut texts[nth]),
                target: examples[nth].completion.clone(),
                score,
                figures: BTreeMap::from([(Measure::NatsPerToken.name(), figures)]),
                ..Sample::default()
            });
            Ok(())
        })?;
        Ok((complete(samples), vec![Measure::NatsPerToken]))
    }

    /// How likely running text is, window by window.
    pub(super) fn perplexity(&mut self, examples: &[Example]) -> Outcome {
        self.needs_logits()?;
        let text: String = examples
            .iter()
            .map(|e| e.completion.as_str())
            .collect::<Vec<_>>()
            .join("\n");
        let tokens = self.formatter.tokenizer.encode_plain(&text)?;
        let window = self.task.window.min(self.engine.context());
        let windows: Vec<&[u32]> = tokens.chunks(window).filter(|w| w.len() > 1).collect();
        self.all = windows.len();
        let picked = self.scope.picked(self.task, windows.len())?;
        let first = picked.start;
        let windows = &windows[picked];
        (self.progress)(0, windows.len());
        let mut samples = Vec::new();
        for (nth, window) in windows.iter().enumerate() {
            let doc_id = first + nth;
            let scores = self.engine.token_scores(window);
            let scores = scores
                .map_err(|error| no_score(self.task, Measure::TokenPerplexity, doc_id, error))?;
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
            (self.progress)(nth + 1, windows.len());
        }
        Ok((samples, vec![Measure::TokenPerplexity]))
    }
}
