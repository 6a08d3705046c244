//! The gated activation of the MLP, or what stands in for it, in plain floats or as the secure
//! program computes it.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use marill_numeric::{
    ActivationForm,
    approx::{quad, quad_integer, quad_slope},
    functions, truncate,
};
use rayon::prelude::*;

use super::{FakeQuant, floats, with_floats};

const CHUNK: usize = 8192;

/// `silu(gate) * up`, element-wise, or with what stands in for SiLU.
///
/// With `format`, the values are those of the secure program (see [`FakeQuant`]); the gradient is
/// the smooth function's.
///
/// # Errors
/// When a tensor is not f32, contiguous and on the CPU.
pub fn swiglu(
    gate: &Tensor,
    up: &Tensor,
    form: Option<ActivationForm>,
    format: Option<FakeQuant>,
) -> Result<Tensor> {
    gate.apply_op2(up, SwiGlu { form, format })
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

struct SwiGlu {
    form: Option<ActivationForm>,
    format: Option<FakeQuant>,
}

impl SwiGlu {
    /// The derivatives of a value by gate and up, times `grad`.
    fn slopes(&self, gate: f32, up: f32, grad: f32) -> (f32, f32) {
        match self.form {
            None => {
                let s = sigmoid(gate);
                let d_gate = grad * up * s * (1.0 + gate * (1.0 - s));
                (d_gate, grad * gate * s)
            }
            Some(ActivationForm::Quad) => {
                let slope = quad_slope(f64::from(gate)) as f32;
                (grad * up * slope, grad * quad(f64::from(gate)) as f32)
            }
        }
    }

    fn value(&self, gate: f32, up: f32) -> f32 {
        let Some(format) = self.format else {
            return match self.form {
                None => gate * sigmoid(gate) * up,
                Some(ActivationForm::Quad) => quad(f64::from(gate)) as f32 * up,
            };
        };
        let gate = format.encode(gate) as u64;
        let activated = match self.form {
            None => functions::silu(gate),
            Some(ActivationForm::Quad) => quad_integer(gate, format.frac_bits),
        };
        let product = truncate(
            activated.wrapping_mul(format.encode(up) as u64),
            format.frac_bits,
        ) as i64;
        (product as f64 / f64::from(format.frac_bits).exp2()) as f32
    }
}

impl CustomOp2 for SwiGlu {
    fn name(&self) -> &'static str {
        "swiglu"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let gate = floats(s1, l1, self.name())?;
        let up = floats(s2, l2, self.name())?;
        let mut y = vec![0f32; gate.len()];
        y.par_chunks_mut(CHUNK)
            .zip(gate.par_chunks(CHUNK))
            .zip(up.par_chunks(CHUNK))
            .for_each(|((y, gate), up)| {
                for i in 0..y.len() {
                    y[i] = self.value(gate[i], up[i]);
                }
            });
        Ok((CpuStorage::F32(y), l1.shape().clone()))
    }

    fn bwd(
        &self,
        gate: &Tensor,
        up: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let mut d_gate = vec![0f32; gate.elem_count()];
        let mut d_up = vec![0f32; gate.elem_count()];
        with_floats(gate, self.name(), |gate| {
            with_floats(up, self.name(), |up| {
                with_floats(grad, self.name(), |grad| {
                    let out = d_gate.par_chunks_mut(CHUNK).zip(d_up.par_chunks_mut(CHUNK));
                    let inputs = gate
                        .par_chunks(CHUNK)
                        .zip(up.par_chunks(CHUNK))
                        .zip(grad.par_chunks(CHUNK));
                    out.zip(inputs)
                        .for_each(|((d_gate, d_up), ((gate, up), grad))| {
                            for i in 0..grad.len() {
                                let (by_gate, by_up) = self.slopes(gate[i], up[i], grad[i]);
                                d_gate[i] = by_gate;
                                d_up[i] = by_up;
                            }
                        });
                })
            })
        })???;
        let d_gate = Tensor::from_vec(d_gate, gate.shape(), gate.device())?;
        let d_up = Tensor::from_vec(d_up, gate.shape(), gate.device())?;
        Ok((Some(d_gate), Some(d_up)))
    }
}
