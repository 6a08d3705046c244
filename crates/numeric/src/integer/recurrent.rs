//! FastGRNN with low-rank matrices as an integer program of mixed widths: weights of 8 bits, values
//! of 16, sums and mixtures as wide as they must be.
//!
//! The cell (Kusupati et al., NeurIPS '18): `p = x·W1·W2 + h·U1·U2`, `z = sigmoid(p + b_z)`,
//! `c = tanh(p + b_h)`, `h ← z∘h + (ζ(1 - z) + ν)∘c`; scores of the last `h` are `h·C + b`. SIRNN
//! (S&P '21, section VI) has 8, 16 and 32 bits for the same; widths, scales and where numbers are
//! rounded are this program's own. Written as `z∘(h - ζ·c) + (ζ + ν)·c`, a step has one product of
//! secrets an element, and is rounded once.
//!
//! A matrix has a power of two of its own, so that its largest weight has 7 bits; its sums are
//! rounded half up to 16 bits. [`FastGrnn::quantize`] chooses the scales by bounds on inputs and
//! states, but for the arguments of sigmoid and tangent, which have 9 fractional bits whatever
//! their bound: sums of 64 and more in magnitude wrap, as states of 8 and more do. The program
//! does not notice; two parties' shares wrap as it does.

use super::{CurveTables, Shape};
use crate::fixed::{low_mask, sign_extend};

/// Bits of a value.
pub const VALUE_BITS: u32 = 16;
/// Bits of a weight.
pub const WEIGHT_BITS: u32 = 8;
/// Fractional bits of the arguments of sigmoid and tangent, as in SIRNN's program for Google-30.
const ARGUMENT: u32 = 9;
/// Of a sigmoid.
pub const GATE: u32 = 14;
/// Of a state and of a tangent.
const STATE: u32 = 12;
/// Of `ζ` and `ν`.
pub const MIX: u32 = 8;
/// Products with states are sized for these; a state itself wraps at 8. It is at most `ζ + ν` and
/// `ν` more a step.
const STATE_BOUND: f64 = 2.0;

/// A product with a matrix of weights: `inputs` rows of `outputs`, sums rounded by `shift` bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Linear {
    pub inputs: usize,
    pub outputs: usize,
    pub shift: u32,
}

impl Linear {
    /// Bits of its sums, as far as they count.
    #[must_use]
    pub fn ring(&self) -> u32 {
        VALUE_BITS + self.shift
    }

    /// What rounds half up.
    #[must_use]
    pub fn half(&self) -> u64 {
        (1 << self.shift) >> 1
    }

    /// `x·W` of one row.
    #[must_use]
    pub fn at(&self, weights: &[u64], x: &[u64]) -> Vec<u64> {
        let column = |j: usize| {
            let terms = x.iter().enumerate().map(|(k, x)| {
                let weight = sign_extend(weights[k * self.outputs + j], WEIGHT_BITS);
                sign_extend(*x, VALUE_BITS) * weight
            });
            let sum = terms.sum::<i64>() + self.half() as i64;
            (sum >> self.shift) as u64 & low_mask(VALUE_BITS)
        };
        (0..self.outputs).map(column).collect()
    }
}

/// The public part of a network: shapes, scales, `ζ` and `ν`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FastGrnn {
    /// `W1`, `W2`, `U1`, `U2`, and the scores' `C`.
    pub linear: [Linear; 5],
    /// Fractional bits of an input, and of the scores.
    pub input_scale: u32,
    pub score_scale: u32,
    /// At [`MIX`] fractional bits.
    pub zeta: u64,
    pub nu: u64,
}

/// The server's part: weights in two's complement of 8 bits, biases of 16.
#[derive(Clone)]
pub struct FastGrnnWeights {
    pub linear: [Vec<u64>; 5],
    /// Of the gate, the state and the scores.
    pub biases: [Vec<u64>; 3],
}

/// A network in real numbers; matrices row by row, `inputs` rows.
#[derive(Clone)]
pub struct RealFastGrnn {
    /// `W1`, `W2`, `U1`, `U2`, `C`, and how many columns each has.
    pub linear: [(Vec<f32>, usize); 5],
    pub biases: [Vec<f32>; 3],
    pub zeta: f32,
    pub nu: f32,
}

/// Bits left of the point that a magnitude takes.
fn whole_bits(magnitude: f64) -> u32 {
    magnitude.max(1.0).log2().floor() as u32 + 1
}

