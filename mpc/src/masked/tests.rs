//! What the secure engine must be: the twin's integers at every label, and views that say nothing.

mod encrypted;
mod faults;
mod sampled;
mod simulator;
mod values;
mod views;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use marill_crypto::{Prg, Seed};
use marill_net::{Channel, MemoryChannel, NetError, memory_pair};
use marill_numeric::{NumericSpec, Rounding, fixed::low_mask};
use sha2::{Digest, Sha256};

use crate::{
    ProgramSpec, Twin,
    masked::{
        AdapterKey, Comparison, EncryptedAdapter, INDEX_BITS, Masked, Role,
        hooks::DealerStreams,
        scripted::{ClientScript, DealerScript, MirrorDealer, Record, ServerScript, Transcript},
    },
    program,
    program::{cache::Cache, padding::pad_prompt},
    random_model::{gaussian, random_weights, tiny_spec, with_private_matrices},
    sampling::Sampling,
    weights::{MatrixMasks, PrivateWeights, PublicWeights},
};

type Log = Arc<Mutex<Vec<Vec<u8>>>>;

/// Keeps a copy of every frame that its end sends, and may change one byte of it.
struct Tap {
    inner: MemoryChannel,
    sent: Log,
    flip: Option<usize>,
    passed: usize,
}

impl Tap {
    fn new(inner: MemoryChannel, sent: &Log, flip: Option<usize>) -> Box<Self> {
        Box::new(Self {
            inner,
            sent: Arc::clone(sent),
            flip,
            passed: 0,
        })
    }
}

impl Channel for Tap {
    fn send(&mut self, mut frame: Vec<u8>) -> Result<(), NetError> {
        if let Some(at) = self.flip
            && (self.passed..self.passed + frame.len()).contains(&at)
        {
            frame[at - self.passed] ^= 1;
        }
        self.passed += frame.len();
        self.sent.lock().unwrap().push(frame.clone());
        self.inner.send(frame)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.inner.recv()
    }
}

/// Plays frames back and keeps what is sent to it.
struct Replay {
    frames: std::vec::IntoIter<Vec<u8>>,
    sent: Log,
}

impl Replay {
    fn new(frames: Vec<Vec<u8>>, sent: &Log) -> Box<Self> {
        Box::new(Self {
            frames: frames.into_iter(),
            sent: Arc::clone(sent),
        })
    }
}

impl Channel for Replay {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.sent.lock().unwrap().push(frame);
        Ok(())
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        self.frames.next().ok_or(NetError::Closed)
    }
}

struct Fixture {
    public: Arc<PublicWeights>,
    private: Arc<PrivateWeights>,
    adapter_seed: Seed,
    seed0: Seed,
    seed1: Seed,
    sampling: Option<Sampling>,
    comparison: Comparison,
    /// E1's key and E0's adapter, where it is under encryption.
    encrypted: Option<(Arc<AdapterKey>, Arc<EncryptedAdapter>)>,
    /// Whether E1 draws the same noise in every run.
    fixed_noise: bool,
}

