//! The masked-wire engine as an interpreter of secure programs: each operation of [`Engine`] and
//! the gate behind it.

use marill_numeric::{
    PublicMatrix,
    tables::{Piecewise, approx_tables, tables},
};

use crate::{
    engine::{Attention, Engine, Gate, Labels, Truncation, WEIGHTED_BITS},
    error::ProtocolResult,
    kernels::head_scalar_index,
    masked::{
        Masked, PrivateProducts,
        onehot::spline::Factor,
        reveal::PendingReveal,
        share::{Share, Wire},
    },
    spec::MapId,
    weights::Rope,
};

impl Masked {
    /// Shows the own share to who watches.
    pub(super) fn record(&mut self, label: &'static str, share: &Share) {
        if let Some(observer) = &mut self.observer {
            observer.share(label, share);
        }
    }
}

impl Masked {
    /// Whether anything of these maps is private that a share could be revealed for.
    fn has_private(&self, maps: &[MapId]) -> bool {
        let updated = |map: &MapId| self.spec.map_spec(*map).rank > 0;
        self.spec.is_full_rank() || maps.iter().any(updated)
    }

    fn give(
        &mut self,
        pending: PendingReveal,
        bits: u32,
        maps: &[MapId],
        label: &'static str,
    ) -> ProtocolResult<(Share, Vec<Option<Share>>)> {
        if self.spec.is_full_rank() {
            return self.reveal_and_multiply_private(pending, bits, maps, label);
        }
        if self.products == PrivateProducts::Lattice {
            return self.reveal_and_add_encrypted(pending, bits, maps, label);
        }
        self.reveal_and_add_private(pending, bits, maps, label)
    }
}

impl Engine for Masked {
    type Share = Share;
    type Wire = Wire;

    fn input(
        &mut self,
        values: Option<&[u64]>,
        rows: usize,
        cols: usize,
        bits: u32,
    ) -> ProtocolResult<Wire> {
        self.at("input");
        Masked::input(self, values, rows, cols, bits)
    }

    fn enter_layer(&mut self, layer: Option<usize>) {
        // The first layer begins a step: its masks of reveals come from a stream of their own.
        if layer == Some(0) {
            self.begin_step();
        }
    }

    fn open(&mut self, shares: &[(&Share, u32)], label: &'static str) -> ProtocolResult<Vec<Wire>> {
        self.at(label);
        let mut materialized = Vec::with_capacity(shares.len());
        for (share, bits) in shares {
            let share = self.materialized(share)?;
            self.record(label, &share);
            materialized.push((share, *bits));
        }
        let shares: Vec<(&Share, u32)> = materialized
            .iter()
            .map(|(share, bits)| (share.as_ref(), *bits))
            .collect();
        Ok(self.exchange_masked(&shares, &[], label)?.0)
    }

