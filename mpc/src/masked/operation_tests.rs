//! Single operations: the secure result is the twin's integer, and the twin's is close to the real
//! number.

mod activations;
mod truncation_properties;

use std::{sync::Arc, thread};

use marill_crypto::{Prg, Seed};
use marill_net::{Channel, memory_pair};
use marill_numeric::{
    NumericSpec, Rounding,
    tables::{Piecewise, tables},
};

use crate::{
    ProgramSpec,
    engine::{Engine, Truncation},
    error::ProtocolResult,
    masked::{Comparison, Masked, share::Share},
    program::layers::{self, NormScale},
    random_model::{gaussian, random_weights, tiny_spec},
    reference::twin::PlaintextEngine,
    weights::{PrivateWeights, PublicWeights},
};

/// A program over one client input.
trait Program: Sync {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share>;
}

/// How gates are built: from how many elements on they save bytes, and what they compare with.
#[derive(Clone, Copy)]
struct Build {
    many: usize,
    comparison: Comparison,
}

const FEW_ROUNDS: Build = Build {
    many: usize::MAX,
    comparison: Comparison::OneHot,
};
const FEW_BYTES: Build = Build {
    many: 0,
    comparison: Comparison::OneHot,
};
const DCF: Build = Build {
    many: usize::MAX,
    comparison: Comparison::Dcf,
};

/// Runs a program in the twin and in a world of three parties, with gates that save rounds, with
/// gates that save bytes and with DCF; returns the twin's integers after comparing.
fn run_everywhere(program: &impl Program, input: &[u64], rows: usize, input_bits: u32) -> Vec<u64> {
    run_with(program, input, rows, input_bits, FEW_ROUNDS);
    run_with(program, input, rows, input_bits, FEW_BYTES);
    run_with(program, input, rows, input_bits, DCF)
}

fn run_with(
    program: &impl Program,
    input: &[u64],
    rows: usize,
    input_bits: u32,
    build: Build,
) -> Vec<u64> {
    let cols = input.len() / rows;
    let (public, private) = random_weights(&tiny_spec(), 0);
    let mut clear = PlaintextEngine::new(Arc::clone(&private), 0);
    let wire = clear.input(Some(input), rows, cols, input_bits).unwrap();
    let expected = program.run(&mut clear, wire).unwrap().data;
    let (x, y) = shares_of(program, input, rows, input_bits, build, &public, &private);
    let modulus = marill_numeric::fixed::low_mask(x.bits);
    assert_eq!(x.data.len(), expected.len());
    for (i, (x, y)) in x.data.iter().zip(&y.data).enumerate() {
        assert_eq!(
            x.wrapping_add(*y) & modulus,
            expected[i] & modulus,
            "element {i} of {}",
            expected.len()
        );
    }
    expected
}

/// Both evaluators' shares of a program's result.
fn shares_of(
    program: &impl Program,
    input: &[u64],
    rows: usize,
    input_bits: u32,
    build: Build,
    public: &PublicWeights,
    private: &PrivateWeights,
) -> (Share, Share) {
    let spec = &public.spec;
    let cols = input.len() / rows;
    let [adapter_seed, seed0, seed1] = marill_testkit::world::session_seeds();
    let (client_end, server_end) = memory_pair();
    let (sink, stream) = memory_pair();
    let channel = |end| -> Box<dyn Channel> { Box::new(end) };
    let mut client = Masked::client(
        spec,
        &private.mask(spec, &adapter_seed),
        &seed0,
        channel(client_end),
    )
    .unwrap();
    let mut server =
        Masked::server(spec, private, &seed1, channel(server_end), channel(stream)).unwrap();
    let mut dealer = Masked::dealer(spec, &adapter_seed, &seed0, &seed1, channel(sink));
    if build.comparison == Comparison::Dcf {
        let (dcf_keys, from_dealer) = memory_pair();
        (client, server) = (
            client.with_dcf(channel(from_dealer)),
            server.with_comparison(Comparison::Dcf),
        );
        dealer = dealer.with_dcf(channel(dcf_keys));
    }
    let step = |engine: &mut Masked, input: Option<&[u64]>| {
        engine.many = build.many;
        if build.comparison == Comparison::Dcf {
            engine.dcf_below = usize::MAX;
        }
        let wire = engine.input(input, rows, cols, input_bits).unwrap();
        let share = program.run(engine, wire).unwrap();
        let share = engine.materialized(&share).unwrap().into_owned();
        engine.flush().unwrap();
        share
    };
    thread::scope(|scope| {
        scope.spawn(|| step(&mut dealer, None));
        let server = scope.spawn(|| step(&mut server, None));
        (step(&mut client, Some(input)), server.join().unwrap())
    })
}

fn real(values: &[u64], frac_bits: u32) -> Vec<f64> {
    values
        .iter()
        .map(|&v| v as i64 as f64 / f64::from(frac_bits).exp2())
        .collect()
}