/// A number at so many fractional bits, of 16 bits in all.
fn value(real: f32, scale: u32) -> u64 {
    let scaled = (f64::from(real) * f64::from(1 << scale)).round();
    let limit = f64::from(1 << (VALUE_BITS - 1));
    scaled.clamp(-limit, limit - 1.0) as i64 as u64 & low_mask(VALUE_BITS)
}

/// A matrix in 8 bits: weights, fractional bits, and the largest sum of a column's magnitudes.
fn narrowed(matrix: &[f32], columns: usize) -> Result<(Vec<u64>, u32, f64), RangeError> {
    let largest = matrix.iter().fold(0.0f32, |most, w| most.max(w.abs()));
    if !largest.is_finite() || largest > 127.0 {
        return Err(RangeError::Weight { largest });
    }
    let scale = (127.0 / f64::from(largest.max(1e-4))).log2().floor() as u32;
    let weights = matrix.iter().map(|w| {
        let scaled = (f64::from(*w) * f64::from(1 << scale)).round();
        scaled as i64 as u64 & low_mask(WEIGHT_BITS)
    });
    let column = |j: usize| {
        let entries = matrix.iter().skip(j).step_by(columns);
        entries.map(|w| f64::from(w.abs())).sum::<f64>()
    };
    let sum = (0..columns).map(column).fold(0.0, f64::max);
    Ok((weights.collect(), scale, sum))
}

/// A network that this program's widths do not hold.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RangeError {
    /// A weight that 8 bits do not hold.
    Weight { largest: f32 },
    /// Sums so large that the arguments of sigmoid and tangent are left with fewer than 9
    /// fractional bits.
    Argument { fractional_bits: u32 },
}

impl std::fmt::Display for RangeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Weight { largest } => write!(
                f,
                "a weight of {largest}, where 127 is the largest of 8 bits"
            ),
            Self::Argument { fractional_bits } => write!(
                f,
                "an argument of sigmoid and tangent with {fractional_bits} fractional bits, where \
                 {ARGUMENT} are needed"
            ),
        }
    }
}

impl std::error::Error for RangeError {}

impl FastGrnn {
    /// The integer program of a network whose inputs are below `input_bound` in magnitude.
    ///
    /// # Errors
    /// [`RangeError`] for a weight that is not finite or above 127, and for sums that leave too few
    /// fractional bits.
    ///
    /// # Panics
    /// When matrices and biases do not fit each other.
    pub fn quantize(
        real: &RealFastGrnn,
        input_bound: f64,
    ) -> Result<(Self, FastGrnnWeights), RangeError> {
        let input_scale = VALUE_BITS - 1 - whole_bits(input_bound);
        let mut linear = Vec::with_capacity(5);
        let mut weights = Vec::with_capacity(5);
        let mut before = (input_scale, input_bound);
        let mut score_scale = 0;
        for (i, (matrix, columns)) in real.linear.iter().enumerate() {
            let (entries, scale, sum) = narrowed(matrix, *columns)?;
            if i == 2 || i == 4 {
                before = (STATE, STATE_BOUND);
            }
            let bound = before.1 * sum;
            // Into sigmoid and tangent, or as many fractional bits as the bound leaves.
            let room = (VALUE_BITS - 1).saturating_sub(whole_bits(bound));
            let wanted = if i == 1 || i == 3 { ARGUMENT } else { room };
            if (i == 1 || i == 3) && before.0 + scale < ARGUMENT {
                let fractional_bits = before.0 + scale;
                return Err(RangeError::Argument { fractional_bits });
            }
            let shift = (before.0 + scale).saturating_sub(wanted);
            let out = before.0 + scale - shift;
            linear.push(Linear {
                inputs: matrix.len() / columns,
                outputs: *columns,
                shift,
            });
            weights.push(entries);
            before = (out, bound);
            score_scale = out;
        }
        let scales = [ARGUMENT, ARGUMENT, score_scale];
        let biases = [0, 1, 2].map(|i| {
            let bias = real.biases[i].iter();
            bias.map(|b| value(*b, scales[i])).collect()
        });
        let mut weights = weights.into_iter();
        let program = Self {
            linear: [0, 1, 2, 3, 4].map(|i: usize| linear[i]),
            input_scale,
            score_scale,
            zeta: value(real.zeta, MIX),
            nu: value(real.nu, MIX),
        };
        program.check(biases.each_ref().map(Vec::len));
        Ok((
            program,
            FastGrnnWeights {
                linear: [(); 5].map(|()| weights.next().expect("five matrices")),
                biases,
            },
        ))
    }

