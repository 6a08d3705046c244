//! A prompt or a token of some layers: client, server and source on three threads, the evaluators'
//! link shaped in user space, the result compared with the twin and with real arithmetic, the
//! traffic with the tally.

use std::{process::ExitCode, sync::Arc, thread, time::Duration};

use anyhow::{Context, anyhow};
use marill_mpc::{
    ClientSession, Comparison, DealerSession, MaskedAdapter, ProtocolError, RealTwin, Seed,
    ServerSession, Twin,
    cost::Cost,
    masked::DCF_BELOW,
    random_model::gaussian,
    spec::MAX_POSITIONS,
    tally::{Estimate, Network, estimates, tally_on},
};
use marill_net::{Channel, Link, Shaped, memory_pair};
use marill_numeric::Rounding;
use marill_report::{Table, bytes};
use serde_json::{Value, json};

use super::{
    clock::{Spent, alone},
    shapes::{Form, Model, model},
};
use crate::{
    args::{
        network::{link, network},
        services::ComparisonArg,
    },
    output::failure::{BadInput, INPUT_FAILED},
};

#[derive(clap::Args)]
#[group(id = "shape")]
pub struct Args {
    /// smollm2-135m, gpt2, llama-7b, bert-base with random weights, or a partition's folder
    #[arg(long, value_name = "NAME")]
    arch: Option<String>,
    /// Who makes the correlations: a dealer, or the third party while the session runs (the same
    /// dealer here)
    #[arg(long, value_parser = ["dealer", "3pc"], default_value = "dealer")]
    setting: String,
    /// A prompt, or the tokens after one
    #[arg(long, value_parser = ["prefill", "decode"], default_value = "decode")]
    phase: String,
    /// Tokens of the prompt (prefill), or tokens over which a decoded one is averaged
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: Option<u32>,
    /// Keys that the first decoded token attends to, itself included
    #[arg(
        long,
        value_name = "N",
        default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(17..),
    )]
    context: u32,
    /// The link between the evaluators: none, lan (0.2 ms, 10 Gbps), wan (40 ms, 200 Mbps) or
    /// RTTms/Mbps such as 10/500
    #[arg(long, value_name = "LINK", default_value = "none")]
    network: String,
    /// The links from the dealer to both evaluators, as --network; `none` means that correlations
    /// are there when they are needed
    #[arg(
        long,
        value_name = "LINK",
        default_value = "none",
        alias = "source-network"
    )]
    dealer_network: String,
    /// Comparison protocol: one-hot (fewer bytes), dcf (fewer rounds), or what takes less time on
    /// --network
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        default_value_t,
        alias = "material"
    )]
    comparison: ComparisonArg,
    /// What the server keeps: `lora` (public weights and a private LoRA update of --rank), `full`
    /// (every linear map, as an ordinary full fine-tune needs) or `none`
    #[arg(long, value_parser = ["lora", "full", "none"], default_value = "lora")]
    private: String,
    /// Rank of the private LoRA update
    #[arg(
        long,
        value_name = "R",
        default_value_t = 8,
        value_parser = clap::value_parser!(u32).range(1..=256),
    )]
    rank: u32,
    /// Query heads that share a softmax
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    merge: u32,
    /// Private layers; fewer than the model has leave its output head away [default: all]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    layers: Option<u32>,
    /// How truncations round: half up, or by public randomness (whose results the twin cannot know)
    #[arg(long, value_parser = ["exact", "stochastic"], default_value = "exact")]
    rounding: String,
    /// Print rounds and bytes per label of a layer, and what was chosen there
    #[arg(long)]
    explain: bool,
}

/// What the three parties do: unmeasured steps first, then measured ones.
struct Plan {
    /// Rows of the prompt, a whole bucket.
    prompt: usize,
    /// Decoded tokens before the measured ones.
    warm: usize,
    /// Measured decoded tokens; the prompt itself is measured when there are none.
    tokens: usize,
}

