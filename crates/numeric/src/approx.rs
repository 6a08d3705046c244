//! Cheaper functions in place of a private layer's activation and softmax, which a model is trained
//! to live with (Li et al., "MPCFormer", arXiv 2211.01452).
//!
//! One definition each, for floats (training and evaluation) and for the integers of the secure
//! program. Coefficients are dyadic, so that the integers are exact. A change of a constant needs a
//! new name of its form: a partition says which forms it computes by name.

use serde::{Deserialize, Serialize};

use crate::{
    functions::exp_clipped,
    tables::{ARG_FRAC_BITS, RECIP_FLOOR},
};

/// Which functions of the private layers are replaced; none by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Approximations {
    /// In place of the gated MLP's SiLU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activation: Option<ActivationForm>,
    /// In place of softmax.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softmax: Option<SoftmaxForm>,
    /// From where on [`SoftmaxForm::Clipped`] takes scores for equal; [`DEFAULT_BOUND`] where it is
    /// left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bound: Option<f64>,
}

/// What stands in for SiLU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ActivationForm {
    /// [`quad`].
    Quad,
}

/// Each approximation alone, for tests that sweep them.
pub const EACH: [Approximations; 4] = [
    Approximations {
        activation: Some(ActivationForm::Quad),
        ..NONE
    },
    of_softmax(SoftmaxForm::Clipped),
    of_softmax(SoftmaxForm::Relu),
    of_softmax(SoftmaxForm::Quad),
];

const NONE: Approximations = Approximations {
    activation: None,
    softmax: None,
    bound: None,
};

const fn of_softmax(form: SoftmaxForm) -> Approximations {
    Approximations {
        softmax: Some(form),
        ..NONE
    }
}

/// What stands in for `exp(s)` in a softmax: weights that need no maximum. They are divided by
/// their sum and a small constant ([`SoftmaxForm::floor`]), so that no sum is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SoftmaxForm {
    /// `exp(min(s, c) - c)` for a public bound `c`.
    #[serde(rename = "clipped")]
    Clipped,
    /// `max(s, 0)`: MPCFormer's `2ReLU`.
    #[serde(rename = "2relu")]
    Relu,
    /// `(s + 5)²`: MPCFormer's `2Quad`.
    #[serde(rename = "2quad")]
    Quad,
}

/// The bound of [`SoftmaxForm::Clipped`]. Of 6,480 rows of scores in SmolLM2-135M's layers 15 to 29
/// on AG News the largest score is 4.4 in the median, below 2.2 in one of twenty, above 6 in one of
/// six and 17.5 at most. A higher bound leaves the low rows few bits: 361 units here at 2.2, and 49
/// with a bound of 8, of which the table may be off by 2.5.
pub const DEFAULT_BOUND: f64 = 6.0;
/// The least and the largest bound.
pub const BOUNDS: (f64, f64) = (-64.0, 64.0);

/// What [`SoftmaxForm::Quad`] adds to a score.
const QUAD_ADDED: u64 = 5;

impl SoftmaxForm {
    /// Fractional bits of scores.
    #[must_use]
    pub fn score_frac_bits(self) -> u32 {
        match self {
            Self::Clipped => ARG_FRAC_BITS,
            // Sums of weights have the reciprocal's 25 bits, and these are not below one.
            Self::Relu | Self::Quad => 10,
        }
    }

    /// Fractional bits of weights: a sum of them must be below `2^25` units.
    #[must_use]
    pub fn weight_frac_bits(self) -> u32 {
        match self {
            Self::Clipped => ARG_FRAC_BITS,
            Self::Relu => 10,
            Self::Quad => 6,
        }
    }

    /// What is added to a sum of weights before the division.
    #[must_use]
    pub fn floor(self) -> f64 {
        RECIP_FLOOR as f64 / f64::from(1 << self.weight_frac_bits())
    }

    /// `5` at the scale of scores.
    #[must_use]
    pub fn quad_added(self) -> u64 {
        QUAD_ADDED << self.score_frac_bits()
    }

    /// What a square of a score loses to become a weight.
    #[must_use]
    pub fn square_shift(self) -> u32 {
        2 * self.score_frac_bits() - self.weight_frac_bits()
    }
}

impl Approximations {
    /// [`Self::bound`], or its default.
    #[must_use]
    pub fn bound_or_default(&self) -> f64 {
        self.bound.unwrap_or(DEFAULT_BOUND)
    }

    /// The bound at the scale of scores.
    #[must_use]
    pub fn bound_units(&self) -> u64 {
        let unit = f64::from(1 << ARG_FRAC_BITS);
        (self.bound_or_default() * unit).round() as i64 as u64
    }

    /// The weight of a score and its derivative; that of `exp` where softmax is not replaced.
    #[must_use]
    pub fn weight(&self, score: f64) -> (f64, f64) {
        match self.softmax {
            None => (score.exp(), score.exp()),
            Some(SoftmaxForm::Clipped) => {
                let bound = self.bound_or_default();
                let weight = (score.min(bound) - bound).exp();
                (weight, if score < bound { weight } else { 0.0 })
            }
            Some(SoftmaxForm::Relu) => (score.max(0.0), f64::from(u8::from(score > 0.0))),
            Some(SoftmaxForm::Quad) => {
                let shifted = score + QUAD_ADDED as f64;
                (shifted * shifted, 2.0 * shifted)
            }
        }
    }

