//! Rounds and bytes of steps, counted by running the program over shapes: what a session will send.

use marill_mpc::{Comparison, ProgramSpec, ProtocolError, cost::Cost, tally::tally_on};

/// What `rows` rows behind `cached` keys cost.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn counted(
    spec: &ProgramSpec,
    comparison: Comparison,
    cached: usize,
    rows: usize,
) -> Result<Cost, ProtocolError> {
    let by_label = tally_on(spec, comparison, cached, rows)?;
    let add = |sum: Cost, (_, cost): &(&str, Cost)| sum + *cost;
    Ok(by_label.iter().fold(Cost::default(), add))
}

/// Cost of one layer in the middle, by label: the difference of two and three.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn layer_cost(
    spec: &ProgramSpec,
    comparison: Comparison,
    cached: usize,
    rows: usize,
) -> Result<Vec<(&'static str, Cost)>, ProtocolError> {
    let of = |layers: usize| {
        let mut spec = spec.clone();
        spec.head_groups = vec![spec.head_groups[0].clone(); layers];
        spec.attn_scale = vec![spec.attn_scale[0]; layers];
        spec.num_layers = layers;
        spec.vocab_size = spec.vocab_size.min(2);
        spec
    };
    let three = tally_on(&of(3), comparison, cached, rows)?;
    let two = tally_on(&of(2), comparison, cached, rows)?;
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
