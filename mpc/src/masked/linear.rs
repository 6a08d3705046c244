//! Local operations: what an evaluator computes of its own share or wire, without a message.

use marill_numeric::{PublicMatrix, RingTensor, fixed::low_mask, ring};

use crate::{
    engine::Attention,
    kernels::{ragged, rotate_rows, with_key_bias},
    masked::{
        Masked,
        share::{Share, Wire},
    },
    weights::Rope,
};

pub(super) fn select_columns(data: &[u64], cols: usize, first: usize, count: usize) -> Vec<u64> {
    data.chunks_exact(cols)
        .flat_map(|row| row[first..first + count].iter().copied())
        .collect()
}

fn tail(data: &[u64], cols: usize) -> Vec<u64> {
    data[data.len().saturating_sub(cols)..].to_vec()
}

impl Wire {
    fn select(&self, rows: usize, cols: usize, f: impl Fn(&[u64]) -> Vec<u64>) -> Self {
        Self::new((rows, cols), self.bits, self.held.map(f))
    }
}

impl Masked {
    pub(super) fn add(&self, x: &Share, y: &Share) -> Share {
        x.joined(y, |x, y| x + y)
    }

    pub(super) fn sub(&self, x: &Share, y: &Share) -> Share {
        x.joined(y, |x, y| x - y)
    }

    pub(super) fn add_constant(&self, x: &Share, constant: u64) -> Share {
        // [x]_0 + constant, [x]_1.
        if self.is_first() {
            x.affine(|half| half.plus(constant))
        } else {
            x.clone()
        }
    }

    pub(super) fn add_row(&self, x: &Share, row: &[u64]) -> Share {
        if self.is_first() {
            x.affine(|half| half.plus_row(row))
        } else {
            x.clone()
        }
    }

    pub(super) fn scale_columns(&self, x: &Share, factors: &[u64]) -> Share {
        x.linear(|half| half.scaled_columns(factors))
    }

    pub(super) fn scale_constant(&self, x: &Share, constant: u64) -> Share {
        x.linear(|half| half.scaled(constant))
    }

    pub(super) fn shift_left(&self, x: &Share, bits: u32) -> Share {
        x.linear(|half| half.shifted_left(bits))
    }

    pub(super) fn linear(&self, matrix: &PublicMatrix, x: &Share) -> Share {
        debug_assert!(!x.is_deferred(), "the dealer has no matrix for its term");
        // E0's half of a revealed value is -[r]_0, whose product may have been made before the
        // step.
        let ready = self
            .precomputed()
            .and_then(|precomputed| precomputed.public(matrix, &x.data));
        let data = match ready {
            Some(product) => product,
            // Dealer and tally hold no half, and the dealer no matrix.
            None if x.data.is_empty() => Vec::new(),
            None => matrix.par_apply(&x.data),
        };
        Share::new(x.rows, matrix.rows(), x.bits, data)
    }

    pub(super) fn concat(&self, parts: &[&Share]) -> Share {
        Share::side_by_side(parts)
    }

    pub(super) fn columns(&self, x: &Share, first: usize, count: usize) -> Share {
        x.linear(|half| half.columns(first, count))
    }

    pub(super) fn wire_columns(&self, x: &Wire, first: usize, count: usize) -> Wire {
        x.select(x.rows, count, |data| {
            select_columns(data, x.cols, first, count)
        })
    }

    pub(super) fn wires_side_by_side(&self, left: &Wire, right: &Wire) -> Wire {
        let join = |a: &[u64], b: &[u64]| -> Vec<u64> {
            let rows = a.chunks_exact(left.cols).zip(b.chunks_exact(right.cols));
            rows.flat_map(|(a, b)| a.iter().chain(b).copied()).collect()
        };
        let shape = (left.rows, left.cols + right.cols);
        Wire::new(shape, left.bits, left.held.joined(&right.held, join))
    }

    pub(super) fn last_row(&self, x: &Share) -> Share {
        x.linear(RingTensor::last_row)
    }

    pub(super) fn wire_last_row(&self, x: &Wire) -> Wire {
        x.select(1, x.cols, |data| tail(data, x.cols))
    }

    pub(super) fn append(&self, cache: &mut Option<Wire>, rows: &Wire) {
        match cache {
            None => *cache = Some(rows.clone()),
            Some(cache) => {
                cache.rows += rows.rows;
                cache.held.append(&rows.held);
                // What products needed of the shorter cache does not hold for the longer one.
                cache.extended = Default::default();
            }
        }
    }

    pub(super) fn rotate(&self, x: &Share, rope: &Rope, first_position: usize) -> Share {
        x.linear(|half| half.with_data(rotate_rows(&half.data, x.cols, rope, first_position)))
    }

    /// The additive share of a wire: `x̂ - [r]_0` at E0, `-[r]_1` at E1.
    pub(super) fn share(&self, wire: &Wire) -> Share {
        let tensor = |data: &[u64]| RingTensor::new(wire.rows, wire.cols, wire.bits, data.to_vec());
        let own = if self.is_first() {
            // x̂ - [r]_0.
            let mut own = tensor(wire.opened());
            own -= wire.half();
            own
        } else {
            // -[r]_1, and nothing at a party without a half.
            -&tensor(wire.half())
        };
        Share::from(own)
    }

    pub(super) fn add_key_bias(&self, scores: &Share, bias: &Wire, a: &Attention<'_>) -> Share {
        debug_assert!(!scores.is_deferred(), "scores were truncated");
        if !self.is_evaluator() {
            return scores.clone();
        }
        // Keys without a bias are behind the prompt.
        let bias = self.share(bias);
        let data = with_key_bias(&scores.data, &bias.data, &a.lens());
        Share::new(1, scores.cols, scores.bits.min(bias.bits), data)
    }

    pub(super) fn ragged_rsub(&self, x: &Share, scalar: &Share, lens: &[usize]) -> Share {
        debug_assert!(
            !x.is_deferred() && !scalar.is_deferred(),
            "both were truncated"
        );
        let mut data = Vec::new();
        if self.is_evaluator() {
            // [s] - [x], row by row.
            let rows = ragged(&x.data, lens).zip(&scalar.data);
            data.extend(rows.flat_map(|(row, s)| row.iter().map(move |v| s.wrapping_sub(*v))));
        }
        Share::new(1, x.len(), x.bits.min(scalar.bits), data)
    }

    pub(super) fn ragged_sum(&self, x: &Share, lens: &[usize]) -> Share {
        debug_assert!(!x.is_deferred(), "the values were truncated");
        let data = if self.is_evaluator() {
            ragged(&x.data, lens).map(ring::sum).collect()
        } else {
            Vec::new()
        };
        Share::new(1, lens.len(), x.bits, data)
    }

    /// Sums of a wire's ragged rows modulo `2^bits`: a sum of openings is an opening of the sum,
    /// under the sum of masks.
    pub(super) fn sums_of_wire(&self, x: &Wire, lens: &[usize], bits: u32) -> Wire {
        debug_assert!(bits <= x.bits);
        let modulus = low_mask(bits);
        let sums = |data: &[u64]| -> Vec<u64> {
            let sum = |row: &[u64]| ring::sum(row) & modulus;
            ragged(data, lens).map(sum).collect()
        };
        // Σ x̂ = Σ x + Σ r, and Σ r = Σ [r]_0 + Σ [r]_1.
        Wire::new((1, lens.len()), bits, x.held.map(sums))
    }
}
