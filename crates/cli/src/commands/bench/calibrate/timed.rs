//! A shape that is timed: its parties as processes, its traffic compared with the tally.

use std::fmt;

use anyhow::ensure;
use marill_mpc::{
    Extension, ProgramSpec,
    cost::Cost,
    two_party::{Products, STEPS_AHEAD, lpn_set_for},
};
use marill_numeric::Rounding;
use marill_plan::{Side, Work, count::counted};

use crate::commands::bench::{
    block::two_party,
    headline::{forms::Step, prefix},
    plan::Plan,
    processes,
    shapes::{self, Form, Model, model},
};

/// Keys of the first measured token: a prompt of 112 and no token before it, so that a slow network
/// is waited for as little as possible.
const KEYS: usize = 113;

/// The same between two parties, whose prompt takes long.
const KEYS_ALONE: usize = 17;

/// Keys of the first measured token.
pub fn keys(side: Side) -> usize {
    match side {
        Side::ALONE => KEYS_ALONE,
        _ => KEYS,
    }
}

/// Tokens over which one is averaged.
const TOKENS: usize = 4;

/// What is evaluated, over random weights.
#[derive(Clone, Copy)]
pub struct Shape {
    pub arch: &'static str,
    pub frozen: usize,
    pub layers: usize,
    pub head: bool,
    pub rank: usize,
    pub full: bool,
    pub merge: usize,
}

impl Shape {
    /// A number of SmolLM2-135M's layers at rank 8.
    pub const fn small(layers: usize, head: bool, merge: usize) -> Self {
        Self {
            arch: "smollm2-135m",
            frozen: 0,
            layers,
            head,
            rank: 8,
            full: false,
            merge,
        }
    }

    fn form(&self, plan: &Plan) -> Form {
        Form {
            layers: Some(self.layers),
            head: self.head,
            rank: self.rank,
            full: self.full,
            merge: self.merge,
            positions: plan.positions().next_multiple_of(16) + 16,
            rounding: Rounding::Exact,
        }
    }

    /// Its program.
    ///
    /// # Errors
    /// None of the shapes is refused.
    pub fn spec(&self, side: Side, network: &str) -> anyhow::Result<ProgramSpec> {
        shapes::spec(self.arch, self.form(&plan(side, network)))
    }

    /// Weights of the layers at the client, for one row.
    pub fn public_weights(&self) -> usize {
        prefix::WEIGHTS * self.frozen
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} x {}", self.layers, self.arch)?;
        match (self.full, self.rank) {
            (true, _) => write!(f, ", full rank")?,
            (false, rank) => write!(f, ", rank {rank}")?,
        }
        if self.merge > 1 {
            write!(f, ", {} heads a softmax", self.merge)?;
        }
        if self.head {
            write!(f, ", output head")?;
        }
        if self.frozen > 0 {
            write!(f, ", behind {} public", self.frozen)?;
        }
        Ok(())
    }
}

/// The steps over a network; over a slow one the time is the network's, and one token will do. Two
/// parties make what 32 tokens take at once, so that many are measured.
fn plan(side: Side, network: &str) -> Plan {
    let tokens = match (side, network) {
        (Side::ALONE, _) => STEPS_AHEAD,
        (_, "none") => TOKENS,
        _ => 1,
    };
    Plan::decode(keys(side), tokens)
}

/// Times a token: its work, its cost, and what the client waits for it.
///
/// # Errors
/// What a party reports, or traffic that is not the tally's.
pub fn time(shape: &Shape, side: Side, network: &str) -> anyhow::Result<(Work, Cost, f64)> {
    let plan = plan(side, network);
    let form = shape.form(&plan);
    let model = model(shape.arch, form)?;
    let inputs = model.inputs(&plan)?;
    if side == Side::ALONE {
        return alone(&model, &inputs, &plan, network);
    }
    let run = processes::Run {
        arch: shape.arch,
        form,
        plan,
        comparison: side.comparison,
        network,
        dealer_network: network,
        ahead: side.is_preprocessed(),
        stages: &[],
    };
    let (outcome, _) = processes::run(&model, &inputs, &run)?;
    let spec = &model.public.spec;
    let mut expected = Cost::default();
    for k in 0..plan.tokens {
        expected = expected + counted(spec, side.comparison, KEYS - 1 + k, 1)?;
    }
    ensure!(
        outcome.cost == expected,
        "the session's traffic is not the tally's: {:?}, counted {expected:?}",
        outcome.cost
    );
    let tokens = plan.tokens as f64;
    let public = match shape.frozen {
        0 => 0.0,
        frozen => prefix::time(frozen, Step::Decode { keys: KEYS })?.wall,
    };
    let ahead = match side.is_preprocessed() {
        true => 0.0,
        false => outcome.e0_precompute.wall / tokens,
    };
    let (work, cost) = Work::of(spec, side, KEYS - 1, 1)?;
    Ok((work, cost, public + ahead + outcome.e0.wall / tokens))
}

/// Two parties as two threads: a token with its share of what is made ahead.
fn alone(
    model: &Model,
    inputs: &[Vec<u64>],
    plan: &Plan,
    network: &str,
) -> anyhow::Result<(Work, Cost, f64)> {
    let wiring = two_party::Wiring {
        network,
        extension: Extension::Silent(lpn_set_for(&model.public.spec)?),
        products: Products::Cheaper,
    };
    let outcome = two_party::run(model, inputs, plan, &wiring)?;
    let parts = outcome.tallied(model, plan)?;
    ensure!(
        outcome.equals(&parts),
        "the session's traffic is not the tally's"
    );
    let (cached, rows) = plan.first_measured();
    let (work, cost) = Work::of(&model.public.spec, Side::ALONE, cached, rows)?;
    Ok((work, cost, outcome.seconds(plan)))
}