    /// [`Self::weight`] on integers, from the scale of scores to that of weights.
    ///
    /// Domain: `|score| < 2^30`, and for a square below `2^22`. Error: of the exponential at most
    /// 1.5e-4, of a square half a unit.
    #[must_use]
    pub fn weight_integer(&self, form: SoftmaxForm, score: u64) -> u64 {
        match form {
            SoftmaxForm::Clipped => exp_clipped(self.bound_units().wrapping_sub(score)),
            SoftmaxForm::Relu => (score as i64).max(0) as u64,
            SoftmaxForm::Quad => {
                let shifted = score.wrapping_add(form.quad_added());
                crate::truncate(shifted.wrapping_mul(shifted), form.square_shift())
            }
        }
    }

    /// The key that cannot be as it is, and why.
    ///
    /// # Errors
    /// A bound without a use, or no number that a score can have.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let Some(bound) = self.bound else {
            return Ok(());
        };
        if self.softmax != Some(SoftmaxForm::Clipped) {
            let reason = "does nothing unless `softmax` is `clipped`";
            return Err(("approx.bound", reason.into()));
        }
        let (least, most) = BOUNDS;
        if !(least..=most).contains(&bound) {
            let reason = format!("is {bound}, and must lie between {least} and {most}");
            return Err(("approx.bound", reason));
        }
        Ok(())
    }

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
    let bound = approx.bound_or_default();
    let weights = match approx.softmax {
        None => return lines,
        Some(SoftmaxForm::Clipped) => format!("`clipped`: exp(min(s, {bound}) - {bound})"),
        Some(SoftmaxForm::Relu) => "`2relu`: max(s, 0)".into(),
        Some(SoftmaxForm::Quad) => "`2quad`: (s + 5)²".into(),
    };
    lines.push(format!("{weights} in place of exp(s - max) in softmax"));
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
    fn weights_are_the_stated_functions_within_their_errors() {
        for approx in EACH {
            let Some(form) = approx.softmax else {
                continue;
            };
            let unit = f64::from(1 << form.score_frac_bits());
            let weight_unit = f64::from(1 << form.weight_frac_bits());
            for score in (-(1i64 << 19)..1 << 19).step_by(61) {
                let (exact, _) = approx.weight(score as f64 / unit);
                let got = approx.weight_integer(form, score as u64);
                assert!(got as i64 >= 0, "{form:?} {score}: {got}");
                // As stated: the exponential's table, or half a unit of a square.
                let bound = match form {
                    SoftmaxForm::Clipped => 1.5e-4,
                    SoftmaxForm::Relu => 0.0,
                    SoftmaxForm::Quad => 0.5 / weight_unit,
                };
                let error = (got as f64 / weight_unit - exact).abs();
                assert!(error <= bound, "{form:?} {score}: {error}");
            }
        }
    }

    #[test]
    fn weights_have_the_derivatives_of_differences() {
        for approx in EACH.into_iter().filter(|approx| approx.softmax.is_some()) {
            for score in [-6.3, -4.9, -0.5, 0.5, 3.0, 7.5, 9.0] {
                let h = 1e-4;
                let numeric = (approx.weight(score + h).0 - approx.weight(score - h).0) / (2.0 * h);
                let slope = approx.weight(score).1;
                // A central difference of a curve that is smooth there.
                assert!((numeric - slope).abs() < 1e-6, "{approx:?} {score}");
            }
        }
    }

    #[test]
    fn a_bound_without_a_use_is_refused() {
        let bound = |softmax, bound| Approximations {
            softmax,
            bound: Some(bound),
            ..Approximations::default()
        };
        let clipped = Some(SoftmaxForm::Clipped);
        assert!(bound(clipped, 6.5).check().is_ok());
        for (form, value) in [(None, 6.5), (Some(SoftmaxForm::Relu), 6.5), (clipped, 65.0)] {
            assert_eq!(bound(form, value).check().unwrap_err().0, "approx.bound");
        }
        assert!(bound(clipped, f64::NAN).check().is_err());
        assert_eq!(bound(clipped, -0.5).bound_units() as i64, -8192);
    }

    #[test]
    fn what_is_not_replaced_is_not_written() {
        let none = serde_json::to_string(&Approximations::default()).unwrap();
        assert_eq!(none, "{}");
        let written = EACH.map(|approx| serde_json::to_string(&approx).unwrap());
        let expected = [
            r#"{"activation":"quad"}"#,
            r#"{"softmax":"clipped"}"#,
            r#"{"softmax":"2relu"}"#,
            r#"{"softmax":"2quad"}"#,
        ];
        assert_eq!(written, expected);
        assert!(serde_json::from_str::<Approximations>(r#"{"activations":"quad"}"#).is_err());
    }
}
