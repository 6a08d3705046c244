//! The values of the masked engine: additive shares and masked wires.

use std::{
    num::Wrapping,
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
};

use marill_numeric::{RingTensor, Word};

/// An additive share, valid modulo `2^bits`: an evaluator's half. The dealer and a tally hold its
/// shape.
#[derive(Clone)]
pub struct Share {
    pub(crate) tensor: RingTensor,
    pub(crate) term: Term,
}

/// A term that the evaluators' halves lack, and the dealer knows. A truncation takes it into the
/// mask of its opening, for nothing; any other use has it shared first
/// ([`crate::masked::Masked::materialize`]).
#[derive(Clone)]
pub(crate) enum Term {
    /// The halves alone are the value.
    None,
    /// At an evaluator and in a tally: there is one.
    Deferred,
    /// At the dealer: the term.
    Known(RingTensor),
}

impl Term {
    /// What a linear function makes of the term.
    fn linear(&self, f: impl FnOnce(&RingTensor) -> RingTensor) -> Self {
        match self {
            Self::None => Self::None,
            Self::Deferred => Self::Deferred,
            Self::Known(term) => Self::Known(f(term)),
        }
    }

    /// The term of a sum or a difference, by the same function of tensors. A share without one adds
    /// zeros, which `shape` has the shape of.
    fn joined(
        [x, y]: [&Self; 2],
        shape: &RingTensor,
        f: impl FnOnce(&RingTensor, &RingTensor) -> RingTensor,
    ) -> Self {
        match (x, y) {
            (Self::None, Self::None) => Self::None,
            (Self::Known(x), Self::Known(y)) => Self::Known(f(x, y)),
            (Self::Known(x), _) => Self::Known(f(x, shape)),
            (_, Self::Known(y)) => Self::Known(f(shape, y)),
            _ => Self::Deferred,
        }
    }
}

impl Deref for Share {
    type Target = RingTensor;

    fn deref(&self) -> &RingTensor {
        &self.tensor
    }
}

impl DerefMut for Share {
    fn deref_mut(&mut self) -> &mut RingTensor {
        &mut self.tensor
    }
}

/// A masked value.
#[derive(Clone)]
pub struct Wire {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bits: u32,
    /// `x + r`, at the evaluators.
    pub(crate) open: Vec<u64>,
    /// `[r]_p` at an evaluator, `r` at the dealer.
    pub(crate) mask: Vec<u64>,
    /// `[r]_0` at the dealer.
    pub(crate) mask0: Vec<u64>,
    /// What products wider than the wire need, once one has asked for it.
    pub(super) extended: OnceLock<Arc<Extended>>,
}

impl Share {
    /// A share with nothing deferred.
    pub(crate) fn new(rows: usize, cols: usize, bits: u32, data: Vec<u64>) -> Self {
        Self {
            tensor: RingTensor::new(rows, cols, bits, data),
            term: Term::None,
        }
    }

    /// What a linear function makes of the share: of the halves, and of a deferred term.
    pub(super) fn linear(&self, f: impl Fn(&RingTensor) -> RingTensor) -> Self {
        Self {
            tensor: f(&self.tensor),
            term: self.term.linear(f),
        }
    }

    /// The share plus something public, which one evaluator adds to its half: a deferred term stays
    /// what it is.
    pub(super) fn affine(&self, f: impl FnOnce(&RingTensor) -> RingTensor) -> Self {
        Self {
            tensor: f(&self.tensor),
            term: self.term.clone(),
        }
    }

    /// A sum or a difference of two shares, by a function of tensors.
    pub(super) fn joined(
        &self,
        other: &Self,
        f: impl Fn(&RingTensor, &RingTensor) -> RingTensor,
    ) -> Self {
        let tensor = f(&self.tensor, &other.tensor);
        let shape = tensor.with_data(Vec::new());
        let term = Term::joined([&self.term, &other.term], &shape, f);
        Self { tensor, term }
    }

    /// Whether the halves lack a term.
    pub(super) fn is_deferred(&self) -> bool {
        !matches!(self.term, Term::None)
    }

    /// The term that the halves lack, at the dealer.
    pub(super) fn known_term(&self) -> Option<&[u64]> {
        match &self.term {
            Term::Known(term) => Some(&term.data),
            _ => None,
        }
    }

