//! Tabulated functions, maxima and the largest index, on shares.

use marill_net::Channel;
use marill_numeric::{
    RingTensor,
    fixed::low_mask,
    tables::{INDEX_BITS, LinearTable, PIECE_BITS, Piecewise, Tail},
};
use marill_ot::Source;
use marill_two_party::{
    Bits, Combination, Combine, Digits, Parts, Party, Radix, Truncate, lookup::Table,
};

use crate::{
    error::ProtocolResult,
    kernels::ragged,
    two_party::{Gates, gates::Choice},
};

/// Bits of an argument of a tabulated function.
const ARGUMENT_BITS: u32 = 32;

/// A line with its bias is below `2^(PIECE_BITS - 1)`, and a truncation needs a bit of room above.
const LINE_BITS: u32 = PIECE_BITS + 1;

/// `v` at E0, zero at E1: a share of a public value.
pub(super) fn public<C: Channel, S: Source>(gates: &Gates<C, S>, v: u64) -> u64 {
    match gates.party() {
        Party::E0 => v,
        Party::E1 => 0,
    }
}

/// The opposite of each bit.
fn negated<C: Channel, S: Source>(gates: &Gates<C, S>, bits: Bits) -> Bits {
    match gates.party() {
        Party::E0 => !&bits,
        Party::E1 => bits,
    }
}

/// A truncation to below, of values whose ring has no room to spare.
fn floor(from: u32, shift: u32, to: u32) -> Truncate {
    Truncate {
        from,
        shift,
        to,
        added: 0,
        radix: Radix::Four,
    }
}

/// [`marill_numeric::functions::linear`] of each element, modulo `2^out_bits`.
///
/// The low bits are the distance to the interval's start, the next [`INDEX_BITS`] look up value and
/// slope, and what is above must be zero for an argument inside the domain.
pub(super) fn linear<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    table: &LinearTable,
    x: &RingTensor,
    out_bits: u32,
) -> ProtocolResult<RingTensor> {
    let start = table.start as u64;
    let offset = public(gates, start);
    let shifted: Vec<u64> = x.data.iter().map(|v| v.wrapping_sub(offset)).collect();
    let digits = Digits {
        bits: ARGUMENT_BITS,
        low: table.low_bits,
        index: INDEX_BITS,
        to: LINE_BITS,
        // Of the argument itself.
        sign: (table.tail != Tail::Zero).then_some(start),
        radix: Radix::Four,
    };
    let parts = gates.digits(digits, &shifted)?;
    let entries = |of: &[i64], added: i64| -> Vec<u64> {
        of.iter()
            .map(|v| (v + added) as u64 & low_mask(LINE_BITS))
            .collect()
    };
    let columns = [entries(&table.value, table.bias), entries(&table.slope, 0)];
    let tables = columns.each_ref().map(|entries| Table {
        entries,
        out_bits: LINE_BITS,
    });
    let [value, slope] = <[_; 2]>::try_from(gates.lookup(INDEX_BITS, &tables, &parts.index)?)
        .expect("one result per table");
    // value + slope·d, with the bias that keeps it positive.
    let product = gates.product(LINE_BITS, &slope, &parts.distance)?;
    let line = value.iter().zip(&product);
    let line: Vec<u64> = line.map(|(v, p)| v.wrapping_add(*p)).collect();
    let frac_bits = table.slope_frac_bits;
    // Rounded, and the bias taken off again.
    let half_up = Truncate::half_up(LINE_BITS, frac_bits, out_bits, Radix::Four);
    let bias = public(gates, (table.bias >> frac_bits) as u64);
    let mut line = gates.truncate(half_up, &line)?;
    line.iter_mut().for_each(|v| *v = v.wrapping_sub(bias));
    let data = with_tail(gates, table.tail, x, &parts, &line, out_bits)?;
    Ok(RingTensor::new(x.rows, x.cols, out_bits, data))
}

