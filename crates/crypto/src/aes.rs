//! AES-128 over many blocks at once: a counter stream written where it is wanted, and a permutation
//! in place.
//!
//! The `aes` crate is what every machine falls back to and what the tests compare with. Where x86
//! offers AES on vectors of 256 or 512 bits the same bytes are made here (`aes/wide.rs`): the crate
//! encrypts blocks that lie in memory, so that a stream would write its counters, read and
//! overwrite them, and pass a third time to cut them to a width. Here counters are made in
//! registers, and each block leaves them once, cut.
//!
//! Instructions of fixed latency only, no tables: timing says nothing of keys or blocks. Round keys
//! are erased when dropped; copies of them in vector registers and on the stack are not.

#[cfg(target_arch = "x86_64")]
mod wide;

use aes::{
    Aes128,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use zeroize::Zeroizing;

/// AES-128 under one key.
pub struct Cipher(Backend);

enum Backend {
    #[cfg(target_arch = "x86_64")]
    Wide(Box<wide::Keys>),
    Blocks(Box<Aes128>),
}

impl Cipher {
    pub fn new(key: &[u8; 16]) -> Self {
        #[cfg(target_arch = "x86_64")]
        if let Some(keys) = wide::Keys::new(key) {
            return Self(Backend::Wide(Box::new(keys)));
        }
        Self::portable(key)
    }

    fn portable(key: &[u8; 16]) -> Self {
        Self(Backend::Blocks(Box::new(Aes128::new(&(*key).into()))))
    }

    /// The first `n` words of the encrypted counters `first`, `first + 1` and so on, each `& mask`:
    /// two words a block, the lower one first, blocks as little-endian numbers.
    pub fn stream(&self, first: u64, n: usize, mask: u64) -> Vec<u64> {
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Backend::Wide(keys) => keys.stream(first, n, mask),
            Backend::Blocks(cipher) => {
                let mut out = vec![0u64; n.next_multiple_of(2)];
                for (k, block) in out.chunks_exact_mut(2).enumerate() {
                    block[0] = first.wrapping_add(k as u64).to_le();
                }
                cipher.encrypt_blocks(::aes::Block::cast_slice_from_core_mut(
                    bytemuck::cast_slice_mut(&mut out),
                ));
                out.truncate(n);
                out.iter_mut()
                    .for_each(|word| *word = u64::from_le(*word) & mask);
                out
            }
        }
    }

    /// As [`Self::stream`] with whole words, into `out`: counters from `first` on, two words each.
    pub fn fill(&self, first: u64, out: &mut [u64]) {
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Backend::Wide(keys) => keys.fill(first, out),
            Backend::Blocks(_) => out.copy_from_slice(&self.stream(first, out.len(), u64::MAX)),
        }
    }

    /// `π(π(s) ⊕ t) ⊕ π(s)` of each of the `nodes`, into each of the `out`s: the tweak of node `i`
    /// there is `tweaks[i] ^ uses[k]`. Blocks are little-endian numbers; all slices are of one
    /// length.
    pub fn hash<const N: usize>(
        &self,
        nodes: &[u128],
        tweaks: &[u128],
        uses: [u128; N],
        mut out: [&mut [u128]; N],
    ) {
        let n = nodes.len();
        assert!(
            tweaks.len() == n && out.iter().all(|out| out.len() == n),
            "one tweak and one result a node"
        );
        #[cfg(target_arch = "x86_64")]
        if let Backend::Wide(keys) = &self.0 {
            return keys.hash(nodes, tweaks, uses, &mut out);
        }
        const LANES: usize = 64;
        let mut once = Zeroizing::new([0u128; LANES]);
        for start in (0..n).step_by(LANES) {
            let end = (start + LANES).min(n);
            let once = &mut once[..end - start];
            once.copy_from_slice(&nodes[start..end]);
            self.permute(once);
            for (out, used) in out.iter_mut().zip(uses) {
                let out = &mut out[start..end];
                for ((out, h), tweak) in out.iter_mut().zip(&*once).zip(&tweaks[start..end]) {
                    *out = h ^ tweak ^ used;
                }
                self.permute(out);
                out.iter_mut().zip(&*once).for_each(|(out, h)| *out ^= h);
            }
        }
    }

    /// Children of a half tree's nodes: with `H(x) = π(σ(x)) ⊕ σ(x)`, `σ(h‖l) = (h ⊕ l)‖h`, each
    /// node `x` becomes its left child `H(x)`, and `right` gets `x ⊕ H(x)`. Gives the XOR of all
    /// left children. `H` is circular correlation robust in the random-permutation model (Guo,
    /// Katz, Wang, Yu: S&P '20, section 7.3).
    ///
    /// # Panics
    /// When the slices have different lengths.
    pub fn branch(&self, nodes: &mut [u128], right: &mut [u128]) -> u128 {
        assert_eq!(nodes.len(), right.len(), "a right child a node");
        #[cfg(target_arch = "x86_64")]
        if let Backend::Wide(keys) = &self.0 {
            return keys.branch(nodes, right);
        }
        let mut sum = 0;
        const LANES: usize = 64;
        let mut hashed = Zeroizing::new([0u128; LANES]);
        for (nodes, right) in nodes.chunks_mut(LANES).zip(right.chunks_mut(LANES)) {
            let hashed = &mut hashed[..nodes.len()];
            for (h, node) in hashed.iter_mut().zip(&*nodes) {
                *h = orthomorphism(*node);
            }
            self.permute(hashed);
            for ((node, right), h) in nodes.iter_mut().zip(right).zip(&*hashed) {
                let left = h ^ orthomorphism(*node);
                *right = left ^ *node;
                *node = left;
                sum ^= left;
            }
        }
        sum
    }

    /// Encrypts blocks, little-endian numbers, in place.
    pub fn permute(&self, blocks: &mut [u128]) {
        match &self.0 {
            #[cfg(target_arch = "x86_64")]
            Backend::Wide(keys) => keys.permute(blocks),
            Backend::Blocks(cipher) => {
                blocks.iter_mut().for_each(|block| *block = block.to_le());
                let bytes: &mut [[u8; 16]] = bytemuck::cast_slice_mut(blocks);
                cipher.encrypt_blocks(::aes::Block::cast_slice_from_core_mut(bytes));
                blocks
                    .iter_mut()
                    .for_each(|block| *block = u128::from_le(*block));
            }
        }
    }
}

/// `σ` of [`Cipher::branch`]: linear, and `σ(x) ⊕ x` is a bijection too.
fn orthomorphism(x: u128) -> u128 {
    x >> 64 | (x ^ x >> 64) << 64
}

#[cfg(test)]
mod tests;
