//! A prompt or a token of some layers: client, server and source on three threads, the evaluators' link shaped in user
//! space, the result compared with the twin and with real arithmetic, the traffic with the tally.

use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow};
use marill_mpc::masked::Cost;
use marill_mpc::testing::gaussian;
use marill_mpc::{
    ClientSession, DealerSession, MaskedAdapter, ProtocolError, RealTwin, Seed, ServerSession, Twin, tally_by_place,
    tally_decode, tally_prefill,
};
use marill_net::{Channel, Link, Shaped, memory_pair};
use marill_numeric::Rounding;
use marill_report::{Table, bytes};
use serde_json::json;

use super::clock::{Spent, alone};
use super::shapes::{Form, Model, model};
use crate::failure::{BadInput, INPUT_FAILED};

#[derive(clap::Args)]
#[group(id = "shape")]
pub struct Args {
    /// smollm2-135m, gpt2, llama-7b, bert-base with random weights, or a partition's folder
    #[arg(long, value_name = "NAME")]
    arch: Option<String>,
    /// Who makes the correlations: a dealer, or the third party while the session runs (the same source here)
    #[arg(long, value_parser = ["dealer", "3pc"], default_value = "dealer")]
    setting: String,
    /// A prompt, or the tokens after one
    #[arg(long, value_parser = ["prefill", "decode"], default_value = "decode")]
    phase: String,
    /// Tokens of the prompt (prefill), or tokens over which a decoded one is averaged
    #[arg(long, value_name = "N")]
    pub tokens: Option<u32>,
    /// Keys that the first decoded token attends to, itself included
    #[arg(long, value_name = "N", default_value_t = 128, value_parser = clap::value_parser!(u32).range(17..))]
    context: u32,
    /// The link between the evaluators: none, lan (0.2 ms, 10 Gbps), wan (40 ms, 200 Mbps) or RTTms/Mbps such as 10/500
    #[arg(long, value_name = "LINK", default_value = "none")]
    network: String,
    /// What the server keeps: `lora` (public weights and a private addition of --rank), `full` (every linear map, as
    /// an ordinary full fine-tune needs) or `none`
    #[arg(long, value_parser = ["lora", "full", "none"], default_value = "lora")]
    private: String,
    /// Rank of the private addition
    #[arg(long, value_name = "R", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=256))]
    rank: u32,
    /// Query heads that share a softmax
    #[arg(long, value_name = "N", default_value_t = 1)]
    merge: u32,
    /// Private layers; fewer than the model has leave its output head away [default: all]
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
    /// How truncations round: half up, or by a public coin (whose results the twin cannot foretell)
    #[arg(long, value_parser = ["exact", "stochastic"], default_value = "exact")]
    rounding: String,
    /// Say at which place of a layer rounds and bytes arise, and what was chosen there
    #[arg(long)]
    explain: bool,
}

/// A link by name, or `RTTms/Mbps`.
fn link(text: &str) -> anyhow::Result<Option<Link>> {
    let shaped = |round_trip_ms: f64, mbps: f64| Link {
        one_way_delay: Duration::from_secs_f64(round_trip_ms / 2e3),
        bits_per_second: (mbps * 1e6) as u64,
    };
    match text {
        "none" => return Ok(None),
        "lan" => return Ok(Some(shaped(0.2, 10_000.0))),
        "wan" => return Ok(Some(shaped(40.0, 200.0))),
        _ => {}
    }
    let parts = text.split_once('/').and_then(|(rtt, mbps)| Some((rtt.parse().ok()?, mbps.parse().ok()?)));
    match parts {
        Some((rtt, mbps)) if (0.0..=1e5).contains(&rtt) && (1e-3..=1e6).contains(&mbps) => Ok(Some(shaped(rtt, mbps))),
        _ => {
            Err(BadInput(anyhow!("`{text}` is no network\nhint: none, lan, wan, or RTTms/Mbps such as 10/500")).into())
        }
    }
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
            return Self { prompt: tokens.next_multiple_of(16).max(16), warm: 0, tokens: 0 };
        }
        let before = args.context as usize - 1;
        let prompt = before / 16 * 16;
        Self { prompt, warm: before - prompt, tokens: args.tokens.unwrap_or(4).max(1) as usize }
    }

    fn positions(&self) -> usize {
        self.prompt + self.warm + self.tokens
    }

    /// Whether step `k` (the prompt is step 0) is measured.
    fn measured(&self, k: usize) -> bool {
        if self.tokens == 0 { k == 0 } else { k > self.warm }
    }

    fn steps(&self) -> usize {
        1 + self.warm + self.tokens
    }

    /// Runs every step of a party; what the measured ones take.
    fn clock(&self, mut step: impl FnMut(usize) -> Result<(), ProtocolError>) -> anyhow::Result<Spent> {
        let mut spent = Spent::default();
        for k in 0..self.steps() {
            if self.measured(k) { spent.measure(|| step(k)) } else { step(k) }?;
        }
        Ok(spent)
    }
}