    fn open_bounded(
        &mut self,
        share: &Share,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Wire> {
        // Opening fewer bits asks for corrections later: worth it where bytes count.
        let bits = if self.many(share.len()) {
            bits
        } else {
            share.bits
        };
        Ok(self.open(&[(share, bits)], label)?.remove(0))
    }

    fn reveal_to_e1(
        &mut self,
        share: &Share,
        bits: u32,
        maps: &[MapId],
        label: &'static str,
    ) -> ProtocolResult<(Share, Vec<Option<Share>>)> {
        self.at(label);
        self.record(label, share);
        // Nothing of the server's multiplies it, so nothing is revealed.
        if !self.has_private(maps) {
            return Ok((share.clone(), vec![None; maps.len()]));
        }
        let x = self.materialized(share)?.into_owned();
        self.give(PendingReveal { x, late: None }, bits, maps, label)
    }

    fn truncate_and_reveal(
        &mut self,
        x: &Share,
        truncation: Truncation,
        maps: &[MapId],
        labels: Labels,
    ) -> ProtocolResult<(Share, Vec<Option<Share>>)> {
        // Exact rounding knows its result only after the comparison. Under stochastic rounding E0
        // sends the MSBs with the reveal.
        if self.rounds_exactly() || !self.has_private(maps) {
            let x = Engine::truncate(self, x, truncation, labels.inner)?;
            return self.reveal_to_e1(&x, truncation.to, maps, labels.outer);
        }
        self.at(labels.inner);
        let pending = self.pending_truncation(x, truncation, labels)?;
        self.at(labels.outer);
        self.give(pending, truncation.to, maps, labels.outer)
    }

    fn share(&mut self, wire: &Wire) -> Share {
        Masked::share(self, wire)
    }

    fn rows(&self, share: &Share) -> usize {
        share.rows
    }

    fn cols(&self, share: &Share) -> usize {
        share.cols
    }

    fn add(&mut self, x: &Share, y: &Share) -> Share {
        Masked::add(self, x, y)
    }

    fn sub(&mut self, x: &Share, y: &Share) -> Share {
        Masked::sub(self, x, y)
    }

    fn add_constant(&mut self, x: &Share, constant: u64) -> Share {
        Masked::add_constant(self, x, constant)
    }

    fn add_row(&mut self, x: &Share, row: &[u64]) -> Share {
        Masked::add_row(self, x, row)
    }

    fn scale_columns(&mut self, x: &Share, factors: &[u64]) -> Share {
        Masked::scale_columns(self, x, factors)
    }

    fn add_private_row(&mut self, x: &Share, map: MapId) -> Share {
        if self.spec.is_full_rank() {
            self.add_full_row(x, map)
        } else {
            self.add_own_row(x, map)
        }
    }

    fn scale_constant(&mut self, x: &Share, constant: u64) -> Share {
        Masked::scale_constant(self, x, constant)
    }

    fn reshape(&mut self, x: &Share, cols: usize) -> Share {
        x.linear(|half| half.clone().reshaped(cols))
    }

    fn shift_left(&mut self, x: &Share, bits: u32) -> Share {
        Masked::shift_left(self, x, bits)
    }

    fn linear(&mut self, matrix: &PublicMatrix, x: &Share) -> Share {
        Masked::linear(self, matrix, x)
    }

    fn concat(&mut self, parts: &[&Share]) -> Share {
        Masked::concat(self, parts)
    }

    fn columns(&mut self, x: &Share, first: usize, count: usize) -> Share {
        Masked::columns(self, x, first, count)
    }

    fn wire_columns(&mut self, x: &Wire, first: usize, count: usize) -> Wire {
        Masked::wire_columns(self, x, first, count)
    }

    fn last_row(&mut self, x: &Share) -> Share {
        Masked::last_row(self, x)
    }

    fn wire_last_row(&mut self, x: &Wire) -> Wire {
        Masked::wire_last_row(self, x)
    }

    fn append(&mut self, cache: &mut Option<Wire>, rows: &Wire) {
        Masked::append(self, cache, rows);
    }

    fn rotate(&mut self, x: &Share, rope: &Rope, first_position: usize) -> Share {
        Masked::rotate(self, x, rope, first_position)
    }

    fn square_sum(&mut self, x: &Wire) -> ProtocolResult<Share> {
        self.at("norm.squares");
        let x = self.extend(x)?;
        self.extended_square_sums(&x)
    }

    fn mul(&mut self, x: &Wire, y: &Wire) -> ProtocolResult<Share> {
        self.at("products");
        Ok(Masked::mul(self, x, y))
    }

    fn scale_rows(&mut self, x: &Wire, scale: &Wire) -> ProtocolResult<Share> {
        let cols = x.cols;
        self.at("norm.scale");
        let x = self.extend(x)?;
        self.mul_extended(&x, scale, |i| i / cols)
    }

    fn scores(
        &mut self,
        queries: &Wire,
        keys: &Wire,
        attention: &Attention<'_>,
    ) -> ProtocolResult<Share> {
        self.at("attention.scores");
        Ok(Masked::scores(self, queries, keys, attention))
    }

    fn add_key_bias(&mut self, scores: &Share, bias: &Wire, attention: &Attention<'_>) -> Share {
        Masked::add_key_bias(self, scores, bias, attention)
    }

    fn weighted_values(
        &mut self,
        weights: &Wire,
        values: &Wire,
        attention: &Attention<'_>,
    ) -> ProtocolResult<Share> {
        self.at("attention.mix");
        Ok(Masked::weighted_values(self, weights, values, attention))
    }

    fn scale_heads(
        &mut self,
        x: &Wire,
        scale: &Wire,
        attention: &Attention<'_>,
    ) -> ProtocolResult<Share> {
        self.at("attention.divide");
        let x = self.extend(x)?;
        self.mul_extended(&x, scale, head_scalar_index(attention))
    }

    fn ragged_max(
        &mut self,
        x: &Share,
        lens: &[usize],
        label: &'static str,
    ) -> ProtocolResult<Share> {
        self.at(label);
        let x = self.materialized(x)?;
        Masked::ragged_max(self, &x, lens, label)
    }

    fn ragged_rsub(&mut self, x: &Share, scalar: &Share, lens: &[usize]) -> Share {
        Masked::ragged_rsub(self, x, scalar, lens)
    }

    fn ragged_sum(&mut self, x: &Share, lens: &[usize]) -> Share {
        Masked::ragged_sum(self, x, lens)
    }

    fn truncate(
        &mut self,
        x: &Share,
        truncation: Truncation,
        label: &'static str,
    ) -> ProtocolResult<Share> {
        self.at(label);
        let out = Masked::truncate(self, x, truncation, label)?;
        self.record(label, &out);
        Ok(out)
    }

    fn exp_neg(&mut self, y: &Share, out_bits: u32, label: &'static str) -> ProtocolResult<Share> {
        self.at(label);
        Masked::tabulated_share(self, y, &tables().exp, out_bits, label)
    }

    fn exp_clipped(
        &mut self,
        y: &Share,
        out_bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Share> {
        self.at(label);
        Masked::tabulated_share(self, y, &approx_tables().exp, out_bits, label)
    }

    fn relu(&mut self, x: &Share, bits: u32, label: &'static str) -> ProtocolResult<Share> {
        self.at(label);
        let out = Masked::relu(self, x, bits, label)?;
        self.record(label, &out);
        Ok(out)
    }

    fn gate(&mut self, x: &Wire, gate: Gate<'_>, label: &'static str) -> ProtocolResult<Share> {
        self.at(label);
        self.tabulated(x, None, gate.0, x.bits, label)
    }

    fn truncate_gate(
        &mut self,
        x: &Share,
        gate: Gate<'_>,
        truncation: Truncation,
        labels: Labels,
    ) -> ProtocolResult<Share> {
        self.at(labels.inner);
        let x = Masked::truncate(self, x, truncation, labels.inner)?;
        self.record(labels.inner, &x);
        self.record(labels.inner, &x);
        self.gate_of_share(&x, gate.0, labels)
    }

    fn gated_product(
        &mut self,
        x: &Share,
        gate: Gate<'_>,
        truncation: Truncation,
        labels: Labels,
    ) -> ProtocolResult<Share> {
        Masked::gated_product(self, x, gate.0, truncation, labels)
    }

    fn piecewise(
        &mut self,
        s: &Share,
        table: &Piecewise,
        label: &'static str,
    ) -> ProtocolResult<Share> {
        self.at(label);
        let out = Masked::piecewise(self, s, table, label)?;
        let out = self.materialized(&out)?.into_owned();
        self.record(label, &out);
        Ok(out)
    }

    fn scale_rows_piecewise(
        &mut self,
        x: &Wire,
        s: &Share,
        table: &Piecewise,
        labels: Labels,
    ) -> ProtocolResult<Share> {
        self.at(labels.inner);
        if self.many(x.len()) {
            let factors = Engine::piecewise(self, s, table, labels.inner)?;
            let factors = self.open(&[(&factors, 64)], labels.outer)?.remove(0);
            return self.scale_rows(x, &factors);
        }
        let wire = self
            .exchange(&[(s, table.ring_bits)], &[], labels.inner)?
            .0
            .remove(0);
        let (factors, out) =
            self.times_piecewise(Factor::Open(x), |i| i / x.cols, &wire, table, labels.inner)?;
        self.record(labels.inner, &factors);
        self.record(labels.outer, &factors);
        Ok(out)
    }

    fn piecewise_sums(
        &mut self,
        x: &Wire,
        lens: &[usize],
        table: &Piecewise,
        label: &'static str,
    ) -> ProtocolResult<Share> {
        self.at(label);
        let sums = self.sums_of_wire(x, lens, table.ring_bits);
        let out = self.piecewise_of_wire(&sums, table, label)?;
        let out = self.materialized(&out)?.into_owned();
        self.record(label, &out);
        Ok(out)
    }

    fn add_noise(&mut self, x: &Share, scale: f64) -> Share {
        Masked::add_noise(self, x, scale)
    }

    fn below_largest(
        &mut self,
        x: &Share,
        keep: usize,
        label: &'static str,
    ) -> ProtocolResult<Share> {
        self.at(label);
        let out = Masked::below_largest(self, x, keep, label)?;
        self.record(label, &out);
        Ok(out)
    }

    fn scale_heads_piecewise(
        &mut self,
        x: &Share,
        weights: &Wire,
        table: &Piecewise,
        attention: &Attention<'_>,
        labels: Labels,
    ) -> ProtocolResult<Share> {
        // For many elements the factors are opened: a round more, fewer corrections.
        if self.many(x.len()) {
            let factors = self.piecewise_sums(weights, &attention.lens(), table, labels.inner)?;
            let wires = self.open(&[(x, WEIGHTED_BITS), (&factors, 64)], labels.outer)?;
            return self.scale_heads(&wires[0], &wires[1], attention);
        }
        self.at(labels.inner);
        let sums = self.sums_of_wire(weights, &attention.lens(), table.ring_bits);
        let row_of = head_scalar_index(attention);
        let x = self.materialized(x)?;
        let (factors, out) =
            self.times_piecewise(Factor::Share(&x), row_of, &sums, table, labels.inner)?;
        self.record(labels.inner, &factors);
        self.record(labels.outer, &x);
        self.record(labels.outer, &factors);
        Ok(out)
    }

    fn argmax_to_client(&mut self, x: &Share, label: &'static str) -> ProtocolResult<Option<u32>> {
        self.at(label);
        let x = self.materialized(x)?;
        Masked::argmax_to_client(self, &x, label)
    }

    fn reveal_to_client(
        &mut self,
        x: &Share,
        bits: u32,
        label: &'static str,
    ) -> ProtocolResult<Option<Vec<u64>>> {
        let x = self.materialized(x)?;
        self.record(label, &x);
        Masked::reveal_to_client(self, &x, bits, label)
    }
}
