//! The output head fused with its loss: logits exist for a few rows at a time, since a whole matrix
//! of them would be the largest tensor of a training step.

use std::sync::Mutex;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Mat, MatMut, floats, gemm, with_floats};

/// Rows of logits that exist at a time.
const ROWS: usize = 128;

/// The teacher's side of a distillation loss.
#[derive(Clone)]
pub struct Teacher {
    /// Final normed hidden states at the label rows, `[M, hidden]`.
    pub hidden: Tensor,
    /// The teacher's head, `[vocab, hidden]`.
    pub head: Tensor,
    /// Softens both distributions.
    pub temperature: f32,
    /// Part of the loss that is `temperature^2 KL(teacher || student)`; the rest is cross-entropy.
    pub weight: f32,
}

/// What the output head is trained toward.
#[derive(Clone)]
pub struct HeadLoss {
    /// The right next token of each row, `M` in all.
    pub labels: Vec<u32>,
    /// Multiplies the sum over rows; `1 / rows of the whole optimizer step` gives the mean.
    pub scale: f32,
    pub teacher: Option<Teacher>,
}

/// Fused output head, cross-entropy and distillation: `hidden [M, hidden]`, `head [vocab, hidden]`,
/// result a scalar.
///
/// Gradients are made in the forward pass, `ROWS` rows of logits at a time, so that no `[M, vocab]`
/// matrix exists.
///
/// # Errors
/// When a tensor is not f32, contiguous and on the CPU, or a label is outside the vocabulary.
pub fn head_loss(hidden: &Tensor, head: &Tensor, loss: HeadLoss) -> Result<Tensor> {
    let vocab = head.dim(0)?;
    if let Some(label) = loss.labels.iter().find(|&&l| l as usize >= vocab) {
        candle_core::bail!("label {label} is outside the vocabulary of {vocab}");
    }
    let op = FusedHead {
        loss,
        trained: head.is_variable(),
        gradients: Mutex::new(None),
    };
    hidden.apply_op2(head, op)
}

struct FusedHead {
    loss: HeadLoss,
    trained: bool,
    gradients: Mutex<Option<(Vec<f32>, Vec<f32>)>>,
}

/// Replaces logits by probabilities and returns `log sum exp`.
fn softmax(row: &mut [f32]) -> f32 {
    let max = row.iter().fold(f32::NEG_INFINITY, |m, &v| m.max(v));
    row.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: f32 = row.iter().sum();
    let inverse = 1.0 / sum;
    row.iter_mut().for_each(|v| *v *= inverse);
    max + sum.ln()
}

/// Replaces the student's logits by the gradient of the row's loss, which is returned.
fn row_loss(logits: &mut [f32], teacher: Option<(&mut [f32], f32, f32)>, label: usize) -> f32 {
    let Some((target, temperature, weight)) = teacher else {
        let right = logits[label];
        let lse = softmax(logits);
        logits[label] -= 1.0;
        return lse - right;
    };
    let mut soft: Vec<f32> = logits.iter().map(|v| v / temperature).collect();
    target.iter_mut().for_each(|v| *v /= temperature);
    let raw_soft = soft.clone();
    let raw_target = target.to_vec();
    let lse_soft = softmax(&mut soft);
    let lse_target = softmax(target);
    let mut divergence = 0f32;
    for i in 0..target.len() {
        divergence += target[i] * ((raw_target[i] - lse_target) - (raw_soft[i] - lse_soft));
    }
    let right = logits[label];
    let lse = softmax(logits);
    logits[label] -= 1.0;
    for i in 0..logits.len() {
        logits[i] = (1.0 - weight) * logits[i] + weight * temperature * (soft[i] - target[i]);
    }
    (1.0 - weight) * (lse - right) + weight * temperature * temperature * divergence
}