/// What a run gave.
struct Outcome {
    tokens: Vec<u32>,
    e0: Spent,
    e1: Spent,
    source: Spent,
    cost: Cost,
}

/// Runs all parties over random activations.
fn run_parties(model: &Model, inputs: &[Vec<u64>], plan: &Plan, link: Option<Link>) -> anyhow::Result<Outcome> {
    let spec = model.public.spec.clone();
    let (adapter_seed, seed0, seed1) = (Seed::random(), Seed::random(), Seed::random());
    let ((client_end, server_end), (sink, stream)) = (memory_pair(), memory_pair());
    let shape = |end| -> Box<dyn Channel> {
        match link {
            Some(link) => Box::new(Shaped::new(end, link)),
            None => Box::new(end),
        }
    };
    let (client_end, server_end) = (shape(client_end), shape(server_end));
    let adapter = model.private.mask(&spec, &adapter_seed);
    thread::scope(|scope| {
        let source = {
            let (spec, seed0, seed1) = (spec.clone(), seed0.clone(), seed1.clone());
            scope.spawn(move || {
                alone(move || {
                    let mut session = DealerSession::new(spec, adapter_seed, seed0, seed1, Box::new(sink));
                    plan.clock(|k| if k == 0 { session.prefill(plan.prompt) } else { session.decode() })
                })?
            })
        };
        let server = scope.spawn(move || {
            alone(move || {
                let (public, private) = (Arc::clone(&model.public), &model.private);
                let mut session = ServerSession::new(public, private, seed1, server_end, Box::new(stream))?;
                plan.clock(|k| if k == 0 { session.prefill(plan.prompt) } else { session.decode() })
            })?
        });
        let mut session = ClientSession::new(Arc::clone(&model.public), &adapter, seed0, client_end)?;
        let (tokens, e0, cost) = alone(|| {
            let (mut tokens, mut cost) = (Vec::new(), Cost::default());
            let spent = plan.clock(|k| {
                let before = session.traffic();
                tokens.push(if k == 0 { session.prefill(&inputs[0])? } else { session.decode(&inputs[k])? });
                if plan.measured(k) {
                    let after = session.traffic();
                    cost.rounds += after.rounds - before.rounds;
                    cost.e0_to_e1_bytes += after.bytes_sent - before.bytes_sent;
                    cost.e1_to_e0_bytes += after.bytes_received - before.bytes_received;
                }
                Ok(())
            })?;
            anyhow::Ok((tokens, spent, cost))
        })??;
        let joined =
            |party: thread::Result<anyhow::Result<Spent>>| party.unwrap_or_else(|_| Err(anyhow!("a party panicked")));
        let (e1, source) = (joined(server.join())?, joined(source.join())?);
        Ok(Outcome { tokens, e0, e1, source, cost })
    })
}

/// What the tally says of the measured steps.
fn tallied(model: &Model, plan: &Plan) -> anyhow::Result<Cost> {
    let spec = &model.public.spec;
    if plan.tokens == 0 {
        return Ok(tally_prefill(spec, plan.prompt)?);
    }
    let first = plan.prompt + plan.warm;
    let costs = (0..plan.tokens).map(|k| tally_decode(spec, first + k)).collect::<Result<Vec<Cost>, _>>()?;
    Ok(costs.into_iter().fold(Cost::default(), |sum, cost| sum + cost))
}

