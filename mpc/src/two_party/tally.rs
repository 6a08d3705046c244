//! What a step between two parties costs, counted by running the program over shapes.

use marill_net::Channel;
use marill_ot::AnySource;

use crate::{
    error::ProtocolResult,
    program::{cache::Cache, padding::check_remaining_context, run_blind},
    sampling::Selection,
    spec::ProgramSpec,
    two_party::{
        COUNTED_FACTOR_BITS, Counted, FactorBits, Products, TwoParty,
        gates::{Gates, PIECE},
        supported,
    },
    weights::PublicWeights,
};

/// What `rows` rows behind `cached` keys cost, with factors of so many bits (`None`: 16 each).
///
/// # Errors
/// [`crate::ProtocolError::Unsupported`] for a program that two parties do not run,
/// [`crate::ProtocolError::TooLong`] past the context.
pub fn tally_two_party(
    spec: &ProgramSpec,
    selection: Selection,
    cached: usize,
    rows: usize,
    factor_bits: Option<[u32; 2]>,
    products: Products,
) -> ProtocolResult<Counted> {
    let parts = tally_two_party_by_label(spec, selection, cached, rows, factor_bits, products)?;
    let mut sum = Counted::default();
    parts.iter().for_each(|(_, part)| sum += part);
    Ok(sum)
}

/// As [`tally_two_party`], by label.
///
/// # Errors
/// As [`tally_two_party`].
pub fn tally_two_party_by_label(
    spec: &ProgramSpec,
    selection: Selection,
    cached: usize,
    rows: usize,
    factor_bits: Option<[u32; 2]>,
    products: Products,
) -> ProtocolResult<Vec<(&'static str, Counted)>> {
    by_label_in_pieces(
        spec,
        selection,
        cached,
        rows,
        (factor_bits, products, PIECE),
    )
}

/// The same where gates take so many elements at once.
pub(super) fn by_label_in_pieces(
    spec: &ProgramSpec,
    selection: Selection,
    cached: usize,
    rows: usize,
    (factor_bits, products, piece): (Option<[u32; 2]>, Products, usize),
) -> ProtocolResult<Vec<(&'static str, Counted)>> {
    supported(spec, None)?;
    check_remaining_context(spec, cached, rows)?;
    let bits = factor_bits.map_or(COUNTED_FACTOR_BITS, |[a, b]| FactorBits { a, b });
    let gates = || {
        let mut gates = Gates::count();
        gates.piece = piece;
        gates
    };
    let mut engine = TwoParty::<Box<dyn Channel>, AnySource>::new(spec, gates(), None, bits)
        .with_products(products);
    let mut cache = Cache::new(spec).with_sampling(selection.shape());
    let shapes = PublicWeights::shapes_only(spec);
    if cached > 0 {
        run_blind(&mut engine, &shapes, &mut cache, cached)?;
    }
    // Only the last step counts.
    engine.gates = gates();
    run_blind(&mut engine, &shapes, &mut cache, rows)?;
    Ok(engine.gates.into_counted())
}
