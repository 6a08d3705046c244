//! Approximated layers in every setting: the twin's tokens, and a refusal where one party computes
//! the exact functions.

use marill_mpc::{Comparison, ProgramSpec, random_model::tiny_spec};
use marill_net::http::HttpClient;
use marill_numeric::{Approximations, approx};
use marill_serving::{
    client::SessionOpener,
    local::LocalParty,
    terms::{E0, SessionParameters, Setting},
};
use marill_testkit::parties::{World, model_of};

fn world(approx: Approximations, setting: Setting, e0: E0) -> World {
    let spec = ProgramSpec {
        approx,
        ..tiny_spec()
    };
    let mut model = model_of(spec, setting);
    model.parameters = model.parameters.with_e0(e0);
    let folder = tempfile::tempdir().unwrap();
    World::of(model, folder, false, false, |dealer| dealer)
}

#[test]
fn sessions_give_the_twins_tokens_in_every_setting() {
    for approx in approx::EACH {
        for setting in Setting::DEALT {
            let world = world(approx, setting, E0::Client);
            for comparison in [Comparison::OneHot, Comparison::Dcf] {
                let mut session = world.opener_with(comparison).open().unwrap();
                let tokens = world.secure(&mut session, 1, 11, 3).0;
                assert_eq!(
                    tokens,
                    world.twin(1, 11, 3),
                    "{approx:?} {} {comparison}",
                    setting.as_str()
                );
            }
        }
    }
}

#[test]
fn a_computing_party_gives_the_twins_tokens() {
    for approx in approx::EACH {
        let world = world(approx, Setting::Dealer, E0::Party);
        let evaluator = world.opener_at(&world.parties.server, "evaluator");
        let party = LocalParty::start(evaluator, 2).unwrap();
        let opener = world.opener();
        let client = SessionOpener {
            dealer: HttpClient::new("http://127.0.0.1:1".parse().unwrap(), None),
            party: Some(HttpClient::new(party.endpoint.clone(), None)),
            ..opener
        };
        let mut session = client.open().unwrap();
        let tokens = world.secure(&mut session, 2, 19, 3).0;
        assert_eq!(tokens, world.twin(2, 19, 3), "{approx:?}");
    }
}

#[test]
fn a_client_with_the_exact_functions_is_refused() {
    for approx in approx::EACH {
        let world = world(approx, Setting::Dealer, E0::Client);
        let opener = world.opener();
        let id = opener.parameters.partition_id.clone();
        let exact = SessionParameters::new(&id, &tiny_spec(), &world.public, Setting::Dealer);
        let client = SessionOpener {
            parameters: exact,
            ..opener
        };
        let error = client.open().map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("disagree on `spec_sha256`"), "{error}");
    }
}
