//! What is known of a tensor: magnitudes by column, the length of a row, a lower bound, and where
//! it came from.

/// Which value a tensor is, as far as a later step can use it. Numbers are the ids of other
/// tensors.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Origin {
    Plain,
    /// Sums of squares of the rows of a tensor, plus something positive.
    Squares(u64),
    /// `2^58` over the norms of the rows of a tensor.
    InverseNorm(u64),
    /// The sums of the rows of a tensor, times a factor.
    Sums(u64, f64),
    /// The maxima of the rows of a tensor.
    Max(u64),
    /// Nothing above this, whatever the magnitudes: a bias has lowered some elements.
    AtMost(f64),
    /// Not negative, with a zero in every row.
    BelowMax,
    /// Not negative, with a one (2^14) in every row.
    Exponentials,
    /// `2^40` over the sums of the rows of a tensor.
    InverseSums(u64),
    /// Not negative, with a known largest sum of a row.
    Weights {
        total: f64,
    },
    /// Values mixed with the weights of a tensor, whose rows sum to at most `total`.
    WeightedValues {
        weights: u64,
        total: f64,
    },
}

/// Bounds of a tensor that hold for every input of the envelope.
#[derive(Clone)]
pub(super) struct Span {
    pub rows: usize,
    pub cols: usize,
    /// Largest magnitude of element `j` at `j % len`.
    pub column: Vec<f64>,
    /// Largest L2 norm of `column.len()` neighbors: a row, or one element.
    pub norm: f64,
    /// No element is below this.
    pub low: f64,
    pub id: u64,
    pub origin: Origin,
}

impl Span {
    /// Every element at most `bound`.
    pub fn uniform(rows: usize, cols: usize, bound: f64) -> Self {
        Self {
            rows,
            cols,
            column: vec![bound],
            norm: bound,
            low: -bound,
            id: 0,
            origin: Origin::Plain,
        }
    }

    /// Every row at most `norm` long.
    pub fn of_norm(rows: usize, cols: usize, norm: f64) -> Self {
        Self::of_columns(rows, vec![norm; cols], norm)
    }

    /// A tensor with these columns whose rows are at most `norm` long.
    pub fn of_columns(rows: usize, column: Vec<f64>, norm: f64) -> Self {
        let norm = norm.min(length(&column));
        let column: Vec<f64> = column.into_iter().map(|b| b.min(norm)).collect();
        let cols = column.len();
        let low = -largest(&column);
        Self {
            rows,
            cols,
            column,
            norm,
            low,
            id: 0,
            origin: Origin::Plain,
        }
    }

    /// The largest magnitude of any element.
    pub fn bound(&self) -> f64 {
        largest(&self.column)
    }

    /// The same tensor, supposed to have no element above `limit`.
    pub fn within(&self, limit: f64) -> Self {
        let column: Vec<f64> = self.column.iter().map(|b| b.min(limit)).collect();
        let norm = self.norm.min(length(&column));
        Self {
            column,
            norm,
            low: self.low.max(-limit),
            ..self.clone()
        }
    }

    /// All elements times a factor, with a new name.
    pub fn scaled(&self, factor: f64) -> Self {
        let size = factor.abs();
        let column: Vec<f64> = self.column.iter().map(|b| b * size).collect();
        let low = if factor >= 0.0 {
            self.low * factor
        } else {
            -largest(&column)
        };
        Self {
            column,
            norm: self.norm * size,
            low,
            origin: Origin::Plain,
            ..self.clone()
        }
    }

    /// The sum of two tensors of one shape.
    pub fn plus(&self, other: &Self) -> Self {
        let n = self.column.len().max(other.column.len());
        let at = |column: &[f64], j: usize| column[j % column.len()];
        let column: Vec<f64> = (0..n)
            .map(|j| at(&self.column, j) + at(&other.column, j))
            .collect();
        let norm = self.row_norm(n) + other.row_norm(n);
        Self {
            low: self.low + other.low,
            rows: self.rows,
            cols: self.cols,
            ..Self::of_columns(self.rows, column, norm)
        }
    }

    /// Norm of `n` neighbors.
    pub fn row_norm(&self, n: usize) -> f64 {
        self.norm * ((n / self.column.len()) as f64).sqrt()
    }

    /// Some columns.
    pub fn select(&self, first: usize, count: usize) -> Self {
        let n = self.column.len();
        let column = (first..first + count).map(|j| self.column[j % n]);
        // How many pieces of `n` neighbors they touch.
        let pieces = (first + count).div_ceil(n) - first / n;
        let norm = self.norm * (pieces as f64).sqrt();
        Self::of_columns(self.rows, column.collect(), norm)
    }

    /// What holds for either of two tensors.
    pub fn or(&self, other: &Self) -> Self {
        let column = self
            .column
            .iter()
            .zip(&other.column)
            .map(|(a, b)| a.max(*b))
            .collect();
        let norm = self.norm.max(other.norm);
        let low = self.low.min(other.low);
        Self {
            low,
            ..Self::of_columns(self.rows + other.rows, column, norm)
        }
    }
}

pub(super) fn largest(values: &[f64]) -> f64 {
    values.iter().copied().fold(0.0, f64::max)
}

pub(super) fn length(values: &[f64]) -> f64 {
    values.iter().map(|v| v * v).sum::<f64>().sqrt()
}
