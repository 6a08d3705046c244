//! A session in which this client computes nothing: a share of each row to either evaluator, a
//! share of each token back.

use std::sync::Arc;

use marill_mpc::{Comparison, InputShare, ProgramSpec, join_token};
use marill_net::{Channel, Meter, Metered, SharedChannel, http::HttpClient};

use crate::{
    client::{
        connection::{Peer, STEP_TIMEOUT},
        cost::Cost,
    },
    error::SessionError,
    messages::{
        InputHello, PartyHello, PartyWelcome, Step, recv_reply, recv_token_share, send_input_share,
        send_json,
    },
};

/// The evaluators, E0 first.
const PEERS: [&str; 2] = ["computing party", "server"];

/// The connections to E0 and E1.
pub(super) struct SharedConnections {
    connections: [Peer; 2],
    pub(super) meter: Arc<Meter>,
    steps: u64,
}

impl SharedConnections {
    /// Shakes hands with the computing party, which does so with dealer and server, then joins its
    /// session at the server; also the comparison protocol, which the computing party chooses where
    /// any will do.
    pub(super) fn open(
        party: &HttpClient,
        server: &HttpClient,
        hello: PartyHello,
    ) -> Result<(Self, Comparison), SessionError> {
        let meter = Arc::<Meter>::default();
        let connect = |service: &HttpClient, path: &str, peer| {
            let channel = service
                .websocket(path, STEP_TIMEOUT)
                .map_err(SessionError::net(peer))?;
            Ok::<Peer, SessionError>(SharedChannel::new(Metered::new(channel, meter.clone())))
        };
        let mut first = connect(party, "/v1/party", PEERS[0])?;
        send_json(&mut first, &hello).map_err(SessionError::net(PEERS[0]))?;
        let welcome: PartyWelcome = recv_reply(&mut first, PEERS[0])?;
        let PartyHello {
            parameters,
            any_comparison,
            sampling,
            ..
        } = hello;
        let comparison = if any_comparison {
            welcome.parameters.comparison
        } else {
            parameters.comparison
        };
        let parameters = parameters.with_comparison(comparison);
        parameters.check(&welcome.parameters)?;

        let mut second = connect(server, "/v1/input", PEERS[1])?;
        let hello = InputHello {
            parameters,
            session: welcome.session,
            sampling,
        };
        send_json(&mut second, &hello).map_err(SessionError::net(PEERS[1]))?;
        recv_reply::<()>(&mut second, PEERS[1])?;
        Ok((
            Self {
                connections: [first, second],
                meter,
                steps: 0,
            },
            comparison,
        ))
    }

    pub(super) fn prefill(
        &mut self,
        spec: &ProgramSpec,
        boundary: &[u64],
    ) -> Result<u32, SessionError> {
        let (shares, bucket) = InputShare::of_prompt(spec, boundary)?;
        self.step(Step::Prefill { bucket }, &shares)
    }

    pub(super) fn decode(&mut self, row: &[u64]) -> Result<u32, SessionError> {
        self.step(Step::Decode, &InputShare::of_row(row))
    }

    /// Both evaluators get their shares before either is waited for.
    fn step(&mut self, step: Step, shares: &[InputShare; 2]) -> Result<u32, SessionError> {
        for ((connection, share), peer) in self.connections.iter_mut().zip(shares).zip(PEERS) {
            connection
                .send(step.encode())
                .map_err(SessionError::net(peer))?;
            send_input_share(connection, share).map_err(SessionError::net(peer))?;
        }
        self.steps += 1;
        // The server knows best why a session ends, so it is heard first.
        let second = recv_token_share(&mut self.connections[1], PEERS[1])?;
        let first = recv_token_share(&mut self.connections[0], PEERS[0])?;
        Ok(join_token(first, second))
    }

    pub(super) fn end(&mut self) {
        for connection in &mut self.connections {
            let _ = connection.send(Step::End.encode());
        }
    }

    /// A step is one round for this client, however many the evaluators need.
    pub(super) fn cost(&self) -> Cost {
        let bytes_sent = self.meter.bytes_sent();
        let bytes_received = self.meter.bytes_received();
        Cost {
            rounds: self.steps,
            bytes_sent,
            bytes_received,
            seconds: 0.0,
        }
    }
}
