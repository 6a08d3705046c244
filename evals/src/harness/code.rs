//! Scores code: the likelihood of the reference solution, the shape of what was written and, in the
//! sandbox, whether it passes its tests.

use std::collections::BTreeMap;

use marill_recipe::Example;

use super::{Outcome, Run, Sample, complete};
use crate::{
    engine::Request,
    measure::Measure,
    program::{defines_function, program_of},
};

impl Run<'_, '_> {
    /// How likely the right programs are, and what the written ones are worth.
    pub(super) fn code(&mut self, examples: &[Example]) -> Outcome {
        let scope = self.scope;
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
        let mut texts = Vec::with_capacity(examples.len());
        let mut requests = Vec::with_capacity(examples.len());
        for example in examples {
            let solution = self
                .formatter
                .tokenizer
                .encode_continuing(&example.completion)?
                .len();
            let question = self.ask(example, self.task.max_new_tokens.max(solution))?;
            requests.push(Request {
                continuations: vec![self.right_answer(&question, &example.completion)?],
                prompt: question.tokens,
                max_new_tokens: writes.then_some(self.task.max_new_tokens),
            });
            texts.push(question.text);
        }
        let mut samples = vec![None; examples.len()];
        let tokenizer = self.formatter.tokenizer;
        let stop = |_: &[u32], token| tokenizer.is_eos(token);
        let both = [Measure::NatsPerToken, Measure::DefinesFunction];
        self.ask_all(&requests, both, &stop, |nth, scores, answer| {
            let nats = -scores.iter().sum::<f64>();
            let tokens = requests[nth].continuations[0].len() as f64;
            let program = program_of(&answer);
            let defines = f64::from(defines_function(&program));
            let mut figures = BTreeMap::from([(Measure::NatsPerToken.name(), vec![nats, tokens])]);
            let mut score = -nats;
            if writes {
                score = defines;
                figures.insert(Measure::DefinesFunction.name(), vec![defines, 1.0]);
            }
            if let Some(sandbox) = sandbox {
                let checks = scope.checks.get(nth).cloned().unwrap_or_default();
                score = f64::from(sandbox.passes(&checks.behind(&program))?);
                figures.insert(Measure::PassAt1.name(), vec![score, 1.0]);
            }
            samples[nth] = Some(Sample {
                doc_id: scope.doc_id(nth),
                prompt: std::mem::take(&mut texts[nth]),
                target: examples[nth].completion.clone(),
                answer,
                score,
                figures,
                ..Sample::default()
            });
            Ok(())
        })?;
        Ok((complete(samples), measures))
    }
}
