//! What a step takes that depends on no input: known from its shape, and made at its beginning.

use std::collections::VecDeque;

use marill_net::Channel;
use marill_ot::{Source, stock::Needs};
use marill_two_party::lookup::{OneHotList, OneHots, SharedBits, Width};

use super::{Gates, Mode};
use crate::error::ProtocolResult;

/// What a step takes that depends on no input.
#[derive(Default)]
pub(in crate::two_party) struct Planned {
    /// One-hot vectors, in the order of the lookups.
    one_hots: Vec<OneHotList>,
    /// All other transfers, by stretches: before the layers, of each, behind them.
    pub(super) stretches: VecDeque<Needs>,
}

impl Planned {
    /// Whether all vectors are made at once.
    fn is_little(&self) -> bool {
        let bytes = self.one_hots.iter().map(OneHotList::memory_bytes);
        bytes.sum::<usize>() <= MOST_ONE_HOT_BYTES
    }

    /// Rounds in which all vectors are made, where they are made at once.
    pub(in crate::two_party) fn joint_rounds(&self) -> Option<u64> {
        let rounds = |list: &OneHotList| list.cost().rounds;
        self.is_little()
            .then(|| self.one_hots.iter().map(rounds).max().unwrap_or(0))
    }
}

/// Memory of the one-hot vectors that are made at once at most, 128 MiB: of a step that takes more
/// they are made lookup by lookup.
const MOST_ONE_HOT_BYTES: usize = 1 << 27;

/// Transfers of a direction that are made at once for a stretch at most.
pub(super) const MOST_TRANSFERS: usize = 1 << 22;

/// Vectors that were made for a lookup.
pub(super) struct Ready {
    list: OneHotList,
    vectors: (OneHots, Vec<SharedBits>),
}

impl<C: Channel, S: Source> Gates<C, S> {
    /// A step begins, for which E0 has sent so many bytes more than E1.
    pub(in crate::two_party) fn begin_step(&mut self, balance: i64) {
        self.ahead = balance;
        self.planned = Planned::default();
        self.enter_stretch();
    }

    /// What the step that began was planned to take is made at once, as far as that is little: one
    /// round instead of one at every gate.
    pub(in crate::two_party) fn take_up(&mut self, planned: Planned) -> ProtocolResult<()> {
        let Mode::Live(session, _) = &mut self.mode else {
            return Ok(());
        };
        // What an earlier step left was another shape's.
        self.ready.clear();
        if planned.is_little() {
            let made = OneHots::make_lists(session, &planned.one_hots)?;
            let ready = planned.one_hots.into_iter().zip(made);
            self.ready = ready
                .map(|(list, vectors)| Ready { list, vectors })
                .collect();
        }
        self.stretches = planned.stretches;
        self.begins = self.stretches.pop_front();
        Ok(())
    }

    /// What was counted since the step began.
    pub(in crate::two_party) fn take_planned(&mut self) -> Planned {
        std::mem::take(&mut self.planned)
    }

    /// Another stretch of the step begins.
    pub(in crate::two_party) fn enter_stretch(&mut self) {
        match &self.mode {
            Mode::Live(..) => self.begins = self.stretches.pop_front(),
            Mode::Count(_) => self.planned.stretches.push_back(Needs::none()),
        }
    }

    /// The vectors of the next lookup: made so that the parties send more alike.
    pub(super) fn one_hot_list(&mut self, bits: u32, outputs: Vec<Width>, n: usize) -> OneHotList {
        let mut list = OneHotList {
            bits,
            outputs,
            n,
            exchanged: false,
        };
        let [first, second] = list.cost().sent;
        let more = first as i64 - second as i64;
        // As in any protocol on shares: by what both have sent so far.
        list.exchanged = (self.ahead + more).abs() > (self.ahead - more).abs();
        self.ahead += if list.exchanged { -more } else { more };
        if !self.planned.stretches.is_empty() {
            self.planned.one_hots.push(list.clone());
        }
        list
    }

    /// The vectors that were made for this lookup, if any were.
    ///
    /// # Panics
    /// When a step asks for others than its shape says: they would be used in silence for another
    /// lookup's.
    pub(super) fn take_ready(&mut self, list: &OneHotList) -> Option<(OneHots, Vec<SharedBits>)> {
        let ready = self.ready.pop_front()?;
        assert_eq!(ready.list, *list, "vectors of another lookup");
        Some(ready.vectors)
    }
}
