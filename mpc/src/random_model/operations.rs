//! Single operations of the engine with inputs of their domains: what benches time.

use marill_numeric::tables::tables;

use crate::{
    engine::{Engine, Gate, Truncation, WEIGHTED_BITS},
    error::ProtocolResult,
    program::layers::{self, NormScale},
    random_model::gaussian,
};

/// Elements of a row, for operations on rows.
pub const ROW: usize = 128;

/// An operation with inputs in its domain.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Mul,
    Truncate,
    Exp,
    Sigmoid,
    Tanh,
    Silu,
    Gelu,
    Reciprocal,
    Rsqrt,
    Max,
    Softmax,
    RmsNorm,
    LayerNorm,
    Argmax,
}

impl Operation {
    /// All of them, with their names.
    pub const ALL: [(Self, &'static str); 14] = [
        (Self::Mul, "mul"),
        (Self::Truncate, "truncate"),
        (Self::Exp, "exp"),
        (Self::Sigmoid, "sigmoid"),
        (Self::Tanh, "tanh"),
        (Self::Silu, "silu"),
        (Self::Gelu, "gelu"),
        (Self::Reciprocal, "reciprocal"),
        (Self::Rsqrt, "rsqrt"),
        (Self::Max, "max"),
        (Self::Softmax, "softmax"),
        (Self::RmsNorm, "rms_norm"),
        (Self::LayerNorm, "layer_norm"),
        (Self::Argmax, "argmax"),
    ];

    /// Ring elements that enter: normal numbers of deviation 2 with 14 fractional bits, in the
    /// operation's domain.
    #[must_use]
    pub fn input(self, n: usize) -> Vec<u64> {
        let unit = |bits: u32| f64::from(bits).exp2();
        let normal = gaussian(1, "operation", n, 2.0);
        let encode = |f: &dyn Fn(f64) -> f64| {
            normal
                .iter()
                .map(|v| f(f64::from(*v)).round() as i64 as u64)
                .collect()
        };
        match self {
            Self::Truncate => encode(&|v| v * unit(28)),
            Self::Exp => encode(&|v| v.abs() * unit(14)),
            // A sum of softmax weights: 1 to 64.
            Self::Reciprocal => encode(&|v| (1.0 + (v.abs() * 8.0).min(63.0)) * unit(14)),
            Self::Rsqrt => encode(&|v| (0.01 + v * v) * 576.0 * unit(30)),
            Self::RmsNorm | Self::LayerNorm => encode(&|v| v * unit(15)),
            _ => encode(&|v| v * unit(14)),
        }
    }

    /// Rows of `n` elements.
    #[must_use]
    pub fn rows(self, n: usize) -> usize {
        match self {
            Self::RmsNorm | Self::LayerNorm => n / ROW,
            _ => 1,
        }
    }

    /// Fractional bits of the result.
    #[must_use]
    pub fn frac_bits(self) -> u32 {
        match self {
            Self::Mul => 28,
            // 2^40/s for s with 14 fractional bits; 2^58/sqrt(s) for s with 30.
            Self::Reciprocal => 26,
            Self::Rsqrt => 43,
            _ => 14,
        }
    }

    /// Bits in which the input is opened: sums of squares need the ring.
    #[must_use]
    pub fn input_bits(self) -> u32 {
        match self {
            Self::Sigmoid | Self::Tanh | Self::Silu | Self::Gelu | Self::Mul | Self::Argmax => 48,
            _ => 64,
        }
    }

    /// The operation on a wire of `n` elements.
    ///
    /// # Errors
    /// Whatever the engine reports.
    pub fn run<E: Engine>(self, engine: &mut E, x: &E::Wire, n: usize) -> ProtocolResult<E::Share> {
        let rows =
            || -> Vec<usize> { (0..n.div_ceil(ROW)).map(|i| ROW.min(n - i * ROW)).collect() };
        let scale = NormScale {
            input_frac_bits: 15,
            output_frac_bits: 14,
            norm_bits: 3,
            epsilon: 1e-5,
        };
        let share = engine.share(x);
        match self {
            Self::Mul => engine.mul(x, x),
            Self::Truncate => engine.truncate(
                &share,
                Truncation {
                    shift: 14,
                    from: 48,
                    to: 48,
                },
                "truncate",
            ),
            Self::Exp => engine.exp_neg(&share, 48, "exp"),
            Self::Sigmoid => engine.gate(x, Gate(&tables().sigmoid), "sigmoid"),
            Self::Tanh => engine.gate(x, Gate(&tables().tanh), "tanh"),
            Self::Silu => engine.gate(x, Gate(&tables().silu), "silu"),
            Self::Gelu => engine.gate(x, Gate(&tables().gelu), "gelu"),
            Self::Reciprocal => engine.piecewise(&share, &tables().recip, "reciprocal"),
            Self::Rsqrt => engine.piecewise(&share, &tables().rsqrt, "rsqrt"),
            Self::Max => engine.ragged_max(&share, &rows(), "max"),
            Self::Softmax => softmax(engine, &share, &rows()),
            Self::RmsNorm => layers::rms_norm(engine, x, ROW, scale, 64),
            Self::LayerNorm => layers::layer_norm(engine, &share, ROW, scale, 64),
            Self::Argmax => engine
                .argmax_to_client(&share, "argmax")
                .map(|_| engine.share(x)),
        }
    }
}

/// Divided softmax weights of rows: each row's weights times its reciprocal, 14 fractional bits.
fn softmax<E: Engine>(
    engine: &mut E,
    scores: &E::Share,
    lens: &[usize],
) -> ProtocolResult<E::Share> {
    let (weights, inverse) = layers::softmax_parts(engine, scores, lens)?;
    let inverse = engine.open(&[(&inverse, 64)], "softmax.inverse")?.remove(0);
    let weights = engine.share(&weights);
    let weights = engine.reshape(&weights, lens[0]);
    let weights = engine
        .open(&[(&weights, WEIGHTED_BITS)], "softmax.weights")?
        .remove(0);
    let divided = engine.scale_rows(&weights, &inverse)?;
    engine.truncate(
        &divided,
        Truncation {
            shift: 26,
            from: 64,
            to: 64,
        },
        "softmax.divided",
    )
}
