//! The roundings and tables of the secure program inside float training, so that a model learns
//! with the arithmetic that will serve it.

use candle_core::{CpuStorage, CustomOp1, Layout, Result, Shape, Tensor};
use marill_numeric::{NumericSpec, norm_rest};
use rayon::prelude::*;

use super::{ROWS_PER_TASK, floats};

/// Fake quantization (Jacob et al., "Quantization and Training of Neural Networks", CVPR '18):
/// forward passes see the values that the secure program computes, its roundings and its tables;
/// backward passes see the smooth functions (the straight-through estimator of Bengio, Léonard,
/// Courville, arXiv 1308.3432).
///
/// The program's own order of operations is kept where it decides a rounding. What is not followed:
/// sums of products are f32 (24 bits of magnitude), and the output head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FakeQuant {
    /// Fractional bits of the residual stream.
    pub residual_frac_bits: u32,
    /// Fractional bits of normalized rows, queries, keys, values, scores, gates.
    pub frac_bits: u32,
    /// Fractional bits of a product of two weights.
    pub weight_frac_bits: u32,
    /// Fractional bits of the rotary tables.
    pub rope_frac_bits: u32,
}

impl From<&NumericSpec> for FakeQuant {
    fn from(spec: &NumericSpec) -> Self {
        Self {
            residual_frac_bits: spec.residual_frac_bits,
            frac_bits: spec.frac_bits,
            weight_frac_bits: spec.weight_frac_bits,
            rope_frac_bits: spec.rope_frac_bits,
        }
    }
}

impl FakeQuant {
    /// The residual stream's values.
    ///
    /// # Errors
    /// As [`round_to`].
    pub fn residual(&self, x: &Tensor) -> Result<Tensor> {
        round_to(x, f64::from(self.residual_frac_bits).exp2())
    }

    /// Values of everything between two residual sums.
    ///
    /// # Errors
    /// As [`round_to`].
    pub fn activation(&self, x: &Tensor) -> Result<Tensor> {
        round_to(x, f64::from(self.frac_bits).exp2())
    }

    /// A value of `frac_bits` as the program's integer.
    pub(super) fn encode(self, value: f32) -> i64 {
        half_up(f64::from(value), f64::from(self.frac_bits).exp2()) as i64
    }
}

fn half_up(value: f64, units: f64) -> f64 {
    (value * units + 0.5).floor()
}

/// `x` in whole `1 / units`, halves up; the gradient passes unchanged.
///
/// # Errors
/// When the tensor is not f32, contiguous and on the CPU.
pub fn round_to(x: &Tensor, units: f64) -> Result<Tensor> {
    x.apply_op1(RoundTo {
        units: vec![units],
        run: 1,
    })
}

/// As [`round_to`], each column of `x [N, width]` with units of its own.
///
/// # Errors
/// As [`round_to`].
pub fn round_columns_to(x: &Tensor, units: Vec<f64>) -> Result<Tensor> {
    x.apply_op1(RoundTo { units, run: 1 })
}

/// `run` neighbors share units; the list begins anew behind its end. Units of zero leave a value as
/// it is.
struct RoundTo {
    units: Vec<f64>,
    run: usize,
}

impl RoundTo {
    fn round(&self, first: usize, x: &[f32], y: &mut [f32]) {
        let nearest = |x: f32, units: f64| {
            if units == 0.0 {
                x
            } else {
                (half_up(f64::from(x), units) / units) as f32
            }
        };
        if let [units] = self.units[..] {
            y.iter_mut()
                .zip(x)
                .for_each(|(y, &x)| *y = nearest(x, units));
            return;
        }
        for (i, (y, &x)) in (first..).zip(y.iter_mut().zip(x)) {
            *y = nearest(x, self.units[i / self.run % self.units.len()]);
        }
    }
}

impl CustomOp1 for RoundTo {
    fn name(&self) -> &'static str {
        "round-to"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(storage, layout, self.name())?;
        let mut y = vec![0f32; x.len()];
        let chunk = 512 * ROWS_PER_TASK;
        y.par_chunks_mut(chunk)
            .zip(x.par_chunks(chunk))
            .enumerate()
            .for_each(|(nth, (y, x))| self.round(nth * chunk, x, y));
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.clone()))
    }
}

