//! Exact truncation, and bits as affine forms.
//!
//! # Exact truncation
//! With `z' = z + 2^(f-1) + 2^(k-2)` in `[0, 2^(k-1))`, `ẑ = z' + r mod 2^k` opened, and
//! `w = [ẑ < r]`, `floor(z'/2^f) = (ẑ >> f) - (r >> f) + 2^(k-f)·w - b` where
//! `b = [ẑ mod 2^f < r mod 2^f]`. Since `z' < 2^(k-1)`, `w = msb(r)·(1 - msb(ẑ))`. The dealer
//! shares `r >> f` and `2^(k-f)·msb(r)`; `b` is a comparison of a public with a masked `f`-bit
//! value, whose last gate yields an arithmetic share directly: `b = base + flips·below` with the
//! three bits opened under masks, the monomials of the masks shared by the dealer.
//!
//! The result is exact; nothing can fail while `|z| < 2^(k-2)`.
//!
//! E1 needs the low `f` bits of `ẑ` for the comparison and `msb(ẑ)` for its share, so with one-hot
//! comparisons the opening is a partial one ([`crate::masked::reveal`]): `f + 1` bits from E0
//! instead of `k`, the last of them with the comparison's last gate.
//!
//! # Stochastic rounding
//! Without the half added and without the borrow `b` taken off, the opening alone yields
//! `floor((z + r mod 2^f) / 2^f) = floor((z + 2^f - 1 - t) / 2^f)` with `t = ẑ mod 2^f`: uniform,
//! independent of `z`, and known to whoever sees the opening. The functionality is therefore: draw
//! `t` uniformly, give it to the evaluators, round by it. A proof that kept `t` secret would be
//! wrong (Li et al., USENIX Security '23, on ABY3's truncation); here the simulator is given `t`
//! and sets `ẑ` to a uniform value with these low bits. One round, no comparison, never a large
//! error.
//!
//! Of the rounding randomness, [`RANDOM_BITS`] bits are enough. What lies below them each party
//! drops from its own half before the opening, which is then as much narrower:
//! `Σ floor(z_i / 2^d) = (z - A) / 2^d mod 2^(k-d)`, where `A = Σ z_i mod 2^d` over the two halves
//! and, where a term is deferred, the dealer's. Since the modulus shrinks with the shift, nothing
//! wraps. A constant makes up for the mean of `A`. The whole rounds by
//! `t = 2^d·t' + 2^d - 1 - constant + A`, a sum of the opening's randomness `t'` and of what each
//! party knows of its own half, which is as uniform as that half (the program truncates products
//! and maps of masked values, whose halves are): still unbiased, and off by less than
//! `1 + 2^(2 - RANDOM_BITS)` units. The simulator of an evaluator is given its own part of `A` with
//! `t'`.

use std::num::Wrapping;

use marill_numeric::{Rounding, fixed::low_mask};

use crate::{
    engine::{Labels, Truncation},
    error::ProtocolError,
    masked::{
        Masked,
        boolean::{Bits, OneHot, OpenBits, Pending, Planes, split},
        onehot::affine::Affine,
        reveal::{Late, Part, PendingReveal},
        share::{Share, Wire},
    },
};

/// Bits of the randomness of a stochastic rounding.
const RANDOM_BITS: u32 = 8;

impl Masked {
    /// One opened bit.
    pub(in crate::masked) fn single(&self, plane: &OpenBits) -> Affine {
        Affine::of(self, std::slice::from_ref(plane), &[(1, 1)])
    }

    /// Runs the last gate of a comparison: the bit as an affine form, ready for products. One
    /// round, in which E0 sends the MSBs of a partial opening.
    pub(in crate::masked) fn finish(
        &mut self,
        pending: &Pending,
        half: Option<&mut Wire>,
        label: &'static str,
    ) -> Result<Affine, ProtocolError> {
        let mut planes: Vec<&Bits> = Vec::new();
        let mut terms: Vec<(u64, Planes)> = Vec::new();
        let mut above: Planes = 0;
        let last = pending.digits.len() - 1;
        for (d, (less, equal)) in pending.digits.iter().enumerate().rev() {
            // less_top + equal_top·less_below + ...: of these at most one is 1.
            planes.push(less);
            terms.push((1, above | 1 << (planes.len() - 1)));
            if d > 0 {
                planes.push(equal);
                above |= 1 << (planes.len() - 1);
            }
        }
        debug_assert!(last < 3, "three digits at most");
        let mut halves: Vec<&mut Wire> = half.into_iter().collect();
        let (_, planes) = self.exchange_parts(&[], &planes, &mut halves, label)?;
        Ok(Affine::of(self, &planes, &terms))
    }

