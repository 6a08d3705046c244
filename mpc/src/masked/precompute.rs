//! E0's products of its own masks, before the step that needs them.
//!
//! # What
//! Once a value is revealed to E1 ([`crate::masked::reveal`]), E0's half of it is `-[r]_0`, so its
//! products with public maps, with `Â` and with `Ŵ` depend on no input. The masks come from a
//! stream that a step has to itself, so that the masks of a later step are there whatever came
//! before. A [`Precomputer`] makes these products on any thread at any time; a session that is
//! [given](super::Masked::accept) them takes them instead of making them, and makes what it was not
//! given. The integers, and so the messages, are the same.
//!
//! # Who learns what
//! Nobody anything: what is prepared is a function of E0's own seed and of what E0 holds. A mask is
//! still used for one value. Prepared numbers are erased when dropped, used or not.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use marill_crypto::{Prg, Seed};
use marill_numeric::{PublicMatrix, ring};
use zeroize::Zeroizing;

use crate::{
    error::ProtocolError,
    masked::{
        Masked, Role,
        matrices::{Matrices, product},
    },
    program,
    program::cache::Cache,
    spec::{MapId, ProgramSpec},
    weights::{Lora, PublicWeights},
};

/// Prepared steps that a session keeps at most: a token of a model of 7 billion weights takes about
/// 20 MB.
const STEPS_KEPT: usize = 4;

/// The masks under which E0 reveals values: a stream for every step.
pub(super) struct RevealMasks {
    seed: Seed,
    prg: Prg,
}

impl RevealMasks {
    pub(super) fn new(seed0: &Seed) -> Self {
        let seed = seed0.derive("handed over");
        Self {
            prg: stream(&seed, 0),
            seed,
        }
    }

    pub(super) fn begin(&mut self, step: u64) {
        self.prg = stream(&self.seed, step);
    }

    pub(super) fn reduced(&mut self, n: usize, bits: u32) -> Vec<u64> {
        self.prg.reduced(n, bits)
    }

    /// Passes over `n` masks that a precomputer has expanded.
    pub(super) fn skip(&mut self, n: usize) {
        self.prg.skip(n);
    }
}

fn stream(seed: &Seed, step: u64) -> Prg {
    Prg::new(seed, &format!("step {step}"))
}

/// A value that a step reveals to E1, and the private maps that take it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RevealSpec {
    pub(super) maps: Vec<MapId>,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) bits: u32,
}

/// E0's side of one reveal.
struct Products {
    of: RevealSpec,
    masks: Zeroizing<Vec<u64>>,
    /// `Â·[r]_0` of every map, or `-Ŵ·[r]_0`.
    private: Vec<Zeroizing<Vec<u64>>>,
    /// `-W·[r]_0` of every map that is public, by where the matrix lies.
    public: Vec<(usize, Zeroizing<Vec<u64>>)>,
}

/// Tells the matrices of a session apart.
fn address_of(matrix: &PublicMatrix) -> usize {
    std::ptr::from_ref(matrix).addr()
}

/// E0's products of a whole step.
pub struct PrecomputedStep {
    step: u64,
    products: VecDeque<Products>,
}

/// What an evaluator was given, and the reveal at which it is.
#[derive(Default)]
pub(super) struct Precomputed {
    /// Steps begun, for preparers on other threads.
    begun: Arc<AtomicU64>,
    steps: VecDeque<PrecomputedStep>,
    /// What is left of the running step.
    left: VecDeque<Products>,
    current: Option<Products>,
    taken: u64,
}

impl Precomputed {
    fn begin(&mut self, step: u64) {
        self.begun.store(step, Ordering::Relaxed);
        // Steps that are past were made for nothing; a mask is used once, in its own step.
        self.current = None;
        self.steps.retain(|precomputed| precomputed.step >= step);
        let ready = self
            .steps
            .front()
            .is_some_and(|precomputed| precomputed.step == step);
        self.left = if ready { self.steps.pop_front() } else { None }
            .map(|step| step.products)
            .unwrap_or_default();
    }

    /// The masks of a one-sided reveal, if its products are there; from here on they are the
    /// current ones.
    pub(super) fn reveal_to_e1(&mut self, of: &RevealSpec) -> Option<Vec<u64>> {
        self.current = self.left.pop_front().filter(|next| next.of == *of);
        if self.current.is_none() {
            // A step of another shape than was expected: nothing of it fits.
            self.left.clear();
        }
        self.taken += u64::from(self.current.is_some());
        self.current
            .as_ref()
            .map(|products| products.masks.to_vec())
    }

    /// The product of the current reveal with a private map.
    pub(super) fn private(&self, map: MapId) -> Option<Vec<u64>> {
        let current = self.current.as_ref()?;
        let m = current.of.maps.iter().position(|&m| m == map)?;
        Some(current.private[m].to_vec())
    }

    /// The product of E0's half of the current reveal with a public map.
    pub(super) fn public(&self, matrix: &PublicMatrix, half: &[u64]) -> Option<Vec<u64>> {
        let current = self.current.as_ref()?;
        let (_, product) = current
            .public
            .iter()
            .find(|(label, _)| *label == address_of(matrix))?;
        debug_assert!(
            half.iter()
                .zip(current.masks.iter())
                .all(|(x, r)| *x == r.wrapping_neg()),
            "another value"
        );
        Some(product.to_vec())
    }
}

