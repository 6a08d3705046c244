//! A linear map with its LoRA factors as one operation, which saves writing four tensors of the
//! result's size.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};

use super::{Dropout, Mat, MatMut, floats, gemm, with_floats};

/// `y = x W^T + scale (drop(x) A^T) B^T`: `x [N, in]`, `A [rank, in]`, `B [out, rank]`,
/// `W [out, in]` and result `[N, out]`. `W` is frozen and may be left out.
///
/// One operation, because as four it would write and add four tensors of the result's size in both
/// directions.
///
/// # Errors
/// When the shapes do not fit, or a tensor is not f32, contiguous and on the CPU.
pub fn low_rank(
    x: &Tensor,
    weight: Option<&Tensor>,
    (a, b): (&Tensor, &Tensor),
    scale: f64,
    dropout: Option<Dropout>,
) -> Result<Tensor> {
    let op = LowRank {
        weight: weight.cloned(),
        scale: scale as f32,
        dropout,
        inner: Mutex::new(None),
    };
    x.apply_op3(a, b, op)
}

struct LowRank {
    weight: Option<Tensor>,
    scale: f32,
    dropout: Option<Dropout>,
    /// `scale drop(x) A^T`, `[N, rank]`, from forward to backward.
    inner: Mutex<Option<Vec<f32>>>,
}

/// `N`, `in`, `rank`, `out`.
type Sizes = (usize, usize, usize, usize);

impl LowRank {
    fn forward(
        &self,
        x: &[f32],
        a: &[f32],
        b: &[f32],
        (n, width, rank, out): Sizes,
    ) -> Result<Vec<f32>> {
        let dropped = self.dropout.map(|d| d.apply(x));
        let seen = Mat::new(dropped.as_deref().unwrap_or(x), n, width);
        let mut inner = vec![0f32; n * rank];
        gemm(
            MatMut::new(&mut inner, n, rank),
            seen,
            Mat::new(a, rank, width).t(),
            self.scale,
            false,
            true,
        );
        let mut y = vec![0f32; n * out];
        if let Some(weight) = &self.weight {
            with_floats(weight, self.name(), |w| {
                let dst = MatMut::new(&mut y, n, out);
                gemm(
                    dst,
                    Mat::new(x, n, width),
                    Mat::new(w, out, width).t(),
                    1.0,
                    false,
                    true,
                );
            })?;
        }
        let add = self.weight.is_some();
        gemm(
            MatMut::new(&mut y, n, out),
            Mat::new(&inner, n, rank),
            Mat::new(b, out, rank).t(),
            1.0,
            add,
            true,
        );
        *self.inner.lock().expect("no panic holds the lock") = Some(inner);
        Ok(y)
    }

    /// `dB = g^T u`, `v = scale g B`, `dA = v^T drop(x)`, `dx = g W + drop(v A)`.
    fn backward(
        &self,
        (x, a, b, g): (&[f32], &[f32], &[f32], &[f32]),
        inner: &[f32],
        (n, width, rank, out): Sizes,
        wants_dx: bool,
    ) -> Result<(Option<Vec<f32>>, Vec<f32>, Vec<f32>)> {
        let grad = Mat::new(g, n, out);
        let mut db = vec![0f32; out * rank];
        gemm(
            MatMut::new(&mut db, out, rank),
            grad.t(),
            Mat::new(inner, n, rank),
            1.0,
            false,
            true,
        );
        let mut v = vec![0f32; n * rank];
        gemm(
            MatMut::new(&mut v, n, rank),
            grad,
            Mat::new(b, out, rank),
            self.scale,
            false,
            true,
        );
        let dropped = self.dropout.map(|d| d.apply(x));
        let seen = Mat::new(dropped.as_deref().unwrap_or(x), n, width);
        let mut da = vec![0f32; rank * width];
        let v = Mat::new(&v, n, rank);
        gemm(
            MatMut::new(&mut da, rank, width),
            v.t(),
            seen,
            1.0,
            false,
            true,
        );
        if !wants_dx {
            return Ok((None, da, db));
        }
        let mut dx = vec![0f32; n * width];
        gemm(
            MatMut::new(&mut dx, n, width),
            v,
            Mat::new(a, rank, width),
            1.0,
            false,
            true,
        );
        if let Some(dropout) = self.dropout {
            dx = dropout.apply(&dx);
        }
        if let Some(weight) = &self.weight {
            with_floats(weight, self.name(), |w| {
                gemm(
                    MatMut::new(&mut dx, n, width),
                    grad,
                    Mat::new(w, out, width),
                    1.0,
                    true,
                    true,
                );
            })?;
        }
        Ok((Some(dx), da, db))
    }
}

impl CustomOp3 for LowRank {
    fn name(&self) -> &'static str {
        "low-rank"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let x = floats(s1, l1, self.name())?;
        let a = floats(s2, l2, self.name())?;
        let b = floats(s3, l3, self.name())?;
        let (n, width) = l1.shape().dims2()?;
        let (rank, _) = l2.shape().dims2()?;
        let (out, _) = l3.shape().dims2()?;
        Ok((
            CpuStorage::F32(self.forward(x, a, b, (n, width, rank, out))?),
            (n, out).into(),
        ))
    }

    fn bwd(
        &self,
        x: &Tensor,
        a: &Tensor,
        b: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let Some(inner) = self.inner.lock().expect("no panic holds the lock").take() else {
            candle_core::bail!("`low-rank` goes backward once");
        };
        let (n, width) = x.dims2()?;
        let sizes = (n, width, a.dim(0)?, b.dim(0)?);
        let name = self.name();
        // Nothing above a constant input needs its gradient.
        let wants_dx = x.track_op();
        let (dx, da, db) = with_floats(x, name, |x| {
            with_floats(a, name, |a| {
                with_floats(b, name, |b| {
                    with_floats(grad, name, |g| {
                        self.backward((x, a, b, g), &inner, sizes, wants_dx)
                    })
                })
            })
        })?????;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
        Ok((
            dx.map(|dx| tensor(dx, x)).transpose()?,
            Some(tensor(da, a)?),
            Some(tensor(db, b)?),
        ))
    }
}
