//! One session as E0, or as a client that sends shares: its steps.

use std::{sync::Arc, time::Instant};

use marill_mpc::{
    ClientSession, Comparison, ProgramSpec, ProtocolError, TwoParty,
    two_party::{Phase, STEPS_AHEAD},
};
use marill_net::{Channel, Meter, RequestId};

use crate::{
    client::{
        connection::{Peer, SERVER},
        cost::{Cost, Offline},
        outsourced::SharedConnections,
        precompute::PrecomputedSteps,
    },
    error::SessionError,
    messages::{Step, encode_turn, recv_granted},
    set_ups::{Owner, SetUps},
    terms::Correlations,
};

/// A session that is ready for steps: one prefill, then decodes, and further turns of the same
/// conversation. Another prompt needs another session, because a mask is never used twice.
pub struct SecureSession {
    pub(super) inner: Inner,
    pub(super) spec: ProgramSpec,
    pub correlations: Correlations,
    /// What its comparisons are made of.
    pub comparison: Comparison,
    /// Whether the server takes the name of a further turn.
    pub(super) names_turns: bool,
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
        /// Tokens that may come behind the next, where that is known.
        expected: Option<usize>,
        /// What preparations took.
        prepare_seconds: f64,
        /// What keeps this session's set-up, where both keep theirs.
        keeper: Option<(SetUps, Owner)>,
    },
    /// It sends shares and gets shares.
    Shared(SharedConnections),
}

