//! What a step costs for the shapes of SmolLM2-135M with 15 private layers, merged heads and rank
//! 8: exact numbers, so that a change of cost is a decision.
//! Where `<=` stands, the number is the budget that a step was built for, not what it takes today.

use marill_mpc::{
    Comparison, EncryptedAdapter, MaskedAdapter, PrivateProducts, ProgramSpec, Selection,
    cost::Cost,
    masked::prepared_bytes,
    random_model::with_private_matrices,
    tally_decode, tally_prefill, tally_two_party, tally_with,
    two_party::{Products, lpn_set_for, tally_made_ahead},
};
use marill_numeric::{Approximations, NumericSpec, Rounding, approx};

fn smollm2(layers: usize) -> ProgramSpec {
    with_groups(layers, vec![vec![0, 3, 6], vec![1, 4, 7], vec![2, 5, 8]])
}

fn with_groups(layers: usize, groups: Vec<Vec<usize>>) -> ProgramSpec {
    ProgramSpec {
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
        head_weights: Vec::new(),
        lora_rank: 8,
        lora_ranks: Vec::new(),
        numeric: NumericSpec::default(),
        architecture: Default::default(),
        private: Default::default(),
        approx: Default::default(),
        variant: Default::default(),
    }
}

#[test]
fn a_decoded_token_at_128_keys_keeps_to_its_budget() {
    let all = tally_decode(&smollm2(15), 127).unwrap();
    let fewer = tally_decode(&smollm2(14), 127).unwrap();
    let layer = all - fewer;
    assert_eq!(
        layer.rounds, 73,
        "rounds per layer, 21 of them for the maximum"
    );
    assert_eq!(
        all.rounds,
        15 * 73 + 2 * 4 + 14 * 3 + 1,
        "layers, a tournament of 16 levels, the token"
    );
    assert!(
        all.e0_to_e1_bytes <= 4_000_000 && all.e1_to_e0_bytes <= 4_000_000,
        "{all:?}"
    );
    assert!(layer.dealer_to_e1_bytes <= 1_550_000, "{layer:?}");
}

/// Ranks by module: each map pays for its own, and a part of a layer where no map has an update
/// pays for no reveal.
#[test]
fn a_decoded_token_pays_for_the_rank_of_each_map() {
    let per_layer = |ranks: [usize; 7]| {
        let spec = |layers| smollm2(layers).with_ranks(ranks.to_vec());
        tally_decode(&spec(3), 127).unwrap() - tally_decode(&spec(2), 127).unwrap()
    };
    let all = per_layer([8; 7]);
    let mixed = per_layer([4, 4, 4, 4, 16, 16, 32]);
    assert_eq!(mixed.rounds, all.rounds);
    // An element is 8 bytes before the rotation, 7 elsewhere: `v` from E0, `c` from the dealer.
    let more = 16 * 7 + 24 * 7 - 4 * 7 - 12 * 8;
    assert_eq!(mixed.e0_to_e1_bytes - all.e0_to_e1_bytes, more);
    assert_eq!(mixed.dealer_to_e1_bytes - all.dealer_to_e1_bytes, more);
    assert_eq!(mixed.e1_to_e0_bytes, all.e1_to_e0_bytes);
    // Without updates of queries, keys and values the normalized row stays shared.
    let mlp = per_layer([0, 0, 0, 8, 8, 8, 8]);
    assert_eq!(all.rounds - mlp.rounds, 1);
    let revealed = 576 * 8 + 3 * 8 * 8;
    assert_eq!(all.e0_to_e1_bytes - mlp.e0_to_e1_bytes, revealed);
    let spec = smollm2(1).with_ranks(vec![4, 4, 4, 4, 16, 16, 32]);
    let sides = 4 * (576 + 576) + 2 * 4 * (576 + 192) + 4 * (576 + 576);
    let elements = sides + (16 + 16 + 32) * (576 + 1536);
    assert_eq!(MaskedAdapter::bytes_of(&spec), 8 * elements);
}

#[test]
fn a_prompt_of_64_tokens_keeps_to_its_budget() {
    let cost = tally_prefill(&smollm2(15), 64).unwrap();
    assert!(cost.rounds <= 1_500, "{cost:?}");
    assert!(
        cost.e0_to_e1_bytes <= 167_000_000 && cost.dealer_to_e1_bytes <= 625_000_000,
        "{cost:?}"
    );
}

