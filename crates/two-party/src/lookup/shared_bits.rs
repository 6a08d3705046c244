//! Random bits that are shared by XOR and in a ring: what moves XOR-shared words to the ring for
//! one opening. (Doubly authenticated bits, daBits, without the authentication: Rotaru and Wood,
//! INDOCRYPT '19.)

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    BitWriter, Bits, Kind, Needs, OtError, Party, Phase, Session, Source, transfer::exchange,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Cost;

/// For each of `n` words of `bits` bits a random word, bit `t` of it shared by XOR and, times
/// `2^t`, modulo `2^bits`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SharedBits {
    bits: u32,
    /// The XOR share of each word.
    words: Vec<u64>,
    /// Of bit `t` of word `i`, at `t·n + i`: the share in the ring.
    ring: Vec<u64>,
}

impl SharedBits {
    /// Makes the bits, in one round.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn make<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        bits: u32,
        n: usize,
    ) -> Result<Self, OtError> {
        session.ensure(&Self::needs(bits, n))?;
        let phase = session.link().enter(Phase::Offline);
        let made = Self::made(session, bits, n);
        session.link().enter(phase);
        made
    }

    fn made<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        bits: u32,
        n: usize,
    ) -> Result<Self, OtError> {
        let mut prg = Prg::new(&Seed::random(), "shared bits");
        let mut own: Vec<Bits> = Vec::with_capacity(bits as usize);
        let mut ring = vec![0; n * bits as usize];
        match session.party() {
            Party::E0 => {
                own.extend((0..bits).map(|_| Bits::random(n, &mut prg)));
                let mut message = BitWriter::new();
                for (t, own) in (0u32..).zip(&own[..bits as usize - 1]) {
                    let pads = session.sent_words(1, n)?;
                    let width = bits - 1 - t;
                    for i in 0..n {
                        let e = own
                            .get(i)
                            .wrapping_sub(pads.one[i])
                            .wrapping_add(pads.zero[i]);
                        message.push(e & low_mask(width), width);
                        ring[t as usize * n + i] = pads.zero[i].wrapping_neg();
                    }
                }
                exchange(session, "shared bits", message, 0)?;
            }
            Party::E1 => {
                let mut pads = Vec::new();
                for _ in 1..bits {
                    let chosen = session.chosen_words(1, n)?;
                    own.push(chosen.choice.clone());
                    pads.push(chosen);
                }
                own.push(Bits::random(n, &mut prg));
                let expected = n * message_bits(bits);
                let mut received = exchange(session, "shared bits", BitWriter::new(), expected)?;
                for (t, pads) in (0u32..).zip(&pads) {
                    for i in 0..n {
                        let e = received.take(bits - 1 - t);
                        let selected = e & pads.choice.get(i).wrapping_neg();
                        ring[t as usize * n + i] = pads.pads[i].wrapping_add(selected);
                    }
                }
            }
        }
        // b_0 ⊕ b_1 = b_0 + b_1 - 2·b_0·b_1, times 2^t.
        for (t, own) in own.iter().enumerate() {
            for (i, product) in ring[t * n..(t + 1) * n].iter_mut().enumerate() {
                let bit = own.get(i).wrapping_sub(*product << 1);
                *product = (bit << t) & low_mask(bits);
            }
        }
        let words = Bits::values(&own);
        Ok(Self { bits, words, ring })
    }

    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    #[must_use]
    pub fn n(&self) -> usize {
        self.words.len()
    }

    /// What to open: the XOR shares under the random bits.
    pub(super) fn mask(&self, shares: &[u64]) -> Vec<u64> {
        let words = shares.iter().zip(&self.words);
        words.map(|(share, word)| share ^ word).collect()
    }

    /// Additive shares of the words, of which `opened` are the XOR with the random ones:
    /// `Σ u_t·2^t + (1 - 2·u_t)·2^t·ρ_t`.
    pub(super) fn to_ring(&self, opened: &[u64], party: Party) -> Vec<u64> {
        let n = self.n();
        let constant = u64::from(party == Party::E0).wrapping_neg();
        let of = |(i, opened): (usize, &u64)| {
            let terms = (0..self.bits as usize).map(|t| {
                let flip = (opened >> t & 1).wrapping_neg();
                (self.ring[t * n + i] ^ flip).wrapping_sub(flip)
            });
            let sum = terms.fold(opened & constant, u64::wrapping_add);
            sum & low_mask(self.bits)
        };
        opened.iter().enumerate().map(of).collect()
    }

    #[must_use]
    pub fn needs(bits: u32, n: usize) -> Needs {
        let kind = Kind::Pads { words: 1 };
        Needs::of(kind, Party::E0, n * (bits as usize - 1))
    }

    /// Messages of [`Self::make`].
    #[must_use]
    pub fn cost(bits: u32, n: usize) -> Cost {
        let mut cost = Cost::none();
        cost.exchange([n * message_bits(bits), 0]);
        cost
    }
}

/// Bits of all products of one word: bit `t` is needed modulo `2^(bits-1-t)`.
fn message_bits(bits: u32) -> usize {
    (bits * (bits - 1) / 2) as usize
}
