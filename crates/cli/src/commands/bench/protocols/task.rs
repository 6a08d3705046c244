//! What is measured: protocols with widths, inputs, and the integer programs that they equal.

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use marill_numeric::{
    fixed::{low_mask, sign_extend},
    integer::{
        Power, Shape, arg_max, arithmetic_shift, mixed_product, product, relu, relu_truncate,
        truncate_reduce,
    },
};
use marill_ot::{
    Bits, Needs, OtError, Party, Session, Source,
    transfer::{Cot, Side, cot_needs, cots},
};
use marill_two_party::{
    Curve, Divide, Exp, Factor, Function, Greater, Maximum, MixedProduct, Octaves, Product, Radix,
    Reading, Relu, ReluTruncate, Shift, Sign, TruncateReduce,
    lookup::{OneHots, SharedBits, Table, lookup},
};

/// A protocol with its parameters.
pub(super) enum Task {
    Cot { bits: u32 },
    Compare(Greater),
    Relu(Relu),
    ReluTruncate(ReluTruncate),
    TruncateReduce(TruncateReduce),
    Shift(Shift),
    Product(Product),
    MixedProduct(MixedProduct),
    Table,
    Exp(Exp),
    Curve(Curve, Shape),
    InverseSqrt(Octaves),
    Divide(Divide),
    MaxPool(Maximum),
}

/// A line of the list.
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) bits: u32,
    /// Bits that a truncation drops, or of a table's output.
    pub(super) scale: Option<u32>,
    /// Bytes of SCI at 65,536 instances, its extension included: measured on mpc-msri/EzPC f24bf3e.
    pub(super) sci: f64,
    pub(super) task: Task,
}

impl Row {
    fn plain(name: &'static str, bits: u32, sci: f64, task: Task) -> Self {
        Self {
            name,
            bits,
            scale: None,
            sci,
            task,
        }
    }

    fn scaled(name: &'static str, (bits, scale): (u32, u32), sci: f64, task: Task) -> Self {
        Self {
            scale: Some(scale),
            ..Self::plain(name, bits, sci, task)
        }
    }
}

/// Every line of the list.
pub(super) fn rows(radix: Radix) -> Vec<Row> {
    let mut rows = on_rings(radix);
    rows.extend(of_numbers(radix));
    rows
}

fn on_rings(radix: Radix) -> Vec<Row> {
    let compare =
        |bits, sci| Row::plain("compare", bits, sci, Task::Compare(Greater { bits, radix }));
    let relu = |bits, sci| Row::plain("relu", bits, sci, Task::Relu(Relu { bits, radix }));
    let (bits, shift) = FIXED_POINT;
    let shifted = |sign| {
        Task::Shift(Shift {
            bits,
            shift,
            sign,
            radix,
        })
    };
    let cut = |name, sci, task| Row::scaled(name, FIXED_POINT, sci, task);
    let fused = Task::ReluTruncate(ReluTruncate { bits, shift, radix });
    let reduce = Task::TruncateReduce(TruncateReduce { bits, shift, radix });
    let bits = 32;
    let product = Task::Product(Product { bits });
    let pool = Task::MaxPool(Maximum {
        bits,
        count: 4,
        radix,
    });
    let table = (INDEX_BITS, ENTRY_BITS);
    vec![
        Row::plain("cot", bits, 20.0, Task::Cot { bits }),
        compare(16, 218.0),
        compare(32, 491.5),
        compare(64, 1057.0),
        relu(16, 254.0),
        relu(32, 531.5),
        relu(64, 1105.0),
        cut("relu_truncate", 803.0, fused),
        cut("truncate_reduce", 164.1, reduce),
        cut("shift", 600.1, shifted(Sign::Unknown)),
        cut("shift_known_sign", 215.6, shifted(Sign::NotNegative)),
        Row::plain("maxpool_4", bits, 1618.5, pool),
        Row::plain("product", bits, 1184.0, product),
        Row::plain("smul_16_16_32", bits, 1140.0, signed(radix)),
        Row::scaled("lut_8_16", table, 544.0, Task::Table),
    ]
}

