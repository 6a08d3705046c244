//! Functions on shares: tabulated lines and ReLU here, roots and reciprocals (`piecewise.rs`),
//! maxima and the largest index (`maxima.rs`).

mod maxima;
mod piecewise;

use marill_net::Channel;
use marill_numeric::{
    RingTensor, Rounding,
    fixed::low_mask,
    tables::{INDEX_BITS, LinearTable, PIECE_BITS, Tail},
};
use marill_ot::Source;
use marill_two_party::{Bits, Digits, Parts, Party, Radix, Truncate, lookup::Table};

pub(super) use self::{
    maxima::{argmax, ragged_max},
    piecewise::piecewise,
};
use crate::{
    error::ProtocolResult,
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
