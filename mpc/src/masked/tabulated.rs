//! Tabulated functions (exp, SiLU, GeLU, sigmoid, tanh): a line looked up by the middle digit of one opening, a tail
//! beyond its domain.
//!
//! With `x̂ = x + r` opened, the index of `x` is the difference of the middle digits of `x̂` and `r`, less the borrow
//! `β` of the digits below. Both candidates are looked up at once ([`super::lookup`]); `β` enters the line's product
//! from its opened form. Whether `x` lies in the domain and whether it is negative are products of equalities and
//! borrows of the same digits. The line is exact modulo `2^24`, cut by a borrow that is joined with the domain bit.
//!
//! Rounds after the opening: 3 for few elements, or 4 where the digits below the index are more than 9 bits, 5 for many
//! (the borrow and the products of top digits, the last conversion, each in a round of its own, for fewer corrections).

use marill_numeric::fixed::low_mask;
use marill_numeric::tables::{INDEX_BITS, LINE_BITS, LinearTable, Tail, tables};

use super::bits::{Bits, OneHot, OpenBits, Planes, bit, split};
use super::lookup::Rotated;
use super::truncate::{Affine, sign};
use super::{Masked, ProtocolError, Role, Share, Wire};

/// Width of an argument: the domain and what lies beyond.
pub(super) const ARG_BITS: u32 = 32;

/// Planes to be opened together, named by their place in the list.
#[derive(Default)]
struct Opening<'a> {
    planes: Vec<&'a Bits>,
}

impl<'a> Opening<'a> {
    fn add(&mut self, plane: &'a Bits) -> Planes {
        self.planes.push(plane);
        1 << (self.planes.len() - 1)
    }

    fn all(&mut self, planes: &'a [Bits]) -> Planes {
        planes.iter().fold(0, |set, plane| set | self.add(plane))
    }

    /// The products of a comparison of digits, lowest first, beside the top digit's `less`: each lower `less` and-ed
    /// with the equalities above it and, if asked for, the equalities alone.
    fn chain(&mut self, digits: &'a [(Bits, Bits)], with_equal: bool) -> Vec<Planes> {
        let mut terms = Vec::new();
        let mut above = 0;
        for (d, (less, equal)) in digits.iter().enumerate().rev() {
            if d + 1 < digits.len() {
                terms.push(above | self.add(less));
            }
            if d > 0 || with_equal {
                above |= self.add(equal);
            }
        }
        if with_equal && !digits.is_empty() {
            terms.push(above);
        }
        terms
    }
}

/// Bits of an element's position, XOR-shared: products of planes that have not been taken yet are lists.
struct Position {
    /// Borrow of the digits below the index.
    borrow: Bits,
    /// `[index digit < mask's]` and `[=]`, of the argument less the domain's start.
    index: (Bits, Bits),
    /// All top bits zero if no borrow reaches them, and if one does.
    same: Vec<Bits>,
    lower: Vec<Bits>,
    /// What the sign needs, where there is one.
    sign: Option<SignPosition>,
}

/// `base ⊕ Π top ⊕ Π prefix · (less ⊕ equal·borrow)`.
struct SignPosition {
    base: Bits,
    top: Vec<Bits>,
    prefix: Vec<Bits>,
    index: (Bits, Bits),
}

impl Masked {
    /// [`marill_numeric::functions::exp_neg`] of a share, modulo `2^out_bits`.
    pub(super) fn exp_of_negative(
        &mut self,
        y: &Share,
        out_bits: u32,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        let (mut wires, _) = self.exchange(&[(y, ARG_BITS)], &[], place)?;
        self.tabulated(&wires.remove(0), &tables().exp, out_bits, place)
    }

