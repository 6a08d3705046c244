//! FastGRNN between a server that has the weights and a client that has the sequences.
//!
//! # Functionality
//! E0 has the weights of a [`FastGrnn`], E1 `batch` sequences of as many steps: additive shares of
//! every state and of the scores of the last, [`FastGrnn::run`] bit for bit. Shapes, scales, `ζ`,
//! `ν`, batch and steps are public, as in SIRNN's program.
//!
//! # Construction
//! As SIRNN, S&P '21, section VI, with mixed widths, and less to send:
//! - A product with weights is one cross term: E0's 8 bits choose among multiples of E1's shares
//!   ([`combinations`]), in a ring just wide enough for what is cut off, and E0 multiplies its own
//!   shares alone. The client's inputs need no extension, and those of all steps go in one batch.
//! - A state is extended once a step, for its product with the weights and for the mixture.
//! - `z∘h + (ζ(1 - z) + ν)∘c` is `z∘(h - ζ·c) + (ζ + ν)·c`: one product of secrets, with a factor
//!   that is known not to be negative, and one truncation.
//! - Sigmoid and tangent are [`Curve`]s; the vectors of all steps are made before the first.
//!
//! # Cost
//! [`Recurrent::cost`], [`Recurrent::offline_cost`] and [`Recurrent::needs`], counted in tests.
//!
//! # Security
//! A composition; nothing is opened but the scores, to E1, by [`Recurrent::reveal`].

use marill_net::Channel;
use marill_numeric::{
    fixed::{low_mask, sign_extend},
    integer::{FastGrnn, FastGrnnWeights, GATE, Linear, MIX, Shape, VALUE_BITS, WEIGHT_BITS},
};
use marill_ot::{BitWriter, Needs, OtError, Party, Session, Source, transfer::exchange};

use crate::{
    Combination, Combine, Cost, Curve, Extend, Factor, Function, MAX_WIDTH, MixedProduct, Prepared,
    Radix, Reading, Run, TruncateReduce, at_first, combinations, combinations_cost,
};

