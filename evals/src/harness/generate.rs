//! Scores generated text against a reference, by BLEU and chrF.

use std::collections::BTreeMap;

use marill_recipe::Example;

use super::{Outcome, Run, Sample};
use crate::{
    measure::Measure,
    metrics::{BleuStats, ChrfStats},
};

impl Run<'_, '_> {
    /// One greedy line against its reference.
    pub(super) fn generate(&mut self, examples: &[Example], shots: &[Example]) -> Outcome {
        let mut samples = Vec::with_capacity(examples.len());
        for (doc_id, example) in examples.iter().enumerate() {
            let question = self.ask(shots, example, self.task.max_new_tokens)?;
            let answer = self.greedy_line(&question, self.task.max_new_tokens);
            let answer = answer.map_err(|error| self.no_score(Measure::Bleu, doc_id, error))?;
            let bleu = BleuStats::of(&answer, &example.completion);
            let chrf = ChrfStats::of(&answer, &example.completion);
            samples.push(Sample {
                doc_id,
                prompt: question.text,
                target: example.completion.clone(),
                answer,
                score: bleu.score(),
                figures: BTreeMap::from([
                    (Measure::Bleu.name(), bleu.figures()),
                    (Measure::Chrf.name(), chrf.figures()),
                ]),
                ..Sample::default()
            });
            (self.progress)(doc_id + 1, examples.len());
        }
        Ok((samples, vec![Measure::Bleu, Measure::Chrf]))
    }
}
