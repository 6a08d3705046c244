//! Scores and weighted values: either party's masks of keys and values, which the other keeps
//! encrypted, with the other's masks of queries and weights, which it multiplies by.
//!
//! Of keys a position is a vector, and a step's query a row of factors. Of values a column of a
//! head is a vector over positions, and a step's weights are a row, zero for what the step does not
//! see. Scores that a query does not see are made too, and left out.

use std::{collections::BTreeMap, ops::Range};

use marill_lattice::{BatchProduct, Factors as Kind, Input};
use marill_two_party::Party;
use zeroize::Zeroizing;

use super::{
    AttendJob, Kept,
    ring::{Keeps, Place, Results, Rings, Side},
};
use crate::two_party::jobs::Attends;

/// Which products have the results of a layer's scores or weighted values.
pub(super) struct AttendPlaces {
    /// By group, of both sides.
    groups: Vec<[GroupPlaces; 2]>,
    /// The first of the job's rows among those of all steps, and how many these are.
    first: usize,
    all: usize,
}

/// Scores by uploads and their positions, values by heads.
type GroupPlaces = Vec<(usize, Range<usize>)>;

/// Either party as the one that encrypts.
fn sides(bits: u32) -> [Side; 2] {
    [Party::E0, Party::E1].map(|client| Side::of(client, bits))
}

impl AttendJob {
    /// Numbers that it takes and gives, about.
    pub(super) fn size(&self) -> usize {
        self.left.len() + self.right.len() + self.own.len()
    }

    /// The key-value heads of each group, each once.
    fn heads(&self, group: &[usize]) -> Vec<usize> {
        crate::two_party::bilinear::kv_heads(&self.attention(), group)
    }
}

/// Jobs of a layer and kind.
type Of<'a> = BTreeMap<(usize, Attends), Vec<(usize, &'a AttendJob)>>;

/// Products of all layers.
pub(super) fn add(
    rings: &mut Rings,
    kept: &[Kept],
    jobs: &[(usize, &AttendJob)],
) -> Vec<(usize, AttendPlaces)> {
    let mut of: Of<'_> = BTreeMap::new();
    for (at, job) in jobs {
        of.entry((job.layer, job.kind))
            .or_default()
            .push((*at, job));
    }
    let Some(keeps) = keep(rings, kept, &of) else {
        return Vec::new();
    };
    let mut places = Vec::with_capacity(jobs.len());
    for ((layer, kind), jobs) in &of {
        // Uploads of the layer's keys and values, in the order of positions.
        let before = kept.iter().enumerate();
        let before = before.filter_map(|(i, kept)| {
            let input = kept.layers.get(layer)?;
            Some((Place::before(i, *input), kept.positions))
        });
        let own = Place::kept(keeps.layers[layer]);
        let uploads: Vec<_> = before.chain([(own, keeps.positions)]).collect();
        let layer = Layer::new(jobs, &uploads);
        places.extend(match kind {
            Attends::Scores => layer.scores(rings),
            Attends::Values => layer.values(rings),
        });
    }
    rings.keeps(keeps);
    places
}

/// Both send their masks of new keys and values.
fn keep(rings: &mut Rings, kept: &[Kept], of: &Of<'_>) -> Option<Keeps> {
    let mut keeps: Option<Keeps> = None;
    for ((layer, kind), jobs) in of {
        let last = jobs.last()?.1;
        // Positions that the other party has already.
        let known: usize = kept
            .iter()
            .filter(|kept| kept.layers.contains_key(layer))
            .map(|kept| kept.positions)
            .sum();
        let positions = last.right.rows - known;
        let d = last.head_dim;
        let inputs = (0..last.num_key_value_heads).map(|head| {
            let columns = last.right.columns(head * d, d);
            let new = columns.data.get(known * d..).unwrap_or(&[]);
            match kind {
                Attends::Scores => (Input::new(positions, d), new.to_vec()),
                // A vector for each column of a head, over positions.
                Attends::Values => {
                    let input = Input::new(d, positions);
                    (input, crate::two_party::bilinear::transposed(new, d))
                }
            }
        });
        for (i, (input, values)) in inputs.enumerate() {
            // Each party is the one that encrypts on one side.
            let [first, second] = sides(last.bits);
            let place = rings.keep(first, input, values.clone());
            rings.keep(second, input, values);
            if *kind == Attends::Scores && i == 0 {
                let keeps = keeps.get_or_insert_with(|| Keeps {
                    bits: last.bits,
                    positions,
                    layers: BTreeMap::new(),
                });
                keeps.layers.insert(*layer, place.input());
            }
        }
    }
    keeps
}

/// One layer's scores or weighted values in all steps.
struct Layer<'a> {
    jobs: &'a [(usize, &'a AttendJob)],
    /// Where keys are, behind which values lie, and how many positions.
    uploads: &'a [(Place, usize)],
    /// Rows of queries or weights in all steps, and positions at the end.
    rows: usize,
    keys: usize,
}

