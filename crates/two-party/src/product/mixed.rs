//! Products of shared values of different widths, as integers.
//!
//! # Functionality
//! Of `x` and `y`, shared modulo `2^x.bits` and `2^y.bits` and each read as its [`Reading`] says:
//! additive shares of the integer `x·y` modulo `2^out`, for any `out` up to 64 that is no narrower
//! than an operand. [`marill_numeric::integer::mixed_product`].
//!
//! # Construction
//! SIRNN, S&P '21, section III-C, changed: there both operands' wraps are multiplexed; here `x` is
//! extended to `out` bits, which costs a conversion instead of a multiplexer, and then `x·y =
//! x·(y_0 + y_1) - 2^y.bits·w·x - bias·x`, with `w` the wrap of the moved `y`. Two cross terms, in
//! which the bits of `y` choose ([`super`]), and a multiplexer of `x` by `w` share one round; both
//! wraps are compared at once.
//!
//! # Cost
//! Both comparisons, `out - x.bits` bits for the extension, `2(out - y.bits + 1)` for the
//! multiplexer, `2·Σ_{i < y.bits} (out - i + 1)` for the cross terms: 1,046 bits for a signed
//! product 16x16→32, where SIRNN's code sends 9,120. Rounds: those of the wider comparison and two.
//! `y` is the narrower one where there is a choice.
//!
//! # Security
//! Nothing is sent but messages of comparisons and of correlated transfers.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    Bits, Needs, OtError, Party, Session, Source,
    transfer::{Cot, cot_needs, cots},
};

use super::{add_up, chooses, message_bits, sends};
use crate::{
    Cost, Extend, Multiplex, Radix, Reading, Run, ToRing, at_first,
    compare::{
        carry_inputs, top_bits,
        tree::{Plan, Segment},
    },
    convert::BitProduct,
    extend::or,
};

/// Width of a factor and what it stands for.
#[derive(Debug, Clone, Copy)]
pub struct Factor {
    pub bits: u32,
    pub reading: Reading,
}

/// `x·y` of values of different widths; the bits of `y` choose.
#[derive(Debug, Clone, Copy)]
pub struct MixedProduct {
    pub x: Factor,
    pub y: Factor,
    pub out: u32,
    pub radix: Radix,
}

/// A factor's wrap on its way to the last round.
struct Wraps {
    /// `x` in the ring of the result.
    x: Vec<u64>,
    /// XOR shares of the wrap of `y`, where it shows.
    y: Option<Bits>,
}

impl MixedProduct {
    fn extension(&self) -> Extend {
        Extend {
            from: self.x.bits,
            to: self.out,
            reading: self.x.reading,
            radix: self.radix,
        }
    }

    /// Whether a factor's wrap shows in the result.
    fn wraps(&self, factor: Factor) -> bool {
        factor.bits < self.out
    }

    /// Factors whose wrap is compared.
    fn compared(&self) -> Vec<Factor> {
        let factors = [self.x, self.y].into_iter();
        factors
            .filter(|factor| self.wraps(*factor) && factor.reading.compares())
            .collect()
    }

    fn plan(&self) -> Option<Plan> {
        let compared = self.compared();
        let segments = compared.iter().map(|f| Segment::greater(f.bits));
        let segments: Vec<Segment> = segments.collect();
        (!segments.is_empty()).then(|| Plan::new(self.radix, &segments))
    }

    fn conversion(&self) -> ToRing {
        let bits = self.out - self.x.bits;
        ToRing { bits }
    }

    fn multiplex(&self) -> Multiplex {
        let bits = self.out - self.y.bits;
        Multiplex { bits }
    }

