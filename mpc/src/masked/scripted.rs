//! Scripted streams for the mask-shift test: E0 and the dealer choose E0's masks so that every
//! message and every correction equals a recorded one, whatever the input. That this is possible
//! for any two inputs, and that E0 still gets the right token, is what makes E1's view independent
//! of the input. The mirror: E1 and the dealer choose E1's masks so that every message to E0 equals
//! a recorded one, whatever the adapter.

use std::{
    any::Any,
    sync::mpsc::{Receiver, Sender},
};

use marill_numeric::fixed::low_mask;

use crate::masked::{
    Masked,
    hooks::{DealerRandomness, DealerStreams, EvaluatorRandomness, Observer},
    share::{Held, Share, Wire},
};

/// Bytes of a recorded stream, read in order.
pub(super) struct Transcript {
    bytes: Vec<u8>,
    at: usize,
}

impl Transcript {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self { bytes, at: 0 }
    }

    pub(super) fn take(&mut self, n: usize) -> &[u8] {
        self.at += n;
        &self.bytes[self.at - n..self.at]
    }
}

/// E0's side: sent messages are replayed by solving for the mask.
pub(super) struct ClientScript {
    pub(super) sent: Transcript,
    /// MSBs that E0 sent, in order.
    pub(super) msbs: std::vec::IntoIter<Vec<u64>>,
    pub(super) masks_to_dealer: Sender<Vec<u64>>,
    pub(super) halves_from_dealer: Receiver<Vec<u64>>,
}

impl EvaluatorRandomness for ClientScript {
    /// Masks under which the lowest `revealed_bits` bits are the recorded ones. Where the MSB is
    /// sent later they are complete, and known to the dealer, with it ([`Self::opened_in_part`]).
    fn wire_masks(
        &mut self,
        share: &[u64],
        _bits: u32,
        (revealed_bits, msb_later): (u32, bool),
    ) -> Vec<u64> {
        let recorded = self
            .sent
            .take(crate::masked::pack::tight_bytes(share.len(), revealed_bits));
        let recorded = crate::masked::pack::unpack_tight(recorded, share.len(), revealed_bits);
        let modulus = marill_numeric::fixed::low_mask(revealed_bits);
        let masks: Vec<u64> = recorded
            .iter()
            .zip(share)
            .map(|(m, s)| m.wrapping_sub(*s) & modulus)
            .collect();
        if !msb_later {
            self.masks_to_dealer
                .send(masks.clone())
                .expect("the dealer runs");
        }
        masks
    }

    /// Shifts masks of a partial opening so that its MSBs are those which E0 will send.
    fn opened_in_part(&mut self, wire: &mut Wire) {
        let msbs = self
            .msbs
            .next()
            .expect("as many partial openings as recorded");
        let top = wire.bits - 1;
        let Held::Evaluator { opened, half } = &mut wire.held else {
            unreachable!("an evaluator opens")
        };
        for (i, (open, mask)) in opened.iter_mut().zip(half).enumerate() {
            let other = ((*open >> top) ^ crate::masked::boolean::bit(&msbs, i)) << top;
            *open ^= other;
            *mask ^= other;
        }
        self.masks_to_dealer
            .send(wire.half().to_vec())
            .expect("the dealer runs");
    }

    fn plane_masks(&mut self, plane: &[u64], n: usize) -> Vec<u64> {
        let mut masks = plane.to_vec();
        crate::masked::xor_packed_plane(&mut masks, self.sent.take(n.div_ceil(8)), n);
        self.masks_to_dealer
            .send(masks.clone())
            .expect("the dealer runs");
        masks
    }

    /// E0's results of comparison functions, `[input][element]`: it sends the inputs, which E1
    /// knows as well.
    fn dcf_outputs(&mut self, inputs: &[u64]) -> Option<Vec<u64>> {
        self.masks_to_dealer
            .send(inputs.to_vec())
            .expect("the dealer runs");
        Some(self.halves_from_dealer.recv().expect("the dealer runs"))
    }

