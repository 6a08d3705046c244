//! A network between two parties: the client's image, the server's weights, and an output that the
//! client alone learns.

use marill_lattice::{Client, Convolution, LatticeError, PackingKeys, PublicKey, Server};
use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use marill_ot::{BitReader, BitWriter, Bits, Needs, OtError, Party, Phase, Session, Source};
use zeroize::Zeroizing;

use crate::{
    convolve::convolve,
    error::NetworkError,
    graph::{Layer, Op},
    plan::{Gate, PACKED, Plan, vectors},
    twin::{sums, windows},
    weights::{LayerWeights, Weights},
};

type Shares = Zeroizing<Vec<u64>>;

/// What a party brings.
pub enum Input<'a> {
    /// E0: pixels by channel, row and column, signed at the format's scale, modulo `2^bits`.
    Client(&'a [u64]),
    /// E1.
    Server(&'a Weights),
}

/// Keys by parameter set.
enum Keys {
    Client(Vec<Client>),
    Server(Vec<Server>, Option<PackingKeys>),
}

/// Evaluates a network with the peer, on a session that has sent nothing but its beginning. Gives
/// the output to the client, nothing to the server. `observe` is shown this party's shares of each
/// layer, by its place, once they are there.
///
/// # Errors
/// [`NetworkError::Networks`] for a peer with another network; a message that is lost, late or
/// malformed, by layer; what `observe` returns.
///
/// # Panics
/// When the input is the other party's, or of another network.
pub fn run<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    plan: &Plan,
    input: &Input<'_>,
    mut observe: impl FnMut(usize, &[u64], &Session<C, S>) -> Result<(), NetworkError>,
) -> Result<Option<Vec<u64>>, NetworkError> {
    let client = matches!(input, Input::Client(_));
    assert_eq!(session.party() == Party::E0, client, "E0 is the client");
    let network = &plan.network;
    let keys = set_up(session, plan)?;
    let last = network.last_uses();
    let mut values: Vec<Shares> = Vec::new();
    for (at, layer) in network.layers.iter().enumerate() {
        let inputs: Vec<&[u64]> = layer.inputs.iter().map(|i| &values[*i][..]).collect();
        let evaluation = Evaluation {
            plan,
            layer,
            weights: match input {
                Input::Client(_) => None,
                Input::Server(weights) => Some(&weights.layers[at]),
            },
        };
        let shares = match (&layer.op, input, &plan.convolutions[at]) {
            (Op::Input, Input::Client(image), _) => {
                assert_eq!(image.len(), layer.count(), "a whole image");
                Zeroizing::new(image.to_vec())
            }
            (Op::Input, Input::Server(_), _) => Zeroizing::new(vec![0; layer.count()]),
            (_, _, Some(convolution)) => {
                evaluation.convolution(session, &keys, convolution, inputs[0])?
            }
            _ => evaluation.gates(session, &inputs)?,
        };
        observe(at, &shares, session)?;
        values.push(shares);
        for input in &layer.inputs {
            if last[*input] == at {
                values[*input] = Zeroizing::default();
            }
        }
    }
    let output = values.pop().expect("a network has layers");
    reveal(session, plan, &output)
}

/// An error of transfers or of the link, in a layer.
fn in_layer(layer: &str) -> impl Fn(OtError) -> NetworkError + use<'_> {
    |source| NetworkError::Protocol {
        layer: layer.to_string(),
        source,
    }
}

/// Compares networks, sends keys, and makes what transfers need before the first of them.
fn set_up<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    plan: &Plan,
) -> Result<Keys, NetworkError> {
    let failed = in_layer("set-up");
    let of_key = |source| NetworkError::Lattice {
        layer: "set-up".into(),
        source,
    };
    let first = session.party() == Party::E0;
    let link = session.link();
    let phase = link.enter(Phase::Setup);
    let own = plan.digest();
    let peer = link.exchange("network", &own, own.len()).map_err(&failed)?;
    if peer != own {
        return Err(NetworkError::Networks);
    }
    let keys = if first {
        let clients: Vec<Client> = plan.sets().into_iter().map(Client::new).collect();
        let message = key_message(plan, &clients).map_err(of_key)?;
        link.send("lattice keys", &message).map_err(&failed)?;
        Keys::Client(clients)
    } else {
        let bytes = plan.setup_cost().sent[0] as usize - own.len();
        let message = link.receive("lattice keys", bytes).map_err(&failed)?;
        read_keys(plan, &message).map_err(of_key)?
    };
    link.enter(phase);
    let mut needs = Needs::none();
    (0..plan.network.layers.len()).for_each(|layer| needs.merge(&plan.needs(layer)));
    session.set_up(&needs).map_err(&failed)?;
    Ok(keys)
}

