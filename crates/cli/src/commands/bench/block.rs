//! A prompt or a token of some layers: client, server and source on three threads, the evaluators'
//! link shaped in user space, the result compared with the twin and with real arithmetic, the
//! traffic with the tally.

mod expected;
mod report;
mod text;
pub mod two_party;

use std::process::ExitCode;

use anyhow::{Context, anyhow};
use marill_mpc::{
    Comparison, Extension, PrivateProducts,
    spec::MAX_POSITIONS,
    two_party::{GroupBits, LpnSet, Products, lpn_set_for},
};
use marill_numeric::Rounding;
use marill_plan::{count::layer_cost, estimates};
use serde_json::{Value, json};

use self::{
    expected::{references, tallied},
    report::{explain, explain_comparison, private_part, report},
    text::text,
};
use super::{
    parties::{Outcome, Wiring, run_parties},
    plan::Plan,
    processes,
    shapes::{Form, Model, model},
};
use crate::{
    args::{
        network::{link, network},
        services::{ComparisonArg, parse_private_products},
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
    /// dealer here), or nobody (`2pc`, by oblivious transfer)
    #[arg(long, value_parser = ["dealer", "3pc", "2pc"], default_value = "dealer")]
    setting: String,
    /// In the setting `2pc`, how transfers are made: softspoken, or silent by a set of LPN (b10,
    /// b11, b12, b13) [default: of b10 and b11 what sends fewer bytes over a short answer, as
    /// services do]
    #[arg(long, value_name = "NAME", value_parser = parse_extension)]
    extension: Option<Extension>,
    /// In the setting `2pc`, how products are made: cheaper (by what sends fewer bytes), transfers
    /// or lattices within the step, ahead of it under masks [default: cheaper]
    #[arg(long, value_name = "NAME", value_parser = parse_products)]
    products: Option<Products>,
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
    /// Server and dealer as processes of their own, over loopback sockets; in setting `dealer` the
    /// dealer is done before the first step
    #[arg(long)]
    processes: bool,
    /// With a dealer, how private updates are made: with `masks` of the adapter, or by `lattice`,
    /// without any
    #[arg(long, value_name = "WAY", default_value = "masks", value_parser = parse_private_products)]
    private_products: PrivateProducts,
    /// Print rounds and bytes per label of a layer, and what was chosen there
    #[arg(long)]
    explain: bool,
}

impl Args {
    /// Who makes correlations.
    pub fn setting(&self) -> &str {
        &self.setting
    }
}

/// The form that the flags describe, with room for the plan.
fn form(args: &Args, plan: &Plan) -> Form {
    let rank = if args.private == "lora" {
        args.rank as usize
    } else {
        0
    };
    let positions = plan.positions().next_multiple_of(16) + 16;
    let layers = args.layers.map(|n| n as usize);
    let full = args.private == "full";
    let rounding = if args.rounding == "exact" {
        Rounding::Exact
    } else {
        Rounding::Stochastic
    };
    Form {
        layers,
        head: false,
        rank,
        full,
        merge: args.merge as usize,
        positions,
        rounding,
    }
}

/// The model that the flags describe, with room for the plan.
///
/// # Errors
/// [`BadInput`] for unknown shapes and plans that do not fit.
fn checked_model(args: &Args, plan: &Plan) -> anyhow::Result<Model> {
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
    let model = model(name, form(args, plan))?;
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

/// The steps that the flags describe.
fn plan(args: &Args) -> Plan {
    let tokens = args.tokens.map(|n| n as usize);
    if args.phase == "prefill" {
        Plan::prefill(tokens.unwrap_or(128))
    } else {
        Plan::decode(args.context as usize, tokens.unwrap_or(4))
    }
}

/// Runs a block benchmark.
///
/// # Errors
/// [`BadInput`] for unknown shapes and networks, and whatever a session reports.
pub fn run(args: &Args, json: bool) -> anyhow::Result<ExitCode> {
    let plan = plan(args);
    let model = checked_model(args, &plan)?;
    let inputs = model.inputs(&plan)?;
    let (expected, max_abs_error) = references(&model, &inputs, &plan)?;
    if args.setting == "2pc" {
        return run_two_party(args, &model, &inputs, &plan, &expected, json);
    }
    let alone = [
        ("--extension", args.extension.is_some()),
        ("--products", args.products.is_some()),
    ];
    if let Some((flag, _)) = alone.into_iter().find(|(_, given)| *given) {
        return Err(BadInput(anyhow!("`{flag}` is for the setting `2pc`")).into());
    }
    let wiring = wiring(args, &model, &plan)?;
    let comparison = wiring.comparison;
    let by_lattice = !args.private_products.is_masks();
    if by_lattice && (args.processes || comparison != Comparison::OneHot) {
        let problem = anyhow!(
            "`--private-products lattice` is measured with one-hot comparisons and without \
             `--processes`"
        );
        return Err(BadInput(problem).into());
    }
    let outcome = if args.processes {
        run_processes(args, &model, &inputs, &plan, comparison)?
    } else {
        run_parties(&model, &inputs, &plan, &wiring)?
    };
    let tally = tallied(&model, &wiring, &plan)?;
    let exact = model.public.spec.numeric.rounding == Rounding::Exact;
    let twin_equal = exact.then_some(outcome.tokens == expected);
    let tally_equal = tally == outcome.cost;
    let (cached, rows) = plan.first_measured();
    let layer = layer_cost(&model.public.spec, comparison, cached, rows)?;
    let mut report = report(args, &model, &plan, comparison, &outcome, &tally, &layer);
    report["max_abs_error"] = json!(max_abs_error);
    report["twin_equal"] = json!(twin_equal);
    report["tally_equal"] = json!(tally_equal);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", text(&report));
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

/// How transfers are made, by its name on the command line.
fn parse_extension(text: &str) -> Result<Extension, String> {
    let set = LpnSet::named(text).map(Extension::Silent);
    let soft = (text == "softspoken").then_some(Extension::SoftSpoken(GroupBits::Four));
    set.or(soft)
        .ok_or_else(|| "it is softspoken, b10, b11, b12 or b13".into())
}

/// How products are made, by its name on the command line.
fn parse_products(text: &str) -> Result<Products, String> {
    match text {
        "cheaper" => Ok(Products::Cheaper),
        "transfers" => Ok(Products::Transfers),
        "lattices" => Ok(Products::Lattices),
        "ahead" => Ok(Products::Ahead),
        _ => Err("it is cheaper, transfers, lattices or ahead".into()),
    }
}

/// The same steps by client and server alone.
fn run_two_party(
    args: &Args,
    model: &Model,
    inputs: &[Vec<u64>],
    plan: &Plan,
    expected: &[u32],
    json: bool,
) -> anyhow::Result<ExitCode> {
    let dealt = [
        ("--processes", args.processes),
        ("--comparison", args.comparison != ComparisonArg::Auto),
        ("--dealer-network", args.dealer_network != "none"),
        ("--private-products", !args.private_products.is_masks()),
    ];
    if let Some((flag, _)) = dealt.into_iter().find(|(_, given)| *given) {
        return Err(BadInput(anyhow!("`{flag}` is for settings with a dealer")).into());
    }
    let wiring = two_party::Wiring {
        network: &args.network,
        extension: match args.extension {
            Some(extension) => extension,
            None => Extension::Silent(lpn_set_for(&model.public.spec)?),
        },
        products: args.products.unwrap_or_default(),
    };
    let outcome = two_party::run(model, inputs, plan, &wiring)?;
    let parts = outcome.tallied(model, plan)?;
    let twin_equal = outcome.tokens == expected;
    let tally_equal = outcome.equals(&parts);
    let spec = &model.public.spec;
    let mut report = json!({
        "arch": model.name, "setting": args.setting, "phase": args.phase,
        "tokens": if plan.tokens == 0 { plan.prompt } else { plan.tokens },
        "context": plan.prompt + plan.warm + usize::from(plan.tokens > 0),
        "per": if plan.tokens == 0 { "prompt" } else { "token" },
        "private": private_part(spec), "rank": spec.lora_rank, "layers": spec.num_layers,
        "merge": args.merge, "network": args.network, "rounding": args.rounding,
        "extension": wiring.extension.to_string(),
        "twin_equal": twin_equal, "tally_equal": tally_equal,
    });
    if let (Some(report), Value::Object(more)) =
        (report.as_object_mut(), outcome.report(plan, &parts))
    {
        report.extend(more);
    }
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        println!("{}", text(&report));
    }
    if args.explain {
        two_party::explain(&parts);
    }
    Ok(if twin_equal && tally_equal {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INPUT_FAILED)
    })
}

/// The same steps with server and dealer as processes.
fn run_processes(
    args: &Args,
    model: &Model,
    inputs: &[Vec<u64>],
    plan: &Plan,
    comparison: Comparison,
) -> anyhow::Result<Outcome> {
    let run = processes::Run {
        arch: args.arch.as_deref().unwrap_or_default(),
        form: form(args, plan),
        plan: *plan,
        comparison,
        network: &args.network,
        dealer_network: &args.dealer_network,
        ahead: args.setting == "dealer",
        stages: &[],
    };
    let (outcome, _) = processes::run(model, inputs, &run)?;
    Ok(outcome)
}

/// What `--comparison` says, or what the named network calls for; one-hot where none is named.
fn wiring(args: &Args, model: &Model, plan: &Plan) -> anyhow::Result<Wiring> {
    let between = link(&args.network)?;
    let dealer_link = link(&args.dealer_network)?;
    let comparison = match (args.comparison, &between) {
        (ComparisonArg::Dcf, _) => Comparison::Dcf,
        (ComparisonArg::Auto, Some(link)) => {
            let (cached, rows) = plan.first_measured();
            estimates(&model.public.spec, &network(link), cached, rows)?[0].comparison
        }
        _ => Comparison::OneHot,
    };
    Ok(Wiring {
        comparison,
        products: args.private_products,
        link: between,
        dealer_link,
    })
}
