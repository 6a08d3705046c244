//! Scores generated text against a reference, by BLEU and chrF.

use std::collections::BTreeMap;

use marill_recipe::Example;

use super::{Outcome, Run, Sample, complete, ends_line, first_line};
use crate::{
    engine::Request,
    measure::Measure,
    metrics::{BleuStats, ChrfStats},
};

impl Run<'_, '_> {
    /// One greedy line against its reference.
    pub(super) fn generate(&mut self, examples: &[Example]) -> Outcome {
        let most = self.task.max_new_tokens;
        let mut texts = Vec::with_capacity(examples.len());
        let mut requests = Vec::with_capacity(examples.len());
        for example in examples {
            let question = self.ask(example, most)?;
            texts.push(question.text);
            requests.push(Request {
                prompt: question.tokens,
                continuations: Vec::new(),
                max_new_tokens: Some(most),
            });
        }
        let mut samples = vec![None; examples.len()];
        let tokenizer = self.formatter.tokenizer;
        let scope = self.scope;
        let stop = |answer: &[u32], token| ends_line(tokenizer, answer, token);
        let measures = [Measure::Bleu; 2];
        self.ask_all(&requests, measures, &stop, |nth, _, answer| {
            let target = &examples[nth].completion;
            let answer = first_line(&answer);
            let bleu = BleuStats::of(&answer, target);
            let chrf = ChrfStats::of(&answer, target);
            samples[nth] = Some(Sample {
                doc_id: scope.doc_id(nth),
                prompt: std::mem::take(&mut texts[nth]),
                target: target.clone(),
                answer,
                score: bleu.score(),
                figures: BTreeMap::from([
                    (Measure::Bleu.name(), bleu.figures()),
                    (Measure::Chrf.name(), chrf.figures()),
                ]),
                ..Sample::default()
            });
            Ok(())
        })?;
        Ok((complete(samples), vec![Measure::Bleu, Measure::Chrf]))
    }
}
