//! Pooling: the largest of several values, with or without its place; averages; windows of images.
//!
//! # Functionality
//! [`Maximum`]: additive shares of the largest of `count` signed values of each instance.
//! [`ArgMax`]: of that and of its place, the first one of several. Any two values are less than
//! `2^(bits-1)` apart, as in CrypTFlow2. [`Average`]: of `floor(Σ x_i / count)`, for sums that fit.
//!
//! # Construction
//! A tree (CrypTFlow2, CCS '20, section 3.3, compares one after the other): `max(x, y) = y + b·(x -
//! y)`, with `b` the opposite of the sign of `x - y`; places move under the same bit, from the
//! first level on, where they are public, by a conversion. Where three values are left all pairs of
//! them are compared at once and two multiplexers choose: one comparison more, and a round of ANDs
//! instead of a second comparison's rounds. An average is a local sum and [`DivideBy`].
//!
//! # Cost
//! Of 32 bits: 31.6 bytes and 7 rounds for each level's comparisons; a window of 4 in 14 rounds, of
//! 9 in 22.
//!
//! # Security
//! A composition of comparison, ANDs and multiplexers; nothing is opened.

mod windows;

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    Bits, Needs, OtError, Party, Session, Source,
    transfer::{And, and},
};

pub use self::windows::Windows;
use crate::{
    Cost, DivideBy, Msb, Multiplex, Radix, Run, ToRing, conversions, conversions_cost, multiplexers,
};

/// The largest of `count` signed values.
#[derive(Debug, Clone, Copy)]
pub struct Maximum {
    pub bits: u32,
    pub count: usize,
    pub radix: Radix,
}

/// `x - y`, element by element.
fn differences(x: &[u64], y: &[u64], bits: u32) -> Vec<u64> {
    let pairs = x.iter().zip(y);
    pairs
        .map(|(x, y)| x.wrapping_sub(*y) & low_mask(bits))
        .collect()
}

/// `onto + more`, element by element.
fn add(onto: &mut [u64], more: &[u64], bits: u32) {
    for (sum, more) in onto.iter_mut().zip(more) {
        *sum = sum.wrapping_add(*more) & low_mask(bits);
    }
}

/// Every second list from `first` on, in one, as far as they come in pairs.
fn side(values: &[Vec<u64>], first: usize) -> Vec<u64> {
    let pairs = values.chunks_exact(2);
    pairs.flat_map(|pair| pair[first].iter().copied()).collect()
}

/// XOR shares of `x >= y`, given shares of `x - y`.
fn not_below<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    msb: Msb,
    differences: &[u64],
) -> Run<Bits> {
    let below = msb.run(session, differences)?;
    Ok(match session.party() {
        Party::E0 => !&below,
        Party::E1 => below,
    })
}

/// Parts of `n` bits.
fn parts(bits: &Bits, n: usize) -> Vec<Bits> {
    let starts = (0..bits.n()).step_by(n);
    starts
        .map(|start| Bits::from_fn(n, |i| bits.get(start + i)))
        .collect()
}

impl Maximum {
    fn parts(&self) -> (Msb, Multiplex) {
        let Self { bits, radix, .. } = *self;
        (Msb { bits, radix }, Multiplex { bits })
    }

    /// How many values each level of pairs begins with, and whether three end it.
    fn levels(&self) -> (Vec<usize>, bool) {
        let mut levels = Vec::new();
        let mut left = self.count;
        while left > 1 && left != 3 {
            levels.push(left);
            left = left.div_ceil(2);
        }
        (levels, left == 3)
    }

