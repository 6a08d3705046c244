//! A computing party: E0 where the client takes no part in the computation.
//!
//! It fetches the public part and the masked adapter, as a client would, and computes on shares: of
//! each row it gets one share from the client, and the server gets the other; of each token it
//! returns its share. It learns the prompt's bucket, the number of tokens and timing. If it and the
//! server, or it and the dealer, work together, what this deployment protects is open to them.
//!
//! It serves whoever brings a ticket of the server's, which the dealer checks before anything else
//! happens: without the server's consent a handshake costs one request.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::get,
};
use marill_mpc::{OutsourcedSession, ProgramSpec};
use marill_net::{Channel, RequestId, SharedChannel, WebSocketChannel};

use crate::{
    client::{ClientOptions, SessionOpener, fetch, open_cached},
    error::{HttpError, ServingError, SessionError},
    messages::{
        PartyHello, PartyWelcome, Reply, Step, recv_hello, recv_input_share, send_json,
        send_token_share,
    },
    metrics::{self, Metrics},
    pace::Pace,
    ready::{Found, Renewed, has_space, partition_changed},
    service,
    slots::{Lobby, MAX_WAITING, SessionSlot, Turn},
    terms::{E0, SessionParameters},
    tls::Tls,
    web::{self, Sessions},
};

const CLIENT: &str = "client";
/// The WebSocket's code for an end without a fault of the protocol.
const CLOSE_NORMAL: u16 = 1000;

/// How to run a computing party.
pub struct PartyOptions {
    pub listen: SocketAddr,
    pub tls: Tls,
    /// Its server, its dealer and its folders, as a client has them.
    pub services: ClientOptions,
    /// Where its metrics are served, if anywhere.
    pub metrics: Option<SocketAddr>,
}

pub(crate) struct Party {
    opener: Arc<Renewed<SessionOpener>>,
    sessions: Arc<Sessions>,
    lobby: Arc<Lobby>,
    metrics: Arc<Metrics>,
}

/// Fetches the public part, then serves until a signal.
///
/// # Errors
/// [`SessionError::Mismatch`] where the server computes with its clients, a port in use, and what
/// [`web::run`] reports.
pub fn run(options: &PartyOptions, progress: &mut dyn FnMut(&str)) -> Result<(), ServingError> {
    let bound = web::bind(
        options.listen,
        options.tls.identity(&options.services.state)?,
    )?;
    let party = Party::new(
        opener(&options.services, progress)?,
        options.services.max_sessions,
    );
    let services = options.services.clone();
    let make = move || opener(&services, &mut |line| tracing::info!("{line}"));
    let server_of = |opener: &SessionOpener| (opener.server.clone(), opener.parameters.clone());
    party.opener.watch(server_of, make)?;
    let metrics = metrics::listen(options.metrics, &party.metrics, &party.sessions)?;
    Ok(web::run(bound, party.app(), &party.sessions, metrics)?)
}

