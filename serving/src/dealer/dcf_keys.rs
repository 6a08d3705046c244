//! Connections to E0 in DCF sessions: the keys go to both evaluators.
//!
//! E0 opens its connection before its handshake with the server, so that it is there when the
//! server asks for corrections. A connection is a thread of its own that passes on what the
//! session's thread produces, a few frames early at most: a slow E0 slows the session down and
//! holds nothing else up.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
};

use marill_mpc::Comparison;
use marill_net::{Channel, NetError, SharedChannel, WebSocketChannel};
use sha2::{Digest, Sha256};

use crate::{
    dealer::{Dealer, grants::GRANT_LIFETIME},
    error::{ServingError, SessionError},
    messages::{DcfKeysHello, Reply, dcf_keys_proof, recv_json, send_json},
    slots::{Guest, SessionSlot},
};

const CLIENT: &str = "client";
/// Frames of half a mebibyte that wait for E0.
const FRAMES_QUEUED: usize = 8;

/// Lines whose session has not begun.
#[derive(Default)]
pub(super) struct KeyConnections(Mutex<HashMap<String, SyncSender<Vec<u8>>>>);

impl KeyConnections {
    fn add(&self, session: &str) -> Receiver<Vec<u8>> {
        let (sender, receiver) = sync_channel(FRAMES_QUEUED);
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(session.into(), sender);
        receiver
    }

    /// The connection of a session, for its corrections.
    pub(super) fn take(&self, session: &str) -> Option<Box<dyn Channel>> {
        let connection = self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(session);
        connection.map(|connection| Box::new(KeySink(connection)) as Box<dyn Channel>)
    }
}

/// The session's end of a connection.
struct KeySink(SyncSender<Vec<u8>>);

impl Channel for KeySink {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.0.send(frame).map_err(|_| NetError::Closed)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        Err(NetError::Protocol(
            "DCF keys flow from the dealer only".into(),
        ))
    }
}

/// Checks whose connection it is, then passes keys on until the session ends.
pub(super) fn run(
    dealer: &Dealer,
    channel: WebSocketChannel,
    guest: Guest,
) -> Result<(), ServingError> {
    let mut channel = SharedChannel::new(channel);
    let (session, frames, _slot) = match open(dealer, &mut channel, guest) {
        Ok(opened) => opened,
        Err(error) => {
            dealer.metrics.refuse(error.refusal_code(CLIENT));
            let _ = send_json(&mut channel, &Reply::<()>::refused(&error, CLIENT));
            return Err(error);
        }
    };
    let mut first = true;
    let result = loop {
        let frame = if first {
            frames.recv_timeout(GRANT_LIFETIME)
        } else {
            frames.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match frame {
            Ok(frame) => match pass_on(&mut channel, frame) {
                Ok(()) => first = false,
                Err(error) => break Err(error.into()),
            },
            Err(RecvTimeoutError::Timeout) => {
                let session = session.clone();
                break Err(ServingError::from(SessionError::NoSession { session }));
            }
            Err(RecvTimeoutError::Disconnected) => break Ok(()),
        }
    };
    // A session that never began leaves its connection here.
    drop(dealer.key_connections.take(&session));
    channel
        .lock()
        .close(&result.as_ref().err().map_or(String::new(), |error| {
            format!("dealer: {}", error.for_peer())
        }));
    result
}

/// Sends keys to E0, which has nothing more to say here.
fn pass_on(
    channel: &mut SharedChannel<WebSocketChannel>,
    frame: Vec<u8>,
) -> Result<(), SessionError> {
    if channel
        .lock()
        .check_open()
        .map_err(SessionError::net(CLIENT))?
    {
        return Err(SessionError::BadMessage {
            peer: CLIENT,
            reason: "DCF keys flow from the dealer only".into(),
        });
    }
    channel.send(frame).map_err(SessionError::net(CLIENT))
}

fn open(
    dealer: &Dealer,
    channel: &mut SharedChannel<WebSocketChannel>,
    guest: Guest,
) -> Result<(String, Receiver<Vec<u8>>, SessionSlot), ServingError> {
    let hello: DcfKeysHello = recv_json(channel, CLIENT)?;
    channel.lock().handshake_done();
    let unknown = || SessionError::NoSession {
        session: hello.session.clone(),
    };
    let (comparison, key) = dealer.grants.granted(&hello.session).ok_or_else(unknown)?;
    // Digests are compared, so the time taken says nothing about the key.
    if Sha256::digest(hello.key.as_bytes()) != Sha256::digest(dcf_keys_proof(&key).as_bytes()) {
        return Err(unknown().into());
    }
    if comparison != Comparison::Dcf {
        return Err(SessionError::BadMessage {
            peer: CLIENT,
            reason: "a one-hot session has no DCF keys".into(),
        }
        .into());
    }
    let full = SessionError::refused_by("dealer");
    let slot = dealer.key_slots.admit().map_err(full)?;
    drop(guest);
    let frames = dealer.key_connections.add(&hello.session);
    if let Err(error) = send_json(channel, &Reply::Welcome(())) {
        drop(dealer.key_connections.take(&hello.session));
        return Err(SessionError::net(CLIENT)(error).into());
    }
    Ok((hello.session, frames, slot))
}
