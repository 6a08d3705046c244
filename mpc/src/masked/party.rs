//! The roles and what each holds: an evaluator its streams and its peer, the dealer the seeds of
//! both, a tally its sums.

use std::sync::Arc;

use marill_crypto::Prg;
use marill_net::Channel;

use crate::{
    cost::{Cost, Traffic},
    error::ProtocolError,
    masked::{
        correction_stream::Stream,
        hooks::{DealerRandomness, EvaluatorRandomness},
        lattice::Preparing,
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
    pub(super) randomness: Box<dyn EvaluatorRandomness>,
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
    /// Products of E0's masks with an adapter under encryption, in sessions that make them.
    pub(super) preparing: Option<Preparing>,
    /// Â and B̂ at E0, none where it has them under encryption; A and B at E1, map by map.
    pub(super) adapter: Arc<Vec<Lora>>,
    /// The same for full-rank weights.
    pub(super) matrices: Matrices,
}

pub(super) struct Dealer {
    pub(super) randomness: Box<dyn DealerRandomness>,
    pub(super) reveal_masks: RevealMasks,
    pub(super) roots: [Prg; 2],
    pub(super) adapter_masks: Vec<Lora>,
    pub(super) matrix_masks: MatrixMasks,
    pub(super) sink: Box<dyn Channel>,
    pub(super) buffer: Vec<u8>,
    /// Correction words for E0, and the way to it.
    pub(super) dcf_keys: Option<(Box<dyn Channel>, Vec<u8>)>,
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
    /// A step begins: what an earlier one left of prepared products is gone.
    pub(super) fn begin_preparing(&mut self) {
        self.preparing.iter_mut().for_each(Preparing::begin);
    }

    /// E0's masks of what it reveals to E1.
    pub(super) fn masks_of_reveal(&mut self, share: &[u64], of: &RevealSpec) -> Vec<u64> {
        if let Some(masks) = self.randomness.reveal_masks(share, of.bits) {
            return masks;
        }
        match self.precomputed.reveal_to_e1(of) {
            Some(masks) => {
                // The stream moves past masks that were expanded ahead, so that none is used twice.
                self.reveal_masks.skip(masks.len());
                masks
            }
            None => self.reveal_masks.reduced(share.len(), of.bits),
        }
    }

    /// E0's half of corrections.
    pub(super) fn prg_share(&mut self, n: usize) -> Vec<u64> {
        if let Some(half) = self.randomness.prg_share(n) {
            return half;
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
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub(super) fn server_masks(&mut self, n: usize) -> Result<Vec<u64>, ProtocolError> {
        if self.randomness.waits_for_server() {
            self.flush()?;
        }
        Ok(self.randomness.server_masks(n))
    }

    /// E0's masks of what it reveals to E1.
    pub(super) fn masks_of_reveal(&mut self, n: usize, bits: u32) -> Vec<u64> {
        let chosen = self.randomness.reveal_masks();
        chosen.unwrap_or_else(|| self.reveal_masks.reduced(n, bits))
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
        // Whole frames leave; the rest waits for more, or for the step's end.
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
