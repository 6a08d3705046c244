//! Two parties without a dealer compute the twin's integers, at every label, and send what the
//! tally says.

use std::{sync::Arc, thread};

use marill_numeric::{NumericSpec, RingTensor, Rounding, fixed::low_mask};
use marill_ot::{
    BaseOts, Link, Phase, SoftSpoken,
    softspoken::GroupBits,
    world::{LIMIT, MemoryEnd, memory_ends},
};
use marill_two_party::Session;

use super::{
    begin::{check_private, signed_bits},
    *,
};
use crate::{
    Twin,
    program::{self, cache::Cache, padding::pad_prompt},
    random_model::{
        AffineModel, gaussian, random_weights, tiny_affine_spec, tiny_spec, variants,
        with_mixed_heads, with_private_matrices,
    },
    sampling::Selection,
    spec::{Pooling, QkNorm, Reveal},
    weights::PublicWeights,
};

type Model = (Arc<PublicWeights>, Arc<PrivateWeights>);
type End = TwoParty<MemoryEnd, SoftSpoken>;

/// What a party found: its shares by label, the tokens, and what it sent, step by step.
struct Run {
    trace: Vec<(&'static str, RingTensor)>,
    tokens: Vec<Option<u32>>,
    sent: Vec<[marill_ot::Traffic; 3]>,
    preparations: Vec<Vec<Preparation>>,
    randomness: Vec<u64>,
}

/// Tokens that E0 expects at first, at most; then it expects none, and prepares one after the
/// other.
const EXPECTED: usize = 5;

const EXTENSION: Extension = Extension::SoftSpoken(GroupBits::Four);

const PHASES: [Phase; 3] = [Phase::Extension, Phase::Offline, Phase::Online];

fn boundary(spec: &ProgramSpec, seed: u64, rows: usize) -> Vec<u64> {
    let floats = gaussian(seed, "boundary", rows * spec.hidden_size, 1.5);
    spec.encode(&floats).unwrap()
}

/// Rows and the padding's bias of a step, where a party has them, and how many rows.
type Input<'a> = (Option<&'a [u64]>, Option<&'a [u64]>, usize);

/// One party's steps: a prompt, and behind a decoder's one more token.
fn steps(mut engine: End, public: &PublicWeights, inputs: &[Input<'_>]) -> Run {
    let mut cache = Cache::new(&public.spec);
    engine.trace = Some(Vec::new());
    engine.gates.randomness = Some(Vec::new());
    let mut tokens = Vec::new();
    let mut sent = Vec::new();
    let mut preparations = Vec::new();
    for &(values, bias, rows) in inputs {
        let before = PHASES.map(|phase| engine.traffic(phase));
        let token = program::step(&mut engine, public, &mut cache, values, bias, rows).unwrap();
        let after = PHASES.map(|phase| engine.traffic(phase));
        tokens.push(token);
        preparations.push(engine.take_preparations());
        sent.push([0, 1, 2].map(|i| after[i] - before[i]));
    }
    Run {
        trace: engine.trace.take().unwrap(),
        tokens,
        sent,
        preparations,
        randomness: engine.gates.randomness.take().unwrap(),
    }
}

/// Runs both parties over a prompt of `tokens` rows and, but for an encoder, `more` more rows, of
/// which E0 expects so many.
fn run(
    model: &Model,
    [tokens, more, expected]: [usize; 3],
    products: Products,
    piece: usize,
) -> ([Run; 2], [u32; 2]) {
    let (public, private) = model;
    let spec = &public.spec;
    let (padded, bias, bucket) = pad_prompt(spec, &boundary(spec, 1, tokens)).unwrap();
    let next: Vec<_> = (0..more).map(|k| boundary(spec, 2 + k as u64, 1)).collect();
    let (own, other) = memory_ends(LIMIT);
    let session = |end, party| {
        let mut link = Link::new(end, party);
        let base = BaseOts::establish(&mut link).unwrap();
        Session::begin(link, &base, GroupBits::Four).unwrap()
    };
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            let session = session(other, Party::E1);
            let engine = TwoParty::server(spec, Arc::clone(private), session).unwrap();
            let mut engine = engine.with_products(products);
            engine.gates.piece = piece;
            let bits = [engine.factor_bits.a, engine.factor_bits.b];
            let mut inputs = vec![(None, None, bucket)];
            inputs.extend(vec![(None, None, 1); more]);
            let run = steps(engine, public, &inputs);
            (run, bits)
        });
        let engine = TwoParty::client(spec, session(own, Party::E0)).unwrap();
        let mut engine = engine.with_products(products);
        engine.gates.piece = piece;
        engine.expect(expected);
        let mut inputs = vec![(Some(&padded[..]), Some(&bias[..]), bucket)];
        inputs.extend(next.iter().map(|row| (Some(&row[..]), None, 1)));
        let client = steps(engine, public, &inputs);
        let (server, bits) = server.join().unwrap();
        ([client, server], bits)
    })
}

