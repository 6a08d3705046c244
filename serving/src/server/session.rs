//! One session of a client: E1 on a thread of its own.

mod source;
mod turns;

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use marill_mpc::{
    AdapterKey, Comparison, Extension, Seed, Selection, ServerSession, TwoParty, two_party::BaseId,
};
use marill_net::{Channel, RequestId, SharedChannel, WebSocketChannel};
use marill_numeric::unhex;
use tracing::Span;
use zeroize::{Zeroize, Zeroizing};

use self::{source::CorrelationSource, turns::Turns};
use crate::{
    error::{PreprocessingError, ServingError, SessionError, StateError, refused},
    messages::{
        ClientHello, CorrectionsHello, NewRelease, Release, Reply, ServerWelcome, Step, hash_key,
        recv_hello, recv_input_share, recv_reply, send_granted, send_json, send_token_share,
    },
    metrics::Metrics,
    pace::Pace,
    server::{SecureModel, Server, charging::Charging, input::Announced, masked::ClientPart},
    set_ups::say_origin,
    slots::{HeldSlot, Turn},
    state::Principal,
    terms::{Correlations, SessionParameters, agreed_set},
};

const CLIENT: &str = "client";
const DEALER: &str = "dealer";
/// The WebSocket's code for an end without a fault of the protocol.
const CLOSE_NORMAL: u16 = 1000;
/// The longest silence of the dealer within a step.
const DEALER_TIMEOUT: Duration = Duration::from_secs(60);

/// Shakes hands with the client, fetches the session from the dealer, then serves steps until the
/// client ends it or is lost.
pub(super) fn run(
    server: &Server,
    channel: WebSocketChannel,
    principal: Option<Principal>,
    turn: Turn,
    id: &RequestId,
) -> Result<(), ServingError> {
    let mut client = SharedChannel::new(channel);
    let mut input = None;
    let began = Instant::now();
    let mut held = HeldSlot::new(turn);
    let opened = open(server, &mut client, principal.as_ref(), &mut held, id);
    let result = opened.and_then(|(mut source, mut session, waiting, mut turns)| {
        server.metrics.opened(began.elapsed());
        tracing::info!("a session begins");
        let mut pace = Pace::start(&client);
        let result =
            match waiting {
                None => serve(
                    server,
                    &mut client,
                    &mut source,
                    &mut session,
                    (&mut pace, &mut held, &mut turns),
                    principal.as_ref(),
                ),
                Some(announced) => announced.wait(&client).map_err(Into::into).and_then(
                    |(connection, principal)| {
                        let connection = input.insert(connection);
                        pace.with(connection);
                        serve(
                            server,
                            connection,
                            &mut source,
                            &mut session,
                            (&mut pace, &mut held, &mut turns),
                            principal.as_ref(),
                        )
                    },
                ),
            };
        source.end();
        result
    });
    let reason = result.as_ref().err().map_or(String::new(), |error| {
        format!("server: {}", error.for_peer())
    });
    let code = result
        .as_ref()
        .err()
        .map_or(CLOSE_NORMAL, ServingError::close_code);
    for connection in input.iter().chain([&client]) {
        connection.lock().close_with(code, &reason);
    }
    result
}

type Connection = SharedChannel<WebSocketChannel>;
/// Where the client is not E0, its connection is waited for.
type Waiting<'a> = Option<Announced<'a>>;
/// A session that stands.
type Opened<'a> = (CorrelationSource, E1, Waiting<'a>, Turns);

/// E1, with E0 as the client or with inputs and outputs in shares.
enum E1 {
    Own(Box<ServerSession>),
    Shared(Box<ServerSession>),
    TwoParty(Box<ServerSession<TwoParty>>),
}

impl E1 {
    /// Runs a step that `client` announced.
    fn step(
        &mut self,
        step: Step,
        client: &mut Connection,
        width: usize,
    ) -> Result<(), SessionError> {
        let token = match (self, step) {
            (Self::Own(session), Step::Prefill { bucket }) => return Ok(session.prefill(bucket)?),
            (Self::Own(session), Step::Extend { rows }) => return Ok(session.extend(rows)?),
            (Self::Own(session), _) => return Ok(session.decode()?),
            (Self::TwoParty(session), Step::Prefill { bucket }) => {
                return Ok(session.prefill(bucket)?);
            }
            (Self::TwoParty(session), Step::Extend { rows }) => return Ok(session.extend(rows)?),
            (Self::TwoParty(session), _) => return Ok(session.decode()?),
            (Self::Shared(session), Step::Prefill { bucket }) => {
                session.prefill_shared(&recv_input_share(client, CLIENT, step, width)?, bucket)?
            }
            (Self::Shared(session), _) => {
                session.decode_shared(&recv_input_share(client, CLIENT, step, width)?)?
            }
        };
        send_token_share(client, CLIENT, token)
    }