/// Fetches what is missing of the partition that the server serves.
fn opener(
    services: &ClientOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<SessionOpener, ServingError> {
    let (folder, supported) = fetch(services, progress)?;
    if supported.e0 != E0::Party {
        let ours = E0::Party.as_str().into();
        let theirs = supported.e0.as_str().into();
        return Err(SessionError::Mismatch {
            field: "e0",
            ours,
            theirs,
        }
        .into());
    }
    SessionOpener::new(&open_cached(&folder)?, services, supported)
}

impl Party {
    pub(crate) fn new(opener: SessionOpener, max_sessions: usize) -> Arc<Self> {
        let opener = Arc::new(Renewed::new(opener));
        let sessions = Sessions::with_queue(max_sessions, MAX_WAITING);
        Arc::new(Self {
            opener,
            sessions,
            lobby: Arc::default(),
            metrics: Arc::default(),
        })
    }

    pub(crate) fn sessions(&self) -> &Arc<Sessions> {
        &self.sessions
    }

    pub(crate) fn app(self: &Arc<Self>) -> Router {
        let own = Router::new()
            .route("/ready", get(ready))
            .route("/v1/party", get(party_upgrade))
            .route(crate::compat::PARTY_PATH, get(party_upgrade));
        let party = self.clone();
        let partition = move || Some(party.opener.current().parameters.partition_id.clone());
        service::app("party", own, self, Arc::new(partition))
    }

    fn session(
        &self,
        channel: WebSocketChannel,
        turn: Turn,
        id: &RequestId,
    ) -> Result<(), ServingError> {
        let mut client = SharedChannel::new(channel);
        let began = Instant::now();
        let result = match self.open(&mut client, turn, id) {
            Ok((_slot, opener, mut session)) => {
                self.metrics.opened(began.elapsed());
                tracing::info!("a session begins");
                self.serve(&mut client, &opener.spec, &mut session)
            }
            Err(error) => {
                self.metrics.refuse(error.refusal_code(CLIENT));
                let _ = send_json(&mut client, &Reply::<()>::refused(&error, CLIENT));
                Err(error)
            }
        };
        let reason = result.as_ref().err().map_or(String::new(), |error| {
            format!("computing party: {}", error.for_peer())
        });
        client.lock().close_with(
            result
                .as_ref()
                .err()
                .map_or(CLOSE_NORMAL, ServingError::close_code),
            &reason,
        );
        result
    }

    /// A slot for a client after its handshake, and its session with what it was opened by: a later
    /// partition is another's.
    fn open(
        &self,
        client: &mut SharedChannel<WebSocketChannel>,
        mut turn: Turn,
        id: &RequestId,
    ) -> Result<(SessionSlot, Arc<SessionOpener>, OutsourcedSession), ServingError> {
        let hello: PartyHello = recv_hello(client, CLIENT)?;
        client.lock().handshake_done();
        let slot = turn.take("computing party")?;
        Metrics::add(&self.metrics.sessions_started, 1);
        let opener = self.opener.current();
        let parameters = agree(&opener, &hello)?;
        let named = opener.named(id);
        let (session, opened) = named.open_shared(&parameters, hello.ticket, hello.sampling)?;
        tracing::Span::current().record("session", session.as_str());
        let welcome = PartyWelcome {
            parameters,
            session,
        };
        send_json(client, &Reply::Welcome(welcome)).map_err(SessionError::net(CLIENT))?;
        Ok((slot, opener, opened))
    }

    fn serve(
        &self,
        client: &mut SharedChannel<WebSocketChannel>,
        spec: &ProgramSpec,
        session: &mut OutsourcedSession,
    ) -> Result<(), ServingError> {
        let width = spec.hidden_size;
        let bad = |reason: String| SessionError::BadMessage {
            peer: CLIENT,
            reason,
        };
        let mut pace = Pace::start(client);
        loop {
            let frame = client.recv().map_err(SessionError::net(CLIENT))?;
            let step = Step::parse(&frame).map_err(bad)?;
            pace.step(if let Step::Prefill { bucket } = step {
                bucket
            } else {
                1
            });
            let began = Instant::now();
            let token = match step {
                Step::End => return Ok(()),
                Step::Prefill { bucket } if bucket > spec.max_positions => {
                    return Err(bad(format!("a prefill of {bucket} is not possible")).into());
                }
                Step::Prefill { bucket } => {
                    session.prefill(&recv_input_share(client, CLIENT, step, width)?, bucket)?
                }
                Step::Decode => session.decode(&recv_input_share(client, CLIENT, step, width)?)?,
                _ => return Err(SessionError::KeepsNothing.into()),
            };
            send_token_share(client, CLIENT, token)?;
            pace.pause();
            self.metrics
                .stepped(matches!(step, Step::Prefill { .. }), began.elapsed());
        }
    }
}

/// The parameters with the comparison protocol that one of the two insists on, or else this
/// party's: it is at the end of the connection on which rounds wait.
fn agree(opener: &SessionOpener, hello: &PartyHello) -> Result<SessionParameters, ServingError> {
    let asked = hello.parameters.comparison;
    let ours = opener.parameters.comparison;
    let comparison = if hello.any_comparison || opener.insists_on_comparison {
        ours
    } else {
        asked
    };
    let parameters = opener.parameters.clone().with_comparison(comparison);
    let theirs = if hello.any_comparison {
        comparison
    } else {
        asked
    };
    parameters.check(&hello.parameters.clone().with_comparison(theirs))?;
    Ok(parameters)
}

async fn ready(State(party): State<Arc<Party>>) -> Result<&'static str, HttpError> {
    service::check_running("computing party", &party.sessions)?;
    let look = move || {
        let opener = party.opener.current();
        has_space(opener.state.folder())?;
        Ok::<_, &'static str>(party.opener.look(&opener.server, &opener.parameters))
    };
    match tokio::task::spawn_blocking(look)
        .await
        .map(|found| found.map_err(web::not_ready))
    {
        Ok(Err(no_space)) => Err(no_space),
        Ok(Ok(Found::Ready)) => Ok("ready"),
        Ok(Ok(Found::Changed)) => Err(partition_changed()),
        _ => Err(web::not_ready("the server is not ready")),
    }
}

async fn party_upgrade(State(party): State<Arc<Party>>, request: Request) -> Response {
    let guest = match party.lobby.enter(web::address_of(request.extensions())) {
        Ok(guest) => guest,
        Err(refused) => return service::refuse(&party.metrics, refused),
    };
    let turn = Turn::new(guest, &party.sessions);
    let metrics = party.metrics.clone();
    let id = web::id_of(request.extensions());
    service::session(request, &metrics, move |channel, count| {
        party
            .session(channel, turn, &id)
            .inspect(|()| service::say_ended(count))
    })
}