fn encode(values: &[f32], frac_bits: u32) -> Vec<u64> {
    values
        .iter()
        .map(|v| (f64::from(*v) * f64::from(frac_bits).exp2()).round() as i64 as u64)
        .collect()
}

fn words(label: &str, n: usize) -> Vec<u64> {
    Prg::new(&Seed::from_bytes([5; 32]), label).words(n)
}

struct Truncate(u32, u32);

impl Program for Truncate {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        // Halves as the program has them: an input's are the value and zero.
        let share = engine.share(&input);
        let input = engine.open(&[(&share, 64)], "test")?.remove(0);
        let share = engine.share(&input);
        engine.truncate(
            &share,
            Truncation {
                shift: self.0,
                from: self.1,
                to: 64,
            },
            "test",
        )
    }
}

#[test]
fn truncation_is_exact_for_every_width_and_at_its_limits() {
    for (shift, bits) in [
        (2, 16),
        (7, 32),
        (14, 32),
        (15, 48),
        (23, 56),
        (24, 56),
        (36, 64),
        (40, 64),
        (60, 64),
    ] {
        let limit = 1i64 << (bits - 2);
        let mut values: Vec<u64> = words("truncate", 300)
            .iter()
            .map(|w| ((*w as i64) >> (66 - bits)) as u64)
            .collect();
        let half = 1i64 << (shift - 1);
        values.extend(
            [
                0,
                1,
                -1,
                half,
                -half,
                half - 1,
                -half - 1,
                limit - 1 - half,
                -limit + 1,
            ]
            .map(|v| v as u64),
        );
        // A carry through every digit.
        values.extend((0..shift).map(|k| (1u64 << k).wrapping_sub(half as u64)));
        let out = run_everywhere(&Truncate(shift, bits), &values, 1, bits.max(64));
        for (x, y) in values.iter().zip(out) {
            assert_eq!(
                y as i64,
                ((i128::from(*x as i64) + (1i128 << (shift - 1))) >> shift) as i64
            );
        }
    }
}

/// Over a million random numbers the mean of a rounded value is the value: five standard deviations
/// of a fair rounding. Dropped bits may add a little to the largest error.
#[test]
fn stochastic_truncation_is_unbiased_and_off_by_about_one() {
    let spec = ProgramSpec {
        numeric: NumericSpec::with_rounding(Rounding::Stochastic),
        ..tiny_spec()
    };
    let shift = 14;
    let values: Vec<u64> = (0..1 << 20)
        .map(|i: i64| ((i % 7 - 3) * 5_000 + 1 - (i % 2) * 100_000) as u64)
        .collect();
    let (public, private) = random_weights(&spec, 0);
    let (x, y) = shares_of(
        &Truncate(shift, 48),
        &values,
        1,
        64,
        FEW_ROUNDS,
        &public,
        &private,
    );
    let modulus = marill_numeric::fixed::low_mask(x.bits);
    let mut sums = [0f64; 14];
    let mut counts = [0f64; 14];
    let mut variances = [0f64; 14];
    for (i, v) in values.iter().enumerate() {
        let got =
            marill_numeric::fixed::sign_extend(x.data[i].wrapping_add(y.data[i]) & modulus, x.bits)
                as f64;
        let exact = *v as i64 as f64 / f64::from(1 << shift);
        assert!(
            (got - exact).abs() < 1.0 + 1.0 / 64.0,
            "{i} {v} {got} {exact}"
        );
        let fraction = exact - exact.floor();
        let class = i % 14;
        sums[class] += got - exact;
        counts[class] += 1.0;
        // That of a fair rounding, and what dropped bits add at most.
        variances[class] += fraction * (1.0 - fraction) + 1.0 / 256.0;
    }
    for class in 0..14 {
        // Five standard deviations.
        assert!(
            sums[class].abs() < 5.0 * variances[class].sqrt(),
            "class {class}: {}",
            sums[class] / counts[class]
        );
    }
    let sum: f64 = sums.iter().sum();
    let variance: f64 = variances.iter().sum();
    // Five standard deviations.
    assert!(
        sum.abs() < 5.0 * variance.sqrt(),
        "the mean error is {}",
        sum / values.len() as f64
    );
}

struct PiecewiseProgram(&'static Piecewise);

impl Program for PiecewiseProgram {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        let share = engine.share(&input);
        engine.piecewise(&share, self.0, "test")
    }
}

#[test]
fn piecewise_functions_are_the_twins_at_thresholds() {
    for table in [&tables().rsqrt, &tables().recip] {
        let around = |t: &u64| [t.wrapping_sub(1), *t, t + 1];
        let mut values: Vec<u64> = table.threshold.iter().step_by(7).flat_map(around).collect();
        values.extend([0, 1, table.end - 1, table.end / 3]);
        run_everywhere(&PiecewiseProgram(table), &values, 1, 64);
    }
}