/// One block of which three heads of nine are left, with as many softmaxes as a merged one: its
/// query and output maps are a third as large.
#[test]
fn a_pruned_block_costs_less_than_a_merged_one() {
    let block = |layers| with_groups(layers, (0..3).map(|h| vec![h]).collect());
    let decode = tally_decode(&block(3), 127).unwrap() - tally_decode(&block(2), 127).unwrap();
    let merged = tally_decode(&smollm2(3), 127).unwrap() - tally_decode(&smollm2(2), 127).unwrap();
    assert_eq!(decode.rounds, merged.rounds);
    let bytes = |c: Cost| [c.e0_to_e1_bytes, c.e1_to_e0_bytes, c.dealer_to_e1_bytes];
    assert_eq!(bytes(decode), [125_716, 129_044, 1_356_445]);
    assert_eq!(bytes(merged), [138_292, 141_332, 1_429_117]);
}

/// One block with a softmax a head, for comparison with systems that merge nothing.
#[test]
fn an_unmerged_block_keeps_to_its_budget() {
    let block = |layers| with_groups(layers, (0..9).map(|h| vec![h]).collect());
    let decode = tally_decode(&block(3), 127).unwrap() - tally_decode(&block(2), 127).unwrap();
    assert_eq!(decode.rounds, 73, "52 without the maximum");
    assert!(
        decode.e0_to_e1_bytes.max(decode.e1_to_e0_bytes) <= 172_000,
        "{decode:?}"
    );
    let prefill = tally_prefill(&block(3), 128).unwrap() - tally_prefill(&block(2), 128).unwrap();
    assert!(
        prefill.e0_to_e1_bytes.max(prefill.e1_to_e0_bytes) <= 19_700_000,
        "{prefill:?}"
    );
    assert!(prefill.dealer_to_e1_bytes <= 83_000_000, "{prefill:?}");
}

/// Stochastic rounding needs no comparison behind a truncation.
#[test]
fn stochastic_rounding_saves_rounds_and_bytes() {
    let block = |layers| ProgramSpec {
        numeric: NumericSpec::with_rounding(Rounding::Stochastic),
        ..with_groups(layers, (0..9).map(|h| vec![h]).collect())
    };
    let decode = tally_decode(&block(3), 127).unwrap() - tally_decode(&block(2), 127).unwrap();
    let prefill = tally_prefill(&block(3), 128).unwrap() - tally_prefill(&block(2), 128).unwrap();
    assert_eq!(decode.rounds, 57, "36 without the maximum");
    assert!(
        decode.e0_to_e1_bytes.max(decode.e1_to_e0_bytes) <= 145_000,
        "{decode:?}"
    );
    assert!(decode.dealer_to_e1_bytes <= 980_000, "{decode:?}");
    assert!(
        prefill.e0_to_e1_bytes.max(prefill.e1_to_e0_bytes) <= 15_000_000,
        "{prefill:?}"
    );
    assert!(prefill.dealer_to_e1_bytes <= 58_700_000, "{prefill:?}");
}

fn approximated(layers: usize, approx: Approximations) -> ProgramSpec {
    ProgramSpec {
        approx,
        ..smollm2(layers)
    }
}

/// One layer with each approximation, a token at 128 keys and a prompt of 64 tokens.
#[test]
fn an_approximated_layer_keeps_to_its_budget() {
    // Rounds of a token and of a prompt, then bytes of E0 and of the dealer for each.
    let expected = [
        [71, 86, 129_652, 1_225_789, 7_788_228, 23_908_788],
        [52, 69, 137_656, 1_416_501, 8_399_448, 36_196_500],
        [51, 68, 132_856, 1_382_853, 8_321_448, 35_462_520],
        [51, 68, 132_952, 1_358_037, 8_323_008, 35_059_260],
    ];
    let found = approx::EACH.map(|approx| {
        let layer = |cost: &dyn Fn(&ProgramSpec) -> Cost| {
            cost(&approximated(3, approx)) - cost(&approximated(2, approx))
        };
        let token = layer(&|spec| tally_decode(spec, 127).unwrap());
        let prompt = layer(&|spec| tally_prefill(spec, 64).unwrap());
        [
            token.rounds,
            prompt.rounds,
            token.e0_to_e1_bytes,
            token.dealer_to_e1_bytes,
            prompt.e0_to_e1_bytes,
            prompt.dealer_to_e1_bytes,
        ]
    });
    assert_eq!(found, expected);
}

