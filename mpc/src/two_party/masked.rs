//! Products of values that were opened under masks: local, but for what was made ahead.

use marill_net::Channel;
use marill_numeric::{RingTensor, ring::matmul_transposed};
use marill_ot::Source;
use marill_two_party::Party;

use crate::{
    engine::Attention,
    error::ProtocolResult,
    kernels::{attention_scores, attention_values},
    spec::{MapId, MapSpec, ProgramSpec},
    two_party::{
        Gates, Masks, Opened, Plan, TwoParty, Wire,
        jobs::{AttendJob, Attends, Job, ScaleJob, SquareJob},
    },
};

impl<C: Channel, S: Source> TwoParty<C, S> {
    /// What runs this program over masks, at this party.
    pub(super) fn planner(&self, spec: &ProgramSpec) -> TwoParty {
        let mut planner = TwoParty::new(spec, Gates::count(), None, self.factor_bits)
            .with_products(self.products);
        planner.masks = Masks::Plan(Plan::new(Some(self.gates.party())));
        planner.gates.piece = self.gates.piece;
        planner.token_balance = self.token_balance;
        planner.begun = true;
        planner
    }

    /// Opens shares under masks, modulo `2^bits` each. One round.
    pub(super) fn open_masked(
        &mut self,
        shares: &[(&RingTensor, u32)],
        label: &'static str,
    ) -> ProtocolResult<Vec<Wire>> {
        let mut wires = Vec::with_capacity(shares.len());
        let mut list = Vec::with_capacity(shares.len());
        for (share, bits) in shares {
            // Only these bits of the value count.
            let mut share = (*share).clone();
            share.bits = share.bits.min(*bits);
            let mask = match &mut self.masks {
                Masks::Plan(plan) => plan.mask(&share),
                _ => self.next_mask()?,
            };
            // This party's part of x + r.
            list.push((share.bits, (&share + &mask).data));
            wires.push((share, mask));
        }
        let sums = self.gates.at(label).open(&list)?;
        let opened = wires.into_iter().zip(sums).map(|((share, mask), sum)| {
            let sum = share.with_data(sum);
            let opened = Some(Opened { sum, mask });
            Wire { share, opened }
        });
        Ok(opened.collect())
    }

    pub(super) fn masked_scores(
        &mut self,
        queries: &Wire,
        keys: &Wire,
        a: &Attention<'_>,
    ) -> ProtocolResult<Option<RingTensor>> {
        let total = a.lens().iter().sum();
        self.masked_product([queries, keys], a, Attends::Scores, [1, total])
    }

    pub(super) fn masked_values(
        &mut self,
        weights: &Wire,
        values: &Wire,
        a: &Attention<'_>,
    ) -> ProtocolResult<Option<RingTensor>> {
        let shape = [a.rows, a.num_attention_heads * a.head_dim];
        self.masked_product([weights, values], a, Attends::Values, shape)
    }

    /// `f(x, y)` of one of two bilinear functions, if both were opened.
    fn masked_product(
        &mut self,
        [x, y]: [&Wire; 2],
        a: &Attention<'_>,
        kind: Attends,
        [rows, cols]: [usize; 2],
    ) -> ProtocolResult<Option<RingTensor>> {
        let (Some(x), Some(y)) = (&x.opened, &y.opened) else {
            return Ok(None);
        };
        let f = match kind {
            Attends::Scores => attention_scores,
            Attends::Values => attention_values,
        };
        let bits = x.sum.bits.min(y.sum.bits);
        if let Masks::Plan(plan) = &mut self.masks {
            // Of masks in place of values: what the step will take.
            plan.attend(AttendJob {
                layer: self.layer,
                kind,
                bits,
                own: plan.own(rows * cols, || f(&x.mask.data, &y.mask.data, a)),
                left: x.mask.clone(),
                right: y.mask.clone(),
                groups: a.groups.to_vec(),
                num_attention_heads: a.num_attention_heads,
                num_key_value_heads: a.num_key_value_heads,
                head_dim: a.head_dim,
                first: a.first,
                rows: a.rows,
                causal: a.causal,
            });
            return Ok(Some(RingTensor::new(
                rows,
                cols,
                bits,
                vec![0; rows * cols],
            )));
        }
        let shape = RingTensor::new(rows, cols, bits, Vec::new());
        let f = |x: &RingTensor, y: &RingTensor| f(&x.data, &y.data, a);
        self.unmasked(&shape, [x, y], f).map(Some)
    }

