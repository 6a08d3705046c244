//! The protocols that the engine is made of, run with a peer or counted.
//!
//! Counting goes the same way over shares that are all zero: what is sent depends on shapes alone.

mod messages;

use std::ops::{AddAssign, Range};

use marill_net::Channel;
use marill_numeric::Rounding;
use marill_ot::{Phase, Source, stock::Needs};
use marill_two_party::{
    Bits, Combine, Comparisons, Cost, Digits, Msb, Multiplex, OtError, Parts, Party, Product,
    Radix, Session, ToRing, Truncate, combinations, combinations_cost, conversions,
    conversions_cost, lookup,
    lookup::{OneHots, SharedBits, Table},
};

pub(super) use self::messages::Packing;
use self::messages::exchanged;
use crate::{
    error::ProtocolResult,
    two_party::lattice::{self, Keys, Shape, Term},
};

/// Few bytes before few rounds.
const RADIX: Radix = Radix::Four;

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
    label: &'static str,
    pub(super) piece: usize,
    pub(super) rounding: Rounding,
    /// What E0 rounded by, element by element, where a test asks for it.
    pub(super) randomness: Option<Vec<u64>>,
}

/// One multiplexer of a round of them.
pub(super) struct Choice<'a> {
    pub bits: u32,
    pub bit: &'a Bits,
    pub values: &'a [u64],
}

impl<C: Channel, S: Source> Gates<C, S> {
    pub(super) fn live(session: Session<C, S>) -> Self {
        Self {
            mode: Mode::Live(Box::new(session), None),
            label: "",
            piece: PIECE,
            rounding: Rounding::Exact,
            randomness: None,
        }
    }

