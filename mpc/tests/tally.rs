//! What DCF costs beside one-hot comparisons, for the shapes of SmolLM2-135M: exact numbers, so
//! that a change of cost is a decision.
//! Where `<=` stands, the number is a budget, not what a step takes today.

use marill_mpc::{Comparison, ProgramSpec, cost::Cost, tally::tally_on};
use marill_numeric::{NumericSpec, Rounding};

fn smollm2(layers: usize, rounding: Rounding) -> ProgramSpec {
    ProgramSpec {
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
        head_weights: Vec::new(),
        lora_rank: 8,
        lora_ranks: Vec::new(),
        numeric: NumericSpec::with_rounding(rounding),
        architecture: Default::default(),
        private: Default::default(),
        approx: Default::default(),
        variant: Default::default(),
    }
}

/// One unmerged block: all of it, and its maximum.
fn block(rounding: Rounding, comparison: Comparison, cached: usize, rows: usize) -> [Cost; 2] {
    let sum = |layers| {
        let labels = tally_on(&smollm2(layers, rounding), comparison, cached, rows).unwrap();
        let all = labels
            .iter()
            .fold(Cost::default(), |sum, (_, cost)| sum + *cost);
        let maximum = labels
            .iter()
            .find(|(label, _)| *label == "attention.max")
            .unwrap()
            .1;
        [all, maximum]
    };
    let [three, three_max] = sum(3);
    let [two, two_max] = sum(2);
    [three - two, three_max - two_max]
}

#[test]
fn a_decoded_token_of_a_block_keeps_to_its_rounds() {
    for (rounding, comparison, without, maximum) in [
        (Rounding::Exact, Comparison::OneHot, 52, 21),
        (Rounding::Exact, Comparison::Dcf, 29, 7),
        (Rounding::Stochastic, Comparison::OneHot, 36, 21),
        (Rounding::Stochastic, Comparison::Dcf, 29, 7),
    ] {
        let [all, max] = block(rounding, comparison, 127, 1);
        assert_eq!(
            (all.rounds - max.rounds, max.rounds),
            (without, maximum),
            "{rounding}, {comparison}"
        );
    }
}

#[test]
fn both_parties_receive_the_words_of_a_decoded_token() {
    let [all, _] = block(Rounding::Exact, Comparison::Dcf, 127, 1);
    assert!(
        all.dealer_to_e0_bytes <= 8_650_000 && all.dealer_to_e1_bytes <= 9_700_000,
        "{all:?}"
    );
    assert!(
        all.e0_to_e1_bytes.max(all.e1_to_e0_bytes) <= 207_000,
        "{all:?}"
    );
}

/// A prompt's gates are large and stay one-hot; a short one's sums of squares are not.
#[test]
fn a_prompt_costs_little_more_with_dcf_than_one_hot() {
    let both = |rows| {
        [Comparison::Dcf, Comparison::OneHot]
            .map(|comparison| block(Rounding::Exact, comparison, 0, rows)[0])
    };
    let [dcf, one_hot] = both(16);
    assert!(dcf.rounds < one_hot.rounds, "{dcf:?} {one_hot:?}");
    assert!(dcf.dealer_to_e0_bytes <= 2_240_000, "{dcf:?}");
    let [dcf, one_hot] = both(128);
    assert!(
        dcf.rounds <= one_hot.rounds && dcf.dealer_to_e0_bytes <= 5_000_000,
        "{dcf:?} {one_hot:?}"
    );
}
