//! Layers of both parties against the program in clear, as they come.

use std::sync::mpsc;

use marill_image_networks::{Network, NetworkError, Weights, twin};
use marill_numeric::fixed::low_mask;

use super::super::clock::{Lap, Spent};

/// A party's shares of a layer.
pub(super) struct Shown {
    at: usize,
    shares: Vec<u64>,
}

impl Shown {
    pub(super) fn new(at: usize, shares: &[u64]) -> Self {
        let shares = shares.to_vec();
        Self { at, shares }
    }
}

/// What comparing all layers gave.
#[derive(Debug)]
pub(super) struct Compared {
    /// Numbers of all layers, and of those that differ.
    pub(super) numbers: usize,
    pub(super) mismatches: usize,
    /// The first layer that differs, by name.
    pub(super) first: Option<String>,
    pub(super) class: u64,
    /// The program in clear.
    pub(super) spent: Spent,
}

/// Why comparing ended.
enum Ended {
    Program(NetworkError),
    /// A party is gone.
    Party,
}

impl From<NetworkError> for Ended {
    fn from(error: NetworkError) -> Self {
        Self::Program(error)
    }
}

/// Runs the program and takes the parties' layers beside it; nothing where a party ended.
///
/// # Errors
/// Those of [`twin::run`].
pub(super) fn run(
    network: &Network,
    weights: &Weights,
    pixels: &[u64],
    parties: [mpsc::Receiver<Shown>; 2],
) -> Result<Option<Compared>, NetworkError> {
    let mut compared = Compared {
        numbers: 0,
        mismatches: 0,
        first: None,
        class: 0,
        spent: Spent::default(),
    };
    let mut lap = Lap::start();
    let mut spent = Spent::default();
    let output = twin::run(network, weights, pixels, |at, values| {
        spent += lap.next();
        let [first, second] = [0, 1].map(|party: usize| parties[party].recv());
        let (Ok(first), Ok(second)) = (first, second) else {
            return Err(Ended::Party);
        };
        assert!(
            [&first, &second].iter().all(|shown| shown.at == at),
            "one order"
        );
        let mask = low_mask(network.bits(at));
        let shares = first.shares.iter().zip(&second.shares);
        let sums = shares.map(|(a, b)| a.wrapping_add(*b) & mask);
        let differ = sums
            .zip(values)
            .filter(|(sum, value)| sum != *value)
            .count();
        compared.numbers += values.len();
        compared.mismatches += differ;
        if differ > 0 && compared.first.is_none() {
            compared.first = Some(network.layers()[at].name.clone());
        }
        lap = Lap::start();
        Ok(())
    });
    match output {
        Ok(output) => {
            compared.class = output[0];
            compared.spent = spent;
            Ok(Some(compared))
        }
        Err(Ended::Party) => Ok(None),
        Err(Ended::Program(error)) => Err(error),
    }
}
