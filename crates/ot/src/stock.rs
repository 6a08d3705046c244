//! Random transfers, hashed to the bits that protocols need as soon as they are made.
//!
//! A correlated transfer is 16 bytes at each party; what a comparison needs of it is a few bits. So
//! nothing is kept but those: a bit triple is 3 bits, a leaf of a comparison 8 at its sender.
//! Everything here is used once, in the order in which it was made, and erased when dropped.

use std::collections::BTreeMap;

use marill_numeric::fixed::low_mask;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    bits::Bits,
    hash::{PadHash, Use, combined},
    link::Party,
    source::{ChosenCots, SentCots, Sink},
};

/// What a group of transfers is hashed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// One of `2^choices` pads of `width` bits each; up to four choices and eight bits.
    OneOf { choices: u8, width: u8 },
    /// One of four pads of a bit, and on each of the same two choices one of two pads of a bit.
    Leaf,
    /// One of two pads of so many words of 64 bits.
    Pads { words: u8 },
}

impl Kind {
    /// Correlated transfers per instance.
    #[must_use]
    pub fn cots(self) -> usize {
        match self {
            Self::OneOf { choices, .. } => choices.into(),
            Self::Leaf => 2,
            Self::Pads { .. } => 1,
        }
    }

    /// Planes at the sender and at the chooser, choices included; words of an instance of pads.
    fn rows(self) -> [usize; 2] {
        match self {
            Self::OneOf { choices, width } => {
                [(1 << choices) * width as usize, (choices + width).into()]
            }
            // Four pads and two pairs; two choices and a pad of each.
            Self::Leaf => [8, 5],
            Self::Pads { words } => [2 * words as usize, words.into()],
        }
    }
}

/// Instances of each kind, as (E0 sends, E1 sends).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs(BTreeMap<Kind, [usize; 2]>);

impl Needs {
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// `n` of a kind that `sender` sends.
    #[must_use]
    pub fn of(kind: Kind, sender: Party, n: usize) -> Self {
        let mut needs = Self::none();
        needs.add(kind, sender, n);
        needs
    }

    /// `n` more of a kind that `sender` sends.
    pub fn add(&mut self, kind: Kind, sender: Party, n: usize) {
        if n > 0 {
            self.0.entry(kind).or_default()[sender as usize] += n;
        }
    }

    /// `n` triples of a bit and a string of `width` bits.
    pub fn add_triples(&mut self, width: u8, n: usize) {
        let kind = Kind::OneOf { choices: 1, width };
        self.add(kind, Party::E0, n);
        self.add(kind, Party::E1, n);
    }

    /// The same where each party plays the other's part.
    #[must_use]
    pub fn exchanged(&self) -> Self {
        let mut exchanged = Self::none();
        for (kind, sender, n) in self.iter() {
            exchanged.add(kind, sender.other(), n);
        }
        exchanged
    }

    pub fn merge(&mut self, other: &Self) {
        for (kind, sender, n) in other.iter() {
            self.add(kind, sender, n);
        }
    }

    /// Each kind, its sender, and how many.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, Party, usize)> {
        self.0.iter().flat_map(|(kind, [e0, e1])| {
            [(*kind, Party::E0, *e0), (*kind, Party::E1, *e1)].into_iter()
        })
    }

    /// Correlated transfers, as (E0 sends, E1 sends).
    #[must_use]
    pub fn cots(&self) -> [usize; 2] {
        self.iter().fold([0; 2], |mut sum, (kind, sender, n)| {
            sum[sender as usize] += kind.cots() * n;
            sum
        })
    }
}

/// Bits in the order in which they came, 64 to a word.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
struct BitQueue {
    words: Vec<u64>,
    start: usize,
    end: usize,
}

impl BitQueue {
    fn push(&mut self, value: u64, width: u32) {
        let at = (self.end % 64) as u32;
        if at == 0 {
            self.words.push(value);
        } else {
            *self.words.last_mut().expect("a word was begun") |= value << at;
            if at + width > 64 {
                self.words.push(value >> (64 - at));
            }
        }
        self.end += width as usize;
    }

