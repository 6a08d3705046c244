//! What an attention block of the base does to a few training rows, and how far it would be off
//! with other heads.
//!
//! Merging a group replaces each head's softmax by the softmax of the group's summed scores. The
//! change of the block's output is a sum over groups, so that all pairs of candidate groups say how
//! far off every grouping is. It is stated relative to the residual stream that it is added to, row
//! by row, because the stream's first row is hundreds of times larger than the others.

use marill_model::{
    Llama, LlamaConfig, ModelConfig, Rows,
    ops::{Mat, MatMut, gemm},
};
use rayon::prelude::*;

use crate::TrainError;

/// Steps of Newton's method, at most: the objective is convex and smooth.
const NEWTON_STEPS: usize = 20;
/// A step that wins less nats per row than this is the last.
const ENOUGH: f64 = 1e-9;

/// One calibration row in one attention block.
struct Row {
    len: usize,
    /// `1 / |x|²` of the residual stream before the block, at each token.
    weight: Vec<f32>,
    /// `Q K^T` of each head, `[len, len]`, unscaled; what stands above the diagonal is not used.
    scores: Vec<Vec<f32>>,
    /// The head's softmax, zero above the diagonal.
    shares: Vec<Vec<f32>>,
    /// `[len, KV * D]`
    values: Vec<f32>,
}

/// An attention block on all calibration rows.
pub(crate) struct Block<'a> {
    config: &'a LlamaConfig,
    rows: Vec<Row>,
    tokens: usize,
    /// `[hidden, H * D]`
    output: Vec<f32>,
}

/// Sums over calibration rows of the products of candidates' changes of the block's output, each
/// relative to the residual stream: `[candidate][candidate]`, a token's mean.
pub(crate) struct Products(Vec<Vec<f64>>);

impl Products {
    /// The mean squared change of the block's output by some candidates together, relative to the
    /// residual stream.
    pub fn error(&self, candidates: impl Iterator<Item = usize> + Clone) -> f64 {
        let each = candidates.clone().map(|i| {
            let row = candidates.clone().map(|j| self.0[i][j]);
            row.sum::<f64>()
        });
        each.sum()
    }
}

impl<'a> Block<'a> {
    /// The block of `layer` where `x [N, hidden]` of rows of these lengths enters it.
    pub fn new(
        decoder: &'a Llama,
        layer: usize,
        x: &candle_core::Tensor,
        lengths: &[usize],
    ) -> Result<Self, TrainError> {
        let packed = Rows::packed(lengths);
        let [q, k, v] = decoder.attention_inputs(layer, x, &packed)?;
        let flat = |t: &candle_core::Tensor| t.flatten_all()?.to_vec1::<f32>();
        let [q, k, v, x] = [flat(&q)?, flat(&k)?, flat(&v)?, flat(x)?];
        let config = &decoder.config;
        let starts = packed.segments.iter().map(|s| (s.q_start, s.q_len));
        let starts: Vec<(usize, usize)> = starts.collect();
        let of_row = |&(start, len): &(usize, usize)| {
            let rows = |t: &[f32]| {
                let width = t.len() / packed.positions.len();
                t[start * width..(start + len) * width].to_vec()
            };
            Row::new(config, [&rows(&q), &rows(&k), &rows(&x)], rows(&v))
        };
        let output = decoder.layers[layer].o_proj.weight.flatten_all()?;
        Ok(Self {
            config,
            rows: starts.par_iter().map(of_row).collect(),
            tokens: packed.positions.len(),
            output: output.to_vec1()?,
        })
    }

    /// Factors of the heads' scores with which a group's one softmax comes nearest to the mean of
    /// the heads' own ones: those that minimize the mean of `KL(mean || softmax)` over all rows of
    /// all calibration rows.
    pub fn fit(&self, group: &[usize]) -> Vec<f64> {
        let n = group.len();
        let start = self.config.score_factor() / ((n * self.config.head_dim) as f64).sqrt();
        let mut scales = vec![start; n];
        let mut now = self.divergence(group, &scales);
        for _ in 0..NEWTON_STEPS {
            let Some(step) = solve(now.curvature.clone(), &now.slope) else {
                break;
            };
            // A whole step may go too far where the softmax is nearly hard.
            let tried = (0..12).map(|halvings| f64::from(-halvings).exp2());
            let better = tried.into_iter().find_map(|share| {
                let moved: Vec<f64> = (0..n).map(|i| scales[i] - share * step[i]).collect();
                let there = self.divergence(group, &moved);
                (there.nats < now.nats).then_some((moved, there))
            });
            let Some((moved, there)) = better else {
                break;
            };
            let won = now.nats - there.nats;
            (scales, now) = (moved, there);
            if won < ENOUGH {
                break;
            }
        }
        // The program's bounds; a score's factor is an eighth or so.
        scales.iter().map(|s| s.clamp(-1.0, 1.0)).collect()
    }

