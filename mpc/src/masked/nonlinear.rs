//! Exact truncation, exp, gate functions, piecewise functions.
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
use marill_numeric::tables::{
    EXP_DIGIT_BITS, EXP_FRAC_BITS, GATE_INDEX_BITS, GATE_LOW_BITS, GATE_SLOPE_FRAC_BITS, LinearTable, Piecewise, tables,
};

use super::bits::{Bits, OneHot, OpenBits, Pending, bit};
use super::lookup::Rotated;
use super::{Masked, ProtocolError, Role, Share, Wire};

/// `1 - 2·bit` as a ring element.
#[inline]
fn sign(bit: u64) -> u64 {
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
    fn disjoint(&self, planes: &[OpenBits]) -> Affine<4> {
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
    fn single(&self, plane: &OpenBits) -> Affine<1> {
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
    fn high_part(&mut self, wire: &Wire, shift: u32, out_bits: u32, offset: u64) -> Result<Share, ProtocolError> {
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
    fn select(&mut self, keep: &Bits, x: &Share, bits: u32, place: &'static str) -> Result<Share, ProtocolError> {
        let (wires, planes) = self.exchange(&[(x, bits)], &[keep], place)?;
        let affine = self.single(&planes[0]);
        let (_, monomials) = affine.share(self, bits)?;
        let data = affine.times(self, &wires[0], &monomials)?;
        Ok(Share { rows: x.rows, cols: x.cols, bits, data })
    }

    /// Equality to zero of the bits from `start` up, given the borrow into them: the two candidates' planes.
    ///
    /// `x_top = x̂_top - r_top - borrow` is zero when `r_top = x̂_top - borrow`.
    fn zero_candidates(&mut self, wire: &Wire, digits: &[(OneHot, u32)], start: u32, total: u32) -> [Vec<Bits>; 2] {
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

    /// [`marill_numeric::functions::exp_neg`]. Rounds: 5.
    ///
    /// One opening of `y` yields: both table lookups, the borrow between their digits, and the test `y < 16`.
    pub(super) fn exp_of_negative(
        &mut self,
        y: &Share,
        out_bits: u32,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        const LOW: u32 = EXP_DIGIT_BITS;
        const TOP_START: u32 = 2 * EXP_DIGIT_BITS;
        const TOP: u32 = 32 - TOP_START;
        let (mut wires, _) = self.exchange(&[(y, 32)], &[], place)?;
        let wire = wires.remove(0);
        let (n, held) = (wire.len(), self.is_evaluator());
        let digit = |i: usize, from: u32| (wire.open[i] >> from) as usize & low_mask(LOW) as usize;

        let low = self.one_hot(&wire, 0, LOW)?;
        let high = self.one_hot(&wire, LOW, LOW)?;
        let top: Vec<(OneHot, u32)> = vec![
            (self.one_hot(&wire, TOP_START, TOP / 2)?, TOP_START),
            (self.one_hot(&wire, TOP_START + TOP / 2, TOP / 2)?, TOP_START + TOP / 2),
        ];
        let (borrow_low, _) = low.compare(n, held, |i| (i, digit(i, 0)));
        let (less_high, equal_high) = high.compare(n, held, |i| (i, digit(i, LOW)));
        let [same, lower] = self.zero_candidates(&wire, &top, TOP_START, TOP);

        // Round 1: factors of the product, and the products of bits.
        let factors = self.exp_factors(&wire, &low, &high);
        let shares: Vec<(&Share, u32)> = factors.iter().map(|f| (f, 32)).collect();
        let planes = [&equal_high, &borrow_low, &same[0], &same[1], &lower[0], &lower[1]];
        let (wires, products) = self.and_and_open(&shares, &planes, &[(0, 1), (2, 3), (4, 5)], place)?;
        let borrow_high = less_high.xor(&products[0]);
        let change = products[1].xor(&products[2]);
        let value = self.signed_product(&wires, &low, &high)?;

        // Round 2: `in range = same ⊕ borrow·(same ⊕ lower)`, and the opening of the truncation.
        let shifted = self.add_public(&value, (1u64 << (EXP_FRAC_BITS - 1)) + (1 << 30));
        let (mut wires, products2) =
            self.and_and_open(&[(&shifted, 32)], &[&borrow_high, &change], &[(0, 1)], place)?;
        let in_range = products[1].xor(&products2[0]);
        let cut = wires.remove(0);

        // Round 3: the truncation's borrow.
        let digits = self.compare_digits(&cut, 0, EXP_FRAC_BITS)?;
        let pending = self.reduce(digits, place)?;
        let mut value = self.high_part(&cut, EXP_FRAC_BITS, out_bits, 1 << (30 - EXP_FRAC_BITS))?;
        let (_, planes) = self.exchange(&[], &[&pending.base, &pending.flips, &pending.below], place)?;
        let (borrow, _) = self.disjoint(&planes).share(self, out_bits)?;
        value.data.iter_mut().zip(borrow).for_each(|(v, b)| *v = v.wrapping_sub(b));

        // Round 4: zero outside the domain.
        self.select(&in_range, &value, out_bits, place)
    }

    /// `s_l·T_low·(1 - borrow)`, `s_l·T_low·borrow`, `s_h·T_high[j]`, `s_h·T_high[j - 1]` as shares modulo 2^32.
    fn exp_factors(&self, wire: &Wire, low: &OneHot, high: &OneHot) -> [Share; 4] {
        let n = wire.len();
        let mut data: [Vec<u64>; 4] = std::array::from_fn(|_| Vec::with_capacity(n));
        if self.is_evaluator() {
            let mask = low_mask(EXP_DIGIT_BITS) as usize;
            let rotated_low = Rotated::new(tables().exp_low.iter().copied());
            let rotated_high = Rotated::new(tables().exp_high.iter().copied());
            let sign = if self.is_first() { u64::MAX } else { 1 };
            let mut scratch = Vec::new();
            for i in 0..n {
                let (d_low, d_high) = (wire.open[i] as usize & mask, (wire.open[i] >> EXP_DIGIT_BITS) as usize & mask);
                let (no_borrow, borrow) = rotated_low.split_sum(low.bits_of(i), d_low, &mut scratch);
                let bits = high.bits_of(i);
                let here = rotated_high.sum(bits, d_high);
                let below = rotated_high.sum(bits, (d_high + mask) & mask);
                for (column, value) in data.iter_mut().zip([no_borrow, borrow, here, below]) {
                    column.push(sign.wrapping_mul(value));
                }
            }
        }
        data.map(|data| Share { rows: wire.rows, cols: wire.cols, bits: 32, data })
    }

    /// `s_l·s_h·(u_0·v_0 + u_1·v_1)` of the four opened factors.
    fn signed_product(&mut self, wires: &[Wire], low: &OneHot, high: &OneHot) -> Result<Share, ProtocolError> {
        let [u0, u1, v0, v1] = wires else { unreachable!("four factors") };
        let n = u0.len();
        let signs: Vec<u64> = if matches!(self.role, Role::Source(_)) {
            (0..n).map(|i| low.sign_of(i).wrapping_mul(high.sign_of(i))).collect()
        } else {
            Vec::new()
        };
        let plain = self.correct(n, 32, |i| signs[i])?;
        let mut by = Vec::with_capacity(4);
        for wire in [u0, u1, v0, v1] {
            by.push(self.correct(n, 32, |i| signs[i].wrapping_mul(wire.mask[i]))?);
        }
        let mut data = self.correct(n, 32, |i| {
            let cross = u0.mask[i].wrapping_mul(v0.mask[i]).wrapping_add(u1.mask[i].wrapping_mul(v1.mask[i]));
            signs[i].wrapping_mul(cross)
        })?;
        for (i, value) in data.iter_mut().enumerate() {
            let (a0, a1, b0, b1) = (u0.open[i], u1.open[i], v0.open[i], v1.open[i]);
            let public = a0.wrapping_mul(b0).wrapping_add(a1.wrapping_mul(b1));
            *value = value
                .wrapping_add(plain[i].wrapping_mul(public))
                .wrapping_sub(b0.wrapping_mul(by[0][i]))
                .wrapping_sub(b1.wrapping_mul(by[1][i]))
                .wrapping_sub(a0.wrapping_mul(by[2][i]))
                .wrapping_sub(a1.wrapping_mul(by[3][i]));
        }
        Ok(Share { rows: u0.rows, cols: u0.cols, bits: 32, data })
    }

    /// 0 below -16, `x - table(x)` on [-16, 16), `x` above. Rounds: 5.
    pub(super) fn gate_of(
        &mut self,
        x: &Wire,
        table: &LinearTable,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        const LOW: u32 = GATE_LOW_BITS;
        const INDEX: u32 = GATE_INDEX_BITS;
        const TOP_START: u32 = LOW + INDEX;
        const TOP: u32 = 32 - TOP_START;
        // x + 16 makes the domain [0, 32), whose bits are the index and what lies below it.
        let offset = 1u64 << (TOP_START - 1);
        let modulus = low_mask(32);
        let narrow = |data: &[u64], add: u64| data.iter().map(|v| v.wrapping_add(add) & modulus).collect::<Vec<u64>>();
        let wire = Wire { bits: 32, open: narrow(&x.open, offset), mask: narrow(&x.mask, 0), mask0: Vec::new(), ..*x };
        let (n, held) = (wire.len(), self.is_evaluator());
        let index = self.one_hot(&wire, LOW, INDEX)?;
        let low = self.compare_digits(&wire, 0, LOW)?;
        let mask = low_mask(INDEX) as usize;
        let (less_index, equal_index) = index.compare(n, held, |i| (i, (wire.open[i] >> LOW) as usize & mask));
        let split = TOP / 2;
        let top: Vec<(OneHot, u32)> = vec![
            (self.one_hot(&wire, TOP_START, split)?, TOP_START),
            (self.one_hot(&wire, TOP_START + split, TOP - split)?, TOP_START + split),
        ];
        let [same, lower] = self.zero_candidates(&wire, &top, TOP_START, TOP);
        let top_digit = |i: usize, from: u32, width: u32| (wire.open[i] >> from) as usize & low_mask(width) as usize;
        let (less_top, equal_top) = top[0].0.compare(n, held, |i| (i, top_digit(i, TOP_START, split)));
        let (sign_top, flips_top) = top[1].0.sign(n, held, |i| (i, top_digit(i, TOP_START + split, TOP - split)));

        // Round 1: lookups of intercept and slope at both candidates of the index, and products of bits.
        let lookups = self.gate_lookups(&wire, &index, table);
        let shares: Vec<(&Share, u32)> = lookups.iter().map(|f| (f, 32)).collect();
        let planes =
            [&low[1].1, &low[0].0, &same[0], &same[1], &lower[0], &lower[1], &flips_top, &less_top, &equal_top];
        let pairs = [(0, 1), (2, 3), (4, 5), (6, 7), (6, 8)];
        let (lines, products) = self.and_and_open(&shares, &planes, &pairs, place)?;
        let borrow_low = low[1].0.xor(&products[0]);
        let (same, change) = (products[1].clone(), products[1].xor(&products[2]));
        let (sign_top, flips) = (sign_top.xor(&products[3]), products[4].clone());

        // Round 2: the borrow into the index in clear under its mask, and the borrow out of it.
        let (_, planes) = self.exchange(&[], &[&borrow_low, &equal_index], place)?;
        let borrow_index = {
            let mut product = self.and_opened(&planes[1], &planes[0])?;
            product.words.iter_mut().zip(&less_index.words).for_each(|(p, l)| *p ^= l);
            product
        };
        let line = self.signed_line(&lines, &wire_without(&wire, offset), &planes[0], &index)?;

        // Round 3: range and sign, and the opening of the line's truncation.
        let shift = GATE_SLOPE_FRAC_BITS;
        let shifted = self.add_public(&line, (1u64 << (shift - 1)) + (1 << 30));
        let planes = [&borrow_index, &change, &flips];
        let (mut wires, products) = self.and_and_open(&[(&shifted, 32)], &planes, &[(0, 1), (0, 2)], place)?;
        let in_range = same.xor(&products[0]);
        let negative = sign_top.xor(&products[1]);
        let cut = wires.remove(0);

        // Round 4: the truncation's borrow.
        let digits = self.compare_digits(&cut, 0, shift)?;
        let pending = self.reduce(digits, place)?;
        let mut value = self.high_part(&cut, shift, x.bits, 1 << (30 - shift))?;
        let (_, planes) = self.exchange(&[], &[&pending.base, &pending.flips, &pending.below], place)?;
        let (borrow, _) = self.disjoint(&planes).share(self, x.bits)?;
        value.data.iter_mut().zip(borrow).for_each(|(v, b)| *v = v.wrapping_sub(b));

        // Round 5: x·(1 - negative) - line·in_range.
        self.gate_output(x, &value, &negative, &in_range, place)
    }

    /// The product of two planes that are already open.
    fn and_opened(&mut self, x: &OpenBits, y: &OpenBits) -> Result<Bits, ProtocolError> {
        let mut product = self.correct_plane(x.n, |w| x.rho[w] & y.rho[w])?;
        let first = self.is_first();
        for (w, word) in product.words.iter_mut().enumerate() {
            let public = if first { x.hat[w] & y.hat[w] } else { 0 };
            *word ^= public ^ (x.hat[w] & y.rho[w]) ^ (y.hat[w] & x.rho[w]);
        }
        Ok(product)
    }

    fn gate_output(
        &mut self,
        x: &Wire,
        line: &Share,
        negative: &Bits,
        in_range: &Bits,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        let (wires, planes) = self.exchange(&[(line, x.bits)], &[negative, in_range], place)?;
        let negative = self.single(&planes[0]);
        let (_, monomials) = negative.share(self, x.bits)?;
        let dropped = negative.times(self, x, &monomials)?;
        let in_range = self.single(&planes[1]);
        let (_, monomials) = in_range.share(self, x.bits)?;
        let line = in_range.times(self, &wires[0], &monomials)?;
        let mut out = self.share_of(x);
        for (i, value) in out.data.iter_mut().enumerate() {
            *value = value.wrapping_sub(dropped[i]).wrapping_sub(line[i]);
        }
        Ok(out)
    }

    /// `s·a[j]`, `s·b[j]`, `s·(a[j-1] - a[j])`, `s·(b[j-1] - b[j])` as shares modulo 2^32.
    fn gate_lookups(&self, wire: &Wire, index: &OneHot, table: &LinearTable) -> [Share; 4] {
        let n = wire.len();
        let mut data: [Vec<u64>; 4] = std::array::from_fn(|_| Vec::with_capacity(n));
        if self.is_evaluator() {
            let mask = low_mask(GATE_INDEX_BITS) as usize;
            let intercept = Rotated::new(table.intercept.iter().map(|&v| v as u64));
            let slope = Rotated::new(table.slope.iter().map(|&v| v as u64));
            let sign = if self.is_first() { u64::MAX } else { 1 };
            for i in 0..n {
                let bits = index.bits_of(i);
                let digit = (wire.open[i] >> GATE_LOW_BITS) as usize & mask;
                let below = (digit + mask) & mask;
                let (a, b) = (intercept.sum(bits, digit), slope.sum(bits, digit));
                let (a1, b1) = (intercept.sum(bits, below), slope.sum(bits, below));
                for (column, value) in data.iter_mut().zip([a, b, a1.wrapping_sub(a), b1.wrapping_sub(b)]) {
                    column.push(sign.wrapping_mul(value));
                }
            }
        }
        data.map(|data| Share { rows: wire.rows, cols: wire.cols, bits: 32, data })
    }

    /// `s·(a + b·x + borrow·(da + db·x))` modulo 2^32, the borrow opened under its mask; 10 corrections an element.
    fn signed_line(
        &mut self,
        lines: &[Wire],
        x: &Wire,
        borrow: &OpenBits,
        index: &OneHot,
    ) -> Result<Share, ProtocolError> {
        let [a, b, da, db] = lines else { unreachable!("four lookups") };
        let n = x.len();
        let source = matches!(self.role, Role::Source(_));
        let signs: Vec<u64> = if source { (0..n).map(|i| index.sign_of(i)).collect() } else { Vec::new() };
        let flipped: Vec<u64> =
            if source { (0..n).map(|i| signs[i].wrapping_mul(bit(&borrow.rho, i))).collect() } else { Vec::new() };
        let cross = |i: usize, slope: &Wire, intercept: &Wire| {
            slope.mask[i].wrapping_mul(x.mask[i]).wrapping_sub(intercept.mask[i])
        };
        let s = self.correct(n, 32, |i| signs[i])?;
        let s_x = self.correct(n, 32, |i| signs[i].wrapping_mul(x.mask[i]))?;
        let s_b = self.correct(n, 32, |i| signs[i].wrapping_mul(b.mask[i]))?;
        let s_base = self.correct(n, 32, |i| signs[i].wrapping_mul(cross(i, b, a)))?;
        let s_db = self.correct(n, 32, |i| signs[i].wrapping_mul(db.mask[i]))?;
        let s_delta = self.correct(n, 32, |i| signs[i].wrapping_mul(cross(i, db, da)))?;
        let f = self.correct(n, 32, |i| flipped[i])?;
        let f_x = self.correct(n, 32, |i| flipped[i].wrapping_mul(x.mask[i]))?;
        let f_db = self.correct(n, 32, |i| flipped[i].wrapping_mul(db.mask[i]))?;
        let f_delta = self.correct(n, 32, |i| flipped[i].wrapping_mul(cross(i, db, da)))?;
        // factor·(â + b̂·x̂) - x̂·[factor r_b] - b̂·[factor r_x] + [factor·(r_b·r_x - r_a)]
        let affine = |i: usize, a: u64, b: u64, one: &[u64], by_b: &[u64], by_x: &[u64], rest: &[u64]| {
            let x = x.open[i];
            one[i]
                .wrapping_mul(a.wrapping_add(b.wrapping_mul(x)))
                .wrapping_sub(x.wrapping_mul(by_b[i]))
                .wrapping_sub(b.wrapping_mul(by_x[i]))
                .wrapping_add(rest[i])
        };
        let mut data = Vec::new();
        if self.is_evaluator() {
            data.extend((0..n).map(|i| {
                let hat = bit(&borrow.hat, i);
                let base = affine(i, a.open[i], b.open[i], &s, &s_b, &s_x, &s_base);
                let delta = affine(i, da.open[i], db.open[i], &s, &s_db, &s_x, &s_delta);
                let flip = affine(i, da.open[i], db.open[i], &f, &f_db, &f_x, &f_delta);
                base.wrapping_add(hat.wrapping_mul(delta)).wrapping_add(sign(hat).wrapping_mul(flip))
            }));
        }
        Ok(Share { rows: x.rows, cols: x.cols, bits: 32, data })
    }

    /// A piecewise linear function of a positive value. Rounds: 2 + ceil(log2(digits)).
    ///
    /// One opening of `s`; then one comparison a threshold and one borrow a shift, all over the same one-hot vectors;
    /// then one opening of the selected slopes and the shifted arguments.
    pub(super) fn piecewise_of(
        &mut self,
        s: &Share,
        table: &Piecewise,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        let (mut wires, _) = self.exchange(&[(s, table.ring_bits)], &[], place)?;
        let wire = wires.remove(0);
        let rows = wire.len();
        // Shift classes in order of appearance.
        let mut shifts: Vec<u32> = Vec::new();
        table.shift.iter().for_each(|c| {
            if !shifts.contains(c) {
                shifts.push(*c)
            }
        });
        // The first threshold is never compared: below it the first interval applies.
        let thresholds = table.threshold.len() - 1;
        let per_row = thresholds + shifts.len();
        let pending = self.compare_thresholds(&wire, table, &shifts, per_row, place)?;
        let (_, bits) = self.finish(&pending, &[], place)?;
        let (negative, _) = bits.share(self, 64)?;

        let mut shifted = Vec::new();
        for (c, &shift) in shifts.iter().enumerate() {
            let mut part = if shift == 0 {
                Share { bits: 64, ..self.widened(&wire)? }
            } else {
                self.high_part(&wire, shift, 64, 0)?
            };
            if shift > 0 && self.is_evaluator() {
                for (row, value) in part.data.iter_mut().enumerate() {
                    *value = value.wrapping_sub(negative[row * per_row + thresholds + c]);
                }
            }
            shifted.push(part);
        }
        let (intercepts, slopes) = self.selected_lines(table, &shifts, &negative, rows, per_row);
        let parts: Vec<(&Share, u32)> = slopes.iter().chain(&shifted).map(|s| (s, 64)).collect();
        let (wires, _) = self.exchange(&parts, &[], place)?;
        let mut out = Share { rows: s.rows, cols: s.cols, bits: 64, data: intercepts };
        for c in 0..shifts.len() {
            let product = self.multiply(&wires[c], &wires[shifts.len() + c])?;
            out.data.iter_mut().zip(product.data).for_each(|(o, p)| *o = o.wrapping_add(p));
        }
        Ok(out)
    }

    /// A non-negative wire below half its ring as a share modulo 2^64.
    fn widened(&mut self, wire: &Wire) -> Result<Share, ProtocolError> {
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

    /// Signs of `s - threshold`, then borrows out of the low `shift` bits, over one set of one-hot vectors a row.
    fn compare_thresholds(
        &mut self,
        wire: &Wire,
        table: &Piecewise,
        shifts: &[u32],
        per_row: usize,
        place: &'static str,
    ) -> Result<Pending, ProtocolError> {
        let (rows, held, first) = (wire.len(), self.is_evaluator(), self.is_first());
        let (k, width) = (table.ring_bits, table.digit_bits);
        let n = rows * per_row;
        let thresholds = per_row - shifts.len();
        let threshold = |e: usize| table.threshold.get(e % per_row + 1).copied().filter(|_| e % per_row < thresholds);
        let public = |e: usize| wire.open[e / per_row].wrapping_sub(threshold(e).unwrap_or(0)) & low_mask(k);
        let shift_of = |e: usize| (e % per_row).checked_sub(thresholds).map(|c| shifts[c]);
        let mask = low_mask(width) as usize;
        let mut digits = Vec::new();
        for d in 0..k / width {
            let vectors = self.one_hot(wire, d * width, width)?;
            let at = |e: usize| (e / per_row, (public(e) >> (d * width)) as usize & mask);
            let (mut less, mut equal) =
                if (d + 1) * width == k { vectors.sign(n, held, at) } else { vectors.compare(n, held, at) };
            // A borrow ignores the digits above its shift: not less, equal.
            for row in 0..if held { rows } else { 0 } {
                for e in row * per_row + thresholds..(row + 1) * per_row {
                    if shift_of(e).is_some_and(|c| d * width >= c) {
                        let one = 1u64 << (e % 64);
                        less.words[e / 64] &= !one;
                        equal.words[e / 64] =
                            if first { equal.words[e / 64] | one } else { equal.words[e / 64] & !one };
                    }
                }
            }
            digits.push((less, equal));
        }
        self.reduce(digits, place)
    }

    /// Intercept, and slope within each shift class, of the interval that holds `s`: sums over its threshold bits.
    fn selected_lines(
        &self,
        table: &Piecewise,
        shifts: &[u32],
        negative: &[u64],
        rows: usize,
        per_row: usize,
    ) -> (Vec<u64>, Vec<Share>) {
        let slope_in = |c: u32, j: usize| if table.shift[j] == c { table.slope[j] } else { 0 };
        let mut intercepts = Vec::new();
        let mut slopes: Vec<Vec<u64>> = vec![Vec::new(); shifts.len()];
        if self.is_evaluator() {
            let first = self.is_first();
            for row in 0..rows {
                // [s >= threshold] = 1 - negative.
                let reached = |j: usize| (u64::from(first)).wrapping_sub(negative[row * per_row + j - 1]);
                let sum = |value: &dyn Fn(usize) -> u64| {
                    let start = if first { value(0) } else { 0 };
                    (1..table.threshold.len()).fold(start, |sum, j| {
                        sum.wrapping_add(value(j).wrapping_sub(value(j - 1)).wrapping_mul(reached(j)))
                    })
                };
                intercepts.push(sum(&|j| table.intercept[j]));
                for (column, &c) in slopes.iter_mut().zip(shifts) {
                    column.push(sum(&|j| slope_in(c, j)));
                }
            }
        }
        let share = |data| Share { rows: 1, cols: rows, bits: 64, data };
        (intercepts, slopes.into_iter().map(share).collect())
    }
}

/// The wire with a public offset taken off again.
fn wire_without(wire: &Wire, offset: u64) -> Wire {
    Wire { open: wire.open.iter().map(|v| v.wrapping_sub(offset)).collect(), ..wire.clone() }
}
