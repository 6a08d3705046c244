//! Tabulated functions (exp, SiLU, GeLU, sigmoid, tanh): a line looked up by the middle digit of
//! one opening, a tail beyond its domain.
//!
//! With `x̂ = x + r` opened, the index of `x` is the difference of the middle digits of `x̂` and
//! `r`, less the borrow `β` of the digits below. The line of the larger candidate and the change of
//! slope at its left end are looked up at once ([`crate::masked::onehot::lut`]); `β` enters their
//! product from its opened form. Whether `x` lies in the domain and whether it is negative are
//! products of equalities and borrows of the same digits. The piece is exact modulo `2^24`,
//! truncated by a borrow that is joined with the domain bit.
//!
//! Rounds after the opening: 3 for few elements, or 4 where the digits below the index are more
//! than 9 bits, 5 for many (the borrow and the products of top digits, the last conversion, each in
//! a round of its own, for fewer corrections).

use std::num::Wrapping;

use marill_numeric::{
    Word,
    fixed::low_mask,
    tables::{INDEX_BITS, LinearTable, PIECE_BITS, Tail},
};

use crate::{
    error::ProtocolError,
    masked::{
        Masked, Role,
        boolean::{Bits, OneHot, OpenBits, Planes, bit, split},
        onehot::{
            affine::{Affine, sign},
            lut::Rotated,
        },
        share::{Share, Wire},
    },
};

/// Width of an argument: the domain and what lies beyond.
pub(in crate::masked) const ARG_BITS: u32 = 32;

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

    /// All products of a comparison of digits, lowest first: each `less` and-ed with the equalities
    /// above it.
    fn comparison(&mut self, digits: &'a [(Bits, Bits)]) -> Vec<Planes> {
        let mut above = 0;
        let mut terms = Vec::new();
        for (d, (less, equal)) in digits.iter().enumerate().rev() {
            terms.push(above | self.add(less));
            if d > 0 {
                above |= self.add(equal);
            }
        }
        terms
    }

    /// The products of a comparison of digits, lowest first, beside the top digit's `less`: each
    /// lower `less` and-ed with the equalities above it and, if asked for, the equalities alone.
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

/// Bits of an element's position, XOR-shared: products of planes that have not been taken yet are
/// lists.
struct Position {
    /// Borrow of the digits below the index.
    borrow: Bits,
    /// `[index digit < mask's]` and `[=]`, of the argument less the domain's start.
    index: (Bits, Bits),
    /// All MSBs zero if no borrow reaches them, and if one does.
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

/// How a piece becomes a result: what to truncate, the result's width, and what the bias has become
/// by then.
#[derive(Clone, Copy)]
struct PieceTruncation {
    shift: u32,
    out_bits: u32,
    offset: u64,
}

impl Masked {
    /// [`Self::tabulated`] of a share, without a tail of [`Tail::Relu`].
    pub(in crate::masked) fn tabulated_share(
        &mut self,
        y: &Share,
        table: &LinearTable,
        out_bits: u32,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let (mut wires, _) = self.exchange(&[(y, ARG_BITS)], &[], label)?;
        self.tabulated(&wires.remove(0), None, table, out_bits, label)
    }

    /// [`marill_numeric::functions::linear`] of a wire of at least 32 bits, as a share modulo
    /// `2^out_bits`; with a tail of [`Tail::Relu`], `out_bits` is the wire's width, or that of the
    /// share of which the wire is a narrow opening.
    pub(in crate::masked) fn tabulated(
        &mut self,
        x: &Wire,
        wide: Option<&Share>,
        table: &LinearTable,
        out_bits: u32,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let wire = x.narrowed(ARG_BITS, table.start as u64);
        if self.uses_dcf(wire.len()) {
            return self.tabulated_by_dcf(x, &wire, table, out_bits, label);
        }
        // The mask's middle digit as a one-hot vector: it compares, and it looks up.
        let index = self.one_hot(&wire, table.low_bits, INDEX_BITS)?;
        let position = self.position(x, &wire, &index, table, label)?;

        // The lookups, and the bits of the position.
        let lookups = self.piece_lookups(&wire, &index, table);
        let shares: Vec<(&Share, u32)> = lookups.iter().map(|f| (f, PIECE_BITS)).collect();
        let (pieces, opened, in_domain, negative) = self.locate(&shares, &position, label)?;
        let signs = self.signs(&index);
        let piece = self.signed_piece(&pieces, &wire, &opened, &signs, table.low_bits)?;

        // The opening of the line's truncation.
        let shift = table.slope_frac_bits;
        let shifted = self.add_constant(&piece, self.half(shift) + table.bias as u64);
        let bits: Vec<&Bits> = std::iter::once(&in_domain).chain(&negative).collect();
        let (mut wires, opened) = self.exchange_masked(&[(&shifted, PIECE_BITS)], &bits, label)?;
        let truncation = PieceTruncation {
            shift,
            out_bits,
            offset: (table.bias >> shift) as u64,
        };
        let mut out =
            self.gated_truncation(&wires.remove(0), &opened[0], &in_domain, truncation, label)?;
        if let Some(negative) = opened.get(1) {
            self.add_tail(&mut out, x, wide, table.tail, negative)?;
        }
        Ok(out)
    }

