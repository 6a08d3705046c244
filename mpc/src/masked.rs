//! The masked-wire engine: two evaluators and a dealer of correlations.
//!
//! # Functionality
//! A *share* is additive between E0 (the client) and E1 (the server). A *wire* is
//! `x̂ = x + r mod 2^k`, known to both, with a mask `r = [r]_0 + [r]_1` that the dealer knows
//! because both halves expand from seeds it handed out. What a product of wires lacks is a function
//! of masks, which the dealer puts into the mask of the truncation that follows
//! (`exchange_masked`), or else shares by a correction to E1 alone: E0 downloads a seed, nothing
//! else. Every gate is one function below, with the roles side by side, so that evaluators, dealer
//! and tally cannot drift apart: they run the same program over different data.
//!
//! # Security
//! Semi-honest, one corruption, 128-bit computational. What an evaluator sees is
//! - opened values `y + r'`, with `r'` uniform over the opened width and used once (a fresh stretch
//!   of a stream), or of them a part ([`opening`]);
//! - E1 further sees corrections `c - [c]_0` with `[c]_0` fresh from a stream that E1 does not
//!   hold;
//! - E1 sees `x + [r]_0` of what is revealed to it, and `p + p' - Â·[r]_0` (see [`linear`]),
//!   uniform by `p'`.
//!
//! All of them are uniform and independent of every secret, so a simulator that knows the shapes
//! and its own seed produces them by sampling; E0's output share of the token is determined by the
//! token. The dealer sees shapes only. Sources: Beaver (CRYPTO '91) for products, Boyle et al. (TCC
//! '19) for masked wires, Rathee et al. (CrypTFlow2, CCS '20) for the comparison tree; the exact
//! truncation is derived in [`truncate`].
//!
//! Masks are never used twice: streams only move forward, and a session's seeds die with it.

mod correction_stream;
mod dcf;
mod extend;
mod interpreter;
mod linear;
mod onehot;
#[cfg(test)]
mod operation_tests;
mod pack;
mod precompute;
mod private_matrix;
mod reveal;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;

use std::{
    borrow::Cow,
    sync::{Arc, OnceLock},
};

use marill_crypto::{Prg, Seed, aes::Cipher};
use marill_net::{Channel, NetError};
use marill_numeric::NumericError;

pub(crate) use crate::masked::onehot::argmax::INDEX_BITS;
pub use crate::masked::{
    dcf::{Comparison, DCF_BELOW},
    precompute::{PrecomputedStep, Precomputer},
};
use crate::{
    masked::{
        correction_stream::Stream,
        extend::Extended,
        pack::{byte_width, pack, pack_iter, pack_plane, unpack, xor_packed_plane},
        precompute::{Precomputed, RevealMasks, RevealSpec},
        private_matrix::Matrices,
    },
    spec::DecoderSpec,
    weights::{Lora, MaskedAdapter, MatrixMasks, PrivateWeights, adapter_masks},
};

/// What can go wrong while a program runs. Every variant says where; none says what a share was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    #[error("lost the peer in step `{label}`: {source}")]
    Peer {
        label: &'static str,
        source: NetError,
    },
    #[error("lost the dealer: {0}")]
    Dealer(NetError),
    #[error("the peer sent {got} bytes in step `{label}` where {expected} belong")]
    Frame {
        label: &'static str,
        expected: usize,
        got: usize,
    },
    #[error("the client gave no input")]
    MissingInput,
    #[error("the session would pass the {limit} positions that this model serves")]
    TooLong { limit: usize },
    #[error("overflow in step: {0}")]
    Range(NumericError),
    #[error("this partition reveals {revealed} and nothing else")]
    Reveal { revealed: &'static str },
    #[error("the session compares with DCF, and the connection from the dealer to E0 is missing")]
    NoDcfKeys,
    #[error("the masked adapter does not belong to this model")]
    AdapterMismatch,
}

