//! Random bits that are shared by XOR and in a ring: what moves XOR-shared words to the ring for
//! one opening. (Doubly authenticated bits, daBits, without the authentication: Rotaru and Wood,
//! INDOCRYPT '19.)

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    BitReader, BitWriter, Bits, Kind, Needs, OtError, Party, Phase, Session, Source,
    stock::ChosenWords, transfer::exchange,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{Cost, Run};

/// How wide words are, and the ring that they move to: one of their own width, or a wider one, in
/// which they stand for signed numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Width {
    pub bits: u32,
    pub ring: u32,
}

impl Width {
    /// Modulo `2^bits`.
    #[must_use]
    pub fn of(bits: u32) -> Self {
        Self { bits, ring: bits }
    }

    /// Bits of a product of both parties' bits at `2^t`: what shows of twice its share. None at the
    /// top of the ring.
    fn product(self, t: u32) -> u32 {
        self.ring - 1 - t
    }

    /// Bits of a word whose product shows.
    fn products(self) -> u32 {
        self.bits.min(self.ring - 1)
    }
}

/// For each of `n` words of `bits` bits a random word, bit `t` of it shared by XOR and, times
/// `2^t`, modulo `2^ring`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SharedBits {
    #[zeroize(skip)]
    width: Width,
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
        let made = Self::made(session, Width::of(bits), n);
        session.link().enter(phase);
        made
    }

    fn made<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        width: Width,
        n: usize,
    ) -> Result<Self, OtError> {
        let mut message = BitWriter::new();
        let making = Making::begin(session, width, n, &mut message)?;
        let mut received = exchange(session, "shared bits", message, making.expected())?;
        Ok(making.finish(&mut received))
    }

    #[must_use]
    pub fn bits(&self) -> u32 {
        self.width.bits
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
    /// `Σ u_t·2^t + (1 - 2·u_t)·2^t·ρ_t`, the top bit of a signed word below zero.
    pub(super) fn to_ring(&self, opened: &[u64], party: Party) -> Vec<u64> {
        let n = self.n();
        let Width { bits, ring } = self.width;
        let constant = u64::from(party == Party::E0).wrapping_neg();
        let is_signed = u64::from(ring > bits);
        let of = |(i, opened): (usize, &u64)| {
            let terms = (0..bits as usize).map(|t| {
                let below = is_signed & u64::from(t + 1 == bits as usize);
                let flip = ((opened >> t & 1) ^ below).wrapping_neg();
                (self.ring[t * n + i] ^ flip).wrapping_sub(flip)
            });
            let top = (opened >> (bits - 1) & is_signed) << (bits - 1);
            let public = opened.wrapping_sub(top << 1);
            let sum = terms.fold(public & constant, u64::wrapping_add);
            sum & low_mask(ring)
        };
        opened.iter().enumerate().map(of).collect()
    }

    #[must_use]
    pub fn needs(bits: u32, n: usize) -> Needs {
        Self::needs_of(Width::of(bits), n)
    }

    pub(super) fn needs_of(width: Width, n: usize) -> Needs {
        let kind = Kind::Pads { words: 1 };
        Needs::of(kind, Party::E0, n * width.products() as usize)
    }

    /// Messages of [`Self::make`].
    #[must_use]
    pub fn cost(bits: u32, n: usize) -> Cost {
        let mut cost = Cost::none();
        cost.exchange([n * message_bits(Width::of(bits)), 0]);
        cost
    }
}

/// Words before the peer's message.
pub(super) struct Making {
    width: Width,
    /// This party's XOR shares, bit by bit.
    own: Vec<Bits>,
    /// Shares of the products of both parties' bits, as far as they are known.
    products: Vec<u64>,
    /// E1's.
    pads: Vec<ChosenWords>,
}

impl Making {
    /// Takes the pads and writes E0's message.
    pub(super) fn begin<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        width: Width,
        n: usize,
        message: &mut BitWriter,
    ) -> Run<Self> {
        let Width { bits, ring } = width;
        assert!(bits > 0 && bits <= ring && ring <= 64, "{width:?}");
        let mut prg = Prg::new(&Seed::random(), "shared bits");
        let mut own: Vec<Bits> = Vec::with_capacity(bits as usize);
        let mut products = vec![0; n * bits as usize];
        let mut pads = Vec::new();
        match session.party() {
            Party::E0 => {
                own.extend((0..bits).map(|_| Bits::random(n, &mut prg)));
                for (t, own) in (0u32..).zip(&own[..width.products() as usize]) {
                    let pads = session.sent_words(1, n)?;
                    let product = width.product(t);
                    for i in 0..n {
                        let e = own.get(i).wrapping_sub(pads.one[i]);
                        let e = e.wrapping_add(pads.zero[i]);
                        message.push(e & low_mask(product), product);
                        products[t as usize * n + i] = pads.zero[i].wrapping_neg();
                    }
                }
            }
            Party::E1 => {
                for _ in 0..width.products() {
                    let chosen = session.chosen_words(1, n)?;
                    own.push(chosen.choice.clone());
                    pads.push(chosen);
                }
                // Of the ring's top bit no product shows.
                own.extend((width.products()..bits).map(|_| Bits::random(n, &mut prg)));
            }
        }
        Ok(Self {
            width,
            own,
            products,
            pads,
        })
    }

    /// Bits of the peer's message: nothing where this party has no pads of its own choice.
    pub(super) fn expected(&self) -> usize {
        let widths = (0u32..).zip(&self.pads);
        widths
            .map(|(t, pads)| pads.choice.n() * self.width.product(t) as usize)
            .sum()
    }

    /// The words, with E0's message at E1.
    pub(super) fn finish(self, received: &mut BitReader) -> SharedBits {
        let width = self.width;
        let n = self.own[0].n();
        let mut ring = self.products;
        for (t, pads) in (0u32..).zip(&self.pads) {
            for i in 0..n {
                let e = received.take(width.product(t));
                let selected = e & pads.choice.get(i).wrapping_neg();
                ring[t as usize * n + i] = pads.pads[i].wrapping_add(selected);
            }
        }
        // b_0 ⊕ b_1 = b_0 + b_1 - 2·b_0·b_1, times 2^t.
        for (t, own) in self.own.iter().enumerate() {
            for (i, product) in ring[t * n..(t + 1) * n].iter_mut().enumerate() {
                let bit = own.get(i).wrapping_sub(*product << 1);
                *product = (bit << t) & low_mask(width.ring);
            }
        }
        let words = Bits::values(&self.own);
        SharedBits { width, words, ring }
    }
}

/// Bits of all products of one word: bit `t` is needed modulo `2^(bits-1-t)`.
pub(super) fn message_bits(width: Width) -> usize {
    let products = (0..width.products()).map(|t| width.product(t) as usize);
    products.sum()
}
