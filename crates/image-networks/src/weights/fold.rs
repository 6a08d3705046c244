//! From a file of floats to integers: batch norms are folded, forwards and backwards.
//!
//! A batch norm is `γ x + β`, with `γ = weight / sqrt(variance + 1e-5)` and `β = bias - mean·γ`.
//! One behind a convolution goes into its weights and biases. One before a ReLU goes forwards:
//! `relu(γ x + β) = γ z`, where `z` is `x + β/γ` if that is on the side of zero that the sign of
//! `γ` says, else zero; the next convolution's weights take `γ`. So it costs no product and no
//! truncation, and neither `γ` nor its sign leaves the server.

use std::collections::BTreeMap;

use super::{
    LayerWeights, Weights,
    tensors::{Tensors, refused},
};
use crate::{
    error::NetworkError,
    graph::{Format, Kernel, Layer, Network, Op},
};

/// What torchvision adds to variances.
const EPSILON: f64 = 1e-5;

/// Activations are below this in magnitude; what a `γ` this many times smaller than half an
/// activation's unit does to them is nothing.
const MOST_ACTIVATION: f64 = 2048.0;

/// A batch norm as an affine map of each channel.
struct Affine {
    factor: Vec<f64>,
    term: Vec<f64>,
}

/// The part of a batch norm before a ReLU that its convolution takes: by channel, what weights are
/// multiplied by, and a constant in place of a channel that is one.
struct Forward {
    factor: Vec<f64>,
    constant: Vec<f64>,
}

/// Integers of a network from a file with torchvision's names.
///
/// # Errors
/// A file that cannot be read; a tensor that is missing, of another shape or type, not finite, or
/// of no layer; a number that leaves its range. All name the tensor.
pub fn from_safetensors(network: &Network, bytes: &[u8]) -> Result<Weights, NetworkError> {
    let mut tensors = Tensors::read(bytes)?;
    let mut forward = BTreeMap::new();
    let mut layers = Vec::new();
    for layer in &network.layers {
        layers.push(match &layer.op {
            Op::Convolution(kernel) => {
                let channels = network.layers[layer.inputs[0]].shape[0];
                convolution(
                    network.format,
                    layer,
                    (kernel, channels),
                    &mut tensors,
                    &forward,
                )?
            }
            Op::SidedRelu { norm } => {
                let (integers, rest) = sided_relu(network.format, layer, norm, &mut tensors)?;
                forward.insert(norm.clone(), rest);
                integers
            }
            _ => LayerWeights::default(),
        });
    }
    tensors.finish()?;
    Ok(Weights { layers })
}

fn affine(name: &str, channels: usize, tensors: &mut Tensors<'_>) -> Result<Affine, NetworkError> {
    let mut take = |part: &str| tensors.take(&format!("{name}.{part}"), &[channels]);
    let weight = take("weight")?;
    let bias = take("bias")?;
    let mean = take("running_mean")?;
    let variance = take("running_var")?;
    tensors.skip(&format!("{name}.num_batches_tracked"));
    if variance.iter().any(|variance| *variance < 0.0) {
        let what = format!("`{name}.running_var` is below zero");
        return Err(refused(what, "a variance is not"));
    }
    let deviations = variance.iter().map(|variance| (variance + EPSILON).sqrt());
    let factor: Vec<f64> = weight.iter().zip(deviations).map(|(w, d)| w / d).collect();
    let term = bias.iter().zip(&mean).zip(&factor);
    let term = term.map(|((bias, mean), factor)| bias - mean * factor);
    let term = term.collect();
    Ok(Affine { factor, term })
}

/// A real number as an integer at a scale; below `2^(bits-1)`.
fn integer(name: &str, value: f64, scale: u32, bits: u32) -> Result<i64, NetworkError> {
    let scaled = (value * f64::from(scale).exp2()).round();
    if scaled.abs() >= f64::from(bits - 1).exp2() {
        let what = format!(
            "`{name}`, batch norm folded, has a number of magnitude {:.3}",
            value.abs()
        );
        return Err(refused(
            what,
            "its integer would not fit; the network needs a wider format",
        ));
    }
    Ok(scaled as i64)
}

fn convolution(
    format: Format,
    layer: &Layer,
    (kernel, channels): (&Kernel, usize),
    tensors: &mut Tensors<'_>,
    forward: &BTreeMap<String, Forward>,
) -> Result<LayerWeights, NetworkError> {
    let outputs = kernel.outputs;
    let name = format!("{}.weight", layer.name);
    let window = kernel.side * kernel.side;
    // A dense layer is a convolution of one pixel here, and a matrix in the file.
    let shape: &[usize] = if kernel.bias {
        &[outputs, channels]
    } else {
        &[outputs, channels, kernel.side, kernel.side]
    };
    let mut weights = tensors.take(&name, shape)?;
    let mut biases = if kernel.bias {
        tensors.take(&format!("{}.bias", layer.name), &[outputs])?
    } else {
        vec![0.0; outputs]
    };
    if let Some(before) = &kernel.norm_before {
        let Forward { factor, constant } = &forward[before];
        assert!(kernel.padding == 0, "a border would need the constants too");
        for (weights, bias) in weights.chunks_exact_mut(channels * window).zip(&mut biases) {
            for (channel, weights) in weights.chunks_exact_mut(window).enumerate() {
                *bias += weights.iter().sum::<f64>() * constant[channel];
                weights.iter_mut().for_each(|w| *w *= factor[channel]);
            }
        }
    }
    if let Some(norm) = &kernel.norm {
        let Affine { factor, term } = affine(norm, outputs, tensors)?;
        for (output, weights) in weights.chunks_exact_mut(channels * window).enumerate() {
            weights.iter_mut().for_each(|w| *w *= factor[output]);
            biases[output] = biases[output] * factor[output] + term[output];
        }
    }
    let of_weight = |w: &f64| integer(&name, *w, format.scale, format.weight_bits);
    let of_bias = |b: &f64| integer(&layer.name, *b, layer.scale, format.bits - 1);
    Ok(LayerWeights {
        weights: weights.iter().map(of_weight).collect::<Result<_, _>>()?,
        biases: biases.iter().map(of_bias).collect::<Result<_, _>>()?,
        sides: Vec::new(),
    })
}

fn sided_relu(
    format: Format,
    layer: &Layer,
    norm: &str,
    tensors: &mut Tensors<'_>,
) -> Result<(LayerWeights, Forward), NetworkError> {
    let channels = layer.shape[0];
    let Affine { factor, term } = affine(norm, channels, tensors)?;
    // Below half a unit of an activation, whatever the input.
    let nothing = 0.5 / f64::from(format.scale).exp2() / MOST_ACTIVATION;
    let mut integers = LayerWeights::default();
    let mut forward = Forward {
        factor: Vec::new(),
        constant: Vec::new(),
    };
    for (factor, term) in factor.iter().zip(&term) {
        let constant = factor.abs() < nothing;
        let bias = if constant { 0.0 } else { term / factor };
        if bias.abs() >= MOST_ACTIVATION {
            let what = format!(
                "`{norm}.weight` has a number that is {:.0} times smaller than its bias",
                bias.abs()
            );
            return Err(refused(what, "the network needs a wider format"));
        }
        integers
            .biases
            .push(integer(norm, bias, format.scale, format.bits - 1)?);
        integers.sides.push(u64::from(*factor < 0.0));
        forward.factor.push(if constant { 0.0 } else { *factor });
        forward
            .constant
            .push(if constant { term.max(0.0) } else { 0.0 });
    }
    Ok((integers, forward))
}

#[cfg(test)]
mod tests;