    fn push_all(&mut self, n: usize, mut value: impl FnMut(usize) -> u64) {
        for start in (0..n).step_by(64) {
            let width = (n - start).min(64);
            let mut word = 0;
            for i in 0..width {
                word |= (value(start + i) & 1) << i;
            }
            self.push(word, width as u32);
        }
    }

    fn take(&mut self, n: usize) -> Bits {
        let read = |at: usize| {
            let word = at / 64;
            let bit = (at % 64) as u32;
            let next = self.words.get(word + 1).copied().unwrap_or(0);
            let high = next.checked_shl(64 - bit).unwrap_or(0);
            self.words[word] >> bit | high
        };
        let words: Vec<u64> = (0..n.div_ceil(64))
            .map(|w| read(self.start + 64 * w))
            .collect();
        let bits = Bits::from_words(n, &words);
        self.start += n;
        if self.start == self.end {
            self.zeroize();
        } else if self.start > 32 * self.words.len() {
            // The older half is spent.
            let spent = self.start / 64;
            self.words[..spent].zeroize();
            self.words.drain(..spent);
            self.start -= 64 * spent;
            self.end -= 64 * spent;
        }
        bits
    }
}

/// Words in the order in which they came.
#[derive(Default, Zeroize, ZeroizeOnDrop)]
struct WordQueue {
    words: Vec<u64>,
    start: usize,
}

impl WordQueue {
    fn take(&mut self, n: usize) -> Vec<u64> {
        let taken = self.words[self.start..self.start + n].to_vec();
        self.words[self.start..self.start + n].zeroize();
        self.start += n;
        if self.start == self.words.len() {
            self.words.clear();
            self.start = 0;
        } else if self.start > self.words.len() / 2 {
            self.words.drain(..self.start);
            self.start = 0;
        }
        taken
    }
}

/// One kind in one direction.
#[derive(Default)]
struct Supply {
    n: usize,
    planes: Vec<BitQueue>,
    /// Of [`Kind::Pads`]: the pads, one queue per message at the sender.
    words: [WordQueue; 2],
}

/// Pads of which this party knows all: plane `c·width + b` is bit `b` of the pad of choice `c`. Of
/// a [`Kind::Leaf`] four pads, then pads of 0 and 1 of the high choice, then of the low choice.
pub struct SentPads(pub Vec<Bits>);

/// Pads of which this party knows the chosen one: a plane per bit of the choice, the lowest first,
/// then the pad's. Of a [`Kind::Leaf`] two choices, the pad of four, the high and the low choice's.
pub struct ChosenPads {
    pub choices: Vec<Bits>,
    pub pads: Vec<Bits>,
}

/// Pads of words: `zero[i·words..]` and `one[i·words..]` of instance `i`.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SentWords {
    pub zero: Vec<u64>,
    pub one: Vec<u64>,
}

/// The chosen pads of words.
pub struct ChosenWords {
    pub choice: Bits,
    pub pads: Vec<u64>,
}

impl Drop for ChosenWords {
    fn drop(&mut self) {
        self.pads.zeroize();
    }
}

/// A party's material.
pub(crate) struct Stock {
    party: Party,
    supplies: BTreeMap<(Kind, Party), Supply>,
    pub(crate) hash: PadHash,
    /// Room for hashes of a piece.
    nodes: Vec<u128>,
    pads: Vec<u128>,
}

impl Drop for Stock {
    fn drop(&mut self) {
        self.nodes.zeroize();
        self.pads.zeroize();
    }
}

impl Stock {
    pub(crate) fn new(party: Party, hash: PadHash) -> Self {
        Self {
            party,
            supplies: BTreeMap::new(),
            hash,
            nodes: Vec::new(),
            pads: Vec::new(),
        }
    }

    pub(crate) fn left(&self, kind: Kind, sender: Party) -> usize {
        self.supplies
            .get(&(kind, sender))
            .map_or(0, |supply| supply.n)
    }

