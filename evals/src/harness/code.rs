//! Scores code: the likelihood of the reference solution, the shape of what was written and, in the
//! sandbox, whether it passes its tests.

use std::collections::BTreeMap;

use marill_recipe::Example;

use super::{Outcome, Run, Sample, Scope};
use crate::{
    measure::Measure,
    program::{defines_function, program_of},
};

impl Run<'_, '_> {
    /// How likely the right programs are, and what the written ones are worth.
    pub(super) fn code(
        &mut self,
        examples: &[Example],
        shots: &[Example],
        scope: Scope<'_>,
    ) -> Outcome {
        self.needs_logits()?;
        // Without room for a program, only the reference solution is scored.
        let writes = self.task.max_new_tokens > 0;
        let mut measures = vec![Measure::NatsPerToken];
        if writes {
            measures.push(Measure::DefinesFunction);
        }
        let sandbox = scope.sandbox.filter(|_| writes);
        if sandbox.is_some() {
            measures.push(Measure::PassAt1);
        }
        let mut samples = Vec::with_capacity(examples.len());
        for (doc_id, example) in examples.iter().enumerate() {
            let solution = self
                .formatter
                .tokenizer
                .encode_continuing(&example.completion)?
                .len();
            let question = self.ask(shots, example, self.task.max_new_tokens.max(solution))?;
            let nats = self.nats(&question, &example.completion, doc_id)?;
            let answer = self.greedy_text(&question, self.task.max_new_tokens);
            let answer =
                answer.map_err(|error| self.no_score(Measure::DefinesFunction, doc_id, error))?;
            let program = program_of(&answer);
            let defines = f64::from(defines_function(&program));
            let mut figures = BTreeMap::from([(Measure::NatsPerToken.name(), nats.to_vec())]);
            let mut score = -nats[0];
            if writes {
                score = defines;
                figures.insert(Measure::DefinesFunction.name(), vec![defines, 1.0]);
            }
            if let Some(sandbox) = sandbox {
                let checks = scope.checks.get(doc_id).cloned().unwrap_or_default();
                score = f64::from(sandbox.passes(&checks.behind(&program))?);
                figures.insert(Measure::PassAt1.name(), vec![score, 1.0]);
            }
            samples.push(Sample {
                doc_id,
                prompt: question.text,
                target: example.completion.clone(),
                answer,
                score,
                figures,
                ..Sample::default()
            });
            (self.progress)(doc_id + 1, examples.len());
        }
        Ok((samples, measures))
    }
}
