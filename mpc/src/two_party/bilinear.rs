//! Products of shared values, and of E1's private updates with shared values.
//!
//! `x·y = x_0·y_0 + x_1·y_1 + x_0·y_1 + x_1·y_0`: each party has a term of its own, and the two
//! cross terms are [`marill_two_party::combinations`], one with E0 choosing by the bits of its
//! share and one with E1. Attention and scalings take whole vectors under one scalar, so that a
//! transfer serves as many products as a vector is wide.

use marill_net::Channel;
use marill_numeric::{
    RingTensor,
    fixed::low_mask,
    ring::{self, matmul_transposed},
};
use marill_ot::Source;
use marill_two_party::{Combination, Combine, Party};

use crate::{
    engine::Attention,
    error::ProtocolResult,
    kernels::{attention_scores, attention_values, head_scalar_index, ragged},
    spec::MapSpec,
    two_party::{FactorBits, Gates},
    weights::Lora,
};

/// Elements of a vector under one scalar; a pad of more would be no cheaper.
const BLOCK: usize = 128;

/// Pads that a round holds at most, in words: what bounds memory, at 32 MiB.
const ROUND_WORDS: usize = 1 << 22;

/// Scalars of one party and vectors of the other, whose combination is wanted.
struct Term {
    shape: Combination,
    own: Vec<u64>,
}

/// Terms of one ring, gathered into rounds that fit memory.
struct Rounds<'a, C, S> {
    gates: &'a mut Gates<C, S>,
    bits: u32,
    chooser_bits: u32,
    signed: bool,
    terms: Vec<Term>,
    /// Where each term's result goes.
    places: Vec<usize>,
    words: usize,
    out: Vec<u64>,
}

impl<'a, C: Channel, S: Source> Rounds<'a, C, S> {
    fn new(gates: &'a mut Gates<C, S>, bits: u32, out: Vec<u64>) -> Self {
        Self {
            gates,
            bits,
            chooser_bits: bits,
            signed: false,
            terms: Vec::new(),
            places: Vec::new(),
            words: 0,
            out,
        }
    }

    /// Scalars are signed, of so many bits.
    fn of_signed_scalars(mut self, bits: u32) -> Self {
        self.chooser_bits = bits;
        self.signed = true;
        self
    }

    /// Adds `Σ_k scalar_k · vector_k` to the result from `place` on; each party gives what it has.
    fn term(
        &mut self,
        chooser: Party,
        width: usize,
        scalars: &[u64],
        vectors: &[u64],
        place: usize,
    ) -> ProtocolResult<()> {
        let chooses = self.gates.party() == chooser;
        let count = scalars.len();
        let mask = low_mask(self.chooser_bits);
        // A long sum is cut into sums that fit a round.
        let most = (ROUND_WORDS / (2 * self.chooser_bits as usize * width)).max(1);
        for first in (0..count).step_by(most) {
            let count = (count - first).min(most);
            let own = if chooses {
                scalars[first..][..count].iter().map(|v| v & mask).collect()
            } else {
                vectors[first * width..][..count * width].to_vec()
            };
            let shape = Combination {
                chooser,
                bits: self.bits,
                chooser_bits: self.chooser_bits,
                signed: self.signed,
                count,
                width,
            };
            if self.words > 0 && self.words + shape.pad_words() > ROUND_WORDS {
                self.flush()?;
            }
            self.words += shape.pad_words();
            self.terms.push(Term { shape, own });
            self.places.push(place);
        }
        Ok(())
    }

    /// Both cross terms of a product of shares: scalars and vectors are this party's shares.
    fn cross(
        &mut self,
        width: usize,
        scalars: &[u64],
        vectors: &[u64],
        place: usize,
    ) -> ProtocolResult<()> {
        self.term(Party::E0, width, scalars, vectors, place)?;
        self.term(Party::E1, width, scalars, vectors, place)
    }

    fn flush(&mut self) -> ProtocolResult<()> {
        let terms = std::mem::take(&mut self.terms);
        let list: Vec<Combine<'_>> = terms
            .iter()
            .map(|term| Combine {
                shape: term.shape,
                own: &term.own,
            })
            .collect();
        if !list.is_empty() {
            // One round for all terms that fit.
            let parts = self.gates.combine(&list)?;
            for (place, part) in self.places.drain(..).zip(parts) {
                let out = self.out[place..].iter_mut().zip(part);
                out.for_each(|(out, part)| *out = out.wrapping_add(part));
            }
        }
        self.words = 0;
        Ok(())
    }

    fn finish(mut self) -> ProtocolResult<Vec<u64>> {
        self.flush()?;
        Ok(self.out)
    }
}

/// Blocks of at most [`BLOCK`] of so many elements, as first and width.
fn blocks(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n)
        .step_by(BLOCK)
        .map(move |first| (first, (n - first).min(BLOCK)))
}

