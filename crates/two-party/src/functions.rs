//! Functions of fixed-point numbers: exponential, sigmoid, hyperbolic tangent, roots, reciprocal,
//! division. Each equals its integer program ([`marill_numeric::integer`]) bit for bit, which says
//! how far that is from the exact value.
//!
//! A function's one-hot vectors depend on no input ([`Function`]): `prepare` makes them, `run_with`
//! spends them, and `run` does both.

mod curve;
mod divide;
mod exp;
mod line;
mod octaves;
mod place;

use marill_net::Channel;
use marill_ot::{Needs, OtError, Session, Source};

pub use self::{curve::Curve, divide::Divide, exp::Exp, octaves::Octaves};
use crate::{Bits, Cost, Run, lookup::OneHots};

/// What a function takes: numbers, or numerators and divisors.
pub trait Batch: Copy {
    /// Instances.
    fn n(self) -> usize;
}

impl Batch for &[u64] {
    fn n(self) -> usize {
        self.len()
    }
}

impl Batch for [&[u64]; 2] {
    fn n(self) -> usize {
        assert_eq!(
            self[0].len(),
            self[1].len(),
            "as many of one as of the other"
        );
        self[0].len()
    }
}

/// A function of shared numbers, by tables whose vectors can be made before.
pub trait Function {
    type Inputs<'a>: Batch;

    /// Widths of the indices of its tables, of one instance.
    fn index_widths(&self) -> Vec<u32>;

    /// Transfers of [`Self::run_with`].
    fn online_needs(&self, n: usize) -> Needs;

    /// Messages of [`Self::run_with`].
    #[must_use]
    fn cost(&self, n: usize) -> Cost;

    /// [`Self::run`] with vectors of [`Self::prepare`].
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When the material is of another batch, or inputs differ in number.
    fn run_with<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        inputs: Self::Inputs<'_>,
        material: Prepared,
    ) -> Result<Vec<u64>, OtError>;

    /// One-hot vectors for `n` instances.
    ///
    /// # Errors
    /// Those of [`Session`].
    fn prepare<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        n: usize,
    ) -> Result<Prepared, OtError> {
        Prepared::make(session, &self.index_widths(), n)
    }

    /// Additive shares of the function.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When inputs differ in number.
    fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        inputs: Self::Inputs<'_>,
    ) -> Result<Vec<u64>, OtError> {
        let n = inputs.n();
        session.ensure(&self.needs(n))?;
        let material = self.prepare(session, n)?;
        self.run_with(session, inputs, material)
    }

    /// All transfers, those of the vectors too.
    #[must_use]
    fn needs(&self, n: usize) -> Needs {
        let mut needs = Prepared::needs(&self.index_widths(), n);
        needs.merge(&self.online_needs(n));
        needs
    }

    /// Messages of [`Self::prepare`].
    #[must_use]
    fn offline_cost(&self, n: usize) -> Cost {
        Prepared::cost(&self.index_widths(), n)
    }
}

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

    /// These vectors in parts of `n` instances.
    pub(crate) fn parts(&self, n: usize) -> Vec<Self> {
        let mut parts: Vec<Self> = Vec::new();
        for vectors in &self.0 {
            for (i, part) in vectors.parts(n).into_iter().enumerate() {
                match parts.get_mut(i) {
                    Some(made) => made.0.push(part),
                    None => parts.push(Self(vec![part])),
                }
            }
        }
        parts
    }

    fn cost(widths: &[u32], n: usize) -> Cost {
        let chunks = widths.chunk_by(|a, b| a == b);
        chunks.fold(Cost::none(), |cost, same| {
            cost + OneHots::cost(same[0], same.len() * n)
        })
    }

    pub(crate) fn needs(widths: &[u32], n: usize) -> Needs {
        let mut needs = Needs::none();
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
