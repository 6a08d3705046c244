//! AES on vectors of several blocks: of 512 bits where the machine has them, else of 256.
//!
//! The functions are written once, over operations on a vector that each width has its own of: what
//! calls an instruction must be compiled for machines that have it, which generic code is not.

use std::mem::MaybeUninit;

use zeroize::{Zeroize, ZeroizeOnDrop};

/// Vectors on their way at once: what hides the latency of a round.
const AT_ONCE: usize = 8;

/// Round keys. Made only where the instructions are there, which every method relies on.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Keys {
    rounds: [u128; 11],
    #[zeroize(skip)]
    width: Width,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Bits512,
    Bits256,
}

impl Width {
    /// The widest that the machine has.
    fn best() -> Option<Self> {
        let narrow = std::is_x86_feature_detected!("aes")
            && std::is_x86_feature_detected!("vaes")
            && std::is_x86_feature_detected!("avx2");
        let wide = narrow && std::is_x86_feature_detected!("avx512f");
        let narrow = narrow.then_some(Self::Bits256);
        wide.then_some(Self::Bits512).or(narrow)
    }
}

/// Calls a function of the width's module, which [`Keys::new`] found the features for.
macro_rules! call {
    ($keys:expr, $name:ident, $($argument:ident),*) => {
        // SAFETY: `new` detected the features.
        unsafe {
            match $keys.width {
                Width::Bits512 => bits512::$name(&$keys.rounds, $($argument),*),
                Width::Bits256 => bits256::$name(&$keys.rounds, $($argument),*),
            }
        }
    };
}

impl Keys {
    /// None where the machine lacks an instruction.
    pub(super) fn new(key: &[u8; 16]) -> Option<Self> {
        // SAFETY: the machine has the best width.
        Width::best().map(|width| unsafe { Self::with(key, width) })
    }

    /// The same of a width.
    ///
    /// # Safety
    /// The machine has it.
    unsafe fn with(key: &[u8; 16], width: Width) -> Self {
        // SAFETY: machines with either width have AES.
        let rounds = unsafe { expand(u128::from_le_bytes(*key)) };
        Self { rounds, width }
    }

    /// Of each width that the machine has.
    #[cfg(test)]
    pub(super) fn each(key: &[u8; 16]) -> Vec<Self> {
        let all = match Width::best() {
            Some(Width::Bits512) => vec![Width::Bits512, Width::Bits256],
            Some(Width::Bits256) => vec![Width::Bits256],
            None => Vec::new(),
        };
        // SAFETY: `best` asks for those of 256 bits before it gives 512.
        all.into_iter()
            .map(|width| unsafe { Self::with(key, width) })
            .collect()
    }

    pub(super) fn stream(&self, first: u64, n: usize, mask: u64) -> Vec<u64> {
        let mut out = Vec::with_capacity(n);
        let words = &mut out.spare_capacity_mut()[..n];
        call!(self, stream, first, mask, words);
        // SAFETY: `stream` fills all `n` words.
        unsafe { out.set_len(n) };
        out
    }

    pub(super) fn fill(&self, first: u64, out: &mut [u64]) {
        // SAFETY: words are valid uninitialized ones, and `stream` writes words only.
        let words = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<u64>]) };
        let mask = u64::MAX;
        call!(self, stream, first, mask, words);
    }

    pub(super) fn permute(&self, blocks: &mut [u128]) {
        call!(self, permute, blocks);
    }

    /// See [`super::Cipher::branch`], which compares the lengths.
    pub(super) fn branch(&self, nodes: &mut [u128], right: &mut [u128]) -> u128 {
        call!(self, branch, nodes, right)
    }

    /// See [`super::Cipher::hash`], which compares the lengths.
    pub(super) fn hash<const N: usize>(
        &self,
        nodes: &[u128],
        tweaks: &[u128],
        uses: [u128; N],
        out: &mut [&mut [u128]; N],
    ) {
        call!(self, hash, nodes, tweaks, uses, out);
    }
}

