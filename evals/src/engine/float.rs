//! The float model as an engine: the reference that the secure program is compared with.
//!
//! Questions are worked on together: what most of them begin with is read once, prompts and
//! labels of several questions are rows of one pass, and answers are written in lock step, one row
//! each. A question that is done makes room for the next one.

mod live;
mod tree;

use marill_model::{
    Adapter, BatchedModel, BlockId, Checkpoint, ModelConfig, Piece, Transforms, View,
};

use self::live::{Found, Live, Wanted};
use super::{
    Engine, Listener, LogSoftmax, NO_LIKELIHOOD, Reply, Request, Stop, arg_max,
    beginning::{common_beginning, same_tokens},
};
use crate::EvalError;

/// Questions that are worked on at once, unless another number is asked for: a matrix product of 64
/// rows is within a fifth of the fastest.
const AT_ONCE: usize = 64;

/// Rows of a pass beyond which no further prompt joins it: products of more are no faster.
const PASS_ROWS: usize = 1024;

/// The float model: base, transforms and adapter.
pub struct FloatEngine {
    model: BatchedModel,
    /// What most questions of the last call began with, and where its rows are.
    beginning: Vec<u32>,
    shared: BlockId,
    context: usize,
}

/// The rows of one pass.
#[derive(Default)]
struct Pass {
    pieces: Vec<Piece>,
    /// The rows that are waited for, each with the place of its request among the live ones.
    wanted: Vec<(usize, Wanted)>,
    rows: usize,
}

impl Pass {
    fn add(&mut self, live: usize, pieces: Vec<Piece>, wanted: Vec<Wanted>) {
        self.rows += pieces.iter().map(|piece| piece.tokens.len()).sum::<usize>();
        self.pieces.extend(pieces);
        self.wanted
            .extend(wanted.into_iter().map(|row| (live, row)));
    }
}

/// How much is worked on at once.
#[derive(Clone, Copy)]
struct Limits {
    requests: usize,
    /// Rows of keys and values, those to come included.
    rows: usize,
}

impl FloatEngine {
    /// # Errors
    /// [`EvalError::Model`] when the adapter or the transforms do not fit the base.
    pub fn new(
        base: &Checkpoint,
        transforms: &Transforms,
        adapter: Option<&Adapter>,
    ) -> Result<Self, EvalError> {
        let mut model = BatchedModel::new(base, transforms, adapter)?;
        Ok(Self {
            shared: model.new_block(),
            model,
            beginning: Vec::new(),
            context: base.config.max_position_embeddings(),
        })
    }

    /// Reads what most prompts begin with, unless that is cached.
    fn read_beginning(&mut self, requests: &[Request]) -> Result<(), EvalError> {
        let prompts: Vec<&[u32]> = requests.iter().map(|r| &r.prompt[..]).collect();
        let beginning = common_beginning(&prompts);
        let known = same_tokens(&self.beginning, &beginning);
        if known == beginning.len() {
            return Ok(());
        }
        self.model.truncate(self.shared, known);
        self.beginning.truncate(known);
        let piece = Piece {
            past: Vec::new(),
            own: self.shared,
            tokens: beginning[known..].to_vec(),
        };
        self.model.forward(&[piece], &[0])?;
        self.beginning = beginning;
        Ok(())
    }

    /// The cached rows that a prompt begins with. Its last token is always read anew.
    fn shared_rows(&self, prompt: &[u32]) -> Option<View> {
        let rows = same_tokens(&self.beginning, prompt).min(prompt.len().saturating_sub(1));
        (rows > 0).then_some(View {
            block: self.shared,
            rows,
        })
    }

