//! Sampled tokens through dealer, server and client: a temperature next to nothing gives the
//! likeliest ones, a high one gives others, preprocessed correlations are for one way of choosing,
//! and a server may refuse.

use std::path::Path;

use marill_mpc::{Sampling, Selection, tally_step};
use marill_serving::{
    PreprocessingError, ServingError,
    client::CorrelationPreference,
    dealer::{DEFAULT_OWNER, PreprocessOptions, produce},
    local::Parties,
    preprocessing::SealingKey,
    server::PREPROCESSING_KEY_FILE,
    terms::Correlations,
};
use marill_testkit::parties::{World, tiny_model};

const BUCKET: usize = 16;

/// So little noise that a draw is the arg-max, unless two logits are nearly equal.
fn cold(top_k: Option<u32>) -> Option<Sampling> {
    Sampling::new(1e-5, top_k).unwrap()
}

#[test]
fn a_cold_draw_is_the_twins_token_at_the_tallied_cost() {
    let world = World::new();
    let opener = world.opener();
    for sampling in [cold(None), cold(Some(5))] {
        let mut session = opener.open_live(sampling).unwrap();
        let (tokens, costs) = world.secure(&mut session, 7, 11, 2);
        assert_eq!(tokens, world.twin(7, 11, 2), "{sampling:?}");
        let declared = tally_step(&world.spec, Selection::of(sampling), BUCKET, 1).unwrap();
        assert_eq!(costs[1].rounds, declared.rounds, "{sampling:?}");
        // The step's own announcement is five bytes.
        assert_eq!(
            costs[1].bytes_sent,
            declared.e0_to_e1_bytes + 5,
            "{sampling:?}"
        );
        assert_eq!(
            costs[1].bytes_received, declared.e1_to_e0_bytes,
            "{sampling:?}"
        );
    }
}

#[test]
fn a_warm_draw_differs_from_session_to_session() {
    let world = World::new();
    let opener = world.opener();
    let warm = Sampling::new(2.0, None).unwrap();
    let answers: Vec<Vec<u32>> = (0..6)
        .map(|_| {
            world
                .secure(&mut opener.open_live(warm).unwrap(), 7, 11, 2)
                .0
        })
        .collect();
    assert!(
        answers.iter().any(|answer| *answer != answers[0]),
        "{answers:?}"
    );
}

fn write_files(folder: &Path, selection: Selection, sessions: usize) {
    let request = folder.join("order.json");
    let key =
        SealingKey::read_or_create(&folder.join("server").join(PREPROCESSING_KEY_FILE)).unwrap();
    std::fs::write(
        &request,
        serde_json::to_vec(&tiny_model().request(&key)).unwrap(),
    )
    .unwrap();
    let vault = folder.join("vault");
    let owner = DEFAULT_OWNER.into();
    let state = folder.join("dealer");
    let folder = folder.join("files");
    let options = PreprocessOptions {
        state,
        vault,
        owner,
        folder,
        request,
        bucket: BUCKET,
        tokens: 3,
        selection,
        sessions,
        dry_run: false,
    };
    produce(&options, &mut |_| {}).unwrap();
}

#[test]
fn preprocessed_correlations_serve_one_selection() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), Selection::TopK, 2);
    let world = World::start(folder, false, true, |dealer| dealer);
    let opener = world.opener();
    for other in [None, cold(None)] {
        let error = opener
            .open_for(BUCKET, 3, CorrelationPreference::Preprocessed, other)
            .map(|_| ())
            .unwrap_err();
        assert!(
            matches!(
                error,
                ServingError::Preprocessing(PreprocessingError::NoneFits { .. })
            ),
            "{error}"
        );
    }
    let mut session = opener
        .open_for(
            BUCKET,
            3,
            CorrelationPreference::Preprocessed,
            cold(Some(9)),
        )
        .unwrap();
    assert_eq!(session.correlations, Correlations::Preprocessed);
    assert_eq!(world.secure(&mut session, 3, 8, 2).0, world.twin(3, 8, 2));
}

#[test]
fn a_server_may_give_the_likeliest_tokens_only() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = tiny_model();
    model.allow_sampling = false;
    let mut world = World::start(folder, false, false, |dealer| dealer);
    world.parties = Parties::start(model, &world.folder.path().join("other"), 2).unwrap();
    let opener = world.opener();
    let error = opener.open_live(cold(None)).map(|_| ()).unwrap_err();
    assert!(
        error.to_string().contains("decodes greedily only"),
        "{error}"
    );
    assert_eq!(
        world.secure(&mut opener.open().unwrap(), 3, 8, 1).0,
        world.twin(3, 8, 1)
    );
}
