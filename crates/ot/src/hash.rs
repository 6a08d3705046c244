//! The hash that turns correlated transfers into independent pads.
//!
//! `H(x, t) = π(π(x) ⊕ t) ⊕ π(x)` with AES-128 under a public key of the session as `π`: tweakable
//! circular correlation robust in the random-permutation model (Guo, Katz, Wang, Yu: S&P '20,
//! section 7.4, `TMMO`). A tweak names the transfer by its number in the session, the direction and
//! the use, and is never repeated; sessions have keys of their own, so that a guess at `Δ` is
//! checked against one session only.
//!
//! A choice of one of `2^m` takes `m` transfers under one `Δ`: the key of choice `c` is
//! `H(Σ 2^k·(q_k ⊕ c_k·Δ), t)`, sums and products in GF(2^128). Keys of different choices are
//! hashes of blocks that differ by `c·Δ`, `c` a nonzero element of the field: `m` transfers act as
//! one transfer of a linear code (Kolesnikov, Kumaresan: CRYPTO '13). The XOR of the `m` one-of-two
//! pads would not do: of four such pads the fourth is the sum of the others, so two messages under
//! unknown pads leak their difference.

use marill_crypto::aes::Cipher;
use sha2::{Digest, Sha256};

use crate::link::Party;

/// A public key of a session for hashing, of both parties' nonces.
pub(crate) fn public_key(purpose: &str, nonces: &[u8]) -> [u8; 16] {
    let digest = Sha256::new()
        .chain_update(b"marill public key of a session")
        .chain_update(purpose.as_bytes())
        .chain_update(nonces)
        .finalize();
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}

/// What a pad is used for: the low half of a tweak.
#[derive(Clone, Copy)]
pub(crate) enum Use {
    /// One of `2^m` messages.
    OneOf,
    /// One of two bits, on a choice that also selects one of four.
    Product,
    /// Block number `n` of a pad of one of two.
    Pad(u32),
}

impl Use {
    fn tweak(self, sender: Party) -> u128 {
        let kind: u128 = match self {
            Self::OneOf => 0,
            Self::Product => 1,
            Self::Pad(block) => 2 + u128::from(block),
        };
        kind | (sender as u128) << 32
    }
}

/// `2·x` in GF(2^128) modulo `x^128 + x^7 + x^2 + x + 1`.
pub(crate) fn double(x: u128) -> u128 {
    x << 1 ^ (0x87 & (x >> 127).wrapping_neg())
}

/// `Σ 2^k·blocks[k]`, the key material of a choice of one of `2^blocks.len()`.
pub(crate) fn combined(blocks: &[u128]) -> u128 {
    let highest_first = blocks.iter().rev();
    highest_first.fold(0, |sum, block| double(sum) ^ block)
}

/// The hash of one session.
pub(crate) struct PadHash {
    cipher: Cipher,
    tweaks: Vec<u128>,
}

impl PadHash {
    pub(crate) fn new(key: &[u8; 16]) -> Self {
        Self {
            cipher: Cipher::new(key),
            tweaks: Vec::new(),
        }
    }

    /// Hashes the block of transfers `first`, `first + step` and so on, into `out`.
    pub(crate) fn pads(
        &mut self,
        sender: Party,
        numbers: (u64, u64),
        used: Use,
        blocks: &[u128],
        out: &mut [u128],
    ) {
        let (first, step) = numbers;
        self.tweaks.clear();
        let tweak = |i| u128::from(first + step * i) << 64;
        self.tweaks.extend((0..blocks.len() as u64).map(tweak));
        let used = used.tweak(sender);
        self.cipher.hash(blocks, &self.tweaks, [used], [out]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubling_is_that_of_the_field() {
        assert_eq!(double(1 << 127), 0x87);
        assert_eq!(double(3), 6);
        let x = 0x1234_5678_9abc_def0_1122_3344_5566_7788_u128;
        assert_eq!(combined(&[x, 0]), x);
        assert_eq!(combined(&[x, x]), x ^ double(x));
        // x^128 is what the modulus leaves of it.
        assert_eq!((0..128).fold(1, |y, _| double(y)), 0x87);
    }

    #[test]
    fn pads_differ_by_number_direction_and_use() {
        let mut hash = PadHash::new(&[7; 16]);
        let mut pad = |sender, number, used| {
            let mut out = [0];
            hash.pads(sender, (number, 1), used, &[9], &mut out);
            out[0]
        };
        let base = pad(Party::E0, 1, Use::OneOf);
        assert_eq!(base, pad(Party::E0, 1, Use::OneOf));
        assert_ne!(base, pad(Party::E1, 1, Use::OneOf));
        assert_ne!(base, pad(Party::E0, 2, Use::OneOf));
        assert_ne!(base, pad(Party::E0, 1, Use::Product));
        assert_ne!(base, pad(Party::E0, 1, Use::Pad(0)));
    }
}