    fn divergence(&self, group: &[usize], scales: &[f64]) -> Divergence {
        let each = self.rows.iter().map(|row| row.divergence(group, scales));
        let mut sum = each.fold(Divergence::zero(group.len()), Divergence::plus);
        let count = self.tokens as f64;
        sum.nats /= count;
        sum.slope.iter_mut().for_each(|v| *v /= count);
        let all = sum.curvature.iter_mut().flatten();
        all.for_each(|v| *v /= count);
        sum
    }

    /// What candidates change: groups, with the factors of their heads' scores.
    pub fn merged(&self, groups: &[(Vec<usize>, Vec<f64>)]) -> Products {
        self.products(groups.len(), |row, out| {
            let changes = groups.par_iter().map(|(group, scales)| {
                let merged = row.softmax(group, scales);
                let mixed = group.iter().map(|&head| {
                    let own = &row.shares[head];
                    let change: Vec<f32> = merged.iter().zip(own).map(|(m, o)| m - o).collect();
                    (head, change)
                });
                self.through_output(row, mixed)
            });
            changes.collect_into_vec(out);
        })
    }

    /// What leaving out each head changes.
    pub fn left_out(&self) -> Products {
        let heads = self.config.num_attention_heads;
        self.products(heads, |row, out| {
            let changes = (0..heads).into_par_iter().map(|head| {
                let gone = row.shares[head].iter().map(|p| -p).collect();
                self.through_output(row, std::iter::once((head, gone)))
            });
            changes.collect_into_vec(out);
        })
    }

    /// `sum_i P_i V_i W_i^T / |x|`, `[len, hidden]`, of heads and what weighs their values.
    fn through_output(
        &self,
        row: &Row,
        heads: impl Iterator<Item = (usize, Vec<f32>)>,
    ) -> Vec<f32> {
        let d = self.config.head_dim;
        let hidden = self.config.hidden_size;
        let wide = self.config.num_attention_heads * d;
        let kv_width = self.config.num_key_value_heads * d;
        let mut out = vec![0f32; row.len * hidden];
        let mut mixed = vec![0f32; row.len * d];
        for (head, shares) in heads {
            let first = self.config.kv_head(head) * d;
            let values = Mat::strided(&row.values[first..], row.len, d, kv_width);
            let shares = Mat::new(&shares, row.len, row.len);
            let dst = MatMut::new(&mut mixed, row.len, d);
            gemm(dst, shares, values, 1.0, false, false);
            let map = Mat::strided(&self.output[head * d..], hidden, d, wide);
            let dst = MatMut::new(&mut out, row.len, hidden);
            gemm(dst, Mat::new(&mixed, row.len, d), map.t(), 1.0, true, false);
        }
        for (out, weight) in out.chunks_exact_mut(hidden).zip(&row.weight) {
            let inverse = weight.sqrt();
            out.iter_mut().for_each(|v| *v *= inverse);
        }
        out
    }

    fn products(&self, count: usize, changes: impl Fn(&Row, &mut Vec<Vec<f32>>)) -> Products {
        let mut total = vec![vec![0f64; count]; count];
        let mut of_row = Vec::new();
        for row in &self.rows {
            changes(row, &mut of_row);
            let flat: Vec<f32> = of_row.concat();
            let width = flat.len() / count;
            let mut product = vec![0f32; count * count];
            let all = Mat::new(&flat, count, width);
            let dst = MatMut::new(&mut product, count, count);
            gemm(dst, all, all.t(), 1.0, false, true);
            for (sums, products) in total.iter_mut().zip(product.chunks_exact(count)) {
                let pairs = sums.iter_mut().zip(products);
                pairs.for_each(|(sum, &p)| *sum += f64::from(p) / self.tokens as f64);
            }
        }
        Products(total)
    }
}