/// Messages of one evaluator, payload bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Steps of the longest chain of dependent messages; a simultaneous exchange is one.
    pub rounds: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// What the dealer sent to this evaluator.
    pub dealer_bytes: u64,
}

/// What a step costs, counted over shapes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    pub rounds: u64,
    pub e0_to_e1_bytes: u64,
    pub e1_to_e0_bytes: u64,
    pub dealer_to_e1_bytes: u64,
    /// DCF keys; one-hot comparisons send nothing to E0.
    pub dealer_to_e0_bytes: u64,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            rounds: self.rounds + other.rounds,
            e0_to_e1_bytes: self.e0_to_e1_bytes + other.e0_to_e1_bytes,
            e1_to_e0_bytes: self.e1_to_e0_bytes + other.e1_to_e0_bytes,
            dealer_to_e1_bytes: self.dealer_to_e1_bytes + other.dealer_to_e1_bytes,
            dealer_to_e0_bytes: self.dealer_to_e0_bytes + other.dealer_to_e0_bytes,
        }
    }
}

impl std::ops::Sub for Cost {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            rounds: self.rounds - other.rounds,
            e0_to_e1_bytes: self.e0_to_e1_bytes - other.e0_to_e1_bytes,
            e1_to_e0_bytes: self.e1_to_e0_bytes - other.e1_to_e0_bytes,
            dealer_to_e1_bytes: self.dealer_to_e1_bytes - other.dealer_to_e1_bytes,
            dealer_to_e0_bytes: self.dealer_to_e0_bytes - other.dealer_to_e0_bytes,
        }
    }
}

/// An additive share, valid modulo `2^bits`. Empty at the dealer and in a tally, but see
/// `deferred`.
#[derive(Clone)]
pub struct Share {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bits: u32,
    pub(crate) data: Vec<u64>,
    /// Whether the evaluators' halves lack a term that the dealer knows and keeps in its own
    /// `data`. A truncation takes it into the mask of its opening, for nothing; any other use has
    /// it shared first ([`Masked::materialized`]).
    pub(crate) deferred: bool,
}

/// A masked value.
#[derive(Clone)]
pub struct Wire {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) bits: u32,
    /// `x + r`, at the evaluators.
    pub(crate) open: Vec<u64>,
    /// `[r]_p` at an evaluator, `r` at the dealer.
    pub(crate) mask: Vec<u64>,
    /// `[r]_0` at the dealer.
    pub(crate) mask0: Vec<u64>,
    /// What products wider than the wire need, once one has asked for it.
    extended: OnceLock<Arc<Extended>>,
}

impl Share {
    /// A share with nothing deferred.
    pub(crate) fn new(rows: usize, cols: usize, bits: u32, data: Vec<u64>) -> Self {
        Self {
            rows,
            cols,
            bits,
            data,
            deferred: false,
        }
    }

    /// The own half, modulo `2^bits`; none at the dealer and in a tally.
    #[must_use]
    pub fn half(&self) -> &[u64] {
        &self.data
    }

    #[must_use]
    pub fn bits(&self) -> u32 {
        self.bits
    }

    pub(crate) fn len(&self) -> usize {
        self.rows * self.cols
    }
}

