//! Scores classification: the greedy answer on every engine, likelihoods where there are logits.

use std::collections::BTreeMap;

use marill_recipe::Example;

use super::{Outcome, Run, Sample, best};
use crate::measure::Measure;

impl Run<'_, '_> {
    /// The greedy answer of every engine, and the likeliest whole answer where the engine gives
    /// likelihoods.
    pub(super) fn classify(&mut self, examples: &[Example], shots: &[Example]) -> Outcome {
        let labels = &self.task.dataset.labels;
        let measures = match self.engine.gives_likelihoods() {
            true => vec![Measure::Acc, Measure::ExactMatch],
            false => vec![Measure::ExactMatch],
        };
        let words = labels
            .iter()
            .map(|label| self.formatter.words(label))
            .collect::<Result<Vec<_>, _>>()?;
        let mut samples = Vec::with_capacity(examples.len());
        for (doc_id, example) in examples.iter().enumerate() {
            // With its end, an answer that begins another one can be told from it.
            let whole = labels
                .iter()
                .map(|label| self.formatter.answer(&example.prompt, label));
            let whole = whole.collect::<Result<Vec<_>, _>>()?;
            // One more than the longest: an answer that goes on is no label.
            let longest = whole.iter().map(Vec::len).max().unwrap_or(1) + 1;
            let question = self.ask(shots, example, longest)?;
            let mut figures = BTreeMap::new();
            let mut choice = None;
            let mut label_scores = Vec::new();
            let mut answer_scores = Vec::new();
            if self.engine.gives_likelihoods() {
                let both: Vec<Vec<u32>> = words.iter().chain(&whole).cloned().collect();
                let scores = self.engine.score(&question.tokens, &both);
                label_scores =
                    scores.map_err(|error| self.no_score(Measure::Acc, doc_id, error))?;
                answer_scores = label_scores.split_off(labels.len());
                let likeliest = best(&answer_scores);
                let right = f64::from(labels[likeliest].trim() == example.completion.trim());
                figures.insert(Measure::Acc.name(), vec![right, 1.0]);
                choice = Some(labels[likeliest].clone());
            }
            let answer = self.greedy_line(&question, longest);
            let answer =
                answer.map_err(|error| self.no_score(Measure::ExactMatch, doc_id, error))?;
            let right = f64::from(answer == example.completion.trim());
            figures.insert(Measure::ExactMatch.name(), vec![right, 1.0]);
            samples.push(Sample {
                doc_id,
                prompt: question.text,
                target: example.completion.clone(),
                answer,
                choice,
                label: example.label,
                score: figures[measures[0].name()][0],
                label_scores,
                answer_scores,
                figures,
            });
            (self.progress)(doc_id + 1, examples.len());
        }
        Ok((samples, measures))
    }
}