impl Plan {
    fn of(args: &Args) -> Self {
        if args.phase == "prefill" {
            let tokens = args.tokens.unwrap_or(128) as usize;
            return Self {
                prompt: tokens.next_multiple_of(16),
                warm: 0,
                tokens: 0,
            };
        }
        let before = args.context as usize - 1;
        let prompt = before / 16 * 16;
        Self {
            prompt,
            warm: before - prompt,
            tokens: args.tokens.unwrap_or(4) as usize,
        }
    }

    fn positions(&self) -> usize {
        self.prompt + self.warm + self.tokens
    }

    /// Whether step `k` (the prompt is step 0) is measured.
    fn measured(&self, k: usize) -> bool {
        if self.tokens == 0 {
            k == 0
        } else {
            k > self.warm
        }
    }

    fn steps(&self) -> usize {
        1 + self.warm + self.tokens
    }

    /// Keys before the first measured step, and its rows.
    fn first_measured(&self) -> (usize, usize) {
        if self.tokens == 0 {
            (0, self.prompt)
        } else {
            (self.prompt + self.warm, 1)
        }
    }

    /// Rows of step `k`.
    fn rows(&self, k: usize) -> usize {
        if k == 0 { self.prompt } else { 1 }
    }

    /// Runs every step of a party; what the measured ones take.
    fn clock(
        &self,
        mut step: impl FnMut(usize) -> Result<(), ProtocolError>,
    ) -> anyhow::Result<Spent> {
        let mut spent = Spent::default();
        for k in 0..self.steps() {
            if self.measured(k) {
                spent.measure(|| step(k))
            } else {
                step(k)
            }?;
        }
        Ok(spent)
    }
}

/// How the parties talk.
struct Wiring {
    comparison: Comparison,
    /// Between the evaluators, and from the dealer to each of them.
    link: Option<Link>,
    dealer_link: Option<Link>,
}

fn ends(link: Option<Link>) -> [Box<dyn Channel>; 2] {
    let (a, b) = memory_pair();
    match link {
        Some(link) => [
            Box::new(Shaped::new(a, link)),
            Box::new(Shaped::new(b, link)),
        ],
        None => [Box::new(a), Box::new(b)],
    }
}

/// What a run gave.
struct Outcome {
    tokens: Vec<u32>,
    e0: Spent,
    /// E0's products of its masks, made before each measured step and not part of it.
    e0_precompute: Spent,
    e1: Spent,
    dealer: Spent,
    cost: Cost,
}

/// Runs all parties over random activations.
fn run_parties(
    model: &Model,
    inputs: &[Vec<u64>],
    plan: &Plan,
    wiring: &Wiring,
) -> anyhow::Result<Outcome> {
    let spec = model.public.spec.clone();
    let (adapter_seed, seed0, seed1) = (Seed::random(), Seed::random(), Seed::random());
    let [client_end, server_end] = ends(wiring.link);
    let ([sink, stream], [dcf_keys, own_dcf_keys]) =
        (ends(wiring.dealer_link), ends(wiring.dealer_link));
    let comparison = wiring.comparison;
    let adapter = model.private.mask(&spec, &adapter_seed);
    thread::scope(|scope| {
        let dealer = {
            let (spec, seed0, seed1) = (spec.clone(), seed0.clone(), seed1.clone());
            scope.spawn(move || {
                alone(move || {
                    let mut session = DealerSession::new(spec, adapter_seed, seed0, seed1, sink);
                    if comparison == Comparison::Dcf {
                        session = session.with_dcf(dcf_keys);
                    }
                    plan.clock(|k| {
                        if k == 0 {
                            session.prefill(plan.prompt)
                        } else {
                            session.decode()
                        }
                    })
                })?
            })
        };
        let server = scope.spawn(move || {
            alone(move || {
                let (public, private) = (Arc::clone(&model.public), &model.private);
                let session = ServerSession::new(public, private, seed1, server_end, stream)?;
                let (mut session, mut received) = (session.with_comparison(comparison), 0);
                let spent = plan.clock(|k| {
                    let before = session.traffic().dealer_bytes;
                    if k == 0 {
                        session.prefill(plan.prompt)
                    } else {
                        session.decode()
                    }?;
                    received += if plan.measured(k) {
                        session.traffic().dealer_bytes - before
                    } else {
                        0
                    };
                    Ok(())
                })?;
                Ok((spent, received))
            })?
        });
        let mut session =
            ClientSession::new(Arc::clone(&model.public), &adapter, seed0, client_end)?;
        if comparison == Comparison::Dcf {
            session = session.with_dcf(own_dcf_keys);
        }
        let (tokens, e0, e0_precompute, mut cost) = alone(|| client(&mut session, inputs, plan))??;
        fn joined<T>(party: thread::Result<anyhow::Result<T>>) -> anyhow::Result<T> {
            party.unwrap_or_else(|_| Err(anyhow!("a party panicked")))
        }
        let ((e1, received), dealer) = (joined(server.join())?, joined(dealer.join())?);
        cost.dealer_to_e1_bytes = received;
        Ok(Outcome {
            tokens,
            e0,
            e0_precompute,
            e1,
            dealer,
            cost,
        })
    })
}

