//! Messages between the evaluators: openings, partial openings, one-sided reveals.
//!
//! - An **opening** makes a share a wire: each evaluator sends its half plus its mask, both learn
//!   `x̂ = x + r`.
//! - A **partial opening** is one that E1 need not see in full. E1 sends as before; E0 sends the
//!   low bits of its own message only, and later the MSB of `x̂`. A truncation asks no more of E1:
//!   the digits that are compared, and whether the mask wrapped. E0's public part is E0's alone.
//! - A **one-sided reveal** gives a value to the server's side: E0 sends its half plus a mask, E1
//!   sends nothing and holds `x + [r]_0`, E0's half becomes `-[r]_0`. That is all that a product
//!   with a private matrix of E1's needs, and a product with a public one then has a half at E0
//!   that does not depend on the input.
//!
//! What either evaluator sees of a partial opening or a one-sided reveal is part of what it would
//! see of an opening, whose security argument is that of [`super`]: nothing is sent that was not a
//! function of what an opening sends.

use marill_numeric::{fixed::low_mask, ring};

use crate::{
    cost::Cost,
    engine::Labels,
    error::ProtocolError,
    masked::{
        Masked, Role,
        boolean::{Bits, OpenBits, bit},
        pack::{
            add_packed, byte_width, pack_iter, pack_plane, pack_tight, tight_bytes, unpack,
            unpack_tight, xor_packed_plane,
        },
        precompute::RevealSpec,
        share::{Held, Share, Wire, WireMask, masked_by},
    },
    spec::MapId,
};

/// A share to be opened: `bits` of it to E0, the lowest `revealed_bits` of them to E1, which is
/// sent the MSB later or never.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    share: &'a Share,
    bits: u32,
    revealed_bits: u32,
    msb_later: bool,
}

impl<'a> Part<'a> {
    /// What both evaluators see in full.
    pub(super) fn whole(share: &'a Share, bits: u32) -> Self {
        Self {
            share,
            bits,
            revealed_bits: bits,
            msb_later: false,
        }
    }

    /// A partial opening whose MSB E0 sends later.
    pub(super) fn partial(share: &'a Share, bits: u32, revealed_bits: u32) -> Self {
        Self {
            share,
            bits,
            revealed_bits,
            msb_later: true,
        }
    }

    /// A partial opening of which E1 needs the low bits only.
    pub(super) fn low(share: &'a Share, bits: u32, revealed_bits: u32) -> Self {
        Self {
            share,
            bits,
            revealed_bits,
            msb_later: false,
        }
    }
}

impl Wire {
    /// Puts the received MSBs above E1's low ones; returns the bytes read.
    fn add_msbs(&mut self, data: &[u8]) -> usize {
        let n = self.len();
        let top = self.bits - 1;
        let mut msbs = vec![0; n.div_ceil(64)];
        let read = xor_packed_plane(&mut msbs, data, n);
        self.opened_mut()
            .iter_mut()
            .enumerate()
            .for_each(|(i, v)| *v |= crate::masked::boolean::bit(&msbs, i) << top);
        read
    }
}

/// A share that is about to be revealed to E1.
pub(super) struct PendingReveal {
    pub(super) x: Share,
    /// The MSBs that E1's half still lacks ([`Masked::high_part_and_wraps`]).
    pub(super) late: Option<Late>,
}

/// A partial opening behind a share, whose MSBs E0 sends with its next message.
pub(super) struct Late {
    pub(super) wire: Wire,
    /// Shares of the wraps, at bit `from`.
    pub(super) wraps: Vec<u64>,
    pub(super) from: u32,
    /// Where the complete share is recorded.
    pub(super) labels: Labels,
}

/// Adds packed elements of so many bits, modulo those; returns the bytes read.
fn add_tight(values: &mut [u64], data: &[u8], bits: u32) -> usize {
    if bits > 0 && bits.is_multiple_of(8) {
        return add_packed(values, data, byte_width(bits), bits);
    }
    let modulus = low_mask(bits);
    let others = unpack_tight(data, values.len(), bits);
    values
        .iter_mut()
        .zip(others)
        .for_each(|(value, other)| *value = value.wrapping_add(other) & modulus);
    tight_bytes(values.len(), bits)
}

impl Masked {
    /// Opens shares and bit planes under fresh masks, all in one exchange.
    pub(super) fn exchange(
        &mut self,
        shares: &[(&Share, u32)],
        planes: &[&Bits],
        label: &'static str,
    ) -> Result<(Vec<Wire>, Vec<OpenBits>), ProtocolError> {
        let mut materialized = Vec::with_capacity(shares.len());
        for (share, bits) in shares {
            materialized.push((self.materialized(share)?, *bits));
        }
        let shares: Vec<(&Share, u32)> = materialized
            .iter()
            .map(|(share, bits)| (share.as_ref(), *bits))
            .collect();
        self.exchange_masked(&shares, planes, label)
    }

