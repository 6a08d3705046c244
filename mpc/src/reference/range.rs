//! Range analysis: a proof that no value of a program leaves its wire, for every input of a stated
//! envelope.
//!
//! Overflow cannot be seen inside MPC: a wrapped value gives a wrong token and no error. [`prove`]
//! runs the program on bounds instead of numbers: a tensor is the largest magnitude of each column
//! and the largest L2 norm of a row, over all rows of all inputs whose boundary rows have norm at
//! most [`Envelope::row_norm`].
//!
//! What keeps the bounds from growing without end are five facts that the interpreter recognizes by
//! provenance:
//! - a row times its reciprocal norm has norm at most `2^58 · (1 + 5e-4)`, whatever the row
//!   (norms);
//! - taking off the mean does not lengthen a row (layer norms);
//! - the maximum of a row taken off leaves nothing negative and one zero, so its exponentials sum
//!   to at least one;
//! - exponentials over their sum are a convex combination of the values (softmax);
//! - a map lengthens a row by at most its operator norm, bounded by `|(W Wᵀ)²|_F^(1/4)` of the
//!   actual integers.
//!
//! One prompt step with all positions covers every session: later rows obey the same bounds, and
//! see no more keys.
//!
//! # What is proved, and what is not
//! Proved: every argument of a truncation, opening, table, comparison and arg-max keeps inside the
//! width at which the program runs it, so the secure result is the integer the twin defines. The
//! bounds are worst cases over all boundary rows of the envelope, not only those that a text can
//! produce, and every weight is at hand, the private ones too; a client that lacks them has the
//! owner's word. Not proved: that the integers are close to the float model (tests compare them),
//! that a cheating client stays in the envelope, or anything about the boundary rows of a given
//! text: the client refuses to encode a row outside the numeric format's limit, not outside this
//! envelope. It is arithmetic in `f64` with margins of 1e-6, not a certificate that another person
//! could check. A model that is not proved may well be fine on all real inputs; for those there is
//! the twin, which checks every value of the inputs it is given.

mod engine;
mod functions;
mod norms;
mod span;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    sync::Arc,
};

use crate::{
    program,
    program::{
        cache::Cache,
        encoder::{self, POOL_FRAC_BITS},
        padding::pad_bias,
    },
    reference::range::{
        norms::MatrixNorms,
        span::{Origin, Span},
    },
    spec::MapId,
    weights::{PrivateWeights, PublicWeights},
};

/// More positions than these cannot be proved: the reciprocal of a softmax's sum covers fewer than
/// 2,048 equal keys.
pub const LARGEST_POSITIONS: usize = 2032;

/// The inputs over which a proof speaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Envelope {
    /// Largest L2 norm of a boundary row, in the model's own units.
    pub row_norm: f64,
    /// Most positions of a session, padding included.
    pub positions: usize,
}

/// How near a value may come to the edge of its wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Headroom {
    /// Counted over the private layers; `None` behind the last one.
    pub layer: Option<usize>,
    pub label: &'static str,
    /// `log2` of the largest magnitude possible.
    pub reaches_bits: f64,
    /// `log2` of the first magnitude that does not fit.
    pub limit_bits: f64,
}

impl Headroom {
    /// Bits between the bound and the limit; negative when bits are missing.
    #[must_use]
    pub fn bits(&self) -> f64 {
        self.limit_bits - self.reaches_bits
    }
}

impl fmt::Display for Headroom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            layer,
            label,
            reaches_bits,
            limit_bits,
        } = self;
        match layer {
            Some(layer) => write!(f, "private layer {layer}, `{label}`: ")?,
            None => write!(f, "behind the last layer, `{label}`: ")?,
        }
        let bits = self.bits().abs();
        let which = if self.bits() > 0.0 { "left" } else { "missing" };
        write!(
            f,
            "a value may reach 2^{reaches_bits:.1} where 2^{limit_bits:.0} is the limit, {bits:.1} \
             bits {which}"
        )
    }
}

