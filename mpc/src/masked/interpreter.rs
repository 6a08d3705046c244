//! The masked-wire engine as an interpreter of secure programs: each operation of [`Engine`] and
//! the gate behind it.

use marill_numeric::{PublicMatrix, tables::Piecewise};

use crate::{
    engine::{Attention, Engine, Gate, Step, WEIGHTED_BITS},
    masked::{
        Masked, Share, Wire,
        onehot::{spline::Factor, swiglu::Widths},
        reveal::PendingReveal,
    },
    reference::twin::head_scalar_index,
    spec::Module,
    weights::Rope,
};

impl Masked {
    /// Keeps the own share for a test that compares it with the twin; nothing outside tests.
    #[inline]
    pub(super) fn record(&mut self, label: &'static str, share: &Share) {
        #[cfg(test)]
        self.trace.push((label, share.bits, share.data.clone()));
        let _ = (label, share);
    }
}

impl Masked {
    /// Whether anything is private that a share could be revealed for.
    fn has_private(&self) -> bool {
        self.spec.is_full_rank() || self.rank > 0
    }

    fn give(
        &mut self,
        pending: PendingReveal,
        bits: u32,
        layer: usize,
        modules: &[Module],
        label: &'static str,
    ) -> Step<(Share, Vec<Option<Share>>)> {
        if self.spec.is_full_rank() {
            return self.reveal_and_multiply_private(pending, bits, layer, modules, label);
        }
        self.reveal_and_add_private(pending, bits, layer, modules, label)
    }
}

impl Engine for Masked {
    type Share = Share;
    type Wire = Wire;

    fn input(&mut self, values: Option<&[u64]>, rows: usize, cols: usize, bits: u32) -> Step<Wire> {
        self.at("input");
        self.client_input(values, (rows, cols), bits)
    }

    fn enter_layer(&mut self, layer: Option<usize>) {
        if layer == Some(0) {
            self.begin_step();
        }
    }

