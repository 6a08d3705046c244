//! What a run says: one value for each thing measured, and tables of where the costs are.

use std::time::Duration;

use marill_mpc::{
    Comparison, EncryptedAdapter, MaskedAdapter, PrivateProducts, ProgramSpec, cost::Cost,
    masked::DCF_BELOW,
};
use marill_plan::{Estimate, Network, estimates};
use marill_report::{Table, bytes};
use serde_json::{Value, json};

use super::Args;
use crate::{
    args::{
        network::{link, network},
        services::ComparisonArg,
    },
    commands::bench::{clock::Spent, parties::Outcome, plan::Plan, shapes::Model},
};

/// What of a program is private: the flag `--private` that asks for it.
pub(super) fn private_part(spec: &ProgramSpec) -> &'static str {
    match (spec.is_full_rank(), spec.lora_rank) {
        (true, _) => "full",
        (false, 0) => "none",
        _ => "lora",
    }
}

/// What was measured and counted, per token or for the prompt.
pub(super) fn report(
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
    let setup = match args.private_products {
        PrivateProducts::Masks => MaskedAdapter::bytes_of(spec),
        PrivateProducts::Lattice => EncryptedAdapter::bytes_of(spec).unwrap_or_default(),
    };
    let private = private_part(spec);
    json!({
        "private_products": args.private_products,
        "offline_bytes": { "e0_to_e1": outcome.offline_bytes / per },
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

/// Rounds and bytes of one layer by label.
pub(super) fn explain(labels: &[(&'static str, Cost)]) {
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

/// Both protocols in counted rounds and bytes, and why one was taken.
pub(super) fn explain_comparison(
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
