//! Sampling's own gates: the server's noise, and which elements are below the k-th largest.
//!
//! # Below the k-th largest
//! A search over a public number of passes ([`search`]): the differences of all elements and the
//! threshold so far are opened under one mask each; signs against the pass's candidates come from
//! one set of one-hot vectors an element; their sums are counts, whose comparison with k gives the
//! next digit of the threshold. Everything that is opened is masked, so views are those of
//! comparisons ([`crate::masked::onehot::argmax`]): uniform, of sizes that depend on shapes alone.
//! Neither party learns the threshold or a count.
//!
//! Cost over 49,152 logits: 67 rounds. A tournament that keeps sorted lists of k through every
//! level takes 4 rounds for each of its comparators' stages, and has
//! `log2(V/k)·(1 + log2 k) + log2 k·(1 + log2 k)/2` of them: 364 rounds at k = 64, 232 at 8, 124
//! at 2. Source: bisection for order statistics (Aggarwal, Mishra, Pinkas, "Secure Computation of
//! the k-th Ranked Element", EUROCRYPT '04), here with the comparisons' results kept under sharing.

use std::num::Wrapping;

use marill_crypto::Prg;
use marill_numeric::ring;

use crate::{
    error::ProtocolError,
    masked::{
        Masked, Role,
        boolean::{Bits, Pending, split},
        share::{Share, Wire},
    },
    sampling::{WIDTH, gumbel, search},
};

impl Masked {
    /// Adds E1's noise, which only E1 samples.
    pub(in crate::masked) fn add_noise(&mut self, x: &Share, scale: f64) -> Share {
        let mut out = x.clone();
        let Role::Evaluator(e) = &mut self.role else {
            return out;
        };
        if e.first {
            return out;
        }
        // The key lives for this token only.
        let key = e.randomness.noise_key();
        let noise = gumbel(&mut Prg::new(&key, "noise"), x.len(), scale);
        if let Some(observer) = &mut self.observer {
            observer.noise(&noise);
        }
        out.tensor += &noise;
        out
    }

    /// One, modulo `2^32`, for each element of a row that is below the `keep`-th largest on the
    /// search's grid.
    pub(in crate::masked) fn below_largest(
        &mut self,
        x: &Share,
        keep: usize,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let n = x.len();
        let first_candidate = vec![search::LOWEST; usize::from(self.is_first())];
        let mut threshold = self.row_of(first_candidate, 1, search::WIDTH);
        for pass in 0..search::PASSES {
            let step = search::step(pass);
            // Each pass fixes one digit of the threshold: the largest candidate that enough
            // elements reach.
            let candidates: Vec<u64> = (1..=search::CANDIDATES as u64).map(|j| j * step).collect();
            let below = self.below(x, &threshold, &candidates, search::COUNT_WIDTH, label)?;
            // Too few elements reach a candidate exactly when its spare count is negative.
            let spare = self.spare(&below, n, keep);
            let (mut wires, _) = self.exchange(&[(&spare, search::COUNT_WIDTH)], &[], label)?;
            let missed = self.negative(&wires.remove(0), &[0], search::WIDTH, label)?;
            if self.is_evaluator() {
                let public = if self.is_first() {
                    search::CANDIDATES as u64
                } else {
                    0
                };
                // How many candidates are reached: all of them less those missed.
                let reached = Wrapping(public) - Wrapping(ring::sum(&missed.data));
                // threshold ← threshold + reached·step, on shares.
                threshold.data[0] = (threshold.at(0) + reached * Wrapping(step)).0;
            }
        }
        let below = self.below(x, &threshold, &[0], WIDTH, label)?;
        Ok(below.shaped(x.rows, x.cols))
    }

    /// A row of own halves; E1 may leave the public ones out.
    fn row_of(&self, mut data: Vec<u64>, cols: usize, bits: u32) -> Share {
        data.resize(if self.is_evaluator() { cols } else { 0 }, 0);
        Share::new(1, cols, bits, data)
    }

    /// How many elements reach each candidate beyond `keep`: negative where too few do.
    fn spare(&self, below: &Share, n: usize, keep: usize) -> Share {
        let m = search::CANDIDATES;
        let public = if self.is_first() {
            (n - keep.min(n)) as u64
        } else {
            0
        };
        // n - keep - Σ [x < candidate].
        let mut data = vec![public; if self.is_evaluator() { m } else { 0 }];
        for row in below.data.chunks_exact(m) {
            ring::subtract_from(&mut data, row);
        }
        Share::new(1, m, search::COUNT_WIDTH, data)
    }

    /// `[x_i - threshold - candidate_j < 0]`, candidates side by side, modulo `2^bits`.
    fn below(
        &mut self,
        x: &Share,
        threshold: &Share,
        candidates: &[u64],
        bits: u32,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let t = threshold.data.first().copied().unwrap_or(0);
        let less = t.wrapping_neg();
        // [x] - [threshold], by each evaluator on its own.
        let difference = x.affine(|half| half.plus(less)).in_ring(search::WIDTH);
        let (mut wires, _) = self.exchange(&[(&difference, search::WIDTH)], &[], label)?;
        self.negative(&wires.remove(0), candidates, bits, label)
    }

    /// `[wire_i - offset_j < 0]`, offsets side by side, modulo `2^bits`, over one set of one-hot
    /// vectors an element.
    fn negative(
        &mut self,
        wire: &Wire,
        offsets: &[u64],
        bits: u32,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let rows = wire.len();
        let m = offsets.len();
        if self.uses_dcf(rows) {
            return Ok(Share::new(
                1,
                rows * m,
                bits,
                self.negative_by_dcf(wire, offsets, bits)?,
            ));
        }
        // Of one opening, signs at every candidate: public offsets move the opening, not the mask.
        let pending = self.signs_beyond(wire, offsets, label)?;
        let (_, signs) = self.finish_sign(&pending, &[], label)?;
        let (data, _) = signs.share(self, bits)?;
        Ok(Share::new(1, rows * m, bits, data))
    }

    fn signs_beyond(
        &mut self,
        wire: &Wire,
        offsets: &[u64],
        label: &'static str,
    ) -> Result<Pending, ProtocolError> {
        let m = offsets.len();
        let held = self.is_evaluator();
        let n = wire.len() * m;
        let (count, left) = if self.many(n) {
            (wire.bits / 4, 1)
        } else {
            (8, 2)
        };
        let widths = split(0, wire.bits, count);
        let opened = wire.opened();
        let mut digits: Vec<(Bits, Bits)> = Vec::with_capacity(widths.len());
        for (d, &(from, width)) in widths.iter().enumerate() {
            let vectors = self.one_hot(wire, from, width)?;
            let mask = (1usize << width) - 1;
            let at = |e: usize| {
                (
                    e / m,
                    (opened[e / m].wrapping_sub(offsets[e % m]) >> from) as usize & mask,
                )
            };
            let top = d + 1 == widths.len();
            digits.push(if top {
                vectors.sign(n, held, at)
            } else {
                vectors.compare(n, held, at)
            });
        }
        self.reduce(digits, left, label)
    }
}
