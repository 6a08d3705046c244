//! Lines of which a comparison with thresholds finds the right one: roots and reciprocals.

use marill_net::Channel;
use marill_numeric::{RingTensor, fixed::low_mask, tables::Piecewise};
use marill_ot::Source;
use marill_two_party::{Bits, lookup::Table};

use super::{carry_input, negated, public, zeros};
use crate::{
    error::ProtocolResult,
    two_party::{Gates, gates::Choice},
};

/// The public half of a [`Piecewise`] table, cut into runs of intervals that are searched one after
/// the other: first for the run, then in it.
struct Search<'a> {
    table: &'a Piecewise,
    /// Intervals of a run.
    run: usize,
    runs: usize,
    index_bits: u32,
    /// The shifts in order, each with the first argument that it applies to; the first applies
    /// below as well.
    shifts: Vec<(u64, u32)>,
}

impl<'a> Search<'a> {
    fn new(table: &'a Piecewise) -> Self {
        let n = table.threshold.len();
        let run = n.isqrt().max(2);
        let runs = n.div_ceil(run);
        let mut shifts: Vec<(u64, u32)> = Vec::new();
        for (&threshold, &shift) in table.threshold.iter().zip(&table.shift) {
            if shifts.last().is_none_or(|(_, last)| *last != shift) {
                shifts.push((threshold, shift));
            }
        }
        Self {
            table,
            run,
            runs,
            // One-hot vectors have two bits at least.
            index_bits: ((run * runs - 1).ilog2() + 1).max(2),
            shifts,
        }
    }

    /// In how many bits a wrap shows, `2^(ring - shift)` modulo `2^64`, at the largest shift.
    fn wrap_bits(&self) -> u32 {
        let largest = self.shifts.iter().map(|(_, shift)| *shift).max();
        (64 + largest.unwrap_or(0) - self.table.ring_bits).max(1)
    }

    /// The threshold of an interval; behind the last one what no argument reaches.
    fn threshold(&self, interval: usize) -> u64 {
        let thresholds = &self.table.threshold;
        thresholds.get(interval).copied().unwrap_or(self.table.end)
    }

    /// A column of the table for every index.
    fn entries(&self, of: &[u64]) -> Vec<u64> {
        let last = of.last().copied().unwrap_or(0);
        let padded = of.iter().copied().chain(std::iter::repeat(last));
        padded.take(1 << self.index_bits).collect()
    }
}

/// What is known of arguments before their intervals are: by run, by class of shifts, or once for
/// each.
struct First {
    /// Whether the run was reached, modulo `2^ring_bits`; all but the lowest.
    in_run: Vec<Vec<u64>>,
    /// Whether a shift's first argument was reached; all but the lowest.
    at_shift: Vec<Bits>,
    /// The argument shifted so far, modulo `2^64`.
    shifted: Vec<Vec<u64>>,
}

/// [`marill_numeric::functions::piecewise`] of each element, modulo `2^64`.
///
/// The interval is found in two steps, by the square root of their number each: comparison with the
/// first threshold of every run, then with the thresholds of the run that it is in, which are
/// public sums of the first step's bits. A lookup gives slope and intercept. All shifts of the
/// argument are made with the first step, and one is chosen with the second.
pub(in crate::two_party) fn piecewise<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    s: &RingTensor,
    table: &Piecewise,
) -> ProtocolResult<RingTensor> {
    if gates.is_silent() {
        return Ok(zeros([s.rows, s.cols], 64));
    }
    let search = Search::new(table);
    // The interval, and the argument as its line takes it.
    let first = first(gates, s, &search)?;
    let (index, reduced) = second(gates, s, &search, &first)?;
    // intercept[j] + slope[j]·(s >> shift[j]).
    let columns = [&table.intercept, &table.slope].map(|of| search.entries(of));
    let tables = columns.each_ref().map(|entries| Table {
        entries,
        out_bits: 64,
    });
    let [intercept, slope] =
        <[_; 2]>::try_from(gates.lookup(search.index_bits, (&tables, &[64; 2]), &index)?)
            .expect("one result per table");
    let product = gates.product(64, &slope, &reduced)?;
    let sums = intercept.iter().zip(&product);
    let data = sums.map(|(a, b)| a.wrapping_add(*b)).collect();
    Ok(RingTensor::new(s.rows, s.cols, 64, data))
}

