//! The values of the masked engine: additive shares and masked wires.

use std::sync::{Arc, OnceLock};
/// An additive share, valid modulo `2^bits`. Empty at the dealer and in a tally, but see
/// `deferred`.
#[derive(Clone)]
pub struct Share {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bits: u32,
    pub(crate) data: Vec<u64>,
    /// Whether the evaluators' halves lack a term that the dealer knows and keeps in its own
    /// `data`. A truncation takes it into the mask of its opening, for nothing; any other use has
    /// it shared first ([`crate::masked::Masked::materialize`]).
    pub(crate) deferred: bool,
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
            rows,
            cols,
            bits,
            data,
            deferred: false,
        }
    }

    /// The own half, modulo `2^bits`; none at the dealer and in a tally.
    #[must_use]
    pub fn half(&self) -> &[u64] {
        &self.data
    }

    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    pub(crate) fn len(&self) -> usize {
        self.rows * self.cols
    }
}

impl Wire {
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
    /// Missing bits: how wide what belongs to `m` is.
    pub(super) fn missing(&self) -> u32 {
        64 - self.bits
    }
}