impl FusedHead {
    /// Logits of the teacher for rows `start..start + rows`.
    fn teacher_logits(&self, start: usize, rows: usize) -> Result<Option<Vec<f32>>> {
        let Some(teacher) = &self.loss.teacher else {
            return Ok(None);
        };
        let (vocab, width) = teacher.head.dims2()?;
        let mut out = vec![0f32; rows * vocab];
        with_floats(&teacher.hidden, self.name(), |h| {
            with_floats(&teacher.head, self.name(), |w| {
                let h = Mat::new(&h[start * width..][..rows * width], rows, width);
                gemm(
                    MatMut::new(&mut out, rows, vocab),
                    h,
                    Mat::new(w, vocab, width).t(),
                    1.0,
                    false,
                    true,
                );
            })
        })??;
        Ok(Some(out))
    }

    fn losses(
        &self,
        logits: &mut [f32],
        teacher: Option<Vec<f32>>,
        labels: &[u32],
        vocab: usize,
    ) -> f64 {
        let rows = logits.par_chunks_mut(vocab).zip(labels.par_iter());
        // Collected before summing: the order of the sum must not depend on the threads.
        let each: Vec<f32> = match teacher {
            None => rows
                .map(|(row, &label)| row_loss(row, None, label as usize))
                .collect(),
            Some(mut target) => {
                let knob = self
                    .loss
                    .teacher
                    .as_ref()
                    .map_or((1.0, 0.0), |t| (t.temperature, t.weight));
                let rows = rows.zip(target.par_chunks_mut(vocab));
                rows.map(|((row, &label), t)| {
                    row_loss(row, Some((t, knob.0, knob.1)), label as usize)
                })
                .collect()
            }
        };
        each.iter().map(|&l| f64::from(l)).sum()
    }
}

impl CustomOp2 for FusedHead {
    fn name(&self) -> &'static str {
        "head-loss"
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let hidden = floats(s1, l1, self.name())?;
        let head = floats(s2, l2, self.name())?;
        let (rows, width) = l1.shape().dims2()?;
        let (vocab, _) = l2.shape().dims2()?;
        if rows != self.loss.labels.len() {
            candle_core::bail!("{} labels for {rows} rows", self.loss.labels.len());
        }
        let w = Mat::new(head, vocab, width);
        let mut d_hidden = vec![0f32; hidden.len()];
        let mut d_head = vec![0f32; if self.trained { head.len() } else { 0 }];
        let mut logits = vec![0f32; ROWS.min(rows) * vocab];
        let mut total = 0f64;
        for start in (0..rows).step_by(ROWS) {
            let count = ROWS.min(rows - start);
            let h = Mat::new(&hidden[start * width..][..count * width], count, width);
            let logits = &mut logits[..count * vocab];
            gemm(
                MatMut::new(logits, count, vocab),
                h,
                w.t(),
                1.0,
                false,
                true,
            );
            let teacher = self.teacher_logits(start, count)?;
            total += self.losses(
                logits,
                teacher,
                &self.loss.labels[start..start + count],
                vocab,
            );
            let g = Mat::new(logits, count, vocab);
            let dst = MatMut::new(
                &mut d_hidden[start * width..][..count * width],
                count,
                width,
            );
            gemm(dst, g, w, self.loss.scale, false, true);
            if self.trained {
                gemm(
                    MatMut::new(&mut d_head, vocab, width),
                    g.t(),
                    h,
                    self.loss.scale,
                    true,
                    true,
                );
            }
        }
        *self.gradients.lock().expect("no panic holds the lock") = Some((d_hidden, d_head));
        let value = (total * f64::from(self.loss.scale)) as f32;
        Ok((CpuStorage::F32(vec![value]), ().into()))
    }

    fn bwd(
        &self,
        hidden: &Tensor,
        head: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let Some((d_hidden, d_head)) = self
            .gradients
            .lock()
            .expect("no panic holds the lock")
            .take()
        else {
            candle_core::bail!("`head-loss` goes backward once");
        };
        let upstream = f64::from(grad.to_scalar::<f32>()?);
        let scaled = |data, like: &Tensor| {
            let tensor = Tensor::from_vec(data, like.shape(), like.device())?;
            if upstream == 1.0 {
                Ok(tensor)
            } else {
                tensor.affine(upstream, 0.0)
            }
        };
        let d_head = if self.trained {
            Some(scaled(d_head, head)?)
        } else {
            None
        };
        Ok((Some(scaled(d_hidden, hidden)?), d_head))
    }
}
