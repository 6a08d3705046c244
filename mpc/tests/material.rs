//! What point functions cost beside digits, for the shapes of SmolLM2-135M: exact numbers, so that a change of cost is a
//! decision.

use marill_mpc::masked::Cost;
use marill_mpc::material::tally_on;
use marill_mpc::{DecoderSpec, Material};
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
    }
}

/// One unmerged block: all of it, and its maximum.
fn block(rounding: Rounding, material: Material, cached: usize, rows: usize) -> [Cost; 2] {
    let sum = |layers| {
        let places = tally_on(&smollm2(layers, rounding), material, cached, rows).unwrap();
        let all = places.iter().fold(Cost::default(), |sum, (_, cost)| sum + *cost);
        let maximum = places.iter().find(|(place, _)| *place == "attention.max").unwrap().1;
        [all, maximum]
    };
    for (p, c) in tally_on(&smollm2(1, rounding), material, cached, rows).unwrap() {
        println!("{p} {c:?}");
    }
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
        println!("{rounding} {material} {all:?} {max:?}");
        assert_eq!((all.rounds - max.rounds, max.rounds), (without, maximum), "{rounding}, {material}");
    }
}
