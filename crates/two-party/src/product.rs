//! Products of secrets by transfers.
//!
//! # Functionality
//! Additive shares of `x·y` modulo `2^bits`, of shared `x` and `y` ([`Product`]) or of a value of
//! E0's and a value of E1's ([`CrossTerm`]).
//!
//! # Construction
//! Gilboa (CRYPTO '99): for each bit `i` of the chooser's value a correlated transfer of the
//! sender's value modulo `2^(bits-i)`, times `2^i`. All bits, and of a shared product both cross
//! terms, go in one round. `Σ (bits - i + 1)` bits per cross term: a product of 32 bits takes 140
//! bytes. What depends on the ring only (`bits` transfers per direction) can be made before.
//!
//! # Security
//! Nothing is sent but messages of correlated transfers ([`marill_ot::transfer`]).

mod combination;
mod matrix;
mod mixed;
mod narrow;
mod opened;

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    Bits, Needs, OtError, Party, Session, Source,
    transfer::{Cot, Side, cot_needs, cots},
};

pub use self::{
    combination::{Combination, Combine, MAX_WIDTH, combinations, combinations_cost},
    matrix::MixedMatrix,
    mixed::{Factor, MixedProduct},
    narrow::NarrowProduct,
    opened::{OpenedProduct, Triples},
};
use crate::Cost;

/// The transfers of one cross term at its sender.
fn sends(bits: u32, chooser_bits: u32, values: &[u64]) -> impl Iterator<Item = Cot<'_>> {
    (0..chooser_bits).map(move |i| Cot {
        bits: bits - i,
        side: Side::Send(values),
    })
}

fn chooses(bits: u32, planes: &[Bits]) -> impl Iterator<Item = Cot<'_>> {
    (0u32..).zip(planes).map(move |(i, plane)| Cot {
        bits: bits - i,
        side: Side::Choose(plane),
    })
}

/// `Σ 2^i·share_i`, onto `sums`.
fn add_up(sums: &mut [u64], shares: &[Vec<u64>]) {
    for (i, shares) in shares.iter().enumerate() {
        for (sum, share) in sums.iter_mut().zip(shares) {
            *sum = sum.wrapping_add(share << i);
        }
    }
}

/// Bits of a cross term, as (sender's message, chooser's).
fn message_bits(bits: u32, chooser_bits: u32) -> [usize; 2] {
    let sent: u32 = (0..chooser_bits).map(|i| bits - i).sum();
    [sent as usize, chooser_bits as usize]
}

/// `x·y` modulo `2^bits` of `x` at E0 and `y`, of `chooser_bits` bits, at E1.
#[derive(Debug, Clone, Copy)]
pub struct CrossTerm {
    pub bits: u32,
    pub chooser_bits: u32,
}

impl CrossTerm {
    /// Additive shares of the products; each party gives its own values.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When the chooser has no bits, or more than the ring.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        own: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let Self { bits, chooser_bits } = *self;
        assert!(
            (1..=bits).contains(&chooser_bits),
            "1 to {bits} bits of the chooser, not {chooser_bits}"
        );
        let planes = Bits::planes(own, self.chooser_bits);
        let list: Vec<Cot<'_>> = match session.party() {
            Party::E0 => sends(self.bits, self.chooser_bits, own).collect(),
            Party::E1 => chooses(self.bits, &planes).collect(),
        };
        let shares = cots(session, "cross term", &list)?;
        let mut sums = vec![0; own.len()];
        add_up(&mut sums, &shares);
        sums.iter_mut().for_each(|sum| *sum &= low_mask(self.bits));
        Ok(sums)
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        cot_needs(&mut needs, Party::E0, n * self.chooser_bits as usize);
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let mut cost = Cost::none();
        cost.exchange(message_bits(self.bits, self.chooser_bits).map(|bits| n * bits));
        cost
    }
}

/// `x·y` modulo `2^bits` of shared values, element by element.
#[derive(Debug, Clone, Copy)]
pub struct Product {
    pub bits: u32,
}

impl Product {
    /// Additive shares of the products.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        x: &[u64],
        y: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let bits = self.bits;
        // x_0·y_1 first, sent by E0, then x_1·y_0, sent by E1.
        let planes = Bits::planes(y, bits);
        let mut send: Vec<Cot<'_>> = sends(bits, bits, x).collect();
        let mut choose: Vec<Cot<'_>> = chooses(bits, &planes).collect();
        let first = session.party() == Party::E0;
        let list = if first {
            send.append(&mut choose);
            send
        } else {
            choose.append(&mut send);
            choose
        };
        let shares = cots(session, "product", &list)?;
        let own = x.iter().zip(y).map(|(x, y)| x.wrapping_mul(*y));
        let mut sums: Vec<u64> = own.collect();
        let (cross, other) = shares.split_at(bits as usize);
        add_up(&mut sums, cross);
        add_up(&mut sums, other);
        sums.iter_mut().for_each(|sum| *sum &= low_mask(bits));
        Ok(sums)
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        for sender in [Party::E0, Party::E1] {
            cot_needs(&mut needs, sender, n * self.bits as usize);
        }
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let [sent, chosen] = message_bits(self.bits, self.bits);
        let mut cost = Cost::none();
        cost.exchange([n * (sent + chosen); 2]);
        cost
    }
}
