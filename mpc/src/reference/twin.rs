//! The twin: the program on plain integers. What it returns is what every other engine must return.

mod session;

use std::sync::Arc;

use marill_crypto::{Prg, Seed};
use marill_numeric::{
    NumericError, PublicMatrix, RingTensor, Rounding,
    fixed::{check_range, truncate, truncate_stochastically},
    functions, ring,
    tables::{Piecewise, approx_tables, tables},
};

pub use crate::reference::twin::session::{Twin, TwinBeginning};
use crate::{
    engine::{Attention, Engine, Gate, Truncation},
    error::{ProtocolError, ProtocolResult},
    kernels::{
        attention_scores, attention_values, head_scalar_index, ragged, ring_tensor_shares,
        ring_tensor_wires, rotate_rows, with_key_bias,
    },
    reference::range::Headroom,
    sampling::{RANGE_BITS, gumbel, search},
    spec::MapId,
    weights::{PrivateWeights, Rope},
};

/// A tensor of whole integers.
fn whole(rows: usize, cols: usize, data: Vec<u64>) -> RingTensor {
    RingTensor::new(rows, cols, 64, data)
}

/// Where the randomness of stochastic rounding comes from.
enum RoundingRandomness {
    /// Nowhere: half up.
    Exact,
    /// A sample of what a session would sample.
    Sampled(Box<Prg>),
    /// Those of a recorded session, in order.
    Given(std::vec::IntoIter<u64>),
}

/// Where the server's noise comes from.
enum Noise {
    /// The operating system: a sample of what a session would answer.
    Sampled,
    /// A recorded session, in order.
    Given(std::vec::IntoIter<u64>),
    /// A fixed stream.
    Stream(Box<Prg>),
}

/// The interpreter on plain integers.
pub struct PlaintextEngine {
    private: Arc<PrivateWeights>,
    rank: usize,
    rounding: RoundingRandomness,
    noise: Noise,
    /// Opened values by label, when a test asks for them.
    pub trace: Option<Vec<(&'static str, Vec<u64>)>>,
    layer: Option<usize>,
    /// The tightest label so far, when it is asked for.
    least_headroom: Option<Option<Headroom>>,
    /// The logits of the last step, as integers.
    logits: Vec<u64>,
    /// Whether they are those of a sampled step, before its noise.
    sampled: bool,
    /// The row that the logits were computed from is not visible here; its sum of squares is kept
    /// by the session.
    last_hidden: Vec<u64>,
}

impl PlaintextEngine {
    /// An interpreter with an adapter; `rank` is 0 when there is none.
    #[must_use]
    pub fn new(private: Arc<PrivateWeights>, rank: usize) -> Self {
        Self {
            private,
            rank,
            rounding: RoundingRandomness::Exact,
            noise: Noise::Sampled,
            trace: None,
            layer: None,
            least_headroom: None,
            logits: Vec::new(),
            sampled: false,
            last_hidden: Vec::new(),
        }
    }

    /// Returns self with the rounding of a spec, on randomness of its own where that is stochastic.
    #[must_use]
    pub fn with_rounding(mut self, rounding: Rounding) -> Self {
        self.rounding = match rounding {
            Rounding::Exact => RoundingRandomness::Exact,
            Rounding::Stochastic => {
                RoundingRandomness::Sampled(Box::new(Prg::new(&Seed::random(), "coins")))
            }
        };
        self
    }

    fn is_exact(&self) -> bool {
        matches!(self.rounding, RoundingRandomness::Exact)
    }

