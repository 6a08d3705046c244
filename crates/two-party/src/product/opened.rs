//! Products whose factors are opened under masks: what is multiplied is random and made before, and
//! a product itself sends the openings alone.
//!
//! # Functionality
//! Of `x` and `y`, signed, below `2^(bits-2)` in magnitude and shared modulo `2^x_bits` and
//! `2^y_bits`: additive shares of the integer `x·y` modulo `2^out`, for any `out` up to 64 that is
//! no narrower than a factor. [`marill_numeric::integer::mixed_product`].
//!
//! # Construction
//! Beaver's triples (CRYPTO '91), with masks as narrow as the factors. Before: uniform `a` of `k`
//! bits, as the integer `ã` that it is as a signed number, and its sign `α`, both in the ring of
//! the result; so for `b`; and the products of these. Then `d = x + 2^(k-2) - a` modulo `2^k` is
//! opened. The moved factor's top bit is zero, so the sum `d + a` wraps if `d` has its top bit set,
//! and else exactly if `a` has: `x + 2^(k-2)` is `d + ã`, or `d - 2^k + ã + 2^k·α`, by a bit of the
//! opened `d`. The product of two such sums is a public combination of what was made before.
//!
//! # Cost
//! `2·(x_bits + y_bits)` bits in one round: 12 bytes for 24x24→44, where a [`MixedProduct`] sends
//! 214. Before: a mixed product of the masks, their extensions and signs.
//!
//! # Security
//! What is opened is a factor under a uniform mask of its whole ring, used once: [`Triples`] are
//! consumed. The rest is a composition. The bit of `d` that selects is public.

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    BitWriter, Bits, Needs, OtError, Phase, Session, Source,
    transfer::{And, and, exchange},
};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Factor, MixedProduct};
use crate::{
    Cost, Extend, Msb, Multiplex, Radix, Reading, Run, ToRing, at_first, conversions,
    conversions_cost,
};

/// `x·y` of signed values with a bit of room, in one round of openings.
#[derive(Debug, Clone, Copy)]
pub struct OpenedProduct {
    pub x_bits: u32,
    pub y_bits: u32,
    pub out: u32,
    pub radix: Radix,
}

/// One factor's masks.
#[derive(Zeroize, ZeroizeOnDrop)]
struct Mask {
    /// Additive shares modulo `2^k`.
    narrow: Vec<u64>,
    /// Of the same as signed integers, in the ring of the result.
    wide: Vec<u64>,
    /// Of their signs, in that ring.
    sign: Vec<u64>,
}

/// Masks of one batch and their products, made before its factors are there.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Triples {
    masks: [Mask; 2],
    /// `ã·b̃`, `α·b̃`, `ã·β` and `α·β`.
    products: [Vec<u64>; 4],
}

/// `2^by` times a value.
fn shifted(value: u64, by: u32) -> u64 {
    value.checked_shl(by).unwrap_or(0)
}

impl OpenedProduct {
    fn factors(&self) -> [u32; 2] {
        [self.x_bits, self.y_bits]
    }

    fn product(&self) -> MixedProduct {
        let [x, y] = self.factors().map(|bits| Factor {
            bits,
            reading: Reading::Signed,
        });
        MixedProduct {
            x,
            y,
            out: self.out,
            radix: self.radix,
        }
    }

    fn parts(&self, from: u32) -> (Msb, Extend) {
        let radix = self.radix;
        let extend = Extend {
            from,
            to: self.out,
            reading: Reading::Signed,
            radix,
        };
        (Msb { bits: from, radix }, extend)
    }

    /// Three signs or products of signs, and two products with one, in the ring of the result.
    fn rings(&self) -> (ToRing, Multiplex) {
        let bits = self.out;
        (ToRing { bits }, Multiplex { bits })
    }

