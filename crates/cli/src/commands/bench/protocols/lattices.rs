//! Products by lattices, one of each shape: a private matrix times vectors that both parties share,
//! and a convolution of a shared image with private kernels. Ciphertexts alone are timed: what a
//! party multiplies of its own, in clear, is not.

use std::path::Path;

use anyhow::{Context, anyhow};
use marill_crypto::{Prg, Seed};
use marill_lattice::{
    Client, Convolution, ConvolutionShape, Factors, LatticeError, Matrix, ParameterSet, Product,
    PublicKey, Server,
};
use marill_numeric::fixed::low_mask;
use marill_ot::{
    Link, OtError, Party, Phase, Traffic,
    world::{LIMIT, MemoryEnd, memory_ends, run_on},
};
use serde_json::json;

use super::{super::clock::Spent, BadInput, alone};

/// Names of the rows; a shape may follow each.
pub(super) const NAMES: [&str; 2] = ["matmul", "conv"];

/// Shapes of rows that name none: a low-rank factor, a layer of ResNet-50.
const DEFAULTS: [&str; 2] = ["8x576x8", "3x3x64-64@56"];

/// Width of the ring, that of ResNet-50 in CrypTFlow2, and of weights of 12 fraction bits.
const BITS: u32 = 37;
const WIDTH: u32 = 13;

/// What is multiplied.
enum Task {
    Matmul(Product, [usize; 3]),
    Conv(Box<Convolution>),
}

/// A line of the list.
pub(super) struct Row {
    name: &'static str,
    shape: String,
    set: ParameterSet,
    task: Task,
}

/// What one party saw.
struct Seen {
    shares: Vec<u64>,
    /// Set-up and online.
    traffic: [Traffic; 2],
    spent: Spent,
}

/// A product at both parties.
pub(super) struct Measured {
    seen: [Seen; 2],
    numbers: [Vec<u64>; 2],
    outputs: Vec<u64>,
    pub(super) mismatches: usize,
    max_ulp: u64,
}

/// Rows by lattices of the names and shapes of a command line, and the names that are left.
pub(super) fn taken(names: &[String]) -> anyhow::Result<(Vec<Row>, Vec<String>)> {
    let mut rows = Vec::new();
    let mut rest = Vec::new();
    if names.is_empty() {
        for (name, shape) in NAMES.into_iter().zip(DEFAULTS) {
            rows.push(Row::new(name, shape)?);
        }
    }
    let mut names = names.iter().peekable();
    while let Some(name) = names.next() {
        let Some(at) = NAMES.iter().position(|known| known == name) else {
            rest.push(name.clone());
            continue;
        };
        let shape = names.next_if(|shape| shape.starts_with(|c: char| c.is_ascii_digit()));
        let shape = shape.map_or(DEFAULTS[at], String::as_str);
        rows.push(Row::new(NAMES[at], shape)?);
    }
    Ok((rows, rest))
}

/// Numbers between these letters, one after the other.
fn numbers(text: &str) -> Option<Vec<usize>> {
    let parts = text.split('x').map(|part| part.parse().ok());
    parts.collect()
}

/// `MxKxN`: a matrix of `M` times `K`, `N` vectors.
fn sizes(text: &str) -> Option<[usize; 3]> {
    numbers(text)?.try_into().ok()
}

/// `7x7x3-64@224/2`: kernel, channels, outputs, image, stride; borders of half a kernel.
fn image(text: &str) -> Option<ConvolutionShape> {
    let (text, stride) = text.split_once('/').unwrap_or((text, "1"));
    let (text, image) = text.split_once('@')?;
    let (text, outputs) = text.split_once('-')?;
    let [rows, columns, channels] = sizes(text)?;
    let image = match numbers(image)?[..] {
        [side] => [side, side],
        [rows, columns] => [rows, columns],
        _ => return None,
    };
    Some(ConvolutionShape {
        channels,
        image,
        outputs: outputs.parse().ok()?,
        kernel: [rows, columns],
        stride: stride.parse().ok()?,
        padding: rows.max(columns) / 2,
    })
}

/// Of the sets that hold a product, the one of fewer bytes.
fn cheaper<T>(
    make: impl Fn(ParameterSet) -> Result<T, LatticeError>,
    bytes: impl Fn(&T) -> usize,
) -> Result<(ParameterSet, T), LatticeError> {
    let wide = make(ParameterSet::N8192)?;
    Ok(match make(ParameterSet::N4096) {
        Ok(small) if bytes(&small) < bytes(&wide) => (ParameterSet::N4096, small),
        _ => (ParameterSet::N8192, wide),
    })
}

