//! Gates on distributed comparison functions (DCF): a comparison of an opening with its mask as an
//! arithmetic share, without a round.
//!
//! # Functionality
//! The functionality of a gate is that of its one-hot form (see
//! [`crate::masked::onehot::truncate`], [`crate::masked::onehot::argmax`],
//! [`crate::masked::onehot::spline`], [`crate::masked::onehot::activation`]): the same integers,
//! modulo the same width. Only how it gets there differs.
//!
//! # How
//! The dealer knows the mask `r` of a wire, so it hands out [comparison
//! functions](marill_crypto::dcf) with `r`, or its low bits, as their secret threshold. Once
//! `x̂ = x + r` is open each evaluator evaluates its key at `x̂`, or at `x̂ - t` for a public `t`,
//! and holds an additive share of `[x̂ < r]·β`. The payload `β` may depend on `r`, so
//! `β = (σ, σ·r)` gives a bit and its product with the wire at once.
//! - A truncation's borrow is `[x̂ mod 2^f < r mod 2^f]` itself: one round in all.
//! - A sign: with `p = msb(x̂)`, `m = msb(r)` and `c` the borrow of the bits below,
//!   `[x < 0] = p ⊕ m ⊕ c = p + (1 - 2p)·u` where `u = m + (1 - 2m)·c`. The dealer shares `m` and
//!   sets `β = 1 - 2m`, so the sign is an arithmetic share and
//!   `[x < 0]·y = p·y + (1 - 2p)·(u·ŷ - u·r_y)` for any wire `y` opened with `x`: a level of a
//!   tournament is one round.
//! - Thresholds of a piecewise function are evaluations of one key at many points.
//!
//! # Who learns what
//! Evaluators see what they see with one-hot comparisons, and correction words, which are
//! pseudorandom to each of them (security of [`marill_crypto::dcf`]). E0 now receives something
//! from the dealer: the same correction words as E1, in program order. The simulator of either
//! evaluator samples them as uniform bytes of their public number. Which gates use DCF is a matter
//! of public shapes and of the session parameters. Sources: Boyle, Gilboa, Ishai (TCC '19, gates on
//! masked wires); Boyle et al. (EUROCRYPT '21, truncation and splines); Gupta et al. (SIGMA, PETS
//! '24).

mod activation;
mod argmax;
mod spline;
mod truncate;

use marill_crypto::{
    aes::Cipher,
    dcf::{CHUNK, HashKey, Keys, Shape, generate, root},
};
use marill_numeric::fixed::low_mask;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    error::ProtocolError,
    masked::{
        Channel, Masked, Role, byte_width,
        correction_stream::Stream,
        party::{Dealer, Evaluator},
    },
};

/// The stream from which an evaluator's roots come.
pub(super) const ROOTS: &str = "point roots";

/// What comparisons are made of. One of the session parameters: all parties take the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// One-hot vectors of radix digits and trees of products: few bytes, all of them to E1.
    #[default]
    #[serde(rename = "digits", alias = "one-hot")]
    OneHot,
    /// DCF in gates of fewer than [`DCF_BELOW`] elements, one-hot in the others: few
    /// rounds; correction words go to both evaluators.
    #[serde(rename = "points", alias = "dcf")]
    Dcf,
}

impl std::fmt::Display for Comparison {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OneHot => "one-hot",
            Self::Dcf => "dcf",
        })
    }
}

/// Gates of so many elements stay one-hot whatever the choice: their correction words would take
/// longer than the rounds they save on any link that is not idle. A decoded token's gates are
/// smaller, a prompt's are larger.
pub const DCF_BELOW: usize = 1 << 12;

/// One comparison function a row: its width, the bits of its payload's elements, and how many
/// points each is read at.
pub(super) struct DcfBatch<'a> {
    pub(super) rows: usize,
    pub(super) per_row: usize,
    pub(super) bits: u32,
    pub(super) payload_bits: &'a [u32],
}

impl Masked {
    /// Returns self with a comparison protocol, at a party that needs no connection of its own for
    /// keys: E1, and a tally.
    #[must_use]
    pub fn with_comparison(mut self, comparison: Comparison) -> Self {
        self.dcf_below = match comparison {
            Comparison::OneHot => 0,
            Comparison::Dcf => DCF_BELOW,
        };
        self
    }

