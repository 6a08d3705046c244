//! Sessions over real sockets: client, server and dealer with a tiny random model.

use std::{thread, time::Duration};

use marill_mpc::{Selection, tally_decode, tally_prefill};
use marill_net::{NetError, http::HttpClient};
use marill_serving::{
    ServingError, SessionError,
    client::SessionOpener,
    messages::{CLOSE_BUDGET, CorrectionsHello, SessionGrant, proof_of, recv_reply, send_json},
    state::{FileState, Keys, Limits, key_digest},
    terms::Correlations,
};
use marill_testkit::{
    parties::{World, wait_until},
    proxy::{Proxy, unmask},
};

#[test]
fn a_session_gives_the_twins_tokens_at_the_tallied_cost() {
    let world = World::new();
    let opener = world.opener();
    let mut session = opener.open().unwrap();
    let (tokens, costs) = world.secure(&mut session, 1, 11, 3);
    assert_eq!(tokens, world.twin(1, 11, 3));

    // The announcement of a step is a frame of five bytes besides the protocol's.
    let bucket = world.spec.bucket(11);
    let prefill = tally_prefill(&world.spec, bucket).unwrap();
    assert_eq!(costs[0].rounds, prefill.rounds);
    assert_eq!(costs[0].bytes_sent, prefill.e0_to_e1_bytes + 5);
    assert_eq!(costs[0].bytes_received, prefill.e1_to_e0_bytes);
    let decode = tally_decode(&world.spec, bucket).unwrap();
    assert_eq!(
        (costs[1].rounds, costs[1].bytes_sent),
        (decode.rounds, decode.e0_to_e1_bytes + 5)
    );
    // Seeds and heads of HTTP, no corrections.
    assert!(
        opener.dealer.count.received_bytes() < 64 << 10,
        "the client downloads little from the dealer"
    );
}

#[test]
fn products_of_masks_are_made_while_a_session_goes_on() {
    let world = World::new();
    let mut session = world.opener().open().unwrap();
    let mut tokens = vec![session.prefill(&world.rows(2, 11), 11).unwrap().0];
    for step in 0..40 {
        thread::sleep(Duration::from_millis(20));
        tokens.push(session.decode(&world.rows(1002 + step, 1)).unwrap().0);
        if session.precomputed() > 0 {
            break;
        }
    }
    assert!(
        session.precomputed() > 0,
        "a second passed and nothing was precomputed"
    );
    assert_eq!(tokens, world.twin(2, 11, tokens.len() as u64 - 1));
    session.end();
}

#[test]
fn two_sessions_at_once_both_equal_the_twin_and_interleave() {
    let world = World::new();
    let openers = [
        world.opener_at(&world.parties.server, "a"),
        world.opener_at(&world.parties.server, "b"),
    ];
    let both = std::sync::Barrier::new(2);
    thread::scope(|scope| {
        for (seed, opener) in (10..).zip(&openers) {
            let world = &world;
            let both = &both;
            scope.spawn(move || {
                let mut session = opener.open().unwrap();
                wait_until("both sessions being open", || {
                    world.parties.active()[1] == 2
                });
                // Neither ends before the other has seen it.
                both.wait();
                let (tokens, _) = world.secure(&mut session, seed, 5, 4);
                assert_eq!(tokens, world.twin(seed, 5, 4));
            });
        }
    });
    wait_until("the end of all sessions", || {
        world.parties.active() == [0, 0]
    });
}

#[test]
fn the_masked_adapter_travels_once_even_over_a_restart() {
    let world = World::new();
    let received = |opener: &SessionOpener| {
        let before = opener.server.count.received_bytes();
        drop(opener.open().unwrap());
        opener.server.count.received_bytes() - before
    };
    let first = world.opener();
    let with = received(&first);
    let without = received(&first);
    let adapter_bytes = std::fs::metadata(world.folder.path().join("client/adapters/tiny.masked"))
        .unwrap()
        .len();
    assert!(
        with >= adapter_bytes && without < adapter_bytes.min(4096),
        "{with}, then {without}"
    );
    // A handshake and no adapter, which alone is longer.
    assert!(
        received(&world.opener()) < 4096,
        "a new process finds it on disk"
    );
    assert!(
        received(&world.opener_at(&world.parties.server, "other")) >= adapter_bytes,
        "each client has its own"
    );
}

