//! Preprocessed correlations: whole sessions from files, one use at each party, damaged files.

mod damage;
mod files;
mod price;
mod restored;

use std::fs;

use marill_mpc::{PrivateProducts, tally_decode, tally_prefill};
use marill_serving::{
    client::CorrelationPreference,
    dealer::{PreprocessOptions, produce},
    preprocessing::SealingKey,
    terms::Correlations,
};
use marill_testkit::parties::{World, tiny_model};

use crate::files::{
    BUCKET, TOKENS, assert_none_fits, files, from_file, no_file, options, session_of, started,
    write_files, write_files_of,
};

#[test]
fn a_session_from_a_file_gives_the_twins_tokens() {
    let folder = tempfile::tempdir().unwrap();
    let written = write_files(folder.path(), 2);
    let spec = tiny_model().spec;
    let mut declared = tally_prefill(&spec, BUCKET).unwrap().dealer_to_e1_bytes;
    declared += (1..TOKENS)
        .map(|step| {
            tally_decode(&spec, BUCKET + step - 1)
                .unwrap()
                .dealer_to_e1_bytes
        })
        .sum::<u64>();
    let bytes = fs::metadata(&written[0]).unwrap().len();
    assert!(
        bytes > declared && bytes < declared + declared / 100 + 8192,
        "{bytes} for {declared}"
    );

    let world = started(folder);
    let opener = world.opener();
    for seed in [1, 2] {
        let mut session = opener
            .open_for(BUCKET, TOKENS, CorrelationPreference::Any, None)
            .unwrap();
        assert_eq!(session.correlations, Correlations::Preprocessed);
        let (tokens, _) = world.secure(&mut session, seed, 11, TOKENS as u64 - 1);
        assert_eq!(tokens, world.twin(seed, 11, TOKENS as u64 - 1));
        assert_eq!(
            world.parties.active()[0],
            0,
            "no session runs at the dealer"
        );
    }
    assert!(
        files(world.folder.path()).is_empty(),
        "a used file is removed"
    );
    // Seeds and heads of HTTP, no corrections.
    assert!(
        opener.dealer.count.received_bytes() < 8 << 10,
        "the client downloads its seeds"
    );

    // All are used: a session whose correlations are streamed follows, unless the client wants
    // none.
    assert_none_fits(&no_file(&opener), "all are used");
    let mut session = opener
        .open_for(BUCKET, TOKENS, CorrelationPreference::Any, None)
        .unwrap();
    assert_eq!(session.correlations, Correlations::Live);
    assert_eq!(world.secure(&mut session, 3, 5, 1).0, world.twin(3, 5, 1));
}

#[test]
fn a_file_may_leave_private_products_to_a_lattice() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = tiny_model();
    model.parameters = model
        .parameters
        .with_private_products(PrivateProducts::Lattice);
    write_files_of(&model, folder.path(), 1);
    let world = World::of(model, folder, false, true, |dealer| dealer);
    let mut session = world
        .opener()
        .open_for(BUCKET, TOKENS, CorrelationPreference::Preprocessed, None)
        .unwrap();
    let (tokens, _) = world.secure(&mut session, 1, 11, TOKENS as u64 - 1);
    assert_eq!(tokens, world.twin(1, 11, TOKENS as u64 - 1));
    assert!(session.offline().is_some());
}

#[test]
fn a_longer_answer_or_another_bucket_finds_no_file() {
    let folder = tempfile::tempdir().unwrap();
    write_files(folder.path(), 1);
    let world = started(folder);
    let opener = world.opener();
    for (bucket, tokens) in [(BUCKET, TOKENS + 1), (2 * BUCKET, TOKENS)] {
        assert!(
            opener
                .open_for(bucket, tokens, CorrelationPreference::Preprocessed, None)
                .is_err()
        );
    }
    // Who asks for more steps than a file has is refused, and the file is used up.
    let mut session = from_file(&opener).unwrap();
    session.prefill(&world.rows(5, 4), 4).unwrap();
    for _ in 1..TOKENS {
        session.decode(&world.rows(6, 1)).unwrap();
    }
    let error = session.decode(&world.rows(6, 1)).unwrap_err().to_string();
    assert!(error.contains("used up"), "{error}");
}

#[test]
fn what_lies_in_a_backup_opens_nothing_without_the_vault() {
    let folder = tempfile::tempdir().unwrap();
    let file = write_files(folder.path(), 1).remove(0);
    let session = session_of(&file);
    fs::rename(folder.path().join("vault"), folder.path().join("elsewhere")).unwrap();
    let world = started(folder);
    let answer = world.ask_with(&"ab".repeat(32), world.ticket(&"ab".repeat(32)), &[session]);
    assert_eq!(answer.status, 409);
    // The same dealer finds its vault again.
    fs::rename(
        world.folder.path().join("elsewhere"),
        world.folder.path().join("vault"),
    )
    .unwrap();
    let mut session = from_file(&world.opener()).unwrap();
    assert_eq!(world.secure(&mut session, 5, 4, 3).0, world.twin(5, 4, 3));
}

#[test]
fn a_request_that_does_not_fit_is_refused_before_any_write() {
    let folder = tempfile::tempdir().unwrap();
    let key = SealingKey::read_or_create(&folder.path().join("key")).unwrap();
    let path = folder.path().join("order.json");
    let good = serde_json::to_value(tiny_model().request(&key)).unwrap();
    let attempt = |request: &serde_json::Value, bucket: usize, tokens: usize, sessions: usize| {
        fs::write(&path, request.to_string()).unwrap();
        let options = PreprocessOptions {
            bucket,
            tokens,
            sessions,
            ..options(folder.path(), path.clone())
        };
        produce(&options, &mut |_| {}).unwrap_err().to_string()
    };
    let limit = tiny_model().spec.max_positions;
    assert!(attempt(&good, 17, 1, 1).contains("multiples of 16"));
    assert!(attempt(&good, 16, limit, 1).contains("tokens fit"));
    assert!(attempt(&good, 16, 4, 1 << 40).contains("bytes free"));
    for (pointer, value, expected) in [
        ("/format", serde_json::json!(9), "format 9"),
        ("/server_key", serde_json::json!("00"), "server_key"),
        (
            "/server_key",
            serde_json::json!("00".repeat(32)),
            "no proper key",
        ),
        (
            "/terms/rounding",
            serde_json::json!("stochastic"),
            "rounding",
        ),
        ("/terms/spec_sha256", serde_json::json!("00"), "digest"),
    ] {
        let mut request = good.clone();
        *request.pointer_mut(pointer).unwrap() = value;
        let said = attempt(&request, 16, 4, 1);
        assert!(said.contains(expected), "{pointer}: {said}");
    }
    let left = folder.path().join("files");
    assert!(!left.is_dir() || files(folder.path()).is_empty());
}