    /// Returns self comparing with DCF; `cws` leads from the dealer to E0. For these two parties.
    #[must_use]
    pub fn with_dcf(mut self, cws: Box<dyn Channel>) -> Self {
        match &mut self.role {
            Role::Evaluator(e) => e.dcf_keys = Some(Stream::new(cws)),
            Role::Dealer(dealer) => dealer.dcf_keys = Some((cws, Vec::new())),
            Role::Tally(_) => {}
        }
        self.with_comparison(Comparison::Dcf)
    }

    /// Returns self with the hash of DCF keys under this session's public key: the same at all
    /// parties, and another in every session. Before the first step.
    #[must_use]
    pub fn with_hash_key(mut self, key: &HashKey) -> Self {
        self.hash = Cipher::new(key);
        self
    }

    /// Whether a gate over `n` elements compares with DCF.
    pub(super) fn uses_dcf(&self, n: usize) -> bool {
        n < self.dcf_below
    }

    /// Shares of `[input < threshold]·payload`, `[element][row · per_row + input]`.
    ///
    /// `threshold(row)` and `payload(row, element)` are asked at the dealer, `input(i)` at the
    /// evaluators.
    pub(super) fn compare_dcf(
        &mut self,
        c: &DcfBatch<'_>,
        threshold: impl Fn(usize) -> u64,
        payload: impl Fn(usize, usize) -> u64,
        input: impl Fn(usize) -> u64,
    ) -> Result<Vec<Vec<u64>>, ProtocolError> {
        let widths: Vec<usize> = c
            .payload_bits
            .iter()
            .map(|&bits| byte_width(bits))
            .collect();
        let shape = Shape::new(c.bits, &widths);
        let total = c.rows * shape.key_bytes();
        // No two keys of a session share a tweak of the hash.
        let first_tree = self.trees;
        self.trees += c.rows as u64;
        let hash = &self.hash;
        match &mut self.role {
            Role::Tally(tally) => {
                // The same correction words go to both evaluators.
                tally.dealer(total);
                tally.dcf_keys(total);
                Ok(vec![Vec::new(); shape.columns()])
            }
            Role::Dealer(dealer) => {
                dealer.write_dcf_keys(c, &shape, first_tree, hash, threshold, payload)?;
                Ok(vec![Vec::new(); shape.columns()])
            }
            Role::Evaluator(e) => {
                // Inputs are openings: public, so evaluation may depend on them.
                let inputs: Vec<u64> = (0..c.rows * c.per_row)
                    .map(|i| input(i) & low_mask(c.bits))
                    .collect();
                e.evaluate_dcf_keys(c, &shape, first_tree, hash, &inputs)
            }
        }
    }
}

