//! The bits of a value, and the most significant one that is set.
//!
//! # Functionality
//! [`ToBits`]: XOR shares of each bit of an additively shared value. [`LeadingOne`]: of XOR-shared
//! bits, shares of the one-hot vector of the highest set bit, and of whether there is none.
//!
//! # Construction
//! Bit `i` is the XOR of the shares' bits and the carry into it. All carries come from one parallel
//! prefix (Sklansky, 1960) over `g_i = x_0i·x_1i`, a product of private bits, and `p_i = x_0i ⊕
//! x_1i`, which is free: `(g, p)∘(g', p') = (g ⊕ p·g', p·p')`. Positions that take the same `(g',
//! p')` share two ANDs of a bit with a string. The bits at and above `i` that are zero all together
//! are a prefix of the same form, and the vector is the XOR of neighbors. SIRNN (S&P '21, section
//! III-E) looks digits of 8 bits up instead, in sequence.
//!
//! # Cost
//! 15 bits: 134 bits for the value's bits in 5 rounds, 84 for the vector in 4.
//!
//! # Security
//! A composition of ANDs and one transfer per bit; nothing is opened.

use marill_net::Channel;
use marill_ot::{
    Bits, Needs, OtError, Party, Session, Source,
    transfer::{And, Cot, Side, and, cot_needs, cots},
};

use crate::{Cost, Run, at_first};

/// Longest string of one AND.
const STRING: usize = 8;

/// Positions of a prefix level that combine with the same lower one.
struct Group {
    below: usize,
    positions: std::ops::Range<usize>,
}

/// Groups of each level over `count` positions, whose results reach down to position 0.
fn levels(count: usize) -> Vec<Vec<Group>> {
    let mut levels = Vec::new();
    let mut half = 1;
    while half < count {
        let mut groups = Vec::new();
        for start in (half..count).step_by(2 * half) {
            let end = count.min(start + half);
            for first in (start..end).step_by(STRING) {
                groups.push(Group {
                    below: start - 1,
                    positions: first..end.min(first + STRING),
                });
            }
        }
        levels.push(groups);
        half *= 2;
    }
    levels
}

impl Group {
    /// Whether what it makes goes on to a later level: the lowest ones are done.
    fn goes_on(&self) -> bool {
        let start = self.below + 1;
        // The part that begins at this power of two reaches down to position 0.
        !start.is_power_of_two()
    }

    /// Widths of its ANDs' strings, where positions have a generating and a passing bit.
    fn carry_widths(&self) -> Vec<u8> {
        let both = 1 + usize::from(self.goes_on());
        match self.positions.len() {
            1 => vec![both as u8],
            count => vec![count as u8; both],
        }
    }
}

/// XOR shares of the bits of values.
#[derive(Debug, Clone, Copy)]
pub struct ToBits {
    pub bits: u32,
}

impl ToBits {
    fn carries(&self) -> usize {
        self.bits as usize - 1
    }

    /// A plane per bit, the lowest first, of values shared modulo `2^bits`; what is above falls
    /// away.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When there are not 1 to 64 bits.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        shares: &[u64],
    ) -> Result<Vec<Bits>, OtError> {
        assert!((1..=64).contains(&self.bits), "{} bits", self.bits);
        session.ensure(&self.needs(shares.len()))?;
        let own = Bits::planes(shares, self.bits);
        let count = self.carries();
        if count == 0 {
            return Ok(own);
        }
        let values = own[..count].iter();
        let values: Vec<Vec<u64>> = values
            .map(|plane| (0..plane.n()).map(|i| plane.get(i)).collect())
            .collect();
        let products = own.iter().zip(&values).map(|(plane, values)| Cot {
            bits: 1,
            side: at_first(session, Side::Send(&values[..]), Side::Choose(plane)),
        });
        let products: Vec<Cot<'_>> = products.collect();
        let products = cots(session, "bits", &products)?;
        // Modulo 2 an additive share is an XOR share.
        let generating = products.iter().map(|p| Bits::from_fn(p.len(), |i| p[i]));
        let generating: Vec<Bits> = generating.collect();
        let carries = carries(session, generating, own[..count].to_vec())?;
        let mut bits = own;
        for (bit, carry) in bits[1..].iter_mut().zip(&carries) {
            *bit ^= carry;
        }
        Ok(bits)
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        cot_needs(&mut needs, Party::E0, n * self.carries());
        for group in levels(self.carries()).iter().flatten() {
            for width in group.carry_widths() {
                needs.add_triples(width, n);
            }
        }
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let mut cost = Cost::none();
        cost.exchange([n * self.carries(); 2]);
        for groups in levels(self.carries()) {
            let widths = groups.iter().flat_map(Group::carry_widths);
            cost.exchange([n * widths.map(|width| 1 + usize::from(width)).sum::<usize>(); 2]);
        }
        cost
    }
}

