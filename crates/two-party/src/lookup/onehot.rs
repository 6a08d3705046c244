//! XOR-shared one-hot vectors of random indices, doubled bit by bit.

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    BitReader, BitWriter, Bits, Kind, Needs, OtError, Party, Phase, Session, Source,
    stock::{ChosenWords, SentWords, words_for},
    transfer::exchange,
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    Cost, Run,
    lookup::shared_bits::{Making, SharedBits, message_bits},
};

const STEP: &str = "one-hot vectors";

/// Of `n` random indices of `bits` bits: XOR shares of their one-hot vectors, additive and XOR
/// shares of the indices.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct OneHots {
    bits: u32,
    stride: usize,
    vectors: Vec<u64>,
    index: Vec<u64>,
    /// XOR shares of the same indices.
    word: Vec<u64>,
}

/// How much of a pad level `k` takes: the vector's entries but the last, and at E0 as sender the
/// product that makes the bit additive. Level 0 has no vector to double.
#[derive(Clone, Copy)]
struct Level {
    k: u32,
    entries: usize,
    product: u32,
}

impl Level {
    fn new(bits: u32, k: u32) -> Self {
        Self {
            k,
            entries: (1 << k) - 1,
            product: bits - 1 - k,
        }
    }

    /// Words of a pad, by who sends.
    fn words(self, sender: Party) -> u8 {
        let product = if sender == Party::E0 { self.product } else { 0 };
        words_for(self.entries + product as usize)
    }

    /// Bits of a message, by who sends.
    fn message_bits(self, sender: Party) -> usize {
        let product = if sender == Party::E0 { self.product } else { 0 };
        self.entries + product as usize
    }
}

/// `width` bits from bit `at` of some words on.
fn field(words: &[u64], at: usize, width: u32) -> u64 {
    if width == 0 {
        return 0;
    }
    let bit = at % 64;
    let low = words[at / 64] >> bit;
    let straddles = bit + width as usize > 64;
    let high = if straddles {
        words[at / 64 + 1] << (64 - bit)
    } else {
        0
    };
    (low | high) & low_mask(width)
}

/// The first `entries` bits of some words, 64 at a time, with their widths.
fn pieces(entries: usize) -> impl Iterator<Item = (usize, u32)> {
    (0..entries.div_ceil(64)).map(move |w| (w, (entries - 64 * w).min(64) as u32))
}

/// A party's state while vectors grow.
struct Growing {
    vectors: Vec<u64>,
    stride: usize,
    index: Vec<u64>,
    word: Vec<u64>,
}

/// A level's bit at this party, and its pads.
struct Taken {
    sent: SentWords,
    chosen: ChosenWords,
    level: Level,
}

