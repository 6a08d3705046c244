//! Rotary tables: the same integers at every party.

use crate::spec::ProgramSpec;

/// Rotary tables in fixed point.
pub struct Rope {
    pub half: usize,
    pub cos: Vec<i64>,
    pub sin: Vec<i64>,
}

impl Rope {
    /// The tables of a spec; empty where nothing is rotated.
    pub(super) fn of(spec: &ProgramSpec) -> Self {
        if spec.architecture.is_rotary() {
            Self::new(spec)
        } else {
            Self::none(spec)
        }
    }

    fn none(spec: &ProgramSpec) -> Self {
        Self {
            half: spec.head_dim / 2,
            cos: Vec::new(),
            sin: Vec::new(),
        }
    }

    /// The same integers on every platform: every party builds its own.
    fn new(spec: &ProgramSpec) -> Self {
        let half = spec.head_dim / 2;
        let one = f64::from(1u32 << spec.numeric.rope_frac_bits);
        let mut cos = Vec::new();
        let mut sin = Vec::new();
        for position in 0..spec.max_positions {
            for i in 0..half {
                // position / theta^(2i/d) / divisor, by the `libm` crate: every platform must round
                // alike.
                let angle = position as f64
                    / libm::pow(spec.rope_theta, 2.0 * i as f64 / spec.head_dim as f64);
                let divisor = spec.variant.rope_divisors.get(i);
                let angle = divisor.map_or(angle, |divisor| angle / divisor);
                cos.push((libm::cos(angle) * one).round() as i64);
                sin.push((libm::sin(angle) * one).round() as i64);
            }
        }
        Self { half, cos, sin }
    }
}
