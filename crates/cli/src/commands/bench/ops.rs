//! Single operations over `n` elements: cost, and error against real arithmetic.

use std::{process::ExitCode, sync::Arc, thread};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use marill_mpc::{
    Comparison, PrivateWeights, PublicWeights, Seed,
    cost::Cost,
    engine::{Engine, Gate, Truncation, WEIGHTED_BITS},
    error::ProtocolResult,
    masked::Masked,
    program::layers::{self, NormScale},
    random_model::{gaussian, random_weights, tiny_spec},
    reference::{real::Real, twin::PlaintextEngine},
};
use marill_net::memory_pair;
use marill_numeric::tables::tables;
use marill_report::Table;
use serde_json::json;

use super::clock::{Spent, alone};
use crate::{args::services::ComparisonArg, output::failure::INPUT_FAILED};

#[derive(clap::Args)]
pub struct Args {
    /// Elements of each operation
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(16..=4_194_304),
    )]
    n: u32,
    /// Comparison protocol: one-hot (fewer bytes) or dcf (fewer rounds)
    #[arg(
        long,
        value_name = "KIND",
        value_parser = parse_comparison,
        default_value = "one-hot",
        alias = "material"
    )]
    comparison: Comparison,
    /// One JSON object per line on standard output
    #[arg(long)]
    json: bool,
}

fn parse_comparison(text: &str) -> Result<Comparison, String> {
    match ComparisonArg::from_str(text, false)? {
        ComparisonArg::OneHot => Ok(Comparison::OneHot),
        ComparisonArg::Dcf => Ok(Comparison::Dcf),
        ComparisonArg::Auto => Err("no network is named here: take `one-hot` or `dcf`".into()),
    }
}

/// Elements of a row, for operations on rows.
const ROW: usize = 128;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Op {
    Mul,
    Truncate,
    Exp,
    Sigmoid,
    Tanh,
    Silu,
    Gelu,
    Reciprocal,
    Rsqrt,
    Max,
    Softmax,
    RmsNorm,
    LayerNorm,
    Argmax,
}

