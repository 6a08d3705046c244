//! What a step costs for the shapes of SmolLM2-135M with 15 private layers, merged heads and rank 8: exact numbers, so
//! that a change of cost is a decision.

use marill_mpc::{DecoderSpec, tally_decode, tally_prefill};
use marill_numeric::{NumericSpec, Rounding};

fn smollm2(layers: usize) -> DecoderSpec {
    with_groups(layers, vec![vec![0, 3, 6], vec![1, 4, 7], vec![2, 5, 8]])
}

fn with_groups(layers: usize, groups: Vec<Vec<usize>>) -> DecoderSpec {
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
        attn_scale: vec![1.0 / (64.0 * groups[0].len() as f64).sqrt(); layers],
        head_groups: vec![groups; layers],
        lora_rank: 8,
        numeric: NumericSpec::default(),
        architecture: Default::default(),
        private: Default::default(),
    }
}

#[test]
fn a_decoded_token_at_128_keys_keeps_to_its_budget() {
    let (all, fewer) = (tally_decode(&smollm2(15), 127).unwrap(), tally_decode(&smollm2(14), 127).unwrap());
    let layer = all - fewer;
    assert_eq!(layer.rounds, 73, "rounds a layer, 21 of them for the maximum");
    assert_eq!(all.rounds, 15 * 73 + 2 * 4 + 14 * 3 + 1, "layers, a tournament of 16 levels, the token");
    assert!(all.e0_to_e1_bytes <= 4_000_000 && all.e1_to_e0_bytes <= 4_000_000, "{all:?}");
    assert!(layer.source_to_e1_bytes <= 1_550_000, "{layer:?}");
}

#[test]
fn a_prompt_of_64_tokens_keeps_to_its_budget() {
    let cost = tally_prefill(&smollm2(15), 64).unwrap();
    assert!(cost.rounds <= 1_500, "{cost:?}");
    assert!(cost.e0_to_e1_bytes <= 167_000_000 && cost.source_to_e1_bytes <= 625_000_000, "{cost:?}");
}

/// One block with a softmax a head, for comparison with systems that merge nothing.
#[test]
fn an_unmerged_block_keeps_to_its_budget() {
    let block = |layers| with_groups(layers, (0..9).map(|h| vec![h]).collect());
    let decode = tally_decode(&block(3), 127).unwrap() - tally_decode(&block(2), 127).unwrap();
    assert_eq!(decode.rounds, 73, "52 without the maximum");
    assert!(decode.e0_to_e1_bytes.max(decode.e1_to_e0_bytes) <= 200_000, "{decode:?}");
    let prefill = tally_prefill(&block(3), 128).unwrap() - tally_prefill(&block(2), 128).unwrap();
    assert!(prefill.e0_to_e1_bytes.max(prefill.e1_to_e0_bytes) <= 24_100_000, "{prefill:?}");
    assert!(prefill.source_to_e1_bytes <= 94_000_000, "{prefill:?}");
}

/// Rounding by coin needs no comparison behind a truncation.
#[test]
fn stochastic_rounding_saves_rounds_and_bytes() {
    let block = |layers| DecoderSpec {
        numeric: NumericSpec::with_rounding(Rounding::Stochastic),
        ..with_groups(layers, (0..9).map(|h| vec![h]).collect())
    };
    let decode = tally_decode(&block(3), 127).unwrap() - tally_decode(&block(2), 127).unwrap();
    let prefill = tally_prefill(&block(3), 128).unwrap() - tally_prefill(&block(2), 128).unwrap();
    assert_eq!(decode.rounds, 57, "36 without the maximum");
    assert!(decode.e0_to_e1_bytes <= 188_000 && decode.source_to_e1_bytes <= 1_060_000, "{decode:?}");
    assert!(prefill.e0_to_e1_bytes <= 22_000_000 && prefill.source_to_e1_bytes <= 64_500_000, "{prefill:?}");
}

#[test]
fn an_argmax_over_49152_logits_keeps_to_its_budget() {
    let vocab = |size| DecoderSpec { vocab_size: size, ..smollm2(1) };
    let cost = tally_decode(&vocab(49_152), 127).unwrap() - tally_decode(&vocab(2), 127).unwrap();
    // One match remains for two logits.
    assert_eq!(cost.rounds + 3, 50);
    assert!(cost.e0_to_e1_bytes <= 1_500_000 && cost.e1_to_e0_bytes <= 1_500_000, "{cost:?}");
}