/// Functions of fixed-point numbers.
fn of_numbers(radix: Radix) -> Vec<Row> {
    let (bits, scale) = NUMBER;
    let exp = Task::Exp(Exp::new(bits, scale, bits, scale, radix));
    let curve = |shape| Task::Curve(Curve::new(shape, NUMBER, NUMBER, radix), shape);
    let rsqrt = Octaves::new(Power::InverseSqrt, NUMBER, NUMBER, MANTISSA, radix);
    let (bits, scale) = QUOTIENT;
    let divide = Task::Divide(Divide::new(bits, bits, scale, radix));
    let function = |name, sci, task| Row::scaled(name, NUMBER, sci, task);
    vec![
        function("exp", 2004.5, exp),
        function("sigmoid", 4430.1, curve(Shape::Sigmoid)),
        function("tanh", 4382.9, curve(Shape::Tanh)),
        function("rsqrt", 5700.8, Task::InverseSqrt(rsqrt)),
        Row::scaled("divide", QUOTIENT, 4841.0, divide),
    ]
}

/// Width and dropped bits of ResNet-50 in CrypTFlow2.
const FIXED_POINT: (u32, u32) = (37, 12);

/// Width and scale of the functions' numbers, and of a quotient's.
const NUMBER: (u32, u32) = (16, 12);
const QUOTIENT: (u32, u32) = (16, 14);
/// Bits behind the leading one that a root's table looks at.
const MANTISSA: u32 = 5;
/// 0.1 at scale 12, from where on the papers state an error of a reciprocal root.
const LEAST: u64 = 410;

/// The signed product of 16 bits by 16 in 32.
fn signed(radix: Radix) -> Task {
    let factor = Factor {
        bits: 16,
        reading: Reading::Signed,
    };
    Task::MixedProduct(MixedProduct {
        x: factor,
        y: factor,
        out: 32,
        radix,
    })
}

const INDEX_BITS: u32 = 8;
const ENTRY_BITS: u32 = 16;

/// The measured table: any 256 entries cost the same.
fn entries() -> Vec<u64> {
    (0..1 << INDEX_BITS)
        .map(|i: u64| (i * 40_503) & low_mask(ENTRY_BITS))
        .collect()
}

/// Clear values by column, and what each party brings.
pub(super) struct Inputs {
    pub(super) columns: Vec<(&'static str, Vec<u64>)>,
    pub(super) own: [Vec<u64>; 2],
}

impl Task {
    /// The same random values in every run; fresh shares.
    pub(super) fn inputs(&self, n: usize) -> Inputs {
        let mut values = Prg::new(&Seed::from_bytes([0; 32]), "inputs of `bench protocols`");
        let mut shared = |bits: u32, used: u32| split(values.reduced(n, used), bits);
        match self {
            Self::Cot { bits } => {
                let m = values.reduced(n, *bits);
                let choice = values.reduced(n, 1);
                own_values("m", m, "choice", choice)
            }
            Self::Compare(greater) => {
                let x = values.reduced(n, greater.bits);
                let y = values.reduced(n, greater.bits);
                own_values("x", x, "y", y)
            }
            Self::Relu(relu) => shared(relu.bits, relu.bits),
            Self::ReluTruncate(fused) => shared(fused.bits, fused.bits),
            Self::TruncateReduce(reduce) => shared(reduce.bits, reduce.bits),
            Self::Shift(shift) => {
                let known = u32::from(shift.sign != Sign::Unknown);
                shared(shift.bits, shift.bits - known)
            }
            Self::Product(product) => {
                let x = shared(product.bits, product.bits);
                several(["x", "y"], [x, shared(product.bits, product.bits)])
            }
            Self::MixedProduct(product) => {
                let x = shared(product.x.bits, product.x.bits);
                several(["x", "y"], [x, shared(product.y.bits, product.y.bits)])
            }
            Self::Table => shared(INDEX_BITS, INDEX_BITS),
            Self::Exp(_) | Self::Curve(..) => shared(NUMBER.0, NUMBER.0),
            Self::InverseSqrt(_) => {
                let x = values.reduced(n, NUMBER.0 - 1);
                split(x.into_iter().map(|x| x.max(LEAST)).collect(), NUMBER.0)
            }
            Self::MaxPool(pool) => {
                // Less than half the ring apart.
                let mut list = || {
                    let x = values.reduced(n, pool.bits - 1).into_iter();
                    let x = x.map(|x| sign_extend(x, pool.bits - 1) as u64);
                    split(x.map(|x| x & low_mask(pool.bits)).collect(), pool.bits)
                };
                several(["a", "b", "c", "d"], [(); 4].map(|()| list()))
            }
            Self::Divide(_) => {
                let bits = QUOTIENT.0;
                let b = values.reduced(n, bits - 1);
                let b: Vec<u64> = b.into_iter().map(|b| b.max(1)).collect();
                let pairs = values.words(n).into_iter().zip(&b);
                // Quotients in (-2, 2), with a unit to spare.
                let a = pairs.map(|(random, b)| {
                    let most = (2 * b - 2).min(low_mask(bits - 1));
                    (random % (2 * most + 1)).wrapping_sub(most) & low_mask(bits)
                });
                several(["a", "b"], [split(a.collect(), bits), split(b, bits)])
            }
        }
    }