    pub(super) fn count() -> Self {
        Self {
            mode: Mode::Count(Vec::new()),
            label: "",
            piece: PIECE,
            rounding: Rounding::Exact,
            randomness: None,
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

    /// `live` with a peer; else what `counted` counts and returns.
    fn run<T>(
        &mut self,
        live: impl FnOnce(&mut Session<C, S>) -> Result<T, OtError>,
        counted: impl FnOnce(&mut Counted) -> T,
    ) -> ProtocolResult<T> {
        match &mut self.mode {
            Mode::Live(session, _) => Ok(live(session)?),
            Mode::Count(parts) => {
                let place = parts.iter().position(|(label, _)| *label == self.label);
                let place = place.unwrap_or_else(|| {
                    parts.push((self.label, Counted::default()));
                    parts.len() - 1
                });
                Ok(counted(&mut parts[place].1))
            }
        }
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
        self.run(
            |session| protocol.run(session, shares),
            |count| {
                count.add(protocol.cost(n), &protocol.needs(n));
                vec![0; n]
            },
        )
    }

    /// XOR shares of the sign bits of values of `bits` bits.
    fn msb_piece(&mut self, bits: u32, shares: &[u64]) -> ProtocolResult<Bits> {
        let n = shares.len();
        let protocol = Msb { bits, radix: RADIX };
        self.run(
            |session| protocol.run(session, &masked(shares, bits)),
            |count| {
                count.add(protocol.cost(n), &protocol.needs(n));
                Bits::zeros(n)
            },
        )
    }

    /// XOR shares of `x > y` of the parties' own values, each comparison with its width.
    pub(super) fn compare(&mut self, list: Vec<(u32, Vec<u64>)>) -> ProtocolResult<Vec<Bits>> {
        let n = list.first().map_or(0, |(_, own)| own.len());
        let (widths, own): (Vec<u32>, Vec<Vec<u64>>) = list.into_iter().unzip();
        let radix = RADIX;
        let protocol = Comparisons { widths, radix };
        self.run(
            |session| protocol.run(session, &own),
            |count| {
                count.add(protocol.cost(n), &protocol.needs(n));
                vec![Bits::zeros(n); own.len()]
            },
        )
    }

    /// The parts of shared values that look a table up.
    fn digits_piece(&mut self, protocol: Digits, shares: &[u64]) -> ProtocolResult<Parts> {
        let n = shares.len();
        self.run(
            |session| protocol.run(session, shares),
            |count| {
                count.add(protocol.cost(n), &protocol.needs(n));
                Parts {
                    index: vec![0; n],
                    distance: vec![0; n],
                    inside: Bits::zeros(n),
                    negative: protocol.sign.map(|_| Bits::zeros(n)),
                }
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
        self.run(
            |session| conversions(session, &bits, &choices),
            |count| {
                let rings: Vec<_> = bits.iter().map(|(ring, bit)| (*ring, bit.n())).collect();
                let chosen = choices.iter().map(|(choice, _, own)| (*choice, own.len()));
                let chosen: Vec<_> = chosen.collect();
                let ring_needs = rings.iter().map(|(ring, n)| ring.needs(*n));
                let needs = ring_needs.chain(chosen.iter().map(|(choice, n)| choice.needs(*n)));
                needs.for_each(|needs| count.transfers.merge(&needs));
                count.online += conversions_cost(&rings, &chosen);
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
            |session| protocol.run(session, x, y),
            |count| {
                count.add(protocol.cost(n), &protocol.needs(n));
                vec![0; n]
            },
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
            Rounding::Exact => self.truncate(Truncate::half_up(from, shift, to, RADIX), shares),
            Rounding::Stochastic => {
                if let Some(randomness) = &mut self.randomness {
                    randomness.extend(masked(shares, shift));
                }
                self.truncate(Truncate::by_shares(from, shift, to, RADIX), shares)
            }
        }
    }

    /// XOR shares of the sign bits of values of `bits` bits.
    pub(super) fn msb(&mut self, bits: u32, shares: &[u64]) -> ProtocolResult<Bits> {
        let each = |gates: &mut Self, at: Range<usize>| gates.msb_piece(bits, &shares[at]);
        Ok(joined(&self.in_pieces(shares.len(), each)?))
    }

    /// The parts of shared values that look a table up.
    pub(super) fn digits(&mut self, protocol: Digits, shares: &[u64]) -> ProtocolResult<Parts> {
        let each = |gates: &mut Self, at: Range<usize>| gates.digits_piece(protocol, &shares[at]);
        let pieces = self.in_pieces(shares.len(), each)?;
        let negative: Vec<Bits> = pieces.iter().filter_map(|p| p.negative.clone()).collect();
        let inside: Vec<Bits> = pieces.iter().map(|p| p.inside.clone()).collect();
        let index = pieces.iter().flat_map(|p| &p.index).copied();
        let distance = pieces.iter().flat_map(|p| &p.distance).copied();
        Ok(Parts {
            index: index.collect(),
            distance: distance.collect(),
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

    /// Entries of public tables at shared indices of `bits` bits, modulo `2^out_bits` each.
    pub(super) fn lookup(
        &mut self,
        bits: u32,
        tables: &[Table<'_>],
        indices: &[u64],
    ) -> ProtocolResult<Vec<Vec<u64>>> {
        let each =
            |gates: &mut Self, at: Range<usize>| gates.lookup_piece(bits, tables, &indices[at]);
        Ok(side_by_side(self.in_pieces(indices.len(), each)?))
    }

    /// Sums of one party's vectors by the other's scalars, in one round.
    pub(super) fn combine(&mut self, list: &[Combine<'_>]) -> ProtocolResult<Vec<Vec<u64>>> {
        let label = self.label;
        self.run(
            |session| combinations(session, label, list),
            |count| {
                let shapes: Vec<_> = list.iter().map(|combine| combine.shape).collect();
                count.online += combinations_cost(&shapes);
                for shape in &shapes {
                    count.transfers.merge(&shape.needs());
                }
                shapes.iter().map(|shape| vec![0; shape.width]).collect()
            },
        )
    }

    /// Products by lattices, in two rounds: `vectors` times `rows` shares each, vector by vector.
    pub(super) fn products(&mut self, terms: &[Term]) -> ProtocolResult<Vec<Vec<u64>>> {
        let label = self.label;
        if let Mode::Live(session, keys) = &mut self.mode {
            if keys.is_none() {
                *keys = Some(Box::new(Keys::exchange(session)?));
            }
            let keys = keys.as_ref().expect("just made");
            return keys.products(session, label, terms);
        }
        self.counted_products(terms)
    }

    fn counted_products(&mut self, terms: &[Term]) -> ProtocolResult<Vec<Vec<u64>>> {
        let shapes: Vec<Shape> = terms.iter().map(|term| term.shape.clone()).collect();
        let none = |_: &mut Session<C, S>| unreachable!("counted");
        self.run(none, |count| {
            count.online += lattice::cost(&shapes);
            shapes
                .iter()
                .map(|shape| vec![0; shape.results()])
                .collect()
        })
    }

    /// Entries of public tables at shared indices of `bits` bits, modulo `2^out_bits` each.
    fn lookup_piece(
        &mut self,
        bits: u32,
        tables: &[Table<'_>],
        indices: &[u64],
    ) -> ProtocolResult<Vec<Vec<u64>>> {
        let n = indices.len();
        let widths: Vec<u32> = tables.iter().map(|table| table.out_bits).collect();
        self.run(
            |session| {
                // What depends on no input first.
                let (one_hots, outputs) = OneHots::make_with(session, bits, &widths, n)?;
                lookup::lookup(session, tables, &masked(indices, bits), one_hots, outputs)
            },
            |count| {
                count.offline += OneHots::cost_with(bits, &widths, n);
                count.transfers.merge(&OneHots::needs(bits, n));
                for out_bits in &widths {
                    count.transfers.merge(&SharedBits::needs(*out_bits, n));
                }
                count.online += lookup::cost(bits, &widths, n);
                tables.iter().map(|_| vec![0; n]).collect()
            },
        )
    }

    /// E1's shares modulo `2^bits` at E0, once both know that no message before was changed;
    /// nothing at E1.
    pub(super) fn reveal(&mut self, bits: u32, shares: &[u64]) -> ProtocolResult<Option<Vec<u64>>> {
        let label = self.label;
        let n = shares.len();
        self.run(
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
            |count| {
                count.online.exchange([CONFIRM_BITS; 2]);
                count.online.exchange([0, n * bits as usize]);
                Some(vec![0; n])
            },
        )
    }

    /// Bytes and rounds so far, by what they were for.
    pub(super) fn traffic(&self, phase: Phase) -> marill_ot::Traffic {
        match &self.mode {
            Mode::Live(session, _) => session.traffic(phase),
            Mode::Count(_) => marill_ot::Traffic::default(),
        }
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
    fn add(&mut self, cost: Cost, needs: &Needs) {
        self.online += cost;
        self.transfers.merge(needs);
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