impl Masked {
    /// Counts steps: each has its own masks of what is revealed to E1.
    pub(super) fn begin_step(&mut self) {
        self.steps += 1;
        match &mut self.role {
            Role::Evaluator(e) if e.first => {
                e.reveal_masks.begin(self.steps);
                e.precomputed.begin(self.steps);
                e.begin_preparing();
            }
            Role::Evaluator(e) => e.begin_preparing(),
            Role::Dealer(dealer) => dealer.reveal_masks.begin(self.steps),
            Role::Tally(_) => {}
        }
    }

    pub(super) fn precomputed(&self) -> Option<&Precomputed> {
        if let Role::Evaluator(e) = &self.role {
            Some(&e.precomputed)
        } else {
            None
        }
    }

    /// Keeps prepared products for their step. Those of a step that has begun are dropped, and so
    /// is everything beyond a few steps.
    pub(crate) fn accept(&mut self, step: PrecomputedStep) {
        if let Role::Evaluator(e) = &mut self.role
            && step.step > self.steps
            && e.precomputed.steps.len() < STEPS_KEPT
            && e.precomputed
                .steps
                .back()
                .is_none_or(|last| last.step < step.step)
        {
            e.precomputed.steps.push_back(step);
        }
    }

    /// Reveals whose products were there.
    pub(crate) fn precomputed_reveals(&self) -> u64 {
        if let Role::Evaluator(e) = &self.role {
            e.precomputed.taken
        } else {
            0
        }
    }

    /// Who prepares for this evaluator, if it is E0 of a decoder whose layers have private maps.
    pub(crate) fn precomputer(&self, weights: &Arc<PublicWeights>) -> Option<Precomputer> {
        let Role::Evaluator(e) = &self.role else {
            return None;
        };
        let Matrices::Masked(matrices) = &e.matrices else {
            return None;
        };
        if !e.first
            || e.preparing.is_some()
            || self.spec.architecture.is_encoder()
            || !(self.spec.is_full_rank() || self.spec.lora_rank > 0)
        {
            return None;
        }
        Some(Precomputer {
            seed: e.reveal_masks.seed.clone(),
            weights: Arc::clone(weights),
            spec: Arc::clone(&self.spec),
            adapter: Arc::clone(&e.adapter),
            matrices: Matrices::Masked(Arc::clone(matrices)),
            begun: Arc::clone(&e.precomputed.begun),
            next: 0,
            plan: (0, Vec::new()),
        })
    }
}

/// What the program reveals to E1 in a step; how many keys it sees does not matter.
pub(super) fn reveals(spec: &ProgramSpec, rows: usize) -> Result<Vec<RevealSpec>, ProtocolError> {
    let shapes = PublicWeights::shapes_only(spec);
    let mut tally = Masked::tally(spec);
    program::step(&mut tally, &shapes, &mut Cache::new(spec), None, None, rows)?;
    let Role::Tally(tally) = tally.role else {
        unreachable!("a tally was made")
    };
    Ok(tally.reveals)
}

/// Makes a session's products of masks, on any thread.
pub struct Precomputer {
    seed: Seed,
    weights: Arc<PublicWeights>,
    spec: Arc<ProgramSpec>,
    adapter: Arc<Vec<Lora>>,
    matrices: Matrices,
    /// Steps that the session has begun.
    begun: Arc<AtomicU64>,
    /// Step that [`Self::next_decode`] is to make, unless the session is past it.
    next: u64,
    /// Reveals of a step of so many rows.
    plan: (usize, Vec<RevealSpec>),
}

impl Precomputer {
    /// The next decoded token that the session has not come to. The prompt is the first step.
    ///
    /// # Errors
    /// As [`Self::precompute`].
    pub fn next_decode(&mut self) -> Result<PrecomputedStep, ProtocolError> {
        // Never a step that the session has begun.
        let step = self.next.max(self.begun.load(Ordering::Relaxed)).max(1);
        self.next = step + 1;
        self.precompute(step, 1)
    }

    /// Step number `step` of the session, 0 for the prompt, of so many rows (a prompt's whole
    /// bucket).
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] past the context.
    pub fn precompute(&mut self, step: u64, rows: usize) -> Result<PrecomputedStep, ProtocolError> {
        if self.plan.0 != rows {
            self.plan = (rows, reveals(&self.spec, rows)?);
        }
        // A session counts the steps that it has begun.
        let step = step + 1;
        let mut prg = stream(&self.seed, step);
        let products = self
            .plan
            .1
            .iter()
            .map(|of| self.products(of, &mut prg))
            .collect();
        Ok(PrecomputedStep { step, products })
    }

    fn products(&self, of: &RevealSpec, prg: &mut Prg) -> Products {
        // [r]_0 as the step will draw it, and E0's half -[r]_0.
        let masks = Zeroizing::new(prg.reduced(of.rows * of.cols, of.bits));
        let half = Zeroizing::new(ring::negated(&masks));
        // Â·[r]_0, or -Ŵ·[r]_0 for a private matrix.
        let private = |map: &MapId| match &self.matrices {
            Matrices::Masked(matrices) if self.spec.is_full_rank() => {
                product(&half, &matrices[map.index()], of.cols)
            }
            _ => match self.adapter[map.index()].a.as_slice() {
                [] => Vec::new(),
                a => ring::matmul_transposed(&masks, a, of.cols),
            },
        };
        let private = of
            .maps
            .iter()
            .map(|map| Zeroizing::new(private(map)))
            .collect();
        let mut public = Vec::new();
        // -W·[r]_0 for maps whose matrix is public.
        if !self.spec.is_full_rank() {
            for &map in &of.maps {
                let matrix = &self.weights.map(map).matrix;
                public.push((address_of(matrix), Zeroizing::new(matrix.par_apply(&half))));
            }
        }
        Products {
            of: of.clone(),
            masks,
            private,
            public,
        }
    }
}
