//! Private updates: E1's factors with E0's masks of rows, and of what the first factor gives. In
//! their place full-rank weights with the same masks.

use marill_lattice::{BatchProduct, Factors as Kind, Input};
use marill_net::Channel;
use marill_ot::{Phase, Source};
use marill_two_party::Party;

use super::{
    Factors, Gates, Job, Made, UpdateJob,
    ring::{Results, Rings, Side},
};
use crate::{
    error::ProtocolResult,
    spec::{MapId, MapSpec},
    two_party::{jobs::MadeUpdate, kept::SET},
};

/// Which products of its ring have an update's results, and which of their vectors.
pub(super) struct UpdatePlaces {
    side: Side,
    /// None of full-rank weights.
    inner: Option<usize>,
    updates: Vec<usize>,
    /// The first of the update's rows, among all rows that go through these maps, and how many
    /// these are.
    first: usize,
    all: usize,
}

impl UpdateJob {
    /// Numbers that it takes and gives.
    pub(super) fn size(&self, maps: &[MapSpec]) -> usize {
        let of = |map: &MapId| maps[map.index()].rows + maps[map.index()].cols;
        self.rows * self.maps.iter().map(of).sum::<usize>()
    }
}

/// Products of all updates, those of the same maps together.
pub(super) fn add(
    rings: &mut Rings,
    factors: Factors<'_>,
    jobs: &[(usize, &UpdateJob)],
) -> ProtocolResult<Vec<(usize, UpdatePlaces)>> {
    let mut groups: Vec<Vec<(usize, &UpdateJob)>> = Vec::new();
    for job in jobs {
        let same = |group: &&mut Vec<(usize, &UpdateJob)>| {
            group[0].1.maps == job.1.maps && group[0].1.bits == job.1.bits
        };
        match groups.iter_mut().find(same) {
            Some(group) => group.push(*job),
            None => groups.push(vec![*job]),
        }
    }
    let mut places = Vec::with_capacity(jobs.len());
    // Rows of all steps that go through the same maps.
    for group in &groups {
        places.extend(match group[0].1.whole {
            true => add_whole(rings, factors, group)?,
            false => add_group(rings, factors, group)?,
        });
    }
    Ok(places)
}

/// Full-rank weights with masks of rows.
fn add_whole(
    rings: &mut Rings,
    factors: Factors<'_>,
    group: &[(usize, &UpdateJob)],
) -> ProtocolResult<Vec<(usize, UpdatePlaces)>> {
    let UpdateJob { maps, bits, .. } = group[0].1;
    let side = Side::of(Party::E0, *bits);
    let rows: usize = group.iter().map(|(_, job)| job.rows).sum();
    let cols = factors.maps[maps[0].index()].cols;
    let kind = Kind::Signed(factors.bits.a);
    // Each column is taken out once, for all rows of all maps.
    let input = Input::of_columns(SET, *bits, kind, [rows, cols])?;
    let masks = group.iter().flat_map(|(_, job)| job.outer.iter().copied());
    let sent = rings.send(side, input, masks.collect());
    let products = maps.iter().map(|map| {
        let product = BatchProduct {
            terms: vec![sent.columns(0..cols)],
            rows: factors.maps[map.index()].rows,
            factors: kind,
            vectors: 0..rows,
        };
        let full = factors.private.and_then(|p| p.full.get(map.index()));
        rings.multiply(side, product, || {
            full.map_or_else(Vec::new, |full| full.weights())
        })
    });
    Ok(places(side, None, products.collect(), group))
}

/// Where the results of each job of a group are.
fn places(
    side: Side,
    inner: Option<usize>,
    updates: Vec<usize>,
    group: &[(usize, &UpdateJob)],
) -> Vec<(usize, UpdatePlaces)> {
    let all: usize = group.iter().map(|(_, job)| job.rows).sum();
    let mut row = 0;
    let places = group.iter().map(|(at, job)| {
        let first = row;
        row += job.rows;
        let updates = updates.clone();
        let places = UpdatePlaces {
            side,
            inner,
            updates,
            first,
            all,
        };
        (*at, places)
    });
    places.collect()
}