    /// Keeps what the next session with this client can use again, behind the first step.
    fn keep_set_up(&mut self, server: &Server, principal: Option<&Principal>) {
        if let Self::TwoParty(session) = self
            && let Some(set_up) = session.take_set_up()
        {
            server.set_ups.keep(&server.owner(principal), &set_up);
        }
    }
}

fn open<'a>(
    server: &'a Server,
    client: &mut Connection,
    principal: Option<&Principal>,
    held: &mut HeldSlot,
    id: &RequestId,
) -> Result<Opened<'a>, ServingError> {
    match handshake(server, client, principal, held, id) {
        Ok(opened) => Ok(opened),
        Err(error) => {
            server.metrics.refuse(error.refusal_code(CLIENT));
            let _ = send_json(client, &Reply::<()>::refused(&error, CLIENT));
            Err(error)
        }
    }
}

fn handshake<'a>(
    server: &'a Server,
    client: &mut Connection,
    principal: Option<&Principal>,
    held: &mut HeldSlot,
    id: &RequestId,
) -> Result<Opened<'a>, ServingError> {
    let hello: ClientHello = recv_hello(client, CLIENT)?;
    client.lock().handshake_done();
    held.hold("server")?;
    Metrics::add(&server.metrics.sessions_started, 1);
    server.start_session(principal)?;
    // The adapter may have to be made and sent.
    let mut pace = Pace::start(client);
    let parameters = agree(&server.model, &hello)?;
    Span::current().record("session", hello.session.as_str());
    let turns = Turns::new(&parameters.partition_id, &hello.session);
    if parameters.is_two_party() {
        let session = two_party(server, client, parameters, &hello, principal)?;
        return Ok((CorrelationSource::None { prepaid: 0 }, session, None, turns));
    }

    // Both ask the dealer, who knows this client by its proof, before anything is used up or
    // written down here.
    let selection = Selection::of(hello.sampling);
    let (source, corrections, [adapter_seed, seed1]) = match hello.correlations {
        Correlations::Live => live(server, &parameters, &hello, selection, id)?,
        Correlations::Preprocessed => {
            preprocessed(server, &parameters, &hello, selection, principal, id)?
        }
        Correlations::None => return Err(wrong_correlations(&hello).into()),
    };

    let has = hello.adapter_sha256.as_deref();
    let ClientPart {
        digest: adapter_sha256,
        sending,
        key,
    } = server
        .masked
        .of(&server.model, &adapter_seed, has, principal)?;
    let adapter_bytes = sending.as_ref().map_or(0, |sending| sending.bytes);
    // Before the computing party can tell the client.
    let waiting = server.model.parameters.is_shared().then(|| {
        server
            .inputs
            .expect(&hello.session, parameters.comparison, hello.sampling)
    });
    let welcome = ServerWelcome {
        parameters,
        adapter_sha256,
        adapter_bytes,
        lpn_set: None,
        keeps_set_up: false,
        names_turns: true,
    };
    send_json(client, &Reply::Welcome(welcome)).map_err(SessionError::net(CLIENT))?;
    if let Some(sending) = sending {
        pace.earn(sending.bytes);
        sending.send(client)?;
    }
    let held = (corrections, key);
    let session = evaluator(&server.model, client, &hello, held, seed1)?;
    Ok((source, session, waiting, turns))
}

/// A session without correlations where there is a dealer, or one with them where there is none.
fn wrong_correlations(hello: &ClientHello) -> SessionError {
    SessionError::BadMessage {
        peer: CLIENT,
        reason: format!(
            "correlations `{}` in the setting `{}`",
            hello.correlations.as_str(),
            hello.parameters.setting
        ),
    }
}

