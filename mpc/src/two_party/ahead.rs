//! Masks and their products, made before the steps that take them.
//!
//! # Functionality
//! A product of secrets costs openings alone where shares of the product of their masks are at
//! hand. What a step will take depends on its shape, so both parties know it before: [`Stock`] runs
//! the program over masks in place of values, for several steps at once, and notes what products it
//! meets ([`Job`]). Both make them in one exchange, layer by layer and step by step together, and
//! keep them in the order in which the steps take them ([`Made`]).
//!
//! | product | opened in the step | made ahead |
//! |---|---|---|
//! | `x·y`, both shared | `x + r` and `y + s`, to both | shares of `r·s` |
//! | `B·(A·x)`, factors of E1's | `x + r`, to E1 | shares of `A·r = a_0 + a_1` and of `B·t` |
//! | `W·x`, a matrix of E1's | `x + r`, to E1 | shares of `W·r` |
//!
//! `r` and `t` of the second are E0's alone, and E1 is told `t - a_0` ahead. A wire is opened once;
//! a cached key's mask enters products with the masks of every later query.
//!
//! # Argument
//! `x·y = (x + r)(y + s) - (x + r)·s - r·(y + s) + r·s`, of which E0 adds the first term. Of a
//! private update E1 has `A·(x + r)`: it subtracts `a_1`, adds `t - a_0` and multiplies by `B`;
//! shares of `B·t` take the rest away. Of a whole matrix it has `W·(x + r)`, and shares of `W·r`
//! take the rest away. All that is opened is masked by uniform numbers that are used for one
//! opening: `r`, `s` and `t` are drawn for each wire and step, and `t - a_0` tells nothing of what
//! E0 decrypted. Products of masks are [`marill_lattice`]'s. What a session did not use is dropped
//! with it.
//!
//! Sources: Beaver (CRYPTO '91); one-sided encryption as in Rathee et al., CrypTFlow2 (CCS '20).

use std::collections::VecDeque;

use marill_net::Channel;
use marill_numeric::RingTensor;
use marill_ot::{Phase, Source};

use crate::{
    error::{ProtocolError, ProtocolResult},
    program::{cache::Cache, padding::check_remaining_context, run_blind},
    sampling::Sampling,
    spec::MAX_POSITIONS,
    two_party::{
        TwoParty,
        gates::Planned,
        jobs::{Job, Made, MadeUpdate, Plan},
        make::{self, Kept},
    },
    weights::PublicWeights,
};

/// Steps of one row that are prepared together, unless fewer are expected. Most of the work of a
/// preparation does not depend on their number; the memory of what is made does. More are refused.
pub const STEPS: usize = 32;

/// What is opened because products take it.
const OPENED: [&str; 8] = [
    "attention.divide",
    "attention.hidden",
    "attention.qkv",
    "attention.unnormed",
    "attention.weights",
    "mlp.hidden",
    "norm.centred",
    "norm.scale",
];

/// Where an engine's products come from.
pub(super) enum Masks {
    /// Shares are multiplied within the step.
    Shares,
    /// This engine draws masks, and notes what is wanted of them.
    Plan(Plan),
    /// Masks and their products are made ahead.
    Stock(Box<Stock>),
}

/// Whether a wire of this label is opened.
pub(super) fn is_opened(label: &str) -> bool {
    OPENED.contains(&label)
}

/// Steps that were prepared, and what prepares them.
pub(super) struct Stock {
    planner: TwoParty,
    cache: Cache<TwoParty>,
    shapes: PublicWeights,
    ready: VecDeque<Made>,
    /// Rows of the prepared steps that have not begun, and what else they take.
    steps: VecDeque<(usize, Planned)>,
    /// What the step that begins takes.
    planned: Planned,
    kept: Vec<Kept>,
    preparations: Vec<Preparation>,
}

/// Steps that were prepared together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preparation {
    /// Rows of each.
    pub rows: usize,
    pub steps: usize,
}