    /// Additive shares of the largest, of value `i` of each instance in `values[i]`.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When there are other than `count` lists of one length.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        values: &[Vec<u64>],
    ) -> Result<Vec<u64>, OtError> {
        check(values, self.count);
        let n = values[0].len();
        session.ensure(&self.needs(n))?;
        let (msb, multiplex) = self.parts();
        let mut values = values.to_vec();
        while values.len() > 1 {
            if values.len() == 3 {
                return self.of_three(session, &values);
            }
            let rest = (values.len() % 2 == 1).then(|| values.pop().expect("odd"));
            let mut larger = side(&values, 1);
            let apart = differences(&side(&values, 0), &larger, self.bits);
            let keeps = not_below(session, msb, &apart)?;
            let more = multiplex.run(session, &keeps, &apart)?;
            add(&mut larger, &more, self.bits);
            values = larger.chunks(n).map(<[u64]>::to_vec).collect();
            values.extend(rest);
        }
        Ok(values.remove(0))
    }

    /// `c + 1{a >= b, a >= c}·(a - c) + 1{a < b, b >= c}·(b - c)`.
    fn of_three<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        values: &[Vec<u64>],
    ) -> Run<Vec<u64>> {
        let bits = self.bits;
        let n = values[0].len();
        let (msb, multiplex) = self.parts();
        let apart = [(0, 1), (0, 2), (1, 2)];
        let apart = apart.map(|(x, y)| differences(&values[x], &values[y], bits));
        let keeps = not_below(session, msb, &apart.concat())?;
        let keeps = parts(&keeps, n);
        let both = And {
            bit: &keeps[0],
            string: vec![&keeps[1], &keeps[2]],
        };
        let both = and(session, "largest of three", &[both])?.remove(0);
        let second = &keeps[2] ^ &both[1];
        let list = [
            (multiplex, &both[0], &apart[1][..]),
            (multiplex, &second, &apart[2][..]),
        ];
        let mut largest = values[2].clone();
        for more in multiplexers(session, &list)? {
            add(&mut largest, &more, bits);
        }
        Ok(largest)
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let (msb, multiplex) = self.parts();
        let (levels, three) = self.levels();
        let mut needs = Needs::none();
        for pairs in levels.iter().map(|count| count / 2 * n) {
            needs.merge(&msb.needs(pairs));
            needs.merge(&multiplex.needs(pairs));
        }
        if three {
            needs.merge(&msb.needs(3 * n));
            needs.add_triples(2, n);
            needs.merge(&multiplex.needs(2 * n));
        }
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let (msb, multiplex) = self.parts();
        let (levels, three) = self.levels();
        let pairs = levels.iter().map(|count| count / 2 * n);
        let mut cost = pairs.fold(Cost::none(), |cost, pairs| {
            cost + msb.cost(pairs) + multiplex.cost(pairs)
        });
        if three {
            cost += msb.cost(3 * n);
            cost.exchange([3 * n; 2]);
            cost += multiplex.cost(2 * n);
        }
        cost
    }
}

/// # Panics
/// When there are other than `count` lists of one length.
fn check(values: &[Vec<u64>], count: usize) {
    assert!(count > 0 && values.len() == count, "{count} values");
    let n = values[0].len();
    assert!(values.iter().all(|list| list.len() == n), "one length");
}

/// The largest of `count` signed values and its place, which is shared modulo `2^place_bits`.
#[derive(Debug, Clone, Copy)]
pub struct ArgMax {
    pub bits: u32,
    pub count: usize,
    pub place_bits: u32,
    pub radix: Radix,
}

impl ArgMax {
    fn msb(&self) -> Msb {
        let Self { bits, radix, .. } = *self;
        Msb { bits, radix }
    }

    /// Multiplexers of values and of places, and the conversion of a public place.
    fn choices(&self) -> (Multiplex, Multiplex, ToRing) {
        let place = self.place_bits;
        (
            Multiplex { bits: self.bits },
            Multiplex { bits: place },
            ToRing { bits: place },
        )
    }

    /// How many values each level begins with.
    fn levels(&self) -> Vec<usize> {
        let next = |left: &usize| (*left > 2).then(|| left.div_ceil(2));
        let first = (self.count > 1).then_some(self.count);
        std::iter::successors(first, next).collect()
    }

