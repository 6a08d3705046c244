//! Small random models and an in-process world of three parties, for tests of this and other
//! crates.

mod affine;

use std::{sync::Arc, thread};

use marill_crypto::{Prg, Seed};
use marill_net::memory_pair;
use marill_numeric::NumericSpec;

pub use crate::testing::affine::{AffineModel, LORA_SCALE, MAPS, run_embedding, tiny_affine_spec};
use crate::{
    ClientSession, DealerSession, ServerSession,
    cost::Traffic,
    error::ProtocolError,
    spec::{PrivateForm, ProgramSpec},
    weights::{LayerFloats, LoraFloats, PrivateWeights, PublicWeights},
};

/// A tiny decoder: 2 layers, 6 query and 2 key-value heads of 8, merged `strided` in threes.
#[must_use]
pub fn tiny_spec() -> ProgramSpec {
    ProgramSpec {
        hidden_size: 48,
        intermediate_size: 80,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 8,
        vocab_size: 100,
        num_layers: 2,
        max_positions: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        head_groups: vec![vec![vec![0, 3], vec![1, 4], vec![2, 5]]; 2],
        attn_scale: vec![0.25; 2],
        lora_rank: 4,
        numeric: NumericSpec::default(),
        architecture: Default::default(),
        private: Default::default(),
    }
}

/// The same shapes with full-rank weights private.
#[must_use]
pub fn with_private_matrices(spec: ProgramSpec) -> ProgramSpec {
    ProgramSpec {
        lora_rank: 0,
        private: PrivateForm::FullRank,
        ..spec
    }
}

/// Fresh seeds of a session, as the adapter's, E0's and E1's. They come from one number, which is
/// printed: `MARILL_TEST_SEED` takes it again.
///
/// # Panics
/// When `MARILL_TEST_SEED` is no number.
#[must_use]
pub fn session_seeds() -> [Seed; 3] {
    let fresh = || Prg::new(&Seed::random(), "test seed").words(1)[0];
    let number = std::env::var("MARILL_TEST_SEED").map_or_else(
        |_| fresh(),
        |text| text.parse().expect("MARILL_TEST_SEED is a number"),
    );
    eprintln!("masks of this session: MARILL_TEST_SEED={number}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    ["adapter", "E0", "E1"].map(|party| Seed::from_bytes(bytes).derive(party))
}

/// Numbers that look normal, from a seed that tests print.
pub fn gaussian(seed: u64, label: &str, n: usize, deviation: f32) -> Vec<f32> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let words = Prg::new(&Seed::from_bytes(bytes), label).words(n);
    words
        .into_iter()
        .map(|w| {
            let sum: u64 = (0..4).map(|k| (w >> (16 * k)) & 0xffff).sum();
            (sum as f32 / 65535.0 - 2.0) * 1.732 * deviation
        })
        .collect()
}

