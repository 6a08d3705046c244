//! Transforms in floating point, for machines with AVX2 and fused multiplications but without the
//! 52-bit ones of AVX-512.
//!
//! A product `x·w` modulo `p` of whole doubles is exact in six instructions for four values: with
//! `h = fl(x·w)` and `l = x·w - h`, which a fused multiplication gives exactly, and
//! `q = round(x·fl(w/p))`, the result is `(h - q·p) + l` (as FLINT's `fft_small` does; van der
//! Hoeven, Lecerf, Quintin: "Modular SIMD arithmetic in Mathemagix", TOMS 2016, section 3). For
//! `p < 2^50`, `|w| ≤ p/2` and `|x| ≤ k·p` with `k ≤ 8`:
//!
//! - `x·w/p` is below `k·2^49`, so that `q` is off by at most `1/2 + k/8` and the result within
//!   `(1/2 + k/8)·p`;
//! - `h - q·p` is a whole number below `2^53`, since `l` is below `2^49`: no step rounds.
//!
//! Butterflies of two levels at once let values grow and reduce one of four: what enters one is
//! within `2.2·p` forward and `2·p` back, what a product takes within `8·p`, which is `2^53`.
//!
//! No instruction's time depends on its operands: there are no subnormal numbers among whole ones.

use std::arch::x86_64::{
    __m256d, _CMP_LT_OQ, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _mm256_add_pd,
    _mm256_and_pd, _mm256_castpd_si256, _mm256_castsi256_pd, _mm256_cmp_pd, _mm256_fmsub_pd,
    _mm256_fnmadd_pd, _mm256_mul_pd, _mm256_permute2f128_pd, _mm256_round_pd, _mm256_set1_epi64x,
    _mm256_set1_pd, _mm256_setzero_pd, _mm256_sub_pd, _mm256_unpackhi_pd, _mm256_unpacklo_pd,
    _mm256_xor_si256,
};

use super::{Transform, powers, root};
use crate::modulus::Modulus;

/// Values of a vector.
const LANES: usize = 4;

/// `w` balanced around 0, and `w / p`.
#[derive(Clone, Copy)]
struct Factor {
    w: f64,
    quotient: f64,
}

/// The same of a vector's values.
#[derive(Clone, Copy)]
struct Factors {
    w: [f64; LANES],
    quotient: [f64; LANES],
}

/// A transform of `n` residues; values come out in groups of four, turned.
pub(super) struct Doubles {
    prime: Prime,
    forward: Roots,
    inverse: Roots,
    inverse_n: Factor,
}

#[derive(Clone, Copy)]
struct Prime {
    p: f64,
    inverse: f64,
}

/// Of one direction.
struct Roots {
    /// In bit-reversed order: level by level.
    all: Vec<Factor>,
    /// Of the two levels among four neighbors: the first level's and both of the second.
    last: Vec<[Factors; 3]>,
}

impl Roots {
    fn new(powers: &[u64], p: u64) -> Self {
        let all: Vec<Factor> = powers.iter().map(|w| Factor::new(*w, p)).collect();
        let quarter = all.len() / 4;
        let groups = 0..quarter / LANES;
        let last = groups.map(|group| {
            let first = group * LANES;
            let at = |step: usize, start: usize| {
                let of: [Factor; LANES] = std::array::from_fn(|lane| all[start + step * lane]);
                Factors {
                    w: of.map(|factor| factor.w),
                    quotient: of.map(|factor| factor.quotient),
                }
            };
            [
                at(1, quarter + first),
                at(2, 2 * (quarter + first)),
                at(2, 2 * (quarter + first) + 1),
            ]
        });
        let last = last.collect();
        Self { all, last }
    }

    /// Of block `block` where a level has `blocks` of them: the level's and both of the next one.
    fn of(&self, blocks: usize, block: usize) -> [Factor; 3] {
        let at = blocks + block;
        [self.all[at], self.all[2 * at], self.all[2 * at + 1]]
    }
}

impl Factor {
    fn new(w: u64, p: u64) -> Self {
        let balanced = if w > p / 2 {
            w as i64 - p as i64
        } else {
            w as i64
        };
        let w = balanced as f64;
        Self {
            w,
            quotient: w / p as f64,
        }
    }
}

