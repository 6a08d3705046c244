//! The parties of a session without a dealer.

use std::sync::Arc;

use marill_net::Channel;
use marill_ot::{AnySource, BaseOts, Extension, Link, Phase, Traffic};
use marill_two_party::{OtError, Party, Session};

use crate::{
    error::ProtocolError,
    session::{ClientSession, ServerSession, State},
    two_party::{Preparation, Products, TwoParty},
    weights::{PrivateWeights, PublicWeights},
};

/// Base transfers, made anew for every session, and what expands them.
fn begin(
    peer: Box<dyn Channel>,
    party: Party,
    extension: Extension,
) -> Result<Session<Box<dyn Channel>, AnySource>, OtError> {
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