/// A session of client and server alone: behind the welcome they make base transfers, or use those
/// that both kept.
fn two_party(
    server: &Server,
    client: &mut Connection,
    parameters: SessionParameters,
    hello: &ClientHello,
    principal: Option<&Principal>,
) -> Result<E1, ServingError> {
    let model = &server.model;
    if hello.correlations != Correlations::None {
        return Err(wrong_correlations(hello).into());
    }
    TwoParty::check(&model.spec, hello.sampling).map_err(SessionError::from)?;
    let set = agreed_set(model.lpn_set()?, &hello.lpn_sets);
    let welcome = ServerWelcome {
        parameters,
        adapter_sha256: String::new(),
        adapter_bytes: 0,
        lpn_set: Some(set.name().into()),
        keeps_set_up: hello.keeps_set_up && server.set_ups.keeps(),
        names_turns: true,
    };
    let keeps = welcome.keeps_set_up;
    let extension = Extension::Silent(set);
    send_json(client, &Reply::Welcome(welcome)).map_err(SessionError::net(CLIENT))?;
    let peer = Box::new(client.clone());
    let public = model.public.clone();
    let private = model.private.clone();
    let session = match keeps {
        false => ServerSession::without_dealer(public, private, peer, extension),
        true => {
            let owner = server.owner(principal);
            let find = |name: &BaseId| server.set_ups.find(&owner, Some(name));
            let session = ServerSession::with_kept(public, private, peer, extension, find);
            session.map(|(session, origin)| {
                say_origin(origin);
                session
            })
        }
    };
    let session = session.map_err(SessionError::from)?;
    Ok(E1::TwoParty(Box::new(
        session.with_sampling(hello.sampling).preparing_when_asked(),
    )))
}

/// The session's parameters, where this server offers what the client asks for.
fn agree(model: &SecureModel, hello: &ClientHello) -> Result<SessionParameters, SessionError> {
    let comparison = hello.parameters.comparison;
    let reason = match (comparison, hello.correlations) {
        (Comparison::Dcf, _) if !model.comparisons().contains(&comparison) => {
            Some("this server accepts one-hot only")
        }
        (Comparison::Dcf, Correlations::Preprocessed) => {
            Some("preprocessed correlations are one-hot")
        }
        _ => None,
    };
    if let Some(reason) = reason {
        return Err(SessionError::NoDcf { reason });
    }
    let parameters = model.parameters.clone().with_comparison(comparison);
    parameters.check(&hello.parameters)?;
    if unhex::<16>(&hello.session).is_none() {
        return Err(SessionError::BadMessage {
            peer: CLIENT,
            reason: "the session is not hexadecimal".into(),
        });
    }
    if hello.sampling.is_some() && !model.allow_sampling {
        return Err(SessionError::GreedyOnly);
    }
    Ok(parameters)
}

/// E1 of a session that stands.
fn evaluator(
    model: &SecureModel,
    client: &Connection,
    hello: &ClientHello,
    (corrections, key): (Box<dyn Channel>, Option<Arc<AdapterKey>>),
    seed1: Seed,
) -> Result<E1, ServingError> {
    let peer = Box::new(client.clone());
    let session = ServerSession::new(
        model.public.clone(),
        &model.private,
        seed1,
        peer,
        corrections,
    )?;
    let session = match key {
        Some(key) => session.with_adapter_key(key),
        None => session,
    };
    let session = session
        .with_sampling(hello.sampling)
        .with_comparison(hello.parameters.comparison)
        .with_hash_key(&hash_key(&hello.session));
    Ok(match model.parameters.is_shared() {
        false => E1::Own(Box::new(session)),
        true => E1::Shared(Box::new(session.with_shared_io())),
    })
}

type Dealt = (CorrelationSource, Box<dyn Channel>, [Seed; 2]);

fn live(
    server: &Server,
    parameters: &SessionParameters,
    hello: &ClientHello,
    selection: Selection,
    id: &RequestId,
) -> Result<Dealt, ServingError> {
    let connection = server
        .dealt()?
        .dealer
        .clone()
        .named(id)
        .websocket("/v1/corrections", DEALER_TIMEOUT)
        .map_err(SessionError::net(DEALER))?;
    let mut connection = SharedChannel::new(connection);
    let seeds = claim(server, &mut connection, parameters, hello, selection)?;
    Ok((
        CorrelationSource::Live(connection.clone()),
        Box::new(connection),
        seeds,
    ))
}

