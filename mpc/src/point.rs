//! Distributed comparison functions on fixed-key AES.
//!
//! # Functionality
//! The source picks `α` (a mask that it knows) and a payload `β`, a few ring elements. It hands each evaluator a key; at
//! any public `x` the evaluators' results add up to `β` if `x < α` (as unsigned numbers of `bits` bits), else to zero.
//! A key is a root of 127 bits, expanded from the evaluator's own stream, and correction words that are the same for
//! both: 16 bytes and the payload's width a level. Evaluation talks to nobody.
//!
//! # Construction
//! A tree over the bits of `x` from the top, in which the two evaluators' nodes differ by a secret `Δ` along the path
//! of `α` and are equal elsewhere; the lowest bit of a node tells who corrects (`Δ` is odd). Nodes and corrections are
//! those of the half-tree's point function (Guo, Yang, Wang, Zhang, Xie, Liu, Zhao: EUROCRYPT '23):
//! `left = H(s) ⊕ t·C`, `right = H(s) ⊕ s ⊕ t·C`, `C = H(s_0) ⊕ H(s_1) ⊕ (1 - α_i)·Δ`. The comparison is read off the tree
//! as in Boyle et al. (EUROCRYPT '21, figure 1), in the form that takes it from the parent: where bit `i` of `x` is 0
//! each evaluator adds `±(H'(s) + t·W)`, with `W = ±(α_i·β - H'(s_0) + H'(s_1))`. That is `α_i·β` on the path of `α` and
//! zero elsewhere, and of all levels with `x_i = 0` on the path only the one at which `x` leaves it has `α_i = 1`.
//!
//! The last levels are one leaf, whose `2^m - 1` values (the largest point is below nothing) are corrected one by one:
//! `m` is what makes a key shortest: 2 for payloads of 6 to 15 bytes, 3 from 3 bytes on, 4 below, 1 for 16.
//!
//! # Security
//! `H(s, tweak) = π(π(s) ⊕ tweak) ⊕ π(s)` with AES under a fixed public key as `π`: tweakable circular correlation robust
//! in the random-permutation model (Guo, Katz, Wang, Yu: S&P '20, their `TMMO`). A tweak names the tree, the level and the
//! use, and never repeats in a session. Evaluator `p` knows `s_p` along the path; each correction word is the hash at
//! `s_p ⊕ Δ` under its own tweak, plus what `p` could add itself, plus at most `Δ`: exactly an answer of the oracle in
//! that definition. So the correction words are indistinguishable from uniform bytes, whatever `α` and `β`, to either
//! evaluator alone; a simulator samples them. One key may be evaluated at any number of public points.

use std::sync::OnceLock;

use zeroize::Zeroizing;

use crate::cipher::Cipher;

/// Keys whose correction words travel together, level by level.
pub(crate) const CHUNK: usize = 256;
/// Points that are walked side by side.
const LANES: usize = 512;

/// Bytes of a correction word for nodes.
const NODE_BYTES: usize = 16;
/// Most bytes of a payload: one block hides it.
const PAYLOAD_BYTES: usize = 16;

/// What a tweak's low half says beside the level: the hash for children, for the level's value, for a leaf's values.
const CHILD: u32 = 0;
const VALUE: u32 = 1;

/// The size of a comparison function.
#[derive(Clone)]
pub(crate) struct Shape {
    bits: u32,
    /// Bytes of each ring element of the payload.
    widths: Vec<usize>,
}

impl Shape {
    /// `x` of `bits` bits, a payload of elements of these many bytes, 16 in all at most.
    pub(crate) fn new(bits: u32, widths: &[usize]) -> Self {
        let shape = Self { bits, widths: widths.to_vec() };
        debug_assert!((1..=64).contains(&bits) && (1..=PAYLOAD_BYTES).contains(&shape.payload_bytes()));
        shape
    }

    fn payload_bytes(&self) -> usize {
        self.widths.iter().sum()
    }