/// A public matrix `[out, in]` with 16-bit weights on one power of two per row, as the program
/// holds it. `columns` are the gains in front of it and `rows` factors of its rows, which the
/// program folds in before it rounds.
///
/// # Errors
/// From candle.
pub fn round_weight(
    weight: &Tensor,
    columns: Option<&Tensor>,
    rows: Option<&[f64]>,
    format: FakeQuant,
) -> Result<Tensor> {
    let width = weight.dim(1)?;
    let mut values: Vec<f32> = weight.flatten_all()?.to_vec1()?;
    let gains = gains(columns, width)?;
    values
        .par_chunks_mut(width)
        .enumerate()
        .for_each(|(i, row)| {
            let factor = rows.map_or(1.0, |rows| rows[i]);
            let columns: Vec<f64> = gains.iter().map(|c| c * factor).collect();
            let largest = row
                .iter()
                .zip(&columns)
                .fold(0f64, |m, (w, c)| m.max((f64::from(*w) * c).abs()));
            let bits = (0..format.weight_frac_bits)
                .take_while(|&b| (largest * f64::from(b + 1).exp2()).round() <= 32767.0)
                .count();
            let units = (bits as f64).exp2();
            for (w, c) in row.iter_mut().zip(&columns).filter(|(_, c)| **c != 0.0) {
                *w = ((f64::from(*w) * c * units).round_ties_even() / units / c) as f32;
            }
        });
    Tensor::from_vec(values, weight.shape(), weight.device())
}

/// Low-rank factors `A [rank, in]`, `B [out, rank]` on the grids that the program gives them, with
/// `columns` and `rows` as in [`round_weight`]; gradients pass unchanged.
///
/// # Errors
/// From candle.
pub fn round_factors(
    (a, b): (&Tensor, &Tensor),
    columns: Option<&Tensor>,
    rows: Option<&[f64]>,
    scale: f64,
    format: FakeQuant,
) -> Result<(Tensor, Tensor)> {
    let width = a.dim(1)?;
    let rank = b.dim(1)?;
    let columns = gains(columns, width)?;
    let rows: Vec<f64> = rows.unwrap_or(&[1.0]).iter().map(|f| f * scale).collect();
    let largest = |tensor: &Tensor, factors: &[f64], run: usize| -> Result<f64> {
        let values: Vec<f32> = tensor.detach().flatten_all()?.to_vec1()?;
        let factor = |i: usize| factors[i / run % factors.len()];
        let each = (0..).zip(&values);
        let each = each.map(|(i, v)| (f64::from(*v) * factor(i)).abs());
        Ok(each.fold(0.0, f64::max))
    };
    let max_a = largest(a, &columns, 1)?;
    let max_b = largest(b, &rows, rank)?;
    let tilt = if max_a > 0.0 && max_b > 0.0 {
        ((max_b / max_a).log2() / 2.0).round() as i32
    } else {
        0
    };
    let half = (format.weight_frac_bits / 2) as i32;
    let units = f64::from(half + tilt).exp2();
    let a = a.apply_op1(RoundColumns {
        units: columns.iter().map(|c| c * units).collect(),
    })?;
    let units = f64::from(half - tilt).exp2();
    let b = b.apply_op1(RoundTo {
        units: rows.iter().map(|f| f * units).collect(),
        run: rank,
    })?;
    Ok((a, b))
}

fn gains(columns: Option<&Tensor>, width: usize) -> Result<Vec<f64>> {
    let rest = norm_rest(width);
    match columns {
        None => Ok(vec![1.0; width]),
        Some(gain) => Ok(gain
            .to_vec1::<f32>()?
            .iter()
            .map(|&g| f64::from(g) * rest)
            .collect()),
    }
}

/// As [`RoundTo`] with units of its own for each column; a column of zero stays what it is.
struct RoundColumns {
    units: Vec<f64>,
}

impl CustomOp1 for RoundColumns {
    fn name(&self) -> &'static str {
        "round-columns"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = floats(storage, layout, self.name())?;
        let round = |(&x, &units): (&f32, &f64)| {
            if units == 0.0 {
                x
            } else {
                ((f64::from(x) * units).round_ties_even() / units) as f32
            }
        };
        let y = x.iter().zip(self.units.iter().cycle()).map(round).collect();
        Ok((CpuStorage::F32(y), layout.shape().clone()))
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(grad.clone()))
    }
}
