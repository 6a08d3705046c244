//! Sums of the sender's vectors by the chooser's scalars: what matrix products, attention and row
//! scalings are made of.
//!
//! # Functionality
//! The chooser has scalars `c_k`, the sender vectors `v_k` of one width; they get additive shares
//! of `Σ_k c_k·v_k` modulo `2^bits`. Scalars are unsigned, or signed in two's complement.
//!
//! # Construction
//! As [`super::CrossTerm`], Gilboa (CRYPTO '99), with one transfer per bit of a scalar for the
//! whole vector: bit `i` chooses between pads of `width` words, under which the sender sends
//! `v_k` modulo `2^(bits-i)`. A vector of `m` elements costs one transfer where `m` products cost
//! `m`. The highest bit of a signed scalar is taken off instead of added.
//!
//! # Cost
//! `Σ_{i < chooser_bits} width·(bits - i)` bits from the sender and `chooser_bits` from the chooser
//! for each scalar, in one round for any list of combinations in both directions.
//!
//! # Security
//! As messages of correlated transfers ([`marill_ot::transfer`]): the sender's differences are
//! masked by the pad that the chooser lacks, word by word, and choices by random choices. Widths,
//! bits and counts are public.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{
    BitReader, BitWriter, Bits, Kind, Needs, OtError, Party, Session, Source,
    stock::{ChosenWords, SentWords},
    transfer::exchange,
};

use crate::Cost;

/// Widest vector of a combination: a pad has at most so many words.
pub const MAX_WIDTH: usize = 255;

/// The public shape of a combination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Combination {
    /// Who has the scalars.
    pub chooser: Party,
    /// Width of the ring of the result.
    pub bits: u32,
    /// Bits of a scalar, at most `bits`.
    pub chooser_bits: u32,
    /// Whether scalars are in two's complement.
    pub signed: bool,
    /// How many scalars, and vectors.
    pub count: usize,
    /// Elements of a vector, up to [`MAX_WIDTH`].
    pub width: usize,
}

/// A party's part of a combination: `count` scalars at the chooser, `count · width` elements at
/// the sender.
#[derive(Clone, Copy)]
pub struct Combine<'a> {
    pub shape: Combination,
    pub own: &'a [u64],
}

/// What is kept of a bit of all scalars until the peer's message is there.
enum Open {
    Sent(SentWords),
    Chosen(ChosenWords, Bits),
}

impl Combination {
    fn kind(&self) -> Kind {
        Kind::Pads {
            words: self.width as u8,
        }
    }

    fn sender(&self) -> Party {
        self.chooser.other()
    }

    /// Messages in bits, of E0 and E1.
    fn message_bits(&self) -> [usize; 2] {
        let fields: usize = (0..self.chooser_bits)
            .map(|i| (self.bits - i) as usize)
            .sum();
        let mut bits = [0; 2];
        bits[self.sender() as usize] = self.count * self.width * fields;
        bits[self.chooser as usize] = self.count * self.chooser_bits as usize;
        bits
    }

    /// The transfers that it uses.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let transfers = self.count * self.chooser_bits as usize;
        Needs::of(self.kind(), self.sender(), transfers)
    }

    /// Words of pads that the sender holds while it runs.
    #[must_use]
    pub fn pad_words(&self) -> usize {
        2 * self.count * self.chooser_bits as usize * self.width
    }

    fn check(&self) {
        assert!(
            (1..=self.bits).contains(&self.chooser_bits) && self.bits <= 64,
            "1 to {} bits of the chooser, not {}",
            self.bits,
            self.chooser_bits
        );
        assert!(
            (1..=MAX_WIDTH).contains(&self.width),
            "a vector of 1 to {MAX_WIDTH} elements, not {}",
            self.width
        );
    }
}

/// What a list of combinations sends, in one round.
#[must_use]
pub fn combinations_cost(shapes: &[Combination]) -> Cost {
    let mut bits = [0; 2];
    for shape in shapes {
        let more = shape.message_bits();
        bits[0] += more[0];
        bits[1] += more[1];
    }
    let mut cost = Cost::none();
    cost.exchange(bits);
    cost
}

