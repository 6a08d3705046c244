//! A matrix of ring elements: the one carrier of shares, and of the plaintext twin's values.
//!
//! A tensor may be a *shape* alone, without values: that is what a party holds who computes nothing
//! on a value (a dealer, a tally). Shapes combine like values, so that every party runs the same
//! program; a shape beside values counts as zeros.
//!
//! Nothing is erased here by hand: temporaries are many, and vectors move. Programs that hold
//! shares have an allocator that wipes what is given back (`crates/crypto/src/wipe.rs`).

use std::{
    fmt,
    num::Wrapping,
    ops::{Add, AddAssign, Mul, Neg, Sub, SubAssign},
};

use crate::ring::slices::{add_to, subtract_from};

/// An element of `Z_{2^64}`: its operators wrap.
pub type Word = Wrapping<u64>;

/// `[rows, cols]`, row-major, modulo `2^bits`. Bits above `bits` mean nothing. Printing shows the
/// shape alone, since the values may be a share.
#[derive(Clone, PartialEq, Eq)]
pub struct RingTensor {
    pub rows: usize,
    pub cols: usize,
    pub bits: u32,
    /// `rows · cols` elements, or none.
    pub data: Vec<u64>,
}

impl fmt::Debug for RingTensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rows, cols, bits, ..
        } = self;
        write!(f, "RingTensor [{rows}, {cols}] of {bits} bits")
    }
}

impl RingTensor {
    /// A tensor of values, or a shape where `data` is empty.
    #[must_use]
    pub fn new(rows: usize, cols: usize, bits: u32, data: Vec<u64>) -> Self {
        debug_assert!(data.is_empty() || data.len() == rows * cols);
        Self {
            rows,
            cols,
            bits,
            data,
        }
    }

    /// Elements of the shape, whether the values are here or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether the shape has no elements.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Element `i`, row-major.
    ///
    /// # Panics
    /// When the values are not here.
    #[must_use]
    pub fn at(&self, i: usize) -> Word {
        Wrapping(self.data[i])
    }

    /// Row `i`.
    ///
    /// # Panics
    /// When the values are not here.
    #[must_use]
    pub fn row(&self, i: usize) -> &[u64] {
        &self.data[i * self.cols..][..self.cols]
    }

    /// The same shape with other values.
    #[must_use]
    pub fn with_data(&self, data: Vec<u64>) -> Self {
        Self::new(self.rows, self.cols, self.bits, data)
    }

    /// The same values in rows of `cols`.
    #[must_use]
    pub fn reshaped(mut self, cols: usize) -> Self {
        self.rows = self.len() / cols;
        self.cols = cols;
        self
    }

    /// `f` of every element.
    #[must_use]
    pub fn map(&self, f: impl Fn(u64) -> u64) -> Self {
        self.with_data(self.data.iter().map(|&v| f(v)).collect())
    }

    /// `f` of every two elements, modulo the narrower of the two rings.
    #[must_use]
    pub fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        assert_eq!(
            (self.rows, self.cols),
            (other.rows, other.cols),
            "tensors of one shape"
        );
        let data = match (self.data.as_slice(), other.data.as_slice()) {
            ([], right) => right.iter().map(|&b| f(0, b)).collect(),
            (left, []) => left.iter().map(|&a| f(a, 0)).collect(),
            (left, right) => left.iter().zip(right).map(|(&a, &b)| f(a, b)).collect(),
        };
        Self::new(self.rows, self.cols, self.bits.min(other.bits), data)
    }

    /// `f` of every element and of the row's value for its column.
    fn by_column(&self, row: &[u64], f: impl Fn(Word, Word) -> Word) -> Self {
        let value = |(i, v): (usize, &u64)| f(Wrapping(*v), Wrapping(row[i % self.cols])).0;
        self.with_data(self.data.iter().enumerate().map(value).collect())
    }

    /// Adds a constant to every element.
    #[must_use]
    pub fn plus(&self, constant: u64) -> Self {
        self.map(|v| v.wrapping_add(constant))
    }

    /// Multiplies every element by a constant.
    #[must_use]
    pub fn scaled(&self, constant: u64) -> Self {
        self.map(|v| v.wrapping_mul(constant))
    }

    /// Multiplies every element by `2^bits`.
    #[must_use]
    pub fn shifted_left(&self, bits: u32) -> Self {
        self.map(|v| v << bits)
    }

    /// Adds a row to every row.
    #[must_use]
    pub fn plus_row(&self, row: &[u64]) -> Self {
        self.by_column(row, |v, r| v + r)
    }

    /// Multiplies every column by its factor.
    #[must_use]
    pub fn scaled_columns(&self, factors: &[u64]) -> Self {
        self.by_column(factors, |v, f| v * f)
    }

    /// Columns `first..first + count`.
    #[must_use]
    pub fn columns(&self, first: usize, count: usize) -> Self {
        let rows = self.data.chunks_exact(self.cols);
        let data = rows.flat_map(|row| row[first..][..count].iter().copied());
        Self::new(self.rows, count, self.bits, data.collect())
    }

    /// The last row.
    #[must_use]
    pub fn last_row(&self) -> Self {
        let first = self.data.len().saturating_sub(self.cols);
        Self::new(1, self.cols, self.bits, self.data[first..].to_vec())
    }

    /// Tensors of equal row counts side by side, modulo the narrowest of their rings.
    ///
    /// # Panics
    /// Without parts.
    #[must_use]
    pub fn side_by_side(parts: &[&Self]) -> Self {
        let rows = parts[0].rows;
        let mut data = Vec::new();
        if parts.iter().any(|part| !part.data.is_empty()) {
            data.reserve(parts.iter().map(|part| part.len()).sum());
            for i in 0..rows {
                for part in parts {
                    match part.data.get(i * part.cols..(i + 1) * part.cols) {
                        Some(row) => data.extend_from_slice(row),
                        None => data.resize(data.len() + part.cols, 0),
                    }
                }
            }
        }
        let cols = parts.iter().map(|part| part.cols).sum();
        let bits = parts.iter().map(|part| part.bits).min();
        Self::new(rows, cols, bits.unwrap_or(64), data)
    }

    /// Keeps the first rows alone.
    pub fn truncate(&mut self, rows: usize) {
        self.rows = self.rows.min(rows);
        self.data.truncate(self.rows * self.cols);
    }

    /// Puts rows behind the present ones.
    pub fn append(&mut self, rows: &Self) {
        debug_assert_eq!(self.cols, rows.cols);
        self.rows += rows.rows;
        self.data.extend_from_slice(&rows.data);
    }

    /// `self · Mᵀ` with a matrix `[m, cols]` of ring elements: `[rows, m]`.
    #[must_use]
    pub fn times_transposed(&self, matrix: &[u64]) -> Self {
        let out = matrix.len() / self.cols;
        let data = super::matmul_transposed(&self.data, matrix, self.cols);
        Self::new(self.rows, out, self.bits, data)
    }
}

