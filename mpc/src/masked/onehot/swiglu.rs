//! The product inside a gated MLP: `f(truncate(gate)) · truncate(up)` for a tabulated `f` with a
//! tail of `relu`.
//!
//! Both halves share one truncation, whose opening is the only one that `truncate(up)` sees: as a
//! factor of an element-wise product it is used in the form that the truncation leaves it in,
//! `u = P - h + c·w - b` with `P` and `c` public, `h = r >> shift` and `w = 2^(k - shift)·msb(r)`
//! known to the dealer, and the borrow `b` an affine form in masks of opened planes. With the other
//! factor opened as `ŷ = y + r_y`,
//!
//! `y·u = ŷ·[u] - r_y·P + r_y·h - c·r_y·w + r_y·b`,
//!
//! where the dealer shares `r_y`, `r_y·w` (two bytes: it is a multiple of `2^(k - shift)`) and
//! `r_y` times each mask of `b`, and `r_y·h` goes into the mask of the truncation that follows. The
//! gate and its function need no more than narrow shares, since `y` is opened narrow.
//!
//! # Narrow openings
//! A value below `2^30` in magnitude whose share is wider is opened modulo `2^32`. With
//! `ẑ = x̂ + 2^30`, as an integer `x = ẑ - 2^30 - r + 2^32·c·m` for `c = 1 - msb(ẑ)` and
//! `m = msb(r)`, since `x + 2^30` is below half the ring: what the narrow opening loses of a
//! product is again a public factor times a product of masks.
//!
//! Security: evaluators see what [`super`] lists, openings under fresh uniform masks and
//! corrections under fresh halves; a narrow opening reveals fewer bits of a masked value, not
//! others.

use std::num::Wrapping;

use marill_numeric::{Word, ring, tables::LinearTable};

use crate::{
    engine::{Labels, Truncation},
    error::ProtocolError,
    masked::{
        Masked,
        linear::select_columns,
        onehot::affine::{Affine, NARROW_BITS, narrow_public, narrow_wrap},
        reveal::Part,
        share::{Held, Share},
    },
};

/// A truncation's result in the form in which its opening leaves it.
struct TruncatedForm {
    share: Share,
    held: HeldForm,
    borrow: Option<Affine>,
    /// Of the opening: its bits, and those below the truncation.
    bits: u32,
    shift: u32,
}

/// What a party has of a truncated form.
enum HeldForm {
    /// In a tally: nothing.
    Shape,
    /// `P` less the constant of the borrow, and `c`.
    Evaluator { public: Vec<u64>, stays: Vec<u64> },
    /// `r`
    Dealer(Vec<u64>),
}

impl TruncatedForm {
    /// Element `i` of `r >> bits`, at the dealer.
    fn r_above(&self, i: usize, bits: u32) -> Word {
        match &self.held {
            HeldForm::Dealer(mask) => Wrapping(mask[i] >> bits),
            HeldForm::Shape | HeldForm::Evaluator { .. } => {
                unreachable!("the dealer's corrections are made of masks")
            }
        }
    }
}

impl Masked {
    /// `table(truncate(x[.., ..cols/2])) · truncate(x[.., cols/2..])`; see
    /// [`crate::engine::Engine::gated_product`].
    pub(in crate::masked) fn gated_product(
        &mut self,
        x: &Share,
        table: &LinearTable,
        truncation: Truncation,
        labels: Labels,
    ) -> Result<Share, ProtocolError> {
        if self.uses_dcf(x.len() / 2) {
            return self.gated_by_dcf(x, table, truncation, labels);
        }
        self.at(labels.inner);
        // One opening truncates both halves.
        let (gate, up) = self.truncate_halves(x, truncation, labels.inner)?;
        let both = self.concat(&[&gate, &up.share]);
        self.record(labels.inner, &both);
        self.record(labels.inner, &both);
        let gate = self.gate_of_share(&gate, table, labels)?;
        self.record(labels.outer, &gate);
        self.times_truncated(&gate, &up, labels.outer)
    }

