//! The setting `2pc` over real sockets: client and server alone, no dealer anywhere.

use std::thread;

use marill_mpc::{
    Comparison, ProgramSpec, Sampling, Selection,
    random_model::{tiny_spec, with_private_matrices},
    tally_two_party,
    two_party::Products,
};
use marill_net::http::HttpClient;
use marill_serving::{
    Endpoint,
    client::{CorrelationPreference, SessionOpener},
    local::LocalServer,
    messages::CLOSE_BUDGET,
    state::{FileState, Keys, Limits, key_digest},
    terms::{Correlations, SessionParameters, Setting},
};
use marill_testkit::{
    parties::{World, model_of, wait_until},
    tampering_proxy::{FAULTS, From, TamperingProxy},
};

/// A server of the setting, beside a world whose model, rows and twin are the same.
struct Alone {
    world: World,
    server: LocalServer,
    parameters: SessionParameters,
}

impl Alone {
    fn new() -> Self {
        Self::with_keys(|_| {})
    }

    /// `prepare` may put keys into the server's folder before it starts.
    fn with_keys(prepare: impl FnOnce(&std::path::Path)) -> Self {
        let world = World::new();
        let model = model_of(tiny_spec(), Setting::TwoParties);
        let parameters = model.parameters.clone();
        let state = world.folder.path().join("alone");
        std::fs::create_dir_all(state.join("server")).unwrap();
        prepare(&state.join("server"));
        let server = LocalServer::start(model, &state, 4).unwrap();
        Self {
            world,
            server,
            parameters,
        }
    }

    fn opener(&self, name: &str) -> SessionOpener {
        self.opener_at(&self.server.endpoint, None, name)
    }

    /// Nobody listens where this client's dealer would be.
    fn opener_at(&self, server: &Endpoint, key: Option<&str>, name: &str) -> SessionOpener {
        SessionOpener {
            server: HttpClient::new(server.clone(), key.map(Into::into)),
            dealer: HttpClient::new("http://127.0.0.1:1".parse().unwrap(), None),
            parameters: self.parameters.clone(),
            ..self.world.opener_at(server, name)
        }
    }

    fn idle(&self) {
        wait_until("the end of all sessions", || self.server.active() == 0);
    }
}

#[test]
fn a_session_gives_the_twins_tokens_at_the_tallied_cost() {
    let alone = Alone::new();
    let world = &alone.world;
    let mut session = alone.opener("client").open().unwrap();
    assert_eq!(session.correlations, Correlations::None);
    let (tokens, costs) = world.secure(&mut session, 1, 11, 3);
    assert_eq!(tokens, world.twin(1, 11, 3));
    // Rounds of messages that depend on inputs, and of what is made for them.
    let bucket = world.spec.bucket(11);
    let decode = tally_two_party(
        &world.spec,
        Selection::Greedy,
        bucket,
        1,
        None,
        Products::Cheaper,
    )
    .unwrap();
    let made = costs[1].rounds - decode.online.rounds;
    assert!(made >= decode.offline.rounds, "{made} rounds for material");
    alone.idle();
}

#[test]
fn thirty_two_tokens_are_the_twins() {
    let alone = Alone::new();
    let world = &alone.world;
    let mut session = alone.opener("client").open().unwrap();
    let (tokens, _) = world.secure(&mut session, 3, 16, 31);
    assert_eq!(tokens.len(), 32);
    assert_eq!(tokens, world.twin(3, 16, 31));
}

#[test]
fn two_sessions_at_once_both_equal_the_twin() {
    let alone = Alone::new();
    let both = std::sync::Barrier::new(2);
    thread::scope(|scope| {
        for (seed, name) in [(10, "a"), (20, "b")] {
            let opener = alone.opener(name);
            let world = &alone.world;
            let both = &both;
            let server = &alone.server;
            scope.spawn(move || {
                let mut session = opener.open().unwrap();
                wait_until("both sessions being open", || server.active() == 2);
                both.wait();
                let (tokens, _) = world.secure(&mut session, seed, 5, 2);
                assert_eq!(tokens, world.twin(seed, 5, 2));
            });
        }
    });
    alone.idle();
}

#[test]
fn a_sampled_session_runs_and_top_k_is_refused_by_name() {
    let alone = Alone::new();
    let opener = alone.opener("client");
    let sampling = Sampling::new(0.8, None).unwrap();
    let mut session = opener.open_live(sampling).unwrap();
    let (tokens, _) = alone.world.secure(&mut session, 1, 5, 2);
    assert!(tokens.iter().all(|token| *token < 100), "{tokens:?}");
    let top_k = Sampling::new(0.8, Some(5)).unwrap();
    let error = opener.open_live(top_k).err().unwrap().to_string();
    assert!(
        error.contains("`2pc`") && error.contains("top-k"),
        "{error}"
    );
}

