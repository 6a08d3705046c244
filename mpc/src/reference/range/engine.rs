//! Each operation on bounds.

use std::sync::Arc;

use marill_numeric::{
    PublicMatrix,
    functions::{RECIP_BITS, RSQRT_BITS},
    tables::{ARG_FRAC_BITS, Piecewise},
};

use crate::{
    engine::{Attention, Engine, Gate, Truncation},
    error::{ProtocolError, ProtocolResult},
    reference::range::{
        Headroom, Range,
        norms::MatrixNorms,
        span::{Origin, Span, largest, length},
    },
    sampling::{LARGEST_NOISE, RANGE_BITS},
    spec::MapId,
    weights::Rope,
};

/// What arithmetic in `f64` may lose.
const MARGIN: f64 = 1.0 + 1e-6;
/// Relative errors of the tables, a little above what the numeric specification states.
pub(super) const RSQRT_ERROR: f64 = 5e-4;
pub(super) const RECIP_ERROR: f64 = 1e-3;
/// Of reciprocals of sums above 2^20.
pub(super) const RECIP_ERROR_FAR: f64 = 1.3e-2;
/// How far a table passes its function's own bounds, in output units and rounded half up; a test
/// sweeps the domains.
pub(super) const GATE_ERROR: f64 = 8.0;

impl Range {
    pub(super) fn named(&mut self, span: Span) -> Span {
        self.next_id += 1;
        Span {
            id: self.next_id,
            ..span
        }
    }

    /// Notes how near `reaches` comes to `limit`; what is returned is well inside, as the next
    /// steps suppose.
    pub(super) fn check(&mut self, reaches: f64, limit_bits: f64, label: &'static str) -> f64 {
        let reaches_bits = (reaches * MARGIN).max(1.0).log2();
        self.headrooms.push(Headroom {
            layer: self.layer,
            label,
            reaches_bits,
            limit_bits,
        });
        reaches.min(limit_bits.exp2() * 0.999)
    }

    /// The headroom that an exact truncation or opening of `bits` needs.
    pub(super) fn fits(&mut self, x: &Span, bits: u32, label: &'static str) -> Span {
        // What does not fit is reported, and the proof goes on with what would have fit.
        let limit = self.check(x.bound(), f64::from(bits.min(64) - 2), label);
        if limit >= x.bound() {
            x.clone()
        } else {
            x.within(limit)
        }
    }

    pub(super) fn record(&mut self, label: &'static str, span: &Span) {
        self.trace.push((label, span.bound() * MARGIN));
    }

    fn stretched(&mut self, x: &Span, norms: &MatrixNorms) -> Span {
        let bound = x.bound();
        let column = norms
            .rows
            .iter()
            .zip(&norms.rows_l1)
            .map(|(l2, l1)| (l2 * x.norm).min(l1 * bound))
            .collect();
        self.named(Span::of_columns(x.rows, column, norms.operator * x.norm))
    }

    fn shifted_by_row(&mut self, x: &Span, row: &[u64]) -> Span {
        let row: Vec<f64> = row.iter().map(|v| (*v as i64 as f64).abs()).collect();
        let column = x.column.iter().zip(&row).map(|(b, r)| b + r).collect();
        self.named(Span::of_columns(x.rows, column, x.norm + length(&row)))
    }
}

/// Length of a head's columns.
fn head_norm(x: &Span, head: usize, head_dim: usize) -> f64 {
    length(&x.column[head * head_dim..][..head_dim]).min(x.norm)
}

impl Engine for Range {
    type Share = Span;
    type Wire = Span;

