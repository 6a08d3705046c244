//! One session of a server at the dealer.

use std::time::Instant;

use marill_mpc::{
    Comparison, DealerSession, PrivateProducts, ProgramSpec, ProtocolError, Seed,
    spec::MAX_POSITIONS,
};
use marill_net::{Channel, SharedChannel, WebSocketChannel, peer_text};
use marill_numeric::unhex;
use tracing::Span;
use zeroize::Zeroizing;

use crate::{
    dealer::{Dealer, grants::Seeds, masks::MaskScope, owners::Owner},
    error::{ServingError, SessionError, StateError},
    messages::{CorrectionsHello, Reply, Step, hash_key, recv_hello, send_json},
    pace::Pace,
    slots::HeldSlot,
};

const SERVER: &str = "server";
/// Shakes hands with the server, then produces the corrections of each step and, early, those of
/// the next.
pub(super) fn run(
    dealer: &Dealer,
    owner: &Owner,
    channel: WebSocketChannel,
    mut held: HeldSlot,
) -> Result<(), ServingError> {
    let mut channel = SharedChannel::new(channel);
    let mut session = match open(dealer, owner, &mut channel) {
        Ok(session) => session,
        Err(error) => {
            dealer.metrics.refuse(error.refusal_code(SERVER));
            let _ = send_json(&mut channel, &Reply::<()>::refused(&error, SERVER));
            return Err(error);
        }
    };
    tracing::info!("a session begins");
    let result = stream(dealer, &mut channel, &mut session, &mut held);
    channel
        .lock()
        .close(&result.as_ref().err().map_or(String::new(), |error| {
            format!("dealer: {}", error.for_peer())
        }));
    result
}

fn open(
    dealer: &Dealer,
    owner: &Owner,
    channel: &mut SharedChannel<WebSocketChannel>,
) -> Result<DealerSession, ServingError> {
    let hello: CorrectionsHello = recv_hello(channel, SERVER)?;
    channel.lock().handshake_done();
    let bad = |reason: &str| SessionError::BadMessage {
        peer: SERVER,
        reason: reason.into(),
    };
    if unhex::<16>(&hello.session).is_none() || unhex::<32>(&hello.private_sha256).is_none() {
        return Err(bad("a session or a digest is not hexadecimal").into());
    }
    let grant = dealer
        .grants
        .redeem(&hello.session, &owner.name, &hello.proof)?;
    let Seeds::Live { seed0, seed1 } = grant.seeds else {
        return Err(StateError::SessionUsed {
            session: hello.session,
        }
        .into());
    };
    let span = Span::current();
    let partition = peer_text(&grant.parameters.partition_id);
    span.record("partition", partition.as_str());
    span.record("session", hello.session.as_str());
    grant.parameters.check(&hello.parameters)?;
    grant
        .parameters
        .check_program(&hello.spec)
        .map_err(|reason| SessionError::BadMessage {
            peer: SERVER,
            reason,
        })?;
    hello.spec.validate()?;
    let frames = dealer.key_connections.take(&hello.session);
    if frames.is_some() != (grant.parameters.comparison == Comparison::Dcf) {
        return Err(bad("nothing receives this session's DCF keys").into());
    }
    dealer.records.claim("e1", &hello.session)?;
    // One mask hides full-rank weights from all clients alike, whose views together are then the
    // view of one.
    let principal = if hello.spec.is_full_rank() {
        MaskScope::AllClients
    } else {
        MaskScope::Client(&grant.client_id)
    };
    let adapter_seed = dealer
        .masks
        .seed(&owner.name, &principal, &hello.private_sha256);

    send_json(channel, &Reply::Welcome(())).map_err(SessionError::net(SERVER))?;
    channel
        .send(both(&seed1, &adapter_seed))
        .map_err(SessionError::net(SERVER))?;
    let sink = Box::new(channel.clone());
    let products = grant.parameters.private_products;
    let seeds = [adapter_seed, seed0, seed1];
    let session = masks_of(dealer, products, hello.spec, seeds, sink)
        .with_selection(hello.selection)
        .with_hash_key(&hash_key(&hello.session));
    let session = match frames {
        Some(frames) => session.with_dcf(frames),
        None => session,
    };
    Ok(if grant.parameters.is_shared() {
        session.with_shared_io()
    } else {
        session
    })
}