/// Random weights of a spec; the same maps whether they are private or not.
///
/// # Panics
/// When the spec is invalid.
#[must_use]
pub fn random_weights(spec: &ProgramSpec, seed: u64) -> (Arc<PublicWeights>, Arc<PrivateWeights>) {
    use crate::spec::Module::{self, Down, Gate, K, O, Q, Up, V};
    let normal = |label: String, n: usize, deviation: f32| gaussian(seed, &label, n, deviation);
    let layers: Vec<[Vec<f32>; 9]> = (0..spec.num_layers)
        .map(|l| {
            let matrix = |m: Module| {
                let map = spec.map_spec(spec.map(l, m));
                let deviation = 1.0 / (map.cols as f32).sqrt();
                normal(format!("{l}.{m:?}"), map.len(), deviation)
            };
            let gain = |name: &str| {
                normal(format!("{l}.{name}"), spec.hidden_size, 0.2)
                    .iter()
                    .map(|g| 1.0 + g)
                    .collect()
            };
            let [q, k, v, o, gate, up, down] = [Q, K, V, O, Gate, Up, Down].map(matrix);
            [gain("input"), q, k, v, o, gain("post"), gate, up, down]
        })
        .collect();
    let floats: Vec<LayerFloats<'_>> = layers
        .iter()
        .map(|[input, q, k, v, o, post, gate, up, down]| LayerFloats {
            input_layernorm: input,
            q_proj: q,
            k_proj: k,
            v_proj: v,
            o_proj: o,
            post_attention_layernorm: post,
            gate_proj: gate,
            up_proj: up,
            down_proj: down,
        })
        .collect();
    let norm = vec![1.0; spec.hidden_size];
    let head = normal("head".into(), spec.vocab_size * spec.hidden_size, 0.1);
    let maps: &[LayerFloats<'_>] = if spec.is_full_rank() { &[] } else { &floats };
    let public =
        PublicWeights::from_floats(spec, maps, &norm, &head).expect("a random model is valid");
    if spec.is_full_rank() {
        let private =
            PrivateWeights::full_from_floats(spec, &floats).expect("a random model is valid");
        return (Arc::new(public), Arc::new(private));
    }
    let adapter = spec.maps().map(|map| {
        let name = format!("{}.{:?}", map.layer, map.module);
        let [a, b] = map.factor_lens();
        (map.rank > 0).then(|| LoraFloats {
            a: normal(format!("{name}.a"), a, 1.0 / (map.cols as f32).sqrt()),
            b: normal(format!("{name}.b"), b, 0.1),
            scale: 2.0,
        })
    });
    let adapter = adapter.collect();
    let private = PrivateWeights::from_floats(&public, adapter).expect("a random adapter is valid");
    (Arc::new(public), Arc::new(private))
}

/// What a session in a world of three parties gave.
#[derive(Debug)]
pub struct Outcome {
    pub tokens: Vec<u32>,
    pub client: Traffic,
    pub server: Traffic,
}

/// Runs client, server and dealer on three threads over memory channels: the prompt, then
/// `rows[1..]` token by token.
///
/// ```
/// use marill_mpc::{
///     Twin,
///     testing::{gaussian, random_weights, run_world, tiny_spec},
/// };
///
/// let spec = tiny_spec();
/// let (public, private) = random_weights(&spec, 1);
/// let prompt = spec.encode(&gaussian(1, "prompt", 3 * spec.hidden_size, 1.0))?;
/// let outcome = run_world(&public, &private, &prompt, &[])?;
/// let expected = Twin::new(public, private).prefill(&prompt)?;
/// assert_eq!(outcome.tokens, [expected]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// The client's error, or else the server's or the dealer's.
///
/// # Panics
/// When a party panics.
pub fn run_world(
    public: &Arc<PublicWeights>,
    private: &Arc<PrivateWeights>,
    prompt: &[u64],
    continuation: &[Vec<u64>],
) -> Result<Outcome, ProtocolError> {
    let spec = public.spec.clone();
    let [adapter_seed, seed0, seed1] = session_seeds();
    let (client_end, server_end) = memory_pair();
    let (dealer_end, corrections_end) = memory_pair();
    let bucket = spec.bucket(prompt.len() / spec.hidden_size);
    let steps = continuation.len();
    let adapter = private.mask(&spec, &adapter_seed);
    let dealer = {
        let (spec, seed0, seed1) = (spec.clone(), seed0.clone(), seed1.clone());
        thread::spawn(move || {
            let mut session =
                DealerSession::new(spec, adapter_seed, seed0, seed1, Box::new(dealer_end));
            session.prefill(bucket)?;
            (0..steps).try_for_each(|_| session.decode())
        })
    };
    let server = {
        let (public, private) = (Arc::clone(public), Arc::clone(private));
        thread::spawn(move || {
            let mut session = ServerSession::new(
                public,
                &private,
                seed1,
                Box::new(server_end),
                Box::new(corrections_end),
            )?;
            session.prefill(bucket)?;
            (0..steps).try_for_each(|_| session.decode())?;
            Ok(session.traffic())
        })
    };
    let mut session =
        ClientSession::new(Arc::clone(public), &adapter, seed0, Box::new(client_end))?;
    let mut run = || {
        let mut tokens = vec![session.prefill(prompt)?];
        for row in continuation {
            tokens.push(session.decode(row)?);
        }
        Ok::<_, ProtocolError>(tokens)
    };
    let tokens = run();
    let client = session.traffic();
    drop(session);
    let server: Result<Traffic, ProtocolError> = server.join().expect("the server panicked");
    let dealer: Result<(), ProtocolError> = dealer.join().expect("the dealer panicked");
    let tokens = tokens?;
    dealer?;
    Ok(Outcome {
        tokens,
        client,
        server: server?,
    })
}
