//! Causal attention of new rows over cached ones that lie in several pieces, without a gradient:
//! what many sequences have in common is stored once.

use marill_numeric::Approximations;
use rayon::prelude::*;

use super::{Mat, MatMut, attention::approximate, gemm};
use crate::LayerHeads;

/// Consecutive positions: keys and values, each `[rows, KV * D]`.
#[derive(Clone, Copy)]
pub struct Positions<'a> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
}

/// Queries of one sequence: the last `q_len` of the positions that the pieces hold, in order.
pub struct Queries<'a> {
    pub q_len: usize,
    pub pieces: Vec<Positions<'a>>,
}

/// What is the same for all sequences of a layer.
pub struct CachedAttention<'a> {
    pub heads: &'a LayerHeads,
    /// What stands in for softmax.
    pub approx: Approximations,
    pub head_dim: usize,
    /// Widths of a row of queries (`H * D`) and of keys (`KV * D`).
    pub q_width: usize,
    pub kv_width: usize,
}

impl CachedAttention<'_> {
    /// [`super::attention()`] for queries `q [N, H * D]` of several sequences, which follow each
    /// other without gaps: `[N, H * D]`. Sums over keys run piece by piece, so another cut of the
    /// same positions differs in the last bits of f32.
    pub fn forward(&self, q: &[f32], sequences: &[Queries<'_>]) -> Vec<f32> {
        let mut out = vec![0f32; q.len()];
        let mut rest = &mut out[..];
        let mut from = q;
        let mut parts = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            let (head, tail) = rest.split_at_mut(sequence.q_len * self.q_width);
            let (rows, later) = from.split_at(sequence.q_len * self.q_width);
            parts.push((head, rows, sequence));
            rest = tail;
            from = later;
        }
        parts
            .into_par_iter()
            .for_each(|(out, q, sequence)| self.sequence(q, sequence, out));
        out
    }

    fn sequence(&self, q: &[f32], sequence: &Queries<'_>, out: &mut [f32]) {
        let q_len = sequence.q_len;
        let rows = |piece: &Positions<'_>| piece.keys.len() / self.kv_width;
        let k_len = sequence.pieces.iter().map(rows).sum::<usize>();
        let mut p = vec![0f32; q_len * k_len];
        for group in &self.heads.groups {
            for (nth, &head) in group.iter().enumerate() {
                let scale = self.heads.scales[head] as f32;
                let q = Mat::strided(
                    &q[head * self.head_dim..],
                    q_len,
                    self.head_dim,
                    self.q_width,
                );
                let mut column = 0;
                for piece in &sequence.pieces {
                    let len = rows(piece);
                    let dst = MatMut::strided(&mut p[column..], q_len, len, k_len);
                    let keys = self.kv_head(piece.keys, len, head);
                    gemm(dst, q, keys.t(), scale, nth > 0, false);
                    column += len;
                }
            }
            self.softmax(&mut p, q_len, k_len);
            for &head in group {
                let mut column = 0;
                for piece in &sequence.pieces {
                    let len = rows(piece);
                    let dst = MatMut::strided(
                        &mut out[head * self.head_dim..],
                        q_len,
                        self.head_dim,
                        self.q_width,
                    );
                    let weights = Mat::strided(&p[column..], q_len, len, k_len);
                    let values = self.kv_head(piece.values, len, head);
                    gemm(dst, weights, values, 1.0, column > 0, false);
                    column += len;
                }
            }
        }
    }

    /// Softmax of every row over the positions up to its own, of its window where there is one; the
    /// others get no weight.
    fn softmax(&self, p: &mut [f32], q_len: usize, k_len: usize) {
        for (row, scores) in p.chunks_exact_mut(k_len).enumerate() {
            let seen = self.heads.seen(k_len - q_len + row + 1);
            scores[..seen.start].fill(0.0);
            scores[seen.end..].fill(0.0);
            let scores = &mut scores[seen];
            if self.approx.softmax.is_some() {
                approximate(&self.approx, scores, None, None);
                continue;
            }
            let max = scores.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
            scores.iter_mut().for_each(|s| *s = (*s - max).exp());
            let inverse = 1.0 / scores.iter().sum::<f32>();
            scores.iter_mut().for_each(|s| *s *= inverse);
        }
    }

    fn kv_head<'a>(&self, rows: &'a [f32], len: usize, head: usize) -> Mat<'a> {
        let at = head / (self.q_width / self.kv_width) * self.head_dim;
        Mat::strided(&rows[at..], len, self.head_dim, self.kv_width)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::{Device, Tensor};

    use super::*;
    use crate::ops::{Segment, attention};

    fn values(count: usize, step: u32) -> Vec<f32> {
        let value = |i: u32| (i.wrapping_mul(step) >> 8) as f32 / 4e6 - 2.0;
        (0..count as u32).map(value).collect()
    }

    #[test]
    fn pieces_of_a_sequence_attend_as_the_whole() {
        compare(Approximations::default(), None);
        for approx in marill_numeric::approx::EACH {
            compare(approx, None);
        }
    }

    #[test]
    fn pieces_of_a_sequence_keep_to_a_window() {
        // Windows that end inside a piece, at its edge, and beyond the sequence.
        for window in [1, 3, 4, 20] {
            compare(Approximations::default(), Some(window));
        }
    }

    fn compare(approx: Approximations, window: Option<usize>) {
        let heads = 6;
        let kv = 2;
        let head_dim = 8;
        let q_width = heads * head_dim;
        let kv_width = kv * head_dim;
        let q = values(5 * q_width, 2_654_435_761);
        let k = values(9 * kv_width, 2_246_822_519);
        let v = values(9 * kv_width, 3_266_489_917);
        // One head is left out, and each has a factor of its own.
        let layer = LayerHeads {
            groups: vec![vec![0, 3], vec![1], vec![2, 5]],
            scales: vec![0.3, 0.2, -0.1, 0.25, 0.0, 0.4],
            own_factor: 1.0,
            window,
        };
        let tensor = |values: &[f32], width: usize| {
            Tensor::from_slice(values, (values.len() / width, width), &Device::Cpu).unwrap()
        };
        let segment = Segment {
            q_start: 0,
            q_len: 5,
            k_start: 0,
            k_len: 9,
        };
        let expected = attention(
            &tensor(&q, q_width),
            &tensor(&k, kv_width),
            &tensor(&v, kv_width),
            &Arc::new(vec![segment]),
            &Arc::new(layer.clone()),
            head_dim,
            0.0,
            &approx,
            None,
        );
        let expected: Vec<f32> = expected.unwrap().flatten_all().unwrap().to_vec1().unwrap();
        let cached = CachedAttention {
            heads: &layer,
            approx,
            head_dim,
            q_width,
            kv_width,
        };
        for cuts in [vec![9], vec![1, 9], vec![3, 4, 9], vec![7, 9]] {
            let mut start = 0;
            let pieces = cuts.iter().map(|&end| {
                let rows = start * kv_width..end * kv_width;
                start = end;
                Positions {
                    keys: &k[rows.clone()],
                    values: &v[rows],
                }
            });
            let sequence = Queries {
                q_len: 5,
                pieces: pieces.collect(),
            };
            let found = cached.forward(&q, &[sequence]);
            for (a, b) in found.iter().zip(&expected) {
                // Weighted means of numbers below 2, known to a few units of the last bit.
                assert!((a - b).abs() < 1e-5, "{cuts:?}: {a} against {b}");
            }
        }
    }
}