    /// Answers all requests; those in `live` have rows to give back, also after an error.
    fn work<'a>(
        &mut self,
        requests: &'a [Request],
        stop: &Stop<'_>,
        limits: Limits,
        live: &mut Vec<Live<'a>>,
        each: &mut Listener<'_>,
    ) -> Result<(), EvalError> {
        let mut waiting = requests.iter().enumerate().peekable();
        loop {
            let pass = self.next_pass(&mut waiting, limits, live);
            if pass.pieces.is_empty() {
                return Ok(());
            }
            let rows: Vec<u32> = pass.wanted.iter().map(|(_, row)| row.row as u32).collect();
            let finished = self.model.forward(&pass.pieces, &rows)?;
            let mut best = vec![None; live.len()];
            let found = self.look(&finished, &pass.wanted)?;
            for ((owner, wanted), found) in pass.wanted.iter().zip(found) {
                match wanted.node {
                    Some(node) => live[*owner].found(node, found),
                    None => best[*owner] = found.best,
                }
            }
            let mut going = Vec::with_capacity(live.len());
            let mut done = Vec::new();
            for (mut one, best) in live.drain(..).zip(best) {
                if one.advance(best, stop, &mut self.model) {
                    one.free(&mut self.model);
                    done.push(one);
                } else {
                    going.push(one);
                }
            }
            *live = going;
            each(done.into_iter().map(|one| (one.nth, one.reply())).collect())?;
        }
    }

    /// The next tokens of all answers, and prompts that still fit in beside them.
    fn next_pass<'a>(
        &mut self,
        waiting: &mut std::iter::Peekable<impl Iterator<Item = (usize, &'a Request)>>,
        limits: Limits,
        live: &mut Vec<Live<'a>>,
    ) -> Pass {
        let mut pass = Pass::default();
        for (nth, one) in live.iter_mut().enumerate() {
            if let Some((piece, wanted)) = one.step(pass.rows) {
                pass.add(nth, vec![piece], vec![wanted]);
            }
        }
        let mut reserved = live.iter().map(|one| one.reserved).sum::<usize>();
        while let Some(&(nth, request)) = waiting.peek() {
            if live.len() == limits.requests || pass.rows >= PASS_ROWS {
                break;
            }
            let shared = self.shared_rows(&request.prompt);
            let needs = Live::needs(request, shared);
            // One at least: what does not fit alone is up to the machine.
            if reserved + needs > limits.rows && !live.is_empty() {
                break;
            }
            reserved += needs;
            let mut one = Live::new(nth, request, shared, &mut self.model);
            let (pieces, wanted) = one.begin(pass.rows, &mut self.model);
            pass.add(live.len(), pieces, wanted);
            live.push(one);
            waiting.next();
        }
        pass
    }

    fn look(
        &self,
        finished: &candle_core::Tensor,
        wanted: &[(usize, Wanted)],
    ) -> Result<Vec<Found>, EvalError> {
        Ok(self.model.each_logits(finished, |nth, logits| {
            let (_, Wanted { asked, .. }) = &wanted[nth];
            let softmax = (!asked.is_empty()).then(|| LogSoftmax::of(logits));
            let scores = asked.iter().map(|&token| softmax.as_ref()?.at(token));
            Found {
                best: arg_max(logits).ok(),
                scores: scores.collect(),
            }
        })?)
    }

    /// One request alone.
    fn answer(&mut self, request: Request, stop: &Stop<'_>) -> Result<Reply, EvalError> {
        let mut answer = None;
        self.answer_all(&[request], stop, None, &mut |replies| {
            answer = replies.into_iter().next().or(answer.take());
            Ok(())
        })?;
        let answer = answer.map(|(_, reply)| reply);
        answer.ok_or(EvalError::PartyEnded {
            party: "the engine",
        })
    }
}

impl Engine for FloatEngine {
    fn name(&self) -> &'static str {
        "float"
    }

    fn context(&self) -> usize {
        self.context
    }

    fn score(&mut self, prompt: &[u32], continuations: &[Vec<u32>]) -> Result<Vec<f64>, EvalError> {
        let request = Request {
            prompt: prompt.to_vec(),
            continuations: continuations.to_vec(),
            max_new_tokens: None,
        };
        self.answer(request, &|_, _| false)?.scores
    }

    fn token_scores(&mut self, tokens: &[u32]) -> Result<Vec<f64>, EvalError> {
        if tokens.len() < 2 {
            return Ok(Vec::new());
        }
        let own = self.model.new_block();
        let piece = Piece {
            past: Vec::new(),
            own,
            tokens: tokens[..tokens.len() - 1].to_vec(),
        };
        let rows: Vec<u32> = (0..tokens.len() as u32 - 1).collect();
        let finished = self.model.forward(&[piece], &rows);
        self.model.free(own);
        let scores = self.model.each_logits(&finished?, |nth, logits| {
            LogSoftmax::of(logits).at(tokens[nth + 1])
        })?;
        let number = |score: Option<f64>| score.ok_or(NO_LIKELIHOOD);
        scores.into_iter().map(number).collect()
    }

    fn generate(
        &mut self,
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &Stop<'_>,
    ) -> Result<Vec<u32>, EvalError> {
        let request = Request {
            prompt: prompt.to_vec(),
            continuations: Vec::new(),
            max_new_tokens: Some(max_new_tokens),
        };
        self.answer(request, stop)?.answer
    }

    fn answer_all(
        &mut self,
        requests: &[Request],
        stop: &Stop<'_>,
        at_once: Option<usize>,
        each: &mut Listener<'_>,
    ) -> Result<(), EvalError> {
        // The row before such a prompt's would be another request's.
        if let Some(request) = requests.iter().position(|asked| asked.prompt.is_empty()) {
            return Err(EvalError::EmptyPrompt { request });
        }
        self.read_beginning(requests)?;
        let limits = Limits {
            requests: at_once.unwrap_or(AT_ONCE).max(1),
            rows: self.model.rows_in_memory(),
        };
        let mut live = Vec::new();
        let outcome = self.work(requests, stop, limits, &mut live, each);
        live.iter().for_each(|one| one.free(&mut self.model));
        outcome
    }
}