impl SecureSession {
    /// Says how many tokens may come behind the next, so that no more are prepared.
    pub(super) fn expect(&mut self, tokens: usize) {
        match &mut self.inner {
            Inner::Own { session, .. } => session.expect(tokens),
            Inner::TwoParty { expected, .. } => *expected = Some(tokens),
            Inner::Shared(_) => {}
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
            Inner::TwoParty {
                session,
                peer,
                keeper,
                ..
            } => {
                peer.send(Step::Prefill { bucket }.encode())
                    .map_err(SessionError::net(SERVER))?;
                let token = session.prefill(boundary)?;
                if let Some((set_ups, owner)) = keeper
                    && let Some(set_up) = session.take_set_up()
                {
                    set_ups.keep(owner, &set_up);
                }
                token
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
            Inner::TwoParty {
                session,
                peer,
                expected,
                prepare_seconds,
                ..
            } => {
                if session.prepared() == 0 {
                    let wanted = expected.unwrap_or(STEPS_AHEAD).max(1);
                    let made = prepare((session, peer), prepare_seconds, wanted)?;
                    *expected = expected.map(|expected| expected.saturating_sub(made));
                }
                peer.send(Step::Decode.encode())
                    .map_err(SessionError::net(SERVER))?;
                session.decode(boundary)?
            }
            Inner::Shared(connections) => connections.decode(boundary)?,
        };
        Ok((token, self.since(before)))
    }

    /// Evaluates the rows of a further turn, whose number the server hears; reveals the token
    /// behind them.
    ///
    /// # Errors
    /// As [`Self::prefill`]; [`SessionError::KeepsNothing`] with a computing party.
    pub fn extend(&mut self, boundary: &[u64]) -> Result<(u32, Cost), SessionError> {
        let before = self.cost();
        let width = self.spec.hidden_size;
        let rows = boundary.len() / width;
        // What a dealer wrote early is for one row: the first one takes it. Two parties drop what
        // they prepared for single rows, each of which would take as many rounds as the whole turn.
        let alone = match &self.inner {
            Inner::TwoParty { .. } if rows > 1 => 0,
            Inner::Own { .. } | Inner::TwoParty { .. } => 1,
            Inner::Shared(_) => return Err(SessionError::KeepsNothing),
        };
        let rest = rows - alone;
        let mut token = None;
        for (k, row) in boundary[..alone * width].chunks(width).enumerate() {
            token = Some(match &mut self.inner {
                Inner::Own { session, peer, .. } if rest > 0 && k + 1 == alone => {
                    peer.send(Step::DecodeBefore { rows: rest }.encode())
                        .map_err(SessionError::net(SERVER))?;
                    session.decode(row)?
                }
                _ => self.decode(row)?.0,
            });
        }
        if rest > 0 {
            let rows = &boundary[alone * width..];
            let step = Step::Extend { rows: rest }.encode();
            token = Some(match &mut self.inner {
                Inner::Own { session, peer, .. } => {
                    peer.send(step).map_err(SessionError::net(SERVER))?;
                    session.extend(rows)?
                }
                Inner::TwoParty { session, peer, .. } => {
                    peer.send(step).map_err(SessionError::net(SERVER))?;
                    session.extend(rows)?
                }
                Inner::Shared(_) => return Err(SessionError::KeepsNothing),
            });
        }
        let token = token.ok_or(ProtocolError::MissingInput)?;
        Ok((token, self.since(before)))
    }

    /// Whether this session can go on in a further turn: correlations that were preprocessed are
    /// for one answer, keys of DCF are written early and would fill memory, and a computing party
    /// begins anew.
    #[must_use]
    pub fn can_wait(&self) -> bool {
        match &self.inner {
            Inner::Own { .. } => {
                self.correlations == Correlations::Live && self.comparison == Comparison::OneHot
            }
            Inner::TwoParty { .. } => true,
            Inner::Shared(_) => false,
        }
    }

    /// Says that this turn is over and another one may come.
    pub fn wait(&mut self) {
        if let Inner::Own { peer, .. } | Inner::TwoParty { peer, .. } = &mut self.inner {
            drop(peer.send(Step::Wait.encode()));
        }
    }

    /// Tells the server which request the further turn that comes next belongs to, for its log.
    pub(super) fn name_turn(&mut self, id: &RequestId) {
        if let Inner::Own { peer, .. } | Inner::TwoParty { peer, .. } = &mut self.inner
            && self.names_turns
        {
            drop(peer.send(encode_turn(id)));
        }
    }

    /// Steps of one row that are prepared, where steps are prepared at all.
    #[must_use]
    pub fn prepared(&self) -> Option<usize> {
        match &self.inner {
            Inner::TwoParty { session, .. } if session.prepares() => Some(session.prepared()),
            Inner::Own { session, .. } => session.tokens_prepared(),
            _ => None,
        }
    }

    /// Makes what up to `steps` more steps of one row will take, together with the server, which
    /// charges them now; returns how many.
    ///
    /// # Errors
    /// A lost peer, or a budget that is used up.
    pub fn prepare(&mut self, steps: usize) -> Result<usize, SessionError> {
        match &mut self.inner {
            Inner::TwoParty {
                session,
                peer,
                prepare_seconds,
                ..
            } => prepare((session, peer), prepare_seconds, steps),
            Inner::Own { .. } | Inner::Shared(_) => Ok(0),
        }
    }

    /// What was made so far that depends on no input. None where a dealer makes all of that; of
    /// private products by lattice the seconds are part of their steps.
    #[must_use]
    pub fn offline(&self) -> Option<Offline> {
        let (session, prepare_seconds) = match &self.inner {
            Inner::TwoParty {
                session,
                prepare_seconds,
                ..
            } => (session, prepare_seconds),
            Inner::Own { session, .. } => {
                let bytes = session.traffic().offline_bytes;
                return (bytes > 0).then_some(Offline {
                    bytes,
                    seconds: None,
                });
            }
            Inner::Shared(_) => return None,
        };
        let phases = [Phase::Setup, Phase::Extension, Phase::Offline];
        let bytes = phases.map(|phase| {
            let traffic = session.traffic_of(phase);
            traffic.sent + traffic.received
        });
        Some(Offline {
            bytes: bytes.iter().sum(),
            seconds: Some(*prepare_seconds),
        })
    }

    /// Cached positions, padding included.
    #[must_use]
    pub fn positions(&self) -> usize {
        match &self.inner {
            Inner::Own { session, .. } => session.positions(),
            Inner::TwoParty { session, .. } => session.positions(),
            Inner::Shared(_) => 0,
        }
    }

    /// Values revealed to E1 so far whose products were made before they were needed.
    pub fn precomputed(&self) -> u64 {
        match &self.inner {
            Inner::Own { session, .. } => session.precomputed(),
            Inner::TwoParty { .. } | Inner::Shared(_) => 0,
        }
    }

    /// What counts this client's frames.
    pub(super) fn meter(&self) -> Arc<Meter> {
        match &self.inner {
            Inner::Own { meter, .. } | Inner::TwoParty { meter, .. } => meter.clone(),
            Inner::Shared(connections) => connections.meter.clone(),
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

/// Makes what up to `wanted` more steps of one row take, as far as there is room for them.
fn prepare(
    (session, peer): (&mut ClientSession<TwoParty>, &mut Peer),
    seconds: &mut f64,
    wanted: usize,
) -> Result<usize, SessionError> {
    let room = session.room_to_prepare().min(wanted);
    if room == 0 {
        return Ok(0);
    }
    let started = Instant::now();
    peer.send(Step::Prepare { steps: room }.encode())
        .map_err(SessionError::net(SERVER))?;
    let granted = recv_granted(peer, SERVER, room)?;
    let made = session.prepare(granted)?;
    *seconds += started.elapsed().as_secs_f64();
    Ok(made)
}