/// `x·y`, element by element, in the narrower ring.
pub(super) fn mul<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    x: &RingTensor,
    y: &RingTensor,
) -> ProtocolResult<RingTensor> {
    let bits = x.bits.min(y.bits);
    // x_0·y_0 + x_1·y_1 locally, x_0·y_1 and x_1·y_0 by transfers.
    let data = gates.product(bits, &x.data, &y.data)?;
    Ok(RingTensor::new(x.rows, x.cols, bits, data))
}

/// The sum of squares of each row, modulo `2^64`: twice the cross terms.
pub(super) fn square_sum<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    x: &RingTensor,
) -> ProtocolResult<RingTensor> {
    let bits = 63;
    let zeros = vec![0; x.rows];
    let mut rounds = Rounds::new(gates, bits, zeros);
    for i in 0..x.rows {
        rounds.term(Party::E1, 1, x.row(i), x.row(i), i)?;
    }
    let cross = rounds.finish()?;
    // Σ (x_0 + x_1)² = Σ x_0² + Σ x_1² + 2·Σ x_0·x_1.
    let sums = (0..x.rows).map(|i| ring::dot(x.row(i), x.row(i)).wrapping_add(cross[i] << 1));
    Ok(RingTensor::new(x.rows, 1, x.bits, sums.collect()))
}

/// Multiplies row `i` by `scale[i]`.
pub(super) fn scale_rows<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    x: &RingTensor,
    scale: &RingTensor,
) -> ProtocolResult<RingTensor> {
    let bits = x.bits.min(scale.bits);
    let own = |(i, v): (usize, &u64)| v.wrapping_mul(scale.data[i / x.cols]);
    // x_b·s_b is this party's own.
    let own = x.data.iter().enumerate().map(own).collect();
    let mut rounds = Rounds::new(gates, bits, own);
    for i in 0..x.rows {
        for (first, width) in blocks(x.cols) {
            let place = i * x.cols + first;
            rounds.cross(width, &scale.data[i..=i], &x.data[place..][..width], place)?;
        }
    }
    Ok(RingTensor::new(x.rows, x.cols, bits, rounds.finish()?))
}

/// Multiplies each head's columns by its group's and row's scalar.
pub(super) fn scale_heads<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    x: &RingTensor,
    scale: &RingTensor,
    attention: &Attention<'_>,
) -> ProtocolResult<RingTensor> {
    let bits = x.bits.min(scale.bits);
    let scalar = head_scalar_index(attention);
    let own = x.data.iter().enumerate();
    // x_b·s_b is this party's own.
    let own = own.map(|(i, v)| v.wrapping_mul(scale.data[scalar(i)]));
    let mut rounds = Rounds::new(gates, bits, own.collect());
    for i in 0..x.rows {
        for head in 0..attention.num_attention_heads {
            let start = i * x.cols + head * attention.head_dim;
            let at = scalar(start);
            for (first, width) in blocks(attention.head_dim) {
                let place = start + first;
                rounds.cross(
                    width,
                    &scale.data[at..=at],
                    &x.data[place..][..width],
                    place,
                )?;
            }
        }
    }
    Ok(RingTensor::new(x.rows, x.cols, bits, rounds.finish()?))
}

/// A matrix's rows as columns.
fn transposed(data: &[u64], cols: usize) -> Vec<u64> {
    let rows = data.len() / cols.max(1);
    let mut out = vec![0; data.len()];
    for (i, row) in data.chunks_exact(cols).enumerate() {
        for (j, v) in row.iter().enumerate() {
            out[j * rows + i] = *v;
        }
    }
    out
}

/// `Σ_{heads of the group} q · k`: the query's elements choose, over a block of keys at a time.
pub(super) fn scores<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    queries: &RingTensor,
    keys: &RingTensor,
    a: &Attention<'_>,
) -> ProtocolResult<RingTensor> {
    let bits = queries.bits.min(keys.bits);
    let d = a.head_dim;
    let all = keys.rows;
    let by_element = transposed(&keys.data, keys.cols);
    let own = attention_scores(&queries.data, &keys.data, a);
    let total = own.len();
    let mut rounds = Rounds::new(gates, bits, own);
    let mut place = 0;
    for group in a.groups {
        for i in 0..a.rows {
            let scalars: Vec<u64> = group
                .iter()
                .flat_map(|head| &queries.row(i)[head * d..][..d])
                .copied()
                .collect();
            // q_0·k_1 and q_1·k_0, a block of keys under each element of the query.
            for (first, width) in blocks(a.keys(i)) {
                let elements = group
                    .iter()
                    .flat_map(|head| a.kv_head(*head) * d..(a.kv_head(*head) + 1) * d);
                let vectors: Vec<u64> = elements
                    .flat_map(|element| &by_element[element * all + first..][..width])
                    .copied()
                    .collect();
                rounds.cross(width, &scalars, &vectors, place + first)?;
            }
            place += a.keys(i);
        }
    }
    Ok(RingTensor::new(1, total, bits, rounds.finish()?))
}