impl OneHots {
    /// Makes vectors in `bits - 1` rounds, for indices of 2 to 14 bits.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn make<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        bits: u32,
        n: usize,
    ) -> Result<Self, OtError> {
        Ok(Self::make_with(session, bits, &[], n)?.0)
    }

    /// [`Self::make`] and, in the same rounds, [`SharedBits::make`] of each of these widths.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn make_with<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        bits: u32,
        outputs: &[u32],
        n: usize,
    ) -> Result<(Self, Vec<SharedBits>), OtError> {
        assert!((2..=14).contains(&bits), "an index of 2 to 14 bits");
        let mut needs = Self::needs(bits, n);
        let more = outputs.iter().map(|out| SharedBits::needs(*out, n));
        more.for_each(|more| needs.merge(&more));
        session.ensure(&needs)?;
        let phase = session.link().enter(Phase::Offline);
        let made = Self::made(session, bits, outputs, n);
        session.link().enter(phase);
        made
    }

    fn made<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        bits: u32,
        outputs: &[u32],
        n: usize,
    ) -> Result<(Self, Vec<SharedBits>), OtError> {
        let party = session.party();
        let mut message = BitWriter::new();
        // Level 0: the vector of one shared bit is the bit and its opposite.
        let first = Level::new(bits, 0);
        let mut grown;
        let mut waiting = None;
        match party {
            Party::E0 => {
                let mut prg = Prg::new(&Seed::random(), "indices");
                let bit = Bits::random(n, &mut prg);
                grown = Growing::of_bit(&bit, true);
                let pads = session.sent_words(first.words(Party::E0), n)?;
                grown.send_product(&bit, &pads, first, &mut message);
            }
            Party::E1 => {
                let pads = session.chosen_words(first.words(Party::E0), n)?;
                grown = Growing::of_bit(&pads.choice, false);
                waiting = Some(pads);
            }
        }
        let mut expected = match party {
            Party::E0 => 0,
            Party::E1 => n * first.message_bits(Party::E0),
        };
        let mut words = Vec::with_capacity(outputs.len());
        for k in 1..bits {
            let level = Level::new(bits, k);
            let taken = Taken::new(session, level, n)?;
            grown.send(party, &taken, &mut message);
            expected += n * level.message_bits(party.other());
            // Words wait for nothing: they go with the first message.
            let widths = if k == 1 { outputs } else { &[] };
            let making = widths
                .iter()
                .map(|out| Making::begin(session, *out, n, &mut message));
            let making: Vec<Making> = making.collect::<Result<_, _>>()?;
            expected += making.iter().map(Making::expected).sum::<usize>();
            let sent = std::mem::take(&mut message);
            let mut received = exchange(session, STEP, sent, expected)?;
            expected = 0;
            if let Some(pads) = waiting.take() {
                grown.receive_product(&pads, first, &mut received);
            }
            grown.double(party, &taken, &mut received);
            let made = making.into_iter();
            words.extend(made.map(|making| making.finish(&mut received)));
        }
        let one_hots = Self {
            bits,
            stride: grown.stride,
            vectors: grown.vectors,
            index: grown.index.iter().map(|r| r & low_mask(bits)).collect(),
            word: grown.word,
        };
        Ok((one_hots, words))
    }

    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    #[must_use]
    pub fn n(&self) -> usize {
        self.index.len()
    }

    /// Words per vector.
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    pub(super) fn vectors(&self) -> &[u64] {
        &self.vectors
    }

    /// Additive shares of the indices.
    pub(super) fn index(&self) -> &[u64] {
        &self.index
    }

    /// XOR shares of the indices.
    pub(super) fn word(&self) -> &[u64] {
        &self.word
    }

    /// These vectors in parts of `n`.
    ///
    /// # Panics
    /// When they are not a multiple of `n`.
    #[must_use]
    pub fn parts(&self, n: usize) -> Vec<Self> {
        assert!(self.n().is_multiple_of(n), "{} in parts of {n}", self.n());
        let vectors = self.vectors.chunks(n * self.stride);
        let indices = self.index.chunks(n).zip(self.word.chunks(n));
        let parts = vectors.zip(indices).map(|(vectors, (index, word))| Self {
            bits: self.bits,
            stride: self.stride,
            vectors: vectors.to_vec(),
            index: index.to_vec(),
            word: word.to_vec(),
        });
        parts.collect()
    }

    #[must_use]
    pub fn needs(bits: u32, n: usize) -> Needs {
        let mut needs = Needs::none();
        for k in 0..bits {
            let level = Level::new(bits, k);
            let words = level.words(Party::E0);
            needs.add(Kind::Pads { words }, Party::E0, n);
            if k > 0 {
                let words = level.words(Party::E1);
                needs.add(Kind::Pads { words }, Party::E1, n);
            }
        }
        needs
    }

    /// Messages of [`Self::make`].
    #[must_use]
    pub fn cost(bits: u32, n: usize) -> Cost {
        Self::cost_with(bits, &[], n)
    }

    /// Messages of [`Self::make_with`].
    #[must_use]
    pub fn cost_with(bits: u32, outputs: &[u32], n: usize) -> Cost {
        let mut cost = Cost::none();
        let words = outputs.iter().map(|out| message_bits(*out));
        let mut before = Level::new(bits, 0).message_bits(Party::E0) + words.sum::<usize>();
        for k in 1..bits {
            let level = Level::new(bits, k);
            let first = before + level.message_bits(Party::E0);
            cost.exchange([n * first, n * level.message_bits(Party::E1)]);
            before = 0;
        }
        cost
    }
}

impl Taken {
    fn new<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        level: Level,
        n: usize,
    ) -> Run<Self> {
        let party = session.party();
        Ok(Self {
            sent: session.sent_words(level.words(party), n)?,
            chosen: session.chosen_words(level.words(party.other()), n)?,
            level,
        })
    }
}