#[test]
fn what_leaves_the_client_is_masked_and_sized_by_bucket() {
    let world = World::new();
    let (proxy, endpoint) = Proxy::start(&world.parties.server);
    let opener = world.opener_at(&endpoint, "client");
    let record = |seed: u64, n: usize| {
        let from = proxy.sent().len();
        let mut session = opener.open().unwrap();
        world.secure(&mut session, seed, n, 2);
        drop(session);
        wait_until("the end of the session", || {
            world.parties.active() == [0, 0]
        });
        proxy.sent()[from..].to_vec()
    };
    record(1, 3); // Fetches the adapter, after which the handshake has one length.
    let short = record(2, 3);
    let long = record(3, 14);
    assert_eq!(world.spec.bucket(3), world.spec.bucket(14));
    assert_eq!(frame_sizes(&short), frame_sizes(&long));

    let frames = unmask(&long);
    let payload: Vec<u8> = frames.concat();
    let boundary: Vec<u8> = world
        .rows(3, 14)
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    // Two neighboring values in clear, as 64-bit or as the 48 bits of a packed wire.
    let narrow: Vec<u8> = boundary
        .chunks(8)
        .flat_map(|value| value[..6].to_vec())
        .collect();
    for (values, width) in [(&boundary, 8), (&narrow, 6)] {
        for pair in values.chunks_exact(2 * width) {
            assert!(
                !payload.windows(2 * width).any(|window| window == pair),
                "activations leave in clear"
            );
        }
    }
    // Masked words look random: no byte value is much more common than another.
    let largest = frames.iter().max_by_key(|frame| frame.len()).unwrap();
    assert!(largest.len() > 2000);
    let count = |byte: u8| largest.iter().filter(|&&other| other == byte).count();
    let most = (0..=255).map(count).max().unwrap();
    assert!(
        most < largest.len() / 256 * 3 + 30,
        "{most} of {} bytes are equal",
        largest.len()
    );
}

#[test]
fn an_outside_proxy_counts_the_bytes_that_the_client_reports() {
    let world = World::new();
    let (proxy, endpoint) = Proxy::start(&world.parties.server);
    let opener = world.opener_at(&endpoint, "client");
    let mut session = opener.open().unwrap();
    world.secure(&mut session, 4, 9, 2);
    drop(session);
    wait_until("the end of the session", || {
        world.parties.active() == [0, 0]
    });
    let count = &opener.server.count;
    wait_until("the same count of sent bytes", || {
        count.sent_bytes() == proxy.sent().len() as u64
    });
    wait_until("the same count of received bytes", || {
        count.received_bytes() == proxy.received_len()
    });
    // A prompt of this model is longer in both directions: the counters count.
    assert!(count.sent_bytes() > 10_000 && count.received_bytes() > 10_000);
}

#[test]
fn differing_terms_are_refused_by_name_on_both_sides() {
    let world = World::new();
    let mut opener = world.opener();
    opener.parameters.partition_id = "another".into();
    let error = opener.open().map(|_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            ServingError::Session(SessionError::Refused { by: "server", .. })
        ),
        "{error}"
    );
    assert!(error.to_string().contains("partition_id"), "{error}");
    opener.parameters.protocol = 99;
    let error = opener.open().map(|_| ()).unwrap_err();
    assert!(
        matches!(
            error,
            ServingError::Session(SessionError::Refused { by: "dealer", .. })
        ),
        "{error}"
    );
    assert!(error.to_string().contains("99"), "{error}");
}

#[test]
fn under_tls_a_session_runs_and_another_certificate_is_refused() {
    let world = World::with_tls(true);
    let url = world.parties.server.to_string();
    let (before, pin) = url.split_once('#').unwrap();
    assert!(before.starts_with("https://"));
    let mut session = world.opener().open().unwrap();
    let (tokens, _) = world.secure(&mut session, 3, 6, 2);
    assert_eq!(tokens, world.twin(3, 6, 2));

    let wrong: String = pin
        .chars()
        .map(|c| if c == '0' { '1' } else { '0' })
        .collect();
    let opener = world.opener_at(&format!("{before}#{wrong}").parse().unwrap(), "client");
    let error = opener.open().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    // Plain text to a service that speaks TLS gets nowhere.
    let plain = before.replace("https", "http").parse().unwrap();
    assert!(world.opener_at(&plain, "client").open().is_err());
}

#[test]
fn a_dealer_that_is_gone_is_named() {
    let mut world = World::new();
    world.parties.stop_dealer();
    let error = world.opener().open().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("dealer"), "{error}");
}

#[test]
fn a_dealer_that_vanishes_is_named_to_the_client() {
    let mut proxy = None;
    let world = World::routed(false, |dealer| {
        let (between, endpoint) = Proxy::start(&dealer);
        proxy = Some(between);
        endpoint
    });
    let mut session = world.opener().open().unwrap();
    session.prefill(&world.rows(5, 4), 4).unwrap();
    proxy.unwrap().cut();
    let failed = (0..8)
        .map(|step| session.decode(&world.rows(step, 1)))
        .find_map(Result::err);
    let error = failed
        .expect("what the dealer has not sent is missing")
        .to_string();
    assert!(error.contains("dealer"), "{error}");
    wait_until("all giving the session up", || {
        world.parties.active() == [0, 0]
    });
}

#[test]
fn a_server_that_vanishes_ends_the_clients_step_with_an_error() {
    let world = World::new();
    let (proxy, endpoint) = Proxy::start(&world.parties.server);
    let opener = world.opener_at(&endpoint, "client");
    let mut session = opener.open().unwrap();
    session.prefill(&world.rows(5, 4), 4).unwrap();
    proxy.cut();
    let error = session.decode(&world.rows(6, 1)).unwrap_err();
    assert!(error.is_peer(), "{error}");
    wait_until("the server giving the session up", || {
        world.parties.active() == [0, 0]
    });
    // Others are served as before.
    let (tokens, _) = world.secure(&mut world.opener().open().unwrap(), 7, 4, 1);
    assert_eq!(tokens, world.twin(7, 4, 1));
}

