//! What the two parties do with random transfers, many at once.
//!
//! Each function takes a list of operations and sends their messages together, so that operations
//! which do not wait for each other take the rounds of one.
//!
//! # Correlated transfer modulo `2^l`, one round
//! The sender has `m`, the chooser a bit `y`; they get additive shares of `y·m`. With random pads
//! `p_0`, `p_1` and a random choice `β` the chooser sends `d = y ⊕ β` and the sender `e = m - p_1 +
//! p_0`, at once: neither depends on the other. The chooser's share is `±(p_β + β·e)` and the
//! sender's `∓p_0 + d·m`, the signs by `d`. `l + 1` bits. (Beaver, EUROCRYPT '95, "Precomputing
//! oblivious transfer"; Gilboa, CRYPTO '99, for products.) The chooser sees `e` masked by a pad
//! that it lacks, the sender `d` masked by a random choice.
//!
//! # One of `2^m`, two rounds
//! The sender has a table of bits, the chooser an index; they get XOR shares of the entry. The
//! chooser corrects its `m` random choices; the sender's share is fixed by the pad of entry 0, so
//! that the other `2^m - 1` entries travel (Kolesnikov, Kumaresan: CRYPTO '13; Dessouky et al.:
//! NDSS '17, for shared output).
//!
//! # AND of a shared bit with a shared string, one round
//! Two random transfers, one in each direction, are a random triple without a message: the sender's
//! string is `p_0 ⊕ p_1`, the chooser's bit its choice. Both open their operands under it
//! (Beaver, CRYPTO '91): `2 + 2w` bits.

use marill_net::Channel;
use marill_numeric::fixed::low_mask;

use crate::{
    bits::{BitReader, BitWriter, Bits},
    error::OtError,
    link::Party,
    session::Session,
    source::Source,
    stock::{ChosenPads, ChosenWords, Kind, Needs, SentPads, SentWords, words_for},
};

/// A party's side of an operation.
#[derive(Clone, Copy)]
pub enum Side<S, C> {
    Send(S),
    Choose(C),
}

/// Correlated transfers modulo `2^bits`: values below `2^bits` at the sender, bits at the chooser.
#[derive(Clone, Copy)]
pub struct Cot<'a> {
    pub bits: u32,
    pub side: Side<&'a [u64], &'a Bits>,
}

enum OpenCot {
    Sent { pads: SentWords },
    Chosen { pads: ChosenWords, d: Bits },
}

impl Cot<'_> {
    fn add_needs(&self, party: Party, needs: &mut Needs) {
        match self.side {
            Side::Send(values) => cot_needs(needs, party, values.len()),
            Side::Choose(choice) => cot_needs(needs, party.other(), choice.n()),
        }
    }

    /// Writes this party's message; gives the bits of the peer's.
    fn open<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        message: &mut BitWriter,
    ) -> Result<(OpenCot, usize), OtError> {
        let bits = self.bits;
        match self.side {
            Side::Send(values) => {
                let pads = session.sent_words(1, values.len())?;
                let masks = pads.zero.iter().zip(&pads.one);
                for (m, (zero, one)) in values.iter().zip(masks) {
                    let e = m.wrapping_sub(*one).wrapping_add(*zero);
                    message.push(e & low_mask(bits), bits);
                }
                Ok((OpenCot::Sent { pads }, values.len()))
            }
            Side::Choose(choice) => {
                let pads = session.chosen_words(1, choice.n())?;
                let d = choice ^ &pads.choice;
                message.push_bits(&d);
                Ok((OpenCot::Chosen { pads, d }, bits as usize * choice.n()))
            }
        }
    }

    fn finish(&self, open: &OpenCot, received: &mut BitReader) -> Vec<u64> {
        match (open, self.side) {
            (OpenCot::Sent { pads }, Side::Send(values)) => {
                let d = received.take_bits(values.len());
                finish_sent(pads, &d, values, self.bits)
            }
            (OpenCot::Chosen { pads, d }, _) => finish_chosen(pads, d, received, self.bits),
            (OpenCot::Sent { .. }, Side::Choose(_)) => unreachable!("opened by its side"),
        }
    }
}

/// What correlated transfers need.
pub fn cot_needs(needs: &mut Needs, sender: Party, n: usize) {
    needs.add(Kind::Pads { words: 1 }, sender, n);
}

