//! What the secure engine must be: the twin's integers at every label, and views that say nothing.

mod sampled;

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
        Comparison, INDEX_BITS, Masked, Role,
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
            fixed_noise: false,
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
        Record::watch(engine.with_comparison(self.comparison))
    }

    fn dealer(&self, sink: Box<dyn Channel>) -> Masked {
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

#[test]
fn every_intermediate_value_equals_the_twins() {
    for (seed, fixture) in [
        (0, Fixture::new(0)),
        (1, Fixture::new(1)),
        (2, Fixture::new(2)),
        (2, Fixture::gpt2(2)),
    ] {
        every_value_is_the_twins(&fixture, seed, |fixture, input, _| fixture.twin(input));
    }
    for fixture in [Fixture::full(2), Fixture::full_gpt2(2)] {
        every_value_is_the_twins(&fixture, 2, |fixture, input, _| fixture.twin(input));
    }
    for fixture in [Fixture::new(1).uses_dcf(), Fixture::gpt2(2).uses_dcf()] {
        every_value_is_the_twins(&fixture, 1, |fixture, input, _| fixture.twin(input));
    }
}

/// The twin that rounds with the randomness of the session computes the session's integers; without
/// them it samples its own.
#[test]
fn stochastic_values_are_the_twins_given_the_randomness() {
    let fixture = Fixture::stochastic(7);
    every_value_is_the_twins(&fixture, 1, |fixture, input, run| {
        fixture.twin_with(input, Some(run.randomness.clone()), Vec::new())
    });
    let input = fixture.input(1, 11);
    assert_ne!(fixture.twin(&input), fixture.twin(&input));
    every_value_is_the_twins(&fixture.uses_dcf(), 1, |fixture, input, run| {
        fixture.twin_with(input, Some(run.randomness.clone()), Vec::new())
    });
}

/// The twin that is given the server's noise computes the session's integers, at every label of a
/// sampled step too.
#[test]
fn sampled_values_are_the_twins_given_the_noise() {
    let gpt2 = || Fixture::gpt2(2).sampling(0.7, Some(40));
    let uses_dcf = || Fixture::new(2).sampling(0.9, Some(4)).uses_dcf();
    for fixture in [
        Fixture::new(1).sampling(0.7, None),
        Fixture::new(1).sampling(1.3, Some(5)),
        gpt2(),
        uses_dcf(),
    ] {
        every_value_is_the_twins(&fixture, 1, |fixture, input, run| {
            fixture.twin_with(input, None, run.noise.clone())
        });
        let input = fixture.input(1, 11);
        let many = 8;
        let tokens: Vec<_> = (0..many)
            .map(|_| fixture.record(&input, None).tokens)
            .collect();
        assert!(
            tokens.iter().any(|t| *t != tokens[0]),
            "noise is sampled afresh: {tokens:?}"
        );
    }
    let fixture = Fixture::stochastic(7).sampling(1.0, Some(3));
    every_value_is_the_twins(&fixture, 1, |fixture, input, run| {
        fixture.twin_with(input, Some(run.randomness.clone()), run.noise.clone())
    });
}

fn every_value_is_the_twins(
    fixture: &Fixture,
    seed: u64,
    twin: impl Fn(&Fixture, &Input, &Recording) -> TwinRun,
) {
    let input = fixture.input(seed, 4 + 7 * seed as usize);
    let run = fixture.record(&input, None);
    let (tokens, trace) = twin(fixture, &input, &run);
    assert_eq!(run.tokens, tokens, "seed {seed}");
    let mut expected: HashMap<_, Vec<_>> = HashMap::new();
    trace
        .into_iter()
        .for_each(|(label, values)| expected.entry(label).or_default().push(values));
    let got = reconstruct(&run);
    assert_eq!(got.len(), expected.len());
    let mut compared = 0;
    for (label, values) in expected {
        assert_eq!(got[label].len(), values.len(), "{label}");
        for ((bits, got), expected) in got[label].iter().zip(&values) {
            let modulus = marill_numeric::fixed::low_mask(*bits);
            for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
                assert_eq!(
                    got & modulus,
                    expected & modulus,
                    "seed {seed}, {label}, element {i}"
                );
                compared += 1;
            }
        }
    }
    // A session of this model has more values; less means that a trace broke off.
    assert!(compared > 10_000, "the traces hold the whole session");
}

