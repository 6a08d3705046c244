//! What a step costs for the shapes of SmolLM2-135M with 15 private layers, merged heads and rank 8: exact numbers, so
//! that a change of cost is a decision.

use marill_mpc::{DecoderSpec, tally_decode, tally_prefill};
use marill_numeric::NumericSpec;

fn smollm2(layers: usize) -> DecoderSpec {
    DecoderSpec {
        hidden_size: 576,
        intermediate_size: 1536,
        num_attention_heads: 9,
        num_key_value_heads: 3,
        head_dim: 64,
        vocab_size: 49_152,
        num_layers: layers,
        max_positions: 2048,
        rms_norm_eps: 1e-5,
        rope_theta: 100_000.0,
        head_groups: vec![vec![vec![0, 3, 6], vec![1, 4, 7], vec![2, 5, 8]]; layers],
        attn_scale: vec![1.0 / 192f64.sqrt(); layers],
        lora_rank: 8,
        numeric: NumericSpec::default(),
        architecture: Default::default(),
    }
}

#[test]
fn a_decoded_token_at_128_keys_keeps_to_its_budget() {
    let (all, fewer) = (tally_decode(&smollm2(15), 127).unwrap(), tally_decode(&smollm2(14), 127).unwrap());
    let layer = all - fewer;
    assert_eq!(layer.rounds, 88, "rounds a layer, 21 of them for the maximum");
    assert_eq!(all.rounds, 15 * 88 + 64 + 1, "layers, a tournament of 16 levels, the token");
    assert!(all.e0_to_e1_bytes <= 4_000_000 && all.e1_to_e0_bytes <= 4_000_000, "{all:?}");
    assert!(layer.source_to_e1_bytes <= 1_300_000, "{layer:?}");
}

#[test]
fn a_prompt_of_64_tokens_keeps_to_its_budget() {
    let cost = tally_prefill(&smollm2(15), 64).unwrap();
    assert!(cost.rounds <= 1_400, "{cost:?}");
    assert!(cost.e0_to_e1_bytes <= 190_000_000 && cost.source_to_e1_bytes <= 1_100_000_000, "{cost:?}");
}
