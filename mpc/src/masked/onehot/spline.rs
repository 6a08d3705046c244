//! Piecewise linear functions of a positive value over many octaves: reciprocal square root and
//! reciprocal.

use std::num::Wrapping;

use marill_numeric::{Word, fixed::low_mask, ring, tables::Piecewise};

use crate::{
    error::ProtocolError,
    masked::{
        Masked, Role,
        boolean::{Bits, Pending, bit, plane},
        share::{Extended, HeldExtended, Share, Wire},
    },
};

/// So many readings of a key count as an element where it is decided what a gate compares with.
const READS_PER_ELEMENT: usize = 8;

/// What a piecewise function is multiplied by.
#[derive(Clone, Copy)]
pub(in crate::masked) enum Factor<'a> {
    Open(&'a Wire),
    Share(&'a Share),
}

/// `value + Σ slope · shifted`, one slope and one argument for each shift; all slopes but one are
/// zero.
struct Piece {
    /// The intercept at first.
    value: Share,
    slopes: Vec<Share>,
    shifted: Vec<Share>,
}

/// `f` of the openings alone, by row; nothing where there are none.
fn public_values(value: &Wire, slopes: &[Wire], arguments: &[Wire]) -> Vec<u64> {
    let at = |row: usize| {
        let products = slopes.iter().zip(arguments);
        let products = products.map(|(slope, argument)| slope.x_hat(row) * argument.x_hat(row));
        (value.x_hat(row) + products.sum::<Word>()).0
    };
    (0..value.opened().len()).map(at).collect()
}

/// The terms of a product with a piece that the masks of its factors leave.
struct MaskTerms {
    /// What has no public factor, at the dealer.
    deferred: Vec<u64>,
    /// What one opening is a factor of, at the evaluators.
    crossed: Vec<u64>,
    /// The same of what the mask of `x` wraps; empty for a wire of 64 bits.
    of_wraps: Vec<u64>,
}

impl Masked {
    /// A piecewise linear function of a positive value: one opening of `s`, then
    /// [`Self::piecewise_of_wire`].
    pub(in crate::masked) fn piecewise(
        &mut self,
        s: &Share,
        table: &Piecewise,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let (mut wires, _) = self.exchange(&[(s, table.ring_bits)], &[], label)?;
        self.piecewise_of_wire(&wires.remove(0), table, label)
    }

    /// As [`Self::piecewise`] for a wire of the table's width.
    pub(in crate::masked) fn piecewise_of_wire(
        &mut self,
        wire: &Wire,
        table: &Piecewise,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        // f = intercept + Σ slope·(s >> shift), all slopes but one zero.
        let Piece {
            mut value,
            slopes,
            shifted,
        } = self.piece_of(wire, table, label)?;
        let parts: Vec<(&Share, u32)> = slopes.iter().chain(&shifted).map(|s| (s, 64)).collect();
        // Slopes and arguments are opened for their products.
        let (wires, _) = self.exchange(&parts, &[], label)?;
        for (slope, argument) in wires[..slopes.len()].iter().zip(&wires[slopes.len()..]) {
            let product = self.mul(slope, argument);
            value = self.add(&value, &product.shaped(wire.rows, wire.cols));
        }
        Ok(value)
    }

    /// The function's value, and `x · f(s)` for a wire `x` or a share that is opened on the way: 64
    /// bits.
    ///
    /// With `x`, intercept, slopes and shifted arguments open, `x · f` is of degree three in their
    /// masks, so the function need not be opened: a round less, for two corrections a shift and
    /// element.
    pub(in crate::masked) fn times_piecewise(
        &mut self,
        x: Factor<'_>,
        row_of: impl Fn(usize) -> usize,
        wire: &Wire,
        table: &Piecewise,
        label: &'static str,
    ) -> Result<(Share, Share), ProtocolError> {
        let Piece {
            mut value,
            slopes,
            shifted,
        } = self.piece_of(wire, table, label)?;
        let classes = slopes.len();
        let to_open = match x {
            Factor::Open(_) => None,
            Factor::Share(x) => Some(x),
        };
        let parts = std::iter::once(&value)
            .chain(&slopes)
            .chain(&shifted)
            .map(|s| (s, 64));
        let parts: Vec<(&Share, u32)> = parts.chain(to_open.map(|x| (x, x.bits))).collect();
        let (mut wires, _) = self.exchange(&parts, &[], label)?;
        let opened = if to_open.is_some() { wires.pop() } else { None };
        let x = match (&opened, x) {
            (Some(x), _) | (None, Factor::Open(x)) => x,
            (None, Factor::Share(_)) => unreachable!("the share was opened"),
        };
        // The function's own value: products of wires, locally.
        let (slopes, arguments) = wires[1..].split_at(classes);
        for (slope, argument) in slopes.iter().zip(arguments) {
            let product = self.mul(slope, argument);
            value = self.add(&value, &product.shaped(wire.rows, wire.cols));
        }
        let x = self.extend(x)?;
        // It is about to be multiplied by something public, which the dealer does not know.
        let value = self.materialized(&value)?.into_owned();
        let n = x.rows * x.cols;
        let MaskTerms {
            deferred,
            crossed,
            of_wraps,
        } = self.mask_terms(&x, &wires[0], slopes, arguments, &row_of)?;
        let public = public_values(&wires[0], slopes, arguments);
        // x̂·[f] - (public·[r] + crossed), and what has no public factor deferred.
        let data = match &x.held {
            HeldExtended::Shape => Vec::new(),
            HeldExtended::Dealer { .. } => deferred,
            HeldExtended::Evaluator(own) => (0..n)
                .map(|i| {
                    let row = row_of(i);
                    let f_hat = Wrapping(public[row]);
                    let inner =
                        own.x(i) * value.at(row) - f_hat * own.r_p(i) - Wrapping(crossed[i]);
                    let Some(&of_wraps) = of_wraps.get(i) else {
                        return inner;
                    };
                    // 2^k·c·(f̂·[m] + [m·(f - f̂)]).
                    let wrap = f_hat * own.m_p(i) + Wrapping(of_wraps);
                    inner + ((own.c(i) * wrap) << x.bits as usize)
                })
                .map(|value| value.0)
                .collect(),
        };
        let product = self.with_term_deferred(x.rows, x.cols, 64, data);
        Ok((value, product))
    }

    /// `f` in masks: constant + Σ coefficient · monomial, each monomial times the mask of `x`
    /// shared by the dealer. The same for what the mask of `x` wraps, whose constant has a public
    /// factor too.
    fn mask_terms(
        &mut self,
        x: &Extended,
        value: &Wire,
        slopes: &[Wire],
        arguments: &[Wire],
        row_of: &impl Fn(usize) -> usize,
    ) -> Result<MaskTerms, ProtocolError> {
        let n = x.rows * x.cols;
        let missing = x.missing();
        // Minus the part of f that is masks alone: r_value - Σ r_slope·r_argument.
        let constant = |i: usize| {
            let row = row_of(i);
            let products = slopes.iter().zip(arguments);
            let products = products.map(|(slope, argument)| slope.r(row) * argument.r(row));
            value.r(row) - products.sum::<Word>()
        };
        let mut crossed = vec![0u64; if self.is_evaluator() { n } else { 0 }];
        let mut of_wraps = match missing {
            0 => Vec::new(),
            _ => self.correct(n, missing, |i| (-(x.m(i) * constant(i))).0)?,
        };
        let subtract = |sums: &mut [u64], known: &Wire, shares: Vec<u64>| {
            for (i, (sum, share)) in sums.iter_mut().zip(shares).enumerate() {
                *sum = (Wrapping(*sum) - known.x_hat(row_of(i)) * Wrapping(share)).0;
            }
        };
        for (slope, argument) in slopes.iter().zip(arguments) {
            for (known, secret) in [(slope, argument), (argument, slope)] {
                // One factor of a product is open, of the other the dealer shares r_x·r.
                let shares = self.correct(n, 64, |i| (x.r(i) * secret.r(row_of(i))).0)?;
                subtract(&mut crossed, known, shares);
                if missing > 0 {
                    let shares = self.correct(n, missing, |i| (x.m(i) * secret.r(row_of(i))).0)?;
                    subtract(&mut of_wraps, known, shares);
                }
            }
        }
        let deferred = match &self.role {
            Role::Dealer(_) => (0..n).map(|i| (x.r(i) * constant(i)).0).collect(),
            _ => Vec::new(),
        };
        Ok(MaskTerms {
            deferred,
            crossed,
            of_wraps,
        })
    }

    /// The parts of the piece on which a value lies. Rounds: ceil(log2(digits)), or none with DCF.
    ///
    /// First one comparison a threshold and one borrow a shift, all over the same one-hot vectors;
    /// their sums are the intercept and the slopes, the borrows go into the shifted arguments.
    fn piece_of(
        &mut self,
        wire: &Wire,
        table: &Piecewise,
        label: &'static str,
    ) -> Result<Piece, ProtocolError> {
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
        // One key per row is read at every threshold, which is what takes its time: a prompt's rows
        // stay one-hot.
        let (borrows, mut pieces) = if self.uses_dcf(rows * thresholds / READS_PER_ELEMENT) {
            let negative = self.thresholds_by_dcf(wire, table, &shifts)?;
            self.summed_pieces(table, &shifts, &negative, rows, per_row)
        } else {
            let pending = self.compare_thresholds(wire, table, &shifts, per_row, label)?;
            if let [(below, _)] = pending.digits.as_slice() {
                self.looked_up_pieces(table, &shifts, below, rows, label)?
            } else {
                let (_, bits) = self.finish_sign(&pending, &[], label)?;
                let negative = bits.share(self, 64)?.0;
                self.summed_pieces(table, &shifts, &negative, rows, per_row)
            }
        };

        let mut shifted = Vec::new();
        for (c, &shift) in shifts.iter().enumerate() {
            let mut part = if shift == 0 {
                self.widened(wire)?
            } else {
                self.high_part(wire, shift, 64, 0)?
            };
            if shift > 0 && self.is_evaluator() {
                for (row, value) in part.data.iter_mut().enumerate() {
                    *value = value.wrapping_sub(borrows[row * shifts.len() + c]);
                }
            }
            shifted.push(part);
        }
        let column = |share: Share| share.shaped(wire.rows, wire.cols);
        let value = column(pieces.remove(0));
        Ok(Piece {
            value,
            slopes: pieces,
            shifted,
        })
    }

    /// Signs of `s - threshold`, then borrows out of the low `shift` bits, over one set of one-hot
    /// vectors a row.
    fn compare_thresholds(
        &mut self,
        wire: &Wire,
        table: &Piecewise,
        shifts: &[u32],
        per_row: usize,
        label: &'static str,
    ) -> Result<Pending, ProtocolError> {
        let rows = wire.len();
        let held = self.is_evaluator();
        let first = self.is_first();
        let k = table.ring_bits;
        let width = table.digit_bits;
        let n = rows * per_row;
        let thresholds = per_row - shifts.len();
        let threshold = |e: usize| {
            table
                .threshold
                .get(e % per_row + 1)
                .copied()
                .filter(|_| e % per_row < thresholds)
        };
        let opened = wire.opened();
        let public =
            |e: usize| opened[e / per_row].wrapping_sub(threshold(e).unwrap_or(0)) & low_mask(k);
        let shift_of = |e: usize| (e % per_row).checked_sub(thresholds).map(|c| shifts[c]);
        let mask = low_mask(width) as usize;
        let mut digits = Vec::new();
        for d in 0..k / width {
            let vectors = self.one_hot(wire, d * width, width)?;
            let at = |e: usize| (e / per_row, (public(e) >> (d * width)) as usize & mask);
            let (mut less, mut equal) = if (d + 1) * width == k {
                vectors.sign(n, held, at)
            } else {
                vectors.compare(n, held, at)
            };
            // A borrow ignores the digits above its shift: not less, equal.
            for row in 0..if held { rows } else { 0 } {
                for e in row * per_row + thresholds..(row + 1) * per_row {
                    if shift_of(e).is_some_and(|c| d * width >= c) {
                        let one = 1u64 << (e % 64);
                        less.words[e / 64] &= !one;
                        equal.words[e / 64] = if first {
                            equal.words[e / 64] | one
                        } else {
                            equal.words[e / 64] & !one
                        };
                    }
                }
            }
            digits.push((less, equal));
        }
        self.reduce(digits, if self.many(n) { 1 } else { 2 }, label)
    }

    /// Shares of the borrows, and the line (intercept, and slope within each shift class) of the
    /// interval that holds `s`, as sums over its threshold bits.
    fn summed_pieces(
        &self,
        table: &Piecewise,
        shifts: &[u32],
        negative: &[u64],
        rows: usize,
        per_row: usize,
    ) -> (Vec<u64>, Vec<Share>) {
        let columns = piece_columns(table, shifts);
        let mut data = vec![Vec::new(); columns.len()];
        let mut borrows = Vec::new();
        if self.is_evaluator() {
            let first = self.is_first();
            for row in negative.chunks_exact(per_row) {
                // [s >= threshold] = 1 - negative.
                let reached = |j: usize| Wrapping(u64::from(first)) - Wrapping(row[j - 1]);
                for (sums, column) in data.iter_mut().zip(&columns) {
                    let at = |j: usize| Wrapping(column[j]);
                    let start = if first { at(0) } else { Wrapping(0) };
                    // Each threshold that is reached adds a step from one interval to the next.
                    let steps = (1..column.len()).map(|j| (at(j) - at(j - 1)) * reached(j));
                    sums.push((start + steps.sum::<Word>()).0);
                }
                borrows.extend_from_slice(&row[per_row - shifts.len()..]);
            }
        }
        (
            borrows,
            data.into_iter()
                .map(|data| Share::new(1, rows, 64, data))
                .collect(),
        )
    }

    /// The same from XOR-shared threshold bits, which need not become numbers one by one: neighbors
    /// differ at the interval alone, so their sums are a shared one-hot vector, and a table read by
    /// it is right up to a sign ([`crate::masked::onehot::lut`]). That sign, which is the vector's
    /// own sum, is opened under a mask with what it multiplies. One round.
    fn looked_up_pieces(
        &mut self,
        table: &Piecewise,
        shifts: &[u32],
        below: &Bits,
        rows: usize,
        label: &'static str,
    ) -> Result<(Vec<u64>, Vec<Share>), ProtocolError> {
        let thresholds = table.threshold.len() - 1;
        let per_row = thresholds + shifts.len();
        let mut columns = piece_columns(table, shifts);
        columns.push(vec![1; thresholds + 1]);
        let mut data = vec![vec![0u64; if self.is_evaluator() { rows } else { 0 }]; columns.len()];
        let mut borrows = Bits {
            n: rows * shifts.len(),
            words: Vec::new(),
        };
        let first = u64::from(self.is_first());
        if self.is_evaluator() {
            for row in 0..rows {
                // Below no threshold at first, below the one behind the last at the end.
                let mut before = 0;
                for j in 0..=thresholds {
                    let now = if j < thresholds {
                        bit(&below.words, row * per_row + j)
                    } else {
                        first
                    };
                    // The one-hot vector's bit as a mask of all bits.
                    let hot = (before ^ now).wrapping_neg();
                    for (sums, column) in data.iter_mut().zip(&columns) {
                        sums[row] = sums[row].wrapping_add(column[j] & hot);
                    }
                    before = now;
                }
            }
            if first == 1 {
                data.iter_mut().for_each(|sums| ring::negate(sums));
            }
            borrows.words = plane(borrows.n, |i| {
                bit(
                    &below.words,
                    i / shifts.len() * per_row + thresholds + i % shifts.len(),
                )
            });
        }
        let shares: Vec<Share> = data
            .into_iter()
            .map(|data| Share::new(1, rows, 64, data))
            .collect();
        let parts: Vec<(&Share, u32)> = shares.iter().map(|share| (share, 64)).collect();
        let (mut wires, opened) = self.exchange(&parts, &[&borrows], label)?;
        let Some(sign) = wires.pop() else {
            unreachable!("the sign is the last column")
        };
        let pieces = wires.iter().map(|wire| self.mul(&sign, wire)).collect();
        let borrows = self.single(&opened[0]).share(self, 64)?.0;
        Ok((borrows, pieces))
    }
}

/// By interval: the intercept, then the slope within each shift class.
fn piece_columns(table: &Piecewise, shifts: &[u32]) -> Vec<Vec<u64>> {
    let slopes = shifts.iter().map(|&c| {
        let slope = table.slope.iter().zip(&table.shift);
        slope
            .map(|(slope, shift)| if *shift == c { *slope } else { 0 })
            .collect()
    });
    std::iter::once(table.intercept.clone())
        .chain(slopes)
        .collect()
}
