//! Causal attention over packed sequences whose heads may share a softmax, with its gradient.
//! Sequences are packed because padding would cost as much as tokens do.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use marill_numeric::functions;
use rayon::prelude::*;

use super::{FakeQuant, Mat, MatMut, dot, floats, gemm, with_floats};

/// One sequence: its rows among the queries and among the keys. Queries are the last `q_len` of
/// `k_len` positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub q_start: usize,
    pub q_len: usize,
    pub k_start: usize,
    pub k_len: usize,
}

/// Causal attention with shared softmaxes: `S_G = scale * sum_{i in G} Q_i K_kv(i)^T`,
/// `O_i = softmax(S_G) V_kv(i)`.
///
/// `q [N, H * D]`, `k` and `v [M, KV * D]`, result `[N, H * D]`. Segments must follow each other
/// without gaps, in the queries and in the keys. A group of one head with `scale = 1 / sqrt(D)` is
/// ordinary attention. With `format`, the weights are those of the secure program (see
/// [`FakeQuant`]); the gradient is the smooth function's at those weights.
///
/// # Errors
/// When a tensor is not f32, contiguous and on the CPU.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Arc<Vec<Segment>>,
    groups: &Arc<Vec<Vec<usize>>>,
    head_dim: usize,
    scale: f64,
    format: Option<FakeQuant>,
) -> Result<Tensor> {
    let q_width = q.dim(1)?;
    let kv_width = k.dim(1)?;
    let op = Attention {
        segments: segments.clone(),
        groups: groups.clone(),
        head_dim,
        q_width,
        kv_width,
        queries_per_kv: q_width / kv_width,
        scale: scale as f32,
        format,
    };
    q.apply_op3(k, v, op)
}

/// Bits in which the format scales its reciprocal.
const RECIPROCAL_BITS: u32 = 40;

struct Attention {
    segments: Arc<Vec<Segment>>,
    groups: Arc<Vec<Vec<usize>>>,
    head_dim: usize,
    q_width: usize,
    kv_width: usize,
    queries_per_kv: usize,
    scale: f32,
    format: Option<FakeQuant>,
}

/// The rows of one segment.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    q: &'a [f32],
    k: &'a [f32],
    v: &'a [f32],
    q_len: usize,
    k_len: usize,
}

impl Attention {
    fn q_head<'a>(&self, rows: &'a [f32], len: usize, head: usize) -> Mat<'a> {
        Mat::strided(
            &rows[head * self.head_dim..],
            len,
            self.head_dim,
            self.q_width,
        )
    }

    fn kv_offset(&self, head: usize) -> usize {
        head / self.queries_per_kv * self.head_dim
    }

    fn kv_head<'a>(&self, rows: &'a [f32], len: usize, head: usize) -> Mat<'a> {
        Mat::strided(
            &rows[self.kv_offset(head)..],
            len,
            self.head_dim,
            self.kv_width,
        )
    }

    fn inputs<'a>(
        &self,
        segment: &Segment,
        q: &'a [f32],
        k: &'a [f32],
        v: &'a [f32],
    ) -> Inputs<'a> {
        let kv_rows =
            segment.k_start * self.kv_width..(segment.k_start + segment.k_len) * self.kv_width;
        Inputs {
            q: &q[segment.q_start * self.q_width..(segment.q_start + segment.q_len) * self.q_width],
            k: &k[kv_rows.clone()],
            v: &v[kv_rows],
            q_len: segment.q_len,
            k_len: segment.k_len,
        }
    }

    /// `softmax(S_G)`, `[q_len, k_len]`, zero above the diagonal.
    fn probabilities(&self, x: Inputs, group: &[usize], out: &mut Vec<f32>) {
        out.clear();
        out.resize(x.q_len * x.k_len, 0.0);
        for (nth, &head) in group.iter().enumerate() {
            let dst = MatMut::new(out, x.q_len, x.k_len);
            let q = self.q_head(x.q, x.q_len, head);
            let k = self.kv_head(x.k, x.k_len, head);
            gemm(dst, q, k.t(), self.scale, nth > 0, false);
        }
        for (row, scores) in out.chunks_exact_mut(x.k_len).enumerate() {
            let visible = x.k_len - x.q_len + row + 1;
            scores[visible..].fill(0.0);
            let scores = &mut scores[..visible];
            if let Some(format) = self.format {
                softmax_quantized(scores, format);
                continue;
            }
            let max = scores.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
            scores.iter_mut().for_each(|s| *s = (*s - max).exp());
            let inverse = 1.0 / scores.iter().sum::<f32>();
            scores.iter_mut().for_each(|s| *s *= inverse);
        }
    }

    fn segment_forward(&self, x: Inputs, out: &mut [f32]) {
        let mut p = Vec::new();
        for group in self.groups.iter() {
            self.probabilities(x, group, &mut p);
            for &head in group {
                let dst = MatMut::strided(
                    &mut out[head * self.head_dim..],
                    x.q_len,
                    self.head_dim,
                    self.q_width,
                );
                gemm(
                    dst,
                    Mat::new(&p, x.q_len, x.k_len),
                    self.kv_head(x.v, x.k_len, head),
                    1.0,
                    false,
                    false,
                );
            }
        }
    }

    /// `dP = sum_i dO_i V_i^T`, `dS = scale P (dP - rowsum(dP P))`, `dQ_i = dS K_i`,
    /// `dK_i += dS^T Q_i`, `dV_i += P^T dO_i`.
    fn segment_backward(
        &self,
        x: Inputs,
        grad: &[f32],
        dq: &mut [f32],
        dk: &mut [f32],
        dv: &mut [f32],
    ) {
        let mut p = Vec::new();
        let mut ds = vec![0f32; x.q_len * x.k_len];
        for group in self.groups.iter() {
            self.probabilities(x, group, &mut p);
            for (nth, &head) in group.iter().enumerate() {
                let g = self.q_head(grad, x.q_len, head);
                let v = self.kv_head(x.v, x.k_len, head);
                gemm(
                    MatMut::new(&mut ds, x.q_len, x.k_len),
                    g,
                    v.t(),
                    1.0,
                    nth > 0,
                    false,
                );
                let dst = MatMut::strided(
                    &mut dv[self.kv_offset(head)..],
                    x.k_len,
                    self.head_dim,
                    self.kv_width,
                );
                gemm(dst, Mat::new(&p, x.q_len, x.k_len).t(), g, 1.0, true, false);
            }
            for (ds, p) in ds.chunks_exact_mut(x.k_len).zip(p.chunks_exact(x.k_len)) {
                let mean = dot(ds, p);
                for (ds, &p) in ds.iter_mut().zip(p) {
                    *ds = self.scale * p * (*ds - mean);
                }
            }
            for &head in group {
                let s = Mat::new(&ds, x.q_len, x.k_len);
                let dst = MatMut::strided(
                    &mut dq[head * self.head_dim..],
                    x.q_len,
                    self.head_dim,
                    self.q_width,
                );
                gemm(dst, s, self.kv_head(x.k, x.k_len, head), 1.0, false, false);
                let dst = MatMut::strided(
                    &mut dk[self.kv_offset(head)..],
                    x.k_len,
                    self.head_dim,
                    self.kv_width,
                );
                gemm(
                    dst,
                    s.t(),
                    self.q_head(x.q, x.q_len, head),
                    1.0,
                    true,
                    false,
                );
            }
        }
    }
}