    /// What is left of everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.supplies.values().all(|supply| supply.n == 0)
    }

    fn supply(&mut self, kind: Kind, sender: Party) -> &mut Supply {
        let rows = kind.rows()[usize::from(sender != self.party)];
        self.supplies
            .entry((kind, sender))
            .or_insert_with(|| Supply {
                n: 0,
                planes: match kind {
                    Kind::Pads { .. } => (0..usize::from(sender != self.party))
                        .map(|_| BitQueue::default())
                        .collect(),
                    _ => (0..rows).map(|_| BitQueue::default()).collect(),
                },
                words: Default::default(),
            })
    }

    /// The session has made sure that they are there.
    fn planes(&mut self, kind: Kind, sender: Party, n: usize) -> Vec<Bits> {
        let supply = self.supply(kind, sender);
        supply.n -= n;
        supply
            .planes
            .iter_mut()
            .map(|queue| queue.take(n))
            .collect()
    }

    pub(crate) fn sent(&mut self, kind: Kind, n: usize) -> SentPads {
        SentPads(self.planes(kind, self.party, n))
    }

    pub(crate) fn chosen(&mut self, kind: Kind, n: usize) -> ChosenPads {
        let mut choices = self.planes(kind, self.party.other(), n);
        let pads = choices.split_off(kind.cots());
        ChosenPads { choices, pads }
    }

    pub(crate) fn sent_words(&mut self, words: u8, n: usize) -> SentWords {
        let party = self.party;
        let supply = self.supply(Kind::Pads { words }, party);
        supply.n -= n;
        let [zero, one] = supply.words.each_mut();
        let n = n * words as usize;
        SentWords {
            zero: zero.take(n),
            one: one.take(n),
        }
    }

    pub(crate) fn chosen_words(&mut self, words: u8, n: usize) -> ChosenWords {
        let peer = self.party.other();
        let supply = self.supply(Kind::Pads { words }, peer);
        supply.n -= n;
        ChosenWords {
            choice: supply.planes[0].take(n),
            pads: supply.words[0].take(n * words as usize),
        }
    }

    /// Hashes what is in `nodes`, to `pads`.
    fn hash(&mut self, sender: Party, numbers: (u64, u64), used: Use) {
        self.pads.resize(self.nodes.len(), 0);
        self.hash
            .pads(sender, numbers, used, &self.nodes, &mut self.pads);
    }

    /// Appends `width` low bits of what was hashed to planes from `at` on.
    fn keep(&mut self, kind: Kind, sender: Party, at: usize, width: usize) {
        let pads = std::mem::take(&mut self.pads);
        let supply = self.supply(kind, sender);
        for (bit, queue) in supply.planes[at..at + width].iter_mut().enumerate() {
            queue.push_all(pads.len(), |i| (pads[i] >> bit) as u64);
        }
        self.pads = pads;
    }

    fn keep_words(
        &mut self,
        words: u8,
        sender: Party,
        message: usize,
        blocks: &[u128],
        first: u64,
    ) {
        let kind = Kind::Pads { words };
        let words = words as usize;
        self.nodes.clear();
        self.nodes.extend_from_slice(blocks);
        let n = blocks.len();
        let at = self.supply(kind, sender).words[message].words.len();
        self.supply(kind, sender).words[message]
            .words
            .resize(at + n * words, 0);
        for block in 0..words.div_ceil(2) {
            self.hash(sender, (first, 1), Use::Pad(block as u32));
            let pads = std::mem::take(&mut self.pads);
            let out = &mut self.supply(kind, sender).words[message].words[at..];
            for (pad, out) in pads.iter().zip(out.chunks_exact_mut(words)) {
                let halves = [*pad as u64, (pad >> 64) as u64];
                let out = &mut out[2 * block..];
                let kept = out.len().min(2);
                out[..kept].copy_from_slice(&halves[..kept]);
            }
            self.pads = pads;
        }
    }

    /// The sender's side of groups of transfers, pads of all choices.
    fn all_pads(&mut self, kind: Kind, cots: &SentCots<'_>, width: usize) {
        let m = kind.cots();
        let party = self.party;
        let base = cots.blocks.chunks_exact(m).map(combined);
        let base: Zeroizing<Vec<u128>> = Zeroizing::new(base.collect());
        for choice in 0..1usize << m {
            let selected: [u128; 4] =
                std::array::from_fn(|k| cots.delta & (choice as u128 >> k & 1).wrapping_neg());
            let offset = combined(&selected[..m]);
            self.nodes.clear();
            self.nodes.extend(base.iter().map(|block| block ^ offset));
            self.hash(party, (cots.first, m as u64), Use::OneOf);
            self.keep(kind, party, choice * width, width);
        }
    }

    fn one_pad(&mut self, kind: Kind, cots: &ChosenCots<'_>, width: usize) {
        let m = kind.cots();
        let peer = self.party.other();
        let n = cots.blocks.len() / m;
        self.nodes.clear();
        self.nodes.extend(cots.blocks.chunks_exact(m).map(combined));
        self.hash(peer, (cots.first, m as u64), Use::OneOf);
        self.keep(kind, peer, m, width);
        let supply = self.supply(kind, peer);
        for (k, queue) in supply.planes[..m].iter_mut().enumerate() {
            queue.push_all(n, |i| bit(cots.choices, m * i + k));
        }
    }

    /// The pad of one of two, on the transfers that select choice bit `k` of a leaf.
    fn product_pads(
        &mut self,
        sender: Party,
        first: u64,
        blocks: &[u128],
        k: usize,
        offset: u128,
        plane: usize,
    ) {
        self.nodes.clear();
        let blocks = blocks.chunks_exact(2).map(|pair| pair[k] ^ offset);
        self.nodes.extend(blocks);
        self.hash(sender, (first + k as u64, 2), Use::Product);
        self.keep(Kind::Leaf, sender, plane, 1);
    }
}

