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
//!   of a stream), or of them a part ([`reveal`]);
//! - E1 further sees corrections `c - [c]_0` with `[c]_0` fresh from a stream that E1 does not
//!   hold;
//! - E1 sees `x + [r]_0` of what is revealed to it, and `p + p' - Â·[r]_0` (see [`linear`]),
//!   uniform by `p'`.
//!
//! All of them are uniform and independent of every secret, so a simulator that knows the shapes
//! and its own seed produces them by sampling; E0's output share of the token is determined by the
//! token. The dealer sees shapes only. Sources: Beaver (CRYPTO '91) for products, Boyle et al. (TCC
//! '19) for masked wires, Rathee et al. (CrypTFlow2, CCS '20) for the comparison tree; the exact
//! truncation is derived in [`onehot::truncate`].
//!
//! Masks are never used twice: streams only move forward, and a session's seeds die with it.

use crate::{
    cost::{Cost, Traffic},
    error::ProtocolError,
    masked::{
        hooks::{DealerStreams, EvaluatorStreams, Observer},
        party::{Corrections, Dealer, Evaluator, Tally, headroom},
    },
};
mod boolean;
mod correction_stream;
mod dcf;
mod extend;
mod hooks;
mod input;
mod interpreter;
mod lattice;
mod linear;
mod lora;
mod matrices;
mod onehot;
#[cfg(test)]
mod operation_tests;
mod pack;
mod party;
mod precompute;
mod private_matrix;
mod product;
mod share;

use crate::masked::share::Term;
pub use crate::masked::share::{Share, Wire};
mod reveal;
#[cfg(test)]
mod scripted;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, sync::Arc};

use marill_crypto::{Prg, Seed, aes::Cipher};
use marill_net::Channel;
use marill_numeric::{RingTensor, ring};

pub(crate) use crate::masked::onehot::argmax::INDEX_BITS;
pub use crate::masked::{
    dcf::{Comparison, DCF_BELOW},
    lattice::{AdapterKey, EncryptedAdapter, PrivateProducts, prepared_bytes},
    precompute::{PrecomputedStep, Precomputer},
};
use crate::{
    masked::{
        correction_stream::Stream,
        lattice::Preparing,
        matrices::Matrices,
        pack::{byte_width, pack, pack_iter, pack_plane, unpack, xor_packed_plane},
        precompute::{Precomputed, RevealMasks},
    },
    spec::{MapSpec, ProgramSpec},
    weights::{Lora, MaskedAdapter, MatrixMasks, PrivateWeights, adapter_masks},
};

enum Role {
    Evaluator(Box<Evaluator>),
    Dealer(Box<Dealer>),
    Tally(Box<Tally>),
}

/// The interpreter of evaluators, dealer and tally.
pub struct Masked {
    role: Role,
    spec: Arc<ProgramSpec>,
    /// Whether inputs enter and tokens leave as additive shares of E0 and E1, because E0 is not the
    /// client.
    shared_io: bool,
    /// From this many elements on, gates spend rounds to save corrections and traffic; below, the
    /// reverse. A shape is public, so every party decides alike.
    many: usize,
    /// Below this many elements, gates compare with DCF.
    dcf_below: usize,
    /// DCF keys used so far: no two share a tweak.
    trees: u64,
    /// What they are hashed with, under this session's own public key.
    hash: Cipher,
    /// Steps begun.
    steps: u64,
    /// How private LoRA updates are made.
    products: PrivateProducts,
    /// Nobody, in a session.
    observer: Option<Box<dyn Observer>>,
}

/// See [`Masked`]: a decoded token stays below, a prompt of 16 tokens of the smallest models is
/// above.
pub const MANY: usize = 1 << 13;

impl Masked {
    /// E0: the client.
    ///
    /// # Errors
    /// [`ProtocolError::AdapterMismatch`] when the masked adapter is of another shape.
    pub fn client(
        spec: &ProgramSpec,
        adapter: &MaskedAdapter,
        seed: &Seed,
        peer: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        let corrections = Corrections::Seed(Box::new(Prg::new(seed, "corrections")));
        let held = (
            adapter.lora.clone(),
            Matrices::Masked(Arc::clone(&adapter.full)),
        );
        Self::evaluator(spec, true, held, seed, corrections, peer)
    }

