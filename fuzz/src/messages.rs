//! What parties say to each other around the protocol.

use std::sync::LazyLock;

use marill_mpc::{MaskedAdapter, random_model::tiny_spec};
use marill_net::{Channel, Endpoint, memory_pair};
use marill_serving::{
    messages::{
        ClientHello, CorrectionsHello, DcfKeysHello, InputHello, PartyHello, ServerWelcome, Step,
        encode_turn, parse_turn, recv_hello, recv_json, recv_reply,
    },
    ticket::{Signer, Ticket},
};

use crate::corpus;

/// The announcement of a step, five bytes, or of a turn's name, or a refusal; written as it was
/// read.
pub fn step(bytes: &[u8]) {
    if let Ok(step) = Step::parse(bytes) {
        assert_eq!(step.encode(), bytes, "{step:?} has two spellings");
    }
    if let Ok(Some(turn)) = parse_turn(bytes) {
        assert_eq!(encode_turn(&turn), bytes, "{turn} has two spellings");
    }
}

/// The first frame of every kind of line.
pub fn handshake(bytes: &[u8]) {
    let frame = |read: &dyn Fn(&mut dyn Channel)| {
        let (mut far, mut near) = memory_pair();
        far.send(bytes.to_vec()).expect("both ends are here");
        drop(far);
        read(&mut near);
    };
    frame(&|near| drop(recv_hello::<ClientHello>(near, "client")));
    frame(&|near| drop(recv_hello::<PartyHello>(near, "client")));
    frame(&|near| drop(recv_hello::<InputHello>(near, "client")));
    frame(&|near| drop(recv_json::<DcfKeysHello>(near, "client")));
    frame(&|near| drop(recv_reply::<ServerWelcome>(near, "server")));
    frame(&|near| {
        // The dealer computes with the program that a server names: what it takes must be bounded.
        if let Ok(hello) = recv_hello::<CorrectionsHello>(near, "server") {
            let _ = hello.parameters.check_program(&hello.spec);
            let _ = hello.spec.validate();
        }
    });
}

/// A ticket that the server did not sign is nobody's.
pub fn ticket(bytes: &[u8]) {
    static SIGNER: LazyLock<Signer> = LazyLock::new(|| Signer::new(corpus::OWNER_KEY));
    let Ok(ticket) = serde_json::from_slice::<Ticket>(bytes) else {
        return;
    };
    if SIGNER.signed(&ticket) {
        assert!(corpus::issued(&ticket), "a forged ticket was accepted");
    }
    let _ = SIGNER.is_for(&ticket, "client");
}

/// The address of a service, as a person or a peer gives it.
pub fn endpoint(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        let again = endpoint.to_string().parse::<Endpoint>();
        assert_eq!(again.expect("what is printed can be read"), endpoint);
        let _ = (endpoint.is_here(), endpoint.authority());
    }
}

/// The download of a masked adapter: the size of the program's shapes or a refusal.
pub fn masked_adapter(bytes: &[u8]) {
    let spec = tiny_spec();
    if let Ok(adapter) = MaskedAdapter::from_bytes(&spec, bytes) {
        assert_eq!(adapter.to_bytes(), bytes);
    }
}