#[test]
fn frames_have_the_same_sizes_for_any_two_prompts_of_a_bucket() {
    let fixture = Fixture::new(1);
    let sizes = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).collect::<Vec<_>>();
    let short = fixture.record(&fixture.input(5, 2), None);
    let long = fixture.record(&fixture.input(6, 16), None);
    assert_eq!(sizes(&short.client_frames), sizes(&long.client_frames));
    assert_eq!(sizes(&short.server_frames), sizes(&long.server_frames));
    assert_eq!(sizes(&short.corrections), sizes(&long.corrections));
    let fixture = fixture.uses_dcf();
    let short = fixture.record(&fixture.input(5, 2), None);
    let long = fixture.record(&fixture.input(6, 16), None);
    assert_eq!(sizes(&short.server_frames), sizes(&long.server_frames));
    assert_eq!(
        (sizes(&short.corrections), sizes(&short.dcf_keys)),
        (sizes(&long.corrections), sizes(&long.dcf_keys))
    );
}

/// For any other input there are masks of E0 under which E1 receives the very same bytes, and E0
/// still learns the right token: E1's view is independent of the input.
#[test]
fn the_servers_view_fits_any_other_input_byte_for_byte() {
    view_fits_another_input(&Fixture::new(2));
    view_fits_another_input(&Fixture::gpt2(2));
    view_fits_another_input(&Fixture::full(2));
    view_fits_another_input(&Fixture::full_gpt2(2));
    view_fits_another_input(&Fixture::new(2).sampling(1.0, Some(5)));
    view_fits_another_input(&Fixture::stochastic(2));
    // Here with comparison functions that are ideal: E0's share is what completes the one that E1
    // computes from the recorded words. That these say nothing of a threshold is what
    // `crates/crypto/src/dcf.rs` argues and tests.
    view_fits_another_input(&Fixture::new(2).uses_dcf());
}

fn view_fits_another_input(fixture: &Fixture) {
    let run = fixture.record(&fixture.input(7, 9), None);
    let other = fixture.input(8, 14);
    assert_ne!(fixture.input(7, 9), other);

    let (masks_to_dealer, masks_from_client) = mpsc::channel();
    let (halves_to_client, halves_from_dealer) = mpsc::channel();
    let logs: [Log; 3] = Default::default();
    let client = fixture.client(Replay::new(run.server_frames.clone(), &logs[0]));
    let mut client = fixture.with_dcf_keys(client, Replay::new(Vec::new(), &logs[2]));
    if let Role::Evaluator(e) = &mut client.role {
        let sent = Transcript::new(run.client_frames.concat());
        let msbs = run.msbs.clone().into_iter();
        e.randomness = Box::new(ClientScript {
            sent,
            msbs,
            masks_to_dealer,
            halves_from_dealer,
        });
    }
    let dealer = fixture.dealer(Replay::new(Vec::new(), &logs[1]));
    let mut dealer = fixture.with_dcf_keys(dealer, Replay::new(Vec::new(), &logs[2]));
    if let Role::Dealer(s) = &mut dealer.role {
        let written = Transcript::new(run.corrections.concat());
        s.randomness = Box::new(DealerScript {
            streams: fixture.dealer_streams(),
            written,
            masks_from_client,
            halves_to_client,
        });
    }
    let tokens = thread::scope(|scope| {
        scope.spawn(|| fixture.steps(&mut dealer, None, 16));
        fixture.steps(&mut client, Some(&other), 16)
    });
    let stochastic = fixture.spec().numeric.rounding == Rounding::Stochastic;
    let randomness = stochastic.then(|| {
        sums([
            &Record::of(&mut client).randomness,
            &run.server_randomness,
            &Record::of(&mut dealer).randomness,
        ])
    });
    assert_eq!(
        tokens,
        fixture.twin_with(&other, randomness, run.noise.clone()).0
    );
    assert!(
        take(&logs[0]) == run.client_frames,
        "the messages to the server differ"
    );
    assert!(
        take(&logs[1]).concat() == run.corrections.concat(),
        "the corrections differ"
    );
}