    /// Bits of the position from the digits of the opening; for many elements one round joins what
    /// it can.
    fn position(
        &mut self,
        x: &Wire,
        wire: &Wire,
        index: &OneHot,
        table: &LinearTable,
        label: &'static str,
    ) -> Result<Position, ProtocolError> {
        let n = wire.len();
        let held = self.is_evaluator();
        let low = table.low_bits;
        let many = self.many(n);
        let top_start = low + INDEX_BITS;
        let mask = low_mask(INDEX_BITS) as usize;
        // A vector of 2^9 bits is dear enough.
        let digits = if many { 3 } else { low.div_ceil(INDEX_BITS) };
        // The borrow of the digits below the index.
        let below = self.compare_digits(wire, &split(0, low, digits))?;
        let mut top: Vec<(OneHot, u32)> = Vec::new();
        for (from, width) in split(top_start, ARG_BITS - top_start, if many { 3 } else { 2 }) {
            top.push((self.one_hot(wire, from, width)?, from));
        }
        // x lies in the domain if all its top bits are zero, with the borrow or without.
        let [same, lower] = self.zero_candidates(wire, &top, top_start, ARG_BITS - top_start);
        let shifted = wire.opened();
        let shifted_index = index.compare(n, held, |i| (i, (shifted[i] >> low) as usize & mask));
        let signs = sign_digits(x, &top, held, table.tail);
        let x_hat = x.opened();
        let sign_index = index.compare(n, held, |i| (i, (x_hat[i] >> low) as usize & mask));
        if let [(borrow, _)] = below.as_slice() {
            let borrow = borrow.clone();
            let sign = two_digit_sign(&signs, sign_index);
            return Ok(Position {
                borrow,
                index: shifted_index,
                same,
                lower,
                sign,
            });
        }
        let mut opening = Opening::default();
        let mut terms = opening.chain(&below, false);
        let borrows = below.len() - 1;
        terms.extend([opening.all(&same), opening.all(&lower)]);
        terms.extend(opening.chain(&signs, true));
        let (_, mut products) = self.products(&[], &opening.planes, &terms, label)?;
        let sum = |base: &Bits, products: &[Bits]| {
            products.iter().fold(base.clone(), |sum, p| sum.xor(p))
        };
        let borrow = sum(&below[borrows].0, &products[..borrows]);
        let mut signs_and = products.split_off(borrows + 2);
        let sign = signs.last().map(|(base, _)| {
            let prefix = signs_and.split_off(signs.len() - 1);
            SignPosition {
                base: sum(base, &signs_and),
                top: Vec::new(),
                prefix,
                index: sign_index,
            }
        });
        let same = vec![products.swap_remove(borrows)];
        let lower = vec![products.swap_remove(borrows)];
        Ok(Position {
            borrow,
            index: shifted_index,
            same,
            lower,
            sign,
        })
    }

