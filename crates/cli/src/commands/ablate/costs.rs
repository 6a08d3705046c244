//! What a token of each arm costs, counted over shapes, in every setting, over a LAN and a WAN.

use anyhow::Context;
use marill_model::Architecture;
use marill_mpc::{ProgramSpec, cost::Cost};
use marill_plan::{Calibration, Network, Side, Work};
use rayon::prelude::*;

use crate::commands::{
    bench::study::plan::{Arm, Plan},
    plan::candidates::weights,
    train::program::shape_of_recipe,
};

/// Keys that the token attends to, itself included.
pub const KEYS: usize = 128;

/// The networks that seconds are given for.
pub const NETWORKS: [&str; 2] = ["lan", "wan"];

/// What a token of one arm costs.
pub struct ArmCost {
    pub frozen: usize,
    pub spec: ProgramSpec,
    pub sides: Vec<SideCost>,
}

/// In one setting.
pub struct SideCost {
    pub side: Side,
    pub cost: Cost,
    /// Over each of [`NETWORKS`].
    pub seconds: [f64; 2],
}

impl SideCost {
    /// What the client sends and receives.
    pub fn client_bytes(&self) -> u64 {
        self.cost.e0_to_e1_bytes + self.cost.e1_to_e0_bytes + self.cost.dealer_to_e0_bytes
    }
}

/// The costs of every arm of a plan of one task.
///
/// # Errors
/// What counting reports.
pub fn all(
    plan: &Plan,
    config: &Architecture,
    calibration: Option<&Calibration>,
) -> anyhow::Result<Vec<ArmCost>> {
    // Counting an arm between two parties takes seconds, and no arm needs another.
    let arms = plan.arms.par_iter();
    let costs: Vec<_> = arms.map(|arm| of(plan, arm, config, calibration)).collect();
    // The first error in order, whichever came first.
    costs.into_iter().collect()
}

fn of(
    plan: &Plan,
    arm: &Arm,
    config: &Architecture,
    calibration: Option<&Calibration>,
) -> anyhow::Result<ArmCost> {
    let task = &plan.tasks[0];
    let recipe = plan.recipe(task, arm, plan.tokens, None, task.seeds[0])?;
    let frozen = recipe.freeze.layers;
    let spec = shape_of_recipe(&recipe, config)?;
    let keys = KEYS.min(spec.max_positions);
    let side = |side: Side| -> anyhow::Result<SideCost> {
        let amounts = Work::of(&spec, side, keys - 1, 1)?;
        let mut seconds = [0.0; 2];
        for (seconds, name) in seconds.iter_mut().zip(NETWORKS) {
            let network = Network::named(name)?.context("a network with a delay")?;
            *seconds = match calibration {
                Some(found) => {
                    let public = frozen * weights(config);
                    found.time(side, Some(&network), &amounts, public)?.total()
                }
                None => network.waiting(&amounts.1, side),
            };
        }
        Ok(SideCost {
            side,
            cost: amounts.1,
            seconds,
        })
    };
    let sides = Side::ALL.into_iter().map(side);
    Ok(ArmCost {
        frozen,
        sides: sides.collect::<anyhow::Result<_>>()?,
        spec,
    })
}
