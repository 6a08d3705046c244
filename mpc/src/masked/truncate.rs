//! Exact truncation, and bits as affine forms.
//!
//! # Exact truncation
//! With `z' = z + 2^(f-1) + 2^(k-2)` in `[0, 2^(k-1))`, `ẑ = z' + r mod 2^k` opened, and `w = [ẑ < r]`,
//! `floor(z'/2^f) = (ẑ >> f) - (r >> f) + 2^(k-f)·w - b` where `b = [ẑ mod 2^f < r mod 2^f]`. Since `z' < 2^(k-1)`,
//! `w = msb(r)·(1 - msb(ẑ))`. The source shares `r >> f` and `2^(k-f)·msb(r)`; `b` is a comparison of a public with a
//! masked `f`-bit value, whose last gate yields an arithmetic share directly: `b = base + flips·below` with the three
//! bits opened under masks, the monomials of the masks shared by the source.
//!
//! Rounds: 1 + ceil(log2(digits)). The result is exact; nothing can fail while `|z| < 2^(k-2)`.

use marill_numeric::fixed::low_mask;

use super::bits::{Bits, OneHot, OpenBits, Pending, bit};
use super::{Masked, ProtocolError, Role, Share, Wire};

/// `1 - 2·bit` as a ring element.
#[inline]
pub(super) fn sign(bit: u64) -> u64 {
    1u64.wrapping_sub(2 * bit)
}

/// A bit as an affine form in masks that the source has shared: `constant + Σ coefficient · [monomial]`.
pub(super) struct Affine<const M: usize> {
    n: usize,
    /// `constant`, then the coefficient of every monomial, by element; at the evaluators.
    coefficients: Vec<([u64; M], u64)>,
    /// The monomials by element, at the source.
    monomials: Vec<[u64; M]>,
}

impl<const M: usize> Affine<M> {
    /// Additive shares of the bit, and the shares of the monomials, modulo `2^bits`.
    pub(super) fn share(&self, engine: &mut Masked, bits: u32) -> Result<(Vec<u64>, Vec<Vec<u64>>), ProtocolError> {
        let mut monomials = Vec::with_capacity(M);
        for m in 0..M {
            monomials.push(engine.correct(self.n, bits, |i| self.monomials[i][m])?);
        }
        let first = engine.is_first();
        let data = self.coefficients.iter().enumerate().map(|(i, (coefficient, constant))| {
            (0..M).fold(if first { *constant } else { 0 }, |sum, m| {
                sum.wrapping_add(coefficient[m].wrapping_mul(monomials[m][i]))
            })
        });
        let data = data.collect();
        Ok((data, monomials))
    }

    /// `bit · x` for a wire `x`, given the shares of the monomials (at least as wide as the wire).
    pub(super) fn times(
        &self,
        engine: &mut Masked,
        x: &Wire,
        monomials: &[Vec<u64>],
    ) -> Result<Vec<u64>, ProtocolError> {
        let mut crossed = Vec::with_capacity(M);
        for m in 0..M {
            crossed.push(engine.correct(self.n, x.bits, |i| self.monomials[i][m].wrapping_mul(x.mask[i]))?);
        }
        let first = engine.is_first();
        let products = self.coefficients.iter().enumerate().map(|(i, (coefficient, constant))| {
            let public = if first { x.open[i] } else { 0 };
            let mut sum = constant.wrapping_mul(public.wrapping_sub(x.mask[i]));
            for m in 0..M {
                let term = x.open[i].wrapping_mul(monomials[m][i]).wrapping_sub(crossed[m][i]);
                sum = sum.wrapping_add(coefficient[m].wrapping_mul(term));
            }
            sum
        });
        Ok(products.collect())
    }
}