    /// Bits that a leaf decides: one more as long as its further values are shorter than a level.
    fn leaf_bits(&self) -> u32 {
        let payload = self.payload_bytes();
        let longer = |m: u32| ((1 << m) - 1) * payload < NODE_BYTES;
        (1..4).find(|&m| !longer(m)).unwrap_or(4).min(self.bits)
    }

    fn levels(&self) -> u32 {
        self.bits - self.leaf_bits()
    }

    fn leaf_values(&self) -> usize {
        (1 << self.leaf_bits()) - 1
    }

    /// Bytes of one key's correction words.
    pub(crate) fn key_bytes(&self) -> usize {
        let payload = self.payload_bytes();
        self.levels() as usize * (NODE_BYTES + payload) + self.leaf_values() * payload
    }

    /// Elements of a payload.
    pub(crate) fn columns(&self) -> usize {
        self.widths.len()
    }

    /// A payload in one block, element by element.
    fn join(&self, values: impl Fn(usize) -> u64) -> u128 {
        let mut at = 0;
        (0..self.columns()).fold(0, |block, c| {
            let width = self.widths[c];
            let value = u128::from(values(c) & marill_numeric::fixed::low_mask(8 * width as u32)) << (8 * at);
            at += width;
            block | value
        })
    }

    /// Element `c` of a block modulo its width; what stands above it is left in place.
    fn offsets(&self) -> Vec<u32> {
        self.widths
            .iter()
            .scan(0, |at, width| {
                let offset = 8 * *at as u32;
                *at += width;
                Some(offset)
            })
            .collect()
    }
}

/// AES under a public key, pi's first digits: nothing is hidden by it.
fn permute(blocks: &mut [u128]) {
    static CIPHER: OnceLock<Cipher> = OnceLock::new();
    let key = 0x2437_6a88_85a3_08d3_1319_8a2e_0370_7344_u128.to_be_bytes();
    CIPHER.get_or_init(|| Cipher::new(&key)).permute(blocks);
}

/// `tree` is the number of a key in its session.
fn tweak(tree: u64, level: u32, kind: u32) -> u128 {
    u128::from(tree) << 64 | u128::from(level) << 32 | u128::from(kind)
}

/// The two hashes of each node, in place of `hashes`: `[π(s)] [child] [value]`.
fn expand(
    nodes: &[u128],
    hashes: &mut [u128],
    level: u32,
    tree: impl Fn(usize) -> u64,
    value_kind: impl Fn(usize) -> u32,
) {
    let (once, rest) = hashes.split_at_mut(nodes.len());
    let (child, value) = rest.split_at_mut(nodes.len());
    once.copy_from_slice(nodes);
    permute(once);
    for (i, &h) in once.iter().enumerate() {
        child[i] = h ^ tweak(tree(i), level, CHILD);
        value[i] = h ^ tweak(tree(i), level, value_kind(i));
    }
    permute(rest);
    let (child, value) = rest.split_at_mut(nodes.len());
    for (i, &h) in once.iter().enumerate() {
        child[i] ^= h;
        value[i] ^= h;
    }
}

/// All ones where the lowest bit is set.
fn spread(bit: u128) -> u128 {
    (bit & 1).wrapping_neg()
}

/// Fixes the lowest bit of a root: E0's nodes on the path are even at first, E1's odd.
pub(crate) fn root(low: u64, high: u64, first: bool) -> u128 {
    (u128::from(high) << 64 | u128::from(low)) & !1 | u128::from(!first)
}

