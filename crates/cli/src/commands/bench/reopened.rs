//! A baseline for comparison only: products with secret weights whose masked form is opened anew
//! in every call, as CrypTen does. Nothing outside `marill bench` can reach it.
//!
//! # Functionality
//! E0 and E1 share `x` and `W` modulo 2^64. They get shares of `x · Wᵀ`.
//!
//! # Protocol
//! The dealer expands both parties' `[a]`, `[b]` and E0's `[c]_0` from their seeds and sends
//! `[c]_1 = a·bᵀ - [c]_0` to E1. Both evaluators send their halves of `D = x - a` and `E = W - b`,
//! all products of a stage in one message, and compute `[z]_i = D·[b]_iᵀ + [a]_i·Eᵀ + [c]_i`, to
//! which E0 adds `D·Eᵀ`.
//!
//! # Cost
//! A stage takes one round. A product of `rows x inner` by `outer x inner` takes
//! `8 · inner · (rows + outer)` bytes each way and `8 · rows · outer` bytes from the dealer to E1:
//! the weights travel in every call.
//!
//! It is kinder to the baseline than CrypTen itself is: maps that take the same input share its
//! mask and its opening (CrypTen opens it once for each), products of a stage wait for one message
//! instead of one each, and E0's halves of correlations are seeds.
//!
//! Source: Beaver (CRYPTO '91); CrypTen 0.4.1, `crypten/mpc/primitives/beaver.py`, which asks the
//! provider for a triple in each product and opens `x - a` and `y - b`.

pub mod shapes;

use anyhow::ensure;
use marill_crypto::{Prg, Seed};
use marill_net::{Channel, NetError};
use marill_numeric::ring;
use serde::{Deserialize, Serialize};

/// Words of one frame: two of them wait in a channel at most, and a peer reads while it sends.
const FRAME_WORDS: usize = 2 << 20;

/// `x · Wᵀ` with `x` of `rows x inner` and `W` of `outer x inner`, both shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    pub rows: usize,
    pub inner: usize,
    pub outer: usize,
}

impl Product {
    /// Words that each evaluator sends.
    pub fn opened(self) -> usize {
        self.inner * (self.rows + self.outer)
    }

    /// Words that the dealer sends.
    pub fn dealt(self) -> usize {
        self.rows * self.outer
    }
}

/// Products that depend on nothing of each other.
pub type Stage = Vec<Product>;

/// A party's halves of `x` and `W` of one product, or the values themselves.
pub struct Operands {
    pub x: Vec<u64>,
    pub weights: Vec<u64>,
}

impl Operands {
    /// Uniform ones.
    pub fn expand(seed: &Seed, stages: &[Stage]) -> Vec<Vec<Self>> {
        let mut prg = Prg::new(seed, "reopened operands");
        let mut operands = |p: &Product| Self {
            x: prg.words(p.rows * p.inner),
            weights: prg.words(p.outer * p.inner),
        };
        let stages = stages.iter();
        stages
            .map(|stage| stage.iter().map(&mut operands).collect())
            .collect()
    }

    /// `x · Wᵀ` of values.
    pub fn product(&self, inner: usize) -> Vec<u64> {
        ring::matmul_transposed(&self.x, &self.weights, inner)
    }

    /// The sum of both halves.
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            x: sum(&self.x, &other.x),
            weights: sum(&self.weights, &other.weights),
        }
    }
}

/// `[a]`, `[b]` and, at E0, `[c]` of a party, product by product.
struct Triples(Prg);

impl Triples {
    fn new(seed: &Seed) -> Self {
        Self(Prg::new(seed, "reopened triples"))
    }

    fn factors(&mut self, p: Product) -> Operands {
        Operands {
            x: self.0.words(p.rows * p.inner),
            weights: self.0.words(p.outer * p.inner),
        }
    }

    fn product(&mut self, p: Product) -> Vec<u64> {
        self.0.words(p.dealt())
    }
}

