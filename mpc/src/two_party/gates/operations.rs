//! Each protocol that gates run: of values of any number, piece by piece.

use std::ops::Range;

use marill_net::Channel;
use marill_numeric::Rounding;
use marill_ot::{
    Source,
    stock::Needs,
    transfer::{And, and},
};
use marill_two_party::{
    Bits, Combine, Comparisons, Cost, Digits, Msb, Multiplex, NarrowProduct, Parts, Product, Radix,
    Session, ToRing, Truncate, combinations, combinations_cost, conversions, conversions_cost,
    lookup,
    lookup::{OneHots, Table, Width},
};

use super::{CONFIRM_BITS, Choice, Counted, Gates, Mode, masked, messages::exchanged, radix};
use crate::{
    error::ProtocolResult,
    two_party::lattice::{self, Keys, Shape, Term},
};

impl<C: Channel, S: Source> Gates<C, S> {
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
    pub(in crate::two_party) fn compare(
        &mut self,
        list: Vec<(u32, Vec<u64>)>,
    ) -> ProtocolResult<Vec<Bits>> {
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
    pub(in crate::two_party) fn convert(
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
    pub(in crate::two_party) fn multiplex(
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

    pub(in crate::two_party) fn truncate(
        &mut self,
        protocol: Truncate,
        shares: &[u64],
    ) -> ProtocolResult<Vec<u64>> {
        let each = |gates: &mut Self, at: Range<usize>| gates.truncate_piece(protocol, &shares[at]);
        Ok(self.in_pieces(shares.len(), each)?.concat())
    }

    /// Truncation by `shift` from `2^from` to `2^to`, rounded as the specification says.
    pub(in crate::two_party) fn round(
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
    pub(in crate::two_party) fn msb(&mut self, bits: u32, shares: &[u64]) -> ProtocolResult<Bits> {
        let radix = radix(shares.len());
        let each = |gates: &mut Self, at: Range<usize>| gates.msb_piece(bits, radix, &shares[at]);
        Ok(joined(&self.in_pieces(shares.len(), each)?))
    }

    /// The parts of shared values that look a table up.
    pub(in crate::two_party) fn digits(
        &mut self,
        protocol: Digits,
        shares: &[u64],
    ) -> ProtocolResult<Parts> {
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
    pub(in crate::two_party) fn choose(
        &mut self,
        choices: &[Choice<'_>],
    ) -> ProtocolResult<Vec<Vec<u64>>> {
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
    pub(in crate::two_party) fn product(
        &mut self,
        bits: u32,
        x: &[u64],
        y: &[u64],
    ) -> ProtocolResult<Vec<u64>> {
        let each =
            |gates: &mut Self, at: Range<usize>| gates.product_piece(bits, &x[at.clone()], &y[at]);
        Ok(self.in_pieces(x.len(), each)?.concat())
    }

    /// Products of `x`, which is below `2^low` and shared modulo that, and `y`.
    pub(in crate::two_party) fn narrow_product(
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
    pub(in crate::two_party) fn and(&mut self, a: &Bits, b: &Bits) -> ProtocolResult<Bits> {
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
    pub(in crate::two_party) fn lookup(
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
    pub(in crate::two_party) fn combine(
        &mut self,
        list: &[Combine<'_>],
    ) -> ProtocolResult<Vec<Vec<u64>>> {
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
    pub(in crate::two_party) fn products(
        &mut self,
        terms: &[Term],
    ) -> ProtocolResult<Vec<Vec<u64>>> {
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
    pub(in crate::two_party) fn reveal(
        &mut self,
        bits: u32,
        shares: &[u64],
    ) -> ProtocolResult<Option<Vec<u64>>> {
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