impl Row {
    fn new(config: &LlamaConfig, [q, k, x]: [&[f32]; 3], values: Vec<f32>) -> Self {
        let d = config.head_dim;
        let len = x.len() / config.hidden_size;
        let q_width = config.num_attention_heads * d;
        let k_width = config.num_key_value_heads * d;
        let of_head = |head: usize| {
            let mut scores = vec![0f32; len * len];
            let queries = Mat::strided(&q[head * d..], len, d, q_width);
            let keys = Mat::strided(&k[config.kv_head(head) * d..], len, d, k_width);
            let dst = MatMut::new(&mut scores, len, len);
            gemm(dst, queries, keys.t(), 1.0, false, false);
            scores
        };
        let squares = x.chunks_exact(config.hidden_size);
        let squares = squares.map(|row| row.iter().map(|v| v * v).sum::<f32>());
        let mut row = Self {
            len,
            weight: squares.map(|s| 1.0 / s.max(f32::MIN_POSITIVE)).collect(),
            scores: (0..config.num_attention_heads).map(of_head).collect(),
            shares: Vec::new(),
            values,
        };
        let scale = 1.0 / (d as f64).sqrt();
        let heads = 0..config.num_attention_heads;
        row.shares = heads.map(|head| row.softmax(&[head], &[scale])).collect();
        row
    }

    /// `softmax(sum_i scale_i S_i)` of each row, zero above the diagonal.
    fn softmax(&self, group: &[usize], scales: &[f64]) -> Vec<f32> {
        let mut out = vec![0f32; self.len * self.len];
        for (i, out) in out.chunks_exact_mut(self.len).enumerate() {
            let out = &mut out[..=i];
            for (&head, &scale) in group.iter().zip(scales) {
                let scores = &self.scores[head][i * self.len..][..=i];
                let pairs = out.iter_mut().zip(scores);
                pairs.for_each(|(sum, s)| *sum += scale as f32 * s);
            }
            let max = out.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
            out.iter_mut().for_each(|s| *s = (*s - max).exp());
            let inverse = 1.0 / out.iter().sum::<f32>();
            out.iter_mut().for_each(|s| *s *= inverse);
        }
        out
    }

    fn divergence(&self, group: &[usize], scales: &[f64]) -> Divergence {
        let n = group.len();
        let merged = self.softmax(group, scales);
        let mut sum = Divergence::zero(n);
        for i in 0..self.len {
            let row = i * self.len..i * self.len + i + 1;
            let p = &merged[row.clone()];
            let mut mean = vec![0f64; n];
            let mut square = vec![vec![0f64; n]; n];
            let mut wanted = vec![0f64; n];
            for (j, &p) in row.clone().zip(p) {
                let target = group.iter().map(|&h| f64::from(self.shares[h][j]));
                let target = target.sum::<f64>() / n as f64;
                let p = f64::from(p);
                if target > 0.0 {
                    sum.nats += target * (target.ln() - p.max(f64::MIN_POSITIVE).ln());
                }
                for a in 0..n {
                    let score = f64::from(self.scores[group[a]][j]);
                    mean[a] += p * score;
                    wanted[a] += target * score;
                    for b in 0..=a {
                        square[a][b] += p * score * f64::from(self.scores[group[b]][j]);
                    }
                }
            }
            for a in 0..n {
                sum.slope[a] += mean[a] - wanted[a];
                for b in 0..=a {
                    let covariance = square[a][b] - mean[a] * mean[b];
                    sum.curvature[a][b] += covariance;
                    if a != b {
                        sum.curvature[b][a] += covariance;
                    }
                }
            }
        }
        sum
    }
}

/// `KL(mean || softmax)` with its first and second derivatives by the factors of the scores.
struct Divergence {
    nats: f64,
    slope: Vec<f64>,
    curvature: Vec<Vec<f64>>,
}

impl Divergence {
    fn zero(n: usize) -> Self {
        Self {
            nats: 0.0,
            slope: vec![0.0; n],
            curvature: vec![vec![0.0; n]; n],
        }
    }

    fn plus(mut self, other: Self) -> Self {
        self.nats += other.nats;
        let slopes = self.slope.iter_mut().zip(&other.slope);
        slopes.for_each(|(a, b)| *a += b);
        let mine = self.curvature.iter_mut().flatten();
        let pairs = mine.zip(other.curvature.iter().flatten());
        pairs.for_each(|(a, b)| *a += b);
        self
    }
}

