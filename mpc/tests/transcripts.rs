//! The bytes that every party of a session sends, under fixed seeds: a change of structure must
//! leave them alone, and a change of protocol shows here first.
//!
//! `transcripts.txt` holds one line for each program: what runs, then the SHA-256 of all frames on
//! each of the four links with their lengths, and of what comes out. A test that fails writes the
//! table it found, which replaces the file when the change was meant.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use marill_crypto::Prg;
use marill_mpc::{
    Architecture, ClientSession, Comparison, DealerSession, HashKey, InputShare, OutsourcedSession,
    Pooling, PrivateWeights, ProgramSpec, PublicWeights, Reveal, Seed, ServerSession,
    masked::MANY,
    random_model::{
        AffineModel, gaussian, random_weights, tiny_affine_spec, tiny_spec, with_private_matrices,
    },
};
use marill_net::{Channel, MemoryChannel, NetError, memory_pair};
use marill_numeric::{NumericSpec, Rounding, approx, hex};
use sha2::{Digest, Sha256};

const EXPECTED: &str = include_str!("transcripts.txt");
const HASH_KEY: HashKey = *b"a session's name";
const PROMPT: usize = 19;
const DECODED: usize = 2;

/// A channel that hashes every frame it sends, with its length.
struct Recording {
    inner: MemoryChannel,
    digest: Arc<Mutex<Sha256>>,
}

impl Channel for Recording {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        let mut digest = self.digest.lock().unwrap();
        digest.update((frame.len() as u64).to_le_bytes());
        digest.update(&frame);
        self.inner.send(frame)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.inner.recv()
    }
}

/// The digest of one direction of a link.
struct Link(Arc<Mutex<Sha256>>);

impl Link {
    fn of(inner: MemoryChannel) -> (Box<Recording>, Self) {
        let digest = Arc::new(Mutex::new(Sha256::new()));
        (
            Box::new(Recording {
                inner,
                digest: Arc::clone(&digest),
            }),
            Self(digest),
        )
    }

    fn hex(self) -> String {
        hex(&self.0.lock().unwrap().clone().finalize())
    }
}

/// What the digests are of.
#[derive(Clone, Copy, PartialEq)]
enum Input {
    /// E0 is the client, which holds the activations.
    Client,
    /// E0 and E1 hold shares of them.
    Shares,
}

/// Whether correlations are there before the session, or come while it runs.
#[derive(Clone, Copy)]
enum Dealer {
    Before,
    Beside,
}

struct Run<'a> {
    public: &'a Arc<PublicWeights>,
    private: &'a PrivateWeights,
    comparison: Comparison,
    input: Input,
    dealer: Dealer,
}