impl Masked {
    /// `base + flips·below` for `base` and `flips` that are never both set; 4 monomials.
    pub(super) fn disjoint(&self, planes: &[OpenBits]) -> Affine<4> {
        let [base, flips, below] = planes else { unreachable!("three planes") };
        let n = base.n;
        let (mut coefficients, mut monomials) = (Vec::new(), Vec::new());
        if self.is_evaluator() {
            coefficients.extend((0..n).map(|i| {
                let (a, e, l) = (bit(&base.hat, i), bit(&flips.hat, i), bit(&below.hat, i));
                let by_l = e.wrapping_mul(sign(l));
                let by_e = l.wrapping_mul(sign(e));
                ([sign(a), by_e, by_l, sign(e).wrapping_mul(sign(l))], a + e * l)
            }));
        } else if matches!(self.role, Role::Source(_)) {
            monomials.extend((0..n).map(|i| {
                let (a, e, l) = (bit(&base.rho, i), bit(&flips.rho, i), bit(&below.rho, i));
                [a, e, l, e & l]
            }));
        }
        Affine { n, coefficients, monomials }
    }

    /// `below ? other : base`, 5 monomials.
    fn choice(&self, planes: &[OpenBits]) -> Affine<5> {
        let [base, other, below] = planes else { unreachable!("three planes") };
        let n = base.n;
        let (mut coefficients, mut monomials) = (Vec::new(), Vec::new());
        if self.is_evaluator() {
            coefficients.extend((0..n).map(|i| {
                let (a, f, l) = (bit(&base.hat, i), bit(&other.hat, i), bit(&below.hat, i));
                let (sa, sf, sl) = (sign(a), sign(f), sign(l));
                let by_l = sl.wrapping_mul(f.wrapping_sub(a));
                let row = [
                    sa.wrapping_mul(1 - l),
                    l.wrapping_mul(sf),
                    by_l,
                    (sl.wrapping_mul(sa)).wrapping_neg(),
                    sl.wrapping_mul(sf),
                ];
                (row, if l == 1 { f } else { a })
            }));
        } else if matches!(self.role, Role::Source(_)) {
            monomials.extend((0..n).map(|i| {
                let (a, f, l) = (bit(&base.rho, i), bit(&other.rho, i), bit(&below.rho, i));
                [a, f, l, l & a, l & f]
            }));
        }
        Affine { n, coefficients, monomials }
    }

    /// One opened bit, 1 monomial.
    pub(super) fn single(&self, plane: &OpenBits) -> Affine<1> {
        let (mut coefficients, mut monomials) = (Vec::new(), Vec::new());
        if self.is_evaluator() {
            coefficients.extend((0..plane.n).map(|i| ([sign(bit(&plane.hat, i))], bit(&plane.hat, i))));
        } else if matches!(self.role, Role::Source(_)) {
            monomials.extend((0..plane.n).map(|i| [bit(&plane.rho, i)]));
        }
        Affine { n: plane.n, coefficients, monomials }
    }

    /// Runs the last gate of a sign comparison: the bit as an affine form, ready for products. One round.
    pub(super) fn finish(
        &mut self,
        pending: &Pending,
        shares: &[(&Share, u32)],
        place: &'static str,
    ) -> Result<(Vec<Wire>, Affine<5>), ProtocolError> {
        let other = pending.base.xor(&pending.flips);
        let (wires, planes) = self.exchange(shares, &[&pending.base, &other, &pending.below], place)?;
        let affine = self.choice(&planes);
        Ok((wires, affine))
    }

    /// `[digit < mask digit]` and equality for the digits of a range of bits, every element its own vector.
    pub(super) fn compare_digits(
        &mut self,
        wire: &Wire,
        start: u32,
        total: u32,
    ) -> Result<Vec<(Bits, Bits)>, ProtocolError> {
        let (n, held) = (wire.len(), self.is_evaluator());
        let mut digits = Vec::new();
        for (from, width) in Self::digits(start, total) {
            let vectors = self.one_hot(wire, from, width)?;
            let mask = low_mask(width) as usize;
            digits.push(vectors.compare(n, held, |i| (i, (wire.open[i] >> from) as usize & mask)));
        }
        Ok(digits)
    }

