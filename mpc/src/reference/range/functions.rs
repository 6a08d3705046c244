//! Operations whose bounds take more than a line: the functions, and what remembers where its
//! argument comes from.

use marill_numeric::{
    functions,
    tables::{ARG_FRAC_BITS, Piecewise, Tail},
};

use crate::{
    engine::{Attention, Gate, Truncation},
    error::ProtocolResult,
    reference::range::{
        Range,
        engine::GATE_ERROR,
        span::{Origin, Span},
    },
};

impl Range {
    pub(super) fn ragged_rsub(&mut self, x: &Span, scalar: &Span, lens: &[usize]) -> Span {
        let n = x.column.len();
        let whole_rows = n == x.cols && lens.iter().all(|&len| len == n);
        let out = match scalar.origin {
            // max - x is never negative.
            Origin::Max(id) if id == x.id => {
                let span =
                    Span::uniform(1, x.rows * x.cols, scalar.bound() - x.low.max(scalar.low));
                Span {
                    low: 0.0,
                    origin: Origin::BelowMax,
                    ..span
                }
            }
            Origin::Sums(id, factor)
                if id == x.id && whole_rows && (factor * n as f64 - 1.0).abs() < 1e-3 =>
            {
                // The mean is off by a thousandth and one unit at most.
                let root = (n as f64).sqrt();
                let mean = 1.0 + 1e-3;
                let column = x
                    .column
                    .iter()
                    .map(|b| b + x.norm / root * mean + 1.0)
                    .collect();
                Span {
                    cols: x.rows * n,
                    ..Span::of_columns(1, column, x.norm * mean + root)
                }
            }
            _ => Span::uniform(1, x.rows * x.cols, x.bound() + scalar.bound()),
        };
        self.named(Span { rows: 1, ..out })
    }

    pub(super) fn truncate(
        &mut self,
        x: &Span,
        Truncation {
            shift,
            from: in_bits,
            ..
        }: Truncation,
        label: &'static str,
    ) -> ProtocolResult<Span> {
        let x = &self.fits(x, in_bits, label);
        let unit = f64::from(shift).exp2();
        let origin = match x.origin {
            Origin::Sums(id, factor) => Origin::Sums(id, factor / unit),
            _ => Origin::Plain,
        };
        let error = self.rounding_error;
        // Rounding moves each element by at most `error`, and a row by sqrt(n) times that.
        let column = x.column.iter().map(|b| b / unit + error).collect();
        let norm = x.norm / unit + error * (x.column.len() as f64).sqrt();
        let truncated = Span {
            cols: x.cols,
            low: x.low / unit - error,
            origin,
            ..Span::of_columns(x.rows, column, norm)
        };
        self.record(label, &truncated);
        Ok(self.named(truncated))
    }

    pub(super) fn exp_neg(&mut self, y: &Span, label: &'static str) -> ProtocolResult<Span> {
        self.check(y.bound(), 31.0, label);
        // The maximum's own weight is exactly one, so sums of weights are at least that.
        let origin = if y.origin == Origin::BelowMax {
            Origin::Exponentials
        } else {
            Origin::Plain
        };
        Ok(self.named(Span {
            low: 0.0,
            origin,
            ..Span::uniform(y.rows, y.cols, f64::from(ARG_FRAC_BITS).exp2())
        }))
    }

    pub(super) fn exp_clipped(&mut self, y: &Span, label: &'static str) -> ProtocolResult<Span> {
        self.check(y.bound(), 31.0, label);
        // No sum is at least one: the largest score may lie below the bound.
        let bound = f64::from(ARG_FRAC_BITS).exp2() + self.rounding_error;
        Ok(self.named(Span {
            low: 0.0,
            ..Span::uniform(y.rows, y.cols, bound)
        }))
    }

    pub(super) fn gate(
        &mut self,
        x: &Span,
        gate: Gate<'_>,
        label: &'static str,
    ) -> ProtocolResult<Span> {
        let x = &self.fits(x, 32, label);
        let error = GATE_ERROR + self.rounding_error - 0.5;
        let of = |b: f64| match gate.0.tail {
            Tail::Relu => b + error,
            Tail::Step { low, high } => low.abs().max(high.abs()) as f64 + error,
            Tail::Zero => f64::from(ARG_FRAC_BITS).exp2() + error,
        };
        // |relu(x)| ≤ |x|; what is bounded by a constant has no better norm than its columns.
        let norm = match gate.0.tail {
            Tail::Relu => x.norm + error * (x.column.len() as f64).sqrt(),
            _ => f64::INFINITY,
        };
        let column = x.column.iter().map(|b| of(*b)).collect();
        Ok(self.named(Span::of_columns(x.rows, column, norm)))
    }

    pub(super) fn piecewise(
        &mut self,
        s: &Span,
        table: &Piecewise,
        label: &'static str,
    ) -> ProtocolResult<Span> {
        self.check(s.bound(), (table.end as f64).log2(), label);
        // Remembered, so that a product with what was squared or summed is bounded as a whole.
        let origin = match s.origin {
            Origin::Squares(id) => Origin::InverseNorm(id),
            Origin::Sums(id, 1.0) => Origin::InverseSums(id),
            _ => Origin::Plain,
        };
        // Both tables fall; a thousandth covers their steps.
        let bound = functions::piecewise(table, s.low.max(0.0) as u64) as f64 * (1.0 + 1e-3);
        let out = Span {
            low: 0.0,
            origin,
            ..Span::uniform(s.rows, s.cols, bound)
        };
        self.record(label, &out);
        Ok(self.named(out))
    }

    pub(super) fn weighted_values(
        &mut self,
        weights: &Span,
        values: &Span,
        a: &Attention<'_>,
    ) -> ProtocolResult<Span> {
        let keys = a.lens().into_iter().max().unwrap_or(0) as f64;
        // Σ w·v ≤ max|v|·Σ w: the weights' sum is bounded better than each of them.
        let total = match weights.origin {
            Origin::Weights { total } => total,
            _ => keys * weights.bound(),
        };
        let heads = a.num_attention_heads;
        let column =
            (0..heads).flat_map(|h| &values.column[a.kv_head(h) * a.head_dim..][..a.head_dim]);
        let column = column.map(|b| b * total).collect();
        // Every head may look at another row.
        let norm = values.norm * (heads as f64).sqrt() * total;
        let origin = Origin::WeightedValues {
            weights: weights.id,
            total,
        };
        Ok(self.named(Span {
            origin,
            ..Span::of_columns(a.rows, column, norm)
        }))
    }

    pub(super) fn reshape(&mut self, x: &Span, cols: usize) -> Span {
        let rows = x.rows * x.cols / cols;
        let n = x.column.len();
        if cols > n {
            debug_assert!(cols.is_multiple_of(n));
            let wide = x.select(0, cols);
            return self.named(Span {
                rows,
                low: x.low,
                ..wide
            });
        }
        if cols < n {
            debug_assert!(n.is_multiple_of(cols));
            // Pieces of a row: none is longer than the row, nor larger than its columns.
            let at = |j: usize| x.column.iter().skip(j).step_by(cols).copied();
            let column = (0..cols).map(|j| at(j).fold(0.0, f64::max)).collect();
            return self.named(Span {
                low: x.low,
                ..Span::of_columns(rows, column, x.norm)
            });
        }
        self.named(Span {
            rows,
            cols,
            origin: Origin::Plain,
            ..x.clone()
        })
    }
}
