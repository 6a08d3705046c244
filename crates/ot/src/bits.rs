//! Packed bits: planes (one bit of each of many values) and messages of bits.

use std::ops::{BitAnd, BitXor, BitXorAssign, Not};

use marill_crypto::Prg;
use marill_numeric::fixed::low_mask;
use zeroize::Zeroize;

use crate::{error::OtError, transpose};

/// `n` bits, 64 to a word; unused bits of the last word are zero. Never printed, erased when
/// dropped.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Bits {
    n: usize,
    words: Vec<u64>,
}

impl std::fmt::Debug for Bits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bits({})", self.n)
    }
}

impl Drop for Bits {
    fn drop(&mut self) {
        self.words.zeroize();
    }
}

impl Bits {
    #[must_use]
    pub fn zeros(n: usize) -> Self {
        Self {
            n,
            words: vec![0; n.div_ceil(64)],
        }
    }

    #[must_use]
    pub fn ones(n: usize) -> Self {
        !&Self::zeros(n)
    }

    /// The first `n` bits of `words`.
    ///
    /// # Panics
    /// When there are fewer words than `n` bits need.
    #[must_use]
    pub fn from_words(n: usize, words: &[u64]) -> Self {
        let words = words[..n.div_ceil(64)].to_vec();
        let mut bits = Self { n, words };
        bits.clear_tail();
        bits
    }

    /// The lowest bit of each `value(i)`.
    pub fn from_fn(n: usize, mut value: impl FnMut(usize) -> u64) -> Self {
        let mut bits = Self::zeros(n);
        for (w, word) in bits.words.iter_mut().enumerate() {
            let start = 64 * w;
            for i in start..n.min(start + 64) {
                *word |= (value(i) & 1) << (i - start);
            }
        }
        bits
    }

    #[must_use]
    pub fn random(n: usize, prg: &mut Prg) -> Self {
        Self::from_words(n, &prg.words(n.div_ceil(64)))
    }

    fn clear_tail(&mut self) {
        if let (Some(last), 1..) = (self.words.last_mut(), self.n % 64) {
            *last &= low_mask((self.n % 64) as u32);
        }
    }

    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The bit at `i`, which is public.
    #[must_use]
    pub fn get(&self, i: usize) -> u64 {
        (self.words[i / 64] >> (i % 64)) & 1
    }

    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        assert_eq!(self.n, other.n, "planes of one length");
        let words = self.words.iter().zip(&other.words);
        Self {
            n: self.n,
            words: words.map(|(a, b)| f(*a, *b)).collect(),
        }
    }

    /// `a` where `self` is 0, `b` where it is 1.
    #[must_use]
    pub fn choose(&self, a: &Self, b: &Self) -> Self {
        &(&(a ^ b) & self) ^ a
    }

    /// Changes `a` and `b` for each other where `self` is 1.
    pub fn swap(&self, a: &mut Self, b: &mut Self) {
        let difference = &(&*a ^ &*b) & self;
        *a ^= &difference;
        *b ^= &difference;
    }

    /// Bit `j` of each value, for `j` below `bits`.
    #[must_use]
    pub fn planes(values: &[u64], bits: u32) -> Vec<Self> {
        let n = values.len();
        let mut planes = vec![Self::zeros(n); bits as usize];
        for (w, chunk) in values.chunks(64).enumerate() {
            let mut square = [[0u64; 1]; 64];
            square
                .iter_mut()
                .zip(chunk)
                .for_each(|(row, value)| row[0] = *value);
            transpose::square(&mut square);
            for (plane, row) in planes.iter_mut().zip(&square) {
                plane.words[w] = row[0];
            }
        }
        planes
    }

    /// The values whose bit `j` is in plane `j`.
    ///
    /// # Panics
    /// When there are more than 64 planes, or planes of different lengths.
    #[must_use]
    pub fn values(planes: &[Self]) -> Vec<u64> {
        let n = planes.first().map_or(0, Self::n);
        assert!(planes.len() <= 64 && planes.iter().all(|plane| plane.n == n));
        let mut values = Vec::with_capacity(n.next_multiple_of(64));
        for w in 0..n.div_ceil(64) {
            let mut square = [[0u64; 1]; 64];
            for (row, plane) in square.iter_mut().zip(planes) {
                row[0] = plane.words[w];
            }
            transpose::square(&mut square);
            values.extend(square.iter().map(|row| row[0]));
        }
        values.truncate(n);
        values
    }
}

impl BitXor for &Bits {
    type Output = Bits;

    fn bitxor(self, other: Self) -> Bits {
        self.zip(other, |a, b| a ^ b)
    }
}

impl BitAnd for &Bits {
    type Output = Bits;

    fn bitand(self, other: Self) -> Bits {
        self.zip(other, |a, b| a & b)
    }
}

impl BitXorAssign<&Bits> for Bits {
    fn bitxor_assign(&mut self, other: &Bits) {
        assert_eq!(self.n, other.n, "planes of one length");
        let words = self.words.iter_mut().zip(&other.words);
        words.for_each(|(a, b)| *a ^= b);
    }
}

impl Not for &Bits {
    type Output = Bits;

    fn not(self) -> Bits {
        let mut bits = Bits {
            n: self.n,
            words: self.words.iter().map(|word| !word).collect(),
        };
        bits.clear_tail();
        bits
    }
}

