//! The three parties of a session, each one synchronous object on its own thread.

pub mod outsourced;

use std::sync::Arc;

use marill_crypto::{Seed, dcf::HashKey};
use marill_net::Channel;

use crate::{
    masked::{Comparison, Cost, Masked, PrecomputedStep, Precomputer, ProtocolError, Traffic},
    program::{
        decoder::{self, Cache},
        encoder,
        sampling::{Sampling, Selection},
    },
    reference::twin::{check_remaining_context, pad_prompt},
    session::outsourced::{InputShare, shared_step},
    spec::DecoderSpec,
    weights::{MaskedAdapter, MatrixMasks, PrivateWeights, PublicWeights},
};

/// E0: the client. Holds the boundary activations, learns the tokens.
pub struct ClientSession {
    weights: Arc<PublicWeights>,
    engine: Masked,
    cache: Cache<Masked>,
}

impl ClientSession {
    /// # Errors
    /// [`ProtocolError::AdapterMismatch`] when the masked adapter is of another model.
    pub fn new(
        weights: Arc<PublicWeights>,
        adapter: &MaskedAdapter,
        seed: Seed,
        peer: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        let engine = Masked::client(&weights.spec, adapter, &seed, peer)?;
        let cache = Cache::new(&weights.spec);
        Ok(Self {
            weights,
            engine,
            cache,
        })
    }

    /// Returns self comparing with DCF ([`Comparison::Dcf`]); `dcf_keys` leads from the dealer.
    /// Before the first step.
    #[must_use]
    pub fn with_dcf(mut self, dcf_keys: Box<dyn Channel>) -> Self {
        self.engine = self.engine.with_dcf(dcf_keys);
        self
    }

    /// Returns self with DCF keys hashed under this session's key, the same at all parties. Before
    /// the first step.
    #[must_use]
    pub fn with_hash_key(mut self, key: &HashKey) -> Self {
        self.engine = self.engine.with_hash_key(key);
        self
    }

    /// Returns self with sampling; all parties of a session must agree. Before the first step.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Option<Sampling>) -> Self {
        self.cache = self.cache.with_sampling(sampling);
        self
    }

    /// Runs a prompt of `n · hidden_size` encoded boundary activations, padded to its bucket;
    /// returns the first token.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] past the context, [`ProtocolError::Peer`] on a lost server.
    pub fn prefill(&mut self, boundary: &[u64]) -> Result<u32, ProtocolError> {
        let (padded, bias, bucket) = pad_prompt(&self.weights.spec, boundary)?;
        self.step(&padded, Some(&bias), bucket)
    }

    /// Runs a text through an encoder that reveals its pooled row: `hidden_size` values of the
    /// residual scale.
    ///
    /// # Errors
    /// [`ProtocolError::Reveal`] when the partition reveals something else; as [`Self::prefill`].
    pub fn embed(&mut self, boundary: &[u64]) -> Result<Vec<u64>, ProtocolError> {
        let (padded, bias, bucket) = pad_prompt(&self.weights.spec, boundary)?;
        let row = encoder::embed(
            &mut self.engine,
            &self.weights,
            Some(&padded),
            Some(&bias),
            bucket,
        )?;
        row.ok_or(ProtocolError::MissingInput)
    }

    /// Runs one more token.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, boundary: &[u64]) -> Result<u32, ProtocolError> {
        check_remaining_context(&self.weights.spec, self.cache.len(), 1)?;
        self.step(boundary, None, 1)
    }

    fn step(
        &mut self,
        boundary: &[u64],
        bias: Option<&[u64]>,
        rows: usize,
    ) -> Result<u32, ProtocolError> {
        let token = decoder::step(
            &mut self.engine,
            &self.weights,
            &mut self.cache,
            Some(boundary),
            bias,
            rows,
        )?;
        token.ok_or(ProtocolError::MissingInput)
    }

    /// Who makes products of this session's masks on another thread, or while there is nothing else
    /// to do; none where there are no private maps to hand values over to.
    #[must_use]
    pub fn precomputer(&self) -> Option<Precomputer> {
        self.engine.precomputer(&self.weights)
    }

    /// Keeps a step's products until it comes; those of a step that has begun are dropped, and more
    /// than a few.
    pub fn accept(&mut self, step: PrecomputedStep) {
        self.engine.accept(step);
    }

    /// Values revealed to E1 whose products had been accepted.
    #[must_use]
    pub fn precomputed(&self) -> u64 {
        self.engine.precomputed_reveals()
    }

    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.engine.traffic()
    }
}

/// E1: the server. Holds the adapter, learns shapes.
pub struct ServerSession {
    weights: Arc<PublicWeights>,
    engine: Masked,
    cache: Cache<Masked>,
}