    /// A tabulated function of a share whose value is below `2^30`: opened narrow where the gate
    /// compares one-hot.
    pub(in crate::masked) fn gate_of_share(
        &mut self,
        x: &Share,
        table: &LinearTable,
        labels: Labels,
    ) -> Result<Share, ProtocolError> {
        let narrow = !self.uses_dcf(x.len()) && x.bits > NARROW_BITS;
        let (mut wires, _) = self.exchange(
            &[(x, if narrow { NARROW_BITS } else { x.bits })],
            &[],
            labels.inner,
        )?;
        self.at(labels.outer);
        self.tabulated(
            &wires.remove(0),
            narrow.then_some(x),
            table,
            x.bits,
            labels.outer,
        )
    }

    /// With DCF a borrow is a share, not a form in masks: both halves are opened.
    fn gated_by_dcf(
        &mut self,
        x: &Share,
        table: &LinearTable,
        truncation: Truncation,
        labels: Labels,
    ) -> Result<Share, ProtocolError> {
        let half = x.cols / 2;
        self.at(labels.inner);
        let out_bits = truncation.to;
        let both = self.truncate(x, truncation, labels.inner)?;
        self.record(labels.inner, &both);
        self.record(labels.inner, &both);
        let (mut wires, _) = self.exchange(&[(&both, out_bits)], &[], labels.inner)?;
        let both = wires.remove(0);
        let gate = self.wire_columns(&both, 0, half);
        let up = self.wire_columns(&both, half, half);
        self.at(labels.outer);
        let gate = self.tabulated(&gate, None, table, out_bits, labels.outer)?;
        self.record(labels.outer, &gate);
        let (mut wires, _) = self.exchange(&[(&gate, out_bits)], &[], labels.outer)?;
        Ok(self.mul(&wires.remove(0), &up))
    }

    /// Truncates both halves of the columns: the first into a narrow share, the second into the
    /// form that its opening leaves.
    ///
    /// A narrow result does not see whether the mask wrapped, so E1 is sent the compared bits of
    /// the first half at most.
    fn truncate_halves(
        &mut self,
        x: &Share,
        Truncation {
            shift,
            from: k,
            to: out_bits,
        }: Truncation,
        label: &'static str,
    ) -> Result<(Share, TruncatedForm), ProtocolError> {
        debug_assert!(
            k - shift >= NARROW_BITS,
            "a wrap of the truncation is out of a narrow value's reach"
        );
        let half = x.cols / 2;
        let offset = 1 << (k - 2 - shift);
        let (shifted, shift) = self.before_truncation(x, shift, k);
        let k = shifted.bits;
        let gate = self.columns(&shifted, 0, half);
        let up = self.columns(&shifted, half, half);
        let parts = [
            Part::whole(&up, k),
            Part::low(&gate, k, if self.rounds_exactly() { shift } else { 0 }),
        ];
        let mut wires = self.exchange_parts(&parts, &[], &mut [], label)?.0;
        let gate = wires.remove(1);
        let up = wires.remove(0);
        let both = self.wires_side_by_side(&gate, &up);
        let mut borrows = None;
        if !self.rounds_stochastically(&both, shift) {
            let pending = self.borrow(&both, shift, label)?;
            let borrow = self.finish(&pending, None, label)?;
            let part =
                |first| borrow.select(gate.len(), |data| select_columns(data, x.cols, first, half));
            borrows = Some((part(0), part(half)));
        }
        let (of_gate, of_up) = borrows.unzip();
        // The gate is below 2^30: its function needs a narrow share.
        let gate = self.high_part(&gate, shift, NARROW_BITS, offset)?;
        let gate = self.less_borrow(gate, of_gate.as_ref())?;
        // [u] = P - [h] + c·[w] - [b].
        let share = self.high_part(&up, shift, out_bits, offset)?;
        let share = self.less_borrow(share, of_up.as_ref())?;
        let held = match up.held {
            Held::Shape => HeldForm::Shape,
            Held::Dealer(mask) => HeldForm::Dealer(mask.whole),
            Held::Evaluator { opened, .. } => {
                // P = (ẑ >> shift) - offset, less the borrow's constant, and c = 1 - msb(ẑ).
                let high = |z: &u64| (z >> shift).wrapping_sub(offset);
                let mut public: Vec<u64> = opened.iter().map(high).collect();
                if let Some(borrow) = &of_up {
                    ring::subtract_from(&mut public, borrow.constant());
                }
                let stays = opened.iter().map(|z| 1 - (z >> (k - 1))).collect();
                HeldForm::Evaluator { public, stays }
            }
        };
        Ok((
            gate,
            TruncatedForm {
                share,
                held,
                borrow: of_up,
                bits: k,
                shift,
            },
        ))
    }

