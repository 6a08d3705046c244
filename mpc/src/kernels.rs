//! Attention and rotation over rows of ring elements, for whoever holds them: a party its share,
//! the twin the values.

use marill_numeric::ring;

use crate::{engine::Attention, weights::Rope};

/// The operations that are the same for every engine whose shares and wires are tensors.
macro_rules! ring_tensor_shares {
    () => {
        type Share = RingTensor;

        fn rows(&self, share: &RingTensor) -> usize {
            share.rows
        }

        fn cols(&self, share: &RingTensor) -> usize {
            share.cols
        }

        fn add(&mut self, x: &RingTensor, y: &RingTensor) -> RingTensor {
            x + y
        }

        fn sub(&mut self, x: &RingTensor, y: &RingTensor) -> RingTensor {
            x - y
        }

        fn scale_constant(&mut self, x: &RingTensor, constant: u64) -> RingTensor {
            x.scaled(constant)
        }

        fn reshape(&mut self, x: &RingTensor, cols: usize) -> RingTensor {
            x.clone().reshaped(cols)
        }

        fn shift_left(&mut self, x: &RingTensor, bits: u32) -> RingTensor {
            x.shifted_left(bits)
        }

        fn concat(&mut self, parts: &[&RingTensor]) -> RingTensor {
            RingTensor::side_by_side(parts)
        }

        fn columns(&mut self, x: &RingTensor, first: usize, count: usize) -> RingTensor {
            x.columns(first, count)
        }

        fn last_row(&mut self, x: &RingTensor) -> RingTensor {
            x.last_row()
        }

        fn ragged_rsub(
            &mut self,
            x: &RingTensor,
            scalar: &RingTensor,
            lens: &[usize],
        ) -> RingTensor {
            let rows = crate::kernels::ragged(&x.data, lens).zip(&scalar.data);
            let data = rows.flat_map(|(row, s)| row.iter().map(move |v| s.wrapping_sub(*v)));
            RingTensor::new(1, x.data.len(), x.bits.min(scalar.bits), data.collect())
        }

        fn ragged_sum(&mut self, x: &RingTensor, lens: &[usize]) -> RingTensor {
            let rows = crate::kernels::ragged(&x.data, lens);
            let data = rows.map(marill_numeric::ring::sum);
            RingTensor::new(1, lens.len(), x.bits, data.collect())
        }
    };
}
pub(crate) use ring_tensor_shares;

/// The same for an engine whose wires are shares like any other.
macro_rules! ring_tensor_wires {
    () => {
        type Wire = RingTensor;

        fn share(&mut self, wire: &RingTensor) -> RingTensor {
            wire.clone()
        }

        fn wire_columns(&mut self, x: &RingTensor, first: usize, count: usize) -> RingTensor {
            x.columns(first, count)
        }

        fn wire_last_row(&mut self, x: &RingTensor) -> RingTensor {
            x.last_row()
        }

        fn append(&mut self, cache: &mut Option<RingTensor>, rows: &RingTensor) {
            match cache {
                None => *cache = Some(rows.clone()),
                Some(cache) => cache.append(rows),
            }
        }
    };
}
pub(crate) use ring_tensor_wires;

/// Rotates every head of every row; shared by all engines, since it is linear.
pub(crate) fn rotate_rows(
    data: &[u64],
    cols: usize,
    rope: &Rope,
    first_position: usize,
) -> Vec<u64> {
    let half = rope.half;
    let mut out = vec![0u64; data.len()];
    for (i, (row, out)) in data
        .chunks_exact(cols)
        .zip(out.chunks_exact_mut(cols))
        .enumerate()
    {
        let at = (first_position + i) * half;
        for (head, out) in row
            .chunks_exact(2 * half)
            .zip(out.chunks_exact_mut(2 * half))
        {
            for j in 0..half {
                // (a, b) ← (a·cos - b·sin, b·cos + a·sin).
                let cos = rope.cos[at + j] as u64;
                let sin = rope.sin[at + j] as u64;
                let a = head[j];
                let b = head[j + half];
                out[j] = a.wrapping_mul(cos).wrapping_sub(b.wrapping_mul(sin));
                out[j + half] = b.wrapping_mul(cos).wrapping_add(a.wrapping_mul(sin));
            }
        }
    }
    out
}

/// Cuts a flat vector into its ragged rows.
pub(crate) fn ragged<'a>(data: &'a [u64], lens: &'a [usize]) -> impl Iterator<Item = &'a [u64]> {
    let mut rest = data;
    lens.iter().map(move |&len| {
        let (row, tail) = rest.split_at(len);
        rest = tail;
        row
    })
}

/// `Σ_{heads of the group} q · k` for every group, row and key; linear in both, so any bilinear
/// pair works.
pub(crate) fn attention_scores(queries: &[u64], keys: &[u64], a: &Attention<'_>) -> Vec<u64> {
    let q_cols = a.num_attention_heads * a.head_dim;
    let k_cols = a.num_key_value_heads * a.head_dim;
    let d = a.head_dim;
    let mut out = Vec::with_capacity(a.lens().iter().sum());
    for group in a.groups {
        for i in 0..a.rows {
            let row = &queries[i * q_cols..][..q_cols];
            // A causal row sees the keys up to its own.
            for key in keys.chunks_exact(k_cols).take(a.keys(i)) {
                let sum = group.iter().fold(0u64, |sum, &head| {
                    sum.wrapping_add(ring::dot(
                        &row[head * d..][..d],
                        &key[a.kv_head(head) * d..][..d],
                    ))
                });
                out.push(sum);
            }
        }
    }
    out
}

/// `Σ_key weight · value`, every head with its group's weights.
pub(crate) fn attention_values(weights: &[u64], values: &[u64], a: &Attention<'_>) -> Vec<u64> {
    let q_cols = a.num_attention_heads * a.head_dim;
    let v_cols = a.num_key_value_heads * a.head_dim;
    let d = a.head_dim;
    let mut out = vec![0u64; a.rows * q_cols];
    let lens = a.lens();
    let mut rows = ragged(weights, &lens);
    for group in a.groups {
        for i in 0..a.rows {
            let Some(weights) = rows.next() else {
                return out;
            };
            for &head in group {
                let out = &mut out[i * q_cols + head * d..][..d];
                for (weight, value) in weights.iter().zip(values.chunks_exact(v_cols)) {
                    let value = &value[a.kv_head(head) * d..][..d];
                    ring::add_scaled_to(out, *weight, value);
                }
            }
        }
    }
    out
}

/// Adds `bias[key]` to the scores of the first keys.
pub(crate) fn with_key_bias(scores: &[u64], bias: &[u64], lens: &[usize]) -> Vec<u64> {
    let rows = ragged(scores, lens);
    rows.flat_map(|row| {
        row.iter()
            .enumerate()
            .map(|(j, s)| s.wrapping_add(bias.get(j).copied().unwrap_or(0)))
    })
    .collect()
}

/// Maps an element of `[rows, heads · d]` to its scalar in `[groups · rows]`.
pub(crate) fn head_scalar_index(a: &Attention<'_>) -> impl Fn(usize) -> usize {
    let mut group_of = vec![0; a.num_attention_heads];
    for (g, heads) in a.groups.iter().enumerate() {
        heads.iter().for_each(|&h| group_of[h] = g);
    }
    let d = a.head_dim;
    let rows = a.rows;
    let cols = a.num_attention_heads * a.head_dim;
    move |i| group_of[i % cols / d] * rows + i / cols
}