/// The key schedule (FIPS 197, section 5.2).
#[target_feature(enable = "aes,sse2")]
fn expand(key: u128) -> [u128; 11] {
    use std::arch::x86_64::{
        __m128i, _mm_aeskeygenassist_si128, _mm_shuffle_epi32, _mm_slli_si128, _mm_xor_si128,
    };

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

/// Operations on a width's vectors, each by its instruction.
macro_rules! operations {
    ($features:literal, $($name:ident($($x:ident),*) = $instruction:path;)*) => {
        $(
            #[inline]
            #[target_feature(enable = $features)]
            fn $name($($x: Vector),*) -> Vector {
                $instruction($($x),*)
            }
        )*
    };
}

/// Everything over a module's `Vector` of `BLOCKS` blocks, compiled for machines with `$features`.
macro_rules! functions {
    ($features:literal) => {
        /// Words of a vector.
        const WORDS: usize = 2 * BLOCKS;

        /// A block in every place, of each block.
        #[inline]
        #[target_feature(enable = $features)]
        fn broadcast<const N: usize>(blocks: &[u128; N]) -> [Vector; N] {
            // A closure would be compiled without the feature, and called.
            let mut vectors = [zero(); N];
            for (vector, block) in vectors.iter_mut().zip(blocks) {
                *vector = load_some(&[*block; BLOCKS]);
            }
            vectors
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn encrypt<const N: usize>(keys: &[Vector; 11], mut blocks: [Vector; N]) -> [Vector; N] {
            for b in &mut blocks {
                *b = xor(*b, keys[0]);
            }
            for key in &keys[1..10] {
                for b in &mut blocks {
                    *b = round(*b, *key);
                }
            }
            for b in &mut blocks {
                *b = last_round(*b, keys[10]);
            }
            blocks
        }

        /// Fills all of `out`.
        #[target_feature(enable = $features)]
        pub(super) fn stream(
            keys: &[u128; 11],
            first: u64,
            mask: u64,
            out: &mut [MaybeUninit<u64>],
        ) {
            let keys = broadcast(keys);
            let [mask] = broadcast(&[u128::from(mask) << 64 | u128::from(mask)]);
            let [step] = broadcast(&[BLOCKS as u128]);
            let mut counters = [0; BLOCKS];
            for (k, counter) in counters.iter_mut().enumerate() {
                *counter = u128::from(first.wrapping_add(k as u64));
            }
            let mut counter = load_some(&counters);
            let mut chunks = out.chunks_exact_mut(WORDS * AT_ONCE);
            for chunk in &mut chunks {
                let mut blocks = [counter; AT_ONCE];
                for b in &mut blocks {
                    *b = counter;
                    counter = add_words(counter, step);
                }
                for (words, b) in chunk.chunks_exact_mut(WORDS).zip(encrypt(&keys, blocks)) {
                    store_words(words, and(b, mask));
                }
            }
            for words in chunks.into_remainder().chunks_mut(WORDS) {
                let [b] = encrypt(&keys, [counter]);
                counter = add_words(counter, step);
                store_words(words, and(b, mask));
            }
        }

        #[target_feature(enable = $features)]
        pub(super) fn permute(keys: &[u128; 11], blocks: &mut [u128]) {
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

        #[target_feature(enable = $features)]
        pub(super) fn branch(keys: &[u128; 11], nodes: &mut [u128], right: &mut [u128]) -> u128 {
            let keys = broadcast(keys);
            let mut sum = zero();
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

        /// Up to `BLOCKS · V` nodes; the sum is right where there are as many.
        #[inline]
        #[target_feature(enable = $features)]
        fn branch_some<const V: usize>(
            keys: &[Vector; 11],
            nodes: &mut [u128],
            right: &mut [u128],
            sum: &mut Vector,
        ) {
            let parents = load::<V>(nodes);
            let [high] = broadcast(&[u128::MAX << 64]);
            let mut turned = parents;
            for t in &mut turned {
                let halves = swapped(*t);
                *t = xor(halves, and(*t, high));
            }
            let mut left = encrypt(keys, turned);
            let mut other = parents;
            for ((left, turned), right) in left.iter_mut().zip(turned).zip(&mut other) {
                *left = xor(*left, turned);
                *right = xor(*right, *left);
                *sum = xor(*sum, *left);
            }
            store(nodes, left);
            store(right, other);
        }

        #[target_feature(enable = $features)]
        pub(super) fn hash<const N: usize>(
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
                let range = at..at + BLOCKS * VECTORS;
                hash_some::<N, VECTORS>(&keys, range, nodes, tweaks, uses, out);
            }
            for at in (whole..nodes.len()).step_by(BLOCKS) {
                let range = at..(at + BLOCKS).min(nodes.len());
                hash_some::<N, 1>(&keys, range, nodes, tweaks, uses, out);
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn hash_some<const N: usize, const V: usize>(
            keys: &[Vector; 11],
            range: std::ops::Range<usize>,
            nodes: &[u128],
            tweaks: &[u128],
            uses: [Vector; N],
            out: &mut [&mut [u128]; N],
        ) {
            let once = encrypt(keys, load::<V>(&nodes[range.clone()]));
            let mut tweaked = load::<V>(&tweaks[range.clone()]);
            for (t, h) in tweaked.iter_mut().zip(once) {
                *t = xor(*t, h);
            }
            for (out, used) in out.iter_mut().zip(uses) {
                let mut hashed = tweaked;
                for t in &mut hashed {
                    *t = xor(*t, used);
                }
                hashed = encrypt(keys, hashed);
                for (t, h) in hashed.iter_mut().zip(once) {
                    *t = xor(*t, h);
                }
                store(&mut out[range.clone()], hashed);
            }
        }

        /// Up to `BLOCKS · V` blocks; zeros where there are fewer.
        #[inline]
        #[target_feature(enable = $features)]
        fn load<const V: usize>(blocks: &[u128]) -> [Vector; V] {
            let mut vectors = [zero(); V];
            for (vector, blocks) in vectors.iter_mut().zip(blocks.chunks(BLOCKS)) {
                *vector = load_some(blocks);
            }
            vectors
        }

        /// As many blocks as there is room for.
        #[inline]
        #[target_feature(enable = $features)]
        fn store<const V: usize>(blocks: &mut [u128], vectors: [Vector; V]) {
            for (vector, blocks) in vectors.into_iter().zip(blocks.chunks_mut(BLOCKS)) {
                store_some(blocks, vector);
            }
        }
    };
}

mod bits512 {
    use std::arch::x86_64::{
        __m512i, _mm512_add_epi64, _mm512_aesenc_epi128, _mm512_aesenclast_epi128,
        _mm512_and_si512, _mm512_mask_storeu_epi64, _mm512_maskz_loadu_epi64, _mm512_setzero_si512,
        _mm512_shuffle_epi32, _mm512_xor_si512,
    };

    use super::{AT_ONCE, MaybeUninit};

    const BLOCKS: usize = 4;
    type Vector = __m512i;

    functions!("avx512f,vaes");

    // `swapped` changes the words of each block over.
    operations! {
        "avx512f,vaes",
        zero() = _mm512_setzero_si512;
        xor(a, b) = _mm512_xor_si512;
        and(a, b) = _mm512_and_si512;
        add_words(a, b) = _mm512_add_epi64;
        swapped(a) = _mm512_shuffle_epi32::<0x4e>;
        round(block, key) = _mm512_aesenc_epi128;
        last_round(block, key) = _mm512_aesenclast_epi128;
    }

    /// Up to a vector's blocks; zeros where there are fewer.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn load_some(blocks: &[u128]) -> Vector {
        // SAFETY: the mask names as many words as there are.
        unsafe { _mm512_maskz_loadu_epi64(named(2 * blocks.len()), blocks.as_ptr().cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store_some(blocks: &mut [u128], vector: Vector) {
        let (words, at) = (2 * blocks.len(), blocks.as_mut_ptr().cast());
        // SAFETY: the mask names as many words as there are.
        unsafe { _mm512_mask_storeu_epi64(at, named(words), vector) };
    }

    #[inline]
    #[target_feature(enable = "avx512f")]
    fn store_words(words: &mut [MaybeUninit<u64>], vector: Vector) {
        // SAFETY: the mask names as many words as there are.
        unsafe { _mm512_mask_storeu_epi64(words.as_mut_ptr().cast(), named(words.len()), vector) };
    }

    /// A mask of the first `words` of a vector, at most all.
    fn named(words: usize) -> u8 {
        (0xff_u16 >> (WORDS - words)) as u8
    }
}

mod bits256 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_aesenc_epi128, _mm256_aesenclast_epi128,
        _mm256_and_si256, _mm256_setzero_si256, _mm256_shuffle_epi32, _mm256_xor_si256,
    };

    use super::{AT_ONCE, MaybeUninit};

    const BLOCKS: usize = 2;
    type Vector = __m256i;

    functions!("avx2,vaes");

    // `swapped` changes the words of each block over.
    operations! {
        "avx2,vaes",
        zero() = _mm256_setzero_si256;
        xor(a, b) = _mm256_xor_si256;
        and(a, b) = _mm256_and_si256;
        add_words(a, b) = _mm256_add_epi64;
        swapped(a) = _mm256_shuffle_epi32::<0x4e>;
        round(block, key) = _mm256_aesenc_epi128;
        last_round(block, key) = _mm256_aesenclast_epi128;
    }

    /// Up to a vector's blocks; zeros where there are fewer.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn load_some(blocks: &[u128]) -> Vector {
        let mut whole = [0; BLOCKS];
        match <&[u128; BLOCKS]>::try_from(blocks) {
            Ok(blocks) => whole = *blocks,
            Err(_) => whole[..blocks.len()].copy_from_slice(blocks),
        }
        bytemuck::cast(whole)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store_some(blocks: &mut [u128], vector: Vector) {
        let whole: [u128; BLOCKS] = bytemuck::cast(vector);
        match <&mut [u128; BLOCKS]>::try_from(&mut *blocks) {
            Ok(blocks) => *blocks = whole,
            Err(_) => blocks.copy_from_slice(&whole[..blocks.len()]),
        }
    }

    #[inline]
    #[target_feature(enable = "avx2")]
    fn store_words(words: &mut [MaybeUninit<u64>], vector: Vector) {
        let whole: [u64; WORDS] = bytemuck::cast(vector);
        let whole = whole.map(MaybeUninit::new);
        match <&mut [MaybeUninit<u64>; WORDS]>::try_from(&mut *words) {
            Ok(words) => *words = whole,
            Err(_) => words.copy_from_slice(&whole[..words.len()]),
        }
    }
}