impl Run<'_> {
    fn spec(&self) -> &ProgramSpec {
        &self.public.spec
    }

    fn decoded(&self) -> usize {
        if matches!(self.spec().architecture, Architecture::Bert { .. }) {
            0
        } else {
            DECODED
        }
    }

    fn row(&self, seed: u64, rows: usize) -> Vec<u64> {
        let floats = gaussian(seed, "boundary", rows * self.spec().hidden_size, 1.5);
        self.spec().encode(&floats).unwrap()
    }

    /// Digests of E0 to E1, E1 to E0, dealer to E1, dealer to E0, and of what comes out.
    fn digests(&self) -> String {
        let [adapter_seed, seed0, seed1] = [1, 2, 3].map(|k| Seed::from_bytes([k; 32]));
        let (e0_end, e1_end) = memory_pair();
        let (dealer_to_e1, e1_stream) = memory_pair();
        let (dealer_to_e0, e0_stream) = memory_pair();
        let (e0_end, e0_sent) = Link::of(e0_end);
        let (e1_end, e1_sent) = Link::of(e1_end);
        let (dealer_to_e1, to_e1) = Link::of(dealer_to_e1);
        let (dealer_to_e0, to_e0) = Link::of(dealer_to_e0);
        let on_dcf = self.comparison == Comparison::Dcf;
        let bucket = self.spec().bucket(PROMPT);

        let mut dealer = DealerSession::new(
            self.spec().clone(),
            adapter_seed.clone(),
            seed0.clone(),
            seed1.clone(),
            dealer_to_e1,
        )
        .with_hash_key(&HASH_KEY);
        if on_dcf {
            dealer = dealer.with_dcf(dealer_to_e0);
        }
        if self.input == Input::Shares {
            dealer = dealer.with_shared_io();
        }
        let mut deal = move || {
            dealer.prefill(bucket).unwrap();
            (0..self.decoded()).for_each(|_| dealer.decode().unwrap());
        };
        let output = thread::scope(|scope| {
            match self.dealer {
                Dealer::Before => deal(),
                Dealer::Beside => drop(scope.spawn(deal)),
            }
            let stream = Box::new(e1_stream);
            let server =
                ServerSession::new(self.public.clone(), self.private, seed1, e1_end, stream)
                    .unwrap()
                    .with_hash_key(&HASH_KEY)
                    .with_comparison(self.comparison);
            let adapter = self.private.mask(self.spec(), &adapter_seed);
            let dcf_keys = on_dcf.then(|| Box::new(e0_stream) as Box<dyn Channel>);
            match self.input {
                Input::Client => {
                    let client =
                        ClientSession::new(self.public.clone(), &adapter, seed0, e0_end).unwrap();
                    self.client(scope, server, client, dcf_keys)
                }
                Input::Shares => {
                    let party =
                        OutsourcedSession::new(self.public.clone(), &adapter, seed0, e0_end)
                            .unwrap();
                    self.shares(scope, server.with_shared_io(), party, dcf_keys)
                }
            }
        });
        let output = output
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect::<Vec<u8>>();
        let output = hex(&Sha256::digest(output));
        [
            e0_sent.hex(),
            e1_sent.hex(),
            to_e1.hex(),
            to_e0.hex(),
            output,
        ]
        .map(|d| d[..16].to_owned())
        .join(" ")
    }

    fn client<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        mut server: ServerSession,
        client: ClientSession,
        dcf_keys: Option<Box<dyn Channel>>,
    ) -> Vec<u64> {
        let bucket = self.spec().bucket(PROMPT);
        scope.spawn(move || {
            server.prefill(bucket).unwrap();
            (0..self.decoded()).for_each(|_| server.decode().unwrap());
        });
        let mut client = client.with_hash_key(&HASH_KEY);
        if let Some(keys) = dcf_keys {
            client = client.with_dcf(keys);
        }
        let prompt = self.row(1, PROMPT);
        if self.spec().reveals_embedding() {
            return client.embed(&prompt).unwrap();
        }
        let first = client.prefill(&prompt).unwrap();
        let rest = (0..self.decoded()).map(|k| client.decode(&self.row(2 + k as u64, 1)).unwrap());
        std::iter::once(first).chain(rest).map(u64::from).collect()
    }

    fn shares<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        mut server: ServerSession,
        party: OutsourcedSession,
        dcf_keys: Option<Box<dyn Channel>>,
    ) -> Vec<u64> {
        let bucket = self.spec().bucket(PROMPT);
        let steps = self.shared_steps();
        let (mine, theirs): (Vec<_>, Vec<_>) = steps.into_iter().map(|[a, b]| (a, b)).unzip();
        let server = scope.spawn(move || {
            let mut tokens = vec![server.prefill_shared(&theirs[0], bucket).unwrap()];
            tokens.extend(
                theirs[1..]
                    .iter()
                    .map(|share| server.decode_shared(share).unwrap()),
            );
            tokens
        });
        let mut party = party.with_hash_key(&HASH_KEY);
        if let Some(keys) = dcf_keys {
            party = party.with_dcf(keys);
        }
        let mut tokens = vec![party.prefill(&mine[0], bucket).unwrap()];
        tokens.extend(mine[1..].iter().map(|share| party.decode(share).unwrap()));
        tokens.extend(server.join().unwrap());
        tokens.into_iter().map(u64::from).collect()
    }

    /// The steps' inputs in shares that are the same in every run.
    fn shared_steps(&self) -> Vec<[InputShare; 2]> {
        let mut prg = Prg::new(&Seed::from_bytes([4; 32]), "fixed shares");
        let mut fix = |[a, b]: [InputShare; 2]| {
            let mut split = |a: Vec<u64>, b: Vec<u64>| {
                let first = prg.words(a.len());
                let sum = a.iter().zip(&b).map(|(a, b)| a.wrapping_add(*b));
                let second = sum
                    .zip(&first)
                    .map(|(sum, f)| sum.wrapping_sub(*f))
                    .collect();
                (first, second)
            };
            let boundary = split(a.boundary, b.boundary);
            let bias = a.bias.zip(b.bias).map(|(a, b)| split(a, b)).unzip();
            let e0 = InputShare {
                boundary: boundary.0,
                bias: bias.0,
            };
            [
                e0,
                InputShare {
                    boundary: boundary.1,
                    bias: bias.1,
                },
            ]
        };
        let (prompt, _) = InputShare::of_prompt(self.spec(), &self.row(1, PROMPT)).unwrap();
        let mut steps = vec![fix(prompt)];
        steps.extend((0..DECODED).map(|k| fix(InputShare::of_row(&self.row(2 + k as u64, 1)))));
        steps
    }
}

const CLASSIFIER: Architecture = Architecture::Bert {
    pooling: Pooling::Pooler,
    reveal: Reveal::Class,
};
const EMBEDDER: Architecture = Architecture::Bert {
    pooling: Pooling::Mean,
    reveal: Reveal::Embedding,
};