impl Dealer {
    /// Makes keys of `c.rows` comparisons and puts them among what is sent.
    fn write_dcf_keys(
        &mut self,
        c: &DcfBatch<'_>,
        shape: &Shape,
        first_tree: u64,
        hash: &Cipher,
        threshold: impl Fn(usize) -> u64,
        payload: impl Fn(usize, usize) -> u64,
    ) -> Result<(), ProtocolError> {
        let roots = self
            .roots
            .each_mut()
            .map(|prg| Zeroizing::new(prg.words(2 * c.rows)));
        let total = c.rows * shape.key_bytes();
        if let Some((cws, inputs)) = self.randomness.dcf_keys(total) {
            // Keys of before: E1's shares follow from them, and E0's complete the values.
            let own: Vec<u128> = roots[1]
                .chunks_exact(2)
                .map(|w| root(w[0], w[1], false))
                .collect();
            let shares = evaluate(
                shape, false, &own, &cws, first_tree, &inputs, c.per_row, hash,
            )
            .concat();
            let value = |(column, p): (usize, usize)| {
                let row = p / c.per_row;
                let below = inputs[p] < threshold(row) & low_mask(c.bits);
                if below { payload(row, column) } else { 0 }
            };
            let values: Vec<u64> = (0..shape.columns())
                .flat_map(|column| (0..inputs.len()).map(move |p| (column, p)))
                .map(value)
                .collect();
            self.randomness.complete_dcf(&values, &shares);
            self.buffer.extend_from_slice(&cws);
            return self.emit();
        }
        let before = self.buffer.len();
        for start in (0..c.rows).step_by(CHUNK) {
            let rows = start..(start + CHUNK).min(c.rows);
            let roots = [(&roots[0], true), (&roots[1], false)].map(|(words, first)| {
                Zeroizing::new(
                    rows.clone()
                        .map(|i| root(words[2 * i], words[2 * i + 1], first))
                        .collect::<Vec<u128>>(),
                )
            });
            // The threshold: the mask's low bits.
            let alpha = Zeroizing::new(
                rows.clone()
                    .map(|i| threshold(i) & low_mask(c.bits))
                    .collect::<Vec<u64>>(),
            );
            generate(
                shape,
                [&roots[0], &roots[1]],
                &alpha,
                |i: usize, column: usize| payload(start + i, column),
                first_tree + start as u64,
                hash,
                &mut self.buffer,
            );
        }
        if let Some((_, buffer)) = &mut self.dcf_keys {
            buffer.extend_from_slice(&self.buffer[before..]);
        }
        self.emit()
    }
}

impl Evaluator {
    /// Reads keys of `c.rows` comparisons and evaluates them at the inputs.
    fn evaluate_dcf_keys(
        &mut self,
        c: &DcfBatch<'_>,
        shape: &Shape,
        first_tree: u64,
        hash: &Cipher,
        inputs: &[u64],
    ) -> Result<Vec<Vec<u64>>, ProtocolError> {
        let first = self.first;
        let words = Zeroizing::new(self.roots.words(2 * c.rows));
        let roots: Zeroizing<Vec<u128>> = Zeroizing::new(
            words
                .chunks_exact(2)
                .map(|w| root(w[0], w[1], first))
                .collect(),
        );
        if let Some(halves) = self.randomness.dcf_outputs(inputs) {
            let columns = halves.chunks_exact(inputs.len());
            return Ok(columns.map(<[u64]>::to_vec).collect());
        }
        // Roots come from the own seed; what is read is pseudorandom to this
        // evaluator.
        let cws = self.read_dcf_keys(c.rows * shape.key_bytes())?;
        Ok(evaluate(
            shape, first, &roots, cws, first_tree, inputs, c.per_row, hash,
        ))
    }
}

/// The sums of each element of the payload; chunks side by side, where there are several.
fn evaluate(
    shape: &Shape,
    first: bool,
    roots: &[u128],
    cws: &[u8],
    first_tree: u64,
    inputs: &[u64],
    per_row: usize,
    cipher: &Cipher,
) -> Vec<Vec<u64>> {
    let mut sums = vec![vec![0u64; inputs.len()]; shape.columns()];
    let key_bytes = shape.key_bytes();
    let chunk = |(c, mut columns): (usize, Vec<&mut [u64]>)| {
        let rows = c * CHUNK..(c * CHUNK + CHUNK).min(roots.len());
        let roots = &roots[rows.clone()];
        let cws = &cws[rows.start * key_bytes..rows.end * key_bytes];
        let keys = Keys {
            shape,
            first,
            roots,
            cws,
            first_tree: first_tree + rows.start as u64,
            cipher,
        };
        keys.evaluate(
            &inputs[rows.start * per_row..rows.end * per_row],
            per_row,
            &mut columns,
        );
    };
    let mut parts: Vec<Vec<&mut [u64]>> = (0..roots.len().div_ceil(CHUNK))
        .map(|_| Vec::new())
        .collect();
    for column in &mut sums {
        column
            .chunks_mut(CHUNK * per_row)
            .zip(&mut parts)
            .for_each(|(lanes, part)| part.push(lanes));
    }
    if let [_] = parts.as_slice() {
        // Waking another thread takes longer than a chunk.
        parts.into_iter().enumerate().for_each(chunk);
    } else {
        parts.into_par_iter().enumerate().for_each(chunk);
    }
    sums
}
