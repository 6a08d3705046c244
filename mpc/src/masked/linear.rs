//! Linear maps, products of wires, and the private LoRA updates.
//!
//! # The private LoRA updates
//! E1 holds `A`, `B`; E0 holds `Â = A + R_A`, `B̂ = B + R_B` with masks that E1 and the dealer can
//! expand. E0 hands `x` over ([`super::opening`]): `[x]_0 = -[r]_0` and `[x]_1 = x + [r]_0`.
//! - E0 sends `v = p + p' - Â·[r]_0` with it (both `p`, `p'` from its own streams). The dealer
//!   sends `c = R_A·[r]_0 - p'`. E1 forms `u_1 = A·[x]_1 + v + c = A·x + p`, so `[u]_0 = -p` is
//!   known to the dealer.
//! - `B·u = B·u_1 - B̂·p + R_B·p`, the last term known to the dealer, which puts it into the next
//!   mask.
//!
//! E1's view is `x + [r]_0`, `v` (uniform by `p'` given `c`) and `c` (uniform by `p'`); jointly
//! they are uniform by `[r]_0`, `p` and `p'`. E0 sees `Â`, `B̂`, one-time pads used for one adapter
//! only. Nothing is truncated between `A` and `B`.

use marill_numeric::{PublicMatrix, ring};

use crate::{
    engine::Attention,
    masked::{Masked, ProtocolError, Role, Share, Wire, byte_width, pack, reveal::PendingReveal},
    reference::twin::{attention_scores, attention_values, ragged, rotate_rows, with_key_bias},
    spec::Module,
    weights::Rope,
};

impl Share {
    fn like(&self, cols: usize, data: Vec<u64>) -> Self {
        Self {
            rows: self.rows,
            cols,
            bits: self.bits,
            data,
            deferred: self.deferred,
        }
    }

    fn map(&self, f: impl Fn(u64) -> u64) -> Self {
        self.like(self.cols, self.data.iter().map(|&v| f(v)).collect())
    }

    fn zip(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
        debug_assert_eq!((self.rows, self.cols), (other.rows, other.cols));
        // At the dealer, one of the two may have deferred something and the other not.
        let at = |data: &[u64], i: usize| data.get(i).copied().unwrap_or(0);
        let n = self.data.len().max(other.data.len());
        let data = (0..n)
            .map(|i| f(at(&self.data, i), at(&other.data, i)))
            .collect();
        let (bits, deferred) = (self.bits.min(other.bits), self.deferred || other.deferred);
        Self {
            rows: self.rows,
            cols: self.cols,
            bits,
            data,
            deferred,
        }
    }
}

pub(super) fn select_columns(data: &[u64], cols: usize, first: usize, count: usize) -> Vec<u64> {
    data.chunks_exact(cols)
        .flat_map(|row| row[first..first + count].iter().copied())
        .collect()
}

fn by_column(x: &Share, row: &[u64], f: impl Fn(u64, u64) -> u64) -> Vec<u64> {
    x.data
        .iter()
        .enumerate()
        .map(|(i, &v)| f(v, row[i % x.cols]))
        .collect()
}

fn tail(data: &[u64], cols: usize) -> Vec<u64> {
    data[data.len().saturating_sub(cols)..].to_vec()
}

impl Wire {
    fn select(&self, rows: usize, cols: usize, f: impl Fn(&[u64]) -> Vec<u64>) -> Self {
        Self::new(
            (rows, cols),
            self.bits,
            [&self.open, &self.mask, &self.mask0].map(|data| f(data)),
        )
    }
}

impl Masked {
    pub(super) fn add_shares(&self, x: &Share, y: &Share) -> Share {
        x.zip(y, u64::wrapping_add)
    }

    pub(super) fn sub_shares(&self, x: &Share, y: &Share) -> Share {
        x.zip(y, u64::wrapping_sub)
    }

    pub(super) fn add_public(&self, x: &Share, constant: u64) -> Share {
        if self.is_first() {
            x.map(|v| v.wrapping_add(constant))
        } else {
            x.clone()
        }
    }