    /// As [`Self::exchange`]. What a share has deferred becomes part of its wire's mask at the
    /// dealer: with halves `s_0 + s_1 = x - o`, the opened value `s_0 + [r]_0 + s_1 + [r]_1` is
    /// `x + r` for `r = [r]_0 + [r]_1 - o`, as uniform to either evaluator as before. The
    /// evaluators then hold no shares of `r`, so such a wire is good for gates that ask the dealer
    /// for functions of `r`, not for products.
    pub(super) fn exchange_masked(
        &mut self,
        shares: &[(&Share, u32)],
        planes: &[&Bits],
        label: &'static str,
    ) -> Result<(Vec<Wire>, Vec<OpenBits>), ProtocolError> {
        let parts: Vec<Part<'_>> = shares
            .iter()
            .map(|(share, bits)| Part::whole(share, *bits))
            .collect();
        self.exchange_parts(&parts, planes, &mut [], label)
    }

    /// As [`Self::exchange_masked`], with partial openings among the parts. `halves` are earlier
    /// ones, whose MSB E0 now sends: from here on E1 holds it above the low bits that it was sent.
    pub(super) fn exchange_parts(
        &mut self,
        parts: &[Part<'_>],
        planes: &[&Bits],
        halves: &mut [&mut Wire],
        label: &'static str,
    ) -> Result<(Vec<Wire>, Vec<OpenBits>), ProtocolError> {
        // x_p + [r]_p of every part, and bits ⊕ ρ_p of every plane.
        let mut wires = self.mask_wires(parts)?;
        let mut opened = self.mask_planes(planes)?;
        // Both sizes are public: what E0 sends, then what E1 sends.
        let bytes_of = |plane: usize| plane.div_ceil(8);
        let both = planes.iter().map(|plane| bytes_of(plane.n)).sum::<usize>();
        let msbs = halves
            .iter()
            .map(|wire| bytes_of(wire.len()))
            .sum::<usize>();
        let sent = |width: fn(&Part<'_>) -> u32| {
            parts
                .iter()
                .map(|part| tight_bytes(part.share.len(), width(part)))
                .sum::<usize>()
        };
        let sizes = [
            sent(|part| part.revealed_bits) + both + msbs,
            sent(|part| part.bits) + both,
        ];
        let first = self.is_first();
        // What this party sends, and what it hears, of a part.
        let width = |part: &Part<'_>, sends: bool| {
            if first == sends {
                part.revealed_bits
            } else {
                part.bits
            }
        };
        let mut payload = Vec::new();
        if self.is_evaluator() {
            payload.reserve(sizes[usize::from(!first)] + 8);
            for (wire, part) in wires.iter().zip(parts) {
                pack_tight(&mut payload, wire.opened(), width(part, true));
            }
            for plane in &opened {
                pack_plane(&mut payload, plane.hat(), plane.n);
            }
            for wire in halves.iter().filter(|_| first) {
                let msbs = wire.msbs();
                pack_plane(&mut payload, &msbs, wire.len());
                self.note_msbs(&msbs, wire.len());
            }
        }
        // Both messages travel at once: one round.
        let Some(reply) = self.swap(payload, sizes, label)? else {
            return Ok((wires, opened));
        };
        let mut at = 0;
        for (wire, part) in wires.iter_mut().zip(parts) {
            let heard = width(part, false);
            // x̂ = (x_0 + [r]_0) + (x_1 + [r]_1).
            at += add_tight(wire.opened_mut(), &reply[at..], heard);
            if part.msb_later
                && let Role::Evaluator(e) = &mut self.role
            {
                e.randomness.opened_in_part(wire);
            }
        }
        for plane in &mut opened {
            let n = plane.n;
            at += xor_packed_plane(plane.held.opened_mut(), &reply[at..], n);
        }
        for wire in halves.iter_mut().filter(|_| !first) {
            at += wire.add_msbs(&reply[at..]);
        }
        Ok((wires, opened))
    }

