//! Comparison of a value of E0's with a value of E1's, by digits and a tree.
//!
//! # Functionality
//! E0 has `x`, E1 has `y`, both of `bits` bits; they get XOR shares of `1{x > y}` ([`Greater`]), of
//! `1{x = y}` ([`Equal`]), or, of an additively shared value, of its sign bit ([`Msb`]); several
//! comparisons share their rounds ([`Comparisons`]).
//!
//! # Construction
//! Both split their values into digits of 2 or 4 bits. A leaf gives shares of `greater` and `equal`
//! of one digit by transfers on E1's digit (CrypTFlow2, CCS '20, section 3.1, Millionaires); a tree
//! combines neighbors, `greater = greater_hi ⊕ equal_hi·greater_lo`, `equal = equal_hi·equal_lo`,
//! in one round per level. `equal` is left out where nothing uses it: along the lowest digits.
//!
//! Cheaper than there: choices are corrected bits of random transfers (1 bit, not 128); the
//! sender's share is fixed by the pad of the first entry, so a table of `N` bits travels as `N -
//! 1`; `equal` of two bits is two products on the choices of the same transfers (2 bits, not 3);
//! the two ANDs of a node are one AND of a bit with a string (6 bits); a digit of one bit is equal
//! without a message.
//!
//! # Cost
//! Radix 4, `q = ⌈bits/2⌉` digits: `7q - 2 + 6(q-1) - 2⌈log2 q⌉` bits for an even width, `4q - 2`
//! transfers, `2 + ⌈log2 q⌉` rounds. Radix 16: `34q - 15 + 6(q-1) - 2⌈log2 q⌉` bits for a multiple
//! of four, fewer rounds.
//!
//! # Security
//! E1's digits are masked by random choices, E0's entries by pads of which E1 knows one; openings
//! in the tree are masked by triples. Each party's shares are uniform given its view.

pub(crate) mod leaf;
pub(crate) mod tree;

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{Bits, Needs, OtError, Session, Source};

use self::tree::{Plan, Root, Segment};
use crate::{Cost, Run, at_first};

/// Size of a comparison's digits: 4 for few bytes, 16 for few rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Radix {
    #[default]
    Four,
    Sixteen,
}

impl Radix {
    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::Four => 2,
            Self::Sixteen => 4,
        }
    }
}

/// `x > y`, unsigned, `x` at E0 and `y` at E1.
#[derive(Debug, Clone, Copy)]
pub struct Greater {
    pub bits: u32,
    pub radix: Radix,
}

impl Greater {
    fn plan(&self) -> Plan {
        Plan::new(self.radix, &[Segment::greater(self.bits)])
    }

    /// XOR shares of `x > y`; each party gives its own values.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        own: &[u64],
    ) -> Result<Bits, OtError> {
        let root = self.plan().run(session, own)?.remove(0);
        Ok(root.greater.expect("asked for"))
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        self.plan().needs(n)
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        self.plan().cost(n)
    }
}

/// `x = y`, `x` at E0 and `y` at E1.
#[derive(Debug, Clone, Copy)]
pub struct Equal {
    pub bits: u32,
    pub radix: Radix,
}

impl Equal {
    fn plan(&self) -> Plan {
        Plan::new(self.radix, &[Segment::equal(self.bits)])
    }

    /// XOR shares of `x = y`; each party gives its own values.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        own: &[u64],
    ) -> Result<Bits, OtError> {
        let root = self.plan().run(session, own)?.remove(0);
        Ok(root.equal.expect("asked for"))
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        self.plan().needs(n)
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        self.plan().cost(n)
    }
}

/// Several comparisons `x > y` of an instance, of a width each, in the rounds of the widest.
#[derive(Debug, Clone)]
pub struct Comparisons {
    pub widths: Vec<u32>,
    pub radix: Radix,
}

impl Comparisons {
    fn plan(&self) -> Plan {
        let segments: Vec<Segment> = self.widths.iter().map(|b| Segment::greater(*b)).collect();
        Plan::new(self.radix, &segments)
    }

    /// XOR shares of `x > y` of each comparison; each party gives its own values, comparison by
    /// comparison.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When there are not values for every comparison.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        own: &[Vec<u64>],
    ) -> Result<Vec<Bits>, OtError> {
        assert_eq!(own.len(), self.widths.len(), "values for every comparison");
        let parts = own.iter().zip(&self.widths);
        let planes: Vec<Bits> = parts
            .flat_map(|(own, bits)| Bits::planes(own, *bits))
            .collect();
        let roots = self.plan().run_on(session, &planes)?.into_iter();
        Ok(roots.map(|root| root.greater.expect("asked for")).collect())
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        self.plan().needs(n)
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        self.plan().cost(n)
    }
}

/// The sign bit of an additively shared value: both sign bits and the carry into them, `1{x_0 + x_1
/// >= 2^(bits-1)}` of the rest, which is `x_0 > 2^(bits-1) - 1 - x_1`.
#[derive(Debug, Clone, Copy)]
pub struct Msb {
    pub bits: u32,
    pub radix: Radix,
}

impl Msb {
    fn carry(&self) -> Greater {
        Greater {
            bits: self.bits - 1,
            radix: self.radix,
        }
    }

    /// XOR shares of the sign bit of each value.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Bits, OtError> {
        let own = top_bits(shares, self.bits);
        if self.bits == 1 {
            return Ok(own);
        }
        let low = carry_inputs(session, shares, self.bits - 1);
        Ok(&own ^ &self.carry().run(session, &low)?)
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        if self.bits == 1 {
            return Needs::none();
        }
        self.carry().needs(n)
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        if self.bits == 1 {
            return Cost::none();
        }
        self.carry().cost(n)
    }
}

/// The highest bit of each share.
pub(crate) fn top_bits(shares: &[u64], bits: u32) -> Bits {
    Bits::from_fn(shares.len(), |i| shares[i] >> (bits - 1))
}

/// What to compare for the carry out of the low `bits` bits: E0's `x`, E1's `2^bits - 1 - y`.
pub(crate) fn carry_inputs<C: Channel, S: Source>(
    session: &Session<C, S>,
    shares: &[u64],
    bits: u32,
) -> Vec<u64> {
    let mask = low_mask(bits);
    let flip = at_first(session, 0, mask);
    shares.iter().map(|share| (share & mask) ^ flip).collect()
}

/// Carries out of the low `shift` bits and the rest of a value of several segments.
pub(crate) fn roots<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    plan: &Plan,
    own: &[u64],
) -> Run<[Root; 2]> {
    let roots = plan.run(session, own)?;
    Ok(roots.try_into().ok().expect("two segments"))
}
