//! Causal attention of new rows over cached ones that lie in several pieces, without a gradient:
//! what many sequences have in common is stored once.

use rayon::prelude::*;

use super::{Mat, MatMut, gemm};

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
    /// Query heads that share a softmax.
    pub groups: &'a [Vec<usize>],
    pub head_dim: usize,
    /// Widths of a row of queries (`H * D`) and of keys (`KV * D`).
    pub q_width: usize,
    pub kv_width: usize,
    pub scale: f32,
}

impl CachedAttention<'_> {
    /// [`super::attention`] for queries `q [N, H * D]` of several sequences, which follow each
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
        for group in self.groups {
            for (nth, &head) in group.iter().enumerate() {
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
                    gemm(dst, q, keys.t(), self.scale, nth > 0, false);
                    column += len;
                }
            }
            softmax(&mut p, q_len, k_len);
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

    fn kv_head<'a>(&self, rows: &'a [f32], len: usize, head: usize) -> Mat<'a> {
        let at = head / (self.q_width / self.kv_width) * self.head_dim;
        Mat::strided(&rows[at..], len, self.head_dim, self.kv_width)
    }
}

/// Softmax of every row over the positions up to its own; the later ones get no weight.
fn softmax(p: &mut [f32], q_len: usize, k_len: usize) {
    for (row, scores) in p.chunks_exact_mut(k_len).enumerate() {
        let (scores, later) = scores.split_at_mut(k_len - q_len + row + 1);
        later.fill(0.0);
        let max = scores.iter().fold(f32::NEG_INFINITY, |m, &s| m.max(s));
        scores.iter_mut().for_each(|s| *s = (*s - max).exp());
        let inverse = 1.0 / scores.iter().sum::<f32>();
        scores.iter_mut().for_each(|s| *s *= inverse);
    }
}
