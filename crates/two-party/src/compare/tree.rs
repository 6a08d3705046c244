//! The tree over digits, for one value or for several parts of it at once.

use marill_net::Channel;
use marill_ot::{
    Bits, Needs, Session, Source,
    transfer::{And, Cot, together},
};

use super::{
    Radix,
    leaf::{self, Digit, Node},
};
use crate::{Cost, Run};

/// A part of a value that is compared by itself, and what is wanted of it.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub bits: u32,
    pub greater: bool,
    pub equal: bool,
}

impl Segment {
    pub(crate) fn greater(bits: u32) -> Self {
        Self {
            bits,
            greater: true,
            equal: false,
        }
    }

    pub(crate) fn equal(bits: u32) -> Self {
        Self {
            bits,
            greater: false,
            equal: true,
        }
    }

    pub(crate) fn both(bits: u32) -> Self {
        Self {
            bits,
            greater: true,
            equal: true,
        }
    }
}

/// What a segment's tree gives.
pub(crate) type Root = Node;

/// How segments are compared: lowest first, one after the other in the value.
pub(crate) struct Plan {
    segments: Vec<Segment>,
    /// Digits of all segments, lowest first.
    digits: Vec<Digit>,
    /// How many digits are each segment's.
    lengths: Vec<usize>,
}

impl Plan {
    pub(crate) fn new(radix: Radix, segments: &[Segment]) -> Self {
        let mut digits = Vec::new();
        let mut lengths = Vec::new();
        let mut at = 0;
        for segment in segments {
            let before = digits.len();
            let end = at + segment.bits;
            while at < end {
                let lowest = digits.len() == before;
                let width = radix.bits().min(end - at);
                digits.push(Digit {
                    at,
                    width,
                    greater: segment.greater,
                    // Equality of the lowest digit selects nothing below it.
                    equal: segment.equal || !lowest,
                });
                at += width;
            }
            lengths.push(digits.len() - before);
        }
        Self {
            segments: segments.to_vec(),
            digits,
            lengths,
        }
    }

    fn bits(&self) -> u32 {
        self.segments.iter().map(|segment| segment.bits).sum()
    }

    /// Levels until each of the first `segments` trees is one node.
    pub(crate) fn depth(&self, segments: usize) -> usize {
        let longest = self.lengths[..segments].iter().max();
        longest.map_or(0, |longest| longest.next_power_of_two().ilog2() as usize)
    }

    /// Widths of the strings of each level's ANDs, in order.
    fn levels(&self) -> Vec<Vec<u8>> {
        let mut lengths = self.lengths.clone();
        let mut levels = Vec::new();
        while lengths.iter().any(|length| *length > 1) {
            let mut level = Vec::new();
            for (length, segment) in lengths.iter_mut().zip(&self.segments) {
                for pair in 0..*length / 2 {
                    level.push(u8::from(segment.greater) + u8::from(segment.keeps_equal(pair)));
                }
                *length = length.div_ceil(2);
            }
            levels.push(level);
        }
        levels
    }

    pub(crate) fn needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        for digit in &self.digits {
            digit.add_needs(&mut needs, n);
        }
        for width in self.levels().into_iter().flatten() {
            needs.add_triples(width, n);
        }
        needs
    }

    pub(crate) fn cost(&self, n: usize) -> Cost {
        self.cost_with(n, 0, &[])
    }

    /// [`Self::cost`] where the levels from `from` on carry that many more bits per instance and
    /// party.
    pub(crate) fn cost_with(&self, n: usize, from: usize, more: &[[usize; 2]]) -> Cost {
        let mut cost = Cost::none();
        leaf::add_cost(&self.digits, n, &mut cost);
        let levels = self.levels();
        for i in 0..levels.len().max(from + more.len()) {
            let widths = levels.get(i).into_iter().flatten();
            let bits: usize = widths.map(|width| 1 + *width as usize).sum();
            let more = i.checked_sub(from).and_then(|i| more.get(i));
            let more = more.copied().unwrap_or_default();
            cost.exchange(more.map(|more| n * (bits + more)));
        }
        cost
    }

    /// A root per segment.
    pub(crate) fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        own: &[u64],
    ) -> Run<Vec<Root>> {
        self.run_on(session, &Bits::planes(own, self.bits()))
    }

    /// A root per segment, of values that are given bit by bit, one segment's after the other's.
    pub(crate) fn run_on<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        planes: &[Bits],
    ) -> Run<Vec<Root>> {
        session.ensure(&self.needs(planes[0].n()))?;
        let mut trees = self.leaves(session, planes)?;
        while trees.iter().any(|tree| tree.len() > 1) {
            self.level(session, &mut trees, Vec::new(), &[])?;
        }
        let roots = trees.into_iter().map(|mut tree| tree.remove(0));
        Ok(roots.collect())
    }

    /// The digits' nodes, segment by segment.
    pub(crate) fn leaves<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        planes: &[Bits],
    ) -> Run<Vec<Vec<Node>>> {
        let mut nodes = leaf::leaves(session, &self.digits, planes)?.into_iter();
        let trees = self.lengths.iter();
        Ok(trees
            .map(|length| nodes.by_ref().take(*length).collect())
            .collect())
    }

    /// Combines neighbors in all trees, in one round, and in the same round what else is asked for.
    pub(crate) fn level<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        trees: &mut [Vec<Node>],
        ands: Vec<And<'_>>,
        cots: &[Cot<'_>],
    ) -> Run<(Vec<Vec<Bits>>, Vec<Vec<u64>>)> {
        let mut operations = Vec::new();
        for (tree, segment) in trees.iter().zip(&self.segments) {
            for (pair, nodes) in tree.chunks_exact(2).enumerate() {
                operations.push(nodes[1].over(&nodes[0], segment.keeps_equal(pair)));
            }
        }
        operations.extend(ands);
        let (products, sums) = together(session, "tree", &operations, cots)?;
        let mut products = products.into_iter();
        for (tree, segment) in trees.iter_mut().zip(&self.segments) {
            let odd = (tree.len() % 2 == 1).then(|| tree.pop().expect("odd, so not empty"));
            let mut next: Vec<Node> = Vec::with_capacity(tree.len() / 2 + 1);
            for (pair, nodes) in tree.chunks_exact(2).enumerate() {
                let product = products.next().expect("one per pair");
                next.push(nodes[1].combined(product, segment.keeps_equal(pair)));
            }
            next.extend(odd);
            *tree = next;
        }
        Ok((products.collect(), sums))
    }
}

impl Segment {
    /// Whether the result of a level's pair of this number needs its equality.
    fn keeps_equal(&self, pair: usize) -> bool {
        self.equal || pair > 0
    }
}

impl Node {
    /// The AND of this node's equality with what is below.
    pub(crate) fn over<'a>(&'a self, low: &'a Node, keeps_equal: bool) -> And<'a> {
        let bit = self.equal.as_ref().expect("only the lowest has none");
        let equal = low.equal.as_ref().filter(|_| keeps_equal);
        And {
            bit,
            string: low.greater.iter().chain(equal).collect(),
        }
    }

    /// This node with what is below, given the AND of [`Self::over`].
    pub(crate) fn combined(&self, product: Vec<Bits>, keeps_equal: bool) -> Node {
        let mut product = product.into_iter();
        let greater = self
            .greater
            .as_ref()
            .map(|greater| greater ^ &product.next().expect("a plane of it"));
        Node {
            greater,
            equal: product.next().filter(|_| keeps_equal),
        }
    }
}
