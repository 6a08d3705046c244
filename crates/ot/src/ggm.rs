//! Trees of seeds: one party knows all `2^k` leaves, the other all but one that it chose.
//!
//! # Construction
//! Each node's children are two hashes of it. For each level the sender offers the XOR of all left
//! children and the XOR of all right children, one of two, on the bits of the leaf that the chooser
//! will miss (Goldreich, Goldwasser, Micali; punctured by base transfers as in SoftSpokenOT,
//! CRYPTO '22, section 2.2). A chooser keeps its nodes at the place `x ⊕ missing`, so that the
//! missing node is always the first: it selects by masks, never by an index.

use marill_crypto::aes::Cipher;
use zeroize::Zeroizing;

use crate::link::Party;

/// Both children of each node of a level.
struct Children {
    left: Zeroizing<Vec<u128>>,
    right: Zeroizing<Vec<u128>>,
}

/// Expands trees under one session's public key.
pub(crate) struct Expander<'a> {
    pub(crate) cipher: &'a Cipher,
    /// Who knows all leaves.
    pub(crate) sender: Party,
}

impl Expander<'_> {
    fn children(&self, nodes: &[u128], tree: usize, level: usize) -> Children {
        // A tweak names tree, level and direction: two nodes of a level differ by themselves.
        let place = (tree as u128) << 32 | (level as u128) << 8 | (self.sender as u128) << 1;
        let tweaks = vec![place; nodes.len()];
        let mut left = Zeroizing::new(vec![0; nodes.len()]);
        let mut right = Zeroizing::new(vec![0; nodes.len()]);
        let uses = [1 << 96, 1 << 96 | 1];
        self.cipher
            .hash(nodes, &tweaks, uses, [&mut left, &mut right]);
        Children { left, right }
    }

    /// All leaves below a root, and per level the XOR of all left and of all right children.
    pub(crate) fn grow(
        &self,
        root: u128,
        tree: usize,
        levels: usize,
    ) -> (Zeroizing<Vec<u128>>, Vec<[u128; 2]>) {
        let mut nodes = Zeroizing::new(vec![root]);
        let mut sums = Vec::with_capacity(levels);
        for level in 0..levels {
            let Children { left, right } = self.children(&nodes, tree, level);
            let sum = |side: &[u128]| side.iter().fold(0, |sum, node| sum ^ node);
            sums.push([sum(&left), sum(&right)]);
            let pairs = left.iter().zip(right.iter());
            nodes = Zeroizing::new(pairs.flat_map(|(l, r)| [*l, *r]).collect());
        }
        (nodes, sums)
    }

    /// The leaves `x` at `x ⊕ missing`, the first of them unknown (zero here). `missing` holds a
    /// bit per level, the root's first, as masks of all ones or zeros; `sums` the XOR of all
    /// children on the other side, per level.
    pub(crate) fn puncture(
        &self,
        tree: usize,
        missing: &[u128],
        sums: &[u128],
    ) -> Zeroizing<Vec<u128>> {
        let mut nodes = Zeroizing::new(vec![0]);
        for (level, (mask, sum)) in missing.iter().zip(sums).enumerate() {
            let Children { left, right } = self.children(&nodes, tree, level);
            let mut next = Zeroizing::new(Vec::with_capacity(2 * nodes.len()));
            let mut other = *sum;
            for (l, r) in left.iter().zip(right.iter()) {
                // On the missing side of the bit, and on the other.
                let same = l ^ (mask & (l ^ r));
                let opposite = l ^ r ^ same;
                next.extend([same, opposite]);
            }
            next[0] = 0;
            next.iter()
                .skip(3)
                .step_by(2)
                .for_each(|node| other ^= node);
            next[1] = other;
            nodes = next;
        }
        nodes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chooser_knows_all_leaves_but_one() {
        let cipher = Cipher::new(&[5; 16]);
        let sender = Party::E1;
        let expander = Expander {
            cipher: &cipher,
            sender,
        };
        for levels in [1usize, 2, 4] {
            let (leaves, sums) = expander.grow(77, 3, levels);
            for missing in 0..1usize << levels {
                let bits = (0..levels).map(|level| missing >> (levels - 1 - level) & 1);
                let masks: Vec<u128> = bits.clone().map(|b| (b as u128).wrapping_neg()).collect();
                let sums: Vec<u128> = sums.iter().zip(bits).map(|(s, b)| s[1 - b]).collect();
                let known = expander.puncture(3, &masks, &sums);
                assert_eq!(known[0], 0);
                for y in 1..1 << levels {
                    assert_eq!(known[y], leaves[y ^ missing], "{y} of {levels} levels");
                }
            }
        }
    }
}
