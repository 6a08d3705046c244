//! The public code of LPN: each row adds ten random entries of the secret.
//!
//! Rows are the counters of AES under a public key of the iteration, so that no row is used twice;
//! ten words of 32 bits a row, cut to the secret's size. Addresses are public. At the sender the
//! entries are `q`, at the chooser `q ⊕ u·Δ` with the secret bit `u` in the lowest bit: one sum of
//! blocks is the code of both.

use marill_crypto::aes::Cipher;

use super::set::WEIGHT;

/// Rows whose places are drawn at a time: 10 KiB of them, beside the blocks in a first-level cache.
const ROWS: usize = 256;
/// Words of 64 bits of a row's places.
const WORDS: usize = WEIGHT / 2;

/// Room for places.
pub(crate) struct Places(Vec<u64>);

impl Places {
    pub(crate) fn new() -> Self {
        Self(vec![0; WORDS * ROWS])
    }

    /// Clears the lowest bit of each of `rows` and adds the code's row, from number `first` on, a
    /// multiple of two.
    pub(crate) fn add_code(
        &mut self,
        matrix: &Cipher,
        first: u64,
        secret: &[u128],
        rows: &mut [u128],
    ) {
        let mut counter = first / 2 * WORDS as u64;
        for rows in rows.chunks_mut(ROWS) {
            let places = &mut self.0[..WORDS * rows.len()];
            matrix.fill(counter, places);
            counter += places.len() as u64 / 2;
            match secret.len().trailing_zeros() {
                16 => add::<{ 1 << 16 }>(secret, places, rows),
                17 => add::<{ 1 << 17 }>(secret, places, rows),
                18 => add::<{ 1 << 18 }>(secret, places, rows),
                19 => add::<{ 1 << 19 }>(secret, places, rows),
                _ => unreachable!("the secret of a set"),
            }
        }
    }
}

/// A constant size lets the compiler see that a cut place is inside.
fn add<const K: usize>(secret: &[u128], places: &[u64], rows: &mut [u128]) {
    let secret: &[u128; K] = secret.try_into().expect("matched by its length");
    let (places, _) = places.as_chunks::<WORDS>();
    for (row, places) in rows.iter_mut().zip(places) {
        let mut sum = *row & !1;
        for word in places {
            sum ^= secret[*word as usize & (K - 1)];
            sum ^= secret[(*word >> 32) as usize & (K - 1)];
        }
        *row = sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_adds_ten_entries_wherever_it_is_cut() {
        let matrix = Cipher::new(&[8; 16]);
        let secret: Vec<u128> = (0..1u128 << 16).map(|i| i << 64 | i << 1).collect();
        let mut whole = vec![7u128; 1000];
        Places::new().add_code(&matrix, 0, &secret, &mut whole);
        for (i, row) in whole.iter().enumerate() {
            let words = matrix.stream(0, 5 * (i + 1), u64::MAX);
            let places = words[5 * i..].iter();
            let places = places.flat_map(|w| [w & 0xffff, w >> 32 & 0xffff]);
            let sum = places.fold(6, |sum, at| sum ^ secret[at as usize]);
            assert_eq!(*row, sum, "row {i}");
        }
        let mut cut = vec![7u128; 1000];
        let (head, tail) = cut.split_at_mut(400);
        Places::new().add_code(&matrix, 0, &secret, head);
        Places::new().add_code(&matrix, 400, &secret, tail);
        assert_eq!(whole, cut);
    }
}
