//! Tabulated functions with DCF: two rounds after the opening.
//!
//! The index and the borrow below it come from one-hot vectors, as in the one-hot form. Where the
//! argument lies is read from one comparison function whose threshold is the mask `r` modulo
//! `2^32`: `x` lies in an interval of `length` from `start` exactly when `r` lies in
//! `(x̂ - start - length, x̂ - start]`, two evaluations and a public bit. That gives the domain and
//! the sign as arithmetic shares, and with a payload of `r` the sign times `x`, which is a tail of
//! [`Tail::Relu`]. The first round opens lookups, borrow and domain bit; the line is gated before
//! its truncation, which is the second.

use std::num::Wrapping;

use marill_numeric::{
    fixed::low_mask,
    tables::{INDEX_BITS, LinearTable, PIECE_BITS, Tail},
};

use crate::{
    error::ProtocolError,
    masked::{
        Masked,
        boolean::OpenBits,
        dcf::DcfBatch,
        onehot::activation::ARG_BITS,
        share::{Share, Wire},
    },
};

/// Where an element lies, as shares: `[element of the payload]`, empty where nothing is held.
struct Position {
    in_domain: Vec<u64>,
    negative: Vec<u64>,
    /// `negative · x`.
    negative_x: Vec<u64>,
}

impl Masked {
    /// [`Masked::tabulated`] for few elements; `wire` is the argument less the domain's start,
    /// modulo `2^32`.
    pub(in crate::masked) fn tabulated_by_dcf(
        &mut self,
        x: &Wire,
        wire: &Wire,
        table: &LinearTable,
        out_bits: u32,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let n = x.len();
        let held = self.is_evaluator();
        let index = self.one_hot(wire, table.low_bits, INDEX_BITS)?;
        let below = self.one_hot(wire, 0, table.low_bits)?;
        let mask = low_mask(table.low_bits) as usize;
        // The borrow below the index, from a one-hot vector: DCF would need a key of its own.
        let opened = wire.opened();
        let (borrow, _) = below.compare(n, held, |i| (i, opened[i] as usize & mask));
        // Domain, sign and sign·x: one key for each element.
        let position = self.locate_by_dcf(x, table, out_bits)?;

        let lookups = self.piece_lookups(wire, &index, table);
        let gate = Share::new(x.rows, x.cols, PIECE_BITS, position.in_domain.clone());
        let shares: Vec<(&Share, u32)> = lookups
            .iter()
            .chain([&gate])
            .map(|share| (share, PIECE_BITS))
            .collect();
        let (mut pieces, borrow) = self.exchange(&shares, &[&borrow], label)?;
        let Some(gate) = pieces.pop() else {
            unreachable!("the gate was opened")
        };
        let piece = self.gated_piece(
            &pieces,
            wire,
            &borrow[0],
            &self.signs(&index),
            &gate,
            table.low_bits,
        )?;

        let shift = table.slope_frac_bits;
        let shifted = self.add_constant(&piece, self.half(shift) + table.bias as u64);
        let piece = self
            .exchange_masked(&[(&shifted, PIECE_BITS)], &[], label)?
            .0
            .remove(0);
        // The high part less a DCF borrow; the domain bit is already in the line.
        let mut out = self.high_part(&piece, shift, out_bits, (table.bias >> shift) as u64)?;
        if !self.rounds_stochastically(&piece, shift) {
            let borrow = self.borrow_by_dcf(&piece, shift, out_bits)?;
            out.tensor -= &borrow;
        }
        self.add_located_tail(&mut out, x, table.tail, &position);
        Ok(out)
    }

