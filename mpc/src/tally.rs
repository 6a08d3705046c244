//! Which comparison protocol a network calls for: counted rounds and bytes of both, and the time
//! that they take.
//!
//! The model is rounds × one-way delay, plus what the busier evaluator receives, from its peer and
//! from the dealer, over the bandwidth: nothing overlaps, and the dealer reaches an evaluator as
//! fast as its peer does. Local compute is left out. So the estimate is an upper bound of the
//! waiting on a link that is as described, and the choice depends on public shapes and the named
//! network alone.

use std::time::Duration;

use crate::{
    cost::Cost,
    error::ProtocolError,
    masked::{Comparison, Masked},
    program,
    program::{cache::Cache, padding::check_remaining_context, run_blind},
    sampling::Selection,
    spec::ProgramSpec,
    weights::PublicWeights,
};

/// A network between the parties.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    pub one_way_delay: Duration,
    pub bits_per_second: f64,
}

impl Network {
    /// What a step of a cost waits for it, in seconds.
    #[must_use]
    pub fn seconds(&self, cost: &Cost) -> f64 {
        let received = (cost.e1_to_e0_bytes + cost.dealer_to_e0_bytes)
            .max(cost.e0_to_e1_bytes + cost.dealer_to_e1_bytes);
        cost.rounds as f64 * self.one_way_delay.as_secs_f64()
            + received as f64 * 8.0 / self.bits_per_second
    }
}

/// What a step costs with one comparison protocol.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub comparison: Comparison,
    pub cost: Cost,
    pub seconds: f64,
}

/// Estimates of one-hot and of DCF comparisons for `rows` rows behind `cached` keys, the quicker
/// one first; one-hot among equals.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn estimates(
    spec: &ProgramSpec,
    network: &Network,
    cached: usize,
    rows: usize,
) -> Result<[Estimate; 2], ProtocolError> {
    let estimate = |comparison| -> Result<Estimate, ProtocolError> {
        // Counted by running the program on shapes, so it is what a session will send.
        let by_label = tally_on(spec, comparison, cached, rows)?;
        let cost = by_label
            .iter()
            .fold(Cost::default(), |sum, (_, cost)| sum + *cost);
        Ok(Estimate {
            comparison,
            cost,
            seconds: network.seconds(&cost),
        })
    };
    // One-hot first: among equals it asks less of the dealer.
    let one_hot = estimate(Comparison::OneHot)?;
    let dcf = estimate(Comparison::Dcf)?;
    Ok(if dcf.seconds < one_hot.seconds {
        [dcf, one_hot]
    } else {
        [one_hot, dcf]
    })
}

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
    let (mut engine, cache, shapes) = tally(spec);
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