    pub(super) fn needs(&self, n: usize) -> Needs {
        match self {
            Self::Cot { .. } => {
                let mut needs = Needs::none();
                cot_needs(&mut needs, Party::E0, n);
                needs
            }
            Self::Compare(greater) => greater.needs(n),
            Self::Relu(relu) => relu.needs(n),
            Self::ReluTruncate(fused) => fused.needs(n),
            Self::TruncateReduce(reduce) => reduce.needs(n),
            Self::Shift(shift) => shift.needs(n),
            Self::Product(product) => product.needs(n),
            Self::MixedProduct(product) => product.needs(n),
            Self::Table => {
                let mut needs = OneHots::needs(INDEX_BITS, n);
                needs.merge(&SharedBits::needs(ENTRY_BITS, n));
                needs
            }
            Self::Exp(exp) => exp.needs(n),
            Self::Curve(curve, _) => curve.needs(n),
            Self::InverseSqrt(root) => root.needs(n),
            Self::Divide(divide) => divide.needs(n),
            Self::MaxPool(pool) => pool.needs(n),
        }
    }

    /// Shares of the outputs, modulo `2^out_bits`.
    pub(super) fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        own: &[u64],
    ) -> Result<Vec<u64>, OtError> {
        match self {
            Self::Cot { bits } => {
                let choice = Bits::from_fn(own.len(), |i| own[i]);
                let side = match session.party() {
                    Party::E0 => Side::Send(own),
                    Party::E1 => Side::Choose(&choice),
                };
                let bits = *bits;
                Ok(cots(session, "cot", &[Cot { bits, side }])?.remove(0))
            }
            Self::Compare(greater) => {
                let bits = greater.run(session, own)?;
                Ok((0..own.len()).map(|i| bits.get(i)).collect())
            }
            Self::Relu(relu) => relu.run(session, own),
            Self::ReluTruncate(fused) => fused.run(session, own),
            Self::TruncateReduce(reduce) => reduce.run(session, own),
            Self::Shift(shift) => shift.run(session, own),
            Self::Product(product) => {
                let (x, y) = own.split_at(own.len() / 2);
                product.run(session, x, y)
            }
            Self::MixedProduct(product) => {
                let (x, y) = own.split_at(own.len() / 2);
                product.run(session, x, y)
            }
            Self::Table => {
                let one_hots = OneHots::make(session, INDEX_BITS, own.len())?;
                let output = SharedBits::make(session, ENTRY_BITS, own.len())?;
                let entries = entries();
                let table = Table {
                    entries: &entries,
                    out_bits: ENTRY_BITS,
                };
                Ok(lookup(session, &[table], own, one_hots, vec![output])?.remove(0))
            }
            Self::Exp(exp) => exp.run(session, own),
            Self::Curve(curve, _) => curve.run(session, own),
            Self::InverseSqrt(root) => root.run(session, own),
            Self::Divide(divide) => {
                let (a, b) = own.split_at(own.len() / 2);
                divide.run(session, [a, b])
            }
            Self::MaxPool(pool) => {
                let lists = own.chunks(own.len() / pool.count);
                pool.run(session, &lists.map(<[u64]>::to_vec).collect::<Vec<_>>())
            }
        }
    }