    /// [`marill_numeric::functions::linear`] of a wire of at least 32 bits, as a share modulo `2^out_bits`; with a tail
    /// of [`Tail::Relu`], `out_bits` is the wire's width.
    pub(super) fn tabulated(
        &mut self,
        x: &Wire,
        table: &LinearTable,
        out_bits: u32,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        let modulus = low_mask(ARG_BITS);
        let narrow =
            |data: &[u64], less: u64| data.iter().map(|v| v.wrapping_sub(less) & modulus).collect::<Vec<u64>>();
        let (open, mask) = (narrow(&x.open, table.start as u64), narrow(&x.mask, 0));
        let wire = Wire { rows: x.rows, cols: x.cols, bits: ARG_BITS, open, mask, mask0: Vec::new() };
        if self.points(wire.len()) {
            return self.tabulated_by_points(x, &wire, table, out_bits, place);
        }
        let index = self.one_hot(&wire, table.low_bits, INDEX_BITS)?;
        let position = self.position(x, &wire, &index, table, place)?;

        // The lookups, and the bits of the position.
        let lookups = self.line_lookups(&wire, &index, table);
        let shares: Vec<(&Share, u32)> = lookups.iter().map(|f| (f, LINE_BITS)).collect();
        let (lines, opened, in_domain, negative) = self.locate(&shares, &position, place)?;
        let source = matches!(self.role, Role::Source(_));
        let signs: Vec<u64> = if source { (0..x.len()).map(|i| index.sign_of(i)).collect() } else { Vec::new() };
        let line = self.signed_line(&lines, x, &opened, &signs)?;

        // The opening of the line's truncation.
        let shift = table.slope_frac_bits;
        let shifted = self.add_public(&line, self.half(shift) + (1 << (LINE_BITS - 2)));
        let bits: Vec<&Bits> = std::iter::once(&in_domain).chain(&negative).collect();
        let (mut wires, opened) = self.exchange(&[(&shifted, LINE_BITS)], &bits, place)?;
        let mut out = self.gated_cut(&wires.remove(0), &opened[0], &in_domain, shift, out_bits, place)?;
        if let Some(negative) = opened.get(1) {
            self.add_tail(&mut out, x, table.tail, negative)?;
        }
        Ok(out)
    }

    /// Bits of the position from the digits of the opening; for many elements one round joins what it can.
    fn position(
        &mut self,
        x: &Wire,
        wire: &Wire,
        index: &OneHot,
        table: &LinearTable,
        place: &'static str,
    ) -> Result<Position, ProtocolError> {
        let (n, held, low) = (wire.len(), self.is_evaluator(), table.low_bits);
        let many = self.many(n);
        let (top_start, mask) = (low + INDEX_BITS, low_mask(INDEX_BITS) as usize);
        // A vector of 2^9 bits is dear enough.
        let digits = if many { 3 } else { low.div_ceil(INDEX_BITS) };
        let below = self.compare_digits(wire, &split(0, low, digits))?;
        let mut top: Vec<(OneHot, u32)> = Vec::new();
        for (from, width) in split(top_start, ARG_BITS - top_start, if many { 3 } else { 2 }) {
            top.push((self.one_hot(wire, from, width)?, from));
        }
        let [same, lower] = self.zero_candidates(wire, &top, top_start, ARG_BITS - top_start);
        let shifted_index = index.compare(n, held, |i| (i, (wire.open[i] >> low) as usize & mask));
        // The sign is the argument's own, not that of its distance to the domain's start.
        let mut signs = Vec::new();
        if table.tail != Tail::Zero {
            for (d, (vectors, from)) in top.iter().enumerate() {
                let mask = low_mask(vectors.width) as usize;
                let at = |i: usize| (i, (x.open[i] >> from) as usize & mask);
                let last = d + 1 == top.len();
                signs.push(if last { vectors.sign(n, held, at) } else { vectors.compare(n, held, at) });
            }
        }
        let sign_index = index.compare(n, held, |i| (i, (x.open[i] >> low) as usize & mask));
        if let [(borrow, _)] = below.as_slice() {
            let borrow = borrow.clone();
            let sign = (!signs.is_empty()).then(|| {
                let [(less, equal), (base, flips)] = signs.as_slice() else { unreachable!("two digits") };
                let (top, prefix) = (vec![flips.clone(), less.clone()], vec![flips.clone(), equal.clone()]);
                SignPosition { base: base.clone(), top, prefix, index: sign_index }
            });
            return Ok(Position { borrow, index: shifted_index, same, lower, sign });
        }
        let mut opening = Opening::default();
        let (mut terms, borrows) = (opening.chain(&below, false), below.len() - 1);
        terms.extend([opening.all(&same), opening.all(&lower)]);
        terms.extend(opening.chain(&signs, true));
        let (_, mut products) = self.products(&[], &opening.planes, &terms, place)?;
        let sum = |base: &Bits, products: &[Bits]| products.iter().fold(base.clone(), |sum, p| sum.xor(p));
        let borrow = sum(&below[borrows].0, &products[..borrows]);
        let mut signs_and = products.split_off(borrows + 2);
        let sign = signs.last().map(|(base, _)| {
            let prefix = signs_and.split_off(signs.len() - 1);
            SignPosition { base: sum(base, &signs_and), top: Vec::new(), prefix, index: sign_index }
        });
        let (same, lower) = (vec![products.swap_remove(borrows)], vec![products.swap_remove(borrows)]);
        Ok(Position { borrow, index: shifted_index, same, lower, sign })
    }

