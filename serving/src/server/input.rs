//! Clients of sessions in which a computing party is E0: each sends its shares over a connection of
//! its own, which finds its session by the session's name.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    response::{IntoResponse, Response},
};
use marill_mpc::{Comparison, Sampling};
use marill_net::{SharedChannel, WebSocketChannel};

use crate::{
    error::{ServingError, SessionError},
    messages::{InputHello, Reply, recv_hello, send_json},
    server::Server,
    service::IDLE_TIMEOUT,
    slots::Turn,
    state::Principal,
    web,
};

const CLIENT: &str = "client";
/// How long a session waits for its client, who hears of it from the computing party.
const CLIENT_WAIT: Duration = Duration::from_secs(30);

/// How often a session that waits for its client looks whether its evaluator is still there.
const LOOK_AROUND: Duration = Duration::from_millis(200);

/// A client's connection and whose budget it uses.
pub(super) type Input = (SharedChannel<WebSocketChannel>, Option<Principal>);

/// Sessions that wait for their client.
#[derive(Default)]
pub(super) struct Inputs(Mutex<HashMap<String, Expected>>);

/// What a session's comparisons are made of and how its tokens are sampled, as its computing party
/// said, and where its client's connection goes.
struct Expected {
    comparison: Comparison,
    sampling: Option<Sampling>,
    connection: Sender<Input>,
}

impl Inputs {
    /// Announces a session; its client may come from now on, as long as what is returned is kept.
    pub(super) fn expect(
        &self,
        session: &str,
        comparison: Comparison,
        sampling: Option<Sampling>,
    ) -> Announced<'_> {
        let (connection, receiver) = mpsc::channel();
        let expected = Expected {
            comparison,
            sampling,
            connection,
        };
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(session.to_string(), expected);
        Announced {
            inputs: self,
            session: session.to_string(),
            receiver,
        }
    }

    fn take(&self, session: &str) -> Option<Expected> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(session)
    }
}

/// A session that waits for its client; dropped, it waits no longer.
pub(super) struct Announced<'a> {
    inputs: &'a Inputs,
    session: String,
    receiver: Receiver<Input>,
}

impl Announced<'_> {
    /// Waits for the client, as long as the session's evaluator is there.
    pub(super) fn wait(
        self,
        party: &SharedChannel<WebSocketChannel>,
    ) -> Result<Input, SessionError> {
        let deadline = Instant::now() + CLIENT_WAIT;
        loop {
            match self.receiver.recv_timeout(LOOK_AROUND) {
                Ok(input) => return Ok(input),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {
                    party
                        .lock()
                        .check_open()
                        .map_err(SessionError::net("computing party"))?;
                }
                Err(_) => {
                    return Err(SessionError::NoClient {
                        seconds: CLIENT_WAIT.as_secs(),
                    });
                }
            }
        }
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        self.inputs.take(&self.session);
    }
}

/// The client's connection: a key like any session, counted against its rate and charged for its
/// steps.
pub(super) async fn upgrade(State(server): State<Arc<Server>>, request: Request) -> Response {
    let principal = server.check_key(request.headers()).await;
    let admitted = principal
        .and_then(|principal| Ok((principal, server.turn(&request, &server.input_slots)?)));
    match admitted {
        Err(refused) => {
            server.refuse(&refused);
            refused.into_response()
        }
        Ok((principal, turn)) => web::upgrade(request, IDLE_TIMEOUT, move |channel, _| {
            let mut connection = SharedChannel::new(channel);
            if let Err(error) = join(&server, &mut connection, principal, turn) {
                let _ = send_json(&mut connection, &Reply::<()>::refused(&error, CLIENT));
                tracing::warn!("a client's connection was refused: {error}");
            }
        }),
    }
}

fn join(
    server: &Server,
    connection: &mut SharedChannel<WebSocketChannel>,
    principal: Option<Principal>,
    mut turn: Turn,
) -> Result<(), ServingError> {
    let hello: InputHello = recv_hello(connection, CLIENT)?;
    connection.lock().handshake_done();
    let _slot = turn.take("server")?;
    server.start_session(principal.as_ref())?;
    let unknown = || SessionError::NoSession {
        session: hello.session.clone(),
    };
    // All but the comparison protocol, which the session has, is known before a session is looked
    // for.
    server
        .model
        .parameters
        .clone()
        .with_comparison(hello.parameters.comparison)
        .check(&hello.parameters)?;
    let expected = server.inputs.take(&hello.session).ok_or_else(unknown)?;
    server
        .model
        .parameters
        .clone()
        .with_comparison(expected.comparison)
        .check(&hello.parameters)?;
    if expected.sampling != hello.sampling {
        return Err(SessionError::SamplingDiffers.into());
    }
    send_json(connection, &Reply::Welcome(())).map_err(SessionError::net(CLIENT))?;
    expected
        .connection
        .send((connection.clone(), principal))
        .map_err(|_| unknown().into())
}