/// E0's steps: tokens, what the measured steps take, what was prepared for them, and their cost.
fn client(
    session: &mut ClientSession,
    inputs: &[Vec<u64>],
    plan: &Plan,
) -> anyhow::Result<(Vec<u32>, Spent, Spent, Cost)> {
    let (mut tokens, mut spent, mut precompute, mut cost) = (
        Vec::new(),
        Spent::default(),
        Spent::default(),
        Cost::default(),
    );
    let mut precomputer = session.precomputer();
    for (k, input) in inputs.iter().enumerate() {
        let step = |session: &mut ClientSession| {
            if k == 0 {
                session.prefill(input)
            } else {
                session.decode(input)
            }
        };
        if !plan.measured(k) {
            tokens.push(step(session)?);
            continue;
        }
        if let Some(precomputer) = &mut precomputer {
            session.accept(precompute.measure(|| precomputer.precompute(k as u64, plan.rows(k)))?);
        }
        let before = session.traffic();
        tokens.push(spent.measure(|| step(session))?);
        let after = session.traffic();
        cost.rounds += after.rounds - before.rounds;
        cost.e0_to_e1_bytes += after.bytes_sent - before.bytes_sent;
        cost.e1_to_e0_bytes += after.bytes_received - before.bytes_received;
        cost.dealer_to_e0_bytes += after.dealer_bytes - before.dealer_bytes;
    }
    Ok((tokens, spent, precompute, cost))
}

/// What the tally says of the measured steps.
fn tallied(model: &Model, comparison: Comparison, plan: &Plan) -> anyhow::Result<Cost> {
    let (first, rows) = plan.first_measured();
    let mut sum = Cost::default();
    for k in 0..plan.tokens.max(1) {
        let labels = tally_on(&model.public.spec, comparison, first + k, rows)?;
        sum = labels.iter().fold(sum, |sum, (_, cost)| sum + *cost);
    }
    Ok(sum)
}

/// Cost of one layer in the middle: the difference of two and three.
fn layer_cost(
    model: &Model,
    comparison: Comparison,
    plan: &Plan,
) -> anyhow::Result<Vec<(&'static str, Cost)>> {
    let spec = |layers: usize| {
        let mut spec = model.public.spec.clone();
        spec.head_groups = vec![spec.head_groups[0].clone(); layers];
        spec.attn_scale = vec![spec.attn_scale[0]; layers];
        (spec.num_layers, spec.vocab_size) = (layers, spec.vocab_size.min(2));
        spec
    };
    let (cached, rows) = plan.first_measured();
    let (three, two) = (
        tally_on(&spec(3), comparison, cached, rows)?,
        tally_on(&spec(2), comparison, cached, rows)?,
    );
    let less = |label| {
        two.iter()
            .find(|(p, _)| *p == label)
            .map_or(Cost::default(), |(_, cost)| *cost)
    };
    Ok(three
        .into_iter()
        .map(|(p, cost)| (p, cost - less(p)))
        .filter(|(_, c)| *c != Cost::default())
        .collect())
}

