//! Powers of a positive number over many octaves, by lines: `1/x`, `1/sqrt(x)`, `sqrt(x)`.
//!
//! An octave `[2^k, 2^(k+1))` has `2^mantissa` lines. Against the exact value over 16 bits, at
//! scale 12 with 5 bits of mantissa (6 for `1/x`) and at scale 14 with 6, `|out - floor(f(x))|` is
//! at most 1 unit for `sqrt` and 2 for the others wherever the result fits: at scale 12 `1/sqrt(x)`
//! from 1/64 on, `1/x` from 1/8 on (tests). What does not fit is the largest result.

use super::curve::widest;
use crate::fixed::low_mask;

/// Which power.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    Reciprocal,
    InverseSqrt,
    Sqrt,
}

/// `f(x)` of `x` of `bits` bits, the top one zero, at `scale`; results of `out_bits`, the top one
/// zero, at `out_scale`.
#[derive(Debug, Clone)]
pub struct OctaveTables {
    pub power: Power,
    pub bits: u32,
    pub scale: u32,
    pub out_bits: u32,
    pub out_scale: u32,
    /// Bits behind the leading one that are in the index, below the octave's number.
    pub mantissa: u32,
    /// Fractional bits of a line beside those of the result.
    pub frac: u32,
    /// The line at zero.
    pub value: Vec<u64>,
    pub slope: Vec<u64>,
}

impl OctaveTables {
    /// # Panics
    /// When there are not 4 to 64 bits, a line does not fit 64, or its index not 14.
    #[must_use]
    pub fn new(power: Power, width: (u32, u32), out: (u32, u32), mantissa: u32) -> Self {
        let bits = width.0;
        assert!(
            (4..=64).contains(&bits) && (2..=8).contains(&mantissa) && mantissa + 2 < bits,
            "{bits} bits with {mantissa} of mantissa"
        );
        let mut tables = Self {
            power,
            bits,
            scale: width.1,
            out_bits: out.0,
            out_scale: out.1,
            mantissa,
            // Of the slope's error, half a unit times half an interval, an eighth is left.
            frac: bits - 1 - mantissa,
            value: Vec::new(),
            slope: Vec::new(),
        };
        assert!(tables.ring() <= 64, "lines of {} bits", tables.ring());
        assert!(tables.index() <= 14, "an index of {} bits", tables.index());
        assert!(width.1.max(out.1) <= 30 && out.1 < out.0, "a scale of 30");
        for i in 0..1u64 << tables.index() {
            let (value, slope) = tables.line(i);
            tables.value.push(value);
            tables.slope.push(slope);
        }
        tables
    }

    /// Bits of an octave's number.
    #[must_use]
    pub fn octave(&self) -> u32 {
        (self.bits - 2).ilog2() + 1
    }

    #[must_use]
    pub fn index(&self) -> u32 {
        self.octave() + self.mantissa
    }

    #[must_use]
    pub fn ring(&self) -> u32 {
        self.out_bits + self.frac
    }

    /// Whether slopes are taken off.
    #[must_use]
    pub fn falls(&self) -> bool {
        self.power != Power::Sqrt
    }

    /// Widths of values and of slopes.
    #[must_use]
    pub fn widths(&self) -> [u32; 2] {
        [&self.value, &self.slope].map(|entries| widest(entries))
    }

    /// The exact value with a line's fractional bits, rounded down, or the largest that fits.
    fn exact(&self, x: u64) -> i128 {
        let largest = i128::from(low_mask(self.out_bits - 1 + self.frac));
        if x == 0 {
            return if self.falls() { largest } else { 0 };
        }
        let x = u128::from(x);
        let out = self.out_scale + self.frac;
        let value = match self.power {
            Power::Reciprocal => (1 << (self.scale + out)) / x,
            // sqrt(2^(2·out + scale) / x), with as many bits as there is room for.
            Power::InverseSqrt => {
                let shift = 2 * out + self.scale;
                let more = shift.saturating_sub(126).next_multiple_of(2);
                let root = ((1u128 << (shift - more)) / x).isqrt();
                root << (more / 2)
            }
            Power::Sqrt => {
                let shift = 2 * out;
                let room = 80.min(126 - self.bits) & !1;
                let wide = x << shift.min(room);
                let root = (wide >> self.scale).isqrt();
                root << (shift.saturating_sub(room) / 2)
            }
        };
        (value as i128).min(largest)
    }

