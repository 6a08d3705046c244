//! Protocols of two parties without a helper, on oblivious transfer: comparison, ReLU, faithful
//! truncation and shifts, tables.
//!
//! E0 and E1 hold additive shares modulo `2^bits` (`u64` below `2^bits`) or XOR shares of bits
//! ([`Bits`]). Every protocol is a value with its parameters and four methods:
//! - `run`: the protocol on `n` instances at once, over any channel and source of transfers;
//! - `needs`: the transfers that it uses, which can be made before ([`Session::prepare`]);
//! - `cost`: its messages, by party, and its rounds; the tests compare it with counted bytes;
//! - the integer program that its output equals bit for bit is in [`marill_numeric::integer`].
//!
//! | protocol | type |
//! |---|---|
//! | `x > y`, `x = y` of the parties' own values | [`Greater`], [`Equal`] |
//! | several comparisons in the rounds of one | [`Comparisons`] |
//! | the sign bit | [`Msb`] |
//! | XOR share of a bit to a ring; bit times value | [`ToRing`], [`Multiplex`], [`conversions`] |
//! | ReLU, with a truncation in one, with a cap | [`Relu`], [`ReluTruncate`], [`ReluCapped`] |
//! | the largest value, its place; averages | [`Maximum`], [`ArgMax`]; [`Average`], [`Windows`] |
//! | division by a public number | [`DivideBy`] |
//! | truncate and reduce, arithmetic shift | [`TruncateReduce`], [`Shift`] |
//! | truncate, extend or reduce a value with room above it | [`Truncate`] |
//! | index, distance and domain of a table's argument | [`Digits`] |
//! | digits; all bits; the highest bit that is set | [`Decompose`]; [`ToBits`]; [`LeadingOne`] |
//! | zero and sign extension | [`Extend`] |
//! | products of secrets | [`Product`], [`CrossTerm`] |
//! | products of different widths, of matrices too | [`MixedProduct`], [`MixedMatrix`] |
//! | products by a value of few bits whose wrap is known | [`NarrowProduct`] |
//! | products under masks that are made ahead | [`OpenedProduct`] |
//! | random words known bit by bit and in the ring | [`lookup::SharedBits`] |
//! | sums of one party's vectors by the other's scalars | [`combinations`] |
//! | tables by one-hot vectors | [`lookup`] |
//! | exponential; sigmoid and tangent | [`Exp`]; [`Curve`] |
//! | reciprocal, square root and its reciprocal; division | [`Octaves`]; [`Divide`] |
//! | a recurrent network, its weights one party's | [`Recurrent`] |
//!
//! # Security
//! Semi-honest, from the transfers alone: every message is masked by a pad that its receiver lacks
//! or by a random choice, and used once. Lengths, rounds and which branch of code runs depend on
//! public parameters and `n` only. Outputs are fresh shares: a simulator that knows neither input
//! samples all messages uniformly. [`Session::confirm`] before a result is believed.
//!
//! Sources: CrypTFlow2 (Rathee et al., CCS '20), SIRNN (Rathee et al., S&P '21); what costs less
//! here than there is said where it is done.

mod bits;
mod compare;
mod convert;
mod cost;
mod digits;
mod divide_by;
mod extend;
mod functions;
pub mod lookup;
mod pool;
mod product;
mod recurrent;
mod relu;
mod truncate;

use marill_net::Channel;
use marill_ot::Source;
pub use marill_ot::{Bits, Needs, OtError, Party, Session};

pub use self::{
    bits::{Leading, LeadingOne, ToBits},
    compare::{Comparisons, Equal, Greater, Msb, Radix},
    convert::{Multiplex, ToRing, conversions, conversions_cost, multiplexers},
    cost::Cost,
    digits::{Decompose, Digits, Parts},
    divide_by::DivideBy,
    extend::{Extend, Reading},
    functions::{Batch, Curve, Divide, Exp, Function, Octaves, Prepared},
    pool::{ArgMax, Average, Maximum, Windows},
    product::{
        Combination, Combine, CrossTerm, Factor, MAX_WIDTH, MixedMatrix, MixedProduct,
        NarrowProduct, OpenedProduct, Product, Triples, combinations, combinations_cost,
    },
    recurrent::{Half, Recurrent},
    relu::{Relu, ReluCapped, ReluTruncate},
    truncate::{Shift, Sign, Truncate, TruncateReduce, local_truncate_reduce},
};

/// Result of a protocol.
pub(crate) type Run<T> = Result<T, OtError>;

/// `e` at E0, `otherwise` at E1.
pub(crate) fn at_first<C: Channel, S: Source, T>(
    session: &Session<C, S>,
    first: T,
    otherwise: T,
) -> T {
    match session.party() {
        Party::E0 => first,
        Party::E1 => otherwise,
    }
}
