//! Seeds and the pseudorandom streams that they expand to.

use marill_numeric::fixed::low_mask;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::aes::Cipher;

/// A 256-bit seed. Never printed, erased when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Seed([u8; 32]);

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

impl Seed {
    /// A fresh seed from the operating system's generator.
    ///
    /// # Panics
    /// When the operating system has no randomness to give; nothing secure can go on then.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system's random generator failed");
        Self(bytes)
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes, for the one channel that carries a seed to its owner.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// A seed of a named purpose derived from this one.
    #[must_use]
    pub fn derive(&self, purpose: &str) -> Self {
        Self(
            Sha256::new()
                .chain_update(self.0)
                .chain_update(purpose.as_bytes())
                .finalize()
                .into(),
        )
    }
}

/// A pseudorandom stream: AES-128 in counter mode under a key derived from a seed and a domain, so
/// that streams of different domains are independent and no position is used twice. The key
/// schedule is erased when dropped.
pub struct Prg {
    cipher: Cipher,
    counter: u64,
}

impl Prg {
    #[must_use]
    pub fn new(seed: &Seed, domain: &str) -> Self {
        let key = seed.derive(domain);
        let key: &[u8; 16] = key.0.first_chunk().expect("a seed has 32 bytes");
        Self {
            cipher: Cipher::new(key),
            counter: 0,
        }
    }

    /// The next `n` words. Whole blocks are consumed, the same number for the same `n` in every
    /// party.
    pub fn words(&mut self, n: usize) -> Vec<u64> {
        self.reduced(n, 64)
    }

    /// Passes over what [`Self::words`] would give.
    pub fn skip(&mut self, n: usize) {
        self.counter += n.div_ceil(2) as u64;
    }

    /// As [`Self::words`], reduced to `bits` bits.
    pub fn reduced(&mut self, n: usize, bits: u32) -> Vec<u64> {
        let words = self.cipher.stream(self.counter, n, low_mask(bits));
        self.skip(n);
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_domain_and_not_by_the_cut() {
        let seed = Seed::from_bytes([7; 32]);
        let whole = Prg::new(&seed, "a").words(1000);
        let mut cut = Prg::new(&seed, "a");
        let mut parts = cut.words(400);
        parts.extend(cut.words(600));
        assert_eq!(whole, parts);
        assert_ne!(whole, Prg::new(&seed, "b").words(1000));
        assert_eq!(format!("{seed:?}"), "Seed(..)");
    }
}