/// The dealer's side of a program, with masks of the adapter where private products take some.
fn masks_of(
    dealer: &Dealer,
    products: PrivateProducts,
    spec: ProgramSpec,
    [adapter_seed, seed0, seed1]: [Seed; 3],
    sink: Box<dyn Channel>,
) -> DealerSession {
    match products {
        PrivateProducts::Lattice => DealerSession::without_adapter(spec, [seed0, seed1], sink),
        PrivateProducts::Masks => {
            let matrices = dealer.masks.expanded(&spec, &adapter_seed);
            DealerSession::with_masks(spec, &adapter_seed, matrices, [seed0, seed1], sink)
        }
    }
}

/// After each announced step the corrections of one further decode are written: the dealer never
/// runs further than that, and it waits where the server does not read. What is not used at the end
/// is never used.
fn stream(
    dealer: &Dealer,
    channel: &mut SharedChannel<WebSocketChannel>,
    session: &mut DealerSession,
    held: &mut HeldSlot,
) -> Result<(), ServingError> {
    // Rows that were written early, and how that went.
    let mut early: Option<(usize, Result<(), ProtocolError>)> = None;
    let mut pace = Pace::start(channel);
    loop {
        let frame = channel.recv().map_err(SessionError::net(SERVER))?;
        let bad = |reason| SessionError::BadMessage {
            peer: SERVER,
            reason,
        };
        let step = Step::parse(&frame).map_err(bad)?;
        if matches!((step, &early), (Step::Wait, Some(_))) {
            match rest(dealer, channel, (&mut pace, &mut *held))? {
                true => continue,
                false => return Ok(()),
            }
        }
        // What comes behind this step is written before it is announced.
        let next = match step {
            Step::DecodeBefore { rows } => rows,
            _ => 1,
        };
        if step.rows().max(next) > MAX_POSITIONS {
            return Err(bad(format!("a step of more than {MAX_POSITIONS} rows")).into());
        }
        pace.step(step.rows() + next);
        let began = Instant::now();
        match (step, early.take()) {
            (Step::End, _) => return Ok(()),
            (Step::Prefill { bucket }, None) => session.prefill(bucket)?,
            (Step::Prefill { .. }, Some(_)) => return Err(bad("a second prefill".into()).into()),
            (Step::Prepare { .. }, _) => {
                return Err(bad("a preparation, where this dealer makes all".into()).into());
            }
            (_, None) => return Err(bad("a decode before the prefill".into()).into()),
            (_, Some((rows, done))) if rows == step.rows() => done?,
            (_, Some((rows, _))) => {
                let reason = format!("a step of {} rows in place of {rows}", step.rows());
                return Err(bad(reason).into());
            }
        }
        dealer.metrics.stepped(step.is_prompt(), began.elapsed());
        early = Some((next, session.extend(next)));
        pace.pause();
    }
}

/// Between two turns of a conversation: without a slot. `false`: the session ends.
fn rest(
    dealer: &Dealer,
    channel: &SharedChannel<WebSocketChannel>,
    (pace, held): (&mut Pace, &mut HeldSlot),
) -> Result<bool, ServingError> {
    held.release();
    let left = pace.rest(dealer.kept.keeping().time);
    // Nothing is under way that could fail.
    let more = dealer.kept.wait(channel, None).unwrap_or(false);
    if more {
        tracing::info!("a session goes on");
        held.hold("dealer")?;
        pace.resume(left);
    }
    Ok(more)
}

/// The frame of seeds for E1, which the channel takes over as it is.
fn both(seed1: &Seed, adapter: &Seed) -> Vec<u8> {
    [seed1, adapter]
        .iter()
        .flat_map(|seed| *Zeroizing::new(seed.to_bytes()))
        .collect()
}