/// The file is found, the prompt is paid for, the dealer gives its word and what opens the file,
/// the session is recorded: in this order, so that a client who has not proved to be the session's,
/// or cannot pay, uses no file up.
fn preprocessed(
    server: &Server,
    parameters: &SessionParameters,
    hello: &ClientHello,
    selection: Selection,
    principal: Option<&Principal>,
    id: &RequestId,
) -> Result<Dealt, ServingError> {
    let session = &hello.session;
    let store = server
        .store
        .as_ref()
        .ok_or_else(|| PreprocessingError::NoFile {
            session: session.clone(),
        })?;
    if server.state.is_claimed("e1", session)? {
        return Err(StateError::SessionUsed {
            session: session.clone(),
        }
        .into());
    }
    let found = store.find(
        session,
        &server.model.parameters,
        &server.model.private_sha256,
        selection,
    )?;
    let bucket = found.bucket();
    if let Some(principal) = principal {
        server
            .state
            .charge(principal, bucket as u64, SystemTime::now())?
            .map_err(SessionError::Quota)?;
    }
    let release = match release(server, parameters, hello, id) {
        Ok(release) => release,
        Err(error) => {
            // Nothing was used up, so nothing is owed.
            if let Some(principal) = principal {
                server.state.refund(principal, bucket as u64)?;
            }
            return Err(error.into());
        }
    };
    server.state.claim("e1", session)?;
    let mut file = store.take(found, &release)?;
    let source = CorrelationSource::Preprocessed {
        bucket,
        tokens_left: file.header.tokens,
        prompt_paid: true,
    };
    let seeds = parse_seeds(Zeroizing::new(
        file.recv().map_err(SessionError::net("file"))?,
    ))?;
    Ok((source, Box::new(file), seeds))
}

/// The dealer's word that this session is unused and this client's.
fn release(
    server: &Server,
    parameters: &SessionParameters,
    hello: &ClientHello,
    id: &RequestId,
) -> Result<Zeroizing<[u8; 32]>, SessionError> {
    let bad = |reason: String| SessionError::BadMessage {
        peer: DEALER,
        reason,
    };
    let request = NewRelease {
        session: hello.session.clone(),
        parameters: parameters.clone(),
        proof: hello.proof.clone(),
    };
    let json = serde_json::to_vec(&request).map_err(|error| bad(error.to_string()))?;
    let answer = server
        .dealt()?
        .dealer
        .clone()
        .named(id)
        .post_json("/v1/release", &json, 1 << 16)
        .map_err(SessionError::net(DEALER))?;
    if answer.status != 200 {
        return Err(refused(DEALER, &answer));
    }
    let body = Zeroizing::new(answer.body);
    let Release { key } = serde_json::from_slice(&body).map_err(|error| bad(error.to_string()))?;
    unhex::<32>(&key)
        .map(Zeroizing::new)
        .ok_or_else(|| bad("what it releases is not 32 bytes".into()))
}

/// Takes this session's seeds from the dealer: the adapter mask's, then E1's.
fn claim(
    server: &Server,
    source: &mut Connection,
    parameters: &SessionParameters,
    hello: &ClientHello,
    selection: Selection,
) -> Result<[Seed; 2], ServingError> {
    let model = &server.model;
    let request = CorrectionsHello {
        parameters: parameters.clone(),
        session: hello.session.clone(),
        spec: model.spec.clone(),
        private_sha256: model.private_sha256.clone(),
        proof: hello.proof.clone(),
        selection,
    };
    send_json(source, &request).map_err(SessionError::net(DEALER))?;
    recv_reply::<()>(source, DEALER)?;
    server.state.claim("e1", &hello.session)?;
    let frame = Zeroizing::new(source.recv().map_err(SessionError::net(DEALER))?);
    Ok(parse_seeds(frame)?)
}

/// The adapter mask's seed and E1's, out of a frame that has them the other way round.
fn parse_seeds(frame: Zeroizing<Vec<u8>>) -> Result<[Seed; 2], SessionError> {
    let (Some(mut seed1), Some(mut adapter), 64) = (half(&frame, 0), half(&frame, 1), frame.len())
    else {
        return Err(SessionError::BadMessage {
            peer: DEALER,
            reason: "the seeds are not 64 bytes".into(),
        });
    };
    let seeds = [Seed::from_bytes(adapter), Seed::from_bytes(seed1)];
    seed1.zeroize();
    adapter.zeroize();
    Ok(seeds)
}

