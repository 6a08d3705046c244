//! The integer program in clear: what secure layers equal, bit for bit.

use marill_lattice::ConvolutionShape;
use marill_numeric::{fixed::low_mask, integer};
use marill_two_party::Windows;
use zeroize::Zeroizing;

use crate::{
    convolve::convolve,
    error::NetworkError,
    graph::{Kernel, Layer, Network, Op},
    weights::{LayerWeights, Weights},
};

/// Computes all layers of an image of numbers modulo `2^bits`, and shows each, by its place.
///
/// # Errors
/// [`NetworkError::Range`] where a layer leaves the ring, in which secure layers would be equal to
/// the integers modulo the ring and of no use. `observe`'s own.
///
/// # Panics
/// For an image or weights of another size.
pub fn run<E: From<NetworkError>>(
    network: &Network,
    weights: &Weights,
    image: &[u64],
    mut observe: impl FnMut(usize, &[u64]) -> Result<(), E>,
) -> Result<Vec<u64>, E> {
    let last = network.last_uses();
    let mut values: Vec<Zeroizing<Vec<u64>>> = Vec::new();
    for (at, layer) in network.layers.iter().enumerate() {
        let twin = Twin {
            network,
            layer,
            weights: &weights.layers[at],
        };
        let inputs: Vec<&[u64]> = layer.inputs.iter().map(|i| &values[*i][..]).collect();
        let value = match layer.op {
            Op::Input => {
                assert_eq!(image.len(), layer.count(), "a whole image");
                Zeroizing::new(image.to_vec())
            }
            _ => twin.value(&inputs)?,
        };
        observe(at, &value)?;
        values.push(value);
        for input in &layer.inputs {
            if last[*input] == at {
                values[*input] = Zeroizing::default();
            }
        }
    }
    Ok(values
        .pop()
        .map_or_else(Vec::new, |mut output| std::mem::take(&mut *output)))
}

/// The shape of a layer's convolution.
pub(crate) fn convolution_shape(
    network: &Network,
    layer: &Layer,
    kernel: &Kernel,
) -> ConvolutionShape {
    let [channels, rows, columns] = network.layers[layer.inputs[0]].shape;
    ConvolutionShape {
        channels,
        image: [rows, columns],
        outputs: kernel.outputs,
        kernel: [kernel.side; 2],
        stride: kernel.stride,
        padding: kernel.padding,
    }
}

/// Images with borders of zeros.
pub(crate) fn padded(
    x: &[u64],
    [_, rows, columns]: [usize; 3],
    padding: usize,
) -> Zeroizing<Vec<u64>> {
    let wide = columns + 2 * padding;
    let area = (rows + 2 * padding) * wide;
    let mut out = Zeroizing::new(vec![0; x.len() / (rows * columns) * area]);
    for (image, out) in x
        .chunks_exact(rows * columns)
        .zip(out.chunks_exact_mut(area))
    {
        for (row, x) in image.chunks_exact(columns).enumerate() {
            out[(row + padding) * wide + padding..][..columns].copy_from_slice(x);
        }
    }
    out
}

/// Windows of padded images, value `i` of each in list `i`.
pub(crate) fn windows(
    x: &[u64],
    shape: [usize; 3],
    [side, stride, padding]: [usize; 3],
) -> Vec<Vec<u64>> {
    let windows = Windows {
        height: shape[1] + 2 * padding,
        width: shape[2] + 2 * padding,
        side,
        stride,
    };
    windows.gathered(&padded(x, shape, padding))
}

/// The windows' sums, modulo 2^64.
pub(crate) fn sums(windows: &[Vec<u64>]) -> Zeroizing<Vec<u64>> {
    let mut sums = Zeroizing::new(windows[0].clone());
    for more in &windows[1..] {
        sums.iter_mut()
            .zip(more)
            .for_each(|(sum, x)| *sum = sum.wrapping_add(*x));
    }
    sums
}

/// What an average divides its sums by; nothing where that is a change of scale.
pub(crate) fn divisor(side: usize) -> Option<u64> {
    let count = side * side;
    (!count.is_power_of_two()).then_some(count as u64)
}

/// One layer in clear.
struct Twin<'a> {
    network: &'a Network,
    layer: &'a Layer,
    weights: &'a LayerWeights,
}

