//! Gate functions (SiLU, GeLU): a linear piece looked up by the high digit of one opening, zero below the domain.

use marill_numeric::fixed::low_mask;
use marill_numeric::tables::{GATE_INDEX_BITS, GATE_LOW_BITS, GATE_SLOPE_FRAC_BITS, LinearTable};

use super::bits::{Bits, OneHot, OpenBits, bit, split};
use super::lookup::Rotated;
use super::truncate::sign;
use super::{Masked, ProtocolError, Role, Share, Wire};

impl Masked {
    /// 0 below -16, `x - table(x)` on [-16, 16), `x` above. Rounds: 5.
    pub(super) fn gate_of(
        &mut self,
        x: &Wire,
        table: &LinearTable,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        const LOW: u32 = GATE_LOW_BITS;
        const INDEX: u32 = GATE_INDEX_BITS;
        const TOP_START: u32 = LOW + INDEX;
        const TOP: u32 = 32 - TOP_START;
        // x + 16 makes the domain [0, 32), whose bits are the index and what lies below it.
        let offset = 1u64 << (TOP_START - 1);
        let modulus = low_mask(32);
        let narrow = |data: &[u64], add: u64| data.iter().map(|v| v.wrapping_add(add) & modulus).collect::<Vec<u64>>();
        let wire = Wire { bits: 32, open: narrow(&x.open, offset), mask: narrow(&x.mask, 0), mask0: Vec::new(), ..*x };
        let (n, held) = (wire.len(), self.is_evaluator());
        let index = self.one_hot(&wire, LOW, INDEX)?;
        let low = self.compare_digits(&wire, &split(0, LOW, 2))?;
        let mask = low_mask(INDEX) as usize;
        let (less_index, equal_index) = index.compare(n, held, |i| (i, (wire.open[i] >> LOW) as usize & mask));
        let split = TOP / 2;
        let top: Vec<(OneHot, u32)> = vec![
            (self.one_hot(&wire, TOP_START, split)?, TOP_START),
            (self.one_hot(&wire, TOP_START + split, TOP - split)?, TOP_START + split),
        ];
        let [same, lower] = self.zero_candidates(&wire, &top, TOP_START, TOP);
        let top_digit = |i: usize, from: u32, width: u32| (wire.open[i] >> from) as usize & low_mask(width) as usize;
        let (less_top, equal_top) = top[0].0.compare(n, held, |i| (i, top_digit(i, TOP_START, split)));
        let (sign_top, flips_top) = top[1].0.sign(n, held, |i| (i, top_digit(i, TOP_START + split, TOP - split)));

        // Round 1: lookups of intercept and slope at both candidates of the index, and products of bits.
        let lookups = self.gate_lookups(&wire, &index, table);
        let shares: Vec<(&Share, u32)> = lookups.iter().map(|f| (f, 32)).collect();
        let planes =
            [&low[1].1, &low[0].0, &same[0], &same[1], &lower[0], &lower[1], &flips_top, &less_top, &equal_top];
        let terms = [0b11, 0b1100, 0b11_0000, 0b1100_0000, 0b1_0100_0000];
        let (lines, products) = self.products(&shares, &planes, &terms, place)?;
        let borrow_low = low[1].0.xor(&products[0]);
        let (same, change) = (products[1].clone(), products[1].xor(&products[2]));
        let (sign_top, flips) = (sign_top.xor(&products[3]), products[4].clone());

        // Round 2: the borrow into the index in clear under its mask, and the borrow out of it.
        let (_, planes) = self.exchange(&[], &[&borrow_low, &equal_index], place)?;
        let borrow_index = {
            let mut product = self.opened_products(&planes, &[0b11])?.remove(0);
            product.words.iter_mut().zip(&less_index.words).for_each(|(p, l)| *p ^= l);
            product
        };
        let line = self.signed_line(&lines, &wire_without(&wire, offset), &planes[0], &index)?;

        // Round 3: range and sign, and the opening of the line's truncation.
        let shift = GATE_SLOPE_FRAC_BITS;
        let shifted = self.add_public(&line, (1u64 << (shift - 1)) + (1 << 30));
        let planes = [&borrow_index, &change, &flips];
        let (mut wires, products) = self.products(&[(&shifted, 32)], &planes, &[0b011, 0b101], place)?;
        let in_range = same.xor(&products[0]);
        let negative = sign_top.xor(&products[1]);
        let cut = wires.remove(0);

        // Round 4: the truncation's borrow.
        let value = self.cut(&cut, shift, x.bits, place)?;

        // Round 5: x·(1 - negative) - line·in_range.
        self.gate_output(x, &value, &negative, &in_range, place)
    }

    fn gate_output(
        &mut self,
        x: &Wire,
        line: &Share,
        negative: &Bits,
        in_range: &Bits,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        let (wires, planes) = self.exchange(&[(line, x.bits)], &[negative, in_range], place)?;
        let negative = self.single(&planes[0]);
        let (_, monomials) = negative.share(self, x.bits)?;
        let dropped = negative.times(self, x, &monomials)?;
        let in_range = self.single(&planes[1]);
        let (_, monomials) = in_range.share(self, x.bits)?;
        let line = in_range.times(self, &wires[0], &monomials)?;
        let mut out = self.share_of(x);
        for (i, value) in out.data.iter_mut().enumerate() {
            *value = value.wrapping_sub(dropped[i]).wrapping_sub(line[i]);
        }
        Ok(out)
    }

