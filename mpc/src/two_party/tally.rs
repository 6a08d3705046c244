//! What a step between two parties costs, counted by running the program over shapes.

use marill_lattice::PackingKeys;
use marill_net::Channel;
use marill_ot::{AnySource, LpnSet};
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
        kept::{LEAST_VECTORS, SET},
        make,
        memo::Memo,
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
    let mut engine = counting(spec, Gates::silent(), bits, Way::AHEAD);
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
    match way(spec, bits, products)?.is_ahead {
        true => made_ahead(spec, selection, [cached, rows], bits).map(Some),
        false => Ok(None),
    }
}

fn made_ahead(
    spec: &ProgramSpec,
    selection: Selection,
    [cached, rows]: [usize; 2],
    bits: FactorBits,
) -> ProtocolResult<(Cost, usize)> {
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
    let costs = tally_preparations(spec, selection, &all, Some([bits.a, bits.b]))?;
    Ok((costs.last().copied().unwrap_or(Cost::none()), steps))
}

/// How sessions of a program make products, from what both parties know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    /// Before the steps that take them.
    pub is_ahead: bool,
    /// By how many bytes E0 then sends more than E1 for a step of one row, about: the step's own
    /// protocols make up for it.
    pub balance: i64,
}

impl Way {
    const WITHIN: Self = Self {
        is_ahead: false,
        balance: 0,
    };
    const AHEAD: Self = Self {
        is_ahead: true,
        balance: 0,
    };
}

/// For [`Products::Cheaper`] products are made ahead where that sends less over a prompt and
/// [`SAMPLED_TOKENS`] tokens, keys included.
pub(super) fn way(spec: &ProgramSpec, bits: FactorBits, products: Products) -> ProtocolResult<Way> {
    // A program counted over shapes takes seconds.
    static WAYS: Memo<(ProgramSpec, Products, FactorBits), Way> = Memo::new();
    WAYS.of((spec.clone(), products, bits), || {
        find_way(spec, bits, products)
    })
}

fn find_way(spec: &ProgramSpec, bits: FactorBits, products: Products) -> ProtocolResult<Way> {
    // Full-rank weights would be encrypted within each step.
    match (products, spec.is_full_rank()) {
        (Products::Transfers | Products::Lattices, false) => return Ok(Way::WITHIN),
        (Products::Transfers | Products::Lattices, true) => {
            return Err(ProtocolError::Unsupported {
                what: "full-rank private weights whose products are not made ahead",
            });
        }
        (Products::Ahead | Products::Cheaper, _) => {}
    }
    let chosen = products == Products::Ahead || spec.is_full_rank();
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
        // No parameters hold the noise of these factors; a session that must says so.
        return Ok(if chosen { Way::AHEAD } else { Way::WITHIN });
    };
    let last = all[all.len() - 1];
    let made = made.last().copied().unwrap_or(Cost::none());
    let [first, second] = made.sent.map(|sent| sent as i64);
    let ahead = Way {
        is_ahead: true,
        balance: match last.rows {
            1 => (first - second) / last.steps as i64,
            _ => 0,
        },
    };
    if chosen {
        return Ok(ahead);
    }
    // keys + n·(made + online with it) < n·(online without it).
    let cached = if last.rows == 1 { prompt.rows } else { 0 };
    let online = |way: Way| {
        let how = (bits, products, PIECE);
        let parts = count(spec, greedy, cached, last.rows, how, way)?;
        let bytes = parts.iter().map(|(_, part)| part.online.bytes());
        Ok::<u64, ProtocolError>(last.steps as u64 * bytes.sum::<u64>())
    };
    let repeated = (SAMPLED_TOKENS / last.steps) as u64;
    // Once a session, both ways.
    let keys = 2 * PackingKeys::bytes(SET, LEAST_VECTORS) as u64;
    let is_less =
        keys + repeated * (made.bytes() + online(ahead)?) < repeated * online(Way::WITHIN)?;
    Ok(if is_less { ahead } else { Way::WITHIN })
}

