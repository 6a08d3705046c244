//! What a step between two parties costs, counted by running the program over shapes.

use marill_lattice::PackingKeys;
use marill_net::Channel;
use marill_ot::AnySource;
use marill_two_party::Cost;

use crate::{
    error::{ProtocolError, ProtocolResult},
    program::{cache::Cache, padding::check_remaining_context, run_blind},
    sampling::Selection,
    spec::ProgramSpec,
    two_party::{
        COUNTED_FACTOR_BITS, Counted, FactorBits, Masks, Plan, Preparation, Products, TwoParty,
        ahead::STEPS,
        gates::{Gates, PIECE},
        lattice::SET,
        make::{self, LEAST_VECTORS},
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

/// What it takes to make masks and products ahead, of each of a session's preparations so far.
///
/// # Errors
/// As [`tally_two_party`]; where no parameters hold the products.
pub fn tally_preparations(
    spec: &ProgramSpec,
    selection: Selection,
    preparations: &[Preparation],
    factor_bits: Option<[u32; 2]>,
) -> ProtocolResult<Vec<Cost>> {
    let bits = factor_bits.map_or(COUNTED_FACTOR_BITS, |[a, b]| FactorBits { a, b });
    let mut engine = counting(spec, Gates::count(), bits, true);
    let mut cache = Cache::new(spec).with_sampling(selection.shape());
    let shapes = PublicWeights::shapes_only(spec);
    let mut kept = Vec::new();
    let mut costs = Vec::with_capacity(preparations.len());
    for Preparation { rows, steps } in preparations {
        if cache.is_empty() {
            kept.clear();
        }
        for _ in 0..*steps {
            check_remaining_context(spec, cache.len(), *rows)?;
            run_blind(&mut engine, &shapes, &mut cache, *rows)?;
        }
        // What these steps will take.
        let jobs = engine.planned();
        let factors = make::Factors {
            maps: &engine.maps,
            private: None,
            bits,
        };
        let mut cost = make::cost(factors, &mut kept, jobs)?;
        // How many steps they are.
        cost.exchange([8, 0]);
        costs.push(cost);
    }
    Ok(costs)
}

/// What was made before `rows` rows behind `cached` keys, and how many such steps share it; none
/// where products are made within the step. In no step's tally.
///
/// # Errors
/// As [`tally_two_party`].
pub fn tally_made_ahead(
    spec: &ProgramSpec,
    selection: Selection,
    cached: usize,
    rows: usize,
    factor_bits: Option<[u32; 2]>,
    products: Products,
) -> ProtocolResult<Option<(Cost, usize)>> {
    let bits = factor_bits.map_or(COUNTED_FACTOR_BITS, |[a, b]| FactorBits { a, b });
    if !are_made_ahead(spec, bits, products)? {
        return Ok(None);
    }
    let left = spec.max_positions.saturating_sub(cached);
    let steps = if rows == 1 { STEPS.min(left).max(1) } else { 1 };
    let before = (cached > 0).then_some(Preparation {
        rows: cached,
        steps: 1,
    });
    let all: Vec<Preparation> = before
        .into_iter()
        .chain([Preparation { rows, steps }])
        .collect();
    let costs = tally_preparations(spec, selection, &all, factor_bits)?;
    Ok(costs.last().map(|cost| (*cost, steps)))
}

/// Whether sessions make products before the steps that take them: for [`Products::Cheaper`] where
/// that sends less over a prompt and [`SAMPLED_TOKENS`] tokens, keys included.
pub(super) fn are_made_ahead(
    spec: &ProgramSpec,
    bits: FactorBits,
    products: Products,
) -> ProtocolResult<bool> {
    match (products, spec.is_full_rank()) {
        // Full-rank weights would be encrypted within each step.
        (Products::Ahead, _) | (Products::Cheaper, true) => return Ok(true),
        (Products::Transfers | Products::Lattices, false) => return Ok(false),
        (Products::Transfers | Products::Lattices, true) => {
            return Err(ProtocolError::Unsupported {
                what: "full-rank private weights whose products are not made ahead",
            });
        }
        (Products::Cheaper, false) => {}
    }
    let prompt = Preparation {
        rows: spec.bucket(1),
        steps: 1,
    };
    let decodes = !spec.architecture.is_encoder();
    let token = Preparation {
        rows: 1,
        steps: STEPS,
    };
    let all = if decodes && spec.max_positions >= prompt.rows + token.steps {
        vec![prompt, token]
    } else {
        vec![prompt]
    };
    let greedy = Selection::Greedy;
    let factor_bits = Some([bits.a, bits.b]);
    let Ok(made) = tally_preparations(spec, greedy, &all, factor_bits) else {
        // No parameters hold the noise of these factors.
        return Ok(false);
    };
    let last = all[all.len() - 1];
    let cached = if last.rows == 1 { prompt.rows } else { 0 };
    let online = |ahead: bool| {
        let how = (bits, products, PIECE);
        let parts = count(spec, greedy, cached, last.rows, how, ahead)?;
        let bytes = parts.iter().map(|(_, part)| part.online.bytes());
        Ok::<u64, ProtocolError>(last.steps as u64 * bytes.sum::<u64>())
    };
    let repeated = (SAMPLED_TOKENS / last.steps) as u64;
    let made = made.last().map_or(0, Cost::bytes);
    // Once a session, both ways.
    let keys = 2 * PackingKeys::bytes(SET, LEAST_VECTORS) as u64;
    Ok(keys + repeated * (made + online(true)?) < repeated * online(false)?)
}

/// Tokens that a session has at least, as far as [`Products::Cheaper`] knows.
const SAMPLED_TOKENS: usize = 32;

fn counting(
    spec: &ProgramSpec,
    gates: Gates<Box<dyn Channel>, AnySource>,
    bits: FactorBits,
    ahead: bool,
) -> TwoParty {
    let mut engine = TwoParty::new(spec, gates, None, bits);
    engine.begun = true;
    if ahead {
        engine.masks = Masks::Plan(Plan::new(None));
    }
    engine
}

/// The same where gates take so many elements at once.
pub(super) fn by_label_in_pieces(
    spec: &ProgramSpec,
    selection: Selection,
    cached: usize,
    rows: usize,
    (factor_bits, products, piece): (Option<[u32; 2]>, Products, usize),
) -> ProtocolResult<Vec<(&'static str, Counted)>> {
    let bits = factor_bits.map_or(COUNTED_FACTOR_BITS, |[a, b]| FactorBits { a, b });
    let ahead = are_made_ahead(spec, bits, products)?;
    count(
        spec,
        selection,
        cached,
        rows,
        (bits, products, piece),
        ahead,
    )
}

fn count(
    spec: &ProgramSpec,
    selection: Selection,
    cached: usize,
    rows: usize,
    (bits, products, piece): (FactorBits, Products, usize),
    ahead: bool,
) -> ProtocolResult<Vec<(&'static str, Counted)>> {
    check_remaining_context(spec, cached, rows)?;
    let gates = || {
        let mut gates = Gates::count();
        gates.piece = piece;
        gates.rounding = spec.numeric.rounding;
        gates
    };
    let mut engine = counting(spec, gates(), bits, ahead).with_products(products);
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