impl Row {
    fn new(name: &'static str, shape: &str) -> anyhow::Result<Self> {
        let unread = |form: &str| {
            let error = anyhow!("`{shape}` is no shape of `{name}`\nhint: {form}");
            anyhow::Error::from(BadInput(error))
        };
        let refused = |error: LatticeError| {
            let error = anyhow::Error::from(error).context(format!("`{name} {shape}`"));
            anyhow::Error::from(BadInput(error))
        };
        let (set, task) = if name == NAMES[0] {
            let form = "rows, columns and vectors, as `8x576x8`";
            let sizes = sizes(shape).ok_or_else(|| unread(form))?;
            let make = |set| Product::new(set, BITS, Factors::Signed(WIDTH), sizes);
            let bytes = |p: &Product| p.request_bytes() + p.response_bytes();
            let (set, product) = cheaper(make, bytes).map_err(refused)?;
            (set, Task::Matmul(product, sizes))
        } else {
            let form = "kernel, channels, outputs, image and stride, as `7x7x3-64@224/2`";
            let image = image(shape).ok_or_else(|| unread(form))?;
            let make = |set| Convolution::new(set, BITS, WIDTH, image);
            let bytes = |c: &Convolution| c.request_bytes() + c.response_bytes();
            let (set, convolution) = cheaper(make, bytes).map_err(refused)?;
            (set, Task::Conv(Box::new(convolution)))
        };
        Ok(Self {
            name,
            shape: shape.to_string(),
            set,
            task,
        })
    }

    /// Numbers of the input and weights.
    fn counts(&self) -> [usize; 2] {
        match &self.task {
            Task::Matmul(_, [rows, columns, vectors]) => [columns * vectors, rows * columns],
            Task::Conv(convolution) => {
                let shape = convolution.shape();
                [shape.inputs(), shape.weights()]
            }
        }
    }

    /// The product in clear, modulo `2^BITS`.
    fn clear(&self, x: &[u64], weights: &[i64]) -> Vec<u64> {
        match &self.task {
            Task::Matmul(_, [_, columns, _]) => {
                let vectors = x.chunks_exact(*columns);
                vectors
                    .flat_map(|x| weights.chunks_exact(*columns).map(|row| dot(row, x)))
                    .map(|sum| sum & low_mask(BITS))
                    .collect()
            }
            Task::Conv(convolution) => convolve(convolution.shape(), x, weights),
        }
    }

    /// Both parties, each on a thread; the server's weights, both parties' shares of the input.
    pub(super) fn measure(&self) -> anyhow::Result<Measured> {
        let [inputs, weights] = self.counts();
        let mut values = Prg::new(&Seed::from_bytes([0; 32]), "inputs of `bench protocols`");
        let x = values.reduced(inputs, BITS);
        let words = values.reduced(weights, WIDTH);
        let signed = |w: &u64| *w as i64 - (1 << (WIDTH - 1));
        let weights: Vec<i64> = words.iter().map(signed).collect();
        let first = Prg::new(&Seed::random(), "shares").reduced(inputs, BITS);
        let pairs = x.iter().zip(&first);
        let second = pairs.map(|(x, first)| x.wrapping_sub(*first) & low_mask(BITS));
        let second: Vec<u64> = second.collect();

        let (own, other) = memory_ends(LIMIT);
        let (client, server) = run_on(
            own,
            other,
            |link| alone(|| self.client(link, &first)),
            |link| alone(|| self.server(link, &weights)),
        );
        let seen = [client??, server??];
        let own = self.clear(&second, &weights);
        let shares = seen[0].shares.iter().zip(&seen[1].shares).zip(own);
        let outputs: Vec<u64> = shares
            .map(|((a, b), own)| a.wrapping_add(*b).wrapping_add(own) & low_mask(BITS))
            .collect();
        let expected = self.clear(&x, &weights);
        let mut mismatches = 0;
        let mut max_ulp = 0;
        for (output, expected) in outputs.iter().zip(&expected) {
            let distance = output.wrapping_sub(*expected) & low_mask(BITS);
            max_ulp = max_ulp.max(distance.min(distance.wrapping_neg() & low_mask(BITS)));
            mismatches += usize::from(distance != 0);
        }
        let residues = weights.iter().map(|w| *w as u64 & low_mask(WIDTH));
        Ok(Measured {
            seen,
            numbers: [x, residues.collect()],
            outputs,
            mismatches,
            max_ulp,
        })
    }

