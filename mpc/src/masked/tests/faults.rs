//! What is damaged on the way changes the answer or ends the session.

use super::*;

#[test]
fn a_changed_correction_changes_what_is_computed() {
    let fixture = Fixture::new(5);
    let input = fixture.input(11, 3);
    let honest = fixture.record(&input, None);
    let total: usize = honest.corrections.iter().map(Vec::len).sum();
    let values = |run: &Recording| reconstruct(run);
    let expected = values(&honest);
    let mut changed = 0;
    for k in 0..16 {
        // A bit may fall on a mask monomial whose public coefficient is zero; most do not.
        let run = fixture.record(&input, Some(total * 9 / 10 * k / 16 + 5));
        changed += usize::from(values(&run) != expected || run.tokens != honest.tokens);
    }
    // Half of them: see why above.
    assert!(changed >= 8, "only {changed} of 16 changes had an effect");
}

/// Words that are changed, out of order or missing give other values or an error, never a panic;
/// the server, whose words are its own, is not disturbed.
#[test]
fn damaged_correction_words_spoil_or_end_the_session() {
    let fixture = Fixture::new(5).uses_dcf();
    let input = fixture.input(11, 3);
    let honest = fixture.record(&input, None);
    let dcf_keys = honest.dcf_keys.concat();
    let replay = |dcf_keys: Vec<Vec<u8>>| {
        let log: Log = Default::default();
        let client = fixture.client(Replay::new(honest.server_frames.clone(), &log));
        let mut client = fixture.with_dcf_keys(client, Replay::new(dcf_keys, &log));
        fixture
            .try_steps(&mut client, Some(&input), 16)
            .map(|tokens| (tokens, Record::of(&mut client).trace))
    };
    let (tokens, trace) = replay(honest.dcf_keys.clone()).unwrap();
    assert!(tokens == honest.tokens && trace == honest.client_trace);
    let mut changed = 0;
    for k in 0..16 {
        let mut damaged = dcf_keys.clone();
        damaged[dcf_keys.len() * k / 16 + 5] ^= 1;
        changed += usize::from(replay(vec![damaged]).unwrap().1 != honest.client_trace);
    }
    // E0 applies a word to half of its nodes only, and reads the values of one child.
    assert!(changed >= 3, "only {changed} of 16 changes had an effect");
    let half = dcf_keys.len() / 2;
    let (_, other) = replay(vec![dcf_keys[half..].to_vec(), dcf_keys[..half].to_vec()]).unwrap();
    assert!(
        other != honest.client_trace,
        "keys out of order change what is computed"
    );
    let error = replay(vec![dcf_keys[..half].to_vec()]).unwrap_err();
    assert!(error.to_string().starts_with("lost the dealer"), "{error}");
    let log: Log = Default::default();
    let mut client = fixture
        .client(Replay::new(honest.server_frames.clone(), &log))
        .with_comparison(Comparison::Dcf);
    let error = fixture
        .try_steps(&mut client, Some(&input), 16)
        .unwrap_err();
    assert!(error.to_string().contains("DCF"), "{error}");
}

#[test]
fn a_short_message_ends_the_session_naming_the_step() {
    let fixture = Fixture::new(6);
    let input = fixture.input(12, 3);
    let mut frames = fixture.record(&input, None).server_frames;
    frames[5].pop();
    let log: Log = Default::default();
    let mut client = fixture.client(Replay::new(frames.clone(), &log));
    let error = fixture
        .try_steps(&mut client, Some(&input), 16)
        .unwrap_err();
    assert!(error.to_string().contains("in step `"), "{error}");
    frames.truncate(5);
    let mut client = fixture.client(Replay::new(frames, &log));
    let error = fixture
        .try_steps(&mut client, Some(&input), 16)
        .unwrap_err();
    assert!(
        error.to_string().starts_with("lost the peer in step"),
        "{error}"
    );
}
