//! Every protocol family once, on the same inputs of `n` instances at both parties.

use marill_numeric::integer::{Power, Shape};
use marill_ot::world::MemoryEnd;
use marill_testkit::faults::FaultyEnd;
use marill_two_party::{
    ArgMax, Average, Bits, Combination, Combine, Comparisons, CrossTerm, Curve, Decompose, Digits,
    Divide, DivideBy, Equal, Exp, Extend, Factor, Function, Greater, LeadingOne, Maximum,
    MixedMatrix, MixedProduct, Msb, Multiplex, Octaves, OpenedProduct, OtError, Party, Product,
    Radix, Reading, Relu, ReluCapped, ReluTruncate, Session, Shift, Sign, ToBits, ToRing, Truncate,
    TruncateReduce, combinations,
    lookup::{OneHots, SharedBits, Table, lookup},
};

type Own = Session<FaultyEnd<MemoryEnd>, marill_ot::SoftSpoken>;

/// A protocol whose results nobody looks at.
pub type Protocol = fn(&mut Own, usize) -> Result<(), OtError>;

const RADIX: Radix = Radix::Four;

/// The same values in all instances: shares of six, or of no one's choice.
fn threes(n: usize) -> Vec<u64> {
    vec![3; n]
}

fn no(n: usize) -> Bits {
    Bits::zeros(n)
}

fn factor(bits: u32) -> Factor {
    let reading = Reading::Signed;
    Factor { bits, reading }
}

macro_rules! family {
    ($name:literal, $protocol:expr) => {
        ($name, |session, n| {
            $protocol.run(session, &threes(n)).map(drop)
        })
    };
}