    /// Additive shares of the largest and of its place, of value `i` of each instance in
    /// `values[i]`.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When there are other than `count` lists of one length, or their places do not fit.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        values: &[Vec<u64>],
    ) -> Result<[Vec<u64>; 2], OtError> {
        check(values, self.count);
        assert!(
            self.place_bits <= 64 && (self.count - 1) as u64 <= low_mask(self.place_bits),
            "places of {} bits",
            self.place_bits
        );
        let n = values[0].len();
        session.ensure(&self.needs(n))?;
        let first = session.party() == Party::E0;
        let mut values = values.to_vec();
        let places = (0..self.count as u64).map(|place| vec![place * u64::from(first); n]);
        let mut places: Vec<Vec<u64>> = places.collect();
        for level in 0..self.levels().len() {
            let odd = values.len() % 2 == 1;
            let rest = odd.then(|| (values.pop().expect("odd"), places.pop().expect("odd")));
            let mut larger = side(&values, 1);
            let mut place = side(&places, 1);
            let apart = differences(&side(&values, 0), &larger, self.bits);
            let apart_places = differences(&side(&places, 0), &place, self.place_bits);
            let keeps = not_below(session, self.msb(), &apart)?;
            let (of_values, of_places, of_public) = self.choices();
            let value = (of_values, &keeps, &apart[..]);
            let moved = if level == 0 {
                // The first of a pair is one place lower.
                let [mut bits, mut chosen] =
                    conversions(session, &[(of_public, &keeps)], &[value])?;
                let lower = bits.remove(0).into_iter().map(u64::wrapping_neg).collect();
                [chosen.remove(0), lower]
            } else {
                let list = [value, (of_places, &keeps, &apart_places[..])];
                let mut chosen = multiplexers(session, &list)?;
                let places = chosen.pop().expect("two");
                [chosen.remove(0), places]
            };
            add(&mut larger, &moved[0], self.bits);
            add(&mut place, &moved[1], self.place_bits);
            values = larger.chunks(n).map(<[u64]>::to_vec).collect();
            places = place.chunks(n).map(<[u64]>::to_vec).collect();
            if let Some((value, place)) = rest {
                values.push(value);
                places.push(place);
            }
        }
        Ok([values.remove(0), places.remove(0)])
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        let (of_values, of_places, of_public) = self.choices();
        let mut needs = Needs::none();
        for (level, count) in self.levels().into_iter().enumerate() {
            let pairs = count / 2 * n;
            needs.merge(&self.msb().needs(pairs));
            needs.merge(&of_values.needs(pairs));
            needs.merge(&if level == 0 {
                of_public.needs(pairs)
            } else {
                of_places.needs(pairs)
            });
        }
        needs
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        let (of_values, of_places, of_public) = self.choices();
        let levels = self.levels().into_iter().enumerate();
        levels.fold(Cost::none(), |cost, (level, count)| {
            let pairs = count / 2 * n;
            let moved = if level == 0 {
                conversions_cost(&[(of_public, pairs)], &[(of_values, pairs)])
            } else {
                conversions_cost(&[], &[(of_values, pairs), (of_places, pairs)])
            };
            cost + self.msb().cost(pairs) + moved
        })
    }
}

/// `floor(Σ x_i / count)` of signed values whose sum fits.
#[derive(Debug, Clone, Copy)]
pub struct Average {
    pub bits: u32,
    pub count: usize,
    pub radix: Radix,
}

impl Average {
    fn division(&self) -> DivideBy {
        DivideBy {
            bits: self.bits,
            divisor: self.count as u64,
            radix: self.radix,
        }
    }

    /// Additive shares of the averages, of value `i` of each instance in `values[i]`.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When there are other than `count` lists of one length.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        values: &[Vec<u64>],
    ) -> Result<Vec<u64>, OtError> {
        check(values, self.count);
        let mut sums = values[0].clone();
        for more in &values[1..] {
            add(&mut sums, more, self.bits);
        }
        self.division().run(session, &sums)
    }

    #[must_use]
    pub fn needs(&self, n: usize) -> Needs {
        self.division().needs(n)
    }

    #[must_use]
    pub fn cost(&self, n: usize) -> Cost {
        self.division().cost(n)
    }
}
