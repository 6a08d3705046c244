//! Who may open sessions at a dealer, and how many: tickets, owners, limits, peers of another
//! version.

use std::{collections::BTreeSet, time::Duration};

use marill_mpc::Selection;
use marill_net::{Channel, http::HttpClient};
use marill_serving::{
    ServingError,
    dealer::add_owner,
    messages::{
        CorrectionsHello, NewTicket, Reply, SessionGrant, proof_of, recv_json, recv_reply,
        send_json,
    },
    terms::PROTOCOL_VERSION,
    ticket::{For, Signer, Ticket},
};
use marill_testkit::parties::World;

fn lines(world: &World, party: &str) -> usize {
    let mut out = Vec::new();
    marill_serving::state::export(&world.folder.path().join(party), &mut out).unwrap();
    String::from_utf8(out).unwrap().lines().count()
}

fn code(body: &[u8]) -> String {
    let value: serde_json::Value = serde_json::from_slice(body).unwrap();
    value["error"]["code"].as_str().unwrap().to_string()
}

#[test]
fn one_client_fills_only_its_own_places() {
    let world = World::new();
    let greedy = "ab".repeat(32);
    let before = lines(&world, "dealer");
    let mut granted = 0;
    for _ in 0..1100 {
        let answer = world.ask_with(&greedy, world.ticket(&greedy), &[]);
        match answer.status {
            200 => granted += 1,
            429 => {
                assert_eq!(code(&answer.body), "too_many_grants");
                let wait = answer.retry_after_seconds.unwrap();
                assert!(
                    (1..=61).contains(&wait),
                    "{wait}: the oldest place is free after a minute"
                );
            }
            other => panic!("{other}: {}", String::from_utf8_lossy(&answer.body)),
        }
    }
    assert!((1..=64).contains(&granted), "{granted}");
    assert_eq!(
        lines(&world, "dealer") - before,
        granted,
        "a record per grant, none per refusal"
    );
    // Others, from the same address.
    for seed in [1, 2] {
        let name = format!("other {seed}");
        let mut session = world
            .opener_at(&world.parties.server, &name)
            .open()
            .unwrap();
        assert_eq!(
            world.secure(&mut session, seed, 5, 1).0,
            world.twin(seed, 5, 1)
        );
    }
    // Many names at one address have a limit too, and an address elsewhere is not concerned.
    let key = std::fs::read_to_string(world.folder.path().join("dealer/server.key")).unwrap();
    let signer = Signer::new(key.trim());
    let from = |address: [u8; 4], id: &str| {
        world.ask_with(
            id,
            signer.issue(&For::Address(address.into()), id).unwrap(),
            &[],
        )
    };
    let statuses: BTreeSet<u16> = (0..200)
        .map(|i| from([127, 0, 0, 1], &format!("{i:064x}")).status)
        .collect();
    assert_eq!(statuses, [200, 429].into());
    assert_eq!(from([192, 0, 2, 7], &"cd".repeat(32)).status, 200);
}

#[test]
fn a_ticket_is_needed_and_buys_one_session() {
    let world = World::new();
    let id = "ab".repeat(32);
    let ticket = world.ticket(&id);
    assert_eq!(world.ask_with(&id, ticket.clone(), &[]).status, 200);
    let again = world.ask_with(&id, ticket.clone(), &[]);
    assert_eq!((again.status, &*code(&again.body)), (409, "ticket_used"));
    let forged = Ticket {
        nonce: "00".repeat(16),
        ..ticket
    };
    let refused = world.ask_with(&id, forged, &[]);
    assert_eq!(
        (refused.status, &*code(&refused.body)),
        (401, "invalid_ticket")
    );
    let stranger = Signer::new(&"77".repeat(32))
        .issue(&For::Key(&[0; 32]), &id)
        .unwrap();
    assert_eq!(world.ask_with(&id, stranger, &[]).status, 401);

    let dealer = HttpClient::new(world.parties.dealer.clone(), None);
    let body = serde_json::json!({ "terms": world.parameters, "client_id": id });
    let bare = dealer
        .post_json("/v1/sessions", body.to_string().as_bytes(), 1 << 16)
        .unwrap();
    assert!(bare.status == 400 && String::from_utf8_lossy(&bare.body).contains("ticket"));
}

/// Long digests stayed in memory for as long as a grant does.
#[test]
fn what_a_grant_keeps_has_a_length() {
    let mut world = World::new();
    let id = "ab".repeat(32);
    let parameters = world.parameters.clone();
    let long = "a".repeat(100_000);
    let fields: [fn(&mut marill_serving::terms::SessionParameters) -> &mut String; 3] = [
        |t| &mut t.partition_id,
        |t| &mut t.spec_sha256,
        |t| &mut t.public_sha256,
    ];
    for field in fields {
        world.parameters = parameters.clone();
        *field(&mut world.parameters) = long.clone();
        assert_eq!(world.ask_with(&id, world.ticket(&id), &[]).status, 400);
    }
    world.parameters = parameters;
    assert_eq!(world.ask_with(&long, world.ticket(&id), &[]).status, 400);
    let server = HttpClient::new(world.parties.server.clone(), None);
    let query = NewTicket {
        client_id: long,
        bucket: None,
        selection: Selection::Greedy,
    };
    let answer = server
        .post_json("/v1/tickets", &serde_json::to_vec(&query).unwrap(), 1 << 16)
        .unwrap();
    assert_eq!(answer.status, 400);
}