/// Appends the correction words of up to [`CHUNK`] keys.
///
/// `roots` are both evaluators', `alpha` and `payload(key, element)` what the source compares with and hands out,
/// `first_tree` the number of the first key in the session.
pub(crate) fn generate(
    shape: &Shape,
    roots: [&[u128]; 2],
    alpha: &[u64],
    payload: impl Fn(usize, usize) -> u64,
    first_tree: u64,
    out: &mut Vec<u8>,
) {
    let n = alpha.len();
    let mut nodes = roots.map(|roots| Zeroizing::new(roots.to_vec()));
    let mut hashes = [0, 1].map(|_| Zeroizing::new(vec![0u128; 3 * n]));
    let tree = |i: usize| first_tree + i as u64;
    let payload: Zeroizing<Vec<Vec<u64>>> =
        Zeroizing::new((0..shape.columns()).map(|c| (0..n).map(|i| payload(i, c)).collect()).collect());
    let bytes = shape.payload_bytes();
    out.reserve(n * shape.key_bytes());
    // ±(bit·β - H'(s_0) + H'(s_1)), element by element.
    let offsets = shape.offsets();
    let value = |i: usize, bit: u64, pair: [u128; 2], corrects_first: u128| {
        let sign = ((corrects_first & 1) as u64).wrapping_mul(2).wrapping_sub(1);
        shape.join(|c| {
            let [a, b] = pair.map(|block| (block >> offsets[c]) as u64);
            bit.wrapping_mul(payload[c][i]).wrapping_sub(a).wrapping_add(b).wrapping_mul(sign)
        })
    };
    for level in 0..shape.levels() {
        for (nodes, hashes) in nodes.iter().zip(&mut hashes) {
            expand(nodes, hashes, level, tree, |_| VALUE);
        }
        let at = shape.bits - 1 - level;
        for i in 0..n {
            let bit = u128::from(alpha[i] >> at & 1);
            let delta = nodes[0][i] ^ nodes[1][i];
            let word = hashes[0][n + i] ^ hashes[1][n + i] ^ (spread(bit ^ 1) & delta);
            out.extend_from_slice(&word.to_le_bytes());
        }
        let words = out.len() - n * NODE_BYTES;
        for i in 0..n {
            let bit = alpha[i] >> at & 1;
            let word = value(i, bit, [hashes[0][2 * n + i], hashes[1][2 * n + i]], nodes[0][i]);
            out.extend_from_slice(&word.to_le_bytes()[..bytes]);
        }
        for (nodes, hashes) in nodes.iter_mut().zip(&hashes) {
            for (i, node) in nodes.iter_mut().enumerate() {
                let word = block(&out[words + i * NODE_BYTES..]);
                let right = spread(u128::from(alpha[i] >> at));
                *node = hashes[n + i] ^ (right & *node) ^ (spread(*node) & word);
            }
        }
    }
    for v in 0..shape.leaf_values() {
        for (nodes, hashes) in nodes.iter().zip(&mut hashes) {
            expand(nodes, hashes, shape.levels(), tree, |_| VALUE + v as u32);
        }
        for i in 0..n {
            let low = alpha[i] & marill_numeric::fixed::low_mask(shape.leaf_bits());
            let bit = u64::from((v as u64) < low);
            let word = value(i, bit, [hashes[0][2 * n + i], hashes[1][2 * n + i]], nodes[0][i]);
            out.extend_from_slice(&word.to_le_bytes()[..bytes]);
        }
    }
}

fn block(bytes: &[u8]) -> u128 {
    let mut block = [0; NODE_BYTES];
    block.copy_from_slice(&bytes[..NODE_BYTES]);
    u128::from_le_bytes(block)
}

/// A payload's correction; the bytes above it are zero.
fn payload_block(bytes: &[u8], width: usize) -> u128 {
    let mut block = [0; PAYLOAD_BYTES];
    block[..width].copy_from_slice(&bytes[..width]);
    u128::from_le_bytes(block)
}

/// One evaluator's keys of a chunk.
pub(crate) struct Keys<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) first: bool,
    pub(crate) roots: &'a [u128],
    /// As [`generate`] wrote them.
    pub(crate) words: &'a [u8],
    pub(crate) first_tree: u64,
}

