//! `exp` of a negative number as a product of two table lookups over one opening.

use marill_numeric::fixed::low_mask;
use marill_numeric::tables::{EXP_DIGIT_BITS, EXP_FRAC_BITS, tables};

use super::bits::OneHot;
use super::lookup::Rotated;
use super::{Masked, ProtocolError, Role, Share, Wire};

impl Masked {
    /// [`marill_numeric::functions::exp_neg`]. Rounds: 5.
    ///
    /// One opening of `y` yields: both table lookups, the borrow between their digits, and the test `y < 16`.
    pub(super) fn exp_of_negative(
        &mut self,
        y: &Share,
        out_bits: u32,
        place: &'static str,
    ) -> Result<Share, ProtocolError> {
        const LOW: u32 = EXP_DIGIT_BITS;
        const TOP_START: u32 = 2 * EXP_DIGIT_BITS;
        const TOP: u32 = 32 - TOP_START;
        let (mut wires, _) = self.exchange(&[(y, 32)], &[], place)?;
        let wire = wires.remove(0);
        let (n, held) = (wire.len(), self.is_evaluator());
        let digit = |i: usize, from: u32| (wire.open[i] >> from) as usize & low_mask(LOW) as usize;

        let low = self.one_hot(&wire, 0, LOW)?;
        let high = self.one_hot(&wire, LOW, LOW)?;
        let top: Vec<(OneHot, u32)> = vec![
            (self.one_hot(&wire, TOP_START, TOP / 2)?, TOP_START),
            (self.one_hot(&wire, TOP_START + TOP / 2, TOP / 2)?, TOP_START + TOP / 2),
        ];
        let (borrow_low, _) = low.compare(n, held, |i| (i, digit(i, 0)));
        let (less_high, equal_high) = high.compare(n, held, |i| (i, digit(i, LOW)));
        let [same, lower] = self.zero_candidates(&wire, &top, TOP_START, TOP);

        // Round 1: factors of the product, and the products of bits.
        let factors = self.exp_factors(&wire, &low, &high);
        let shares: Vec<(&Share, u32)> = factors.iter().map(|f| (f, 32)).collect();
        let planes = [&equal_high, &borrow_low, &same[0], &same[1], &lower[0], &lower[1]];
        let (wires, products) = self.products(&shares, &planes, &[0b11, 0b1100, 0b11_0000], place)?;
        let borrow_high = less_high.xor(&products[0]);
        let change = products[1].xor(&products[2]);
        let value = self.signed_product(&wires, &low, &high)?;

        // Round 2: `in range = same ⊕ borrow·(same ⊕ lower)`, and the opening of the truncation.
        let shifted = self.add_public(&value, (1u64 << (EXP_FRAC_BITS - 1)) + (1 << 30));
        let (mut wires, products2) = self.products(&[(&shifted, 32)], &[&borrow_high, &change], &[0b11], place)?;
        let in_range = products[1].xor(&products2[0]);
        let cut = wires.remove(0);

        // Round 3: the truncation's borrow.
        let value = self.cut(&cut, EXP_FRAC_BITS, out_bits, place)?;

        // Round 4: zero outside the domain.
        self.select(&in_range, &value, out_bits, place)
    }

    /// `s_l·T_low·(1 - borrow)`, `s_l·T_low·borrow`, `s_h·T_high[j]`, `s_h·T_high[j - 1]` as shares modulo 2^32.
    fn exp_factors(&self, wire: &Wire, low: &OneHot, high: &OneHot) -> [Share; 4] {
        let n = wire.len();
        let mut data: [Vec<u64>; 4] = std::array::from_fn(|_| Vec::with_capacity(n));
        if self.is_evaluator() {
            let mask = low_mask(EXP_DIGIT_BITS) as usize;
            let rotated_low = Rotated::new(tables().exp_low.iter().copied());
            let rotated_high = Rotated::new(tables().exp_high.iter().copied());
            let sign = if self.is_first() { u64::MAX } else { 1 };
            let mut scratch = Vec::new();
            for i in 0..n {
                let (d_low, d_high) = (wire.open[i] as usize & mask, (wire.open[i] >> EXP_DIGIT_BITS) as usize & mask);
                let (no_borrow, borrow) = rotated_low.split_sum(low.bits_of(i), d_low, &mut scratch);
                let bits = high.bits_of(i);
                let here = rotated_high.sum(bits, d_high);
                let below = rotated_high.sum(bits, (d_high + mask) & mask);
                for (column, value) in data.iter_mut().zip([no_borrow, borrow, here, below]) {
                    column.push(sign.wrapping_mul(value));
                }
            }
        }
        data.map(|data| Share { rows: wire.rows, cols: wire.cols, bits: 32, data })
    }

    /// `s_l·s_h·(u_0·v_0 + u_1·v_1)` of the four opened factors.
    fn signed_product(&mut self, wires: &[Wire], low: &OneHot, high: &OneHot) -> Result<Share, ProtocolError> {
        let [u0, u1, v0, v1] = wires else { unreachable!("four factors") };
        let n = u0.len();
        let signs: Vec<u64> = if matches!(self.role, Role::Source(_)) {
            (0..n).map(|i| low.sign_of(i).wrapping_mul(high.sign_of(i))).collect()
        } else {
            Vec::new()
        };
        let plain = self.correct(n, 32, |i| signs[i])?;
        let mut by = Vec::with_capacity(4);
        for wire in [u0, u1, v0, v1] {
            by.push(self.correct(n, 32, |i| signs[i].wrapping_mul(wire.mask[i]))?);
        }
        let mut data = self.correct(n, 32, |i| {
            let cross = u0.mask[i].wrapping_mul(v0.mask[i]).wrapping_add(u1.mask[i].wrapping_mul(v1.mask[i]));
            signs[i].wrapping_mul(cross)
        })?;
        for (i, value) in data.iter_mut().enumerate() {
            let (a0, a1, b0, b1) = (u0.open[i], u1.open[i], v0.open[i], v1.open[i]);
            let public = a0.wrapping_mul(b0).wrapping_add(a1.wrapping_mul(b1));
            *value = value
                .wrapping_add(plain[i].wrapping_mul(public))
                .wrapping_sub(b0.wrapping_mul(by[0][i]))
                .wrapping_sub(b1.wrapping_mul(by[1][i]))
                .wrapping_sub(a0.wrapping_mul(by[2][i]))
                .wrapping_sub(a1.wrapping_mul(by[3][i]));
        }
        Ok(Share { rows: u0.rows, cols: u0.cols, bits: 32, data })
    }
}
