//! Sessions whose adapter is under encryption: the twin's values, and masks that are used once.

use super::{values::every_value_is_the_twins, *};
use crate::{
    Selection,
    masked::{PrivateProducts, lattice::PIECE, prepared_bytes},
    tally::tally_with,
};

#[test]
fn with_an_encrypted_adapter_every_value_is_the_twins() {
    for fixture in [
        Fixture::new(1).encrypted(),
        Fixture::gpt2(2).encrypted(),
        Fixture::mixed_heads(1).encrypted(),
        Fixture::new(1).uses_dcf().encrypted(),
    ] {
        every_value_is_the_twins(&fixture, 1, |fixture, input, _| fixture.twin(input));
    }
}

#[test]
fn with_an_encrypted_adapter_rounding_may_be_stochastic() {
    let fixture = Fixture::stochastic(7).encrypted();
    every_value_is_the_twins(&fixture, 1, |fixture, input, run| {
        fixture.twin_with(input, Some(run.randomness.clone()), Vec::new())
    });
}

/// Maps of other ranks, among them one without an update.
#[test]
fn with_an_encrypted_adapter_ranks_may_differ() {
    let mut ranks = vec![3; tiny_spec().architecture.modules().len()];
    ranks[1] = 0;
    ranks[2] = 5;
    let spec = tiny_spec().with_ranks(ranks);
    let fixture = Fixture::with(random_weights(&spec, 4), 4).encrypted();
    every_value_is_the_twins(&fixture, 1, |fixture, input, _| fixture.twin(input));
}

/// What a session sends and hears is what shapes give: less in the step, as nothing is sent for an
/// update there.
#[test]
fn an_encrypted_adapter_costs_what_the_tally_says() {
    let fixture = Fixture::new(3).encrypted();
    let spec = fixture.spec().clone();
    let input = fixture.input(3, 9);
    let bucket = spec.bucket(9);
    let (client_end, server_end) = memory_pair();
    let (sink, stream) = memory_pair();
    let logs: [Log; 2] = Default::default();
    let fixture = &fixture;
    let traffic = thread::scope(|scope| {
        let mut server = fixture.server(Tap::new(server_end, &logs[0], None), Box::new(stream));
        let mut dealer = fixture.dealer(Box::new(sink));
        let mut client = fixture.client(Tap::new(client_end, &logs[1], None));
        let server = scope.spawn(move || {
            fixture.steps(&mut server, None, bucket);
            server.traffic()
        });
        scope.spawn(move || fixture.steps(&mut dealer, None, bucket));
        client.expect(1);
        fixture.steps(&mut client, Some(&input), bucket);
        [client.traffic(), server.join().unwrap()]
    });
    let cost = |products| {
        let ways = (Comparison::OneHot, products);
        let step = |sizes| tally_with(&spec, ways, Selection::Greedy, sizes).unwrap();
        step([0, bucket]) + step([bucket, 1])
    };
    let expected = cost(PrivateProducts::Lattice);
    let [client, server] = traffic;
    assert_eq!(client.bytes_sent, expected.e0_to_e1_bytes);
    assert_eq!(server.bytes_sent, expected.e1_to_e0_bytes);
    assert_eq!(server.dealer_bytes, expected.dealer_to_e1_bytes);
    assert_eq!([client.rounds, server.rounds], [expected.rounds; 2]);
    let prepared = prepared_bytes(&spec, bucket, 1).unwrap() + prepared_bytes(&spec, 1, 1).unwrap();
    assert_eq!([client.offline_bytes, server.offline_bytes], [prepared; 2]);
    let masks = cost(PrivateProducts::Masks);
    assert_eq!(masks.rounds, expected.rounds);
    assert!(masks.e0_to_e1_bytes > expected.e0_to_e1_bytes);
    assert!(masks.dealer_to_e1_bytes > expected.dealer_to_e1_bytes);
    assert_eq!(masks.e1_to_e0_bytes, expected.e1_to_e0_bytes);
}