impl ServerSession {
    /// # Errors
    /// [`ProtocolError::AdapterMismatch`] when the private weights are of another model.
    pub fn new(
        weights: Arc<PublicWeights>,
        private: &PrivateWeights,
        seed: Seed,
        peer: Box<dyn Channel>,
        corrections: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        let engine = Masked::server(&weights.spec, private, &seed, peer, corrections)?;
        let cache = Cache::new(&weights.spec);
        Ok(Self {
            weights,
            engine,
            cache,
        })
    }

    /// Returns self with a comparison protocol; all parties of a session must agree. Before the
    /// first step.
    #[must_use]
    pub fn with_comparison(mut self, comparison: Comparison) -> Self {
        self.engine = self.engine.with_comparison(comparison);
        self
    }

    /// Returns self with DCF keys hashed under this session's key, the same at all parties. Before
    /// the first step.
    #[must_use]
    pub fn with_hash_key(mut self, key: &HashKey) -> Self {
        self.engine = self.engine.with_hash_key(key);
        self
    }

    /// As [`ClientSession::with_sampling`]; the noise is this party's own, drawn for every token.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Option<Sampling>) -> Self {
        self.cache = self.cache.with_sampling(sampling);
        self
    }

    /// Returns self for an outsourced session; its steps are the shared ones.
    #[must_use]
    pub fn with_shared_io(mut self) -> Self {
        self.engine = self.engine.with_shared_io();
        self
    }

    /// Serves E1's share of a padded prompt; returns E1's share of the token.
    ///
    /// # Errors
    /// As [`Self::prefill`], and [`ProtocolError::MissingInput`] for a share of another shape.
    pub fn prefill_shared(
        &mut self,
        input: &InputShare,
        bucket: usize,
    ) -> Result<u32, ProtocolError> {
        shared_step(
            &mut self.engine,
            &self.weights,
            &mut self.cache,
            input,
            bucket,
        )
    }

    /// Serves E1's share of one more row.
    ///
    /// # Errors
    /// As [`Self::prefill_shared`].
    pub fn decode_shared(&mut self, input: &InputShare) -> Result<u32, ProtocolError> {
        shared_step(&mut self.engine, &self.weights, &mut self.cache, input, 1)
    }

    /// Serves the prompt step of a padded length.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] past the context, [`ProtocolError::Peer`],
    /// [`ProtocolError::Source`] on a lost party.
    pub fn prefill(&mut self, bucket: usize) -> Result<(), ProtocolError> {
        check_remaining_context(&self.weights.spec, self.cache.len(), bucket)?;
        self.step(bucket)
    }

    /// Serves one more token.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self) -> Result<(), ProtocolError> {
        check_remaining_context(&self.weights.spec, self.cache.len(), 1)?;
        self.step(1)
    }

    fn step(&mut self, rows: usize) -> Result<(), ProtocolError> {
        run_blind(&mut self.engine, &self.weights, &mut self.cache, rows)
    }

    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.engine.traffic()
    }
}

/// The dealer of one session: knows shapes and masks, never a weight or a prompt.
pub struct DealerSession {
    /// Shapes only: the program asks for matrices, which the dealer never multiplies.
    shapes: Arc<PublicWeights>,
    engine: Masked,
    cache: Cache<Masked>,
}

impl DealerSession {
    /// `sink` leads to the server.
    #[must_use]
    pub fn new(
        spec: DecoderSpec,
        adapter_seed: Seed,
        seed0: Seed,
        seed1: Seed,
        sink: Box<dyn Channel>,
    ) -> Self {
        let masks = MatrixMasks::expand(&spec, &adapter_seed);
        Self::with_masks(spec, &adapter_seed, masks, [seed0, seed1], sink)
    }

    /// As [`Self::new`], with the masks that `adapter_seed` was expanded to for an earlier session.
    #[must_use]
    pub fn with_masks(
        spec: DecoderSpec,
        adapter_seed: &Seed,
        masks: MatrixMasks,
        [seed0, seed1]: [Seed; 2],
        sink: Box<dyn Channel>,
    ) -> Self {
        let engine = Masked::dealer_with(&spec, adapter_seed, masks, [&seed0, &seed1], sink);
        let cache = Cache::new(&spec);
        Self {
            shapes: Arc::new(PublicWeights::shapes_only(&spec)),
            engine,
            cache,
        }
    }

    /// Returns self comparing with DCF ([`Comparison::Dcf`]); `dcf_keys` leads to E0. Before the
    /// first step.
    #[must_use]
    pub fn with_dcf(mut self, dcf_keys: Box<dyn Channel>) -> Self {
        self.engine = self.engine.with_dcf(dcf_keys);
        self
    }

    /// Returns self for an outsourced session.
    #[must_use]
    pub fn with_shared_io(mut self) -> Self {
        self.engine = self.engine.with_shared_io();
        self
    }

