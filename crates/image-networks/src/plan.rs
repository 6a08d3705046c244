//! How a network is evaluated: the lattice product of each convolution, groups that bound memory,
//! and what each layer costs, declared before it runs.

use std::ops::Range;

use marill_lattice::{Convolution, LatticeError, PackingKeys, ParameterSet, PublicKey};
use marill_ot::Needs;
use marill_two_party::{
    ArgMax, Cost, DivideBy, Maximum, Msb, Multiplex, Radix, Relu, ReluTruncate, Shift, Sign,
};
use sha2::{Digest, Sha256};

use crate::{
    error::NetworkError,
    graph::{Layer, Network, Op},
    twin::{convolution_shape, divisor},
};

/// Comparisons at once, unless a plan says otherwise.
const GROUP: usize = 1 << 18;

/// Levels of packing keys that a plan chooses from: for none, small networks and large ones.
const LEVELS: [u32; 4] = [0, 6, 9, 13];

/// The set whose results can be merged.
pub(crate) const PACKED: ParameterSet = ParameterSet::N8192;

/// Bytes of a digest of the transcript, which both parties compare before the output is revealed.
pub(crate) const CONFIRM_BYTES: u64 = 16;

/// A network, and the protocols that its layers take. Both parties make the same one.
pub struct Plan {
    pub(crate) network: Network,
    pub(crate) radix: Radix,
    group: usize,
    pub(crate) convolutions: Vec<Option<Convolution>>,
}

/// The gates of a layer and their instances at once.
pub(crate) enum Gate {
    Relu(Relu),
    ReluTruncate(ReluTruncate),
    Sided(Msb, Multiplex),
    Shift(Shift),
    Maximum(Maximum),
    Divide(DivideBy),
    ArgMax(ArgMax),
}

impl Gate {
    /// Instances by groups of so many comparisons, one at least.
    fn groups(&self, n: usize, comparisons: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let each = match self {
            Self::Maximum(maximum) => (comparisons / maximum.count.div_ceil(2)).max(1),
            _ => comparisons,
        };
        (0..n)
            .step_by(each)
            .map(move |first| first..(first + each).min(n))
    }

    fn needs(&self, n: usize) -> Needs {
        match self {
            Self::Relu(gate) => gate.needs(n),
            Self::ReluTruncate(gate) => gate.needs(n),
            Self::Sided(msb, multiplex) => {
                let mut needs = msb.needs(n);
                needs.merge(&multiplex.needs(n));
                needs
            }
            Self::Shift(gate) => gate.needs(n),
            Self::Maximum(gate) => gate.needs(n),
            Self::Divide(gate) => gate.needs(n),
            Self::ArgMax(gate) => gate.needs(n),
        }
    }

    fn cost(&self, n: usize) -> Cost {
        match self {
            Self::Relu(gate) => gate.cost(n),
            Self::ReluTruncate(gate) => gate.cost(n),
            Self::Sided(msb, multiplex) => msb.cost(n) + multiplex.cost(n),
            Self::Shift(gate) => gate.cost(n),
            Self::Maximum(gate) => gate.cost(n),
            Self::Divide(gate) => gate.cost(n),
            Self::ArgMax(gate) => gate.cost(n),
        }
    }
}

/// Bytes in both directions.
fn bytes(convolution: &Convolution) -> usize {
    convolution.request_bytes() + convolution.response_bytes()
}

/// A layer's product with keys of so many levels: of the sets that hold it without merging, the one
/// of fewer bytes, or a merged one.
fn product(
    network: &Network,
    layer: &Layer,
    levels: u32,
) -> Result<Option<Convolution>, LatticeError> {
    let Op::Convolution(kernel) = &layer.op else {
        return Ok(None);
    };
    let format = network.format;
    let shape = convolution_shape(network, layer, kernel);
    if levels > 0 {
        let width = format.weight_bits;
        return Convolution::merged(PACKED, format.bits, width, shape, levels).map(Some);
    }
    let make = |set| Convolution::new(set, format.bits, format.weight_bits, shape);
    let wide = make(ParameterSet::N8192)?;
    Ok(Some(match make(ParameterSet::N4096) {
        Ok(small) if bytes(&small) < bytes(&wide) => small,
        _ => wide,
    }))
}

/// The products of all layers.
type Products = Vec<Option<Convolution>>;

fn products(network: &Network, levels: u32) -> Result<Products, NetworkError> {
    let each = network.layers.iter().map(|layer| {
        product(network, layer, levels).map_err(|source| NetworkError::Lattice {
            layer: layer.name.clone(),
            source,
        })
    });
    each.collect()
}

/// Levels that products take.
fn levels(products: &Products) -> u32 {
    let each = products.iter().flatten().map(Convolution::levels);
    each.max().unwrap_or_default()
}

/// Vectors for which keys of so many levels are made.
pub(crate) fn vectors(levels: u32) -> usize {
    PACKED.n() >> levels
}

/// Bytes of packing keys.
fn key_bytes(levels: u32) -> usize {
    match levels {
        0 => 0,
        levels => PackingKeys::bytes(PACKED, vectors(levels)),
    }
}

impl Plan {
    /// Of the products with packing keys of different levels, those of fewest bytes, keys included.
    ///
    /// # Errors
    /// A convolution that ciphertexts cannot hold.
    pub fn new(network: Network, radix: Radix) -> Result<Self, NetworkError> {
        let mut best: Option<(usize, Products)> = None;
        for most in LEVELS {
            let made = products(&network, most)?;
            let messages: usize = made.iter().flatten().map(bytes).sum();
            let total = messages + key_bytes(levels(&made));
            if best.as_ref().is_none_or(|(least, _)| total < *least) {
                best = Some((total, made));
            }
        }
        let (_, convolutions) = best.expect("there are levels");
        Ok(Self::of(network, radix, convolutions))
    }

