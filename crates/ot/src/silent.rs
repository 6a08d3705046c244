//! Silent transfers: correlated transfers for a fraction of a bit each, from the hardness of LPN.
//!
//! # Functionality
//! That of [`crate::softspoken`]: the chooser gets random bits `c_i` and blocks `t_i`, the sender,
//! who holds `Δ`, gets `q_i = t_i ⊕ c_i·Δ`. Here the lowest bit of `Δ` is one, of `q_i` zero, and
//! of `t_i` therefore `c_i`.
//!
//! # Construction
//! Primal LPN with regular noise as in Ferret (Yang, Weng, Lan, Zhang, Wang: CCS '20), on half
//! trees (Guo et al.: EUROCRYPT '23), semi-honest. Of `k` transfers with secret bits `u` the
//! parties make many more: row `i` adds ten of them at public random places (`code.rs`) and a leaf
//! of a tree (`tree.rs`), whose correlation has one wrong bit at a leaf that the sender does not
//! know. The new bits are `u·A ⊕ e`, which LPN says look random. Only the sender sends: a block a
//! level of each tree. Of the transfers that an iteration makes, as many are kept as the next one
//! takes (`expansion.rs`), so that there is always more.
//!
//! The first iteration of a direction begins with 74,036 transfers of SoftSpoken; the larger sets
//! begin with an iteration of the smallest. That is [`Phase::Setup`], once per session and
//! direction that is used.
//!
//! # Security
//! Semi-honest. To the chooser all is determined by seeds that it lacks, under circular correlation
//! robust hashing; to the sender the bits are random under LPN with the [`LpnSet`]. The matrix and
//! the hash keys come from both parties' nonces and the iteration's number: new in every iteration
//! of every session. `Δ` has 127 unknown bits. No address or branch depends on a secret: the code's
//! places are public, and the missing leaf is treated by masks over the whole tree.
//!
//! Nothing is kept between sessions: base transfers are hashed with both nonces, the roots of trees
//! are fresh.

mod code;
mod expansion;
mod set;
mod tree;

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use zeroize::{Zeroize, Zeroizing};

use self::expansion::{End, Expansion};
pub use self::set::LpnSet;
use crate::{
    error::OtError,
    link::{Link, Party, Phase},
    softspoken::SoftSpoken,
    source::{ChosenCots, PIECE, Segments, SemiHonest, SentCots, Sink, Source},
};

const STEP: &str = "silent extension";
const SETUP: &str = "first silent extension";

/// One direction of transfers.
struct Direction {
    sender: Party,
    set: LpnSet,
    expansion: Option<Expansion>,
    /// Made and not given away: `blocks[start..end]`.
    blocks: Zeroizing<Vec<u128>>,
    start: usize,
    end: usize,
    /// Number of the next transfer.
    next: u64,
}

impl Direction {
    fn new(set: LpnSet, sender: Party) -> Self {
        Self {
            sender,
            set,
            expansion: None,
            blocks: Zeroizing::new(vec![0; PIECE + set.leaves()]),
            start: 0,
            end: 0,
            next: 0,
        }
    }

    /// Bytes that the sender sends for the next `n`.
    fn bytes(&self, n: usize) -> usize {
        let missing = n.saturating_sub(self.end - self.start);
        let wanted = missing.div_ceil(self.set.leaves());
        let used = self.expansion.as_ref().map_or(0, Expansion::used);
        Expansion::trees_for(self.set, used, wanted) * self.set.tree_bytes()
    }

    /// The next `n` transfers, at most a piece.
    fn take(&mut self, end: &mut End<'_>, n: usize) -> (u64, &[u128]) {
        let expansion = self.expansion.as_mut().expect("set up before");
        while self.end - self.start < n {
            let leaves = self.set.leaves();
            if self.end + leaves > self.blocks.len() {
                self.blocks.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            }
            expansion.next(end, &mut self.blocks[self.end..self.end + leaves]);
            self.end += leaves;
        }
        let first = self.next;
        let start = self.start;
        self.start += n;
        self.next += n as u64;
        (first, &self.blocks[start..start + n])
    }
}

