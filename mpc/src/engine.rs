//! The operations of which a secure program is made.
//!
//! A *share* is a value that only linear operations may touch; a *wire* is a value ready for
//! products. Both carry a shape `[rows, cols]`. Widths (`bits`) are public: arithmetic is modulo
//! 2^bits of the narrowest operand, and opening a share of `bits` bits costs `bits` bits each way.
//!
//! `Cost` in the documentation of an operation is what the tally counts ([`Masked::tally`], exact
//! rounding) behind the opening of a row of so many elements: rounds, and bytes that each party and
//! the dealer send (`a + b`: to E1 and to E0). Below [`MANY`] elements gates save rounds, from it
//! on bytes; from half of it on, comparisons are one-hot whatever a session says. A test compares.
//!
//! [`Masked::tally`]: crate::masked::Masked::tally
//! [`MANY`]: crate::masked::MANY
//!
//! Every interpreter returns the same integers from the same inputs, and control flow depends on
//! shapes alone.

use marill_numeric::{
    PublicMatrix,
    approx::{QUAD_SHIFT, quad_terms},
    tables::{ARG_FRAC_BITS, LinearTable, Piecewise},
};

use crate::{
    error::ProtocolResult,
    sampling::Sampling,
    spec::{MapId, width},
    weights::{PublicWeights, Rope},
};

/// Which heads attend together, and to how many keys.
#[derive(Clone, Copy)]
pub struct Attention<'a> {
    /// `[group][query heads]`
    pub groups: &'a [Vec<usize>],
    pub num_attention_heads: usize,
    pub num_key_value_heads: usize,
    pub head_dim: usize,
    /// Position of the first query row.
    pub first: usize,
    /// Query rows.
    pub rows: usize,
    /// Row `i` attends to keys `0..=first + i`; otherwise to all `first + rows`.
    pub causal: bool,
}

impl Attention<'_> {
    /// Keys of each ragged row, group-major.
    pub fn lens(&self) -> Vec<usize> {
        (0..self.groups.len())
            .flat_map(|_| (0..self.rows).map(|i| self.keys(i)))
            .collect()
    }

    /// How many keys a query row sees.
    #[must_use]
    pub fn keys(&self, row: usize) -> usize {
        self.first + if self.causal { row + 1 } else { self.rows }
    }

    /// The key-value head of a query head.
    #[must_use]
    pub fn kv_head(&self, head: usize) -> usize {
        head / (self.num_attention_heads / self.num_key_value_heads)
    }
}

/// A tabulated function: SiLU, GeLU, sigmoid, tanh.
#[derive(Clone, Copy)]
pub struct Gate<'a>(pub &'a LinearTable);

/// Width of softmax weights, values and their products, which are below 2^46 until they are
/// divided.
pub const WEIGHTED_BITS: u32 = width::WEIGHTED;

/// A truncation: what falls away, and the widths of the ring before and after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Truncation {
    /// Bits that fall away.
    pub shift: u32,
    /// The value is below `2^(from - 2)` in magnitude, and only its low `from` bits count.
    pub from: u32,
    /// The result is a share modulo `2^to`.
    pub to: u32,
}

/// What the two values of a fused operation are called in traces, tallies and errors: the one that
/// goes on inside, and the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Labels {
    pub inner: &'static str,
    pub outer: &'static str,
}

impl Labels {
    #[must_use]
    pub const fn new(inner: &'static str, outer: &'static str) -> Self {
        Self { inner, outer }
    }

    /// One name for both.
    #[must_use]
    pub const fn both(label: &'static str) -> Self {
        Self::new(label, label)
    }
}

/// The interpreter of a secure program.
pub trait Engine {
    type Share: Clone;
    type Wire: Clone;

    /// Says where the program is: in a layer, or behind the last one. For engines that report
    /// labels.
    fn enter_layer(&mut self, _layer: Option<usize>) {}

    /// A step of `rows` rows is about to begin. For engines that make ahead what it takes.
    ///
    /// # Errors
    /// A lost peer.
    fn begin_step(
        &mut self,
        _weights: &PublicWeights,
        _sampling: Option<Sampling>,
        _rows: usize,
    ) -> ProtocolResult<()> {
        Ok(())
    }