/// Where an evaluator's `[c]` comes from.
pub enum Dealt<'a> {
    /// E0 expands it.
    Seed,
    /// E1 reads what the dealer sends.
    Stream(&'a mut dyn Channel),
}

/// Deals the triples of all stages to E1.
///
/// # Errors
/// A lost server.
pub fn deal(stages: &[Stage], seeds: [&Seed; 2], sink: &mut dyn Channel) -> Result<(), NetError> {
    let [mut first, mut second] = seeds.map(Triples::new);
    for &p in stages.iter().flatten() {
        let factors = first.factors(p).plus(&second.factors(p));
        let halves = first.product(p);
        // [c]_1 = a·bᵀ - [c]_0.
        send(sink, &difference(&factors.product(p.inner), &halves))?;
    }
    Ok(())
}

/// Runs all stages at an evaluator; its half of every product goes to `kept`.
///
/// # Errors
/// A lost party, or a frame of another size.
pub fn evaluate(
    stages: &[Stage],
    seed: &Seed,
    operands: &[Vec<Operands>],
    peer: &mut dyn Channel,
    mut dealt: Dealt<'_>,
    mut kept: impl FnMut(usize, usize, Vec<u64>),
) -> anyhow::Result<()> {
    let mut triples = Triples::new(seed);
    for (number, (stage, operands)) in stages.iter().zip(operands).enumerate() {
        let mut factors = Vec::new();
        let mut products = Vec::new();
        let mut masked = Vec::new();
        for (&p, own) in stage.iter().zip(operands) {
            let own_factors = triples.factors(p);
            masked.extend(difference(&own.x, &own_factors.x));
            masked.extend(difference(&own.weights, &own_factors.weights));
            factors.push(own_factors);
            products.push(match &mut dealt {
                Dealt::Seed => triples.product(p),
                Dealt::Stream(stream) => receive(*stream, p.dealt())?,
            });
        }
        let opened = open(masked, peer)?;
        let mut rest = opened.as_slice();
        for (place, (&p, factors)) in stage.iter().zip(&factors).enumerate() {
            let (d, after) = rest.split_at(p.rows * p.inner);
            let (e, after) = after.split_at(p.outer * p.inner);
            rest = after;
            // D·[b]ᵀ + [a]·Eᵀ + [c], and D·Eᵀ at E0.
            let weights = match dealt {
                Dealt::Seed => &sum(&factors.weights, e),
                Dealt::Stream(_) => &factors.weights,
            };
            let masks = sum(
                &ring::matmul_transposed(d, weights, p.inner),
                &ring::matmul_transposed(&factors.x, e, p.inner),
            );
            kept(number, place, sum(&masks, &products[place]));
        }
    }
    Ok(())
}

/// Both halves of what is opened, added.
fn open(mut masked: Vec<u64>, peer: &mut dyn Channel) -> anyhow::Result<Vec<u64>> {
    // A frame stays ahead of what is read, so that the link is never idle and no send waits for a
    // peer that does not read.
    let frames = masked.len().div_ceil(FRAME_WORDS);
    let part = |k: usize| k * FRAME_WORDS..((k + 1) * FRAME_WORDS).min(masked.len());
    let parts: Vec<_> = (0..frames).map(part).collect();
    for k in 0..frames + 1 {
        if let Some(range) = parts.get(k) {
            peer.send(to_bytes(&masked[range.clone()]))?;
        }
        if let Some(range) = k.checked_sub(1).map(|before| parts[before].clone()) {
            let theirs = peer.recv()?;
            ensure!(
                theirs.len() == 8 * range.len(),
                "the peer opened {} bytes where {} were expected",
                theirs.len(),
                8 * range.len()
            );
            for (own, theirs) in masked[range].iter_mut().zip(theirs.chunks_exact(8)) {
                *own = own.wrapping_add(word(theirs));
            }
        }
    }
    Ok(masked)
}

/// Sends words in frames.
///
/// # Errors
/// A lost peer.
pub fn send(channel: &mut dyn Channel, words: &[u64]) -> Result<(), NetError> {
    words
        .chunks(FRAME_WORDS)
        .try_for_each(|part| channel.send(to_bytes(part)))
}