/// The line where it applies, and the tail everywhere.
fn with_tail<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    tail: Tail,
    x: &RingTensor,
    parts: &Parts,
    line: &[u64],
    bits: u32,
) -> ProtocolResult<Vec<u64>> {
    let line = Choice {
        bits,
        bit: &parts.inside,
        values: line,
    };
    let Some(negative) = &parts.negative else {
        return Ok(gates.choose(&[line])?.remove(0));
    };
    let positive = negated(gates, negative.clone());
    let add = |a: Vec<u64>, b: &[u64]| -> Vec<u64> {
        a.iter().zip(b).map(|(a, b)| a.wrapping_add(*b)).collect()
    };
    match tail {
        Tail::Step { low, high } => {
            // low + (high - low)·[x >= 0].
            let mut step = gates.ring_shares(bits, &positive)?;
            let base = public(gates, low as u64);
            let height = (high - low) as u64;
            step.iter_mut()
                .for_each(|v| *v = v.wrapping_mul(height).wrapping_add(base));
            let line = gates.choose(&[line])?.remove(0);
            Ok(add(line, &step))
        }
        _ => {
            // x·[x >= 0].
            let relu = Choice {
                bits,
                bit: &positive,
                values: &x.data,
            };
            let mut both = gates.choose(&[line, relu])?;
            let relu = both.remove(1);
            Ok(add(both.remove(0), &relu))
        }
    }
}

/// `max(x, 0)` modulo `2^bits`.
pub(super) fn relu<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    x: &RingTensor,
    bits: u32,
) -> ProtocolResult<RingTensor> {
    let negative = gates.msb(bits, &x.data)?;
    let positive = negated(gates, negative);
    let data = gates.multiplex(bits, &positive, &x.data)?;
    Ok(RingTensor::new(x.rows, x.cols, bits, data))
}

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
    /// Width of a shifted argument, with room for a sign extension.
    reduced_bits: u32,
}

impl<'a> Search<'a> {
    fn new(table: &'a Piecewise) -> Self {
        let n = table.threshold.len();
        let run = n.isqrt().max(2);
        let runs = n.div_ceil(run);
        let mut shifts: Vec<(u64, u32)> = Vec::new();
        let mut most = 0;
        for (j, (&threshold, &shift)) in table.threshold.iter().zip(&table.shift).enumerate() {
            if shifts.last().is_none_or(|(_, last)| *last != shift) {
                shifts.push((threshold, shift));
            }
            let end = table.threshold.get(j + 1).copied().unwrap_or(table.end);
            most = most.max((end - 1) >> shift);
        }
        Self {
            table,
            run,
            runs,
            index_bits: (run * runs - 1).ilog2() + 1,
            shifts,
            reduced_bits: most.ilog2() + 3,
        }
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

/// `n` bits of a plane from bit `n · at` on.
fn part(bits: &Bits, at: usize, n: usize) -> Bits {
    Bits::from_fn(n, |i| bits.get(n * at + i))
}

/// [`marill_numeric::functions::piecewise`] of each element, modulo `2^64`.
///
/// The interval is found in two steps, by the square root of their number each: comparison with the
/// first threshold of every run, then with the thresholds of the run that it is in, which are
/// public sums of the first step's bits. A lookup gives slope and intercept.
pub(super) fn piecewise<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    s: &RingTensor,
    table: &Piecewise,
) -> ProtocolResult<RingTensor> {
    let search = Search::new(table);
    let bits = table.ring_bits;
    let n = s.data.len();
    // First of the runs but the lowest, and where other shifts begin.
    let runs = (1..search.runs).map(|run| search.threshold(run * search.run));
    let begins = search.shifts[1..].iter().map(|(first, _)| *first);
    let public_thresholds: Vec<u64> = runs.chain(begins).collect();
    let differences = public_thresholds.iter().flat_map(|threshold| {
        let threshold = public(gates, *threshold);
        s.data.iter().map(move |v| v.wrapping_sub(threshold))
    });
    // s >= t where s - t is not negative.
    let below = gates.msb(bits, &differences.collect::<Vec<_>>())?;
    let reached = negated(gates, below);
    let run_bits = (search.runs - 1) * n;
    let in_run = Bits::from_fn(run_bits, |i| reached.get(i));
    let in_run = gates.ring_shares(bits, &in_run)?;
    let at_shift: Vec<Bits> = (0..search.shifts.len() - 1)
        .map(|k| part(&reached, search.runs - 1 + k, n))
        .collect();
    let index = interval(gates, s, &search, &in_run)?;
    let reduced = reduced(gates, s, &search, &at_shift)?;
    // intercept[j] + slope[j]·(s >> shift[j]).
    let columns = [&table.intercept, &table.slope].map(|of| search.entries(of));
    let tables = columns.each_ref().map(|entries| Table {
        entries,
        out_bits: 64,
    });
    let [intercept, slope] =
        <[_; 2]>::try_from(gates.lookup(search.index_bits, &tables, &index)?)
            .expect("one result per table");
    let product = gates.product(64, &slope, &reduced)?;
    let sums = intercept.iter().zip(&product);
    let data = sums.map(|(a, b)| a.wrapping_add(*b)).collect();
    Ok(RingTensor::new(s.rows, s.cols, 64, data))
}

/// Shares of the interval's number, given which runs were reached.
fn interval<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    s: &RingTensor,
    search: &Search<'_>,
    in_run: &[u64],
) -> ProtocolResult<Vec<u64>> {
    let n = s.data.len();
    // The k-th threshold of the run: that of the lowest, and what each reached run adds.
    let mut differences = Vec::with_capacity((search.run - 1) * n);
    for k in 1..search.run {
        let lowest = public(gates, search.threshold(k));
        for (i, v) in s.data.iter().enumerate() {
            let mut threshold = lowest;
            for run in 1..search.runs {
                let step = search
                    .threshold(run * search.run + k)
                    .wrapping_sub(search.threshold((run - 1) * search.run + k));
                let reached = in_run[(run - 1) * n + i];
                threshold = threshold.wrapping_add(step.wrapping_mul(reached));
            }
            differences.push(v.wrapping_sub(threshold));
        }
    }
    let below = gates.msb(search.table.ring_bits, &differences)?;
    let reached = negated(gates, below);
    // j = run·Σ reached runs + Σ reached in the run.
    let inner = gates.ring_shares(search.index_bits, &reached)?;
    let mut index = vec![0u64; n];
    for (steps, weight) in [(in_run, search.run as u64), (&inner[..], 1)] {
        for row in steps.chunks_exact(n.max(1)) {
            let sums = index.iter_mut().zip(row);
            sums.for_each(|(sum, v)| *sum = sum.wrapping_add(v.wrapping_mul(weight)));
        }
    }
    Ok(index)
}