    fn check(&self, biases: [usize; 3]) {
        let [w1, w2, u1, u2, scores] = self.linear;
        let chained = w1.outputs == w2.inputs && u1.outputs == u2.inputs;
        let states = [w2.outputs, u1.inputs, u2.outputs, scores.inputs];
        let same = states.iter().all(|n| *n == self.hidden());
        let biased = biases == [self.hidden(), self.hidden(), scores.outputs];
        assert!(
            chained && same && biased,
            "matrices that do not fit: {self:?}"
        );
    }

    #[must_use]
    pub fn inputs(&self) -> usize {
        self.linear[0].inputs
    }

    #[must_use]
    pub fn hidden(&self) -> usize {
        self.linear[1].outputs
    }

    #[must_use]
    pub fn classes(&self) -> usize {
        self.linear[4].outputs
    }

    /// An input as the program takes it.
    #[must_use]
    pub fn input(&self, real: f32) -> u64 {
        value(real, self.input_scale)
    }

    /// Sigmoid and tangent.
    #[must_use]
    pub fn curves(&self) -> [CurveTables; 2] {
        let of = |shape, out| CurveTables::new(shape, VALUE_BITS, ARGUMENT, out);
        [of(Shape::Sigmoid, GATE), of(Shape::Tanh, STATE)]
    }

    /// Scales of the curves' arguments and results.
    #[must_use]
    pub fn curve_scales(&self) -> [(u32, u32); 2] {
        [(ARGUMENT, GATE), (ARGUMENT, STATE)]
    }

    /// `floor((z·(2^8·h - ζ·c) + (ζ + ν)·2^14·c) / 2^22 + 1/2)`, modulo `2^16`.
    #[must_use]
    pub fn mixed(&self, z: u64, h: u64, c: u64) -> u64 {
        let [h, c] = [h, c].map(|v| i128::from(sign_extend(v, VALUE_BITS)));
        let [zeta, nu] = [self.zeta, self.nu].map(i128::from);
        let inner = (h << MIX) - zeta * c;
        let sum = i128::from(z) * inner + (((zeta + nu) * c) << GATE);
        let half = 1 << (GATE + MIX - 1);
        ((sum + half) >> (GATE + MIX)) as u64 & low_mask(VALUE_BITS)
    }

    /// A step, given what the input adds to the arguments.
    #[must_use]
    pub fn step(
        &self,
        weights: &FastGrnnWeights,
        curves: &[CurveTables; 2],
        of_input: &[u64],
        state: &[u64],
    ) -> Vec<u64> {
        let inner = self.linear[2].at(&weights.linear[2], state);
        let of_state = self.linear[3].at(&weights.linear[3], &inner);
        let element = |i: usize| {
            let argument = of_input[i].wrapping_add(of_state[i]);
            let [z, c] = [0, 1].map(|k: usize| {
                let moved = argument.wrapping_add(weights.biases[k][i]);
                curves[k].at(moved & low_mask(VALUE_BITS), VALUE_BITS)
            });
            self.mixed(z, state[i], c)
        };
        (0..state.len()).map(element).collect()
    }

    /// What one input adds to the arguments.
    #[must_use]
    pub fn of_input(&self, weights: &FastGrnnWeights, x: &[u64]) -> Vec<u64> {
        let inner = self.linear[0].at(&weights.linear[0], x);
        self.linear[1].at(&weights.linear[1], &inner)
    }

    /// The states after each step of a sequence, and the scores of the last.
    #[must_use]
    pub fn run(&self, weights: &FastGrnnWeights, sequence: &[u64]) -> (Vec<Vec<u64>>, Vec<u64>) {
        let curves = self.curves();
        let mut state = vec![0; self.hidden()];
        let mut states = Vec::new();
        for x in sequence.chunks(self.inputs()) {
            let of_input = self.of_input(weights, x);
            state = self.step(weights, &curves, &of_input, &state);
            states.push(state.clone());
        }
        let sums = self.linear[4].at(&weights.linear[4], &state);
        let scores = sums.iter().zip(&weights.biases[2]);
        let scores = scores.map(|(s, b)| s.wrapping_add(*b) & low_mask(VALUE_BITS));
        (states, scores.collect())
    }
}

