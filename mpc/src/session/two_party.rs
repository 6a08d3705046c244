//! The parties of a session without a dealer.

use std::sync::Arc;

use marill_net::Channel;
use marill_ot::{
    AnySource, BaseId, BaseOts, Extension, Link, Phase, Traffic,
    keep::{self, Origin},
};
use marill_two_party::{OtError, Party, Session};

use crate::{
    error::ProtocolError,
    session::{ClientSession, ServerSession, State},
    two_party::{Preparation, Products, SetUp, TwoParty},
    weights::{PrivateWeights, PublicWeights},
};

type Live = Session<Box<dyn Channel>, AnySource>;

/// Base transfers, made anew, and what expands them.
fn begin(peer: Box<dyn Channel>, party: Party, extension: Extension) -> Result<Live, OtError> {
    let mut link = Link::new(peer, party);
    let base = BaseOts::establish(&mut link)?;
    Session::begin(link, &base, extension)
}

impl ClientSession<TwoParty> {
    /// E0 of a session without a dealer. Both parties make transfers in the same way.
    ///
    /// # Errors
    /// [`ProtocolError::Unsupported`] for a program that two parties do not run,
    /// [`ProtocolError::Peer`] when E1 is gone.
    pub fn without_dealer(
        weights: Arc<PublicWeights>,
        peer: Box<dyn Channel>,
        extension: Extension,
    ) -> Result<Self, ProtocolError> {
        TwoParty::check(&weights.spec, None)?;
        let engine = TwoParty::client(&weights.spec, begin(peer, Party::E0, extension)?)?;
        Ok(Self {
            state: State::new(weights, engine),
        })
    }

    /// As [`Self::without_dealer`], with what was kept of an earlier session with this peer, if it
    /// is: where E1 has its part, neither base transfers nor keys are sent again, else all are new.
    /// E1 keeps too. Also says which it was.
    ///
    /// # Errors
    /// As [`Self::without_dealer`].
    pub fn with_kept(
        weights: Arc<PublicWeights>,
        peer: Box<dyn Channel>,
        extension: Extension,
        saved: Option<SetUp>,
    ) -> Result<(Self, Origin), ProtocolError> {
        TwoParty::check(&weights.spec, None)?;
        let mut link = Link::new(peer, Party::E0);
        let (base, keys) = saved.map_or((None, None), |saved| (Some(saved.base), saved.keys));
        let (base, origin) = keep::offer(&mut link, base)?;
        let session = Session::begin(link, &base, extension)?;
        let engine = TwoParty::client(&weights.spec, session)?.keeping(base, origin, keys);
        let state = State::new(weights, engine);
        Ok((Self { state }, origin))
    }

    /// Behind the first step: what to keep for the next session with this peer, where it keeps too.
    /// Once, and nothing where all of it was kept before.
    pub fn take_set_up(&mut self) -> Option<SetUp> {
        self.state.engine.take_set_up()
    }

    /// Returns self with products made in this way, as at E1. Before the first step.
    #[must_use]
    pub fn with_products(mut self, products: Products) -> Self {
        self.state.engine = self.state.engine.with_products(products);
        self
    }

    /// Returns self preparing several steps when asked alone, as at E1.
    #[must_use]
    pub fn preparing_when_asked(mut self) -> Self {
        self.state.engine = self.state.engine.preparing_when_asked();
        self
    }

    /// Makes what up to `steps` more steps of one row take, as E1 does at the same time; returns
    /// how many those are, 0 where products are made within steps or there is no room for more.
    ///
    /// # Errors
    /// [`ProtocolError::Peer`] when E1 is gone.
    pub fn prepare(&mut self, steps: usize) -> Result<usize, ProtocolError> {
        self.state.run(|engine, _, _| engine.prepare_ahead(steps))
    }

    /// Steps of one row that are prepared.
    #[must_use]
    pub fn prepared(&self) -> usize {
        self.state.engine.prepared()
    }

    /// Steps of one row that can be prepared beside those.
    #[must_use]
    pub fn room_to_prepare(&self) -> usize {
        self.state.engine.room_to_prepare()
    }

    /// Whether this session's products can be prepared; known behind the first step.
    #[must_use]
    pub fn prepares(&self) -> bool {
        self.state.engine.prepares()
    }

