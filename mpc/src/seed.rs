//! Seeds and the pseudorandom streams that they expand to.

use aes::Aes128;
use aes::cipher::{BlockCipherEncrypt, KeyInit};
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

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
        Self(Sha256::new().chain_update(self.0).chain_update(purpose.as_bytes()).finalize().into())
    }
}

/// A pseudorandom stream: AES-128 in counter mode under a key derived from a seed and a domain, so that streams of
/// different domains are independent and no position is used twice. The key schedule is erased when dropped.
pub(crate) struct Prg {
    cipher: Aes128,
    counter: u64,
}

impl Prg {
    pub(crate) fn new(seed: &Seed, domain: &str) -> Self {
        let key = seed.derive(domain);
        let key: [u8; 16] = key.0[..16].try_into().expect("a seed has 32 bytes");
        Self { cipher: Aes128::new(&key.into()), counter: 0 }
    }

    /// The next `n` words. Whole blocks are consumed, the same number for the same `n` in every party.
    pub(crate) fn words(&mut self, n: usize) -> Vec<u64> {
        // Counter blocks are written where the stream will stand and encrypted in place.
        let mut out = vec![0u64; n.next_multiple_of(2)];
        for (k, block) in out.chunks_exact_mut(2).enumerate() {
            block[0] = (self.counter + k as u64).to_le();
        }
        self.counter += (out.len() / 2) as u64;
        let blocks: &mut [[u8; 16]] = bytemuck::cast_slice_mut(&mut out);
        self.cipher.encrypt_blocks(aes::Block::cast_slice_from_core_mut(blocks));
        if cfg!(target_endian = "big") {
            out.iter_mut().for_each(|w| *w = u64::from_le(*w));
        }
        out.truncate(n);
        out
    }

    /// As [`Self::words`], reduced to `bits` bits.
    pub(crate) fn reduced(&mut self, n: usize, bits: u32) -> Vec<u64> {
        let mut words = self.words(n);
        if bits < 64 {
            let mask = marill_numeric::fixed::low_mask(bits);
            words.iter_mut().for_each(|w| *w &= mask);
        }
        words
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_one_seed_differ_by_domain_and_do_not_depend_on_the_cut() {
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
