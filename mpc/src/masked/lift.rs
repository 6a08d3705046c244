//! Wires that are narrower than what their products need.
//!
//! A wire modulo `2^k` whose value is below `2^(k-2)` in magnitude is, as an integer, `x = X - r + 2^k·c·m` for
//! `ẑ = x̂ + 2^(k-2)`, `X = ẑ - 2^(k-2)`, `c = 1 - msb(ẑ)` and `m = msb(r)`, since `x + 2^(k-2)` is below half the ring.
//! The halves of `r` sum to `r + 2^k·w` with a carry `w` that the source knows. So a product modulo 2^64 asks the source
//! for shares of `w`, `m` and `m` times the other factor's mask, `64 - k` bits each, and the opening is `k` bits instead
//! of 64. Evaluators see nothing that an opening and corrections do not show ([`super`]).

use marill_numeric::fixed::low_mask;

use super::{Masked, ProtocolError, Role, Share, Wire};

/// A wire ready for products modulo 2^64.
pub(super) struct Lifted {
    pub(super) rows: usize,
    pub(super) cols: usize,
    /// `k`
    pub(super) bits: u32,
    /// `X`, at the evaluators.
    pub(super) public: Vec<u64>,
    /// Shares of `r` modulo 2^64; `r` at the source.
    pub(super) mask: Vec<u64>,
    /// `c` at the evaluators and shares of `m` (`m` at the source); empty for a wire of 64 bits.
    pub(super) stays: Vec<u64>,
    pub(super) wraps: Vec<u64>,
}

impl Lifted {
    /// Missing bits: how wide what belongs to `m` is.
    pub(super) fn missing(&self) -> u32 {
        64 - self.bits
    }
}

impl Masked {
    /// See the module documentation; a wire of 64 bits costs nothing.
    pub(super) fn lift(&mut self, wire: &Wire) -> Result<Lifted, ProtocolError> {
        let (rows, cols, bits, n) = (wire.rows, wire.cols, wire.bits, wire.len());
        let (public, mask) = (wire.open.clone(), wire.mask.clone());
        let mut lifted = Lifted { rows, cols, bits, public, mask, stays: Vec::new(), wraps: Vec::new() };
        if bits == 64 {
            return Ok(lifted);
        }
        let (offset, top) = (1u64 << (bits - 2), bits - 1);
        let carries = self.correct(n, 64 - bits, |i| u64::from(wire.mask[i] < wire.mask0[i]))?;
        lifted.wraps = self.correct(n, 64 - bits, |i| wire.mask[i] >> top)?;
        match &self.role {
            Role::Tally(_) => {}
            Role::Source(_) => lifted.wraps = wire.mask.iter().map(|r| r >> top).collect(),
            Role::Evaluator(_) => {
                for (i, value) in lifted.public.iter_mut().enumerate() {
                    let shifted = value.wrapping_add(offset) & low_mask(bits);
                    lifted.stays.push(1 - (shifted >> top));
                    *value = shifted.wrapping_sub(offset);
                    lifted.mask[i] = lifted.mask[i].wrapping_sub(carries[i] << bits);
                }
            }
        }
        Ok(lifted)
    }

    /// Element-wise product modulo 2^64 where `scalar(i)` names the element of `y` for element `i` of `x`.
    pub(super) fn multiply_lifted(
        &mut self,
        x: &Lifted,
        y: &Wire,
        scalar: impl Fn(usize) -> usize,
    ) -> Result<Share, ProtocolError> {
        debug_assert_eq!(y.bits, 64, "the other factor sets the width");
        let n = x.rows * x.cols;
        let wrapped = match x.missing() {
            0 => Vec::new(),
            missing => self.correct(n, missing, |i| x.wraps[i].wrapping_mul(y.mask[scalar(i)]))?,
        };
        let data = match &self.role {
            Role::Tally(_) => Vec::new(),
            Role::Source(_) => (0..n).map(|i| x.mask[i].wrapping_mul(y.mask[scalar(i)])).collect(),
            Role::Evaluator(_) => {
                let own = self.share_of(y).data;
                let value = |i: usize| {
                    let open = y.open[scalar(i)];
                    let inner = x.public[i].wrapping_mul(own[scalar(i)]).wrapping_sub(open.wrapping_mul(x.mask[i]));
                    let Some(wrapped) = wrapped.get(i) else { return inner };
                    let wrap = x.stays[i].wrapping_mul(open.wrapping_mul(x.wraps[i]).wrapping_sub(*wrapped));
                    inner.wrapping_add(wrap << x.bits)
                };
                (0..n).map(value).collect()
            }
        };
        Ok(Share { deferred: true, ..Share::new(x.rows, x.cols, 64, data) })
    }
}
