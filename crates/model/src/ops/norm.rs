//! RMS norm with its gradient, in plain floats or rounded as the secure program rounds.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use marill_numeric::{functions, functions::RSQRT_BITS, norm_bits, norm_rest, truncate};
use rayon::prelude::*;

use super::{FakeQuant, ROWS_PER_TASK, dot, floats, with_floats};

/// `y = x / sqrt(mean(x^2) + eps) * weight`: `x [N, hidden]`, `weight [hidden]`.
///
/// With `format`, the values are those of the secure program (see [`FakeQuant`]); the gradient is
/// the smooth function's.
///
/// # Errors
/// When a tensor is not f32, contiguous and on the CPU, or a row is too long for the numeric
/// format's range.
pub fn rms_norm(
    x: &Tensor,
    weight: &Tensor,
    eps: f64,
    format: Option<FakeQuant>,
) -> Result<Tensor> {
    x.apply_op2(
        weight,
        RmsNorm {
            eps: eps as f32,
            format,
        },
    )
}

struct RmsNorm {
    eps: f32,
    format: Option<FakeQuant>,
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

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = floats(s1, l1, self.name())?;
        let w = floats(s2, l2, self.name())?;
        let hidden = w.len();
        let mut y = vec![0f32; x.len()];
        if let Some(format) = self.format {
            self.quantized(&mut y, x, w, format)?;
            return Ok((CpuStorage::F32(y), l1.shape().clone()));
        }
        y.par_chunks_mut(hidden)
            .with_min_len(ROWS_PER_TASK)
            .zip(x.par_chunks(hidden))
            .for_each(|(y, x)| {
                let inverse = self.inverse(x);
                for i in 0..hidden {
                    y[i] = x[i] * inverse * w[i];
                }
            });
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
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
        let dw = if trained {
            Some(Tensor::from_vec(dw, weight.shape(), x.device())?)
        } else {
            None
        };
        Ok((Some(dx), dw))
    }
}

impl RmsNorm {
    /// `h · 2^58/|h|` on integers, truncated to the numeric format's fractional bits, times the
    /// gain.
    fn quantized(&self, y: &mut [f32], x: &[f32], w: &[f32], format: FakeQuant) -> Result<()> {
        let hidden = w.len();
        let unit = f64::from(format.residual_frac_bits).exp2();
        let epsilon = (f64::from(self.eps) * hidden as f64 * unit * unit).round() as u64;
        let rest = norm_rest(hidden);
        let shift = RSQRT_BITS - format.frac_bits - norm_bits(hidden);
        let gain: Vec<f64> = w
            .iter()
            .map(|&w| f64::from(w) * rest / f64::from(format.frac_bits).exp2())
            .collect();
        let rows = y
            .par_chunks_mut(hidden)
            .with_min_len(ROWS_PER_TASK)
            .zip(x.par_chunks(hidden));
        let in_range = rows.map(|(y, x)| {
            let h: Vec<i64> = x
                .iter()
                .map(|&x| (f64::from(x) * unit + 0.5).floor() as i64)
                .collect();
            let squares = h.iter().map(|&h| (h as f64).powi(2)).sum::<f64>();
            // Also false for a row that is no number.
            let fits = squares < f64::from(62).exp2();
            if !fits {
                return false;
            }
            let inverse =
                functions::rsqrt(h.iter().map(|&h| (h * h) as u64).sum::<u64>() + epsilon);
            for i in 0..hidden {
                let scaled = truncate((h[i] as u64).wrapping_mul(inverse), shift) as i64;
                y[i] = (scaled as f64 * gain[i]) as f32;
            }
            true
        });
        if !in_range.reduce(|| true, |a, b| a && b) {
            let limit = f64::from(31 - format.residual_frac_bits as i32).exp2();
            bail!(
                "`rms-norm` met a row whose norm is not below {limit}, the range of the \
                 fixed-point format"
            );
        }
        Ok(())
    }

    /// With `r = 1 / sqrt(mean(x^2) + eps)`: `dx = r g w - x r^3 mean(g w x)`.
    fn input_gradient(&self, dx: &mut [f32], x: &[f32], w: &[f32], g: &[f32]) {
        let hidden = w.len();
        let rows = dx.par_chunks_mut(hidden).with_min_len(ROWS_PER_TASK);
        rows.zip(x.par_chunks(hidden))
            .zip(g.par_chunks(hidden))
            .for_each(|((dx, x), g)| {
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
