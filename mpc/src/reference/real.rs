//! The program over real numbers: what the integers approximate.
//!
//! Every value is an `f64` in the units of its fixed-point scale; nothing is rounded and every
//! function is exact. The distance between this and the twin is the error of the arithmetic, apart
//! from the quantization of weights and input, which both share.

mod session;

use std::sync::Arc;

use marill_numeric::{
    PublicMatrix,
    tables::{LinearTable, Piecewise, RECIP_FLOOR, Tail, approx_tables, tables},
};
use rayon::prelude::*;

pub use crate::reference::real::session::RealTwin;
use crate::{
    engine::{Attention, Engine, Gate, Truncation},
    error::{ProtocolError, ProtocolResult},
    kernels::head_scalar_index,
    spec::MapId,
    weights::{PrivateWeights, Rope},
};

/// A matrix of reals.
#[derive(Clone, Debug)]
pub struct Reals {
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f64>,
}

impl Reals {
    fn map(&self, f: impl Fn(f64) -> f64) -> Self {
        Self {
            data: self.data.iter().map(|&v| f(v)).collect(),
            ..*self
        }
    }

    fn zip(&self, other: &Self, f: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            data: self
                .data
                .iter()
                .zip(&other.data)
                .map(|(&a, &b)| f(a, b))
                .collect(),
            ..*self
        }
    }

    fn by_column(&self, row: &[u64], f: impl Fn(f64, f64) -> f64) -> Self {
        let data = self
            .data
            .iter()
            .enumerate()
            .map(|(i, &v)| f(v, row[i % self.cols] as i64 as f64))
            .collect();
        Self { data, ..*self }
    }

    fn row(&self, i: usize) -> &[f64] {
        &self.data[i * self.cols..][..self.cols]
    }
}

/// The interpreter over reals.
pub struct Real {
    private: Arc<PrivateWeights>,
    rank: usize,
    last_input: Vec<f64>,
}