impl Add for &RingTensor {
    type Output = RingTensor;

    fn add(self, other: Self) -> RingTensor {
        self.zip(other, u64::wrapping_add)
    }
}

impl Sub for &RingTensor {
    type Output = RingTensor;

    fn sub(self, other: Self) -> RingTensor {
        self.zip(other, u64::wrapping_sub)
    }
}

/// Element by element.
impl Mul for &RingTensor {
    type Output = RingTensor;

    fn mul(self, other: Self) -> RingTensor {
        self.zip(other, u64::wrapping_mul)
    }
}

impl Neg for &RingTensor {
    type Output = RingTensor;

    fn neg(self) -> RingTensor {
        self.map(u64::wrapping_neg)
    }
}

impl AddAssign<&[u64]> for RingTensor {
    fn add_assign(&mut self, other: &[u64]) {
        debug_assert_eq!(self.data.len(), other.len());
        add_to(&mut self.data, other);
    }
}

impl SubAssign<&[u64]> for RingTensor {
    fn sub_assign(&mut self, other: &[u64]) {
        debug_assert_eq!(self.data.len(), other.len());
        subtract_from(&mut self.data, other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(rows: usize, cols: usize, bits: u32, first: u64) -> RingTensor {
        let data = (0..(rows * cols) as u64).map(|i| first.wrapping_add(i));
        RingTensor::new(rows, cols, bits, data.collect())
    }

    #[test]
    fn operators_wrap_and_take_the_narrower_ring() {
        let x = tensor(2, 2, 64, u64::MAX - 1);
        let y = tensor(2, 2, 48, 3);
        assert_eq!((&x + &y).data, [1, 3, 5, 7]);
        assert_eq!((&y - &x).data, [5, 5, 5, 5]);
        assert_eq!((&x * &y).data, [u64::MAX - 5, u64::MAX - 3, 0, 6]);
        assert_eq!((-&x).data, [2, 1, 0, u64::MAX]);
        assert_eq!((&x + &y).bits, 48);
        let mut z = y.clone();
        z += &x.data;
        assert_eq!(z.data, (&x + &y).data);
        z -= &x.data;
        assert_eq!(z, y);
    }

    #[test]
    fn a_shape_beside_values_counts_as_zeros() {
        let x = tensor(2, 3, 64, 7);
        let shape = RingTensor::new(2, 3, 32, Vec::new());
        assert_eq!((&x - &shape).data, x.data);
        assert_eq!((&shape - &x).data, (-&x).data);
        assert!((&shape + &shape).data.is_empty());
        let both = RingTensor::side_by_side(&[&shape, &x]);
        assert_eq!(both.row(1), [0, 0, 0, 10, 11, 12]);
        assert_eq!((both.cols, both.bits), (6, 32));
    }

    #[test]
    fn parts_are_cut_and_joined() {
        let x = tensor(2, 3, 64, 0);
        assert_eq!(x.columns(1, 2).data, [1, 2, 4, 5]);
        assert_eq!(x.last_row().data, [3, 4, 5]);
        assert_eq!(x.plus_row(&[10, 20, 30]).data, [10, 21, 32, 13, 24, 35]);
        assert_eq!(x.scaled_columns(&[1, 2, 3]).data, [0, 2, 6, 3, 8, 15]);
        let left = x.columns(0, 1);
        let joined = RingTensor::side_by_side(&[&left, &x.columns(1, 2)]);
        assert_eq!(joined, x);
        let mut twice = x.clone();
        twice.append(&x);
        assert_eq!((twice.rows, twice.data.len()), (4, 12));
        assert_eq!(x.clone().reshaped(2).rows, 3);
        assert_eq!(x.times_transposed(&[1, 1, 1]).data, [3, 12]);
    }

    /// A share must not reach a log.
    #[test]
    fn printing_shows_no_value() {
        let text = format!("{:?}", tensor(1, 2, 64, 123_456));
        assert_eq!(text, "RingTensor [1, 2] of 64 bits");
    }
}