struct Norm(NormScale, bool);

impl Program for Norm {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        let share = engine.share(&input);
        if self.1 {
            layers::layer_norm(engine, &share, 64, self.0, 64)
        } else {
            let input = engine.open_bounded(&share, layers::NORM_INPUT_BITS, "test")?;
            layers::rms_norm(engine, &input, 64, self.0, 64)
        }
    }
}

#[test]
fn norms_are_close_to_the_real_ones() {
    let scale = NormScale {
        input_frac_bits: 15,
        output_frac_bits: 14,
        norm_bits: 3,
        epsilon: 1e-5,
    };
    for (deviation, center) in [(0.05, 0.0), (1.0, 0.5), (60.0, -20.0)] {
        let floats: Vec<f32> = gaussian(1, "norm", 8 * 64, deviation)
            .iter()
            .map(|v| v + center)
            .collect();
        for centered in [false, true] {
            let out = run_everywhere(&Norm(scale, centered), &encode(&floats, 15), 8, 64);
            for (row, out) in floats.chunks(64).zip(real(&out, 14).chunks(64)) {
                let row: Vec<f64> = row.iter().map(|v| f64::from(*v)).collect();
                let mean = if centered {
                    row.iter().sum::<f64>() / 64.0
                } else {
                    0.0
                };
                let rms =
                    (row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / 64.0 + 1e-5).sqrt();
                for (x, got) in row.iter().zip(out) {
                    let error = (got - (x - mean) / rms).abs();
                    // The input itself is off by half of 2^-15, which a small row magnifies.
                    assert!(
                        error < 8e-4 + 4e-5 / rms,
                        "deviation {deviation}, centered {centered}: {error}"
                    );
                }
            }
        }
    }
}

struct Softmax(Vec<usize>);

impl Program for Softmax {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        let scores = engine.share(&input);
        let scores = engine.truncate(
            &scores,
            Truncation {
                shift: 1,
                from: 64,
                to: 32,
            },
            "test",
        )?;
        let (weights, _) = layers::softmax_parts(engine, &scores, &self.0)?;
        Ok(engine.share(&weights))
    }
}

#[test]
fn softmax_over_2048_keys_is_within_a_thousandth() {
    let lens = vec![2048, 1, 2, 77, 300];
    let floats = gaussian(2, "softmax", lens.iter().sum(), 3.0);
    let weights = real(
        &run_everywhere(&Softmax(lens.clone()), &encode(&floats, 15), 1, 64),
        14,
    );
    let mut at = 0;
    let mut worst = 0f64;
    for len in lens {
        let row = &floats[at..at + len];
        let largest = row.iter().copied().fold(f32::MIN, f32::max);
        let exact: Vec<f64> = row.iter().map(|v| f64::from(v - largest).exp()).collect();
        let sum = exact.iter().sum::<f64>();
        let got_sum = weights[at..at + len].iter().sum::<f64>();
        for (got, exact) in weights[at..at + len].iter().zip(&exact) {
            worst = worst.max((got / got_sum - exact / sum).abs());
        }
        at += len;
    }
    // Weights have 14 fractional bits and exp is good to 1.5e-4; the sum adds as much again.
    assert!(worst < 1e-3, "{worst}");
}

struct BelowLargest(usize);

impl Program for BelowLargest {
    fn run<E: Engine>(&self, engine: &mut E, input: E::Wire) -> ProtocolResult<E::Share> {
        let share = engine.share(&input);
        engine.below_largest(&share, self.0, "test")
    }
}

/// Both forms of the search, with equals, values around the grid's points and at the ends of the
/// range.
#[test]
fn the_elements_below_the_kth_largest_are_the_twins() {
    let limit = (1i64 << 24) - 1;
    let mut values: Vec<i64> = words("kth", 200)
        .iter()
        .map(|w| (*w as i64) >> 40)
        .collect();
    values.extend([
        0, 1, -1, 127, 128, 129, -127, -128, -129, limit, limit, -limit, 5_000, 5_000, 5_000,
    ]);
    let values: Vec<u64> = values.into_iter().map(|v| v as u64).collect();
    let n = values.len();
    for keep in [1, 2, 3, 50, n - 1, n, n + 7] {
        let below = run_everywhere(&BelowLargest(keep), &values, 1, 64)
            .iter()
            .sum::<u64>() as usize;
        assert!(
            n - below >= keep.min(n),
            "at least {keep} stay, {below} of {n} do not"
        );
    }
    let narrow: Vec<u64> = (0..40u64).map(|i| (i * 3).wrapping_sub(60)).collect();
    let below = run_everywhere(&BelowLargest(5), &narrow, 1, 64);
    assert_eq!(
        below.iter().sum::<u64>(),
        20,
        "those from zero up share the k-th one's step of the grid"
    );
}
