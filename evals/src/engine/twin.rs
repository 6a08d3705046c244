//! The integer twin as an engine: the numbers of the secure program without its cost.
//!
//! What several questions or continuations begin with is computed once. Every row of the prefix and
//! of the program depends on itself and those before it alone, so the integers stay the same.

use std::{collections::BTreeMap, sync::Arc};

use marill_model::Prefix;
use marill_mpc::{PrivateWeights, PublicWeights, Twin, TwinBeginning};
use marill_partition::Partition;

use super::{
    Engine, Listener, Request, Stop, answer_in_turn,
    beginning::{common_beginning, same_tokens},
    log_softmax_at, summed,
};
use crate::EvalError;

/// The integers in clear: the client's float prefix, then the private layers as the secure engine
/// computes them.
pub struct TwinEngine {
    prefix: Prefix,
    public: Arc<PublicWeights>,
    twin: Twin,
    /// The tokens in the prefix's cache, and their encoded boundary rows.
    tokens: Vec<u32>,
    boundary: Vec<u64>,
    /// What most questions begin with, and the twin's rows of it by the padding in front: where
    /// the padding differs, so do the positions.
    beginning: Vec<u32>,
    beginnings: BTreeMap<usize, TwinBeginning>,
    /// The prompt that was read last: labels and the greedy answer behind one question read it
    /// once.
    read: Option<Read>,
}

/// A prompt that was read, and what came out behind it.
struct Read {
    prompt: Vec<u32>,
    /// Where it ends in the twin's cache.
    positions: usize,
    /// The tokens behind it that the twin's cache holds.
    at: Vec<u32>,
    /// The tokens that were read behind it, and what came out.
    known: BTreeMap<Vec<u32>, Known>,
}

/// What came out of a step. Logits are kept where a score asks for them: a long answer would hold
/// hundreds of kilobytes for each of its tokens.
struct Known {
    token: u32,
    logits: Option<Vec<f32>>,
}

/// What is asked of a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Token,
    Logits,
}

impl TwinEngine {
    /// # Errors
    /// [`EvalError::Partition`] when the weights do not fit the numeric format.
    pub fn new(partition: &Partition) -> Result<Self, EvalError> {
        let public = Arc::new(partition.public_weights()?);
        let private = Arc::new(partition.private_weights(&public)?);
        Ok(Self::with_weights(partition.prefix()?, public, private))
    }

    /// The same from weights that are already at hand.
    pub fn with_weights(
        prefix: Prefix,
        public: Arc<PublicWeights>,
        private: Arc<PrivateWeights>,
    ) -> Self {
        let twin = Twin::new(Arc::clone(&public), private);
        Self::of(prefix, public, twin)
    }

    /// As [`Self::with_weights`], rounding half up whatever the partition says: the same answers
    /// every time, for secure ones to be compared with.
    pub fn exact(prefix: Prefix, public: Arc<PublicWeights>, private: Arc<PrivateWeights>) -> Self {
        let twin = Twin::exact(Arc::clone(&public), private);
        Self::of(prefix, public, twin)
    }

    fn of(prefix: Prefix, public: Arc<PublicWeights>, twin: Twin) -> Self {
        Self {
            prefix,
            public,
            twin,
            tokens: Vec::new(),
            boundary: Vec::new(),
            beginning: Vec::new(),
            beginnings: BTreeMap::new(),
            read: None,
        }
    }

    /// Makes the prefix's cache hold these tokens; what it begins with already stays.
    fn run_prefix(&mut self, tokens: &[u32]) -> Result<(), EvalError> {
        let hidden = self.public.spec.hidden_size;
        let same = same_tokens(&self.tokens, tokens);
        self.prefix.truncate(same);
        self.tokens.truncate(same);
        self.boundary.truncate(same * hidden);
        if same < tokens.len() {
            let rows = self.prefix.forward(&tokens[same..])?;
            self.tokens.extend(&tokens[same..]);
            self.boundary.extend(self.public.spec.encode(&rows)?);
        }
        Ok(())
    }

    /// Starts over with a prompt, unless it was the last one.
    fn prefill(&mut self, prompt: &[u32]) -> Result<(), EvalError> {
        if self.read.as_ref().is_some_and(|read| read.prompt == prompt) {
            return Ok(());
        }
        self.read = None;
        self.run_prefix(prompt)?;
        let spec = &self.public.spec;
        let padding = spec.bucket(prompt.len()) - prompt.len();
        let shared = match prompt.strip_prefix(&self.beginning[..]) {
            Some([_, ..]) if self.twin.is_exact() => self.beginning.len(),
            _ => 0,
        };
        let token = match self.beginnings.get(&padding).filter(|_| shared > 0) {
            Some(beginning) => {
                let rest = &self.boundary[shared * spec.hidden_size..];
                self.twin.prefill_behind(beginning, rest)?
            }
            None => self.twin.prefill(&self.boundary)?,
        };
        if shared > 0 && !self.beginnings.contains_key(&padding) {
            let beginning = self.twin.beginning(padding + shared);
            self.beginnings.insert(padding, beginning);
        }
        // One vector for each prompt, whatever is asked about it first.
        let logits = Some(self.twin.last_logits());
        self.read = Some(Read {
            prompt: prompt.to_vec(),
            positions: self.twin.positions(),
            at: Vec::new(),
            known: BTreeMap::from([(Vec::new(), Known { token, logits })]),
        });
        Ok(())
    }

