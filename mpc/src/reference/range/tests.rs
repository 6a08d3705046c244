//! The bounds hold for what the twin computes, are not absurdly wide, and name what is too large.

use std::sync::Arc;

use marill_crypto::Prg;
use marill_numeric::{Approximations, NumericSpec, Rounding, SoftmaxForm, approx};

use crate::{
    Architecture, Pooling, ProgramSpec, Reveal, Seed,
    random_model::{
        AffineModel, gaussian, random_weights, tiny_affine_spec, tiny_spec, variants,
        with_mixed_heads, with_private_matrices,
    },
    reference::{
        range::{Envelope, Prover, prove},
        twin::Twin,
    },
    weights::{PrivateWeights, PublicWeights},
};

type Model = (Arc<PublicWeights>, Arc<PrivateWeights>);

fn models(seed: u64) -> Vec<Model> {
    let bert = |pooling, reveal| tiny_affine_spec(Architecture::Bert { pooling, reveal });
    let affine = [
        tiny_affine_spec(Architecture::Gpt2),
        bert(Pooling::Mean, Reveal::Embedding),
        bert(Pooling::Cls, Reveal::Class),
        bert(Pooling::Pooler, Reveal::Class),
        with_private_matrices(tiny_affine_spec(Architecture::Gpt2)),
        with_private_matrices(bert(Pooling::Cls, Reveal::Class)),
    ];
    let mut models = vec![
        random_weights(&tiny_spec(), seed),
        random_weights(&with_mixed_heads(tiny_spec()), seed),
        random_weights(&with_private_matrices(tiny_spec()), seed),
    ];
    models.extend(
        affine
            .iter()
            .map(|spec| AffineModel::random(spec, seed).quantize()),
    );
    let numeric = || NumericSpec::with_rounding(Rounding::Stochastic);
    models.push(random_weights(
        &ProgramSpec {
            numeric: numeric(),
            ..tiny_spec()
        },
        seed,
    ));
    // Squares of bounds are too wide to be proved; another test names them.
    let provable = |approx: &Approximations| approx.softmax != Some(SoftmaxForm::Quad);
    models.extend(approx::EACH.into_iter().filter(provable).map(|approx| {
        let spec = ProgramSpec {
            approx,
            ..tiny_spec()
        };
        random_weights(&spec, seed)
    }));
    for variant in variants() {
        let spec = ProgramSpec {
            variant,
            ..tiny_spec()
        };
        models.push(random_weights(&spec, seed));
        models.push(random_weights(&with_private_matrices(spec), seed));
    }
    let gpt2 = ProgramSpec {
        numeric: numeric(),
        ..tiny_affine_spec(Architecture::Gpt2)
    };
    models.push(AffineModel::random(&gpt2, seed).quantize());
    models
}

/// Rows that are random, or all in one column, or alike, each of norm `norm`.
fn rows(spec: &ProgramSpec, seed: u64, n: usize, norm: f32) -> Vec<f32> {
    let d = spec.hidden_size;
    let mut values = gaussian(seed, "rows", n * d, 1.0);
    let choice = Prg::new(&Seed::from_bytes([seed as u8; 32]), "choice").words(n);
    for (row, word) in values.chunks_exact_mut(d).zip(choice) {
        match word % 3 {
            0 => (0..d).for_each(|j| row[j] = f32::from(u8::from(j == (word >> 8) as usize % d))),
            1 => row.fill(1.0),
            _ => {}
        }
        let length = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v *= norm * 0.9999 / length);
    }
    values
}

fn traced(model: &Model, values: &[f32]) -> Vec<(&'static str, Vec<u64>)> {
    let spec = &model.0.spec;
    let encoded = spec.encode(values).unwrap();
    let mut twin = Twin::new(Arc::clone(&model.0), Arc::clone(&model.1));
    twin.start_trace();
    if spec.reveals_embedding() {
        twin.embed(&encoded).unwrap();
    } else {
        twin.prefill(&encoded).unwrap();
    }
    twin.take_trace()
}