    fn reveal_masks(&mut self, share: &[u64], bits: u32) -> Option<Vec<u64>> {
        Some(self.wire_masks(share, bits, (bits, false)))
    }

    fn sent_msbs(&mut self, n: usize) {
        self.sent.take(n.div_ceil(8));
    }

    fn prg_share(&mut self, n: usize) -> Option<Vec<u64>> {
        let halves = self.halves_from_dealer.recv().expect("the dealer runs");
        assert_eq!(
            halves.len(),
            n,
            "E0 and the dealer ask for the same corrections"
        );
        Some(halves)
    }
}

/// The dealer's side: written corrections are replayed by solving for E0's half.
pub(super) struct DealerScript {
    pub(super) streams: DealerStreams,
    pub(super) written: Transcript,
    pub(super) masks_from_client: Receiver<Vec<u64>>,
    pub(super) halves_to_client: Sender<Vec<u64>>,
}

impl DealerRandomness for DealerScript {
    fn server_masks(&mut self, n: usize) -> Vec<u64> {
        self.streams.server_masks(n)
    }

    fn reveal_masks(&mut self) -> Option<Vec<u64>> {
        Some(self.masks_from_client.recv().expect("the client runs"))
    }

    fn client_masks(&mut self, _n: usize, _bits: u32) -> Vec<u64> {
        self.masks_from_client.recv().expect("the client runs")
    }

    fn prg_share(&mut self, n: usize, bytes: usize, value: &dyn Fn(usize) -> u64) -> Vec<u64> {
        let recorded = crate::masked::unpack(self.written.take(n * bytes), bytes);
        let halves: Vec<u64> = recorded
            .iter()
            .enumerate()
            .map(|(i, c)| value(i).wrapping_sub(*c))
            .collect();
        self.halves_to_client
            .send(halves.clone())
            .expect("the client runs");
        halves
    }

    /// The words that were written, and the points at which E0 asks.
    fn dcf_keys(&mut self, bytes: usize) -> Option<(Vec<u8>, Vec<u64>)> {
        Some((
            self.written.take(bytes).to_vec(),
            self.masks_from_client.recv().expect("the client runs"),
        ))
    }

    /// Completes E1's results.
    fn complete_dcf(&mut self, values: &[u64], others: &[u64]) {
        let halves = values
            .iter()
            .zip(others)
            .map(|(value, other)| value.wrapping_sub(*other))
            .collect();
        self.halves_to_client.send(halves).expect("the client runs");
    }

    fn prg_share_bits(&mut self, plain: &[u64], bytes: usize, total: usize) -> Vec<u64> {
        // The last word of a plane may be sent in part; what is not sent is not used.
        let mut recorded = self.written.take(total).to_vec();
        recorded.resize(plain.len() * bytes, 0);
        let recorded = crate::masked::unpack(&recorded, bytes);
        let halves: Vec<u64> = plain.iter().zip(recorded).map(|(p, r)| p ^ r).collect();
        self.halves_to_client
            .send(halves.clone())
            .expect("the client runs");
        halves
    }
}

/// E1's side of the mirror: sent messages are replayed by solving for E1's mask, which the dealer
/// is told.
pub(super) struct ServerScript {
    pub(super) sent: Transcript,
    pub(super) masks_to_dealer: Sender<Vec<u64>>,
}

impl EvaluatorRandomness for ServerScript {
    fn wire_masks(&mut self, share: &[u64], bits: u32, _revealed_bits: (u32, bool)) -> Vec<u64> {
        let recorded = self
            .sent
            .take(crate::masked::pack::tight_bytes(share.len(), bits));
        let recorded = crate::masked::pack::unpack_tight(recorded, share.len(), bits);
        let modulus = marill_numeric::fixed::low_mask(bits);
        let masks: Vec<u64> = recorded
            .iter()
            .zip(share)
            .map(|(m, s)| m.wrapping_sub(*s) & modulus)
            .collect();
        self.masks_to_dealer
            .send(masks.clone())
            .expect("the dealer runs");
        masks
    }