pub const PROTOCOLS: &[(&str, Protocol)] = &[
    family!(
        "greater",
        Greater {
            bits: 32,
            radix: RADIX
        }
    ),
    family!(
        "greater by radix 16",
        Greater {
            bits: 32,
            radix: Radix::Sixteen
        }
    ),
    family!(
        "equal",
        Equal {
            bits: 16,
            radix: RADIX
        }
    ),
    family!(
        "sign",
        Msb {
            bits: 37,
            radix: RADIX
        }
    ),
    ("comparisons", |session, n| {
        let widths = vec![5, 12];
        let own = [threes(n), threes(n)];
        Comparisons {
            widths,
            radix: RADIX,
        }
        .run(session, &own)
        .map(drop)
    }),
    ("bit to ring", |session, n| {
        ToRing { bits: 16 }.run(session, &no(n)).map(drop)
    }),
    ("multiplexer", |session, n| {
        Multiplex { bits: 16 }
            .run(session, &no(n), &threes(n))
            .map(drop)
    }),
    family!(
        "relu",
        Relu {
            bits: 32,
            radix: RADIX
        }
    ),
    family!(
        "relu and truncation",
        ReluTruncate {
            bits: 37,
            shift: 12,
            radix: RADIX
        }
    ),
    family!(
        "capped relu",
        ReluCapped {
            bits: 32,
            cap: 6 << 12,
            radix: RADIX
        }
    ),
    family!(
        "truncate and reduce",
        TruncateReduce {
            bits: 37,
            shift: 12,
            radix: RADIX
        }
    ),
    family!(
        "shift",
        Shift {
            bits: 37,
            shift: 12,
            sign: Sign::Unknown,
            radix: RADIX
        }
    ),
    family!(
        "shift of a known sign",
        Shift {
            bits: 37,
            shift: 12,
            sign: Sign::NotNegative,
            radix: RADIX,
        }
    ),
    family!("truncation with room", Truncate::half_up(37, 12, 37, RADIX)),
    family!(
        "division by 49",
        DivideBy {
            bits: 32,
            divisor: 49,
            radix: RADIX
        }
    ),
    ("maximum", |session, n| {
        let lists = vec![threes(n); 5];
        Maximum {
            bits: 32,
            count: 5,
            radix: RADIX,
        }
        .run(session, &lists)
        .map(drop)
    }),
    ("place of the maximum", |session, n| {
        let place_bits = 3;
        let protocol = ArgMax {
            bits: 32,
            count: 5,
            place_bits,
            radix: RADIX,
        };
        protocol.run(session, &vec![threes(n); 5]).map(drop)
    }),
    ("average", |session, n| {
        let lists = vec![threes(n); 9];
        Average {
            bits: 32,
            count: 9,
            radix: RADIX,
        }
        .run(session, &lists)
        .map(drop)
    }),
    family!(
        "digits",
        Digits {
            bits: 32,
            low: 8,
            index: 6,
            to: 24,
            sign: Some(0),
            radix: RADIX,
        }
    ),
    ("decomposition", |session, n| {
        let widths = vec![8, 8, 8, 8];
        Decompose {
            widths,
            radix: RADIX,
        }
        .run(session, &threes(n))
        .map(drop)
    }),
    ("highest bit", |session, n| {
        let bits = ToBits { bits: 16 }.run(session, &threes(n))?;
        LeadingOne { bits: 16 }.run(session, &bits).map(drop)
    }),
    family!(
        "extension",
        Extend {
            from: 16,
            to: 32,
            reading: Reading::Signed,
            radix: RADIX
        }
    ),
    family!(
        "cross term",
        CrossTerm {
            bits: 32,
            chooser_bits: 16
        }
    ),
    ("product", |session, n| {
        Product { bits: 32 }
            .run(session, &threes(n), &threes(n))
            .map(drop)
    }),
    ("product of widths", |session, n| {
        let protocol = MixedProduct {
            x: factor(16),
            y: factor(12),
            out: 28,
            radix: RADIX,
        };
        protocol.run(session, &threes(n), &threes(n)).map(drop)
    }),
    ("product of matrices", |session, n| {
        let protocol = MixedMatrix {
            rows: 2,
            inner: 4,
            columns: n.min(128),
            x: factor(8),
            y: factor(16),
            out: 26,
            radix: RADIX,
        };
        protocol
            .run(session, &threes(8), &threes(4 * n.min(128)))
            .map(drop)
    }),
    ("opened product", |session, n| {
        let protocol = OpenedProduct {
            x_bits: 24,
            y_bits: 24,
            out: 44,
            radix: RADIX,
        };
        protocol.run(session, &threes(n), &threes(n)).map(drop)
    }),
    ("combination", |session, n| {
        let shape = Combination {
            chooser: Party::E1,
            bits: 16,
            signed: true,
            count: 4,
            chooser_bits: 8,
            width: n.min(128),
        };
        let own = if session.party() == Party::E1 {
            threes(4)
        } else {
            threes(4 * n.min(128))
        };
        combinations(session, "combination", &[Combine { shape, own: &own }]).map(drop)
    }),
    ("table", |session, n| {
        let vectors = OneHots::make(session, 6, n)?;
        let bits = SharedBits::make(session, 16, n)?;
        let entries = [5; 64];
        let table = Table {
            entries: &entries,
            out_bits: 16,
        };
        lookup(session, &[table], &threes(n), vectors, vec![bits]).map(drop)
    }),
    family!("exponential", Exp::new(16, 12, 16, 12, RADIX)),
    family!(
        "sigmoid",
        Curve::new(Shape::Sigmoid, (16, 12), (16, 12), RADIX)
    ),
    family!(
        "tangent with tails",
        Curve::new(Shape::Tanh, (32, 12), (16, 12), RADIX)
    ),
    family!(
        "root",
        Octaves::new(Power::InverseSqrt, (16, 12), (16, 12), 5, RADIX)
    ),
    ("division", |session, n| {
        let own = threes(n);
        Divide::new(16, 16, 14, RADIX)
            .run(session, [&own, &own])
            .map(drop)
    }),
];