    /// As [`Self::finish`] for a sign, whose top pair may be set together:
    /// `below ? base ⊕ flips : base`.
    pub(in crate::masked) fn finish_sign(
        &mut self,
        pending: &Pending,
        shares: &[(&Share, u32)],
        label: &'static str,
    ) -> Result<(Vec<Wire>, Affine), ProtocolError> {
        let [(below, _), (base, flips)] = pending.digits.as_slice() else {
            let [(sign, _)] = pending.digits.as_slice() else {
                unreachable!("a sign is down to two planes")
            };
            let (wires, planes) = self.exchange(shares, &[sign], label)?;
            return Ok((wires, self.single(&planes[0])));
        };
        // base + below·(base ⊕ flips - base).
        let other = base.xor(flips);
        let (wires, planes) = self.exchange(shares, &[base, &other, below], label)?;
        let terms = [(1, 0b001), (u64::MAX, 0b101), (1, 0b110)];
        Ok((wires, Affine::of(self, &planes, &terms)))
    }

    /// `[digit < mask digit]` and equality for digits of a wire, every element its own vectors.
    pub(in crate::masked) fn compare_digits(
        &mut self,
        wire: &Wire,
        digits: &[(u32, u32)],
    ) -> Result<Vec<(Bits, Bits)>, ProtocolError> {
        let n = wire.len();
        let held = self.is_evaluator();
        let mut pairs = Vec::new();
        for &(from, width) in digits {
            let vectors = self.one_hot(wire, from, width)?;
            let mask = low_mask(width) as usize;
            let opened = wire.opened();
            pairs.push(vectors.compare(n, held, |i| (i, (opened[i] >> from) as usize & mask)));
        }
        Ok(pairs)
    }

    /// `[ẑ mod 2^f < r mod 2^f]`, up to its last gate.
    ///
    /// Many elements: digits of 4 bits down to one plane, whose conversion needs one monomial. Few:
    /// as many bits as one round and the last gate can take.
    pub(in crate::masked) fn borrow(
        &mut self,
        wire: &Wire,
        f: u32,
        label: &'static str,
    ) -> Result<Pending, ProtocolError> {
        let (digits, left) = match (self.many(wire.len()), wire.len(), f) {
            (true, _, _) => (f.div_ceil(4), 1),
            (false, _, 0..=14) => (2, 2),
            (false, 0..=2048, 0..=24) => (3, 3),
            (false, _, 0..=24) => (4, 2),
            _ => (8, 2),
        };
        let digits = self.compare_digits(wire, &split(0, f, digits))?;
        self.reduce(digits, left, label)
    }

    /// `floor((x + 2^(shift-1)) / 2^shift)`, or a stochastic rounding; see the module
    /// documentation.
    pub(in crate::masked) fn truncate(
        &mut self,
        x: &Share,
        truncation: Truncation,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let out_bits = truncation.to;
        // z' = z + 2^(f-1) + 2^(k-2), non-negative. A stochastic truncation drops low bits first
        // and adds no half.
        let (shifted, shift) = self.before_truncation(x, truncation.shift, truncation.from);
        let in_bits = shifted.bits;
        let n = x.len();
        let exact = self.rounds_exactly();
        let wraps = out_bits > in_bits - shift;
        let part = match () {
            _ if exact && !self.uses_dcf(n) => Part::partial(&shifted, in_bits, shift),
            // A round more, in which the MSBs are sent.
            _ if !exact && self.many(n) && wraps => Part::partial(&shifted, in_bits, 0),
            _ if !exact && self.many(n) => Part::low(&shifted, in_bits, 0),
            _ => Part::whole(&shifted, in_bits),
        };
        // ẑ = z' + r, whole to E0. To E1: whole with DCF, or else its low f bits (none under
        // stochastic rounding) and the MSB later.
        let mut wire = self
            .exchange_parts(&[part], &[], &mut [], label)?
            .0
            .remove(0);
        let offset = 1u64 << (in_bits - 2 - shift);
        if self.rounds_stochastically(&wire, shift) {
            if self.many(n) && wraps {
                self.send_msbs(&mut wire, label)?;
            }
            return self.high_part(&wire, shift, out_bits, offset);
        }
        let borrow = if self.uses_dcf(x.len()) {
            self.borrow_by_dcf(&wire, shift, out_bits)?
        } else {
            // b = [ẑ mod 2^f < r mod 2^f], up to its last gate, then as an arithmetic share.
            let pending = self.borrow(&wire, shift, label)?;
            let borrow = self.finish(&pending, Some(&mut wire), label)?;
            borrow.share(self, out_bits)?.0
        };
        // (ẑ >> f) - (r >> f) + 2^(k-f)·w - 2^(k-2-f), less the borrow.
        let mut out = self.high_part(&wire, shift, out_bits, offset)?;
        out.tensor -= &borrow;
        Ok(out)
    }