/// Answers with bytes that depend on all that it was sent, of the sizes that belong there: a server
/// that does as it likes.
struct Adversary {
    sizes: std::vec::IntoIter<usize>,
    sent: Log,
}

impl Channel for Adversary {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.sent.lock().unwrap().push(frame);
        Ok(())
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        let size = self.sizes.next().ok_or(NetError::Closed)?;
        let seen = Sha256::digest(self.sent.lock().unwrap().concat());
        Ok(Prg::new(&Seed::from_bytes(seen.into()), "answer")
            .words(size)
            .into_iter()
            .map(|word| word as u8)
            .collect())
    }
}

/// Whatever a server sends, and however it chooses that by what it was sent, for any other input
/// there are masks of E0 under which E0's frames are the same byte for byte, and the corrections
/// too: while the dealer is honest, even a malicious server learns nothing of a prompt from frames.
#[test]
fn a_server_that_sends_anything_learns_nothing_from_frames() {
    for fixture in [
        Fixture::new(2),
        Fixture::gpt2(2),
        Fixture::full(2),
        Fixture::stochastic(2),
        Fixture::new(2).uses_dcf(),
    ] {
        frames_depend_on_nothing_secret(&fixture);
    }
}

fn frames_depend_on_nothing_secret(fixture: &Fixture) {
    let input = fixture.input(7, 9);
    let other = fixture.input(8, 14);
    let honest = fixture.record(&input, None);
    let adversary = |sent: &Log| {
        let sizes: Vec<usize> = honest.server_frames.iter().map(Vec::len).collect();
        Box::new(Adversary {
            sizes: sizes.into_iter(),
            sent: Arc::clone(sent),
        })
    };
    let logs: [Log; 4] = Default::default();
    let mut client = fixture.with_dcf_keys(
        fixture.client(adversary(&logs[0])),
        Replay::new(honest.dcf_keys.clone(), &logs[1]),
    );
    fixture.steps(&mut client, Some(&input), 16);
    let frames = take(&logs[0]);
    assert!(
        frames[1..] != honest.client_frames[1..],
        "the answers had an effect"
    );

    let (masks_to_dealer, masks_from_client) = mpsc::channel();
    let (halves_to_client, halves_from_dealer) = mpsc::channel();
    let mut second = fixture.with_dcf_keys(
        fixture.client(adversary(&logs[0])),
        Replay::new(Vec::new(), &logs[1]),
    );
    if let Role::Evaluator(e) = &mut second.role {
        let sent = Transcript::new(frames.concat());
        let msbs = Record::of(&mut client).msbs.into_iter();
        e.randomness = Box::new(ClientScript {
            sent,
            msbs,
            masks_to_dealer,
            halves_from_dealer,
        });
    }
    let mut dealer = fixture.with_dcf_keys(
        fixture.dealer(Replay::new(Vec::new(), &logs[2])),
        Replay::new(Vec::new(), &logs[3]),
    );
    if let Role::Dealer(s) = &mut dealer.role {
        let written = Transcript::new(honest.corrections.concat());
        s.randomness = Box::new(DealerScript {
            streams: fixture.dealer_streams(),
            written,
            masks_from_client,
            halves_to_client,
        });
    }
    thread::scope(|scope| {
        scope.spawn(|| fixture.steps(&mut dealer, None, 16));
        fixture.steps(&mut second, Some(&other), 16);
    });
    assert!(
        take(&logs[0]) == frames,
        "the messages to the server differ"
    );
    assert!(
        take(&logs[2]).concat() == honest.corrections.concat(),
        "the corrections differ"
    );
}