    /// The same share in another ring. A narrower one forgets bits; a wider one is for a share
    /// whose integers are known to be right there.
    pub(super) fn in_ring(mut self, bits: u32) -> Self {
        self.tensors().for_each(|tensor| tensor.bits = bits);
        self
    }

    /// The same elements in another shape.
    pub(super) fn shaped(mut self, rows: usize, cols: usize) -> Self {
        assert_eq!(self.len(), rows * cols, "the same elements");
        self.tensors()
            .for_each(|tensor| (tensor.rows, tensor.cols) = (rows, cols));
        self
    }

    /// The half and the known term.
    fn tensors(&mut self) -> impl Iterator<Item = &mut RingTensor> {
        let term = match &mut self.term {
            Term::Known(term) => Some(term),
            Term::None | Term::Deferred => None,
        };
        std::iter::once(&mut self.tensor).chain(term)
    }

    /// Shares side by side.
    pub(super) fn side_by_side(parts: &[&Self]) -> Self {
        let join = |tensors: Vec<&RingTensor>| RingTensor::side_by_side(&tensors);
        let shapes: Vec<RingTensor> = parts.iter().map(|p| p.with_data(Vec::new())).collect();
        let terms = parts
            .iter()
            .zip(&shapes)
            .map(|(part, shape)| match &part.term {
                Term::Known(term) => term,
                Term::None | Term::Deferred => shape,
            });
        let any = |is: fn(&Term) -> bool| parts.iter().any(|part| is(&part.term));
        let term = if any(|term| matches!(term, Term::Known(_))) {
            Term::Known(join(terms.collect()))
        } else if any(|term| matches!(term, Term::Deferred)) {
            Term::Deferred
        } else {
            Term::None
        };
        Self {
            tensor: join(parts.iter().map(|part| &part.tensor).collect()),
            term,
        }
    }

    /// The own half, modulo `2^bits`; none at the dealer and in a tally.
    #[must_use]
    pub fn half(&self) -> &[u64] {
        &self.tensor.data
    }

    #[must_use]
    pub fn bits(&self) -> u32 {
        self.tensor.bits
    }
}

impl Wire {
    /// Element `i` of `x̂`.
    pub(super) fn x_hat(&self, i: usize) -> Word {
        Wrapping(self.open[i])
    }

    /// Element `i` of `[r]_p` at an evaluator, of `r` at the dealer.
    pub(super) fn r(&self, i: usize) -> Word {
        Wrapping(self.mask[i])
    }

    pub(super) fn new(
        (rows, cols): (usize, usize),
        bits: u32,
        [open, mask, mask0]: [Vec<u64>; 3],
    ) -> Self {
        Self {
            rows,
            cols,
            bits,
            open,
            mask,
            mask0,
            extended: OnceLock::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows * self.cols
    }
}

/// A wire ready for products modulo 2^64.
pub(super) struct Extended {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// `k`
    pub(super) bits: u32,
    /// `X`, at the evaluators.
    pub(super) public: Vec<u64>,
    /// Shares of `r` modulo 2^64; `r` at the dealer.
    pub(super) mask: Vec<u64>,
    /// `c` at the evaluators and shares of `m` (`m` at the dealer); empty for a wire of 64 bits.
    pub(super) stays: Vec<u64>,
    pub(super) wraps: Vec<u64>,
}

impl Extended {
    /// Element `i` of `X`.
    pub(super) fn x(&self, i: usize) -> Word {
        Wrapping(self.public[i])
    }

    /// Element `i` of the share of `r`, or of `r`.
    pub(super) fn r(&self, i: usize) -> Word {
        Wrapping(self.mask[i])
    }

    /// Element `i` of `c`.
    pub(super) fn c(&self, i: usize) -> Word {
        Wrapping(self.stays[i])
    }

    /// Element `i` of the share of `m`, or of `m`.
    pub(super) fn m(&self, i: usize) -> Word {
        Wrapping(self.wraps[i])
    }

    /// Missing bits: how wide what belongs to `m` is.
    pub(super) fn missing(&self) -> u32 {
        64 - self.bits
    }
}
