//! A network as a list of layers: what each computes, of which layers before it, and at what scale.
//!
//! Values are signed numbers of [`Format::bits`] bits with [`Layer::scale`] fractional bits. A
//! convolution adds the weights' fractional bits, an average over `2^k` values adds `k` and divides
//! nothing; [`Op::Relu`] and [`Op::Truncate`] go back to [`Format::scale`].

use sha2::{Digest, Sha256};

use crate::error::NetworkError;

/// Widths of a network's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// Of the ring.
    pub bits: u32,
    /// Fractional bits of activations and of weights.
    pub scale: u32,
    /// Bits of a weight, its sign among them.
    pub weight_bits: u32,
}

impl Format {
    /// Ring and scale of CrypTFlow2's ResNet-50; weights below eight in magnitude.
    pub const CRYPTFLOW2: Self = Self {
        bits: 37,
        scale: 12,
        weight_bits: 16,
    };
}

/// A square kernel over all channels, with names of what weights are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    pub outputs: usize,
    pub side: usize,
    pub stride: usize,
    /// Rows and columns of zeros on each side.
    pub padding: usize,
    /// The batch norm that follows, folded into weights and biases.
    pub norm: Option<String>,
    /// The batch norm of the [`Op::SidedRelu`] that precedes: its scale is folded into the weights.
    pub norm_before: Option<String>,
    /// Whether the file has a bias.
    pub bias: bool,
}

/// What a layer computes of its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// The client's image.
    Input,
    /// Weights and biases are the server's.
    Convolution(Kernel),
    /// `floor(max(x, 0) / 2^s)`, back at the format's scale.
    Relu,
    /// Of `z = x + b`: `z` where it is on the channel's side of zero, else zero. `b` and the side
    /// are the server's, of the batch norm with this name: `relu(γ x + β) = γ z` with `b = β / γ`,
    /// and the next convolution's weights take `γ`.
    SidedRelu { norm: String },
    /// `floor(x / 2^s)`, back at the format's scale.
    Truncate,
    /// The largest of a window; borders are zeros, so that a ReLU belongs before or behind.
    MaxPool {
        side: usize,
        stride: usize,
        padding: usize,
    },
    /// The mean of a window, rounded down; where its size is a power of two, the sum at another
    /// scale.
    AveragePool { side: usize, stride: usize },
    /// The sum of two layers, the second one brought to the scale of the first.
    Add,
    /// Channels of all inputs, one after the other.
    Concat,
    /// The place of the first largest channel.
    ArgMax,
}

impl Op {
    /// What figures are summed by.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Convolution(_) => "convolution",
            Self::Relu | Self::SidedRelu { .. } => "relu",
            Self::Truncate => "truncation",
            Self::MaxPool { .. } => "max-pool",
            Self::AveragePool { .. } => "average-pool",
            Self::ArgMax => "arg-max",
            Self::Input | Self::Add | Self::Concat => "local",
        }
    }
}

/// A layer and what it gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub name: String,
    pub op: Op,
    /// Layers before it, by their places.
    pub inputs: Vec<usize>,
    /// Channels, rows, columns.
    pub shape: [usize; 3],
    /// Fractional bits.
    pub scale: u32,
}

impl Layer {
    /// Numbers of its output.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Layers in an order in which they can be computed; the last one is the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    pub(crate) name: String,
    pub(crate) format: Format,
    pub(crate) layers: Vec<Layer>,
}

impl Network {
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    #[must_use]
    pub fn format(&self) -> Format {
        self.format
    }

    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Numbers of the client's image.
    #[must_use]
    pub fn input_count(&self) -> usize {
        self.layers[0].count()
    }

    /// Width of the shares of a layer: that of the ring, or of a place.
    #[must_use]
    pub fn bits(&self, layer: usize) -> u32 {
        let layer = &self.layers[layer];
        match layer.op {
            Op::ArgMax => place_bits(self.layers[layer.inputs[0]].count()),
            _ => self.format.bits,
        }
    }

    /// Bits that a layer shifts out of its first input.
    #[must_use]
    pub fn shift(&self, layer: &Layer) -> u32 {
        self.layers[layer.inputs[0]].scale - layer.scale
    }

    /// The last layer that reads each, itself where none does.
    pub(crate) fn last_uses(&self) -> Vec<usize> {
        let mut last: Vec<usize> = (0..self.layers.len()).collect();
        for (at, layer) in self.layers.iter().enumerate() {
            layer.inputs.iter().for_each(|input| last[*input] = at);
        }
        last
    }

    /// Multiplications of all convolutions.
    #[must_use]
    pub fn multiplications(&self) -> u64 {
        let each = self.layers.iter().map(|layer| match &layer.op {
            Op::Convolution(kernel) => {
                let channels = self.layers[layer.inputs[0]].shape[0];
                (layer.count() * channels * kernel.side * kernel.side) as u64
            }
            _ => 0,
        });
        each.sum()
    }

    /// What both parties compare before they begin: all that is public of a network.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(b"marill image network 1");
        hash.update(format!("{:?}", self.format));
        for layer in &self.layers {
            hash.update(format!("{layer:?}\n"));
        }
        hash.finalize().into()
    }
}