/// `Σ_key weight · value`: the weights choose, once for all heads of a group that share values.
pub(super) fn weighted_values<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    weights: &RingTensor,
    values: &RingTensor,
    a: &Attention<'_>,
) -> ProtocolResult<RingTensor> {
    let bits = weights.bits.min(values.bits);
    let d = a.head_dim;
    let cols = a.num_attention_heads * d;
    let mut out = attention_values(&weights.data, &values.data, a);
    // A row of results per group, query row and key-value head of the group.
    let mut targets = Vec::new();
    let mut place = 0;
    let zeros: usize = a.groups.iter().map(|group| kv_heads(a, group).len()).sum();
    let zeros = vec![0; zeros * a.rows * d];
    let mut rounds = Rounds::new(gates, bits, zeros);
    let lens = a.lens();
    let mut rows = ragged(&weights.data, &lens);
    for group in a.groups {
        for i in 0..a.rows {
            let scalars = rows.next().unwrap_or(&[]);
            for kv in kv_heads(a, group) {
                // w_0·v_1 and w_1·v_0, a value's columns under each weight.
                for (first, width) in blocks(d) {
                    let vectors: Vec<u64> = (0..scalars.len())
                        .flat_map(|key| &values.row(key)[kv * d + first..][..width])
                        .copied()
                        .collect();
                    rounds.cross(width, scalars, &vectors, place + first)?;
                }
                let heads = group.iter().filter(|head| a.kv_head(**head) == kv);
                targets.extend(heads.map(|head| (i * cols + head * d, place)));
                place += d;
            }
        }
    }
    let sums = rounds.finish()?;
    // Heads of a group that share values have the same sums.
    for (target, place) in targets {
        let out = out[target..][..d].iter_mut().zip(&sums[place..]);
        out.for_each(|(out, sum)| *out = out.wrapping_add(*sum));
    }
    Ok(RingTensor::new(a.rows, cols, bits, out))
}

/// The key-value heads of a group, each once.
fn kv_heads(a: &Attention<'_>, group: &[usize]) -> Vec<usize> {
    let mut heads: Vec<usize> = group.iter().map(|head| a.kv_head(*head)).collect();
    heads.sort_unstable();
    heads.dedup();
    heads
}

/// `B·(A·x)` of E1's factors, modulo the ring of `x`: `A` at E1 with E0's share of `x`, then `B`
/// with E0's share of the product; E1 multiplies its own shares by itself.
pub(super) fn lora_update<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    map: &MapSpec,
    factors: Option<&Lora>,
    bits: FactorBits,
    x: &RingTensor,
) -> ProtocolResult<RingTensor> {
    let a = factors.map(|lora| lora.a.as_slice());
    let b = factors.map(|lora| lora.b.as_slice());
    // u = A·x: E0 holds A·x_0 less a mask, E1 the mask and A·x_1.
    let inner = factor(gates, a, map.rank, bits.a, x)?;
    // B·u in the same way.
    factor(gates, b, map.rows, bits.b, &inner)
}

/// `x · Mᵀ` with a matrix `[out, cols]` of E1's, elements of `bits` bits with their sign.
fn factor<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    matrix: Option<&[u64]>,
    out: usize,
    bits: u32,
    x: &RingTensor,
) -> ProtocolResult<RingTensor> {
    let cols = x.cols;
    let zeros = vec![0; out * x.rows];
    // E0 has no matrix; what it passes as scalars has their number.
    let none = vec![0; cols];
    let columns = transposed(&x.data, cols);
    let mut rounds = Rounds::new(gates, x.bits, zeros).of_signed_scalars(bits);
    for (first, width) in blocks(x.rows) {
        let vectors: Vec<u64> = (0..cols)
            .flat_map(|j| &columns[j * x.rows + first..][..width])
            .copied()
            .collect();
        for o in 0..out {
            let scalars = matrix.map_or(none.as_slice(), |m| &m[o * cols..][..cols]);
            rounds.term(Party::E1, width, scalars, &vectors, o * x.rows + first)?;
        }
    }
    // Results are by row of the matrix.
    let mut data = transposed(&rounds.finish()?, x.rows);
    if let Some(matrix) = matrix {
        let own = matmul_transposed(&x.data, matrix, cols);
        let sums = data.iter_mut().zip(own);
        sums.for_each(|(sum, own)| *sum = sum.wrapping_add(own));
    }
    Ok(RingTensor::new(x.rows, out, x.bits, data))
}
