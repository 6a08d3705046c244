//! Distributed comparison functions on AES under a public key.
//!
//! # Functionality
//! The dealer picks `α` (a mask that it knows) and a payload `β`, a few ring elements. It hands
//! each evaluator a key; at any public `x` the evaluators' results add up to `β` if `x < α` (as
//! unsigned numbers of `bits` bits), else to zero. A key is a root of 127 bits, expanded from the
//! evaluator's own stream, and correction words that are the same for both: 16 bytes and the
//! payload's width per level. Evaluation talks to nobody.
//!
//! # Construction
//! A tree over the bits of `x` from the top, in which the two evaluators' nodes differ by a secret
//! `Δ` along the path of `α` and are equal elsewhere; the lowest bit of a node tells who corrects
//! (`Δ` is odd). Nodes and corrections are those of the half-tree's distributed point function
//! (Guo, Yang, Wang, Zhang, Xie, Liu, Zhao: EUROCRYPT '23):
//! `left = H(s) ⊕ t·C`, `right = H(s) ⊕ s ⊕ t·C`, `C = H(s_0) ⊕ H(s_1) ⊕ (1 - α_i)·Δ`. The
//! comparison is read off the tree as in Boyle et al. (EUROCRYPT '21, figure 1), in the form that
//! takes it from the parent: where bit `i` of `x` is 0 each evaluator adds `±(H'(s) + t·W)`, with
//! `W = ±(α_i·β - H'(s_0) + H'(s_1))`. That is `α_i·β` on the path of `α` and zero elsewhere, and
//! of all levels with `x_i = 0` on the path only the one at which `x` leaves it has `α_i = 1`.
//!
//! The last levels are one leaf, whose `2^m - 1` values (the largest point is below nothing) are
//! corrected one by one: `m` is what makes a key shortest: 2 for payloads of 6 to 15 bytes, 3 from
//! 3 bytes on, 4 below, 1 for 16.
//!
//! # Security
//! `H(s, tweak) = π(π(s) ⊕ tweak) ⊕ π(s)` with AES under the session's public key as `π`: tweakable
//! circular correlation robust in the random-permutation model (Guo, Katz, Wang, Yu: S&P '20, their
//! `TMMO`). A tweak names the tree, the level and the use, and never repeats in a session. Tweaks
//! start anew in the next one, so each session has a public key of its own for `π` ([`HashKey`]): a
//! guess at a node is a guess at one session's only, not at all of a server's sessions at once.
//! Evaluator `p` knows `s_p` along the path; each correction word is the hash at `s_p ⊕ Δ` under
//! its own tweak, plus what `p` could add itself, plus at most `Δ`: exactly an answer of the oracle
//! in that definition. So the correction words are indistinguishable from uniform bytes, whatever
//! `α` and `β`, to either evaluator alone; a simulator samples them. One key may be evaluated at
//! any number of public points.

use marill_numeric::fixed::low_mask;
use zeroize::Zeroizing;

use crate::aes::Cipher;

/// Keys whose correction words travel together, level by level.
pub const CHUNK: usize = 256;
/// Points that are walked side by side.
const LANES: usize = 128;

/// Bytes of a correction word for nodes.
const NODE_BYTES: usize = 16;
/// Most bytes of a payload: one block hides it.
const PAYLOAD_BYTES: usize = 16;

/// What a tweak's low half says beside the level: the hash for children, for the level's value, for
/// a leaf's values.
const CHILD: u32 = 0;
const VALUE: u32 = 1;

/// The size of a comparison function.
#[derive(Clone)]
pub struct Shape {
    bits: u32,
    /// Bytes of each ring element of the payload.
    widths: Vec<usize>,
}