impl RealFastGrnn {
    /// The scores of a sequence in real numbers, to hold the program against.
    #[must_use]
    pub fn run(&self, sequence: &[f32]) -> Vec<f64> {
        let product = |i: usize, x: &[f64]| -> Vec<f64> {
            let (matrix, columns) = &self.linear[i];
            let column = |j: usize| {
                let terms = x.iter().enumerate();
                terms
                    .map(|(k, x)| x * f64::from(matrix[k * columns + j]))
                    .sum()
            };
            (0..*columns).map(column).collect()
        };
        let inputs = self.linear[0].0.len() / self.linear[0].1;
        let [zeta, nu] = [self.zeta, self.nu].map(f64::from);
        let mut state = vec![0.0; self.linear[1].1];
        for x in sequence.chunks(inputs) {
            let x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            let of_input = product(1, &product(0, &x));
            let of_state = product(3, &product(2, &state));
            for (i, h) in state.iter_mut().enumerate() {
                let argument = of_input[i] + of_state[i];
                let z = 1.0 / (1.0 + (-argument - f64::from(self.biases[0][i])).exp());
                let c = (argument + f64::from(self.biases[1][i])).tanh();
                *h = z * *h + (zeta * (1.0 - z) + nu) * c;
            }
        }
        let scores = product(4, &state);
        let scores = scores.iter().zip(&self.biases[2]);
        scores.map(|(s, b)| s + f64::from(*b)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Weights that repeat, of magnitudes as a trained network's.
    fn real(hidden: usize) -> RealFastGrnn {
        let wave = |n: usize, step: f32, most: f32| -> Vec<f32> {
            (0..n).map(|i| most * (i as f32 * step).sin()).collect()
        };
        RealFastGrnn {
            linear: [
                (wave(4 * 3, 1.3, 1.5), 3),
                (wave(3 * hidden, 0.7, 0.9), hidden),
                (wave(hidden * 2, 2.1, 1.2), 2),
                (wave(2 * hidden, 1.1, 0.4), hidden),
                (wave(hidden * 3, 0.9, 3.0), 3),
            ],
            biases: [
                wave(hidden, 0.3, 1.0),
                wave(hidden, 0.4, 0.5),
                wave(3, 1.0, 2.0),
            ],
            zeta: 0.93,
            nu: 0.02,
        }
    }

    fn sequence(steps: usize) -> Vec<f32> {
        (0..4 * steps)
            .map(|i| 2.0 * (i as f32 * 0.37).cos())
            .collect()
    }

    #[test]
    fn scores_are_near_those_of_real_numbers() {
        let network = real(8);
        let (program, weights) = FastGrnn::quantize(&network, 2.0).unwrap();
        let sequence = sequence(30);
        let exact = network.run(&sequence);
        let inputs: Vec<u64> = sequence.iter().map(|x| program.input(*x)).collect();
        let (states, scores) = program.run(&weights, &inputs);
        assert_eq!(states.len(), 30);
        for (score, exact) in scores.iter().zip(exact) {
            let score = sign_extend(*score, 16) as f64 / f64::from(1 << program.score_scale);
            // Weights have 8 bits: a hundredth of scores that reach from -8 to 8.
            assert!((score - exact).abs() < 0.2, "{score} for {exact}");
        }
    }

    #[test]
    fn a_mixture_is_rounded_once() {
        let (program, _) = FastGrnn::quantize(&real(8), 2.0).unwrap();
        let one = 1 << GATE;
        // A gate that is one keeps the state but for ν·c; one that is zero takes (ζ + ν)·c.
        assert_eq!(program.mixed(one, 1234, 0), 1234);
        let whole = 1 << STATE;
        let expected = (program.zeta + program.nu) << (STATE - MIX);
        assert_eq!(program.mixed(0, 999, whole), expected);
        assert_eq!(
            program.mixed(one / 2, low_mask(16), 0),
            0,
            "half is rounded up"
        );
    }

    #[test]
    fn weights_that_do_not_fit_are_refused() {
        let mut network = real(8);
        network.linear[2].0[3] = -128.5;
        let error = FastGrnn::quantize(&network, 2.0).err().unwrap();
        assert_eq!(
            error.to_string(),
            "a weight of 128.5, where 127 is the largest of 8 bits"
        );
    }

    #[test]
    fn sums_that_leave_too_few_bits_are_refused() {
        let mut network = real(8);
        // The largest weights of 8 bits: scale 0 behind sums that have few bits left.
        for matrix in [0, 1] {
            network.linear[matrix].0.fill(127.0);
        }
        let error = FastGrnn::quantize(&network, 64.0).err().unwrap();
        assert!(matches!(error, RangeError::Argument { .. }), "{error}");
    }
}
