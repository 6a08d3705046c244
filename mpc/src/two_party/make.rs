//! Products of masks for steps to come, all in one exchange.
//!
//! A party encrypts its numbers ([`marill_lattice::Upload`]), the other multiplies by its own
//! ([`marill_lattice::Batch`]), and the other way at the same time. What was planned is sorted by
//! ring and layer, so that the steps' numbers meet the same ciphertexts: a private update's rows
//! are vectors of the same products in every step, and masks of keys and values stay encrypted at
//! the other party ([`Kept`]) for the queries and weights of all later steps.

mod attention;
mod ring;
mod scale;
mod update;

use std::collections::BTreeMap;

use marill_lattice::{Received, Upload};
use marill_net::Channel;
use marill_ot::Source;
use marill_two_party::{Cost, Party};

use self::{
    attention::AttendPlaces,
    ring::Rings,
    scale::{ScalePlaces, SquarePlaces},
    update::UpdatePlaces,
};
use crate::{
    error::ProtocolResult,
    spec::MapSpec,
    two_party::{
        FactorBits, Gates,
        jobs::{AttendJob, Job, Made, UpdateJob},
    },
    weights::PrivateWeights,
};

/// Who has what in private updates.
#[derive(Clone, Copy)]
pub(super) struct Factors<'a> {
    pub maps: &'a [MapSpec],
    /// E1's.
    pub private: Option<&'a PrivateWeights>,
    pub bits: FactorBits,
}

/// Numbers whose products are in one exchange, about: what bounds messages for a long prompt. What
/// is planned and kept of all layers grows with the prompt, see `docs/two-party.md`.
const PIECE: usize = 1 << 21;

/// Masks of keys and values of some layers and of positions one behind the other.
pub(super) struct Kept {
    upload: Upload,
    /// The peer's.
    received: Option<Received>,
    positions: usize,
    /// By layer, the first of its inputs: keys of each head, then values of each.
    layers: BTreeMap<usize, usize>,
}

/// Where what was made of a job lies.
enum Places {
    None,
    Update(UpdatePlaces),
    Attend(AttendPlaces),
    Squares(SquarePlaces),
    Scale(ScalePlaces),
}

/// What was made of each job, in order.
pub(super) fn all<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    factors: Factors<'_>,
    kept: &mut Vec<Kept>,
    jobs: Vec<Job>,
) -> ProtocolResult<Vec<Made>> {
    let party = gates.party();
    // Sorted by layer while they are made, and in order again behind.
    let mut made: Vec<Option<Made>> = jobs.iter().map(|_| None).collect();
    for piece in pieces(factors.maps, jobs) {
        let (rings, places) = multiplications(factors, party, kept, &piece)?;
        // Two messages of each party.
        let results = rings.run(gates, kept)?;
        for ((at, job), places) in piece.into_iter().zip(places) {
            made[at] = Some(match (job, places) {
                (Job::Mask(mask), _) => Made::Mask(mask),
                (Job::Update(job), Places::Update(places)) => {
                    Made::Update(places.made(&job, &results))
                }
                (Job::Attend(job), Places::Attend(places)) => {
                    Made::Product(places.shares(&job, &results))
                }
                (Job::Squares(job), Places::Squares(places)) => {
                    Made::Product(places.shares(&job, &results))
                }
                (Job::Scale(job), Places::Scale(places)) => {
                    Made::Product(places.shares(&job, &results))
                }
                _ => unreachable!("a place of its kind for each job"),
            });
        }
    }
    let mut made: Vec<Made> = made.into_iter().map(|m| m.expect("made")).collect();
    update::tell_inner(gates, &mut made)?;
    Ok(made)
}

/// What making it sends.
pub(super) fn cost(
    factors: Factors<'_>,
    kept: &mut Vec<Kept>,
    jobs: Vec<Job>,
) -> ProtocolResult<Cost> {
    let mut cost = Cost::none();
    // What E0 says of the updates behind it.
    let told: usize = jobs.iter().filter_map(update::told_bits).sum();
    for piece in pieces(factors.maps, jobs) {
        let (rings, _) = multiplications(factors, Party::E0, kept, &piece)?;
        cost += rings.cost(kept)?;
    }
    cost.exchange([told, 0]);
    Ok(cost)
}

/// Leaves out the last positions of what is kept.
pub(super) fn forget(kept: &mut Vec<Kept>, positions: usize) {
    let mut left = positions;
    while let Some(last) = kept.last_mut()
        && left > 0
    {
        let out = left.min(last.positions);
        last.positions -= out;
        left -= out;
        if last.positions == 0 {
            kept.pop();
        }
    }
}

/// Jobs that are made at once, with their places: those of whole layers, and masks with the first.
fn pieces(maps: &[MapSpec], jobs: Vec<Job>) -> Vec<Vec<(usize, Job)>> {
    let mut layers: BTreeMap<usize, (usize, Vec<(usize, Job)>)> = BTreeMap::new();
    for (at, job) in jobs.into_iter().enumerate() {
        let (layer, size) = match &job {
            Job::Mask(_) => (0, 0),
            Job::Attend(job) => (job.layer, job.size()),
            Job::Squares(job) => (job.layer, job.mask.len()),
            Job::Scale(job) => (job.layer, job.mask.len()),
            Job::Update(job) => (maps[job.maps[0].index()].layer, job.size(maps)),
        };
        let of = layers.entry(layer).or_default();
        of.0 += size;
        of.1.push((at, job));
    }
    let mut pieces: Vec<Vec<(usize, Job)>> = Vec::new();
    let mut room = 0;
    for (size, jobs) in layers.into_values() {
        if pieces.is_empty() || size > room {
            pieces.push(Vec::new());
            room = PIECE;
        }
        room = room.saturating_sub(size);
        pieces.last_mut().expect("one at least").extend(jobs);
    }
    pieces
}

/// The multiplications of some jobs, and where each job's results will be.
fn multiplications(
    factors: Factors<'_>,
    party: Party,
    kept: &[Kept],
    jobs: &[(usize, Job)],
) -> ProtocolResult<(Rings, Vec<Places>)> {
    let mut rings = Rings::new(party);
    let mut places: Vec<Places> = jobs.iter().map(|_| Places::None).collect();
    let updates = jobs
        .iter()
        .enumerate()
        .filter_map(|(at, (_, job))| match job {
            Job::Update(job) => Some((at, job)),
            _ => None,
        });
    for (at, place) in update::add(&mut rings, factors, &updates.collect::<Vec<_>>())? {
        places[at] = Places::Update(place);
    }
    let attends = jobs
        .iter()
        .enumerate()
        .filter_map(|(at, (_, job))| match job {
            Job::Attend(job) => Some((at, job)),
            _ => None,
        });
    for (at, place) in attention::add(&mut rings, kept, &attends.collect::<Vec<_>>()) {
        places[at] = Places::Attend(place);
    }
    for (at, (_, job)) in jobs.iter().enumerate() {
        match job {
            Job::Squares(job) => places[at] = Places::Squares(scale::add_squares(&mut rings, job)),
            Job::Scale(job) => places[at] = Places::Scale(scale::add(&mut rings, job)?),
            _ => {}
        }
    }
    Ok((rings, places))
}