/// Additive shares of `y·m`, of each operation. One round.
///
/// # Errors
/// Those of [`Session`].
pub fn cots<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    step: &'static str,
    operations: &[Cot<'_>],
) -> Result<Vec<Vec<u64>>, OtError> {
    Ok(together(session, step, &[], operations)?.1)
}

/// XOR shares of `bit·string`, of each operation. One round.
///
/// # Errors
/// Those of [`Session`].
pub fn and<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    step: &'static str,
    operations: &[And<'_>],
) -> Result<Vec<Vec<Bits>>, OtError> {
    Ok(together(session, step, operations, &[])?.0)
}

/// [`and`] and [`cots`] in the same round.
///
/// # Errors
/// Those of [`Session`].
pub fn together<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    step: &'static str,
    ands: &[And<'_>],
    cots: &[Cot<'_>],
) -> Result<(Vec<Vec<Bits>>, Vec<Vec<u64>>), OtError> {
    let party = session.party();
    let mut needs = Needs::none();
    for operation in ands {
        needs.add_triples(operation.string.len() as u8, operation.bit.n());
    }
    cots.iter().for_each(|cot| cot.add_needs(party, &mut needs));
    session.ensure(&needs)?;
    let mut message = BitWriter::new();
    let mut open_ands = Vec::with_capacity(ands.len());
    for operation in ands {
        open_ands.push(operation.open(session, &mut message)?);
    }
    let mut expected = message.len();
    let mut open_cots = Vec::with_capacity(cots.len());
    for operation in cots {
        let (open, bits) = operation.open(session, &mut message)?;
        expected += bits;
        open_cots.push(open);
    }
    let mut received = exchange(session, step, message, expected)?;
    let products = open_ands.into_iter();
    let products = products.map(|open| open.finish(party, &mut received));
    let products = products.collect();
    let shares = cots.iter().zip(&open_cots);
    let shares = shares.map(|(cot, open)| cot.finish(open, &mut received));
    Ok((products, shares.collect()))
}

/// `-p_0`, or `p_0 + m` where `d` is 1.
fn finish_sent(pads: &SentWords, d: &Bits, values: &[u64], bits: u32) -> Vec<u64> {
    let of = |(i, (m, zero)): (usize, (&u64, &u64))| {
        let flip = d.get(i).wrapping_neg();
        let minus = zero.wrapping_neg();
        let share = (minus ^ flip).wrapping_sub(flip).wrapping_add(m & flip);
        share & low_mask(bits)
    };
    values.iter().zip(&pads.zero).enumerate().map(of).collect()
}

/// `p_β + β·e`, negated where `d` is 1.
fn finish_chosen(pads: &ChosenWords, d: &Bits, received: &mut BitReader, bits: u32) -> Vec<u64> {
    let of = |(i, pad): (usize, &u64)| {
        let e = received.take(bits) & pads.choice.get(i).wrapping_neg();
        let flip = d.get(i).wrapping_neg();
        let share = (pad.wrapping_add(e) ^ flip).wrapping_sub(flip);
        share & low_mask(bits)
    };
    pads.pads.iter().enumerate().map(of).collect()
}

/// Both send what they have; the answer has the length that the protocol says.
///
/// # Errors
/// Those of [`crate::Link`].
pub fn exchange<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    step: &'static str,
    message: BitWriter,
    expected: usize,
) -> Result<BitReader, OtError> {
    let bytes = expected.div_ceil(8);
    let received = session.link().exchange(step, &message.finish(), bytes)?;
    BitReader::new(&received, expected, step)
}

/// Tables of bits at the sender, indices at the chooser.
#[derive(Clone)]
pub struct OneOf<'a> {
    /// Bits of an index.
    pub choices: u8,
    /// Bits of an entry.
    pub width: u8,
    /// The sender's planes, `entry·width + bit`; the chooser's, a plane per bit of the index, the
    /// lowest first.
    pub side: Side<&'a [Bits], &'a [Bits]>,
}

impl OneOf<'_> {
    fn kind(&self) -> Kind {
        Kind::OneOf {
            choices: self.choices,
            width: self.width,
        }
    }
}

