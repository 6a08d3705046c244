//! Causal attention over packed sequences whose heads may share a softmax, with its gradient.
//! Sequences are packed because padding would cost as much as tokens do.

use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp3, Layout, Result, Shape, Tensor};
use marill_numeric::{Approximations, functions};
use rayon::prelude::*;

use super::{FakeQuant, Mat, MatMut, dot, floats, gemm, with_floats};
use crate::LayerHeads;

/// One sequence: its rows among the queries and among the keys. Queries are the last `q_len` of
/// `k_len` positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    pub q_start: usize,
    pub q_len: usize,
    pub k_start: usize,
    pub k_len: usize,
}

/// Causal attention with shared softmaxes: `S_G = sum_{i in G} scale_i Q_i K_kv(i)^T`,
/// `O_i = softmax(S_G) V_kv(i)`.
///
/// `q [N, H * D]`, `k` and `v [M, KV * D]`, result `[N, H * D]`; a head in no group has zeros.
/// Segments must follow each other without gaps, in the queries and in the keys. A group of one
/// head with `scale = 1 / sqrt(D)` is ordinary attention. A row sees the last keys of its window
/// alone, where the heads have one. Where `own_share` is not 0, the heads of
/// a group still have softmaxes of their own, of
/// `own_share own_factor Q_i K_i^T / sqrt(D) +
/// (1 - own_share) S_G`. Where `approx` replaces softmax, its
/// weights stand for `exp(S)`, divided by their sum and its floor. With `format`, they are those of
/// the secure program (see [`FakeQuant`]); the gradient is the smooth function's at those weights.
///
/// # Errors
/// When a tensor is not f32, contiguous and on the CPU.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    segments: &Arc<Vec<Segment>>,
    heads: &Arc<LayerHeads>,
    head_dim: usize,
    own_share: f32,
    approx: &Approximations,
    format: Option<FakeQuant>,
) -> Result<Tensor> {
    let q_width = q.dim(1)?;
    let kv_width = k.dim(1)?;
    let op = Attention {
        segments: segments.clone(),
        heads: heads.clone(),
        head_dim,
        q_width,
        kv_width,
        queries_per_kv: q_width / kv_width,
        own_share,
        approx: *approx,
        format,
    };
    q.apply_op3(k, v, op)
}

/// Bits in which the format scales its reciprocal.
const RECIPROCAL_BITS: u32 = 40;

struct Attention {
    segments: Arc<Vec<Segment>>,
    heads: Arc<LayerHeads>,
    head_dim: usize,
    q_width: usize,
    kv_width: usize,
    queries_per_kv: usize,
    own_share: f32,
    approx: Approximations,
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

    fn scale(&self, head: usize) -> f32 {
        self.heads.scales[head] as f32
    }

    /// Whether the heads of a group have softmaxes of their own.
    fn is_apart(&self, group: &[usize]) -> bool {
        self.own_share != 0.0 && group.len() > 1
    }

    /// Adds `scale Q_i K_i^T` to `out [q_len, k_len]`, or begins with it.
    fn add_scores(&self, x: Inputs, head: usize, scale: f32, add: bool, out: &mut [f32]) {
        let dst = MatMut::new(out, x.q_len, x.k_len);
        let q = self.q_head(x.q, x.q_len, head);
        let k = self.kv_head(x.k, x.k_len, head);
        gemm(dst, q, k.t(), scale, add, false);
    }

    /// `share S_G`, `[q_len, k_len]`.
    fn group_scores(&self, x: Inputs, group: &[usize], share: f32, out: &mut Vec<f32>) {
        out.clear();
        out.resize(x.q_len * x.k_len, 0.0);
        for (nth, &head) in group.iter().enumerate() {
            self.add_scores(x, head, share * self.scale(head), nth > 0, out);
        }
    }

    /// The scores that a head of a group has while it moves to the group's: `shared`, which is
    /// `(1 - own_share) S_G`, and its own.
    fn scores_apart(&self, x: Inputs, head: usize, shared: &[f32], out: &mut Vec<f32>) {
        out.clear();
        out.extend_from_slice(shared);
        self.add_scores(x, head, self.own_scale(), true, out);
    }

    /// What a head's own scores are multiplied by.
    fn own_scale(&self) -> f32 {
        self.own_share * self.heads.own_factor as f32 / (self.head_dim as f32).sqrt()
    }