    /// The arguments of an entry: an interval of octave `k`, `x = 0` beside `x = 1`, or none.
    fn interval(&self, i: u64) -> Option<[u64; 2]> {
        let k = (i >> self.mantissa) as u32;
        let m = i & low_mask(self.mantissa);
        if i == 1 {
            return Some([0, 0]);
        }
        if k > self.bits - 2 {
            return None;
        }
        if k <= self.mantissa {
            let unused = self.mantissa - k;
            let x = (1 << k) | (m >> unused);
            return (m & low_mask(unused) == 0).then_some([x, x]);
        }
        let width = k - self.mantissa;
        let first = (1 << k) | (m << width);
        Some([first, first + low_mask(width)])
    }

    /// The chord's slope, and the value that halves the largest residual.
    fn line(&self, i: u64) -> (u64, u64) {
        let Some([first, last]) = self.interval(i) else {
            return (0, 0);
        };
        let length = i128::from(last - first).max(1);
        let step = (self.exact(last) - self.exact(first)).abs();
        let slope = (2 * step + length) / (2 * length);
        let sign = if self.falls() { -1 } else { 1 };
        let places = (last - first).min(64);
        let residuals = (0..=places).map(|k| {
            let along = u128::from(last - first) * u128::from(k);
            let x = first + along.checked_div(places.into()).unwrap_or(0) as u64;
            self.exact(x) - sign * slope * i128::from(x)
        });
        let ends = residuals.fold((i128::MAX, i128::MIN), |(l, h), r| (l.min(r), h.max(r)));
        let value = (ends.0 + ends.1) >> 1;
        (value as u64 & low_mask(self.ring()), slope as u64)
    }

    /// Where `x` is looked up: the number of its octave, the bits behind its leading one.
    #[must_use]
    pub fn place(&self, x: u64) -> u64 {
        let x = x & low_mask(self.bits - 1);
        if x == 0 {
            return 1;
        }
        let k = x.ilog2();
        let behind = x ^ (1 << k);
        let m = if k < self.mantissa {
            behind << (self.mantissa - k)
        } else {
            behind >> (k - self.mantissa)
        };
        u64::from(k) << self.mantissa | m
    }

    /// The integer program.
    #[must_use]
    pub fn at(&self, x: u64) -> u64 {
        let i = self.place(x) as usize;
        let x = x & low_mask(self.bits - 1);
        let step = self.slope[i].wrapping_mul(x);
        let line = if self.falls() {
            self.value[i].wrapping_sub(step)
        } else {
            self.value[i].wrapping_add(step)
        };
        (line & low_mask(self.ring())) >> self.frac
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Largest distances to the floor of the exact value and to itself, where results fit.
    fn worst(power: Power, scale: u32, out_scale: u32, mantissa: u32, from: u64) -> [f64; 2] {
        let tables = OctaveTables::new(power, (16, scale), (16, out_scale), mantissa);
        let mut worst = [0.0f64; 2];
        for x in from..1 << 15 {
            let real = x as f64 / f64::from(1 << scale);
            let exact = match power {
                Power::Reciprocal => real.recip(),
                Power::InverseSqrt => real.sqrt().recip(),
                Power::Sqrt => real.sqrt(),
            };
            let exact = exact * f64::from(1 << out_scale);
            if exact >= 32_767.0 {
                continue;
            }
            let out = tables.at(x) as f64;
            worst[0] = worst[0].max((out - exact.floor()).abs());
            worst[1] = worst[1].max((out - exact).abs());
        }
        worst
    }

    #[test]
    fn powers_are_within_their_ulp() {
        for (power, ulp, bits) in [
            (Power::Sqrt, 1.0, 5),
            (Power::InverseSqrt, 2.0, 5),
            (Power::Reciprocal, 2.0, 6),
        ] {
            for (scale, mantissa) in [(12, bits), (14, 6)] {
                let [floor, real] = worst(power, scale, scale, mantissa, 0);
                assert!(
                    floor <= ulp && real < ulp + 1.0,
                    "{power:?}: {floor} {real}"
                );
            }
        }
    }

    /// The paper has 4 units from 0.1 on.
    #[test]
    fn inverse_roots_are_within_their_ulp_at_all_scales() {
        for scale in 4..=13 {
            for out_scale in 8..=13 {
                let from = (0.1 * f64::from(1 << scale)).ceil() as u64;
                let [floor, _] = worst(Power::InverseSqrt, scale, out_scale, 5, from);
                assert!(floor <= 4.0, "{scale} to {out_scale}: {floor}");
            }
        }
    }

    #[test]
    fn ends_are_as_they_are_said() {
        let of = |power| OctaveTables::new(power, (16, 12), (16, 12), 5);
        assert_eq!(of(Power::Sqrt).at(0), 0);
        assert_eq!(of(Power::Sqrt).at(1 << 12), 1 << 12);
        for power in [Power::Reciprocal, Power::InverseSqrt] {
            assert_eq!([0, 1].map(|x| of(power).at(x)), [0x7fff; 2]);
        }
    }
}