/// Cost of one layer in the middle: the difference of two and three.
fn layer_cost(model: &Model, plan: &Plan) -> anyhow::Result<Vec<(&'static str, Cost)>> {
    let spec = |layers: usize| {
        let mut spec = model.public.spec.clone();
        spec.head_groups = vec![spec.head_groups[0].clone(); layers];
        spec.attn_scale = vec![spec.attn_scale[0]; layers];
        (spec.num_layers, spec.vocab_size) = (layers, spec.vocab_size.min(2));
        spec
    };
    let (cached, rows) = if plan.tokens == 0 { (0, plan.prompt) } else { (plan.prompt + plan.warm, 1) };
    let (three, two) = (tally_by_place(&spec(3), cached, rows)?, tally_by_place(&spec(2), cached, rows)?);
    let less = |place| two.iter().find(|(p, _)| *p == place).map_or(Cost::default(), |(_, cost)| *cost);
    Ok(three.into_iter().map(|(p, cost)| (p, cost - less(p))).filter(|(_, c)| *c != Cost::default()).collect())
}

/// Tokens of the twin, and the largest distance of its last hidden row from real arithmetic over the measured steps.
fn references(model: &Model, inputs: &[Vec<u64>], plan: &Plan) -> anyhow::Result<(Vec<u32>, Option<f64>)> {
    let mut twin = Twin::new(Arc::clone(&model.public), Arc::clone(&model.private));
    let mut real = RealTwin::new(Arc::clone(&model.public), Arc::clone(&model.private));
    let spec = &model.public.spec;
    // Real arithmetic is slow: beyond this it would take minutes.
    let work = spec.num_layers * spec.hidden_size * (spec.intermediate_size + spec.hidden_size) * 3 * plan.positions();
    let (mut tokens, mut worst) = (Vec::new(), (work < 60_000_000_000).then_some(0f64));
    for (k, input) in inputs.iter().enumerate() {
        tokens.push(if k == 0 { twin.prefill(input)? } else { twin.decode(input)? });
        if let Some(worst) = &mut worst {
            let exact = if k == 0 { real.prefill(input)? } else { real.decode(input)? };
            if plan.measured(k) {
                *worst = twin.last_hidden().iter().zip(exact).fold(*worst, |w, (a, b)| w.max((a - b).abs()));
            }
        }
    }
    Ok((tokens, worst))
}

