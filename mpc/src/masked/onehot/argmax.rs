//! Maximum and arg-max by tournaments of exact sign comparisons.
//!
//! A match opens `d = a - b`, compares digits of `d̂` with digits of its mask, and takes
//! `a - [d < 0]·d`, the bit entering the product straight from its opened form. Rounds a level: 3
//! for 32-bit differences, 4 for 48-bit ones. The order of the pairs is public; ties go to the
//! lower index.

use crate::{
    error::ProtocolError,
    masked::{
        Masked,
        boolean::{Bits, Pending, split},
        share::{Share, Wire},
    },
};

/// Width of an index share.
pub(crate) const INDEX_BITS: u32 = 24;

impl Masked {
    /// The sign of a wire as a pending gate: eight digits and one round for few elements, digits of
    /// four bits down to one plane for many.
    fn sign_of(&mut self, wire: &Wire, label: &'static str) -> Result<Pending, ProtocolError> {
        let n = wire.len();
        let held = self.is_evaluator();
        let (count, left) = if self.many(n) {
            (wire.bits / 4, 1)
        } else {
            (8, 2)
        };
        let widths = split(0, wire.bits, count);
        let mut digits: Vec<(Bits, Bits)> = Vec::with_capacity(widths.len());
        for (d, &(from, width)) in widths.iter().enumerate() {
            let vectors = self.one_hot(wire, from, width)?;
            let mask = (1usize << width) - 1;
            let opened = wire.opened();
            let at = |i: usize| (i, (opened[i] >> from) as usize & mask);
            let top = d + 1 == widths.len();
            digits.push(if top {
                vectors.sign(n, held, at)
            } else {
                vectors.compare(n, held, at)
            });
        }
        self.reduce(digits, left, label)
    }

    /// `[d < 0]·d` modulo `2^bits`.
    fn negative_part(
        &mut self,
        d: &Share,
        bits: u32,
        label: &'static str,
    ) -> Result<Vec<u64>, ProtocolError> {
        let (mut wires, _) = self.exchange(&[(d, bits)], &[], label)?;
        let wire = wires.remove(0);
        if self.uses_dcf(wire.len()) {
            return Ok(self.negative_times(&wire, &[&wire])?.remove(1));
        }
        let pending = self.sign_of(&wire, label)?;
        let (_, negative) = self.finish_sign(&pending, &[], label)?;
        let (_, monomials) = negative.share(self, bits)?;
        negative.times(self, &wire, &monomials)
    }

    /// `max(x, 0)` modulo `2^bits`: a match against zero.
    pub(in crate::masked) fn relu(
        &mut self,
        x: &Share,
        bits: u32,
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let mut out = self.materialized(x)?.into_owned().in_ring(bits);
        let drop = self.negative_part(&out, bits, label)?;
        out.tensor -= &drop;
        Ok(out)
    }

    /// Maximum of each ragged row.
    pub(in crate::masked) fn ragged_max(
        &mut self,
        x: &Share,
        lens: &[usize],
        label: &'static str,
    ) -> Result<Share, ProtocolError> {
        let mut lens = lens.to_vec();
        // Scores fit 32 bits, and so do their differences.
        let mut values = x.clone().in_ring(32);
        while lens.iter().any(|&len| len > 1) {
            let (left, right, rest) = pairs(&lens);
            let a = self.gather(&values, &left);
            let b = self.gather(&values, &right);
            // max(a, b) = a - [a - b < 0]·(a - b).
            let difference = self.sub(&a, &b);
            let drop = self.negative_part(&difference, 32, label)?;
            let mut winners = a.tensor;
            winners -= &drop;
            (values, lens) = self.next_level(&values, &winners.data, &rest, &lens);
        }
        Ok(values)
    }

    /// Puts winners and unpaired values in order: each row's winners first, its odd one last.
    fn next_level(
        &self,
        values: &Share,
        winners: &[u64],
        rest: &[Option<usize>],
        lens: &[usize],
    ) -> (Share, Vec<usize>) {
        let next: Vec<usize> = lens.iter().map(|len| len.div_ceil(2)).collect();
        let mut data = Vec::new();
        if self.is_evaluator() {
            let mut winners = winners.iter();
            for (len, odd) in lens.iter().zip(rest) {
                data.extend(winners.by_ref().take(len / 2));
                data.extend(odd.map(|i| values.data[i]));
            }
        }
        (Share::new(1, next.iter().sum(), values.bits, data), next)
    }

    fn gather(&self, x: &Share, index: &[usize]) -> Share {
        let data = if self.is_evaluator() {
            index.iter().map(|&i| x.data[i]).collect()
        } else {
            Vec::new()
        };
        Share::new(1, index.len(), x.bits, data)
    }

