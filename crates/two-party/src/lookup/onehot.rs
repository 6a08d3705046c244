//! XOR-shared one-hot vectors of random indices, doubled bit by bit.

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    BitReader, BitWriter, Bits, Kind, Needs, OtError, Party, Phase, Session, Source,
    stock::{ChosenWords, SentWords, words_for},
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    Cost, Run,
    lookup::shared_bits::{Making, SharedBits, Width, message_bits},
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
        let list = OneHotList {
            bits,
            outputs: outputs.iter().map(|out| Width::of(*out)).collect(),
            n,
            exchanged: false,
        };
        Ok(Self::make_lists(session, &[list])?.remove(0))
    }

    /// [`Self::make_with`] of each of these lists, all in the rounds of the longest. Messages are
    /// those of the lists one by one, side by side. In a list that says so the parties play each
    /// other's part.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn make_lists<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        lists: &[OneHotList],
    ) -> Result<Vec<(Self, Vec<SharedBits>)>, OtError> {
        let mut needs = Needs::none();
        for list in lists {
            assert!((2..=14).contains(&list.bits), "an index of 2 to 14 bits");
            needs.merge(&list.needs());
        }
        session.ensure(&needs)?;
        let phase = session.link().enter(Phase::Offline);
        let made = Self::made_lists(session, lists);
        session.exchange_parts(false);
        session.link().enter(phase);
        made
    }

    fn made_lists<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        lists: &[OneHotList],
    ) -> Result<Vec<(Self, Vec<SharedBits>)>, OtError> {
        let mut works = Vec::with_capacity(lists.len());
        for list in lists {
            session.exchange_parts(list.exchanged);
            works.push(Work::begin(session, list.bits, &list.outputs, list.n)?);
        }
        let longest = lists.iter().map(|list| list.bits).max().unwrap_or(0);
        for k in 1..longest {
            let mut message = Vec::new();
            let mut lengths = Vec::new();
            for (list, work) in lists
                .iter()
                .zip(&mut works)
                .filter(|(list, _)| k < list.bits)
            {
                session.exchange_parts(list.exchanged);
                let (part, expected) = work.send(session, k)?;
                message.extend(part.finish());
                lengths.push(expected);
            }
            let bytes = lengths.iter().map(|bits| bits.div_ceil(8)).sum();
            let received = session.link().exchange(STEP, &message, bytes)?;
            let mut rest = received.as_slice();
            let growing = lists
                .iter()
                .zip(&mut works)
                .filter(|(list, _)| k < list.bits);
            for ((list, work), bits) in growing.zip(lengths) {
                let (part, tail) = rest.split_at(bits.div_ceil(8));
                rest = tail;
                session.exchange_parts(list.exchanged);
                let mut part = BitReader::new(part, bits, STEP)?;
                work.receive(session.party(), &mut part);
            }
        }
        Ok(works.into_iter().map(Work::finish).collect())
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
        let outputs: Vec<Width> = outputs.iter().map(|out| Width::of(*out)).collect();
        Self::cost_of(bits, &outputs, n)
    }

    fn cost_of(bits: u32, outputs: &[Width], n: usize) -> Cost {
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

/// One of several lists of vectors that are made in the same rounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OneHotList {
    pub bits: u32,
    /// Words that are made with them ([`SharedBits`]).
    pub outputs: Vec<Width>,
    pub n: usize,
    /// Whether the parties play each other's part.
    pub exchanged: bool,
}

