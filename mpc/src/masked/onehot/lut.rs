//! Table lookups by one-hot vectors.
//!
//! With XOR-shared one-hot bits `b_0 ⊕ b_1` of a mask digit `r`,
//! `Σ_i T[(x̂ - i)]·(b_1[i] - b_0[i]) = s·T[x̂ - r]`, where `s = ±1` tells whose bit is set at `r`.
//! The dealer knows `s` and folds it into the corrections of the product that uses the lookup; it
//! never rejects a mask until `s` fits, which would bias the mask.

use marill_numeric::ring::masked_sum;

use crate::masked::boolean::OneHot;

/// A table prepared for rotation by a public digit: entry `v` of the slice for digit `d` is
/// `T[(d - v) mod size]`.
pub(crate) struct Rotated {
    size: usize,
    doubled: Vec<u32>,
}

impl Rotated {
    /// Entries are taken modulo 2^32.
    pub(crate) fn new(table: impl Iterator<Item = u64>) -> Self {
        let table: Vec<u32> = table.map(|v| v as u32).collect();
        let size = table.len();
        // Backwards and twice, so that every rotation is one slice.
        let doubled = (0..2 * size)
            .map(|k| table[(2 * size - k) % size])
            .collect();
        Self { size, doubled }
    }

    fn slice(&self, digit: usize) -> &[u32] {
        &self.doubled[self.size - digit % self.size..][..self.size]
    }

    /// `Σ_v bit(v) · T[(digit - v) mod size]`.
    pub(crate) fn sum(&self, bits: &[u64], digit: usize) -> u64 {
        u64::from(masked_sum(bits, self.slice(digit)))
    }
}

impl OneHot {
    /// The shared vector of one element, at an evaluator.
    pub(crate) fn bits_of(&self, row: usize) -> &[u64] {
        &self.data[row * self.stride..][..self.stride]
    }

    /// The lookup's sign as a ring element, at the dealer: -1 when E0's bit is the hot one.
    pub(crate) fn sign_of(&self, row: usize) -> u64 {
        1u64.wrapping_sub(2 * self.data[row])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_sum_reads_the_table_at_the_difference() {
        let table: Vec<u64> = (0..64).map(|i| i * i + 3).collect();
        let rotated = Rotated::new(table.iter().copied());
        for (digit, hot) in [(0, 0), (5, 63), (63, 5), (17, 17), (1, 2)] {
            let expected = table[(digit + 64 - hot) % 64];
            assert_eq!(rotated.sum(&[1 << hot], digit), expected);
        }
    }
}