    /// Opens the lookups and the borrow, and joins the position's bits: the lookups, the opened
    /// borrow, whether the argument lies in the domain, and whether it is negative.
    fn locate(
        &mut self,
        lookups: &[(&Share, u32)],
        position: &Position,
        label: &'static str,
    ) -> Result<(Vec<Wire>, OpenBits, Bits, Option<Bits>), ProtocolError> {
        let mut opening = Opening::default();
        let borrow = opening.add(&position.borrow);
        let less = opening.add(&position.index.0);
        let equal = opening.add(&position.index.1) | borrow;
        let same = opening.all(&position.same);
        let lower = opening.all(&position.lower);
        // same ⊕ (same ⊕ lower)·(less ⊕ equal·borrow)
        let mut terms = vec![same, same | less, same | equal, lower | less, lower | equal];
        let in_domain = terms.len();
        if let Some(sign) = &position.sign {
            let less = opening.add(&sign.index.0);
            let equal = opening.add(&sign.index.1) | borrow;
            let prefix = opening.all(&sign.prefix);
            terms.extend([prefix | less, prefix | equal]);
            if let [flips, top] = sign.top.as_slice() {
                terms.push(opening.add(flips) | opening.add(top));
            }
        }
        let (pieces, mut opened) = self.exchange(lookups, &opening.planes, label)?;
        let products = self.opened_products(&opened, &terms)?;
        let sum = |products: &[Bits]| {
            products[1..]
                .iter()
                .fold(products[0].clone(), |sum, p| sum.xor(p))
        };
        let negative = position
            .sign
            .as_ref()
            .map(|sign| sign.base.xor(&sum(&products[in_domain..])));
        Ok((
            pieces,
            opened.remove(0),
            sum(&products[..in_domain]),
            negative,
        ))
    }

    /// `s·value[j]`, `s·slope[j]`, `s·(slope[j-1] - slope[j])` and, for a function with jumps,
    /// `s·(left[j] - value[j])` for the index `j` without the borrow, as shares modulo `2^24`.
    pub(in crate::masked) fn piece_lookups(
        &self,
        wire: &Wire,
        index: &OneHot,
        table: &LinearTable,
    ) -> Vec<Share> {
        let n = wire.len();
        let mut data = vec![Vec::with_capacity(n); if table.left.is_empty() { 3 } else { 4 }];
        if self.is_evaluator() {
            let mask = low_mask(INDEX_BITS) as usize;
            let rotated = |table: &[i64]| Rotated::new(table.iter().map(|&v| v as u64));
            let value = rotated(&table.value);
            let slope = rotated(&table.slope);
            let left = (!table.left.is_empty()).then(|| rotated(&table.left));
            let sign = if self.is_first() { u64::MAX } else { 1 };
            for (i, x_hat) in wire.opened().iter().enumerate() {
                let bits = index.bits_of(i);
                let digit = (x_hat >> table.low_bits) as usize & mask;
                let v = value.sum(bits, digit);
                let b = slope.sum(bits, digit);
                // With a borrow the piece before counts: its slope, and its value at the knot.
                let slope_step = slope.sum(bits, (digit + mask) & mask).wrapping_sub(b);
                let jump = |left: &Rotated| left.sum(bits, digit).wrapping_sub(v);
                let looked_up = [v, b, slope_step]
                    .into_iter()
                    .chain(left.as_ref().map(jump));
                for (column, value) in data.iter_mut().zip(looked_up) {
                    column.push(sign.wrapping_mul(value));
                }
            }
        }
        data.into_iter()
            .map(|data| Share::new(wire.rows, wire.cols, PIECE_BITS, data))
            .collect()
    }