impl OneHotList {
    /// What it takes of the parties of the link.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let mut needs = OneHots::needs(self.bits, self.n);
        for out in &self.outputs {
            needs.merge(&SharedBits::needs_of(*out, self.n));
        }
        match self.exchanged {
            true => needs.exchanged(),
            false => needs,
        }
    }

    /// Memory of a party while it is made and held, about: pads, vectors and words.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let pads = |(kind, _, n): (Kind, Party, usize)| match kind {
            Kind::Pads { words } => 2 * 8 * n * usize::from(words),
            Kind::OneOf { .. } | Kind::Leaf => 0,
        };
        let pads: usize = self.needs().iter().map(pads).sum();
        let words: usize = self
            .outputs
            .iter()
            .map(|out| 8 * (out.bits as usize + 1))
            .sum();
        let vector = (1usize << self.bits).div_ceil(64) * 8;
        pads + self.n * (vector + words)
    }

    /// What it sends, in as many rounds as if it were alone.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let cost = OneHots::cost_of(self.bits, &self.outputs, self.n);
        match self.exchanged {
            true => cost.exchanged(),
            false => cost,
        }
    }
}

/// A list while it is made.
struct Work {
    bits: u32,
    n: usize,
    outputs: Vec<Width>,
    grown: Growing,
    /// The first level's, at E1, and what E0 says of it.
    waiting: Option<ChosenWords>,
    first: BitWriter,
    expected: usize,
    taken: Option<Taken>,
    making: Vec<Making>,
    words: Vec<SharedBits>,
}

impl Work {
    /// Level 0: the vector of one shared bit is the bit and its opposite.
    fn begin<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        bits: u32,
        outputs: &[Width],
        n: usize,
    ) -> Run<Self> {
        let level = Level::new(bits, 0);
        let mut first = BitWriter::new();
        let mut waiting = None;
        let mut expected = 0;
        let grown = match session.party() {
            Party::E0 => {
                let mut prg = Prg::new(&Seed::random(), "indices");
                let bit = Bits::random(n, &mut prg);
                let mut grown = Growing::of_bit(&bit, true);
                let pads = session.sent_words(level.words(Party::E0), n)?;
                grown.send_product(&bit, &pads, level, &mut first);
                grown
            }
            Party::E1 => {
                let pads = session.chosen_words(level.words(Party::E0), n)?;
                let grown = Growing::of_bit(&pads.choice, false);
                waiting = Some(pads);
                expected = n * level.message_bits(Party::E0);
                grown
            }
        };
        Ok(Self {
            bits,
            n,
            outputs: outputs.to_vec(),
            grown,
            waiting,
            first,
            expected,
            taken: None,
            making: Vec::new(),
            words: Vec::new(),
        })
    }

    /// The message of level `k`, and how many bits the peer's has.
    fn send<C: Channel, S: Source>(
        &mut self,
        session: &mut Session<C, S>,
        k: u32,
    ) -> Run<(BitWriter, usize)> {
        let party = session.party();
        let level = Level::new(self.bits, k);
        let taken = Taken::new(session, level, self.n)?;
        let mut message = std::mem::take(&mut self.first);
        self.grown.send(party, &taken, &mut message);
        self.taken = Some(taken);
        let mut expected = std::mem::take(&mut self.expected);
        expected += self.n * level.message_bits(party.other());
        // Words wait for nothing: they go with the first message.
        for out in std::mem::take(&mut self.outputs) {
            let making = Making::begin(session, out, self.n, &mut message)?;
            expected += making.expected();
            self.making.push(making);
        }
        Ok((message, expected))
    }

    /// The peer's message of the level that was sent last.
    fn receive(&mut self, party: Party, received: &mut BitReader) {
        if let Some(pads) = self.waiting.take() {
            let level = Level::new(self.bits, 0);
            self.grown.receive_product(&pads, level, received);
        }
        if let Some(taken) = self.taken.take() {
            self.grown.double(party, &taken, received);
        }
        for making in self.making.drain(..) {
            self.words.push(making.finish(received));
        }
    }

    fn finish(self) -> (OneHots, Vec<SharedBits>) {
        let Growing {
            vectors,
            stride,
            index,
            word,
        } = self.grown;
        let one_hots = OneHots {
            bits: self.bits,
            stride,
            vectors,
            index: index.iter().map(|r| r & low_mask(self.bits)).collect(),
            word,
        };
        (one_hots, self.words)
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
