//! The values of the masked engine: additive shares and masked wires.

use std::{
    num::Wrapping,
    ops::{Deref, DerefMut},
    sync::{Arc, OnceLock},
};

use marill_numeric::{RingTensor, Word, fixed::low_mask};

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

/// What a party has of something that was opened under a mask; `M` is what the dealer knows of the
/// mask.
#[derive(Clone)]
pub(crate) enum Held<M> {
    /// In a tally: nothing.
    Shape,
    /// At an evaluator: what was opened, and the own half of the mask.
    Evaluator { opened: Vec<u64>, half: Vec<u64> },
    /// At the dealer: the mask.
    Dealer(M),
}

/// The mask of a wire, at the dealer.
#[derive(Clone)]
pub(crate) struct WireMask {
    /// `r`
    pub(crate) whole: Vec<u64>,
    /// `[r]_0`
    pub(crate) of_e0: Vec<u64>,
}

impl<M> Held<M> {
    /// What was opened; nothing but at an evaluator.
    pub(super) fn opened(&self) -> &[u64] {
        match self {
            Self::Evaluator { opened, .. } => opened,
            Self::Shape | Self::Dealer(_) => &[],
        }
    }

    /// As [`Self::opened`], for what a message of the peer adds.
    pub(super) fn opened_mut(&mut self) -> &mut [u64] {
        match self {
            Self::Evaluator { opened, .. } => opened,
            Self::Shape | Self::Dealer(_) => &mut [],
        }
    }

    /// The own half of the mask; nothing but at an evaluator.
    pub(super) fn half(&self) -> &[u64] {
        match self {
            Self::Evaluator { half, .. } => half,
            Self::Shape | Self::Dealer(_) => &[],
        }
    }
}

impl Held<WireMask> {
    /// What a linear function makes of every part.
    pub(super) fn map(&self, f: impl Fn(&[u64]) -> Vec<u64>) -> Self {
        self.joined(self, |part, _| f(part))
    }

    /// What a bilinear function makes of the parts of two wires.
    pub(super) fn joined(&self, other: &Self, f: impl Fn(&[u64], &[u64]) -> Vec<u64>) -> Self {
        match (self, other) {
            (
                Self::Evaluator { opened, half },
                Self::Evaluator {
                    opened: other_opened,
                    half: other_half,
                },
            ) => Self::Evaluator {
                opened: f(opened, other_opened),
                half: f(half, other_half),
            },
            (Self::Dealer(mask), Self::Dealer(other)) => Self::Dealer(WireMask {
                whole: f(&mask.whole, &other.whole),
                of_e0: f(&mask.of_e0, &other.of_e0),
            }),
            _ => Self::Shape,
        }
    }

    /// Puts the parts of another wire behind the present ones.
    pub(super) fn append(&mut self, other: &Self) {
        match (self, other) {
            (
                Self::Evaluator { opened, half },
                Self::Evaluator {
                    opened: other_opened,
                    half: other_half,
                },
            ) => {
                opened.extend_from_slice(other_opened);
                half.extend_from_slice(other_half);
            }
            (Self::Dealer(mask), Self::Dealer(other)) => {
                mask.whole.extend_from_slice(&other.whole);
                mask.of_e0.extend_from_slice(&other.of_e0);
            }
            _ => {}
        }
    }
}

/// A masked value `x̂ = x + r`.
#[derive(Clone)]
pub struct Wire {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bits: u32,
    pub(crate) held: Held<WireMask>,
    /// What products wider than the wire need, once one has asked for it.
    pub(super) extended: OnceLock<Arc<Extended>>,
}

impl From<RingTensor> for Share {
    /// A share with nothing deferred.
    fn from(tensor: RingTensor) -> Self {
        Self {
            tensor,
            term: Term::None,
        }
    }
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
    pub(super) fn new((rows, cols): (usize, usize), bits: u32, held: Held<WireMask>) -> Self {
        Self {
            rows,
            cols,
            bits,
            held,
            extended: OnceLock::new(),
        }
    }

    /// `x̂`; nothing but at an evaluator.
    pub(super) fn opened(&self) -> &[u64] {
        self.held.opened()
    }

    /// As [`Self::opened`], for what a message of the peer adds.
    pub(super) fn opened_mut(&mut self) -> &mut [u64] {
        self.held.opened_mut()
    }

    /// `[r]_p`; nothing but at an evaluator.
    pub(super) fn half(&self) -> &[u64] {
        self.held.half()
    }

