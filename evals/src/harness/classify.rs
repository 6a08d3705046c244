use std::collections::BTreeMap;

use marill_recipe::Example;

use super::{Outcome, Run, Sample, best};
use crate::measure::Measure;

impl Run<'_, '_> {
    /// The likeliest label, or the greedy answer where the engine gives no likelihoods.
    pub(super) fn classify(&mut self, examples: &[Example], shots: &[Example]) -> Outcome {
        let labels = &self.task.dataset.labels;
        let tokens = labels.iter().map(|l| self.speaker.tokenizer.encode(l)).collect::<Result<Vec<_>, _>>()?;
        let greedy = self.engine.name() == "secure";
        let measure = if greedy { Measure::ExactMatch } else { Measure::Acc };
        // One more than the longest label: an answer that goes on is no label.
        let longest = tokens.iter().map(Vec::len).max().unwrap_or(1) + 1;
        let mut samples = Vec::with_capacity(examples.len());
        for (doc_id, example) in examples.iter().enumerate() {
            let question = self.ask(shots, example, longest)?;
            let (answer, label_scores) = if greedy {
                (self.greedy_line(&question, longest)?, Vec::new())
            } else {
                let scores = self.engine.score(&question.tokens, &tokens)?;
                (labels[best(&scores)].clone(), scores)
            };
            let score = f64::from(answer.trim() == example.completion.trim());
            samples.push(Sample {
                doc_id,
                prompt: question.text,
                target: example.completion.clone(),
                answer,
                label: example.label,
                score,
                label_scores,
                figures: BTreeMap::from([(measure.name(), vec![score, 1.0])]),
            });
            (self.progress)(doc_id + 1, examples.len());
        }
        Ok((samples, vec![measure]))
    }
}