/// Public keys of all sets, then packing keys.
fn key_message(plan: &Plan, clients: &[Client]) -> Result<Vec<u8>, LatticeError> {
    let mut message: Vec<u8> = clients.iter().flat_map(Client::public_key).collect();
    if plan.levels() > 0 {
        let place = plan.sets().iter().position(|set| *set == PACKED);
        let client = &clients[place.expect("merged products are of this set")];
        message.extend(client.packing_keys(vectors(plan.levels()))?);
    }
    Ok(message)
}

/// Reads what [`key_message`] made, of the length that a plan says.
fn read_keys(plan: &Plan, message: &[u8]) -> Result<Keys, LatticeError> {
    let mut rest = message;
    let mut servers = Vec::new();
    for set in plan.sets() {
        let (key, behind) = rest.split_at(PublicKey::bytes(set));
        servers.push(Server::new(set, key)?);
        rest = behind;
    }
    let packing = match plan.levels() {
        0 => None,
        levels => Some(PackingKeys::from_bytes(PACKED, vectors(levels), rest)?),
    };
    Ok(Keys::Server(servers, packing))
}

/// The client's output: transcripts are compared first.
fn reveal<C: Channel, S: Source>(
    session: &mut Session<C, S>,
    plan: &Plan,
    shares: &[u64],
) -> Result<Option<Vec<u64>>, NetworkError> {
    let failed = in_layer("output");
    let bits = plan.network.bits(plan.network.layers.len() - 1);
    session.confirm().map_err(&failed)?;
    if session.party() == Party::E1 {
        let mut message = BitWriter::new();
        shares.iter().for_each(|share| message.push(*share, bits));
        let message = Zeroizing::new(message.finish());
        session.link().send("output", &message).map_err(&failed)?;
        return Ok(None);
    }
    let length = shares.len() * bits as usize;
    let link = session.link();
    let message = link
        .receive("output", length.div_ceil(8))
        .map_err(&failed)?;
    let mut reader = BitReader::new(&message, length, "output").map_err(&failed)?;
    let sum = |share: &u64| share.wrapping_add(reader.take(bits)) & low_mask(bits);
    Ok(Some(shares.iter().map(sum).collect()))
}

/// One layer at one party.
struct Evaluation<'a> {
    plan: &'a Plan,
    layer: &'a Layer,
    /// At the server.
    weights: Option<&'a LayerWeights>,
}