    fn less_borrow(
        &mut self,
        mut x: Share,
        borrow: Option<&Affine>,
    ) -> Result<Share, ProtocolError> {
        if let Some(borrow) = borrow {
            let (bits, _) = borrow.share(self, x.bits)?;
            x.tensor -= &bits;
        }
        Ok(x)
    }

    /// `y·u`, with `y` opened narrow.
    fn times_truncated(
        &mut self,
        y: &Share,
        u: &TruncatedForm,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let shift = u.shift;
        let k = u.bits;
        let out_bits = u.share.bits;
        // ŷ = y + r_y modulo 2^32.
        let (mut wires, _) = self.exchange(&[(y, NARROW_BITS)], &[], label)?;
        let y = wires.remove(0);
        let n = y.len();
        let rest = out_bits - NARROW_BITS;
        let m = |i: usize| narrow_wrap(y.r(i));
        // h = r >> shift and msb(r) of the truncation, at the dealer.
        let high = |i: usize| u.r_above(i, shift);
        let msb = |i: usize| u.r_above(i, k - 1);
        // [r_y], [r_y·msb(r)] and [r_y·b] for the low part of y; [m], [m·h] and [m·b] for its wrap.
        let masks = self.correct(n, out_bits, |i| y.r(i).0)?;
        let wraps = self.correct(n, out_bits - (k - shift), |i| (y.r(i) * msb(i)).0)?;
        let borrows = self.borrow_times(u, out_bits, |i| y.r(i))?;
        let msbs = self.correct(n, rest, |i| m(i).0)?;
        let top_highs = self.correct(n, rest, |i| (m(i) * high(i)).0)?;
        let top_borrows = self.borrow_times(u, rest, m)?;
        debug_assert!(
            k - shift >= rest,
            "a wrap of the truncation is out of a top's reach"
        );
        let data = match &u.held {
            HeldForm::Shape => Vec::new(),
            HeldForm::Dealer(_) => (0..n).map(|i| (y.r(i) * high(i)).0).collect(),
            HeldForm::Evaluator { public, stays } => (0..n)
                .map(|i| {
                    let at = |column: &[u64]| Wrapping(column[i]);
                    let (y_hat, y_stays) = narrow_public(y.x_hat(i));
                    let p = at(public);
                    // ŷ·[u] - ([r_y]·P - [r_y·b]) - c·2^(k-shift)·[r_y·msb(r)], r_y·h deferred.
                    let masked = at(&masks) * p - at(&borrows);
                    let wrap = at(stays) * (at(&wraps) << (k - shift) as usize);
                    // What y wraps, times u: 2^32·c_y·([m]·P - [m·h] - [m·b]).
                    let top = at(&msbs) * p - at(&top_highs) - at(&top_borrows);
                    let top = (y_stays * top) << NARROW_BITS as usize;
                    (y_hat * u.share.at(i) - masked - wrap + top).0
                })
                .collect(),
        };
        Ok(self.with_term_deferred(y.rows, y.cols, out_bits, data))
    }

    /// Shares of `factor · b` without the borrow's constant, modulo `2^bits`; zeros without a
    /// borrow.
    fn borrow_times(
        &mut self,
        u: &TruncatedForm,
        bits: u32,
        factor: impl Fn(usize) -> Word,
    ) -> Result<Vec<u64>, ProtocolError> {
        match &u.borrow {
            Some(borrow) => borrow.masks_times(self, bits, factor),
            None => match &u.held {
                HeldForm::Evaluator { public, .. } => Ok(vec![0; public.len()]),
                HeldForm::Shape | HeldForm::Dealer(_) => Ok(Vec::new()),
            },
        }
    }
}
