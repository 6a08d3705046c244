//! The protocols that the engine is made of, run with a peer or counted.
//!
//! Counting goes the same way over shares that are all zero: what is sent depends on shapes alone.

mod messages;
mod planned;

use std::{
    collections::VecDeque,
    ops::{AddAssign, Range},
};

use marill_net::Channel;
use marill_numeric::Rounding;
use marill_ot::{
    Phase, Source,
    stock::Needs,
    transfer::{And, and},
};
use marill_two_party::{
    Bits, Combine, Comparisons, Cost, Digits, Msb, Multiplex, NarrowProduct, OtError, Parts, Party,
    Product, Radix, Session, ToRing, Truncate, combinations, combinations_cost, conversions,
    conversions_cost, lookup,
    lookup::{OneHots, Table, Width},
};

pub(super) use self::{messages::Packing, planned::Planned};
use self::{
    messages::exchanged,
    planned::{MOST_TRANSFERS, Ready},
};
use crate::{
    error::ProtocolResult,
    two_party::{
        kept::{Keeping, SetUp},
        lattice::{self, Keys, Shape, Term},
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

    fn truncate_piece(&mut self, protocol: Truncate, shares: &[u64]) -> ProtocolResult<Vec<u64>> {
        let n = shares.len();
        self.run_either_way(
            || Counted::online(protocol.cost(n), protocol.needs(n)),
            |session| protocol.run(session, shares),
            || vec![0; n],
        )
    }

    /// XOR shares of the sign bits of values of `bits` bits.
    fn msb_piece(&mut self, bits: u32, radix: Radix, shares: &[u64]) -> ProtocolResult<Bits> {
        let n = shares.len();
        let protocol = Msb { bits, radix };
        self.run_either_way(
            || Counted::online(protocol.cost(n), protocol.needs(n)),
            |session| protocol.run(session, &masked(shares, bits)),
            || Bits::zeros(n),
        )
    }

    /// XOR shares of `x > y` of the parties' own values, each comparison with its width.
    pub(super) fn compare(&mut self, list: Vec<(u32, Vec<u64>)>) -> ProtocolResult<Vec<Bits>> {
        let n = list.first().map_or(0, |(_, own)| own.len());
        let (widths, own): (Vec<u32>, Vec<Vec<u64>>) = list.into_iter().unzip();
        let radix = radix(n);
        let protocol = Comparisons { widths, radix };
        self.run(
            || Counted::online(protocol.cost(n), protocol.needs(n)),
            |session| protocol.run(session, &own),
            || vec![Bits::zeros(n); own.len()],
        )
    }

    /// The parts of shared values that look a table up.
    fn digits_piece(&mut self, protocol: Digits, shares: &[u64]) -> ProtocolResult<Parts> {
        let n = shares.len();
        self.run_either_way(
            || Counted::online(protocol.cost(n), protocol.needs(n)),
            |session| protocol.run(session, shares),
            || Parts {
                index: vec![0; n],
                distance: vec![0; n],
                wrap: Bits::zeros(n),
                inside: Bits::zeros(n),
                negative: protocol.sign.map(|_| Bits::zeros(n)),
            },
        )
    }

    /// Bits to rings of so many bits and bits times values, all in one round.
    pub(super) fn convert(
        &mut self,
        bits: &[(u32, &Bits)],
        choices: &[Choice<'_>],
    ) -> ProtocolResult<[Vec<Vec<u64>>; 2]> {
        let bits: Vec<_> = bits
            .iter()
            .map(|(bits, bit)| (ToRing { bits: *bits }, *bit))
            .collect();
        let choices: Vec<_> = choices
            .iter()
            .map(|choice| (Multiplex { bits: choice.bits }, choice.bit, choice.values))
            .collect();
        let rings: Vec<_> = bits.iter().map(|(ring, bit)| (*ring, bit.n())).collect();
        let chosen = choices.iter().map(|(choice, _, own)| (*choice, own.len()));
        let chosen: Vec<_> = chosen.collect();
        let sends = || {
            let mut sends = Counted::online(conversions_cost(&rings, &chosen), Needs::none());
            let ring_needs = rings.iter().map(|(ring, n)| ring.needs(*n));
            let needs = ring_needs.chain(chosen.iter().map(|(choice, n)| choice.needs(*n)));
            needs.for_each(|needs| sends.transfers.merge(&needs));
            sends
        };
        self.run_either_way(
            sends,
            |session| conversions(session, &bits, &choices),
            || {
                [
                    rings.iter().map(|(_, n)| vec![0; *n]).collect(),
                    chosen.iter().map(|(_, n)| vec![0; *n]).collect(),
                ]
            },
        )
    }

    /// Bits times values, all in one round.
    fn choose_piece(&mut self, choices: &[Choice<'_>]) -> ProtocolResult<Vec<Vec<u64>>> {
        let [_, chosen] = self.convert(&[], choices)?;
        Ok(chosen)
    }

    /// One bit times one value, of each.
    pub(super) fn multiplex(
        &mut self,
        bits: u32,
        bit: &Bits,
        values: &[u64],
    ) -> ProtocolResult<Vec<u64>> {
        Ok(self.choose(&[Choice { bits, bit, values }])?.remove(0))
    }

    /// Products, element by element.
    fn product_piece(&mut self, bits: u32, x: &[u64], y: &[u64]) -> ProtocolResult<Vec<u64>> {
        let n = x.len();
        let protocol = Product { bits };
        self.run(
            || Counted::online(protocol.cost(n), protocol.needs(n)),
            |session| protocol.run(session, x, y),
            || vec![0; n],
        )
    }

    pub(super) fn truncate(
        &mut self,
        protocol: Truncate,
        shares: &[u64],
    ) -> ProtocolResult<Vec<u64>> {
        let each = |gates: &mut Self, at: Range<usize>| gates.truncate_piece(protocol, &shares[at]);
        Ok(self.in_pieces(shares.len(), each)?.concat())
    }

    /// Truncation by `shift` from `2^from` to `2^to`, rounded as the specification says.
    pub(super) fn round(
        &mut self,
        [from, shift, to]: [u32; 3],
        shares: &[u64],
    ) -> ProtocolResult<Vec<u64>> {
        match self.rounding {
            Rounding::Exact => {
                let radix = radix(shares.len());
                self.truncate(Truncate::half_up(from, shift, to, radix), shares)
            }
            Rounding::Stochastic => {
                if let Some(randomness) = &mut self.randomness {
                    randomness.extend(masked(shares, shift));
                }
                // It compares nothing.
                self.truncate(
                    Truncate::by_shares(from, shift, to, Radix::default()),
                    shares,
                )
            }
        }
    }

    /// XOR shares of the sign bits of values of `bits` bits.
    pub(super) fn msb(&mut self, bits: u32, shares: &[u64]) -> ProtocolResult<Bits> {
        let radix = radix(shares.len());
        let each = |gates: &mut Self, at: Range<usize>| gates.msb_piece(bits, radix, &shares[at]);
        Ok(joined(&self.in_pieces(shares.len(), each)?))
    }

    /// The parts of shared values that look a table up.
    pub(super) fn digits(&mut self, protocol: Digits, shares: &[u64]) -> ProtocolResult<Parts> {
        let each = |gates: &mut Self, at: Range<usize>| gates.digits_piece(protocol, &shares[at]);
        let pieces = self.in_pieces(shares.len(), each)?;
        let negative: Vec<Bits> = pieces.iter().filter_map(|p| p.negative.clone()).collect();
        let inside: Vec<Bits> = pieces.iter().map(|p| p.inside.clone()).collect();
        let wraps: Vec<Bits> = pieces.iter().map(|p| p.wrap.clone()).collect();
        let index = pieces.iter().flat_map(|p| &p.index).copied();
        let distance = pieces.iter().flat_map(|p| &p.distance).copied();
        Ok(Parts {
            index: index.collect(),
            distance: distance.collect(),
            wrap: joined(&wraps),
            inside: joined(&inside),
            negative: protocol.sign.map(|_| joined(&negative)),
        })
    }

    /// Bits times values, all of one number, in one round.
    pub(super) fn choose(&mut self, choices: &[Choice<'_>]) -> ProtocolResult<Vec<Vec<u64>>> {
        let n = choices.first().map_or(0, |choice| choice.values.len());
        let each = |gates: &mut Self, at: Range<usize>| {
            let bits: Vec<Bits> = choices.iter().map(|c| cut(c.bit, at.clone())).collect();
            let pieces = choices.iter().zip(&bits).map(|(choice, bit)| Choice {
                bits: choice.bits,
                bit,
                values: &choice.values[at.clone()],
            });
            gates.choose_piece(&pieces.collect::<Vec<_>>())
        };
        Ok(side_by_side(self.in_pieces(n, each)?))
    }

    /// Products, element by element.
    pub(super) fn product(&mut self, bits: u32, x: &[u64], y: &[u64]) -> ProtocolResult<Vec<u64>> {
        let each =
            |gates: &mut Self, at: Range<usize>| gates.product_piece(bits, &x[at.clone()], &y[at]);
        Ok(self.in_pieces(x.len(), each)?.concat())
    }

    /// Products of `x`, which is below `2^low` and shared modulo that, and `y`.
    pub(super) fn narrow_product(
        &mut self,
        [bits, low]: [u32; 2],
        (x, wrap): (&[u64], &Bits),
        y: &[u64],
    ) -> ProtocolResult<Vec<u64>> {
        let protocol = NarrowProduct { bits, low };
        let each = |gates: &mut Self, at: Range<usize>| {
            let n = at.len();
            let wrap = cut(wrap, at.clone());
            gates.run_either_way(
                || Counted::online(protocol.cost(n), protocol.needs(n)),
                |session| protocol.run(session, &x[at.clone()], &wrap, &y[at]),
                || vec![0; n],
            )
        };
        Ok(self.in_pieces(x.len(), each)?.concat())
    }

    /// XOR shares of `a ∧ b`. One round.
    pub(super) fn and(&mut self, a: &Bits, b: &Bits) -> ProtocolResult<Bits> {
        let n = a.n();
        let mut cost = Cost::none();
        cost.exchange([2 * n; 2]);
        let mut needs = Needs::none();
        needs.add_triples(1, n);
        self.run(
            || Counted::online(cost, needs),
            |session| {
                let both = And {
                    bit: a,
                    string: vec![b],
                };
                Ok(and(session, "winners", &[both])?.remove(0).remove(0))
            },
            || Bits::zeros(n),
        )
    }

    /// Entries of public tables at shared indices of `bits` bits, each modulo `2^ring` of its own:
    /// signed where that is wider than the entries.
    pub(super) fn lookup(
        &mut self,
        bits: u32,
        (tables, rings): (&[Table<'_>], &[u32]),
        indices: &[u64],
    ) -> ProtocolResult<Vec<Vec<u64>>> {
        let each = |gates: &mut Self, at: Range<usize>| {
            gates.lookup_piece(bits, (tables, rings), &indices[at])
        };
        Ok(side_by_side(self.in_pieces(indices.len(), each)?))
    }

    /// Sums of one party's vectors by the other's scalars, in one round.
    pub(super) fn combine(&mut self, list: &[Combine<'_>]) -> ProtocolResult<Vec<Vec<u64>>> {
        let label = self.label;
        let shapes: Vec<_> = list.iter().map(|combine| combine.shape).collect();
        let sends = || {
            let mut sends = Counted::online(combinations_cost(&shapes), Needs::none());
            let needs = shapes.iter().map(|shape| shape.needs());
            needs.for_each(|needs| sends.transfers.merge(&needs));
            sends
        };
        self.run(
            sends,
            |session| combinations(session, label, list),
            || shapes.iter().map(|shape| vec![0; shape.width]).collect(),
        )
    }

    /// Products by lattices, in two rounds: `vectors` times `rows` shares each, vector by vector.
    pub(super) fn products(&mut self, terms: &[Term]) -> ProtocolResult<Vec<Vec<u64>>> {
        let label = self.label;
        let shapes: Vec<Shape> = terms.iter().map(|term| term.shape.clone()).collect();
        let sends = || Counted::online(lattice::cost(&shapes), Needs::none());
        if let Mode::Live(session, keys) = &mut self.mode {
            self.ahead += sends().ahead();
            if keys.is_none() {
                *keys = Some(Box::new(Keys::exchange(session, self.keeping.as_mut())?));
            }
            let keys = keys.as_ref().expect("just made");
            return keys.products(session, label, terms);
        }
        let none = |_: &mut Session<C, S>| unreachable!("counted");
        let zeros = |shape: &Shape| vec![0; shape.results()];
        self.run(sends, none, || shapes.iter().map(zeros).collect())
    }

    /// The same of one piece.
    fn lookup_piece(
        &mut self,
        bits: u32,
        (tables, rings): (&[Table<'_>], &[u32]),
        indices: &[u64],
    ) -> ProtocolResult<Vec<Vec<u64>>> {
        let n = indices.len();
        if self.is_silent {
            return Ok(tables.iter().map(|_| vec![0; n]).collect());
        }
        let widths: Vec<u32> = tables.iter().map(|table| table.out_bits).collect();
        let outputs = tables.iter().zip(rings);
        let outputs = outputs.map(|(table, ring)| Width {
            bits: table.out_bits,
            ring: *ring,
        });
        let list = self.one_hot_list(bits, outputs.collect(), n);
        let mut sends = Counted::online(lookup::cost(bits, &widths, n), list.needs());
        sends.offline = list.cost();
        let ready = self.take_ready(&list);
        self.run_unplanned(
            &sends,
            |session| {
                let (one_hots, outputs) = match ready {
                    Some(ready) => ready,
                    // What depends on no input first.
                    None => OneHots::make_lists(session, &[list])?.remove(0),
                };
                lookup::lookup(session, tables, &masked(indices, bits), one_hots, outputs)
            },
            || tables.iter().map(|_| vec![0; n]).collect(),
        )
    }

    /// E1's shares modulo `2^bits` at E0, once both know that no message before was changed;
    /// nothing at E1.
    pub(super) fn reveal(&mut self, bits: u32, shares: &[u64]) -> ProtocolResult<Option<Vec<u64>>> {
        let label = self.label;
        let n = shares.len();
        let mut cost = Cost::none();
        cost.exchange([CONFIRM_BITS; 2]);
        cost.exchange([0, n * bits as usize]);
        self.run(
            || Counted::online(cost, Needs::none()),
            |session| {
                // Nothing is revealed over messages that were changed.
                session.confirm()?;
                let own = [(bits, shares.to_vec())];
                let theirs = exchanged(session, label, &own, [false, true])?;
                let mask = marill_numeric::fixed::low_mask(bits);
                let sum = |theirs: Vec<Vec<u64>>| {
                    let pairs = shares.iter().zip(theirs.into_iter().flatten());
                    pairs.map(|(a, b)| a.wrapping_add(b) & mask).collect()
                };
                Ok(theirs.map(sum))
            },
            || Some(vec![0; n]),
        )
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

/// Bits of a plane.
fn cut(bits: &Bits, at: Range<usize>) -> Bits {
    Bits::from_fn(at.len(), |i| bits.get(at.start + i))
}

/// Planes one behind the other.
fn joined(pieces: &[Bits]) -> Bits {
    let mut all = pieces
        .iter()
        .flat_map(|piece| (0..piece.n()).map(|i| piece.get(i)));
    let n = pieces.iter().map(Bits::n).sum();
    Bits::from_fn(n, |_| all.next().unwrap_or(0))
}

/// Pieces of several results, each put together.
fn side_by_side(pieces: Vec<Vec<Vec<u64>>>) -> Vec<Vec<u64>> {
    let mut pieces = pieces.into_iter();
    let mut whole = pieces.next().unwrap_or_default();
    for piece in pieces {
        for (whole, piece) in whole.iter_mut().zip(piece) {
            whole.extend(piece);
        }
    }
    whole
}

fn masked(shares: &[u64], bits: u32) -> Vec<u64> {
    let mask = marill_numeric::fixed::low_mask(bits);
    shares.iter().map(|share| share & mask).collect()
}
