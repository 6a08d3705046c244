//! The roles and what each holds: an evaluator its streams and its peer, the dealer the seeds of
//! both, a tally its sums.

use std::sync::Arc;

use marill_crypto::Prg;
use marill_net::Channel;

#[cfg(test)]
use crate::masked::scripted;
use crate::{
    cost::{Cost, Traffic},
    error::ProtocolError,
    masked::{
        correction_stream::Stream,
        matrices::Matrices,
        precompute::{Precomputed, RevealMasks, RevealSpec},
    },
    weights::{Lora, MatrixMasks},
};
/// Where an evaluator's corrections come from.
pub(super) enum Corrections {
    /// E0 expands its half.
    Seed(Box<Prg>),
    /// E1 reads the other half.
    Stream(Stream),
}

pub(super) struct Evaluator {
    /// E0, the client's side, which also holds the public terms.
    pub(super) first: bool,
    pub(super) masks: Prg,
    /// Masks of what E0 reveals to E1.
    pub(super) reveal_masks: RevealMasks,
    pub(super) corrections: Corrections,
    /// Roots of the own DCF keys.
    pub(super) roots: Prg,
    /// E0's correction words, which E1 finds among its corrections.
    pub(super) dcf_keys: Option<Stream>,
    pub(super) peer: Box<dyn Channel>,
    pub(super) traffic: Traffic,
    /// Direction of the last message, when it was a one-way one: whether E0 sent it.
    pub(super) one_way: Option<bool>,
    /// Products of E0's that were made before their step.
    pub(super) precomputed: Precomputed,
    /// Â and B̂ at E0, A and B at E1.
    pub(super) adapter: Arc<Vec<[Lora; 7]>>,
    /// The same for full-rank weights.
    pub(super) matrices: Matrices,
    #[cfg(test)]
    pub(super) script: Option<scripted::ClientScript>,
    #[cfg(test)]
    pub(super) mirror: Option<scripted::ServerScript>,
}

pub(super) struct Dealer {
    pub(super) masks: [Prg; 2],
    pub(super) reveal_masks: RevealMasks,
    pub(super) corrections: Prg,
    pub(super) roots: [Prg; 2],
    pub(super) adapter_masks: Vec<[Lora; 7]>,
    pub(super) matrix_masks: MatrixMasks,
    pub(super) sink: Box<dyn Channel>,
    pub(super) buffer: Vec<u8>,
    /// Correction words for E0, and the way to it.
    pub(super) dcf_keys: Option<(Box<dyn Channel>, Vec<u8>)>,
    #[cfg(test)]
    pub(super) script: Option<scripted::DealerScript>,
    /// E1's masks, where E1 chooses them.
    #[cfg(test)]
    pub(super) mirror: Option<std::sync::mpsc::Receiver<Vec<u64>>>,
}

/// Counts by label.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) cost: Cost,
    pub(super) one_way: Option<bool>,
    pub(super) label: &'static str,
    pub(super) labels: Vec<(&'static str, Cost)>,
    /// What E0 reveals to E1, in order.
    pub(super) reveals: Vec<RevealSpec>,
}

impl Tally {
    pub(super) fn add(&mut self, cost: Cost) {
        self.cost = self.cost + cost;
        match self
            .labels
            .iter_mut()
            .find(|(label, _)| *label == self.label)
        {
            Some((_, sum)) => *sum = *sum + cost,
            None => self.labels.push((self.label, cost)),
        }
    }

    pub(super) fn dealer(&mut self, bytes: usize) {
        self.add(Cost {
            dealer_to_e1_bytes: bytes as u64,
            ..Cost::default()
        });
    }

    pub(super) fn dcf_keys(&mut self, bytes: usize) {
        self.add(Cost {
            dealer_to_e0_bytes: bytes as u64,
            ..Cost::default()
        });
    }
}

