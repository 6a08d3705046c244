//! Single operations over `n` elements: cost, and error against real arithmetic.

use std::{process::ExitCode, sync::Arc, thread};

use anyhow::{Context, anyhow};
use clap::ValueEnum;
use marill_mpc::{
    Comparison, PrivateWeights, PublicWeights, Seed,
    cost::Cost,
    engine::Engine,
    error::ProtocolResult,
    masked::Masked,
    random_model::{
        operations::{Operation, ROW},
        random_weights, tiny_spec,
    },
    reference::{real::Real, twin::PlaintextEngine},
};
use marill_net::memory_pair;
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

struct Measured {
    shares: [(Vec<u64>, u32); 2],
    spent: [Spent; 3],
    rounds: u64,
    sent: [u64; 2],
}

/// Runs an operation at three parties; the opening of the input is not counted.
fn run_parties(
    op: Operation,
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
        let wire = engine.input(input, rows, n / rows, op.input_bits())?;
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
fn tally(
    op: Operation,
    n: usize,
    public: &PublicWeights,
    comparison: Comparison,
) -> anyhow::Result<Cost> {
    let mut engine = Masked::tally(&public.spec).with_comparison(comparison);
    let rows = op.rows(n);
    let wire = engine.input(None, rows, n / rows, op.input_bits())?;
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
    for (op, name) in Operation::ALL {
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
    op: Operation,
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
    if op == Operation::Argmax {
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