    /// The softmax of each row of scores, zero above the diagonal. Of an approximated one also the
    /// derivatives of weights over their sum, where asked for; of softmax these are itself.
    fn softmax(&self, x: Inputs, scores: &mut [f32], mut slopes: Option<&mut Vec<f32>>) {
        if let Some(slopes) = &mut slopes {
            slopes.clear();
            slopes.resize(scores.len(), 0.0);
        }
        for (row, scores) in scores.chunks_exact_mut(x.k_len).enumerate() {
            let visible = x.k_len - x.q_len + row + 1;
            let seen = self.heads.seen(visible);
            scores[..seen.start].fill(0.0);
            scores[visible..].fill(0.0);
            let scores = &mut scores[seen.clone()];
            if self.approx.softmax.is_some() {
                let slopes = slopes.as_deref_mut();
                let slopes = slopes.map(|slopes| &mut slopes[row * x.k_len..][seen]);
                approximate(&self.approx, scores, slopes, self.format);
                continue;
            }
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

    /// `O_i = P V_i`.
    fn mix(&self, x: Inputs, head: usize, p: &[f32], out: &mut [f32]) {
        let dst = MatMut::strided(
            &mut out[head * self.head_dim..],
            x.q_len,
            self.head_dim,
            self.q_width,
        );
        let v = self.kv_head(x.v, x.k_len, head);
        gemm(dst, Mat::new(p, x.q_len, x.k_len), v, 1.0, false, false);
    }

    fn segment_forward(&self, x: Inputs, out: &mut [f32]) {
        let mut p = Vec::new();
        let mut shared = Vec::new();
        for group in &self.heads.groups {
            if self.is_apart(group) {
                self.group_scores(x, group, 1.0 - self.own_share, &mut shared);
                for &head in group {
                    self.scores_apart(x, head, &shared, &mut p);
                    self.softmax(x, &mut p, None);
                    self.mix(x, head, &p, out);
                }
                continue;
            }
            self.group_scores(x, group, 1.0, &mut p);
            self.softmax(x, &mut p, None);
            for &head in group {
                self.mix(x, head, &p, out);
            }
        }
    }

    fn segment_backward(&self, x: Inputs, grad: &[f32], out: &mut Gradients<'_>) {
        for group in &self.heads.groups {
            if self.is_apart(group) {
                self.group_backward_apart(x, grad, group, out);
            } else {
                self.group_backward(x, grad, group, out);
            }
        }
    }

    /// `dP (+)= dO_i V_i^T`, `dV_i += P^T dO_i`.
    fn mix_backward(
        &self,
        x: Inputs,
        grad: &[f32],
        head: usize,
        p: &[f32],
        (dp, add): (&mut [f32], bool),
        out: &mut Gradients<'_>,
    ) {
        let g = self.q_head(grad, x.q_len, head);
        let v = self.kv_head(x.v, x.k_len, head);
        gemm(MatMut::new(dp, x.q_len, x.k_len), g, v.t(), 1.0, add, false);
        let dst = MatMut::strided(
            &mut out.v[self.kv_offset(head)..],
            x.k_len,
            self.head_dim,
            self.kv_width,
        );
        gemm(dst, Mat::new(p, x.q_len, x.k_len).t(), g, 1.0, true, false);
    }

    /// `dQ_i = scale dS K_i`, `dK_i += scale dS^T Q_i`.
    fn scores_backward(
        &self,
        x: Inputs,
        head: usize,
        ds: &[f32],
        scale: f32,
        out: &mut Gradients<'_>,
    ) {
        let s = Mat::new(ds, x.q_len, x.k_len);
        let dst = MatMut::strided(
            &mut out.q[head * self.head_dim..],
            x.q_len,
            self.head_dim,
            self.q_width,
        );
        gemm(
            dst,
            s,
            self.kv_head(x.k, x.k_len, head),
            scale,
            false,
            false,
        );
        let dst = MatMut::strided(
            &mut out.k[self.kv_offset(head)..],
            x.k_len,
            self.head_dim,
            self.kv_width,
        );
        let q = self.q_head(x.q, x.q_len, head);
        gemm(dst, s.t(), q, scale, true, false);
    }

    /// With one softmax: `dP = sum_i dO_i V_i^T`, `dS = P (dP - rowsum(dP P))`.
    fn group_backward(&self, x: Inputs, grad: &[f32], group: &[usize], out: &mut Gradients<'_>) {
        let mut p = Vec::new();
        self.group_scores(x, group, 1.0, &mut p);
        let mut slopes = Vec::new();
        let approximates = self.approx.softmax.is_some();
        self.softmax(x, &mut p, approximates.then_some(&mut slopes));
        let slopes = if approximates { &slopes } else { &p };
        let mut ds = vec![0f32; x.q_len * x.k_len];
        for (nth, &head) in group.iter().enumerate() {
            self.mix_backward(x, grad, head, &p, (&mut ds, nth > 0), out);
        }
        // The largest scale goes into dS, and what the others are of it into the products.
        let scales = group.iter().map(|&head| self.scale(head));
        let scale = scales.fold(0f32, |most, s| if s.abs() > most.abs() { s } else { most });
        softmax_backward(&mut ds, (&p, slopes), x.k_len, scale);
        for &head in group {
            let of_it = if scale == 0.0 {
                0.0
            } else {
                self.scale(head) / scale
            };
            self.scores_backward(x, head, &ds, of_it, out);
        }
    }

    /// With softmaxes of their own: `dS_i` of each head goes to its own scores by `own_share`, and
    /// by the rest to those of all heads of the group.
    fn group_backward_apart(
        &self,
        x: Inputs,
        grad: &[f32],
        group: &[usize],
        out: &mut Gradients<'_>,
    ) {
        let mut shared = Vec::new();
        self.group_scores(x, group, 1.0 - self.own_share, &mut shared);
        let mut p = Vec::new();
        let mut slopes = Vec::new();
        let approximates = self.approx.softmax.is_some();
        let mut total = vec![0f32; shared.len()];
        let mut each = Vec::with_capacity(group.len());
        for &head in group {
            self.scores_apart(x, head, &shared, &mut p);
            self.softmax(x, &mut p, approximates.then_some(&mut slopes));
            let mut ds = vec![0f32; shared.len()];
            self.mix_backward(x, grad, head, &p, (&mut ds, false), out);
            let slopes = if approximates { &slopes } else { &p };
            softmax_backward(&mut ds, (&p, slopes), x.k_len, 1.0);
            total.iter_mut().zip(&ds).for_each(|(sum, d)| *sum += d);
            each.push(ds);
        }
        for (&head, mut ds) in group.iter().zip(each) {
            let of_group = (1.0 - self.own_share) * self.scale(head);
            let own = self.own_scale();
            ds.iter_mut()
                .zip(&total)
                .for_each(|(d, sum)| *d = own * *d + of_group * sum);
            self.scores_backward(x, head, &ds, 1.0, out);
        }
    }
}

/// Gradients of one segment's queries, keys and values, to be added to.
struct Gradients<'a> {
    q: &'a mut [f32],
    k: &'a mut [f32],
    v: &'a mut [f32],
}

/// `dS = scale P (dP - rowsum(dP P))` in the place of `dP`; the first `P` is the slopes, which are
/// those of an approximated softmax.
fn softmax_backward(dp: &mut [f32], (p, slopes): (&[f32], &[f32]), width: usize, scale: f32) {
    let rows = p.chunks_exact(width).zip(slopes.chunks_exact(width));
    for (ds, (p, slopes)) in dp.chunks_exact_mut(width).zip(rows) {
        let mean = dot(ds, p);
        for (ds, &slope) in ds.iter_mut().zip(slopes) {
            *ds = scale * slope * (*ds - mean);
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

/// The approximated softmax of a row in place of its scores, and the derivatives of its weights
/// over their sum; with a format on integers, whose derivatives are the smooth function's.
pub(super) fn approximate(
    approx: &Approximations,
    row: &mut [f32],
    slopes: Option<&mut [f32]>,
    format: Option<FakeQuant>,
) {
    let Some(form) = approx.softmax else {
        unreachable!("the caller asked")
    };
    let inverse = match format {
        None => {
            let sum: f64 = row.iter().map(|&s| approx.weight(f64::from(s)).0).sum();
            1.0 / (sum + form.floor())
        }
        Some(format) => {
            let format = FakeQuant {
                frac_bits: form.score_frac_bits(),
                ..format
            };
            let weight = |&s: &f32| approx.weight_integer(form, format.encode(s) as u64);
            let weights: Vec<u64> = row.iter().map(weight).collect();
            let inverse = functions::recip_floored(weights.iter().sum()) as f64
                / f64::from(RECIPROCAL_BITS).exp2();
            if let Some(slopes) = slopes {
                let unit = f64::from(form.weight_frac_bits()).exp2();
                write_slopes(approx, row, slopes, inverse * unit);
            }
            for (p, weight) in row.iter_mut().zip(weights) {
                *p = (weight as f64 * inverse) as f32;
            }
            return;
        }
    };
    if let Some(slopes) = slopes {
        write_slopes(approx, row, slopes, inverse);
    }
    for p in row {
        *p = (approx.weight(f64::from(*p)).0 * inverse) as f32;
    }
}

fn write_slopes(approx: &Approximations, scores: &[f32], slopes: &mut [f32], inverse: f64) {
    for (slope, &score) in slopes.iter_mut().zip(scores) {
        *slope = (approx.weight(f64::from(score)).1 * inverse) as f32;
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
                        out.for_each(|(((q_grad, k_grad), v_grad), segment)| {
                            let rows = segment.q_start * self.q_width..;
                            let grad = &grad[rows][..segment.q_len * self.q_width];
                            let mut out = Gradients {
                                q: q_grad,
                                k: k_grad,
                                v: v_grad,
                            };
                            self.segment_backward(self.inputs(segment, q, k, v), grad, &mut out);
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
