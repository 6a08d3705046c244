//! The server's integers: weights, biases and sides, made from a file or from a seed.

mod fold;
mod tensors;

use marill_crypto::{Prg, Seed};
use zeroize::{Zeroize, ZeroizeOnDrop};

pub use self::fold::from_safetensors;
use crate::graph::{Kernel, Layer, Network, Op};

/// A layer's integers. Never printed, erased when dropped.
#[derive(Clone, Default, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct LayerWeights {
    /// Of a convolution, by output, channel, row and column.
    pub weights: Vec<i64>,
    /// By channel, at the layer's scale; of a [`Op::SidedRelu`] what is added before.
    pub biases: Vec<i64>,
    /// Of a [`Op::SidedRelu`], by channel: 1 where what is below zero passes.
    pub sides: Vec<u64>,
}

/// All integers of a network.
#[derive(Clone, PartialEq, Eq)]
pub struct Weights {
    pub(crate) layers: Vec<LayerWeights>,
}

impl std::fmt::Debug for Weights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Weights({} layers)", self.layers.len())
    }
}

impl Weights {
    #[must_use]
    pub fn layer(&self, at: usize) -> &LayerWeights {
        &self.layers[at]
    }

    /// Another network's or a changed layer: for tests that break one on purpose.
    pub fn layer_mut(&mut self, at: usize) -> &mut LayerWeights {
        &mut self.layers[at]
    }

    /// Random weights for what a run costs: activations stay near one, as normalization keeps
    /// them. Uniform weights of variance `2 / fan-in` (He et al., arXiv 1502.01852), less where a
    /// sum with a shortcut follows.
    #[must_use]
    pub fn random(network: &Network, seed: &Seed) -> Self {
        let mut random = Prg::new(seed, "weights of an image network");
        let layers = network
            .layers
            .iter()
            .enumerate()
            .map(|(at, layer)| match &layer.op {
                Op::Convolution(kernel) => {
                    let added = |other: &Layer| other.op == Op::Add && other.inputs.contains(&at);
                    let gain = if network.layers.iter().any(added) {
                        0.5
                    } else {
                        1.0
                    };
                    random_kernel(network, layer, kernel, gain, &mut random)
                }
                Op::SidedRelu { .. } => {
                    let channels = layer.shape[0];
                    let half = f64::from(network.format.scale).exp2() / 2.0;
                    let biases = (0..channels).map(|_| (unit(&mut random) * half) as i64);
                    let biases = biases.collect();
                    let sides = random.words(channels);
                    LayerWeights {
                        weights: Vec::new(),
                        biases,
                        // One of eight.
                        sides: sides.iter().map(|word| u64::from(word % 8 == 0)).collect(),
                    }
                }
                _ => LayerWeights::default(),
            });
        Self {
            layers: layers.collect(),
        }
    }
}

/// Uniform between -1 and 1.
fn unit(random: &mut Prg) -> f64 {
    let word = random.words(1)[0];
    (word >> 11) as f64 * 0.5f64.powi(52) - 1.0
}

fn random_kernel(
    network: &Network,
    layer: &Layer,
    kernel: &Kernel,
    gain: f64,
    random: &mut Prg,
) -> LayerWeights {
    let fan = network.layers[layer.inputs[0]].shape[0] * kernel.side * kernel.side;
    // A uniform number between -a and a has variance a²/3.
    let most = gain * (6.0 / fan as f64).sqrt() * f64::from(network.format.scale).exp2();
    let words = random.words(kernel.outputs * fan);
    let number = |word: &u64| ((*word >> 11) as f64 * 0.5f64.powi(52) - 1.0) * most;
    let weights = words
        .iter()
        .map(|word| number(word).round() as i64)
        .collect();
    let tenth = f64::from(layer.scale).exp2() / 10.0;
    let biases = (0..kernel.outputs).map(|_| (unit(random) * tenth) as i64);
    LayerWeights {
        weights,
        biases: biases.collect(),
        sides: Vec::new(),
    }
}