    /// E0 with an adapter under encryption.
    #[must_use]
    pub fn client_with_encrypted(
        spec: &ProgramSpec,
        adapter: Arc<EncryptedAdapter>,
        seed: &Seed,
        peer: Box<dyn Channel>,
    ) -> Self {
        let corrections = Corrections::Seed(Box::new(Prg::new(seed, "corrections")));
        let held = (Vec::new(), Matrices::Masked(Arc::default()));
        let mut evaluator = Self::evaluator_of(true, held, seed, corrections, peer);
        evaluator.preparing = Some(Preparing::of_client(adapter));
        let engine = Self::new(Role::Evaluator(Box::new(evaluator)), spec);
        engine.with_private_products(PrivateProducts::Lattice)
    }

    /// Returns self, E1, with the key under which its client has the adapter. Before the first
    /// step.
    #[must_use]
    pub fn with_adapter_key(mut self, key: Arc<AdapterKey>) -> Self {
        if let Role::Evaluator(e) = &mut self.role {
            e.preparing = Some(Preparing::of_server(key));
        }
        self.with_private_products(PrivateProducts::Lattice)
    }

    /// Returns self, a dealer or a tally, of a session that makes private updates so; of an
    /// evaluator what it holds decides. Before the first step.
    #[must_use]
    pub fn with_private_products(mut self, products: PrivateProducts) -> Self {
        self.products = products;
        self
    }

    /// Tokens that are prepared, where an adapter is under encryption.
    pub(crate) fn tokens_prepared(&self) -> Option<usize> {
        match &self.role {
            Role::Evaluator(e) => e.preparing.as_ref().map(Preparing::tokens),
            _ => None,
        }
    }

    /// How many tokens E0 is still to prepare, where it does.
    pub(crate) fn expect(&mut self, tokens: usize) {
        if let Role::Evaluator(e) = &mut self.role
            && let Some(preparing) = &mut e.preparing
        {
            preparing.expect(tokens);
        }
    }

    /// E1: the server.
    ///
    /// # Errors
    /// [`ProtocolError::AdapterMismatch`] when the adapter is of another shape.
    pub fn server(
        spec: &ProgramSpec,
        adapter: &PrivateWeights,
        seed: &Seed,
        peer: Box<dyn Channel>,
        dealer: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        let corrections = Corrections::Stream(Stream::new(dealer));
        let held = (
            adapter.lora.clone(),
            Matrices::Own(Arc::clone(&adapter.full)),
        );
        Self::evaluator(spec, false, held, seed, corrections, peer)
    }

    fn evaluator(
        spec: &ProgramSpec,
        first: bool,
        (adapter, matrices): (Vec<Lora>, Matrices),
        seed: &Seed,
        corrections: Corrections,
        peer: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        let maps = |held: bool| if held { spec.num_maps() } else { 0 };
        // A party with weights of another shape would index past them, or leave maps out.
        let fits =
            |(lora, map): (&Lora, MapSpec)| [&lora.a, &lora.b].map(Vec::len) == map.factor_lens();
        if adapter.len() != maps(spec.lora_rank > 0)
            || matrices.len() != maps(spec.is_full_rank())
            || !adapter.iter().zip(spec.maps()).all(fits)
        {
            return Err(ProtocolError::AdapterMismatch);
        }
        let evaluator = Self::evaluator_of(first, (adapter, matrices), seed, corrections, peer);
        Ok(Self::new(Role::Evaluator(Box::new(evaluator)), spec))
    }

    fn evaluator_of(
        first: bool,
        (adapter, matrices): (Vec<Lora>, Matrices),
        seed: &Seed,
        corrections: Corrections,
        peer: Box<dyn Channel>,
    ) -> Evaluator {
        Evaluator {
            first,
            randomness: Box::new(EvaluatorStreams::new(seed)),
            reveal_masks: RevealMasks::new(seed),
            precomputed: Precomputed::default(),
            corrections,
            roots: Prg::new(seed, dcf::ROOTS),
            dcf_keys: None,
            peer,
            traffic: Traffic::default(),
            one_way: None,
            preparing: None,
            adapter: Arc::new(adapter),
            matrices,
        }
    }