/// Tokens of the twin, and the largest distance of its last hidden row from real arithmetic over
/// the measured steps.
fn references(
    model: &Model,
    inputs: &[Vec<u64>],
    plan: &Plan,
) -> anyhow::Result<(Vec<u32>, Option<f64>)> {
    let mut twin = Twin::new(Arc::clone(&model.public), Arc::clone(&model.private));
    let mut real = RealTwin::new(Arc::clone(&model.public), Arc::clone(&model.private));
    let spec = &model.public.spec;
    // Real arithmetic is slow: beyond this it would take minutes.
    let work = spec.num_layers
        * spec.hidden_size
        * (spec.intermediate_size + spec.hidden_size)
        * 3
        * plan.positions();
    let (mut tokens, mut worst) = (Vec::new(), (work < 60_000_000_000).then_some(0f64));
    for (k, input) in inputs.iter().enumerate() {
        tokens.push(if k == 0 {
            twin.prefill(input)?
        } else {
            twin.decode(input)?
        });
        if let Some(worst) = &mut worst {
            let exact = if k == 0 {
                real.prefill(input)?
            } else {
                real.decode(input)?
            };
            if plan.measured(k) {
                *worst = twin
                    .last_hidden()
                    .iter()
                    .zip(exact)
                    .fold(*worst, |w, (a, b)| w.max((a - b).abs()));
            }
        }
    }
    Ok((tokens, worst))
}

/// The model that the flags describe, with room for the plan.
///
/// # Errors
/// [`BadInput`] for unknown shapes and plans that do not fit.
fn checked_model(args: &Args, plan: &Plan, rounding: Rounding) -> anyhow::Result<Model> {
    // Before weights of any size are drawn.
    if plan.positions() > MAX_POSITIONS {
        let problem = anyhow!(
            "`--context` and `--tokens` come to {} positions, and a session holds at most \
             {MAX_POSITIONS}",
            plan.positions()
        );
        return Err(BadInput(problem).into());
    }
    let name = args.arch.as_deref().context("an architecture is given")?;
    let rank = if args.private == "lora" {
        args.rank as usize
    } else {
        0
    };
    let positions = plan.positions().next_multiple_of(16) + 16;
    let (layers, full) = (args.layers.map(|n| n as usize), args.private == "full");
    let form = Form {
        layers,
        rank,
        full,
        merge: args.merge as usize,
        positions,
        rounding,
    };
    let model = model(name, form)?;
    let spec = &model.public.spec;
    if plan.positions() > spec.max_positions {
        let problem = anyhow!(
            "{} positions do not fit the {} of this partition",
            plan.positions(),
            spec.max_positions
        );
        return Err(BadInput(problem).into());
    }
    if matches!(spec.architecture, marill_mpc::Architecture::Bert { .. }) && plan.tokens > 0 {
        return Err(BadInput(anyhow!("an encoder decodes nothing\nhint: --phase prefill")).into());
    }
    Ok(model)
}