    pub(super) fn add_public_row(&self, x: &Share, row: &[u64]) -> Share {
        let data = if self.is_first() {
            by_column(x, row, u64::wrapping_add)
        } else {
            x.data.clone()
        };
        x.like(x.cols, data)
    }

    pub(super) fn times_public_row(&self, x: &Share, factors: &[u64]) -> Share {
        x.like(x.cols, by_column(x, factors, u64::wrapping_mul))
    }

    /// A row that E1 holds in clear is a share of itself: nothing is sent.
    pub(super) fn add_own_row(&self, x: &Share, layer: usize, module: Module) -> Share {
        match &self.role {
            Role::Evaluator(e) if !e.first => {
                let row = &e.adapter[layer][module as usize].row;
                if row.is_empty() {
                    x.clone()
                } else {
                    x.like(x.cols, by_column(x, row, u64::wrapping_add))
                }
            }
            _ => x.clone(),
        }
    }

    /// E1's share goes to E0, reduced to the width revealed: given the value and E0's share it is
    /// determined.
    pub(super) fn send_to_client(
        &mut self,
        x: &Share,
        bits: u32,
        label: &'static str,
    ) -> Result<Option<Vec<u64>>, ProtocolError> {
        debug_assert!(
            bits.is_multiple_of(8) && x.bits >= bits,
            "whole bytes of a share at least as wide"
        );
        let bytes = byte_width(bits);
        let payload = || {
            let mut payload = Vec::with_capacity(x.len() * bytes + 8);
            pack(&mut payload, &x.data, bytes);
            payload
        };
        let Some(reply) = self.one_way(false, x.len() * bytes, label, payload)? else {
            return Ok(None);
        };
        let theirs = crate::masked::unpack(&reply, bytes);
        let value = |(a, b): (&u64, u64)| {
            marill_numeric::fixed::sign_extend(a.wrapping_add(b), bits) as u64
        };
        Ok(Some(x.data.iter().zip(theirs).map(value).collect()))
    }

    pub(super) fn times_public(&self, x: &Share, constant: u64) -> Share {
        x.map(|v| v.wrapping_mul(constant))
    }

    pub(super) fn double(&self, x: &Share, bits: u32) -> Share {
        x.map(|v| v << bits)
    }

    pub(super) fn public_product(&self, matrix: &PublicMatrix, x: &Share) -> Share {
        let ready = self
            .precomputed()
            .and_then(|precomputed| precomputed.public(matrix, &x.data));
        let data = match ready {
            Some(product) => product,
            None if x.data.is_empty() => Vec::new(),
            None => matrix.par_apply(&x.data),
        };
        x.like(matrix.rows(), data)
    }

    pub(super) fn side_by_side(&self, parts: &[&Share]) -> Share {
        let cols = parts.iter().map(|p| p.cols).sum();
        let mut data = Vec::new();
        if parts.iter().any(|p| !p.data.is_empty()) {
            for i in 0..parts[0].rows {
                for part in parts {
                    match part.data.get(i * part.cols..(i + 1) * part.cols) {
                        Some(row) => data.extend_from_slice(row),
                        None => data.resize(data.len() + part.cols, 0),
                    }
                }
            }
        }
        let bits = parts.iter().map(|p| p.bits).min().unwrap_or(64);
        Share {
            deferred: parts.iter().any(|p| p.deferred),
            ..Share::new(parts[0].rows, cols, bits, data)
        }
    }

    pub(super) fn share_columns(&self, x: &Share, first: usize, count: usize) -> Share {
        x.like(count, select_columns(&x.data, x.cols, first, count))
    }

    pub(super) fn columns_of_wire(&self, x: &Wire, first: usize, count: usize) -> Wire {
        x.select(x.rows, count, |data| {
            select_columns(data, x.cols, first, count)
        })
    }

    pub(super) fn wires_side_by_side(&self, left: &Wire, right: &Wire) -> Wire {
        let join = |a: &[u64], b: &[u64]| -> Vec<u64> {
            let rows = a.chunks_exact(left.cols).zip(b.chunks_exact(right.cols));
            rows.flat_map(|(a, b)| a.iter().chain(b).copied()).collect()
        };
        let parts = [
            (&left.open, &right.open),
            (&left.mask, &right.mask),
            (&left.mask0, &right.mask0),
        ]
        .map(|(a, b)| join(a, b));
        Wire::new((left.rows, left.cols + right.cols), left.bits, parts)
    }

