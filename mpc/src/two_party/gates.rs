//! The protocols that the engine is made of, run with a peer or counted.
//!
//! Counting goes the same way over shares that are all zero: what is sent depends on shapes alone.

mod messages;
mod operations;
mod planned;

use std::{
    collections::VecDeque,
    ops::{AddAssign, Range},
};

use marill_net::Channel;
use marill_numeric::Rounding;
use marill_ot::{Phase, Source, stock::Needs};
use marill_two_party::{Bits, Cost, OtError, Party, Radix, Session};

use self::planned::{MOST_TRANSFERS, Ready};
pub(super) use self::{messages::Packing, planned::Planned};
use crate::{
    error::ProtocolResult,
    two_party::{
        kept::{Keeping, SetUp},
        lattice::Keys,
    },
};

/// Up to so many values rounds count more than the bytes of their comparisons.
const FEW: usize = 640;

/// Comparisons of so many values.
pub(super) fn radix(n: usize) -> Radix {
    match n <= FEW {
        true => Radix::Sixteen,
        false => Radix::Four,
    }
}

/// Bytes of the digests that both parties exchange before a result is revealed.
const CONFIRM_BITS: usize = 128;

/// What a program would send and use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// Messages that depend on inputs.
    pub online: Cost,
    /// Messages of one-hot vectors and shared bits, which depend on no input.
    pub offline: Cost,
    /// Transfers, which an extension makes before.
    pub transfers: Needs,
}

impl AddAssign<&Self> for Counted {
    fn add_assign(&mut self, other: &Self) {
        self.online += other.online;
        self.offline += other.offline;
        self.transfers.merge(&other.transfers);
    }
}

/// A session with the peer, or what stands in for one.
enum Mode<C, S> {
    /// With keys for lattices once they were needed.
    Live(Box<Session<C, S>>, Option<Box<Keys>>),
    /// What each label would cost, in the order in which they came.
    Count(Vec<(&'static str, Counted)>),
}

/// Elements that a gate takes at once: what bounds the memory of a long prompt.
pub(super) const PIECE: usize = 1 << 16;

/// The protocols, and the label of what runs now.
pub(super) struct Gates<C, S> {
    mode: Mode<C, S>,
    /// Whether even counting is left out, see [`Self::silent`].
    is_silent: bool,
    label: &'static str,
    pub(super) piece: usize,
    pub(super) rounding: Rounding,
    /// What E0 rounded by, element by element, where a test asks for it.
    pub(super) randomness: Option<Vec<u64>>,
    /// Where both parties keep their set-up.
    pub(super) keeping: Option<Keeping>,
    /// By how many bytes E0 sent more than E1 in this step so far, one-hot vectors included.
    ahead: i64,
    /// What the present step takes, where nothing is sent.
    planned: Planned,
    /// One-hot vectors for the lookups to come.
    ready: VecDeque<Ready>,
    /// Transfers of the stretches to come, and of the one that begins.
    stretches: VecDeque<Needs>,
    begins: Option<Needs>,
}

/// One multiplexer of a round of them.
pub(super) struct Choice<'a> {
    pub bits: u32,
    pub bit: &'a Bits,
    pub values: &'a [u64],
}

impl<C: Channel, S: Source> Gates<C, S> {
    pub(super) fn live(session: Session<C, S>) -> Self {
        Self::in_mode(Mode::Live(Box::new(session), None))
    }

    pub(super) fn count() -> Self {
        Self::in_mode(Mode::Count(Vec::new()))
    }

    /// Runs and counts nothing: where only what is asked of masks is of interest.
    pub(super) fn silent() -> Self {
        let mut gates = Self::count();
        gates.is_silent = true;
        gates
    }

    /// Whether neither values nor counts are wanted: a function then has nothing to do but to give
    /// its result's shape.
    pub(super) fn is_silent(&self) -> bool {
        self.is_silent
    }

    fn in_mode(mode: Mode<C, S>) -> Self {
        Self {
            mode,
            is_silent: false,
            label: "",
            piece: PIECE,
            rounding: Rounding::Exact,
            randomness: None,
            keeping: None,
            ahead: 0,
            planned: Planned::default(),
            ready: VecDeque::new(),
            stretches: VecDeque::new(),
            begins: None,
        }
    }

    /// For what follows, which is told by this label.
    pub(super) fn at(&mut self, label: &'static str) -> &mut Self {
        self.label = label;
        self
    }

    /// `each` over pieces of `n` elements, one after the other.
    fn in_pieces<T>(
        &mut self,
        n: usize,
        mut each: impl FnMut(&mut Self, Range<usize>) -> ProtocolResult<T>,
    ) -> ProtocolResult<Vec<T>> {
        let piece = self.piece;
        // Nothing is one piece of nothing.
        let starts = (0..n.max(1)).step_by(piece);
        starts
            .map(|first| each(self, first..(first + piece).min(n)))
            .collect()
    }