/// The mirror. For any other adapter there are masks of E1, and of the adapter, under which E0
/// holds the same masked adapter and receives the same bytes up to the share of each token, and
/// that share gives the other adapter's token: what E0 sees beside its tokens is independent of the
/// adapter.
#[test]
fn the_clients_view_fits_another_adapter_but_for_a_share() {
    let pairs: [fn(u64) -> Fixture; 4] = [
        Fixture::new,
        Fixture::gpt2,
        Fixture::full,
        Fixture::stochastic,
    ];
    for make in pairs {
        // A seed whose adapter gives other tokens, so that the last share has something to say.
        let fixture = make(2);
        let input = make(2).input(7, 9);
        let run = fixture.record(&input, None);
        let other = (3..40)
            .map(|seed| Fixture {
                private: make(seed).private,
                ..make(2)
            })
            .find(|other| other.twin(&input).0 != fixture.twin(&input).0);
        view_fits_another_adapter(
            &fixture,
            &other.expect("some adapter gives other tokens"),
            &input,
            &run,
        );
    }
}

fn view_fits_another_adapter(fixture: &Fixture, other: &Fixture, input: &Input, run: &Recording) {
    let spec = fixture.spec();
    let (masks_to_dealer, masks_from_server) = mpsc::channel();
    let (sink, stream) = memory_pair();
    let logs: [Log; 2] = Default::default();
    let mut server = other.server(
        Replay::new(run.client_frames.clone(), &logs[0]),
        Box::new(stream),
    );
    if let Role::Evaluator(e) = &mut server.role {
        e.randomness = Box::new(ServerScript {
            sent: Transcript::new(run.server_frames.concat()),
            masks_to_dealer,
        });
    }
    let mut dealer = dealer_of_another(fixture, other, Box::new(sink), masks_from_server);
    let randomness = thread::scope(|scope| {
        let dealt = scope.spawn(move || {
            fixture.steps(&mut dealer, None, 16);
            Record::of(&mut dealer).randomness
        });
        fixture.steps(&mut server, None, 16);
        dealt.join().unwrap()
    });
    // E0 is the recorded one: the same seed, and the same frames but for the last of each step.
    let mut client = fixture.client(Replay::new(run.server_frames.clone(), &logs[1]));
    assert_eq!(fixture.steps(&mut client, Some(input), 16), run.tokens);
    assert!(take(&logs[1]) == run.client_frames);
    let stochastic = spec.numeric.rounding == Rounding::Stochastic;
    let randomness = stochastic.then(|| {
        sums([
            &Record::of(&mut client).randomness,
            &Record::of(&mut server).randomness,
            &randomness,
        ])
    });
    let expected = other.twin_with(input, randomness, Vec::new()).0;
    only_token_shares_differ(run, &take(&logs[0]), &expected);
}

/// A dealer with the masks under which the other adapter looks like this one: its own ones, and
/// what the two differ by.
fn dealer_of_another(
    fixture: &Fixture,
    other: &Fixture,
    sink: Box<dyn Channel>,
    masks_from_server: mpsc::Receiver<Vec<u64>>,
) -> Masked {
    let spec = fixture.spec();
    let [masked, theirs] =
        [fixture, other].map(|fixture| fixture.private.mask(spec, &fixture.adapter_seed));
    let shift = |mask: &mut Vec<u64>, x: &[u64], y: &[u64]| {
        mask.iter_mut()
            .zip(x.iter().zip(y))
            .for_each(|(r, (x, y))| *r = r.wrapping_add(x.wrapping_sub(*y)));
    };
    let mut dealer = fixture.dealer(sink);
    if let Role::Dealer(s) = &mut dealer.role {
        s.randomness = Box::new(MirrorDealer {
            streams: fixture.dealer_streams(),
            masks_from_server,
        });
        for (map, mask) in s.adapter_masks.iter_mut().enumerate() {
            shift(&mut mask.a, &masked.lora[map].a, &theirs.lora[map].a);
            shift(&mut mask.b, &masked.lora[map].b, &theirs.lora[map].b);
        }
        let mut full = s.matrix_masks.0.to_vec();
        for (map, mask) in full.iter_mut().enumerate() {
            shift(mask, &masked.full[map], &theirs.full[map]);
        }
        s.matrix_masks = MatrixMasks(Arc::new(full));
    }
    dealer
}