/// How a session of this program makes transfers: by that set of LPN of b10 and b11 with which a
/// prompt and [`SAMPLED_TOKENS`] tokens send fewer bytes, set-up included. Sets whose secrets take
/// more than 2 MiB a direction are for whoever names them: they gather beyond most caches. On a
/// machine of cores with 512 KiB each, measured once, a token with b12 took 18% more processor time
/// than with b11, for 2% fewer bytes.
///
/// # Errors
/// As [`tally_two_party`].
pub fn lpn_set_for(spec: &ProgramSpec) -> ProtocolResult<LpnSet> {
    static SETS: Memo<ProgramSpec, LpnSet> = Memo::new();
    SETS.of(spec.clone(), || find_lpn_set(spec))
}

fn find_lpn_set(spec: &ProgramSpec) -> ProtocolResult<LpnSet> {
    let greedy = Selection::Greedy;
    let prompt = spec.bucket(1);
    let transfers = |cached: usize, rows: usize| {
        let counted = tally_two_party(spec, greedy, cached, rows, None, Products::Cheaper)?;
        Ok::<usize, ProtocolError>(counted.transfers.cots().iter().sum())
    };
    let more = match spec.architecture.is_encoder() || spec.max_positions <= prompt {
        true => 0,
        false => SAMPLED_TOKENS * transfers(prompt, 1)?,
    };
    let all = (transfers(0, prompt)? + more) as f64;
    let bytes = |set: &LpnSet| {
        // In both directions.
        let set_up = match set {
            LpnSet::B10 => 0,
            set => 2 * set.seeds().div_ceil(LpnSet::B10.leaves()) * LpnSet::B10.tree_bytes(),
        };
        set_up as f64 + all * set.bits_per_transfer() / 8.0
    };
    let sets = [LpnSet::B10, LpnSet::B11];
    let least = sets
        .into_iter()
        .min_by(|a, b| bytes(a).total_cmp(&bytes(b)));
    Ok(least.unwrap_or(LpnSet::B10))
}

/// Tokens that a session has at least, as far as [`Products::Cheaper`] knows.
const SAMPLED_TOKENS: usize = 32;

fn counting(
    spec: &ProgramSpec,
    gates: Gates<Box<dyn Channel>, AnySource>,
    bits: FactorBits,
    way: Way,
) -> TwoParty {
    let mut engine = TwoParty::new(spec, gates, None, bits);
    engine.begun = true;
    engine.token_balance = way.balance;
    if way.is_ahead {
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
    let way = way(spec, bits, products)?;
    count(spec, selection, cached, rows, (bits, products, piece), way)
}

fn count(
    spec: &ProgramSpec,
    selection: Selection,
    cached: usize,
    rows: usize,
    (bits, products, piece): (FactorBits, Products, usize),
    way: Way,
) -> ProtocolResult<Vec<(&'static str, Counted)>> {
    check_remaining_context(spec, cached, rows)?;
    let gates = || {
        let mut gates = Gates::count();
        gates.piece = piece;
        gates.rounding = spec.numeric.rounding;
        gates
    };
    // Only the last step counts.
    let mut before = Gates::silent();
    before.rounding = spec.numeric.rounding;
    let mut engine = counting(spec, before, bits, way).with_products(products);
    let mut cache = Cache::new(spec).with_sampling(selection.shape());
    let shapes = PublicWeights::shapes_only(spec);
    if cached > 0 {
        run_blind(&mut engine, &shapes, &mut cache, cached)?;
    }
    engine.gates = gates();
    run_blind(&mut engine, &shapes, &mut cache, rows)?;
    let planned = engine.gates.take_planned();
    let mut parts = engine.gates.into_counted();
    // Sessions that plan their steps make all vectors of one in the rounds of the longest.
    if let Some(rounds) = planned.joint_rounds().filter(|_| way.is_ahead) {
        let mut left = rounds;
        for (_, part) in &mut parts {
            part.offline.rounds = if part.offline.bytes() > 0 {
                std::mem::take(&mut left)
            } else {
                0
            };
        }
    }
    Ok(parts)
}