    /// `gate·piece = ĝ·piece - r_g·piece`, the gate's mask among the factors that the dealer knows.
    fn gated_piece(
        &mut self,
        pieces: &[Wire],
        wire: &Wire,
        borrow: &OpenBits,
        signs: &[u64],
        gate: &Wire,
        low_bits: u32,
    ) -> Result<Share, ProtocolError> {
        let piece = self.signed_piece(pieces, wire, borrow, signs, low_bits)?;
        // A public factor is about to meet it, which the dealer does not know.
        let piece = self.materialized(&piece)?.into_owned();
        let hidden: Vec<u64> = signs
            .iter()
            .zip(gate.mask())
            .map(|(sign, r)| r.wrapping_mul(sign.wrapping_neg()))
            .collect();
        let mut gated = self.signed_piece(pieces, wire, borrow, &hidden, low_bits)?;
        // ĝ·[piece] + (-r_g·piece).
        for (i, value) in gated.data.iter_mut().enumerate().take(piece.data.len()) {
            *value = (Wrapping(*value) + gate.x_hat(i) * piece.at(i)).0;
        }
        Ok(gated)
    }

    /// One key per element, read at two points for the domain and at two for the sign.
    fn locate_by_dcf(
        &mut self,
        x: &Wire,
        table: &LinearTable,
        out_bits: u32,
    ) -> Result<Position, ProtocolError> {
        let modulus = low_mask(ARG_BITS);
        let length = 1u64 << (INDEX_BITS + table.low_bits);
        // (start, length): the domain, then what is negative.
        let mut intervals = vec![(table.start as u64, length)];
        let payload_bits: &[u32] = match table.tail {
            Tail::Zero => &[PIECE_BITS],
            Tail::Step { .. } => &[out_bits],
            Tail::Relu => &[out_bits, out_bits],
        };
        if table.tail != Tail::Zero {
            intervals.push((1 << (ARG_BITS - 1), 1 << (ARG_BITS - 1)));
        }
        let x_hat = x.opened();
        let r = x.mask();
        let ends = |i: usize, (start, length): (u64, u64)| {
            let last = x_hat[i].wrapping_sub(start);
            [last.wrapping_sub(length) & modulus, last & modulus]
        };
        let per_row = 2 * intervals.len();
        let input = |e: usize| ends(e / per_row, intervals[e % per_row / 2])[e % 2];
        let payload = |i: usize, column: usize| if column == 0 { 1 } else { r[i] };
        let batch = DcfBatch {
            rows: x.len(),
            per_row,
            bits: ARG_BITS,
            payload_bits,
        };
        let columns = self.compare_dcf(&batch, |i| r[i], payload, input)?;
        let first = self.is_first();
        let own = self.share(x);
        // `[r > from] - [r > to]`, and one more where the interval wraps.
        let inside = |column: usize, k: usize| -> Vec<u64> {
            let value = |i: usize| {
                let [from, to] = ends(i, intervals[k]);
                let at = i * per_row + 2 * k;
                let between = |column: usize| {
                    Wrapping(columns[column][at]) - Wrapping(columns[column][at + 1])
                };
                let wraps = Wrapping(u64::from(from > to));
                if column == 0 {
                    return between(0) + if first { wraps } else { Wrapping(0) };
                }
                // [bit]·x̂ - [bit·r], and x itself where the interval wraps.
                between(0) * x.x_hat(i) - between(1) + wraps * own.at(i)
            };
            (0..own.data.len()).map(|i| value(i).0).collect()
        };
        let has_sign = intervals.len() > 1;
        Ok(Position {
            in_domain: inside(0, 0),
            negative: if has_sign { inside(0, 1) } else { Vec::new() },
            negative_x: if has_sign && payload_bits.len() > 1 {
                inside(1, 1)
            } else {
                Vec::new()
            },
        })
    }

    fn add_located_tail(&self, out: &mut Share, x: &Wire, tail: Tail, position: &Position) {
        match tail {
            Tail::Zero => {}
            Tail::Relu => {
                debug_assert_eq!(out.bits, x.bits, "the tail is the wire itself");
                let x = self.share(x);
                // x - [x < 0]·x.
                out.tensor += &x.data;
                out.tensor -= &position.negative_x;
            }
            Tail::Step { low, high } => {
                let rise = high.wrapping_sub(low) as u64;
                let public = if self.is_first() { high as u64 } else { 0 };
                for (value, negative) in out.data.iter_mut().zip(&position.negative) {
                    // high - (high - low)·[x < 0].
                    let step = Wrapping(public) - Wrapping(rise) * Wrapping(*negative);
                    *value = (Wrapping(*value) + step).0;
                }
            }
        }
    }
}