    /// Applies `f` with a rounding to every element; each takes one random number, needed or not.
    fn rounded(
        &mut self,
        x: &RingTensor,
        f: impl Fn(u64, &dyn Fn(u64, u32) -> u64) -> u64,
    ) -> RingTensor {
        // Half up needs no randomness.
        let randomness: Vec<u64> = match &mut self.rounding {
            RoundingRandomness::Exact => return x.map(|v| f(v, &truncate)),
            // One number for each element, used or not, so that a recorded session replays in
            // order.
            RoundingRandomness::Sampled(prg) => prg.words(x.data.len()),
            RoundingRandomness::Given(randomness) => {
                // Sums of parts, which may leave the range of a sampled number by a little.
                let stochastic = |(&v, random): (&u64, u64)| {
                    f(v, &|z, shift| {
                        let up = ((1u64 << shift) - 1).wrapping_sub(random);
                        ((z as i64).wrapping_add(up as i64) >> shift) as u64
                    })
                };
                let data = x.data.iter().zip(randomness).map(stochastic).collect();
                return x.with_data(data);
            }
        };
        let stochastic =
            |(&v, random): (&u64, u64)| f(v, &|z, shift| truncate_stochastically(z, shift, random));
        x.with_data(x.data.iter().zip(randomness).map(stochastic).collect())
    }

    /// Returns self with noise of a fixed stream.
    #[must_use]
    pub fn with_noise(mut self, seed: &Seed) -> Self {
        self.noise = Noise::Stream(Box::new(Prg::new(seed, "noise")));
        self
    }

    fn in_range(
        &mut self,
        tensor: &RingTensor,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<()> {
        let bits = bits.min(64);
        self.measure(&tensor.data, f64::from(bits - 2), label);
        check_range(&tensor.data, bits, label).map_err(ProtocolError::Range)
    }

    /// Keeps the label whose values come nearest to what fits there, `2^limit_bits`, where this is
    /// asked for.
    fn measure(&mut self, data: &[u64], limit_bits: f64, label: &'static str) {
        let Some(least) = &mut self.least_headroom else {
            return;
        };
        let largest = data
            .iter()
            .map(|&v| (v as i64).unsigned_abs())
            .max()
            .unwrap_or(0);
        let headroom = Headroom {
            layer: self.layer,
            label,
            reaches_bits: (largest.max(1) as f64).log2(),
            limit_bits,
        };
        if least.is_none_or(|least| headroom.bits() < least.bits()) {
            *least = Some(headroom);
        }
    }

    fn record(&mut self, label: &'static str, data: &[u64]) {
        if let Some(trace) = &mut self.trace {
            trace.push((label, data.to_vec()));
        }
    }
}

impl Engine for PlaintextEngine {
    ring_tensor_shares!();
    ring_tensor_wires!();