/// What another owner's server would need to read this owner's masked adapter.
#[test]
fn an_owner_gets_neither_the_sessions_nor_the_masks_of_another() {
    let world = World::new();
    let path = add_owner(&world.folder.path().join("dealer"), "second").unwrap();
    let key = std::fs::read_to_string(path).unwrap().trim().to_string();
    let second = Signer::new(&key);
    let source = |key: &str| HttpClient::new(world.parties.dealer.clone(), Some(key.into()));
    let private_sha256 = "cd".repeat(32);
    let hello = |granted: &SessionGrant| CorrectionsHello {
        parameters: world.parameters.clone(),
        session: granted.session.clone(),
        spec: world.spec.clone(),
        private_sha256: private_sha256.clone(),
        proof: proof_of(&granted.token),
        selection: Selection::Greedy,
    };
    let mask = |key: &str, granted: &SessionGrant| -> Result<Vec<u8>, ServingError> {
        let mut line = source(key)
            .websocket("/v1/corrections", Duration::from_secs(5))
            .unwrap();
        send_json(&mut line, &hello(granted)).unwrap();
        recv_reply::<()>(&mut line, "dealer")?;
        let frame = line.recv().unwrap();
        Ok(frame[32..].to_vec())
    };
    // A client of one name, once of either owner, and adapters of one digest.
    let id = "ab".repeat(32);
    let first_key = std::fs::read_to_string(world.folder.path().join("dealer/server.key")).unwrap();
    let of_second = || -> SessionGrant {
        let ticket = second.issue(&For::Key(&[1; 32]), &id).unwrap();
        serde_json::from_slice(&world.ask_with(&id, ticket, &[]).body).unwrap()
    };
    let stolen = mask(&key, &world.grant(&id, &[])).unwrap_err().to_string();
    assert!(stolen.contains("already been used"), "{stolen}");
    let ours = mask(first_key.trim(), &world.grant(&id, &[])).unwrap();
    assert_eq!(
        ours,
        mask(first_key.trim(), &world.grant(&id, &[])).unwrap(),
        "one mask a client and adapter"
    );
    let theirs = mask(&key, &of_second()).unwrap();
    assert_ne!(ours, theirs, "the mask of another owner's adapter");
    assert!(mask(first_key.trim(), &of_second()).is_err());
}

#[test]
fn a_peer_of_another_version_is_refused_by_its_version() {
    let world = World::new();
    // As version 5 did: without a proof, a ticket or a token.
    let mut parameters = serde_json::to_value(&world.parameters).unwrap();
    parameters["protocol"] = 5.into();
    let old = serde_json::json!({
        "terms": parameters, "session": "ab".repeat(16), "correlations": "live", "client_id": "ab"
    });
    let says = |text: &str| {
        let named = text.contains("`protocol`")
            && text.contains(&format!("`{PROTOCOL_VERSION}`"))
            && text.contains("`5`");
        assert!(named, "{text}");
    };
    let server = HttpClient::new(world.parties.server.clone(), None);
    let key = std::fs::read_to_string(world.folder.path().join("dealer/server.key")).unwrap();
    let dealer = HttpClient::new(world.parties.dealer.clone(), Some(key.trim().into()));
    for (service, path) in [
        (&server, "/v1/session"),
        (&server, "/v1/input"),
        (&dealer, "/v1/corrections"),
        // As servers of the version before name it.
        (&dealer, "/v1/source"),
    ] {
        let mut line = service.websocket(path, Duration::from_secs(5)).unwrap();
        send_json(&mut line, &old).unwrap();
        match recv_json::<Reply<()>>(&mut line, "service").unwrap() {
            Reply::Refused { message, .. } => says(&message),
            Reply::Welcome(()) => panic!("{path} welcomes version 5"),
        }
    }
    for path in ["/v1/sessions", "/v1/release"] {
        let answer = dealer
            .post_json(path, old.to_string().as_bytes(), 1 << 16)
            .unwrap();
        assert_eq!(answer.status, 400, "{path}");
        says(&String::from_utf8_lossy(&answer.body));
    }
}

/// Sessions that are never granted leave no line at the server either.
#[test]
fn a_server_records_no_session_that_the_dealer_does_not_know() {
    let world = World::new();
    for i in 0..20 {
        let session = format!("{i:032x}");
        world
            .handshake(
                &session,
                &proof_of("x"),
                marill_serving::terms::Correlations::Live,
            )
            .unwrap_err();
    }
    assert_eq!(lines(&world, "server"), 0);
}

/// Connections that say nothing, from one address: no slot and no place in a queue is theirs.
#[test]
fn without_a_handshake_no_slot_is_held() {
    let world = World::new();
    let server = HttpClient::new(world.parties.server.clone(), None);
    let lines: Vec<_> = (0..60)
        .map(|_| {
            server
                .websocket("/v1/session", Duration::from_secs(30))
                .unwrap()
        })
        .collect();
    assert_eq!(world.parties.active()[1], 0);
    let started = std::time::Instant::now();
    let mut session = world.opener().open().unwrap();
    assert_eq!(world.secure(&mut session, 3, 5, 1).0, world.twin(3, 5, 1));
    assert!(
        started.elapsed() < Duration::from_secs(4),
        "nobody waited for the silent ones: {:?}",
        started.elapsed()
    );
    drop(lines);
}

#[test]
fn a_ticket_is_its_clients() {
    let world = World::new();
    let alice = "ab".repeat(32);
    let bob = "cd".repeat(32);
    let answer = world.ask_with(&bob, world.ticket(&alice), &[]);
    assert!(
        answer.status == 400 && String::from_utf8_lossy(&answer.body).contains("another client's")
    );
}