    fn plane_masks(&mut self, plane: &[u64], n: usize) -> Vec<u64> {
        let mut masks = plane.to_vec();
        crate::masked::xor_packed_plane(&mut masks, self.sent.take(n.div_ceil(8)), n);
        self.masks_to_dealer
            .send(masks.clone())
            .expect("the dealer runs");
        masks
    }

    fn sent_one_way(&mut self, bytes: usize) {
        self.sent.take(bytes);
    }
}

/// The dealer's side of the mirror: E1's masks come from E1.
pub(super) struct MirrorDealer {
    pub(super) streams: DealerStreams,
    pub(super) masks_from_server: Receiver<Vec<u64>>,
}

impl DealerRandomness for MirrorDealer {
    fn server_masks(&mut self, _n: usize) -> Vec<u64> {
        self.masks_from_server.recv().expect("the server runs")
    }

    fn waits_for_server(&self) -> bool {
        true
    }

    fn client_masks(&mut self, n: usize, bits: u32) -> Vec<u64> {
        self.streams.client_masks(n, bits)
    }

    fn prg_share(&mut self, n: usize, bytes: usize, value: &dyn Fn(usize) -> u64) -> Vec<u64> {
        self.streams.prg_share(n, bytes, value)
    }

    fn prg_share_bits(&mut self, plain: &[u64], bytes: usize, total: usize) -> Vec<u64> {
        self.streams.prg_share_bits(plain, bytes, total)
    }
}

/// What the twin is to be given, and what it is compared with, in order.
#[derive(Default)]
pub(super) struct Record {
    /// Own shares by label.
    pub(super) trace: Vec<(&'static str, u32, Vec<u64>)>,
    /// This party's part of what stochastic roundings round by.
    pub(super) randomness: Vec<u64>,
    /// What dropping bits contributes to the opening that follows.
    dropped: Option<(u32, Vec<u64>)>,
    /// MSBs that E0 sent.
    pub(super) msbs: Vec<Vec<u64>>,
    /// The server's noise.
    pub(super) noise: Vec<u64>,
}

impl Record {
    /// Lets a record watch an engine.
    pub(super) fn watch(mut engine: Masked) -> Masked {
        engine.observer = Some(Box::new(Self::default()));
        engine
    }

    /// What it has seen.
    pub(super) fn of(engine: &mut Masked) -> Self {
        let observer: Box<dyn Any> = engine.observer.take().expect("the engine is watched");
        *observer.downcast().expect("a record watches")
    }
}

impl Observer for Record {
    fn share(&mut self, label: &'static str, share: &Share) {
        self.trace.push((label, share.bits, share.data.clone()));
    }

    fn msbs(&mut self, msbs: &[u64]) {
        self.msbs.push(msbs.to_vec());
    }

    fn noise(&mut self, noise: &[u64]) {
        self.noise.extend_from_slice(noise);
    }

    fn dropped_bits(&mut self, raised: &Share, dropped: u32, constant: u64, is_first: bool) {
        let low = low_mask(dropped);
        let constant = if is_first {
            low.wrapping_sub(constant)
        } else {
            0
        };
        // The dealer's part is of the term that the halves lack.
        let part = raised.known_term().unwrap_or(&raised.data);
        let mut randomness: Vec<u64> = part
            .iter()
            .map(|v| (v & low).wrapping_add(constant))
            .collect();
        randomness.resize(raised.len(), 0);
        self.dropped = Some((dropped, randomness));
    }

    fn rounding(&mut self, wire: &Wire, shift: u32, is_first: bool) {
        let nothing = || (0, vec![0; wire.len()]);
        let (dropped, mut randomness) = self.dropped.take().unwrap_or_else(nothing);
        if is_first {
            let opened = wire
                .opened()
                .iter()
                .map(|v| (v & low_mask(shift)) << dropped);
            randomness
                .iter_mut()
                .zip(opened)
                .for_each(|(random, t)| *random = random.wrapping_add(t));
        }
        self.randomness.extend(randomness);
    }
}