impl Shape {
    /// `x` of `bits` bits, a payload of elements of these many bytes, 16 in all at most.
    pub fn new(bits: u32, widths: &[usize]) -> Self {
        let shape = Self {
            bits,
            widths: widths.to_vec(),
        };
        debug_assert!(
            (1..=64).contains(&bits) && (1..=PAYLOAD_BYTES).contains(&shape.payload_bytes())
        );
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
    pub fn key_bytes(&self) -> usize {
        let payload = self.payload_bytes();
        self.levels() as usize * (NODE_BYTES + payload) + self.leaf_values() * payload
    }

    /// Elements of a payload.
    pub fn columns(&self) -> usize {
        self.widths.len()
    }

    /// Where the elements of a payload start in its block, in bits.
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

/// The public key of a session's hash: nothing is hidden by it, and no two sessions have the same.
pub type HashKey = [u8; 16];

/// For sessions that have no name, in benchmarks and tests: pi's first digits.
pub const UNNAMED: HashKey = 0x2437_6a88_85a3_08d3_1319_8a2e_0370_7344_u128.to_be_bytes();

/// The part of a tweak that names a tree, by its number in its session, and the part that names a
/// use within it.
fn tree_tweak(tree: u64) -> u128 {
    u128::from(tree) << 64
}

fn use_tweak(level: u32, kind: u32) -> u128 {
    u128::from(level) << 32 | u128::from(kind)
}

/// All ones where the lowest bit is set.
fn spread(bit: u128) -> u128 {
    (bit & 1).wrapping_neg()
}

/// Fixes the lowest bit of a root: E0's nodes on the path are even at first, E1's odd.
pub fn root(low: u64, high: u64, first: bool) -> u128 {
    (u128::from(high) << 64 | u128::from(low)) & !1 | u128::from(!first)
}

/// Both evaluators' nodes of a level, as the dealer sees them, and their hashes.
struct Pair {
    nodes: [Zeroizing<Vec<u128>>; 2],
    child: [Zeroizing<Vec<u128>>; 2],
    value: [Zeroizing<Vec<u128>>; 2],
    tweaks: Vec<u128>,
}

impl Pair {
    fn new(roots: [&[u128]; 2], first_tree: u64) -> Self {
        let zeros = || [0, 1].map(|_| Zeroizing::new(vec![0; roots[0].len()]));
        let tweaks = (0..roots[0].len())
            .map(|i| tree_tweak(first_tree + i as u64))
            .collect();
        Self {
            nodes: roots.map(|r| Zeroizing::new(r.to_vec())),
            child: zeros(),
            value: zeros(),
            tweaks,
        }
    }

    /// Appends the words of one level's nodes and goes down to the nodes of the next.
    fn descend(&mut self, alpha: &[u64], at: u32, out: &mut Vec<u8>) {
        let [nodes0, nodes1] = &mut self.nodes;
        for (i, alpha) in alpha.iter().enumerate() {
            let right = spread(u128::from(alpha >> at));
            let a = nodes0[i];
            let b = nodes1[i];
            let cw = self.child[0][i] ^ self.child[1][i] ^ (!right & (a ^ b));
            out.extend_from_slice(&cw.to_le_bytes());
            nodes0[i] = self.child[0][i] ^ (right & a) ^ (spread(a) & cw);
            nodes1[i] = self.child[1][i] ^ (right & b) ^ (spread(b) & cw);
        }
    }

    /// Appends `±(β - H'(s_0) + H'(s_1))`, element by element, where `bit` of a key is set, and the
    /// same with zero for `β` elsewhere. The sign is plus where E0 corrects, whose nodes' lowest
    /// bits are `corrects`.
    fn values(
        &self,
        shape: &Shape,
        payload: &[Vec<u64>],
        bit: impl Fn(usize) -> u64,
        corrects: &[u64],
        out: &mut Vec<u8>,
    ) {
        let n = corrects.len();
        let bytes = shape.payload_bytes();
        let mut blocks = Zeroizing::new(vec![0u128; n]);
        for ((payload, &width), offset) in payload.iter().zip(&shape.widths).zip(shape.offsets()) {
            let modulus = low_mask(8 * width as u32);
            for (i, block) in blocks.iter_mut().enumerate() {
                let [a, b] = [0, 1].map(|p| (self.value[p][i] >> offset) as u64);
                let value = (bit(i).wrapping_neg() & payload[i])
                    .wrapping_sub(a)
                    .wrapping_add(b);
                let minus = corrects[i].wrapping_sub(1);
                *block |= u128::from((value ^ minus).wrapping_sub(minus) & modulus) << offset;
            }
        }
        // Whole blocks are written; the next one covers what a payload leaves of them.
        let start = out.len();
        out.resize(start + n * bytes + PAYLOAD_BYTES, 0);
        for (i, block) in blocks.iter().enumerate() {
            out[start + i * bytes..][..PAYLOAD_BYTES].copy_from_slice(&block.to_le_bytes());
        }
        out.truncate(start + n * bytes);
    }
}

/// Appends the correction words of up to [`CHUNK`] keys.
///
/// `roots` are both evaluators', `alpha` and `payload(key, element)` what the dealer compares with
/// and hands out, `first_tree` the number of the first key in the session, `cipher` is under the
/// session's [`HashKey`].
pub fn generate(
    shape: &Shape,
    roots: [&[u128]; 2],
    alpha: &[u64],
    payload: impl Fn(usize, usize) -> u64,
    first_tree: u64,
    cipher: &Cipher,
    out: &mut Vec<u8>,
) {
    let n = alpha.len();
    let mut pair = Pair::new(roots, first_tree);
    let payload: Zeroizing<Vec<Vec<u64>>> = Zeroizing::new(
        (0..shape.columns())
            .map(|c| (0..n).map(|i| payload(i, c)).collect())
            .collect(),
    );
    let mut corrects = Zeroizing::new(vec![0u64; n]);
    let note = |corrects: &mut [u64], nodes: &[u128]| {
        corrects
            .iter_mut()
            .zip(nodes)
            .for_each(|(corrects, node)| *corrects = *node as u64 & 1);
    };
    out.reserve(n * shape.key_bytes() + PAYLOAD_BYTES);
    for level in 0..shape.levels() {
        let uses = [use_tweak(level, CHILD), use_tweak(level, VALUE)];
        for p in 0..2 {
            cipher.hash(
                &pair.nodes[p],
                &pair.tweaks,
                uses,
                [&mut pair.child[p], &mut pair.value[p]],
            );
        }
        let at = shape.bits - 1 - level;
        note(&mut corrects, &pair.nodes[0]);
        pair.descend(alpha, at, out);
        pair.values(shape, &payload, |i| alpha[i] >> at & 1, &corrects, out);
    }
    note(&mut corrects, &pair.nodes[0]);
    let low = low_mask(shape.leaf_bits());
    for v in 0..shape.leaf_values() as u32 {
        for p in 0..2 {
            cipher.hash(
                &pair.nodes[p],
                &pair.tweaks,
                [use_tweak(shape.levels(), VALUE + v)],
                [&mut pair.value[p]],
            );
        }
        pair.values(
            shape,
            &payload,
            |i| u64::from(u64::from(v) < alpha[i] & low),
            &corrects,
            out,
        );
    }
}

/// The block at a place; zeros stand for what lies behind the end.
fn block(bytes: &[u8], at: usize) -> u128 {
    if let Some(block) = bytes.get(at..at + NODE_BYTES) {
        return u128::from_le_bytes(block.try_into().expect("a block has 16 bytes"));
    }
    let mut block = [0; NODE_BYTES];
    block[..bytes.len() - at].copy_from_slice(&bytes[at..]);
    u128::from_le_bytes(block)
}

/// One evaluator's keys of a chunk.
pub struct Keys<'a> {
    pub shape: &'a Shape,
    pub first: bool,
    pub roots: &'a [u128],
    /// As [`generate`] wrote them.
    pub cws: &'a [u8],
    pub first_tree: u64,
    /// Under the session's [`HashKey`].
    pub cipher: &'a Cipher,
}

/// Points walked side by side: where they stand, and what a level makes of that.
struct Walkers {
    /// The key that each is read under.
    key: Vec<usize>,
    tweaks: Vec<u128>,
    nodes: Zeroizing<Vec<u128>>,
    child: Zeroizing<Vec<u128>>,
    value: Zeroizing<Vec<u128>>,
    /// The level's correction of the value where the node corrects.
    correction: Zeroizing<Vec<u128>>,
}

impl Walkers {
    fn new() -> Self {
        let zeros = || Zeroizing::new(vec![0; LANES]);
        let key = vec![0; LANES];
        let tweaks = vec![0; LANES];
        Self {
            key,
            tweaks,
            nodes: zeros(),
            child: zeros(),
            value: zeros(),
            correction: zeros(),
        }
    }

