//! E0 and E1 without a dealer: the program on additive shares, with oblivious transfer for what a
//! party cannot do alone.
//!
//! # Functionality
//! As for the other engines: E0 puts in boundary activations and learns what the program reveals,
//! E1 puts in its private LoRA updates (and, for a sampled token, its noise) and learns shapes.
//! Every value equals the twin's; rounding is exact.
//!
//! # Construction
//! A value is `x_0 + x_1` modulo `2^bits`; a wire is a share like any other. Public maps, sums and
//! rotations are local.
//!
//! | operation | protocol |
//! |---|---|
//! | truncation | [`marill_two_party::Truncate`]: carry of the low bits, wrap of the top bits |
//! | private updates | `A` with E0's share of a row, `B` with E0's share of that: lattices |
//! | scores, weighted values | [`marill_lattice`], or combinations where those send less |
//! | scalings, square sums | [`marill_two_party::combinations`] of both shares |
//! | element-wise products | [`marill_two_party::Product`] |
//! | exp, SiLU, GeLU, sigmoid, tanh | digits, a lookup of value and slope, a product |
//! | reciprocals, roots | comparison in two levels, a lookup, a product |
//! | maximum, largest index | a tournament of sign bits and multiplexers |
//!
//! # What it costs
//! [`tally_two_party`] counts a step; a test compares it with what a session sends. Lattices make
//! sums of products within the step; made ahead and packed over steps they would cost a tenth.
//!
//! # Security
//! Semi-honest, from transfers and RLWE ([`marill_two_party`], [`marill_lattice`]): outputs of all
//! protocols are fresh shares, so a view is sampled without the other party's input. E0's input is
//! shared as itself and zero, which tells E1 nothing. E1 tells E0 how many bits its factors have,
//! the most of all elements, and nothing else of them. Before anything is revealed both parties
//! compare digests of what was sent and received: a message that was changed on its way ends the
//! session. A party that deviates is outside the model: a client that does may read the adapter.
//!
//! Refused by name: full-rank private weights, stochastic rounding, top-k.

mod bilinear;
mod functions;
mod gates;
mod lattice;
mod tally;
#[cfg(test)]
mod tests;
mod updates;

use std::sync::Arc;

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use marill_numeric::{PublicMatrix, RingTensor, Rounding, tables::Piecewise};
use marill_ot::{AnySource, Source};
pub use marill_ot::{Extension, LpnSet, Phase, Traffic, softspoken::GroupBits};
use marill_two_party::{OtError, Party, Radix, Session};

use self::gates::Gates;
pub use self::{
    gates::Counted,
    tally::{tally_two_party, tally_two_party_by_label},
};
use crate::{
    engine::{Attention, Engine, Gate, Truncation},
    error::{ProtocolError, ProtocolResult},
    kernels::{ring_tensor_operations, rotate_rows, with_key_bias},
    sampling::{Sampling, gumbel},
    spec::{MapId, MapSpec, ProgramSpec},
    weights::{PrivateWeights, Rope},
};

/// Bits of the elements of E1's factors, sign included; both parties know them.
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
    /// By lattices wherever parameters hold the noise.
    Lattices,
}

/// Most bits of an element: quantization keeps them below `2^30`.
const MOST_FACTOR_BITS: u32 = 31;

/// Elements that are spoken of where no model is there to ask.
const COUNTED_FACTOR_BITS: FactorBits = FactorBits { a: 16, b: 16 };