/// Tokens, and values by label.
type TwinRun = (Vec<Option<u32>>, Vec<(&'static str, Vec<u64>)>);

/// A prompt and one more row.
type Input = (Vec<u64>, Vec<u64>);

struct Recording {
    tokens: Vec<Option<u32>>,
    client_frames: Vec<Vec<u8>>,
    server_frames: Vec<Vec<u8>>,
    corrections: Vec<Vec<u8>>,
    /// Correction words to the client.
    dcf_keys: Vec<Vec<u8>>,
    randomness: Vec<u64>,
    server_randomness: Vec<u64>,
    msbs: Vec<Vec<u64>>,
    noise: Vec<u64>,
    client_trace: Vec<(&'static str, u32, Vec<u64>)>,
    server_trace: Vec<(&'static str, u32, Vec<u64>)>,
}

/// Rounding randomness is a sum of what each party contributes.
fn sums(randomness: [&[u64]; 3]) -> Vec<u64> {
    assert!(randomness.iter().all(|c| c.len() == randomness[0].len()));
    (0..randomness[0].len())
        .map(|i| {
            randomness
                .iter()
                .fold(0, |sum: u64, c| sum.wrapping_add(c[i]))
        })
        .collect()
}

fn take(log: &Log) -> Vec<Vec<u8>> {
    std::mem::take(&mut log.lock().unwrap())
}

impl Fixture {
    fn new(seed: u64) -> Self {
        Self::with(random_weights(&tiny_spec(), seed), seed)
    }

    /// With something approximated.
    fn approximated(approx: marill_numeric::Approximations, seed: u64) -> Self {
        let spec = ProgramSpec {
            approx,
            ..tiny_spec()
        };
        Self::with(random_weights(&spec, seed), seed)
    }

    /// Stochastic rounding.
    fn stochastic(seed: u64) -> Self {
        let spec = ProgramSpec {
            numeric: NumericSpec::with_rounding(Rounding::Stochastic),
            ..tiny_spec()
        };
        Self::with(random_weights(&spec, seed), seed)
    }

    /// GPT-2's blocks, whose norms have biases that the adapter sees.
    fn gpt2(seed: u64) -> Self {
        let spec = crate::random_model::tiny_affine_spec(crate::Architecture::Gpt2);
        Self::with(
            crate::random_model::AffineModel::random(&spec, seed).quantize(),
            seed,
        )
    }

    /// A pruned layer, and one whose heads weigh differently.
    fn mixed_heads(seed: u64) -> Self {
        let spec = crate::random_model::with_mixed_heads(tiny_spec());
        Self::with(random_weights(&spec, seed), seed)
    }

    /// Private full-rank weights.
    fn full(seed: u64) -> Self {
        Self::with(
            random_weights(&with_private_matrices(tiny_spec()), seed),
            seed,
        )
    }

    /// The same for GPT-2, whose biases are private then.
    fn full_gpt2(seed: u64) -> Self {
        let spec = with_private_matrices(crate::random_model::tiny_affine_spec(
            crate::Architecture::Gpt2,
        ));
        Self::with(
            crate::random_model::AffineModel::random(&spec, seed).quantize(),
            seed,
        )
    }

    fn with((public, private): (Arc<PublicWeights>, Arc<PrivateWeights>), seed: u64) -> Self {
        let fixed = |k: u8| Seed::from_bytes([k.wrapping_add(seed as u8); 32]);
        Self {
            public,
            private,
            adapter_seed: fixed(11),
            seed0: fixed(12),
            seed1: fixed(13),
            sampling: None,
            comparison: Comparison::OneHot,
            encrypted: None,
            fixed_noise: false,
        }
    }

    /// The adapter under encryption in place of masks.
    fn encrypted(self) -> Self {
        let (key, bytes) = AdapterKey::encrypt(self.spec(), &self.private).unwrap();
        let adapter = EncryptedAdapter::from_bytes(self.spec(), &bytes).unwrap();
        Self {
            encrypted: Some((key, Arc::new(adapter))),
            ..self
        }
    }

    fn sampling(self, temperature: f64, top_k: Option<u32>) -> Self {
        Self {
            sampling: Sampling::new(temperature, top_k).unwrap(),
            ..self
        }
    }

    fn uses_dcf(self) -> Self {
        Self {
            comparison: Comparison::Dcf,
            ..self
        }
    }

    fn spec(&self) -> &ProgramSpec {
        &self.public.spec
    }

    fn input(&self, seed: u64, tokens: usize) -> Input {
        let spec = self.spec();
        let rows = |label, n: usize| {
            spec.encode(&gaussian(seed, label, n * spec.hidden_size, 1.5))
                .unwrap()
        };
        (rows("prompt", tokens), rows("next", 1))
    }

    /// Runs both steps at a party that holds the input, or at one that does not.
    fn steps(&self, engine: &mut Masked, input: Option<&Input>, bucket: usize) -> Vec<Option<u32>> {
        self.try_steps(engine, input, bucket).unwrap()
    }

    fn try_steps(
        &self,
        engine: &mut Masked,
        input: Option<&Input>,
        bucket: usize,
    ) -> Result<Vec<Option<u32>>, crate::error::ProtocolError> {
        let mut cache = Cache::new(self.spec()).with_sampling(self.sampling);
        let padded = input.map(|(prompt, _)| pad_prompt(self.spec(), prompt).unwrap());
        let prompt = padded.as_ref().map(|p| p.0.as_slice());
        let bias = padded.as_ref().map(|p| p.1.as_slice());
        let first = program::step(engine, &self.public, &mut cache, prompt, bias, bucket)?;
        let next = input.map(|(_, next)| next.as_slice());
        let second = program::step(engine, &self.public, &mut cache, next, None, 1)?;
        engine.flush()?;
        Ok(vec![first, second])
    }

    fn client(&self, peer: Box<dyn Channel>) -> Masked {
        if let Some((_, adapter)) = &self.encrypted {
            let adapter = Arc::clone(adapter);
            let engine = Masked::client_with_encrypted(self.spec(), adapter, &self.seed0, peer);
            return Record::watch(engine);
        }
        let engine = Masked::client(
            self.spec(),
            &self.private.mask(self.spec(), &self.adapter_seed),
            &self.seed0,
            peer,
        )
        .unwrap();
        Record::watch(engine)
    }

    fn server(&self, peer: Box<dyn Channel>, dealer: Box<dyn Channel>) -> Masked {
        let mut engine =
            Masked::server(self.spec(), &self.private, &self.seed1, peer, dealer).unwrap();
        if let Role::Evaluator(e) = &mut engine.role
            && self.fixed_noise
        {
            e.randomness = Box::new(sampled::FixedNoise::new(&self.seed1));
        }
        if let Some((key, _)) = &self.encrypted {
            engine = engine.with_adapter_key(Arc::clone(key));
        }
        Record::watch(engine.with_comparison(self.comparison))
    }

    fn dealer(&self, sink: Box<dyn Channel>) -> Masked {
        if self.encrypted.is_some() {
            let seeds = [&self.seed0, &self.seed1];
            return Record::watch(Masked::dealer_without_adapter(self.spec(), seeds, sink));
        }
        Record::watch(Masked::dealer(
            self.spec(),
            &self.adapter_seed,
            &self.seed0,
            &self.seed1,
            sink,
        ))
    }

    /// The streams with which a dealer begins.
    fn dealer_streams(&self) -> DealerStreams {
        DealerStreams::new(&self.seed0, &self.seed1)
    }

    /// A party that has a way between the dealer and the client, when DCF needs one.
    fn with_dcf_keys(&self, engine: Masked, dcf_keys: Box<dyn Channel>) -> Masked {
        if self.comparison == Comparison::Dcf {
            engine.with_dcf(dcf_keys)
        } else {
            engine
        }
    }

    /// A whole session; `flip` changes one byte of the corrections.
    fn record(&self, input: &Input, flip: Option<usize>) -> Recording {
        let bucket = self.spec().bucket(input.0.len() / self.spec().hidden_size);
        let (client_end, server_end) = memory_pair();
        let (sink, stream) = memory_pair();
        let (dcf_keys, own_dcf_keys) = memory_pair();
        let logs: [Log; 4] = Default::default();
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                let mut engine =
                    self.server(Tap::new(server_end, &logs[1], None), Box::new(stream));
                self.steps(&mut engine, None, bucket);
                Record::of(&mut engine)
            });
            let dealer = self.dealer(Tap::new(sink, &logs[2], flip));
            let mut dealer = self.with_dcf_keys(dealer, Tap::new(dcf_keys, &logs[3], None));
            let dealer = scope.spawn(move || {
                self.steps(&mut dealer, None, bucket);
                Record::of(&mut dealer).randomness
            });
            let mut engine = self.client(Tap::new(client_end, &logs[0], None));
            engine = self.with_dcf_keys(engine, Box::new(own_dcf_keys));
            let tokens = self.steps(&mut engine, Some(input), bucket);
            let server = server.join().unwrap();
            let client = Record::of(&mut engine);
            let randomness = sums([
                &client.randomness,
                &server.randomness,
                &dealer.join().unwrap(),
            ]);
            Recording {
                tokens,
                client_frames: take(&logs[0]),
                server_frames: take(&logs[1]),
                corrections: take(&logs[2]),
                dcf_keys: take(&logs[3]),
                randomness,
                server_randomness: server.randomness,
                msbs: client.msbs,
                noise: server.noise,
                client_trace: client.trace,
                server_trace: server.trace,
            }
        })
    }

    fn twin(&self, input: &Input) -> TwinRun {
        self.twin_with(input, None, Vec::new())
    }

    fn twin_with(&self, input: &Input, randomness: Option<Vec<u64>>, noise: Vec<u64>) -> TwinRun {
        let twin = Twin::new(Arc::clone(&self.public), Arc::clone(&self.private));
        let mut twin = twin.with_sampling(self.sampling);
        twin.take_noise(noise);
        if let Some(randomness) = randomness {
            twin.take_randomness(randomness);
        }
        twin.start_trace();
        let tokens = vec![
            Some(twin.prefill(&input.0).unwrap()),
            Some(twin.decode(&input.1).unwrap()),
        ];
        (tokens, twin.take_trace())
    }
}

/// Values that were shared, by label in order of appearance.
fn reconstruct(run: &Recording) -> HashMap<&'static str, Vec<(u32, Vec<u64>)>> {
    let mut by_label: HashMap<_, Vec<_>> = HashMap::new();
    for ((label, bits, x), (other, _, y)) in run.client_trace.iter().zip(&run.server_trace) {
        assert_eq!(label, other);
        let sum = x.iter().zip(y).map(|(x, y)| x.wrapping_add(*y)).collect();
        by_label.entry(*label).or_default().push((*bits, sum));
    }
    by_label
}
