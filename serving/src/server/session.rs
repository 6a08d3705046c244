//! One session of a client: E1 on a thread of its own.

use std::time::Duration;

use marill_mpc::{Seed, ServerSession};
use marill_net::{Channel, SharedChannel, WebSocketChannel};
use zeroize::{Zeroize, Zeroizing};

use super::Server;
use crate::ServingError;
use crate::metrics::Metrics;
use crate::wire::{ClientHello, Reply, ServerWelcome, SourceHello, Step, recv_json, recv_reply, send_json, unhex};

const CLIENT: &str = "client";
const DEALER: &str = "dealer";
/// The masked adapter travels in frames of this size.
const PIECE_BYTES: usize = 1 << 20;
/// The longest silence of the dealer within a step.
const DEALER_TIMEOUT: Duration = Duration::from_secs(60);

/// Greets the client, fetches the session from the dealer, then serves steps until the client ends it or is lost.
pub(super) fn run(server: &Server, channel: WebSocketChannel) -> Result<(), ServingError> {
    let mut client = SharedChannel::new(channel);
    let result = open(server, &mut client).and_then(|(source, mut session)| {
        let result = serve(server, &mut client, source.clone(), &mut session);
        // The dealer's own words tell more than the broken stream.
        let mut source = source;
        let _ = source.send(Step::End.encode());
        result
    });
    let reason = result.as_ref().err().map_or(String::new(), |error| format!("server: {error}"));
    client.lock().close(&reason);
    result
}

type Source = SharedChannel<WebSocketChannel>;

fn open(server: &Server, client: &mut Source) -> Result<(Source, ServerSession), ServingError> {
    match greet(server, client) {
        Ok(opened) => Ok(opened),
        Err(error) => {
            Metrics::add(&server.metrics.sessions_refused, 1);
            let code = if error.is_peer() { "dealer" } else { "session" };
            let refusal = Reply::<()>::Refused { code: code.into(), message: error.to_string() };
            let _ = send_json(client, &refusal);
            Err(error)
        }
    }
}

fn greet(server: &Server, client: &mut Source) -> Result<(Source, ServerSession), ServingError> {
    let hello: ClientHello = recv_json(client, CLIENT)?;
    let model = &server.model;
    model.terms.check(&hello.terms)?;
    if unhex::<16>(&hello.session).is_none() {
        return Err(ServingError::BadMessage { peer: CLIENT, reason: "the session is not hexadecimal".into() });
    }
    server.ledger.claim("e1", &hello.session)?;

    let mut source =
        SharedChannel::new(server.dealer.websocket("/v1/source", DEALER_TIMEOUT).map_err(ServingError::net(DEALER))?);
    let (adapter_seed, seed1) = claim(server, &mut source, hello.session)?;

    let masked = model.private.mask(&model.spec, &adapter_seed);
    let adapter_sha256 = masked.digest();
    let bytes = match hello.adapter_sha256 == Some(adapter_sha256.clone()) {
        true => Vec::new(),
        false => masked.to_bytes(),
    };
    let welcome = ServerWelcome { terms: model.terms.clone(), adapter_sha256, adapter_bytes: bytes.len() as u64 };
    send_json(client, &Reply::Welcome(welcome)).map_err(ServingError::net(CLIENT))?;
    for piece in bytes.chunks(PIECE_BYTES) {
        client.send(piece.to_vec()).map_err(ServingError::net(CLIENT))?;
    }
    let (peer, corrections) = (Box::new(client.clone()), Box::new(source.clone()));
    let session = ServerSession::new(model.public.clone(), &model.private, seed1, peer, corrections)?;
    Ok((source, session))
}

/// Takes this session's seeds from the dealer: the adapter mask's, then E1's.
fn claim(server: &Server, source: &mut Source, session: String) -> Result<(Seed, Seed), ServingError> {
    let model = &server.model;
    let hello = SourceHello {
        terms: model.terms.clone(),
        session,
        spec: model.spec.clone(),
        private_sha256: model.private_sha256.clone(),
    };
    send_json(source, &hello).map_err(ServingError::net(DEALER))?;
    recv_reply::<()>(source, DEALER)?;
    let frame = Zeroizing::new(source.recv().map_err(ServingError::net(DEALER))?);
    let (Some(mut seed1), Some(mut adapter), 64) = (half(&frame, 0), half(&frame, 1), frame.len()) else {
        return Err(ServingError::BadMessage { peer: DEALER, reason: "the seeds are not 64 bytes".into() });
    };
    let seeds = (Seed::from_bytes(adapter), Seed::from_bytes(seed1));
    seed1.zeroize();
    adapter.zeroize();
    Ok(seeds)
}

fn half(frame: &[u8], index: usize) -> Option<[u8; 32]> {
    frame.get(32 * index..32 * (index + 1))?.try_into().ok()
}

fn serve(
    server: &Server,
    client: &mut Source,
    mut source: Source,
    session: &mut ServerSession,
) -> Result<(), ServingError> {
    let spec = &server.model.spec;
    let bad = |reason: String| ServingError::BadMessage { peer: CLIENT, reason };
    let mut positions = 0;
    loop {
        let frame = client.recv().map_err(ServingError::net(CLIENT))?;
        let step = Step::parse(&frame).map_err(bad)?;
        positions += match step {
            Step::End => return Ok(()),
            Step::Prefill { bucket } if positions == 0 && spec.bucket(bucket) == bucket => bucket,
            Step::Prefill { bucket } => return Err(bad(format!("a prefill of {bucket} is not possible now"))),
            Step::Decode if positions > 0 => 1,
            Step::Decode => return Err(bad("a decode before the prefill".into())),
        };
        if positions > spec.max_positions {
            return Err(bad(format!("more than {} positions", spec.max_positions)));
        }
        source.send(frame).map_err(ServingError::net(DEALER))?;
        match step {
            Step::Prefill { bucket } => session.prefill(bucket)?,
            _ => session.decode()?,
        }
        Metrics::add(&server.metrics.steps, 1);
    }
}