/// `exp(s - max)` from the numeric format's table times the numeric format's reciprocal of their
/// sum, on integers.
fn softmax_quantized(scores: &mut [f32], format: FakeQuant) {
    let encoded: Vec<i64> = scores.iter().map(|&s| format.encode(s)).collect();
    let max = encoded.iter().copied().max().unwrap_or_default();
    let weights: Vec<u64> = encoded
        .iter()
        .map(|&s| functions::exp_neg((max - s) as u64))
        .collect();
    let inverse = functions::recip(weights.iter().sum()) as f64;
    for (score, weight) in scores.iter_mut().zip(weights) {
        *score = (weight as f64 * inverse / f64::from(RECIPROCAL_BITS).exp2()) as f32;
    }
}

/// Cuts a buffer into consecutive pieces of the given lengths.
fn pieces(mut rest: &mut [f32], lengths: impl Iterator<Item = usize>) -> Vec<&mut [f32]> {
    let mut out = Vec::new();
    for length in lengths {
        let (piece, tail) = rest.split_at_mut(length);
        out.push(piece);
        rest = tail;
    }
    out
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "attention"
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
        let q = floats(s1, l1, self.name())?;
        let k = floats(s2, l2, self.name())?;
        let v = floats(s3, l3, self.name())?;
        let mut out = vec![0f32; q.len()];
        let rows = pieces(
            &mut out,
            self.segments.iter().map(|s| s.q_len * self.q_width),
        );
        rows.into_par_iter()
            .zip(self.segments.par_iter())
            .for_each(|(out, segment)| self.segment_forward(self.inputs(segment, q, k, v), out));
        Ok((CpuStorage::F32(out), l1.shape().clone()))
    }

    fn bwd(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut dq = vec![0f32; q.elem_count()];
        let mut dk = vec![0f32; k.elem_count()];
        let mut dv = vec![0f32; v.elem_count()];
        let out = pieces(
            &mut dq,
            self.segments.iter().map(|s| s.q_len * self.q_width),
        )
        .into_par_iter()
        .zip(pieces(
            &mut dk,
            self.segments.iter().map(|s| s.k_len * self.kv_width),
        ))
        .zip(pieces(
            &mut dv,
            self.segments.iter().map(|s| s.k_len * self.kv_width),
        ))
        .zip(self.segments.par_iter());
        let name = self.name();
        with_floats(q, name, |q| {
            with_floats(k, name, |k| {
                with_floats(v, name, |v| {
                    with_floats(grad, name, |grad| {
                        out.for_each(|(((dq, dk), dv), segment)| {
                            let rows = segment.q_start * self.q_width..;
                            let grad = &grad[rows][..segment.q_len * self.q_width];
                            self.segment_backward(self.inputs(segment, q, k, v), grad, dq, dk, dv);
                        })
                    })
                })
            })
        })????;
        let tensor = |data, like: &Tensor| Tensor::from_vec(data, like.shape(), like.device());
        Ok((
            Some(tensor(dq, q)?),
            Some(tensor(dk, k)?),
            Some(tensor(dv, v)?),
        ))
    }
}
