//! Leaves: `greater` and `equal` of one digit, from transfers on E1's digit.

use marill_net::Channel;
use marill_ot::{
    BitReader, BitWriter, Bits, Kind, Needs, Party, Session, Source,
    stock::{ChosenPads, SentPads},
    transfer::{correct, exchange, mask_table, unmask_table},
};

use crate::{Cost, Run};

const STEP: &str = "digits";

/// One digit, by its place in the value, and what is wanted of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Digit {
    pub at: u32,
    pub width: u32,
    pub greater: bool,
    pub equal: bool,
}

/// XOR shares of what was wanted of a digit or of several.
#[derive(Clone)]
pub(crate) struct Node {
    pub greater: Option<Bits>,
    pub equal: Option<Bits>,
}

/// How a digit is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `equal` of one bit is local.
    Local,
    /// A table over E1's digit, of one bit or two.
    Table { width: u8 },
    /// Two bits: `greater` by one of four, `equal` by two products on the same choices.
    Leaf,
    /// Two bits of which only `equal` is wanted: the products alone.
    Products,
}

impl Digit {
    fn form(&self) -> Form {
        match (self.width, self.greater, self.equal) {
            (1, false, _) => Form::Local,
            (1, true, _) | (2, true, false) => Form::Table { width: 1 },
            (2, true, true) => Form::Leaf,
            (2, false, _) => Form::Products,
            (_, greater, equal) => Form::Table {
                width: u8::from(greater) + u8::from(equal),
            },
        }
    }

    /// Kinds of transfers, in which E0 sends.
    fn kinds(&self) -> Vec<Kind> {
        let choices = self.width as u8;
        match self.form() {
            Form::Local => Vec::new(),
            Form::Table { width } => vec![Kind::OneOf { choices, width }],
            Form::Leaf => vec![Kind::Leaf],
            Form::Products => {
                let kind = Kind::OneOf {
                    choices: 1,
                    width: 1,
                };
                vec![kind, kind]
            }
        }
    }

    pub(crate) fn add_needs(&self, needs: &mut Needs, n: usize) {
        for kind in self.kinds() {
            needs.add(kind, Party::E0, n);
        }
    }

    /// Bits per instance: E1's corrections, E0's entries.
    fn message_bits(&self) -> [usize; 2] {
        let digit = self.width as usize;
        match self.form() {
            Form::Local => [0, 0],
            Form::Table { width } => [digit, ((1 << digit) - 1) * width as usize],
            Form::Leaf => [2, 5],
            Form::Products => [2, 2],
        }
    }

    /// E0's table: of each value of E1's digit, whether E0's is greater and whether it is equal, as
    /// far as they are wanted.
    fn table(&self, planes: &[Bits], greater: bool, equal: bool) -> Vec<Bits> {
        let n = planes[0].n();
        let is = |value: usize| {
            let matched = planes.iter().enumerate().map(|(k, plane)| {
                if value >> k & 1 == 1 {
                    plane.clone()
                } else {
                    !plane
                }
            });
            matched.fold(Bits::ones(n), |all, bit| &all & &bit)
        };
        let mut above = Bits::zeros(n);
        let mut rows = Vec::new();
        for value in (0..1 << self.width).rev() {
            let here = is(value);
            let mut row = Vec::new();
            if greater {
                row.push(above.clone());
            }
            if equal {
                row.push(here.clone());
            }
            above ^= &here;
            rows.push(row);
        }
        rows.into_iter().rev().flatten().collect()
    }
}

/// Adds the two rounds of these leaves.
pub(crate) fn add_cost(digits: &[Digit], n: usize, cost: &mut Cost) {
    let mut bits = [0; 2];
    for digit in digits {
        let [corrections, entries] = digit.message_bits();
        bits[0] += n * corrections;
        bits[1] += n * entries;
    }
    cost.exchange([0, bits[0]]);
    cost.exchange([bits[1], 0]);
}

/// Shares of all digits: E1's corrections travel together, then E0's entries.
pub(crate) fn leaves<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    digits: &[Digit],
    planes: &[Bits],
) -> Run<Vec<Node>> {
    match session.party() {
        Party::E0 => first(session, digits, planes),
        Party::E1 => second(session, digits, planes),
    }
}

fn own<'a>(digit: &Digit, planes: &'a [Bits]) -> &'a [Bits] {
    &planes[digit.at as usize..(digit.at + digit.width) as usize]
}

fn first<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    digits: &[Digit],
    planes: &[Bits],
) -> Run<Vec<Node>> {
    let n = planes[0].n();
    let mut pads = Vec::with_capacity(digits.len());
    let mut expected = 0;
    for digit in digits {
        let mut taken = Vec::new();
        for kind in digit.kinds() {
            let SentPads(more) = session.sent(kind, n)?;
            taken.extend(more);
        }
        expected += n * digit.message_bits()[0];
        pads.push(taken);
    }
    let mut received = exchange(session, STEP, BitWriter::new(), expected)?;
    let mut message = BitWriter::new();
    let nodes = digits.iter().zip(pads).map(|(digit, pads)| {
        let planes = own(digit, planes);
        first_node(digit, planes, pads, &mut received, &mut message)
    });
    let nodes = nodes.collect();
    exchange(session, STEP, message, 0)?;
    Ok(nodes)
}