    /// Adds what a level, or a leaf, is worth to each point of which `counts` is all ones.
    fn add(&self, offsets: &[u32], counts: impl Fn(usize) -> u64, sums: &mut [&mut [u64]]) {
        for (sums, &offset) in sums.iter_mut().zip(offsets) {
            for (j, sum) in sums.iter_mut().enumerate() {
                let own = (self.value[j] >> offset) as u64;
                let correction = (self.correction[j] >> offset) as u64;
                *sum = sum.wrapping_add(own.wrapping_add(correction) & counts(j));
            }
        }
    }
}

impl Keys<'_> {
    /// This evaluator's results in `sums[element][input]`, which are zeros at first; point `j` is
    /// read under key `j / per_key`. What stands above an element's width is noise.
    pub fn evaluate(&self, inputs: &[u64], per_key: usize, sums: &mut [&mut [u64]]) {
        let mut walkers = Walkers::new();
        for start in (0..inputs.len()).step_by(LANES) {
            let end = (start + LANES).min(inputs.len());
            for (j, key) in walkers.key[..end - start].iter_mut().enumerate() {
                *key = (start + j) / per_key;
            }
            let mut lanes: Vec<&mut [u64]> = sums
                .iter_mut()
                .map(|column| &mut column[start..end])
                .collect();
            self.walk(&inputs[start..end], &mut walkers, &mut lanes);
        }
    }