/// A program that may leave its wires, as far as the bounds tell.
#[derive(Debug, Clone, PartialEq)]
pub struct Unproved {
    pub envelope: Envelope,
    /// The labels with bits missing, in the program's order and never empty. What a label with bits
    /// missing hands on is supposed to fit, so the later ones are not mere consequences; the
    /// residual stream itself is not truncated.
    pub violations: Vec<Headroom>,
}

impl Unproved {
    /// The violation with most bits missing.
    #[must_use]
    pub fn worst(&self) -> Headroom {
        let worst = self
            .violations
            .iter()
            .copied()
            .min_by(|a, b| a.bits().total_cmp(&b.bits()));
        worst.expect("never empty")
    }
}

impl fmt::Display for Unproved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.violations[0])?;
        match self.violations.len() - 1 {
            0 => Ok(()),
            more => {
                write!(
                    f,
                    "; {more} more places behind it, the worst with {:.1} bits missing",
                    -self.worst().bits()
                )
            }
        }
    }
}

impl std::error::Error for Unproved {}

/// A program that cannot leave its wires.
#[derive(Debug, Clone, PartialEq)]
pub struct Proof {
    pub envelope: Envelope,
    /// Every check that was made, in the program's order.
    pub headrooms: Vec<Headroom>,
}

impl Proof {
    /// The check with the least headroom.
    #[must_use]
    pub fn tightest(&self) -> Option<Headroom> {
        self.headrooms
            .iter()
            .copied()
            .min_by(|a, b| a.bits().total_cmp(&b.bits()))
    }
}

/// Largest magnitudes by label.
type Bounds = Vec<(&'static str, f64)>;

/// Bits to which [`Prover::largest`] looks for the largest envelope.
const PRECISION: f64 = 0.1;

/// The weights of a program with the norms of their matrices, which several proofs share.
pub struct Prover<'a> {
    public: &'a PublicWeights,
    private: Arc<PrivateWeights>,
    norms: HashMap<usize, Arc<MatrixNorms>>,
    updates: HashMap<MapId, Arc<MatrixNorms>>,
}

impl<'a> Prover<'a> {
    #[must_use]
    pub fn new(public: &'a PublicWeights, private: Arc<PrivateWeights>) -> Self {
        Self {
            public,
            private,
            norms: HashMap::new(),
            updates: HashMap::new(),
        }
    }

    /// Proves that nothing overflows for inputs of `envelope`.
    ///
    /// # Errors
    /// [`Unproved`], naming every label with bits missing.
    pub fn prove(&mut self, envelope: Envelope) -> Result<Proof, Unproved> {
        self.trace(envelope).0
    }

