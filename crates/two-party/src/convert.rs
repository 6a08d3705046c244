//! From shared bits to the ring: conversion, and a bit times a value.
//!
//! # Construction
//! `b = b_0 ⊕ b_1 = b_0 + b_1 - 2·b_0·b_1`: one correlated transfer in a ring one bit narrower
//! (CrypTFlow2, CCS '20, section 3.1.3 of the full version, B2A). `b·x = b_0·x_0 + b_1·x_1 +
//! b_1·x_0(1 - 2b_0) + b_0·x_1(1 - 2b_1)`: one in each direction (SIRNN, S&P '21, appendix on
//! multiplexers). One round each: choice and message of a derandomized transfer do not wait for
//! each other.
//!
//! # Security
//! Nothing is sent but messages of correlated transfers ([`marill_ot::transfer`]).

pub(crate) mod words;

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    Bits, Needs, OtError, Party, Session, Source,
    transfer::{Cot, Side, cot_needs, cots},
};

use crate::{Cost, at_first};

/// XOR shares of bits to additive shares modulo `2^bits`: `bits` bits, one transfer, one round.
#[derive(Debug, Clone, Copy)]
pub struct ToRing {
    pub bits: u32,
}

impl ToRing {
    /// Additive shares of each bit.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        share: &Bits,
    ) -> Result<Vec<u64>, OtError> {
        let own = self.values(share);
        let shares = cots(session, "bit to ring", &self.cots(session, share, &own))?;
        Ok(self.finish(&own, &shares))
    }

    pub(crate) fn values(&self, share: &Bits) -> Vec<u64> {
        (0..share.n()).map(|i| share.get(i)).collect()
    }

    /// The transfers; modulo 2 an XOR share is an additive one.
    pub(crate) fn cots<'a, C: Channel, S: Source>(
        &self,
        session: &Session<C, S>,
        share: &'a Bits,
        own: &'a [u64],
    ) -> Vec<Cot<'a>> {
        let cot = Cot {
            bits: self.bits - 1,
            side: at_first(session, Side::Send(own), Side::Choose(share)),
        };
        (self.bits > 1).then_some(cot).into_iter().collect()
    }

    pub(crate) fn finish(&self, own: &[u64], shares: &[Vec<u64>]) -> Vec<u64> {
        let Some(products) = shares.first() else {
            return own.to_vec();
        };
        let bits = own.iter().zip(products);
        bits.map(|(b, product)| b.wrapping_sub(product << 1) & low_mask(self.bits))
            .collect()
    }

    pub(crate) fn message_bits(&self) -> [usize; 2] {
        if self.bits == 1 {
            return [0, 0];
        }
        [self.bits as usize - 1, 1]
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        if self.bits > 1 {
            cot_needs(&mut needs, Party::E0, n);
        }
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let mut cost = Cost::none();
        cost.exchange(self.message_bits().map(|bits| n * bits));
        cost
    }
}

/// The product of a bit of E0's and a bit of E1's, modulo `2^bits`: `bits + 1` bits, one round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BitProduct {
    pub bits: u32,
}

impl BitProduct {
    pub(crate) fn cot<'a, C: Channel, S: Source>(
        &self,
        session: &Session<C, S>,
        own: &'a Bits,
        values: &'a [u64],
    ) -> Cot<'a> {
        Cot {
            bits: self.bits,
            side: at_first(session, Side::Send(values), Side::Choose(own)),
        }
    }

    pub(crate) fn needs(n: usize) -> Needs {
        let mut needs = Needs::none();
        cot_needs(&mut needs, Party::E0, n);
        needs
    }

    pub(crate) fn message_bits(&self) -> [usize; 2] {
        [self.bits as usize, 1]
    }
}

/// A shared bit times a shared value modulo `2^bits`: `2(bits + 1)` bits, two transfers, one round.
#[derive(Debug, Clone, Copy)]
pub struct Multiplex {
    pub bits: u32,
}

