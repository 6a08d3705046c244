//! What a run is compared with: the tally's costs, the twin's tokens, real arithmetic.

use std::sync::Arc;

use marill_mpc::{Comparison, RealTwin, Twin, cost::Cost, tally::tally_on};

use crate::commands::bench::{plan::Plan, shapes::Model};

/// What the tally says of the measured steps.
pub(super) fn tallied(model: &Model, comparison: Comparison, plan: &Plan) -> anyhow::Result<Cost> {
    let (first, rows) = plan.first_measured();
    let mut sum = Cost::default();
    for k in 0..plan.tokens.max(1) {
        let labels = tally_on(&model.public.spec, comparison, first + k, rows)?;
        sum = labels.iter().fold(sum, |sum, (_, cost)| sum + *cost);
    }
    Ok(sum)
}

/// Cost of one layer in the middle: the difference of two and three.
pub(super) fn layer_cost(
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
    let three = tally_on(&spec(3), comparison, cached, rows)?;
    let two = tally_on(&spec(2), comparison, cached, rows)?;
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
