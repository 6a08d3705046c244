//! Truncation of a value with room above it, to a ring of any width.
//!
//! # Functionality
//! Of `x`, signed, below `2^(from-2)` in magnitude and shared modulo `2^from`: additive shares of
//! `floor((x + added) / 2^shift)` modulo `2^to`, for a public `added` below `2^shift`. With
//! `shift = 0` this is a sign extension, or a reduction.
//!
//! # Construction
//! Where `shift + to <= from`, the shares' wrap falls away and [`super::TruncateReduce`] does it.
//! Else `x' = x + 2^(from-2)` is not negative and its top bit is zero, so its shares wrap exactly
//! if one of their top bits is set: `w = t_0 + t_1 - t_0·t_1`, a product of private bits (SIRNN,
//! S&P '21, section on known sign bits), and `floor((x' + added) / 2^shift) = ((x'_0 + added) >>
//! shift) + (x'_1 >> shift) + carry - w·2^(from-shift)`, where `x'_0 + added` is an integer that is
//! not reduced.
//!
//! # Rounded by the shares
//! [`Truncate::by_shares`] leaves the carry out and adds one. With `l` E0's low bits, which are
//! uniform, there is a carry exactly if `l` is above those of `x`: the result is
//! `floor((x + 2^shift - l) / 2^shift)`, unbiased but for `2^-shift` of a unit. The functionality
//! is therefore: draw `l` uniformly, give it to E0, round by it; E1's low bits follow from `l` and
//! `x`.
//! No message where the result's ring is inside what the shares know, else that of the wrap alone.
//!
//! # Security
//! A composition of comparison and conversion; nothing is opened.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{Bits, Needs, OtError, Session, Source, transfer::together};

use super::TruncateReduce;
use crate::{
    Cost, Greater, at_first,
    compare::{Radix, top_bits},
    convert::{BitProduct, ToRing},
};

/// `floor((x + added) / 2^shift)` of values below `2^(from-2)` in magnitude, modulo `2^to`.
#[derive(Debug, Clone, Copy)]
pub struct Truncate {
    pub from: u32,
    pub shift: u32,
    pub to: u32,
    /// Below `2^shift`: zero to round down, `2^(shift-1)` to round half up.
    pub added: u64,
    /// Whether the shares' low bits round, instead of a comparison of them.
    pub by_shares: bool,
    pub radix: Radix,
}

impl Truncate {
    /// Rounds half up.
    #[must_use]
    pub fn half_up(from: u32, shift: u32, to: u32, radix: Radix) -> Self {
        let added = if shift == 0 { 0 } else { 1 << (shift - 1) };
        Self {
            from,
            shift,
            to,
            added,
            by_shares: false,
            radix,
        }
    }

    /// Rounds by what E0's share has in the low bits.
    #[must_use]
    pub fn by_shares(from: u32, shift: u32, to: u32, radix: Radix) -> Self {
        Self {
            from,
            shift,
            to,
            added: 0,
            by_shares: shift > 0,
            radix,
        }
    }

    /// Whether the carry out of the low bits is computed.
    fn compares(&self) -> bool {
        self.shift > 0 && !self.by_shares
    }

    /// Whether the result's ring is inside what the shares know without their wrap.
    fn reduces(&self) -> bool {
        self.shift + self.to <= self.from
    }

    fn reduce(&self) -> TruncateReduce {
        TruncateReduce {
            bits: self.shift + self.to,
            shift: self.shift,
            radix: self.radix,
        }
    }

    fn carry(&self) -> (Greater, ToRing) {
        let greater = Greater {
            bits: self.shift,
            radix: self.radix,
        };
        (greater, ToRing { bits: self.to })
    }

    /// The wrap, in the bits in which it shows.
    fn wrap(&self) -> BitProduct {
        BitProduct {
            bits: self.to + self.shift - self.from,
        }
    }

