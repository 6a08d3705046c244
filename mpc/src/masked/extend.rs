//! Wires that are narrower than what their products need.
//!
//! A wire modulo `2^k` whose value is below `2^(k-2)` in magnitude is, as an integer,
//! `x = X - r + 2^k·c·m` for `ẑ = x̂ + 2^(k-2)`, `X = ẑ - 2^(k-2)`, `c = 1 - msb(ẑ)` and
//! `m = msb(r)`, since `x + 2^(k-2)` is below half the ring. The halves of `r` sum to `r + 2^k·w`
//! with a carry `w` that the dealer knows. So a product modulo 2^64 asks the dealer for shares of
//! `w`, `m` and `m` times the other factor's mask, `64 - k` bits each, and the opening is `k` bits
//! instead of 64. Evaluators see nothing that an opening and corrections do not show ([`super`]).

use std::{num::Wrapping, sync::Arc};

use marill_numeric::{Word, fixed::low_mask};

use crate::{
    error::ProtocolError,
    masked::{
        Masked, Role,
        share::{Extended, Share, Wire},
    },
};

impl Masked {
    /// See the module documentation; a wire of 64 bits costs nothing, and the same wire nothing
    /// again.
    pub(super) fn extend(&mut self, wire: &Wire) -> Result<Arc<Extended>, ProtocolError> {
        if let Some(extended) = wire.extended.get() {
            return Ok(Arc::clone(extended));
        }
        let extended = Arc::new(self.extend_anew(wire)?);
        Ok(Arc::clone(wire.extended.get_or_init(|| extended)))
    }

    fn extend_anew(&mut self, wire: &Wire) -> Result<Extended, ProtocolError> {
        let rows = wire.rows;
        let cols = wire.cols;
        let bits = wire.bits;
        let n = wire.len();
        let public = wire.open.clone();
        let mask = wire.mask.clone();
        let mut extended = Extended {
            rows,
            cols,
            bits,
            public,
            mask,
            stays: Vec::new(),
            wraps: Vec::new(),
        };
        if bits == 64 {
            return Ok(extended);
        }
        let offset = 1u64 << (bits - 2);
        let top = bits - 1;
        // The dealer shares the carry w of the halves of r, then m = msb(r).
        let carries = self.correct(n, 64 - bits, |i| u64::from(wire.mask[i] < wire.mask0[i]))?;
        extended.wraps = self.correct(n, 64 - bits, |i| wire.mask[i] >> top)?;
        match &self.role {
            Role::Tally(_) => {}
            Role::Dealer(_) => extended.wraps = wire.mask.iter().map(|r| r >> top).collect(),
            Role::Evaluator(_) => {
                for (i, value) in extended.public.iter_mut().enumerate() {
                    // X = ẑ - 2^(k-2), c = 1 - msb(ẑ), and the half of r less 2^k·w.
                    let shifted = value.wrapping_add(offset) & low_mask(bits);
                    extended.stays.push(1 - (shifted >> top));
                    *value = shifted.wrapping_sub(offset);
                    extended.mask[i] = extended.mask[i].wrapping_sub(carries[i] << bits);
                }
            }
        }
        Ok(extended)
    }

    /// Sums of squares of the rows, modulo 2^64: with `ρ = r - 2^k·c·m`,
    /// `x² = X² - 2X·ρ + r² - 2^(k+1)·c·m·r`.
    pub(super) fn extended_square_sums(&mut self, x: &Extended) -> Result<Share, ProtocolError> {
        debug_assert!(x.bits >= 32, "the square of a wrap is out of reach");
        let n = x.rows * x.cols;
        let cols = x.cols;
        let first = self.is_first();
        let wrapped = match x.missing() {
            0 => Vec::new(),
            missing => self.correct(n, missing - 1, |i| (x.m(i) * x.r(i)).0)?,
        };
        let sums = |value: &dyn Fn(usize) -> Word| -> Vec<u64> {
            (0..x.rows)
                .map(|row| {
                    let elements = row * cols..(row + 1) * cols;
                    elements.map(value).sum::<Word>().0
                })
                .collect()
        };
        let data = match &self.role {
            Role::Tally(_) => Vec::new(),
            Role::Dealer(_) => sums(&|i| x.r(i) * x.r(i)),
            Role::Evaluator(_) => sums(&|i| {
                // X² - 2X·[r], the square at E0.
                let square = if first { x.x(i) * x.x(i) } else { Wrapping(0) };
                let inner = square - Wrapping(2) * x.x(i) * x.r(i);
                let Some(&wrapped) = wrapped.get(i) else {
                    return inner;
                };
                // 2^(k+1)·c·(X·[m] - [m·r]).
                let wrap = x.c(i) * (x.x(i) * x.m(i) - Wrapping(wrapped));
                inner + (wrap << (x.bits as usize + 1))
            }),
        };
        Ok(self.with_term_deferred(x.rows, 1, 64, data))
    }

    /// Element-wise product modulo 2^64 where `scalar(i)` names the element of `y` for element `i`
    /// of `x`.
    pub(super) fn mul_extended(
        &mut self,
        x: &Extended,
        y: &Wire,
        scalar: impl Fn(usize) -> usize,
    ) -> Result<Share, ProtocolError> {
        debug_assert_eq!(y.bits, 64, "the other factor sets the width");
        let n = x.rows * x.cols;
        let wrapped = match x.missing() {
            0 => Vec::new(),
            missing => self.correct(n, missing, |i| (x.m(i) * y.r(scalar(i))).0)?,
        };
        let data = match &self.role {
            Role::Tally(_) => Vec::new(),
            Role::Dealer(_) => (0..n).map(|i| (x.r(i) * y.r(scalar(i))).0).collect(),
            Role::Evaluator(_) => {
                let own = self.share(y);
                let value = |i: usize| {
                    let y_hat = y.x_hat(scalar(i));
                    // X·[y] - ŷ·[r], and r·r_y deferred.
                    let inner = x.x(i) * own.at(scalar(i)) - y_hat * x.r(i);
                    let Some(&wrapped) = wrapped.get(i) else {
                        return inner;
                    };
                    // 2^k·c·(ŷ·[m] - [m·r_y]).
                    let wrap = x.c(i) * (y_hat * x.m(i) - Wrapping(wrapped));
                    inner + (wrap << x.bits as usize)
                };
                (0..n).map(|i| value(i).0).collect()
            }
        };
        Ok(self.with_term_deferred(x.rows, x.cols, 64, data))
    }
}