    fn enter_layer(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    fn input(
        &mut self,
        _values: Option<&[u64]>,
        rows: usize,
        cols: usize,
        bits: u32,
    ) -> ProtocolResult<Span> {
        let input = self.inputs.pop_front().ok_or(ProtocolError::MissingInput)?;
        debug_assert_eq!((input.rows, input.cols), (rows, cols));
        let input = self.fits(&input, bits, "input");
        Ok(self.named(input))
    }

    fn open(&mut self, shares: &[(&Span, u32)], label: &'static str) -> ProtocolResult<Vec<Span>> {
        let mut wires = Vec::new();
        for (share, bits) in shares {
            self.record(label, share);
            wires.push(self.fits(share, *bits, label));
        }
        Ok(wires)
    }

    fn reveal_to_e1(
        &mut self,
        x: &Span,
        bits: u32,
        maps: &[MapId],
        label: &'static str,
    ) -> ProtocolResult<(Span, Vec<Option<Span>>)> {
        let wire = self.open(&[(x, bits)], label)?.remove(0);
        let mut updates = Vec::new();
        for &map in maps {
            let lora = (self.rank > 0).then(|| &self.private.lora[map.index()]);
            let updated = lora.is_some_and(|lora| !lora.a.is_empty());
            updates.push((updated || !self.private.full.is_empty()).then(|| {
                let private = Arc::clone(&self.private);
                let cols = wire.column.len();
                let of = |_: &MapId| {
                    Arc::new(match private.full.get(map.index()) {
                        Some(full) => MatrixNorms::of_public(&full.matrix),
                        None => MatrixNorms::of_addition(&private.lora[map.index()], cols),
                    })
                };
                let norms = Arc::clone(self.updates.entry(map).or_insert_with_key(of));
                self.stretched(&wire, &norms)
            }));
        }
        Ok((wire, updates))
    }

    fn share(&mut self, wire: &Span) -> Span {
        wire.clone()
    }

    fn rows(&self, share: &Span) -> usize {
        share.rows
    }

    fn cols(&self, share: &Span) -> usize {
        share.cols
    }

    fn add(&mut self, x: &Span, y: &Span) -> Span {
        self.named(x.plus(y))
    }

    fn sub(&mut self, x: &Span, y: &Span) -> Span {
        self.named(x.plus(&y.scaled(-1.0)))
    }

    fn add_constant(&mut self, x: &Span, constant: u64) -> Span {
        let constant = constant as i64 as f64;
        let column = x.column.iter().map(|b| b + constant.abs()).collect();
        let norm = x.norm + constant.abs() * (x.column.len() as f64).sqrt();
        let origin = if constant >= 0.0 && matches!(x.origin, Origin::Squares(_)) {
            x.origin
        } else {
            Origin::Plain
        };
        let low = x.low + constant;
        let cols = x.cols;
        self.named(Span {
            low,
            origin,
            cols,
            ..Span::of_columns(x.rows, column, norm)
        })
    }

    fn scale_constant(&mut self, x: &Span, constant: u64) -> Span {
        let constant = constant as i64 as f64;
        let origin = match x.origin {
            Origin::Sums(id, factor) => Origin::Sums(id, factor * constant),
            _ => Origin::Plain,
        };
        self.named(Span {
            origin,
            ..x.scaled(constant)
        })
    }

    fn add_row(&mut self, x: &Span, row: &[u64]) -> Span {
        self.shifted_by_row(x, row)
    }

    fn scale_columns(&mut self, x: &Span, factors: &[u64]) -> Span {
        let factors: Vec<f64> = factors.iter().map(|v| (*v as i64 as f64).abs()).collect();
        let column = x.column.iter().zip(&factors).map(|(b, f)| b * f).collect();
        self.named(Span::of_columns(x.rows, column, x.norm * largest(&factors)))
    }

    fn add_private_row(&mut self, x: &Span, map: MapId) -> Span {
        let private = Arc::clone(&self.private);
        match private.row(map) {
            [] => x.clone(),
            row => self.shifted_by_row(x, row),
        }
    }

    fn reshape(&mut self, x: &Span, cols: usize) -> Span {
        self.reshape(x, cols)
    }

    fn shift_left(&mut self, x: &Span, bits: u32) -> Span {
        self.named(x.scaled(f64::from(bits).exp2()))
    }

    fn linear(&mut self, matrix: &PublicMatrix, x: &Span) -> Span {
        let address = std::ptr::from_ref(matrix) as usize;
        let norms = self
            .norms
            .entry(address)
            .or_insert_with(|| Arc::new(MatrixNorms::of_public(matrix)));
        let norms = Arc::clone(norms);
        self.stretched(x, &norms)
    }

    fn concat(&mut self, parts: &[&Span]) -> Span {
        let column = parts
            .iter()
            .flat_map(|p| p.column.iter().copied())
            .collect();
        // |(a, b)| ≤ sqrt(|a|² + |b|²).
        let norm = length(&parts.iter().map(|p| p.norm).collect::<Vec<f64>>());
        self.named(Span::of_columns(parts[0].rows, column, norm))
    }

    fn columns(&mut self, x: &Span, first: usize, count: usize) -> Span {
        self.named(x.select(first, count))
    }

    fn wire_columns(&mut self, x: &Span, first: usize, count: usize) -> Span {
        self.named(x.select(first, count))
    }

    fn last_row(&mut self, x: &Span) -> Span {
        self.named(Span {
            rows: 1,
            origin: Origin::Plain,
            ..x.clone()
        })
    }

    fn wire_last_row(&mut self, x: &Span) -> Span {
        self.last_row(x)
    }

    fn append(&mut self, cache: &mut Option<Span>, rows: &Span) {
        let joined = match cache.take() {
            None => rows.clone(),
            // A cache holds rows of every step: the larger bound of each.
            Some(before) => before.or(rows),
        };
        *cache = Some(self.named(joined));
    }

    fn rotate(&mut self, x: &Span, rope: &Rope, _first_position: usize) -> Span {
        // A sine and a cosine of 12 bits, each rounded by at most a half.
        let turn = 4096.0 + 0.75;
        let half = rope.half;
        let mut column = x.column.clone();
        for (head, out) in x
            .column
            .chunks_exact(2 * half)
            .zip(column.chunks_exact_mut(2 * half))
        {
            for j in 0..half {
                let pair = head[j].hypot(head[j + half]) * turn;
                (out[j], out[j + half]) = (pair, pair);
            }
        }
        self.named(Span::of_columns(x.rows, column, x.norm * turn))
    }

    fn square_sum(&mut self, x: &Span) -> ProtocolResult<Span> {
        // Sums must stay below 2^62, the bound of a 64-bit wire; the ring would wrap in silence.
        let squares = self.check(x.norm * x.norm, 62.0, "norm.squares");
        let sums = Span {
            low: 0.0,
            origin: Origin::Squares(x.id),
            ..Span::uniform(x.rows, 1, squares)
        };
        Ok(self.named(sums))
    }

    fn mul(&mut self, x: &Span, y: &Span) -> ProtocolResult<Span> {
        let column = x.column.iter().zip(&y.column).map(|(a, b)| a * b).collect();
        // |x ⊙ y| ≤ |x|·max|y|, either way.
        let norm = (x.norm * y.bound()).min(y.norm * x.bound());
        Ok(self.named(Span::of_columns(x.rows, column, norm)))
    }

    fn scale_rows(&mut self, x: &Span, scale: &Span) -> ProtocolResult<Span> {
        let mut out = x.scaled(scale.bound());
        // x/|x| has length one, whatever the bounds of x and of 1/|x| alone say.
        if scale.origin == Origin::InverseNorm(x.id) {
            let norm = f64::from(RSQRT_BITS).exp2() * (1.0 + RSQRT_ERROR);
            out = Span::of_columns(x.rows, out.column, norm);
        }
        Ok(self.named(out))
    }

    fn scores(&mut self, queries: &Span, keys: &Span, a: &Attention<'_>) -> ProtocolResult<Span> {
        // |q·k| ≤ |q|·|k|, summed over the heads of a group.
        let of_group = |group: &Vec<usize>| -> f64 {
            let of_head = |&h: &usize| {
                head_norm(queries, h, a.head_dim) * head_norm(keys, a.kv_head(h), a.head_dim)
            };
            group.iter().map(of_head).sum()
        };
        let bound = a.groups.iter().map(of_group).fold(0.0, f64::max);
        let cols = a.lens().iter().sum();
        Ok(self.named(Span::uniform(1, cols, bound)))
    }

    fn add_key_bias(&mut self, scores: &Span, bias: &Span, _attention: &Attention<'_>) -> Span {
        // The padding's bias is zero or below.
        self.named(Span {
            origin: Origin::AtMost(scores.bound()),
            ..Span::uniform(1, scores.cols, scores.bound() + bias.bound())
        })
    }

    fn weighted_values(
        &mut self,
        weights: &Span,
        values: &Span,
        a: &Attention<'_>,
    ) -> ProtocolResult<Span> {
        self.weighted_values(weights, values, a)
    }

    fn scale_heads(
        &mut self,
        x: &Span,
        scale: &Span,
        _attention: &Attention<'_>,
    ) -> ProtocolResult<Span> {
        let mut factor = scale.bound();
        // (Σ w·v)/Σ w is a mean of values: the factors cancel where both sums are the same.
        if let (Origin::WeightedValues { weights, total }, Origin::InverseSums(sums)) =
            (x.origin, scale.origin)
            && weights == sums
        {
            let far = total > 20f64.exp2();
            factor = f64::from(RECIP_BITS).exp2()
                * (1.0 + if far { RECIP_ERROR_FAR } else { RECIP_ERROR })
                / total;
        }
        Ok(self.named(x.scaled(factor)))
    }

    fn ragged_max(
        &mut self,
        x: &Span,
        lens: &[usize],
        label: &'static str,
    ) -> ProtocolResult<Span> {
        let inside = self.fits(x, 32, label);
        let span = Span::uniform(1, lens.len(), inside.bound());
        Ok(self.named(Span {
            origin: Origin::Max(x.id),
            low: inside.low,
            ..span
        }))
    }

    fn ragged_rsub(&mut self, x: &Span, scalar: &Span, lens: &[usize]) -> Span {
        self.ragged_rsub(x, scalar, lens)
    }

    fn ragged_sum(&mut self, x: &Span, lens: &[usize]) -> Span {
        let longest = lens.iter().copied().max().unwrap_or(0);
        let mut bound = x.bound() * longest as f64;
        // |Σ x| ≤ sqrt(n)·|x| for a whole row.
        if longest == x.column.len() {
            bound = bound.min(x.norm * (longest as f64).sqrt());
        }
        let low = match x.origin {
            Origin::Exponentials => f64::from(ARG_FRAC_BITS).exp2(),
            _ => -bound,
        };
        self.named(Span {
            low,
            origin: Origin::Sums(x.id, 1.0),
            ..Span::uniform(1, lens.len(), bound)
        })
    }

    fn truncate(
        &mut self,
        x: &Span,
        truncation: Truncation,
        label: &'static str,
    ) -> ProtocolResult<Span> {
        self.truncate(x, truncation, label)
    }

    fn exp_neg(&mut self, y: &Span, _out_bits: u32, label: &'static str) -> ProtocolResult<Span> {
        self.exp_neg(y, label)
    }

    fn exp_clipped(
        &mut self,
        y: &Span,
        _out_bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Span> {
        self.exp_clipped(y, label)
    }

    fn relu(&mut self, x: &Span, bits: u32, label: &'static str) -> ProtocolResult<Span> {
        let x = self.fits(x, bits, label);
        let most = match x.origin {
            Origin::AtMost(most) => most.min(x.bound()),
            _ => x.bound(),
        };
        let out = Span {
            low: 0.0,
            ..Span::uniform(x.rows, x.cols, most)
        };
        self.record(label, &out);
        Ok(self.named(out))
    }

    fn gate(&mut self, x: &Span, gate: Gate<'_>, label: &'static str) -> ProtocolResult<Span> {
        self.gate(x, gate, label)
    }

    fn piecewise(
        &mut self,
        s: &Span,
        table: &Piecewise,
        label: &'static str,
    ) -> ProtocolResult<Span> {
        self.piecewise(s, table, label)
    }

    fn add_noise(&mut self, x: &Span, scale: f64) -> Span {
        // The noise is clipped, so it has a bound at all.
        let reach = scale * LARGEST_NOISE;
        let column: Vec<f64> = x.column.iter().map(|b| b + reach).collect();
        self.named(Span {
            column,
            norm: f64::INFINITY,
            low: x.low - reach,
            origin: Origin::Plain,
            ..x.clone()
        })
    }

    fn below_largest(
        &mut self,
        x: &Span,
        _keep: usize,
        label: &'static str,
    ) -> ProtocolResult<Span> {
        self.check(x.bound(), f64::from(RANGE_BITS), label);
        Ok(self.named(Span {
            low: 0.0,
            ..Span::uniform(x.rows, x.cols, 1.0)
        }))
    }

    fn argmax_to_client(&mut self, x: &Span, label: &'static str) -> ProtocolResult<Option<u32>> {
        self.fits(x, 48, label);
        Ok(None)
    }

    fn reveal_to_client(
        &mut self,
        x: &Span,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Option<Vec<u64>>> {
        self.fits(x, bits, label);
        self.record(label, x);
        Ok(None)
    }
}
