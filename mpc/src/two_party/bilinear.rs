//! Products of shared values.
//!
//! `x·y = x_0·y_0 + x_1·y_1 + x_0·y_1 + x_1·y_0`: each party has a term of its own, and the two
//! cross terms are [`marill_two_party::combinations`], one with E0 choosing by the bits of its
//! share and one with E1. Attention and scalings take whole vectors under one scalar, so that a
//! transfer serves as many products as a vector is wide.

use marill_net::Channel;
use marill_numeric::{RingTensor, fixed::low_mask, ring};
use marill_ot::Source;
use marill_two_party::{Combination, Combine, Party};
use zeroize::Zeroizing;

use crate::{
    engine::Attention,
    error::ProtocolResult,
    kernels::{attention_scores, attention_values, head_scalar_index, ragged},
    two_party::{
        Gates, Products,
        lattice::{Shape, Term as LatticeTerm},
    },
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
pub(super) struct Rounds<'a, C, S> {
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
    pub(super) fn new(gates: &'a mut Gates<C, S>, bits: u32, out: Vec<u64>) -> Self {
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
    pub(super) fn of_signed_scalars(mut self, bits: u32) -> Self {
        self.chooser_bits = bits;
        self.signed = true;
        self
    }

    /// Adds `Σ_k scalar_k · vector_k` to the result from `place` on; each party gives what it has.
    pub(super) fn term(
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

    pub(super) fn finish(mut self) -> ProtocolResult<Vec<u64>> {
        self.flush()?;
        Ok(self.out)
    }
}

/// Blocks of at most [`BLOCK`] of so many elements, as first and width.
pub(super) fn blocks(n: usize) -> impl Iterator<Item = (usize, usize)> {
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
pub(super) fn transposed(data: &[u64], cols: usize) -> Vec<u64> {
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
    products: Products,
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
    let sizes = a.groups.iter().map(|group| [all, group.len() * d, a.rows]);
    let shapes = shared_shapes(bits, &sizes.collect::<Vec<_>>());
    let heads: usize = a.groups.iter().map(Vec::len).sum();
    let pairs = total / a.groups.len() * heads * d;
    if let Some(shapes) = chosen(products, shapes, 2 * pairs * transfer_bits(1, bits, bits)) {
        let data = score_products(queries, keys, a).add(gates, shapes, own)?;
        return Ok(RingTensor::new(1, total, bits, data));
    }
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

/// Scores as products of matrices: a group's keys are a matrix, its queries vectors, with its heads
/// side by side. A row has scores of all keys, of which the ones that it sees are taken.
pub(super) fn score_products(
    queries: &RingTensor,
    keys: &RingTensor,
    a: &Attention<'_>,
) -> SharedProducts {
    let d = a.head_dim;
    let parts = a.groups.iter().map(|group| {
        let side = |row: &[u64], head: usize| row[head * d..][..d].to_vec();
        let matrix = (0..keys.rows).flat_map(|key| {
            let heads = group.iter().map(|head| a.kv_head(*head));
            heads.flat_map(move |head| side(keys.row(key), head))
        });
        let vectors =
            (0..a.rows).flat_map(|i| group.iter().flat_map(move |h| side(queries.row(i), *h)));
        SharedPart {
            matrix: matrix.collect(),
            vectors: vectors.collect(),
        }
    });
    let parts = parts.collect();
    let rows = (0..a.groups.len() * a.rows).map(|row| row * keys.rows);
    let seen = rows
        .zip(a.lens())
        .flat_map(|(first, len)| first..first + len);
    let places = seen.collect();
    SharedProducts { parts, places }
}

/// `Σ_key weight · value`: the weights choose, once for all heads of a group that share values.
pub(super) fn weighted_values<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    products: Products,
    weights: &RingTensor,
    values: &RingTensor,
    a: &Attention<'_>,
) -> ProtocolResult<RingTensor> {
    let bits = weights.bits.min(values.bits);
    let d = a.head_dim;
    let cols = a.num_attention_heads * d;
    let mut out = attention_values(&weights.data, &values.data, a);
    let sizes = a
        .groups
        .iter()
        .map(|group| [kv_heads(a, group).len() * d, values.rows, a.rows]);
    let shapes = shared_shapes(bits, &sizes.collect::<Vec<_>>());
    let columns: usize = a.groups.iter().map(|group| kv_heads(a, group).len()).sum();
    let pairs = weights.data.len() / a.groups.len() * columns;
    let transfers = 2 * pairs * transfer_bits(d, bits, bits);
    if let Some(shapes) = chosen(products, shapes, transfers) {
        let out = value_products(weights, values, a).add(gates, shapes, out)?;
        return Ok(RingTensor::new(a.rows, cols, bits, out));
    }
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

/// Weighted values as products of matrices: a group's values are a matrix with a row per column of
/// a head, its weights vectors, with zeros for keys that a row does not see.
pub(super) fn value_products(
    weights: &RingTensor,
    values: &RingTensor,
    a: &Attention<'_>,
) -> SharedProducts {
    let d = a.head_dim;
    let keys = values.rows;
    let by_column = transposed(&values.data, values.cols);
    let lens = a.lens();
    let mut rows = ragged(&weights.data, &lens);
    let mut parts = Vec::with_capacity(a.groups.len());
    let cols = a.num_attention_heads * d;
    let mut places = vec![0; a.rows * cols];
    let mut first = 0;
    for group in a.groups {
        let heads = kv_heads(a, group);
        let matrix = heads
            .iter()
            .flat_map(|kv| &by_column[kv * d * keys..][..d * keys])
            .copied()
            .collect();
        let mut vectors = vec![0; a.rows * keys];
        for vector in vectors.chunks_exact_mut(keys) {
            let row = rows.next().unwrap_or(&[]);
            vector[..row.len()].copy_from_slice(row);
        }
        let width = heads.len() * d;
        for head in group {
            let at = heads.iter().position(|kv| *kv == a.kv_head(*head));
            let at = at.expect("heads of the group") * d;
            for i in 0..a.rows {
                let place = first + i * width + at;
                let out = places[i * cols + head * d..][..d].iter_mut();
                out.zip(place..).for_each(|(out, place)| *out = place);
            }
        }
        first += a.rows * width;
        parts.push(SharedPart { matrix, vectors });
    }
    SharedProducts { parts, places }
}

/// The key-value heads of a group, each once.
pub(super) fn kv_heads(a: &Attention<'_>, group: &[usize]) -> Vec<usize> {
    let mut heads: Vec<usize> = group.iter().map(|head| a.kv_head(*head)).collect();
    heads.sort_unstable();
    heads.dedup();
    heads
}

pub(super) fn add_to(sums: &mut [u64], more: &[u64]) {
    let pairs = sums.iter_mut().zip(more);
    pairs.for_each(|(sum, more)| *sum = sum.wrapping_add(*more));
}

/// Bits in both directions of one scalar under which a vector travels, by transfers.
pub(super) fn transfer_bits(width: usize, bits: u32, chooser_bits: u32) -> usize {
    let fields: usize = (0..chooser_bits).map(|i| (bits - i) as usize).sum();
    width * fields + chooser_bits as usize
}

/// The shapes by which products are made; none where transfers take fewer bytes than `bits`.
pub(super) fn chosen(
    products: Products,
    shapes: Option<Vec<Shape>>,
    bits: usize,
) -> Option<Vec<Shape>> {
    let shapes = shapes?;
    let bytes: usize = shapes.iter().map(Shape::bytes).sum();
    let lattices = match products {
        Products::Cheaper | Products::Ahead => bytes < bits / 8,
        Products::Transfers => false,
        Products::Lattices => true,
    };
    lattices.then_some(shapes)
}

/// Products of shared matrices that make one tensor.
pub(super) struct SharedProducts {
    pub parts: Vec<SharedPart>,
    /// Which of all products, part by part and vector by vector, each element of the tensor is.
    pub places: Vec<usize>,
}

/// A party's shares of a matrix and of vectors.
pub(super) struct SharedPart {
    pub matrix: Vec<u64>,
    pub vectors: Vec<u64>,
}

impl SharedProducts {
    /// Both cross terms, within the step, on top of this party's own products.
    fn add<C: Channel, S: Source>(
        &self,
        gates: &mut Gates<C, S>,
        shapes: Vec<Shape>,
        mut own: Vec<u64>,
    ) -> ProtocolResult<Vec<u64>> {
        let party = gates.party();
        let terms = shapes.into_iter().enumerate().map(|(i, shape)| {
            // Each part twice, with either party as the one that encrypts.
            let part = &self.parts[i / 2];
            let own = if shape.client() == party {
                part.vectors.clone()
            } else {
                part.matrix.clone()
            };
            let own = Zeroizing::new(own);
            LatticeTerm { shape, own }
        });
        let terms: Vec<LatticeTerm> = terms.collect();
        let results = gates.products(&terms)?;
        let both = results.chunks_exact(2).flat_map(|pair| {
            let pairs = pair[0].iter().zip(&pair[1]);
            pairs.map(|(a, b)| a.wrapping_add(*b))
        });
        self.gather(&both.collect::<Vec<_>>(), &mut own);
        Ok(own)
    }

    /// Adds what was made of all parts, each where it belongs.
    pub(super) fn gather(&self, products: &[u64], out: &mut [u64]) {
        for (out, place) in out.iter_mut().zip(&self.places) {
            *out = out.wrapping_add(products[*place]);
        }
    }
}

/// Shapes of both cross terms of each part.
fn shared_shapes(bits: u32, parts: &[[usize; 3]]) -> Option<Vec<Shape>> {
    let both = [Party::E0, Party::E1];
    let shapes = parts
        .iter()
        .flat_map(|sizes| both.map(|client| Shape::of_shares(client, bits, *sizes)));
    shapes.collect()
}
