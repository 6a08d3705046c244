//! Matrix products of shared values of different widths, as integers.
//!
//! # Functionality
//! Of `x`, `rows` by `inner`, and `y`, `inner` by `columns`, both row by row and each read as its
//! [`Reading`](crate::Reading) says: additive shares of the integer product modulo `2^out`, for any
//! `out` up to 64 that is no narrower than a factor. Sums are exact where `out` has `⌈log2 inner⌉`
//! bits more than an element of the product. [`marill_numeric::integer::mixed_matrix`].
//!
//! # Construction
//! SIRNN, S&P '21, section III-C, as [`super::MixedProduct`] has it: `y` is extended to `out` bits
//! once, bits of `x` choose whole rows of it ([`super::Combination`]), one transfer for a bit of an
//! element instead of one for each product, and bits of the wraps of `x` choose them in the same
//! way, signed by each party's own bit. There sums are widened by `⌈log2 inner⌉` bits and cut off
//! afterwards; here `out` says what is wanted.
//!
//! # Cost
//! Extension of `y`, comparisons of `x`, and one round: `2·Σ_{i < x.bits} (columns·(out - i) + 1) +
//! 2(columns·(out - x.bits) + 1)` bits for each element of `x`.
//!
//! # Security
//! Nothing is sent but messages of comparisons and of correlated transfers.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{Bits, Needs, OtError, Party, Session, Source, transfer::cots};

use super::{Combination, Combine, Factor, MAX_WIDTH, combinations, combinations_cost};
use crate::{
    Cost, Extend, Greater, Radix, Run,
    compare::{carry_inputs, top_bits},
    convert::BitProduct,
};

/// The product of a matrix of `rows` by `inner` and one of `inner` by `columns`; the bits of `x`
/// choose.
#[derive(Debug, Clone, Copy)]
pub struct MixedMatrix {
    pub rows: usize,
    pub inner: usize,
    pub columns: usize,
    pub x: Factor,
    pub y: Factor,
    pub out: u32,
    pub radix: Radix,
}

/// What a party brings to the last round: one list of each combination, row by row.
struct Brought {
    /// Scalars of this party, and the peer's rows under them.
    chosen: Vec<[Vec<u64>; 2]>,
    sent: Vec<[Vec<u64>; 2]>,
}

impl MixedMatrix {
    fn extension(&self) -> Extend {
        Extend {
            from: self.y.bits,
            to: self.out,
            reading: self.y.reading,
            radix: self.radix,
        }
    }

    fn greater(&self) -> Greater {
        Greater {
            bits: self.x.bits,
            radix: self.radix,
        }
    }

    /// Whether the wraps of `x` show in the result.
    fn wraps(&self) -> bool {
        self.x.bits < self.out
    }

    fn combination(&self, chooser: Party, bits: u32, chooser_bits: u32) -> Combination {
        Combination {
            chooser,
            bits,
            chooser_bits,
            signed: false,
            count: self.inner,
            width: self.columns,
        }
    }

    /// Cross terms of a row, then its wraps; E1 chooses first.
    fn shapes(&self) -> Vec<Combination> {
        let parties = [Party::E1, Party::E0];
        let mut shapes = parties
            .map(|chooser| self.combination(chooser, self.out, self.x.bits))
            .to_vec();
        if self.wraps() {
            let above = self.out - self.x.bits;
            shapes.extend(parties.map(|chooser| self.combination(chooser, above, 1)));
        }
        shapes
    }

