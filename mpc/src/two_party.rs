//! E0 and E1 without a dealer: the program on additive shares, with oblivious transfer for what a
//! party cannot do alone.
//!
//! # Functionality
//! As for the other engines: E0 puts in boundary activations and learns what the program reveals,
//! E1 puts in its private LoRA updates (and, for a sampled token, its noise) and learns shapes.
//! Every value equals the twin's; where rounding is stochastic, given E0's low bits.
//!
//! # Construction
//! A value is `x_0 + x_1` modulo `2^bits`; a wire is a share like any other. Public maps, sums and
//! rotations are local.
//!
//! | operation | protocol |
//! |---|---|
//! | truncation | [`marill_two_party::Truncate`]: carry of the low bits, wrap of the top bits |
//! | the same, rounded stochastically | no carry: the low bits of E0's share round |
//! | private updates, scores, weighted values | openings under masks made ahead (`ahead.rs`) |
//! | products with full-rank private weights | the same |
//! | scalings, square sums | the same |
//! | these five, where that sends less | [`marill_lattice`] or [`marill_two_party::combinations`] |
//! | element-wise products | [`marill_two_party::Product`] |
//! | exp, SiLU, GeLU, sigmoid, tanh | digits, a lookup of value and slope, a product |
//! | reciprocals, roots | comparison in two levels, a lookup, a product |
//! | maximum, largest index | a tournament of sign bits and multiplexers |
//!
//! # What it costs
//! [`tally_two_party`] counts a step, [`tally_preparations`] what is made ahead of it; a test
//! compares both with what a session sends.
//!
//! # Security
//! Semi-honest, from transfers and RLWE ([`marill_two_party`], [`marill_lattice`]): outputs of all
//! protocols are fresh shares, so a view is sampled without the other party's input. E0's input is
//! shared as itself and zero, which tells E1 nothing. E1 tells E0 how many bits its factors have,
//! the most of all elements, and nothing else of them. Before anything is revealed both parties
//! compare digests of what was sent and received: a message that was changed on its way ends the
//! session. A party that deviates is outside the model: a client that does may read the adapter.
//!
//! Refused by name: top-k; full-rank private weights whose products are not made ahead.

mod ahead;
mod begin;
mod bilinear;
mod functions;
mod gates;
mod jobs;
mod kept;
mod lattice;
mod make;
mod masked;
mod memo;
mod tally;
#[cfg(test)]
mod tests;
mod updates;
mod wire;

use std::sync::Arc;

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use marill_numeric::{PublicMatrix, RingTensor, Rounding, tables::Piecewise};
use marill_ot::{AnySource, Source};
pub use marill_ot::{
    BaseId, Extension, LpnSet, Phase, Traffic,
    keep::{Origin, Why},
    softspoken::GroupBits,
};
use marill_two_party::{Party, Radix};

use self::{
    ahead::{Masks, Stock},
    gates::Gates,
    jobs::Plan,
    kept::{Keeping, KeptKeys},
    wire::Opened,
};
pub use self::{
    ahead::{Preparation, STEPS as STEPS_AHEAD},
    begin::TOP_K,
    gates::Counted,
    kept::SetUp,
    tally::{
        lpn_set_for, tally_made_ahead, tally_preparations, tally_two_party,
        tally_two_party_by_label,
    },
    wire::Wire,
};
use crate::{
    engine::{Attention, Engine, Gate, Labels, Truncation},
    error::{ProtocolError, ProtocolResult},
    kernels::{head_scalar_index, ring_tensor_shares, rotate_rows, with_key_bias},
    sampling::{Sampling, gumbel},
    spec::{MapId, MapSpec, ProgramSpec},
    weights::{PrivateWeights, PublicWeights, Rope},
};

/// Bits of the elements of E1's factors, sign included; both parties know them. Of full-rank
/// weights the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FactorBits {
    a: u32,
    b: u32,
}

/// How products of attention and of private updates are made. Both parties must say the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Products {
    /// By what sends fewer bytes, from shapes.
    #[default]
    Cheaper,
    /// By transfers.
    Transfers,
    /// By lattices within the step, wherever parameters hold the noise.
    Lattices,
    /// Under masks, whose products lattices make before the steps that take them.
    Ahead,
}