/// The argument shifted as its interval says, modulo `2^64`: all shifts are made, in one round of
/// comparisons, and one is chosen.
fn reduced<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    s: &RingTensor,
    search: &Search<'_>,
    at_shift: &[Bits],
) -> ProtocolResult<Vec<u64>> {
    let n = s.data.len();
    let bits = search.reduced_bits;
    let classes = search.shifts.len();
    let own: Vec<u64> = {
        let mask = low_mask(search.table.ring_bits);
        s.data.iter().map(|v| v & mask).collect()
    };
    let carries = carries(gates, search, &own)?;
    let wraps = wraps(gates, search, &own)?;
    let mut all = Vec::with_capacity(classes * n);
    for (class, (_, shift)) in search.shifts.iter().enumerate() {
        let above = search.table.ring_bits - shift;
        // (s_b >> shift) + carry - wrap·2^(ring - shift).
        all.extend((0..n).map(|i| {
            let wrap = wraps[i].checked_shl(above).unwrap_or(0);
            (own[i] >> shift)
                .wrapping_add(carries[class * n + i])
                .wrapping_sub(wrap)
        }));
    }
    // The argument lies in a class if it reached its beginning and not the next one's.
    let whole = negated(gates, Bits::zeros(n));
    let none = Bits::zeros(n);
    let reached = |class: usize| match class {
        0 => &whole,
        k if k < classes => &at_shift[k - 1],
        _ => &none,
    };
    let classes: Vec<Bits> = (0..classes)
        .map(|class| reached(class) ^ reached(class + 1))
        .collect();
    let choices: Vec<Choice<'_>> = classes
        .iter()
        .zip(all.chunks_exact(n.max(1)))
        .map(|(bit, values)| Choice { bits, bit, values })
        .collect();
    let mut sums = vec![0u64; n];
    for part in gates.choose(&choices)? {
        let sums = sums.iter_mut().zip(part);
        sums.for_each(|(sum, part)| *sum = sum.wrapping_add(part));
    }
    // Extended to the ring of the product.
    gates.truncate(floor(bits, 0, 64), &sums)
}