    /// Masks and their products for `n` factors of each kind.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When a factor has less than 2 bits or more than the result, or that more than 64.
    pub fn prepare<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        n: usize,
    ) -> Result<Triples, OtError> {
        let widths = self.factors();
        assert!(
            widths.iter().all(|bits| (2..=self.out).contains(bits)) && self.out <= 64,
            "{widths:?} bits in {}",
            self.out
        );
        session.ensure(&self.prepare_needs(n))?;
        let phase = session.link().enter(Phase::Offline);
        let made = self.made(session, n);
        session.link().enter(phase);
        made
    }

    fn made<C: Channel, S: Source>(&self, session: &mut Session<C, S>, n: usize) -> Run<Triples> {
        let mut prg = Prg::new(&Seed::random(), "masks of products");
        let narrow = self.factors().map(|bits| prg.reduced(n, bits));
        let mut signs = Vec::with_capacity(2);
        let mut wide = Vec::with_capacity(2);
        for (bits, shares) in self.factors().into_iter().zip(&narrow) {
            let (msb, extend) = self.parts(bits);
            signs.push(msb.run(session, shares)?);
            wide.push(extend.run(session, shares)?);
        }
        let both = And {
            bit: &signs[0],
            string: vec![&signs[1]],
        };
        let both: Bits = and(session, "signs of masks", &[both])?.remove(0).remove(0);
        let (to_ring, choice) = self.rings();
        let converted = [&signs[0], &signs[1], &both].map(|bit| (to_ring, bit));
        let chosen = [
            (choice, &signs[0], &wide[1][..]),
            (choice, &signs[1], &wide[0][..]),
        ];
        let [mut rings, mut chosen] = conversions(session, &converted, &chosen)?;
        let whole = self.product().run(session, &narrow[0], &narrow[1])?;
        let both = rings.pop().expect("three were asked for");
        let a_sign = chosen.pop().expect("two were asked for");
        let sign_b = chosen.pop().expect("two were asked for");
        let masks = narrow.into_iter().zip(wide).zip(rings);
        let mut masks = masks.map(|((narrow, wide), sign)| Mask { narrow, wide, sign });
        Ok(Triples {
            masks: [(); 2].map(|()| masks.next().expect("two factors")),
            products: [whole, sign_b, a_sign, both],
        })
    }

    /// Additive shares of the products, with masks of [`Self::prepare`]. One round.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When the factors or the masks differ in number.
    pub fn run_with<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        x: &[u64],
        y: &[u64],
        triples: Triples,
    ) -> Result<Vec<u64>, OtError> {
        let n = x.len();
        assert_eq!(y.len(), n, "as many values as factors");
        assert_eq!(triples.products[0].len(), n, "material of another batch");
        let mut message = BitWriter::new();
        let mut own = Vec::with_capacity(2);
        for (i, shares) in [x, y].into_iter().enumerate() {
            let bits = self.factors()[i];
            let bias = at_first(session, 1 << (bits - 2), 0);
            let masks = shares.iter().zip(&triples.masks[i].narrow);
            let masked = masks.map(|(share, mask)| {
                let moved = share.wrapping_add(bias).wrapping_sub(*mask);
                moved & low_mask(bits)
            });
            let masked: Vec<u64> = masked.collect();
            masked.iter().for_each(|value| message.push(*value, bits));
            own.push(masked);
        }
        let expected = message.len();
        let mut received = exchange(session, "opened factors", message, expected)?;
        for (i, opened) in own.iter_mut().enumerate() {
            let bits = self.factors()[i];
            for value in opened {
                *value = value.wrapping_add(received.take(bits)) & low_mask(bits);
            }
        }
        let first = at_first(session, 1, 0);
        Ok((0..n)
            .map(|i| self.combined([own[0][i], own[1][i]], first, &triples, i))
            .collect())
    }

    /// A share of one product, of both opened factors.
    fn combined(&self, opened: [u64; 2], first: u64, triples: &Triples, i: usize) -> u64 {
        // A factor is what is public of it and what is masked: `ã`, or `ã + 2^k·α`.
        let [x, y] = [0, 1].map(|f| {
            let bits = self.factors()[f];
            let wraps = opened[f] >> (bits - 1);
            let public = opened[f]
                .wrapping_sub(shifted(wraps, bits))
                .wrapping_sub(1 << (bits - 2));
            let mask = &triples.masks[f];
            let sign = shifted(mask.sign[i].wrapping_mul(wraps), bits);
            (public, mask.wide[i].wrapping_add(sign), wraps)
        });
        let [whole, sign_b, a_sign, signs] = [0, 1, 2, 3].map(|k| triples.products[k][i]);
        let terms = [
            (x.0.wrapping_mul(y.0)).wrapping_mul(first),
            x.0.wrapping_mul(y.1),
            y.0.wrapping_mul(x.1),
            whole,
            shifted(sign_b.wrapping_mul(x.2), self.x_bits),
            shifted(a_sign.wrapping_mul(y.2), self.y_bits),
            shifted(signs.wrapping_mul(x.2 & y.2), self.x_bits + self.y_bits),
        ];
        terms.into_iter().fold(0, u64::wrapping_add) & low_mask(self.out)
    }

    /// [`Self::prepare`] and [`Self::run_with`].
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// As those two.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        x: &[u64],
        y: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let triples = self.prepare(session, x.len())?;
        self.run_with(session, x, y, triples)
    }

    /// Transfers of [`Self::prepare`]; a product itself takes none.
    #[must_use]
    pub fn prepare_needs(&self, n: usize) -> Needs {
        let (to_ring, choice) = self.rings();
        let mut needs = self.product().needs(n);
        for bits in self.factors() {
            let (msb, extend) = self.parts(bits);
            needs.merge(&msb.needs(n));
            needs.merge(&extend.needs(n));
            needs.merge(&choice.needs(n));
        }
        needs.add_triples(1, n);
        (0..3).for_each(|_| needs.merge(&to_ring.needs(n)));
        needs
    }

    /// Messages of [`Self::prepare`].
    #[must_use]
    pub fn offline_cost(&self, n: usize) -> Cost {
        let (to_ring, choice) = self.rings();
        let parts = self.factors().map(|bits| self.parts(bits));
        let masks = parts.map(|(msb, extend)| msb.cost(n) + extend.cost(n));
        let mut cost = masks.into_iter().fold(Cost::none(), |all, cost| all + cost);
        cost.exchange([2 * n; 2]);
        cost += conversions_cost(&[(to_ring, n); 3], &[(choice, n); 2]);
        cost + self.product().cost(n)
    }

    /// Messages of [`Self::run_with`].
    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let mut cost = Cost::none();
        cost.exchange([n * (self.x_bits + self.y_bits) as usize; 2]);
        cost
    }
}