    /// The client's values; the other parties pass none.
    fn input(
        &mut self,
        values: Option<&[u64]>,
        rows: usize,
        cols: usize,
        bits: u32,
    ) -> ProtocolResult<Self::Wire>;
    /// Makes wires of shares, all in one round.
    ///
    /// Cost:
    /// - 1,024 elements: 1 round; E0 6,144 B, E1 6,144 B, dealer 0 B
    /// - 8,192 elements: 1 round; E0 49,152 B, E1 49,152 B, dealer 0 B
    fn open(
        &mut self,
        shares: &[(&Self::Share, u32)],
        label: &'static str,
    ) -> ProtocolResult<Vec<Self::Wire>>;
    /// Makes a wire of a share that is below `2^(bits - 2)` in magnitude, opening all of it or
    /// these bits alone.
    fn open_bounded(
        &mut self,
        share: &Self::Share,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Self::Wire> {
        Ok(self.open(&[(share, bits)], label)?.remove(0))
    }
    /// Gives a share modulo `2^bits` to the server's side, masked, and multiplies it by the
    /// server's private LoRA updates of some maps, or by its full-rank weights where the spec keeps
    /// them private, in one round: the share, and the products. There are none with rank 0.
    ///
    /// Cost, one row and one map of rank 4, behind another message of E0's:
    /// - 1,024 elements: 0 rounds; E0 7,196 B, E1 0 B, dealer 28 B
    /// - 8,192 elements: 0 rounds; E0 57,372 B, E1 0 B, dealer 28 B
    fn reveal_to_e1(
        &mut self,
        share: &Self::Share,
        bits: u32,
        maps: &[MapId],
        label: &'static str,
    ) -> ProtocolResult<(Self::Share, Vec<Option<Self::Share>>)>;
    fn share(&mut self, wire: &Self::Wire) -> Self::Share;

    fn rows(&self, share: &Self::Share) -> usize;
    fn cols(&self, share: &Self::Share) -> usize;
    fn add(&mut self, x: &Self::Share, y: &Self::Share) -> Self::Share;
    fn sub(&mut self, x: &Self::Share, y: &Self::Share) -> Self::Share;
    /// Adds a public constant to every element.
    fn add_constant(&mut self, x: &Self::Share, constant: u64) -> Self::Share;
    /// Adds a public row to every row.
    fn add_row(&mut self, x: &Self::Share, row: &[u64]) -> Self::Share;
    /// Multiplies every column by its public factor.
    fn scale_columns(&mut self, x: &Self::Share, factors: &[u64]) -> Self::Share;
    /// Adds the server's own row for a map to every row: what its LoRA update makes of a norm's
    /// bias, or the private bias of a private map.
    fn add_private_row(&mut self, x: &Self::Share, map: MapId) -> Self::Share;
    /// Multiplies by a public constant.
    fn scale_constant(&mut self, x: &Self::Share, constant: u64) -> Self::Share;
    /// The same elements in rows of `cols`.
    fn reshape(&mut self, x: &Self::Share, cols: usize) -> Self::Share;
    /// Multiplies by `2^bits`.
    fn shift_left(&mut self, x: &Self::Share, bits: u32) -> Self::Share;
    /// `x · Wᵀ` with a public matrix.
    fn linear(&mut self, matrix: &PublicMatrix, x: &Self::Share) -> Self::Share;
    /// Puts matrices of equal row counts side by side.
    fn concat(&mut self, parts: &[&Self::Share]) -> Self::Share;
    /// Columns `first..first + count`.
    fn columns(&mut self, x: &Self::Share, first: usize, count: usize) -> Self::Share;
    fn wire_columns(&mut self, x: &Self::Wire, first: usize, count: usize) -> Self::Wire;
    /// The last row only.
    fn last_row(&mut self, x: &Self::Share) -> Self::Share;
    fn wire_last_row(&mut self, x: &Self::Wire) -> Self::Wire;
    /// Appends rows to a cache.
    fn append(&mut self, cache: &mut Option<Self::Wire>, rows: &Self::Wire);
    /// Rotates pairs `(i, i + head_dim/2)` of every head by the angle of its row's position,
    /// gaining the table's bits.
    fn rotate(&mut self, x: &Self::Share, rope: &Rope, first_position: usize) -> Self::Share;
    /// Sum of squares of each row: `[rows, 1]`.
    ///
    /// Cost, one row:
    /// - 1,024 elements: 0 rounds; E0 0 B, E1 0 B, dealer 6,144 B
    /// - 8,192 elements: 0 rounds; E0 0 B, E1 0 B, dealer 49,152 B
    fn square_sum(&mut self, x: &Self::Wire) -> ProtocolResult<Self::Share>;
    /// Element-wise product.
    ///
    /// Cost:
    /// - 1,024 elements: 0 rounds; E0 0 B, E1 0 B, dealer 0 B
    /// - 8,192 elements: 0 rounds; E0 0 B, E1 0 B, dealer 0 B
    fn mul(&mut self, x: &Self::Wire, y: &Self::Wire) -> ProtocolResult<Self::Share>;
    /// Multiplies row `i` of `x` by `scale[i]`.
    ///
    /// Cost, one row:
    /// - 1,024 elements: 0 rounds; E0 0 B, E1 0 B, dealer 6,144 B
    /// - 8,192 elements: 0 rounds; E0 0 B, E1 0 B, dealer 49,152 B
    fn scale_rows(&mut self, x: &Self::Wire, scale: &Self::Wire) -> ProtocolResult<Self::Share>;

    /// Summed scores of every group, ragged `[1, Σ lens]`.
    ///
    /// Cost, one head and one key:
    /// - 1,024 elements: 0 rounds; E0 0 B, E1 0 B, dealer 0 B
    /// - 8,192 elements: 0 rounds; E0 0 B, E1 0 B, dealer 0 B
    fn scores(
        &mut self,
        queries: &Self::Wire,
        keys: &Self::Wire,
        attention: &Attention<'_>,
    ) -> ProtocolResult<Self::Share>;
    /// Adds `bias[key]` to every score whose key has one.
    fn add_key_bias(
        &mut self,
        scores: &Self::Share,
        bias: &Self::Wire,
        attention: &Attention<'_>,
    ) -> Self::Share;
    /// `Σ_key weight · value`, heads side by side: `[rows, heads · head_dim]`.
    ///
    /// Cost, one head and one key:
    /// - 1,024 elements: 0 rounds; E0 0 B, E1 0 B, dealer 0 B
    /// - 8,192 elements: 0 rounds; E0 0 B, E1 0 B, dealer 0 B
    fn weighted_values(
        &mut self,
        weights: &Self::Wire,
        values: &Self::Wire,
        attention: &Attention<'_>,
    ) -> ProtocolResult<Self::Share>;
    /// Multiplies each head's columns by its group's and row's scalar (`[1, groups · rows]`,
    /// group-major).
    ///
    /// Cost, one head:
    /// - 1,024 elements: 0 rounds; E0 0 B, E1 0 B, dealer 6,144 B
    /// - 8,192 elements: 0 rounds; E0 0 B, E1 0 B, dealer 49,152 B
    fn scale_heads(
        &mut self,
        x: &Self::Wire,
        scale: &Self::Wire,
        attention: &Attention<'_>,
    ) -> ProtocolResult<Self::Share>;
    /// Maximum of each ragged row.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 21 rounds; E0 6,096 B, E1 6,096 B, dealer 61,595 B
    /// - 1,024 elements, DCF: 7 rounds; E0 4,064 B, E1 4,064 B, dealer 739,648 B + 731,520 B
    /// - 8,192 elements: 21 rounds; E0 48,768 B, E1 48,768 B, dealer 492,760 B
    fn ragged_max(
        &mut self,
        x: &Self::Share,
        lens: &[usize],
        label: &'static str,
    ) -> ProtocolResult<Self::Share>;
    /// `scalar[row] - x` over ragged rows.
    fn ragged_rsub(&mut self, x: &Self::Share, scalar: &Self::Share, lens: &[usize])
    -> Self::Share;
    fn ragged_sum(&mut self, x: &Self::Share, lens: &[usize]) -> Self::Share;

    /// `floor((x + 2^(shift-1)) / 2^shift)` of a value below `2^(from - 2)`, as a share modulo
    /// `2^to`; rounded stochastically where the numeric specification says so.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 2 rounds; E0 2,304 B, E1 6,528 B, dealer 65,536 B
    /// - 1,024 elements, DCF: 1 round; E0 6,144 B, E1 6,144 B, dealer 296,960 B + 288,768 B
    /// - 8,192 elements: 3 rounds; E0 22,528 B, E1 56,320 B, dealer 179,200 B
    fn truncate(
        &mut self,
        x: &Self::Share,
        truncation: Truncation,
        label: &'static str,
    ) -> ProtocolResult<Self::Share>;
    /// [`Self::truncate`] by `truncation`, then [`Self::reveal_to_e1`] of the
    /// result; the labels are theirs.
    ///
    /// Cost, one row and one map of rank 4:
    /// - 1,024 elements, one-hot: 3 rounds; E0 9,500 B, E1 7,552 B, dealer 70,684 B
    /// - 1,024 elements, DCF: 2 rounds; E0 14,364 B, E1 7,168 B, dealer 313,372 B + 304,128 B
    /// - 8,192 elements: 4 rounds; E0 79,900 B, E1 64,512 B, dealer 195,612 B
    fn truncate_and_reveal(
        &mut self,
        x: &Self::Share,
        truncation: Truncation,
        maps: &[MapId],
        labels: Labels,
    ) -> ProtocolResult<(Self::Share, Vec<Option<Self::Share>>)> {
        let x = self.truncate(x, truncation, labels.inner)?;
        self.reveal_to_e1(&x, truncation.to, maps, labels.outer)
    }
    /// [`marill_numeric::functions::exp_neg`] of a value in `[0, 2^31)`, as a share modulo
    /// `2^out_bits`.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 4 rounds; E0 17,536 B, E1 17,536 B, dealer 266,624 B
    /// - 1,024 elements, DCF: 3 rounds; E0 19,584 B, E1 19,584 B, dealer 926,720 B + 739,328 B
    /// - 8,192 elements: 6 rounds; E0 152,576 B, E1 152,576 B, dealer 1,125,376 B
    fn exp_neg(
        &mut self,
        y: &Self::Share,
        out_bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Self::Share>;
    /// [`marill_numeric::functions::exp_clipped`] of a value below `2^31` in magnitude, as a share
    /// modulo `2^out_bits`.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 4 rounds; E0 21,504 B, E1 21,504 B, dealer 274,688 B
    /// - 1,024 elements, DCF: 3 rounds; E0 22,656 B, E1 22,656 B, dealer 1,035,264 B + 847,872 B
    /// - 8,192 elements: 6 rounds; E0 186,368 B, E1 186,368 B, dealer 1,187,840 B
    fn exp_clipped(
        &mut self,
        y: &Self::Share,
        out_bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Self::Share>;
    /// `max(x, 0)` of a share modulo `2^bits` that is below `2^(bits - 2)` in magnitude.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 3 rounds; E0 8,192 B, E1 8,192 B, dealer 131,712 B
    /// - 1,024 elements, DCF: 1 round; E0 6,144 B, E1 6,144 B, dealer 1,339,392 B + 1,327,104 B
    /// - 8,192 elements: 4 rounds; E0 74,752 B, E1 74,752 B, dealer 360,448 B
    fn relu(
        &mut self,
        x: &Self::Share,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Self::Share>;
    /// A gate function of a wire below `2^31` in magnitude; the result has the wire's width.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 4 rounds; E0 15,104 B, E1 15,104 B, dealer 226,688 B
    /// - 1,024 elements, DCF: 2 rounds; E0 15,488 B, E1 15,488 B, dealer 1,349,632 B + 1,095,680 B
    /// - 8,192 elements: 5 rounds; E0 131,072 B, E1 131,072 B, dealer 1,255,424 B
    fn gate(
        &mut self,
        x: &Self::Wire,
        gate: Gate<'_>,
        label: &'static str,
    ) -> ProtocolResult<Self::Share>;
    /// `gate(truncate(x))`, where `truncate` is [`Self::truncate`] by `truncation`
    /// and truncated values are below `2^30`: modulo `2^to`.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 6 rounds; E0 20,992 B, E1 25,216 B, dealer 362,752 B
    /// - 1,024 elements, DCF: 4 rounds; E0 27,776 B, E1 27,776 B, dealer 1,581,056 B + 1,384,448 B
    /// - 8,192 elements: 9 rounds; E0 186,368 B, E1 220,160 B, dealer 1,459,200 B
    fn truncate_gate(
        &mut self,
        x: &Self::Share,
        gate: Gate<'_>,
        truncation: Truncation,
        labels: Labels,
    ) -> ProtocolResult<Self::Share> {
        let x = self.truncate(x, truncation, labels.inner)?;
        let x = self.open(&[(&x, truncation.to)], labels.inner)?.remove(0);
        self.gate(&x, gate, labels.outer)
    }
    /// `gate(truncate(g)) · truncate(u)` for `x = g | u` side by side and a gate with a tail of
    /// `relu`, where `truncate` is [`Self::truncate`] by `truncation` and truncated
    /// values are below `2^30`: modulo `2^to`.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 8 rounds; E0 16,000 B, E1 18,176 B, dealer 178,880 B
    /// - 1,024 elements, DCF: 5 rounds; E0 23,104 B, E1 23,104 B, dealer 971,776 B + 836,608 B
    /// - 8,192 elements: 9 rounds; E0 132,096 B, E1 149,504 B, dealer 1,012,224 B
    fn gated_product(
        &mut self,
        x: &Self::Share,
        gate: Gate<'_>,
        truncation: Truncation,
        labels: Labels,
    ) -> ProtocolResult<Self::Share> {
        let both = self.truncate(x, truncation, labels.inner)?;
        let both = self
            .open(&[(&both, truncation.to)], labels.inner)?
            .remove(0);
        let half = self.cols(x) / 2;
        let g = self.wire_columns(&both, 0, half);
        let u = self.wire_columns(&both, half, half);
        let g = self.gate(&g, gate, labels.outer)?;
        let g = self.open(&[(&g, truncation.to)], labels.outer)?.remove(0);
        self.mul(&g, &u)
    }
    /// `quad(truncate(g)) · truncate(u)` for `x = g | u` side by side and
    /// [`marill_numeric::approx::quad`], where `truncate` is [`Self::truncate`] by `truncation`:
    /// modulo `2^to`. Eight times the square of a truncated `g`, with 28 fractional bits, must be
    /// below `2^(to - 2)`.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 6 rounds; E0 12,992 B, E1 19,136 B, dealer 111,104 B
    /// - 1,024 elements, DCF: 4 rounds; E0 18,432 B, E1 18,432 B, dealer 479,744 B + 466,944 B
    /// - 8,192 elements: 8 rounds; E0 109,568 B, E1 158,720 B, dealer 356,864 B
    fn quad_product(
        &mut self,
        x: &Self::Share,
        truncation: Truncation,
        labels: Labels,
    ) -> ProtocolResult<Self::Share> {
        let bits = truncation.to;
        let both = self.truncate(x, truncation, labels.inner)?;
        let both = self.open(&[(&both, bits)], labels.inner)?.remove(0);
        let half = self.cols(x) / 2;
        let g = self.wire_columns(&both, 0, half);
        let u = self.wire_columns(&both, half, half);
        // A square of a wire is local, and its cross term goes into the truncation.
        let square = self.mul(&g, &g)?;
        let (factor, constant) = quad_terms(ARG_FRAC_BITS);
        let g = self.share(&g);
        let linear = self.scale_constant(&g, factor);
        let sum = self.add(&square, &linear);
        let sum = self.add_constant(&sum, constant);
        let truncation = Truncation {
            shift: ARG_FRAC_BITS + QUAD_SHIFT,
            from: bits,
            to: bits,
        };
        let activated = self.truncate(&sum, truncation, labels.outer)?;
        let activated = self.open(&[(&activated, bits)], labels.outer)?.remove(0);
        self.mul(&activated, &u)
    }
    /// A piecewise linear function of a positive value.
    ///
    /// Cost:
    /// - 1 element, one-hot: 4 rounds; E0 1,496 B, E1 1,496 B, dealer 31,272 B
    /// - 1 element, DCF: 2 rounds; E0 104 B, E1 104 B, dealer 5,461 B + 5,376 B
    /// - 8,192 elements: 5 rounds; E0 12,736,512 B, E1 12,736,512 B, dealer 19,126,272 B
    fn piecewise(
        &mut self,
        s: &Self::Share,
        table: &Piecewise,
        label: &'static str,
    ) -> ProtocolResult<Self::Share>;
    /// Multiplies row `i` of a wire by a piecewise linear function of `s[i]`; `labels` are those of
    /// the function and of its opening, which an engine may do without.
    ///
    /// Cost, one row:
    /// - 1,024 elements, one-hot: 4 rounds; E0 1,504 B, E1 1,504 B, dealer 160,296 B
    /// - 1,024 elements, DCF: 2 rounds; E0 112 B, E1 112 B, dealer 134,485 B + 5,376 B
    /// - 8,192 elements: 5 rounds; E0 1,504 B, E1 1,504 B, dealer 80,424 B
    fn scale_rows_piecewise(
        &mut self,
        x: &Self::Wire,
        s: &Self::Share,
        table: &Piecewise,
        labels: Labels,
    ) -> ProtocolResult<Self::Share> {
        let factors = self.piecewise(s, table, labels.inner)?;
        let factors = self.open(&[(&factors, 64)], labels.outer)?.remove(0);
        self.scale_rows(x, &factors)
    }
    /// As [`Self::piecewise`], of the sums of a wire's ragged rows: what is open need not be opened
    /// again.
    fn piecewise_sums(
        &mut self,
        x: &Self::Wire,
        lens: &[usize],
        table: &Piecewise,
        label: &'static str,
    ) -> ProtocolResult<Self::Share> {
        let share = self.share(x);
        let sums = self.ragged_sum(&share, lens);
        self.piecewise(&sums, table, label)
    }
    /// Multiplies each head's columns of `x`, which is valid modulo `2^WEIGHTED_BITS`, by a
    /// piecewise linear function of its ragged row of `weights`, summed: modulo 2^64.
    ///
    /// Cost, one head:
    /// - 1,024 elements, one-hot: 3 rounds; E0 6,544 B, E1 6,544 B, dealer 61,458 B
    /// - 1,024 elements, DCF: 1 round; E0 6,184 B, E1 6,184 B, dealer 47,915 B + 768 B
    /// - 8,192 elements: 4 rounds; E0 49,552 B, E1 49,552 B, dealer 63,506 B
    fn scale_heads_piecewise(
        &mut self,
        x: &Self::Share,
        weights: &Self::Wire,
        table: &Piecewise,
        attention: &Attention<'_>,
        labels: Labels,
    ) -> ProtocolResult<Self::Share> {
        let factors = self.piecewise_sums(weights, &attention.lens(), table, labels.inner)?;
        let wires = self.open(&[(x, WEIGHTED_BITS), (&factors, 64)], labels.outer)?;
        self.scale_heads(&wires[0], &wires[1], attention)
    }
    /// Adds the server's own noise: independent standard Gumbel values times `scale`, rounded,
    /// drawn for this call.
    fn add_noise(&mut self, x: &Self::Share, scale: f64) -> Self::Share;
    /// For each element of a `[1, n]` row of sampled logits ([`crate::sampling`]) one where it is
    /// below the `keep`-th largest, on the search's grid, and zero elsewhere; as a share modulo
    /// `2^32`.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 57 rounds; E0 93,409 B, E1 93,409 B, dealer 691,777 B
    /// - 1,024 elements, DCF: 19 rounds; E0 35,921 B, E1 35,921 B, dealer 4,959,632 B + 4,927,780 B
    /// - 8,192 elements: 67 rounds; E0 717,025 B, E1 717,025 B, dealer 2,303,041 B
    fn below_largest(
        &mut self,
        x: &Self::Share,
        keep: usize,
        label: &'static str,
    ) -> ProtocolResult<Self::Share>;
    /// Index of the largest element of a `[1, n]` row, the lowest of equals, revealed to the client
    /// alone. Differences must fit the share's width, or 48 bits where that is less.
    ///
    /// Cost:
    /// - 1,024 elements, one-hot: 31 rounds; E0 9,751 B, E1 9,754 B, dealer 139,327 B
    /// - 1,024 elements, DCF: 11 rounds; E0 7,671 B, E1 7,674 B, dealer 1,413,201 B + 1,399,392 B
    /// - 8,192 elements: 40 rounds; E0 77,847 B, E1 77,850 B, dealer 1,115,071 B
    fn argmax_to_client(
        &mut self,
        x: &Self::Share,
        label: &'static str,
    ) -> ProtocolResult<Option<u32>>;
    /// The values themselves modulo `2^bits`, a whole number of bytes, revealed to the client
    /// alone.
    ///
    /// Cost:
    /// - 1,024 elements: 1 round; E0 0 B, E1 6,144 B, dealer 0 B
    /// - 8,192 elements: 1 round; E0 0 B, E1 49,152 B, dealer 0 B
    fn reveal_to_client(
        &mut self,
        x: &Self::Share,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Option<Vec<u64>>>;
}