    /// Opens the lookups and the borrow, and joins the position's bits: the lookups, the opened borrow, whether the
    /// argument lies in the domain, and whether it is negative.
    fn locate(
        &mut self,
        lookups: &[(&Share, u32)],
        position: &Position,
        place: &'static str,
    ) -> Result<(Vec<Wire>, OpenBits, Bits, Option<Bits>), ProtocolError> {
        let mut opening = Opening::default();
        let borrow = opening.add(&position.borrow);
        let (less, equal) = (opening.add(&position.index.0), opening.add(&position.index.1) | borrow);
        let (same, lower) = (opening.all(&position.same), opening.all(&position.lower));
        // same ⊕ (same ⊕ lower)·(less ⊕ equal·borrow)
        let mut terms = vec![same, same | less, same | equal, lower | less, lower | equal];
        let in_domain = terms.len();
        if let Some(sign) = &position.sign {
            let (less, equal) = (opening.add(&sign.index.0), opening.add(&sign.index.1) | borrow);
            let prefix = opening.all(&sign.prefix);
            terms.extend([prefix | less, prefix | equal]);
            if let [flips, top] = sign.top.as_slice() {
                terms.push(opening.add(flips) | opening.add(top));
            }
        }
        let (lines, mut opened) = self.exchange(lookups, &opening.planes, place)?;
        let products = self.opened_products(&opened, &terms)?;
        let sum = |products: &[Bits]| products[1..].iter().fold(products[0].clone(), |sum, p| sum.xor(p));
        let negative = position.sign.as_ref().map(|sign| sign.base.xor(&sum(&products[in_domain..])));
        Ok((lines, opened.remove(0), sum(&products[..in_domain]), negative))
    }

    /// `s·a[j]`, `s·b[j]`, `s·(a[j-1] - a[j])`, `s·(b[j-1] - b[j])` as shares modulo `2^24`.
    pub(super) fn line_lookups(&self, wire: &Wire, index: &OneHot, table: &LinearTable) -> [Share; 4] {
        let n = wire.len();
        let mut data: [Vec<u64>; 4] = std::array::from_fn(|_| Vec::with_capacity(n));
        if self.is_evaluator() {
            let mask = low_mask(INDEX_BITS) as usize;
            let intercept = Rotated::new(table.intercept.iter().map(|&v| v as u64));
            let slope = Rotated::new(table.slope.iter().map(|&v| v as u64));
            let sign = if self.is_first() { u64::MAX } else { 1 };
            for i in 0..n {
                let bits = index.bits_of(i);
                let digit = (wire.open[i] >> table.low_bits) as usize & mask;
                let below = (digit + mask) & mask;
                let (a, b) = (intercept.sum(bits, digit), slope.sum(bits, digit));
                let (a1, b1) = (intercept.sum(bits, below), slope.sum(bits, below));
                for (column, value) in data.iter_mut().zip([a, b, a1.wrapping_sub(a), b1.wrapping_sub(b)]) {
                    column.push(sign.wrapping_mul(value));
                }
            }
        }
        data.map(|data| Share { rows: wire.rows, cols: wire.cols, bits: LINE_BITS, data })
    }

    /// `s·(a + b·x + borrow·(da + db·x))` modulo `2^24`, the borrow opened under its mask; 10 corrections an element.
    /// The source knows the factors `s`.
    pub(super) fn signed_line(
        &mut self,
        lines: &[Wire],
        x: &Wire,
        borrow: &OpenBits,
        signs: &[u64],
    ) -> Result<Share, ProtocolError> {
        let [a, b, da, db] = lines else { unreachable!("four lookups") };
        let n = x.len();
        let source = matches!(self.role, Role::Source(_));
        let flipped: Vec<u64> =
            if source { (0..n).map(|i| signs[i].wrapping_mul(bit(&borrow.rho, i))).collect() } else { Vec::new() };
        let cross = |i: usize, slope: &Wire, intercept: &Wire| {
            slope.mask[i].wrapping_mul(x.mask[i]).wrapping_sub(intercept.mask[i])
        };
        let s = self.correct(n, LINE_BITS, |i| signs[i])?;
        let s_x = self.correct(n, LINE_BITS, |i| signs[i].wrapping_mul(x.mask[i]))?;
        let s_b = self.correct(n, LINE_BITS, |i| signs[i].wrapping_mul(b.mask[i]))?;
        let s_base = self.correct(n, LINE_BITS, |i| signs[i].wrapping_mul(cross(i, b, a)))?;
        let s_db = self.correct(n, LINE_BITS, |i| signs[i].wrapping_mul(db.mask[i]))?;
        let s_delta = self.correct(n, LINE_BITS, |i| signs[i].wrapping_mul(cross(i, db, da)))?;
        let f = self.correct(n, LINE_BITS, |i| flipped[i])?;
        let f_x = self.correct(n, LINE_BITS, |i| flipped[i].wrapping_mul(x.mask[i]))?;
        let f_db = self.correct(n, LINE_BITS, |i| flipped[i].wrapping_mul(db.mask[i]))?;
        let f_delta = self.correct(n, LINE_BITS, |i| flipped[i].wrapping_mul(cross(i, db, da)))?;
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
        Ok(Share { rows: x.rows, cols: x.cols, bits: LINE_BITS, data })
    }

