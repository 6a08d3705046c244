//! What a run is compared with: the tally's costs, the twin's tokens, real arithmetic.

use std::sync::Arc;

use marill_mpc::{PrivateProducts, RealTwin, Selection, Twin, cost::Cost, tally_with};
use marill_plan::count::counted;

use crate::commands::bench::{parties::Wiring, plan::Plan, shapes::Model};

/// What the tally says of the measured steps.
pub(super) fn tallied(model: &Model, wiring: &Wiring, plan: &Plan) -> anyhow::Result<Cost> {
    let (first, rows) = plan.first_measured();
    let mut sum = Cost::default();
    for k in 0..plan.tokens.max(1) {
        let spec = &model.public.spec;
        sum = sum
            + match wiring.products {
                PrivateProducts::Masks => counted(spec, wiring.comparison, first + k, rows)?,
                products => {
                    let ways = (wiring.comparison, products);
                    tally_with(spec, ways, Selection::Greedy, [first + k, rows])?
                }
            };
    }
    Ok(sum)
}

/// Tokens of the twin, and the largest distance of its last hidden row from real arithmetic over
/// the measured steps.
pub(super) fn references(
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
    let mut tokens = Vec::new();
    let mut worst = (work < 60_000_000_000).then_some(0f64);
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
