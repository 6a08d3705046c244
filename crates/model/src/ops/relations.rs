//! How rows relate among themselves, compared with a teacher's: a loss of distillation.

use candle_core::{D, Device, Result, Tensor, bail};

use super::Segment;

/// Score of a row that lies in the future: its weight is 0 in f32 whatever the other scores are.
const NEVER: f32 = -1e9;

/// `scale * sum over segments, parts and rows of KL(t || s)`, where `s` is the softmax of a row's
/// scaled products with the rows up to it, in each of `parts` equal parts of the columns, and `t`
/// is the same of `target`. `x` is `[N, width]`, `target` is `[N, other width]`; both widths are
/// multiples of `parts`.
///
/// Heads of both models are cut anew into the same number of parts, so neither the widths nor the
/// numbers of heads have to agree. Source: Wang et al., "MiniLMv2: Multi-Head Self-Attention
/// Relation Distillation", Findings of ACL 2021, section 3.1; causal here.
///
/// # Errors
/// When the numbers of rows differ, or a width is no multiple of `parts`.
pub fn relation_loss(
    x: &Tensor,
    target: &Tensor,
    segments: &[Segment],
    parts: usize,
    scale: f64,
) -> Result<Tensor> {
    let mut total: Option<Tensor> = None;
    for segment in segments {
        let mask = causal(segment.q_len, x.device())?;
        let ours = ln_relations(x, segment, parts, &mask)?;
        let theirs = ln_relations(&target.detach(), segment, parts, &mask)?;
        let divergence = (theirs.exp()? * (theirs - ours)?)?.sum_all()?;
        total = Some(match total {
            None => divergence,
            Some(total) => (total + divergence)?,
        });
    }
    match total {
        Some(total) => total.affine(scale, 0.0),
        None => bail!("no segment to relate"),
    }
}

fn causal(rows: usize, device: &Device) -> Result<Tensor> {
    let future = |row: usize, column: usize| if column > row { NEVER } else { 0.0 };
    let mask: Vec<f32> = (0..rows * rows)
        .map(|n| future(n / rows, n % rows))
        .collect();
    Tensor::from_vec(mask, (1, rows, rows), device)
}

/// `ln softmax(parts of rows x parts of rows)`, `[parts, rows, rows]`.
fn ln_relations(x: &Tensor, segment: &Segment, parts: usize, mask: &Tensor) -> Result<Tensor> {
    let width = x.dim(1)?;
    if parts == 0 || width % parts != 0 {
        bail!("{width} columns cannot be cut into {parts} parts");
    }
    let rows = x.narrow(0, segment.q_start, segment.q_len)?;
    let rows = rows.reshape((segment.q_len, parts, width / parts))?;
    let rows = rows.transpose(0, 1)?.contiguous()?;
    let scores = rows.matmul(&rows.t()?.contiguous()?)?;
    let scores = scores.affine(1.0 / ((width / parts) as f64).sqrt(), 0.0)?;
    candle_nn::ops::log_softmax(&scores.broadcast_add(mask)?, D::Minus1)
}

#[cfg(test)]
mod tests {
    use candle_core::Var;

    use super::*;

    fn values(seed: f32, rows: usize, width: usize) -> Tensor {
        let value = |n: usize| ((n as f32 * 0.7 + seed) * 1.3).sin();
        let values: Vec<f32> = (0..rows * width).map(value).collect();
        Tensor::from_vec(values, (rows, width), &Device::Cpu).unwrap()
    }

    fn segments() -> Vec<Segment> {
        let segment = |start, len| Segment {
            q_start: start,
            q_len: len,
            k_start: start,
            k_len: len,
        };
        vec![segment(0, 3), segment(3, 2)]
    }

    fn loss(x: &Tensor, target: &Tensor) -> Tensor {
        relation_loss(x, target, &segments(), 2, 0.5).unwrap()
    }

    #[test]
    fn equal_relations_cost_nothing() {
        let target = values(0.0, 5, 8);
        let of = |x: &Tensor| loss(x, &target).to_scalar::<f32>().unwrap();
        // Sums of a few f32 logarithms.
        assert!(of(&target).abs() < 1e-6);
        assert!(of(&values(1.0, 5, 8)) > 1e-3);
        // Signs of a row and of all rows it relates to: products stay.
        assert!(of(&target.neg().unwrap()).abs() < 1e-6);
    }

    #[test]
    fn a_row_sees_neither_later_ones_nor_other_segments() {
        let target = values(0.0, 5, 8);
        // Only the first row differs: its segment relates to it, the other one does not.
        let others = target.narrow(0, 1, 4).unwrap();
        let x = Tensor::cat(&[values(1.0, 1, 8), others], 0).unwrap();
        let x = Var::from_tensor(&x).unwrap();
        let grads = loss(x.as_tensor(), &target).backward().unwrap();
        let gradient: Vec<Vec<f32>> = grads.get(&x).unwrap().to_vec2().unwrap();
        let moves = |row: &Vec<f32>| row.iter().any(|slope| slope.abs() > 1e-6);
        let moved: Vec<bool> = gradient.iter().map(moves).collect();
        assert_eq!(moved, [true, true, true, false, false]);
    }

    #[test]
    fn gradients_are_slopes_and_widths_may_differ() {
        let target = values(0.0, 5, 4);
        let x = Var::from_tensor(&values(1.0, 5, 8)).unwrap();
        let grads = loss(x.as_tensor(), &target).backward().unwrap();
        let gradient: Vec<f32> = grads
            .get(&x)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let start: Vec<f32> = x.flatten_all().unwrap().to_vec1().unwrap();
        for place in [0, 9, 17, 26, 39] {
            let at = |step: f32| {
                let mut moved = start.clone();
                moved[place] += step;
                let moved = Tensor::from_vec(moved, (5, 8), &Device::Cpu).unwrap();
                loss(&moved, &target).to_scalar::<f32>().unwrap()
            };
            let slope = (at(1e-2) - at(-1e-2)) / 2e-2;
            // Central differences of step 1e-2 in f32 on losses of order 0.1.
            assert!((slope - gradient[place]).abs() < 1e-3, "{place}");
        }
        let error = relation_loss(&target, &target, &segments(), 3, 1.0).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("4 columns cannot be cut into 3 parts")
        );
    }
}