impl Doubles {
    /// None where the machine lacks an instruction; `n` is a power of two and the prime 1 modulo
    /// `2n`.
    pub(super) fn new(n: usize, modulus: Modulus) -> Option<Self> {
        let there = std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("fma");
        if !there || n < LANES * 4 {
            return None;
        }
        let p = modulus.p();
        assert!(p < 1 << 50, "products of longer primes are not exact");
        let root = root(n, modulus);
        let inverse_n = Factor::new(modulus.inverse(n as u64), p);
        Some(Self {
            prime: Prime {
                p: p as f64,
                inverse: 1.0 / p as f64,
            },
            forward: Roots::new(&powers(root, n, modulus), p),
            inverse: Roots::new(&powers(modulus.inverse(root), n, modulus), p),
            inverse_n,
        })
    }

    fn check(&self, x: &[u64]) {
        assert_eq!(x.len(), self.forward.all.len(), "one value a coefficient");
    }
}

impl Transform for Doubles {
    fn forward(&self, x: &mut [u64]) {
        self.check(x);
        // SAFETY: `new` detected the features.
        unsafe { forward(self, x) }
    }

    fn inverse(&self, x: &mut [u64]) {
        self.check(x);
        // SAFETY: `new` detected the features.
        unsafe { inverse(self, x) }
    }