    fn enter_layer(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    fn input(
        &mut self,
        values: Option<&[u64]>,
        rows: usize,
        cols: usize,
        bits: u32,
    ) -> ProtocolResult<RingTensor> {
        let data = values.ok_or(ProtocolError::MissingInput)?.to_vec();
        let tensor = whole(rows, cols, data);
        // Not measured: the padding's bias is what it is, and rows are checked when they are
        // encoded.
        check_range(&tensor.data, bits.min(64), "input").map_err(ProtocolError::Range)?;
        Ok(tensor)
    }

    fn open(
        &mut self,
        shares: &[(&RingTensor, u32)],
        label: &'static str,
    ) -> ProtocolResult<Vec<RingTensor>> {
        for (tensor, bits) in shares {
            self.in_range(tensor, *bits, label)?;
            self.record(label, &tensor.data);
        }
        Ok(shares.iter().map(|(t, _)| (*t).clone()).collect())
    }

    fn reveal_to_e1(
        &mut self,
        x: &RingTensor,
        bits: u32,
        maps: &[MapId],
        label: &'static str,
    ) -> ProtocolResult<(RingTensor, Vec<Option<RingTensor>>)> {
        // The check and the trace of an opening: what a session reveals must fit its width.
        let wire = self.open(&[(x, bits)], label)?.remove(0);
        if !self.private.full.is_empty() {
            let product = |map: &MapId| {
                let matrix = &self.private.full[map.index()].matrix;
                Some(whole(x.rows, matrix.rows(), matrix.par_apply(&x.data)))
            };
            return Ok((wire, maps.iter().map(product).collect()));
        }
        let updates = maps.iter().map(|map| {
            let lora = (self.rank > 0).then(|| &self.private.lora[map.index()]);
            // B·(A·x), nothing truncated between.
            lora.filter(|lora| !lora.a.is_empty())
                .map(|lora| x.times_transposed(&lora.a).times_transposed(&lora.b))
        });
        let updates = updates.collect();
        Ok((wire, updates))
    }

    fn add_constant(&mut self, x: &RingTensor, constant: u64) -> RingTensor {
        x.plus(constant)
    }

    fn add_row(&mut self, x: &RingTensor, row: &[u64]) -> RingTensor {
        x.plus_row(row)
    }

    fn scale_columns(&mut self, x: &RingTensor, factors: &[u64]) -> RingTensor {
        x.scaled_columns(factors)
    }

    fn add_private_row(&mut self, x: &RingTensor, map: MapId) -> RingTensor {
        let private = Arc::clone(&self.private);
        match private.row(map) {
            [] => x.clone(),
            row => self.add_row(x, row),
        }
    }

    fn linear(&mut self, matrix: &PublicMatrix, x: &RingTensor) -> RingTensor {
        // For scoring: the last map is the head, whose input's norm was left out.
        self.last_hidden.clone_from(&x.data);
        whole(x.rows, matrix.rows(), matrix.par_apply(&x.data))
    }

    fn rotate(&mut self, x: &RingTensor, rope: &Rope, first_position: usize) -> RingTensor {
        x.with_data(rotate_rows(&x.data, x.cols, rope, first_position))
    }

    fn square_sum(&mut self, x: &RingTensor) -> ProtocolResult<RingTensor> {
        // The ring would wrap silently; the sum must stay below 2^62.
        for index in 0..x.rows {
            // Summed in floats to see an overflow that the ring would hide.
            let sum: f64 = x
                .row(index)
                .iter()
                .map(|&v| (v as i64 as f64).powi(2))
                .sum();
            if sum >= 62f64.exp2() {
                let error = NumericError::Overflow {
                    label: "norm.squares",
                    index,
                    value: i64::MAX,
                    bits: 64,
                };
                return Err(ProtocolError::Range(error));
            }
        }
        let data = (0..x.rows).map(|i| ring::dot(x.row(i), x.row(i))).collect();
        Ok(whole(x.rows, 1, data))
    }

    fn mul(&mut self, x: &RingTensor, y: &RingTensor) -> ProtocolResult<RingTensor> {
        Ok(x * y)
    }

    fn scale_rows(&mut self, x: &RingTensor, scale: &RingTensor) -> ProtocolResult<RingTensor> {
        let value = |i: usize| (x.at(i) * scale.at(i / x.cols)).0;
        Ok(x.with_data((0..x.len()).map(value).collect()))
    }

    fn scores(
        &mut self,
        queries: &RingTensor,
        keys: &RingTensor,
        attention: &Attention<'_>,
    ) -> ProtocolResult<RingTensor> {
        let data = attention_scores(&queries.data, &keys.data, attention);
        Ok(whole(1, data.len(), data))
    }

    fn add_key_bias(
        &mut self,
        scores: &RingTensor,
        bias: &RingTensor,
        attention: &Attention<'_>,
    ) -> RingTensor {
        whole(
            1,
            scores.cols,
            with_key_bias(&scores.data, &bias.data, &attention.lens()),
        )
    }

    fn weighted_values(
        &mut self,
        weights: &RingTensor,
        values: &RingTensor,
        attention: &Attention<'_>,
    ) -> ProtocolResult<RingTensor> {
        let data = attention_values(&weights.data, &values.data, attention);
        Ok(whole(
            attention.rows,
            attention.num_attention_heads * attention.head_dim,
            data,
        ))
    }

    fn scale_heads(
        &mut self,
        x: &RingTensor,
        scale: &RingTensor,
        attention: &Attention<'_>,
    ) -> ProtocolResult<RingTensor> {
        let scalar = head_scalar_index(attention);
        let value = |i: usize| (x.at(i) * scale.at(scalar(i))).0;
        Ok(x.with_data((0..x.len()).map(value).collect()))
    }

    fn ragged_max(
        &mut self,
        x: &RingTensor,
        lens: &[usize],
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        self.in_range(x, 32, label)?;
        let data = ragged(&x.data, lens)
            .map(|row| row.iter().copied().max_by_key(|&v| v as i64).unwrap_or(0))
            .collect();
        Ok(whole(1, lens.len(), data))
    }

    fn truncate(
        &mut self,
        x: &RingTensor,
        Truncation {
            shift,
            from: in_bits,
            ..
        }: Truncation,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        self.in_range(x, in_bits, label)?;
        let out = self.rounded(x, |v, round| round(v, shift));
        self.record(label, &out.data);
        Ok(out)
    }

    fn exp_neg(
        &mut self,
        y: &RingTensor,
        _out_bits: u32,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        self.in_range(y, 33, label)?;
        Ok(self.rounded(y, |v, round| functions::linear_by(&tables().exp, v, round)))
    }

    fn exp_clipped(
        &mut self,
        y: &RingTensor,
        _out_bits: u32,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        self.in_range(y, 33, label)?;
        let table = &approx_tables().exp;
        Ok(self.rounded(y, |v, round| functions::linear_by(table, v, round)))
    }

    fn relu(
        &mut self,
        x: &RingTensor,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        self.in_range(x, bits, label)?;
        let out = x.map(|v| (v as i64).max(0) as u64);
        self.record(label, &out.data);
        Ok(out)
    }

    fn gate(
        &mut self,
        x: &RingTensor,
        gate: Gate<'_>,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        self.in_range(x, 32, label)?;
        Ok(self.rounded(x, |v, round| functions::linear_by(gate.0, v, round)))
    }

    fn piecewise(
        &mut self,
        s: &RingTensor,
        table: &Piecewise,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        // A table ends; behind its end a session would read its last piece in silence.
        if let Some(index) = s.data.iter().position(|&v| v >= table.end) {
            let value = s.data[index] as i64;
            let bits = table.ring_bits;
            return Err(ProtocolError::Range(NumericError::Overflow {
                label,
                index,
                value,
                bits,
            }));
        }
        self.measure(&s.data, (table.end as f64).log2(), label);
        let out = s.map(|v| functions::piecewise(table, v));
        self.record(label, &out.data);
        Ok(out)
    }

    fn add_noise(&mut self, x: &RingTensor, scale: f64) -> RingTensor {
        self.logits.clone_from(&x.data);
        // For scoring: the noise is no part of the model.
        self.sampled = true;
        let noise = match &mut self.noise {
            Noise::Sampled => gumbel(&mut Prg::new(&Seed::random(), "noise"), x.data.len(), scale),
            Noise::Given(noise) => noise.take(x.data.len()).collect::<Vec<u64>>().into(),
            Noise::Stream(prg) => gumbel(prg, x.data.len(), scale),
        };
        let mut noisy = x.clone();
        noisy += noise.as_slice();
        noisy
    }

    fn below_largest(
        &mut self,
        x: &RingTensor,
        keep: usize,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        self.in_range(x, RANGE_BITS + 2, label)?;
        let mut sorted: Vec<i64> = x.data.iter().map(|&v| v as i64).collect();
        sorted.sort_unstable_by_key(|&v| std::cmp::Reverse(v));
        let threshold =
            sorted[keep.clamp(1, sorted.len()) - 1] >> search::GRID_BITS << search::GRID_BITS;
        let out = x.map(|v| u64::from((v as i64) < threshold));
        self.record(label, &out.data);
        Ok(out)
    }

    fn argmax_to_client(
        &mut self,
        x: &RingTensor,
        label: &'static str,
    ) -> ProtocolResult<Option<u32>> {
        self.in_range(x, 48, label)?;
        if !self.sampled {
            self.logits.clone_from(&x.data);
        }
        let best = x
            .data
            .iter()
            .enumerate()
            .max_by_key(|&(i, &v)| (v as i64, std::cmp::Reverse(i)));
        Ok(best.map(|(i, _)| i as u32))
    }

    fn reveal_to_client(
        &mut self,
        x: &RingTensor,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Option<Vec<u64>>> {
        self.in_range(x, bits, label)?;
        self.record(label, &x.data);
        Ok(Some(x.data.clone()))
    }
}