    /// `s·(v + b·d + borrow·(offset_step + slope_step·d))` modulo `2^24` for `d = x̂ - r` below the
    /// index and factors `s` that the dealer knows, the borrow opened under its mask `ρ`; 7
    /// corrections per element, the constant deferred.
    ///
    /// With a borrow the argument lies left of the knot, where the line before continues to the
    /// knot's value (less the jump, where there is one): `d` is then negative as it stands.
    pub(in crate::masked) fn signed_piece(
        &mut self,
        pieces: &[Wire],
        wire: &Wire,
        borrow: &OpenBits,
        signs: &[u64],
        low_bits: u32,
    ) -> Result<Share, ProtocolError> {
        let ([v, b, slope_step], offset_step) = (&pieces[..3], pieces.get(3)) else {
            unreachable!("three lookups at least")
        };
        let n = wire.len();
        let below_index = |word: Word| word & Wrapping(low_mask(low_bits));
        let zero = Wrapping(0);
        // At the dealer: the lookup's sign s, f = s·ρ, r below the index, and what the borrow adds
        // over masks, t = r_turn·r - r_jump.
        let rho = borrow.rho();
        let s = |i: usize| Wrapping(signs[i]);
        let f = |i: usize| s(i) * Wrapping(bit(rho, i));
        let r = |i: usize| below_index(wire.r(i));
        let jump_mask = |i: usize| offset_step.map_or(zero, |jump| jump.r(i));
        let t = |i: usize| slope_step.r(i) * r(i) - jump_mask(i);
        let twice = |i: usize| s(i) - Wrapping(2) * f(i);
        // [s], [s·ρ], and each of them times the masks of what is public in its factor.
        let mut correct =
            |value: &dyn Fn(usize) -> Word| self.correct(n, PIECE_BITS, |i| value(i).0);
        let one = correct(&s)?;
        let flip = correct(&f)?;
        let by_slope = correct(&|i| s(i) * r(i))?;
        let by_slope_step = correct(&|i| f(i) * r(i))?;
        let by_distance = correct(&|i| s(i) * b.r(i) + f(i) * slope_step.r(i))?;
        let by_flipped = correct(&|i| twice(i) * slope_step.r(i))?;
        let rest = correct(&|i| twice(i) * t(i))?;
        let data = match &self.role {
            Role::Tally(_) => Vec::new(),
            // The constant: s·(r_slope·r - r_value) + f·t.
            Role::Dealer(_) => (0..n)
                .map(|i| (s(i) * (b.r(i) * r(i) - v.r(i)) + f(i) * t(i)).0)
                .collect(),
            Role::Evaluator(_) => (0..n)
                .map(|i| {
                    let at = |column: &[u64]| Wrapping(column[i]);
                    let hat_bit = bit(borrow.hat(), i);
                    let hat = Wrapping(hat_bit);
                    let d = below_index(wire.x_hat(i));
                    let slope = b.x_hat(i);
                    let turn = slope_step.x_hat(i);
                    let step = turn * d + offset_step.map_or(zero, |jump| jump.x_hat(i));
                    let piece = v.x_hat(i) + slope * d;
                    let flipped = at(&flip) * sign(hat_bit);
                    let flipped_slope = at(&by_slope_step) * sign(hat_bit);
                    // The piece on either side of the borrow: ([s] where it is public, and [s·ρ]
                    // where its mask turns it over), less what each mask adds.
                    at(&one) * (piece + hat * step) + flipped * step
                        - at(&by_slope) * (slope + hat * turn)
                        - flipped_slope * turn
                        - d * (at(&by_distance) + hat * at(&by_flipped))
                        + hat * at(&rest)
                })
                .map(|value| value.0)
                .collect(),
        };
        Ok(self.with_term_deferred(wire.rows, wire.cols, PIECE_BITS, data))
    }

    /// The signs of lookups, at the dealer.
    pub(in crate::masked) fn signs(&self, index: &OneHot) -> Vec<u64> {
        let n = if matches!(self.role, Role::Dealer(_)) {
            index.data.len()
        } else {
            0
        };
        (0..n).map(|i| index.sign_of(i)).collect()
    }

    /// `gate · floor(z / 2^shift)` for an opened `ẑ = z + r` and a bit whose plane is open: the
    /// high part times the bit, less the borrow and-ed with it.
    fn gated_truncation(
        &mut self,
        wire: &Wire,
        gate: &OpenBits,
        gate_bits: &Bits,
        PieceTruncation {
            shift,
            out_bits,
            offset,
        }: PieceTruncation,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let n = wire.len();
        let k = wire.bits;
        let gate_form = self.single(gate);
        let (gate_share, _) = gate_form.share(self, out_bits)?;
        let r = wire.mask();
        let rho = gate.rho();
        let high = |i: usize| r[i] >> shift;
        let wrap = |i: usize| r[i] >> (k - 1);
        let hidden = |i: usize| bit(rho, i);
        let highs = self.correct(n, out_bits, high)?;
        let gated_highs = self.correct(n, out_bits, |i| hidden(i) * high(i))?;
        // The result sees the lowest bits of a wrap only.
        let wraps = self.correct(n, out_bits - (k - shift), wrap)?;
        let gated_wraps = self.correct(n, out_bits - (k - shift), |i| hidden(i) * wrap(i))?;

        let borrow = if self.rounds_stochastically(wire, shift) {
            Vec::new()
        } else {
            let borrow = self.gated_borrow(wire, gate, gate_bits, shift, label)?;
            borrow.share(self, out_bits)?.0
        };
        let data = (0..gate_share.len()).map(|i| {
            let public = (wire.x_hat(i) >> shift as usize) - Wrapping(offset);
            let stays = Wrapping(1) - (wire.x_hat(i) >> (k as usize - 1));
            // gate·y = ĝ·[y] + (1 - 2ĝ)·[ρ_g·y] for what the dealer shares with and without ρ_g.
            let hat = bit(gate.hat(), i);
            let gated = |plain: u64, hidden: u64| {
                Wrapping(hat) * Wrapping(plain) + sign(hat) * Wrapping(hidden)
            };
            let wrap = (stays * gated(wraps[i], gated_wraps[i])) << (k - shift) as usize;
            let borrow = Wrapping(borrow.get(i).copied().unwrap_or(0));
            // (ẑ >> shift)·[gate] - gate·h + 2^(k-shift)·c·gate·msb(r) - gate·b.
            let value = public * Wrapping(gate_share[i]) - gated(highs[i], gated_highs[i]);
            (value + wrap - borrow).0
        });
        let data = data.collect();
        Ok(Share::new(wire.rows, wire.cols, out_bits, data))
    }

