//! Cheaper functions in place of a private layer's activation and softmax, which a model is trained
//! to live with (Li et al., "MPCFormer", arXiv 2211.01452).
//!
//! One definition each, for floats (training and evaluation) and for the integers of the secure
//! program. Coefficients are dyadic, so that the integers are exact. A change of a constant needs a
//! new name of its form: a partition says which forms it computes by name.

use serde::{Deserialize, Serialize};

/// Which functions of the private layers are replaced; none by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approximations {
    /// In place of the gated MLP's SiLU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationForm>,
}

/// What stands in for SiLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationForm {
    /// [`quad`].
    Quad,
}

/// Each approximation alone, for tests that sweep them.
pub const EACH: [Approximations; 1] = [Approximations {
    activation: Some(ActivationForm::Quad),
}];

impl Approximations {
    /// Whether nothing is replaced.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// One sentence for each function that is replaced, as cards and `marill inspect` show them.
#[must_use]
pub fn describe(approx: &Approximations) -> Vec<String> {
    let mut lines = Vec::new();
    if approx.activation == Some(ActivationForm::Quad) {
        lines.push("`quad`: x²/8 + x/2 + 1/16 in place of SiLU".into());
    }
    lines
}

/// `8 · quad(x) = x² + QUAD_LINEAR · x + QUAD_CONSTANT`.
pub const QUAD_LINEAR: u64 = 4;
/// Halves: the constant is 1/2.
pub const QUAD_CONSTANT_HALVES: u64 = 1;
/// Bits of the division by eight.
pub const QUAD_SHIFT: u32 = 3;

/// `x²/8 + x/2 + 1/16`, in place of SiLU.
///
/// The form is MPCFormer's `Quad`. SiLU's odd part is exactly `x/2`; the other two are the dyadic
/// numbers next to the least-squares fit of its even part, `x/2 · tanh(x/2)`, over the gate values
/// of SmolLM2-135M's layers 15 to 26 on AG News (standard deviation 0.8 to 1.1, kurtosis 4 to 5.2:
/// 0.127 to 0.166 for the square, and 0.055 to 0.08 for the constant beside 1/8).
///
/// Within 0.22 of SiLU for `|x| <= 4`; beyond, it grows as a parabola on both sides.
#[must_use]
pub fn quad(x: f64) -> f64 {
    (x * x + QUAD_LINEAR as f64 * x + QUAD_CONSTANT_HALVES as f64 / 2.0)
        / f64::from(1 << QUAD_SHIFT)
}

/// The derivative of [`quad`].
#[must_use]
pub fn quad_slope(x: f64) -> f64 {
    (2.0 * x + QUAD_LINEAR as f64) / f64::from(1 << QUAD_SHIFT)
}

/// What stands beside the square of a value of `frac_bits` fractional bits in eight times
/// [`quad`], as integers of `2 · frac_bits`: the factor of the value, and the constant.
#[must_use]
pub fn quad_terms(frac_bits: u32) -> (u64, u64) {
    let linear = QUAD_LINEAR << frac_bits;
    let constant = QUAD_CONSTANT_HALVES << (2 * frac_bits - 1);
    (linear, constant)
}

/// [`quad`] on integers: `frac_bits` in and out, rounded half up.
///
/// Domain: `|x| < 2^30`. Error: half a unit.
#[must_use]
pub fn quad_integer(x: u64, frac_bits: u32) -> u64 {
    let (linear, constant) = quad_terms(frac_bits);
    let line = x.wrapping_add(linear).wrapping_mul(x);
    crate::truncate(line.wrapping_add(constant), frac_bits + QUAD_SHIFT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parabola_is_near_silu_where_it_is_said_to_be() {
        let worst = (-4000..=4000)
            .map(|k| f64::from(k) / 1000.0)
            .map(|x| (quad(x) - x / (1.0 + (-x).exp())).abs())
            .fold(0.0, f64::max);
        // As the documentation states; a hundredth less would be wrong.
        assert!(worst <= 0.22 && worst > 0.21, "{worst}");
    }

    #[test]
    fn integers_are_the_parabola_within_half_a_unit() {
        let unit = 14f64.exp2();
        for x in (-(1i64 << 22)..1 << 22).step_by(997) {
            let exact = quad(x as f64 / unit);
            let got = quad_integer(x as u64, 14) as i64 as f64 / unit;
            assert!((got - exact).abs() <= 0.5 / unit, "{x}: {got} and {exact}");
        }
    }

    #[test]
    fn the_slope_is_the_derivative() {
        for x in [-3.0, -0.5, 0.0, 1.25, 7.0] {
            let h = 1e-4;
            let numeric = (quad(x + h) - quad(x - h)) / (2.0 * h);
            // A parabola's central difference is exact but for floats.
            assert!((numeric - quad_slope(x)).abs() < 1e-9, "{x}");
        }
    }

    #[test]
    fn what_is_not_replaced_is_not_written() {
        let none = serde_json::to_string(&Approximations::default()).unwrap();
        assert_eq!(none, "{}");
        let quad = Approximations {
            activation: Some(ActivationForm::Quad),
        };
        let text = serde_json::to_string(&quad).unwrap();
        assert_eq!(text, r#"{"activation":"quad"}"#);
        assert!(serde_json::from_str::<Approximations>(r#"{"activations":"quad"}"#).is_err());
    }
}