    /// Whether truncations round half up.
    pub(in crate::masked) fn rounds_exactly(&self) -> bool {
        self.spec.numeric.rounding == Rounding::Exact
    }

    /// A stochastic truncation of what is about to be revealed to E1: E0 sends E1 the MSBs with it,
    /// and nothing now.
    pub(in crate::masked) fn pending_truncation(
        &mut self,
        x: &Share,
        truncation: Truncation,
        labels: Labels,
    ) -> Result<PendingReveal, ProtocolError> {
        let out_bits = truncation.to;
        let (shifted, shift) = self.before_truncation(x, truncation.shift, truncation.from);
        let part = Part::partial(&shifted, shifted.bits, 0);
        let wire = self
            .exchange_parts(&[part], &[], &mut [], labels.inner)?
            .0
            .remove(0);
        self.rounds_stochastically(&wire, shift);
        let from = wire.bits - shift;
        let (x, wraps) = self.high_part_and_wraps(&wire, shift, out_bits, 1 << (from - 2))?;
        Ok(PendingReveal {
            x,
            late: Some(Late {
                wire,
                wraps,
                from,
                labels,
            }),
        })
    }

    /// What a truncation by `shift` opens, a share of so many bits as it has, and how far that is
    /// before truncation: an exact one adds its half, a stochastic one drops bits first. Both add
    /// what makes the value non-negative.
    pub(in crate::masked) fn before_truncation(
        &mut self,
        x: &Share,
        shift: u32,
        in_bits: u32,
    ) -> (Share, u32) {
        let dropped = if self.rounds_exactly() {
            0
        } else {
            shift.saturating_sub(RANDOM_BITS)
        };
        if dropped == 0 {
            let share = self.add_constant(x, self.half(shift).wrapping_add(1 << (in_bits - 2)));
            return (share.in_ring(in_bits), shift);
        }
        let parts = 2 + u64::from(x.is_deferred());
        let modulus = low_mask(in_bits);
        // What the parts drop, in the mean.
        let constant = parts * low_mask(dropped) / 2;
        let raised = self.add_constant(x, constant);
        let is_first = self.is_first();
        if let Some(observer) = &mut self.observer {
            observer.dropped_bits(&raised, dropped, constant, is_first);
        }
        let bits = in_bits - dropped;
        let share = raised
            .linear(|half| half.map(|v| (v & modulus) >> dropped))
            .in_ring(bits);
        (self.add_constant(&share, 1 << (bits - 2)), shift - dropped)
    }

    /// What a truncation adds before it shifts: a half, unless rounding is stochastic.
    pub(in crate::masked) fn half(&self, shift: u32) -> u64 {
        match self.spec.numeric.rounding {
            Rounding::Exact => 1 << (shift - 1),
            Rounding::Stochastic => 0,
        }
    }

    /// Whether truncations round stochastically, by the low bits of this opening.
    pub(in crate::masked) fn rounds_stochastically(&mut self, wire: &Wire, shift: u32) -> bool {
        let stochastic = !self.rounds_exactly();
        let is_first = self.is_first();
        if let Some(observer) = self.observer.as_mut().filter(|_| stochastic) {
            observer.rounding(wire, shift, is_first);
        }
        stochastic
    }

