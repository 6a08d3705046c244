//! AES-128 over many blocks at once: a counter stream written where it is wanted, and a permutation
//! in place.
//!
//! The `aes` crate is what every machine falls back to and what the tests compare with. Where x86
//! offers AES on vectors of 512 bits the same bytes are made here: the crate encrypts blocks that
//! lie in memory, so that a stream would write its counters, read and overwrite them, and pass a
//! third time to cut them to a width. Here counters are made in registers, and each block leaves
//! them once, cut.
//!
//! Instructions of fixed latency only, no tables: timing says nothing of keys or blocks. Round keys
//! are erased when dropped; copies of them in vector registers are not.

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

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::{
        arch::x86_64::{
            __m128i, __m512i, _mm_aeskeygenassist_si128, _mm_shuffle_epi32, _mm_slli_si128,
            _mm_xor_si128, _mm512_add_epi64, _mm512_aesenc_epi128, _mm512_aesenclast_epi128,
            _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_mask_storeu_epi64,
            _mm512_maskz_loadu_epi64, _mm512_set_epi64, _mm512_set1_epi64, _mm512_storeu_si512,
            _mm512_xor_si512,
        },
        mem::MaybeUninit,
    };

    use zeroize::{Zeroize, ZeroizeOnDrop};

    /// Words and blocks of a vector.
    const WORDS: usize = 8;
    const BLOCKS: usize = 4;
    /// Vectors on their way at once: what hides the latency of a round.
    const AT_ONCE: usize = 8;

    /// Round keys. Made only where the instructions are there, which every method relies on.
    #[derive(Zeroize, ZeroizeOnDrop)]
    pub(super) struct Keys([u128; 11]);

    impl Keys {
        /// None where the machine lacks an instruction.
        pub(super) fn new(key: &[u8; 16]) -> Option<Self> {
            let there = std::is_x86_feature_detected!("aes")
                && std::is_x86_feature_detected!("vaes")
                && std::is_x86_feature_detected!("avx512f");
            // SAFETY: the features were just detected.
            there.then(|| Self(unsafe { expand(u128::from_le_bytes(*key)) }))
        }

        pub(super) fn stream(&self, first: u64, n: usize, mask: u64) -> Vec<u64> {
            let mut out = Vec::with_capacity(n);
            // SAFETY: `new` detected the features; `stream` fills all `n` words.
            unsafe {
                stream(&self.0, first, mask, &mut out.spare_capacity_mut()[..n]);
                out.set_len(n);
            }
            out
        }

        pub(super) fn fill(&self, first: u64, out: &mut [u64]) {
            // SAFETY: `new` detected the features. Words are valid uninitialized ones, and
            // `stream` writes words only.
            unsafe {
                let words = &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<u64>]);
                stream(&self.0, first, u64::MAX, words);
            }
        }

        pub(super) fn permute(&self, blocks: &mut [u128]) {
            // SAFETY: `new` detected the features.
            unsafe { permute(&self.0, blocks) }
        }

        /// See [`super::Cipher::hash`], which compares the lengths.
        pub(super) fn hash<const N: usize>(
            &self,
            nodes: &[u128],
            tweaks: &[u128],
            uses: [u128; N],
            out: &mut [&mut [u128]; N],
        ) {
            // SAFETY: `new` detected the features.
            unsafe { hash(&self.0, nodes, tweaks, uses, out) }
        }
    }

    /// The key schedule (FIPS 197, section 5.2).
    #[target_feature(enable = "aes,sse2")]
    fn expand(key: u128) -> [u128; 11] {
        #[inline]
        #[target_feature(enable = "aes,sse2")]
        fn next<const RCON: i32>(key: __m128i) -> __m128i {
            let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<RCON>(key));
            let key = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
            let key = _mm_xor_si128(key, _mm_slli_si128::<8>(key));
            _mm_xor_si128(key, word)
        }
        let mut keys = [bytemuck::cast(key); 11];
        keys[1] = next::<0x01>(keys[0]);
        keys[2] = next::<0x02>(keys[1]);
        keys[3] = next::<0x04>(keys[2]);
        keys[4] = next::<0x08>(keys[3]);
        keys[5] = next::<0x10>(keys[4]);
        keys[6] = next::<0x20>(keys[5]);
        keys[7] = next::<0x40>(keys[6]);
        keys[8] = next::<0x80>(keys[7]);
        keys[9] = next::<0x1b>(keys[8]);
        keys[10] = next::<0x36>(keys[9]);
        keys.map(bytemuck::cast)
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn broadcast<const N: usize>(blocks: &[u128; N]) -> [__m512i; N] {
        // A closure would be compiled without the feature, and called.
        let mut vectors = [_mm512_set1_epi64(0); N];
        for (vector, block) in vectors.iter_mut().zip(blocks) {
            *vector = _mm512_broadcast_i32x4(bytemuck::cast(*block));
        }
        vectors
    }

    #[inline]
    #[target_feature(enable = "avx512f,vaes")]
    fn encrypt<const N: usize>(keys: &[__m512i; 11], mut blocks: [__m512i; N]) -> [__m512i; N] {
        blocks
            .iter_mut()
            .for_each(|b| *b = _mm512_xor_si512(*b, keys[0]));
        for key in &keys[1..10] {
            for b in &mut blocks {
                *b = _mm512_aesenc_epi128(*b, *key);
            }
        }
        blocks
            .iter_mut()
            .for_each(|b| *b = _mm512_aesenclast_epi128(*b, keys[10]));
        blocks
    }

    /// Fills all of `out`.
    #[target_feature(enable = "avx512f,vaes")]
    fn stream(keys: &[u128; 11], first: u64, mask: u64, out: &mut [MaybeUninit<u64>]) {
        let keys = broadcast(keys);
        let mask = _mm512_set1_epi64(mask as i64);
        let step = _mm512_set_epi64(0, 4, 0, 4, 0, 4, 0, 4);
        let at = |k: u64| first.wrapping_add(k) as i64;
        let mut counter = _mm512_set_epi64(0, at(3), 0, at(2), 0, at(1), 0, at(0));
        let mut chunks = out.chunks_exact_mut(WORDS * AT_ONCE);
        for chunk in &mut chunks {
            let mut blocks = [counter; AT_ONCE];
            for b in &mut blocks {
                *b = counter;
                counter = _mm512_add_epi64(counter, step);
            }
            for (words, b) in chunk.chunks_exact_mut(WORDS).zip(encrypt(&keys, blocks)) {
                // SAFETY: `words` are `WORDS` words.
                unsafe {
                    _mm512_storeu_si512(words.as_mut_ptr().cast(), _mm512_and_si512(b, mask))
                };
            }
        }
        for words in chunks.into_remainder().chunks_mut(WORDS) {
            let [b] = encrypt(&keys, [counter]);
            counter = _mm512_add_epi64(counter, step);
            // SAFETY: the mask names as many words as there are.
            unsafe {
                _mm512_mask_storeu_epi64(
                    words.as_mut_ptr().cast(),
                    named(words.len()),
                    _mm512_and_si512(b, mask),
                )
            };
        }
    }

    #[target_feature(enable = "avx512f,vaes")]
    fn permute(keys: &[u128; 11], blocks: &mut [u128]) {
        let keys = broadcast(keys);
        let mut chunks = blocks.chunks_exact_mut(BLOCKS * AT_ONCE);
        for chunk in &mut chunks {
            let read = load::<AT_ONCE>(chunk);
            store(chunk, encrypt(&keys, read));
        }
        for chunk in chunks.into_remainder().chunks_mut(BLOCKS) {
            let read = load::<1>(chunk);
            store(chunk, encrypt(&keys, read));
        }
    }

    #[target_feature(enable = "avx512f,vaes")]
    fn hash<const N: usize>(
        keys: &[u128; 11],
        nodes: &[u128],
        tweaks: &[u128],
        uses: [u128; N],
        out: &mut [&mut [u128]; N],
    ) {
        const VECTORS: usize = AT_ONCE / 2;
        let keys = broadcast(keys);
        let uses = broadcast(&uses);
        let whole = nodes.len() / (BLOCKS * VECTORS) * (BLOCKS * VECTORS);
        for at in (0..whole).step_by(BLOCKS * VECTORS) {
            hash_some::<N, VECTORS>(&keys, at..at + BLOCKS * VECTORS, nodes, tweaks, uses, out);
        }
        for at in (whole..nodes.len()).step_by(BLOCKS) {
            hash_some::<N, 1>(
                &keys,
                at..(at + BLOCKS).min(nodes.len()),
                nodes,
                tweaks,
                uses,
                out,
            );
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,vaes")]
    fn hash_some<const N: usize, const V: usize>(
        keys: &[__m512i; 11],
        range: std::ops::Range<usize>,
        nodes: &[u128],
        tweaks: &[u128],
        uses: [__m512i; N],
        out: &mut [&mut [u128]; N],
    ) {
        let once = encrypt(keys, load::<V>(&nodes[range.clone()]));
        let mut tweaked = load::<V>(&tweaks[range.clone()]);
        tweaked
            .iter_mut()
            .zip(once)
            .for_each(|(t, h)| *t = _mm512_xor_si512(*t, h));
        for (out, used) in out.iter_mut().zip(uses) {
            let mut hashed = tweaked;
            hashed
                .iter_mut()
                .for_each(|t| *t = _mm512_xor_si512(*t, used));
            hashed = encrypt(keys, hashed);
            hashed
                .iter_mut()
                .zip(once)
                .for_each(|(t, h)| *t = _mm512_xor_si512(*t, h));
            store(&mut out[range.clone()], hashed);
        }
    }

    /// Up to `4 V` blocks; zeros where there are fewer.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load<const V: usize>(blocks: &[u128]) -> [__m512i; V] {
        let mut vectors = [_mm512_set1_epi64(0); V];
        for (vector, blocks) in vectors.iter_mut().zip(blocks.chunks(BLOCKS)) {
            // SAFETY: the mask names as many words as there are.
            *vector = unsafe {
                _mm512_maskz_loadu_epi64(named(2 * blocks.len()), blocks.as_ptr().cast())
            };
        }
        vectors
    }

    /// As many blocks as there is room for.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store<const V: usize>(blocks: &mut [u128], vectors: [__m512i; V]) {
        for (vector, blocks) in vectors.into_iter().zip(blocks.chunks_mut(BLOCKS)) {
            // SAFETY: the mask names as many words as there are.
            unsafe {
                _mm512_mask_storeu_epi64(
                    blocks.as_mut_ptr().cast(),
                    named(2 * blocks.len()),
                    vector,
                )
            };
        }
    }

    /// A mask of the first `words` of a vector.
    fn named(words: usize) -> u8 {
        (0xff_u16 >> (WORDS - words)) as u8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: [u8; 16] = [
        0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6, 0xab, 0xf7, 0x15, 0x88, 9, 0xcf, 0x4f, 0x3c,
    ];

    fn both() -> [Cipher; 2] {
        [Cipher::new(&KEY), Cipher::portable(&KEY)]
    }

    /// NIST SP 800-38A, F.1.1.
    #[test]
    fn blocks_are_those_of_the_standard() {
        let plain = 0x2a17_9373_117e_3de9_969f_402e_e2be_c16b;
        let cipher = 0x97ef_6624_f3ca_9ea8_6036_7a0d_b47b_d73a;
        for aes in both() {
            let mut blocks = [plain; 70];
            aes.permute(&mut blocks);
            assert!(blocks.iter().all(|&block| block == cipher));
        }
    }

    #[test]
    fn every_length_is_the_same_on_vectors_and_block_by_block() {
        let [wide, portable] = both();
        for n in (0..150).chain([1 << 12, 4097]) {
            for first in [0, 5, u64::from(u32::MAX) - 3, u64::MAX - 2] {
                for mask in [u64::MAX, 0xffff_ffff_ffff, 1] {
                    assert_eq!(
                        wide.stream(first, n, mask),
                        portable.stream(first, n, mask),
                        "{n} words from {first}"
                    );
                }
            }
            for aes in [&wide, &portable] {
                let mut filled = vec![1; n];
                aes.fill(9, &mut filled);
                assert_eq!(filled, aes.stream(9, n, u64::MAX), "{n} words in place");
            }
            let blocks: Vec<u128> = (0..n as u128).map(|k| (k << 77) | (3 * k)).collect();
            let [mut a, mut b] = [blocks.clone(), blocks.clone()];
            wide.permute(&mut a);
            portable.permute(&mut b);
            assert_eq!(a, b, "{n} blocks");
            let [x, y] = [&wide, &portable].map(|aes| {
                let mut x = vec![0; n];
                let mut y = vec![0; n];
                aes.hash(&blocks, &a, [1 << 90, 7], [&mut x, &mut y]);
                let mut z = vec![0; n];
                aes.hash(&blocks, &a, [7], [&mut z]);
                assert_eq!(y, z);
                (x, y)
            });
            assert_eq!(x, y, "hashes of {n} blocks");
        }
    }

    #[test]
    fn the_hash_is_that_of_its_definition() {
        let aes = Cipher::portable(&KEY);
        let permuted = |mut block: u128| {
            aes.permute(std::slice::from_mut(&mut block));
            block
        };
        let node = 0x1234_5678_u128 << 70 | 99;
        let tweak = 5 << 64;
        let used = 3 << 32;
        let mut hash = [0];
        aes.hash(&[node], &[tweak], [used], [&mut hash]);
        assert_eq!(
            hash[0],
            permuted(permuted(node) ^ tweak ^ used) ^ permuted(node)
        );
    }

    /// Elsewhere the comparisons above compare the portable form with itself.
    #[test]
    fn a_machine_with_the_instructions_takes_them() {
        #[cfg(target_arch = "x86_64")]
        if std::is_x86_feature_detected!("vaes") && std::is_x86_feature_detected!("avx512f") {
            assert!(matches!(Cipher::new(&KEY).0, Backend::Wide(_)));
        }
    }
}