impl Twin<'_> {
    fn bits(&self) -> u32 {
        self.network.format.bits
    }

    fn signed(&self, x: u64) -> i64 {
        marill_numeric::fixed::sign_extend(x, self.bits())
    }

    fn left(&self) -> NetworkError {
        NetworkError::Range {
            layer: self.layer.name.clone(),
            bits: self.bits(),
            scale: self.layer.scale,
        }
    }

    /// Signed numbers as numbers modulo `2^bits`, if they have `room` bits fewer.
    fn fitting(
        &self,
        values: impl Iterator<Item = i64>,
        room: u32,
    ) -> Result<Zeroizing<Vec<u64>>, NetworkError> {
        let half = 1i64 << (self.bits() - 1 - room);
        let mut out = Zeroizing::new(Vec::with_capacity(self.layer.count()));
        for value in values {
            if !(-half..half).contains(&value) {
                return Err(self.left());
            }
            out.push(value as u64 & low_mask(self.bits()));
        }
        Ok(out)
    }

    /// Pixels of a channel.
    fn area(&self) -> usize {
        self.layer.shape[1] * self.layer.shape[2]
    }

    fn value(&self, inputs: &[&[u64]]) -> Result<Zeroizing<Vec<u64>>, NetworkError> {
        let bits = self.bits();
        let x = inputs[0];
        let shape = self.network.layers[self.layer.inputs[0]].shape;
        let each = |of: &dyn Fn(u64) -> u64| Zeroizing::new(x.iter().map(|x| of(*x)).collect());
        Ok(match &self.layer.op {
            Op::Input => unreachable!("it has no inputs"),
            Op::Convolution(kernel) => self.convolution(kernel, x)?,
            Op::Relu => match self.network.shift(self.layer) {
                0 => each(&|x| integer::relu(x, bits)),
                shift => each(&|x| integer::relu_truncate(x, bits, shift)),
            },
            Op::SidedRelu { .. } => self.sided_relu(x)?,
            Op::Truncate => {
                let shift = self.network.shift(self.layer);
                each(&|x| integer::arithmetic_shift(x, bits, shift))
            }
            Op::MaxPool {
                side,
                stride,
                padding,
            } => {
                // Twice as much room, for differences.
                self.fitting(x.iter().map(|x| self.signed(*x)), 1)?;
                let lists = windows(x, shape, [*side, *stride, *padding]);
                let of = |i: usize| {
                    let window: Vec<u64> = lists.iter().map(|list| list[i]).collect();
                    integer::arg_max(&window, bits).0
                };
                Zeroizing::new((0..lists[0].len()).map(of).collect())
            }
            Op::AveragePool { side, stride } => {
                let signed: Vec<u64> = x.iter().map(|x| self.signed(*x) as u64).collect();
                let sums = sums(&windows(&signed, shape, [*side, *stride, 0]));
                let sums = self.fitting(sums.iter().map(|sum| *sum as i64), 0)?;
                match divisor(*side) {
                    Some(by) => sums
                        .iter()
                        .map(|x| integer::divide_by(*x, bits, by))
                        .collect::<Vec<_>>()
                        .into(),
                    None => sums,
                }
            }
            Op::Add => {
                let up = self.layer.scale - self.network.layers[self.layer.inputs[1]].scale;
                let pairs = x.iter().zip(inputs[1]);
                self.fitting(
                    pairs.map(|(x, y)| self.signed(*x) + (self.signed(*y) << up)),
                    0,
                )?
            }
            Op::Concat => Zeroizing::new(inputs.concat()),
            Op::ArgMax => {
                self.fitting(x.iter().map(|x| self.signed(*x)), 1)?;
                Zeroizing::new(vec![integer::arg_max(x, bits).1 as u64])
            }
        })
    }

    fn convolution(&self, kernel: &Kernel, x: &[u64]) -> Result<Zeroizing<Vec<u64>>, NetworkError> {
        let shape = convolution_shape(self.network, self.layer, kernel);
        let signed: Vec<i64> = x.iter().map(|x| self.signed(*x)).collect();
        let largest = signed
            .iter()
            .map(|x| x.unsigned_abs())
            .max()
            .unwrap_or_default();
        let terms = shape.channels * kernel.side * kernel.side;
        // So that sums modulo 2^64 are the integers.
        let bound = u128::from(largest) * terms as u128;
        if bound << (self.network.format.weight_bits - 1) >= 1 << 62 {
            return Err(self.left());
        }
        let words: Vec<u64> = signed.iter().map(|x| *x as u64).collect();
        let sums = convolve(&shape, &words, &self.weights.weights);
        let area = self.area();
        let sums = sums.iter().enumerate();
        let biased = sums.map(|(at, sum)| *sum as i64 + self.weights.biases[at / area]);
        self.fitting(biased, 0)
    }

    fn sided_relu(&self, x: &[u64]) -> Result<Zeroizing<Vec<u64>>, NetworkError> {
        let area = self.area();
        let values = x.iter().enumerate();
        let moved = values.map(|(at, x)| self.signed(*x) + self.weights.biases[at / area]);
        let mut z = self.fitting(moved, 0)?;
        for (at, z) in z.iter_mut().enumerate() {
            if integer::msb(*z, self.bits()) != self.weights.sides[at / area] {
                *z = 0;
            }
        }
        Ok(z)
    }
}