impl Real {
    /// An interpreter with an adapter; `rank` is 0 when there is none.
    #[must_use]
    pub fn new(private: Arc<PrivateWeights>, rank: usize) -> Self {
        Self {
            private,
            rank,
            last_input: Vec::new(),
        }
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// `x · Wᵀ` for rows of `W` made on demand.
fn product(x: &Reals, rows: usize, row: impl Fn(usize) -> Vec<f64> + Sync) -> Reals {
    let columns: Vec<Vec<f64>> = (0..rows)
        .into_par_iter()
        .map(|r| {
            let weights = row(r);
            (0..x.rows).map(|i| dot(x.row(i), &weights)).collect()
        })
        .collect();
    let data = (0..x.rows)
        .flat_map(|i| columns.iter().map(move |column| column[i]))
        .collect();
    Reals {
        rows: x.rows,
        cols: rows,
        data,
    }
}

/// `x · Wᵀ` with the integers of a matrix.
fn apply(matrix: &PublicMatrix, x: &Reals) -> Reals {
    // Any scale beyond a row's own will do: only the quotient is a float.
    const SCALE: u32 = 40;
    product(x, matrix.rows(), |r| {
        (0..matrix.cols())
            .map(|c| matrix.weight(r, c, SCALE) * f64::from(SCALE).exp2())
            .collect()
    })
}

fn ragged<'a>(data: &'a [f64], lens: &'a [usize]) -> impl Iterator<Item = &'a [f64]> {
    let mut rest = data;
    lens.iter().map(move |&len| {
        let (row, tail) = rest.split_at(len);
        rest = tail;
        row
    })
}

const UNIT: f64 = 16384.0;

/// The function that a table stands for, 14 fractional bits in and out.
fn exact(table: &LinearTable, x: f64) -> f64 {
    let t = tables();
    let x = x / UNIT;
    let logistic = 1.0 / (1.0 + (-x).exp());
    let value = match table.tail {
        Tail::Zero => (-x).exp(),
        Tail::Relu if std::ptr::eq(table, &t.silu) => x * logistic,
        Tail::Relu => x * (1.0 - upper_tail(x)),
        Tail::Step { low: 0, .. } => logistic,
        Tail::Step { .. } => x.tanh(),
    };
    value * UNIT
}

/// `Φ(-x)`, by Abramowitz and Stegun 7.1.26: good to 1.5e-7.
fn upper_tail(x: f64) -> f64 {
    let z = x.abs() / std::f64::consts::SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let series = [
        1.061_405_429,
        -1.453_152_027,
        1.421_413_741,
        -0.284_496_736,
        0.254_829_592,
    ];
    let tail = 0.5 * series.iter().fold(0.0, |sum, c| (sum + c) * t) * (-z * z).exp();
    if x < 0.0 { 1.0 - tail } else { tail }
}

impl Engine for Real {
    type Share = Reals;
    type Wire = Reals;

    fn input(
        &mut self,
        values: Option<&[u64]>,
        rows: usize,
        cols: usize,
        _bits: u32,
    ) -> ProtocolResult<Reals> {
        let values = values.ok_or(ProtocolError::MissingInput)?;
        Ok(Reals {
            rows,
            cols,
            data: values.iter().map(|&v| v as i64 as f64).collect(),
        })
    }

    fn open(
        &mut self,
        shares: &[(&Reals, u32)],
        _label: &'static str,
    ) -> ProtocolResult<Vec<Reals>> {
        Ok(shares.iter().map(|(share, _)| (*share).clone()).collect())
    }

    fn reveal_to_e1(
        &mut self,
        x: &Reals,
        _bits: u32,
        maps: &[MapId],
        _label: &'static str,
    ) -> ProtocolResult<(Reals, Vec<Option<Reals>>)> {
        if !self.private.full.is_empty() {
            let products = maps
                .iter()
                .map(|map| Some(apply(&self.private.full[map.index()].matrix, x)));
            return Ok((x.clone(), products.collect()));
        }
        let real = |v: &[u64]| v.iter().map(|&v| v as i64 as f64).collect::<Vec<f64>>();
        let updates = maps.iter().map(|map| {
            let lora = (self.rank > 0).then(|| &self.private.lora[map.index()]);
            lora.filter(|lora| !lora.a.is_empty()).map(|lora| {
                // B·(A·x) in floats.
                let rank = lora.a.len() / x.cols;
                let inner = product(x, rank, |r| real(&lora.a[r * x.cols..][..x.cols]));
                product(&inner, lora.b.len() / rank, |r| {
                    real(&lora.b[r * rank..][..rank])
                })
            })
        });
        Ok((x.clone(), updates.collect()))
    }

    fn share(&mut self, wire: &Reals) -> Reals {
        wire.clone()
    }

    fn rows(&self, share: &Reals) -> usize {
        share.rows
    }

    fn cols(&self, share: &Reals) -> usize {
        share.cols
    }

    fn add(&mut self, x: &Reals, y: &Reals) -> Reals {
        x.zip(y, |a, b| a + b)
    }

    fn sub(&mut self, x: &Reals, y: &Reals) -> Reals {
        x.zip(y, |a, b| a - b)
    }

    fn add_constant(&mut self, x: &Reals, constant: u64) -> Reals {
        x.map(|v| v + constant as i64 as f64)
    }

    fn add_row(&mut self, x: &Reals, row: &[u64]) -> Reals {
        x.by_column(row, |v, b| v + b)
    }

    fn scale_columns(&mut self, x: &Reals, factors: &[u64]) -> Reals {
        x.by_column(factors, |v, f| v * f)
    }

    fn add_private_row(&mut self, x: &Reals, map: MapId) -> Reals {
        match self.private.row(map) {
            [] => x.clone(),
            row => x.by_column(row, |v, b| v + b),
        }
    }

    fn scale_constant(&mut self, x: &Reals, constant: u64) -> Reals {
        x.map(|v| v * constant as i64 as f64)
    }

    fn reshape(&mut self, x: &Reals, cols: usize) -> Reals {
        Reals {
            rows: x.data.len() / cols,
            cols,
            data: x.data.clone(),
        }
    }

    fn shift_left(&mut self, x: &Reals, bits: u32) -> Reals {
        x.map(|v| v * f64::from(bits).exp2())
    }

    fn linear(&mut self, matrix: &PublicMatrix, x: &Reals) -> Reals {
        self.last_input.clone_from(&x.data);
        apply(matrix, x)
    }

    fn concat(&mut self, parts: &[&Reals]) -> Reals {
        let rows = parts[0].rows;
        let data = (0..rows)
            .flat_map(|i| parts.iter().flat_map(move |p| p.row(i).iter().copied()))
            .collect();
        Reals {
            rows,
            cols: parts.iter().map(|p| p.cols).sum(),
            data,
        }
    }

    fn columns(&mut self, x: &Reals, first: usize, count: usize) -> Reals {
        let data = (0..x.rows)
            .flat_map(|i| x.row(i)[first..first + count].iter().copied())
            .collect();
        Reals {
            rows: x.rows,
            cols: count,
            data,
        }
    }

    fn wire_columns(&mut self, x: &Reals, first: usize, count: usize) -> Reals {
        self.columns(x, first, count)
    }

    fn last_row(&mut self, x: &Reals) -> Reals {
        Reals {
            rows: 1,
            cols: x.cols,
            data: x.row(x.rows - 1).to_vec(),
        }
    }

    fn wire_last_row(&mut self, x: &Reals) -> Reals {
        self.last_row(x)
    }

    fn append(&mut self, cache: &mut Option<Reals>, rows: &Reals) {
        match cache {
            None => *cache = Some(rows.clone()),
            Some(cache) => {
                cache.rows += rows.rows;
                cache.data.extend_from_slice(&rows.data);
            }
        }
    }

    fn rotate(&mut self, x: &Reals, rope: &Rope, first_position: usize) -> Reals {
        let half = rope.half;
        let mut out = x.clone();
        for (i, row) in out.data.chunks_exact_mut(x.cols).enumerate() {
            let at = (first_position + i) * half;
            for head in row.chunks_exact_mut(2 * half) {
                for j in 0..half {
                    let cos = rope.cos[at + j] as f64;
                    let sin = rope.sin[at + j] as f64;
                    (head[j], head[j + half]) = (
                        head[j] * cos - head[j + half] * sin,
                        head[j + half] * cos + head[j] * sin,
                    );
                }
            }
        }
        out
    }

    fn square_sum(&mut self, x: &Reals) -> ProtocolResult<Reals> {
        Ok(Reals {
            rows: x.rows,
            cols: 1,
            data: (0..x.rows).map(|i| dot(x.row(i), x.row(i))).collect(),
        })
    }

    fn mul(&mut self, x: &Reals, y: &Reals) -> ProtocolResult<Reals> {
        Ok(x.zip(y, |a, b| a * b))
    }

    fn scale_rows(&mut self, x: &Reals, scale: &Reals) -> ProtocolResult<Reals> {
        let data = x
            .data
            .iter()
            .enumerate()
            .map(|(i, v)| v * scale.data[i / x.cols])
            .collect();
        Ok(Reals { data, ..*x })
    }

    fn scores(
        &mut self,
        queries: &Reals,
        keys: &Reals,
        a: &Attention<'_>,
    ) -> ProtocolResult<Reals> {
        let d = a.head_dim;
        let mut data = Vec::new();
        for group in a.groups {
            for i in 0..a.rows {
                data.extend((0..a.keys(i)).map(|j| {
                    let head = |&h: &usize| {
                        dot(
                            &queries.row(i)[h * d..][..d],
                            &keys.row(j)[a.kv_head(h) * d..][..d],
                        )
                    };
                    group.iter().map(head).sum::<f64>()
                }));
            }
        }
        Ok(Reals {
            rows: 1,
            cols: data.len(),
            data,
        })
    }

    fn add_key_bias(&mut self, scores: &Reals, bias: &Reals, a: &Attention<'_>) -> Reals {
        let lens = a.lens();
        let biased = |row: &[f64]| -> Vec<f64> {
            row.iter()
                .enumerate()
                .map(|(j, s)| s + bias.data.get(j).copied().unwrap_or(0.0))
                .collect()
        };
        Reals {
            data: ragged(&scores.data, &lens).flat_map(biased).collect(),
            ..*scores
        }
    }

    fn weighted_values(
        &mut self,
        weights: &Reals,
        values: &Reals,
        a: &Attention<'_>,
    ) -> ProtocolResult<Reals> {
        let d = a.head_dim;
        let cols = a.num_attention_heads * a.head_dim;
        let lens = a.lens();
        let mut data = vec![0.0; a.rows * cols];
        let mut rows = ragged(&weights.data, &lens);
        for group in a.groups {
            for i in 0..a.rows {
                let row = rows.next().unwrap_or(&[]);
                for &head in group {
                    let out = &mut data[i * cols + head * d..][..d];
                    for (j, weight) in row.iter().enumerate() {
                        let value = &values.row(j)[a.kv_head(head) * d..][..d];
                        out.iter_mut()
                            .zip(value)
                            .for_each(|(o, v)| *o += weight * v);
                    }
                }
            }
        }
        Ok(Reals {
            rows: a.rows,
            cols,
            data,
        })
    }

    fn scale_heads(
        &mut self,
        x: &Reals,
        scale: &Reals,
        a: &Attention<'_>,
    ) -> ProtocolResult<Reals> {
        let scalar = head_scalar_index(a);
        Ok(Reals {
            data: x
                .data
                .iter()
                .enumerate()
                .map(|(i, v)| v * scale.data[scalar(i)])
                .collect(),
            ..*x
        })
    }

    fn ragged_max(
        &mut self,
        x: &Reals,
        lens: &[usize],
        _label: &'static str,
    ) -> ProtocolResult<Reals> {
        let data = ragged(&x.data, lens)
            .map(|row| row.iter().copied().fold(f64::MIN, f64::max))
            .collect();
        Ok(Reals {
            rows: 1,
            cols: lens.len(),
            data,
        })
    }

    fn ragged_rsub(&mut self, x: &Reals, scalar: &Reals, lens: &[usize]) -> Reals {
        let rows = ragged(&x.data, lens).zip(&scalar.data);
        Reals {
            data: rows
                .flat_map(|(row, s)| row.iter().map(move |v| s - v))
                .collect(),
            ..*x
        }
    }

    fn ragged_sum(&mut self, x: &Reals, lens: &[usize]) -> Reals {
        Reals {
            rows: 1,
            cols: lens.len(),
            data: ragged(&x.data, lens).map(|row| row.iter().sum()).collect(),
        }
    }

    fn truncate(
        &mut self,
        x: &Reals,
        Truncation { shift, .. }: Truncation,
        _label: &'static str,
    ) -> ProtocolResult<Reals> {
        Ok(x.map(|v| v / f64::from(shift).exp2()))
    }

    fn exp_neg(
        &mut self,
        y: &Reals,
        _out_bits: u32,
        _label: &'static str,
    ) -> ProtocolResult<Reals> {
        Ok(y.map(|v| exact(&tables().exp, v)))
    }

    fn exp_clipped(
        &mut self,
        y: &Reals,
        _out_bits: u32,
        _label: &'static str,
    ) -> ProtocolResult<Reals> {
        Ok(y.map(|v| exact(&tables().exp, v.max(0.0))))
    }

    fn relu(&mut self, x: &Reals, _bits: u32, _label: &'static str) -> ProtocolResult<Reals> {
        Ok(x.map(|v| v.max(0.0)))
    }

    fn gate(&mut self, x: &Reals, gate: Gate<'_>, _label: &'static str) -> ProtocolResult<Reals> {
        Ok(x.map(|v| exact(gate.0, v)))
    }

    fn piecewise(
        &mut self,
        s: &Reals,
        table: &Piecewise,
        _label: &'static str,
    ) -> ProtocolResult<Reals> {
        let root = std::ptr::eq(table, &tables().rsqrt);
        let floored = std::ptr::eq(table, &approx_tables().recip);
        let floor = if floored { RECIP_FLOOR as f64 } else { 0.0 };
        Ok(s.map(|v| {
            if root {
                58f64.exp2() / v.sqrt()
            } else {
                40f64.exp2() / (v + floor)
            }
        }))
    }

    /// None: this shows what the integers approximate, and noise is none of it.
    fn add_noise(&mut self, x: &Reals, _scale: f64) -> Reals {
        x.clone()
    }

    fn below_largest(
        &mut self,
        x: &Reals,
        keep: usize,
        _label: &'static str,
    ) -> ProtocolResult<Reals> {
        let mut sorted = x.data.clone();
        sorted.sort_by(|a, b| b.total_cmp(a));
        let threshold = sorted[keep.clamp(1, sorted.len()) - 1];
        Ok(x.map(|v| f64::from(u8::from(v < threshold))))
    }

    fn argmax_to_client(&mut self, x: &Reals, _label: &'static str) -> ProtocolResult<Option<u32>> {
        let best =
            x.data.iter().enumerate().fold(
                (0, f64::MIN),
                |best, (i, &v)| if v > best.1 { (i, v) } else { best },
            );
        Ok(Some(best.0 as u32))
    }

    fn reveal_to_client(
        &mut self,
        x: &Reals,
        _bits: u32,
        _label: &'static str,
    ) -> ProtocolResult<Option<Vec<u64>>> {
        self.last_input.clone_from(&x.data);
        Ok(Some(
            x.data.iter().map(|&v| v.round() as i64 as u64).collect(),
        ))
    }
}