    /// `(ẑ >> f) - (r >> f) + 2^(k-f)·msb(r)·(1 - msb ẑ) - offset`: the truncation up to its
    /// borrow.
    pub(in crate::masked) fn high_part(
        &mut self,
        wire: &Wire,
        shift: u32,
        out_bits: u32,
        offset: u64,
    ) -> Result<Share, ProtocolError> {
        Ok(self.high_part_and_wraps(wire, shift, out_bits, offset)?.0)
    }

    /// As [`Self::high_part`], and the shares of `msb(r)`, for `take_wraps` once E1 knows
    /// `msb ẑ`: until then its half takes that for zero.
    pub(in crate::masked) fn high_part_and_wraps(
        &mut self,
        wire: &Wire,
        shift: u32,
        out_bits: u32,
        offset: u64,
    ) -> Result<(Share, Vec<u64>), ProtocolError> {
        let n = wire.len();
        let k = wire.bits;
        // [r >> f] and [msb r].
        let r = wire.mask();
        let mut data = self.correct(n, out_bits, |i| r[i] >> shift)?;
        // A result of at most k - f bits does not see the wrap, a wider one its lowest bits.
        let wraps = if out_bits > k - shift {
            self.correct(n, out_bits - (k - shift), |i| r[i] >> (k - 1))?
        } else {
            Vec::new()
        };
        debug_assert!(wraps.is_empty() || k - shift < 64, "a shift inside a word");
        let first = self.is_first();
        for (i, value) in data.iter_mut().enumerate() {
            let z_hat = wire.x_hat(i);
            let public = if first {
                (z_hat >> shift as usize) - Wrapping(offset)
            } else {
                Wrapping(0)
            };
            // w = msb(r)·(1 - msb ẑ).
            let msb = Wrapping(wraps.get(i).copied().unwrap_or(0));
            let wrap = msb * (Wrapping(1) - (z_hat >> (k as usize - 1)));
            *value = (public - Wrapping(*value) + (wrap << (k - shift) as usize)).0;
        }
        Ok((Share::new(wire.rows, wire.cols, out_bits, data), wraps))
    }

    /// Equality to zero of the bits from `start` up, given the borrow into them: the two
    /// candidates' planes.
    ///
    /// `x_top = x̂_top - r_top - borrow` is zero when `r_top = x̂_top - borrow`.
    pub(in crate::masked) fn zero_candidates(
        &mut self,
        wire: &Wire,
        digits: &[(OneHot, u32)],
        start: u32,
        total: u32,
    ) -> [Vec<Bits>; 2] {
        let n = wire.len();
        let held = self.is_evaluator();
        let modulus = low_mask(total);
        let opened = wire.opened();
        [0u64, 1].map(|borrow| {
            digits
                .iter()
                .map(|(vectors, from)| {
                    let mask = low_mask(vectors.width) as usize;
                    vectors.equal(n, held, |i| {
                        let top = (opened[i] >> start).wrapping_sub(borrow) & modulus;
                        (i, (top >> (from - start)) as usize & mask)
                    })
                })
                .collect()
        })
    }

    /// A non-negative wire below half its ring as a share modulo 2^64.
    pub(in crate::masked) fn widened(&mut self, wire: &Wire) -> Result<Share, ProtocolError> {
        let n = wire.len();
        let k = wire.bits;
        if k == 64 {
            return Ok(self.share(wire));
        }
        let r = wire.mask();
        let mut data = self.correct(n, 64, |i| r[i])?;
        let wraps = self.correct(n, 64 - k, |i| r[i] >> (k - 1))?;
        let first = self.is_first();
        for (i, value) in data.iter_mut().enumerate() {
            let x_hat = wire.x_hat(i);
            let public = if first { x_hat } else { Wrapping(0) };
            // x̂ - r + 2^k·msb(r)·(1 - msb x̂).
            let wrap = Wrapping(wraps[i]) * (Wrapping(1) - (x_hat >> (k as usize - 1)));
            *value = (public - Wrapping(*value) + (wrap << k as usize)).0;
        }
        Ok(Share::new(wire.rows, wire.cols, 64, data))
    }
}
