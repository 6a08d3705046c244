use super::{ROWS_PER_TASK, dot, floats, with_floats};
use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

/// `y = x / sqrt(mean(x^2) + eps) * weight`: `x [N, hidden]`, `weight [hidden]`.
///
/// # Errors
/// When a tensor is not f32, contiguous and on the CPU.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> Result<Tensor> {
    x.apply_op2(weight, RmsNorm { eps: eps as f32 })
}

struct RmsNorm {
    eps: f32,
}

impl RmsNorm {
    fn inverse(&self, row: &[f32]) -> f32 {
        1.0 / (dot(row, row) / row.len() as f32 + self.eps).sqrt()
    }
}

impl CustomOp2 for RmsNorm {
    fn name(&self) -> &'static str {
        "rms-norm"
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        let (x, w) = (floats(s1, l1, self.name())?, floats(s2, l2, self.name())?);
        let hidden = w.len();
        let mut y = vec![0f32; x.len()];
        y.par_chunks_mut(hidden).with_min_len(ROWS_PER_TASK).zip(x.par_chunks(hidden)).for_each(|(y, x)| {
            let inverse = self.inverse(x);
            for i in 0..hidden {
                y[i] = x[i] * inverse * w[i];
            }
        });
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(&self, x: &Tensor, weight: &Tensor, _: &Tensor, grad: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let hidden = weight.elem_count();
        let mut dx = vec![0f32; x.elem_count()];
        let mut dw = vec![0f32; hidden];
        let trained = weight.is_variable();
        with_floats(x, self.name(), |x| {
            with_floats(weight, self.name(), |w| {
                with_floats(grad, self.name(), |g| {
                    self.input_gradient(&mut dx, x, w, g);
                    if trained {
                        for (x, g) in x.chunks(hidden).zip(g.chunks(hidden)) {
                            let inverse = self.inverse(x);
                            for i in 0..hidden {
                                dw[i] += g[i] * x[i] * inverse;
                            }
                        }
                    }
                })
            })
        })???;
        let dx = Tensor::from_vec(dx, x.shape(), x.device())?;
        let dw = if trained { Some(Tensor::from_vec(dw, weight.shape(), x.device())?) } else { None };
        Ok((Some(dx), dw))
    }
}

impl RmsNorm {
    /// With `r = 1 / sqrt(mean(x^2) + eps)`: `dx = r g w - x r^3 mean(g w x)`.
    fn input_gradient(&self, dx: &mut [f32], x: &[f32], w: &[f32], g: &[f32]) {
        let hidden = w.len();
        let rows = dx.par_chunks_mut(hidden).with_min_len(ROWS_PER_TASK);
        rows.zip(x.par_chunks(hidden)).zip(g.par_chunks(hidden)).for_each(|((dx, x), g)| {
            let inverse = self.inverse(x);
            for i in 0..hidden {
                dx[i] = g[i] * w[i];
            }
            let shrink = dot(dx, x) * inverse * inverse * inverse / hidden as f32;
            for i in 0..hidden {
                dx[i] = dx[i] * inverse - x[i] * shrink;
            }
        });
    }
}
