//! What is measured: protocols with widths, inputs, and the integer programs that they equal.

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use marill_numeric::{
    fixed::low_mask,
    integer::{arithmetic_shift, mixed_product, product, relu, relu_truncate, truncate_reduce},
};
use marill_ot::{
    Bits, Needs, OtError, Party, Session, Source,
    transfer::{Cot, Side, cot_needs, cots},
};
use marill_two_party::{
    Factor, Greater, MixedProduct, Product, Radix, Reading, Relu, ReluTruncate, Shift, Sign,
    TruncateReduce,
    lookup::{OneHots, SharedBits, Table, lookup},
};

/// Names of the list that have no protocol yet.
pub(super) const PLANNED: [&str; 8] = [
    "exp",
    "sigmoid",
    "tanh",
    "rsqrt",
    "divide",
    "maxpool_4",
    "matmul",
    "conv",
];

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

pub(super) fn rows(radix: Radix) -> Vec<Row> {
    let plain = |name, bits, sci, task| Row {
        name,
        bits,
        scale: None,
        sci,
        task,
    };
    let scaled = |name, bits, scale, sci, task| Row {
        name,
        bits,
        scale: Some(scale),
        sci,
        task,
    };
    let compare = |bits, sci| plain("compare", bits, sci, Task::Compare(Greater { bits, radix }));
    let relu = |bits, sci| plain("relu", bits, sci, Task::Relu(Relu { bits, radix }));
    let (bits, shift) = FIXED_POINT;
    let shifted = |sign| {
        Task::Shift(Shift {
            bits,
            shift,
            sign,
            radix,
        })
    };
    let fused = Task::ReluTruncate(ReluTruncate { bits, shift, radix });
    let reduce = Task::TruncateReduce(TruncateReduce { bits, shift, radix });
    vec![
        plain("cot", 32, 20.0, Task::Cot { bits: 32 }),
        compare(16, 218.0),
        compare(32, 491.5),
        compare(64, 1057.0),
        relu(16, 254.0),
        relu(32, 531.5),
        relu(64, 1105.0),
        scaled("relu_truncate", bits, shift, 803.0, fused),
        scaled("truncate_reduce", bits, shift, 164.1, reduce),
        scaled("shift", bits, shift, 600.1, shifted(Sign::Unknown)),
        scaled(
            "shift_known_sign",
            bits,
            shift,
            215.6,
            shifted(Sign::NotNegative),
        ),
        plain("product", 32, 1184.0, Task::Product(Product { bits: 32 })),
        plain(
            "smul_16_16_32",
            32,
            1140.0,
            Task::MixedProduct(signed(radix)),
        ),
        scaled("lut_8_16", INDEX_BITS, ENTRY_BITS, 544.0, Task::Table),
    ]
}

/// Width and dropped bits of ResNet-50 in CrypTFlow2.
const FIXED_POINT: (u32, u32) = (37, 12);

/// The signed product of 16 bits by 16 in 32.
fn signed(radix: Radix) -> MixedProduct {
    let factor = Factor {
        bits: 16,
        reading: Reading::Signed,
    };
    MixedProduct {
        x: factor,
        y: factor,
        out: 32,
        radix,
    }
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
        let mut masks = Prg::new(&Seed::random(), "shares");
        let mut shared = |bits: u32, used: u32| {
            let x = values.reduced(n, used);
            let first = masks.reduced(n, bits);
            let second = x.iter().zip(&first);
            let second = second.map(|(x, first)| x.wrapping_sub(*first) & low_mask(bits));
            Inputs {
                own: [first.clone(), second.collect()],
                columns: vec![("x", x)],
            }
        };
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
                pair(["x", "y"], x, shared(product.bits, product.bits))
            }
            Self::MixedProduct(product) => {
                let x = shared(product.x.bits, product.x.bits);
                pair(["x", "y"], x, shared(product.y.bits, product.y.bits))
            }
            Self::Table => shared(INDEX_BITS, INDEX_BITS),
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
        }
    }
}

/// Two shared inputs, the second behind the first at each party.
fn pair(names: [&'static str; 2], x: Inputs, y: Inputs) -> Inputs {
    let [x0, x1] = x.own;
    let [y0, y1] = y.own;
    let columns = x.columns.into_iter().chain(y.columns);
    let columns = names.into_iter().zip(columns.map(|(_, column)| column));
    Inputs {
        own: [[x0, y0].concat(), [x1, y1].concat()],
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
