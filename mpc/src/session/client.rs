//! E0 as the client: holds the boundary activations, learns the tokens.

use std::sync::Arc;

use marill_crypto::{HashKey, Seed};
use marill_net::Channel;

use crate::{
    cost::Traffic,
    engine::Engine,
    error::ProtocolError,
    masked::{EncryptedAdapter, Masked, PrecomputedStep, Precomputer},
    program::{encoder, padding::pad_prompt},
    sampling::Sampling,
    session::State,
    weights::{MaskedAdapter, PublicWeights},
};

/// E0: the client. Holds the boundary activations, learns the tokens.
pub struct ClientSession<E: Engine = Masked> {
    pub(super) state: State<E>,
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
        Ok(Self {
            state: State::new(weights, engine),
        })
    }

    /// As [`Self::new`], with the adapter under its owner's key
    /// ([`crate::PrivateProducts::Lattice`]).
    #[must_use]
    pub fn with_encrypted(
        weights: Arc<PublicWeights>,
        adapter: Arc<EncryptedAdapter>,
        seed: Seed,
        peer: Box<dyn Channel>,
    ) -> Self {
        let engine = Masked::client_with_encrypted(&weights.spec, adapter, &seed, peer);
        Self {
            state: State::new(weights, engine),
        }
    }

    /// Tokens that are prepared, where an adapter is under encryption.
    #[must_use]
    pub fn tokens_prepared(&self) -> Option<usize> {
        self.state.engine.tokens_prepared()
    }

    /// Says how many tokens are expected beside those that are prepared, so that no more are, where
    /// an adapter is under encryption.
    pub fn expect(&mut self, tokens: usize) {
        self.state.engine.expect(tokens);
    }

    /// Returns self comparing with DCF ([`crate::Comparison::Dcf`]); `dcf_keys` leads from the
    /// dealer. Before the first step.
    #[must_use]
    pub fn with_dcf(mut self, dcf_keys: Box<dyn Channel>) -> Self {
        self.state.engine = self.state.engine.with_dcf(dcf_keys);
        self
    }

    /// Returns self with DCF keys hashed under this session's key, the same at all parties. Before
    /// the first step.
    #[must_use]
    pub fn with_hash_key(mut self, key: &HashKey) -> Self {
        self.state.engine = self.state.engine.with_hash_key(key);
        self
    }

    /// Who makes products of this session's masks on another thread, or while there is nothing else
    /// to do; none where there are no private maps to reveal values for.
    #[must_use]
    pub fn precomputer(&self) -> Option<Precomputer> {
        self.state.engine.precomputer(&self.state.weights)
    }

    /// Keeps a step's products until it comes; those of a step that has begun are dropped, and more
    /// than a few.
    pub fn accept(&mut self, step: PrecomputedStep) {
        self.state.engine.accept(step);
    }

    /// Values revealed to E1 whose products had been accepted.
    #[must_use]
    pub fn precomputed(&self) -> u64 {
        self.state.engine.precomputed_reveals()
    }

    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.state.engine.traffic()
    }
}

impl<E: Engine> ClientSession<E> {
    /// Returns self with sampling; all parties of a session must agree. Before the first step.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Option<Sampling>) -> Self {
        self.state.cache = self.state.cache.with_sampling(sampling);
        self
    }

    /// Runs a prompt of `n · hidden_size` encoded boundary activations, padded to its bucket;
    /// returns the first token.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] past the context, [`ProtocolError::Peer`] on a lost server.
    pub fn prefill(&mut self, boundary: &[u64]) -> Result<u32, ProtocolError> {
        let (padded, bias, bucket) = pad_prompt(&self.state.weights.spec, boundary)?;
        self.state.step(&padded, Some(&bias), bucket)
    }

    /// Runs a text through an encoder that reveals its pooled row: `hidden_size` values of the
    /// residual scale.
    ///
    /// # Errors
    /// [`ProtocolError::Reveal`] when the partition reveals something else; as [`Self::prefill`].
    pub fn embed(&mut self, boundary: &[u64]) -> Result<Vec<u64>, ProtocolError> {
        let (padded, bias, bucket) = pad_prompt(&self.state.weights.spec, boundary)?;
        self.state.run(|engine, weights, _| {
            let row = encoder::embed(engine, weights, Some(&padded), Some(&bias), bucket)?;
            row.ok_or(ProtocolError::MissingInput)
        })
    }

    /// Runs one more token.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, boundary: &[u64]) -> Result<u32, ProtocolError> {
        self.state.step(boundary, None, 1)
    }

    /// Runs some more tokens in one step, behind a prompt: the next turn of a conversation. Their
    /// number is no secret. Returns the token behind the last.
    ///
    /// # Errors
    /// As [`Self::prefill`]; [`ProtocolError::MissingInput`] before a prompt.
    pub fn extend(&mut self, boundary: &[u64]) -> Result<u32, ProtocolError> {
        let width = self.state.weights.spec.hidden_size;
        let rows = boundary.len() / width;
        let whole = rows > 0 && boundary.len().is_multiple_of(width);
        if !whole || self.state.cache.is_empty() {
            return Err(ProtocolError::MissingInput);
        }
        self.state.step(boundary, None, rows)
    }

    /// Cached positions, padding included.
    #[must_use]
    pub fn positions(&self) -> usize {
        self.state.cache.len()
    }
}