    /// What comes out behind the prompt and these tokens. A step that was made once is not made
    /// again, unless its logits are asked for and were not kept.
    fn behind(
        &mut self,
        prompt: &[u32],
        tokens: &[u32],
        asked: Asked,
    ) -> Result<&Known, EvalError> {
        self.prefill(prompt)?;
        let Some(mut read) = self.read.take() else {
            unreachable!("the prompt was just read")
        };
        let known = read.known.get(tokens);
        if known.is_none_or(|known| asked == Asked::Logits && known.logits.is_none()) {
            self.step(&mut read, tokens, asked)?;
        }
        let read = self.read.insert(read);
        Ok(&read.known[tokens])
    }

    fn step(&mut self, read: &mut Read, tokens: &[u32], asked: Asked) -> Result<(), EvalError> {
        let hidden = self.public.spec.hidden_size;
        let same = same_tokens(&read.at, tokens).min(tokens.len() - 1);
        self.twin.rewind(read.positions + same);
        read.at.truncate(same);
        self.run_prefix(&[&read.prompt, tokens].concat())?;
        for nth in same..tokens.len() {
            let row = (read.prompt.len() + nth) * hidden;
            let token = self.twin.decode(&self.boundary[row..row + hidden])?;
            read.at.push(tokens[nth]);
            let kept = |known: &Known| known.logits.is_some();
            let keep = asked == Asked::Logits || read.known.get(&read.at).is_some_and(kept);
            let logits = keep.then(|| self.twin.last_logits());
            read.known.insert(read.at.clone(), Known { token, logits });
        }
        Ok(())
    }
}

impl Engine for TwinEngine {
    fn name(&self) -> &'static str {
        "twin"
    }

    fn context(&self) -> usize {
        // A prompt is padded to its bucket, so the last incomplete bucket may be out of reach.
        let spec = &self.public.spec;
        spec.max_positions + 1 - spec.bucket(1)
    }

    fn score(&mut self, prompt: &[u32], continuations: &[Vec<u32>]) -> Result<Vec<f64>, EvalError> {
        self.prefill(prompt)?;
        summed(continuations, |continuation| {
            let mut parts = Vec::with_capacity(continuation.len());
            for (nth, &token) in continuation.iter().enumerate() {
                let known = self.behind(prompt, &continuation[..nth], Asked::Logits)?;
                let Some(logits) = &known.logits else {
                    unreachable!("logits that are asked for are kept")
                };
                parts.push(log_softmax_at(logits, token)?);
            }
            Ok(parts)
        })
    }

    fn token_scores(&mut self, tokens: &[u32]) -> Result<Vec<f64>, EvalError> {
        let mut scores = Vec::with_capacity(tokens.len());
        // A window is no prompt that is asked about again.
        self.run_prefix(&tokens[..tokens.len().saturating_sub(1)])?;
        self.read = None;
        let hidden = self.public.spec.hidden_size;
        let rows: Vec<&[u64]> = self.boundary.chunks_exact(hidden).collect();
        for (nth, pair) in tokens.windows(2).enumerate() {
            match nth {
                0 => self.twin.prefill(rows[0])?,
                _ => self.twin.decode(rows[nth])?,
            };
            scores.push(log_softmax_at(&self.twin.last_logits(), pair[1])?);
        }
        Ok(scores)
    }

    fn generate(
        &mut self,
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &Stop<'_>,
    ) -> Result<Vec<u32>, EvalError> {
        self.prefill(prompt)?;
        let mut answer = Vec::new();
        while answer.len() < max_new_tokens {
            let token = self.behind(prompt, &answer, Asked::Token)?.token;
            if stop(&answer, token) {
                break;
            }
            answer.push(token);
        }
        Ok(answer)
    }

    fn answer_all(
        &mut self,
        requests: &[Request],
        stop: &Stop<'_>,
        _: Option<usize>,
        each: &mut Listener<'_>,
    ) -> Result<(), EvalError> {
        let prompts: Vec<&[u32]> = requests.iter().map(|r| &r.prompt[..]).collect();
        let beginning = common_beginning(&prompts);
        if beginning != self.beginning {
            self.beginnings.clear();
            self.beginning = beginning;
        }
        answer_in_turn(self, requests, stop, each)
    }
}

#[cfg(test)]
mod tests {
    use marill_partition::{ExportOptions, export};
    use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};

    use super::*;

    #[test]
    fn logits_are_kept_for_scores_alone() {
        let dir = tempfile::tempdir().unwrap();
        let base = tiny_base(&dir.path().join("base"), 5).unwrap();
        let transforms = tiny_transforms(&base.config, true);
        let adapter = tiny_adapter(&base.config, &transforms, 6).unwrap();
        let out = dir.path().join("out");
        let options = ExportOptions::default();
        export(&base, &transforms, &adapter, &out, &options).unwrap();
        let partition = Partition::open(&out).unwrap();

        let prompt = base.tokenizer.encode("What is this about?").unwrap();
        let mut engine = TwinEngine::new(&partition).unwrap();
        let answer = engine.generate(&prompt, 6, &|_, _| false).unwrap();
        let read = engine.read.as_ref().unwrap();
        let kept = read.known.values().filter(|step| step.logits.is_some());
        // Those behind the prompt, none of the five tokens that were read.
        assert_eq!((kept.count(), read.known.len()), (1, 6));

        let continuations = [answer[..3].to_vec(), [&answer[..2], &[1, 2]].concat()];
        let scores = engine.score(&prompt, &continuations).unwrap();
        let mut fresh = TwinEngine::new(&partition).unwrap();
        assert_eq!(scores, fresh.score(&prompt, &continuations).unwrap());
        assert_eq!(answer, fresh.generate(&prompt, 6, &|_, _| false).unwrap());
    }
}