#[test]
fn values_stay_within_bounds_that_are_near_enough() {
    for seed in 0..3 {
        for model in models(seed) {
            let spec = &model.0.spec;
            // An encoder's first layer multiplies rows that no norm has truncated.
            let far = if matches!(spec.architecture, Architecture::Bert { .. }) {
                30.0
            } else {
                300.0
            };
            for (nth, norm) in [0.01f32, 4.0, far].into_iter().enumerate() {
                let envelope = Envelope {
                    row_norm: f64::from(norm),
                    positions: 16,
                };
                let (proof, bounds) = Prover::new(&model.0, Arc::clone(&model.1)).trace(envelope);
                proof.unwrap_or_else(|violation| panic!("{:?}: {violation}", spec.architecture));
                let trace = traced(&model, &rows(spec, 10 * seed + nth as u64, 12, norm));
                assert_eq!(trace.len(), bounds.len());
                for ((label, values), (bounded, bound)) in trace.iter().zip(&bounds) {
                    assert_eq!(label, bounded);
                    let largest = values
                        .iter()
                        .map(|v| (*v as i64).unsigned_abs())
                        .max()
                        .unwrap() as f64;
                    assert!(
                        largest <= *bound,
                        "{label}: {largest} where at most {bound} was proved"
                    );
                    let slack = bound / largest.max(1.0);
                    if *label == "norm.x" {
                        // Five bits: what Cauchy-Schwarz gives away on random rows.
                        assert!(
                            slack < 30.0,
                            "{label}: {bound} is proved, {largest} was seen"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_tables_keep_to_what_the_interpreter_takes_for_granted() {
    use marill_numeric::functions::{exp_neg, gelu, recip, rsqrt, sigmoid, silu, tanh};

    use crate::reference::range::engine::{GATE_ERROR, RECIP_ERROR, RECIP_ERROR_FAR, RSQRT_ERROR};
    let one = 1i64 << 14;
    assert_eq!(exp_neg(0) as i64, one);
    assert!((0..(1u64 << 18) + 9).all(|y| (0..=one).contains(&(exp_neg(y) as i64))));
    for x in -(1i64 << 18) - 9..(1 << 18) + 9 {
        for y in [silu(x as u64), gelu(x as u64)] {
            assert!(
                ((y as i64).abs() as f64) <= x.abs() as f64 + GATE_ERROR,
                "{x}: {}",
                y as i64
            );
        }
        for y in [sigmoid(x as u64), tanh(x as u64)] {
            assert!(
                ((y as i64).abs() as f64) <= one as f64 + GATE_ERROR,
                "{x}: {}",
                y as i64
            );
        }
    }
    // An octave's intervals repeat in every octave but for rounding: every threshold and its
    // neighbors.
    let table = marill_numeric::tables::tables();
    let near = |t: &u64| {
        (t.saturating_sub(3)..t + 4)
            .chain([t + t / 128, t + t / 64, t + t / 40])
            .collect::<Vec<u64>>()
    };
    for s in table
        .rsqrt
        .threshold
        .iter()
        .flat_map(near)
        .filter(|s| *s > 0 && *s < table.rsqrt.end)
    {
        assert!(
            rsqrt(s) as f64 * (s as f64).sqrt() <= 58f64.exp2() * (1.0 + RSQRT_ERROR),
            "{s}"
        );
    }
    assert!(
        (1..1u64 << 19)
            .step_by(11)
            .all(|s| rsqrt(s) as f64 * (s as f64).sqrt() <= 58f64.exp2() * (1.0 + RSQRT_ERROR))
    );
    for s in (1u64 << 14..1 << 20).chain((1 << 20..1 << 25).step_by(7)) {
        let error = if s <= 1 << 20 {
            RECIP_ERROR
        } else {
            RECIP_ERROR_FAR
        };
        assert!(
            recip(s) as f64 * s as f64 <= 40f64.exp2() * (1.0 + error),
            "{s}"
        );
    }
}

#[test]
fn a_bound_is_reached_by_an_input_that_aims_at_it() {
    // One column holds everything: the norm's output is as large as it can be.
    let model = random_weights(&tiny_spec(), 1);
    let spec = &model.0.spec;
    let mut values = vec![0.0f32; 16 * spec.hidden_size];
    values
        .chunks_exact_mut(spec.hidden_size)
        .for_each(|row| row[5] = 100.0);
    let bounds = Prover::new(&model.0, Arc::clone(&model.1))
        .trace(Envelope {
            row_norm: 100.0,
            positions: 16,
        })
        .1;
    let bound = bounds
        .iter()
        .find(|(label, _)| *label == "norm.x")
        .unwrap()
        .1;
    let trace = traced(&model, &values);
    let (_, seen) = trace.iter().find(|(label, _)| *label == "norm.x").unwrap();
    let largest = seen
        .iter()
        .map(|v| (*v as i64).unsigned_abs())
        .max()
        .unwrap() as f64;
    assert!(
        largest <= bound && bound < largest * 1.001,
        "{largest} of {bound}"
    );
}

#[test]
fn a_weight_that_is_too_large_is_named_with_its_layer() {
    let spec = tiny_affine_spec(Architecture::Gpt2);
    let envelope = Envelope {
        row_norm: 50.0,
        positions: 64,
    };
    let mut model = AffineModel::random(&spec, 3);
    let (public, private) = model.quantize();
    let proof = prove(&public, &private, envelope).unwrap();
    assert!(proof.tightest().unwrap().bits() > 0.0);

    let (down, _) = &mut model.layers[1].maps[5];
    down.iter_mut().for_each(|w| *w *= 2000.0);
    let (public, private) = model.quantize();
    let violation = prove(&public, &private, envelope).unwrap_err();
    assert_eq!(
        (violation.violations[0].layer, violation.violations[0].label),
        (Some(1), "mlp.out")
    );
    let text = violation.to_string();
    assert!(
        text.starts_with("private layer 1, `mlp.out`: a value may reach 2^5"),
        "{text}"
    );
    assert!(text.contains("bits missing"), "{text}");

    // Where it is far too large, an input of the envelope overflows at the label named.
    let mut model = AffineModel::random(&spec, 3);
    model.layers[0].maps[5]
        .0
        .iter_mut()
        .for_each(|w| *w *= 40_000.0);
    let (public, private) = model.quantize();
    let violation = prove(&public, &private, envelope).unwrap_err();
    assert_eq!(
        (violation.violations[0].layer, violation.violations[0].label),
        (Some(0), "mlp.out")
    );
    assert!(
        violation.worst().bits() < -3.0 && violation.to_string().contains("bits missing"),
        "{violation}"
    );
    let encoded = spec.encode(&rows(&spec, 1, 16, 50.0)).unwrap();
    let error = Twin::new(public, private)
        .prefill(&encoded)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`mlp.out`"), "{error}");
}

#[test]
fn squared_scores_are_named_where_their_sums_may_be_too_large() {
    let spec = ProgramSpec {
        approx: Approximations {
            softmax: Some(SoftmaxForm::Quad),
            ..Approximations::default()
        },
        ..tiny_spec()
    };
    let (public, private) = random_weights(&spec, 1);
    let envelope = Envelope {
        row_norm: 1.0,
        positions: 16,
    };
    let unproved = prove(&public, &private, envelope).unwrap_err();
    let labels: Vec<&str> = unproved.violations.iter().map(|v| v.label).collect();
    assert_eq!(labels[0], "attention.recip", "{unproved}");
    let others = ["attention.recip", "attention.divide"];
    assert!(
        labels.iter().all(|label| others.contains(label)),
        "{labels:?}"
    );
}

#[test]
fn the_largest_envelope_lies_between_good_and_bad() {
    for model in models(4) {
        // The sum of 64 scores, each at its bound, is beyond what can be proved.
        if model.0.spec.approx.softmax == Some(SoftmaxForm::Relu) {
            continue;
        }
        let mut prover = Prover::new(&model.0, Arc::clone(&model.1));
        let proof = prover.largest(64).unwrap();
        let norm = proof.envelope.row_norm;
        println!(
            "{:?}: norm {norm:.0}, {:?}",
            model.0.spec.architecture,
            proof.tightest()
        );
        // Rows of these models are shorter; 2^16 is where the format ends.
        assert!(norm > 50.0 && norm < 65536.0);
        assert_eq!(prover.prove(proof.envelope).unwrap(), proof);
        assert!(
            prover
                .prove(Envelope {
                    row_norm: norm * 1.1,
                    positions: 64
                })
                .is_err()
        );
    }
}

#[test]
fn more_keys_than_the_reciprocal_covers_are_not_proved() {
    let spec = ProgramSpec {
        max_positions: crate::reference::range::LARGEST_POSITIONS,
        ..tiny_spec()
    };
    let (public, private) = random_weights(&spec, 1);
    let at = |positions| {
        prove(
            &public,
            &private,
            Envelope {
                row_norm: 10.0,
                positions,
            },
        )
    };
    assert!(at(2032).is_ok());
    assert_eq!(at(2048).unwrap_err().violations[0].label, "attention.recip");
}