fn add_group(
    rings: &mut Rings,
    factors: Factors<'_>,
    group: &[(usize, &UpdateJob)],
) -> ProtocolResult<Vec<(usize, UpdatePlaces)>> {
    let UpdateJob { maps, bits, .. } = group[0].1;
    let bits = *bits;
    let side = Side::of(Party::E0, bits);
    let specs: Vec<MapSpec> = maps.iter().map(|map| factors.maps[map.index()]).collect();
    let rank: usize = specs.iter().map(|map| map.rank).sum();
    let cols = specs[0].cols;
    let rows: usize = group.iter().map(|(_, job)| job.rows).sum();
    let lora = |map: &MapId| {
        factors
            .private
            .and_then(|private| private.lora.get(map.index()))
    };
    let vectors = rows;
    // A of all maps, one below the other: they take the same rows.
    let outer = group.iter().flat_map(|(_, job)| job.outer.iter().copied());
    let sent = rings.send(side, Input::new(vectors, cols), outer.collect());
    let product = BatchProduct {
        terms: vec![sent.columns(0..cols)],
        rows: rank,
        factors: Kind::Signed(factors.bits.a),
        vectors: 0..rows,
    };
    let stacked = || {
        maps.iter()
            .filter_map(lora)
            .flat_map(|lora| lora.a.iter().copied())
    };
    let inner = rings.multiply(side, product, || stacked().collect());
    // B of each map, with its part of what A gives.
    let mut updates = Vec::with_capacity(maps.len());
    let mut first = 0;
    for (map, spec) in maps.iter().zip(&specs) {
        let kind = Kind::Signed(factors.bits.b);
        // Tall: made by columns.
        let input = Input::of_columns(SET, bits, kind, [vectors, spec.rank])?;
        let masks = group
            .iter()
            .flat_map(|(_, job)| job.inner.chunks_exact(rank));
        let masks = masks.flat_map(|row| row[first..][..spec.rank].iter().copied());
        let sent = rings.send(side, input, masks.collect());
        let product = BatchProduct {
            terms: vec![sent.columns(0..spec.rank)],
            rows: spec.rows,
            factors: kind,
            vectors: 0..rows,
        };
        let b = || lora(map).map_or_else(Vec::new, |lora| lora.b.clone());
        updates.push(rings.multiply(side, product, b));
        first += spec.rank;
    }
    Ok(places(side, Some(inner), updates, group))
}

impl UpdatePlaces {
    /// What a party keeps; what `A` gave is not masked yet.
    pub(super) fn made(&self, job: &UpdateJob, results: &Results) -> MadeUpdate {
        let results = &results[&self.side];
        let rows = |product: &usize| {
            let all = &results[*product];
            let width = all.len() / self.all;
            all[self.first * width..][..job.rows * width].to_vec()
        };
        MadeUpdate {
            bits: job.bits,
            outer: job.outer.clone(),
            masks: job.inner.clone(),
            inner: self.inner.as_ref().map_or_else(Vec::new, rows),
            updates: self.updates.iter().map(rows).collect(),
        }
    }
}

/// Bits that E0 says of an update.
pub(super) fn told_bits(job: &Job) -> Option<usize> {
    match job {
        Job::Update(job) => Some(job.inner.len() * job.bits as usize),
        _ => None,
    }
}

/// E0 says `t - a_0` of all updates; E1 takes its own share `a_1` off.
pub(super) fn tell_inner<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    made: &mut [Made],
) -> ProtocolResult<()> {
    let mut updates: Vec<&mut MadeUpdate> = made
        .iter_mut()
        .filter_map(|material| match material {
            Made::Update(update) => Some(update),
            _ => None,
        })
        .collect();
    let list = updates.iter_mut().map(|update| {
        // E1 has no masks, and sends nothing.
        let masks = std::mem::take(&mut update.masks);
        let masks = masks.into_iter().chain(std::iter::repeat(0));
        let pairs = masks.zip(&update.inner);
        let told = pairs.map(|(t, a)| t.wrapping_sub(*a)).collect();
        (update.bits, told)
    });
    let list: Vec<(u32, Vec<u64>)> = list.collect();
    let told = gates.tell_server(Phase::Offline, &list)?;
    let mut told = told.into_iter().flatten();
    for update in updates {
        update.inner = match told.next() {
            Some(told) => {
                let pairs = told.iter().zip(&update.inner);
                pairs.map(|(told, a)| told.wrapping_sub(*a)).collect()
            }
            // E0 keeps nothing of it.
            None => Vec::new(),
        };
    }
    Ok(())
}