/// Shares of the carry out of each shift's low bits, class by class: E0's share above what E1's
/// lacks to the next multiple.
fn carries<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    search: &Search<'_>,
    own: &[u64],
) -> ProtocolResult<Vec<u64>> {
    let first = gates.party() == Party::E0;
    let low = search.shifts.iter().flat_map(|(_, shift)| {
        let mask = low_mask(*shift);
        let flip = if first { 0 } else { mask };
        own.iter().map(move |v| (v & mask) ^ flip)
    });
    let low: Vec<u64> = low.collect();
    let widest = search.shifts.iter().map(|(_, shift)| *shift).max();
    match widest.unwrap_or(0) {
        0 => Ok(vec![0; low.len()]),
        bits => {
            let carry = gates.greater(bits, &low)?;
            gates.ring_shares(search.reduced_bits, &carry)
        }
    }
}

/// Shares of whether the shares of a positive argument wrap: if one of their top bits is set.
/// Zeros where no shifted argument would show it.
fn wraps<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    search: &Search<'_>,
    own: &[u64],
) -> ProtocolResult<Vec<u64>> {
    let ring = search.table.ring_bits;
    let bits = search.reduced_bits;
    let shows = |(_, shift): &(u64, u32)| ring - shift < bits;
    if !search.shifts.iter().any(shows) {
        return Ok(vec![0; own.len()]);
    }
    let top: Vec<u64> = own.iter().map(|v| v >> (ring - 1)).collect();
    let shape = Combination {
        chooser: Party::E1,
        bits,
        chooser_bits: 1,
        signed: false,
        count: 1,
        width: 1,
    };
    let list = top.chunks(1).map(|own| Combine { shape, own });
    let both = gates.combine(&list.collect::<Vec<_>>())?;
    // w = t_0 + t_1 - t_0·t_1.
    let wraps = top.iter().zip(both);
    Ok(wraps.map(|(top, both)| top.wrapping_sub(both[0])).collect())
}

/// The larger of neighbors, level by level, until a row has one value. `bits` must hold the
/// difference of any two.
pub(super) fn ragged_max<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    x: &RingTensor,
    lens: &[usize],
    bits: u32,
) -> ProtocolResult<RingTensor> {
    let mut rows: Vec<Vec<u64>> = ragged(&x.data, lens).map(<[u64]>::to_vec).collect();
    while rows.iter().any(|row| row.len() > 1) {
        let pairs = rows.iter().flat_map(|row| row.chunks_exact(2));
        let differences: Vec<u64> = pairs.map(|pair| pair[1].wrapping_sub(pair[0])).collect();
        // max(a, b) = a + [b >= a]·(b - a).
        let below = gates.msb(bits, &differences)?;
        let above = negated(gates, below);
        let gains = gates.multiplex(bits, &above, &differences)?;
        let mut gains = gains.into_iter();
        for row in &mut rows {
            *row = row
                .chunks(2)
                .map(|pair| match pair {
                    [a, _] => a.wrapping_add(gains.next().expect("one per pair")),
                    _ => pair[0],
                })
                .collect();
        }
    }
    let data = rows.iter().map(|row| row.first().copied().unwrap_or(0));
    Ok(RingTensor::new(1, lens.len(), bits, data.collect()))
}

/// Shares modulo `2^index_bits` of the index of the largest, the lowest of equals.
pub(super) fn argmax<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    x: &[u64],
    bits: u32,
    index_bits: u32,
) -> ProtocolResult<u64> {
    let mut values = x.to_vec();
    let mut indices: Vec<u64> = (0..x.len() as u64).map(|i| public(gates, i)).collect();
    while values.len() > 1 {
        let difference = |row: &[u64]| -> Vec<u64> {
            row.chunks_exact(2)
                .map(|pair| pair[1].wrapping_sub(pair[0]))
                .collect()
        };
        let gains = difference(&values);
        let steps = difference(&indices);
        // The later one only where it is larger: the negated difference is below zero.
        let opposite: Vec<u64> = gains.iter().map(|v| v.wrapping_neg()).collect();
        let above = gates.msb(bits, &opposite)?;
        // a + [b > a]·(b - a), of the value and of its index.
        let chosen = gates.choose(&[
            Choice {
                bits,
                bit: &above,
                values: &gains,
            },
            Choice {
                bits: index_bits,
                bit: &above,
                values: &steps,
            },
        ])?;
        for (row, chosen) in [&mut values, &mut indices].into_iter().zip(&chosen) {
            *row = row
                .chunks(2)
                .enumerate()
                .map(|(i, pair)| match pair {
                    [a, _] => a.wrapping_add(chosen[i]),
                    _ => pair[0],
                })
                .collect();
        }
    }
    Ok(indices.first().copied().unwrap_or(0))
}