/// Elements that are spoken of where no model is there to ask.
const COUNTED_FACTOR_BITS: FactorBits = FactorBits { a: 16, b: 16 };

/// The interpreter of a program at E0 or E1, or over shapes.
pub struct TwoParty<C = Box<dyn Channel>, S = AnySource> {
    gates: Gates<C, S>,
    maps: Vec<MapSpec>,
    /// E1's.
    private: Option<Arc<PrivateWeights>>,
    /// Whether full-rank weights are private, in place of updates.
    whole: bool,
    factor_bits: FactorBits,
    products: Products,
    masks: Masks,
    /// Inputs so far.
    inputs: usize,
    /// Where the program is.
    layer: usize,
    /// Whether a first step began.
    begun: bool,
    /// Steps to come, where this party knows.
    expected: Option<usize>,
    /// By how many bytes E0 sends more than E1 for a step of one row before it begins.
    token_balance: i64,
    /// Most steps of one row that are prepared when one is run that was not prepared.
    unasked: usize,
    /// Shares by label and width, where a test asks for them.
    trace: Option<Vec<(&'static str, RingTensor)>>,
}

impl<C: Channel, S: Source> TwoParty<C, S> {
    fn new(
        spec: &ProgramSpec,
        gates: Gates<C, S>,
        private: Option<Arc<PrivateWeights>>,
        factor_bits: FactorBits,
    ) -> Self {
        let mut gates = gates;
        gates.rounding = spec.numeric.rounding;
        Self {
            gates,
            maps: spec.maps().collect(),
            private,
            whole: spec.is_full_rank(),
            factor_bits,
            products: Products::default(),
            masks: Masks::Shares,
            inputs: 0,
            layer: 0,
            begun: false,
            expected: None,
            token_balance: 0,
            unasked: ahead::STEPS,
            trace: None,
        }
    }

    pub(crate) fn factor_bits(&self) -> [u32; 2] {
        [self.factor_bits.a, self.factor_bits.b]
    }

    /// Returns self with products made in this way. Before the first step.
    #[must_use]
    pub fn with_products(mut self, products: Products) -> Self {
        self.products = products;
        self
    }

    /// Returns self preparing further steps when it is asked to alone ([`Self::prepare_ahead`]), as
    /// at the other party.
    #[must_use]
    pub(crate) fn preparing_when_asked(mut self) -> Self {
        self.unasked = 1;
        self
    }

    /// Returns self keeping a set-up, as the other party does: base transfers, new ones or not, and
    /// the keys that were kept with them.
    #[must_use]
    pub(crate) fn keeping(
        mut self,
        base: marill_ot::BaseOts,
        origin: Origin,
        keys: Option<KeptKeys>,
    ) -> Self {
        self.gates.keeping = Some(Keeping::new(base, origin.is_new(), keys));
        self
    }

    /// What to keep for the next session, see [`Gates::take_set_up`].
    pub(crate) fn take_set_up(&mut self) -> Option<SetUp> {
        self.gates.take_set_up()
    }

    /// What this party sent and received for a purpose.
    #[must_use]
    pub fn traffic(&self, phase: Phase) -> marill_ot::Traffic {
        self.gates.traffic(phase)
    }

    /// Shares of an input whose low bits may round: E1's are numbers that everyone knows.
    fn spread(&self, own: &[u64], bits: u32) -> Vec<u64> {
        let domain = format!("input {}", self.inputs);
        let public = Prg::new(&Seed::from_bytes([0; 32]), &domain).reduced(own.len(), bits);
        let pairs = own.iter().zip(public);
        match self.gates.party() {
            Party::E0 => pairs
                .map(|(own, public)| own.wrapping_sub(public))
                .collect(),
            Party::E1 => pairs
                .map(|(own, public)| own.wrapping_add(public))
                .collect(),
        }
    }

    /// A value that has room above it, modulo more than it has.
    fn widened(&mut self, x: &RingTensor, bits: u32) -> ProtocolResult<RingTensor> {
        if x.bits >= bits {
            return Ok(x.clone());
        }
        let extend = marill_two_party::Truncate::half_up(x.bits, 0, bits, Radix::Four);
        let gates = self.gates.at("attention.divide");
        let data = gates.truncate(extend, &x.data)?;
        Ok(RingTensor::new(x.rows, x.cols, bits, data))
    }