    /// `gate · floor(z / 2^shift)` for an opened `ẑ = z + r` and a bit whose plane is open: the high part times the
    /// bit, less the borrow and-ed with it.
    fn gated_cut(
        &mut self,
        wire: &Wire,
        gate: &OpenBits,
        gate_bits: &Bits,
        shift: u32,
        out_bits: u32,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        let (n, k) = (wire.len(), wire.bits);
        let gate_form = self.single(gate);
        let (gate_share, _) = gate_form.share(self, out_bits)?;
        let high = |i: usize| wire.mask[i] >> shift;
        let wrap = |i: usize| (wire.mask[i] >> (k - 1)) << (k - shift);
        let hidden = |i: usize| bit(&gate.rho, i);
        let highs = self.correct(n, out_bits, high)?;
        let gated_highs = self.correct(n, out_bits, |i| hidden(i) * high(i))?;
        let wraps = self.correct(n, out_bits, wrap)?;
        let gated_wraps = self.correct(n, out_bits, |i| hidden(i) * wrap(i))?;

        let borrow = if self.rounds_by_coin(wire, shift) {
            Vec::new()
        } else {
            let borrow = self.gated_borrow(wire, gate, gate_bits, shift, place)?;
            borrow.share(self, out_bits)?.0
        };
        let offset = 1u64 << (k - 2 - shift);
        let data = (0..gate_share.len()).map(|i| {
            let public = (wire.open[i] >> shift).wrapping_sub(offset);
            let (by, stays) = (bit(&gate.hat, i), 1 - (wire.open[i] >> (k - 1)));
            let masked = |plain: u64, gated: u64| by.wrapping_mul(plain).wrapping_add(sign(by).wrapping_mul(gated));
            public
                .wrapping_mul(gate_share[i])
                .wrapping_sub(masked(highs[i], gated_highs[i]))
                .wrapping_add(stays.wrapping_mul(masked(wraps[i], gated_wraps[i])))
                .wrapping_sub(borrow.get(i).copied().unwrap_or(0))
        });
        let data = data.collect();
        Ok(Share { rows: wire.rows, cols: wire.cols, bits: out_bits, data })
    }

    /// `gate · [ẑ mod 2^f < r mod 2^f]`: from one digit and the opened gate for few elements, from digits of at most
    /// four bits and-ed with the gate's plane for many.
    fn gated_borrow(
        &mut self,
        wire: &Wire,
        gate: &OpenBits,
        gate_bits: &Bits,
        f: u32,
        place: &'static str,
    ) -> Result<Affine, ProtocolError> {
        if !self.many(wire.len()) {
            let digits = self.compare_digits(wire, &[(0, f)])?;
            let (_, mut opened) = self.exchange(&[], &[&digits[0].0], place)?;
            opened.push(gate.clone());
            return Ok(Affine::of(self, &opened, &[(1, 0b11)]));
        }
        let digits = self.compare_digits(wire, &split(0, f, f.div_ceil(4)))?;
        let mut opening = Opening::default();
        let mut above = opening.add(gate_bits);
        let mut terms = Vec::new();
        for (less, equal) in digits.iter().rev() {
            terms.push(above | opening.add(less));
            above |= opening.add(equal);
        }
        // Nothing lies below the lowest digit.
        opening.planes.pop();
        let (_, products) = self.products(&[], &opening.planes, &terms, place)?;
        let borrow = products[1..].iter().fold(products[0].clone(), |sum, p| sum.xor(p));
        let (_, opened) = self.exchange(&[], &[&borrow], place)?;
        Ok(self.single(&opened[0]))
    }

    /// Adds the tail, chosen by the opened sign.
    fn add_tail(&mut self, out: &mut Share, x: &Wire, tail: Tail, negative: &OpenBits) -> Result<(), ProtocolError> {
        let form = self.single(negative);
        let (share, monomials) = form.share(self, out.bits)?;
        match tail {
            Tail::Zero => {}
            Tail::Relu => {
                debug_assert_eq!(out.bits, x.bits, "the tail is the wire itself");
                let dropped = form.times(self, x, &monomials)?;
                let x = self.share_of(x);
                for (i, value) in out.data.iter_mut().enumerate() {
                    *value = value.wrapping_add(x.data[i]).wrapping_sub(dropped[i]);
                }
            }
            Tail::Step { low, high } => {
                let rise = high.wrapping_sub(low) as u64;
                let public = if self.is_first() { high as u64 } else { 0 };
                for (value, negative) in out.data.iter_mut().zip(share) {
                    *value = value.wrapping_add(public).wrapping_sub(rise.wrapping_mul(negative));
                }
            }
        }
        Ok(())
    }
}
