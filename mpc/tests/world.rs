//! Three parties against the twin, and against the declared cost.

use marill_mpc::{
    ProgramSpec, Twin,
    random_model::{gaussian, random_weights, tiny_spec, with_mixed_heads, with_private_matrices},
    spec::Module,
    tally_decode, tally_prefill,
};
use marill_testkit::world::run_world;

fn boundary(spec: &ProgramSpec, seed: u64, tokens: usize) -> Vec<u64> {
    spec.encode(&gaussian(seed, "boundary", tokens * spec.hidden_size, 1.5))
        .unwrap()
}

#[test]
fn an_input_that_would_overflow_is_refused_by_name() {
    let spec = tiny_spec();
    let mut values = vec![0.5f32; 2 * spec.hidden_size];
    values[60] = f32::NAN;
    assert!(
        spec.encode(&values)
            .unwrap_err()
            .to_string()
            .contains("index 60")
    );
    values[60] = 30_000.0;
    values[70] = 30_000.0;
    assert!(spec.encode(&values).is_ok());
    values[71..76].fill(30_000.0);
    assert!(
        spec.encode(&values)
            .unwrap_err()
            .to_string()
            .contains("boundary row 1")
    );
}

#[test]
fn tokens_are_the_twins_and_cost_what_the_tally_says() {
    for seed in 0..8u64 {
        let mut spec = tiny_spec();
        if [2, 5, 6].contains(&seed) {
            spec = with_mixed_heads(spec);
        }
        if seed == 3 {
            spec.lora_rank = 0;
        }
        match seed {
            4 | 5 => spec = with_private_matrices(spec),
            6 => spec = spec.with_ranks(vec![1, 4, 0, 2, 8, 3, 16]),
            // What `o` and `down` take is not revealed at all.
            7 => spec = spec.with_ranks(vec![2, 1, 3, 0, 5, 1, 0]),
            _ => {}
        }
        let (public, private) = random_weights(&spec, seed);
        let prompt = boundary(&spec, seed, 5 + seed as usize % 4 * 9);
        let rows: Vec<Vec<u64>> = (0..3)
            .map(|k| boundary(&spec, 100 + seed * 10 + k, 1))
            .collect();

        let mut twin = Twin::new(public.clone(), private.clone());
        let mut expected = vec![twin.prefill(&prompt).unwrap()];
        expected.extend(rows.iter().map(|row| twin.decode(row).unwrap()));

        let run = run_world(&public, &private, &prompt, &rows).unwrap();
        assert_eq!(run.tokens, expected, "seed {seed}");

        let bucket = spec.bucket(prompt.len() / spec.hidden_size);
        let mut cost = vec![tally_prefill(&spec, bucket).unwrap()];
        cost.extend((0..3).map(|k| tally_decode(&spec, bucket + k).unwrap()));
        let sum = |f: fn(&marill_mpc::cost::Cost) -> u64| cost.iter().map(f).sum::<u64>();
        assert_eq!(run.client.bytes_sent, sum(|c| c.e0_to_e1_bytes));
        assert_eq!(run.client.bytes_received, sum(|c| c.e1_to_e0_bytes));
        assert_eq!(run.server.dealer_bytes, sum(|c| c.dealer_to_e1_bytes));
        assert_eq!(run.server.rounds, run.client.rounds);
        assert_eq!(run.client.rounds, sum(|c| c.rounds), "seed {seed}");
    }
}

/// Whether a map is public or private changes who holds it, not what is computed.
#[test]
fn private_matrices_give_the_integers_of_the_same_public_ones() {
    let open = ProgramSpec {
        lora_rank: 0,
        ..tiny_spec()
    };
    let closed = with_private_matrices(open.clone());
    let run = |spec: &ProgramSpec| {
        let (public, private) = random_weights(spec, 8);
        let mut twin = Twin::new(public, private);
        twin.start_trace();
        let first = twin.prefill(&boundary(spec, 8, 11)).unwrap();
        (
            first,
            twin.decode(&boundary(spec, 9, 1)).unwrap(),
            twin.take_trace(),
        )
    };
    assert_eq!(run(&open), run(&closed));
    let more = tally_decode(&closed, 20).unwrap() - tally_decode(&open, 20).unwrap();
    let revealed: usize = [Module::Q, Module::O, Module::Gate, Module::Down]
        .map(|module| open.map_spec(open.map(0, module)))
        .map(|map| map.cols * map.private_bits as usize / 8)
        .iter()
        .sum();
    assert_eq!(
        more.rounds,
        4 * open.num_layers as u64,
        "what private matrices multiply is revealed to E1"
    );
    assert_eq!(more.e0_to_e1_bytes, (revealed * open.num_layers) as u64);
    assert_eq!((more.e1_to_e0_bytes, more.dealer_to_e1_bytes), (0, 0));
}