#[test]
fn a_client_that_breaks_the_protocol_ends_its_own_session_only() {
    let world = World::new();
    let opener = world.opener();
    let mut good = opener.open().unwrap();
    let mut bad = world
        .opener_at(&world.parties.server, "bad")
        .open()
        .unwrap();
    bad.prefill(&world.rows(8, 2), 2).unwrap();
    let error = bad.prefill(&world.rows(8, 2), 2).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("a prefill of 16 is not possible now"),
        "{error}"
    );
    let (tokens, _) = world.secure(&mut good, 9, 4, 1);
    assert_eq!(tokens, world.twin(9, 4, 1));
}

/// As an attacker would who kept a handshake, or an owner who restored yesterday's server.
#[test]
fn no_session_is_ever_claimed_twice() {
    let world = World::new();
    let SessionGrant {
        session,
        token,
        seed,
    } = world.grant(&"ab".repeat(32), &[]);
    assert_eq!(seed.unwrap().len(), 64);
    let proof = proof_of(&token);
    let error = world
        .handshake(&session, &proof_of("a guess"), Correlations::Live)
        .unwrap_err();
    assert!(
        error.to_string().contains("granted to another client"),
        "{error}"
    );
    world
        .handshake(&session, &proof, Correlations::Live)
        .unwrap();
    let error = world
        .handshake(&session, &proof, Correlations::Live)
        .unwrap_err();
    assert!(error.to_string().contains("already been used"), "{error}");

    // The dealer refuses on its own, whatever the server's ledger says.
    let key = std::fs::read_to_string(world.folder.path().join("dealer/server.key")).unwrap();
    let to_dealer = HttpClient::new(world.parties.dealer.clone(), Some(key.trim().into()));
    let mut channel = to_dealer
        .websocket("/v1/corrections", Duration::from_secs(5))
        .unwrap();
    let private_sha256 = "cd".repeat(32);
    let selection = Selection::Greedy;
    let parameters = world.parameters.clone();
    let spec = world.spec.clone();
    let hello = CorrectionsHello {
        parameters,
        session,
        spec,
        private_sha256,
        proof,
        selection,
    };
    send_json(&mut channel, &hello).unwrap();
    let error = recv_reply::<()>(&mut channel, "dealer").unwrap_err();
    assert!(error.to_string().contains("already been used"), "{error}");
}

#[test]
fn the_dealer_knows_servers_by_their_key() {
    let world = World::new();
    let stranger = HttpClient::new(world.parties.dealer.clone(), Some("guess".into()));
    let error = stranger
        .websocket("/v1/corrections", Duration::from_secs(5))
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("401"), "{error}");
}

#[test]
fn steps_are_charged_first_and_the_budget_ends_a_session() {
    let world = World::new();
    let keys = world.folder.path().join("server/keys");
    let limits = Limits {
        tokens: Some(35),
        ..Limits::default()
    };
    let mut opener = world.opener();
    opener.server.bearer = Some(Keys::add(&keys, "alice", limits).unwrap());
    let digest = key_digest(opener.server.bearer.as_ref().unwrap());
    let used = || FileState::used(&world.folder.path().join("server"), &digest).unwrap();

    let mut session = opener.open().unwrap();
    session.prefill(&world.rows(5, 4), 4).unwrap();
    session.decode(&world.rows(6, 1)).unwrap();
    drop(session); // Broken off without a word.
    wait_until("the end of the session", || {
        world.parties.active() == [0, 0]
    });
    assert_eq!(used(), (17, 1), "a bucket of 16 and one token");

    let mut session = opener.open().unwrap();
    session.prefill(&world.rows(5, 4), 4).unwrap();
    session.decode(&world.rows(6, 1)).unwrap();
    session.decode(&world.rows(7, 1)).unwrap();
    let error = session.decode(&world.rows(8, 1)).unwrap_err();
    assert!(
        matches!(
            error.net_source(),
            Some(NetError::Ended {
                code: CLOSE_BUDGET,
                ..
            })
        ),
        "{error}"
    );
    assert!(error.to_string().contains("budget of 35 tokens"), "{error}");
    assert_eq!(used(), (35, 2));
    match opener.open().map(|_| ()).unwrap_err() {
        ServingError::Session(SessionError::Refused {
            code,
            retry_after_seconds,
            ..
        }) => {
            assert_eq!((&*code, retry_after_seconds), ("budget_spent", Some(3600)));
        }
        other => panic!("{other}"),
    }
    opener.server.bearer = None;
    assert!(
        opener
            .open()
            .map(|_| ())
            .unwrap_err()
            .to_string()
            .contains("API key")
    );
}

/// Payload lengths of the WebSocket frames that a client sent, after its HTTP request.
fn frame_sizes(bytes: &[u8]) -> Vec<usize> {
    unmask(bytes).iter().map(Vec::len).collect()
}
