//! The dealer of one session: knows shapes and masks, never a weight or a prompt.

use std::sync::Arc;

use marill_crypto::{HashKey, Seed};
use marill_net::Channel;

use crate::{
    error::ProtocolError,
    masked::Masked,
    sampling::Selection,
    session::State,
    spec::ProgramSpec,
    weights::{MatrixMasks, PublicWeights},
};

/// The dealer of one session: knows shapes and masks, never a weight or a prompt.
pub struct DealerSession {
    state: State<Masked>,
}

impl DealerSession {
    /// `sink` leads to the server.
    #[must_use]
    pub fn new(
        spec: ProgramSpec,
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
        spec: ProgramSpec,
        adapter_seed: &Seed,
        masks: MatrixMasks,
        [seed0, seed1]: [Seed; 2],
        sink: Box<dyn Channel>,
    ) -> Self {
        let engine = Masked::dealer_with(&spec, adapter_seed, masks, [&seed0, &seed1], sink);
        Self {
            state: State::new(Arc::new(PublicWeights::shapes_only(&spec)), engine),
        }
    }

    /// Returns self comparing with DCF ([`crate::Comparison::Dcf`]); `dcf_keys` leads to E0. Before
    /// the first step.
    #[must_use]
    pub fn with_dcf(mut self, dcf_keys: Box<dyn Channel>) -> Self {
        self.state.engine = self.state.engine.with_dcf(dcf_keys);
        self
    }

    /// A dealer of sessions without a mask of the adapter ([`crate::PrivateProducts::Lattice`]).
    #[must_use]
    pub fn without_adapter(spec: ProgramSpec, seeds: [Seed; 2], sink: Box<dyn Channel>) -> Self {
        let [seed0, seed1] = &seeds;
        let engine = Masked::dealer_without_adapter(&spec, [seed0, seed1], sink);
        Self {
            state: State::new(Arc::new(PublicWeights::shapes_only(&spec)), engine),
        }
    }

    /// Returns self for an outsourced session.
    #[must_use]
    pub fn with_shared_io(mut self) -> Self {
        self.state.engine = self.state.engine.with_shared_io();
        self
    }

    /// Returns self with DCF keys hashed under this session's key, the same at all parties. Before
    /// the first step.
    #[must_use]
    pub fn with_hash_key(mut self, key: &HashKey) -> Self {
        self.state.engine = self.state.engine.with_hash_key(key);
        self
    }

    /// Returns self for a session whose tokens are chosen by this program. Before the first step.
    #[must_use]
    pub fn with_selection(mut self, selection: Selection) -> Self {
        self.state.cache = self.state.cache.with_sampling(selection.shape());
        self
    }

    /// Writes the corrections of a prompt step.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] past the context, [`ProtocolError::Dealer`] when the server is
    /// gone.
    pub fn prefill(&mut self, bucket: usize) -> Result<(), ProtocolError> {
        self.step(bucket)
    }

    /// Writes the corrections of one more token.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self) -> Result<(), ProtocolError> {
        self.step(1)
    }

    /// Writes the corrections of some more tokens in one step, behind a prompt.
    ///
    /// # Errors
    /// As [`Self::prefill`]; [`ProtocolError::MissingInput`] before a prompt.
    pub fn extend(&mut self, rows: usize) -> Result<(), ProtocolError> {
        if rows == 0 || self.state.cache.is_empty() {
            return Err(ProtocolError::MissingInput);
        }
        self.step(rows)
    }

    fn step(&mut self, rows: usize) -> Result<(), ProtocolError> {
        // The same program over masks; what it has to say to E1 leaves in frames, the rest now.
        self.state.blind(rows)?;
        self.state.engine.flush()
    }
}
