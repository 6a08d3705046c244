//! A computing party between client, server and dealer: the twin's tokens with either comparison
//! protocol, who chooses the protocol, and damaged frames on each of its connections.

use std::{thread, time::Duration};

use marill_mpc::{Comparison, Sampling, random_model::tiny_spec};
use marill_net::http::HttpClient;
use marill_serving::{
    Endpoint,
    client::SessionOpener,
    local::LocalParty,
    terms::{E0, Setting},
};
use marill_testkit::{
    parties::{World, model_of, wait_until},
    tampering_proxy::{FAULTS, From, TamperingProxy},
};

fn shared_world() -> World {
    let mut model = model_of(tiny_spec(), Setting::Dealer);
    model.parameters = model.parameters.with_e0(E0::Party);
    World::of(
        model,
        tempfile::tempdir().unwrap(),
        false,
        false,
        |dealer| dealer,
    )
}

/// What an evaluator opens its sessions with; `firm`: it takes no other protocol.
fn outsourced(
    world: &World,
    dealer: &Endpoint,
    comparison: Comparison,
    firm: bool,
) -> SessionOpener {
    let opener = world.opener_at(&world.parties.server, "evaluator");
    SessionOpener {
        dealer: HttpClient::new(dealer.clone(), None),
        parameters: opener.parameters.clone().with_comparison(comparison),
        insists_on_comparison: firm,
        ..opener
    }
}

/// A client that knows no dealer.
fn client(world: &World, party: &Endpoint, asked: Option<Comparison>) -> SessionOpener {
    let opener = world.opener();
    SessionOpener {
        dealer: HttpClient::new("http://127.0.0.1:1".parse().unwrap(), None),
        party: Some(HttpClient::new(party.clone(), None)),
        parameters: opener
            .parameters
            .clone()
            .with_comparison(asked.unwrap_or_default()),
        insists_on_comparison: asked.is_some(),
        ..opener
    }
}

#[test]
fn tokens_equal_the_twins_and_whose_comparison_counts() {
    use Comparison::{Dcf, OneHot};
    let world = shared_world();
    let dealer = &world.parties.dealer;
    let cases = [
        (None, (OneHot, false), OneHot),
        (None, (Dcf, false), Dcf),
        (Some(Dcf), (OneHot, false), Dcf),
        (Some(OneHot), (Dcf, false), OneHot),
        (Some(Dcf), (Dcf, true), Dcf),
    ];
    for (seed, (asked, (own, firm), expected)) in (1..).zip(cases) {
        let party = LocalParty::start(outsourced(&world, dealer, own, firm), 2).unwrap();
        let mut session = client(&world, &party.endpoint, asked).open().unwrap();
        assert_eq!(session.comparison, expected);
        assert_eq!(
            world.secure(&mut session, seed, 11, 3).0,
            world.twin(seed, 11, 3),
            "{asked:?} {own} {firm}"
        );
    }
    let party = LocalParty::start(outsourced(&world, dealer, OneHot, true), 2).unwrap();
    let error = client(&world, &party.endpoint, Some(Dcf))
        .open()
        .map(|_| ())
        .unwrap_err();
    assert!(
        error.to_string().contains("disagree on `comparison`"),
        "{error}"
    );

    // Sampled with next to no noise, with DCF.
    let party = LocalParty::start(outsourced(&world, dealer, Dcf, false), 2).unwrap();
    // Clients of the version before know another path.
    let bare = HttpClient::new(party.endpoint.clone(), None);
    let opens = |path| bare.websocket(path, Duration::from_secs(5)).is_ok();
    assert!(opens("/v1/evaluate") && !opens("/v1/evaluator"));
    let cold = Sampling::new(1e-5, Some(5)).unwrap();
    let mut session = client(&world, &party.endpoint, None)
        .open_live(cold)
        .unwrap();
    assert_eq!(world.secure(&mut session, 9, 8, 2).0, world.twin(9, 8, 2));
}

/// Which connection, who sends, the number of the frame, what it is.
const KINDS: [(Link, From, usize, &str); 8] = [
    (Link::Client, From::Opener, 0, "the client's handshake"),
    (
        Link::Client,
        From::Opener,
        1,
        "the announcement of the prompt",
    ),
    (Link::Client, From::Opener, 2, "the client's share"),
    (Link::Client, From::Service, 0, "the party's handshake"),
    (
        Link::Client,
        From::Service,
        1,
        "the party's share of a token",
    ),
    (
        Link::DcfKeys,
        From::Opener,
        0,
        "the party's handshake with the dealer",
    ),
    (Link::DcfKeys, From::Service, 0, "the dealer's handshake"),
    (Link::DcfKeys, From::Service, 1, "DCF keys"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Link {
    /// Between client and computing party.
    Client,
    /// Between evaluator and dealer.
    DcfKeys,
}

/// Each kind on parties of its own, side by side: most of the time is spent waiting for lines to
/// close.
#[test]
fn a_damaged_frame_to_the_party_ends_its_session_with_an_error() {
    thread::scope(|scope| {
        KINDS
            .iter()
            .for_each(|kind| drop(scope.spawn(|| damage_one_frame_at_a_time(*kind))))
    });
}

fn damage_one_frame_at_a_time((which, from, number, what): (Link, From, usize, &str)) {
    let world = shared_world();
    let (words, dealer) = TamperingProxy::start(&world.parties.dealer);
    let party = LocalParty::start(outsourced(&world, &dealer, Comparison::Dcf, true), 2).unwrap();
    let (line, endpoint) = TamperingProxy::start(&party.endpoint);
    let client = client(&world, &endpoint, None);
    for fault in FAULTS {
        let proxy = if which == Link::Client { &line } else { &words };
        proxy.spoil((from, number, fault), what, || world.short_session(&client));
        wait_until("all giving the session up", || {
            world.parties.active() == [0, 0] && party.active() == 0
        });
    }
    assert_eq!(
        world.short_session(&client).unwrap(),
        world.twin(5, 4, 3),
        "the services are unharmed"
    );
}