/// The interpreter of a program at E0 or E1, or over shapes.
pub struct TwoParty<C = Box<dyn Channel>, S = AnySource> {
    gates: Gates<C, S>,
    maps: Vec<MapSpec>,
    /// E1's.
    private: Option<Arc<PrivateWeights>>,
    factor_bits: FactorBits,
    products: Products,
    /// Shares by label and width, where a test asks for them.
    trace: Option<Vec<(&'static str, RingTensor)>>,
}

impl TwoParty {
    /// Whether two parties run this program and choose tokens in this way.
    ///
    /// # Errors
    /// [`ProtocolError::Unsupported`].
    pub fn check(spec: &ProgramSpec, sampling: Option<Sampling>) -> Result<(), ProtocolError> {
        supported(spec, sampling)
    }
}

impl<C: Channel, S: Source> TwoParty<C, S> {
    /// E0. Waits for E1 to say how wide its factors are.
    ///
    /// # Errors
    /// [`ProtocolError::Unsupported`] for a program that this engine does not run,
    /// [`ProtocolError::Peer`] when E1 is gone, [`ProtocolError::TwoParty`] when it says a width
    /// that no factor has.
    pub fn client(spec: &ProgramSpec, mut session: Session<C, S>) -> ProtocolResult<Self> {
        supported(spec, None)?;
        let told = session.link().receive("factor widths", 2)?;
        let factor_bits = FactorBits {
            a: told[0].into(),
            b: told[1].into(),
        };
        for bits in [factor_bits.a, factor_bits.b] {
            if !(1..=MOST_FACTOR_BITS).contains(&bits) {
                return Err(ProtocolError::TwoParty(OtError::Parameters {
                    what: "the bits of a factor",
                    own: MOST_FACTOR_BITS.into(),
                    peer: bits.into(),
                }));
            }
        }
        let gates = Gates::live(session);
        Ok(Self::new(spec, gates, None, factor_bits))
    }

    /// E1, with its private weights.
    ///
    /// # Errors
    /// As [`Self::client`], and [`ProtocolError::AdapterMismatch`] for weights of another model.
    pub fn server(
        spec: &ProgramSpec,
        private: Arc<PrivateWeights>,
        mut session: Session<C, S>,
    ) -> ProtocolResult<Self> {
        supported(spec, None)?;
        check_private(spec, &private)?;
        let widest = |of: fn(&crate::weights::Lora) -> &Vec<u64>| {
            let elements = private.lora.iter().flat_map(of);
            elements.map(|v| signed_bits(*v)).max().unwrap_or(1)
        };
        let factor_bits = FactorBits {
            a: widest(|lora| &lora.a),
            b: widest(|lora| &lora.b),
        };
        let told = [factor_bits.a as u8, factor_bits.b as u8];
        session.link().send("factor widths", &told)?;
        let gates = Gates::live(session);
        Ok(Self::new(spec, gates, Some(private), factor_bits))
    }