    /// The dealer of correlations. `sink` leads to E1.
    #[must_use]
    pub fn dealer(
        spec: &ProgramSpec,
        adapter_seed: &Seed,
        seed0: &Seed,
        seed1: &Seed,
        sink: Box<dyn Channel>,
    ) -> Self {
        let matrix_masks = MatrixMasks::expand(spec, adapter_seed);
        Self::dealer_with(spec, adapter_seed, matrix_masks, [seed0, seed1], sink)
    }

    /// The dealer of correlations of a session in which it has no mask of the adapter.
    #[must_use]
    pub fn dealer_without_adapter(
        spec: &ProgramSpec,
        seeds: [&Seed; 2],
        sink: Box<dyn Channel>,
    ) -> Self {
        let dealer = Self::new_dealer(seeds, (Vec::new(), MatrixMasks::default()), sink);
        let engine = Self::new(Role::Dealer(Box::new(dealer)), spec);
        engine.with_private_products(PrivateProducts::Lattice)
    }

    /// As [`Self::dealer`], with masks that `adapter_seed` was expanded to before.
    pub(crate) fn dealer_with(
        spec: &ProgramSpec,
        adapter_seed: &Seed,
        matrix_masks: MatrixMasks,
        seeds: [&Seed; 2],
        sink: Box<dyn Channel>,
    ) -> Self {
        let masks = (adapter_masks(spec, adapter_seed), matrix_masks);
        let dealer = Self::new_dealer(seeds, masks, sink);
        Self::new(Role::Dealer(Box::new(dealer)), spec)
    }

    fn new_dealer(
        [seed0, seed1]: [&Seed; 2],
        (adapter_masks, matrix_masks): (Vec<Lora>, MatrixMasks),
        sink: Box<dyn Channel>,
    ) -> Dealer {
        Dealer {
            randomness: Box::new(DealerStreams::new(seed0, seed1)),
            reveal_masks: RevealMasks::new(seed0),
            roots: [seed0, seed1].map(|seed| Prg::new(seed, dcf::ROOTS)),
            adapter_masks,
            matrix_masks,
            sink,
            buffer: headroom(),
            dcf_keys: None,
        }
    }

    /// Counts what a program costs.
    #[must_use]
    pub fn tally(spec: &ProgramSpec) -> Self {
        Self::new(Role::Tally(Box::default()), spec)
    }

    fn new(role: Role, spec: &ProgramSpec) -> Self {
        Self {
            role,
            spec: Arc::new(spec.clone()),
            shared_io: false,
            many: MANY,
            dcf_below: 0,
            trees: 0,
            hash: Cipher::new(&marill_crypto::dcf::UNNAMED),
            steps: 0,
            products: PrivateProducts::default(),
            observer: None,
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
                // c - [c]_0 for E1; E0 expands [c]_0 from its seed.
                let halves = dealer.randomness.prg_share(n, bytes, &value);
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

    /// A share whose halves lack a term: `data` is the own half at an evaluator, and the term at
    /// the dealer.
    fn with_term_deferred(&self, rows: usize, cols: usize, bits: u32, data: Vec<u64>) -> Share {
        let tensor = RingTensor::new(rows, cols, bits, data);
        match &self.role {
            Role::Evaluator(_) | Role::Tally(_) => Share {
                tensor,
                term: Term::Deferred,
            },
            Role::Dealer(_) => Share {
                tensor: tensor.with_data(Vec::new()),
                term: Term::Known(tensor),
            },
        }
    }

    /// A share whose halves alone are the value, for those who read them ([`Share::half`]).
    ///
    /// # Errors
    /// [`ProtocolError::Dealer`] when E1 is gone.
    pub fn materialize(&mut self, share: &Share) -> Result<Share, ProtocolError> {
        Ok(self.materialized(share)?.into_owned())
    }

    /// Shares what a share defers, so that the shares alone are the value.
    fn materialized<'a>(&mut self, share: &'a Share) -> Result<Cow<'a, Share>, ProtocolError> {
        if !share.is_deferred() {
            return Ok(Cow::Borrowed(share));
        }
        // The deferred term is shared like any value of the dealer's, and added to the halves.
        let term = share.known_term().unwrap_or_default();
        let mut data = self.correct(share.len(), share.bits, |i| term[i])?;
        if self.is_evaluator() {
            ring::add_to(&mut data, &share.data);
        }
        Ok(Cow::Owned(Share::new(
            share.rows, share.cols, share.bits, data,
        )))
    }
}