    pub(super) fn out_bits(&self) -> u32 {
        match self {
            Self::Cot { bits } => *bits,
            // XOR is addition of single bits.
            Self::Compare(_) => 1,
            Self::Relu(relu) => relu.bits,
            Self::ReluTruncate(fused) => fused.bits,
            Self::TruncateReduce(reduce) => reduce.bits - reduce.shift,
            Self::Shift(shift) => shift.bits,
            Self::Product(product) => product.bits,
            Self::MixedProduct(product) => product.out,
            Self::Table => ENTRY_BITS,
            Self::Exp(_) | Self::Curve(..) | Self::InverseSqrt(_) => NUMBER.0,
            Self::Divide(_) => QUOTIENT.0,
            Self::MaxPool(pool) => pool.bits,
        }
    }

    /// The integer program of instance `i`.
    pub(super) fn expected(&self, inputs: &Inputs, i: usize) -> u64 {
        let value = |column: usize| inputs.columns[column].1[i];
        match self {
            Self::Cot { .. } => value(0) * value(1),
            Self::Compare(_) => u64::from(value(0) > value(1)),
            Self::Relu(p) => relu(value(0), p.bits),
            Self::ReluTruncate(p) => relu_truncate(value(0), p.bits, p.shift),
            Self::TruncateReduce(p) => truncate_reduce(value(0), p.bits, p.shift),
            Self::Shift(p) => arithmetic_shift(value(0), p.bits, p.shift),
            Self::Product(p) => product(value(0), value(1), p.bits),
            Self::MixedProduct(p) => {
                let factors = [(value(0), p.x.bits, true), (value(1), p.y.bits, true)];
                mixed_product(factors[0], factors[1], p.out)
            }
            Self::Table => (value(0) * 40_503) & low_mask(ENTRY_BITS),
            Self::Exp(p) => p.tables().at(value(0)),
            Self::Curve(p, _) => p.tables().at(value(0), NUMBER.0),
            Self::InverseSqrt(p) => p.tables().at(value(0)),
            Self::Divide(p) => p.tables().at(value(0), value(1)),
            Self::MaxPool(p) => {
                let values = [0, 1, 2, 3].map(value);
                arg_max(&values, p.bits).0
            }
        }
    }

    /// Of functions of real numbers: instance `i`'s exact result in units of the output, and the
    /// output as the signed number that it is.
    pub(super) fn exact(&self, inputs: &Inputs, i: usize, output: u64) -> Option<(f64, i64)> {
        let number = |column: usize, (bits, scale): (u32, u32)| {
            let value = inputs.columns[column].1[i];
            sign_extend(value, bits) as f64 / f64::from(1 << scale)
        };
        let x = number(0, NUMBER);
        let (exact, (bits, scale)) = match self {
            // Read as unsigned.
            Self::Exp(_) => ((-number(0, (64, NUMBER.1))).exp(), NUMBER),
            Self::Curve(_, Shape::Sigmoid) => (1.0 / (1.0 + (-x).exp()), NUMBER),
            Self::Curve(_, Shape::Tanh) => (x.tanh(), NUMBER),
            Self::InverseSqrt(_) => (x.sqrt().recip(), NUMBER),
            Self::Divide(_) => (number(0, QUOTIENT) / number(1, QUOTIENT), QUOTIENT),
            _ => return None,
        };
        Some((exact * f64::from(1 << scale), sign_extend(output, bits)))
    }
}

/// Fresh shares of values.
fn split(x: Vec<u64>, bits: u32) -> Inputs {
    let first = Prg::new(&Seed::random(), "shares").reduced(x.len(), bits);
    let second = x.iter().zip(&first);
    let second = second.map(|(x, first)| x.wrapping_sub(*first) & low_mask(bits));
    Inputs {
        own: [first.clone(), second.collect()],
        columns: vec![("x", x)],
    }
}

/// Shared inputs, one behind the other at each party.
fn several<const N: usize>(names: [&'static str; N], lists: [Inputs; N]) -> Inputs {
    let own = |party: usize| {
        let parts = lists.iter().map(|list| &list.own[party][..]);
        parts.collect::<Vec<_>>().concat()
    };
    let own = [own(0), own(1)];
    let columns = lists.into_iter().flat_map(|list| list.columns);
    let columns = names.into_iter().zip(columns.map(|(_, column)| column));
    Inputs {
        own,
        columns: columns.collect(),
    }
}

/// Inputs that each party has in clear.
fn own_values(a: &'static str, x: Vec<u64>, b: &'static str, y: Vec<u64>) -> Inputs {
    Inputs {
        own: [x.clone(), y.clone()],
        columns: vec![(a, x), (b, y)],
    }
}