/// What a party brings.
#[derive(Clone, Copy)]
pub enum Half<'a> {
    /// E0's.
    Weights(&'a FastGrnnWeights),
    /// E1's, step by step and in each step sequence by sequence.
    Sequences(&'a [u64]),
}

/// A network on `batch` sequences of `steps` steps.
#[derive(Debug, Clone)]
pub struct Recurrent {
    program: FastGrnn,
    batch: usize,
    steps: usize,
    radix: Radix,
    curves: [Curve; 2],
}

/// Bits that a mixture cuts off, and those that it is computed in.
const CUT: u32 = GATE + MIX;
const MIXTURE: u32 = VALUE_BITS + CUT;

/// Vectors for the curves of one step.
type Vectors = [Prepared; 2];

impl Recurrent {
    /// # Panics
    /// When there is no sequence, or no step.
    #[must_use]
    pub fn new(program: FastGrnn, batch: usize, steps: usize, radix: Radix) -> Self {
        assert!(batch > 0 && steps > 0, "{batch} sequences of {steps} steps");
        let shapes = [Shape::Sigmoid, Shape::Tanh];
        let scales = program.curve_scales();
        let curves = [0, 1].map(|i: usize| {
            let (scale, out_scale) = scales[i];
            let value = |scale| (VALUE_BITS, scale);
            Curve::new(shapes[i], value(scale), value(out_scale), radix)
        });
        Self {
            program,
            batch,
            steps,
            radix,
            curves,
        }
    }

    #[must_use]
    pub fn program(&self) -> &FastGrnn {
        &self.program
    }

    /// Elements of the states of all sequences.
    fn states(&self) -> usize {
        self.batch * self.program.hidden()
    }

    fn extension(&self, to: u32) -> Extend {
        Extend {
            from: VALUE_BITS,
            to,
            reading: Reading::Signed,
            radix: self.radix,
        }
    }

    /// The ring of an extended state: the mixture's, or that of its products with weights.
    fn wide(&self) -> u32 {
        let products = [2, 4].map(|i: usize| self.program.linear[i].ring());
        products.into_iter().fold(MIXTURE, u32::max)
    }

    fn rounding(&self, linear: Linear) -> Option<TruncateReduce> {
        (linear.shift > 0).then(|| TruncateReduce {
            bits: linear.ring(),
            shift: linear.shift,
            radix: self.radix,
        })
    }

    /// The cross terms of so many rows: for each part of them one combination an output.
    fn shapes(linear: Linear, rows: usize) -> Vec<Combination> {
        let parts = (0..rows).step_by(MAX_WIDTH);
        parts
            .map(|from| Combination {
                chooser: Party::E0,
                bits: linear.ring(),
                chooser_bits: WEIGHT_BITS,
                signed: true,
                count: linear.inputs,
                width: (rows - from).min(MAX_WIDTH),
            })
            .collect()
    }

    fn product(&self) -> MixedProduct {
        let x = Factor {
            bits: MIXTURE,
            reading: Reading::Unsigned,
        };
        let y = Factor {
            bits: VALUE_BITS,
            reading: Reading::NotNegative,
        };
        MixedProduct {
            x,
            y,
            out: MIXTURE,
            radix: self.radix,
        }
    }

    fn cut(&self) -> TruncateReduce {
        TruncateReduce {
            bits: MIXTURE,
            shift: CUT,
            radix: self.radix,
        }
    }

    /// Rows of `x`, extended at least to the ring of `linear`, times E0's weights; a round a part.
    fn linear<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        which: usize,
        x: &[u64],
        half: Half<'_>,
    ) -> Run<Vec<u64>> {
        let linear = self.program.linear[which];
        let Linear {
            inputs, outputs, ..
        } = linear;
        let mask = low_mask(linear.ring());
        let mut sums = match half {
            Half::Weights(weights) => own_sums(linear, &weights.linear[which], x),
            Half::Sequences(_) => vec![0; x.len() / inputs * outputs],
        };
        let columns = match half {
            Half::Weights(weights) => columns(linear, &weights.linear[which]),
            Half::Sequences(_) => Vec::new(),
        };
        let mut from = 0;
        for shape in Self::shapes(linear, x.len() / inputs) {
            let rows = &x[from * inputs..(from + shape.width) * inputs];
            let turned = (0..inputs).flat_map(|k| rows.iter().skip(k).step_by(inputs));
            let turned: Vec<u64> = turned.map(|value| value & mask).collect();
            let list = (0..outputs).map(|j| {
                let own = columns.get(j).map_or(&turned[..], |column| &column[..]);
                Combine { shape, own }
            });
            let list: Vec<Combine<'_>> = list.collect();
            let products = combinations(session, "product with weights", &list)?;
            for (j, product) in products.iter().enumerate() {
                for (row, value) in product.iter().enumerate() {
                    let sum = &mut sums[(from + row) * outputs + j];
                    *sum = sum.wrapping_add(*value);
                }
            }
            from += shape.width;
        }
        sums.iter_mut().for_each(|sum| *sum &= mask);
        match self.rounding(linear) {
            Some(rounding) => rounding.run(session, &sums),
            None => Ok(sums),
        }
    }

    /// Rows through two matrices of low rank.
    fn low_rank<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        first: usize,
        x: &[u64],
        half: Half<'_>,
    ) -> Run<Vec<u64>> {
        let inner = self.linear(session, first, x, half)?;
        let ring = self.program.linear[first + 1].ring();
        let inner = self.extension(ring).run(session, &inner)?;
        self.linear(session, first + 1, &inner, half)
    }

    fn vectors<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
    ) -> Run<impl Iterator<Item = Vectors> + use<C, S>> {
        let states = self.states();
        let n = self.steps * states;
        let gates = self.curves[0].prepare(session, n)?.parts(states);
        let candidates = self.curves[1].prepare(session, n)?.parts(states);
        let pairs = gates.into_iter().zip(candidates);
        Ok(pairs.map(|(gate, candidate)| [gate, candidate]))
    }

    /// Additive shares of the scores; `watch` sees those of the states after each step.
    ///
    /// # Errors
    /// Those of [`Session`].
    ///
    /// # Panics
    /// When a party brings the other's half, or sequences of another size.
    pub fn run<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        half: Half<'_>,
        mut watch: impl FnMut(usize, &[u64]),
    ) -> Result<Vec<u64>, OtError> {
        let rows = self.steps * self.batch;
        let inputs = match (session.party(), half) {
            (Party::E0, Half::Weights(_)) => vec![0; rows * self.program.inputs()],
            (Party::E1, Half::Sequences(sequences)) => {
                let signed = |x: &u64| sign_extend(*x, VALUE_BITS) as u64;
                sequences.iter().map(signed).collect()
            }
            (party, _) => panic!("{party:?} brings the other's half"),
        };
        assert_eq!(inputs.len(), rows * self.program.inputs(), "sequences");
        let of_inputs = self.low_rank(session, 0, &inputs, half)?;
        let vectors = self.vectors(session)?;
        let mut state = vec![0; self.states()];
        let of_inputs = of_inputs.chunks(self.states());
        for (step, (of_input, vectors)) in of_inputs.zip(vectors).enumerate() {
            session.ensure(&self.step_needs())?;
            state = self.step(session, of_input, &state, half, vectors)?;
            watch(step, &state);
        }
        session.ensure(&self.end_needs())?;
        let scores = self.program.linear[4];
        let wide = self.extension(scores.ring()).run(session, &state)?;
        let mut sums = self.linear(session, 4, &wide, half)?;
        if let Half::Weights(weights) = half {
            let biases = weights.biases[2].iter().cycle();
            for (sum, bias) in sums.iter_mut().zip(biases) {
                *sum = sum.wrapping_add(*bias) & low_mask(VALUE_BITS);
            }
        }
        Ok(sums)
    }

    fn step<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        of_input: &[u64],
        state: &[u64],
        half: Half<'_>,
        [gates, candidates]: Vectors,
    ) -> Run<Vec<u64>> {
        let wide = self.extension(self.wide()).run(session, state)?;
        let of_state = self.low_rank(session, 2, &wide, half)?;
        let argument = |which: usize| -> Vec<u64> {
            let sums = of_input.iter().zip(&of_state).enumerate();
            let moved = sums.map(|(i, (x, h))| {
                let bias = match half {
                    Half::Weights(weights) => weights.biases[which][i % self.program.hidden()],
                    Half::Sequences(_) => 0,
                };
                x.wrapping_add(*h).wrapping_add(bias) & low_mask(VALUE_BITS)
            });
            moved.collect()
        };
        let z = self.curves[0].run_with(session, &argument(0), gates)?;
        let c = self.curves[1].run_with(session, &argument(1), candidates)?;
        let c = self.extension(MIXTURE).run(session, &c)?;
        let FastGrnn { zeta, nu, .. } = self.program;
        let inner = wide.iter().zip(&c).map(|(h, c)| {
            let inner = (h << MIX).wrapping_sub(c.wrapping_mul(zeta));
            inner & low_mask(MIXTURE)
        });
        let inner: Vec<u64> = inner.collect();
        let products = self.product().run(session, &inner, &z)?;
        let half_up = at_first(session, 1 << (CUT - 1), 0);
        let sums = products.iter().zip(&c).map(|(product, c)| {
            let whole = c.wrapping_mul(zeta + nu) << GATE;
            product.wrapping_add(whole).wrapping_add(half_up) & low_mask(MIXTURE)
        });
        self.cut().run(session, &sums.collect::<Vec<_>>())
    }

    /// Tells E1 the scores, of which both have shares. One message.
    ///
    /// # Errors
    /// Those of [`Session`].
    pub fn reveal<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        scores: &[u64],
    ) -> Result<Option<Vec<u64>>, OtError> {
        let first = session.party() == Party::E0;
        let mut message = BitWriter::new();
        if first {
            let shares = scores.iter();
            shares.for_each(|score| message.push(*score, VALUE_BITS));
        }
        let bits = scores.len() * VALUE_BITS as usize;
        let expected = if first { 0 } else { bits };
        let mut received = exchange(session, "scores", message, expected)?;
        let sums = scores.iter().map(|score| {
            let other = received.take(VALUE_BITS);
            score.wrapping_add(other) & low_mask(VALUE_BITS)
        });
        Ok((!first).then(|| sums.collect()))
    }

    fn linear_needs(&self, which: usize, rows: usize) -> Needs {
        let linear = self.program.linear[which];
        let mut needs = Needs::none();
        for shape in Self::shapes(linear, rows) {
            (0..linear.outputs).for_each(|_| needs.merge(&shape.needs()));
        }
        if let Some(rounding) = self.rounding(linear) {
            needs.merge(&rounding.needs(rows * linear.outputs));
        }
        needs
    }

    fn low_rank_needs(&self, first: usize, rows: usize) -> Needs {
        let second = self.program.linear[first + 1];
        let mut needs = self.linear_needs(first, rows);
        needs.merge(&self.extension(second.ring()).needs(rows * second.inputs));
        needs.merge(&self.linear_needs(first + 1, rows));
        needs
    }

    /// Of the inputs of all steps, and the vectors of all curves.
    fn begin_needs(&self) -> Needs {
        let mut needs = self.low_rank_needs(0, self.steps * self.batch);
        for curve in &self.curves {
            let n = self.steps * self.states();
            needs.merge(&Prepared::needs(&curve.index_widths(), n));
        }
        needs
    }

    fn step_needs(&self) -> Needs {
        let n = self.states();
        let mut needs = self.low_rank_needs(2, self.batch);
        for more in [
            self.extension(self.wide()).needs(n),
            self.curves[0].online_needs(n),
            self.curves[1].online_needs(n),
            self.extension(MIXTURE).needs(n),
            self.product().needs(n),
            self.cut().needs(n),
        ] {
            needs.merge(&more);
        }
        needs
    }

    fn end_needs(&self) -> Needs {
        let scores = self.program.linear[4];
        let mut needs = self.extension(scores.ring()).needs(self.states());
        needs.merge(&self.linear_needs(4, self.batch));
        needs
    }

    /// Transfers of a whole run.
    #[must_use]
    pub fn needs(&self) -> Needs {
        let mut needs = self.begin_needs();
        (0..self.steps).for_each(|_| needs.merge(&self.step_needs()));
        needs.merge(&self.end_needs());
        needs
    }

    fn linear_cost(&self, which: usize, rows: usize) -> Cost {
        let linear = self.program.linear[which];
        let mut cost = Cost::none();
        for shape in Self::shapes(linear, rows) {
            cost += combinations_cost(&vec![shape; linear.outputs]);
        }
        let rounding = self.rounding(linear);
        cost + rounding.map_or(Cost::none(), |cut| cut.cost(rows * linear.outputs))
    }

    fn low_rank_cost(&self, first: usize, rows: usize) -> Cost {
        let second = self.program.linear[first + 1];
        self.linear_cost(first, rows)
            + self.extension(second.ring()).cost(rows * second.inputs)
            + self.linear_cost(first + 1, rows)
    }

    /// Messages that make the vectors of all curves.
    #[must_use]
    pub fn offline_cost(&self) -> Cost {
        let n = self.steps * self.states();
        let curves = self.curves.iter().map(|curve| curve.offline_cost(n));
        curves.fold(Cost::none(), |all, cost| all + cost)
    }

    /// Messages of a step.
    #[must_use]
    pub fn step_cost(&self) -> Cost {
        let n = self.states();
        self.extension(self.wide()).cost(n)
            + self.low_rank_cost(2, self.batch)
            + self.curves[0].cost(n)
            + self.curves[1].cost(n)
            + self.extension(MIXTURE).cost(n)
            + self.product().cost(n)
            + self.cut().cost(n)
    }

    /// Messages of [`Self::run`], vectors and transfers apart.
    #[must_use]
    pub fn cost(&self) -> Cost {
        let scores = self.program.linear[4];
        let mut cost = self.low_rank_cost(0, self.steps * self.batch);
        (0..self.steps).for_each(|_| cost += self.step_cost());
        cost + self.extension(scores.ring()).cost(self.states()) + self.linear_cost(4, self.batch)
    }
}

/// E0's shares times its weights, and what rounds half up.
fn own_sums(linear: Linear, weights: &[u64], x: &[u64]) -> Vec<u64> {
    let Linear {
        inputs, outputs, ..
    } = linear;
    let mut sums = vec![linear.half(); x.len() / inputs * outputs];
    for (x, sums) in x.chunks(inputs).zip(sums.chunks_mut(outputs)) {
        for (x, weights) in x.iter().zip(weights.chunks(outputs)) {
            for (sum, weight) in sums.iter_mut().zip(weights) {
                let weight = sign_extend(*weight, WEIGHT_BITS) as u64;
                *sum = sum.wrapping_add(x.wrapping_mul(weight));
            }
        }
    }
    sums
}

/// The weights of each output.
fn columns(linear: Linear, weights: &[u64]) -> Vec<Vec<u64>> {
    let column = |j: usize| weights.iter().skip(j).step_by(linear.outputs).copied();
    (0..linear.outputs).map(|j| column(j).collect()).collect()
}
