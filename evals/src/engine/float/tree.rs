//! The continuations of one prompt as a tree of tokens: what several of them begin with is read
//! once, and a greedy answer that follows one of them finds its next token already known.

use marill_model::{BlockId, Piece, View};

use super::super::Request;

/// The node behind the prompt, before any token of a continuation.
pub(super) const ROOT: usize = 0;

/// A token of one or more continuations.
#[derive(Default)]
struct Node {
    token: u32,
    parent: usize,
    children: Vec<usize>,
    /// Its row, as the last one of a view; a token that nothing follows is not read.
    row: Option<View>,
    /// Logarithm of its probability behind its parent.
    score: Option<f64>,
    /// The most likely token behind it.
    best: Option<u32>,
}

pub(super) struct Tree {
    nodes: Vec<Node>,
}

/// Tokens of the tree to be read as one piece, and the node of each.
pub(super) struct Branch {
    pub piece: Piece,
    pub nodes: Vec<usize>,
}

impl Tree {
    pub fn new(request: &Request) -> Self {
        let mut tree = Self {
            nodes: vec![Node::default()],
        };
        for continuation in &request.continuations {
            let mut at = ROOT;
            for &token in continuation {
                at = tree.child(at, token).unwrap_or_else(|| tree.add(at, token));
            }
        }
        tree
    }

    fn add(&mut self, parent: usize, token: u32) -> usize {
        let node = Node {
            token,
            parent,
            ..Node::default()
        };
        self.nodes.push(node);
        let nth = self.nodes.len() - 1;
        self.nodes[parent].children.push(nth);
        nth
    }

    fn child(&self, at: usize, token: u32) -> Option<usize> {
        let mut children = self.nodes[at].children.iter().copied();
        children.find(|&child| self.nodes[child].token == token)
    }

    /// Everything that must be read behind the rows of `past`: a token that others follow joins the
    /// first of these in one block.
    pub fn branches(
        &mut self,
        past: &[View],
        mut new_block: impl FnMut() -> BlockId,
    ) -> Vec<Branch> {
        let mut branches = Vec::new();
        let mut starts: Vec<usize> = self.inner_children(ROOT);
        while let Some(start) = starts.pop() {
            let own = new_block();
            let past = self.views(past, self.nodes[start].parent);
            let mut nodes = Vec::new();
            let mut next = Some(start);
            while let Some(nth) = next {
                nodes.push(nth);
                self.nodes[nth].row = Some(View {
                    block: own,
                    rows: nodes.len(),
                });
                let mut inner = self.inner_children(nth).into_iter();
                next = inner.next();
                starts.extend(inner);
            }
            let tokens = nodes.iter().map(|&nth| self.nodes[nth].token).collect();
            let piece = Piece { past, own, tokens };
            branches.push(Branch { piece, nodes });
        }
        branches
    }

    fn inner_children(&self, at: usize) -> Vec<usize> {
        let children = self.nodes[at].children.iter().copied();
        children
            .filter(|&child| !self.nodes[child].children.is_empty())
            .collect()
    }

    /// The rows before what follows a node that was read, `past` being those before the tree.
    pub fn views(&self, past: &[View], node: usize) -> Vec<View> {
        let mut path: Vec<View> = Vec::new();
        let mut at = node;
        while at != ROOT {
            if let Some(row) = self.nodes[at].row
                && path.last().is_none_or(|below| below.block != row.block)
            {
                path.push(row);
            }
            at = self.nodes[at].parent;
        }
        path.reverse();
        [past, &path].concat()
    }

    /// The tokens whose likelihoods are asked for behind a node.
    pub fn asked(&self, node: usize) -> Vec<u32> {
        let children = self.nodes[node].children.iter();
        children.map(|&child| self.nodes[child].token).collect()
    }

    /// What was found behind a node: the scores of [`Tree::asked`], and the most likely token.
    pub fn found(&mut self, node: usize, scores: Vec<Option<f64>>, best: Option<u32>) {
        self.nodes[node].best = best;
        for (child, score) in self.nodes[node].children.clone().into_iter().zip(scores) {
            self.nodes[child].score = score;
        }
    }

    /// The most likely token behind a node; none where it is no number.
    pub fn best(&self, node: usize) -> Option<u32> {
        self.nodes[node].best
    }

    /// The node of a token behind another node, if it was read.
    pub fn follow(&self, node: usize, token: u32) -> Option<usize> {
        self.child(node, token)
            .filter(|&child| self.nodes[child].row.is_some())
    }

    /// Score of a continuation: the sum of its tokens'. None where one is no number.
    pub fn score(&self, continuation: &[u32]) -> Option<f64> {
        let mut at = ROOT;
        let mut parts = Vec::with_capacity(continuation.len());
        for &token in continuation {
            at = self.child(at, token)?;
            parts.push(self.nodes[at].score?);
        }
        Some(parts.iter().sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(continuations: &[&[u32]]) -> Tree {
        Tree::new(&Request {
            continuations: continuations.iter().map(|c| c.to_vec()).collect(),
            ..Request::default()
        })
    }

    #[test]
    fn what_continuations_share_is_read_once() {
        let mut tree = tree(&[&[1, 2, 3], &[1, 2, 4, 5], &[1, 6, 7], &[8], &[]]);
        let mut blocks = 10..;
        let prompt = View {
            block: BlockId::new(9),
            rows: 4,
        };
        let branches = tree.branches(&[prompt], || BlockId::new(blocks.next().unwrap()));
        let read: Vec<_> = branches.iter().map(|b| b.piece.tokens.clone()).collect();
        // 3, 5, 7 and 8 are followed by nothing, so they are not read.
        assert_eq!(read, [vec![1, 2, 4], vec![6]]);
        let first = View {
            block: BlockId::new(10),
            rows: 1,
        };
        assert_eq!(branches[1].piece.past, [prompt, first]);
        assert_eq!(tree.asked(ROOT), [1, 8]);
        let four = branches[0].nodes[2];
        let rows = 3;
        assert_eq!(tree.views(&[], four), [View { rows, ..first }]);
        assert_eq!(tree.follow(ROOT, 8), None);
    }

    #[test]
    fn a_score_is_the_sum_over_a_path() {
        let mut tree = tree(&[&[1, 2], &[1], &[3]]);
        let branches = tree.branches(&[], || BlockId::new(0));
        tree.found(ROOT, vec![Some(-1.0), None], Some(1));
        assert_eq!(tree.score(&[1, 2]), None, "not all of it is known");
        tree.found(branches[0].nodes[0], vec![Some(-2.0)], Some(2));
        assert_eq!(tree.score(&[1, 2]), Some(-3.0));
        assert_eq!((tree.score(&[1]), tree.score(&[])), (Some(-1.0), Some(0.0)));
        assert_eq!(tree.score(&[3]), None, "no number");
        let one = tree.follow(ROOT, tree.best(ROOT).unwrap()).unwrap();
        assert_eq!(tree.best(one), Some(2));
    }
}