    /// `s·a[j]`, `s·b[j]`, `s·(a[j-1] - a[j])`, `s·(b[j-1] - b[j])` as shares modulo 2^32.
    fn gate_lookups(&self, wire: &Wire, index: &OneHot, table: &LinearTable) -> [Share; 4] {
        let n = wire.len();
        let mut data: [Vec<u64>; 4] = std::array::from_fn(|_| Vec::with_capacity(n));
        if self.is_evaluator() {
            let mask = low_mask(GATE_INDEX_BITS) as usize;
            let intercept = Rotated::new(table.intercept.iter().map(|&v| v as u64));
            let slope = Rotated::new(table.slope.iter().map(|&v| v as u64));
            let sign = if self.is_first() { u64::MAX } else { 1 };
            for i in 0..n {
                let bits = index.bits_of(i);
                let digit = (wire.open[i] >> GATE_LOW_BITS) as usize & mask;
                let below = (digit + mask) & mask;
                let (a, b) = (intercept.sum(bits, digit), slope.sum(bits, digit));
                let (a1, b1) = (intercept.sum(bits, below), slope.sum(bits, below));
                for (column, value) in data.iter_mut().zip([a, b, a1.wrapping_sub(a), b1.wrapping_sub(b)]) {
                    column.push(sign.wrapping_mul(value));
                }
            }
        }
        data.map(|data| Share { rows: wire.rows, cols: wire.cols, bits: 32, data })
    }

    /// `s·(a + b·x + borrow·(da + db·x))` modulo 2^32, the borrow opened under its mask; 10 corrections an element.
    fn signed_line(
        &mut self,
        lines: &[Wire],
        x: &Wire,
        borrow: &OpenBits,
        index: &OneHot,
    ) -> Result<Share, ProtocolError> {
        let [a, b, da, db] = lines else { unreachable!("four lookups") };
        let n = x.len();
        let source = matches!(self.role, Role::Source(_));
        let signs: Vec<u64> = if source { (0..n).map(|i| index.sign_of(i)).collect() } else { Vec::new() };
        let flipped: Vec<u64> =
            if source { (0..n).map(|i| signs[i].wrapping_mul(bit(&borrow.rho, i))).collect() } else { Vec::new() };
        let cross = |i: usize, slope: &Wire, intercept: &Wire| {
            slope.mask[i].wrapping_mul(x.mask[i]).wrapping_sub(intercept.mask[i])
        };
        let s = self.correct(n, 32, |i| signs[i])?;
        let s_x = self.correct(n, 32, |i| signs[i].wrapping_mul(x.mask[i]))?;
        let s_b = self.correct(n, 32, |i| signs[i].wrapping_mul(b.mask[i]))?;
        let s_base = self.correct(n, 32, |i| signs[i].wrapping_mul(cross(i, b, a)))?;
        let s_db = self.correct(n, 32, |i| signs[i].wrapping_mul(db.mask[i]))?;
        let s_delta = self.correct(n, 32, |i| signs[i].wrapping_mul(cross(i, db, da)))?;
        let f = self.correct(n, 32, |i| flipped[i])?;
        let f_x = self.correct(n, 32, |i| flipped[i].wrapping_mul(x.mask[i]))?;
        let f_db = self.correct(n, 32, |i| flipped[i].wrapping_mul(db.mask[i]))?;
        let f_delta = self.correct(n, 32, |i| flipped[i].wrapping_mul(cross(i, db, da)))?;
        // factor·(â + b̂·x̂) - x̂·[factor r_b] - b̂·[factor r_x] + [factor·(r_b·r_x - r_a)]
        let affine = |i: usize, a: u64, b: u64, one: &[u64], by_b: &[u64], by_x: &[u64], rest: &[u64]| {
            let x = x.open[i];
            one[i]
                .wrapping_mul(a.wrapping_add(b.wrapping_mul(x)))
                .wrapping_sub(x.wrapping_mul(by_b[i]))
                .wrapping_sub(b.wrapping_mul(by_x[i]))
                .wrapping_add(rest[i])
        };
        let mut data = Vec::new();
        if self.is_evaluator() {
            data.extend((0..n).map(|i| {
                let hat = bit(&borrow.hat, i);
                let base = affine(i, a.open[i], b.open[i], &s, &s_b, &s_x, &s_base);
                let delta = affine(i, da.open[i], db.open[i], &s, &s_db, &s_x, &s_delta);
                let flip = affine(i, da.open[i], db.open[i], &f, &f_db, &f_x, &f_delta);
                base.wrapping_add(hat.wrapping_mul(delta)).wrapping_add(sign(hat).wrapping_mul(flip))
            }));
        }
        Ok(Share { rows: x.rows, cols: x.cols, bits: 32, data })
    }
}

/// The wire with a public offset taken off again.
fn wire_without(wire: &Wire, offset: u64) -> Wire {
    Wire { open: wire.open.iter().map(|v| v.wrapping_sub(offset)).collect(), ..wire.clone() }
}