/// Additive shares of each combination, `width` elements each. One round.
///
/// # Errors
/// Those of [`Session`].
///
/// # Panics
/// When a scalar has no bits or more than the ring, a vector no elements or more than
/// [`MAX_WIDTH`], or a party has not what its part is.
pub fn combinations<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    step: &'static str,
    list: &[Combine<'_>],
) -> Result<Vec<Vec<u64>>, OtError> {
    let party = session.party();
    let mut needs = Needs::none();
    let mut expected = 0;
    for Combine { shape, own } in list {
        shape.check();
        let elements = if shape.chooser == party {
            shape.count
        } else {
            shape.count * shape.width
        };
        assert_eq!(own.len(), elements, "a party's part of a combination");
        needs.merge(&shape.needs());
        expected += shape.message_bits()[party.other() as usize];
    }
    session.ensure(&needs)?;
    let mut message = BitWriter::new();
    let mut open = Vec::with_capacity(list.len());
    for combine in list {
        open.push(combine.open(session, &mut message)?);
    }
    let mut received = exchange(session, step, message, expected)?;
    let finished = list.iter().zip(open);
    Ok(finished
        .map(|(combine, open)| combine.finish(open, &mut received))
        .collect())
}

impl Combine<'_> {
    /// Writes this party's message, bit by bit of the scalars.
    fn open<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        message: &mut BitWriter,
    ) -> Result<Vec<Open>, OtError> {
        let shape = &self.shape;
        let words = shape.width as u8;
        let chooses = session.party() == shape.chooser;
        let planes = if chooses {
            Bits::planes(self.own, shape.chooser_bits)
        } else {
            Vec::new()
        };
        let mut open = Vec::with_capacity(shape.chooser_bits as usize);
        for i in 0..shape.chooser_bits {
            if chooses {
                let pads = session.chosen_words(words, shape.count)?;
                let d = &planes[i as usize] ^ &pads.choice;
                message.push_bits(&d);
                open.push(Open::Chosen(pads, d));
            } else {
                let bits = shape.bits - i;
                let pads = session.sent_words(words, shape.count)?;
                let masks = pads.zero.iter().zip(&pads.one);
                for (v, (zero, one)) in self.own.iter().zip(masks) {
                    let e = v.wrapping_sub(*one).wrapping_add(*zero);
                    message.push(e & low_mask(bits), bits);
                }
                open.push(Open::Sent(pads));
            }
        }
        Ok(open)
    }

    fn finish(&self, open: Vec<Open>, received: &mut BitReader) -> Vec<u64> {
        let shape = &self.shape;
        let mut sums = vec![0u64; shape.width];
        for (i, open) in (0u32..).zip(open) {
            let mut part = vec![0u64; shape.width];
            match open {
                Open::Sent(pads) => self.sent(&pads, received, &mut part),
                Open::Chosen(pads, d) => {
                    chosen(&pads, &d, shape.bits - i, received, &mut part);
                }
            }
            let minus = shape.signed && i + 1 == shape.chooser_bits;
            for (sum, part) in sums.iter_mut().zip(part) {
                let part = part << i;
                let part = if minus { part.wrapping_neg() } else { part };
                *sum = sum.wrapping_add(part);
            }
        }
        sums.iter_mut().for_each(|sum| *sum &= low_mask(shape.bits));
        sums
    }

    /// Adds `-p_0`, or `p_0 + v` where the chooser corrected, over all scalars.
    fn sent(&self, pads: &SentWords, received: &mut BitReader, sums: &mut [u64]) {
        let width = self.shape.width;
        let d = received.take_bits(self.shape.count);
        let rows = self.own.chunks_exact(width);
        for (k, (vector, zeros)) in rows.zip(pads.zero.chunks_exact(width)).enumerate() {
            let flip = d.get(k).wrapping_neg();
            for ((sum, v), zero) in sums.iter_mut().zip(vector).zip(zeros) {
                let minus = zero.wrapping_neg();
                let share = (minus ^ flip).wrapping_sub(flip).wrapping_add(v & flip);
                *sum = sum.wrapping_add(share);
            }
        }
    }
}

/// Adds `p_β + β·e`, negated where this party corrected, over all scalars.
fn chosen(pads: &ChosenWords, d: &Bits, bits: u32, received: &mut BitReader, sums: &mut [u64]) {
    let rows = pads.pads.chunks_exact(sums.len());
    for (k, row) in rows.enumerate() {
        let choice = pads.choice.get(k).wrapping_neg();
        let flip = d.get(k).wrapping_neg();
        for (sum, pad) in sums.iter_mut().zip(row) {
            let e = received.take(bits) & choice;
            let share = (pad.wrapping_add(e) ^ flip).wrapping_sub(flip);
            *sum = sum.wrapping_add(share);
        }
    }
}