/// Runs, classes and shifted arguments: one comparison and a round.
fn first<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    s: &RingTensor,
    search: &Search<'_>,
) -> ProtocolResult<First> {
    let ring = search.table.ring_bits;
    let mask = low_mask(ring);
    let own: Vec<u64> = s.data.iter().map(|v| v & mask).collect();
    // First of the runs but the lowest, and where other shifts begin.
    let runs = (1..search.runs).map(|run| search.threshold(run * search.run));
    let begins = search.shifts[1..].iter().map(|(begin, _)| *begin);
    let differences: Vec<Vec<u64>> = runs
        .chain(begins)
        .map(|threshold| {
            let threshold = public(gates, threshold);
            own.iter().map(|v| v.wrapping_sub(threshold)).collect()
        })
        .collect();
    let mut list = signs(gates, ring, &differences);
    // The carry out of each shift's low bits. The shares of what is positive wrap if one of their
    // top bits is set: both are where these carry.
    let shifts = search.shifts.iter().map(|(_, shift)| *shift);
    let shifts: Vec<u32> = shifts.filter(|shift| *shift > 0).collect();
    list.extend(
        shifts
            .iter()
            .map(|bits| (*bits, carry_input(gates, *bits, &own))),
    );
    let top: Vec<u64> = own.iter().map(|v| v >> (ring - 1)).collect();
    list.push((1, carry_input(gates, 1, &top)));
    // Thresholds, low bits and top bits, in one comparison.
    let mut bits = gates.compare(list)?;
    let mut carries = bits.split_off(differences.len());
    let wrap = carries.pop().expect("the last");
    let wrap = &wrap ^ &Bits::from_fn(top.len(), |i| top[i]);
    let mut reached = reached(gates, ring, &differences, &bits);
    let at_shift = reached.split_off(search.runs - 1);
    // Runs, carries and wraps in their rings, in one round.
    let wrap_bits = search.wrap_bits();
    let mut list: Vec<(u32, &Bits)> = reached.iter().map(|bit| (ring, bit)).collect();
    list.extend(carries.iter().map(|bit| (64, bit)));
    list.push((wrap_bits, &wrap));
    let [mut in_run, _] = gates.convert(&list, &[])?;
    let mut carries = in_run.split_off(reached.len());
    let wraps = carries.pop().expect("the last");
    let mut carries = carries.into_iter();
    let shifted = search.shifts.iter().map(|(_, shift)| {
        let carry = if *shift == 0 { None } else { carries.next() };
        let above = ring - shift;
        // (s_b >> shift) + carry - wrap·2^(ring - shift).
        let of = |i: usize| {
            let carry = carry.as_ref().map_or(0, |carry| carry[i]);
            let wrap = wraps[i].checked_shl(above).unwrap_or(0);
            (own[i] >> shift).wrapping_add(carry).wrapping_sub(wrap)
        };
        (0..own.len()).map(of).collect()
    });
    let shifted = shifted.collect();
    Ok(First {
        in_run,
        at_shift,
        shifted,
    })
}

/// What is compared for the signs of these values.
fn signs<C: Channel, S: Source>(
    gates: &Gates<C, S>,
    bits: u32,
    values: &[Vec<u64>],
) -> Vec<(u32, Vec<u64>)> {
    let low = bits - 1;
    let inputs = values.iter().map(|v| (low, carry_input(gates, low, v)));
    inputs.collect()
}

/// Which values are not negative, given the carries into their sign bits.
fn reached<C: Channel, S: Source>(
    gates: &Gates<C, S>,
    bits: u32,
    values: &[Vec<u64>],
    carries: &[Bits],
) -> Vec<Bits> {
    let pairs = values.iter().zip(carries);
    pairs
        .map(|(values, carry)| {
            let top = Bits::from_fn(values.len(), |i| values[i] >> (bits - 1));
            negated(gates, &top ^ carry)
        })
        .collect()
}

/// Shares of the interval's number, and of the argument shifted as its interval says.
fn second<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    s: &RingTensor,
    search: &Search<'_>,
    first: &First,
) -> ProtocolResult<(Vec<u64>, Vec<u64>)> {
    let n = s.data.len();
    let bits = search.table.ring_bits;
    let differences: Vec<Vec<u64>> = (1..search.run)
        .map(|k| difference(gates, s, search, &first.in_run, k))
        .collect();
    // Which thresholds of the run were reached: the second comparison.
    let carries = gates.compare(signs(gates, bits, &differences))?;
    let reached = reached(gates, bits, &differences, &carries);
    let classes = classes(gates, &first.at_shift, n);
    let choices = classes.iter().zip(&first.shifted);
    let choices: Vec<Choice<'_>> = choices
        .map(|(bit, values)| Choice {
            bits: 64,
            bit,
            values,
        })
        .collect();
    let list: Vec<_> = reached.iter().map(|bit| (search.index_bits, bit)).collect();
    // These in the index's ring, and the shift of the argument's class, in one round.
    let [inner, chosen] = gates.convert(&list, &choices)?;
    // j = run·Σ reached runs + Σ reached in the run.
    let mut index = vec![0u64; n];
    for (steps, weight) in [(&first.in_run, search.run as u64), (&inner, 1)] {
        for row in steps {
            let sums = index.iter_mut().zip(row);
            sums.for_each(|(sum, v)| *sum = sum.wrapping_add(v.wrapping_mul(weight)));
        }
    }
    // All but one of the choices are shares of zero.
    let mut reduced = vec![0u64; n];
    for part in chosen {
        let sums = reduced.iter_mut().zip(part);
        sums.for_each(|(sum, part)| *sum = sum.wrapping_add(part));
    }
    Ok((index, reduced))
}

/// The arguments less the `k`-th threshold of their run: that of the lowest, and what each reached
/// run adds.
fn difference<C: Channel, S: Source>(
    gates: &Gates<C, S>,
    s: &RingTensor,
    search: &Search<'_>,
    in_run: &[Vec<u64>],
    k: usize,
) -> Vec<u64> {
    let lowest = public(gates, search.threshold(k));
    let mut differences: Vec<u64> = s.data.iter().map(|v| v.wrapping_sub(lowest)).collect();
    for (before, reached) in in_run.iter().enumerate() {
        let own = search.threshold((before + 1) * search.run + k);
        let step = own.wrapping_sub(search.threshold(before * search.run + k));
        let pairs = differences.iter_mut().zip(reached);
        pairs.for_each(|(v, reached)| *v = v.wrapping_sub(step.wrapping_mul(*reached)));
    }
    differences
}

/// An argument lies in a class if it reached its beginning and not the next one's.
fn classes<C: Channel, S: Source>(gates: &Gates<C, S>, at_shift: &[Bits], n: usize) -> Vec<Bits> {
    // Every argument reaches the first class, and none what lies behind the last.
    let whole = negated(gates, Bits::zeros(n));
    let none = Bits::zeros(n);
    let begins: Vec<&Bits> = std::iter::once(&whole).chain(at_shift).collect();
    let ends = at_shift.iter().chain([&none]);
    begins.into_iter().zip(ends).map(|(a, b)| a ^ b).collect()
}