    /// Additive shares of the products.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When a factor is wider than the result, or that than 64 bits.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        x: &[u64],
        y: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        assert!(
            self.x.bits.max(self.y.bits) <= self.out && self.out <= 64,
            "{} by {} bits in {}",
            self.x.bits,
            self.y.bits,
            self.out
        );
        assert_eq!(x.len(), y.len(), "as many values as factors");
        session.ensure(&self.needs(x.len()))?;
        let x = self.x.reading.moved(session, x, self.x.bits);
        let y = self.y.reading.moved(session, y, self.y.bits);
        let wraps = self.wraps_of(session, &x, &y)?;
        self.terms(session, &wraps, &y)
    }

    /// The comparisons, then `x` in the ring of the result.
    fn wraps_of<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        x: &[u64],
        y: &[u64],
    ) -> Run<Wraps> {
        let mut compared = match self.plan() {
            Some(plan) => {
                let mut planes = Vec::new();
                for (factor, moved) in [(self.x, x), (self.y, y)] {
                    if self.wraps(factor) && factor.reading.compares() {
                        let inputs = carry_inputs(session, moved, factor.bits);
                        planes.extend(Bits::planes(&inputs, factor.bits));
                    }
                }
                plan.run_on(session, &planes)?
            }
            None => Vec::new(),
        }
        .into_iter()
        .map(|root| root.greater.expect("asked for"));
        let x_wraps = self.wraps(self.x);
        let y_wraps = self.wraps(self.y);
        let x_wrap = (x_wraps && self.x.reading.compares()).then(|| compared.next());
        let y_wrap = (y_wraps && self.y.reading.compares()).then(|| compared.next());
        let [x_wrap, y_wrap] = [x_wrap.flatten(), y_wrap.flatten()];
        // One round of transfers: the conversion of one wrap, products of top bits.
        let x_top = x_wrap.clone().unwrap_or_else(|| top_bits(x, self.x.bits));
        let y_top = top_bits(y, self.y.bits);
        let x_values = self.conversion().values(&x_top);
        let y_values = self.conversion().values(&y_top);
        let mut list: Vec<Cot<'_>> = Vec::new();
        if let Some(wrap) = &x_wrap {
            list.extend(self.conversion().cots(session, wrap, &x_values));
        } else if x_wraps {
            list.push(self.extension().either(session, &x_top, &x_values));
        }
        let conversions = list.len();
        if y_wraps && y_wrap.is_none() {
            list.push(BitProduct { bits: 1 }.cot(session, &y_top, &y_values));
        }
        let shares = cots(session, "wraps", &list)?;
        let (converted, both) = shares.split_at(conversions);
        let x = match (&x_wrap, converted.first()) {
            (Some(_), _) => {
                let wrap = self.conversion().finish(&x_values, converted);
                self.extension().finished(session, x, &wrap)
            }
            (None, Some(products)) => {
                let wrap = or(&x_values, products);
                self.extension().finished(session, x, &wrap)
            }
            (None, None) => {
                let bias = at_first(session, self.x.reading.bias(self.x.bits), 0);
                x.iter().map(|x| x.wrapping_sub(bias)).collect()
            }
        };
        // Modulo 2 a difference is an XOR.
        let either = both
            .first()
            .map(|product| Bits::from_fn(y.len(), |i| y_values[i] ^ product[i]));
        Ok(Wraps {
            x,
            y: y_wrap.or(either),
        })
    }

    /// Cross terms and the multiplexer, in one round.
    fn terms<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        wraps: &Wraps,
        y: &[u64],
    ) -> Run<Vec<u64>> {
        let Self { out, .. } = *self;
        let x = &wraps.x;
        let planes = Bits::planes(y, self.y.bits);
        let mut list: Vec<Cot<'_>> = sends(out, self.y.bits, x).collect();
        let mut own: Vec<Cot<'_>> = chooses(out, &planes).collect();
        // What E0 sends goes first.
        if session.party() == Party::E1 {
            std::mem::swap(&mut list, &mut own);
        }
        list.append(&mut own);
        let signed = match &wraps.y {
            Some(wrap) => self.multiplex().signed(wrap, x),
            None => Vec::new(),
        };
        if let Some(wrap) = &wraps.y {
            list.extend(self.multiplex().cots(session, wrap, &signed));
        }
        let shares = cots(session, "mixed product", &list)?;
        let bias = self.y.reading.bias(self.y.bits);
        let own = x.iter().zip(y);
        // E1's share of `y` has no bias of its own: each takes its `x` times all of it off.
        let mut sums: Vec<u64> = own
            .map(|(x, y)| x.wrapping_mul(y.wrapping_sub(bias)))
            .collect();
        let width = self.y.bits as usize;
        add_up(&mut sums, &shares[..width]);
        add_up(&mut sums, &shares[width..2 * width]);
        if let Some(wrap) = &wraps.y {
            let wrapped = self.multiplex().finish(wrap, x, &shares[2 * width..]);
            for (sum, wrapped) in sums.iter_mut().zip(wrapped) {
                *sum = sum.wrapping_sub(wrapped << self.y.bits);
            }
        }
        sums.iter_mut().for_each(|sum| *sum &= low_mask(out));
        Ok(sums)
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = self.plan().map_or_else(Needs::none, |plan| plan.needs(n));
        if self.wraps(self.x) {
            if self.x.reading.compares() {
                needs.merge(&self.conversion().needs(n));
            } else {
                needs.merge(&BitProduct::needs(n));
            }
        }
        if self.wraps(self.y) {
            if !self.y.reading.compares() {
                needs.merge(&BitProduct::needs(n));
            }
            needs.merge(&self.multiplex().needs(n));
        }
        for sender in [Party::E0, Party::E1] {
            cot_needs(&mut needs, sender, n * self.y.bits as usize);
        }
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let mut cost = self.plan().map_or_else(Cost::none, |plan| plan.cost(n));
        let mut wraps = [0; 2];
        let mut add = |bits: [usize; 2]| {
            wraps[0] += n * bits[0];
            wraps[1] += n * bits[1];
        };
        if self.wraps(self.x) {
            let bits = self.out - self.x.bits;
            add(if self.x.reading.compares() {
                self.conversion().message_bits()
            } else {
                BitProduct { bits }.message_bits()
            });
        }
        if self.wraps(self.y) && !self.y.reading.compares() {
            add(BitProduct { bits: 1 }.message_bits());
        }
        cost.exchange(wraps);
        let [sent, chosen] = message_bits(self.out, self.y.bits);
        let wrap = if self.wraps(self.y) {
            self.multiplex().message_bits()[0]
        } else {
            0
        };
        cost.exchange([n * (sent + chosen + wrap); 2]);
        cost
    }
}