impl Stock {
    pub(super) fn new(
        planner: TwoParty,
        weights: &PublicWeights,
        sampling: Option<Sampling>,
    ) -> Self {
        let spec = &weights.spec;
        Self {
            planner,
            cache: Cache::new(spec).with_sampling(sampling),
            shapes: PublicWeights::shapes_only(spec),
            ready: VecDeque::new(),
            steps: VecDeque::new(),
            planned: Planned::default(),
            kept: Vec::new(),
            preparations: Vec::new(),
        }
    }

    /// What the next operation of the step takes.
    pub(super) fn take(&mut self) -> Option<Made> {
        self.ready.pop_front()
    }

    /// Whether the next step was prepared, which then begins. What was prepared for steps of other
    /// rows is of no use behind this one, since their keys come before it.
    fn begin(&mut self, rows: usize) -> bool {
        match self.steps.front() {
            Some((prepared, _)) if *prepared == rows => {
                if let Some((_, planned)) = self.steps.pop_front() {
                    self.planned = planned;
                }
                true
            }
            Some(_) => {
                self.forget();
                false
            }
            None => false,
        }
    }

    /// What the step that began takes beside products.
    pub(super) fn take_planned(&mut self) -> Planned {
        std::mem::take(&mut self.planned)
    }

    /// Drops what was prepared and has not begun: its masks, and the other party's of its keys.
    fn forget(&mut self) {
        let unused: usize = self.steps.drain(..).map(|(rows, _)| rows).sum();
        self.ready.clear();
        let positions = self.cache.len() - unused;
        self.cache.len = positions;
        for (keys, values) in &mut self.cache.layers {
            for wire in [keys, values].into_iter().flatten() {
                wire.truncate(positions);
            }
        }
        make::forget(&mut self.kept, unused);
    }

    /// Steps of `rows` rows that are prepared together at most: what a peer may ask for.
    fn most(&self, rows: usize) -> usize {
        let limit = self.shapes.spec.max_positions.min(MAX_POSITIONS);
        let left = limit.saturating_sub(self.cache.len());
        // A prompt is prepared with itself alone.
        let most = if rows == 1 { STEPS } else { 1 };
        most.min(left / rows.max(1)).max(1)
    }

    /// What `steps` more steps of `rows` rows will take.
    pub(super) fn plan(
        &mut self,
        rows: usize,
        steps: usize,
    ) -> ProtocolResult<(Vec<Job>, Vec<Planned>)> {
        let mut all = Vec::with_capacity(steps);
        for _ in 0..steps {
            check_remaining_context(&self.shapes.spec, self.cache.len(), rows)?;
            run_blind(&mut self.planner, &self.shapes, &mut self.cache, rows)?;
            all.push(self.planner.gates.take_planned());
            // What else was counted on the way is of no interest.
            self.planner.gates.forget_counts();
        }
        Ok((self.planner.planned(), all))
    }
}

impl<C: Channel, S: Source> TwoParty<C, S> {
    /// Makes what the next step takes, if it is not at hand, and some steps behind it.
    pub(super) fn prepare(&mut self, rows: usize) -> ProtocolResult<()> {
        let Masks::Stock(stock) = &mut self.masks else {
            return Ok(());
        };
        if stock.begin(rows) {
            return Ok(());
        }
        // Nothing is at hand: E0 says for how many steps, this one among them.
        if stock.cache.is_empty() {
            // Another text of an encoder's session.
            stock.kept.clear();
        }
        let most = match rows {
            1 => stock.most(rows).min(self.unasked),
            _ => stock.most(rows),
        };
        let wanted = self
            .expected
            .map_or(most, |expected| expected.clamp(1, most));
        let steps = self.make_steps(rows, wanted, most)?;
        if let (1, Some(expected)) = (rows, &mut self.expected) {
            *expected = expected.saturating_sub(steps);
        }
        // One of them begins; the others wait.
        let begun = match &mut self.masks {
            Masks::Stock(stock) => stock.begin(rows),
            _ => false,
        };
        if begun { Ok(()) } else { Err(MISSING) }
    }