/// E0's share of a product of its bit with the choice, and the message.
fn send_product(pads: [&Bits; 2], bit: &Bits, message: &mut BitWriter) -> Bits {
    message.push_bits(&(&(pads[0] ^ pads[1]) ^ bit));
    pads[0].clone()
}

fn first_node(
    digit: &Digit,
    x: &[Bits],
    mut pads: Vec<Bits>,
    received: &mut BitReader,
    message: &mut BitWriter,
) -> Node {
    let n = x[0].n();
    let form = digit.form();
    let mut corrections = Vec::new();
    if form != Form::Local {
        corrections.extend((0..digit.width).map(|_| received.take_bits(n)));
    }
    match form {
        Form::Local => Node {
            greater: None,
            equal: Some(!&x[0]),
        },
        Form::Table { width } => {
            // A digit of one bit is equal without a message.
            let in_table = digit.equal && digit.width > 1;
            let table = digit.table(x, digit.greater, in_table);
            let width = width.into();
            correct(&mut pads, width, &corrections);
            let mut shares = mask_table(&table, &pads, width, message).into_iter();
            let greater = digit.greater.then(|| shares.next().expect("wanted"));
            let equal = match (digit.equal, in_table) {
                (true, true) => shares.next(),
                (true, false) => Some(!&x[0]),
                _ => None,
            };
            Node { greater, equal }
        }
        Form::Leaf => {
            let mut products = pads.split_off(4);
            correct(&mut pads, 1, &corrections);
            let table = digit.table(x, true, false);
            let greater = mask_table(&table, &pads, 1, message).remove(0);
            // Pads of the high choice, then of the low one.
            correct(&mut products[..2], 1, &corrections[1..]);
            correct(&mut products[2..], 1, &corrections[..1]);
            let equal = first_equal(x, [&products[2..], &products[..2]], message);
            Node {
                greater: Some(greater),
                equal: Some(equal),
            }
        }
        Form::Products => {
            correct(&mut pads[..2], 1, &corrections[..1]);
            correct(&mut pads[2..], 1, &corrections[1..]);
            let equal = first_equal(x, [&pads[..2], &pads[2..]], message);
            Node {
                greater: None,
                equal: Some(equal),
            }
        }
    }
}

/// `equal = (a ⊕ y_1)(b ⊕ y_0)` with `a = ¬x_1`, `b = ¬x_0`: E0's `a·b` and two products. Pads by
/// the low choice, then by the high one.
fn first_equal(x: &[Bits], pads: [&[Bits]; 2], message: &mut BitWriter) -> Bits {
    let a = !&x[1];
    let b = !&x[0];
    let mut equal = &a & &b;
    equal ^= &send_product([&pads[0][0], &pads[0][1]], &a, message);
    equal ^= &send_product([&pads[1][0], &pads[1][1]], &b, message);
    equal
}

fn second<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    digits: &[Digit],
    planes: &[Bits],
) -> Run<Vec<Node>> {
    let n = planes[0].n();
    let mut pads: Vec<ChosenPads> = Vec::with_capacity(digits.len());
    let mut corrections = BitWriter::new();
    let mut expected = 0;
    for digit in digits {
        let mut taken = ChosenPads {
            choices: Vec::new(),
            pads: Vec::new(),
        };
        for kind in digit.kinds() {
            let more = session.chosen(kind, n)?;
            taken.choices.extend(more.choices);
            taken.pads.extend(more.pads);
        }
        let wanted = own(digit, planes).iter().zip(&taken.choices);
        wanted.for_each(|(wanted, random)| corrections.push_bits(&(wanted ^ random)));
        expected += n * digit.message_bits()[1];
        pads.push(taken);
    }
    exchange(session, STEP, corrections, 0)?;
    let mut received = exchange(session, STEP, BitWriter::new(), expected)?;
    let nodes = digits
        .iter()
        .zip(pads)
        .map(|(digit, taken)| second_node(digit, own(digit, planes), &taken.pads, &mut received));
    Ok(nodes.collect())
}

fn second_node(digit: &Digit, y: &[Bits], pads: &[Bits], received: &mut BitReader) -> Node {
    match digit.form() {
        Form::Local => Node {
            greater: None,
            equal: Some(y[0].clone()),
        },
        Form::Table { .. } => {
            let entries = 1 << digit.width;
            let mut shares = unmask_table(y, pads, entries, received).into_iter();
            let greater = digit.greater.then(|| shares.next().expect("wanted"));
            let equal = match (digit.equal, digit.width) {
                (true, 1) => Some(y[0].clone()),
                (true, _) => shares.next(),
                _ => None,
            };
            Node { greater, equal }
        }
        Form::Leaf => {
            let greater = unmask_table(y, &pads[..1], 4, received).remove(0);
            let equal = second_equal(y, [&pads[2], &pads[1]], received);
            Node {
                greater: Some(greater),
                equal: Some(equal),
            }
        }
        Form::Products => Node {
            greater: None,
            equal: Some(second_equal(y, [&pads[0], &pads[1]], received)),
        },
    }
}

/// E1's share: `y_1·y_0` and its parts of both products, by the low choice, then by the high one.
fn second_equal(y: &[Bits], pads: [&Bits; 2], received: &mut BitReader) -> Bits {
    let mut equal = &y[0] & &y[1];
    for (pad, choice) in pads.into_iter().zip(y) {
        equal ^= pad;
        equal ^= &(&received.take_bits(choice.n()) & choice);
    }
    equal
}