    /// With packing keys of so many levels at most, which merge results of convolutions; none for
    /// convolutions one by one, which take less time and more bytes.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_levels(network: Network, radix: Radix, most: u32) -> Result<Self, NetworkError> {
        let convolutions = products(&network, most)?;
        Ok(Self::of(network, radix, convolutions))
    }

    fn of(network: Network, radix: Radix, convolutions: Products) -> Self {
        Self {
            network,
            radix,
            group: GROUP,
            convolutions,
        }
    }

    /// Levels of packing keys.
    #[must_use]
    pub fn levels(&self) -> u32 {
        levels(&self.convolutions)
    }

    /// The same with other groups: a gate's instances beyond so many comparisons follow in further
    /// groups, which bounds memory and adds rounds.
    ///
    /// # Panics
    /// For groups of nothing.
    #[must_use]
    pub fn in_groups(mut self, comparisons: usize) -> Self {
        assert!(comparisons > 0, "a group of one comparison at least");
        self.group = comparisons;
        self
    }

    /// What both parties compare before they begin: all that decides which messages follow.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new_with_prefix(b"marill plan of an image network 1");
        hash.update(self.network.digest());
        hash.update(format!("{:?}, groups of {}", self.radix, self.group));
        hash.update(self.levels().to_le_bytes());
        hash.finalize().into()
    }

    /// Groups of a gate's `n` instances.
    pub(crate) fn groups(
        &self,
        gate: &Gate,
        n: usize,
    ) -> impl Iterator<Item = Range<usize>> + use<> {
        gate.groups(n, self.group)
    }

    #[must_use]
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The parameter sets that convolutions take, each once.
    #[must_use]
    pub fn sets(&self) -> Vec<ParameterSet> {
        let all = [ParameterSet::N4096, ParameterSet::N8192];
        let used = |set: &ParameterSet| {
            let mut made = self.convolutions.iter().flatten();
            made.any(|convolution| convolution.set() == *set)
        };
        all.into_iter().filter(used).collect()
    }

    /// Messages before the first layer, transfers' set-up apart: both compare what they evaluate,
    /// then the client sends a public key for each set, and packing keys.
    #[must_use]
    pub fn setup_cost(&self) -> Cost {
        let keys: usize = self.sets().into_iter().map(PublicKey::bytes).sum();
        let mut cost = Cost::none();
        cost.exchange([8 * 32; 2]);
        cost.exchange([8 * (keys + key_bytes(self.levels())), 0]);
        cost
    }

    /// The interactive gate of a layer and its instances; none where parties compute alone, or by
    /// ciphertexts.
    pub(crate) fn gate(&self, layer: &Layer) -> Option<(Gate, usize)> {
        let bits = self.network.format.bits;
        let radix = self.radix;
        let n = layer.count();
        let gate = match &layer.op {
            Op::Relu => match self.network.shift(layer) {
                0 => Gate::Relu(Relu { bits, radix }),
                shift => Gate::ReluTruncate(ReluTruncate { bits, shift, radix }),
            },
            Op::SidedRelu { .. } => Gate::Sided(Msb { bits, radix }, Multiplex { bits }),
            Op::Truncate => Gate::Shift(Shift {
                bits,
                shift: self.network.shift(layer),
                sign: Sign::Unknown,
                radix,
            }),
            Op::MaxPool { side, .. } => Gate::Maximum(Maximum {
                bits,
                count: side * side,
                radix,
            }),
            Op::AveragePool { side, .. } => Gate::Divide(DivideBy {
                bits,
                divisor: divisor(*side)?,
                radix,
            }),
            Op::ArgMax => {
                let input = &self.network.layers[layer.inputs[0]];
                Gate::ArgMax(ArgMax {
                    bits,
                    count: input.count(),
                    place_bits: crate::graph::place_bits(input.count()),
                    radix,
                })
            }
            Op::Input | Op::Convolution(_) | Op::Add | Op::Concat => return None,
        };
        Some((gate, n))
    }

    /// Transfers that a layer uses.
    #[must_use]
    pub fn needs(&self, layer: usize) -> Needs {
        let mut needs = Needs::none();
        if let Some((gate, n)) = self.gate(&self.network.layers[layer]) {
            for group in self.groups(&gate, n) {
                needs.merge(&gate.needs(group.len()));
            }
        }
        needs
    }

    /// Messages of a layer, by party, and its rounds; material apart.
    #[must_use]
    pub fn cost(&self, layer: usize) -> Cost {
        if let Some(convolution) = &self.convolutions[layer] {
            let sent = [convolution.request_bytes(), convolution.response_bytes()];
            let sent = sent.map(|bytes| bytes as u64);
            return Cost { sent, rounds: 2 };
        }
        match self.gate(&self.network.layers[layer]) {
            Some((gate, n)) => self
                .groups(&gate, n)
                .fold(Cost::none(), |cost, group| cost + gate.cost(group.len())),
            None => Cost::none(),
        }
    }

    /// What the end takes: transcripts are compared, then the server sends its share.
    #[must_use]
    pub fn reveal_cost(&self) -> Cost {
        let last = self.network.layers.len() - 1;
        let bits = self.network.bits(last) as usize * self.network.layers[last].count();
        let mut cost = Cost::none();
        cost.exchange([8 * CONFIRM_BYTES as usize; 2]);
        cost.exchange([0, bits]);
        cost
    }

    /// All messages behind the set-up, material apart.
    #[must_use]
    pub fn total_cost(&self) -> Cost {
        let layers = (0..self.network.layers.len()).map(|layer| self.cost(layer));
        layers.fold(self.reveal_cost(), |sum, cost| sum + cost)
    }
}
