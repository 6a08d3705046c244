//! Half trees: the leaves of a tree add up to `Δ`, and the chooser lacks one of them.
//!
//! # Construction
//! Guo, Yang, Wang, Zhang, Xie, Liu, Zhao, "Half-Tree" (EUROCRYPT '23), the correlated GGM tree of
//! section 4: the root's children are `s` and `s ⊕ Δ`; a node `x` has the left child `H(x)` and the
//! right child `x ⊕ H(x)`, so that each level adds up to `Δ`. A level takes one correlated transfer
//! with a random bit `r`: the sender sends the sum of the left nodes under its block, the chooser
//! gets the sum of side `r`, and lacks the leaf whose path is `¬r` at each level. No message of the
//! chooser. The missing leaf plus `Δ` is the sum of the others: that is the correlation with a
//! wrong bit at the missing leaf.
//!
//! Nodes lie by their path, the first level in the lowest bit, left children below right ones. The
//! chooser expands what stands at the missing place with all else, and adds what it must to one
//! place by masks over all of them: no address and no branch depends on the path.

use marill_crypto::aes::Cipher;
use zeroize::Zeroizing;

/// All leaves below a random `root`, one level per seed; the sums are appended to `message`.
pub(crate) fn grow(
    hash: &Cipher,
    root: u128,
    delta: u128,
    seeds: &[u128],
    nodes: &mut [u128],
    message: &mut Vec<u8>,
) {
    nodes[0] = root;
    nodes[1] = root ^ delta;
    message.extend((root ^ seeds[0]).to_le_bytes());
    for (level, seed) in seeds.iter().enumerate().skip(1) {
        let (left, right) = nodes[..2 << level].split_at_mut(1 << level);
        let sum = hash.branch(left, right);
        message.extend((sum ^ seed).to_le_bytes());
    }
}

/// What the chooser lacks of a tree.
pub(crate) struct Missing {
    /// The leaf, a secret.
    pub(crate) leaf: usize,
    /// What makes of the block at that leaf the sum of all other leaves.
    pub(crate) correction: u128,
}

/// All leaves but one, of what the sender sent; the low bits of the seeds are the chosen bits.
pub(crate) fn puncture(
    hash: &Cipher,
    seeds: &[u128],
    message: &[u8],
    nodes: &mut [u128],
) -> Missing {
    let (sums, _) = message.as_chunks::<16>();
    let mut leaf = 0;
    // Of all nodes of a level, what stands at the missing place included.
    let mut total = 0;
    nodes[..2].fill(0);
    for (level, (seed, sum)) in seeds.iter().zip(sums).enumerate() {
        let side = *seed & 1;
        let known = u128::from_le_bytes(*sum) ^ seed;
        let width = 1 << level;
        let mut present = 0;
        if level > 0 {
            let (left, right) = nodes[..2 * width].split_at_mut(width);
            present = hash.branch(left, right) ^ (side.wrapping_neg() & total);
        }
        let sibling = leaf | (side as usize) << level;
        add_at(&mut nodes[..2 * width], sibling, known ^ present);
        total ^= known ^ present;
        leaf |= (side as usize ^ 1) << level;
    }
    Missing {
        leaf,
        correction: total,
    }
}

/// Blocks that are looked at together.
const GROUP: usize = 64;

/// All ones where `a` is `b`.
fn same(a: usize, b: usize) -> u64 {
    let differ = (a ^ b) as u64;
    (differ.wrapping_sub(1) >> 63).wrapping_neg()
}

#[inline(always)]
fn add_at_body(nodes: &mut [u128], at: usize, value: u128) {
    let mut spread = Zeroizing::new([0u128; GROUP]);
    for (i, block) in spread.iter_mut().enumerate() {
        let mask = same(i, at % GROUP);
        *block = value & (u128::from(mask) << 64 | u128::from(mask));
    }
    let spread: &[u64] = bytemuck::cast_slice(&*spread);
    for (group, nodes) in nodes.chunks_mut(GROUP).enumerate() {
        let mask = same(group, at / GROUP);
        let words: &mut [u64] = bytemuck::cast_slice_mut(nodes);
        words
            .iter_mut()
            .zip(spread)
            .for_each(|(w, s)| *w ^= s & mask);
    }
}

/// Adds `value` to the node at a secret place: every node is read and written.
pub(crate) fn add_at(nodes: &mut [u128], at: usize, value: u128) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn wide(nodes: &mut [u128], at: usize, value: u128) {
            add_at_body(nodes, at, value);
        }
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just detected.
            return unsafe { wide(nodes, at, value) };
        }
    }
    add_at_body(nodes, at, value);
}

#[cfg(test)]
mod tests {
    use marill_crypto::{Prg, Seed};

    use super::*;

    fn block(prg: &mut Prg) -> u128 {
        let words = prg.words(2);
        u128::from(words[1]) << 64 | u128::from(words[0])
    }

    #[test]
    fn a_chooser_lacks_one_leaf_and_knows_its_sum_with_delta() {
        let hash = Cipher::new(&[6; 16]);
        let mut prg = Prg::new(&Seed::from_bytes([2; 32]), "trees");
        let delta = block(&mut prg) | 1;
        for depth in [1, 2, 3, 6, 7, 10] {
            for _ in 0..8 {
                let sent: Vec<u128> = (0..depth).map(|_| block(&mut prg) & !1).collect();
                let bits = prg.words(1)[0];
                let bit = |level: usize| u128::from(bits >> level & 1);
                let chosen = sent.iter().enumerate();
                let chosen: Vec<u128> = chosen
                    .map(|(level, q)| q ^ (bit(level).wrapping_neg() & delta))
                    .collect();
                let mut all = vec![0; 1 << depth];
                let mut message = Vec::new();
                let root = block(&mut prg);
                grow(&hash, root, delta, &sent, &mut all, &mut message);
                assert_eq!(message.len(), 16 * depth);
                assert_eq!(all.iter().fold(0, |sum, leaf| sum ^ leaf), delta);
                let mut known = vec![9; 1 << depth];
                let missing = puncture(&hash, &chosen, &message, &mut known);
                let path = !bits as usize & ((1 << depth) - 1);
                assert_eq!(missing.leaf, path);
                assert_ne!(known[path], all[path]);
                known[path] ^= missing.correction;
                assert_eq!(known[path] ^ delta, all[path]);
                for leaf in (0..1 << depth).filter(|leaf| *leaf != path) {
                    assert_eq!(known[leaf], all[leaf], "{leaf} of {depth} levels");
                }
            }
        }
    }

    #[test]
    fn adding_at_a_place_changes_that_place_only() {
        for n in [1, 2, 63, 64, 65, 1024] {
            for at in [0, n / 2, n - 1] {
                let mut nodes: Vec<u128> = (0..n as u128).collect();
                add_at(&mut nodes, at, 5 << 100 | 3);
                for (i, node) in nodes.iter().enumerate() {
                    let added = if i == at { 5 << 100 | 3 } else { 0 };
                    assert_eq!(*node, i as u128 ^ added);
                }
            }
        }
    }
}