/// Carries out of each position.
fn carries<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    mut generating: Vec<Bits>,
    mut passing: Vec<Bits>,
) -> Run<Vec<Bits>> {
    for groups in levels(generating.len()) {
        let mut list = Vec::new();
        for group in &groups {
            let Group { below, positions } = group;
            let g = &generating[*below];
            let p = &passing[*below];
            if positions.len() == 1 {
                let mut string = vec![g];
                string.extend(group.goes_on().then_some(p));
                let bit = &passing[positions.start];
                list.push(And { bit, string });
                continue;
            }
            let string: Vec<&Bits> = passing[positions.clone()].iter().collect();
            if group.goes_on() {
                let string = string.clone();
                list.push(And { bit: p, string });
            }
            list.push(And { bit: g, string });
        }
        let mut products = and(session, "carries", &list)?.into_iter();
        for group in &groups {
            let passed = match group.positions.len() {
                1 => {
                    let mut both = products.next().expect("one per group").into_iter();
                    let generated = both.next().expect("a generating bit");
                    generating[group.positions.start] ^= &generated;
                    both.collect()
                }
                _ => {
                    let passed = group.goes_on().then(|| products.next().expect("a string"));
                    let generated = products.next().expect("one per group");
                    for (g, product) in generating[group.positions.clone()]
                        .iter_mut()
                        .zip(&generated)
                    {
                        *g ^= product;
                    }
                    passed.unwrap_or_default()
                }
            };
            for (p, product) in passing[group.positions.clone()].iter_mut().zip(passed) {
                *p = product;
            }
        }
    }
    Ok(generating)
}

/// The highest set bit of values that are given bit by bit.
#[derive(Debug, Clone, Copy)]
pub struct LeadingOne {
    pub bits: u32,
}

/// XOR shares of where a value's highest set bit is.
pub struct Leading {
    /// A plane per bit, the lowest first.
    pub one_hot: Vec<Bits>,
    /// Whether no bit is set.
    pub zero: Bits,
}

impl LeadingOne {
    /// The one-hot vectors.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When there are other than `bits` planes.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        planes: &[Bits],
    ) -> Result<Leading, OtError> {
        assert_eq!(planes.len(), self.bits as usize, "a plane per bit");
        session.ensure(&self.needs(planes[0].n()))?;
        // Highest first: whether all bits from here up are zero.
        let clear = planes.iter().rev();
        let mut clear: Vec<Bits> = clear
            .map(|plane| at_first(session, !plane, plane.clone()))
            .collect();
        for groups in levels(clear.len()) {
            let list = groups.iter().map(|group| And {
                bit: &clear[group.below],
                string: clear[group.positions.clone()].iter().collect(),
            });
            let list: Vec<And<'_>> = list.collect();
            let products = and(session, "leading one", &list)?;
            for (group, product) in groups.iter().zip(products) {
                let places = clear[group.positions.clone()].iter_mut();
                places.zip(product).for_each(|(place, p)| *place = p);
            }
        }
        let above = clear.iter().scan(None, |above: &mut Option<Bits>, here| {
            let change = match above {
                Some(above) => &*above ^ here,
                None => at_first(session, !here, here.clone()),
            };
            *above = Some(here.clone());
            Some(change)
        });
        let mut one_hot: Vec<Bits> = above.collect();
        one_hot.reverse();
        let zero = clear.pop().expect("a plane at least");
        Ok(Leading { one_hot, zero })
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let mut needs = Needs::none();
        for group in levels(self.bits as usize).iter().flatten() {
            needs.add_triples(group.positions.len() as u8, n);
        }
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let mut cost = Cost::none();
        for groups in levels(self.bits as usize) {
            let bits = groups.iter().map(|group| 1 + group.positions.len());
            cost.exchange([n * bits.sum::<usize>(); 2]);
        }
        cost
    }
}