/// A changed tag is an error by name; a changed number gives other tokens, and no panic.
#[test]
fn a_damaged_preparation_is_named_or_changes_tokens() {
    let fixture = Fixture::new(3).encrypted();
    let input = fixture.input(3, 9);
    let honest = fixture.record(&input, None);
    let of_prompt = honest
        .client_frames
        .iter()
        .position(|frame| frame.len() > 40_000);
    let before: usize = honest.client_frames[..of_prompt.unwrap()]
        .iter()
        .map(Vec::len)
        .sum();
    let bucket = fixture.spec().bucket(9);
    // In the tag of the batch, and among its numbers.
    for (at, is_error) in [(0, true), (5_000, false)] {
        let (client_end, server_end) = memory_pair();
        let (sink, stream) = memory_pair();
        let log = Log::default();
        let fixture = &fixture;
        let served = thread::scope(|scope| {
            let server = scope.spawn(move || {
                let mut server = fixture.server(Box::new(server_end), Box::new(stream));
                fixture.try_steps(&mut server, None, bucket).map(|_| ())
            });
            scope.spawn(move || {
                let mut dealer = fixture.dealer(Box::new(sink));
                let _ = fixture.try_steps(&mut dealer, None, bucket);
            });
            let tap = Tap::new(client_end, &log, Some(before + at));
            let mut client = fixture.client(tap);
            let _ = fixture.try_steps(&mut client, Some(&input), bucket);
            drop(client);
            server.join().unwrap()
        });
        match served {
            Err(error) => assert!(is_error && error.to_string().contains("batch"), "{error}"),
            Ok(()) => assert!(!is_error, "a tag was changed"),
        }
    }
}

/// No two reveals, of one session or of two, are under one mask.
#[test]
fn masks_of_an_encrypted_adapter_are_used_once() {
    let fixture = Fixture::new(3).encrypted();
    let mut seen = std::collections::HashSet::new();
    let mut count = 0;
    for _ in 0..2 {
        let mut client = in_pieces(&fixture, PIECE, 3);
        let Role::Evaluator(e) = &mut client.role else {
            unreachable!("E0 is an evaluator")
        };
        // Of three tokens that were prepared one was used.
        let ready = &e.preparing.as_ref().unwrap().ready;
        assert_eq!(ready.len(), 2);
        for reveal in ready.iter().flatten() {
            count += 1;
            assert!(reveal.masks.len() > 8);
            seen.insert(reveal.masks[..8].to_vec());
        }
    }
    assert_eq!(seen.len(), count);
}

/// Both steps of a session whose E0 prepares so many tokens in messages of so many numbers; the
/// tokens are the twin's. Returns E0.
fn in_pieces(fixture: &Fixture, piece: usize, tokens: usize) -> Masked {
    let input = fixture.input(3, 9);
    let bucket = fixture.spec().bucket(9);
    let small = |mut engine: Masked| {
        if let Role::Evaluator(e) = &mut engine.role {
            e.preparing.as_mut().unwrap().piece = piece;
        }
        engine
    };
    let (client_end, server_end) = memory_pair();
    let (sink, stream) = memory_pair();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut server = small(fixture.server(Box::new(server_end), Box::new(stream)));
            fixture.steps(&mut server, None, bucket);
        });
        scope.spawn(move || fixture.steps(&mut fixture.dealer(Box::new(sink)), None, bucket));
        let mut client = small(fixture.client(Box::new(client_end)));
        client.expect(tokens);
        let got = fixture.steps(&mut client, Some(&input), bucket);
        assert_eq!(got, fixture.twin(&input).0);
        client
    })
}

#[test]
fn a_step_may_be_prepared_in_many_messages() {
    in_pieces(&Fixture::new(3).encrypted(), 1, 2);
}

#[test]
fn programs_without_products_by_lattice_are_named() {
    let wide = ProgramSpec {
        hidden_size: 5120,
        num_attention_heads: 40,
        num_key_value_heads: 40,
        head_dim: 128,
        intermediate_size: 64,
        num_layers: 1,
        head_groups: vec![(0..40).map(|head| vec![head]).collect()],
        attn_scale: vec![0.125],
        ..tiny_spec()
    };
    let none = ProgramSpec {
        lora_rank: 0,
        ..tiny_spec()
    };
    let full = with_private_matrices(tiny_spec());
    for (spec, what) in [
        (wide, "a model of this width"),
        (none, "without LoRA updates"),
        (full, "without LoRA updates"),
    ] {
        let error = EncryptedAdapter::bytes_of(&spec).unwrap_err().to_string();
        assert!(error.contains(what), "{error}");
    }
}