    /// Returns self with DCF keys hashed under this session's key, the same at all parties. Before
    /// the first step.
    #[must_use]
    pub fn with_hash_key(mut self, key: &HashKey) -> Self {
        self.engine = self.engine.with_hash_key(key);
        self
    }

    /// Returns self for a session whose tokens are chosen by this program. Before the first step.
    #[must_use]
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.cache = self.cache.with_sampling(selection.shape());
        self
    }

    /// Writes the corrections of a prompt step.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] past the context, [`ProtocolError::Source`] when the server is
    /// gone.
    pub fn prefill(&mut self, bucket: usize) -> Result<(), ProtocolError> {
        check_remaining_context(&self.shapes.spec, self.cache.len(), bucket)?;
        self.step(bucket)
    }

    /// Writes the corrections of one more token.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self) -> Result<(), ProtocolError> {
        check_remaining_context(&self.shapes.spec, self.cache.len(), 1)?;
        self.step(1)
    }

    fn step(&mut self, rows: usize) -> Result<(), ProtocolError> {
        run_blind(&mut self.engine, &self.shapes, &mut self.cache, rows)?;
        self.engine.flush()
    }
}

/// Runs what the spec says at a party without input: the next step of a decoder, or a whole
/// encoder.
pub(crate) fn run_blind(
    engine: &mut Masked,
    weights: &PublicWeights,
    cache: &mut Cache<Masked>,
    rows: usize,
) -> Result<(), ProtocolError> {
    if weights.spec.reveals_embedding() {
        return encoder::embed(engine, weights, None, None, rows).map(|_| ());
    }
    decoder::step(engine, weights, cache, None, None, rows).map(|_| ())
}

/// What a prompt step of `bucket` tokens costs, with a greedy token.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn tally_prefill(spec: &DecoderSpec, bucket: usize) -> Result<Cost, ProtocolError> {
    tally_step(spec, Selection::Greedy, 0, bucket)
}

/// What one decoded token costs with `cached` keys before it (a whole number of prompt positions),
/// chosen greedily.
///
/// ```
/// use marill_mpc::{tally_decode, testing::tiny_spec};
///
/// let (shorter, longer) = (tally_decode(&tiny_spec(), 15)?, tally_decode(&tiny_spec(), 31)?);
/// assert!(shorter.rounds <= longer.rounds, "a level more of the maximum over twice the keys");
/// assert!(shorter.e0_to_e1_bytes < longer.e0_to_e1_bytes);
/// # Ok::<(), marill_mpc::ProtocolError>(())
/// ```
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn tally_decode(spec: &DecoderSpec, cached: usize) -> Result<Cost, ProtocolError> {
    tally_step(spec, Selection::Greedy, cached, 1)
}

/// What a step of `rows` rows costs behind `cached` keys, its token chosen by this program.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context, [`ProtocolError::Reveal`] for an encoder that is to
/// sample.
pub fn tally_step(
    spec: &DecoderSpec,
    selection: Selection,
    cached: usize,
    rows: usize,
) -> Result<Cost, ProtocolError> {
    let (mut engine, cache, shapes) = tally(spec);
    let mut cache = cache.with_sampling(selection.shape());
    check_remaining_context(spec, cached, rows)?;
    if cached > 0 {
        decoder::step(&mut engine, &shapes, &mut cache, None, None, cached)?;
    }
    let before = engine.cost();
    run_blind(&mut engine, &shapes, &mut cache, rows)?;
    Ok(engine.cost() - before)
}

/// As [`tally_prefill`] (`rows` of a prompt) or, with cached keys, [`tally_decode`] (`rows = 1`),
/// by label.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn tally_by_label(
    spec: &DecoderSpec,
    cached: usize,
    rows: usize,
) -> Result<Vec<(&'static str, Cost)>, ProtocolError> {
    let (mut engine, mut cache, shapes) = tally(spec);
    check_remaining_context(spec, cached, rows)?;
    if cached > 0 {
        decoder::step(&mut engine, &shapes, &mut cache, None, None, cached)?;
    }
    let before = engine.cost_by_label();
    decoder::step(&mut engine, &shapes, &mut cache, None, None, rows)?;
    let earlier = |label| {
        before
            .iter()
            .find(|(p, _)| *p == label)
            .map_or(Cost::default(), |(_, cost)| *cost)
    };
    Ok(engine
        .cost_by_label()
        .into_iter()
        .map(|(label, cost)| (label, cost - earlier(label)))
        .collect())
}

fn tally(spec: &DecoderSpec) -> (Masked, Cache<Masked>, PublicWeights) {
    (
        Masked::tally(spec),
        Cache::new(spec),
        PublicWeights::shapes_only(spec),
    )
}