    /// `gate · [ẑ mod 2^f < r mod 2^f]`: from one or two digits and the opened gate for few
    /// elements, from digits of at most four bits and-ed with the gate's plane for many.
    fn gated_borrow(
        &mut self,
        wire: &Wire,
        gate: &OpenBits,
        gate_bits: &Bits,
        f: u32,
        label: &'static str,
    ) -> Result<Affine, ProtocolError> {
        if !self.many(wire.len()) {
            // A vector of 2^8 bits is as dear as the monomials of two more planes.
            let digits = self.compare_digits(wire, &split(0, f, f.div_ceil(8)))?;
            let mut opening = Opening::default();
            let terms = opening.comparison(&digits);
            let (_, mut opened) = self.exchange(&[], &opening.planes, label)?;
            opened.push(gate.clone());
            let gate = 1 << (opened.len() - 1);
            let terms: Vec<(u64, Planes)> = terms.iter().map(|term| (1, term | gate)).collect();
            return Ok(Affine::of(self, &opened, &terms));
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
        let (_, products) = self.products(&[], &opening.planes, &terms, label)?;
        let borrow = products[1..]
            .iter()
            .fold(products[0].clone(), |sum, p| sum.xor(p));
        let (_, opened) = self.exchange(&[], &[&borrow], label)?;
        Ok(self.single(&opened[0]))
    }

    /// Adds the tail, chosen by the opened sign.
    fn add_tail(
        &mut self,
        out: &mut Share,
        x: &Wire,
        wide: Option<&Share>,
        tail: Tail,
        negative: &OpenBits,
    ) -> Result<(), ProtocolError> {
        let form = self.single(negative);
        let (share, monomials) = form.share(self, out.bits)?;
        match tail {
            Tail::Zero => {}
            Tail::Relu => {
                let (x, dropped) = match wide {
                    Some(wide) => (wide.clone(), form.times_narrow(self, x, wide, &monomials)?),
                    None => (self.share(x), form.times(self, x, &monomials)?),
                };
                debug_assert_eq!(out.bits, x.bits, "the tail is the argument itself");
                // x - [x < 0]·x.
                out.tensor += &x.data;
                out.tensor -= &dropped;
            }
            Tail::Step { low, high } => {
                let rise = high.wrapping_sub(low) as u64;
                let public = if self.is_first() { high as u64 } else { 0 };
                for (value, negative) in out.data.iter_mut().zip(share) {
                    // high - (high - low)·[x < 0].
                    let step = Wrapping(public) - Wrapping(rise) * Wrapping(negative);
                    *value = (Wrapping(*value) + step).0;
                }
            }
        }
        Ok(())
    }
}

/// Pairs of each top digit, lowest first, for the sign of the argument itself and not of its
/// distance to the domain's start; none where the tail is zero.
fn sign_digits(x: &Wire, top: &[(OneHot, u32)], held: bool, tail: Tail) -> Vec<(Bits, Bits)> {
    let opened = x.opened();
    let mut signs = Vec::new();
    if tail != Tail::Zero {
        for (d, (vectors, from)) in top.iter().enumerate() {
            let mask = low_mask(vectors.width) as usize;
            let at = |i: usize| (i, (opened[i] >> from) as usize & mask);
            let last = d + 1 == top.len();
            signs.push(if last {
                vectors.sign(x.len(), held, at)
            } else {
                vectors.compare(x.len(), held, at)
            });
        }
    }
    signs
}

/// The sign's position where two digits make it, which no round has to join.
fn two_digit_sign(signs: &[(Bits, Bits)], index: (Bits, Bits)) -> Option<SignPosition> {
    let [(less, equal), (base, flips)] = signs else {
        assert!(signs.is_empty(), "two digits make a sign");
        return None;
    };
    Some(SignPosition {
        base: base.clone(),
        top: vec![flips.clone(), less.clone()],
        prefix: vec![flips.clone(), equal.clone()],
        index,
    })
}