    /// Arg-max of one row, revealed to the client: E1 sends its share of the index, nothing goes
    /// back. With shared inputs and outputs each evaluator keeps its share, for the client to add.
    pub(in crate::masked) fn argmax_to_client(
        &mut self,
        x: &Share,
        label: &'static str,
    ) -> Result<Option<u32>, ProtocolError> {
        let mut lens = vec![x.len()];
        let width = x.bits.min(48);
        let mut values = Share::new(1, x.len(), width, x.data.clone());
        let mut indices = self.public_share((0..x.len() as u64).collect());
        let mut first_level = true;
        while lens[0] > 1 {
            let (left, right, rest) = pairs(&lens);
            let a = self.gather(&values, &left);
            let b = self.gather(&values, &right);
            let ia = self.gather(&indices, &left);
            let ib = self.gather(&indices, &right);
            let difference = self.sub(&a, &b);
            let step = self.sub(&ib, &ia);
            // In the first level neighbors meet, so the index moves by the bit itself.
            let step = (!first_level).then_some((&step, INDEX_BITS));
            // The winner's value, and its index: ia + [a < b]·(ib - ia).
            let (drop, moves) = self.play(&difference, step, label)?;
            // a - [a < b]·(a - b).
            let mut winners = a.tensor;
            winners -= &drop;
            let mut winning = ia.tensor;
            winning += &moves;
            (indices, _) = self.next_level(&indices, &winning.data, &rest, &lens);
            (values, lens) = self.next_level(&values, &winners.data, &rest, &lens);
            first_level = false;
        }
        let bytes = INDEX_BITS as usize / 8;
        let own = indices.data.first().copied().unwrap_or(0);
        if self.shared_io {
            return Ok(self
                .is_evaluator()
                .then_some((own & ((1 << INDEX_BITS) - 1)) as u32));
        }
        // E1's share of the index, reduced to its width.
        let reply = self.one_way(false, bytes, label, || own.to_le_bytes()[..bytes].to_vec())?;
        Ok(reply.map(|reply| {
            let other = crate::masked::unpack(&reply, bytes)[0];
            (own.wrapping_add(other) & ((1 << INDEX_BITS) - 1)) as u32
        }))
    }

    /// A level of the arg-max: `[d < 0]·d`, and `[d < 0]` times the step, or itself where there is
    /// no step.
    fn play(
        &mut self,
        difference: &Share,
        step: Option<(&Share, u32)>,
        label: &'static str,
    ) -> Result<(Vec<u64>, Vec<u64>), ProtocolError> {
        let step = step.as_slice();
        let width = difference.bits;
        if self.uses_dcf(difference.len()) {
            let shares = [&[(difference, width)], step].concat();
            let (wires, _) = self.exchange(&shares, &[], label)?;
            let mut products = self
                .negative_times(&wires[0], &wires.iter().collect::<Vec<_>>())?
                .into_iter();
            let mut next = || products.next().unwrap_or_default();
            let negative = next();
            let drop = next();
            return Ok((drop, if step.is_empty() { negative } else { next() }));
        }
        let (mut wires, _) = self.exchange(&[(difference, width)], &[], label)?;
        let wire = wires.remove(0);
        let pending = self.sign_of(&wire, label)?;
        let (steps, negative) = self.finish_sign(&pending, step, label)?;
        let (bit, monomials) = negative.share(self, width)?;
        let drop = negative.times(self, &wire, &monomials)?;
        let moves = if let [step] = steps.as_slice() {
            negative.times(self, step, &monomials)?
        } else {
            bit
        };
        Ok((drop, moves))
    }

    /// A public value as a share.
    fn public_share(&self, values: Vec<u64>) -> Share {
        let cols = values.len();
        let data = match (self.is_evaluator(), self.is_first()) {
            (_, true) => values,
            (true, false) => vec![0; cols],
            _ => Vec::new(),
        };
        Share::new(1, cols, INDEX_BITS, data)
    }
}

/// Positions of the pairs of one level over ragged rows, and each row's odd one.
fn pairs(lens: &[usize]) -> (Vec<usize>, Vec<usize>, Vec<Option<usize>>) {
    let mut left = Vec::new();
    let mut right = Vec::new();
    let mut rest = Vec::new();
    let mut start = 0;
    for &len in lens {
        left.extend((0..len / 2).map(|p| start + 2 * p));
        right.extend((0..len / 2).map(|p| start + 2 * p + 1));
        rest.push((len % 2 == 1).then_some(start + len - 1));
        start += len;
    }
    (left, right, rest)
}
