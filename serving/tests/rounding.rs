//! Stochastic rounding through dealer, server and client: near the exact twin, at the tally's cost,
//! and refused by name where one party rounds in another way.

use marill_mpc::{
    Comparison, ProgramSpec, Sampling, Selection, Twin, cost::Cost, random_model::tiny_spec,
    tally::tally_on, tally_step,
};
use marill_net::http::HttpClient;
use marill_numeric::{NumericSpec, Rounding};
use marill_serving::{
    ServingError, SessionError,
    client::{CorrelationPreference, SessionOpener},
    dealer::{PreprocessOptions, produce},
    preprocessing::SealingKey,
    server::{PREPROCESSING_KEY_FILE, SecureModel},
    terms::{Correlations, Setting},
};
use marill_testkit::parties::{World, model_of};

const BUCKET: usize = 16;
/// A token's logit may be so far below the exact twin's best. The logits of this model spread by
/// 0.7, so one token of a hundred picked at random passes; four in a row do not.
const NEAR: f32 = 0.02;

fn rounding(rounding: Rounding) -> ProgramSpec {
    ProgramSpec {
        numeric: NumericSpec::with_rounding(rounding),
        ..tiny_spec()
    }
}

fn stochastic(setting: Setting) -> SecureModel {
    model_of(rounding(Rounding::Stochastic), setting)
}

fn world_of(model: SecureModel, preprocessed: bool) -> World {
    World::of(
        model,
        tempfile::tempdir().unwrap(),
        false,
        preprocessed,
        |dealer| dealer,
    )
}

/// Every token is one that the exact twin finds nearly as good as its own.
fn check_near(world: &World, tokens: &[u32], seed: u64, n: usize) {
    let mut twin = Twin::exact(world.public.clone(), world.private.clone());
    for (step, &token) in tokens.iter().enumerate() {
        let best = match step {
            0 => twin.prefill(&world.rows(seed, n)).unwrap(),
            _ => twin
                .decode(&world.rows(seed + 999 + step as u64, 1))
                .unwrap(),
        };
        let logits = twin.last_logits();
        let shortfall = logits[best as usize] - logits[token as usize];
        assert!(
            (0.0..NEAR).contains(&shortfall),
            "token {step} is {shortfall} below the best"
        );
    }
}

#[test]
fn stochastic_sessions_are_near_the_exact_twin() {
    for setting in Setting::DEALT {
        let world = world_of(stochastic(setting), false);
        for comparison in [Comparison::OneHot, Comparison::Dcf] {
            let opener = world.opener_with(comparison);
            assert_eq!(opener.parameters.rounding, "stochastic");
            let (tokens, costs) = world.secure(&mut opener.open().unwrap(), 1, 11, 3);
            check_near(&world, &tokens, 1, 11);
            let places = tally_on(&world.spec, comparison, BUCKET, 1).unwrap();
            let declared = places
                .into_iter()
                .fold(Cost::default(), |sum, (_, cost)| sum + cost);
            let exact = tally_on(&rounding(Rounding::Exact), comparison, BUCKET, 1).unwrap();
            let exact = exact
                .into_iter()
                .fold(Cost::default(), |sum, (_, cost)| sum + cost);
            // The step's own announcement is five bytes.
            let got = (
                costs[1].rounds,
                costs[1].bytes_sent,
                costs[1].bytes_received,
            );
            assert_eq!(
                got,
                (
                    declared.rounds,
                    declared.e0_to_e1_bytes + 5,
                    declared.e1_to_e0_bytes
                )
            );
            assert!(
                declared.dealer_to_e1_bytes < exact.dealer_to_e1_bytes,
                "fewer corrections"
            );
        }
        let cold = Sampling::new(1e-5, Some(5)).unwrap();
        let (tokens, _) = world.secure(&mut world.opener().open_live(cold).unwrap(), 2, 5, 2);
        check_near(&world, &tokens, 2, 5);
    }
}

#[test]
fn preprocessed_correlations_serve_a_stochastic_session() {
    let folder = tempfile::tempdir().unwrap();
    let request = folder.path().join("order.json");
    let key = folder.path().join("server").join(PREPROCESSING_KEY_FILE);
    let key = SealingKey::read_or_create(&key).unwrap();
    std::fs::write(
        &request,
        serde_json::to_vec(&stochastic(Setting::Dealer).request(&key)).unwrap(),
    )
    .unwrap();
    let options = PreprocessOptions {
        state: folder.path().join("dealer"),
        vault: folder.path().join("vault"),
        owner: marill_serving::dealer::DEFAULT_OWNER.into(),
        folder: folder.path().join("files"),
        request,
        bucket: BUCKET,
        tokens: 3,
        selection: Selection::Greedy,
        sessions: 1,
        dry_run: false,
    };
    let mut said = Vec::new();
    produce(&options, &mut |line| said.push(line.to_string())).unwrap();
    let world = World::of(stochastic(Setting::Dealer), folder, false, true, |dealer| {
        dealer
    });
    let mut session = world
        .opener()
        .open_for(BUCKET, 3, CorrelationPreference::Preprocessed, None)
        .unwrap();
    assert_eq!(session.correlations, Correlations::Preprocessed);
    let (tokens, costs) = world.secure(&mut session, 3, 8, 2);
    check_near(&world, &tokens, 3, 8);
    assert_eq!(
        costs[0].rounds,
        tally_step(&world.spec, Selection::Greedy, 0, BUCKET)
            .unwrap()
            .rounds
    );
}

#[test]
fn parties_that_round_in_different_ways_refuse_each_other() {
    let randomness = world_of(stochastic(Setting::Dealer), false);
    let exact = World::new();
    for (mine, theirs) in [(&randomness, &exact), (&exact, &randomness)] {
        let opener = SessionOpener {
            dealer: HttpClient::new(theirs.parties.dealer.clone(), None),
            ..mine.opener_at(&theirs.parties.server, "stranger")
        };
        let error = opener.open().map(|_| ()).unwrap_err();
        assert!(
            matches!(
                error,
                ServingError::Session(SessionError::Refused { by: "server", .. })
            ),
            "{error}"
        );
        assert!(
            error.to_string().contains("disagree on `rounding`"),
            "{error}"
        );
    }
    let mut exact = exact;
    let id = "ab".repeat(32);
    exact.parameters.rounding = "down".into();
    let answer = exact.ask_with(&id, exact.ticket(&id), &[]);
    assert!(answer.status == 400 && String::from_utf8_lossy(&answer.body).contains("not `down`"));
}

/// Terms that say one thing and a program that is another come from a server that errs or cheats.
#[test]
fn terms_must_be_of_their_program() {
    let mut model = stochastic(Setting::Dealer);
    model.parameters.rounding = "exact".into();
    let world = world_of(model, false);
    let error = world.opener().open().map(|_| ()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("its program has rounding `stochastic`"),
        "{error}"
    );
}