fn equals_the_twin(model: &Model, tokens: usize) {
    equals_with(model, tokens, Products::Cheaper);
}

fn equals_with(model: &Model, tokens: usize, products: Products) {
    equals_in_pieces(model, tokens, products, gates::PIECE);
}

fn equals_in_pieces(model: &Model, tokens: usize, products: Products, piece: usize) {
    let more = usize::from(!model.0.spec.architecture.is_encoder());
    equals_over(model, [tokens, more], products, piece);
}

fn equals_over(model: &Model, [tokens, more]: [usize; 2], products: Products, piece: usize) {
    equals_expecting(model, [tokens, more, more.min(EXPECTED)], products, piece);
}

fn equals_expecting(model: &Model, steps: [usize; 3], products: Products, piece: usize) {
    let ([client, server], bits) = run(model, steps, products, piece);
    let [tokens, more, _] = steps;
    let (public, private) = model;
    let spec = &public.spec;
    let mut twin = Twin::new(Arc::clone(public), Arc::clone(private));
    twin.start_trace();
    if spec.numeric.rounding == Rounding::Stochastic {
        // `floor((x + 2^shift - 1 - t) / 2^shift)` is what the twin rounds to.
        let randomness = client.randomness.iter().map(|low| low.wrapping_sub(1));
        twin.take_randomness(randomness.collect());
    }
    let mut answers = vec![Some(twin.prefill(&boundary(spec, 1, tokens)).unwrap())];
    for k in 0..more {
        answers.push(Some(twin.decode(&boundary(spec, 2 + k as u64, 1)).unwrap()));
    }
    assert_eq!(client.trace.len(), server.trace.len());
    let expected = twin.take_trace();
    let labels = |trace: &[(&'static str, RingTensor)]| -> Vec<&'static str> {
        trace.iter().map(|(label, _)| *label).collect()
    };
    let theirs: Vec<_> = expected.iter().map(|(label, _)| *label).collect();
    assert_eq!(labels(&client.trace), theirs);
    for (i, (label, values)) in expected.iter().enumerate() {
        let sum = &client.trace[i].1 + &server.trace[i].1;
        let mask = low_mask(sum.bits);
        let wrong = sum
            .data
            .iter()
            .zip(values)
            .position(|(a, b)| (a ^ b) & mask != 0);
        assert_eq!(wrong, None, "`{label}`, value {i}, modulo 2^{}", sum.bits);
        assert_eq!(sum.data.len(), values.len(), "`{label}`");
    }
    assert_eq!(client.tokens, answers);
    // The prompt is prepared with itself, the next step with those that are expected behind it.
    let prepared: Vec<usize> = client.preparations.iter().map(Vec::len).collect();
    let ahead = |k: usize| usize::from(k <= 1 || k > EXPECTED);
    match products {
        Products::Ahead => assert_eq!(prepared, (0..=more).map(ahead).collect::<Vec<_>>()),
        Products::Transfers | Products::Lattices => assert_eq!(prepared, vec![0; 1 + more]),
        Products::Cheaper => {}
    }
    assert!(server.tokens.iter().all(Option::is_none));
    // Online bytes and rounds and offline bytes are those of the tally.
    let bucket = spec.bucket(tokens);
    let mut shapes = vec![(0, bucket)];
    shapes.extend((0..more).map(|k| (bucket + k, 1)));
    let prepared: Vec<Preparation> = client.preparations.concat();
    let greedy = Selection::Greedy;
    let made = tally_preparations(spec, greedy, &prepared, Some(bits)).unwrap();
    let mut made = made.into_iter();
    for (step, (cached, rows)) in shapes.into_iter().enumerate() {
        let how = (Some(bits), products, piece);
        let parts = tally::by_label_in_pieces(spec, greedy, cached, rows, how).unwrap();
        let mut counted = Counted::default();
        parts.iter().for_each(|(_, part)| counted += part);
        let [_, offline, online] = client.sent[step];
        assert_eq!([online.sent, online.received], counted.online.sent);
        assert_eq!(online.rounds, counted.online.rounds);
        for _ in &client.preparations[step] {
            counted.offline += made.next().unwrap();
        }
        assert_eq!([offline.sent, offline.received], counted.offline.sent);
        assert!(offline.rounds <= counted.offline.rounds);
    }
}

#[test]
fn every_value_of_a_decoder_is_the_twins() {
    equals_the_twin(&random_weights(&tiny_spec(), 1), 5);
}

/// More is prepared than the answer takes.
#[test]
fn steps_that_do_not_come_are_prepared_in_vain() {
    let model = random_weights(&tiny_spec(), 1);
    let steps = [5, 1, EXPECTED];
    equals_expecting(&model, steps, Products::Ahead, gates::PIECE);
}

/// What sends fewer bytes for models this small is transfers; both ways must be right.
#[test]
fn products_by_lattices_and_by_transfers_are_the_twins() {
    let spec = with_mixed_heads(tiny_spec()).with_ranks(vec![1, 4, 0, 2, 8, 3, 0]);
    for (spec, tokens) in [(spec, 11), (tiny_spec(), 18)] {
        let model = random_weights(&spec, 2);
        for products in [Products::Lattices, Products::Transfers, Products::Ahead] {
            equals_with(&model, tokens, products);
        }
    }
}

/// Keys of earlier preparations meet queries of later ones.
#[test]
fn steps_over_several_preparations_are_the_twins() {
    let spec = ProgramSpec {
        max_positions: 64,
        ..with_mixed_heads(tiny_spec())
    };
    let model = random_weights(&spec, 6);
    equals_over(&model, [18, EXPECTED + 3], Products::Ahead, gates::PIECE);
}

/// An ordinary full fine-tune: W·(x + r), less shares of W·r.
#[test]
fn whole_private_matrices_are_the_twins() {
    let spec = with_private_matrices(tiny_spec());
    let model = random_weights(&spec, 7);
    equals_over(&model, [18, EXPECTED + 2], Products::Ahead, gates::PIECE);
    let spec = ProgramSpec {
        numeric: NumericSpec::with_rounding(Rounding::Stochastic),
        ..spec
    };
    equals_with(&random_weights(&spec, 7), 5, Products::Cheaper);
}

#[test]
fn whole_private_matrices_with_rows_are_the_twins() {
    let bert = crate::Architecture::Bert {
        pooling: Pooling::Pooler,
        reveal: Reveal::Class,
    };
    for architecture in [crate::Architecture::Gpt2, bert] {
        let spec = with_private_matrices(tiny_affine_spec(architecture));
        let model = AffineModel::random(&spec, 2).quantize();
        equals_with(&model, 4, Products::Ahead);
    }
}

#[test]
fn whole_private_matrices_within_a_step_are_refused() {
    let spec = with_private_matrices(tiny_spec());
    for products in [Products::Lattices, Products::Transfers] {
        let counted = tally_two_party(&spec, Selection::Greedy, 16, 1, None, products);
        let error = counted.err().unwrap().to_string();
        assert!(error.contains("full-rank"), "{error}");
    }
}

/// Given the low bits of E0's shares, which round.
#[test]
fn stochastic_values_are_the_twins_given_the_randomness() {
    let stochastic = |spec: ProgramSpec| ProgramSpec {
        numeric: NumericSpec::with_rounding(Rounding::Stochastic),
        ..spec
    };
    let model = random_weights(&stochastic(tiny_spec()), 8);
    for products in [Products::Transfers, Products::Ahead] {
        equals_with(&model, 5, products);
    }
    let bert = crate::Architecture::Bert {
        pooling: Pooling::Pooler,
        reveal: Reveal::Class,
    };
    let spec = stochastic(tiny_affine_spec(bert));
    let model = AffineModel::random(&spec, 5).quantize();
    equals_with(&model, 6, Products::Transfers);
}

/// An input's low bits round half of the time, whatever they are.
#[test]
fn inputs_are_spread_where_rounding_is_stochastic() {
    let spec = ProgramSpec {
        numeric: NumericSpec::with_rounding(Rounding::Stochastic),
        ..tiny_spec()
    };
    let bits = FactorBits { a: 8, b: 8 };
    let mut engine: TwoParty = TwoParty::new(&spec, Gates::count(), None, bits);
    let values = vec![5; 4096];
    let own = engine.input(Some(&values), 1, values.len(), 64).unwrap();
    let low = own.share.data.iter().filter(|v| **v >> 9 & 1 == 1).count();
    assert!((1850..2246).contains(&low), "{low}: six deviations");
    let again = engine.input(Some(&values), 1, values.len(), 64).unwrap();
    assert_ne!(own.share.data, again.share.data);
}

/// A long prompt goes through gates piece by piece.
#[test]
fn pieces_of_a_step_are_the_twins() {
    let model = random_weights(&tiny_spec(), 4);
    for piece in [64, 1000] {
        equals_in_pieces(&model, 7, Products::Transfers, piece);
    }
}

#[test]
fn lattices_multiply_in_encoders_too() {
    let bert = crate::Architecture::Bert {
        pooling: Pooling::Cls,
        reveal: Reveal::Class,
    };
    let spec = tiny_affine_spec(bert);
    let model = AffineModel::random(&spec, 5).quantize();
    equals_with(&model, 6, Products::Lattices);
}

#[test]
fn approximations_are_the_twins() {
    for approx in marill_numeric::approx::EACH {
        let spec = ProgramSpec {
            approx,
            ..tiny_spec()
        };
        equals_with(&random_weights(&spec, 3), 3, Products::Transfers);
    }
}

#[test]
fn what_families_add_is_the_twins() {
    for variant in variants() {
        let all = variant.biases && variant.qk_norm.is_some();
        let whole = variant.qk_norm == Some(QkNorm::Whole);
        let spec = ProgramSpec {
            variant,
            ..tiny_spec()
        };
        let model = random_weights(&spec, 5);
        equals_with(&model, 5, Products::Transfers);
        // What is made ahead differs in norms of whole rows, and where all comes together.
        if whole || all {
            equals_with(&model, 5, Products::Ahead);
        }
    }
}

#[test]
fn gpt2_with_private_rows_is_the_twin() {
    let spec = tiny_affine_spec(crate::Architecture::Gpt2);
    let model = AffineModel::random(&spec, 2).quantize();
    for products in [Products::Transfers, Products::Ahead] {
        equals_with(&model, 4, products);
    }
}

#[test]
fn bert_classes_and_embeddings_are_the_twins() {
    let bert = |pooling, reveal| crate::Architecture::Bert { pooling, reveal };
    for pooling in [Pooling::Cls, Pooling::Pooler] {
        let spec = tiny_affine_spec(bert(pooling, Reveal::Class));
        let model = AffineModel::random(&spec, 5).quantize();
        for products in [Products::Transfers, Products::Ahead] {
            equals_with(&model, 6, products);
        }
    }
}

/// What one text's keys were masked with is of no use to the next.
#[test]
fn two_texts_of_a_session_are_the_twins() {
    let spec = tiny_affine_spec(crate::Architecture::Bert {
        pooling: Pooling::Mean,
        reveal: Reveal::Embedding,
    });
    let (public, private) = AffineModel::random(&spec, 6).quantize();
    let texts = [1, 2].map(|seed| boundary(&spec, seed, 6));
    let (own, other) = marill_net::memory_pair();
    let rows = thread::scope(|scope| {
        let server = scope.spawn(|| {
            let weights = Arc::clone(&public);
            let private = Arc::clone(&private);
            let server =
                crate::ServerSession::without_dealer(weights, private, Box::new(other), EXTENSION);
            let mut server = server.unwrap().with_products(Products::Ahead);
            for _ in 0..2 {
                server.prefill(spec.bucket(6)).unwrap();
            }
        });
        let client =
            crate::ClientSession::without_dealer(Arc::clone(&public), Box::new(own), EXTENSION);
        let mut client = client.unwrap().with_products(Products::Ahead);
        let rows = texts.each_ref().map(|text| client.embed(text).unwrap());
        server.join().unwrap();
        rows
    });
    let mut twin = Twin::new(public, private);
    assert_eq!(rows, texts.map(|text| twin.embed(&text).unwrap()));
}

/// Values cannot tell it: every opening has a mask of its own, in its whole ring, in every step.
#[test]
fn no_mask_is_used_for_two_openings() {
    let (public, _) = random_weights(&tiny_spec(), 1);
    let bits = FactorBits { a: 8, b: 8 };
    let mut engine: TwoParty = TwoParty::new(&public.spec, Gates::count(), None, bits);
    engine.masks = Masks::Plan(Plan::new(Some(Party::E0)));
    engine.begun = true;
    let mut stock = Stock::new(engine, &public, None);
    let mut seen = std::collections::HashSet::new();
    for (rows, steps) in [(16, 1), (1, 5), (1, 3)] {
        for job in stock.plan(rows, steps).unwrap().0 {
            let masks = match job {
                jobs::Job::Mask(mask) => vec![(mask.bits, mask.data)],
                jobs::Job::Update(job) => vec![(job.bits, job.outer), (job.bits, job.inner)],
                _ => continue,
            };
            for (bits, mask) in masks {
                let high = mask.iter().filter(|v| **v >> (bits - 1) & 1 == 1).count();
                assert!(
                    mask.len() < 40 || (1..mask.len()).contains(&high),
                    "{bits} bits"
                );
                assert!(mask.iter().all(|v| *v <= low_mask(bits)));
                assert!(mask.into_iter().all(|v| bits < 40 || seen.insert(v)));
            }
        }
    }
    assert!(seen.len() > 10_000, "{} masks", seen.len());
}

/// E1 makes no more ahead than the shape allows, whatever E0 says.
#[test]
fn more_steps_than_can_be_prepared_are_refused() {
    let model = random_weights(&tiny_spec(), 1);
    for (rows, said) in [(1, 0), (1, 33), (16, 2)] {
        let (own, other) = memory_ends(LIMIT);
        let begin = |end, party| {
            let mut link = Link::new(end, party);
            let base = BaseOts::establish(&mut link).unwrap();
            Session::begin(link, &base, GroupBits::Four).unwrap()
        };
        let error = thread::scope(|scope| {
            scope.spawn(|| {
                let mut session = begin(own, Party::E0);
                session.link().receive("factor widths", 2).unwrap();
                session.link().send("steps to prepare", &[said]).unwrap();
            });
            let session = begin(other, Party::E1);
            let private = Arc::clone(&model.1);
            let engine = TwoParty::server(&model.0.spec, private, session).unwrap();
            let mut engine = engine.with_products(Products::Ahead);
            engine.begin_step(&model.0, None, rows).err().unwrap()
        });
        assert!(error.to_string().contains("steps prepared"), "{error}");
    }
}

/// What a factor's width says must not be believed unseen.
#[test]
fn a_width_that_no_factor_has_is_refused() {
    let (own, other) = memory_ends(LIMIT);
    let error = thread::scope(|scope| {
        scope.spawn(|| {
            let mut link = Link::new(other, Party::E1);
            let base = BaseOts::establish(&mut link).unwrap();
            let mut session = Session::begin(link, &base, GroupBits::Four).unwrap();
            session.link().send("factor widths", &[12, 200]).unwrap();
        });
        let mut link = Link::new(own, Party::E0);
        let base = BaseOts::establish(&mut link).unwrap();
        let session = Session::begin(link, &base, GroupBits::Four).unwrap();
        TwoParty::client(&tiny_spec(), session).err().unwrap()
    });
    assert!(error.to_string().contains("bits of a factor"), "{error}");
}

#[test]
fn an_adapter_of_another_model_is_refused() {
    let (_, private) = random_weights(&tiny_spec().with_ranks(vec![2; 7]), 1);
    let error = check_private(&tiny_spec(), &private).unwrap_err();
    assert!(matches!(error, ProtocolError::AdapterMismatch), "{error}");
}

#[test]
fn signed_bits_count_the_sign() {
    for (value, bits) in [
        (0i64, 1),
        (-1, 1),
        (1, 2),
        (-2, 2),
        (2, 3),
        (127, 8),
        (-128, 8),
    ] {
        assert_eq!(signed_bits(value as u64), bits, "{value}");
    }
}