    /// `f(x, y)` of a bilinear `f`, from what was opened and shares of `f` of the masks.
    fn unmasked(
        &mut self,
        shape: &RingTensor,
        [x, y]: [&Opened; 2],
        f: impl Fn(&RingTensor, &RingTensor) -> Vec<u64>,
    ) -> ProtocolResult<RingTensor> {
        // Shares of r·s.
        let mut out = shape.with_data(self.next_product()?);
        // (x + r)·(y + s) - (x + r)·s - r·(y + s) + r·s; E0 adds the first.
        let part = match self.gates.party() {
            Party::E0 => &y.sum - &y.mask,
            Party::E1 => -&y.mask,
        };
        out += f(&x.sum, &part).as_slice();
        // r·(y + s), of this party's r.
        Ok(&out - &shape.with_data(f(&x.mask, &y.sum)))
    }

    /// The sum of squares of each row, if it was opened.
    pub(super) fn masked_squares(&mut self, x: &Wire) -> ProtocolResult<Option<RingTensor>> {
        let Some(Opened { sum, mask }) = &x.opened else {
            return Ok(None);
        };
        let rows = |x: &RingTensor, y: &RingTensor| -> Vec<u64> {
            let dot = |i| marill_numeric::ring::dot(x.row(i), y.row(i));
            (0..x.rows).map(dot).collect()
        };
        if let Masks::Plan(plan) = &mut self.masks {
            plan.note(Job::Squares(SquareJob {
                layer: self.layer,
                own: plan.own(mask.rows, || rows(mask, mask)),
                mask: mask.clone(),
            }));
            return Ok(Some(RingTensor::new(
                sum.rows,
                1,
                sum.bits,
                vec![0; sum.rows],
            )));
        }
        let mut out = RingTensor::new(sum.rows, 1, sum.bits, self.next_product()?);
        // (x + r)² - 2·(x + r)·r + r²; E0 adds the first.
        if self.gates.party() == Party::E0 {
            out += rows(sum, sum).as_slice();
        }
        let crossed = out.with_data(rows(sum, mask)).shifted_left(1);
        Ok(Some(&out - &crossed))
    }

    /// Elements times the scalars of their rows or heads, if both were opened.
    pub(super) fn masked_scale(
        &mut self,
        x: &Wire,
        scale: &Wire,
        scalar: impl Fn(usize) -> usize,
    ) -> ProtocolResult<Option<RingTensor>> {
        let (Some(x), Some(scale)) = (&x.opened, &scale.opened) else {
            return Ok(None);
        };
        let bits = x.sum.bits.min(scale.sum.bits);
        let product = |x: &RingTensor, scale: &RingTensor| -> Vec<u64> {
            let scaled = |(i, v): (usize, &u64)| v.wrapping_mul(scale.data[scalar(i)]);
            x.data.iter().enumerate().map(scaled).collect()
        };
        let shape = RingTensor::new(x.sum.rows, x.sum.cols, bits, Vec::new());
        if let Masks::Plan(plan) = &mut self.masks {
            let mut elements = vec![Vec::new(); scale.mask.len()];
            // Which elements each scalar meets.
            (0..x.mask.len()).for_each(|i| elements[scalar(i)].push(i));
            plan.note(Job::Scale(ScaleJob {
                layer: self.layer,
                bits,
                own: plan.own(x.mask.len(), || product(&x.mask, &scale.mask)),
                mask: x.mask.data.clone(),
                scalars: scale.mask.data.clone(),
                elements,
            }));
            return Ok(Some(shape.with_data(vec![0; x.mask.len()])));
        }
        self.unmasked(&shape, [x, scale], product).map(Some)
    }