impl Keys<'_> {
    /// Adds this evaluator's results to `sums[element][point]`; point `j` is read under key `j / per_key`.
    pub(crate) fn evaluate(&self, points: &[u64], per_key: usize, sums: &mut [&mut [u64]]) {
        for start in (0..points.len()).step_by(LANES) {
            let end = (start + LANES).min(points.len());
            let mut lanes: Vec<&mut [u64]> = sums.iter_mut().map(|column| &mut column[start..end]).collect();
            self.walk(&points[start..end], |j| (start + j) / per_key, &mut lanes);
        }
    }

    fn walk(&self, points: &[u64], key: impl Fn(usize) -> usize, sums: &mut [&mut [u64]]) {
        let (shape, n, keys) = (self.shape, points.len(), self.roots.len());
        let payload = shape.payload_bytes();
        let offsets = shape.offsets();
        let mut nodes = Zeroizing::new((0..n).map(|j| self.roots[key(j)]).collect::<Vec<u128>>());
        let mut hashes = Zeroizing::new(vec![0u128; 3 * n]);
        let sign = if self.first { 1 } else { u64::MAX };
        let tree = |j: usize| self.first_tree + key(j) as u64;
        let mut add = |j: usize, value: u128, node: u128, correction: u128, counts: bool| {
            // A point is public, a node is not.
            let (factor, corrects) = (sign.wrapping_mul(u64::from(counts)), spread(node) as u64);
            for (column, offset) in sums.iter_mut().zip(&offsets) {
                let own = (value >> offset) as u64;
                let word = (correction >> offset) as u64 & corrects;
                column[j] = column[j].wrapping_add(factor.wrapping_mul(own.wrapping_add(word)));
            }
        };
        let level_bytes = keys * (NODE_BYTES + payload);
        for level in 0..shape.levels() {
            expand(&nodes, &mut hashes, level, tree, |_| VALUE);
            let words = &self.words[level as usize * level_bytes..][..level_bytes];
            let (node_words, values) = words.split_at(keys * NODE_BYTES);
            let at = shape.bits - 1 - level;
            for j in 0..n {
                let (right, k) = (points[j] >> at & 1, key(j));
                let correction = payload_block(&values[k * payload..], payload);
                add(j, hashes[2 * n + j], nodes[j], correction, right == 0);
                let word = block(&node_words[k * NODE_BYTES..]);
                let kept = u128::from(right).wrapping_neg() & nodes[j];
                nodes[j] = hashes[n + j] ^ kept ^ (spread(nodes[j]) & word);
            }
        }
        let values = &self.words[shape.levels() as usize * level_bytes..];
        let leaf = |j: usize| (points[j] & marill_numeric::fixed::low_mask(shape.leaf_bits())) as usize;
        expand(&nodes, &mut hashes, shape.levels(), tree, |j| VALUE + leaf(j) as u32);
        for j in 0..n {
            let counts = leaf(j) < shape.leaf_values();
            let at = if counts { leaf(j) * keys * payload } else { 0 } + key(j) * payload;
            add(j, hashes[2 * n + j], nodes[j], payload_block(&values[at..], payload), counts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::{Prg, Seed};
    use marill_numeric::fixed::low_mask;

    fn roots(n: usize, seed: u8) -> [Vec<u128>; 2] {
        let mut prg = Prg::new(&Seed::from_bytes([seed; 32]), "point roots");
        [true, false].map(|first| prg.words(2 * n).chunks(2).map(|w| root(w[0], w[1], first)).collect())
    }

    /// Both evaluators' results of every point, added up: `[element][point]`.
    fn joined(shape: &Shape, alpha: &[u64], payload: &[Vec<u64>], points: &[u64], per_key: usize) -> Vec<Vec<u64>> {
        let roots = roots(alpha.len(), 3);
        let mut words = Vec::new();
        generate(shape, [&roots[0], &roots[1]], alpha, |i, c| payload[c][i], 7, &mut words);
        assert_eq!(words.len(), alpha.len() * shape.key_bytes());
        let mut sums = vec![vec![0u64; points.len()]; shape.columns()];
        for (first, roots) in [true, false].into_iter().zip(&roots) {
            let mut columns: Vec<&mut [u64]> = sums.iter_mut().map(Vec::as_mut_slice).collect();
            Keys { shape, first, roots, words: &words, first_tree: 7 }.evaluate(points, per_key, &mut columns);
        }
        sums
    }

    fn check(bits: u32, widths: &[usize], alpha: &[u64], points: &[u64], per_key: usize) {
        let shape = Shape::new(bits, widths);
        let mut prg = Prg::new(&Seed::from_bytes([9; 32]), "payload");
        let payload: Vec<Vec<u64>> = widths.iter().map(|_| prg.words(alpha.len())).collect();
        let sums = joined(&shape, alpha, &payload, points, per_key);
        for (c, &width) in widths.iter().enumerate() {
            for (j, &x) in points.iter().enumerate() {
                let key = j / per_key;
                let expected = if x < alpha[key] { payload[c][key] } else { 0 };
                let modulus = low_mask(8 * width as u32);
                assert_eq!(sums[c][j] & modulus, expected & modulus, "{bits} bits, {x} against {}", alpha[key]);
            }
        }
    }

    #[test]
    fn every_point_of_a_small_domain_is_compared_with_every_threshold() {
        for (bits, widths) in
            [(1, vec![8]), (2, vec![3]), (3, vec![4, 4]), (5, vec![1]), (6, vec![6, 6, 3]), (7, vec![8])]
        {
            let size = 1u64 << bits;
            let alpha: Vec<u64> = (0..size).collect();
            let points: Vec<u64> = (0..size).flat_map(|_| 0..size).collect();
            check(bits, &widths, &alpha, &points, size as usize);
        }
    }

    #[test]
    fn wide_points_are_compared_at_random_and_beside_the_threshold() {
        let mut prg = Prg::new(&Seed::from_bytes([4; 32]), "points");
        for bits in [9, 14, 24, 31, 39, 47, 63, 64] {
            let alpha = prg.reduced(CHUNK, bits);
            let mut points = Vec::new();
            for &a in &alpha {
                let far = prg.reduced(2, bits);
                let near =
                    [a, a.wrapping_sub(1), a.wrapping_add(1), a ^ 1 << (bits - 1), a ^ 1 << (far[0] % u64::from(bits))];
                points.extend(near.map(|x| x & low_mask(bits)));
                points.extend(far);
            }
            check(bits, &[8, 6], &alpha, &points, 7);
            check(bits, &[4], &alpha, &points, 7);
        }
    }

    #[test]
    fn a_leaf_is_as_deep_as_saves_bytes() {
        let length = |leaf: u32, payload: usize, bits: u32| {
            (bits - leaf) as usize * (NODE_BYTES + payload) + ((1 << leaf) - 1) * payload
        };
        for payload in 1..=PAYLOAD_BYTES {
            let widths = if payload > 8 { vec![8, payload - 8] } else { vec![payload] };
            let shape = Shape::new(40, &widths);
            let shortest = (1..=4).map(|leaf| length(leaf, payload, 40)).min().unwrap();
            assert_eq!(shape.key_bytes(), shortest, "{payload} bytes");
        }
    }

    /// What travels says nothing of the threshold or the payload: the bytes of constant keys look uniform.
    #[test]
    fn correction_words_look_uniform() {
        let (shape, roots) = (Shape::new(40, &[8]), roots(CHUNK, 5));
        for alpha in [0, 1, u64::MAX >> 24] {
            let mut words = Vec::new();
            generate(&shape, [&roots[0], &roots[1]], &[alpha; CHUNK], |_, _| 0, 0, &mut words);
            let mut counts = [0f64; 256];
            words.iter().for_each(|&b| counts[usize::from(b)] += 1.0);
            let mean = words.len() as f64 / 256.0;
            let chi_square: f64 = counts.iter().map(|c| (c - mean).powi(2) / mean).sum();
            assert!(words.len() > 100_000 && chi_square < 380.0, "{chi_square} for {alpha}");
        }
    }
}