    fn walk(&self, inputs: &[u64], walkers: &mut Walkers, sums: &mut [&mut [u64]]) {
        let shape = self.shape;
        let n = inputs.len();
        let keys = self.roots.len();
        let payload = shape.payload_bytes();
        let offsets = shape.offsets();
        for j in 0..n {
            walkers.nodes[j] = self.roots[walkers.key[j]];
            walkers.tweaks[j] = tree_tweak(self.first_tree + walkers.key[j] as u64);
        }
        let level_bytes = keys * (NODE_BYTES + payload);
        for level in 0..shape.levels() {
            let w = &mut *walkers;
            let uses = [use_tweak(level, CHILD), use_tweak(level, VALUE)];
            self.cipher.hash(
                &w.nodes[..n],
                &w.tweaks[..n],
                uses,
                [&mut w.child[..n], &mut w.value[..n]],
            );
            let cws = &self.cws[level as usize * level_bytes..];
            let at = shape.bits - 1 - level;
            for (j, input) in inputs.iter().enumerate() {
                let node = w.nodes[j];
                let key = w.key[j];
                let corrects = spread(node);
                w.correction[j] = corrects & block(cws, keys * NODE_BYTES + key * payload);
                // A point is public, a node is not.
                let kept = spread(u128::from(input >> at)) & node;
                w.nodes[j] = w.child[j] ^ kept ^ (corrects & block(cws, key * NODE_BYTES));
            }
            walkers.add(&offsets, |j| (inputs[j] >> at & 1).wrapping_sub(1), sums);
        }
        let leaf = |j: usize| (inputs[j] & low_mask(shape.leaf_bits())) as usize;
        let w = &mut *walkers;
        (0..n).for_each(|j| w.tweaks[j] ^= use_tweak(shape.levels(), VALUE + leaf(j) as u32));
        self.cipher
            .hash(&w.nodes[..n], &w.tweaks[..n], [0], [&mut w.value[..n]]);
        let cws = &self.cws[shape.levels() as usize * level_bytes..];
        for j in 0..n {
            // The largest point of a leaf is below nothing and has no word: it takes the first, and
            // does not count.
            let at = if leaf(j) < shape.leaf_values() {
                leaf(j) * keys * payload
            } else {
                0
            };
            w.correction[j] = spread(w.nodes[j]) & block(cws, at + w.key[j] * payload);
        }
        walkers.add(
            &offsets,
            |j| u64::from(leaf(j) < shape.leaf_values()).wrapping_neg(),
            sums,
        );
        if !self.first {
            sums.iter_mut()
                .flat_map(|column| column.iter_mut())
                .for_each(|sum| *sum = sum.wrapping_neg());
        }
    }
}

#[cfg(test)]
mod tests;
