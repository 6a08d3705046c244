//! Transposing matrices of bits: from a row per column of the correlation to a block per transfer.

/// Words of a row that are transposed side by side: a vector of 512 bits.
const LANES: usize = 8;

/// Transposes `L` squares of 64 by 64 bits, one per lane: bit `c` of row `r` becomes bit `r` of
/// row `c`.
#[inline(always)]
pub(crate) fn square<const L: usize>(rows: &mut [[u64; L]; 64]) {
    let mut width = 32;
    let mut mask = 0x0000_0000_ffff_ffff_u64;
    while width > 0 {
        for start in (0..64).step_by(2 * width) {
            for i in start..start + width {
                for l in 0..L {
                    let swapped = ((rows[i][l] >> width) ^ rows[i + width][l]) & mask;
                    rows[i][l] ^= swapped << width;
                    rows[i + width][l] ^= swapped;
                }
            }
        }
        width >>= 1;
        mask ^= mask << width;
    }
}

/// `L` words of each of 128 rows, from word `at` on.
#[inline(always)]
fn lanes<const L: usize>(rows: &[u64], words: usize, at: usize, blocks: &mut [u128]) {
    let mut halves = [[[0u64; L]; 64]; 2];
    for (h, half) in halves.iter_mut().enumerate() {
        for (r, row) in half.iter_mut().enumerate() {
            let start = (64 * h + r) * words + at;
            row.copy_from_slice(&rows[start..start + L]);
        }
        square(half);
    }
    let [low, high] = &halves;
    for l in 0..L {
        for c in 0..64 {
            blocks[64 * (at + l) + c] = u128::from(high[c][l]) << 64 | u128::from(low[c][l]);
        }
    }
}

#[inline(always)]
fn body(rows: &[u64], blocks: &mut [u128]) {
    let words = blocks.len() / 64;
    let whole = words / LANES * LANES;
    for at in (0..whole).step_by(LANES) {
        lanes::<LANES>(rows, words, at, blocks);
    }
    for at in whole..words {
        lanes::<1>(rows, words, at, blocks);
    }
}

/// Transposes 128 rows of `n` bits to `n` blocks, `n` a multiple of 64: bit `r` of block `c` is bit
/// `c` of row `r`.
pub(crate) fn to_blocks(rows: &[u64], blocks: &mut [u128]) {
    assert!(blocks.len().is_multiple_of(64) && rows.len() == 2 * blocks.len());
    #[cfg(target_arch = "x86_64")]
    {
        // Shifts and ands of whole vectors; without the features each is four instructions.
        #[target_feature(enable = "avx512f")]
        fn widest(rows: &[u64], blocks: &mut [u128]) {
            body(rows, blocks);
        }
        #[target_feature(enable = "avx2")]
        fn wide(rows: &[u64], blocks: &mut [u128]) {
            body(rows, blocks);
        }
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just detected.
            return unsafe { widest(rows, blocks) };
        }
        if std::is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just detected.
            return unsafe { wide(rows, blocks) };
        }
    }
    body(rows, blocks);
}

#[cfg(test)]
mod tests {
    use marill_crypto::{Prg, Seed};

    use super::*;

    #[test]
    fn every_bit_lands_where_it_belongs() {
        for n in [64, 512, 1024 + 128] {
            let rows = Prg::new(&Seed::from_bytes([1; 32]), "rows").words(2 * n);
            let mut blocks = vec![0; n];
            to_blocks(&rows, &mut blocks);
            for (c, block) in blocks.iter().enumerate() {
                for r in 0..128 {
                    let bit = rows[r * n / 64 + c / 64] >> (c % 64);
                    assert_eq!(
                        (block >> r) as u64 & 1,
                        bit & 1,
                        "row {r}, column {c} of {n}"
                    );
                }
            }
        }
    }
}