impl Multiplex {
    /// Additive shares of `bit·value`.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        bit: &Bits,
        values: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        Ok(multiplexers(session, &[(*self, bit, values)])?.remove(0))
    }

    /// `x·(1 - 2b)`, without a branch.
    pub(crate) fn signed(&self, bit: &Bits, values: &[u64]) -> Vec<u64> {
        let signed = values.iter().enumerate().map(|(i, value)| {
            let flip = bit.get(i).wrapping_neg();
            ((value ^ flip).wrapping_sub(flip)) & low_mask(self.bits)
        });
        signed.collect()
    }

    /// The transfers, of what [`Self::signed`] gives: E0 sends in the first.
    pub(crate) fn cots<'a, C: Channel, S: Source>(
        &self,
        session: &Session<C, S>,
        bit: &'a Bits,
        signed: &'a [u64],
    ) -> [Cot<'a>; 2] {
        let bits = self.bits;
        let send = Cot {
            bits,
            side: Side::Send(signed),
        };
        let choose = Cot {
            bits,
            side: Side::Choose(bit),
        };
        at_first(session, [send, choose], [choose, send])
    }

    /// `b_own·x_own` and both transfers' shares.
    pub(crate) fn finish(&self, bit: &Bits, values: &[u64], products: &[Vec<u64>]) -> Vec<u64> {
        let own = values.iter().enumerate();
        let own = own.map(|(i, value)| value & bit.get(i).wrapping_neg());
        let products = products[0].iter().zip(&products[1]);
        let mask = low_mask(self.bits);
        own.zip(products)
            .map(|(own, (a, b))| own.wrapping_add(*a).wrapping_add(*b) & mask)
            .collect()
    }

    pub(crate) fn message_bits(&self) -> [usize; 2] {
        [self.bits as usize + 1; 2]
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        cot_needs(&mut needs, Party::E0, n);
        cot_needs(&mut needs, Party::E1, n);
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let mut cost = Cost::none();
        cost.exchange(self.message_bits().map(|bits| n * bits));
        cost
    }
}

/// [`Multiplex::run`] of each, all in one round.
///
/// # Errors
/// Those of [`Session`].
pub fn multiplexers<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    list: &[(Multiplex, &Bits, &[u64])],
) -> Result<Vec<Vec<u64>>, OtError> {
    let [_, chosen] = conversions(session, &[], list)?;
    Ok(chosen)
}

/// [`ToRing::run`] of each bit and [`Multiplex::run`] of each choice, all in one round.
///
/// # Errors
/// Those of [`Session`].
pub fn conversions<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    bits: &[(ToRing, &Bits)],
    list: &[(Multiplex, &Bits, &[u64])],
) -> Result<[Vec<Vec<u64>>; 2], OtError> {
    let own: Vec<Vec<u64>> = bits.iter().map(|(to, bit)| to.values(bit)).collect();
    let signed = list
        .iter()
        .map(|(multiplex, bit, values)| multiplex.signed(bit, values));
    let signed: Vec<Vec<u64>> = signed.collect();
    let mut operations = Vec::with_capacity(bits.len() + 2 * list.len());
    for ((to_ring, bit), own) in bits.iter().zip(&own) {
        operations.extend(to_ring.cots(session, bit, own));
    }
    for ((multiplex, bit, _), signed) in list.iter().zip(&signed) {
        operations.extend(multiplex.cots(session, bit, signed));
    }
    let mut shares = cots(session, "bits and ring", &operations)?;
    let chosen = shares.split_off(shares.len() - 2 * list.len());
    let mut shares = shares.chunks(1);
    let converted = bits.iter().zip(&own).map(|((to_ring, _), own)| {
        let sent = to_ring.bits > 1;
        let products = if sent { shares.next() } else { None };
        to_ring.finish(own, products.unwrap_or_default())
    });
    let converted = converted.collect();
    let results = list.iter().zip(chosen.chunks_exact(2));
    let results =
        results.map(|((multiplex, bit, values), products)| multiplex.finish(bit, values, products));
    Ok([converted, results.collect()])
}

/// What [`conversions`] sends, of so many instances each.
#[must_use]
pub fn conversions_cost(bits: &[(ToRing, usize)], list: &[(Multiplex, usize)]) -> Cost {
    let mut sent = [0; 2];
    for (to_ring, n) in bits {
        for (sent, bits) in sent.iter_mut().zip(to_ring.message_bits()) {
            *sent += n * bits;
        }
    }
    for (multiplex, n) in list {
        for (sent, bits) in sent.iter_mut().zip(multiplex.message_bits()) {
            *sent += n * bits;
        }
    }
    let mut cost = Cost::none();
    cost.exchange(sent);
    cost
}