    /// Exact `floor((x + 2^(shift-1)) / 2^shift)`; see the module documentation.
    pub(super) fn truncate_exact(
        &mut self,
        x: &Share,
        shift: u32,
        in_bits: u32,
        out_bits: u32,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        let shifted = self.add_public(x, (1u64 << (shift - 1)).wrapping_add(1 << (in_bits - 2)));
        let (mut wires, _) = self.exchange(&[(&shifted, in_bits)], &[], place)?;
        let wire = wires.remove(0);
        let digits = self.compare_digits(&wire, 0, shift)?;
        let pending = self.reduce(digits, place)?;
        let mut out = self.high_part(&wire, shift, out_bits, 1u64 << (in_bits - 2 - shift))?;
        let (_, planes) = self.exchange(&[], &[&pending.base, &pending.flips, &pending.below], place)?;
        let (borrow, _) = self.disjoint(&planes).share(self, out_bits)?;
        out.data.iter_mut().zip(borrow).for_each(|(o, b)| *o = o.wrapping_sub(b));
        Ok(out)
    }

    /// `(ẑ >> f) - (r >> f) + 2^(k-f)·msb(r)·(1 - msb ẑ) - offset`: the truncation up to its borrow.
    pub(super) fn high_part(
        &mut self,
        wire: &Wire,
        shift: u32,
        out_bits: u32,
        offset: u64,
    ) -> Result<Share, ProtocolError> {
        let (n, k) = (wire.len(), wire.bits);
        let mut data = self.correct(n, out_bits, |i| wire.mask[i] >> shift)?;
        let wraps = self.correct(n, out_bits, |i| (wire.mask[i] >> (k - 1)) << (k - shift))?;
        let first = self.is_first();
        for (i, value) in data.iter_mut().enumerate() {
            let public = if first { (wire.open[i] >> shift).wrapping_sub(offset) } else { 0 };
            let wrap = wraps[i].wrapping_mul(1 - (wire.open[i] >> (k - 1)));
            *value = public.wrapping_sub(*value).wrapping_add(wrap);
        }
        Ok(Share { rows: wire.rows, cols: wire.cols, bits: out_bits, data })
    }

    /// `bit · x` for a shared bit: one opened plane, two corrections an element. The plane and the wires of `shares`
    /// are opened in one round; the bit multiplies the first of them.
    pub(super) fn select(
        &mut self,
        keep: &Bits,
        x: &Share,
        bits: u32,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        let (wires, planes) = self.exchange(&[(x, bits)], &[keep], place)?;
        let affine = self.single(&planes[0]);
        let (_, monomials) = affine.share(self, bits)?;
        let data = affine.times(self, &wires[0], &monomials)?;
        Ok(Share { rows: x.rows, cols: x.cols, bits, data })
    }

    /// Equality to zero of the bits from `start` up, given the borrow into them: the two candidates' planes.
    ///
    /// `x_top = x̂_top - r_top - borrow` is zero when `r_top = x̂_top - borrow`.
    pub(super) fn zero_candidates(
        &mut self,
        wire: &Wire,
        digits: &[(OneHot, u32)],
        start: u32,
        total: u32,
    ) -> [Vec<Bits>; 2] {
        let (n, held) = (wire.len(), self.is_evaluator());
        let modulus = low_mask(total);
        [0u64, 1].map(|borrow| {
            digits
                .iter()
                .map(|(vectors, from)| {
                    let mask = low_mask(vectors.width) as usize;
                    vectors.equal(n, held, |i| {
                        let top = (wire.open[i] >> start).wrapping_sub(borrow) & modulus;
                        (i, (top >> (from - start)) as usize & mask)
                    })
                })
                .collect()
        })
    }

    /// A non-negative wire below half its ring as a share modulo 2^64.
    pub(super) fn widened(&mut self, wire: &Wire) -> Result<Share, ProtocolError> {
        let (n, k) = (wire.len(), wire.bits);
        if k == 64 {
            return Ok(self.share_of(wire));
        }
        let mut data = self.correct(n, 64, |i| wire.mask[i])?;
        let wraps = self.correct(n, 64, |i| (wire.mask[i] >> (k - 1)) << k)?;
        let first = self.is_first();
        for (i, value) in data.iter_mut().enumerate() {
            let public = if first { wire.open[i] } else { 0 };
            let wrap = wraps[i].wrapping_mul(1 - (wire.open[i] >> (k - 1)));
            *value = public.wrapping_sub(*value).wrapping_add(wrap);
        }
        Ok(Share { rows: wire.rows, cols: wire.cols, bits: 64, data })
    }
}
