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

#[cfg(target_arch = "x86_64")]
mod wide {
    use std::{
        arch::x86_64::{
            __m128i, __m512i, _mm_aeskeygenassist_si128, _mm_shuffle_epi32, _mm_slli_si128,
            _mm_xor_si128, _mm512_add_epi64, _mm512_aesenc_epi128, _mm512_aesenclast_epi128,
            _mm512_and_si512, _mm512_broadcast_i32x4, _mm512_mask_storeu_epi64,
            _mm512_maskz_loadu_epi64, _mm512_set_epi64, _mm512_set1_epi64, _mm512_shuffle_epi32,
            _mm512_storeu_si512, _mm512_xor_si512,
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

        /// See [`super::Cipher::branch`], which compares the lengths.
        pub(super) fn branch(&self, nodes: &mut [u128], right: &mut [u128]) -> u128 {
            // SAFETY: `new` detected the features.
            unsafe { branch(&self.0, nodes, right) }
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
    fn branch(keys: &[u128; 11], nodes: &mut [u128], right: &mut [u128]) -> u128 {
        let keys = broadcast(keys);
        let mut sum = _mm512_set1_epi64(0);
        let whole = nodes.len() / (BLOCKS * AT_ONCE) * (BLOCKS * AT_ONCE);
        let (nodes, last) = nodes.split_at_mut(whole);
        let (right, last_right) = right.split_at_mut(whole);
        let chunks = nodes.chunks_exact_mut(BLOCKS * AT_ONCE);
        for (nodes, right) in chunks.zip(right.chunks_exact_mut(BLOCKS * AT_ONCE)) {
            branch_some::<AT_ONCE>(&keys, nodes, right, &mut sum);
        }
        let chunks = last.chunks_mut(BLOCKS);
        let mut rest = 0;
        for (nodes, right) in chunks.zip(last_right.chunks_mut(BLOCKS)) {
            let mut unused = sum;
            branch_some::<1>(&keys, nodes, right, &mut unused);
            nodes.iter().for_each(|left| rest ^= left);
        }
        let mut sums = [0; BLOCKS];
        store(&mut sums, [sum]);
        sums.iter().fold(rest, |sum, lane| sum ^ lane)
    }

    /// Up to `4 V` nodes; the sum is right where there are as many.
    #[inline]
    #[target_feature(enable = "avx512f,vaes")]
    fn branch_some<const V: usize>(
        keys: &[__m512i; 11],
        nodes: &mut [u128],
        right: &mut [u128],
        sum: &mut __m512i,
    ) {
        let parents = load::<V>(nodes);
        let high = _mm512_set_epi64(-1, 0, -1, 0, -1, 0, -1, 0);
        let mut turned = parents;
        for t in &mut turned {
            let swapped = _mm512_shuffle_epi32::<0x4e>(*t);
            *t = _mm512_xor_si512(swapped, _mm512_and_si512(*t, high));
        }
        let mut left = encrypt(keys, turned);
        let mut other = parents;
        for ((left, turned), right) in left.iter_mut().zip(turned).zip(&mut other) {
            *left = _mm512_xor_si512(*left, turned);
            *right = _mm512_xor_si512(*right, *left);
            *sum = _mm512_xor_si512(*sum, *left);
        }
        store(nodes, left);
        store(right, other);
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
mod tests;