impl Wire {
    fn new((rows, cols): (usize, usize), bits: u32, [open, mask, mask0]: [Vec<u64>; 3]) -> Self {
        Self {
            rows,
            cols,
            bits,
            open,
            mask,
            mask0,
            extended: OnceLock::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// The MSBs of the openings.
    fn msbs(&self) -> Vec<u64> {
        onehot::boolean::plane(self.open.len(), |i| self.open[i] >> (self.bits - 1) & 1)
    }
}

/// Where an evaluator's corrections come from.
enum Corrections {
    /// E0 expands its half.
    Seed(Box<Prg>),
    /// E1 reads the other half.
    Stream(Stream),
}

struct Evaluator {
    /// E0, the client's side, which also holds the public terms.
    first: bool,
    masks: Prg,
    /// Masks of what E0 reveals to E1.
    reveal_masks: RevealMasks,
    corrections: Corrections,
    /// Roots of the own DCF keys.
    roots: Prg,
    /// E0's correction words, which E1 finds among its corrections.
    dcf_keys: Option<Stream>,
    peer: Box<dyn Channel>,
    traffic: Traffic,
    /// Direction of the last message, when it was a one-way one: whether E0 sent it.
    one_way: Option<bool>,
    /// Products of E0's that were made before their step.
    precomputed: Precomputed,
    /// Â and B̂ at E0, A and B at E1.
    adapter: Arc<Vec<[Lora; 7]>>,
    /// The same for full-rank weights.
    matrices: Matrices,
    #[cfg(test)]
    script: Option<scripted::ClientScript>,
    #[cfg(test)]
    mirror: Option<scripted::ServerScript>,
}

struct Dealer {
    masks: [Prg; 2],
    reveal_masks: RevealMasks,
    corrections: Prg,
    roots: [Prg; 2],
    adapter_masks: Vec<[Lora; 7]>,
    matrix_masks: MatrixMasks,
    sink: Box<dyn Channel>,
    buffer: Vec<u8>,
    /// Correction words for E0, and the way to it.
    dcf_keys: Option<(Box<dyn Channel>, Vec<u8>)>,
    #[cfg(test)]
    script: Option<scripted::DealerScript>,
    /// E1's masks, where E1 chooses them.
    #[cfg(test)]
    mirror: Option<std::sync::mpsc::Receiver<Vec<u64>>>,
}

enum Role {
    Evaluator(Box<Evaluator>),
    Dealer(Box<Dealer>),
    Tally(Box<Tally>),
}

/// Counts by label.
#[derive(Default)]
struct Tally {
    cost: Cost,
    one_way: Option<bool>,
    label: &'static str,
    labels: Vec<(&'static str, Cost)>,
    /// What E0 reveals to E1, in order.
    reveals: Vec<RevealSpec>,
}

impl Tally {
    fn add(&mut self, cost: Cost) {
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

    fn dealer(&mut self, bytes: usize) {
        self.add(Cost {
            dealer_to_e1_bytes: bytes as u64,
            ..Cost::default()
        });
    }

    fn dcf_keys(&mut self, bytes: usize) {
        self.add(Cost {
            dealer_to_e0_bytes: bytes as u64,
            ..Cost::default()
        });
    }
}

/// The interpreter of evaluators, dealer and tally.
pub struct Masked {
    role: Role,
    rank: usize,
    spec: Arc<DecoderSpec>,
    /// Whether inputs enter and tokens leave as additive shares of E0 and E1, because E0 is not the
    /// client.
    shared_io: bool,
    /// From this many elements on, gates spend rounds to save corrections and traffic; below, the
    /// reverse. A shape is public, so every party decides alike.
    many: usize,
    /// Below this many elements, gates compare with DCF.
    dcf_below: usize,
    /// Point functions used so far: no two share a tweak.
    trees: u64,
    /// What they are hashed with, under this session's own public key.
    hash: Cipher,
    /// Steps begun.
    steps: u64,
    /// Coins of stochastic roundings in order, for the twin.
    #[cfg(test)]
    randomness: Vec<u64>,
    /// What dropping bits contributes to the rounding randomness of the opening that follows.
    #[cfg(test)]
    dropped: Option<(u32, Vec<u64>)>,
    /// MSBs that E0 sent, in order.
    #[cfg(test)]
    msbs: Vec<Vec<u64>>,
    /// The server's noise in order, for the twin.
    #[cfg(test)]
    noise: Vec<u64>,
    /// Own shares by label, for comparison with the twin.
    #[cfg(test)]
    trace: Vec<(&'static str, u32, Vec<u64>)>,
}

/// See [`Masked`]: a decoded token stays below, a prompt of 16 tokens of the smallest models is
/// above.
pub const MANY: usize = 1 << 13;

/// Corrections leave the dealer in frames of about this size.
const FRAME_BYTES: usize = 1 << 19;

/// A buffer that takes a frame without growing: one that moves has to be copied, and wiped where it
/// was.
fn headroom() -> Vec<u8> {
    Vec::with_capacity(FRAME_BYTES + FRAME_BYTES / 4)
}

impl Masked {
    /// E0: the client.
    ///
    /// # Errors
    /// [`ProtocolError::AdapterMismatch`] when the masked adapter is of another shape.
    pub fn client(
        spec: &DecoderSpec,
        adapter: &MaskedAdapter,
        seed: &Seed,
        peer: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        let corrections = Corrections::Seed(Box::new(Prg::new(seed, "corrections")));
        let held = (
            adapter.layers.clone(),
            Matrices::Masked(Arc::clone(&adapter.full)),
        );
        Self::evaluator(spec, true, held, seed, corrections, peer)
    }

    /// E1: the server.
    ///
    /// # Errors
    /// [`ProtocolError::AdapterMismatch`] when the adapter is of another shape.
    pub fn server(
        spec: &DecoderSpec,
        adapter: &PrivateWeights,
        seed: &Seed,
        peer: Box<dyn Channel>,
        dealer: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        let corrections = Corrections::Stream(Stream::new(dealer));
        let held = (
            adapter.layers.clone(),
            Matrices::Own(Arc::clone(&adapter.full)),
        );
        Self::evaluator(spec, false, held, seed, corrections, peer)
    }

    fn evaluator(
        spec: &DecoderSpec,
        first: bool,
        (adapter, matrices): (Vec<[Lora; 7]>, Matrices),
        seed: &Seed,
        corrections: Corrections,
        peer: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        let layers = |held: bool| if held { spec.num_layers } else { 0 };
        if adapter.len() != layers(spec.lora_rank > 0)
            || matrices.len() != layers(spec.is_full_rank())
        {
            return Err(ProtocolError::AdapterMismatch);
        }
        let masks = Prg::new(seed, "wire masks");
        let evaluator = Evaluator {
            first,
            masks,
            reveal_masks: RevealMasks::new(seed),
            precomputed: Precomputed::default(),
            corrections,
            roots: Prg::new(seed, dcf::ROOTS),
            dcf_keys: None,
            peer,
            traffic: Traffic::default(),
            one_way: None,
            adapter: Arc::new(adapter),
            matrices,
            #[cfg(test)]
            script: None,
            #[cfg(test)]
            mirror: None,
        };
        Ok(Self::new(Role::Evaluator(Box::new(evaluator)), spec))
    }

    /// The dealer of correlations. `sink` leads to E1.
    #[must_use]
    pub fn dealer(
        spec: &DecoderSpec,
        adapter_seed: &Seed,
        seed0: &Seed,
        seed1: &Seed,
        sink: Box<dyn Channel>,
    ) -> Self {
        let matrix_masks = MatrixMasks::expand(spec, adapter_seed);
        Self::dealer_with(spec, adapter_seed, matrix_masks, [seed0, seed1], sink)
    }

    /// As [`Self::dealer`], with masks that `adapter_seed` was expanded to before.
    pub(crate) fn dealer_with(
        spec: &DecoderSpec,
        adapter_seed: &Seed,
        matrix_masks: MatrixMasks,
        [seed0, seed1]: [&Seed; 2],
        sink: Box<dyn Channel>,
    ) -> Self {
        let dealer = Dealer {
            masks: [Prg::new(seed0, "wire masks"), Prg::new(seed1, "wire masks")],
            reveal_masks: RevealMasks::new(seed0),
            corrections: Prg::new(seed0, "corrections"),
            roots: [seed0, seed1].map(|seed| Prg::new(seed, dcf::ROOTS)),
            adapter_masks: adapter_masks(spec, adapter_seed),
            matrix_masks,
            sink,
            buffer: headroom(),
            dcf_keys: None,
            #[cfg(test)]
            script: None,
            #[cfg(test)]
            mirror: None,
        };
        Self::new(Role::Dealer(Box::new(dealer)), spec)
    }

    /// Counts what a program costs.
    #[must_use]
    pub fn tally(spec: &DecoderSpec) -> Self {
        Self::new(Role::Tally(Box::default()), spec)
    }

    fn new(role: Role, spec: &DecoderSpec) -> Self {
        Self {
            role,
            rank: spec.lora_rank,
            spec: Arc::new(spec.clone()),
            shared_io: false,
            many: MANY,
            dcf_below: 0,
            trees: 0,
            hash: Cipher::new(&marill_crypto::dcf::UNNAMED),
            steps: 0,
            #[cfg(test)]
            randomness: Vec::new(),
            #[cfg(test)]
            dropped: None,
            #[cfg(test)]
            msbs: Vec::new(),
            #[cfg(test)]
            noise: Vec::new(),
            #[cfg(test)]
            trace: Vec::new(),
        }
    }

    /// Returns self for an outsourced session: inputs enter and tokens leave as shares.
    #[must_use]
    pub fn with_shared_io(mut self) -> Self {
        self.shared_io = true;
        self
    }

    /// Messages so far, at an evaluator.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        match &self.role {
            Role::Evaluator(e) => e.traffic,
            _ => Traffic::default(),
        }
    }

    /// The cost so far, in a tally.
    #[must_use]
    pub fn cost(&self) -> Cost {
        match &self.role {
            Role::Tally(tally) => tally.cost,
            _ => Cost::default(),
        }
    }

    /// The cost so far by label, in order of first appearance, in a tally.
    #[must_use]
    pub fn cost_by_label(&self) -> Vec<(&'static str, Cost)> {
        match &self.role {
            Role::Tally(tally) => tally.labels.clone(),
            _ => Vec::new(),
        }
    }

    /// Names the label to which a tally books what follows.
    fn at(&mut self, label: &'static str) {
        if let Role::Tally(tally) = &mut self.role {
            tally.label = label;
        }
    }

    /// Sends what is left of a step's corrections.
    ///
    /// # Errors
    /// [`ProtocolError::Dealer`] when E1 is gone.
    pub fn flush(&mut self) -> Result<(), ProtocolError> {
        if let Role::Dealer(dealer) = &mut self.role {
            dealer.flush()
        } else {
            Ok(())
        }
    }

    /// Whether a gate over `n` elements saves bytes rather than rounds.
    fn many(&self, n: usize) -> bool {
        n >= self.many
    }

    /// Whether this party adds the public terms of a sum.
    pub(crate) fn is_first(&self) -> bool {
        matches!(&self.role, Role::Evaluator(e) if e.first)
    }

    /// Whether this party holds shares at all.
    pub(crate) fn is_evaluator(&self) -> bool {
        matches!(self.role, Role::Evaluator(_))
    }

    /// Additive shares, modulo `2^bits`, of values that the dealer computes.
    fn correct(
        &mut self,
        n: usize,
        bits: u32,
        value: impl Fn(usize) -> u64,
    ) -> Result<Vec<u64>, ProtocolError> {
        let bytes = byte_width(bits);
        match &mut self.role {
            Role::Tally(tally) => {
                tally.dealer(n * bytes);
                Ok(Vec::new())
            }
            Role::Dealer(dealer) => {
                let halves = dealer.prg_share(n, bytes, &value);
                let words = halves
                    .into_iter()
                    .enumerate()
                    .map(|(i, half)| value(i).wrapping_sub(half));
                pack_iter(&mut dealer.buffer, words, bytes);
                dealer.emit()?;
                Ok(Vec::new())
            }
            Role::Evaluator(e) if e.first => Ok(e.prg_share(n)),
            Role::Evaluator(e) => Ok(unpack(e.read_corrections(n * bytes)?, bytes)),
        }
    }

    /// A share whose halves alone are the value, for those who read them ([`Share::half`]).
    ///
    /// # Errors
    /// [`ProtocolError::Dealer`] on a lost source.
    pub fn materialize(&mut self, share: &Share) -> Result<Share, ProtocolError> {
        Ok(self.materialized(share)?.into_owned())
    }

    /// Shares what a share defers, so that the shares alone are the value.
    fn materialized<'a>(&mut self, share: &'a Share) -> Result<Cow<'a, Share>, ProtocolError> {
        if !share.deferred {
            return Ok(Cow::Borrowed(share));
        }
        let mut data = self.correct(share.len(), share.bits, |i| share.data[i])?;
        if self.is_evaluator() {
            data.iter_mut()
                .zip(&share.data)
                .for_each(|(d, half)| *d = d.wrapping_add(*half));
        }
        Ok(Cow::Owned(Share::new(
            share.rows, share.cols, share.bits, data,
        )))
    }
}

impl Evaluator {
    /// Fresh masks for shares of a width; `revealed_bits` is how many low bits the peer hears now,
    /// and whether of the top one later.
    fn wire_masks(&mut self, share: &[u64], bits: u32, revealed_bits: (u32, bool)) -> Vec<u64> {
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
    fn masks_of_reveal(&mut self, share: &[u64], of: &RevealSpec) -> Vec<u64> {
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
    fn plane_masks(&mut self, plane: &[u64], n: usize) -> Vec<u64> {
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
    fn prg_share(&mut self, n: usize) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.prg_share(n);
        }
        match &mut self.corrections {
            Corrections::Seed(prg) => prg.words(n),
            Corrections::Stream { .. } => unreachable!("E1 reads its half"),
        }
    }

    fn send(&mut self, payload: Vec<u8>, label: &'static str) -> Result<(), ProtocolError> {
        self.traffic.bytes_sent += payload.len() as u64;
        self.peer
            .send(payload)
            .map_err(|source| ProtocolError::Peer { label, source })
    }

    fn receive(&mut self, expected: usize, label: &'static str) -> Result<Vec<u8>, ProtocolError> {
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

    fn read_corrections(&mut self, bytes: usize) -> Result<&[u8], ProtocolError> {
        let Corrections::Stream(stream) = &mut self.corrections else {
            unreachable!("only E1 reads corrections")
        };
        self.traffic.dealer_bytes += bytes as u64;
        stream.read(bytes)
    }

    /// Correction words of DCF keys.
    fn read_dcf_keys(&mut self, bytes: usize) -> Result<&[u8], ProtocolError> {
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
    fn server_masks(&mut self, n: usize) -> Vec<u64> {
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
    fn client_masks(&mut self, n: usize, bits: u32) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.client_masks();
        }
        self.masks[0].reduced(n, bits)
    }

    /// E0's masks of what it reveals to E1.
    fn masks_of_reveal(&mut self, n: usize, bits: u32) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.client_masks();
        }
        self.reveal_masks.reduced(n, bits)
    }

    /// E0's half of corrections that are sums.
    fn prg_share(&mut self, n: usize, bytes: usize, value: &impl Fn(usize) -> u64) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.prg_share(n, bytes, value);
        }
        let _ = (bytes, value);
        self.corrections.words(n)
    }

    /// E0's half of corrections that are bit vectors: `plain` are the words to be shared, `bytes`
    /// of each sent and `total` of all.
    fn prg_share_bits(&mut self, plain: &[u64], bytes: usize, total: usize) -> Vec<u64> {
        #[cfg(test)]
        if let Some(script) = &mut self.script {
            return script.prg_share_bits(plain, bytes, total);
        }
        let _ = (bytes, total);
        self.corrections.words(plain.len())
    }

    fn emit(&mut self) -> Result<(), ProtocolError> {
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

    fn flush(&mut self) -> Result<(), ProtocolError> {
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