    /// `r`; nothing but at the dealer.
    pub(super) fn mask(&self) -> &[u64] {
        match &self.held {
            Held::Dealer(mask) => &mask.whole,
            Held::Shape | Held::Evaluator { .. } => &[],
        }
    }

    /// `[r]_0`; nothing but at the dealer.
    pub(super) fn mask_of_e0(&self) -> &[u64] {
        match &self.held {
            Held::Dealer(mask) => &mask.of_e0,
            Held::Shape | Held::Evaluator { .. } => &[],
        }
    }

    /// Element `i` of `x̂`, at an evaluator.
    pub(super) fn x_hat(&self, i: usize) -> Word {
        Wrapping(self.opened()[i])
    }

    /// Element `i` of `[r]_p`, at an evaluator.
    pub(super) fn r_p(&self, i: usize) -> Word {
        Wrapping(self.half()[i])
    }

    /// Element `i` of `r`, at the dealer.
    pub(super) fn r(&self, i: usize) -> Word {
        Wrapping(self.mask()[i])
    }

    /// The value less a constant, modulo `2^bits`: the mask stays what it is.
    pub(super) fn narrowed(&self, bits: u32, less: u64) -> Self {
        let modulus = low_mask(bits);
        let reduced = |data: &[u64]| data.iter().map(|v| v & modulus).collect::<Vec<u64>>();
        // x̂ - less = (x - less) + r, modulo the narrower ring.
        let mut held = self.held.map(reduced);
        if let Held::Evaluator { opened, .. } = &mut held {
            opened
                .iter_mut()
                .for_each(|v| *v = v.wrapping_sub(less) & modulus);
        }
        Self::new((self.rows, self.cols), bits, held)
    }

    pub(crate) fn len(&self) -> usize {
        self.rows * self.cols
    }
}

/// Values plus masks, modulo `2^bits`: neither what a share has above the width travels, nor a
/// carry into it.
pub(super) fn masked_by(values: &[u64], masks: &[u64], bits: u32) -> Vec<u64> {
    let modulus = low_mask(bits);
    let pairs = values.iter().zip(masks);
    pairs.map(|(x, r)| x.wrapping_add(*r) & modulus).collect()
}

/// A wire ready for products modulo 2^64.
pub(super) struct Extended {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// `k`
    pub(super) bits: u32,
    pub(super) held: HeldExtended,
}

/// What a party has of an extended wire. Without a missing bit there is no `c` and no `m`.
pub(super) enum HeldExtended {
    /// In a tally: nothing.
    Shape,
    Evaluator(ExtendedShare),
    /// At the dealer: `r` and `m`.
    Dealer {
        r: Vec<u64>,
        m: Vec<u64>,
    },
}

/// An extended wire at an evaluator.
pub(super) struct ExtendedShare {
    /// `X`
    pub(super) public: Vec<u64>,
    /// The share of `r` modulo 2^64.
    pub(super) half: Vec<u64>,
    /// `c`
    pub(super) stays: Vec<u64>,
    /// The share of `m`.
    pub(super) wraps: Vec<u64>,
}

impl ExtendedShare {
    /// Element `i` of `X`.
    pub(super) fn x(&self, i: usize) -> Word {
        Wrapping(self.public[i])
    }

    /// Element `i` of the share of `r`.
    pub(super) fn r_p(&self, i: usize) -> Word {
        Wrapping(self.half[i])
    }

    /// Element `i` of `c`.
    pub(super) fn c(&self, i: usize) -> Word {
        Wrapping(self.stays[i])
    }

    /// Element `i` of the share of `m`.
    pub(super) fn m_p(&self, i: usize) -> Word {
        Wrapping(self.wraps[i])
    }
}

impl Extended {
    /// Element `i` of `r`, at the dealer.
    ///
    /// # Panics
    /// At any other party.
    pub(super) fn r(&self, i: usize) -> Word {
        Wrapping(self.masks().0[i])
    }

    /// Element `i` of `m`, at the dealer.
    ///
    /// # Panics
    /// As [`Self::r`].
    pub(super) fn m(&self, i: usize) -> Word {
        Wrapping(self.masks().1[i])
    }

    fn masks(&self) -> (&[u64], &[u64]) {
        match &self.held {
            HeldExtended::Dealer { r, m } => (r, m),
            HeldExtended::Shape | HeldExtended::Evaluator(_) => (&[], &[]),
        }
    }

    /// Missing bits: how wide what belongs to `m` is.
    pub(super) fn missing(&self) -> u32 {
        64 - self.bits
    }
}
