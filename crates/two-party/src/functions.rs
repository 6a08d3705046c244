//! Functions of fixed-point numbers: exponential, sigmoid, hyperbolic tangent, roots, reciprocal,
//! division. Each equals its integer program ([`marill_numeric::integer`]) bit for bit, which says
//! how far that is from the exact value.
//!
//! A function's one-hot vectors depend on no input: `prepare` makes them, `run_with` spends them,
//! and `run` does both.

mod curve;
mod divide;
mod exp;
mod line;
mod octaves;
mod place;

use marill_net::Channel;
use marill_ot::{Session, Source};

pub use self::{curve::Curve, divide::Divide, exp::Exp, octaves::Octaves};
use crate::{Bits, Run, lookup::OneHots};

/// One-hot vectors of one batch, made before its inputs are there.
pub struct Prepared(Vec<OneHots>);

impl Prepared {
    /// Makes one batch of vectors for indices of each of these widths.
    fn make<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        widths: &[u32],
        n: usize,
    ) -> Run<Self> {
        let mut made = Vec::with_capacity(widths.len());
        let mut at = 0;
        while at < widths.len() {
            // Neighbors of one width share their rounds.
            let width = widths[at];
            let same = widths[at..].iter().take_while(|next| **next == width);
            let count = same.count();
            let vectors = OneHots::make(session, width, count * n)?;
            made.extend(vectors.parts(n));
            at += count;
        }
        Ok(Self(made))
    }

    fn cost(widths: &[u32], n: usize) -> crate::Cost {
        let chunks = widths.chunk_by(|a, b| a == b);
        chunks.fold(crate::Cost::none(), |cost, same| {
            cost + OneHots::cost(same[0], same.len() * n)
        })
    }

    fn needs(widths: &[u32], n: usize) -> marill_ot::Needs {
        let mut needs = marill_ot::Needs::none();
        widths
            .iter()
            .for_each(|width| needs.merge(&OneHots::needs(*width, n)));
        needs
    }

    /// The vectors, of so many instances.
    fn of(self, n: usize) -> Vec<OneHots> {
        assert!(
            self.0.iter().all(|vectors| vectors.n() == n),
            "material of another batch"
        );
        self.0
    }
}

/// Planes of XOR-shared words.
fn planes(words: &[u64], width: u32) -> Vec<Bits> {
    Bits::planes(words, width)
}
