//! Every value of a session is the twin's, and what it sends has sizes that shapes give.

use super::*;

#[test]
fn every_intermediate_value_equals_the_twins() {
    for (seed, fixture) in [
        (0, Fixture::new(0)),
        (1, Fixture::new(1)),
        (2, Fixture::new(2)),
        (2, Fixture::gpt2(2)),
    ] {
        every_value_is_the_twins(&fixture, seed, |fixture, input, _| fixture.twin(input));
    }
    for fixture in [Fixture::full(2), Fixture::full_gpt2(2)] {
        every_value_is_the_twins(&fixture, 2, |fixture, input, _| fixture.twin(input));
    }
    for fixture in [Fixture::new(1).uses_dcf(), Fixture::gpt2(2).uses_dcf()] {
        every_value_is_the_twins(&fixture, 1, |fixture, input, _| fixture.twin(input));
    }
}

#[test]
fn approximations_are_the_twins_with_either_comparison() {
    for approx in marill_numeric::approx::EACH {
        for fixture in [
            Fixture::approximated(approx, 1),
            Fixture::approximated(approx, 1).uses_dcf(),
        ] {
            every_value_is_the_twins(&fixture, 1, |fixture, input, _| fixture.twin(input));
        }
    }
}

#[test]
fn layers_may_have_other_heads_than_each_other() {
    let mixed = || Fixture::mixed_heads(1);
    let full = Fixture::with(
        random_weights(&with_private_matrices(mixed().spec().clone()), 1),
        1,
    );
    for fixture in [mixed(), mixed().uses_dcf(), full] {
        every_value_is_the_twins(&fixture, 1, |fixture, input, _| fixture.twin(input));
    }
}

/// Keys of padding weigh exactly nothing in every layer, head and row, and the others something.
#[test]
fn padded_keys_have_no_weight_in_any_approximation() {
    for approx in marill_numeric::approx::EACH {
        let fixture = Fixture::approximated(approx, 3);
        let tokens = 11;
        let spec = fixture.spec();
        let bucket = spec.bucket(tokens);
        let (_, trace) = fixture.twin(&fixture.input(3, tokens));
        let weights: Vec<_> = trace
            .iter()
            .filter(|(label, _)| *label == "attention.weights")
            .collect();
        // The last layer asks for one row, and so does the second step.
        let groups = spec.head_groups[0].len();
        let first = &weights[0].1;
        assert_eq!(first.len(), groups * bucket * (bucket + 1) / 2);
        let mut at = 0;
        let mut some = 0;
        for _ in 0..groups {
            for row in 0..bucket {
                let (padded, real) =
                    first[at..at + row + 1].split_at((row + 1).min(bucket - tokens));
                let nobody_reads = approx.softmax.is_none() && real.is_empty();
                assert!(nobody_reads || padded.iter().all(|w| *w == 0), "{approx:?}");
                some += usize::from(real.iter().any(|w| *w > 0));
                at += row + 1;
            }
        }
        // A row of negative scores has no weight in `2relu`; not every row is one.
        assert!(some > groups * tokens / 2, "{approx:?}: {some}");
        let (_, last) = weights.last().unwrap();
        for row in last.chunks_exact(bucket + 1) {
            assert!(row[..bucket - tokens].iter().all(|w| *w == 0), "{approx:?}");
        }
    }
}

/// The twin that rounds with the randomness of the session computes the session's integers; without
/// them it samples its own.
#[test]
fn stochastic_values_are_the_twins_given_the_randomness() {
    let fixture = Fixture::stochastic(7);
    every_value_is_the_twins(&fixture, 1, |fixture, input, run| {
        fixture.twin_with(input, Some(run.randomness.clone()), Vec::new())
    });
    let input = fixture.input(1, 11);
    assert_ne!(fixture.twin(&input), fixture.twin(&input));
    every_value_is_the_twins(&fixture.uses_dcf(), 1, |fixture, input, run| {
        fixture.twin_with(input, Some(run.randomness.clone()), Vec::new())
    });
}

/// The twin that is given the server's noise computes the session's integers, at every label of a
/// sampled step too.
#[test]
fn sampled_values_are_the_twins_given_the_noise() {
    let gpt2 = || Fixture::gpt2(2).sampling(0.7, Some(40));
    let uses_dcf = || Fixture::new(2).sampling(0.9, Some(4)).uses_dcf();
    for fixture in [
        Fixture::new(1).sampling(0.7, None),
        Fixture::new(1).sampling(1.3, Some(5)),
        gpt2(),
        uses_dcf(),
    ] {
        every_value_is_the_twins(&fixture, 1, |fixture, input, run| {
            fixture.twin_with(input, None, run.noise.clone())
        });
        let input = fixture.input(1, 11);
        let many = 8;
        let tokens: Vec<_> = (0..many)
            .map(|_| fixture.record(&input, None).tokens)
            .collect();
        assert!(
            tokens.iter().any(|t| *t != tokens[0]),
            "noise is sampled afresh: {tokens:?}"
        );
    }
    let fixture = Fixture::stochastic(7).sampling(1.0, Some(3));
    every_value_is_the_twins(&fixture, 1, |fixture, input, run| {
        fixture.twin_with(input, Some(run.randomness.clone()), run.noise.clone())
    });
}

pub(super) fn every_value_is_the_twins(
    fixture: &Fixture,
    seed: u64,
    twin: impl Fn(&Fixture, &Input, &Recording) -> TwinRun,
) {
    let input = fixture.input(seed, 4 + 7 * seed as usize);
    let run = fixture.record(&input, None);
    let (tokens, trace) = twin(fixture, &input, &run);
    assert_eq!(run.tokens, tokens, "seed {seed}");
    let mut expected: HashMap<_, Vec<_>> = HashMap::new();
    trace
        .into_iter()
        .for_each(|(label, values)| expected.entry(label).or_default().push(values));
    let got = reconstruct(&run);
    assert_eq!(got.len(), expected.len());
    let mut compared = 0;
    for (label, values) in expected {
        assert_eq!(got[label].len(), values.len(), "{label}");
        for ((bits, got), expected) in got[label].iter().zip(&values) {
            let modulus = marill_numeric::fixed::low_mask(*bits);
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                assert_eq!(
                    got & modulus,
                    expected & modulus,
                    "seed {seed}, {label}, element {i}"
                );
                compared += 1;
            }
        }
    }
    // A session of this model has more values; less means that a trace broke off.
    assert!(compared > 10_000, "the traces hold the whole session");
}

#[test]
fn frames_have_the_same_sizes_for_any_two_prompts_of_a_bucket() {
    let fixture = Fixture::new(1);
    let sizes = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).collect::<Vec<_>>();
    let short = fixture.record(&fixture.input(5, 2), None);
    let long = fixture.record(&fixture.input(6, 16), None);
    assert_eq!(sizes(&short.client_frames), sizes(&long.client_frames));
    assert_eq!(sizes(&short.server_frames), sizes(&long.server_frames));
    assert_eq!(sizes(&short.corrections), sizes(&long.corrections));
    let fixture = fixture.uses_dcf();
    let short = fixture.record(&fixture.input(5, 2), None);
    let long = fixture.record(&fixture.input(6, 16), None);
    assert_eq!(sizes(&short.server_frames), sizes(&long.server_frames));
    assert_eq!(
        (sizes(&short.corrections), sizes(&short.dcf_keys)),
        (sizes(&long.corrections), sizes(&long.dcf_keys))
    );
}