/// Collects the transfers that an expansion begins with.
#[derive(Default)]
struct Seeds {
    sent: Zeroizing<Vec<u128>>,
    chosen: Zeroizing<Vec<u128>>,
}

impl Sink for Seeds {
    fn sent(&mut self, _segment: usize, cots: SentCots<'_>) {
        self.sent.extend(cots.blocks.iter().map(|q| q & !1));
    }

    fn chosen(&mut self, _segment: usize, cots: ChosenCots<'_>) {
        let blocks = cots.blocks.iter().enumerate();
        let bit = |i: usize| u128::from(cots.choices[i / 64] >> (i % 64) & 1);
        self.chosen.extend(blocks.map(|(i, t)| t & !1 | bit(i)));
    }
}

/// Extends base transfers in both directions.
pub struct Silent {
    set: LpnSet,
    delta: u128,
    session: Vec<u8>,
    bootstrap: SoftSpoken,
    roots: Prg,
    sends: Direction,
    chooses: Direction,
}

impl Silent {
    /// On seed trees of a session with these public nonces. No message.
    pub(crate) fn new(party: Party, set: LpnSet, bootstrap: SoftSpoken, nonces: &[u8]) -> Self {
        Self {
            set,
            delta: bootstrap.delta() | 1,
            session: nonces.to_vec(),
            bootstrap,
            roots: Prg::new(&Seed::random(), "roots of half trees"),
            sends: Direction::new(set, party),
            chooses: Direction::new(set, party.other()),
        }
    }

    #[must_use]
    pub fn set(&self) -> LpnSet {
        self.set
    }

    /// Bytes in both directions that the first transfers of a direction take in the set-up.
    #[must_use]
    pub fn setup_bytes(&self) -> u64 {
        let first = self.bootstrap.segment_bytes(LpnSet::B10.seeds());
        let second = match self.set {
            LpnSet::B10 => 0,
            set => first_trees(set) * LpnSet::B10.tree_bytes(),
        };
        (first + second) as u64
    }

    /// The first transfers of the wanted directions, as (sends, chooses).
    fn begin<C: Channel>(&mut self, link: &mut Link<C>, wanted: [bool; 2]) -> Result<(), OtError> {
        let first = LpnSet::B10;
        let segment = |wanted: bool| vec![first.seeds(); usize::from(wanted)];
        let room = |wanted: bool| Zeroizing::new(Vec::with_capacity(segment(wanted).iter().sum()));
        let mut seeds = Seeds {
            sent: room(wanted[0]),
            chosen: room(wanted[1]),
        };
        let segments = Segments {
            send: segment(wanted[0]),
            choose: segment(wanted[1]),
        };
        self.bootstrap.extend(link, &segments, &mut seeds)?;
        if self.set != first {
            seeds = self.second(link, wanted, seeds)?;
        }
        for (direction, seeds, wanted) in [
            (&mut self.sends, seeds.sent, wanted[0]),
            (&mut self.chooses, seeds.chosen, wanted[1]),
        ] {
            if wanted {
                let sender = direction.sender;
                let expansion = Expansion::new(self.set, sender, &self.session, seeds);
                direction.expansion = Some(expansion);
            }
        }
        Ok(())
    }

