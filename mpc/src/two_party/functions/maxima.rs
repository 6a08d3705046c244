//! Maxima and the largest index, by comparing all pairs of small groups.

use marill_net::Channel;
use marill_numeric::RingTensor;
use marill_ot::Source;
use marill_two_party::{Bits, Party};

use super::{public, zeros};
use crate::{
    error::ProtocolResult,
    kernels::ragged,
    two_party::{Gates, gates::Choice},
};

/// Values of which the first of the largest is found by comparing all pairs: more where there are
/// few, since that takes fewer rounds.
fn group_size(left: usize, values: usize) -> usize {
    match values {
        // One round of ANDs more than four, a whole comparison less.
        0..=128 if left > 4 => 8,
        0..=MANY => 4,
        _ => 2,
    }
}

/// From so many values on, the bytes of comparing all pairs count more than rounds.
const MANY: usize = 1 << 13;

/// For each group of values all but its first one: whether it is the largest, the first one of
/// equals. `bits` must hold the difference of any two.
fn winners<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    groups: &[&[u64]],
    bits: u32,
) -> ProtocolResult<Bits> {
    let pairs = |n: usize| (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)));
    // Whether the earlier one is below the later one.
    let differences = groups
        .iter()
        .flat_map(|group| pairs(group.len()).map(|(i, j)| group[i].wrapping_sub(group[j])));
    let below = gates.msb(bits, &differences.collect::<Vec<_>>())?;
    let not = match gates.party() {
        Party::E0 => 1,
        Party::E1 => 0,
    };
    // What must hold of each value.
    let mut terms: Vec<Vec<u64>> = Vec::new();
    let mut at = 0;
    for group in groups {
        let first = terms.len();
        terms.resize(first + group.len(), Vec::new());
        for (i, j) in pairs(group.len()) {
            let later = below.get(at);
            at += 1;
            terms[first + i].push(later ^ not);
            terms[first + j].push(later);
        }
        terms.remove(first);
    }
    // The winner is what all its terms say: products of pairs of them, level by level.
    while terms.iter().any(|of| of.len() > 1) {
        let couples = || terms.iter().flat_map(|of| of.chunks_exact(2));
        let n = couples().count();
        let [a, b] = [0, 1].map(|side| {
            let side: Vec<u64> = couples().map(|couple| couple[side]).collect();
            Bits::from_fn(n, |i| side[i])
        });
        let both = gates.and(&a, &b)?;
        let mut both = (0..n).map(|i| both.get(i));
        for of in &mut terms {
            let joined = of.chunks(2).map(|couple| match couple {
                [_, _] => both.next().expect("one per couple"),
                _ => couple[0],
            });
            *of = joined.collect();
        }
    }
    Ok(Bits::from_fn(terms.len(), |i| terms[i][0]))
}

/// In each group all values but the first, less the first.
fn above_first(groups: &[&[u64]]) -> Vec<u64> {
    let more = |group: &&[u64]| -> Vec<u64> {
        let above = group[1..].iter().map(|v| v.wrapping_sub(group[0]));
        above.collect()
    };
    groups.iter().flat_map(more).collect()
}

/// What each group's winner has: the first's, and what the others add of which one may be chosen.
fn chosen_of(groups: &[&[u64]], chosen: &[u64]) -> Vec<u64> {
    let mut chosen = chosen.iter();
    let sum = |group: &&[u64]| {
        let more = chosen.by_ref().take(group.len() - 1);
        more.fold(group[0], |sum, v| sum.wrapping_add(*v))
    };
    groups.iter().map(sum).collect()
}

/// The largest of each row, group by group until a row has one value. `bits` must hold the
/// difference of any two.
pub(in crate::two_party) fn ragged_max<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    x: &RingTensor,
    lens: &[usize],
    bits: u32,
) -> ProtocolResult<RingTensor> {
    if gates.is_silent() {
        return Ok(zeros([1, lens.len()], bits));
    }
    let mut rows: Vec<Vec<u64>> = ragged(&x.data, lens).map(<[u64]>::to_vec).collect();
    loop {
        let longest = rows.iter().map(Vec::len).max().unwrap_or(0);
        if longest <= 1 {
            break;
        }
        let size = group_size(longest, rows.iter().map(Vec::len).sum());
        let groups: Vec<&[u64]> = rows.iter().flat_map(|row| row.chunks(size)).collect();
        // max = first + Σ [i wins]·(x_i - first).
        let wins = winners(gates, &groups, bits)?;
        let chosen = gates.multiplex(bits, &wins, &above_first(&groups))?;
        let mut values = chosen_of(&groups, &chosen).into_iter();
        let lens: Vec<usize> = rows.iter().map(|row| row.len().div_ceil(size)).collect();
        rows = lens
            .iter()
            .map(|n| values.by_ref().take(*n).collect())
            .collect();
    }
    let data = rows.iter().map(|row| row.first().copied().unwrap_or(0));
    Ok(RingTensor::new(1, lens.len(), bits, data.collect()))
}

/// Shares modulo `2^index_bits` of the index of the largest, the lowest of equals.
pub(in crate::two_party) fn argmax<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    x: &[u64],
    bits: u32,
    index_bits: u32,
) -> ProtocolResult<u64> {
    if gates.is_silent() {
        return Ok(0);
    }
    let mut values = x.to_vec();
    let mut indices: Vec<u64> = (0..x.len() as u64).map(|i| public(gates, i)).collect();
    while values.len() > 1 {
        let size = group_size(values.len(), values.len());
        let groups: Vec<&[u64]> = values.chunks(size).collect();
        let places: Vec<&[u64]> = indices.chunks(size).collect();
        let wins = winners(gates, &groups, bits)?;
        let [gains, steps] = [&groups, &places].map(|of| above_first(of));
        // Of the value and of its index.
        let chosen = gates.choose(&[
            Choice {
                bits,
                bit: &wins,
                values: &gains,
            },
            Choice {
                bits: index_bits,
                bit: &wins,
                values: &steps,
            },
        ])?;
        let [next, at] = [(&groups, &chosen[0]), (&places, &chosen[1])]
            .map(|(groups, chosen)| chosen_of(groups, chosen));
        values = next;
        indices = at;
    }
    Ok(indices.first().copied().unwrap_or(0))
}