#[test]
fn what_two_parties_do_not_have_is_refused_by_name() {
    let alone = Alone::new();
    let opener = alone.opener("client");
    for wanted in [
        CorrelationPreference::Live,
        CorrelationPreference::Preprocessed,
    ] {
        let error = opener.open_for(16, 4, wanted, None).err().unwrap();
        assert!(error.to_string().contains("no correlations"), "{error}");
    }
    // A client that believes in a dealer.
    let dealt = SessionOpener {
        parameters: alone.world.parameters.clone(),
        dealer: HttpClient::new(alone.world.parties.dealer.clone(), None),
        ..alone.opener("dealt")
    };
    let error = dealt.open().err().unwrap().to_string();
    assert!(error.contains("without a dealer"), "{error}");
    // And one that wants comparisons of a dealer's.
    let parameters = alone.parameters.clone().with_comparison(Comparison::Dcf);
    let opener = SessionOpener {
        parameters,
        ..alone.opener("dcf")
    };
    let error = opener.open().err().unwrap().to_string();
    assert!(error.contains("one-hot only"), "{error}");
    alone.idle();
}

#[test]
fn a_full_fine_tune_gives_the_twins_tokens() {
    let spec = with_private_matrices(tiny_spec());
    let world = World::of(
        model_of(spec.clone(), Setting::Dealer),
        tempfile::tempdir().unwrap(),
        false,
        false,
        |dealer| dealer,
    );
    let model = model_of(spec, Setting::TwoParties);
    let parameters = model.parameters.clone();
    let server = LocalServer::start(model, &world.folder.path().join("alone"), 4).unwrap();
    let opener = SessionOpener {
        server: HttpClient::new(server.endpoint.clone(), None),
        parameters,
        ..world.opener_at(&server.endpoint, "client")
    };
    let (tokens, _) = world.secure(&mut opener.open().unwrap(), 3, 5, 3);
    assert_eq!(tokens, world.twin(3, 5, 3));
}

#[test]
fn either_way_of_rounding_is_run() {
    let numeric = marill_numeric::NumericSpec::with_rounding(marill_numeric::Rounding::Stochastic);
    let spec = ProgramSpec {
        numeric,
        ..tiny_spec()
    };
    marill_mpc::TwoParty::check(&spec, None).expect("either way of rounding is run");
}

/// Frames of the handshake, of base transfers, of extensions and of rounds, each spoiled in two
/// ways and all together in every way: a session that gets so far takes seconds.
#[test]
fn a_spoiled_frame_ends_the_session_and_hurts_nobody() {
    let alone = Alone::new();
    let (proxy, endpoint) = TamperingProxy::start(&alone.server.endpoint);
    let mut clients = 0;
    let mut session = || {
        clients += 1;
        let opener = alone.opener_at(&endpoint, None, &format!("client{clients}"));
        alone.world.short_session(&opener)
    };
    let mut faults = FAULTS.into_iter().cycle();
    for number in [0, 1, 3, 7, 40] {
        for from in [From::Opener, From::Service] {
            for fault in faults.by_ref().take(2) {
                let what = format!("frame {number}");
                proxy.spoil((from, number, fault), &what, &mut session);
                alone.idle();
            }
        }
    }
    assert_eq!(session().unwrap(), alone.world.twin(5, 4, 3));
}

#[test]
fn a_budget_ends_a_session_and_is_charged_to_the_token() {
    let mut key = String::new();
    let alone = Alone::with_keys(|folder| {
        let limits = Limits {
            tokens: Some(18),
            ..Limits::default()
        };
        key = Keys::add(&folder.join("keys"), "alice", limits).unwrap();
    });
    let opener = alone.opener_at(&alone.server.endpoint, Some(&key), "client");
    let mut session = opener.open().unwrap();
    session.prefill(&alone.world.rows(1, 4), 4).unwrap();
    for step in 0..2 {
        session.decode(&alone.world.rows(step, 1)).unwrap();
    }
    let error = session.decode(&alone.world.rows(9, 1)).err().unwrap();
    let ended = matches!(
        error.net_source(),
        Some(marill_net::NetError::Ended {
            code: CLOSE_BUDGET,
            ..
        })
    );
    assert!(ended, "{error}");
    alone.idle();
    let folder = alone.world.folder.path().join("alone/server");
    assert_eq!(FileState::used(&folder, &key_digest(&key)).unwrap().0, 18);
}