    fn open(&mut self, shares: &[(&Share, u32)], label: &'static str) -> Step<Vec<Wire>> {
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

    fn open_bounded(&mut self, share: &Share, bits: u32, label: &'static str) -> Step<Wire> {
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
        layer: usize,
        modules: &[Module],
        label: &'static str,
    ) -> Step<(Share, Vec<Option<Share>>)> {
        self.at(label);
        self.record(label, share);
        if !self.has_private() {
            return Ok((share.clone(), vec![None; modules.len()]));
        }
        let x = self.materialized(share)?.into_owned();
        self.give(PendingReveal { x, late: None }, bits, layer, modules, label)
    }

    fn truncate_and_reveal(
        &mut self,
        x: &Share,
        [shift, in_bits, out_bits]: [u32; 3],
        layer: usize,
        modules: &[Module],
        labels: [&'static str; 2],
    ) -> Step<(Share, Vec<Option<Share>>)> {
        if self.rounds_exactly() || !self.has_private() {
            let x = self.truncate(x, shift, in_bits, out_bits, labels[0])?;
            return self.reveal_to_e1(&x, out_bits, layer, modules, labels[1]);
        }
        self.at(labels[0]);
        let pending = self.pending_truncation(x, shift, in_bits, out_bits, labels)?;
        self.at(labels[1]);
        self.give(pending, out_bits, layer, modules, labels[1])
    }

    fn share(&mut self, wire: &Wire) -> Share {
        self.share_of(wire)
    }

    fn rows(&self, share: &Share) -> usize {
        share.rows
    }

    fn cols(&self, share: &Share) -> usize {
        share.cols
    }

    fn add(&mut self, x: &Share, y: &Share) -> Share {
        self.add_shares(x, y)
    }

    fn sub(&mut self, x: &Share, y: &Share) -> Share {
        self.sub_shares(x, y)
    }

    fn add_constant(&mut self, x: &Share, constant: u64) -> Share {
        self.add_public(x, constant)
    }

    fn add_row(&mut self, x: &Share, row: &[u64]) -> Share {
        self.add_public_row(x, row)
    }

    fn scale_columns(&mut self, x: &Share, factors: &[u64]) -> Share {
        self.times_public_row(x, factors)
    }

    fn add_private_row(&mut self, x: &Share, layer: usize, module: Module) -> Share {
        if self.spec.is_full_rank() {
            self.add_full_row(x, layer, module)
        } else {
            self.add_own_row(x, layer, module)
        }
    }

    fn scale_constant(&mut self, x: &Share, constant: u64) -> Share {
        self.times_public(x, constant)
    }

    fn reshape(&mut self, x: &Share, cols: usize) -> Share {
        Share {
            rows: x.len() / cols,
            cols,
            ..x.clone()
        }
    }

    fn shift_left(&mut self, x: &Share, bits: u32) -> Share {
        self.double(x, bits)
    }

    fn linear(&mut self, matrix: &PublicMatrix, x: &Share) -> Share {
        self.public_product(matrix, x)
    }

    fn concat(&mut self, parts: &[&Share]) -> Share {
        self.side_by_side(parts)
    }

    fn columns(&mut self, x: &Share, first: usize, count: usize) -> Share {
        self.share_columns(x, first, count)
    }

    fn wire_columns(&mut self, x: &Wire, first: usize, count: usize) -> Wire {
        self.columns_of_wire(x, first, count)
    }

    fn last_row(&mut self, x: &Share) -> Share {
        self.last_share_row(x)
    }

    fn wire_last_row(&mut self, x: &Wire) -> Wire {
        self.last_row_of_wire(x)
    }

    fn append(&mut self, cache: &mut Option<Wire>, rows: &Wire) {
        self.append_rows(cache, rows);
    }

    fn rotate(&mut self, x: &Share, rope: &Rope, first_position: usize) -> Share {
        self.rotate_share(x, rope, first_position)
    }

    fn square_sum(&mut self, x: &Wire) -> Step<Share> {
        self.at("norm.squares");
        let x = self.extend(x)?;
        self.extended_square_sums(&x)
    }

    fn mul(&mut self, x: &Wire, y: &Wire) -> Step<Share> {
        self.at("products");
        Ok(self.multiply(x, y))
    }

    fn scale_rows(&mut self, x: &Wire, scale: &Wire) -> Step<Share> {
        let cols = x.cols;
        self.at("norm.scale");
        let x = self.extend(x)?;
        self.multiply_extended(&x, scale, |i| i / cols)
    }

    fn scores(&mut self, queries: &Wire, keys: &Wire, attention: &Attention<'_>) -> Step<Share> {
        self.at("attention.scores");
        Ok(self.score_product(queries, keys, attention))
    }

    fn add_key_bias(&mut self, scores: &Share, bias: &Wire, attention: &Attention<'_>) -> Share {
        self.key_bias(scores, bias, attention)
    }

    fn weighted_values(
        &mut self,
        weights: &Wire,
        values: &Wire,
        attention: &Attention<'_>,
    ) -> Step<Share> {
        self.at("attention.mix");
        Ok(self.weighted_product(weights, values, attention))
    }

    fn scale_heads(&mut self, x: &Wire, scale: &Wire, attention: &Attention<'_>) -> Step<Share> {
        self.at("attention.divide");
        let x = self.extend(x)?;
        self.multiply_extended(&x, scale, head_scalar_index(attention))
    }

    fn ragged_max(&mut self, x: &Share, lens: &[usize], label: &'static str) -> Step<Share> {
        self.at(label);
        let x = self.materialized(x)?;
        self.max_ragged(&x, lens, label)
    }

    fn ragged_rsub(&mut self, x: &Share, scalar: &Share, lens: &[usize]) -> Share {
        self.rsub_ragged(x, scalar, lens)
    }

    fn ragged_sum(&mut self, x: &Share, lens: &[usize]) -> Share {
        self.sum_ragged(x, lens)
    }

    fn truncate(
        &mut self,
        x: &Share,
        shift: u32,
        in_bits: u32,
        out_bits: u32,
        label: &'static str,
    ) -> Step<Share> {
        self.at(label);
        let out = self.truncate_share(x, shift, in_bits, out_bits, label)?;
        self.record(label, &out);
        Ok(out)
    }

    fn exp_neg(&mut self, y: &Share, out_bits: u32, label: &'static str) -> Step<Share> {
        self.at(label);
        self.exp_of_negative(y, out_bits, label)
    }

    fn gate(&mut self, x: &Wire, gate: Gate<'_>, label: &'static str) -> Step<Share> {
        self.at(label);
        self.tabulated(x, None, gate.0, x.bits, label)
    }

    fn truncate_gate(
        &mut self,
        x: &Share,
        gate: Gate<'_>,
        [shift, in_bits, out_bits]: [u32; 3],
        labels: [&'static str; 2],
    ) -> Step<Share> {
        self.at(labels[0]);
        let x = self.truncate_share(x, shift, in_bits, out_bits, labels[0])?;
        self.record(labels[0], &x);
        self.record(labels[0], &x);
        self.gate_of_share(&x, gate.0, labels)
    }

    fn gated_product(
        &mut self,
        x: &Share,
        gate: Gate<'_>,
        [shift, in_bits, out_bits]: [u32; 3],
        labels: [&'static str; 2],
    ) -> Step<Share> {
        self.gated(
            x,
            gate.0,
            Widths {
                shift,
                in_bits,
                out_bits,
            },
            labels,
        )
    }

    fn piecewise(&mut self, s: &Share, table: &Piecewise, label: &'static str) -> Step<Share> {
        self.at(label);
        let out = self.piecewise_of(s, table, label)?;
        let out = self.materialized(&out)?.into_owned();
        self.record(label, &out);
        Ok(out)
    }

    fn scale_rows_piecewise(
        &mut self,
        x: &Wire,
        s: &Share,
        table: &Piecewise,
        labels: [&'static str; 2],
    ) -> Step<Share> {
        self.at(labels[0]);
        if self.many(x.len()) {
            let factors = self.piecewise(s, table, labels[0])?;
            let factors = self.open(&[(&factors, 64)], labels[1])?.remove(0);
            return self.scale_rows(x, &factors);
        }
        let wire = self
            .exchange(&[(s, table.ring_bits)], &[], labels[0])?
            .0
            .remove(0);
        let (factors, out) =
            self.times_piecewise(Factor::Open(x), |i| i / x.cols, &wire, table, labels[0])?;
        labels.iter().for_each(|label| self.record(label, &factors));
        Ok(out)
    }

    fn piecewise_sums(
        &mut self,
        x: &Wire,
        lens: &[usize],
        table: &Piecewise,
        label: &'static str,
    ) -> Step<Share> {
        self.at(label);
        let sums = self.sums_of_wire(x, lens, table.ring_bits);
        let out = self.piecewise_of_wire(&sums, table, label)?;
        let out = self.materialized(&out)?.into_owned();
        self.record(label, &out);
        Ok(out)
    }

    fn add_noise(&mut self, x: &Share, scale: f64) -> Share {
        self.add_own_noise(x, scale)
    }

    fn below_largest(&mut self, x: &Share, keep: usize, label: &'static str) -> Step<Share> {
        self.at(label);
        let out = self.below_kth(x, keep, label)?;
        self.record(label, &out);
        Ok(out)
    }

    fn scale_heads_piecewise(
        &mut self,
        x: &Share,
        weights: &Wire,
        table: &Piecewise,
        attention: &Attention<'_>,
        labels: [&'static str; 2],
    ) -> Step<Share> {
        if self.many(x.len()) {
            let factors = self.piecewise_sums(weights, &attention.lens(), table, labels[0])?;
            let wires = self.open(&[(x, WEIGHTED_BITS), (&factors, 64)], labels[1])?;
            return self.scale_heads(&wires[0], &wires[1], attention);
        }
        self.at(labels[0]);
        let sums = self.sums_of_wire(weights, &attention.lens(), table.ring_bits);
        let row_of = head_scalar_index(attention);
        let x = self.materialized(x)?;
        let (factors, out) =
            self.times_piecewise(Factor::Share(&x), row_of, &sums, table, labels[0])?;
        self.record(labels[0], &factors);
        self.record(labels[1], &x);
        self.record(labels[1], &factors);
        Ok(out)
    }

    fn argmax_to_client(&mut self, x: &Share, label: &'static str) -> Step<Option<u32>> {
        self.at(label);
        let x = self.materialized(x)?;
        self.argmax(&x, label)
    }

    fn reveal_to_client(
        &mut self,
        x: &Share,
        bits: u32,
        label: &'static str,
    ) -> Step<Option<Vec<u64>>> {
        let x = self.materialized(x)?;
        self.record(label, &x);
        self.send_to_client(&x, bits, label)
    }
}