impl<'a> Layer<'a> {
    fn new(jobs: &'a [(usize, &'a AttendJob)], uploads: &'a [(Place, usize)]) -> Self {
        Self {
            jobs,
            uploads,
            rows: jobs.iter().map(|(_, job)| job.rows).sum(),
            keys: uploads.iter().map(|(_, positions)| positions).sum(),
        }
    }

    fn last(&self) -> &AttendJob {
        self.jobs.last().expect("a layer has jobs").1
    }

    fn places(&self, groups: &[[GroupPlaces; 2]]) -> Vec<(usize, AttendPlaces)> {
        let mut row = 0;
        let places = self.jobs.iter().map(|(at, job)| {
            let first = row;
            row += job.rows;
            let groups = groups.to_vec();
            let places = AttendPlaces {
                groups,
                first,
                all: self.rows,
            };
            (*at, places)
        });
        places.collect()
    }

    fn scores(&self, rings: &mut Rings) -> Vec<(usize, AttendPlaces)> {
        let last = self.last();
        let d = last.head_dim;
        let groups = last.groups.iter().map(|group| {
            let kv = |head: &usize| last.attention().kv_head(*head);
            // Queries of a group: its heads side by side.
            let queries = || {
                let rows = self.jobs.iter().flat_map(|(_, job)| {
                    let rows = job.left.data.chunks_exact(job.left.cols);
                    rows.flat_map(|row| group.iter().flat_map(move |head| &row[head * d..][..d]))
                });
                rows.copied().collect()
            };
            sides(last.bits).map(|side| {
                let mut first = 0;
                let uploads = self.uploads.iter().map(|(place, positions)| {
                    let terms = group
                        .iter()
                        .map(|head| place.behind(kv(head)).columns(0..d));
                    let product = BatchProduct {
                        terms: terms.collect(),
                        rows: self.rows,
                        factors: Kind::Masks,
                        vectors: 0..*positions,
                    };
                    let at = first..first + positions;
                    first += positions;
                    (rings.multiply(side, product, queries), at)
                });
                uploads.collect()
            })
        });
        let groups: Vec<_> = groups.collect();
        self.places(&groups)
    }

    fn values(&self, rings: &mut Rings) -> Vec<(usize, AttendPlaces)> {
        let last = self.last();
        let d = last.head_dim;
        let groups = last.groups.iter().enumerate().map(|(g, group)| {
            let heads = last.heads(group);
            // A group's weights over all positions, zero for those that a row does not see.
            let weights = || {
                let mut all = vec![0; self.rows * self.keys];
                let mut rows = all.chunks_exact_mut(self.keys);
                for (_, job) in self.jobs {
                    let lens = job.attention().lens();
                    let seen = crate::kernels::ragged(&job.left.data, &lens);
                    for (seen, row) in seen.skip(g * job.rows).take(job.rows).zip(&mut rows) {
                        row[..seen.len()].copy_from_slice(seen);
                    }
                }
                all
            };
            sides(last.bits).map(|side| {
                let products = heads.iter().map(|head| {
                    // Values lie behind the keys of all heads.
                    let values = last.num_key_value_heads + head;
                    let terms = self
                        .uploads
                        .iter()
                        .map(|(place, positions)| place.behind(values).columns(0..*positions));
                    let product = BatchProduct {
                        terms: terms.collect(),
                        rows: self.rows,
                        factors: Kind::Masks,
                        vectors: 0..d,
                    };
                    (rings.multiply(side, product, weights), 0..d)
                });
                products.collect()
            })
        });
        let groups: Vec<_> = groups.collect();
        self.places(&groups)
    }
}

impl AttendPlaces {
    /// This party's own product, and its shares of both cross terms.
    pub(super) fn shares(&self, job: &AttendJob, results: &Results) -> Vec<u64> {
        let mut out = job.own.clone();
        for (i, side) in sides(job.bits).into_iter().enumerate() {
            let results = &results[&side];
            let groups: Vec<&GroupPlaces> = self.groups.iter().map(|group| &group[i]).collect();
            match job.kind {
                Attends::Scores => self.scores(job, &groups, results, &mut out),
                Attends::Values => self.values(job, &groups, results, &mut out),
            }
        }
        out
    }

    fn scores(
        &self,
        job: &AttendJob,
        groups: &[&GroupPlaces],
        results: &[Zeroizing<Vec<u64>>],
        out: &mut [u64],
    ) {
        let lens = job.attention().lens();
        let mut place = 0;
        for (row, len) in lens.into_iter().enumerate() {
            let group = groups[row / job.rows];
            let row = self.first + row % job.rows;
            let out = &mut out[place..place + len];
            for (product, at) in group {
                let seen = at.start.min(len)..at.end.min(len);
                // Keys behind the ones that this row sees are left out.
                for (key, out) in out[seen].iter_mut().enumerate() {
                    *out = out.wrapping_add(results[*product][key * self.all + row]);
                }
            }
            place += len;
        }
    }

    fn values(
        &self,
        job: &AttendJob,
        groups: &[&GroupPlaces],
        results: &[Zeroizing<Vec<u64>>],
        out: &mut [u64],
    ) {
        let d = job.head_dim;
        let cols = job.num_attention_heads * d;
        for (group, places) in job.groups.iter().zip(groups) {
            let heads = job.heads(group);
            for head in group {
                let kv = job.attention().kv_head(*head);
                let at = heads.iter().position(|head| *head == kv);
                let (product, _) = &places[at.expect("a head of the group")];
                for i in 0..job.rows {
                    let row = self.first + i;
                    let out = &mut out[i * cols + head * d..][..d];
                    for (b, out) in out.iter_mut().enumerate() {
                        *out = out.wrapping_add(results[*product][b * self.all + row]);
                    }
                }
            }
        }
    }
}