/// The wide ones have more elements in a gate than [`MANY`], where gates are built for few bytes.
fn specs() -> Vec<(&'static str, ProgramSpec)> {
    let wide = |spec: ProgramSpec| ProgramSpec {
        intermediate_size: MANY / 16,
        ..spec
    };
    let approximated = |(name, approx)| {
        let spec = ProgramSpec {
            approx,
            ..tiny_spec()
        };
        (name, spec)
    };
    let approximated = ["quad", "clipped", "2relu", "2quad"]
        .into_iter()
        .zip(approx::EACH)
        .map(approximated);
    let known = [
        ("llama", tiny_spec()),
        ("gpt2", tiny_affine_spec(Architecture::Gpt2)),
        ("llama-wide", wide(tiny_spec())),
        ("gpt2-wide", wide(tiny_affine_spec(Architecture::Gpt2))),
        ("bert-class", tiny_affine_spec(CLASSIFIER)),
        ("bert-embedding", tiny_affine_spec(EMBEDDER)),
    ];
    known.into_iter().chain(approximated).collect()
}

fn has_rounding(spec: &ProgramSpec, rounding: Rounding) -> bool {
    let numeric = NumericSpec::with_rounding(rounding);
    let spec = ProgramSpec {
        numeric,
        ..spec.clone()
    };
    spec.validate().is_ok()
}

fn weights(spec: &ProgramSpec) -> (Arc<PublicWeights>, Arc<PrivateWeights>) {
    if spec.architecture.is_llama() {
        random_weights(spec, 5)
    } else {
        AffineModel::random(spec, 5).quantize()
    }
}

/// One line of the table.
struct Line {
    name: String,
    weights: (Arc<PublicWeights>, Arc<PrivateWeights>),
    comparison: Comparison,
    input: Input,
}

impl Line {
    fn text(&self) -> String {
        let run = |dealer| {
            Run {
                public: &self.weights.0,
                private: &self.weights.1,
                comparison: self.comparison,
                input: self.input,
                dealer,
            }
            .digests()
        };
        let digests = run(Dealer::Beside);
        assert_eq!(
            digests,
            run(Dealer::Before),
            "a dealer's bytes depend on nobody"
        );
        format!("{}: {digests}\n", self.name)
    }
}

/// A line for each program.
fn lines() -> Vec<Line> {
    let mut lines = Vec::new();
    for (name, spec) in specs() {
        let mut forms = vec![
            ("lora", spec.clone()),
            ("whole", with_private_matrices(spec.clone())),
        ];
        if name == "llama" {
            forms.push(("ranks", spec.with_ranks(vec![1, 4, 0, 2, 8, 3, 16])));
        }
        for (form, spec) in forms {
            let roundings = [Rounding::Exact, Rounding::Stochastic].into_iter();
            // Not every approximation has both.
            for rounding in roundings.filter(|rounding| has_rounding(&spec, *rounding)) {
                let numeric = NumericSpec::with_rounding(rounding);
                let weights = weights(&ProgramSpec {
                    numeric,
                    ..spec.clone()
                });
                for (backend, comparison) in
                    [("one-hot", Comparison::OneHot), ("dcf", Comparison::Dcf)]
                {
                    let inputs: &[_] = if name.starts_with("bert") {
                        &[(Input::Client, "client")]
                    } else {
                        &[(Input::Client, "client"), (Input::Shares, "shares")]
                    };
                    lines.extend(inputs.iter().map(|(input, input_name)| Line {
                        name: format!("{name} {form} {rounding} {backend} {input_name}"),
                        weights: weights.clone(),
                        comparison,
                        input: *input,
                    }));
                }
            }
        }
    }
    lines
}

/// All lines, two at once: the parties of one wait for each other.
fn table() -> String {
    let lines = lines();
    let texts = Mutex::new(vec![String::new(); lines.len()]);
    let next = AtomicUsize::new(0);
    let work = || {
        loop {
            let nth = next.fetch_add(1, Ordering::Relaxed);
            let Some(line) = lines.get(nth) else { break };
            let text = line.text();
            texts.lock().unwrap()[nth] = text;
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    texts.into_inner().unwrap().concat()
}

#[test]
fn every_party_sends_the_bytes_it_always_sent() {
    let found = table();
    if found != EXPECTED {
        let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("transcripts.txt");
        std::fs::write(&path, &found).unwrap();
        let changed = found
            .lines()
            .zip(EXPECTED.lines())
            .filter(|(a, b)| a != b)
            .count();
        let first = found
            .lines()
            .find(|line| !EXPECTED.lines().any(|known| known == *line));
        panic!(
            "{changed} programs send other bytes; the first: {first:?}; all: {}",
            path.display()
        );
    }
}