impl Op {
    const ALL: [(Self, &'static str); 14] = [
        (Self::Mul, "mul"),
        (Self::Truncate, "truncate"),
        (Self::Exp, "exp"),
        (Self::Sigmoid, "sigmoid"),
        (Self::Tanh, "tanh"),
        (Self::Silu, "silu"),
        (Self::Gelu, "gelu"),
        (Self::Reciprocal, "reciprocal"),
        (Self::Rsqrt, "rsqrt"),
        (Self::Max, "max"),
        (Self::Softmax, "softmax"),
        (Self::RmsNorm, "rms_norm"),
        (Self::LayerNorm, "layer_norm"),
        (Self::Argmax, "argmax"),
    ];

    /// Ring elements that enter: normal numbers of deviation 2 with 14 fractional bits, in the
    /// operation's domain.
    fn input(self, n: usize) -> Vec<u64> {
        let unit = |bits: u32| f64::from(bits).exp2();
        let normal = gaussian(1, "operation", n, 2.0);
        let encode = |f: &dyn Fn(f64) -> f64| {
            normal
                .iter()
                .map(|v| f(f64::from(*v)).round() as i64 as u64)
                .collect()
        };
        match self {
            Self::Truncate => encode(&|v| v * unit(28)),
            Self::Exp => encode(&|v| v.abs() * unit(14)),
            // A sum of softmax weights: 1 to 64.
            Self::Reciprocal => encode(&|v| (1.0 + (v.abs() * 8.0).min(63.0)) * unit(14)),
            Self::Rsqrt => encode(&|v| (0.01 + v * v) * 576.0 * unit(30)),
            Self::RmsNorm | Self::LayerNorm => encode(&|v| v * unit(15)),
            _ => encode(&|v| v * unit(14)),
        }
    }

    fn rows(self, n: usize) -> usize {
        match self {
            Self::RmsNorm | Self::LayerNorm => n / ROW,
            _ => 1,
        }
    }

    /// Fractional bits of the result.
    fn frac_bits(self) -> u32 {
        match self {
            Self::Mul => 28,
            // 2^40/s for s with 14 fractional bits; 2^58/sqrt(s) for s with 30.
            Self::Reciprocal => 26,
            Self::Rsqrt => 43,
            _ => 14,
        }
    }

    fn run<E: Engine>(self, engine: &mut E, x: &E::Wire, n: usize) -> ProtocolResult<E::Share> {
        let rows =
            || -> Vec<usize> { (0..n.div_ceil(ROW)).map(|i| ROW.min(n - i * ROW)).collect() };
        let scale = NormScale {
            input_frac_bits: 15,
            output_frac_bits: 14,
            norm_bits: 3,
            epsilon: 1e-5,
        };
        let share = engine.share(x);
        match self {
            Self::Mul => engine.mul(x, x),
            Self::Truncate => engine.truncate(
                &share,
                Truncation {
                    shift: 14,
                    from: 48,
                    to: 48,
                },
                "truncate",
            ),
            Self::Exp => engine.exp_neg(&share, 48, "exp"),
            Self::Sigmoid => engine.gate(x, Gate(&tables().sigmoid), "sigmoid"),
            Self::Tanh => engine.gate(x, Gate(&tables().tanh), "tanh"),
            Self::Silu => engine.gate(x, Gate(&tables().silu), "silu"),
            Self::Gelu => engine.gate(x, Gate(&tables().gelu), "gelu"),
            Self::Reciprocal => engine.piecewise(&share, &tables().recip, "reciprocal"),
            Self::Rsqrt => engine.piecewise(&share, &tables().rsqrt, "rsqrt"),
            Self::Max => engine.ragged_max(&share, &rows(), "max"),
            Self::Softmax => softmax(engine, &share, &rows()),
            Self::RmsNorm => layers::rms_norm(engine, x, ROW, scale, 64),
            Self::LayerNorm => layers::layer_norm(engine, &share, ROW, scale, 64),
            Self::Argmax => engine
                .argmax_to_client(&share, "argmax")
                .map(|_| engine.share(x)),
        }
    }
}

/// Divided softmax weights of rows: each row's weights times its reciprocal, 14 fractional bits.
fn softmax<E: Engine>(
    engine: &mut E,
    scores: &E::Share,
    lens: &[usize],
) -> ProtocolResult<E::Share> {
    let (weights, inverse) = layers::softmax_parts(engine, scores, lens)?;
    let inverse = engine.open(&[(&inverse, 64)], "softmax.inverse")?.remove(0);
    let weights = engine.share(&weights);
    let weights = engine.reshape(&weights, lens[0]);
    let weights = engine
        .open(&[(&weights, WEIGHTED_BITS)], "softmax.weights")?
        .remove(0);
    let divided = engine.scale_rows(&weights, &inverse)?;
    engine.truncate(
        &divided,
        Truncation {
            shift: 26,
            from: 64,
            to: 64,
        },
        "softmax.divided",
    )
}

/// Bits in which an operation's input is opened: sums of squares need the ring.
fn input_bits(op: Op) -> u32 {
    match op {
        Op::Sigmoid | Op::Tanh | Op::Silu | Op::Gelu | Op::Mul | Op::Argmax => 48,
        _ => 64,
    }
}

struct Measured {
    shares: [(Vec<u64>, u32); 2],
    spent: [Spent; 3],
    rounds: u64,
    sent: [u64; 2],
}

/// Runs an operation at three parties; the opening of the input is not counted.
fn run_parties(
    op: Op,
    input: &[u64],
    weights: &(Arc<PublicWeights>, Arc<PrivateWeights>),
    comparison: Comparison,
) -> anyhow::Result<Measured> {
    let n = input.len();
    let rows = op.rows(input.len());
    let (public, private) = weights;
    let spec = &public.spec;
    let adapter_seed = Seed::random();
    let seed0 = Seed::random();
    let seed1 = Seed::random();
    let (client_end, server_end) = memory_pair();
    let (sink, stream) = memory_pair();
    let mut client = Masked::client(
        spec,
        &private.mask(spec, &adapter_seed),
        &seed0,
        Box::new(client_end),
    )?;
    let mut server = Masked::server(
        spec,
        private,
        &seed1,
        Box::new(server_end),
        Box::new(stream),
    )?;
    let mut dealer = Masked::dealer(spec, &adapter_seed, &seed0, &seed1, Box::new(sink));
    if comparison == Comparison::Dcf {
        let (dcf_keys, own_dcf_keys) = memory_pair();
        (client, server) = (
            client.with_dcf(Box::new(own_dcf_keys)),
            server.with_comparison(comparison),
        );
        dealer = dealer.with_dcf(Box::new(dcf_keys));
    }
    let party = move |engine: &mut Masked,
                      input: Option<&[u64]>|
          -> anyhow::Result<(Vec<u64>, u32, Spent, u64, u64)> {
        let wire = engine.input(input, rows, n / rows, input_bits(op))?;
        let before = engine.traffic();
        let mut spent = Spent::default();
        let share = spent.measure(|| -> ProtocolResult<_> {
            let share = op.run(engine, &wire, n)?;
            let share = engine.materialize(&share)?;
            engine.flush()?;
            Ok(share)
        })?;
        let after = engine.traffic();
        let rounds = after.rounds - before.rounds;
        let sent = after.bytes_sent - before.bytes_sent;
        Ok((share.half().to_vec(), share.bits(), spent, rounds, sent))
    };
    let party = &party;
    thread::scope(|scope| {
        let dealer = scope.spawn(move || alone(move || party(&mut dealer, None))?);
        let server = scope.spawn(move || alone(move || party(&mut server, None))?);
        let own = alone(|| party(&mut client, Some(input)))??;
        let theirs = server
            .join()
            .map_err(|_| anyhow!("the server panicked"))??;
        let dealer_time = dealer
            .join()
            .map_err(|_| anyhow!("the dealer panicked"))??;
        Ok(Measured {
            spent: [own.2, theirs.2, dealer_time.2],
            rounds: own.3,
            sent: [own.4, theirs.4],
            shares: [(own.0, own.1), (theirs.0, theirs.1)],
        })
    })
}

/// Counts an operation over shapes.
fn tally(op: Op, n: usize, public: &PublicWeights, comparison: Comparison) -> anyhow::Result<Cost> {
    let mut engine = Masked::tally(&public.spec).with_comparison(comparison);
    let rows = op.rows(n);
    let wire = engine.input(None, rows, n / rows, input_bits(op))?;
    let before = engine.cost();
    let share = op.run(&mut engine, &wire, n)?;
    engine.materialize(&share)?;
    Ok(engine.cost() - before)
}

/// Prints one line per operation.
///
/// # Errors
/// Whatever a session reports.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let weights = random_weights(&tiny_spec(), 1);
    let comparison = args.comparison;
    let mut table = Table::new([
        "op",
        "n",
        "rounds",
        "bytes per element, each way",
        "dealer to E1",
        "to E0",
        "CPU µs, E0 + E1",
        "max error",
        "max ulp",
    ])
    .right(&[1, 2, 3, 4, 5, 6, 7, 8]);
    let mut sound = true;
    for (op, name) in Op::ALL {
        // Whole rows for operations on rows.
        let n = (args.n as usize).next_multiple_of(ROW);
        let input = op.input(n);
        let cost = tally(op, n, &weights.0, comparison)?;
        let measured = run_parties(op, &input, &weights, comparison)?;
        let (max_abs_error, max_ulp, equal) = errors(op, &input, &weights, &measured)?;
        let counted = cost.rounds == measured.rounds
            && [cost.e0_to_e1_bytes, cost.e1_to_e0_bytes] == measured.sent;
        sound &= equal && counted;
        let elements = n as f64;
        let bytes = cost.e0_to_e1_bytes.max(cost.e1_to_e0_bytes) as f64 / elements;
        let dealer = cost.dealer_to_e1_bytes as f64 / elements;
        let dcf_keys = cost.dealer_to_e0_bytes as f64 / elements;
        let micros = |spent: Spent| spent.cpu * 1e6 / elements;
        let cpu = micros(measured.spent[0]) + micros(measured.spent[1]);
        if args.json {
            let line = json!({
                "op": name, "n": n, "setting": "dealer", "rounding": "exact",
                "material": comparison, "comparison": comparison.to_string(), "rounds": cost.rounds,
                "bytes_per_element": bytes, "source_bytes_per_element": dealer,
                "source_to_e0_bytes_per_element": dcf_keys, "cpu_us_per_element": cpu / 2.0,
                "source_cpu_us_per_element": micros(measured.spent[2]),
                "max_abs_error": max_abs_error, "max_ulp": max_ulp, "twin_equal": equal,
                "tally_equal": counted,
            });
            println!("{line}");
        } else {
            table.row([
                name.to_string(),
                n.to_string(),
                cost.rounds.to_string(),
                format!("{bytes:.2}"),
                format!("{dealer:.1}"),
                format!("{dcf_keys:.1}"),
                format!("{cpu:.3}"),
                max_abs_error.map_or("-".into(), |e| format!("{e:.1e}")),
                max_ulp.map_or("-".into(), |e| format!("{e:.0}")),
            ]);
        }
    }
    if !args.json {
        println!("{}", table.markdown());
        println!(
            "\nsecure results and the twin's, traffic and the tally: {}",
            if sound { "equal" } else { "DIFFERENT" }
        );
    }
    Ok(if sound {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INPUT_FAILED)
    })
}