    fn counts(&self) -> bool {
        self.gates.counts()
    }

    fn record(&mut self, label: &'static str, share: &RingTensor) {
        if let Some(trace) = &mut self.trace {
            trace.push((label, share.clone()));
        }
    }
}

impl<C: Channel, S: Source> Engine for TwoParty<C, S> {
    ring_tensor_shares!();
    type Wire = Wire;

    fn begin_step(
        &mut self,
        weights: &PublicWeights,
        sampling: Option<Sampling>,
        rows: usize,
    ) -> ProtocolResult<()> {
        // Decided once, by both from what both know.
        if !self.begun {
            let way = tally::way(&weights.spec, self.factor_bits, self.products)?;
            self.token_balance = way.balance;
            if way.is_ahead {
                let planner = self.planner(&weights.spec);
                self.masks = Masks::Stock(Box::new(Stock::new(planner, weights, sampling)));
            }
        }
        self.begun = true;
        self.prepare(rows)?;
        self.gates
            .begin_step(if rows == 1 { self.token_balance } else { 0 });
        match &mut self.masks {
            Masks::Stock(stock) => self.gates.take_up(stock.take_planned()),
            _ => Ok(()),
        }
    }

    fn enter_layer(&mut self, layer: Option<usize>) {
        self.layer = layer.unwrap_or(self.layer);
        self.gates.enter_stretch();
    }

    fn share(&mut self, wire: &Wire) -> RingTensor {
        wire.share.clone()
    }

    fn wire_columns(&mut self, x: &Wire, first: usize, count: usize) -> Wire {
        x.columns(first, count)
    }

    fn wire_last_row(&mut self, x: &Wire) -> Wire {
        x.last_row()
    }

    fn append(&mut self, cache: &mut Option<Wire>, rows: &Wire) {
        match cache {
            None => *cache = Some(rows.clone()),
            Some(cache) => cache.append(rows),
        }
    }

    fn input(
        &mut self,
        values: Option<&[u64]>,
        rows: usize,
        cols: usize,
        bits: u32,
    ) -> ProtocolResult<Wire> {
        let data = match (values, self.gates.party(), self.counts()) {
            (Some(values), Party::E0, _) => values.to_vec(),
            (None, Party::E0, false) => return Err(ProtocolError::MissingInput),
            _ => vec![0; rows * cols],
        };
        if data.len() != rows * cols {
            return Err(ProtocolError::MissingInput);
        }
        self.inputs += 1;
        let data = match self.gates.rounding {
            // E1's share of the client's input is zero, and E0's is the input.
            Rounding::Exact => data,
            Rounding::Stochastic => self.spread(&data, bits),
        };
        let input = RingTensor::new(rows, cols, bits, data);
        Ok(Wire::closed(input))
    }

    fn open(
        &mut self,
        shares: &[(&RingTensor, u32)],
        label: &'static str,
    ) -> ProtocolResult<Vec<Wire>> {
        shares
            .iter()
            .for_each(|(share, _)| self.record(label, share));
        if ahead::is_opened(label) && !matches!(self.masks, Masks::Shares) {
            return self.open_masked(shares, label);
        }
        // Where nothing is opened, products take shares.
        let wires = shares
            .iter()
            .map(|(share, _)| Wire::closed((*share).clone()));
        Ok(wires.collect())
    }