/// Changes pads so that pad `c` is the one of corrected choice `c`.
pub fn correct(pads: &mut [Bits], width: usize, corrections: &[Bits]) {
    for (k, d) in corrections.iter().enumerate() {
        let entries = pads.len() / width;
        for entry in (0..entries).filter(|entry| entry >> k & 1 == 0) {
            for bit in 0..width {
                let low = entry * width + bit;
                let high = (entry | 1 << k) * width + bit;
                let (before, after) = pads.split_at_mut(high);
                d.swap(&mut before[low], &mut after[0]);
            }
        }
    }
}

/// The messages of a table under corrected pads, and the sender's share of the entry.
pub fn mask_table(table: &[Bits], pads: &[Bits], width: usize, out: &mut BitWriter) -> Vec<Bits> {
    let shares: Vec<Bits> = (0..width).map(|bit| &pads[bit] ^ &table[bit]).collect();
    for at in width..table.len() {
        out.push_bits(&(&(&table[at] ^ &pads[at]) ^ &shares[at % width]));
    }
    shares
}

/// The chooser's share of the entry at `index`. Every message is looked at.
pub fn unmask_table(
    index: &[Bits],
    pads: &[Bits],
    entries: usize,
    received: &mut BitReader,
) -> Vec<Bits> {
    let n = index[0].n();
    let mut shares = pads.to_vec();
    for entry in 1..entries {
        let mut here = Bits::ones(n);
        for (k, plane) in index.iter().enumerate() {
            let wanted = if entry >> k & 1 == 1 {
                plane.clone()
            } else {
                !plane
            };
            here = &here & &wanted;
        }
        for share in &mut shares {
            *share ^= &(&received.take_bits(n) & &here);
        }
    }
    shares
}

/// XOR shares of the chosen entries; both parties give the same list with the sides changed, and
/// one party sends in all of it. Two rounds.
///
/// # Errors
/// Those of [`Session`].
pub fn one_of<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    step: &'static str,
    operations: &[OneOf<'_>],
) -> Result<Vec<Vec<Bits>>, OtError> {
    let mut needs = Needs::none();
    for operation in operations {
        let (sender, planes) = match operation.side {
            Side::Send(table) => (session.party(), table),
            Side::Choose(index) => (session.party().other(), index),
        };
        needs.add(operation.kind(), sender, planes[0].n());
    }
    session.ensure(&needs)?;
    let mut corrections = BitWriter::new();
    let mut expected = 0;
    let mut answers = 0;
    let mut sent: Vec<SentPads> = Vec::new();
    let mut chosen: Vec<ChosenPads> = Vec::new();
    for operation in operations {
        match operation.side {
            Side::Send(table) => {
                let n = table[0].n();
                sent.push(session.sent(operation.kind(), n)?);
                expected += n * operation.choices as usize;
            }
            Side::Choose(index) => {
                let n = index[0].n();
                let pads = session.chosen(operation.kind(), n)?;
                let planes = index.iter().zip(&pads.choices);
                planes.for_each(|(wanted, random)| corrections.push_bits(&(wanted ^ random)));
                answers += n * ((1 << operation.choices) - 1) * operation.width as usize;
                chosen.push(pads);
            }
        }
    }
    let mut received = exchange(session, step, corrections, expected)?;
    let mut message = BitWriter::new();
    let mut sent = sent.into_iter();
    let mut shares: Vec<Vec<Bits>> = Vec::with_capacity(operations.len());
    for operation in operations {
        if let Side::Send(table) = operation.side {
            let mut pads = sent.next().expect("taken for each").0;
            let planes = 0..operation.choices;
            let d: Vec<Bits> = planes.map(|_| received.take_bits(table[0].n())).collect();
            let width = operation.width.into();
            correct(&mut pads, width, &d);
            shares.push(mask_table(table, &pads, width, &mut message));
        }
    }
    let mut received = exchange(session, step, message, answers)?;
    let mut chosen = chosen.into_iter();
    for operation in operations {
        if let Side::Choose(index) = operation.side {
            let pads = chosen.next().expect("taken for each").pads;
            let entries = 1 << operation.choices;
            shares.push(unmask_table(index, &pads, entries, &mut received));
        }
    }
    Ok(shares)
}

