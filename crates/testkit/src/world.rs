//! Client, server and dealer of a session on three threads over memory channels.

use std::{sync::Arc, thread};

use marill_crypto::{Prg, Seed};
use marill_mpc::{
    ClientSession, DealerSession, PrivateWeights, ProtocolError, PublicWeights, ServerSession,
    Traffic,
};
use marill_net::memory_pair;

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
///     random_model::{gaussian, random_weights, tiny_spec},
/// };
/// use marill_testkit::world::run_world;
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
        let spec = spec.clone();
        let seed0 = seed0.clone();
        let seed1 = seed1.clone();
        thread::spawn(move || {
            let mut session =
                DealerSession::new(spec, adapter_seed, seed0, seed1, Box::new(dealer_end));
            session.prefill(bucket)?;
            (0..steps).try_for_each(|_| session.decode())
        })
    };
    let server = {
        let public = Arc::clone(public);
        let private = Arc::clone(private);
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

/// As [`run_world`], for an encoder that reveals its pooled row; also the client's traffic.
///
/// # Errors
/// The client's error, or else the server's or the dealer's.
///
/// # Panics
/// When a party panics.
pub fn run_embedding(
    public: &Arc<PublicWeights>,
    private: &Arc<PrivateWeights>,
    boundary: &[u64],
) -> Result<(Vec<u64>, Traffic), ProtocolError> {
    let spec = public.spec.clone();
    let [adapter_seed, seed0, seed1] = session_seeds();
    let (client_end, server_end) = memory_pair();
    let (dealer_end, corrections_end) = memory_pair();
    let bucket = spec.bucket(boundary.len() / spec.hidden_size);
    let adapter = private.mask(&spec, &adapter_seed);
    let mut client = ClientSession::new(
        Arc::clone(public),
        &adapter,
        seed0.clone(),
        Box::new(client_end),
    )?;
    let mut server = ServerSession::new(
        Arc::clone(public),
        private,
        seed1.clone(),
        Box::new(server_end),
        Box::new(corrections_end),
    )?;
    let mut dealer = DealerSession::new(spec, adapter_seed, seed0, seed1, Box::new(dealer_end));
    thread::scope(|scope| {
        let dealer = scope.spawn(move || dealer.prefill(bucket));
        let server = scope.spawn(move || server.prefill(bucket));
        let row = client.embed(boundary)?;
        server.join().expect("the server panicked")?;
        dealer.join().expect("the dealer panicked")?;
        Ok((row, client.traffic()))
    })
}