    fn open_bounded(
        &mut self,
        share: &RingTensor,
        _bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Wire> {
        // Masks are as wide as the ring in which products are wanted.
        Ok(self.open(&[(share, share.bits)], label)?.remove(0))
    }

    fn reveal_to_e1(
        &mut self,
        share: &RingTensor,
        bits: u32,
        maps: &[MapId],
        label: &'static str,
    ) -> ProtocolResult<(RingTensor, Vec<Option<RingTensor>>)> {
        self.record(label, share);
        let mut narrow = share.clone();
        narrow.bits = bits.min(share.bits);
        if !matches!(self.masks, Masks::Shares) {
            let updates = self.masked_updates(&narrow, maps)?;
            return Ok((share.clone(), updates));
        }
        let private = self.private.clone();
        let maps: Vec<updates::Update<'_>> = maps
            .iter()
            .map(|map| updates::Update {
                map: self.maps[map.index()],
                factors: private.as_ref().and_then(|p| p.lora.get(map.index())),
            })
            .collect();
        let gates = self.gates.at("adapter");
        // u = B·(A·x) modulo 2^bits of each map, shared.
        let bits = self.factor_bits;
        let updates = updates::lora_updates(gates, self.products, &maps, bits, &narrow)?;
        Ok((share.clone(), updates))
    }

    fn add_constant(&mut self, x: &RingTensor, constant: u64) -> RingTensor {
        x.plus(functions::public(&self.gates, constant))
    }

    fn add_row(&mut self, x: &RingTensor, row: &[u64]) -> RingTensor {
        match self.gates.party() {
            Party::E0 if !self.counts() => x.plus_row(row),
            _ => x.clone(),
        }
    }

    fn scale_columns(&mut self, x: &RingTensor, factors: &[u64]) -> RingTensor {
        if self.counts() {
            return x.clone();
        }
        x.scaled_columns(factors)
    }

    fn add_private_row(&mut self, x: &RingTensor, map: MapId) -> RingTensor {
        match self.private.as_ref().map(|private| private.row(map)) {
            None | Some([]) => x.clone(),
            Some(row) => x.plus_row(row),
        }
    }

    fn linear(&mut self, matrix: &PublicMatrix, x: &RingTensor) -> RingTensor {
        let data = if self.counts() {
            vec![0; x.rows * matrix.rows()]
        } else {
            matrix.par_apply(&x.data)
        };
        RingTensor::new(x.rows, matrix.rows(), x.bits, data)
    }

    fn rotate(&mut self, x: &RingTensor, rope: &Rope, first_position: usize) -> RingTensor {
        if self.counts() {
            return x.clone();
        }
        x.with_data(rotate_rows(&x.data, x.cols, rope, first_position))
    }

    fn square_sum(&mut self, x: &Wire) -> ProtocolResult<RingTensor> {
        if let Some(sums) = self.masked_squares(x)? {
            return Ok(sums);
        }
        bilinear::square_sum(self.gates.at("norm.squares"), &x.share)
    }

    fn mul(&mut self, x: &Wire, y: &Wire) -> ProtocolResult<RingTensor> {
        bilinear::mul(self.gates.at("product"), &x.share, &y.share)
    }

    fn scale_rows(&mut self, x: &Wire, scale: &Wire) -> ProtocolResult<RingTensor> {
        let cols = x.share.cols;
        if let Some(scaled) = self.masked_scale(x, scale, |i| i / cols)? {
            return Ok(scaled);
        }
        bilinear::scale_rows(self.gates.at("norm.scale"), &x.share, &scale.share)
    }

    fn scores(
        &mut self,
        queries: &Wire,
        keys: &Wire,
        attention: &Attention<'_>,
    ) -> ProtocolResult<RingTensor> {
        if let Some(scores) = self.masked_scores(queries, keys, attention)? {
            return Ok(scores);
        }
        bilinear::scores(
            self.gates.at("attention.products"),
            self.products,
            &queries.share,
            &keys.share,
            attention,
        )
    }

    fn add_key_bias(
        &mut self,
        scores: &RingTensor,
        bias: &Wire,
        attention: &Attention<'_>,
    ) -> RingTensor {
        let bias = &bias.share.data;
        scores.with_data(with_key_bias(&scores.data, bias, &attention.lens()))
    }

    fn weighted_values(
        &mut self,
        weights: &Wire,
        values: &Wire,
        attention: &Attention<'_>,
    ) -> ProtocolResult<RingTensor> {
        if let Some(sums) = self.masked_values(weights, values, attention)? {
            return Ok(sums);
        }
        bilinear::weighted_values(
            self.gates.at("attention.values"),
            self.products,
            &weights.share,
            &values.share,
            attention,
        )
    }

    fn scale_heads(
        &mut self,
        x: &Wire,
        scale: &Wire,
        attention: &Attention<'_>,
    ) -> ProtocolResult<RingTensor> {
        if let Some(scaled) = self.masked_scale(x, scale, head_scalar_index(attention))? {
            return Ok(scaled);
        }
        let wide = self.widened(&x.share, scale.share.bits)?;
        let gates = self.gates.at("attention.divide");
        bilinear::scale_heads(gates, &wide, &scale.share, attention)
    }

    fn scale_heads_piecewise(
        &mut self,
        x: &RingTensor,
        weights: &Wire,
        table: &Piecewise,
        attention: &Attention<'_>,
        labels: Labels,
    ) -> ProtocolResult<RingTensor> {
        let factors = self.piecewise_sums(weights, &attention.lens(), table, labels.inner)?;
        self.record(labels.outer, x);
        self.record(labels.outer, &factors);
        let wires = match self.masks {
            Masks::Shares => [x.clone(), factors].map(Wire::closed).to_vec(),
            _ => {
                let wide = self.widened(x, factors.bits)?;
                let shares = [(&wide, wide.bits), (&factors, factors.bits)];
                self.open_masked(&shares, labels.outer)?
            }
        };
        self.scale_heads(&wires[0], &wires[1], attention)
    }

    fn ragged_max(
        &mut self,
        x: &RingTensor,
        lens: &[usize],
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        functions::ragged_max(self.gates.at(label), x, lens, x.bits.min(32))
    }

    fn truncate(
        &mut self,
        x: &RingTensor,
        Truncation { shift, from, to }: Truncation,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        let widths = [from.min(64), shift, to.min(64)];
        let data = self.gates.at(label).round(widths, &x.data)?;
        let out = RingTensor::new(x.rows, x.cols, to.min(64), data);
        self.record(label, &out);
        Ok(out)
    }

    fn exp_neg(
        &mut self,
        y: &RingTensor,
        out_bits: u32,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        let table = &marill_numeric::tables::tables().exp;
        functions::linear(self.gates.at(label), table, y, out_bits)
    }

    fn exp_clipped(
        &mut self,
        y: &RingTensor,
        out_bits: u32,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        let table = &marill_numeric::tables::approx_tables().exp;
        functions::linear(self.gates.at(label), table, y, out_bits)
    }

    fn relu(
        &mut self,
        x: &RingTensor,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        let out = functions::relu(self.gates.at(label), x, bits)?;
        self.record(label, &out);
        Ok(out)
    }

    fn gate(
        &mut self,
        x: &Wire,
        gate: Gate<'_>,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        functions::linear(self.gates.at(label), gate.0, &x.share, x.share.bits)
    }

    fn piecewise(
        &mut self,
        s: &RingTensor,
        table: &Piecewise,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        let out = functions::piecewise(self.gates.at(label), s, table)?;
        self.record(label, &out);
        Ok(out)
    }

    fn add_noise(&mut self, x: &RingTensor, scale: f64) -> RingTensor {
        let mut noisy = x.clone();
        if self.gates.party() == Party::E1 {
            let noise = gumbel(&mut Prg::new(&Seed::random(), "noise"), x.data.len(), scale);
            noisy += noise.as_slice();
        }
        noisy
    }

    fn below_largest(
        &mut self,
        _x: &RingTensor,
        _keep: usize,
        _label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        Err(ProtocolError::Unsupported { what: TOP_K })
    }

    fn argmax_to_client(
        &mut self,
        x: &RingTensor,
        label: &'static str,
    ) -> ProtocolResult<Option<u32>> {
        let index_bits = (x.data.len().max(2) - 1).ilog2() + 1;
        let bits = x.bits.min(48);
        // Differences of two logits fit 48 bits, as the range check of the twin says.
        let index = functions::argmax(self.gates.at(label), &x.data, bits, index_bits)?;
        let opened = self.gates.reveal(index_bits, &[index])?;
        Ok(opened.map(|index| index[0] as u32))
    }

    fn reveal_to_client(
        &mut self,
        x: &RingTensor,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Option<Vec<u64>>> {
        let opened = self.gates.at(label).reveal(bits, &x.data)?;
        // Signed, as every engine gives it.
        let value = |v: u64| marill_numeric::fixed::sign_extend(v, bits) as u64;
        Ok(opened.map(|values| values.into_iter().map(value).collect()))
    }
}
