//! What families of decoders add to LLaMA's layers: three parties against the twin and the declared
//! cost, and private matrices against the same public ones.

use marill_mpc::{
    ProgramSpec, QkNorm, Twin, Variant,
    cost::Cost,
    random_model::{
        gaussian, random_weights, tiny_spec, variants, with_mixed_heads, with_private_matrices,
    },
    tally_decode, tally_prefill,
};
use marill_testkit::world::run_world;

fn boundary(spec: &ProgramSpec, seed: u64, tokens: usize) -> Vec<u64> {
    spec.encode(&gaussian(seed, "boundary", tokens * spec.hidden_size, 1.5))
        .unwrap()
}

fn with(spec: ProgramSpec, variant: Variant) -> ProgramSpec {
    ProgramSpec { variant, ..spec }
}

fn runs_as_the_twin(spec: &ProgramSpec, seed: u64) {
    let (public, private) = random_weights(spec, seed);
    let prompt = boundary(spec, seed, 19);
    let rows: Vec<Vec<u64>> = (0..2).map(|k| boundary(spec, 100 + k, 1)).collect();
    let mut twin = Twin::new(public.clone(), private.clone());
    let mut expected = vec![twin.prefill(&prompt).unwrap()];
    expected.extend(rows.iter().map(|row| twin.decode(row).unwrap()));
    let run = run_world(&public, &private, &prompt, &rows).unwrap();
    assert_eq!(run.tokens, expected, "{:?}", spec.variant);

    let mut cost = vec![tally_prefill(spec, 32).unwrap()];
    cost.extend((0..2).map(|k| tally_decode(spec, 32 + k).unwrap()));
    let sum = |f: fn(&Cost) -> u64| cost.iter().map(f).sum::<u64>();
    assert_eq!(run.client.rounds, sum(|c| c.rounds), "{:?}", spec.variant);
    assert_eq!(run.client.bytes_sent, sum(|c| c.e0_to_e1_bytes));
    assert_eq!(run.client.bytes_received, sum(|c| c.e1_to_e0_bytes));
    assert_eq!(run.server.dealer_bytes, sum(|c| c.dealer_to_e1_bytes));
}

#[test]
fn three_parties_run_every_variant_as_the_twin() {
    for (seed, variant) in variants().into_iter().enumerate() {
        runs_as_the_twin(&with(tiny_spec(), variant), seed as u64);
    }
}

#[test]
fn private_matrices_of_a_variant_are_the_same_ones() {
    for (seed, variant) in variants().into_iter().enumerate() {
        let seed = seed as u64;
        let open = ProgramSpec {
            lora_rank: 0,
            ..with(tiny_spec(), variant)
        };
        let closed = with_private_matrices(open.clone());
        let run = |spec: &ProgramSpec| {
            let (public, private) = random_weights(spec, seed);
            let mut twin = Twin::new(public, private);
            twin.start_trace();
            twin.prefill(&boundary(spec, seed, 11)).unwrap();
            twin.decode(&boundary(spec, 9, 1)).unwrap();
            twin.take_trace()
        };
        assert_eq!(run(&open), run(&closed), "{:?}", open.variant);
        runs_as_the_twin(&closed, seed);
    }
}

#[test]
fn pruned_and_weighted_heads_are_normed_and_biased() {
    for qk_norm in [None, Some(QkNorm::Head)] {
        let variant = Variant {
            biases: true,
            qk_norm,
            ..Variant::default()
        };
        runs_as_the_twin(&with(with_mixed_heads(tiny_spec()), variant), 7);
    }
}

/// The digest is what two parties compare before they begin.
#[test]
fn every_part_of_a_variant_changes_the_digest() {
    let mut digests = std::collections::BTreeSet::new();
    let plain = random_weights(&tiny_spec(), 1).0.digest().to_owned();
    digests.insert(plain);
    for variant in variants() {
        let (public, _) = random_weights(&with(tiny_spec(), variant), 1);
        digests.insert(public.digest().to_owned());
    }
    assert_eq!(digests.len(), 1 + variants().len());
}

/// What `docs/architectures.md` says of a block: SmolLM2's shape at rank 8, with nothing merged.
#[test]
fn what_a_variant_adds_to_a_block_keeps_to_its_budget() {
    let block = |variant: Variant| {
        let spec = ProgramSpec {
            hidden_size: 576,
            intermediate_size: 1536,
            num_attention_heads: 9,
            num_key_value_heads: 3,
            head_dim: 64,
            vocab_size: 49_152,
            num_layers: 2,
            max_positions: 2032,
            head_groups: vec![(0..9).map(|h| vec![h]).collect(); 2],
            attn_scale: vec![0.125; 2],
            lora_rank: 8,
            variant,
            ..tiny_spec()
        };
        let one = ProgramSpec {
            num_layers: 1,
            head_groups: vec![spec.head_groups[0].clone()],
            attn_scale: vec![0.125],
            ..spec.clone()
        };
        [
            tally_prefill(&spec, 128).unwrap() - tally_prefill(&one, 128).unwrap(),
            tally_decode(&spec, 128).unwrap() - tally_decode(&one, 128).unwrap(),
        ]
    };
    let plain = block(Variant::default());
    let free = Variant {
        rope_divisors: vec![2.0; 32],
        biases: true,
        ..Variant::default()
    };
    // Divisors are in tables, biases are local.
    assert_eq!(block(free), plain);
    // Rounds, and bytes that E0 and E1 send, of a prompt of 128 tokens and a token at 128 keys.
    let head = [[15, 3_776_640, 4_615_296], [11, 31_433, 37_985]];
    let whole = [[30, 1_730_240, 2_590_400], [21, 15_512, 22_232]];
    for (qk_norm, budget) in [(QkNorm::Head, head), (QkNorm::Whole, whole)] {
        let normed = block(Variant {
            qk_norm: Some(qk_norm),
            ..Variant::default()
        });
        for (nth, budget) in budget.into_iter().enumerate() {
            let more = normed[nth] - plain[nth];
            let found = [more.rounds, more.e0_to_e1_bytes, more.e1_to_e0_bytes];
            assert_eq!(found, budget, "{qk_norm:?}");
        }
    }
}