/// What [`send`] sent.
///
/// # Errors
/// A lost peer, or another number of words.
pub fn receive(channel: &mut dyn Channel, words: usize) -> anyhow::Result<Vec<u64>> {
    let mut received = Vec::with_capacity(words);
    while received.len() < words {
        let frame = channel.recv()?;
        received.extend(frame.chunks_exact(8).map(word));
    }
    ensure!(
        received.len() == words,
        "the peer sent another number of words"
    );
    Ok(received)
}

fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

fn to_bytes(words: &[u64]) -> Vec<u8> {
    let mut bytes = vec![0; 8 * words.len()];
    for (out, word) in bytes.chunks_exact_mut(8).zip(words) {
        out.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// Sums modulo 2^64.
pub fn sum(x: &[u64], y: &[u64]) -> Vec<u64> {
    x.iter().zip(y).map(|(x, y)| x.wrapping_add(*y)).collect()
}

fn difference(x: &[u64], y: &[u64]) -> Vec<u64> {
    x.iter().zip(y).map(|(x, y)| x.wrapping_sub(*y)).collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use marill_net::{Meter, Metered, memory_pair};

    use super::*;

    /// Halves of every product, and what E0 sent, E1 sent and the dealer sent.
    type Run = ([Vec<Vec<u64>>; 2], [u64; 3]);

    fn run(stages: &[Stage], seeds: &[Seed; 2], operands: [&[Vec<Operands>]; 2]) -> Run {
        let meters: [Arc<Meter>; 3] = Default::default();
        let (a, b) = memory_pair();
        let (sink, stream) = memory_pair();
        let mut sink = Metered::new(sink, meters[2].clone());
        let mut stream = stream;
        let evaluator = |party: usize, peer, dealt: Dealt<'_>| {
            let mut peer = Metered::new(peer, meters[party].clone());
            let mut halves = Vec::new();
            let keep = |_, _, half| halves.push(half);
            evaluate(
                stages,
                &seeds[party],
                operands[party],
                &mut peer,
                dealt,
                keep,
            )
            .unwrap();
            halves
        };
        let evaluator = &evaluator;
        let halves = thread::scope(|scope| {
            scope.spawn(move || deal(stages, [&seeds[0], &seeds[1]], &mut sink).unwrap());
            let first = scope.spawn(move || evaluator(0, a, Dealt::Seed));
            let second = evaluator(1, b, Dealt::Stream(&mut stream));
            [first.join().unwrap(), second]
        });
        (halves, [0, 1, 2].map(|k| meters[k].bytes_sent()))
    }

    fn product(rows: usize, inner: usize, outer: usize) -> Product {
        Product { rows, inner, outer }
    }

    #[test]
    fn halves_add_up_to_the_product_at_the_declared_cost() {
        // The last one takes more than one frame.
        let last = product(3, 2048, 1100);
        let stages = vec![
            vec![product(5, 7, 11)],
            vec![product(1, 8, 3), product(2, 3, 9)],
            vec![last],
        ];
        assert!(last.opened() > FRAME_WORDS);
        let seeds = [Seed::from_bytes([1; 32]), Seed::from_bytes([2; 32])];
        let operands = [3, 4].map(|k| Operands::expand(&Seed::from_bytes([k; 32]), &stages));
        let [first, second] = &operands;
        let (halves, sent) = run(&stages, &seeds, [first, second]);
        let all: Vec<Product> = stages.iter().flatten().copied().collect();
        let values = first.iter().flatten().zip(second.iter().flatten());
        for (k, (x0, x1)) in values.enumerate() {
            let expected = x0.plus(x1).product(all[k].inner);
            assert_eq!(sum(&halves[0][k], &halves[1][k]), expected, "product {k}");
        }
        let opened: usize = all.iter().map(|p| p.opened()).sum();
        let dealt: usize = all.iter().map(|p| p.dealt()).sum();
        assert_eq!(sent, [opened, opened, dealt].map(|words| 8 * words as u64));
    }
}