/// Runs a block benchmark.
///
/// # Errors
/// [`BadInput`] for unknown shapes and networks, and whatever a session reports.
pub fn run(args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let plan = Plan::of(args);
    let rounding = if args.rounding == "exact" {
        Rounding::Exact
    } else {
        Rounding::Stochastic
    };
    let model = checked_model(args, &plan, rounding)?;
    let spec = &model.public.spec;
    let row = |k: usize, n: usize| {
        spec.encode(&gaussian(k as u64, "boundary", n * spec.hidden_size, 1.0))
    };
    let inputs = (0..plan.steps())
        .map(|k| row(k, if k == 0 { plan.prompt } else { 1 }))
        .collect::<Result<Vec<_>, _>>()?;
    let (expected, max_abs_error) = references(&model, &inputs, &plan)?;
    let wiring = wiring(args, &model, &plan)?;
    let comparison = wiring.comparison;
    let outcome = run_parties(&model, &inputs, &plan, &wiring)?;
    let tally = tallied(&model, comparison, &plan)?;
    let twin_equal = (rounding == Rounding::Exact).then_some(outcome.tokens == expected);
    let tally_equal = tally == outcome.cost;
    let layer = layer_cost(&model, comparison, &plan)?;
    let mut report = report(args, &model, &plan, comparison, &outcome, &tally, &layer);
    report["max_abs_error"] = json!(max_abs_error);
    report["twin_equal"] = json!(twin_equal);
    report["tally_equal"] = json!(tally_equal);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_report(&report);
    }
    if args.explain {
        explain(&layer);
        explain_comparison(args, &model, &plan, comparison)?;
    }
    Ok(if twin_equal != Some(false) && tally_equal {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INPUT_FAILED)
    })
}

