//! What steps take of masks: noted by a plan, and what was made of it.

use marill_crypto::{Prg, Seed};
use marill_numeric::RingTensor;
use marill_two_party::Party;

use crate::{
    engine::Attention,
    spec::{MapId, MapSpec},
};

/// What steps will take, in their order.
pub(super) struct Plan {
    /// Nobody where there is only counting.
    party: Option<Party>,
    random: Prg,
    pub jobs: Vec<Job>,
}

/// What a step takes.
pub(super) enum Job {
    /// This party's share of a wire's mask.
    Mask(RingTensor),
    /// Scores or weighted values of masks.
    Attend(AttendJob),
    /// Sums of a mask's squares, row by row.
    Squares(SquareJob),
    /// Masks times masks of scalars.
    Scale(ScaleJob),
    /// Private updates of some maps of rows that only E1 sees, under masks that only E0 has.
    Update(UpdateJob),
}

/// What an attention multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attends {
    /// Queries by keys.
    Scores,
    /// Weights by values.
    Values,
}

/// This party's shares of masks that an attention multiplies.
pub(super) struct AttendJob {
    pub layer: usize,
    pub kind: Attends,
    pub bits: u32,
    /// This party's own product.
    pub own: Vec<u64>,
    /// Queries or weights.
    pub left: RingTensor,
    /// Keys or values of all positions so far; only at the last job of a layer and kind.
    pub right: RingTensor,
    pub groups: Vec<Vec<usize>>,
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    pub first: usize,
    pub rows: usize,
    pub causal: bool,
}

impl AttendJob {
    pub(super) fn attention(&self) -> Attention<'_> {
        Attention {
            groups: &self.groups,
            num_attention_heads: self.num_attention_heads,
            num_key_value_heads: self.num_key_value_heads,
            head_dim: self.head_dim,
            first: self.first,
            rows: self.rows,
            causal: self.causal,
        }
    }
}

/// This party's share of a mask that is squared.
pub(super) struct SquareJob {
    pub layer: usize,
    /// Sums of squares of this party's own share.
    pub own: Vec<u64>,
    pub mask: RingTensor,
}

/// This party's shares of a mask and of the scalars that it is multiplied by.
pub(super) struct ScaleJob {
    pub layer: usize,
    pub bits: u32,
    /// This party's own product.
    pub own: Vec<u64>,
    pub mask: Vec<u64>,
    pub scalars: Vec<u64>,
    /// Elements of the mask under each scalar.
    pub elements: Vec<Vec<usize>>,
}

/// Rows under E0's masks, and the maps that they go through.
pub(super) struct UpdateJob {
    pub maps: Vec<MapId>,
    pub bits: u32,
    pub rows: usize,
    /// Whether the maps' weights are private as a whole: then there is no `A`.
    pub whole: bool,
    /// E0's: of the rows, and of what the maps' `A` give, side by side.
    pub outer: Vec<u64>,
    pub inner: Vec<u64>,
}

/// What was made of a [`Job`].
pub(super) enum Made {
    Mask(RingTensor),
    Product(Vec<u64>),
    Update(MadeUpdate),
}

/// What a party keeps for private updates; where the other has something, nothing.
pub(super) struct MadeUpdate {
    pub bits: u32,
    /// E0's mask of the rows.
    pub outer: Vec<u64>,
    /// E0's `t`, until it is said.
    pub masks: Vec<u64>,
    /// E1's: `t - a_0 - a_1`, what it adds to `A·(x + r)`.
    pub inner: Vec<u64>,
    /// Shares of `B·t`, or of `W·r`, map by map.
    pub updates: Vec<Vec<u64>>,
}

impl Plan {
    pub(super) fn new(party: Option<Party>) -> Self {
        Self {
            party,
            random: Prg::new(&Seed::random(), "masks"),
            jobs: Vec::new(),
        }
    }

    fn draw(&mut self, n: usize, bits: u32) -> Vec<u64> {
        match self.party {
            Some(_) => self.random.reduced(n, bits),
            None => vec![0; n],
        }
    }

    /// This party's product of its own masks, of `n` elements; where there is only counting there
    /// are none.
    pub(super) fn own(&self, n: usize, product: impl FnOnce() -> Vec<u64>) -> Vec<u64> {
        match self.party {
            Some(_) => product(),
            None => vec![0; n],
        }
    }

    /// This party's share of a new wire's mask.
    pub(super) fn mask(&mut self, x: &RingTensor) -> RingTensor {
        let data = self.draw(x.len(), x.bits);
        let mask = x.with_data(data);
        self.jobs.push(Job::Mask(mask.clone()));
        mask
    }

    /// A product of masks of an attention; of what was noted of the layer before, keys and values
    /// are now part of these.
    pub(super) fn attend(&mut self, job: AttendJob) {
        let before = self.jobs.iter_mut().rev().find_map(|noted| match noted {
            Job::Attend(noted) if noted.layer == job.layer && noted.kind == job.kind => Some(noted),
            _ => None,
        });
        if let Some(before) = before {
            before.right.data = Vec::new();
        }
        self.jobs.push(Job::Attend(job));
    }

    pub(super) fn note(&mut self, job: Job) {
        self.jobs.push(job);
    }

    pub(super) fn update(
        &mut self,
        maps: &[MapSpec],
        ids: Vec<MapId>,
        whole: bool,
        x: &RingTensor,
    ) {
        let rank: usize = maps.iter().map(|map| map.rank).sum();
        let [outer, inner] = match self.party {
            // E1 draws nothing.
            Some(Party::E1) => [Vec::new(), Vec::new()],
            _ => [x.len(), x.rows * rank].map(|n| self.draw(n, x.bits)),
        };
        self.jobs.push(Job::Update(UpdateJob {
            maps: ids,
            bits: x.bits,
            rows: x.rows,
            whole,
            outer,
            inner,
        }));
    }
}