    /// Drops what was counted.
    pub(super) fn forget_counts(&mut self) {
        if let Mode::Count(parts) = &mut self.mode {
            parts.clear();
        }
    }

    /// `live` with a peer, else `counted`; it sends and takes this.
    fn run<T>(
        &mut self,
        sends: impl FnOnce() -> Counted,
        live: impl FnOnce(&mut Session<C, S>) -> Result<T, OtError>,
        counted: impl FnOnce() -> T,
    ) -> ProtocolResult<T> {
        if self.is_silent {
            return Ok(counted());
        }
        let sends = sends();
        if let Some(stretch) = self.planned.stretches.back_mut() {
            stretch.merge(&sends.transfers);
        }
        self.run_unplanned(&sends, live, counted)
    }

    fn run_unplanned<T>(
        &mut self,
        sends: &Counted,
        live: impl FnOnce(&mut Session<C, S>) -> Result<T, OtError>,
        counted: impl FnOnce() -> T,
    ) -> ProtocolResult<T> {
        self.ahead += sends.ahead();
        match &mut self.mode {
            Mode::Live(session, _) => {
                let begins = self.begins.take();
                let few = |needs: &Needs| needs.cots().iter().all(|n| *n <= MOST_TRANSFERS);
                // A stretch's transfers in one extension, where they are not too many for memory.
                if let Some(needs) = begins.filter(few) {
                    session.ensure(&needs)?;
                }
                session.link().begin_round();
                Ok(live(session)?)
            }
            Mode::Count(parts) => {
                let place = parts.iter().position(|(label, _)| *label == self.label);
                let place = place.unwrap_or_else(|| {
                    parts.push((self.label, Counted::default()));
                    parts.len() - 1
                });
                parts[place].1 += sends;
                Ok(counted())
            }
        }
    }

    /// The same of a protocol on shares, in which the parties play those parts in which they send
    /// more alike. Each plays its own or the other's: the sums are the same.
    fn run_either_way<T>(
        &mut self,
        sends: impl FnOnce() -> Counted,
        live: impl FnOnce(&mut Session<C, S>) -> Result<T, OtError>,
        counted: impl FnOnce() -> T,
    ) -> ProtocolResult<T> {
        if self.is_silent {
            return Ok(counted());
        }
        let sends = sends();
        // Both parties know what was sent.
        let more = sends.ahead();
        let exchanged = (self.ahead + more).abs() > (self.ahead - more).abs();
        let sends = match exchanged {
            true => sends.exchanged(),
            false => sends,
        };
        let live = |session: &mut Session<C, S>| {
            session.exchange_parts(exchanged);
            let result = live(session);
            session.exchange_parts(false);
            result
        };
        self.run(|| sends, live, counted)
    }

    pub(super) fn party(&self) -> Party {
        match &self.mode {
            Mode::Live(session, _) => session.party(),
            Mode::Count(_) => Party::E0,
        }
    }

    /// Whether there is no peer.
    pub(super) fn counts(&self) -> bool {
        matches!(self.mode, Mode::Count(_))
    }

    /// Bytes and rounds so far, by what they were for.
    pub(super) fn traffic(&self, phase: Phase) -> marill_ot::Traffic {
        match &self.mode {
            Mode::Live(session, _) => session.traffic(phase),
            Mode::Count(_) => marill_ot::Traffic::default(),
        }
    }

    /// What this party keeps for the next session with this peer, behind the first step: once, and
    /// nothing where nothing of it is new.
    pub(super) fn take_set_up(&mut self) -> Option<SetUp> {
        let keeping = self.keeping.as_mut()?;
        let keys = match &mut self.mode {
            Mode::Live(_, keys) => keys.as_mut().and_then(|keys| keys.take_kept()),
            Mode::Count(_) => None,
        };
        keeping.take(keys)
    }

    /// What was counted, by label.
    pub(super) fn into_counted(self) -> Vec<(&'static str, Counted)> {
        match self.mode {
            Mode::Live(..) => Vec::new(),
            Mode::Count(parts) => parts,
        }
    }
}

impl Counted {
    fn online(online: Cost, transfers: Needs) -> Self {
        Self {
            online,
            offline: Cost::none(),
            transfers,
        }
    }

    /// By how many bytes E0 sends more than E1.
    fn ahead(&self) -> i64 {
        let [first, second] = self.online.sent;
        first as i64 - second as i64
    }

    /// The same where each party plays the other's part.
    fn exchanged(&self) -> Self {
        Self {
            online: self.online.exchanged(),
            offline: self.offline.exchanged(),
            transfers: self.transfers.exchanged(),
        }
    }
}

fn masked(shares: &[u64], bits: u32) -> Vec<u64> {
    let mask = marill_numeric::fixed::low_mask(bits);
    shares.iter().map(|share| share & mask).collect()
}