    pub(super) fn last_share_row(&self, x: &Share) -> Share {
        Share {
            rows: 1,
            ..x.like(x.cols, tail(&x.data, x.cols))
        }
    }

    pub(super) fn last_row_of_wire(&self, x: &Wire) -> Wire {
        x.select(1, x.cols, |data| tail(data, x.cols))
    }

    pub(super) fn append_rows(&self, cache: &mut Option<Wire>, rows: &Wire) {
        match cache {
            None => *cache = Some(rows.clone()),
            Some(cache) => {
                cache.rows += rows.rows;
                cache.open.extend_from_slice(&rows.open);
                cache.mask.extend_from_slice(&rows.mask);
                cache.mask0.extend_from_slice(&rows.mask0);
                cache.extended = Default::default();
            }
        }
    }

    pub(super) fn rotate_share(&self, x: &Share, rope: &Rope, first_position: usize) -> Share {
        x.like(x.cols, rotate_rows(&x.data, x.cols, rope, first_position))
    }

    /// The additive share of a wire: `x̂ - [r]_0` at E0, `-[r]_1` at E1.
    pub(super) fn share_of(&self, wire: &Wire) -> Share {
        let data = if self.is_first() {
            wire.open
                .iter()
                .zip(&wire.mask)
                .map(|(x, r)| x.wrapping_sub(*r))
                .collect()
        } else if self.is_evaluator() {
            wire.mask.iter().map(|r| r.wrapping_neg()).collect()
        } else {
            Vec::new()
        };
        Share::new(wire.rows, wire.cols, wire.bits, data)
    }

    /// `Σ` of products of wire elements: `dealer` is the same sum over masks, which is deferred.
    /// Evaluators hold `Σ x̂·[y]_p - ŷ·[r_x]_p`, given as `own`.
    pub(super) fn bilinear(
        &self,
        (rows, cols): (usize, usize),
        bits: u32,
        dealer: impl FnOnce() -> Vec<u64>,
        own: impl FnOnce(&Self) -> Vec<u64>,
    ) -> Share {
        let data = match &self.role {
            Role::Dealer(_) => dealer(),
            Role::Evaluator(_) => own(self),
            Role::Tally(_) => Vec::new(),
        };
        Share {
            deferred: true,
            ..Share::new(rows, cols, bits, data)
        }
    }

    pub(super) fn multiply(&self, x: &Wire, y: &Wire) -> Share {
        let zip = |a: &[u64], b: &[u64]| -> Vec<u64> {
            a.iter().zip(b).map(|(a, b)| a.wrapping_mul(*b)).collect()
        };
        let own = |this: &Self| {
            let (left, right) = (zip(&x.open, &this.share_of(y).data), zip(&y.open, &x.mask));
            left.iter()
                .zip(right)
                .map(|(l, r)| l.wrapping_sub(r))
                .collect()
        };
        self.bilinear(
            (x.rows, x.cols),
            x.bits.min(y.bits),
            || zip(&x.mask, &y.mask),
            own,
        )
    }

    pub(super) fn score_product(&self, q: &Wire, k: &Wire, a: &Attention<'_>) -> Share {
        let own = |this: &Self| {
            let left = attention_scores(&q.open, &this.share_of(k).data, a);
            let right = attention_scores(&q.mask, &k.open, a);
            left.iter()
                .zip(right)
                .map(|(l, r)| l.wrapping_sub(r))
                .collect()
        };
        let cols = a.lens().iter().sum();
        self.bilinear(
            (1, cols),
            q.bits.min(k.bits),
            || attention_scores(&q.mask, &k.mask, a),
            own,
        )
    }

    pub(super) fn weighted_product(&self, w: &Wire, v: &Wire, a: &Attention<'_>) -> Share {
        let own = |this: &Self| {
            let left = attention_values(&w.open, &this.share_of(v).data, a);
            let right = attention_values(&w.mask, &v.open, a);
            left.iter()
                .zip(right)
                .map(|(l, r)| l.wrapping_sub(r))
                .collect()
        };
        let shape = (a.rows, a.num_attention_heads * a.head_dim);
        self.bilinear(
            shape,
            w.bits.min(v.bits),
            || attention_values(&w.mask, &v.mask, a),
            own,
        )
    }

