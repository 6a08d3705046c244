//! Draws have softmax's distribution, parameters are checked, costs are the declared ones.

use std::sync::Arc;

use marill_crypto::Seed;

use super::*;
use crate::{
    ProgramSpec, cost::Cost, engine::Engine, random_model::tiny_spec,
    reference::twin::PlaintextEngine, sampling::*, tally_step, weights::PrivateWeights,
};

const LOGITS: [f64; 10] = [2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, 1.7, -2.5, -6.0];
const SAMPLES: usize = 40_000;

/// The program's own choices from `logits`, `SAMPLES` times with noise of one fixed stream.
fn draw(logits: &[f64], sampling: Sampling, frac_bits: u32) -> Vec<f64> {
    let mut clear = PlaintextEngine::new(Arc::<PrivateWeights>::default(), 0)
        .with_noise(&Seed::from_bytes([5; 32]));
    let unit = f64::from(frac_bits).exp2();
    let row: Vec<u64> = logits
        .iter()
        .map(|l| (l * unit).round() as i64 as u64)
        .collect();
    let wire = clear.input(Some(&row), 1, row.len(), 48).unwrap();
    let scale = sampling.temperature() * f64::from(FRAC_BITS).exp2();
    let mut counts = vec![0.0; logits.len()];
    for _ in 0..SAMPLES {
        let token = choose(&mut clear, &wire, frac_bits, sampling, scale)
            .unwrap()
            .unwrap();
        counts[token as usize] += 1.0;
    }
    counts
}

/// `softmax(logits / temperature)` over those at or above `least`.
fn softmax(logits: &[f64], temperature: f64, least: f64) -> Vec<f64> {
    let weight = |l: &f64| {
        if *l >= least {
            (l / temperature).exp()
        } else {
            0.0
        }
    };
    let sum: f64 = logits.iter().map(weight).sum();
    logits.iter().map(|l| weight(l) / sum).collect()
}

/// Chi-square over the classes that are expected at least five times, with its degrees of freedom;
/// the others must be rare.
fn chi_square(counts: &[f64], expected: &[f64]) -> (f64, f64) {
    let mut sum = (0.0, -1.0);
    for (count, p) in counts.iter().zip(expected) {
        let mean = p * SAMPLES as f64;
        if mean < 5.0 {
            // A Poisson count of mean below 5 exceeds 20 less than once in a million.
            assert!(*count <= 20.0, "{count} of a class expected {mean} times");
        } else {
            sum.0 += (count - mean).powi(2) / mean;
            sum.1 += 1.0;
        }
    }
    sum
}

/// The mean of chi-square is its degrees of freedom, its variance twice that; this is far above
/// four deviations only where the distribution is another one.
fn plausible((value, freedom): (f64, f64)) -> bool {
    value < freedom + 4.5 * (2.0 * freedom).sqrt() + 4.0
}

#[test]
fn draws_follow_softmax_at_the_temperature_and_no_other() {
    for temperature in [0.5, 1.0, 1.5] {
        let sampling = Sampling::new(temperature, None).unwrap().unwrap();
        let counts = draw(&LOGITS, sampling, 30);
        assert!(
            plausible(chi_square(
                &counts,
                &softmax(&LOGITS, temperature, f64::MIN)
            )),
            "{temperature}: {counts:?}"
        );
        let warmer = softmax(&LOGITS, temperature * 1.1, f64::MIN);
        assert!(
            !plausible(chi_square(&counts, &warmer)),
            "the test would not see a temperature off by a tenth"
        );
    }
}

#[test]
fn top_k_draws_from_the_k_likeliest_and_ties_stay() {
    for (k, least) in [(2, 1.7), (4, 1.0), (9, -2.5), (64, f64::MIN)] {
        let counts = draw(&LOGITS, Sampling::new(1.5, Some(k)).unwrap().unwrap(), 30);
        let expected = softmax(&LOGITS, 1.5, least);
        assert!(plausible(chi_square(&counts, &expected)), "{k}: {counts:?}");
        let out = counts
            .iter()
            .zip(&expected)
            .filter(|(_, p)| **p == 0.0)
            .map(|(c, _)| c)
            .sum::<f64>();
        assert_eq!(out, 0.0, "nothing below the k-th");
    }
    let tied = [1.0, 3.0, 1.0, -4.0, 1.0 - 0.9 / 512.0];
    let counts = draw(&tied, Sampling::new(1.0, Some(2)).unwrap().unwrap(), 16);
    assert!(
        counts[0] > 0.0 && counts[2] > 0.0,
        "equals of the second are kept: {counts:?}"
    );
    assert_eq!(
        (counts[3], counts[4]),
        (0.0, 0.0),
        "the grid starts at a multiple of 1/512"
    );
}

#[test]
fn parameters_without_freedom_are_greedy_and_bad_ones_are_named() {
    assert_eq!(Sampling::new(0.0, Some(40)).unwrap(), None);
    assert_eq!(Sampling::new(1.0, Some(1)).unwrap(), None);
    for (temperature, top_k, field) in [
        (2.1, None, "temperature"),
        (f64::NAN, None, "temperature"),
        (-0.1, None, "temperature"),
        (1.0, Some(0), "top_k"),
    ] {
        let error = Sampling::new(temperature, top_k).unwrap_err();
        assert!(error.to_string().contains(field), "{error}");
    }
    let json = serde_json::to_string(&Sampling::new(0.7, Some(40)).unwrap()).unwrap();
    assert_eq!(json, r#"{"temperature":0.7,"top_k":40}"#);
    for bad in [
        r#"{"temperature":9}"#,
        r#"{"temperature":0}"#,
        r#"{"temperature":1,"top_k":0}"#,
        r#"{"top_k":3}"#,
    ] {
        assert!(serde_json::from_str::<Sampling>(bad).is_err(), "{bad}");
    }
}

/// Beside a greedy token behind 128 keys, for SmolLM2's head.
#[test]
fn sampling_costs_what_the_documentation_says() {
    let spec = ProgramSpec {
        hidden_size: 576,
        vocab_size: 49_152,
        max_positions: 256,
        head_groups: vec![vec![(0..6).collect()]; 2],
        ..tiny_spec()
    };
    let cost = |selection| tally_step(&spec, selection, 127, 1).unwrap();
    let greedy = cost(Selection::Greedy);
    let more = |selection, f: fn(&Cost) -> u64| f(&cost(selection)) as i64 - f(&greedy) as i64;
    for (selection, rounds, client, server, corrections) in [
        (Selection::Temperature, 12, 90_018, 245_346, -319_076),
        (Selection::TopK, 12 + 67, 4_391_043, 4_546_371, 13_493_725),
    ] {
        let all = [
            more(selection, |c| c.rounds),
            more(selection, |c| c.e0_to_e1_bytes),
            more(selection, |c| c.e1_to_e0_bytes),
            more(selection, |c| c.dealer_to_e1_bytes),
        ];
        assert_eq!(all, [rounds, client, server, corrections], "{selection:?}");
    }
}