    /// Additive shares modulo `2^to`.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When widths leave no room: `shift` above `from - 2`, or `added` not below `2^shift`.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        let Self { from, shift, .. } = *self;
        assert!(
            from <= 64 && self.to <= 64 && self.to > 0 && shift + 2 <= from,
            "a truncation of {from} bits by {shift} to {}",
            self.to
        );
        assert!(self.added <= low_mask(shift), "less than what falls away");
        let own = at_first(session, self.added, 0);
        if self.reduces() {
            let mask = low_mask(self.shift + self.to);
            let moved = shares.iter().map(|share| share.wrapping_add(own) & mask);
            let moved: Vec<u64> = moved.collect();
            if self.compares() {
                return self.reduce().run(session, &moved);
            }
            let up = at_first(session, u64::from(self.by_shares), 0);
            let round = |share: &u64| (share >> shift).wrapping_add(up) & low_mask(self.to);
            return Ok(moved.iter().map(round).collect());
        }
        session.ensure(&self.needs(shares.len()))?;
        let bias = at_first(session, 1 << (from - 2), 0);
        let moved = shares
            .iter()
            .map(|share| share.wrapping_add(bias) & low_mask(from));
        let moved: Vec<u64> = moved.collect();
        let top = top_bits(&moved, from);
        // Not reduced: one bit more than a share may have.
        let whole: Vec<u128> = moved
            .iter()
            .map(|share| u128::from(*share) + u128::from(own))
            .collect();
        let carry = self.carries(session, &whole)?;
        self.finish(session, &whole, carry, &top)
    }

    /// XOR shares of the carry out of the low bits; none where nothing falls away.
    fn carries<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        whole: &[u128],
    ) -> Result<Option<Bits>, OtError> {
        if !self.compares() {
            return Ok(None);
        }
        let mask = low_mask(self.shift);
        let flip = at_first(session, 0, mask);
        let low: Vec<u64> = whole.iter().map(|v| (*v as u64 & mask) ^ flip).collect();
        self.carry().0.run(session, &low).map(Some)
    }

    fn finish<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        whole: &[u128],
        carry: Option<Bits>,
        top: &Bits,
    ) -> Result<Vec<u64>, OtError> {
        let Self {
            from, shift, to, ..
        } = *self;
        let to_ring = self.carry().1;
        let top_values = to_ring.values(top);
        let carry_values = carry.as_ref().map(|carry| to_ring.values(carry));
        let mut list = vec![self.wrap().cot(session, top, &top_values)];
        if let (Some(carry), Some(values)) = (&carry, &carry_values) {
            list.extend(to_ring.cots(session, carry, values));
        }
        let (_, ring) = together(session, "carry and wrap", &[], &list)?;
        let carry = match &carry_values {
            Some(values) => to_ring.finish(values, &ring[1..]),
            None => vec![0; whole.len()],
        };
        let up = u64::from(self.by_shares);
        let unbias = at_first(session, (1u64 << (from - 2 - shift)).wrapping_sub(up), 0);
        let of = |i: usize| {
            let wrap = top_values[i].wrapping_sub(ring[0][i]);
            let high = (whole[i] >> shift) as u64;
            // The wrap's share counts in its own bits alone, which are those above.
            let wrapped = wrap.checked_shl(from - shift).unwrap_or(0);
            high.wrapping_add(carry[i])
                .wrapping_sub(wrapped)
                .wrapping_sub(unbias)
                & low_mask(to)
        };
        Ok((0..whole.len()).map(of).collect())
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        if self.reduces() {
            return if self.compares() {
                self.reduce().needs(n)
            } else {
                Needs::none()
            };
        }
        let mut needs = BitProduct::needs(n);
        if self.compares() {
            let (greater, to_ring) = self.carry();
            needs.merge(&greater.needs(n));
            needs.merge(&to_ring.needs(n));
        }
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        if self.reduces() {
            return if self.compares() {
                self.reduce().cost(n)
            } else {
                Cost::none()
            };
        }
        let wrap = self.wrap().message_bits();
        if !self.compares() {
            let mut cost = Cost::none();
            cost.exchange(wrap.map(|bits| n * bits));
            return cost;
        }
        let (greater, to_ring) = self.carry();
        let mut cost = greater.cost(n);
        let carry = to_ring.message_bits();
        cost.exchange([0, 1].map(|party| n * (carry[party] + wrap[party])));
        cost
    }
}