fn bit(words: &[u64], i: usize) -> u64 {
    words[i / 64] >> (i % 64) & 1
}

/// Fills a stock with the segments of one extension.
pub(crate) struct Filling<'a> {
    pub(crate) stock: &'a mut Stock,
    pub(crate) sent: Vec<Kind>,
    pub(crate) chosen: Vec<Kind>,
}

impl Sink for Filling<'_> {
    fn sent(&mut self, segment: usize, cots: SentCots<'_>) {
        let kind = self.sent[segment];
        let party = self.stock.party;
        match kind {
            Kind::OneOf { width, .. } => self.stock.all_pads(kind, &cots, width.into()),
            Kind::Leaf => {
                self.stock.all_pads(kind, &cots, 1);
                for (k, plane) in [(1, 4), (0, 6)] {
                    for (bit, offset) in [0, cots.delta].into_iter().enumerate() {
                        let blocks = cots.blocks;
                        self.stock
                            .product_pads(party, cots.first, blocks, k, offset, plane + bit);
                    }
                }
            }
            Kind::Pads { words } => {
                let other = cots.blocks.iter().map(|q| q ^ cots.delta);
                let other: Zeroizing<Vec<u128>> = Zeroizing::new(other.collect());
                let stock = &mut self.stock;
                stock.keep_words(words, party, 0, cots.blocks, cots.first);
                stock.keep_words(words, party, 1, &other, cots.first);
            }
        }
        self.stock.supply(kind, party).n += cots.blocks.len() / kind.cots();
    }

    fn chosen(&mut self, segment: usize, cots: ChosenCots<'_>) {
        let kind = self.chosen[segment];
        let peer = self.stock.party.other();
        let n = cots.blocks.len();
        match kind {
            Kind::OneOf { width, .. } => self.stock.one_pad(kind, &cots, width.into()),
            Kind::Leaf => {
                self.stock.one_pad(kind, &cots, 1);
                for (k, plane) in [(1, 3), (0, 4)] {
                    self.stock
                        .product_pads(peer, cots.first, cots.blocks, k, 0, plane);
                }
            }
            Kind::Pads { words } => {
                self.stock
                    .keep_words(words, peer, 0, cots.blocks, cots.first);
                let queue = &mut self.stock.supply(kind, peer).planes[0];
                queue.push_all(n, |i| bit(cots.choices, i));
            }
        }
        self.stock.supply(kind, peer).n += n / kind.cots();
    }
}

/// Words of a pad for `bits` bits.
#[must_use]
pub fn words_for(bits: usize) -> u8 {
    bits.div_ceil(64).max(1) as u8
}

/// The low `bits` bits of each pad.
#[must_use]
pub fn trimmed(pads: &[u64], bits: u32) -> Vec<u64> {
    pads.iter().map(|pad| pad & low_mask(bits)).collect()
}