    fn multiply_accumulate(&self, sums: &mut [u64], a: &[u64], b: &[u64]) {
        self.check(sums);
        self.check(a);
        self.check(b);
        // SAFETY: `new` detected the features.
        unsafe { multiply_accumulate(self.prime, sums, a, b) }
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn load(values: &[f64; LANES]) -> __m256d {
    bytemuck::cast(*values)
}

/// The bits of four words.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn read(words: &[u64; LANES]) -> __m256d {
    bytemuck::cast(*words)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn write(words: &mut [u64; LANES], values: __m256d) {
    *words = bytemuck::cast(values);
}

/// A prime, or a factor, in all four places.
#[derive(Clone, Copy)]
struct Wide {
    p: __m256d,
    inverse: __m256d,
}

#[derive(Clone, Copy)]
struct WideFactor {
    w: __m256d,
    quotient: __m256d,
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn wide(prime: Prime) -> Wide {
    Wide {
        p: _mm256_set1_pd(prime.p),
        inverse: _mm256_set1_pd(prime.inverse),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn same(factor: Factor) -> WideFactor {
    WideFactor {
        w: _mm256_set1_pd(factor.w),
        quotient: _mm256_set1_pd(factor.quotient),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn each(factors: &Factors) -> WideFactor {
    WideFactor {
        w: load(&factors.w),
        quotient: load(&factors.quotient),
    }
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn nearest(x: __m256d) -> __m256d {
    _mm256_round_pd::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
}

/// `x·w mod p`, within `(1/2 + k/8)·p` for `|x| ≤ k·p`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn product(x: __m256d, factor: WideFactor, prime: Wide) -> __m256d {
    let high = _mm256_mul_pd(x, factor.w);
    let low = _mm256_fmsub_pd(x, factor.w, high);
    let quotient = nearest(_mm256_mul_pd(x, factor.quotient));
    _mm256_add_pd(_mm256_fnmadd_pd(quotient, prime.p, high), low)
}

/// `x mod p`, within `p/2` but for a rounding of `x / p`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn reduced(x: __m256d, prime: Wide) -> __m256d {
    let quotient = nearest(_mm256_mul_pd(x, prime.inverse));
    _mm256_fnmadd_pd(quotient, prime.p, x)
}

/// The bits of `2^52`: a whole number below it lies in the last 52 bits of its sum with `2^52`.
const TWO_52: u64 = 0x4330_0000_0000_0000;

/// Words below `2^52` as doubles.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn whole(words: __m256d) -> __m256d {
    let bits = _mm256_set1_epi64x(TWO_52 as i64);
    let sum = _mm256_castsi256_pd(_mm256_xor_si256(_mm256_castpd_si256(words), bits));
    _mm256_sub_pd(sum, _mm256_castsi256_pd(bits))
}

/// The word in `[0, p)`.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn residue(x: __m256d, prime: Wide) -> __m256d {
    let x = reduced(x, prime);
    let negative = _mm256_cmp_pd::<_CMP_LT_OQ>(x, _mm256_setzero_pd());
    let x = _mm256_add_pd(x, _mm256_and_pd(negative, prime.p));
    let bits = _mm256_set1_epi64x(TWO_52 as i64);
    let sum = _mm256_add_pd(x, _mm256_castsi256_pd(bits));
    _mm256_castsi256_pd(_mm256_xor_si256(_mm256_castpd_si256(sum), bits))
}

/// Rows to columns.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn turned(x: [__m256d; 4]) -> [__m256d; 4] {
    let low = [
        _mm256_unpacklo_pd(x[0], x[1]),
        _mm256_unpacklo_pd(x[2], x[3]),
    ];
    let high = [
        _mm256_unpackhi_pd(x[0], x[1]),
        _mm256_unpackhi_pd(x[2], x[3]),
    ];
    [
        _mm256_permute2f128_pd::<0x20>(low[0], low[1]),
        _mm256_permute2f128_pd::<0x20>(high[0], high[1]),
        _mm256_permute2f128_pd::<0x31>(low[0], low[1]),
        _mm256_permute2f128_pd::<0x31>(high[0], high[1]),
    ]
}

/// Two levels of Cooley and Tukey on a quarter each; the first is reduced.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn down(x: [__m256d; 4], factors: [WideFactor; 3], prime: Wide) -> [__m256d; 4] {
    let first = reduced(x[0], prime);
    let third = product(x[2], factors[0], prime);
    let fourth = product(x[3], factors[0], prime);
    let y = [
        _mm256_add_pd(first, third),
        _mm256_add_pd(x[1], fourth),
        _mm256_sub_pd(first, third),
        _mm256_sub_pd(x[1], fourth),
    ];
    let second = product(y[1], factors[1], prime);
    let fourth = product(y[3], factors[2], prime);
    [
        _mm256_add_pd(y[0], second),
        _mm256_sub_pd(y[0], second),
        _mm256_add_pd(y[2], fourth),
        _mm256_sub_pd(y[2], fourth),
    ]
}

/// Two levels of Gentleman and Sande: the inverse of [`down`] but for a factor of four.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn up(x: [__m256d; 4], factors: [WideFactor; 3], prime: Wide) -> [__m256d; 4] {
    let y = [
        _mm256_add_pd(x[0], x[1]),
        product(_mm256_sub_pd(x[0], x[1]), factors[1], prime),
        _mm256_add_pd(x[2], x[3]),
        product(_mm256_sub_pd(x[2], x[3]), factors[2], prime),
    ];
    [
        reduced(_mm256_add_pd(y[0], y[2]), prime),
        _mm256_add_pd(y[1], y[3]),
        product(_mm256_sub_pd(y[0], y[2]), factors[0], prime),
        product(_mm256_sub_pd(y[1], y[3]), factors[0], prime),
    ]
}

/// The quarters of a block, in vectors.
fn quarters(block: &mut [u64]) -> [&mut [[u64; LANES]]; 4] {
    let (left, right) = block.split_at_mut(block.len() / 2);
    let (a, b) = left.split_at_mut(left.len() / 2);
    let (c, d) = right.split_at_mut(right.len() / 2);
    [a, b, c, d].map(|quarter| quarter.as_chunks_mut().0)
}

/// The two levels that begin with `blocks` blocks: [`down`], or else [`up`]. A constant chooses: a
/// closure would be compiled without the features.
#[inline]
#[target_feature(enable = "avx2,fma")]
fn two_levels<const DOWN: bool>(x: &mut [u64], blocks: usize, roots: &Roots, prime: Wide) {
    let size = x.len() / blocks;
    for (block, words) in x.chunks_exact_mut(size).enumerate() {
        let [w, left, right] = roots.of(blocks, block);
        let factors = [same(w), same(left), same(right)];
        let [a, b, c, d] = quarters(words);
        for (((a, b), c), d) in a.iter_mut().zip(b).zip(c).zip(d) {
            let x = [read(a), read(b), read(c), read(d)];
            let y = match DOWN {
                true => down(x, factors, prime),
                false => up(x, factors, prime),
            };
            write(a, y[0]);
            write(b, y[1]);
            write(c, y[2]);
            write(d, y[3]);
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn forward(ntt: &Doubles, x: &mut [u64]) {
    let prime = wide(ntt.prime);
    let levels = x.len().trailing_zeros();
    let mut blocks = 1;
    if levels % 2 == 1 {
        // One level alone.
        let factor = same(ntt.forward.all[1]);
        let (left, right) = x.split_at_mut(x.len() / 2);
        for (a, b) in left
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(right.as_chunks_mut().0)
        {
            let first = whole(read(a));
            let second = product(whole(read(b)), factor, prime);
            write(a, _mm256_add_pd(first, second));
            write(b, _mm256_sub_pd(first, second));
        }
        blocks = 2;
    } else {
        for words in x.as_chunks_mut().0 {
            write(words, whole(read(words)));
        }
    }
    while x.len() / blocks > 4 {
        two_levels::<true>(x, blocks, &ntt.forward, prime);
        blocks *= 4;
    }
    for (words, factors) in x.as_chunks_mut().0.iter_mut().zip(&ntt.forward.last) {
        let words: &mut [u64; 4 * LANES] = words;
        let factors = [each(&factors[0]), each(&factors[1]), each(&factors[2])];
        let rows = words.as_chunks_mut().0;
        let x = turned([
            read(&rows[0]),
            read(&rows[1]),
            read(&rows[2]),
            read(&rows[3]),
        ]);
        let y = down(x, factors, prime);
        for (row, y) in rows.iter_mut().zip(y) {
            write(row, residue(y, prime));
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn inverse(ntt: &Doubles, x: &mut [u64]) {
    let prime = wide(ntt.prime);
    for (words, factors) in x.as_chunks_mut().0.iter_mut().zip(&ntt.inverse.last) {
        let words: &mut [u64; 4 * LANES] = words;
        let factors = [each(&factors[0]), each(&factors[1]), each(&factors[2])];
        let rows = words.as_chunks_mut().0;
        let x = [
            whole(read(&rows[0])),
            whole(read(&rows[1])),
            whole(read(&rows[2])),
            whole(read(&rows[3])),
        ];
        let y = turned(up(x, factors, prime));
        for (row, y) in rows.iter_mut().zip(y) {
            write(row, y);
        }
    }
    let mut blocks = x.len() / 16;
    while blocks > 0 {
        two_levels::<false>(x, blocks, &ntt.inverse, prime);
        blocks /= 4;
    }
    let inverse_n = same(ntt.inverse_n);
    if x.len().trailing_zeros() % 2 == 1 {
        let factor = same(ntt.inverse.all[1]);
        let (left, right) = x.split_at_mut(x.len() / 2);
        for (a, b) in left
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(right.as_chunks_mut().0)
        {
            let (first, second) = (read(a), read(b));
            write(a, _mm256_add_pd(first, second));
            write(b, product(_mm256_sub_pd(first, second), factor, prime));
        }
    }
    for words in x.as_chunks_mut().0 {
        write(
            words,
            residue(product(read(words), inverse_n, prime), prime),
        );
    }
}

#[target_feature(enable = "avx2,fma")]
fn multiply_accumulate(prime: Prime, sums: &mut [u64], a: &[u64], b: &[u64]) {
    let prime = wide(prime);
    let factors = a.as_chunks().0.iter().zip(b.as_chunks().0);
    for (sums, (a, b)) in sums.as_chunks_mut().0.iter_mut().zip(factors) {
        let (a, b) = (whole(read(a)), whole(read(b)));
        // `a·b/p` is below 2^50 and rounded three times, by 3/8 together.
        let high = _mm256_mul_pd(a, b);
        let low = _mm256_fmsub_pd(a, b, high);
        let quotient = nearest(_mm256_mul_pd(high, prime.inverse));
        let product = _mm256_add_pd(_mm256_fnmadd_pd(quotient, prime.p, high), low);
        let sum = _mm256_add_pd(whole(read(sums)), product);
        write(sums, residue(sum, prime));
    }
}
