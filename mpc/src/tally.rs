//! What a step costs, counted by running the program on shapes: what a session will send.

use crate::{
    cost::Cost,
    error::ProtocolError,
    masked::{Comparison, Masked, PrivateProducts},
    program,
    program::{cache::Cache, padding::check_remaining_context, run_blind},
    sampling::Selection,
    spec::ProgramSpec,
    weights::PublicWeights,
};

/// What `rows` rows behind `cached` keys cost with a comparison protocol, by label, the token
/// chosen greedily.
///
/// ```
/// use marill_mpc::{random_model::tiny_spec, tally_decode};
///
/// let shorter = tally_decode(&tiny_spec(), 15)?; let longer = tally_decode(&tiny_spec(), 31)?;
/// assert!(shorter.rounds <= longer.rounds, "a level more of the maximum over twice the keys");
/// assert!(shorter.e0_to_e1_bytes < longer.e0_to_e1_bytes);
/// # Ok::<(), marill_mpc::ProtocolError>(())
/// ```
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn tally_on(
    spec: &ProgramSpec,
    comparison: Comparison,
    cached: usize,
    rows: usize,
) -> Result<Vec<(&'static str, Cost)>, ProtocolError> {
    let mut engine = Masked::tally(spec).with_comparison(comparison);
    let mut cache = Cache::new(spec);
    let shapes = PublicWeights::shapes_only(spec);
    check_remaining_context(spec, cached, rows)?;
    if cached > 0 {
        run_blind(&mut engine, &shapes, &mut cache, cached)?;
    }
    let before = engine.cost_by_label();
    run_blind(&mut engine, &shapes, &mut cache, rows)?;
    let earlier = |label| {
        before
            .iter()
            .find(|(p, _)| *p == label)
            .map_or(Cost::default(), |(_, cost)| *cost)
    };
    Ok(engine
        .cost_by_label()
        .into_iter()
        .map(|(label, cost)| (label, cost - earlier(label)))
        .collect())
}

/// What a prompt step of `bucket` tokens costs, with a greedy token.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn tally_prefill(spec: &ProgramSpec, bucket: usize) -> Result<Cost, ProtocolError> {
    tally_step(spec, Selection::Greedy, 0, bucket)
}

/// What one decoded token costs with `cached` keys before it (a whole number of prompt positions),
/// chosen greedily.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn tally_decode(spec: &ProgramSpec, cached: usize) -> Result<Cost, ProtocolError> {
    tally_step(spec, Selection::Greedy, cached, 1)
}

/// What a step of `rows` rows costs behind `cached` keys, its token chosen by this program.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context, [`ProtocolError::Reveal`] for an encoder that is to
/// sample.
pub fn tally_step(
    spec: &ProgramSpec,
    selection: Selection,
    cached: usize,
    rows: usize,
) -> Result<Cost, ProtocolError> {
    let usual = (Comparison::OneHot, PrivateProducts::Masks);
    tally_with(spec, usual, selection, [cached, rows])
}

/// As [`tally_step`] of `[cached, rows]`, with these comparisons and private updates that are made
/// so. What is prepared before a step is not in it: [`crate::masked::prepared_bytes`].
///
/// # Errors
/// As [`tally_step`].
pub fn tally_with(
    spec: &ProgramSpec,
    (comparison, products): (Comparison, PrivateProducts),
    selection: Selection,
    [cached, rows]: [usize; 2],
) -> Result<Cost, ProtocolError> {
    let (engine, cache, shapes) = tally(spec);
    let engine = engine.with_comparison(comparison);
    let mut engine = engine.with_private_products(products);
    let mut cache = cache.with_sampling(selection.shape());
    check_remaining_context(spec, cached, rows)?;
    if cached > 0 {
        program::step(&mut engine, &shapes, &mut cache, None, None, cached)?;
    }
    let before = engine.cost();
    run_blind(&mut engine, &shapes, &mut cache, rows)?;
    Ok(engine.cost() - before)
}

/// As [`tally_prefill`] (`rows` of a prompt) or, with cached keys, [`tally_decode`] (`rows = 1`),
/// by label.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn tally_by_label(
    spec: &ProgramSpec,
    cached: usize,
    rows: usize,
) -> Result<Vec<(&'static str, Cost)>, ProtocolError> {
    let (mut engine, mut cache, shapes) = tally(spec);
    check_remaining_context(spec, cached, rows)?;
    if cached > 0 {
        program::step(&mut engine, &shapes, &mut cache, None, None, cached)?;
    }
    let before = engine.cost_by_label();
    program::step(&mut engine, &shapes, &mut cache, None, None, rows)?;
    let earlier = |label| {
        before
            .iter()
            .find(|(p, _)| *p == label)
            .map_or(Cost::default(), |(_, cost)| *cost)
    };
    Ok(engine
        .cost_by_label()
        .into_iter()
        .map(|(label, cost)| (label, cost - earlier(label)))
        .collect())
}

fn tally(spec: &ProgramSpec) -> (Masked, Cache<Masked>, PublicWeights) {
    (
        Masked::tally(spec),
        Cache::new(spec),
        PublicWeights::shapes_only(spec),
    )
}