    /// An iteration of the smallest set, for what a larger one takes.
    fn second<C: Channel>(
        &mut self,
        link: &mut Link<C>,
        wanted: [bool; 2],
        seeds: Seeds,
    ) -> Result<Seeds, OtError> {
        let first = LpnSet::B10;
        let trees = first_trees(self.set);
        let needed = self.set.seeds();
        let session = &self.session;
        let expand = |direction: &Direction, seeds, end: &mut End<'_>| {
            let mut blocks = Zeroizing::new(vec![0; trees * first.leaves()]);
            Expansion::new(first, direction.sender, session, seeds).raw(end, &mut blocks);
            blocks[needed..].zeroize();
            blocks.truncate(needed);
            blocks
        };
        let mut made = Seeds::default();
        let mut sender = End::Sender {
            delta: self.delta,
            roots: &mut self.roots,
            message: Vec::new(),
        };
        if wanted[0] {
            made.sent = expand(&self.sends, seeds.sent, &mut sender);
        }
        let length = usize::from(wanted[1]) * trees * first.tree_bytes();
        let received = link.exchange(SETUP, sender.message(), length)?;
        if wanted[1] {
            let mut chooser = End::Chooser { message: &received };
            made.chosen = expand(&self.chooses, seeds.chosen, &mut chooser);
        }
        Ok(made)
    }
}

/// Trees of the smallest set that make what a larger one takes.
fn first_trees(set: LpnSet) -> usize {
    set.seeds().div_ceil(LpnSet::B10.leaves())
}

/// Pieces of segments, as (segment, transfers).
fn pieces(segments: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    segments.iter().enumerate().flat_map(|(segment, n)| {
        (0..*n)
            .step_by(PIECE)
            .map(move |start| (segment, (n - start).min(PIECE)))
    })
}

impl Source for Silent {
    type Security = SemiHonest;

    fn set_up<C: Channel>(
        &mut self,
        link: &mut Link<C>,
        directions: [bool; 2],
    ) -> Result<(), OtError> {
        let wanted = [
            directions[0] && self.sends.expansion.is_none(),
            directions[1] && self.chooses.expansion.is_none(),
        ];
        if wanted == [false; 2] {
            return Ok(());
        }
        let phase = link.enter(Phase::Setup);
        let begun = self.begin(link, wanted);
        link.enter(phase);
        begun
    }

    fn extend<C: Channel>(
        &mut self,
        link: &mut Link<C>,
        segments: &Segments,
        sink: &mut impl Sink,
    ) -> Result<(), OtError> {
        let total = |segments: &[usize]| segments.iter().sum::<usize>();
        let [sent, chosen] = [total(&segments.send), total(&segments.choose)];
        self.set_up(link, [sent > 0, chosen > 0])?;
        let expected = self.chooses.bytes(chosen);
        let mut sender = End::Sender {
            delta: self.delta,
            roots: &mut self.roots,
            message: Vec::with_capacity(self.sends.bytes(sent)),
        };
        for (segment, n) in pieces(&segments.send) {
            let (first, blocks) = self.sends.take(&mut sender, n);
            let cots = SentCots {
                first,
                delta: self.delta,
                blocks,
            };
            sink.sent(segment, cots);
        }
        let received = link.exchange(STEP, sender.message(), expected)?;
        let mut chooser = End::Chooser { message: &received };
        let mut choices = Zeroizing::new(vec![0; PIECE.div_ceil(64)]);
        for (segment, n) in pieces(&segments.choose) {
            let (first, blocks) = self.chooses.take(&mut chooser, n);
            for (word, blocks) in choices.iter_mut().zip(blocks.chunks(64)) {
                let bits = blocks.iter().enumerate();
                *word = bits.fold(0, |word, (i, t)| word | (*t as u64 & 1) << i);
            }
            let cots = ChosenCots {
                first,
                choices: &choices[..n.div_ceil(64)],
                blocks,
            };
            sink.chosen(segment, cots);
        }
        Ok(())
    }

    fn segment_bytes(&self, n: usize) -> usize {
        let trees = n.div_ceil(self.set.leaves());
        Expansion::trees_for(self.set, 0, trees) * self.set.tree_bytes()
    }

    fn bytes(&self, segments: &Segments) -> u64 {
        let sent = self.sends.bytes(segments.send.iter().sum());
        let chosen = self.chooses.bytes(segments.choose.iter().sum());
        (sent + chosen) as u64
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}
