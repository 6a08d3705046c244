//! Tabulated functions, maxima and the largest index, on shares.

use marill_net::Channel;
use marill_numeric::{
    RingTensor, Rounding,
    fixed::low_mask,
    tables::{INDEX_BITS, LinearTable, PIECE_BITS, Piecewise, Tail},
};
use marill_ot::Source;
use marill_two_party::{Bits, Digits, Parts, Party, Radix, Truncate, lookup::Table};

use crate::{
    error::ProtocolResult,
    kernels::ragged,
    two_party::{
        Gates,
        begin::signed_bits,
        bilinear,
        gates::{Choice, radix},
    },
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

/// A result of which only the shape counts.
fn zeros([rows, cols]: [usize; 2], bits: u32) -> RingTensor {
    RingTensor::new(rows, cols, bits, vec![0; rows * cols])
}

/// The opposite of each bit.
fn negated<C: Channel, S: Source>(gates: &Gates<C, S>, bits: Bits) -> Bits {
    match gates.party() {
        Party::E0 => !&bits,
        Party::E1 => bits,
    }
}

/// What a party compares for the carry out of the low `bits` bits of two shares: E0's share is
/// above what E1's lacks to the next multiple.
fn carry_input<C: Channel, S: Source>(gates: &Gates<C, S>, bits: u32, shares: &[u64]) -> Vec<u64> {
    let mask = low_mask(bits);
    let flip = match gates.party() {
        Party::E0 => 0,
        Party::E1 => mask,
    };
    shares.iter().map(|share| (share & mask) ^ flip).collect()
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
    if gates.is_silent() {
        return Ok(zeros([x.rows, x.cols], out_bits));
    }
    let start = table.start as u64;
    let offset = public(gates, start);
    let shifted: Vec<u64> = x.data.iter().map(|v| v.wrapping_sub(offset)).collect();
    let digits = Digits {
        bits: ARGUMENT_BITS,
        low: table.low_bits,
        index: INDEX_BITS,
        // Its wrap is a bit of its own.
        to: table.low_bits,
        // Of the argument itself.
        sign: (table.tail != Tail::Zero).then_some(start),
        radix: radix(x.data.len()),
    };
    // All that the argument's bits say, in one comparison.
    let parts = gates.digits(digits, &shifted)?;
    // A line without its bias, which is zero where there is none, in as many bits as it takes.
    let of = [&table.value, &table.slope];
    let bits = of.map(|of| of.iter().map(|v| signed_bits(*v as u64)).max().unwrap_or(1));
    let columns = [0, 1].map(|k| -> Vec<u64> {
        let entries = of[k].iter().map(|v| *v as u64 & low_mask(bits[k]));
        entries.collect()
    });
    let tables = [0, 1].map(|k| Table {
        entries: &columns[k],
        out_bits: bits[k],
    });
    let tables = (&tables[..], &[LINE_BITS; 2][..]);
    let [value, slope] = <[_; 2]>::try_from(gates.lookup(INDEX_BITS, tables, &parts.index)?)
        .expect("one result per table");
    // value + slope·d.
    let distance = (&parts.distance[..], &parts.wrap);
    let product = gates.narrow_product([LINE_BITS, table.low_bits], distance, &slope)?;
    let line = value.iter().zip(&product);
    let line: Vec<u64> = line.map(|(v, p)| v.wrapping_add(*p)).collect();
    let data = match gates.rounding {
        Rounding::Exact => rounded_behind(gates, table, x, &parts, line, out_bits)?,
        Rounding::Stochastic => rounded_before(gates, table, x, &parts, line, out_bits)?,
    };
    Ok(RingTensor::new(x.rows, x.cols, out_bits, data))
}

/// `share + v` at each, `v` public.
fn moved<C: Channel, S: Source>(gates: &Gates<C, S>, shares: &mut [u64], v: u64) {
    let own = public(gates, v);
    shares.iter_mut().for_each(|s| *s = s.wrapping_add(own));
}

/// The line where it applies, rounded, and the tail everywhere. What is zero stays zero when it is
/// rounded to the nearest, so the line is chosen before, in its narrow ring.
fn rounded_behind<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    table: &LinearTable,
    x: &RingTensor,
    parts: &Parts,
    line: Vec<u64>,
    bits: u32,
) -> ProtocolResult<Vec<u64>> {
    let [mut line, tail] = with_tail(gates, table.tail, x, parts, (&line, LINE_BITS), bits)?;
    let frac_bits = table.slope_frac_bits;
    // With the bias that keeps it positive, which is taken off again.
    moved(gates, &mut line, table.bias as u64);
    let mut line = gates.round([LINE_BITS, frac_bits, bits], &line)?;
    moved(
        gates,
        &mut line,
        ((table.bias >> frac_bits) as u64).wrapping_neg(),
    );
    bilinear::add_to(&mut line, &tail);
    Ok(line)
}

/// The same where shares round: they might round a zero up, so the line is chosen behind, in the
/// ring that is left of it, and taken to the wide one then.
fn rounded_before<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    table: &LinearTable,
    x: &RingTensor,
    parts: &Parts,
    mut line: Vec<u64>,
    bits: u32,
) -> ProtocolResult<Vec<u64>> {
    let frac_bits = table.slope_frac_bits;
    let left = LINE_BITS - frac_bits;
    let bias = (table.bias >> frac_bits) as u64;
    moved(gates, &mut line, table.bias as u64);
    let mut line = gates.round([LINE_BITS, frac_bits, left], &line)?;
    moved(gates, &mut line, bias.wrapping_neg());
    let [mut line, tail] = with_tail(gates, table.tail, x, parts, (&line, left), bits)?;
    moved(gates, &mut line, bias);
    // No truncation, an extension: the sum of the shares modulo 2^left, in the wide ring.
    let extend = Truncate::half_up(left, 0, bits, Radix::default());
    let mut line = gates.truncate(extend, &line)?;
    moved(gates, &mut line, bias.wrapping_neg());
    bilinear::add_to(&mut line, &tail);
    Ok(line)
}

/// The line where it applies, in its ring, and the tail everywhere, modulo `2^bits`.
fn with_tail<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    tail: Tail,
    x: &RingTensor,
    parts: &Parts,
    (line, line_bits): (&[u64], u32),
    bits: u32,
) -> ProtocolResult<[Vec<u64>; 2]> {
    let line = Choice {
        bits: line_bits,
        bit: &parts.inside,
        values: line,
    };
    let Some(negative) = &parts.negative else {
        let line = gates.choose(&[line])?.remove(0);
        return Ok([line, vec![0; x.data.len()]]);
    };
    let positive = negated(gates, negative.clone());
    match tail {
        Tail::Step { low, high } => {
            // low + (high - low)·[x >= 0], in the same round.
            let [mut step, mut line] = gates.convert(&[(bits, &positive)], &[line])?;
            let mut step = step.remove(0);
            let height = (high - low) as u64;
            step.iter_mut().for_each(|v| *v = v.wrapping_mul(height));
            moved(gates, &mut step, low as u64);
            Ok([line.remove(0), step])
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
            Ok([both.remove(0), relu])
        }
    }
}

/// `max(x, 0)` modulo `2^bits`.
pub(super) fn relu<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    x: &RingTensor,
    bits: u32,
) -> ProtocolResult<RingTensor> {
    if gates.is_silent() {
        return Ok(zeros([x.rows, x.cols], bits));
    }
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
pub(super) fn piecewise<C: Channel, S: Source>(
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
pub(super) fn ragged_max<C: Channel, S: Source>(
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
pub(super) fn argmax<C: Channel, S: Source>(
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