    fn new(
        spec: &ProgramSpec,
        gates: Gates<C, S>,
        private: Option<Arc<PrivateWeights>>,
        factor_bits: FactorBits,
    ) -> Self {
        Self {
            gates,
            maps: spec.maps().collect(),
            private,
            factor_bits,
            products: Products::default(),
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

    /// What this party sent and received for a purpose.
    #[must_use]
    pub fn traffic(&self, phase: Phase) -> marill_ot::Traffic {
        self.gates.traffic(phase)
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

/// Bits of a signed integer, sign included.
fn signed_bits(v: u64) -> u32 {
    let v = v as i64;
    let magnitude = if v < 0 { !v } else { v };
    65 - magnitude.leading_zeros()
}

/// What is refused of a sampled token.
pub const TOP_K: &str = "top-k";

fn supported(spec: &ProgramSpec, sampling: Option<Sampling>) -> ProtocolResult<()> {
    let refused = |what| Err(ProtocolError::Unsupported { what });
    if spec.is_full_rank() {
        return refused("full-rank private weights (`private = \"full\"`)");
    }
    if sampling.is_some_and(|sampling| sampling.top_k().is_some()) {
        return refused(TOP_K);
    }
    match spec.numeric.rounding {
        Rounding::Exact => Ok(()),
        Rounding::Stochastic => refused("stochastic rounding"),
    }
}

fn check_private(spec: &ProgramSpec, private: &PrivateWeights) -> ProtocolResult<()> {
    let expected = if spec.lora_rank == 0 {
        0
    } else {
        spec.num_maps()
    };
    let fits = private.full.is_empty() && private.lora.len() == expected;
    let shapes = || {
        let maps = spec.maps().zip(&private.lora);
        let fits = |(map, lora): (MapSpec, &crate::weights::Lora)| {
            map.factor_lens() == [lora.a.len(), lora.b.len()]
        };
        maps.into_iter().all(fits)
    };
    if fits && shapes() {
        Ok(())
    } else {
        Err(ProtocolError::AdapterMismatch)
    }
}

impl<C: Channel, S: Source> Engine for TwoParty<C, S> {
    ring_tensor_operations!();

    fn input(
        &mut self,
        values: Option<&[u64]>,
        rows: usize,
        cols: usize,
        bits: u32,
    ) -> ProtocolResult<RingTensor> {
        let data = match (values, self.gates.party(), self.counts()) {
            (Some(values), Party::E0, _) => values.to_vec(),
            (None, Party::E0, false) => return Err(ProtocolError::MissingInput),
            // E1's share of the client's input is zero, and E0's is the input.
            _ => vec![0; rows * cols],
        };
        if data.len() != rows * cols {
            return Err(ProtocolError::MissingInput);
        }
        Ok(RingTensor::new(rows, cols, bits, data))
    }

    fn open(
        &mut self,
        shares: &[(&RingTensor, u32)],
        label: &'static str,
    ) -> ProtocolResult<Vec<RingTensor>> {
        // Nothing is opened: a product takes shares.
        let wires: Vec<RingTensor> = shares.iter().map(|(share, _)| (*share).clone()).collect();
        wires.iter().for_each(|wire| self.record(label, wire));
        Ok(wires)
    }

    fn reveal_to_e1(
        &mut self,
        share: &RingTensor,
        bits: u32,
        maps: &[MapId],
        label: &'static str,
    ) -> ProtocolResult<(RingTensor, Vec<Option<RingTensor>>)> {
        let wire = self.open(&[(share, bits)], label)?.remove(0);
        let mut narrow = wire.clone();
        narrow.bits = bits.min(wire.bits);
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
        Ok((wire, updates))
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

    fn square_sum(&mut self, x: &RingTensor) -> ProtocolResult<RingTensor> {
        bilinear::square_sum(self.gates.at("norm.squares"), x)
    }

    fn mul(&mut self, x: &RingTensor, y: &RingTensor) -> ProtocolResult<RingTensor> {
        bilinear::mul(self.gates.at("product"), x, y)
    }

    fn scale_rows(&mut self, x: &RingTensor, scale: &RingTensor) -> ProtocolResult<RingTensor> {
        bilinear::scale_rows(self.gates.at("norm.scale"), x, scale)
    }

    fn scores(
        &mut self,
        queries: &RingTensor,
        keys: &RingTensor,
        attention: &Attention<'_>,
    ) -> ProtocolResult<RingTensor> {
        bilinear::scores(
            self.gates.at("attention.products"),
            self.products,
            queries,
            keys,
            attention,
        )
    }

    fn add_key_bias(
        &mut self,
        scores: &RingTensor,
        bias: &RingTensor,
        attention: &Attention<'_>,
    ) -> RingTensor {
        scores.with_data(with_key_bias(&scores.data, &bias.data, &attention.lens()))
    }

    fn weighted_values(
        &mut self,
        weights: &RingTensor,
        values: &RingTensor,
        attention: &Attention<'_>,
    ) -> ProtocolResult<RingTensor> {
        bilinear::weighted_values(
            self.gates.at("attention.values"),
            self.products,
            weights,
            values,
            attention,
        )
    }

    fn scale_heads(
        &mut self,
        x: &RingTensor,
        scale: &RingTensor,
        attention: &Attention<'_>,
    ) -> ProtocolResult<RingTensor> {
        let gates = self.gates.at("attention.divide");
        // What is divided has room above it, and is needed modulo more than it has.
        let wide = if x.bits < scale.bits {
            let extend = marill_two_party::Truncate::half_up(x.bits, 0, scale.bits, Radix::Four);
            let data = gates.truncate(extend, &x.data)?;
            RingTensor::new(x.rows, x.cols, scale.bits, data)
        } else {
            x.clone()
        };
        bilinear::scale_heads(gates, &wide, scale, attention)
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
        let protocol =
            marill_two_party::Truncate::half_up(from.min(64), shift, to.min(64), Radix::Four);
        let data = self.gates.at(label).truncate(protocol, &x.data)?;
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
        x: &RingTensor,
        gate: Gate<'_>,
        label: &'static str,
    ) -> ProtocolResult<RingTensor> {
        functions::linear(self.gates.at(label), gate.0, x, x.bits)
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