/// Bits of a place among so many.
pub(crate) fn place_bits(count: usize) -> u32 {
    (usize::BITS - (count - 1).leading_zeros()).max(1)
}

/// Adds layers one by one; each call gives the new layer's place.
pub(crate) struct Builder {
    network: Network,
}

type Built = Result<usize, NetworkError>;

impl Builder {
    pub(crate) fn new(name: String, format: Format, image: [usize; 3]) -> Self {
        let input = Layer {
            name: "image".into(),
            op: Op::Input,
            inputs: Vec::new(),
            shape: image,
            scale: format.scale,
        };
        Self {
            network: Network {
                name,
                format,
                layers: vec![input],
            },
        }
    }

    pub(crate) fn finish(self) -> Network {
        self.network
    }

    pub(crate) fn channels(&self, layer: usize) -> usize {
        self.network.layers[layer].shape[0]
    }

    /// Rows of a layer.
    pub(crate) fn rows(&self, layer: usize) -> usize {
        self.network.layers[layer].shape[1]
    }

    fn push(
        &mut self,
        name: String,
        op: Op,
        inputs: &[usize],
        shape: [usize; 3],
        scale: u32,
    ) -> usize {
        self.network.layers.push(Layer {
            name,
            op,
            inputs: inputs.to_vec(),
            shape,
            scale,
        });
        self.network.layers.len() - 1
    }

    /// Rows and columns of the windows that fit.
    fn windows(
        &self,
        name: &str,
        input: usize,
        [side, stride, padding]: [usize; 3],
    ) -> Result<[usize; 2], NetworkError> {
        let [_, rows, columns] = self.network.layers[input].shape;
        if rows.min(columns) + 2 * padding < side {
            return Err(NetworkError::Shape {
                layer: name.to_string(),
                what: format!("a window of {side} is larger than its input of {rows} by {columns}"),
                hint: "take a larger image",
            });
        }
        Ok([rows, columns].map(|length| (length + 2 * padding - side) / stride + 1))
    }

    pub(crate) fn convolution(&mut self, name: &str, input: usize, kernel: Kernel) -> Built {
        let geometry = [kernel.side, kernel.stride, kernel.padding];
        let [rows, columns] = self.windows(name, input, geometry)?;
        let shape = [kernel.outputs, rows, columns];
        let scale = self.network.layers[input].scale + self.network.format.scale;
        Ok(self.push(name.into(), Op::Convolution(kernel), &[input], shape, scale))
    }

    /// A layer of its input's shape, at the format's scale.
    fn back(&mut self, name: &str, op: Op, input: usize) -> usize {
        let shape = self.network.layers[input].shape;
        let scale = self.network.format.scale;
        self.push(name.into(), op, &[input], shape, scale)
    }

    pub(crate) fn relu(&mut self, name: &str, input: usize) -> usize {
        self.back(name, Op::Relu, input)
    }

    pub(crate) fn truncate(&mut self, name: &str, input: usize) -> usize {
        self.back(name, Op::Truncate, input)
    }

    pub(crate) fn sided_relu(&mut self, norm: &str, input: usize) -> usize {
        let op = Op::SidedRelu { norm: norm.into() };
        self.back(&format!("{norm}.relu"), op, input)
    }

    pub(crate) fn max_pool(&mut self, name: &str, input: usize, geometry: [usize; 3]) -> Built {
        let [rows, columns] = self.windows(name, input, geometry)?;
        let [side, stride, padding] = geometry;
        let op = Op::MaxPool {
            side,
            stride,
            padding,
        };
        let shape = [self.channels(input), rows, columns];
        let scale = self.network.layers[input].scale;
        Ok(self.push(name.into(), op, &[input], shape, scale))
    }

    pub(crate) fn average_pool(
        &mut self,
        name: &str,
        input: usize,
        [side, stride]: [usize; 2],
    ) -> Built {
        let [rows, columns] = self.windows(name, input, [side, stride, 0])?;
        let count = side * side;
        let more = if count.is_power_of_two() {
            count.trailing_zeros()
        } else {
            0
        };
        let op = Op::AveragePool { side, stride };
        let shape = [self.channels(input), rows, columns];
        let scale = self.network.layers[input].scale + more;
        Ok(self.push(name.into(), op, &[input], shape, scale))
    }

    pub(crate) fn add(&mut self, name: &str, inputs: [usize; 2]) -> usize {
        let first = &self.network.layers[inputs[0]];
        let shape = first.shape;
        let scale = first.scale;
        self.push(name.into(), Op::Add, &inputs, shape, scale)
    }

    pub(crate) fn concat(&mut self, name: &str, inputs: &[usize]) -> usize {
        let first = &self.network.layers[inputs[0]];
        let [_, rows, columns] = first.shape;
        let scale = first.scale;
        let channels = inputs.iter().map(|input| self.channels(*input)).sum();
        self.push(
            name.into(),
            Op::Concat,
            inputs,
            [channels, rows, columns],
            scale,
        )
    }

    pub(crate) fn arg_max(&mut self, name: &str, input: usize) -> usize {
        self.push(name.into(), Op::ArgMax, &[input], [1; 3], 0)
    }
}