    /// Makes what up to `wanted` more steps of one row take, as far as there is room; returns how
    /// many. Both parties call it behind the first step.
    pub(crate) fn prepare_ahead(&mut self, wanted: usize) -> ProtocolResult<usize> {
        // No more than this party wants, whatever the other says.
        match self.room_to_prepare().min(wanted) {
            0 => Ok(0),
            most => self.make_steps(1, most, most),
        }
    }

    /// Steps of one row for which more can be made: none before the first step.
    pub(crate) fn room_to_prepare(&self) -> usize {
        let Masks::Stock(stock) = &self.masks else {
            return 0;
        };
        if stock.cache.is_empty() {
            return 0;
        }
        let limit = stock.shapes.spec.max_positions.min(MAX_POSITIONS);
        let left = limit.saturating_sub(stock.cache.len());
        STEPS.saturating_sub(stock.steps.len()).min(left)
    }

    /// Steps of one row for which everything is at hand.
    pub(crate) fn prepared(&self) -> usize {
        match &self.masks {
            Masks::Stock(stock) => stock.steps.len(),
            _ => 0,
        }
    }

    /// Whether products are made ahead; known behind the first step.
    pub(crate) fn prepares(&self) -> bool {
        matches!(self.masks, Masks::Stock(_))
    }

    /// Makes what so many steps take, as E0 says; returns how many those are.
    fn make_steps(&mut self, rows: usize, wanted: usize, most: usize) -> ProtocolResult<usize> {
        let gates = self.gates.at("preparation");
        let steps = gates.agree_on_steps(wanted, most)?;
        let Masks::Stock(stock) = &mut self.masks else {
            unreachable!("a stock was asked for")
        };
        stock.preparations.push(Preparation { rows, steps });
        // The same plan at both parties, since it depends on shapes alone.
        let (jobs, planned) = stock.plan(rows, steps)?;
        let factors = make::Factors {
            maps: &self.maps,
            private: self.private.as_deref(),
            bits: self.factor_bits,
        };
        let phase = self.gates.enter(Phase::Offline);
        let made = make::all(&mut self.gates, factors, &mut stock.kept, jobs);
        self.gates.enter(phase);
        let made = made?;
        // In the order in which the steps will ask.
        stock.ready.extend(made);
        let planned = planned.into_iter().map(|planned| (rows, planned));
        stock.steps.extend(planned);
        Ok(steps)
    }

    /// What was prepared since the last call.
    pub(crate) fn take_preparations(&mut self) -> Vec<Preparation> {
        match &mut self.masks {
            Masks::Stock(stock) => std::mem::take(&mut stock.preparations),
            _ => Vec::new(),
        }
    }

    /// How many steps are to come, so that no more are prepared.
    pub(crate) fn expect(&mut self, steps: usize) {
        self.expected = Some(steps);
    }

    /// What was noted since the last call.
    pub(super) fn planned(&mut self) -> Vec<Job> {
        match &mut self.masks {
            Masks::Plan(plan) => std::mem::take(&mut plan.jobs),
            _ => Vec::new(),
        }
    }

    /// The next wire's mask, product or private update.
    fn next_made(&mut self) -> ProtocolResult<Made> {
        let Masks::Stock(stock) = &mut self.masks else {
            unreachable!("a stock was asked for")
        };
        stock.take().ok_or(MISSING)
    }

    pub(super) fn next_mask(&mut self) -> ProtocolResult<RingTensor> {
        match self.next_made()? {
            Made::Mask(mask) => Ok(mask),
            _ => Err(MISSING),
        }
    }

    pub(super) fn next_product(&mut self) -> ProtocolResult<Vec<u64>> {
        match self.next_made()? {
            Made::Product(shares) => Ok(shares),
            _ => Err(MISSING),
        }
    }

    pub(super) fn next_update(&mut self) -> ProtocolResult<MadeUpdate> {
        match self.next_made()? {
            Made::Update(update) => Ok(update),
            _ => Err(MISSING),
        }
    }
}

/// A step went another way than its plan.
const MISSING: ProtocolError = ProtocolError::Unsupported {
    what: "a step that does not take what was prepared for it",
};
