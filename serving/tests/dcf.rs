//! DCF sessions over real sockets: the dealer streams DCF keys to the client too.

use marill_mpc::{Comparison, cost::Cost, tally::tally_on};
use marill_net::http::HttpClient;
use marill_serving::{
    ServingError, SessionError,
    client::{CorrelationPreference, SessionOpener},
    local::Parties,
    messages::{DcfKeysHello, proof_of, recv_reply, send_json},
    terms::Correlations,
};
use marill_testkit::parties::{World, tiny_model, wait_until};

fn uses_dcf(opener: SessionOpener) -> SessionOpener {
    SessionOpener {
        parameters: opener.parameters.clone().with_comparison(Comparison::Dcf),
        ..opener
    }
}

#[test]
fn a_dcf_session_equals_the_twin_and_costs_what_the_tally_says() {
    let world = World::new();
    let opener = uses_dcf(world.opener());
    let mut session = opener.open().unwrap();
    let before = opener.dealer.count.received_bytes();
    let (tokens, costs) = world.secure(&mut session, 1, 11, 3);
    assert_eq!(tokens, world.twin(1, 11, 3));
    let cost = |cached, rows| {
        let places = tally_on(&world.spec, Comparison::Dcf, cached, rows).unwrap();
        places
            .into_iter()
            .fold(Cost::default(), |sum, (_, cost)| sum + cost)
    };
    let bucket = world.spec.bucket(11);
    let steps = [
        cost(0, bucket),
        cost(bucket, 1),
        cost(bucket + 1, 1),
        cost(bucket + 2, 1),
    ];
    for (got, tallied) in costs.iter().zip(&steps) {
        // The announcement of a step is a frame of five bytes besides the protocol's.
        let expected = (
            tallied.rounds,
            tallied.e0_to_e1_bytes + 5,
            tallied.e1_to_e0_bytes,
        );
        assert_eq!((got.rounds, got.bytes_sent, got.bytes_received), expected);
    }
    // The dealer is one decode early, of which the client has read what came; frames add a few
    // bytes each.
    let key_bytes: u64 = steps.iter().map(|step| step.dealer_to_e0_bytes).sum();
    let received = opener.dealer.count.received_bytes() - before;
    let preprocessed = cost(bucket + 3, 1).dealer_to_e0_bytes;
    assert!(
        (key_bytes..key_bytes + preprocessed + 65_536).contains(&received),
        "{received} of {key_bytes} and {preprocessed} early"
    );
    drop(session);
    wait_until("the end of the session", || {
        world.parties.active() == [0, 0]
    });
    // The same parties serve digits as before.
    let mut session = world.opener().open().unwrap();
    assert_eq!(world.secure(&mut session, 2, 5, 1).0, world.twin(2, 5, 1));
}

#[test]
fn dcf_is_refused_where_it_is_unavailable() {
    let world = World::new();
    let opener = uses_dcf(world.opener());
    let error = opener
        .open_for(16, 4, CorrelationPreference::Preprocessed, None)
        .err()
        .unwrap();
    assert!(
        matches!(error, ServingError::Session(SessionError::NoDcf { .. })),
        "{error}"
    );

    let mut model = tiny_model();
    model.allow_dcf = false;
    let folder = tempfile::tempdir().unwrap();
    let parties = Parties::start(model, folder.path(), 2).unwrap();
    let opener = SessionOpener {
        dealer: HttpClient::new(parties.dealer.clone(), None),
        ..uses_dcf(world.opener_at(&parties.server, "other"))
    };
    let error = opener.open().err().unwrap();
    assert!(
        error.to_string().contains("accepts one-hot only"),
        "{error}"
    );
}

#[test]
fn only_the_holder_of_the_seed_gets_dcf_keys() {
    let world = World::new();
    let opener = uses_dcf(world.opener());
    let mut world = world;
    world.parameters = opener.parameters.clone();
    let refusal_at = |path: &str, session: String, key: String| {
        let mut line = opener
            .dealer
            .websocket(path, std::time::Duration::from_secs(5))
            .unwrap();
        send_json(&mut line, &DcfKeysHello { session, key }).unwrap();
        recv_reply::<()>(&mut line, "dealer")
            .unwrap_err()
            .to_string()
    };
    let refusal = |session, key| refusal_at("/v1/dcf-keys", session, key);
    let granted = world.grant(&"ab".repeat(32), &[]);
    let former = refusal_at("/v1/words", granted.session.clone(), "00".repeat(32));
    assert!(
        former.contains("no session"),
        "the path of the version before: {former}"
    );
    let wrong = refusal(granted.session.clone(), "00".repeat(32));
    assert!(wrong.contains("no session"), "{wrong}");
    assert!(
        refusal("cd".repeat(16), "00".repeat(32)).contains("no session"),
        "an unknown session"
    );

    // A server that asks for corrections before the client has a connection is refused.
    let message = world
        .handshake(
            &granted.session,
            &proof_of(&granted.token),
            Correlations::Live,
        )
        .unwrap_err()
        .to_string();
    assert!(message.contains("DCF keys"), "{message}");
}