    /// Draws wire masks; `open` holds the own share plus its mask until the peer's part is added.
    fn mask_wires(&mut self, parts: &[Part<'_>]) -> Result<Vec<Wire>, ProtocolError> {
        let mut wires = Vec::with_capacity(parts.len());
        for &Part {
            share,
            bits,
            revealed_bits,
            msb_later,
        } in parts
        {
            assert!(
                share.bits >= bits,
                "a share of {} bits cannot open {bits}",
                share.bits
            );
            let n = share.len();
            let held = match &mut self.role {
                Role::Tally(_) => Held::Shape,
                Role::Dealer(dealer) => {
                    // r = [r]_0 + [r]_1, less what the share has deferred.
                    let of_e0 = dealer.randomness.client_masks(n, bits);
                    let other = dealer.server_masks(n)?;
                    let mut whole = masked_by(&of_e0, &other, bits);
                    let modulus = low_mask(bits);
                    let pairs = whole.iter_mut().zip(share.known_term().unwrap_or_default());
                    pairs.for_each(|(r, o)| *r = r.wrapping_sub(*o) & modulus);
                    Held::Dealer(WireMask { whole, of_e0 })
                }
                Role::Evaluator(e) => {
                    // x_p + [r]_p, which the peer's part completes.
                    let sees = (revealed_bits, msb_later);
                    let half = e.randomness.wire_masks(&share.data, bits, sees);
                    let opened = masked_by(&share.data, &half, bits);
                    Held::Evaluator { opened, half }
                }
            };
            wires.push(Wire::new((share.rows, share.cols), bits, held));
        }
        Ok(wires)
    }

    fn mask_planes(&mut self, planes: &[&Bits]) -> Result<Vec<OpenBits>, ProtocolError> {
        let mut opened = Vec::with_capacity(planes.len());
        for plane in planes {
            let words = plane.n.div_ceil(64);
            let held = match &mut self.role {
                Role::Tally(_) => Held::Shape,
                Role::Dealer(dealer) => {
                    let other = dealer.server_masks(words)?;
                    let of_e0 = dealer.randomness.client_masks(words, 64);
                    // ρ = ρ_0 ⊕ ρ_1.
                    Held::Dealer(of_e0.iter().zip(other).map(|(a, b)| a ^ b).collect())
                }
                Role::Evaluator(e) => {
                    // bit_p ⊕ ρ_p.
                    let half = e.randomness.plane_masks(&plane.words, plane.n);
                    let opened = plane.words.iter().zip(&half).map(|(x, r)| x ^ r).collect();
                    Held::Evaluator { opened, half }
                }
            };
            opened.push(OpenBits { n: plane.n, held });
        }
        Ok(opened)
    }

    /// E0's masks of a share that it is about to reveal to E1, at E0 and the dealer.
    pub(super) fn masks_of_reveal(&mut self, x: &Share, bits: u32, maps: &[MapId]) -> Vec<u64> {
        let of = || RevealSpec {
            maps: maps.to_vec(),
            rows: x.rows,
            cols: x.cols,
            bits,
        };
        match &mut self.role {
            Role::Tally(tally) => {
                tally.reveals.push(of());
                Vec::new()
            }
            Role::Dealer(dealer) => dealer.masks_of_reveal(x.len(), bits),
            Role::Evaluator(e) if e.first => e.masks_of_reveal(&x.data, &of()),
            Role::Evaluator(_) => Vec::new(),
        }
    }

    /// Gives a share modulo `2^bits` to E1 under E0's `masks` `[r]_0`, with `notes` numbers of E0's
    /// behind it, which are masked already: `-[r]_0` at E0 and `x + [r]_0` at E1, and the notes at
    /// E1. One round.
    pub(super) fn reveal_under(
        &mut self,
        masks: &[u64],
        PendingReveal { mut x, late }: PendingReveal,
        bits: u32,
        (notes, note): (usize, &[u64]),
        label: &'static str,
    ) -> Result<(Share, Vec<u64>), ProtocolError> {
        debug_assert!(
            !x.is_deferred() && x.bits >= bits,
            "a materialized share of enough bits"
        );
        let n = x.len();
        let modulus = low_mask(bits);
        let bytes = byte_width(bits);
        let numbers = (n + notes) * bytes;
        let mut payload = Vec::new();
        if self.is_first() {
            payload.reserve(numbers + n.div_ceil(8) + 8);
            // x_0 + [r]_0 goes to E1, whose half becomes x + [r]_0; E0's is -[r]_0.
            let masked = x
                .data
                .iter()
                .zip(masks)
                .map(|(x, r)| x.wrapping_add(*r) & modulus);
            pack_iter(&mut payload, masked, bytes);
            pack_iter(&mut payload, note.iter().map(|v| v & modulus), bytes);
            if let Some(late) = &late {
                let msbs = late.wire.msbs();
                pack_plane(&mut payload, &msbs, n);
                self.note_msbs(&msbs, n);
            }
        }
        let size = numbers + if late.is_some() { n.div_ceil(8) } else { 0 };
        // One message from E0, no reply.
        let received = self.one_way(true, size, label, || payload)?;
        if let (Some(received), Some(late)) = (&received, &late) {
            let mut msbs = vec![0; n.div_ceil(64)];
            xor_packed_plane(&mut msbs, &received[numbers..], n);
            // E1 now knows msb ẑ, which its half took for zero.
            take_wraps(&mut x, &late.wraps, &msbs, late.from);
        }
        if let Some(late) = &late {
            self.record(late.labels.inner, &x);
            self.record(late.labels.outer, &x);
        }
        let mut data = Vec::new();
        let mut heard = Vec::new();
        if let Some(received) = received {
            data = std::mem::take(&mut x.data);
            add_packed(&mut data, &received, bytes, bits);
            heard = unpack(&received[n * bytes..numbers], bytes);
        } else if self.is_evaluator() {
            // E0's half is -[r]_0: known before any input, hence products ahead of a step.
            data = ring::negated(masks);
        }
        Ok((Share::new(x.rows, x.cols, bits, data), heard))
    }

    /// E0 sends the MSBs of a partial opening, in a message of their own.
    pub(super) fn send_msbs(
        &mut self,
        wire: &mut Wire,
        label: &'static str,
    ) -> Result<(), ProtocolError> {
        let n = wire.len();
        let mut payload = Vec::new();
        if self.is_first() {
            let msbs = wire.msbs();
            pack_plane(&mut payload, &msbs, n);
            self.note_msbs(&msbs, n);
        }
        if let Some(received) = self.one_way(true, n.div_ceil(8), label, || payload)? {
            wire.add_msbs(&received);
        }
        Ok(())
    }

    /// Says what E0 sent of MSBs.
    fn note_msbs(&mut self, msbs: &[u64], n: usize) {
        if let Some(observer) = &mut self.observer {
            observer.msbs(msbs);
        }
        if let Role::Evaluator(e) = &mut self.role {
            e.randomness.sent_msbs(n);
        }
    }

    /// Sends a payload and waits for the peer's; `sizes` are what E0 and E1 send.
    fn swap(
        &mut self,
        payload: Vec<u8>,
        sizes: [usize; 2],
        label: &'static str,
    ) -> Result<Option<Vec<u8>>, ProtocolError> {
        match &mut self.role {
            Role::Dealer(_) => Ok(None),
            Role::Tally(tally) => {
                tally.one_way = None;
                let [e0_to_e1_bytes, e1_to_e0_bytes] = sizes.map(|size| size as u64);
                tally.add(Cost {
                    rounds: 1,
                    e0_to_e1_bytes,
                    e1_to_e0_bytes,
                    ..Cost::default()
                });
                Ok(None)
            }
            Role::Evaluator(e) => {
                let expected = sizes[usize::from(e.first)];
                e.one_way = None;
                e.traffic.rounds += 1;
                e.send(payload, label)?;
                e.receive(expected, label).map(Some)
            }
        }
    }

    /// A message from one evaluator to the other. Consecutive ones in one direction are one round.
    pub(super) fn one_way(
        &mut self,
        from_first: bool,
        size: usize,
        label: &'static str,
        payload: impl FnOnce() -> Vec<u8>,
    ) -> Result<Option<Vec<u8>>, ProtocolError> {
        match &mut self.role {
            Role::Dealer(_) => Ok(None),
            Role::Tally(tally) => {
                let rounds = u64::from(tally.one_way.replace(from_first) != Some(from_first));
                let bytes = |first| if from_first == first { size as u64 } else { 0 };
                let e0_to_e1_bytes = bytes(true);
                let e1_to_e0_bytes = bytes(false);
                tally.add(Cost {
                    rounds,
                    e0_to_e1_bytes,
                    e1_to_e0_bytes,
                    ..Cost::default()
                });
                Ok(None)
            }
            Role::Evaluator(e) => {
                e.traffic.rounds += u64::from(e.one_way.replace(from_first) != Some(from_first));
                if e.first == from_first {
                    e.randomness.sent_one_way(size);
                    e.send(payload(), label)?;
                    return Ok(None);
                }
                e.receive(size, label).map(Some)
            }
        }
    }
}

/// Takes off E1's half what it added for a `msb ẑ` of one; `msbs` are those bits.
fn take_wraps(share: &mut Share, wraps: &[u64], msbs: &[u64], from: u32) {
    for (i, (value, wrap)) in share.data.iter_mut().zip(wraps).enumerate() {
        *value = value.wrapping_sub(bit(msbs, i).wrapping_mul(*wrap) << from);
    }
}