/// One of two messages of `bits` bits: the chooser learns its message and nothing else. Empty at
/// the sender. Two rounds, `2·bits + 1` bits.
///
/// # Errors
/// Those of [`Session`].
pub fn one_of_two<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    step: &'static str,
    bits: u32,
    side: Side<[&[u64]; 2], &Bits>,
) -> Result<Vec<u64>, OtError> {
    match side {
        Side::Send([zero, one]) => {
            let pads = session.sent_words(1, zero.len())?;
            let d = exchange(session, step, BitWriter::new(), zero.len())?.take_bits(zero.len());
            let mut message = BitWriter::new();
            for i in 0..zero.len() {
                let swap = d.get(i).wrapping_neg() & (pads.zero[i] ^ pads.one[i]);
                let masked = [zero[i] ^ pads.zero[i] ^ swap, one[i] ^ pads.one[i] ^ swap];
                masked
                    .iter()
                    .for_each(|value| message.push(value & low_mask(bits), bits));
            }
            exchange(session, step, message, 0)?;
            Ok(Vec::new())
        }
        Side::Choose(choice) => {
            let n = choice.n();
            let pads = session.chosen_words(1, n)?;
            let mut message = BitWriter::new();
            message.push_bits(&(choice ^ &pads.choice));
            exchange(session, step, message, 0)?;
            let expected = 2 * n * bits as usize;
            let mut received = exchange(session, step, BitWriter::new(), expected)?;
            let chosen = (0..n).map(|i| {
                let zero = received.take(bits);
                let one = received.take(bits);
                let masked = zero ^ (choice.get(i).wrapping_neg() & (zero ^ one));
                (masked ^ pads.pads[i]) & low_mask(bits)
            });
            Ok(chosen.collect())
        }
    }
}

/// A shared bit and a shared string of up to eight bits, in planes.
pub struct And<'a> {
    pub bit: &'a Bits,
    pub string: Vec<&'a Bits>,
}

/// A party's part of random triples `c = a·b`, `a` a bit and `b` a string.
struct Triples {
    a: Bits,
    b: Vec<Bits>,
    c: Vec<Bits>,
}

fn triples<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    width: u8,
    n: usize,
) -> Result<Triples, OtError> {
    let kind = Kind::OneOf { choices: 1, width };
    let SentPads(pads) = session.sent(kind, n)?;
    let ChosenPads {
        mut choices,
        pads: own,
    } = session.chosen(kind, n)?;
    let a = choices.remove(0);
    let (zero, one) = pads.split_at(width.into());
    let b: Vec<Bits> = zero.iter().zip(one).map(|(zero, one)| zero ^ one).collect();
    let mut c = own;
    for (c, (b, zero)) in c.iter_mut().zip(b.iter().zip(zero)) {
        *c ^= &(&a & b);
        *c ^= zero;
    }
    Ok(Triples { a, b, c })
}

/// An AND whose operands this party has masked.
struct OpenAnd {
    triples: Triples,
    epsilon: Bits,
    delta: Vec<Bits>,
}

impl And<'_> {
    fn open<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        message: &mut BitWriter,
    ) -> Result<OpenAnd, OtError> {
        let triples = triples(session, self.string.len() as u8, self.bit.n())?;
        let epsilon = self.bit ^ &triples.a;
        message.push_bits(&epsilon);
        let masked = self.string.iter().zip(&triples.b);
        let delta: Vec<Bits> = masked.map(|(s, b)| *s ^ b).collect();
        delta.iter().for_each(|plane| message.push_bits(plane));
        Ok(OpenAnd {
            triples,
            epsilon,
            delta,
        })
    }
}

impl OpenAnd {
    fn finish(self, party: Party, received: &mut BitReader) -> Vec<Bits> {
        let Triples { a, b, mut c } = self.triples;
        let n = a.n();
        let epsilon = &self.epsilon ^ &received.take_bits(n);
        for ((c, b), mut delta) in c.iter_mut().zip(&b).zip(self.delta) {
            delta ^= &received.take_bits(n);
            // (a ⊕ ε)(b ⊕ δ) = c ⊕ a·δ ⊕ ε·b ⊕ ε·δ, the last term at one party.
            *c ^= &(&a & &delta);
            *c ^= &(&epsilon & b);
            if party == Party::E0 {
                *c ^= &(&epsilon & &delta);
            }
        }
        c
    }
}

/// Pads of words for messages of `bits` bits.
#[must_use]
pub fn pads(bits: usize) -> Kind {
    Kind::Pads {
        words: words_for(bits),
    }
}