    pub(super) fn key_bias(&self, scores: &Share, bias: &Wire, a: &Attention<'_>) -> Share {
        debug_assert!(!scores.deferred, "scores were truncated");
        if !self.is_evaluator() {
            return scores.clone();
        }
        let bias = self.share_of(bias);
        let data = with_key_bias(&scores.data, &bias.data, &a.lens());
        Share::new(1, scores.cols, scores.bits.min(bias.bits), data)
    }

    pub(super) fn rsub_ragged(&self, x: &Share, scalar: &Share, lens: &[usize]) -> Share {
        debug_assert!(!x.deferred && !scalar.deferred, "both were truncated");
        let mut data = Vec::new();
        if self.is_evaluator() {
            let rows = ragged(&x.data, lens).zip(&scalar.data);
            data.extend(rows.flat_map(|(row, s)| row.iter().map(move |v| s.wrapping_sub(*v))));
        }
        Share::new(1, x.len(), x.bits.min(scalar.bits), data)
    }

    pub(super) fn sum_ragged(&self, x: &Share, lens: &[usize]) -> Share {
        debug_assert!(!x.deferred, "the values were truncated");
        let data = if self.is_evaluator() {
            ragged(&x.data, lens)
                .map(|row| row.iter().fold(0, |a: u64, &b| a.wrapping_add(b)))
                .collect()
        } else {
            Vec::new()
        };
        Share::new(1, lens.len(), x.bits, data)
    }

    /// Sums of a wire's ragged rows modulo `2^bits`: a sum of openings is an opening of the sum,
    /// under the sum of masks.
    pub(super) fn sums_of_wire(&self, x: &Wire, lens: &[usize], bits: u32) -> Wire {
        debug_assert!(bits <= x.bits);
        let modulus = marill_numeric::fixed::low_mask(bits);
        let sums = |data: &[u64]| -> Vec<u64> {
            let sum = |row: &[u64]| row.iter().fold(0, |a: u64, &b| a.wrapping_add(b)) & modulus;
            if data.is_empty() {
                Vec::new()
            } else {
                ragged(data, lens).map(sum).collect()
            }
        };
        Wire::new(
            (1, lens.len()),
            bits,
            [&x.open, &x.mask, &x.mask0].map(|data| sums(data)),
        )
    }

    /// The client's values as a wire whose mask E0 alone holds; with shared inputs and outputs, its
    /// shares opened under masks of both.
    pub(super) fn client_input(
        &mut self,
        values: Option<&[u64]>,
        (rows, cols): (usize, usize),
        bits: u32,
    ) -> Result<Wire, ProtocolError> {
        let n = rows * cols;
        if self.shared_io {
            let data = match values {
                Some(values) if values.len() == n => values.to_vec(),
                _ if self.is_evaluator() => return Err(ProtocolError::MissingInput),
                _ => Vec::new(),
            };
            let (mut wires, _) =
                self.exchange(&[(&Share::new(rows, cols, bits, data), bits)], &[], "input")?;
            return Ok(wires.remove(0));
        }
        let mut wire = Wire::new((rows, cols), bits, Default::default());
        match &mut self.role {
            Role::Tally(_) => {}
            Role::Dealer(dealer) => {
                wire.mask0 = dealer.client_masks(n, bits);
                wire.mask.clone_from(&wire.mask0);
            }
            Role::Evaluator(e) if e.first => {
                let values = values
                    .filter(|v| v.len() == n)
                    .ok_or(ProtocolError::MissingInput)?;
                wire.mask = e.wire_masks(values, bits, (bits, false));
                let modulus = marill_numeric::fixed::low_mask(bits);
                wire.open = values
                    .iter()
                    .zip(&wire.mask)
                    .map(|(x, r)| x.wrapping_add(*r) & modulus)
                    .collect();
            }
            Role::Evaluator(_) => wire.mask = vec![0; n],
        }
        let bytes = byte_width(bits);
        let open = &wire.open;
        let pack_open = || {
            let mut payload = Vec::with_capacity(n * bytes + 8);
            pack(&mut payload, open, bytes);
            payload
        };
        if let Some(payload) = self.one_way(true, n * bytes, "input", pack_open)? {
            wire.open = crate::masked::unpack(&payload, bytes);
        }
        Ok(wire)
    }