impl Growing {
    fn of_bit(bit: &Bits, first: bool) -> Self {
        let n = bit.n();
        let opposite = u64::from(first);
        let vector = |i| bit.get(i) << 1 | (bit.get(i) ^ opposite);
        Self {
            vectors: (0..n).map(vector).collect(),
            stride: 1,
            index: (0..n).map(|i| bit.get(i)).collect(),
            word: (0..n).map(|i| bit.get(i)).collect(),
        }
    }

    /// E0's message for the product of its bit with E1's, in `level.product` bits after the
    /// vector's; its share, `-p_0`, leaves the index by `2^(k+1)` times it.
    fn send_product(
        &mut self,
        own: &Bits,
        pads: &SentWords,
        level: Level,
        message: &mut BitWriter,
    ) {
        let words = level.words(Party::E0) as usize;
        for i in 0..own.n() {
            let pad = |pads: &[u64]| {
                field(
                    &pads[i * words..(i + 1) * words],
                    level.entries,
                    level.product,
                )
            };
            let zero = pad(&pads.zero);
            let e = own.get(i).wrapping_sub(pad(&pads.one)).wrapping_add(zero);
            message.push(e & low_mask(level.product), level.product);
            self.index[i] = self.index[i].wrapping_add(zero << 1 << level.k);
        }
    }

    /// E1's share of that product.
    fn receive_product(&mut self, pads: &ChosenWords, level: Level, received: &mut BitReader) {
        let words = level.words(Party::E0) as usize;
        for i in 0..self.index.len() {
            let pad = &pads.pads[i * words..(i + 1) * words];
            let pad = field(pad, level.entries, level.product);
            let e = received.take(level.product) & pads.choice.get(i).wrapping_neg();
            let share = pad.wrapping_add(e);
            self.index[i] = self.index[i].wrapping_sub(share << 1 << level.k);
        }
    }

    /// This party's vectors under its pads, all entries but the last.
    fn send(&mut self, party: Party, taken: &Taken, message: &mut BitWriter) {
        let level = taken.level;
        let words = level.words(party) as usize;
        let pads = &taken.sent;
        for (i, vector) in self.vectors.chunks_exact(self.stride).enumerate() {
            for (w, width) in pieces(level.entries) {
                let pad = pads.zero[i * words + w] ^ pads.one[i * words + w];
                message.push((vector[w] ^ pad) & low_mask(width), width);
            }
        }
        if party == Party::E0 {
            self.send_product(&taken.chosen.choice, pads, level, message);
        }
    }

    /// `e ← (e ⊕ b·e, b·e)`, and `r ← r + 2^k·b`.
    fn double(&mut self, party: Party, taken: &Taken, received: &mut BitReader) {
        let Level { k, entries, .. } = taken.level;
        let choice = &taken.chosen.choice;
        let own_words = taken.level.words(party) as usize;
        let peer_words = taken.level.words(party.other()) as usize;
        let stride = if k < 6 { 1 } else { 2 * self.stride };
        let mut next = vec![0; self.index.len() * stride];
        let mut product = vec![0u64; self.stride];
        for (i, (old, new)) in self
            .vectors
            .chunks_exact(self.stride)
            .zip(next.chunks_exact_mut(stride))
            .enumerate()
        {
            let bit = choice.get(i);
            let chosen = bit.wrapping_neg();
            let mut parity = bit;
            for (w, width) in pieces(entries) {
                let mine = taken.sent.zero[i * own_words + w];
                let message = received.take(width) & chosen;
                let theirs = taken.chosen.pads[i * peer_words + w] ^ message;
                product[w] = ((old[w] & chosen) ^ mine ^ theirs) & low_mask(width);
                parity ^= u64::from(product[w].count_ones());
            }
            // All entries of b·e add up to b.
            product[entries / 64] |= (parity & 1) << (entries % 64);
            if k < 6 {
                new[0] = (old[0] ^ product[0]) | product[0] << (entries + 1);
            } else {
                let (low, high) = new.split_at_mut(self.stride);
                for w in 0..self.stride {
                    low[w] = old[w] ^ product[w];
                    high[w] = product[w];
                }
            }
            self.index[i] = self.index[i].wrapping_add(bit << k);
            self.word[i] |= bit << k;
        }
        product.zeroize();
        self.vectors.zeroize();
        self.vectors = next;
        self.stride = stride;
        if party == Party::E1 {
            self.receive_product(&taken.chosen, taken.level, received);
        }
    }
}
