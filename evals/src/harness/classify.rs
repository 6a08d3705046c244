//! Scores classification: the greedy answer on every engine, likelihoods where there are logits.

use std::collections::BTreeMap;

use marill_recipe::Example;

use super::{Outcome, Run, Sample, best, complete, ends_line, first_line};
use crate::{engine::Request, measure::Measure};

impl Run<'_, '_> {
    /// The greedy answer of every engine, and the likeliest whole answer where the engine gives
    /// likelihoods.
    pub(super) fn classify(&mut self, examples: &[Example]) -> Outcome {
        let likelihoods = self.engine.gives_likelihoods();
        let labels = &self.task.dataset.labels;
        let words = labels
            .iter()
            .map(|label| self.formatter.words(label))
            .collect::<Result<Vec<_>, _>>()?;
        let mut texts = Vec::with_capacity(examples.len());
        let mut requests = Vec::with_capacity(examples.len());
        for example in examples {
            // With its end, an answer that begins another one can be told from it.
            let whole = labels
                .iter()
                .map(|label| self.formatter.answer(&example.prompt, label));
            let whole = whole.collect::<Result<Vec<_>, _>>()?;
            // One more than the longest: an answer that goes on is no label.
            let longest = whole.iter().map(Vec::len).max().unwrap_or(1) + 1;
            let question = self.ask(example, longest)?;
            texts.push(question.text);
            requests.push(Request {
                prompt: question.tokens,
                continuations: match likelihoods {
                    true => words.iter().cloned().chain(whole).collect(),
                    false => Vec::new(),
                },
                max_new_tokens: Some(longest),
            });
        }
        let mut samples = vec![None; examples.len()];
        let tokenizer = self.formatter.tokenizer;
        let scope = self.scope;
        let stop = |answer: &[u32], token| ends_line(tokenizer, answer, token);
        let measures = [Measure::Acc, Measure::ExactMatch];
        self.ask_all(&requests, measures, &stop, |nth, scores, answer| {
            let example = &examples[nth];
            let right = |answer: &str| f64::from(answer.trim() == example.completion.trim());
            let answer = first_line(&answer);
            let exact = right(&answer);
            let mut sample = Sample {
                doc_id: scope.doc_id(nth),
                prompt: std::mem::take(&mut texts[nth]),
                target: example.completion.clone(),
                answer,
                label: example.label,
                score: exact,
                figures: BTreeMap::from([(Measure::ExactMatch.name(), vec![exact, 1.0])]),
                ..Sample::default()
            };
            if likelihoods {
                sample.label_scores = scores;
                sample.answer_scores = sample.label_scores.split_off(labels.len());
                let likeliest = &labels[best(&sample.answer_scores)];
                sample.score = right(likeliest);
                sample.choice = Some(likeliest.clone());
                let figures = vec![sample.score, 1.0];
                sample.figures.insert(Measure::Acc.name(), figures);
            }
            samples[nth] = Some(sample);
            Ok(())
        })?;
        let measures = match likelihoods {
            true => measures.to_vec(),
            false => vec![Measure::ExactMatch],
        };
        Ok((complete(samples), measures))
    }
}