/// Runs a block benchmark.
///
/// # Errors
/// [`BadInput`] for unknown shapes and networks, and whatever a session reports.
pub fn run(args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let plan = Plan::of(args);
    let name = args.arch.as_deref().context("an architecture is given")?;
    let rank = if args.private == "lora" { args.rank as usize } else { 0 };
    let positions = plan.positions().next_multiple_of(16) + 16;
    let rounding = if args.rounding == "exact" { Rounding::Exact } else { Rounding::Stochastic };
    let (layers, full) = (args.layers.map(|n| n as usize), args.private == "full");
    let form = Form { layers, rank, full, merge: args.merge as usize, positions, rounding };
    let model = model(name, form)?;
    let spec = &model.public.spec;
    if plan.positions() > spec.max_positions {
        let problem = anyhow!("{} positions do not fit the {} of this partition", plan.positions(), spec.max_positions);
        return Err(BadInput(problem).into());
    }
    if matches!(spec.architecture, marill_mpc::Architecture::Bert { .. }) && plan.tokens > 0 {
        return Err(BadInput(anyhow!("an encoder decodes nothing\nhint: --phase prefill")).into());
    }
    let row = |k: usize, n: usize| spec.encode(&gaussian(k as u64, "boundary", n * spec.hidden_size, 1.0));
    let inputs =
        (0..plan.steps()).map(|k| row(k, if k == 0 { plan.prompt } else { 1 })).collect::<Result<Vec<_>, _>>()?;
    let (expected, max_abs_error) = references(&model, &inputs, &plan)?;
    let outcome = run_parties(&model, &inputs, &plan, link(&args.network)?)?;
    let tally = tallied(&model, &plan)?;
    let twin_equal = (rounding == Rounding::Exact).then_some(outcome.tokens == expected);
    let same = |c: &Cost| (c.rounds, c.e0_to_e1_bytes, c.e1_to_e0_bytes);
    let tally_equal = same(&tally) == same(&outcome.cost);

    let per = plan.tokens.max(1) as u64;
    let layer = layer_cost(&model, &plan)?;
    let one = layer.iter().fold(Cost::default(), |sum, (_, cost)| sum + *cost);
    let seconds = |spent: Spent| spent.cpu / per as f64;
    let setup = MaskedAdapter::bytes_of(spec);
    let private = match (spec.is_full(), spec.lora_rank) {
        (true, _) => "full",
        (false, 0) => "none",
        _ => "lora",
    };
    let report = json!({
        "arch": model.name, "setting": args.setting, "phase": args.phase,
        "tokens": if plan.tokens == 0 { plan.prompt } else { plan.tokens },
        "context": plan.prompt + plan.warm + usize::from(plan.tokens > 0),
        "per": if plan.tokens == 0 { "prompt" } else { "token" },
        "private": private, "rank": spec.lora_rank, "layers": spec.num_layers, "merge": args.merge,
        "network": args.network, "rounding": args.rounding,
        "rounds": tally.rounds / per,
        "online_bytes": { "e0_to_e1": tally.e0_to_e1_bytes / per, "e1_to_e0": tally.e1_to_e0_bytes / per },
        "source_bytes": { "to_e0": 0, "to_e1": tally.source_to_e1_bytes / per },
        "setup_bytes": setup,
        "layer": {
            "rounds": one.rounds, "source_to_e1_bytes": one.source_to_e1_bytes,
            "e0_to_e1_bytes": one.e0_to_e1_bytes, "e1_to_e0_bytes": one.e1_to_e0_bytes,
        },
        "cpu_seconds": {
            "e0": seconds(outcome.e0), "e1": seconds(outcome.e1), "source": seconds(outcome.source), "e0_ahead": 0.0,
        },
        "seconds": outcome.e0.wall / per as f64,
        "max_abs_error": max_abs_error, "twin_equal": twin_equal, "tally_equal": tally_equal,
    });
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print_report(&report);
    }
    if args.explain {
        explain(&layer);
    }
    Ok(if twin_equal != Some(false) && tally_equal { ExitCode::SUCCESS } else { ExitCode::from(INPUT_FAILED) })
}

fn print_report(report: &serde_json::Value) {
    let mut table = Table::new(["what", "value"]);
    let Some(fields) = report.as_object() else { return };
    for (name, value) in fields {
        match value.as_object() {
            None => table.row([name.clone(), value.to_string().trim_matches('"').to_string()]),
            Some(parts) => {
                parts.iter().for_each(|(part, value)| table.row([format!("{name}.{part}"), value.to_string()]));
            }
        }
    }
    println!("{}", table.markdown());
}

/// Rounds and bytes of one layer by place.
fn explain(places: &[(&'static str, Cost)]) {
    let mut table =
        Table::new(["one layer, at", "rounds", "E0 sends", "E1 sends", "source to E1"]).right(&[1, 2, 3, 4]);
    for (place, cost) in places {
        let sizes = [cost.e0_to_e1_bytes, cost.e1_to_e0_bytes, cost.source_to_e1_bytes].map(bytes);
        let [e0, e1, source] = sizes;
        table.row([(*place).to_string(), cost.rounds.to_string(), e0, e1, source]);
    }
    eprintln!("{}", table.markdown());
    eprintln!(
        "\nComparisons use one-hot vectors of digits: below {} elements eight digits and fused last gates (few rounds), \
         from there on digits of four bits and one converted plane (few bytes). A client is an evaluator here, and \
         function secret sharing would send correction words to it as well.",
        marill_mpc::masked::MANY
    );
}