impl Evaluator {
    /// Fresh masks for shares of a width; `revealed_bits` is how many low bits the peer hears now,
    /// and whether of the top one later.
    pub(super) fn wire_masks(
        &mut self,
        share: &[u64],
        bits: u32,
        revealed_bits: (u32, bool),
    ) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.wire_masks(share, revealed_bits);
        }
        #[cfg(test)]
        if let Some(mirror) = &mut self.mirror {
            return mirror.wire_masks(share, bits);
        }
        let _ = revealed_bits;
        self.masks.reduced(share.len(), bits)
    }

    /// E0's masks of what it reveals to E1.
    pub(super) fn masks_of_reveal(&mut self, share: &[u64], of: &RevealSpec) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.wire_masks(share, (of.bits, false));
        }
        match self.precomputed.reveal_to_e1(of) {
            Some(masks) => {
                self.reveal_masks.skip(masks.len());
                masks
            }
            None => self.reveal_masks.reduced(share.len(), of.bits),
        }
    }

    /// Fresh masks for a plane of `n` bits.
    pub(super) fn plane_masks(&mut self, plane: &[u64], n: usize) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.plane_masks(plane, n);
        }
        #[cfg(test)]
        if let Some(mirror) = &mut self.mirror {
            return mirror.plane_masks(plane, n);
        }
        let _ = n;
        self.masks.words(plane.len())
    }

    /// E0's half of corrections.
    pub(super) fn prg_share(&mut self, n: usize) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.prg_share(n);
        }
        match &mut self.corrections {
            Corrections::Seed(prg) => prg.words(n),
            Corrections::Stream { .. } => unreachable!("E1 reads its half"),
        }
    }

    pub(super) fn send(
        &mut self,
        payload: Vec<u8>,
        label: &'static str,
    ) -> Result<(), ProtocolError> {
        self.traffic.bytes_sent += payload.len() as u64;
        self.peer
            .send(payload)
            .map_err(|source| ProtocolError::Peer { label, source })
    }

    pub(super) fn receive(
        &mut self,
        expected: usize,
        label: &'static str,
    ) -> Result<Vec<u8>, ProtocolError> {
        let reply = self
            .peer
            .recv()
            .map_err(|source| ProtocolError::Peer { label, source })?;
        if reply.len() != expected {
            return Err(ProtocolError::Frame {
                label,
                expected,
                got: reply.len(),
            });
        }
        self.traffic.bytes_received += reply.len() as u64;
        Ok(reply)
    }

    pub(super) fn read_corrections(&mut self, bytes: usize) -> Result<&[u8], ProtocolError> {
        let Corrections::Stream(stream) = &mut self.corrections else {
            unreachable!("only E1 reads corrections")
        };
        self.traffic.dealer_bytes += bytes as u64;
        stream.read(bytes)
    }

    /// Correction words of DCF keys.
    pub(super) fn read_dcf_keys(&mut self, bytes: usize) -> Result<&[u8], ProtocolError> {
        if !self.first {
            return self.read_corrections(bytes);
        }
        let stream = self.dcf_keys.as_mut().ok_or(ProtocolError::NoDcfKeys)?;
        self.traffic.dealer_bytes += bytes as u64;
        stream.read(bytes)
    }
}

impl Dealer {
    /// E1's masks, whole words.
    pub(super) fn server_masks(&mut self, n: usize) -> Vec<u64> {
        #[cfg(test)]
        if self.mirror.is_some() {
            // What was computed so far may be what E1 waits for.
            self.flush().expect("the server runs");
            let mirror = self.mirror.as_ref().expect("it was just there");
            return mirror.recv().expect("the server runs");
        }
        self.masks[1].words(n)
    }

    /// E0's masks of a width.
    pub(super) fn client_masks(&mut self, n: usize, bits: u32) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.client_masks();
        }
        self.masks[0].reduced(n, bits)
    }

    /// E0's masks of what it reveals to E1.
    pub(super) fn masks_of_reveal(&mut self, n: usize, bits: u32) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.client_masks();
        }
        self.reveal_masks.reduced(n, bits)
    }

    /// E0's half of corrections that are sums.
    pub(super) fn prg_share(
        &mut self,
        n: usize,
        bytes: usize,
        value: &impl Fn(usize) -> u64,
    ) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.prg_share(n, bytes, value);
        }
        let _ = (bytes, value);
        self.corrections.words(n)
    }

    /// E0's half of corrections that are bit vectors: `plain` are the words to be shared, `bytes`
    /// of each sent and `total` of all.
    pub(super) fn prg_share_bits(&mut self, plain: &[u64], bytes: usize, total: usize) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.prg_share_bits(plain, bytes, total);
        }
        let _ = (bytes, total);
        self.corrections.words(plain.len())
    }

    pub(super) fn emit(&mut self) -> Result<(), ProtocolError> {
        if let Some((_, dcf_keys)) = &self.dcf_keys {
            // Nothing of an earlier gate stays here while a send waits for one evaluator: the other
            // could need it.
            return if dcf_keys.len().max(self.buffer.len()) < FRAME_BYTES {
                Ok(())
            } else {
                self.flush()
            };
        }
        if self.buffer.len() < FRAME_BYTES {
            return Ok(());
        }
        let buffer = std::mem::replace(&mut self.buffer, headroom());
        let mut frames = buffer.chunks_exact(FRAME_BYTES);
        for frame in frames.by_ref() {
            self.sink
                .send(frame.to_vec())
                .map_err(ProtocolError::Dealer)?;
        }
        self.buffer.extend_from_slice(frames.remainder());
        Ok(())
    }

    pub(super) fn flush(&mut self) -> Result<(), ProtocolError> {
        let dcf_keys = self
            .dcf_keys
            .as_mut()
            .map(|(sink, buffer)| (sink.as_mut(), buffer));
        for (sink, buffer) in dcf_keys
            .into_iter()
            .chain([(self.sink.as_mut(), &mut self.buffer)])
        {
            for frame in std::mem::replace(buffer, headroom()).chunks(FRAME_BYTES) {
                sink.send(frame.to_vec()).map_err(ProtocolError::Dealer)?;
            }
        }
        Ok(())
    }
}

/// Corrections leave the dealer in frames of about this size.
pub(super) const FRAME_BYTES: usize = 1 << 19;

/// A buffer that takes a frame without growing: one that moves has to be copied, and wiped where it
/// was.
pub(super) fn headroom() -> Vec<u8> {
    Vec::with_capacity(FRAME_BYTES + FRAME_BYTES / 4)
}
