//! What point functions cost beside digits, for the shapes of SmolLM2-135M: exact numbers, so that
//! a change of cost is a decision.

use std::time::Duration;

use marill_mpc::{
    DecoderSpec, Material,
    masked::Cost,
    material::{Network, estimates, tally_on},
};
use marill_numeric::{NumericSpec, Rounding};

fn smollm2(layers: usize, rounding: Rounding) -> DecoderSpec {
    DecoderSpec {
        hidden_size: 576,
        intermediate_size: 1536,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        vocab_size: 2,
        num_layers: layers,
        max_positions: 2032,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        attn_scale: vec![0.125; layers],
        head_groups: vec![(0..9).map(|h| vec![h]).collect(); layers],
        lora_rank: 8,
        numeric: NumericSpec::with_rounding(rounding),
        architecture: Default::default(),
        private: Default::default(),
    }
}

/// One unmerged block: all of it, and its maximum.
fn block(rounding: Rounding, material: Material, cached: usize, rows: usize) -> [Cost; 2] {
    let sum = |layers| {
        let places = tally_on(&smollm2(layers, rounding), material, cached, rows).unwrap();
        let all = places
            .iter()
            .fold(Cost::default(), |sum, (_, cost)| sum + *cost);
        let maximum = places
            .iter()
            .find(|(place, _)| *place == "attention.max")
            .unwrap()
            .1;
        [all, maximum]
    };
    let ([three, three_max], [two, two_max]) = (sum(3), sum(2));
    [three - two, three_max - two_max]
}

#[test]
fn a_decoded_token_of_a_block_keeps_to_its_rounds() {
    for (rounding, material, without, maximum) in [
        (Rounding::Exact, Material::Digits, 52, 21),
        (Rounding::Exact, Material::Points, 29, 7),
        (Rounding::Stochastic, Material::Digits, 36, 21),
        (Rounding::Stochastic, Material::Points, 29, 7),
    ] {
        let [all, max] = block(rounding, material, 127, 1);
        assert_eq!(
            (all.rounds - max.rounds, max.rounds),
            (without, maximum),
            "{rounding}, {material}"
        );
    }
}

#[test]
fn both_evaluators_receive_the_correction_words_of_a_decoded_token() {
    let [all, _] = block(Rounding::Exact, Material::Points, 127, 1);
    assert!(
        all.source_to_e0_bytes <= 8_650_000 && all.source_to_e1_bytes <= 9_700_000,
        "{all:?}"
    );
    assert!(
        all.e0_to_e1_bytes.max(all.e1_to_e0_bytes) <= 207_000,
        "{all:?}"
    );
}

/// A prompt's gates are large and keep to digits; a short one's sums of squares are not.
#[test]
fn a_prompt_costs_little_more_on_points_than_on_digits() {
    let both = |rows| {
        [Material::Points, Material::Digits]
            .map(|material| block(Rounding::Exact, material, 0, rows)[0])
    };
    let [points, digits] = both(16);
    assert!(points.rounds < digits.rounds, "{points:?} {digits:?}");
    assert!(points.source_to_e0_bytes <= 2_240_000, "{points:?}");
    let [points, digits] = both(128);
    assert!(
        points.rounds <= digits.rounds && points.source_to_e0_bytes <= 5_000_000,
        "{points:?} {digits:?}"
    );
}

#[test]
fn a_slow_network_calls_for_points_and_a_quick_one_for_digits() {
    let spec = smollm2(2, Rounding::Exact);
    let choice = |round_trip_ms: f64, mbps: f64| {
        let network = Network {
            one_way_delay: Duration::from_secs_f64(round_trip_ms / 2e3),
            bits_per_second: mbps * 1e6,
        };
        let [best, other] = estimates(&spec, &network, 127, 1).unwrap();
        assert!(best.seconds <= other.seconds && best.material != other.material);
        best.material
    };
    assert_eq!(choice(40.0, 200.0), Material::Points);
    assert_eq!(choice(0.2, 10_000.0), Material::Digits);
    assert_eq!(choice(40.0, 20.0), Material::Digits, "a thin link");
    assert_eq!(choice(200.0, 100.0), Material::Points);
}