#[test]
fn an_argmax_over_49152_logits_keeps_to_its_budget() {
    let vocab = |size| ProgramSpec {
        vocab_size: size,
        ..smollm2(1)
    };
    let cost = tally_decode(&vocab(49_152), 127).unwrap() - tally_decode(&vocab(2), 127).unwrap();
    // One match remains for two logits.
    assert_eq!(cost.rounds + 3, 50);
    assert!(
        cost.e0_to_e1_bytes <= 1_500_000 && cost.e1_to_e0_bytes <= 1_500_000,
        "{cost:?}"
    );
}

/// What public and shared parts of a model save against an ordinary full fine-tune of it, in this
/// protocol: half of the layers and two thirds of the softmaxes. That the rest of the weights is
/// public or private costs nothing online.
#[test]
fn a_full_fine_tune_costs_about_twice_the_merged_half() {
    let heads = || (0..9).map(|h| vec![h]).collect();
    let full = with_private_matrices(with_groups(30, heads()));
    let adapted = with_groups(30, heads());
    let half = smollm2(15);
    let steps = |spec: &ProgramSpec| {
        (
            tally_decode(spec, 127).unwrap(),
            tally_prefill(spec, 128).unwrap(),
        )
    };
    let (full_token, full_prompt) = steps(&full);
    let (token, prompt) = steps(&half);
    for (name, cost) in [
        ("full, per token", full_token),
        ("full, a prompt", full_prompt),
        ("half, per token", token),
        ("half, a prompt", prompt),
    ] {
        println!("{name}: {cost:?}");
    }
    let (adapted_token, adapted_prompt) = steps(&adapted);
    println!(
        "all layers with rank 8, a token: {adapted_token:?}\nall layers with rank 8, a prompt: \
         {adapted_prompt:?}"
    );
    assert_eq!(full_token.rounds, adapted_token.rounds);
    assert!(full_token.e0_to_e1_bytes < adapted_token.e0_to_e1_bytes);
    let ratio = |a: u64, b: u64| a as f64 / b as f64;
    assert!(
        (1.9..2.1).contains(&ratio(full_token.rounds, token.rounds)),
        "{full_token:?} {token:?}"
    );
    assert!(
        (1.9..2.7).contains(&ratio(full_token.e0_to_e1_bytes, token.e0_to_e1_bytes)),
        "{full_token:?} {token:?}"
    );
    assert!((2.0..4.0).contains(&ratio(full_prompt.e0_to_e1_bytes, prompt.e0_to_e1_bytes)));

    let block = 552_960 * 8 + 2_985_984 * 7;
    assert_eq!(
        MaskedAdapter::bytes_of(&full),
        30 * block,
        "25.3 MB per block"
    );
    assert_eq!(
        MaskedAdapter::bytes_of(&with_private_matrices(half)),
        15 * block
    );
}

/// One block of GPT-2, a prompt of 128 tokens.
#[test]
fn a_gpt2_block_keeps_to_its_budget() {
    let block = |layers, rounding| ProgramSpec {
        hidden_size: 768,
        intermediate_size: 3072,
        num_attention_heads: 12,
        num_key_value_heads: 12,
        vocab_size: 2,
        architecture: marill_mpc::Architecture::Gpt2,
        numeric: NumericSpec::with_rounding(rounding),
        ..with_groups(layers, (0..12).map(|h| vec![h]).collect())
    };
    for (rounding, sent, corrections) in [
        (Rounding::Exact, 26_600_000, 135_000_000),
        (Rounding::Stochastic, 20_800_000, 99_800_000),
    ] {
        let cost = tally_prefill(&block(3, rounding), 128).unwrap()
            - tally_prefill(&block(2, rounding), 128).unwrap();
        assert!(
            cost.e0_to_e1_bytes.max(cost.e1_to_e0_bytes) <= sent,
            "{rounding}: {cost:?}"
        );
        assert!(
            cost.dealer_to_e1_bytes <= corrections,
            "{rounding}: {cost:?}"
        );
    }
}