/// A message of bits, packed without gaps.
#[derive(Default)]
pub struct BitWriter {
    words: Vec<u64>,
    len: usize,
}

impl BitWriter {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Bits so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a value below `2^width`, the lowest bit first.
    #[inline]
    pub fn push(&mut self, value: u64, width: u32) {
        debug_assert_eq!(value & !low_mask(width), 0, "a value of its width");
        let at = (self.len % 64) as u32;
        if at == 0 {
            if width > 0 {
                self.words.push(value);
            }
        } else {
            *self.words.last_mut().expect("a word was begun") |= value << at;
            if at + width > 64 {
                self.words.push(value >> (64 - at));
            }
        }
        self.len += width as usize;
    }

    pub fn push_bits(&mut self, bits: &Bits) {
        if self.len.is_multiple_of(64) {
            self.words.extend_from_slice(&bits.words);
            self.len += bits.n;
            return;
        }
        for (w, word) in bits.words.iter().enumerate() {
            self.push(*word, (bits.n - 64 * w).min(64) as u32);
        }
    }

    /// Whole bytes; the last one is filled with zeros.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        let bytes = self.words.iter().flat_map(|word| word.to_le_bytes());
        bytes.take(self.len.div_ceil(8)).collect()
    }
}

/// Reads what a [`BitWriter`] wrote.
pub struct BitReader {
    words: Vec<u64>,
    at: usize,
    len: usize,
}

impl BitReader {
    /// A message of `len` bits.
    ///
    /// # Errors
    /// [`OtError::Frame`] when its bytes are of another number, [`OtError::Malformed`] when what
    /// fills the last byte is not zero.
    pub fn new(bytes: &[u8], len: usize, step: &'static str) -> Result<Self, OtError> {
        let expected = len.div_ceil(8);
        if bytes.len() != expected {
            let got = bytes.len();
            return Err(OtError::Frame {
                step,
                expected,
                got,
            });
        }
        if !len.is_multiple_of(8) && bytes.last().is_some_and(|last| last >> (len % 8) != 0) {
            let reason = "bits after its end";
            return Err(OtError::Malformed { step, reason });
        }
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Ok(Self {
            words: words.collect(),
            at: 0,
            len,
        })
    }

    /// The next value of `width` bits.
    ///
    /// # Panics
    /// When the message ends before; its length is checked against the protocol's by
    /// [`Self::new`].
    #[inline]
    pub fn take(&mut self, width: u32) -> u64 {
        if width == 0 {
            return 0;
        }
        assert!(self.at + width as usize <= self.len, "a message's end");
        let word = self.at / 64;
        let bit = (self.at % 64) as u32;
        let mut value = self.words[word] >> bit;
        if bit + width > 64 {
            value |= self.words[word + 1] << (64 - bit);
        }
        self.at += width as usize;
        value & low_mask(width)
    }

    pub fn take_bits(&mut self, n: usize) -> Bits {
        if self.at.is_multiple_of(64) && self.at + n <= self.len {
            let bits = Bits::from_words(n, &self.words[self.at / 64..]);
            self.at += n;
            return bits;
        }
        let words: Vec<u64> = (0..n.div_ceil(64))
            .map(|w| self.take((n - 64 * w).min(64) as u32))
            .collect();
        Bits { n, words }
    }

    /// Whether every bit was read.
    #[must_use]
    pub fn is_read(&self) -> bool {
        self.at == self.len
    }
}

#[cfg(test)]
mod tests {
    use marill_crypto::Seed;

    use super::*;

    fn prg() -> Prg {
        Prg::new(&Seed::from_bytes([3; 32]), "bits")
    }

    #[test]
    fn planes_and_values_are_inverses() {
        for n in [1, 63, 64, 65, 200] {
            let values = prg().reduced(n, 37);
            let planes = Bits::planes(&values, 37);
            assert!((0..n).all(|i| planes[5].get(i) == (values[i] >> 5) & 1));
            assert_eq!(Bits::values(&planes), values);
        }
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        let mut prg = prg();
        let plane = Bits::random(77, &mut prg);
        let values = prg.reduced(9, 37);
        let mut message = BitWriter::new();
        message.push(5, 3);
        message.push_bits(&plane);
        values.iter().for_each(|value| message.push(*value, 37));
        message.push(u64::MAX, 64);
        message.push(0, 0);
        let len = message.len();
        assert_eq!(len, 3 + 77 + 9 * 37 + 64);
        let bytes = message.finish();
        let mut reader = BitReader::new(&bytes, len, "test").unwrap();
        assert_eq!(reader.take(3), 5);
        assert_eq!(reader.take_bits(77), plane);
        assert!(values.iter().all(|value| reader.take(37) == *value));
        assert_eq!(reader.take(64), u64::MAX);
        assert!(reader.is_read());
    }

    #[test]
    fn a_message_of_another_length_is_refused() {
        assert!(BitReader::new(&[1, 2], 9, "test").is_err());
        assert!(BitReader::new(&[1, 1], 9, "test").is_ok());
        assert!(BitReader::new(&[1], 9, "test").is_err());
    }

    #[test]
    fn nothing_secret_is_printed() {
        assert_eq!(format!("{:?}", Bits::ones(3)), "Bits(3)");
        assert_eq!(Bits::ones(70).words()[1], 63);
    }
}