    /// Reveals a materialized share to E1 and makes the private LoRA updates of `modules`; see the
    /// module documentation.
    pub(super) fn reveal_and_add_private(
        &mut self,
        pending: PendingReveal,
        bits: u32,
        layer: usize,
        modules: &[Module],
        label: &'static str,
    ) -> Result<(Share, Vec<Option<Share>>), ProtocolError> {
        let (cols, inner) = (pending.x.cols, pending.x.rows * self.rank);
        let masks = self.masks_of_reveal(&pending.x, bits, layer, modules);
        // `p` of every module at E0 and at the dealer; `c` or its E0 half.
        let (mut ps, mut cs, mut note) = (Vec::new(), Vec::new(), Vec::new());
        for &module in modules {
            let a = match &self.role {
                Role::Dealer(dealer) => Some(&dealer.adapter_masks[layer][module as usize].a),
                Role::Evaluator(e) if e.first => Some(&e.adapter[layer][module as usize].a),
                _ => None,
            };
            let product = match (self.precomputed(), a) {
                (_, None) => Vec::new(),
                (precomputed, Some(a)) => precomputed
                    .and_then(|precomputed| precomputed.private(layer, module))
                    .unwrap_or_else(|| ring::matmul_transposed(&masks, a, cols)),
            };
            let c = self.correct(inner, bits, |i| product[i])?;
            let mut p = Vec::new();
            match &mut self.role {
                Role::Dealer(dealer) => p = dealer.client_masks(inner, bits),
                Role::Evaluator(e) if e.first => {
                    let hidden: Vec<u64> = product
                        .iter()
                        .zip(&c)
                        .map(|(y, c)| c.wrapping_sub(*y))
                        .collect();
                    p = e.wire_masks(&hidden, bits, (bits, false));
                    note.extend(hidden.iter().zip(&p).map(|(h, p)| h.wrapping_add(*p)));
                }
                _ => {}
            }
            ps.push(p);
            cs.push(c);
        }
        let notes = (modules.len() * inner, note.as_slice());
        let (share, vs) = self.reveal_under(&masks, pending, bits, notes, label)?;
        let mut updates = Vec::new();
        for (m, &module) in modules.iter().enumerate() {
            let v = vs.get(m * inner..(m + 1) * inner).unwrap_or(&[]);
            updates.push(Some(
                self.private_product(&share, layer, module, &ps[m], &cs[m], v),
            ));
        }
        Ok((share, updates))
    }

    /// What `B` makes of `A·x + p` and `-p`. `R_B·p`, which the dealer knows, is deferred.
    fn private_product(
        &self,
        x: &Share,
        layer: usize,
        module: Module,
        p: &[u64],
        c: &[u64],
        v: &[u64],
    ) -> Share {
        let rank = self.rank;
        let (_, out) = self.spec.shape(module);
        let mut product = Vec::new();
        match &self.role {
            Role::Tally(_) => {}
            Role::Dealer(dealer) => {
                product = ring::matmul_transposed(
                    p,
                    &dealer.adapter_masks[layer][module as usize].b,
                    rank,
                );
            }
            Role::Evaluator(e) => {
                let lora = &e.adapter[layer][module as usize];
                let u = if e.first {
                    p.iter().map(|p| p.wrapping_neg()).collect()
                } else {
                    let mut u = ring::matmul_transposed(&x.data, &lora.a, x.cols);
                    u.iter_mut()
                        .zip(v.iter().zip(c))
                        .for_each(|(u, (v, c))| *u = u.wrapping_add(*v).wrapping_add(*c));
                    u
                };
                product = ring::matmul_transposed(&u, &lora.b, rank);
            }
        }
        Share {
            deferred: true,
            ..Share::new(x.rows, out, x.bits, product)
        }
    }
}
