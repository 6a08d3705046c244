//! Rounds and bytes of steps, counted by running the program over shapes: what a session will send.

use marill_mpc::{
    Comparison, ProgramSpec, ProtocolError, Selection,
    cost::Cost,
    tally::tally_on,
    tally_two_party,
    two_party::{Products, lpn_set_for, tally_made_ahead},
};

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

/// What `rows` rows behind `cached` keys cost client and server alone, with their share of what is
/// made ahead and of the transfers; set-up is not in it.
///
/// # Errors
/// [`ProtocolError::Unsupported`] for a program that two parties do not run,
/// [`ProtocolError::TooLong`] past the context.
pub fn counted_alone(
    spec: &ProgramSpec,
    cached: usize,
    rows: usize,
) -> Result<Cost, ProtocolError> {
    let greedy = Selection::Greedy;
    let counted = tally_two_party(spec, greedy, cached, rows, None, Products::Cheaper)?;
    // In bytes, E0's and E1's.
    let mut sent =
        [0, 1].map(|party| (counted.online.sent[party] + counted.offline.sent[party]) as f64);
    let mut rounds = (counted.online.rounds + counted.offline.rounds) as f64;
    // Who has the messages of a transfer gets trees from the chooser: both send, in the mean alike.
    let transfers: usize = counted.transfers.cots().iter().sum();
    let set = lpn_set_for(spec)?;
    let extension = transfers as f64 * set.bits_per_transfer() / 8.0;
    sent.iter_mut().for_each(|bytes| *bytes += extension / 2.0);
    if let Some((made, steps)) =
        tally_made_ahead(spec, greedy, cached, rows, None, Products::Cheaper)?
    {
        for (bytes, made) in sent.iter_mut().zip(made.sent) {
            *bytes += made as f64 / steps as f64;
        }
        rounds += made.rounds as f64 / steps as f64;
    }
    Ok(Cost {
        rounds: rounds.round() as u64,
        e0_to_e1_bytes: sent[0].round() as u64,
        e1_to_e0_bytes: sent[1].round() as u64,
        ..Cost::default()
    })
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
