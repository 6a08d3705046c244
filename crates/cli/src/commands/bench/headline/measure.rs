//! One cell: the parties as processes, the client's public layers, everything checked against the
//! twin and the tally.

use anyhow::ensure;
use marill_mpc::{Comparison, Twin, cost::Cost};
use marill_plan::{Setting, count::counted};

use super::{
    cells::{Cell, Cpu, Key, Measured, plus},
    counts::cost_of,
    forms::{ModelForm, SHAPE, Step},
    prefix,
};
use crate::commands::bench::{
    machine,
    plan::Plan,
    processes::{self, Products},
    shapes::{Model, model},
};

/// Tokens over which a decoded one is averaged.
const TOKENS: usize = 4;

/// Measures a cell.
///
/// # Errors
/// What a party reports, a wrong token, or traffic that is not the tally's.
pub fn measure(key: &Key, form: &ModelForm) -> anyhow::Result<Cell> {
    let plan = match key.step {
        Step::Prefill { tokens } => Plan::prefill(tokens),
        Step::Decode { keys } => Plan::decode(keys, TOKENS),
    };
    let shape = form.session_shape(key.weights, plan.positions().next_multiple_of(16) + 16);
    let stages = form.stages(key.weights, key.step, form.private_ends())?;
    let load_before = machine::load();
    let model = model(SHAPE, shape)?;
    let inputs = model.inputs(&plan)?;
    let run = processes::Run {
        arch: SHAPE,
        form: shape,
        plan,
        comparison: Comparison::OneHot,
        network: &key.network,
        dealer_network: &key.network,
        ahead: key.setting == Setting::Dealer,
        stages: &stages,
    };
    let (outcome, products) = processes::run(&model, &inputs, &run)?;
    check(&model, &inputs, &outcome.tokens)?;
    check_traffic(&model, &plan, outcome.cost)?;
    let tokens = plan.tokens.max(1);
    let prefix = prefix::time(form.frozen, key.step)?;
    let cost = cost_of(form, key.weights, key.step)?;
    let per = tokens as f64;
    let Products { e0, e1, dealer } = products;
    let ahead = outcome.e0_precompute;
    let measured = Measured {
        step_seconds: outcome.e0.wall / per + e0.wall,
        ahead_seconds: ahead.wall / per,
        prefix_seconds: prefix.wall,
        dealer_seconds: outcome.dealer.wall / per + dealer.wall,
        cpu: Cpu {
            client: plus(outcome.e0, ahead).cpu / per + e0.cpu,
            prefix: prefix.cpu,
            server: outcome.e1.cpu / per + e1.cpu,
            dealer: outcome.dealer.cpu / per + dealer.cpu,
        },
        rounds: cost.rounds,
        e0_to_e1_bytes: cost.e0_to_e1_bytes,
        e1_to_e0_bytes: cost.e1_to_e0_bytes,
        dealer_to_e1_bytes: cost.dealer_to_e1_bytes,
        tokens,
        load: [load_before, machine::load()],
        machine: machine::name(),
        profile: machine::PROFILE.into(),
    };
    Ok(Cell {
        key: key.clone(),
        measured,
    })
}

/// That the measured steps cost what is counted.
fn check_traffic(model: &Model, plan: &Plan, found: Cost) -> anyhow::Result<()> {
    let (cached, rows) = plan.first_measured();
    let mut expected = Cost::default();
    for k in 0..plan.tokens.max(1) {
        expected = expected + counted(&model.public.spec, Comparison::OneHot, cached + k, rows)?;
    }
    ensure!(
        found == expected,
        "the session's traffic is not the tally's: {found:?}, counted {expected:?}"
    );
    Ok(())
}

/// That the private tokens are the twin's.
fn check(model: &Model, inputs: &[Vec<u64>], tokens: &[u32]) -> anyhow::Result<()> {
    let mut twin = Twin::new(model.public.clone(), model.private.clone());
    for (k, (input, token)) in inputs.iter().zip(tokens).enumerate() {
        let expected = if k == 0 {
            twin.prefill(input)?
        } else {
            twin.decode(input)?
        };
        ensure!(expected == *token, "token {k} is not the twin's");
    }
    Ok(())
}