/// What the client gets is what was recorded, but for the shares that make other tokens.
fn only_token_shares_differ(run: &Recording, frames: &[Vec<u8>], expected: &[Option<u32>]) {
    assert_eq!(frames.len(), run.server_frames.len());
    let share = |frame: &[u8]| crate::masked::unpack(frame, INDEX_BITS as usize / 8)[0];
    // The share of the second token is the last frame. That of the first is the only other one that
    // may differ.
    let last = frames.len() - 1;
    let differ: Vec<usize> = (0..last)
        .filter(|&i| frames[i] != run.server_frames[i])
        .collect();
    assert!(
        differ.len() <= 1,
        "messages to the client differ: {differ:?}"
    );
    let token = |step: usize, at: usize| {
        let own = u64::from(run.tokens[step].unwrap()).wrapping_sub(share(&run.server_frames[at]));
        Some((own.wrapping_add(share(&frames[at])) & low_mask(INDEX_BITS)) as u32)
    };
    let first = differ.first().map_or(run.tokens[0], |&at| token(0, at));
    let tokens = vec![first, token(1, last)];
    assert_eq!(tokens, expected);
    assert_ne!(tokens, run.tokens);
}

/// Each evaluator runs to its end against random bytes of the right sizes: nothing in its code
/// depends on what the bytes say, and it sends frames of the same sizes.
#[test]
fn each_party_runs_against_a_simulator_of_shapes() {
    runs_against_a_simulator(&Fixture::new(3));
    runs_against_a_simulator(&Fixture::full(3));
    runs_against_a_simulator(&Fixture::stochastic(3));
    runs_against_a_simulator(&Fixture::new(3).sampling(1.0, None));
    runs_against_a_simulator(&Fixture::new(3).sampling(1.0, Some(5)));
    runs_against_a_simulator(&Fixture::new(3).uses_dcf());
}

fn runs_against_a_simulator(fixture: &Fixture) {
    let input = fixture.input(9, 10);
    let run = fixture.record(&input, None);
    let mut prg = Prg::new(&Seed::from_bytes([99; 32]), "simulator");
    let mut random = |frames: &[Vec<u8>]| -> Vec<Vec<u8>> {
        let fill = |f: &Vec<u8>| prg.words(f.len()).into_iter().map(|w| w as u8).collect();
        frames.iter().map(fill).collect()
    };
    let (log, unused): (Log, Log) = Default::default();
    let messages = random(&run.client_frames);
    let corrections = random(&run.corrections);
    let mut server = fixture.server(
        Replay::new(messages, &log),
        Replay::new(corrections, &unused),
    );
    fixture.steps(&mut server, None, 16);
    let sizes = |frames: &[Vec<u8>]| frames.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(sizes(&take(&log)), sizes(&run.server_frames));

    let client = fixture.client(Replay::new(random(&run.server_frames), &log));
    let mut client = fixture.with_dcf_keys(client, Replay::new(random(&run.dcf_keys), &unused));
    fixture.steps(&mut client, Some(&input), 16);
    assert_eq!(sizes(&take(&log)), sizes(&run.client_frames));
}

/// What leaves a party looks uniform: over 100,000 bytes no byte value is far from its share.
#[test]
fn messages_and_corrections_look_uniform() {
    look_uniform(Fixture::new(4));
    look_uniform(Fixture::full(4));
    look_uniform(Fixture::stochastic(4));
}

fn look_uniform(fixture: Fixture) {
    let run = fixture.record(&fixture.input(10, 16), None);
    let uses_dcf = fixture.uses_dcf();
    let other = uses_dcf.record(&uses_dcf.input(10, 16), None);
    for (name, frames) in [
        ("client", &run.client_frames),
        ("server", &run.server_frames),
        ("source", &run.corrections),
        ("dealer with DCF", &other.corrections),
        ("source to the client", &other.dcf_keys),
    ] {
        let bytes = frames.concat();
        let mut counts = [0f64; 256];
        bytes.iter().for_each(|&b| counts[usize::from(b)] += 1.0);
        let mean = bytes.len() as f64 / 256.0;
        let chi_square: f64 = counts.iter().map(|c| (c - mean).powi(2) / mean).sum();
        // Of 255 degrees of freedom, 5.5 standard deviations above the mean. Enough bytes that
        // every value is expected hundreds of times.
        assert!(
            bytes.len() > 100_000 && chi_square < 380.0,
            "{name}: {chi_square} over {} bytes",
            bytes.len()
        );
    }
}