fn half(frame: &[u8], index: usize) -> Option<[u8; 32]> {
    frame.get(32 * index..32 * (index + 1))?.try_into().ok()
}

fn serve(
    server: &Server,
    client: &mut Connection,
    source: &mut CorrelationSource,
    session: &mut E1,
    (pace, held, turns): (&mut Pace, &mut HeldSlot, &mut Turns),
    principal: Option<&Principal>,
) -> Result<(), ServingError> {
    let spec = &server.model.spec;
    let bad = |reason: String| SessionError::BadMessage {
        peer: CLIENT,
        reason,
    };
    let mut positions = 0;
    // Whether a step came since the session rested.
    let mut stepped = false;
    let mut charging = Charging::new(&server.state, principal.cloned());
    loop {
        let step = turns.next_step(client)?;
        match step {
            Step::End => return Ok(()),
            Step::Prefill { bucket } if positions == 0 && spec.bucket(bucket) == bucket => {}
            Step::Prefill { bucket } => {
                return Err(bad(format!("a prefill of {bucket} is not possible now")).into());
            }
            _ if positions == 0 => return Err(bad("a decode before the prefill".into()).into()),
            Step::Wait if !stepped => {
                return Err(bad("a second rest without a step between".into()).into());
            }
            Step::Wait => {
                stepped = false;
                charging.settle();
                match rest(server, client, source, (pace, held))? {
                    true => turns.rested(),
                    false => return Ok(()),
                }
                continue;
            }
            Step::Prepare { steps } => {
                prepare(client, (source, session), (pace, &mut charging), steps)?;
                continue;
            }
            Step::Decode | Step::DecodeBefore { .. } | Step::Extend { .. } => {}
        }
        let rows = step.rows();
        // With those that it says will follow.
        let next = match step {
            Step::DecodeBefore { rows } => rows,
            _ => 0,
        };
        stepped = true;
        positions += rows;
        if positions.saturating_add(next) > spec.max_positions {
            return Err(bad(format!("more than {} positions", spec.max_positions)).into());
        }
        // Before the step runs: a client that goes away in the middle has used it all the same.
        charging.pay(source.owed(rows as u64))?;
        pace.step(rows);
        let began = Instant::now();
        source.announce(step)?;
        session.step(step, client, spec.hidden_size)?;
        pace.pause();
        session.keep_set_up(server, principal);
        server.metrics.stepped(step.is_prompt(), began.elapsed());
    }
}

/// Two parties make what some steps will take, as far as the client's budget goes, which pays for
/// them now: the work is done, whether they are used or not.
fn prepare(
    client: &mut Connection,
    (source, session): (&mut CorrelationSource, &mut E1),
    (pace, charging): (&mut Pace, &mut Charging),
    steps: usize,
) -> Result<(), ServingError> {
    let (E1::TwoParty(session), CorrelationSource::None { prepaid }) = (session, source) else {
        return Err(SessionError::BadMessage {
            peer: CLIENT,
            reason: "a dealer makes this session's correlations".into(),
        }
        .into());
    };
    let room = session.room_to_prepare();
    if steps > room {
        let reason = format!("{steps} steps to prepare, where there is room for {room}");
        return Err(SessionError::BadMessage {
            peer: CLIENT,
            reason,
        }
        .into());
    }
    let granted = charging.pay_up_to(steps as u64)?;
    pace.step(granted as usize);
    send_granted(client, CLIENT, granted as usize)?;
    let made = session
        .prepare(granted as usize)
        .map_err(SessionError::from)?;
    pace.pause();
    *prepaid += granted.min(made as u64);
    Ok(())
}

/// Between two turns of a conversation: without a slot. `false`: the session ends.
fn rest(
    server: &Server,
    client: &Connection,
    source: &mut CorrelationSource,
    (pace, held): (&mut Pace, &mut HeldSlot),
) -> Result<bool, ServingError> {
    if server.model.parameters.is_shared() {
        return Ok(false);
    }
    source.announce(Step::Wait)?;
    held.release();
    let left = pace.rest(server.kept.keeping().time);
    // Nothing is under way that could fail.
    let more = server.kept.wait(client, source.dealer()).unwrap_or(false);
    if more {
        held.hold("server")?;
        pace.resume(left);
    }
    Ok(more)
}