    /// Says how many steps of one row are to come, so that no more are prepared.
    pub fn expect(&mut self, steps: usize) {
        self.state.engine.expect(steps);
    }

    /// What was prepared since the last call, if products are made ahead.
    pub fn take_preparations(&mut self) -> Vec<Preparation> {
        self.state.engine.take_preparations()
    }

    /// Bits of the elements of E1's `A` factors, and of its `B` factors, as it told them.
    #[must_use]
    pub fn factor_bits(&self) -> [u32; 2] {
        self.state.engine.factor_bits()
    }

    /// What this party sent and received so far for a purpose.
    #[must_use]
    pub fn traffic_of(&self, phase: Phase) -> Traffic {
        self.state.engine.traffic(phase)
    }

    /// What this party sent and received so far, for all purposes together.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let phases = [
            Phase::Setup,
            Phase::Extension,
            Phase::Offline,
            Phase::Online,
        ];
        let mut sum = Traffic::default();
        for phase in phases {
            sum += self.traffic_of(phase);
        }
        sum
    }
}

impl ServerSession<TwoParty> {
    /// E1 of a session without a dealer.
    ///
    /// # Errors
    /// As [`ClientSession::without_dealer`]; [`ProtocolError::AdapterMismatch`] when the private
    /// weights are of another model.
    pub fn without_dealer(
        weights: Arc<PublicWeights>,
        private: Arc<PrivateWeights>,
        peer: Box<dyn Channel>,
        extension: Extension,
    ) -> Result<Self, ProtocolError> {
        TwoParty::check(&weights.spec, None)?;
        let engine = TwoParty::server(&weights.spec, private, begin(peer, Party::E1, extension)?)?;
        Ok(Self {
            state: State::new(weights, engine),
        })
    }

    /// As [`Self::without_dealer`], where E0 keeps what it can use again
    /// ([`ClientSession::with_kept`]): `find` gives this party's part of what has this name, if it
    /// was kept for this peer and these private weights.
    ///
    /// # Errors
    /// As [`Self::without_dealer`].
    pub fn with_kept(
        weights: Arc<PublicWeights>,
        private: Arc<PrivateWeights>,
        peer: Box<dyn Channel>,
        extension: Extension,
        find: impl FnOnce(&BaseId) -> Option<SetUp>,
    ) -> Result<(Self, Origin), ProtocolError> {
        TwoParty::check(&weights.spec, None)?;
        let mut link = Link::new(peer, Party::E1);
        let mut keys = None;
        let find = |name: &BaseId| {
            let saved = find(name)?;
            keys = saved.keys;
            Some(saved.base)
        };
        let (base, origin) = keep::answer(&mut link, find)?;
        let session = Session::begin(link, &base, extension)?;
        let engine = TwoParty::server(&weights.spec, private, session)?;
        let state = State::new(weights, engine.keeping(base, origin, keys));
        Ok((Self { state }, origin))
    }

    /// As at E0.
    pub fn take_set_up(&mut self) -> Option<SetUp> {
        self.state.engine.take_set_up()
    }

    /// Returns self with products made in this way, as at E0. Before the first step.
    #[must_use]
    pub fn with_products(mut self, products: Products) -> Self {
        self.state.engine = self.state.engine.with_products(products);
        self
    }

    /// As at E0.
    #[must_use]
    pub fn preparing_when_asked(mut self) -> Self {
        self.state.engine = self.state.engine.preparing_when_asked();
        self
    }

    /// Makes what up to `steps` more steps of one row take, as E0 does.
    ///
    /// # Errors
    /// As at E0; [`ProtocolError::TwoParty`] where it says more steps.
    pub fn prepare(&mut self, steps: usize) -> Result<usize, ProtocolError> {
        self.state.run(|engine, _, _| engine.prepare_ahead(steps))
    }

    /// Steps of one row that are prepared.
    #[must_use]
    pub fn prepared(&self) -> usize {
        self.state.engine.prepared()
    }

    /// As at E0.
    #[must_use]
    pub fn room_to_prepare(&self) -> usize {
        self.state.engine.room_to_prepare()
    }
}