/// `A x = b` of a small symmetric positive matrix by elimination, with a ridge that keeps it
/// positive; none where it is not.
fn solve(mut a: Vec<Vec<f64>>, b: &[f64]) -> Option<Vec<f64>> {
    let n = b.len();
    let mut x = b.to_vec();
    let trace: f64 = (0..n).map(|i| a[i][i]).sum();
    (0..n).for_each(|i| a[i][i] += 1e-9 * trace);
    for i in 0..n {
        let pivot = a[i][i];
        if pivot.is_nan() || pivot <= 0.0 {
            return None;
        }
        for j in i + 1..n {
            let factor = a[j][i] / pivot;
            for k in i..n {
                a[j][k] -= factor * a[i][k];
            }
            x[j] -= factor * x[i];
        }
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|j| a[i][j] * x[j]).sum();
        x[i] = (x[i] - known) / a[i][i];
    }
    Some(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_system_is_solved() {
        let a = vec![
            vec![4.0, 1.0, 0.5],
            vec![1.0, 3.0, 0.25],
            vec![0.5, 0.25, 2.0],
        ];
        let x = solve(a.clone(), &[1.0, -2.0, 0.5]).unwrap();
        for (row, b) in a.iter().zip([1.0, -2.0, 0.5]) {
            let sum: f64 = row.iter().zip(&x).map(|(a, x)| a * x).sum();
            // The ridge moves the result by about a billionth.
            assert!((sum - b).abs() < 1e-7, "{x:?}");
        }
        assert!(solve(vec![vec![0.0]], &[1.0]).is_none());
    }

    fn config() -> LlamaConfig {
        let json = r#"{"hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 2, "vocab_size": 8,
            "rms_norm_eps": 1e-5, "max_position_embeddings": 16}"#;
        let config: LlamaConfig = serde_json::from_str(json).unwrap();
        config.normalize().unwrap()
    }

    /// Numbers in [-1, 1).
    fn numbers(seed: u64, count: usize) -> Vec<f32> {
        let mut rng = crate::Rng::new(seed, "calibration");
        (0..count)
            .map(|_| (2.0 * rng.uniform() - 1.0) as f32)
            .collect()
    }

    fn row(config: &LlamaConfig, q: &[f32], k: &[f32]) -> Row {
        Row::new(config, [q, k, &numbers(3, 24)], numbers(4, 24))
    }

    fn block(config: &LlamaConfig, row: Row) -> Block<'_> {
        Block {
            config,
            tokens: row.len,
            rows: vec![row],
            output: numbers(5, 16),
        }
    }

    #[test]
    fn derivatives_are_those_of_the_divergence() {
        let config = config();
        let queries: Vec<f32> = numbers(1, 24).iter().map(|v| v * 3.0).collect();
        let row = row(&config, &queries, &numbers(2, 24));
        let at = |a: f64, b: f64| row.divergence(&[0, 1], &[a, b]);
        let here = at(0.4, -0.2);
        let eps = 1e-3;
        let slope = (at(0.4 + eps, -0.2).nats - at(0.4 - eps, -0.2).nats) / (2.0 * eps);
        // Scores and softmaxes are f32, and the difference's own error is of the order of eps².
        assert!(
            (slope - here.slope[0]).abs() < 1e-3,
            "{slope} {:?}",
            here.slope
        );
        let curvature = (at(0.4, -0.2 + eps).slope[0] - at(0.4, -0.2 - eps).slope[0]) / (2.0 * eps);
        assert!(
            (curvature - here.curvature[0][1]).abs() < 1e-3,
            "{curvature}"
        );
    }

    /// Two heads with the same scores: half of each is the same softmax, and nothing changes.
    #[test]
    fn heads_that_agree_are_merged_without_an_error() {
        let config = config();
        let twice = |v: Vec<f32>| -> Vec<f32> {
            let pairs = v.chunks_exact(2);
            pairs
                .flat_map(|pair| [pair[0], pair[1], pair[0], pair[1]])
                .collect()
        };
        let row = row(&config, &twice(numbers(1, 12)), &twice(numbers(2, 12)));
        let block = block(&config, row);
        let scales = block.fit(&[0, 1]);
        let own = 1.0 / 2f64.sqrt();
        // Only the sum of the two matters; the ridge decides about the rest.
        assert!((scales[0] + scales[1] - own).abs() < 1e-4, "{scales:?}");
        let error = |scales: Vec<f64>| block.merged(&[(vec![0, 1], scales)]).error([0].into_iter());
        // What f32 leaves of it.
        assert!(error(scales) < 1e-8);
        assert!(
            error(vec![own, own]) > 1e-4,
            "twice the scores are another softmax"
        );
    }

    /// Leaving out all heads changes the block's output by all of it.
    #[test]
    fn heads_left_out_add_up_to_the_whole_output() {
        let config = config();
        let row = row(&config, &numbers(1, 24), &numbers(2, 24));
        let block = block(&config, row);
        let all = block.left_out();
        let row = &block.rows[0];
        let whole = (0..2).map(|head| (head, row.shares[head].clone()));
        let output = block.through_output(row, whole);
        let squares: f64 = output.iter().map(|v| f64::from(*v).powi(2)).sum();
        let error = all.error([0, 1].into_iter());
        // Both are sums of f32 products.
        assert!(
            (error - squares / 6.0).abs() < 1e-4 * error,
            "{error} {squares}"
        );
        assert!(all.error([0].into_iter()) > 0.0);
    }
}
