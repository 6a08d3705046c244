//! Rotary position embeddings from a table that is computed once in f64.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{ROWS_PER_TASK, floats, with_floats};

/// `cos` and `sin` of `position * theta^(-2 i / D) / divisors[i]`, for `i < D / 2`, computed in f64
/// and rounded once.
pub struct RopeTable {
    pub head_dim: usize,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl RopeTable {
    /// Angles of all positions below `positions`. No divisors stand for divisors of 1.
    pub fn new(head_dim: usize, theta: f64, divisors: &[f64], positions: usize) -> Self {
        let half = head_dim / 2;
        let angle = |at: usize| {
            let position = at / half;
            let i = at % half;
            let angle = position as f64 * theta.powf(-2.0 * i as f64 / head_dim as f64);
            divisors.get(i).map_or(angle, |divisor| angle / divisor)
        };
        let count = positions * half;
        let cos = (0..count).map(|at| angle(at).cos() as f32).collect();
        let sin = (0..count).map(|at| angle(at).sin() as f32).collect();
        Self { head_dim, cos, sin }
    }

    /// The same table with this many fractional bits.
    pub(crate) fn rounded(&self, frac_bits: u32) -> Self {
        let units = f64::from(frac_bits).exp2();
        let round = |values: &[f32]| {
            values
                .iter()
                .map(|&v| ((f64::from(v) * units).round() / units) as f32)
                .collect()
        };
        Self {
            head_dim: self.head_dim,
            cos: round(&self.cos),
            sin: round(&self.sin),
        }
    }

    /// Number of positions in the table.
    pub fn positions(&self) -> usize {
        self.cos.len() * 2 / self.head_dim.max(1)
    }

    /// Rotates the heads of one row (`[heads * D]`, halves `x1 | x2` a head) in place; `direction`
    /// -1 undoes it.
    pub fn rotate(&self, row: &mut [f32], position: usize, direction: f32) {
        let half = self.head_dim / 2;
        let cos = &self.cos[position * half..][..half];
        let sin = &self.sin[position * half..][..half];
        for head in row.chunks_exact_mut(self.head_dim) {
            let (low, high) = head.split_at_mut(half);
            for i in 0..half {
                let x1 = low[i];
                let x2 = high[i];
                let sin = sin[i] * direction;
                low[i] = x1 * cos[i] - x2 * sin;
                high[i] = x2 * cos[i] + x1 * sin;
            }
        }
    }
}

/// Rotary position embedding of `x [N, H * D]`; `positions[row]` is the row's place in its
/// sequence.
///
/// # Errors
/// When `x` is not f32, contiguous and on the CPU.
pub fn rope(x: &Tensor, table: &Arc<RopeTable>, positions: &Arc<Vec<usize>>) -> Result<Tensor> {
    x.apply_op1(Rope {
        table: table.clone(),
        positions: positions.clone(),
    })
}

struct Rope {
    table: Arc<RopeTable>,
    positions: Arc<Vec<usize>>,
}

impl Rope {
    fn run(&self, x: &[f32], width: usize, direction: f32) -> Vec<f32> {
        let mut y = x.to_vec();
        y.par_chunks_mut(width)
            .with_min_len(ROWS_PER_TASK)
            .enumerate()
            .for_each(|(row, values)| {
                self.table.rotate(values, self.positions[row], direction);
            });
        y
    }
}

impl CustomOp1 for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (_, width) = layout.shape().dims2()?;
        let y = self.run(floats(storage, layout, self.name())?, width, 1.0);
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let (_, width) = grad.dims2()?;
        let dx = with_floats(grad, self.name(), |g| self.run(g, width, -1.0))?;
        Ok(Some(Tensor::from_vec(dx, grad.shape(), grad.device())?))
    }
}