    fn client(&self, mut link: Link<MemoryEnd>, x: &[u64]) -> anyhow::Result<Seen> {
        let client = Client::new(self.set);
        link.send("lattice key", &client.public_key())?;
        link.enter(Phase::Online);
        let mut spent = Spent::default();
        let shares = match &self.task {
            Task::Matmul(product, _) => {
                let request = spent.measure(|| client.request(product, x));
                link.send("request", &request)?;
                let response = link.receive("response", product.response_bytes())?;
                spent.measure(|| client.finish(product, &response))?
            }
            Task::Conv(convolution) => {
                let request = spent.measure(|| convolution.request(&client, x));
                link.send("request", &request)?;
                let response = link.receive("response", convolution.response_bytes())?;
                spent.measure(|| convolution.finish(&client, &response))?
            }
        };
        seen(link, shares.to_vec(), spent)
    }

    fn server(&self, mut link: Link<MemoryEnd>, weights: &[i64]) -> anyhow::Result<Seen> {
        let key = link.receive("lattice key", PublicKey::bytes(self.set))?;
        let server = Server::new(self.set, &key)?;
        link.enter(Phase::Online);
        let mut spent = Spent::default();
        let (response, shares) = match &self.task {
            Task::Matmul(product, _) => {
                let request = link.receive("request", product.request_bytes())?;
                spent.measure(|| {
                    let matrix = Matrix::new(server.key(), product, weights)?;
                    server.respond(&matrix, &request)
                })?
            }
            Task::Conv(convolution) => {
                let request = link.receive("request", convolution.request_bytes())?;
                spent.measure(|| convolution.respond(&server, weights, &request))?
            }
        };
        link.send("response", &response)?;
        seen(link, shares.to_vec(), spent)
    }

    /// The values of `--json`, of one product.
    pub(super) fn line(&self, measured: &Measured) -> serde_json::Value {
        let client = &measured.seen[Party::E0 as usize];
        let [setup, online] = client.traffic;
        json!({
            "protocol": self.name, "shape": self.shape, "bits": BITS, "scale": null, "n": 1,
            "bytes_per_instance": online.bytes(), "online_bytes_per_instance": online.bytes(),
            "offline_bytes_per_instance": 0, "extension_bytes_per_instance": 0,
            "up_bytes": online.sent, "down_bytes": online.received,
            "lpn_set": null, "source": format!("lattice-{}", self.set.n()), "radix": null,
            "setup_bytes": setup.bytes(), "rounds": online.rounds, "offline_rounds": 0,
            "us_per_instance": measured.micros(), "online_us_per_instance": measured.micros(),
            "max_ulp": measured.max_ulp, "max_distance": measured.max_ulp as f64,
            "mismatches": measured.mismatches,
            "sci_bytes_per_instance": null,
        })
    }

    pub(super) fn cells(&self, measured: &Measured) -> Vec<String> {
        let client = &measured.seen[Party::E0 as usize];
        let [_, online] = client.traffic;
        let milliseconds = |party: Party| {
            let spent = measured.seen[party as usize].spent;
            format!("{:.1}", spent.cpu * 1e3)
        };
        vec![
            format!("{} {}", self.name, self.shape),
            BITS.to_string(),
            WIDTH.to_string(),
            self.set.n().to_string(),
            online.sent.to_string(),
            online.received.to_string(),
            online.rounds.to_string(),
            milliseconds(Party::E0),
            milliseconds(Party::E1),
            measured.mismatches.to_string(),
        ]
    }

    /// Input, weights and secure outputs, a number a line.
    pub(super) fn dump(&self, folder: &Path, measured: &Measured) -> anyhow::Result<()> {
        let shape = self.shape.replace(['@', '/'], "_");
        let path = folder.join(format!("{}_{BITS}_{shape}.csv", self.name));
        let mut text = String::from("of,at,value\n");
        let [x, weights] = &measured.numbers;
        for (name, numbers) in [("x", x), ("weight", weights), ("output", &measured.outputs)] {
            for (at, number) in numbers.iter().enumerate() {
                text.push_str(&format!("{name},{at},{number}\n"));
            }
        }
        std::fs::write(&path, text).with_context(|| format!("cannot write `{}`", path.display()))
    }
}