#[test]
fn a_changed_correction_changes_what_is_computed() {
    let fixture = Fixture::new(5);
    let input = fixture.input(11, 3);
    let honest = fixture.record(&input, None);
    let total: usize = honest.corrections.iter().map(Vec::len).sum();
    let values = |run: &Recording| reconstruct(run);
    let expected = values(&honest);
    let mut changed = 0;
    for k in 0..16 {
        // A bit may fall on a mask monomial whose public coefficient is zero; most do not.
        let run = fixture.record(&input, Some(total * 9 / 10 * k / 16 + 5));
        changed += usize::from(values(&run) != expected || run.tokens != honest.tokens);
    }
    // Half of them: see why above.
    assert!(changed >= 8, "only {changed} of 16 changes had an effect");
}

/// Words that are changed, out of order or missing give other values or an error, never a panic;
/// the server, whose words are its own, is not disturbed.
#[test]
fn damaged_correction_words_spoil_or_end_the_session() {
    let fixture = Fixture::new(5).uses_dcf();
    let input = fixture.input(11, 3);
    let honest = fixture.record(&input, None);
    let dcf_keys = honest.dcf_keys.concat();
    let replay = |dcf_keys: Vec<Vec<u8>>| {
        let log: Log = Default::default();
        let client = fixture.client(Replay::new(honest.server_frames.clone(), &log));
        let mut client = fixture.with_dcf_keys(client, Replay::new(dcf_keys, &log));
        fixture
            .try_steps(&mut client, Some(&input), 16)
            .map(|tokens| (tokens, Record::of(&mut client).trace))
    };
    let (tokens, trace) = replay(honest.dcf_keys.clone()).unwrap();
    assert!(tokens == honest.tokens && trace == honest.client_trace);
    let mut changed = 0;
    for k in 0..16 {
        let mut damaged = dcf_keys.clone();
        damaged[dcf_keys.len() * k / 16 + 5] ^= 1;
        changed += usize::from(replay(vec![damaged]).unwrap().1 != honest.client_trace);
    }
    // E0 applies a word to half of its nodes only, and reads the values of one child.
    assert!(changed >= 3, "only {changed} of 16 changes had an effect");
    let half = dcf_keys.len() / 2;
    let (_, other) = replay(vec![dcf_keys[half..].to_vec(), dcf_keys[..half].to_vec()]).unwrap();
    assert!(
        other != honest.client_trace,
        "keys out of order change what is computed"
    );
    let error = replay(vec![dcf_keys[..half].to_vec()]).unwrap_err();
    assert!(error.to_string().starts_with("lost the dealer"), "{error}");
    let log: Log = Default::default();
    let mut client = fixture
        .client(Replay::new(honest.server_frames.clone(), &log))
        .with_comparison(Comparison::Dcf);
    let error = fixture
        .try_steps(&mut client, Some(&input), 16)
        .unwrap_err();
    assert!(error.to_string().contains("DCF"), "{error}");
}

#[test]
fn a_short_message_ends_the_session_naming_the_step() {
    let fixture = Fixture::new(6);
    let input = fixture.input(12, 3);
    let mut frames = fixture.record(&input, None).server_frames;
    frames[5].pop();
    let log: Log = Default::default();
    let mut client = fixture.client(Replay::new(frames.clone(), &log));
    let error = fixture
        .try_steps(&mut client, Some(&input), 16)
        .unwrap_err();
    assert!(error.to_string().contains("in step `"), "{error}");
    frames.truncate(5);
    let mut client = fixture.client(Replay::new(frames, &log));
    let error = fixture
        .try_steps(&mut client, Some(&input), 16)
        .unwrap_err();
    assert!(
        error.to_string().starts_with("lost the peer in step"),
        "{error}"
    );
}