/// What was measured and counted, per token or for the prompt.
fn report(
    args: &Args,
    model: &Model,
    plan: &Plan,
    comparison: Comparison,
    outcome: &Outcome,
    tally: &Cost,
    layer: &[(&'static str, Cost)],
) -> Value {
    let spec = &model.public.spec;
    let per = plan.tokens.max(1) as u64;
    let one = layer
        .iter()
        .fold(Cost::default(), |sum, (_, cost)| sum + *cost);
    let seconds = |spent: Spent| spent.cpu / per as f64;
    let setup = MaskedAdapter::bytes_of(spec);
    let private = match (spec.is_full_rank(), spec.lora_rank) {
        (true, _) => "full",
        (false, 0) => "none",
        _ => "lora",
    };
    json!({
        "arch": model.name, "setting": args.setting, "phase": args.phase,
        "tokens": if plan.tokens == 0 { plan.prompt } else { plan.tokens },
        "context": plan.prompt + plan.warm + usize::from(plan.tokens > 0),
        "per": if plan.tokens == 0 { "prompt" } else { "token" },
        "private": private, "rank": spec.lora_rank, "layers": spec.num_layers, "merge": args.merge,
        "network": args.network, "source_network": args.dealer_network, "rounding": args.rounding,
        "material": comparison, "comparison": comparison.to_string(),
        "rounds": tally.rounds / per,
        "online_bytes": { "e0_to_e1": tally.e0_to_e1_bytes / per,
            "e1_to_e0": tally.e1_to_e0_bytes / per },
        "source_bytes": { "to_e0": tally.dealer_to_e0_bytes / per,
            "to_e1": tally.dealer_to_e1_bytes / per },
        "setup_bytes": setup,
        "layer": {
            "rounds": one.rounds,
            "source_to_e0_bytes": one.dealer_to_e0_bytes,
            "source_to_e1_bytes": one.dealer_to_e1_bytes,
            "e0_to_e1_bytes": one.e0_to_e1_bytes, "e1_to_e0_bytes": one.e1_to_e0_bytes,
        },
        "cpu_seconds": {
            "e0": seconds(outcome.e0), "e1": seconds(outcome.e1), "source": seconds(outcome.dealer),
            "e0_ahead": seconds(outcome.e0_precompute),
        },
        "seconds": outcome.e0.wall / per as f64,
    })
}

fn print_report(report: &serde_json::Value) {
    let mut table = Table::new(["what", "value"]);
    let Some(fields) = report.as_object() else {
        return;
    };
    for (name, value) in fields {
        match value.as_object() {
            None => table.row([
                name.clone(),
                value.to_string().trim_matches('"').to_string(),
            ]),
            Some(parts) => {
                parts.iter().for_each(|(part, value)| {
                    table.row([format!("{name}.{part}"), value.to_string()])
                });
            }
        }
    }
    println!("{}", table.markdown());
}

/// Rounds and bytes of one layer by label.
fn explain(labels: &[(&'static str, Cost)]) {
    let mut table = Table::new([
        "one layer, at",
        "rounds",
        "E0 sends",
        "E1 sends",
        "dealer to E0",
        "dealer to E1",
    ])
    .right(&[1, 2, 3, 4, 5]);
    for (label, cost) in labels {
        let sizes = [
            cost.e0_to_e1_bytes,
            cost.e1_to_e0_bytes,
            cost.dealer_to_e0_bytes,
            cost.dealer_to_e1_bytes,
        ];
        let [e0, e1, dealer0, dealer1] = sizes.map(bytes);
        table.row([
            (*label).to_string(),
            cost.rounds.to_string(),
            e0,
            e1,
            dealer0,
            dealer1,
        ]);
    }
    eprintln!("{}", table.markdown());
}

/// What `--comparison` says, or what the named network calls for; one-hot where none is named.
fn wiring(args: &Args, model: &Model, plan: &Plan) -> anyhow::Result<Wiring> {
    let (link, dealer_link) = (link(&args.network)?, link(&args.dealer_network)?);
    let comparison = match (args.comparison, &link) {
        (ComparisonArg::Dcf, _) => Comparison::Dcf,
        (ComparisonArg::Auto, Some(link)) => {
            let (cached, rows) = plan.first_measured();
            estimates(&model.public.spec, &network(link), cached, rows)?[0].comparison
        }
        _ => Comparison::OneHot,
    };
    Ok(Wiring {
        comparison,
        link,
        dealer_link,
    })
}

/// Both protocols in counted rounds and bytes, and why one was taken.
fn explain_comparison(
    args: &Args,
    model: &Model,
    plan: &Plan,
    taken: Comparison,
) -> anyhow::Result<()> {
    let (cached, rows) = plan.first_measured();
    let named = link(&args.network)?;
    // Without a network only the counts are printed, and they are the same on any.
    let any = Network {
        one_way_delay: Duration::ZERO,
        bits_per_second: f64::INFINITY,
    };
    let mut table = Table::new([
        "comparison",
        "rounds",
        "E0 receives from E1",
        "E1 receives from E0",
        "E0 from the dealer",
        "E1 from the dealer",
        "waiting, s",
    ])
    .right(&[1, 2, 3, 4, 5, 6]);
    let both = estimates(
        &model.public.spec,
        &named.as_ref().map_or(any, network),
        cached,
        rows,
    )?;
    for Estimate {
        comparison,
        cost: c,
        seconds,
    } in both
    {
        let sizes = [
            c.e1_to_e0_bytes,
            c.e0_to_e1_bytes,
            c.dealer_to_e0_bytes,
            c.dealer_to_e1_bytes,
        ];
        let [e0, e1, dealer0, dealer1] = sizes.map(bytes);
        let waiting = named.map_or("-".into(), |_| format!("{seconds:.3}"));
        table.row([
            comparison.to_string(),
            c.rounds.to_string(),
            e0,
            e1,
            dealer0,
            dealer1,
            waiting,
        ]);
    }
    eprintln!("{}", table.markdown());
    let reason = match (args.comparison, named) {
        (ComparisonArg::Auto, None) => "no network is named".to_string(),
        (ComparisonArg::Auto, Some(_)) => format!("on {} it waits least", args.network),
        _ => "it was asked for".to_string(),
    };
    eprintln!("\nComparison: {taken}; {reason}.");
    eprintln!(
        "Waiting is rounds x one-way delay + what the busier evaluator receives / bandwidth, \
         nothing overlapping and the dealer as near as the peer. one-hot: below {} elements eight \
         digits and fused last gates (few rounds), from there digits of four bits and one \
         converted plane (few bytes). dcf: distributed comparison functions in gates of fewer than \
         {DCF_BELOW} elements, whose keys go to both evaluators.",
        marill_mpc::masked::MANY
    );
    Ok(())
}