impl Measured {
    /// CPU time of a product and party.
    fn micros(&self) -> f64 {
        self.seen.iter().map(|seen| seen.spent.cpu).sum::<f64>() / 2.0 * 1e6
    }
}

/// What a party saw, once transcripts were compared.
fn seen(mut link: Link<MemoryEnd>, shares: Vec<u64>, spent: Spent) -> anyhow::Result<Seen> {
    let traffic = [Phase::Setup, Phase::Online].map(|phase| link.traffic(phase));
    link.confirm().map_err(|error: OtError| anyhow!(error))?;
    Ok(Seen {
        shares,
        traffic,
        spent,
    })
}

fn dot(row: &[i64], x: &[u64]) -> u64 {
    let terms = row.iter().zip(x).map(|(w, x)| x.wrapping_mul(*w as u64));
    terms.fold(0, u64::wrapping_add)
}

/// The convolution in clear, modulo `2^BITS`.
fn convolve(shape: &ConvolutionShape, x: &[u64], weights: &[i64]) -> Vec<u64> {
    let [rows, columns] = shape.image;
    let [tall, wide] = shape.kernel;
    let [out_rows, out_columns] = shape.output();
    let mut out = vec![0u64; shape.results()];
    let images = out.chunks_exact_mut(out_rows * out_columns);
    let kernels = weights.chunks_exact(shape.channels * tall * wide);
    for (out, kernels) in images.zip(kernels) {
        let channels = kernels.chunks_exact(tall * wide);
        for (kernel, image) in channels.zip(x.chunks_exact(rows * columns)) {
            for (at, out) in out.iter_mut().enumerate() {
                let [i, j] = [at / out_columns, at % out_columns];
                for (at, w) in kernel.iter().enumerate() {
                    // What lies outside, below zero too, is a border of zeros.
                    let row = (i * shape.stride + at / wide).wrapping_sub(shape.padding);
                    let column = (j * shape.stride + at % wide).wrapping_sub(shape.padding);
                    if row < rows && column < columns {
                        let x = image[row * columns + column];
                        *out = out.wrapping_add(x.wrapping_mul(*w as u64));
                    }
                }
            }
        }
    }
    out.iter_mut().for_each(|sum| *sum &= low_mask(BITS));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read() {
        let shape = image("7x7x3-64@224/2").unwrap();
        assert_eq!(shape.image, [224, 224]);
        assert_eq!([shape.channels, shape.outputs], [3, 64]);
        assert_eq!([shape.stride, shape.padding], [2, 3]);
        assert_eq!(shape.output(), [112, 112]);
        assert_eq!(image("1x1x4-8@6x5").unwrap().image, [6, 5]);
        assert_eq!(sizes("8x576x2"), Some([8, 576, 2]));
        for wrong in [
            "7x7x3",
            "7x7-64@224",
            "7x7x3-64@1x2x3",
            "7x7x3-64@",
            "ax7x3-6@4",
        ] {
            assert!(image(wrong).is_none(), "{wrong}");
        }
        for wrong in ["8x576", "8x576x", "8x576x1x1", ""] {
            assert!(sizes(wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_name_takes_the_shape_after_it() {
        let names = ["relu", "matmul", "2x3x1", "conv", "matmul"].map(String::from);
        let (rows, rest) = taken(&names).unwrap();
        let shapes: Vec<&str> = rows.iter().map(|row| row.shape.as_str()).collect();
        assert_eq!(shapes, ["2x3x1", DEFAULTS[1], DEFAULTS[0]]);
        assert_eq!(rest, ["relu"]);
        let none = taken(&[]).unwrap();
        assert_eq!([none.0.len(), none.1.len()], [2, 0]);
    }

    #[test]
    fn products_of_both_parties_are_exact() {
        for (name, shape) in [(NAMES[0], "5x70x3"), (NAMES[1], "3x3x2-3@9x8/2")] {
            let row = Row::new(name, shape).unwrap();
            let measured = row.measure().unwrap();
            assert_eq!(measured.mismatches, 0, "{name} {shape}");
            let line = row.line(&measured);
            let bytes = |key: &str| line[key].as_u64().unwrap();
            assert_eq!(
                bytes("bytes_per_instance"),
                bytes("up_bytes") + bytes("down_bytes")
            );
            assert_eq!(bytes("rounds"), 2);
        }
    }
}
