//! The distance of hidden states to a teacher's, a loss of distillation.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{dot, floats, with_floats};

/// How far rows are from their targets: `scale * sum over rows of |x - t|^2 / |t|^2`; `x` and
/// `target` are `[N, width]`.
///
/// Each row is measured against its own target's size, because the residual stream's first row is
/// hundreds of times larger than the others and would be all that counts.
///
/// # Errors
/// When a tensor is not f32, contiguous and on the CPU, or the shapes differ.
pub fn row_distance(x: &Tensor, target: &Tensor, scale: f32) -> Result<Tensor> {
    if x.shape() != target.shape() {
        candle_core::bail!(
            "rows of {:?} cannot be matched with {:?}",
            x.shape(),
            target.shape()
        );
    }
    x.apply_op1(RowDistance {
        target: target.detach(),
        scale,
    })
}

struct RowDistance {
    target: Tensor,
    scale: f32,
}

fn size(target: &[f32]) -> f32 {
    dot(target, target).max(f32::MIN_POSITIVE)
}

impl CustomOp1 for RowDistance {
    fn name(&self) -> &'static str {
        "row-distance"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(storage, layout, self.name())?;
        let width = layout.shape().dims2()?.1;
        let rows: Vec<f64> = with_floats(&self.target, self.name(), |target| {
            let rows = x.par_chunks(width).zip(target.par_chunks(width));
            let distance = |(x, t): (&[f32], &[f32])| {
                let off: f64 = x
                    .iter()
                    .zip(t)
                    .map(|(x, t)| f64::from(x - t) * f64::from(x - t))
                    .sum();
                off / f64::from(size(t))
            };
            rows.map(distance).collect()
        })?;
        let total = rows.iter().sum::<f64>() * f64::from(self.scale);
        Ok((CpuStorage::F32(vec![total as f32]), ().into()))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let upstream = grad.to_scalar::<f32>()?;
        let width = x.dim(1)?;
        let mut dx = vec![0f32; x.elem_count()];
        with_floats(x, self.name(), |x| {
            with_floats(&self.target, self.name(), |target| {
                let rows = dx
                    .par_chunks_mut(width)
                    .zip(x.par_chunks(width))
                    .zip(target.par_chunks(width));
                rows.for_each(|((dx, x), t)| {
                    let factor = 2.0 * self.scale * upstream / size(t);
                    for i in 0..width {
                        dx[i] = factor * (x[i] - t[i]);
                    }
                });
            })
        })??;
        Ok(Some(Tensor::from_vec(dx, x.shape(), x.device())?))
    }
}