    /// `B·(A·x)` of every map that has factors, of rows that E1 sees masked. One message of E0's.
    pub(super) fn masked_updates(
        &mut self,
        x: &RingTensor,
        maps: &[MapId],
    ) -> ProtocolResult<Vec<Option<RingTensor>>> {
        let spec = |map: &MapId| self.maps[map.index()];
        let with: Vec<MapId> = maps
            .iter()
            .filter(|map| self.whole || spec(map).rank > 0)
            .copied()
            .collect();
        let specs: Vec<MapSpec> = with.iter().map(spec).collect();
        if with.is_empty() {
            return Ok(maps.iter().map(|_| None).collect());
        }
        let updates = match &mut self.masks {
            Masks::Plan(plan) => {
                // E0 will say x + r.
                plan.update(&specs, with.clone(), self.whole, x);
                let told = [(x.bits, x.data.clone())];
                self.gates
                    .at("adapter")
                    .tell_server(marill_ot::Phase::Online, &told)?;
                let zeros = specs.iter().map(|map| vec![0; x.rows * map.rows]);
                zeros.collect()
            }
            _ => self.live_updates(x, &with, &specs)?,
        };
        let shares = specs.iter().zip(updates);
        let mut shares = shares.map(|(map, data)| RingTensor::new(x.rows, map.rows, x.bits, data));
        let of = |map: &MapId| with.contains(map).then(|| shares.next()).flatten();
        Ok(maps.iter().map(of).collect())
    }

    fn live_updates(
        &mut self,
        x: &RingTensor,
        maps: &[MapId],
        specs: &[MapSpec],
    ) -> ProtocolResult<Vec<Vec<u64>>> {
        let made = self.next_update()?;
        let outer = if made.outer.is_empty() {
            x.clone()
        } else {
            x + &x.with_data(made.outer)
        };
        let told = [(x.bits, outer.data)];
        let told = self
            .gates
            .at("adapter")
            .tell_server(marill_ot::Phase::Online, &told)?;
        // What is shared of B·t is taken off.
        let negated = made.updates.into_iter().map(|update| {
            let minus = update.into_iter().map(u64::wrapping_neg);
            minus.collect::<Vec<u64>>()
        });
        let mut shares: Vec<Vec<u64>> = negated.collect();
        let (Some(told), Some(private)) = (told, &self.private) else {
            return Ok(shares);
        };
        let seen = x + &x.with_data(told.into_iter().flatten().collect());
        if self.whole {
            // W·(x + r).
            for (map, share) in maps.iter().zip(&mut shares) {
                let product = private.full[map.index()].matrix.par_apply(&seen.data);
                let sums = share.iter_mut().zip(product);
                sums.for_each(|(share, product)| *share = share.wrapping_add(product));
            }
            return Ok(shares);
        }
        // A·(x + r) - a_1 + (t - a_0), which is A·x + t, and B of that.
        let rank: usize = specs.iter().map(|map| map.rank).sum();
        let inner = RingTensor::new(x.rows, rank, x.bits, made.inner);
        let mut first = 0;
        for ((map, spec), share) in maps.iter().zip(specs).zip(&mut shares) {
            let lora = &private.lora[map.index()];
            // A·(x + r).
            let down = seen.times_transposed(&lora.a);
            let down = &down + &inner.columns(first, spec.rank);
            // B·(A·x + t).
            let up = matmul_transposed(&down.data, &lora.b, spec.rank);
            let sums = share.iter_mut().zip(up);
            sums.for_each(|(share, up)| *share = share.wrapping_add(up));
            first += spec.rank;
        }
        Ok(shares)
    }
}
