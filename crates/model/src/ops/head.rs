//! The output head fused with its loss: logits exist for a few rows at a time, since a whole matrix
//! of them would be the largest tensor of a training step.

use std::sync::{Arc, Mutex};

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{Mat, MatMut, floats, gemm, with_floats};

/// Rows of logits that exist at a time.
const ROWS: usize = 128;

/// The teacher's side of a distillation loss.
#[derive(Clone)]
pub struct Teacher {
    pub logits: TeacherLogits,
    /// Softens both distributions.
    pub temperature: f32,
    /// Part of the loss that is `temperature^2 KL(teacher || student)`; the rest is cross-entropy.
    pub weight: f32,
}

/// What is known of a teacher's logits at the label rows, `M` in all.
#[derive(Clone)]
pub enum TeacherLogits {
    /// All of them: final normed hidden states `[M, hidden]` times the head `[vocab, hidden]`.
    Whole { hidden: Tensor, head: Tensor },
    /// A part of each softened distribution.
    Kept(Arc<Vec<KeptRow>>),
}

/// Some tokens of a softened distribution `p`.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptRow {
    /// Each token once, with its part.
    pub tokens: Vec<(u32, f32)>,
    /// The parts are probabilities, and what they lack of 1 is that of all other tokens together.
    /// Otherwise they are shares of draws from `p` and make 1.
    pub has_rest: bool,
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
/// When a tensor is not f32, contiguous and on the CPU, a label or a kept token is outside the
/// vocabulary, or a row's answer of the teacher is missing.
pub fn head_loss(hidden: &Tensor, head: &Tensor, loss: HeadLoss) -> Result<Tensor> {
    let vocab = head.dim(0)?;
    if let Some(Teacher {
        logits: TeacherLogits::Kept(rows),
        ..
    }) = &loss.teacher
    {
        let tokens = rows.iter().flat_map(|row| &row.tokens);
        let outside = |&&(token, _): &&(u32, f32)| token as usize >= vocab;
        if let Some((token, _)) = tokens.into_iter().find(outside) {
            candle_core::bail!("kept token {token} is outside the vocabulary of {vocab}");
        }
        if rows.len() != loss.labels.len() {
            candle_core::bail!("{} kept rows for {}", rows.len(), loss.labels.len());
        }
    }
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

/// What a row of logits is compared with besides its label.
enum Target<'a> {
    None,
    /// All of the teacher's logits, used up.
    Whole(&'a mut [f32]),
    Kept(&'a KeptRow),
}

/// `KL(teacher || student)` of softened distributions; `soft` holds the student's probabilities and
/// becomes the gradient by the softened logits.
fn divergence(
    soft: &mut [f32],
    ln_soft: impl Fn(usize) -> f32,
    target: Target<'_>,
    temperature: f32,
) -> f32 {
    match target {
        Target::None => 0.0,
        Target::Whole(target) => {
            target.iter_mut().for_each(|v| *v /= temperature);
            let raw = target.to_vec();
            let lse = softmax(target);
            let terms = (0..target.len()).map(|i| target[i] * ((raw[i] - lse) - ln_soft(i)));
            let sum = terms.fold(0f32, |sum, term| sum + term);
            soft.iter_mut().zip(target).for_each(|(s, t)| *s -= *t);
            sum
        }
        Target::Kept(KeptRow { tokens, has_rest }) => {
            let parts = || tokens.iter().map(|&(token, part)| (token as usize, part));
            let of_kept = |(token, part): (usize, f32)| match part > 0.0 {
                true => part * (part.ln() - ln_soft(token)),
                false => 0.0,
            };
            let mut sum: f32 = parts().map(of_kept).sum();
            let rest = 1.0 - parts().map(|(_, part)| part).sum::<f32>();
            // Rounding leaves next to nothing of a whole distribution.
            if *has_rest && rest > 1e-6 {
                let keeps: Vec<f32> = parts().map(|(token, _)| soft[token]).collect();
                parts().for_each(|(token, _)| soft[token] = 0.0);
                // Added up, not taken from 1: what is left beside a sure token is far below its
                // last bit.
                let ours: f32 = soft.iter().sum::<f32>().max(f32::MIN_POSITIVE);
                sum += rest * (rest.ln() - ours.ln());
                // The rest pulls at every token outside by its part of the student's rest.
                soft.iter_mut().for_each(|s| *s -= rest * (*s / ours));
                for ((token, _), own) in parts().zip(keeps) {
                    soft[token] = own;
                }
            }
            parts().for_each(|(token, part)| soft[token] -= part);
            sum
        }
    }
}

/// Replaces the student's logits by the gradient of the row's loss, which is returned.
fn row_loss(
    logits: &mut [f32],
    target: Target<'_>,
    [temperature, weight]: [f32; 2],
    label: usize,
) -> f32 {
    let right = logits[label];
    if matches!(target, Target::None) {
        let lse = softmax(logits);
        logits[label] -= 1.0;
        return lse - right;
    }
    let raw: Vec<f32> = logits.iter().map(|v| v / temperature).collect();
    let mut soft = raw.clone();
    let lse_soft = softmax(&mut soft);
    let divergence = divergence(&mut soft, |i| raw[i] - lse_soft, target, temperature);
    let lse = softmax(logits);
    logits[label] -= 1.0;
    for i in 0..logits.len() {
        logits[i] = (1.0 - weight) * logits[i] + weight * temperature * soft[i];
    }
    (1.0 - weight) * (lse - right) + weight * temperature * temperature * divergence
}

impl FusedHead {
    /// Logits of the teacher for rows `start..start + rows`, where all are known.
    fn teacher_logits(&self, start: usize, rows: usize) -> Result<Option<Vec<f32>>> {
        let Some(TeacherLogits::Whole { hidden, head }) = self.logits() else {
            return Ok(None);
        };
        let (vocab, width) = head.dims2()?;
        let mut out = vec![0f32; rows * vocab];
        with_floats(hidden, self.name(), |h| {
            with_floats(head, self.name(), |w| {
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

    fn logits(&self) -> Option<&TeacherLogits> {
        self.loss.teacher.as_ref().map(|teacher| &teacher.logits)
    }

    /// Sum of the losses of rows from `start` on, whose logits become gradients.
    fn losses(&self, logits: &mut [f32], start: usize, vocab: usize) -> Result<f64> {
        let count = logits.len() / vocab;
        let labels = &self.loss.labels[start..start + count];
        let mut whole = self.teacher_logits(start, count)?;
        let targets: Vec<Target<'_>> = match (&mut whole, self.logits()) {
            (Some(logits), _) => logits.chunks_mut(vocab).map(Target::Whole).collect(),
            (None, Some(TeacherLogits::Kept(rows))) => rows[start..start + count]
                .iter()
                .map(Target::Kept)
                .collect(),
            _ => labels.iter().map(|_| Target::None).collect(),
        };
        let teacher = self.loss.teacher.as_ref();
        let knobs = teacher.map_or([1.0, 0.0], |t| [t.temperature, t.weight]);
        let rows = logits.par_chunks_mut(vocab).zip(labels.par_iter());
        // Collected before summing: the order of the sum must not depend on the threads.
        let each: Vec<f32> = rows
            .zip(targets)
            .map(|((row, &label), target)| row_loss(row, target, knobs, label as usize))
            .collect();
        Ok(each.iter().map(|&l| f64::from(l)).sum())
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
            total += self.losses(logits, start, vocab)?;
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

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    const LOGITS: [f32; 5] = [0.3, -1.2, 2.0, 0.4, -0.5];
    const TEACHER: [f32; 5] = [1.0, 0.1, 0.7, -2.0, 0.6];
    const TEMPERATURE: f32 = 2.0;

    fn probabilities() -> Vec<f32> {
        let mut soft: Vec<f32> = TEACHER.iter().map(|v| v / TEMPERATURE).collect();
        softmax(&mut soft);
        soft
    }

    fn kept(tokens: &[u32], has_rest: bool) -> KeptRow {
        let p = probabilities();
        let tokens = tokens.iter().map(|&token| (token, p[token as usize]));
        KeptRow {
            tokens: tokens.collect(),
            has_rest,
        }
    }

    fn loss(logits: [f32; 5], kept: &KeptRow) -> (f32, [f32; 5]) {
        let mut gradient = logits;
        let loss = row_loss(&mut gradient, Target::Kept(kept), [TEMPERATURE, 0.75], 3);
        (loss, gradient)
    }

    fn gradient_is_the_slope(kept: &KeptRow) {
        let (_, gradient) = loss(LOGITS, kept);
        for place in 0..LOGITS.len() {
            let at = |step: f32| {
                let mut moved = LOGITS;
                moved[place] += step;
                loss(moved, kept).0
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            // Central differences of step 1e-2 in f32 on losses of order 1.
            assert!(
                (slope - gradient[place]).abs() < 1e-3,
                "{place}: {slope} {gradient:?}"
            );
        }
    }

    #[test]
    fn all_tokens_kept_are_the_whole_distribution() {
        let (partly, parts) = loss(LOGITS, &kept(&[0, 1, 2, 3, 4], true));
        let mut teacher = TEACHER;
        let mut whole = LOGITS;
        let knobs = [TEMPERATURE, 0.75];
        let loss = row_loss(&mut whole, Target::Whole(&mut teacher), knobs, 3);
        // The same sums in another order.
        assert!((loss - partly).abs() < 1e-6);
        assert!(whole.iter().zip(parts).all(|(a, b)| (a - b).abs() < 1e-6));
    }

    #[test]
    fn gradients_of_kept_rows_are_their_slopes() {
        gradient_is_the_slope(&kept(&[0, 2], true));
        gradient_is_the_slope(&kept(&[4], true));
        gradient_is_the_slope(&KeptRow {
            tokens: vec![(0, 0.25), (2, 0.75)],
            has_rest: false,
        });
    }

    #[test]
    fn a_sure_student_has_a_rest_all_the_same() {
        let kept = KeptRow {
            tokens: vec![(0, 0.99)],
            has_rest: true,
        };
        let mut gradient = [20.0, 0.0, 0.0, 0.0, 0.0];
        let loss = row_loss(&mut gradient, Target::Kept(&kept), [1.0, 1.0], 0);
        // 0.99 ln(0.99 / p) + 0.01 ln(0.01 / (1 - p)) with 1 - p = 4 e^-20, to f32.
        let rest = 4.0 * (-20f64).exp();
        let expected = 0.99 * (0.99 / (1.0 - rest)).ln() + 0.01 * (0.01 / rest).ln();
        assert!(
            (f64::from(loss) - expected).abs() < 1e-5,
            "{loss} {expected}"
        );
        assert!((gradient[0] - 0.01).abs() < 1e-5, "{gradient:?}");
        assert!(
            gradient[1..]
                .iter()
                .all(|slope| (slope + 0.0025).abs() < 1e-5),
            "{gradient:?}"
        );
    }

    #[test]
    fn the_rest_is_one_token_to_the_divergence() {
        // A student that is the teacher has none, whatever is kept.
        let student = TEACHER;
        let mut gradient = student;
        let kept = kept(&[1, 3], true);
        let loss = row_loss(&mut gradient, Target::Kept(&kept), [TEMPERATURE, 1.0], 0);
        assert!(loss.abs() < 1e-6, "{loss}");
        assert!(
            gradient.iter().all(|slope| slope.abs() < 1e-6),
            "{gradient:?}"
        );
    }

    #[test]
    fn kept_rows_that_do_not_fit_are_refused() {
        let zeros = |shape| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let hidden = zeros((1, 2));
        let head = zeros((5, 2));
        let with = |rows: Vec<KeptRow>| {
            let teacher = Teacher {
                logits: TeacherLogits::Kept(Arc::new(rows)),
                temperature: 1.0,
                weight: 1.0,
            };
            let labels = vec![1];
            let loss = HeadLoss {
                labels,
                scale: 1.0,
                teacher: Some(teacher),
            };
            head_loss(&hidden, &head, loss)
        };
        assert!(with(vec![kept(&[1], true)]).is_ok());
        assert!(
            with(vec![])
                .unwrap_err()
                .to_string()
                .contains("0 kept rows for 1")
        );
        let outside = KeptRow {
            tokens: vec![(5, 1.0)],
            has_rest: false,
        };
        let error = with(vec![outside]).unwrap_err().to_string();
        assert!(
            error.contains("kept token 5 is outside the vocabulary of 5"),
            "{error}"
        );
    }
}
