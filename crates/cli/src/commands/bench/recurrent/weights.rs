//! Weights and inputs of a FastGRNN: of a safetensors file, or random ones of a published shape.

use std::{fs, path::Path};

use anyhow::{Context, anyhow, bail};
use marill_crypto::{Prg, Seed};
use marill_numeric::integer::RealFastGrnn;
use safetensors::{Dtype, SafeTensors};

use crate::output::failure::BadInput;

/// A network, and inputs if the file has some.
pub(super) struct Loaded {
    pub(super) real: RealFastGrnn,
    example: Option<Vec<f32>>,
}

/// Names of the matrices and biases, in the program's order.
const MATRICES: [&str; 5] = ["W1", "W2", "U1", "U2", "FC"];
const BIASES: [&str; 3] = ["Bg", "Bh", "FCbias"];

/// Numbers below `most` in magnitude, the same in every run.
struct Draw(Prg);

impl Draw {
    fn new(what: &str) -> Self {
        Self(Prg::new(&Seed::from_bytes([0; 32]), what))
    }

    fn below(&mut self, most: f32, n: usize) -> Vec<f32> {
        let words = self.0.reduced(n, 24);
        let unit = |word: u64| word as f32 / (1 << 23) as f32 - 1.0;
        words.into_iter().map(|word| most * unit(word)).collect()
    }
}

/// Random weights of the shape and magnitude of Google-30's network: 32 inputs, ranks 16 and 35,
/// 100 hidden, 30 classes.
pub(super) fn random() -> Loaded {
    let mut draw = Draw::new("weights of `bench network fastgrnn`");
    let [inputs, rank, hidden, state_rank, classes] = [32, 16, 100, 35, 30];
    let mut of = |rows: usize, columns: usize, most| (draw.below(most, rows * columns), columns);
    let linear = [
        of(inputs, rank, 1.8),
        of(rank, hidden, 0.3),
        of(hidden, state_rank, 20.0),
        of(state_rank, hidden, 0.2),
        of(hidden, classes, 12.0),
    ];
    let biases = [
        of(hidden, 1, 8.0).0,
        of(hidden, 1, 2.0).0,
        of(classes, 1, 8.0).0,
    ];
    Loaded {
        real: RealFastGrnn {
            linear,
            biases,
            zeta: 0.93,
            nu: 0.011,
        },
        example: None,
    }
}

impl Loaded {
    /// Step by step the inputs of all sequences: the example's steps over again, or random ones.
    pub(super) fn inputs(&self, steps: usize, batch: usize) -> Vec<f32> {
        let (matrix, columns) = &self.real.linear[0];
        let width = matrix.len() / columns;
        let Some(example) = &self.example else {
            let mut draw = Draw::new("inputs of `bench network fastgrnn`");
            return draw.below(8.0, steps * batch * width);
        };
        let rows = example.chunks(width).cycle().take(steps);
        rows.flat_map(|row| row.repeat(batch)).collect()
    }
}

/// A tensor's shape and numbers.
fn tensor(file: &SafeTensors<'_>, name: &str) -> anyhow::Result<(Vec<usize>, Vec<f32>)> {
    let view = file
        .tensor(name)
        .with_context(|| format!("there is no `{name}`"))?;
    if view.dtype() != Dtype::F32 {
        bail!("`{name}` is {:?}, not F32", view.dtype());
    }
    let (numbers, _) = view.data().as_chunks::<4>();
    let numbers = numbers
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    Ok((view.shape().to_vec(), numbers))
}

fn network(file: &SafeTensors<'_>) -> anyhow::Result<Loaded> {
    let mut linear = Vec::with_capacity(5);
    for name in MATRICES {
        let (shape, numbers) = tensor(file, name)?;
        let [rows, columns] = shape[..] else {
            bail!("`{name}` is no matrix");
        };
        linear.push((rows, columns, numbers));
    }
    let [inner, hidden, state, classes] = [linear[0].1, linear[1].1, linear[2].1, linear[4].1];
    let fits = [linear[1].0 == inner, linear[3].0 == state];
    let states = [linear[2].0, linear[3].1, linear[4].0];
    let empty = linear.iter().any(|(rows, columns, _)| rows * columns == 0);
    if fits != [true; 2] || states != [hidden; 3] || empty {
        bail!("the matrices do not fit each other");
    }
    let mut biases = Vec::with_capacity(3);
    for (name, n) in BIASES.into_iter().zip([hidden, hidden, classes]) {
        let (_, numbers) = tensor(file, name)?;
        if numbers.len() != n {
            bail!("`{name}` has {} numbers, not {n}", numbers.len());
        }
        biases.push(numbers);
    }
    let mut mixed = Vec::with_capacity(2);
    for name in ["zeta", "nu"] {
        let (_, numbers) = tensor(file, name)?;
        let [number] = numbers[..] else {
            bail!("`{name}` is one number");
        };
        // Sigmoids of trained numbers.
        if !(0.0..=1.0).contains(&number) {
            bail!("`{name}` is {number}, not between 0 and 1");
        }
        mixed.push(number);
    }
    let example = match file.tensor("example_input") {
        Ok(_) => Some(tensor(file, "example_input")?.1),
        Err(_) => None,
    };
    let width = linear[0].0;
    if example
        .as_ref()
        .is_some_and(|e| e.is_empty() || e.len() % width != 0)
    {
        bail!("`example_input` has no rows of {width} numbers");
    }
    let mut linear = linear
        .into_iter()
        .map(|(_, columns, numbers)| (numbers, columns));
    let mut biases = biases.into_iter();
    Ok(Loaded {
        real: RealFastGrnn {
            linear: [(); 5].map(|()| linear.next().expect("five matrices")),
            biases: [(); 3].map(|()| biases.next().expect("three biases")),
            zeta: mixed[0],
            nu: mixed[1],
        },
        example,
    })
}

/// The network of a file.
///
/// # Errors
/// [`BadInput`] for a file that cannot be read, lacks a tensor, or whose shapes do not fit.
pub(super) fn loaded(path: &Path) -> anyhow::Result<Loaded> {
    let place = || format!("cannot use `{}`", path.display());
    let bytes = fs::read(path).with_context(place);
    let read = bytes.and_then(|bytes| {
        let file = SafeTensors::deserialize(&bytes);
        let file = file.map_err(|error| anyhow!("no safetensors file: {error}"));
        file.and_then(|file| network(&file)).with_context(place)
    });
    read.map_err(|error| BadInput(error).into())
}
