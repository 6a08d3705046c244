//! One session as E0, or as a client that sends shares: its steps.

use std::sync::Arc;

use marill_mpc::{ClientSession, Comparison, ProgramSpec, TwoParty};
use marill_net::{Channel, Meter};

use crate::{
    client::{
        connection::{Peer, SERVER},
        cost::Cost,
        outsourced::SharedConnections,
        precompute::PrecomputedSteps,
    },
    error::SessionError,
    messages::Step,
    terms::Correlations,
};

/// A session that is ready for steps: one prefill, then decodes. A second prompt needs a second
/// session, because a mask is never used twice.
pub struct SecureSession {
    pub(super) inner: Inner,
    pub(super) spec: ProgramSpec,
    pub correlations: Correlations,
    /// What its comparisons are made of.
    pub comparison: Comparison,
}

pub(super) enum Inner {
    /// This client is E0.
    Own {
        session: Box<ClientSession>,
        peer: Peer,
        meter: Arc<Meter>,
        precomputed: Option<PrecomputedSteps>,
    },
    /// The same, without a dealer.
    TwoParty {
        session: Box<ClientSession<TwoParty>>,
        peer: Peer,
        meter: Arc<Meter>,
    },
    /// It sends shares and gets shares.
    Shared(SharedConnections),
}

impl SecureSession {
    /// Says how many tokens may come behind the next, so that no more are prepared.
    pub(super) fn expect(&mut self, tokens: usize) {
        if let Inner::TwoParty { session, .. } = &mut self.inner {
            session.expect(tokens);
        }
    }

    /// Evaluates a prompt of `tokens` rows of boundary integers; reveals the next token.
    ///
    /// # Errors
    /// A lost peer, or what the server gives as the reason of its end.
    pub fn prefill(
        &mut self,
        boundary: &[u64],
        tokens: usize,
    ) -> Result<(u32, Cost), SessionError> {
        let before = self.cost();
        let bucket = self.spec.bucket(tokens);
        let token = match &mut self.inner {
            Inner::Own { session, peer, .. } => {
                peer.send(Step::Prefill { bucket }.encode())
                    .map_err(SessionError::net(SERVER))?;
                session.prefill(boundary)?
            }
            Inner::TwoParty { session, peer, .. } => {
                peer.send(Step::Prefill { bucket }.encode())
                    .map_err(SessionError::net(SERVER))?;
                session.prefill(boundary)?
            }
            Inner::Shared(connections) => connections.prefill(&self.spec, boundary)?,
        };
        Ok((token, self.since(before)))
    }

    /// Evaluates one further row.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, boundary: &[u64]) -> Result<(u32, Cost), SessionError> {
        let before = self.cost();
        let token = match &mut self.inner {
            Inner::Own {
                session,
                peer,
                precomputed,
                ..
            } => {
                peer.send(Step::Decode.encode())
                    .map_err(SessionError::net(SERVER))?;
                precomputed
                    .iter()
                    .flat_map(PrecomputedSteps::ready)
                    .for_each(|step| session.accept(step));
                session.decode(boundary)?
            }
            Inner::TwoParty { session, peer, .. } => {
                peer.send(Step::Decode.encode())
                    .map_err(SessionError::net(SERVER))?;
                session.decode(boundary)?
            }
            Inner::Shared(connections) => connections.decode(boundary)?,
        };
        Ok((token, self.since(before)))
    }

    /// Values revealed to E1 so far whose products were made before they were needed.
    pub fn precomputed(&self) -> u64 {
        match &self.inner {
            Inner::Own { session, .. } => session.precomputed(),
            Inner::TwoParty { .. } | Inner::Shared(_) => 0,
        }
    }

    fn since(&self, before: Cost) -> Cost {
        let after = self.cost();
        Cost {
            rounds: after.rounds - before.rounds,
            bytes_sent: after.bytes_sent - before.bytes_sent,
            bytes_received: after.bytes_received - before.bytes_received,
            seconds: 0.0,
        }
    }

    /// Rounds and payload bytes of all of this client's frames so far, the handshake included.
    fn cost(&self) -> Cost {
        match &self.inner {
            Inner::Own { session, meter, .. } => Cost {
                rounds: session.traffic().rounds,
                bytes_sent: meter.bytes_sent(),
                bytes_received: meter.bytes_received(),
                seconds: 0.0,
            },
            Inner::TwoParty { session, meter, .. } => Cost {
                rounds: session.traffic().rounds,
                bytes_sent: meter.bytes_sent(),
                bytes_received: meter.bytes_received(),
                seconds: 0.0,
            },
            Inner::Shared(connections) => connections.cost(),
        }
    }

    /// Tells the server that no step follows.
    pub fn end(&mut self) {
        match &mut self.inner {
            Inner::Own { peer, .. } | Inner::TwoParty { peer, .. } => {
                drop(peer.send(Step::End.encode()))
            }
            Inner::Shared(connections) => connections.end(),
        }
    }
}