/// What client and server alone send for a step of a block between others: E0 and E1, of it made
/// ahead, and rounds online. Transfers are counted in the long run of the set that services take.
fn alone(of: impl Fn(usize) -> ProgramSpec, cached: usize, rows: usize) -> ([u64; 2], u64, u64) {
    let cost = |layers: usize| {
        let spec = of(layers);
        let greedy = Selection::Greedy;
        let cheaper = Products::Cheaper;
        let step = tally_two_party(&spec, greedy, cached, rows, None, cheaper).unwrap();
        let made = tally_made_ahead(&spec, greedy, cached, rows, None, cheaper).unwrap();
        let (made, steps) = made.expect("products are made ahead");
        let set = lpn_set_for(&spec).unwrap();
        let transfers: usize = step.transfers.cots().iter().sum();
        let extension = (transfers as f64 * set.bits_per_transfer() / 16.0) as u64;
        let sent = [0, 1].map(|party| {
            step.online.sent[party]
                + step.offline.sent[party]
                + made.sent[party] / steps as u64
                + extension
        });
        (sent, made.bytes() / steps as u64, step.online.rounds)
    };
    let [two, three] = [2, 3].map(cost);
    let sent = [0, 1].map(|party| three.0[party] - two.0[party]);
    (sent, three.1 - two.1, three.2 - two.2)
}

/// Goals: 1.0 MB and 160 rounds, rounded stochastically 0.8 MB and 105.
#[test]
fn a_block_of_two_parties_keeps_to_its_budget() {
    let rounded = |rounding| {
        move |layers| ProgramSpec {
            numeric: NumericSpec::with_rounding(rounding),
            ..smollm2(layers)
        }
    };
    let found = [
        alone(rounded(Rounding::Exact), 127, 1),
        alone(rounded(Rounding::Stochastic), 127, 1),
    ];
    let expected = [
        ([985_354, 987_821], 337_638, 178),
        ([825_800, 813_191], 337_638, 119),
    ];
    assert_eq!(found, expected);
}

#[test]
fn other_blocks_of_two_parties_keep_to_their_budgets() {
    let whole = |layers| with_private_matrices(smollm2(layers));
    let unmerged = |layers| with_groups(layers, (0..9).map(|head| vec![head]).collect());
    let found = [
        alone(unmerged, 127, 1),
        alone(whole, 127, 1),
        alone(smollm2, 0, 32),
        alone(whole, 0, 32),
    ];
    let expected = [
        ([1_164_324, 1_164_252], 365_738, 182),
        ([985_569, 982_273], 332_305, 178),
        ([28_903_618, 27_375_940], 10_046_616, 191),
        ([28_736_674, 27_429_540], 9_933_272, 191),
    ];
    assert_eq!(found, expected);
}

/// An adapter under encryption in place of masks: what a client downloads, what it sends ahead of a
/// prompt and of a token of an answer of 32, and how much less a step then sends.
#[test]
fn an_encrypted_adapter_keeps_to_its_bytes() {
    let spec = smollm2(15);
    assert_eq!(EncryptedAdapter::bytes_of(&spec).unwrap(), 42_247_648);
    assert_eq!(prepared_bytes(&spec, 1, 32).unwrap() / 32, 1_286_628);
    assert_eq!(prepared_bytes(&spec, 64, 1).unwrap(), 77_910_600);
    let count = |products| {
        let ways = (Comparison::OneHot, products);
        tally_with(&spec, ways, Selection::Greedy, [127, 1]).unwrap()
    };
    let masks = count(PrivateProducts::Masks);
    let lattice = count(PrivateProducts::Lattice);
    assert_eq!(masks.rounds, lattice.rounds);
    assert_eq!(masks.e1_to_e0_bytes, lattice.e1_to_e0_bytes);
    assert_eq!(masks.e0_to_e1_bytes - lattice.e0_to_e1_bytes, 6_240);
    assert_eq!(masks.dealer_to_e1_bytes - lattice.dealer_to_e1_bytes, 6_240);
}