    /// As [`Self::prove`], with the bound of everything that the twin's trace records, in its
    /// order.
    pub(crate) fn trace(
        &mut self,
        envelope: Envelope,
    ) -> (Result<Proof, Unproved>, Vec<(&'static str, f64)>) {
        let spec = &self.public.spec;
        let mut range = Range {
            private: Arc::clone(&self.private),
            rank: spec.lora_rank,
            rounding_error: spec.numeric.rounding.error(),
            inputs: inputs(self.public, envelope),
            // Norms of matrices take most of the time and do not depend on the envelope.
            norms: std::mem::take(&mut self.norms),
            updates: std::mem::take(&mut self.updates),
            ..Range::default()
        };
        let rows = envelope.positions;
        let outcome = if spec.reveals_embedding() {
            encoder::embed(&mut range, self.public, None, None, rows).map(|_| ())
        } else {
            program::step(
                &mut range,
                self.public,
                &mut Cache::new(spec),
                None,
                None,
                rows,
            )
            .map(|_| ())
        };
        self.norms = range.norms;
        self.updates = range.updates;
        if let Err(error) = outcome {
            unreachable!("bounds meet no peer: {error}");
        }
        let violations: Vec<Headroom> = range
            .headrooms
            .iter()
            .copied()
            .filter(|headroom| headroom.bits() <= 0.0)
            .collect();
        let proof = if violations.is_empty() {
            Ok(Proof {
                envelope,
                headrooms: range.headrooms,
            })
        } else {
            Err(Unproved {
                envelope,
                violations,
            })
        };
        (proof, range.trace)
    }

    /// The largest envelope of a number of positions that can be proved, to a tenth of a bit.
    ///
    /// # Errors
    /// [`Unproved`], with what is missing at a norm of 1: the program itself leaves no headroom,
    /// whatever its input.
    pub fn largest(&mut self, positions: usize) -> Result<Proof, Unproved> {
        self.largest_told(positions, &mut |_, _| {})
    }

    /// As [`Self::largest`]; `told` hears how many envelopes were tried and how many will be.
    ///
    /// # Errors
    /// As [`Self::largest`].
    pub fn largest_told(
        &mut self,
        positions: usize,
        told: &mut dyn FnMut(usize, usize),
    ) -> Result<Proof, Unproved> {
        let spec = &self.public.spec;
        let top = f64::from(31 - spec.numeric.residual_frac_bits);
        let envelope = |bits: f64| Envelope {
            row_norm: bits.exp2(),
            positions,
        };
        let mut tries = 0;
        let all = 1 + (top / PRECISION).log2().ceil() as usize;
        let mut tried = |told: &mut dyn FnMut(usize, usize)| {
            tries += 1;
            told(tries, all);
        };
        told(0, all);
        let mut best = self.prove(envelope(0.0))?;
        tried(told);
        let mut low = 0.0;
        let mut high = top;
        while high - low > PRECISION {
            // Bounds grow with the envelope, so bisection finds the largest that fits.
            let middle = (low + high) / 2.0;
            match self.prove(envelope(middle)) {
                Ok(proof) => (low, best) = (middle, proof),
                Err(_) => high = middle,
            }
            tried(told);
        }
        Ok(best)
    }
}

/// Proves that no value of a program leaves its wire; see [`Prover`] for several envelopes.
///
/// # Errors
/// [`Unproved`], naming every label with bits missing.
pub fn prove(
    public: &PublicWeights,
    private: &Arc<PrivateWeights>,
    envelope: Envelope,
) -> Result<Proof, Unproved> {
    Prover::new(public, Arc::clone(private)).prove(envelope)
}

/// The client's inputs in the order in which a program asks for them.
fn inputs(public: &PublicWeights, envelope: Envelope) -> VecDeque<Span> {
    let spec = &public.spec;
    let rows = envelope.positions;
    let pad = pad_bias(spec).wrapping_neg() as f64;
    let mut inputs = VecDeque::from([Span::uniform(1, rows, pad)]);
    if spec.architecture.is_encoder() {
        let one = f64::from(POOL_FRAC_BITS).exp2();
        let mut pool = Span::uniform(1, rows, one);
        // Each weight is rounded.
        pool.origin = Origin::Weights {
            total: one + rows as f64,
        };
        inputs.push_back(pool);
    }
    let norm = envelope.row_norm * f64::from(spec.numeric.residual_frac_bits).exp2();
    let rounding = 0.5 * (spec.hidden_size as f64).sqrt();
    inputs.push_back(Span::of_norm(rows, spec.hidden_size, norm + rounding));
    inputs
}

/// The interpreter on bounds.
#[derive(Default)]
struct Range {
    private: Arc<PrivateWeights>,
    rank: usize,
    /// Of a truncation, in units of its result.
    rounding_error: f64,
    inputs: VecDeque<Span>,
    layer: Option<usize>,
    next_id: u64,
    headrooms: Vec<Headroom>,
    trace: Bounds,
    /// By the matrix's address, which the prover's borrow keeps.
    norms: HashMap<usize, Arc<MatrixNorms>>,
    updates: HashMap<MapId, Arc<MatrixNorms>>,
}
