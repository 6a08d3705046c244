//! E1, the server: holds the adapter, learns shapes.

use std::sync::Arc;

use marill_crypto::{HashKey, Seed};
use marill_net::Channel;

use crate::{
    cost::Traffic,
    engine::Engine,
    error::ProtocolError,
    masked::{AdapterKey, Comparison, Masked},
    sampling::Sampling,
    session::{InputShare, State},
    weights::{PrivateWeights, PublicWeights},
};

/// E1: the server. Holds the adapter, learns shapes.
pub struct ServerSession<E: Engine = Masked> {
    pub(super) state: State<E>,
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
        Ok(Self {
            state: State::new(weights, engine),
        })
    }

    /// Returns self with a comparison protocol; all parties of a session must agree. Before the
    /// first step.
    #[must_use]
    pub fn with_comparison(mut self, comparison: Comparison) -> Self {
        self.state.engine = self.state.engine.with_comparison(comparison);
        self
    }

    /// Returns self with DCF keys hashed under this session's key, the same at all parties. Before
    /// the first step.
    #[must_use]
    pub fn with_hash_key(mut self, key: &HashKey) -> Self {
        self.state.engine = self.state.engine.with_hash_key(key);
        self
    }

    /// Returns self with the key under which its E0 has the adapter
    /// ([`crate::PrivateProducts::Lattice`]). Before the first step.
    #[must_use]
    pub fn with_adapter_key(mut self, key: Arc<AdapterKey>) -> Self {
        self.state.engine = self.state.engine.with_adapter_key(key);
        self
    }

    /// Returns self for an outsourced session; its steps are the shared ones.
    #[must_use]
    pub fn with_shared_io(mut self) -> Self {
        self.state.engine = self.state.engine.with_shared_io();
        self
    }

    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.state.engine.traffic()
    }
}

impl<E: Engine> ServerSession<E> {
    /// As [`crate::ClientSession::with_sampling`]; the noise is this party's own, drawn for every
    /// token.
    #[must_use]
    pub fn with_sampling(mut self, sampling: Option<Sampling>) -> Self {
        self.state.cache = self.state.cache.with_sampling(sampling);
        self
    }

    /// Serves the prompt step of a padded length.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] past the context, [`ProtocolError::Peer`],
    /// [`ProtocolError::Dealer`] on a lost party.
    pub fn prefill(&mut self, bucket: usize) -> Result<(), ProtocolError> {
        self.state.blind(bucket)
    }

    /// Serves one more token.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self) -> Result<(), ProtocolError> {
        self.state.blind(1)
    }

    /// Serves some more tokens in one step, behind a prompt.
    ///
    /// # Errors
    /// As [`Self::prefill`]; [`ProtocolError::MissingInput`] before a prompt.
    pub fn extend(&mut self, rows: usize) -> Result<(), ProtocolError> {
        if rows == 0 || self.state.cache.is_empty() {
            return Err(ProtocolError::MissingInput);
        }
        self.state.blind(rows)
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
        self.state
            .step(&input.boundary, input.bias.as_deref(), bucket)
    }

    /// Serves E1's share of one more row.
    ///
    /// # Errors
    /// As [`Self::prefill_shared`].
    pub fn decode_shared(&mut self, input: &InputShare) -> Result<u32, ProtocolError> {
        self.state.step(&input.boundary, input.bias.as_deref(), 1)
    }
}
