//! Linear maps. A frozen weight gets no gradient: candle's own product would compute and store
//! one.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::{Mat, MatMut, floats, gemm, with_floats};

/// `y = x W^T`: `x [N, in]`, `weight [out, in]`, result `[N, out]`.
///
/// A weight that is no variable costs no gradient: candle's own product would compute and store
/// one.
///
/// # Errors
/// When the shapes do not fit, or a tensor is not f32, contiguous and on the CPU.
pub fn linear(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    if weight.is_variable() {
        x.apply_op2(weight, TrainedLinear)
    } else {
        x.apply_op1(FrozenLinear {
            weight: weight.clone(),
        })
    }
}

fn forward(x: &[f32], w: &[f32], rows: usize, inner: usize, out: usize) -> Vec<f32> {
    let mut y = vec![0f32; rows * out];
    gemm(
        MatMut::new(&mut y, rows, out),
        Mat::new(x, rows, inner),
        Mat::new(w, out, inner).t(),
        1.0,
        false,
        true,
    );
    y
}

/// `grad W`, `[N, in]`.
fn input_gradient(weight: &Tensor, grad: &Tensor) -> Result<Tensor> {
    let (rows, out) = grad.dims2()?;
    let inner = weight.dim(1)?;
    let mut dx = vec![0f32; rows * inner];
    with_floats(grad, "linear", |g| {
        with_floats(weight, "linear", |w| {
            let dst = MatMut::new(&mut dx, rows, inner);
            gemm(
                dst,
                Mat::new(g, rows, out),
                Mat::new(w, out, inner),
                1.0,
                false,
                true,
            );
        })
    })??;
    Tensor::from_vec(dx, (rows, inner), grad.device())
}

struct FrozenLinear {
    weight: Tensor,
}

impl CustomOp1 for FrozenLinear {
    fn name(&self) -> &'static str {
        "frozen-linear"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(storage, layout, self.name())?;
        let (rows, inner) = layout.shape().dims2()?;
        let out = self.weight.dim(0)?;
        let y = with_floats(&self.weight, self.name(), |w| {
            forward(x, w, rows, inner, out)
        })?;
        Ok((CpuStorage::F32(y), (rows, out).into()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        input_gradient(&self.weight, grad).map(Some)
    }
}

struct TrainedLinear;

impl CustomOp2 for TrainedLinear {
    fn name(&self) -> &'static str {
        "linear"
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
        let (rows, inner) = l1.shape().dims2()?;
        let out = l2.shape().dims2()?.0;
        Ok((
            CpuStorage::F32(forward(x, w, rows, inner, out)),
            (rows, out).into(),
        ))
    }

    fn bwd(
        &self,
        x: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (rows, inner) = x.dims2()?;
        let out = weight.dim(0)?;
        let mut dw = vec![0f32; out * inner];
        with_floats(grad, self.name(), |g| {
            with_floats(x, self.name(), |x| {
                let dst = MatMut::new(&mut dw, out, inner);
                gemm(
                    dst,
                    Mat::new(g, rows, out).t(),
                    Mat::new(x, rows, inner),
                    1.0,
                    false,
                    true,
                );
            })
        })??;
        let dw = Tensor::from_vec(dw, (out, inner), grad.device())?;
        // Nothing above a constant input needs its gradient.
        let dx = if x.track_op() {
            Some(input_gradient(weight, grad)?)
        } else {
            None
        };
        Ok((dx, Some(dw)))
    }
}