/// Largest distance of the twin from real arithmetic, absolute and in output units from its floor,
/// and whether the secure result is the twin's.
fn errors(
    op: Op,
    input: &[u64],
    weights: &(Arc<PublicWeights>, Arc<PrivateWeights>),
    measured: &Measured,
) -> anyhow::Result<(Option<f64>, Option<f64>, bool)> {
    let n = input.len();
    let rows = op.rows(input.len());
    let mut clear = PlaintextEngine::new(Arc::clone(&weights.1), 0);
    let wire = clear.input(Some(input), rows, n / rows, 64)?;
    let expected = op.run(&mut clear, &wire, n)?;
    let mut real = Real::new(Arc::clone(&weights.1), 0);
    let wire = real.input(Some(input), rows, n / rows, 64)?;
    let exact = op.run(&mut real, &wire, n)?;
    let [(own, bits), (theirs, _)] = &measured.shares;
    let modulus = u64::MAX
        .checked_shr(64 - bits)
        .context("a width is positive")?;
    let sums = own
        .iter()
        .zip(theirs)
        .map(|(a, b)| a.wrapping_add(*b) & modulus);
    let equal = sums.eq(expected.data.iter().map(|v| v & modulus));
    if op == Op::Argmax {
        return Ok((None, None, equal));
    }
    let unit = f64::from(op.frac_bits()).exp2();
    let mut worst = 0f64;
    let mut ulps = 0f64;
    for (got, exact) in expected.data.iter().zip(&exact.data) {
        let got = *got as i64 as f64;
        worst = worst.max((got - exact).abs() / unit);
        ulps = ulps.max((got - exact.floor()).abs());
    }
    Ok((Some(worst), Some(ulps), equal))
}
