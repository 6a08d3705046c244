//! A request on its way: which rows it needs next, and what is known of its answer.

use marill_model::{BatchedModel, BlockId, Piece, View};

use super::{
    super::{NO_LIKELIHOOD, NO_LOGIT, Reply, Request, Stop},
    tree::{ROOT, Tree},
};

/// Where the greedy answer stands.
enum At {
    /// At a node of the tree of continuations.
    Node(usize),
    /// Beside it: behind these rows, in a block of its own.
    Own(Vec<View>, BlockId),
}

pub(super) struct Live<'a> {
    /// The request's number.
    pub nth: usize,
    request: &'a Request,
    tree: Tree,
    /// The rows of the prompt.
    prompt: Vec<View>,
    blocks: Vec<BlockId>,
    at: At,
    answer: Vec<u32>,
    /// The token to be read next.
    next: Option<u32>,
    failed: bool,
    /// Most rows that it will have, the shared beginning aside.
    pub reserved: usize,
}

/// A row that is waited for.
pub(super) struct Wanted {
    /// Of the pieces' rows.
    pub row: usize,
    /// The node that it stands for; none for a token of an answer beside the tree.
    pub node: Option<usize>,
    /// Tokens whose likelihoods are asked for.
    pub asked: Vec<u32>,
}

/// What came out for a row.
pub(super) struct Found {
    pub best: Option<u32>,
    pub scores: Vec<Option<f64>>,
}

impl<'a> Live<'a> {
    /// A request whose prompt begins with the rows of `shared`.
    pub fn new(
        nth: usize,
        request: &'a Request,
        shared: Option<View>,
        model: &mut BatchedModel,
    ) -> Self {
        let own = model.new_block();
        let rows = request.prompt.len() - shared.map_or(0, |view| view.rows);
        let view = View { block: own, rows };
        Self {
            nth,
            request,
            reserved: Self::needs(request, shared),
            tree: Tree::new(request),
            prompt: shared.into_iter().chain([view]).collect(),
            blocks: vec![own],
            at: At::Node(ROOT),
            answer: Vec::new(),
            next: None,
            failed: false,
        }
    }

    /// Most rows that a request will have, those of `shared` aside.
    pub fn needs(request: &Request, shared: Option<View>) -> usize {
        let prompt = request.prompt.len() - shared.map_or(0, |view| view.rows);
        let continuations = request.continuations.iter().map(Vec::len).sum::<usize>();
        prompt + continuations + request.max_new_tokens.unwrap_or(0)
    }

    /// Prompt and continuations as pieces, and the rows to look at; `first` is the row before which
    /// they begin.
    pub fn begin(&mut self, first: usize, model: &mut BatchedModel) -> (Vec<Piece>, Vec<Wanted>) {
        let own = self.blocks[0];
        let [before @ .., _] = &self.prompt[..] else {
            unreachable!("a prompt has a block of its own")
        };
        let common = before.iter().map(|view| view.rows).sum::<usize>();
        let prompt = Piece {
            past: before.to_vec(),
            own,
            tokens: self.request.prompt[common..].to_vec(),
        };
        let mut row = first + prompt.tokens.len();
        let mut wanted = vec![Wanted {
            row: row - 1,
            node: Some(ROOT),
            asked: self.tree.asked(ROOT),
        }];
        let mut pieces = vec![prompt];
        for branch in self.tree.branches(&self.prompt, || model.new_block()) {
            self.blocks.push(branch.piece.own);
            for node in branch.nodes {
                wanted.push(Wanted {
                    row,
                    node: Some(node),
                    asked: self.tree.asked(node),
                });
                row += 1;
            }
            pieces.push(branch.piece);
        }
        (pieces, wanted)
    }

    /// The next token of the answer as a piece.
    pub fn step(&mut self, first: usize) -> Option<(Piece, Wanted)> {
        let token = self.next.take()?;
        let At::Own(past, own) = &self.at else {
            return None;
        };
        let piece = Piece {
            past: past.clone(),
            own: *own,
            tokens: vec![token],
        };
        let wanted = Wanted {
            row: first,
            node: None,
            asked: Vec::new(),
        };
        Some((piece, wanted))
    }

    /// Takes what was found for a row of a node.
    pub fn found(&mut self, node: usize, found: Found) {
        self.tree.found(node, found.scores, found.best);
    }

    /// Goes on with the answer as far as tokens are known; `best` is the one behind the last row
    /// beside the tree. Whether the reply is complete.
    pub fn advance(
        &mut self,
        best: Option<u32>,
        stop: &Stop<'_>,
        model: &mut BatchedModel,
    ) -> bool {
        let most = self.request.max_new_tokens.unwrap_or(0);
        while self.answer.len() < most {
            let best = match self.at {
                At::Node(node) => self.tree.best(node),
                At::Own(..) => best,
            };
            let Some(token) = best else {
                self.failed = true;
                return true;
            };
            if stop(&self.answer, token) {
                return true;
            }
            self.answer.push(token);
            if self.answer.len() == most {
                return true;
            }
            let At::Node(node) = self.at else {
                self.next = Some(token);
                return false;
            };
            match self.tree.follow(node, token) {
                Some(child) => self.at = At::Node(child),
                None => {
                    let own = model.new_block();
                    self.blocks.push(own);
                    self.at = At::Own(self.tree.views(&self.prompt, node), own);
                    self.next = Some(token);
                    return false;
                }
            }
        }
        true
    }

    /// Gives the rows back.
    pub fn free(&self, model: &mut BatchedModel) {
        self.blocks.iter().for_each(|&block| model.free(block));
    }

    pub fn reply(self) -> Reply {
        let continuations = self.request.continuations.iter();
        let scores = continuations
            .map(|continuation| self.tree.score(continuation).ok_or(NO_LIKELIHOOD))
            .collect();
        let answer = match self.failed {
            true => Err(NO_LOGIT),
            false => Ok(self.answer),
        };
        Reply { scores, answer }
    }
}
