//! Scripted streams for the mask-shift test: E0 and the dealer choose E0's masks so that every
//! message and every correction equals a recorded one, whatever the input. That this is possible
//! for any two inputs, and that E0 still gets the right token, is what makes E1's view independent
//! of the input. The mirror: E1 and the dealer choose E1's masks so that every message to E0 equals
//! a recorded one, whatever the adapter.

use std::sync::mpsc::{Receiver, Sender};

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

impl ClientScript {
    /// Masks under which the lowest `revealed_bits` bits are the recorded ones. Where the MSB is
    /// sent later they are complete, and known to the dealer, with it ([`Self::choose_msb`]).
    pub(super) fn wire_masks(
        &mut self,
        share: &[u64],
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
    pub(super) fn choose_msb(&mut self, wire: &mut crate::masked::share::Wire) {
        let (msbs, top) = (
            self.msbs
                .next()
                .expect("as many partial openings as recorded"),
            wire.bits - 1,
        );
        for (i, (open, mask)) in wire.open.iter_mut().zip(&mut wire.mask).enumerate() {
            let other = ((*open >> top) ^ crate::masked::boolean::bit(&msbs, i)) << top;
            *open ^= other;
            *mask ^= other;
        }
        self.masks_to_dealer
            .send(wire.mask.clone())
            .expect("the dealer runs");
    }

    pub(super) fn plane_masks(&mut self, plane: &[u64], n: usize) -> Vec<u64> {
        let mut masks = plane.to_vec();
        crate::masked::xor_packed_plane(&mut masks, self.sent.take(n.div_ceil(8)), n);
        self.masks_to_dealer
            .send(masks.clone())
            .expect("the dealer runs");
        masks
    }

    /// E0's results of comparison functions, `[point][element]`: it tells the points, which E1
    /// knows as well.
    pub(super) fn compared(&mut self, inputs: &[u64]) -> Vec<u64> {
        self.masks_to_dealer
            .send(inputs.to_vec())
            .expect("the dealer runs");
        self.halves_from_dealer.recv().expect("the dealer runs")
    }

    pub(super) fn prg_share(&mut self, n: usize) -> Vec<u64> {
        let halves = self.halves_from_dealer.recv().expect("the dealer runs");
        assert_eq!(
            halves.len(),
            n,
            "E0 and the dealer ask for the same corrections"
        );
        halves
    }
}

/// The dealer's side: written corrections are replayed by solving for E0's half.
pub(super) struct DealerScript {
    pub(super) written: Transcript,
    pub(super) masks_from_client: Receiver<Vec<u64>>,
    pub(super) halves_to_client: Sender<Vec<u64>>,
}

impl DealerScript {
    pub(super) fn client_masks(&mut self) -> Vec<u64> {
        self.masks_from_client.recv().expect("the client runs")
    }

    pub(super) fn prg_share(
        &mut self,
        n: usize,
        bytes: usize,
        value: &impl Fn(usize) -> u64,
    ) -> Vec<u64> {
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
    pub(super) fn keys_and_inputs(&mut self, bytes: usize) -> (Vec<u8>, Vec<u64>) {
        (
            self.written.take(bytes).to_vec(),
            self.masks_from_client.recv().expect("the client runs"),
        )
    }

    /// Completes E1's results.
    pub(super) fn complete(&mut self, values: impl Iterator<Item = u64>, others: &[u64]) {
        let halves = values
            .zip(others)
            .map(|(value, other)| value.wrapping_sub(*other))
            .collect();
        self.halves_to_client.send(halves).expect("the client runs");
    }

    pub(super) fn prg_share_bits(&mut self, plain: &[u64], bytes: usize, total: usize) -> Vec<u64> {
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

impl ServerScript {
    pub(super) fn wire_masks(&mut self, share: &[u64], bits: u32) -> Vec<u64> {
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

    pub(super) fn plane_masks(&mut self, plane: &[u64], n: usize) -> Vec<u64> {
        let mut masks = plane.to_vec();
        crate::masked::xor_packed_plane(&mut masks, self.sent.take(n.div_ceil(8)), n);
        self.masks_to_dealer
            .send(masks.clone())
            .expect("the dealer runs");
        masks
    }
}