    /// Additive shares of the product, row by row.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When a factor is wider than the result or of another shape, or there are no columns or more
    /// than [`MAX_WIDTH`].
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        x: &[u64],
        y: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let Self {
            rows,
            inner,
            columns,
            out,
            ..
        } = *self;
        assert_eq!(
            [x.len(), y.len()],
            [rows * inner, inner * columns],
            "factors of {rows} by {inner} by {columns}"
        );
        assert!((1..=MAX_WIDTH).contains(&columns), "{columns} columns");
        assert!(self.x.bits <= out && out <= 64, "a factor of the ring");
        session.ensure(&self.needs())?;
        let y = self.extension().run(session, y)?;
        let x = self.x.reading.moved(session, x, self.x.bits);
        let wraps = self.wraps_of(session, &x)?;
        let brought = self.brought(&x, &y, wraps.as_ref());
        let products = self.chosen(session, &brought)?;
        Ok(self.finished(&x, &y, wraps.as_ref(), &products))
    }

    /// XOR shares of the wraps of `x`.
    fn wraps_of<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        x: &[u64],
    ) -> Run<Option<Bits>> {
        if !self.wraps() {
            return Ok(None);
        }
        if self.x.reading.compares() {
            let inputs = carry_inputs(session, x, self.x.bits);
            return self.greater().run(session, &inputs).map(Some);
        }
        let top = top_bits(x, self.x.bits);
        let values: Vec<u64> = (0..top.n()).map(|i| top.get(i)).collect();
        let both = BitProduct { bits: 1 }.cot(session, &top, &values);
        let both = cots(session, "wraps", &[both])?.remove(0);
        // Modulo 2 a difference is an XOR.
        Ok(Some(Bits::from_fn(x.len(), |i| values[i] ^ both[i])))
    }

    /// Scalars and rows of each row's combinations.
    fn brought(&self, x: &[u64], y: &[u64], wraps: Option<&Bits>) -> Brought {
        let mut brought = Brought {
            chosen: Vec::new(),
            sent: Vec::new(),
        };
        for (row, x) in x.chunks_exact(self.inner).enumerate() {
            let bit = |k: usize| wraps.map_or(0, |bits| bits.get(row * self.inner + k));
            let bits = (0..self.inner).map(bit);
            let signed = y.chunks_exact(self.columns).enumerate();
            let signed = signed.flat_map(|(k, y)| {
                let flip = bit(k).wrapping_neg();
                y.iter().map(move |y| (y ^ flip).wrapping_sub(flip))
            });
            brought.chosen.push([x.to_vec(), bits.collect()]);
            brought.sent.push([y.to_vec(), signed.collect()]);
        }
        brought
    }

    fn chosen<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        brought: &Brought,
    ) -> Run<Vec<Vec<u64>>> {
        let party = session.party();
        let shapes = self.shapes();
        let rows = brought.chosen.iter().zip(&brought.sent);
        let list = rows.flat_map(|(chosen, sent)| {
            shapes.iter().enumerate().map(move |(i, shape)| {
                let own = if shape.chooser == party { chosen } else { sent };
                // Two combinations of cross terms, two of wraps.
                let own = &own[i / 2][..];
                Combine { shape: *shape, own }
            })
        });
        combinations(session, "mixed matrix", &list.collect::<Vec<_>>())
    }

    /// Own products, both cross terms, and the wraps taken off.
    fn finished(
        &self,
        x: &[u64],
        y: &[u64],
        wraps: Option<&Bits>,
        products: &[Vec<u64>],
    ) -> Vec<u64> {
        let bias = self.x.reading.bias(self.x.bits);
        let mut sums = Vec::with_capacity(self.rows * self.columns);
        for (row, products) in products.chunks_exact(self.shapes().len()).enumerate() {
            for column in 0..self.columns {
                let own = (0..self.inner).map(|k| {
                    let place = row * self.inner + k;
                    let wrap = wraps.map_or(0, |bits| bits.get(place));
                    let wrapped = wrap.checked_shl(self.x.bits).unwrap_or(0);
                    let scalar = x[place].wrapping_sub(bias).wrapping_sub(wrapped);
                    scalar.wrapping_mul(y[k * self.columns + column])
                });
                let own = own.fold(0, u64::wrapping_add);
                let terms = products.iter().map(|product| product[column]);
                let (cross, wrapped) =
                    terms
                        .enumerate()
                        .fold((own, 0), |(cross, wrapped), (i, v)| {
                            if i < 2 {
                                (v.wrapping_add(cross), wrapped)
                            } else {
                                (cross, v.wrapping_add(wrapped))
                            }
                        });
                let wrapped = wrapped.checked_shl(self.x.bits).unwrap_or(0);
                sums.push(cross.wrapping_sub(wrapped) & low_mask(self.out));
            }
        }
        sums
    }

    #[must_use]
    pub fn needs(&self) -> Needs {
        let elements = self.rows * self.inner;
        let mut needs = self.extension().needs(self.inner * self.columns);
        if self.wraps() {
            needs.merge(&if self.x.reading.compares() {
                self.greater().needs(elements)
            } else {
                BitProduct::needs(elements)
            });
        }
        for shape in self.shapes() {
            (0..self.rows).for_each(|_| needs.merge(&shape.needs()));
        }
        needs
    }

    #[must_use]
    pub fn cost(&self) -> Cost {
        let elements = self.rows * self.inner;
        let mut cost = self.extension().cost(self.inner * self.columns);
        if self.wraps() {
            if self.x.reading.compares() {
                cost += self.greater().cost(elements);
            } else {
                let bits = BitProduct { bits: 1 }.message_bits();
                cost.exchange(bits.map(|bits| elements * bits));
            }
        }
        let shapes = self.shapes();
        let all: Vec<Combination> = (0..self.rows).flat_map(|_| shapes.clone()).collect();
        cost + combinations_cost(&all)
    }
}