impl Evaluation<'_> {
    fn bits(&self) -> u32 {
        self.plan.network.format.bits
    }

    fn area(&self) -> usize {
        self.layer.shape[1] * self.layer.shape[2]
    }

    fn lattice(&self, source: LatticeError) -> NetworkError {
        NetworkError::Lattice {
            layer: self.layer.name.clone(),
            source,
        }
    }

    /// Products of weights with the client's share by ciphertexts, with the server's own in clear.
    fn convolution<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        keys: &Keys,
        convolution: &Convolution,
        x: &[u64],
    ) -> Result<Shares, NetworkError> {
        let failed = in_layer(&self.layer.name);
        let link = session.link();
        let sets = self.plan.sets();
        let place = sets.iter().position(|set| *set == convolution.set());
        let place = place.expect("a key for every set");
        match keys {
            Keys::Client(clients) => {
                let client = &clients[place];
                let request = convolution.request(client, x);
                link.send("request", &request).map_err(&failed)?;
                let bytes = convolution.response_bytes();
                let response = link.receive("response", bytes).map_err(&failed)?;
                let shares = convolution.finish(client, &response);
                shares.map_err(|error| self.lattice(error))
            }
            Keys::Server(servers, packing) => {
                let server = &servers[place];
                let LayerWeights {
                    weights, biases, ..
                } = self.weights.expect("the server has them");
                let bytes = convolution.request_bytes();
                let request = link.receive("request", bytes).map_err(&failed)?;
                let responded =
                    convolution.respond_merged(server, packing.as_ref(), weights, &request);
                let (response, mut shares) = responded.map_err(|error| self.lattice(error))?;
                link.send("response", &response).map_err(&failed)?;
                let own = convolve(convolution.shape(), x, weights);
                let area = self.area();
                for (at, (share, own)) in shares.iter_mut().zip(&*own).enumerate() {
                    let sum = share.wrapping_add(*own);
                    *share = sum.wrapping_add(biases[at / area] as u64) & low_mask(self.bits());
                }
                Ok(shares)
            }
        }
    }

    /// A layer without ciphertexts.
    fn gates<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        inputs: &[&[u64]],
    ) -> Result<Shares, NetworkError> {
        let mask = low_mask(self.bits());
        let x = inputs[0];
        let lists: Vec<Vec<u64>> = match &self.layer.op {
            Op::Add => {
                let second = &self.plan.network.layers[self.layer.inputs[1]];
                let up = self.layer.scale - second.scale;
                let pairs = x.iter().zip(inputs[1]);
                let sums = pairs.map(|(x, y)| x.wrapping_add(*y << up) & mask);
                return Ok(Zeroizing::new(sums.collect()));
            }
            Op::Concat => return Ok(Zeroizing::new(inputs.concat())),
            Op::MaxPool {
                side,
                stride,
                padding,
            } => self.windows(x, [*side, *stride, *padding]),
            Op::AveragePool { side, stride } => {
                let sums = sums(&self.windows(x, [*side, *stride, 0]));
                vec![sums.iter().map(|sum| sum & mask).collect()]
            }
            Op::SidedRelu { .. } => vec![self.moved(x)],
            Op::ArgMax => x.iter().map(|x| vec![*x]).collect(),
            _ => vec![x.to_vec()],
        };
        let lists = Zeroizing::new(lists);
        let Some((gate, n)) = self.plan.gate(self.layer) else {
            return Ok(Zeroizing::new(lists[0].clone()));
        };
        let mut out = Zeroizing::new(Vec::with_capacity(n));
        for group in self.plan.groups(&gate, n) {
            let parts = lists.iter().map(|list| list[group.clone()].to_vec());
            let parts: Zeroizing<Vec<Vec<u64>>> = Zeroizing::new(parts.collect());
            let shares = self.group(session, &gate, &parts, group.start);
            out.extend(shares.map_err(in_layer(&self.layer.name))?);
        }
        Ok(out)
    }

    fn windows(&self, x: &[u64], geometry: [usize; 3]) -> Vec<Vec<u64>> {
        let shape = self.plan.network.layers[self.layer.inputs[0]].shape;
        windows(x, shape, geometry)
    }

    /// `x + b`, by channel.
    fn moved(&self, x: &[u64]) -> Vec<u64> {
        let Some(weights) = self.weights else {
            return x.to_vec();
        };
        let area = self.area();
        let mask = low_mask(self.bits());
        let values = x.iter().enumerate();
        let moved = values.map(|(at, x)| x.wrapping_add(weights.biases[at / area] as u64) & mask);
        moved.collect()
    }

    /// A group of a gate's instances, the first of which is the layer's number `start`.
    fn group<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        gate: &Gate,
        lists: &[Vec<u64>],
        start: usize,
    ) -> Result<Vec<u64>, OtError> {
        match gate {
            Gate::Relu(gate) => gate.run(session, &lists[0]),
            Gate::ReluTruncate(gate) => gate.run(session, &lists[0]),
            Gate::Shift(gate) => gate.run(session, &lists[0]),
            Gate::Maximum(gate) => gate.run(session, lists),
            Gate::Divide(gate) => gate.run(session, &lists[0]),
            Gate::ArgMax(gate) => Ok(gate.run(session, lists)?[1].clone()),
            Gate::Sided(msb, multiplex) => {
                let z = &lists[0];
                let mut passes = msb.run(session, z)?;
                // What is not below zero passes, or what is: the server's bit, of which its XOR
                // share alone changes.
                if let Some(weights) = self.weights {
                    let area = self.area();
                    let side = |i: usize| 1 ^ weights.sides[(start + i) / area];
                    passes ^= &Bits::from_fn(z.len(), side);
                }
                multiplex.run(session, &passes, z)
            }
        }
    }
}
