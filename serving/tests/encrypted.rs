//! Private products by lattice over real sockets: the twin's tokens in every setting with a dealer,
//! and no mask of the adapter anywhere.

use marill_mpc::{
    Comparison, EncryptedAdapter, PrivateProducts, Sampling, masked::prepared_bytes,
    random_model::tiny_spec,
};
use marill_net::http::HttpClient;
use marill_serving::{
    client::SessionOpener,
    local::LocalParty,
    terms::{E0, Setting},
};
use marill_testkit::parties::{World, model_of, wait_until};

fn world(setting: Setting, e0: E0) -> World {
    let mut model = model_of(tiny_spec(), setting);
    model.parameters = model
        .parameters
        .with_e0(e0)
        .with_private_products(PrivateProducts::Lattice);
    World::of(
        model,
        tempfile::tempdir().unwrap(),
        false,
        false,
        |dealer| dealer,
    )
}

#[test]
fn an_encrypted_adapter_gives_the_twins_tokens() {
    for (setting, comparison) in [
        (Setting::Dealer, Comparison::OneHot),
        (Setting::ThreeParties, Comparison::Dcf),
    ] {
        let world = world(setting, E0::Client);
        let mut session = world.opener_with(comparison).open().unwrap();
        let (tokens, _) = world.secure(&mut session, 1, 11, 9);
        assert_eq!(tokens, world.twin(1, 11, 9), "{setting:?}, {comparison}");
        // The prompt's bucket, and tokens by eight.
        let prompt = prepared_bytes(&world.spec, world.spec.bucket(11), 1).unwrap();
        let tokens = prepared_bytes(&world.spec, 1, 8).unwrap();
        assert_eq!(session.offline().unwrap().bytes, prompt + 2 * tokens);
        assert_eq!(session.prepared(), Some(7));
    }
}

#[test]
fn a_conversation_goes_on_with_an_encrypted_adapter() {
    let world = world(Setting::Dealer, E0::Client);
    let mut session = world.opener().open().unwrap();
    let mut twin = marill_mpc::Twin::new(world.public.clone(), world.private.clone());
    let width = world.spec.hidden_size;
    let prompt = world.rows(1, 9);
    let first = session.prefill(&prompt, 9).unwrap().0;
    assert_eq!(first, twin.prefill(&prompt).unwrap());
    // A turn of several rows between tokens that were prepared before it.
    for (seed, n) in [(2, 1), (3, 7), (4, 1), (5, 2)] {
        session.wait();
        wait_until("the rest", || world.parties.kept() == [1, 1]);
        let rows = world.rows(seed, n);
        let expected = rows.chunks(width).map(|row| twin.decode(row).unwrap());
        let expected = expected.last().unwrap();
        assert_eq!(session.extend(&rows).unwrap().0, expected, "{n} rows");
    }
    session.end();
}

#[test]
fn a_computing_party_has_the_adapter_encrypted_too() {
    let world = world(Setting::ThreeParties, E0::Party);
    let party = LocalParty::start(world.opener_at(&world.parties.server, "party"), 2).unwrap();
    let opener = world.opener();
    let client = SessionOpener {
        dealer: HttpClient::new("http://127.0.0.1:1".parse().unwrap(), None),
        party: Some(HttpClient::new(party.endpoint.clone(), None)),
        ..opener
    };
    for sampling in [None, Sampling::new(1e-5, Some(5)).unwrap()] {
        let mut session = client.open_live(sampling).unwrap();
        assert_eq!(world.secure(&mut session, 4, 8, 2).0, world.twin(4, 8, 2));
    }
}

#[test]
fn the_encrypted_adapter_travels_once_and_no_masked_one() {
    let world = world(Setting::Dealer, E0::Client);
    let received = |opener: &SessionOpener| {
        let before = opener.server.count.received_bytes();
        drop(opener.open().unwrap());
        (opener.server.count.received_bytes() - before) as usize
    };
    let bytes = EncryptedAdapter::bytes_of(&world.spec).unwrap();
    let first = world.opener();
    assert!(received(&first) >= bytes);
    // Handshakes alone.
    assert!(received(&first) < 4096, "it is in memory");
    assert!(received(&world.opener()) < 4096, "and on the disk");
    assert!(received(&world.opener_at(&world.parties.server, "other")) >= bytes);
    let folder = world.folder.path().join("client/adapters");
    let names: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, ["tiny.encrypted"]);
}

#[test]
fn a_client_of_the_other_way_is_refused_by_name() {
    let world = world(Setting::Dealer, E0::Client);
    let opener = world.opener();
    let opener = SessionOpener {
        parameters: opener
            .parameters
            .clone()
            .with_private_products(PrivateProducts::Masks),
        ..opener
    };
    let error = opener.open().map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("disagree on `private_products`"), "{error}");
}
