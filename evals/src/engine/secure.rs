//! The secure protocol as an engine, all parties in this process: what it answers is what a user
//! would get, and what it costs is counted.

use std::{
    sync::{Arc, mpsc},
    thread,
    time::Instant,
};

use marill_model::Prefix;
use marill_mpc::{
    ClientSession, DealerSession, MaskedAdapter, PrivateWeights, PublicWeights, Seed,
    ServerSession, Traffic, TwoParty,
    two_party::{Extension, lpn_set_for},
};
use marill_net::memory_pair;
use marill_partition::Partition;

use super::{Engine, Stop};
use crate::EvalError;

/// The engine's name in the setting `2pc`.
pub(crate) const TWO_PARTY: &str = "secure-2pc";

/// What secure answers cost the client: bytes and rounds as counted on its channel to the server.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SecureCost {
    pub prompts: u64,
    pub prefill_seconds: f64,
    pub prefill_rounds: u64,
    pub prefill_bytes_sent: u64,
    pub prefill_bytes_received: u64,
    /// Tokens after the first of each answer.
    pub decode_steps: u64,
    pub decode_seconds: f64,
    pub decode_rounds: u64,
    pub decode_bytes_sent: u64,
    pub decode_bytes_received: u64,
}

/// All parties of a setting in this process: real shares and real messages, no network.
pub struct SecureEngine {
    prefix: Prefix,
    public: Arc<PublicWeights>,
    private: Arc<PrivateWeights>,
    parties: Parties,
    cost: SecureCost,
}

/// Who computes beside the client.
enum Parties {
    /// The setting `dealer`: a server, and a dealer with its mask of the adapter.
    Dealt {
        masked: Arc<MaskedAdapter>,
        adapter_seed: Seed,
    },
    /// The setting `2pc`: a server alone.
    Server,
}

/// A step that every party runs.
#[derive(Debug, Clone, Copy)]
enum Step {
    Prefill { bucket: usize },
    Decode,
}

impl Step {
    fn serve<E: marill_mpc::engine::Engine>(
        self,
        session: &mut ServerSession<E>,
    ) -> Result<(), EvalError> {
        match self {
            Self::Prefill { bucket } => session.prefill(bucket)?,
            Self::Decode => session.decode()?,
        }
        Ok(())
    }
}

impl SecureEngine {
    /// The setting `dealer`.
    ///
    /// # Errors
    /// [`EvalError::Partition`] when the weights do not fit the numeric format.
    pub fn new(partition: &Partition) -> Result<Self, EvalError> {
        let public = Arc::new(partition.public_weights()?);
        let private = Arc::new(partition.private_weights(&public)?);
        let adapter_seed = Seed::random();
        let masked = Arc::new(private.mask(&public.spec, &adapter_seed));
        let prefix = partition.prefix()?;
        Ok(Self {
            prefix,
            public,
            private,
            parties: Parties::Dealt {
                masked,
                adapter_seed,
            },
            cost: SecureCost::default(),
        })
    }

    /// As [`Self::new`], in the setting `2pc`: client and server without a dealer.
    ///
    /// # Errors
    /// As [`Self::new`], and for a program that two parties do not run.
    pub fn two_party(partition: &Partition) -> Result<Self, EvalError> {
        TwoParty::check(partition.program_spec(), None)?;
        Ok(Self {
            parties: Parties::Server,
            ..Self::new(partition)?
        })
    }

    /// Public and private weights, for a twin of the same integers.
    pub fn weights(&self) -> (Arc<PublicWeights>, Arc<PrivateWeights>) {
        (Arc::clone(&self.public), Arc::clone(&self.private))
    }

    /// What all answers so far cost.
    pub fn cost(&self) -> SecureCost {
        self.cost
    }

    fn run(
        &mut self,
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &Stop<'_>,
    ) -> Result<Vec<u32>, EvalError> {
        match &self.parties {
            Parties::Server => self.run_two_party(prompt, max_new_tokens, stop),
            Parties::Dealt {
                masked,
                adapter_seed,
            } => {
                let masked = Arc::clone(masked);
                let adapter_seed = adapter_seed.clone();
                self.run_dealt((&masked, adapter_seed), prompt, max_new_tokens, stop)
            }
        }
    }

    fn run_two_party(
        &mut self,
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &Stop<'_>,
    ) -> Result<Vec<u32>, EvalError> {
        let (client_end, server_end) = memory_pair();
        let (to_server, server_steps) = mpsc::channel::<Step>();
        let (public, private) = self.weights();
        // As services do.
        let extension = Extension::Silent(lpn_set_for(&public.spec)?);
        let server = thread::spawn(move || -> Result<(), EvalError> {
            let peer = Box::new(server_end);
            let mut session = ServerSession::without_dealer(public, private, peer, extension)?;
            server_steps
                .into_iter()
                .try_for_each(|step| step.serve(&mut session))
        });
        let peer = Box::new(client_end);
        let session = ClientSession::without_dealer(Arc::clone(&self.public), peer, extension);
        let traffic = |session: &ClientSession<TwoParty>| {
            let sum = session.traffic();
            Traffic {
                offline_bytes: 0,
                rounds: sum.rounds,
                bytes_sent: sum.sent,
                bytes_received: sum.received,
                dealer_bytes: 0,
            }
        };
        let announce = |step| {
            let _ = to_server.send(step);
        };
        let answer = session.map_err(EvalError::from).and_then(|session| {
            self.answer(session, traffic, announce, prompt, max_new_tokens, stop)
        });
        drop(to_server);
        let server = server.join().map_err(|_| EvalError::PartyEnded {
            party: "the server",
        })?;
        // Where the client failed, the server only saw a closed channel.
        let answer = answer?;
        server?;
        Ok(answer)
    }

    fn run_dealt(
        &mut self,
        (masked, adapter_seed): (&MaskedAdapter, Seed),
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &Stop<'_>,
    ) -> Result<Vec<u32>, EvalError> {
        let (client_end, server_end) = memory_pair();
        let (corrections_end, sink_end) = memory_pair();
        let seed0 = Seed::random();
        let seed1 = Seed::random();
        let (to_server, server_steps) = mpsc::channel::<Step>();
        let (to_dealer, dealer_steps) = mpsc::channel::<Step>();

        let server = {
            let (public, private) = self.weights();
            let seed1 = seed1.clone();
            thread::spawn(move || -> Result<(), EvalError> {
                let peer = Box::new(server_end);
                let source = Box::new(corrections_end);
                let mut session = ServerSession::new(public, &private, seed1, peer, source)?;
                server_steps
                    .into_iter()
                    .try_for_each(|step| step.serve(&mut session))
            })
        };
        let dealer = {
            let spec = self.public.spec.clone();
            let seed0 = seed0.clone();
            thread::spawn(move || -> Result<(), EvalError> {
                let mut session =
                    DealerSession::new(spec, adapter_seed, seed0, seed1, Box::new(sink_end));
                for step in dealer_steps {
                    match step {
                        Step::Prefill { bucket } => session.prefill(bucket)?,
                        Step::Decode => session.decode()?,
                    }
                }
                Ok(())
            })
        };
        let announce = |step: Step| {
            // A party that is gone reports its own error when it is joined.
            let _ = to_server.send(step);
            let _ = to_dealer.send(step);
        };
        let session = ClientSession::new(
            Arc::clone(&self.public),
            masked,
            seed0,
            Box::new(client_end),
        );
        let answer = session.map_err(EvalError::from).and_then(|session| {
            let traffic = |session: &ClientSession| session.traffic();
            self.answer(session, traffic, announce, prompt, max_new_tokens, stop)
        });
        drop((to_server, to_dealer));
        let server = server.join().map_err(|_| EvalError::PartyEnded {
            party: "the server",
        })?;
        let dealer = dealer.join().map_err(|_| EvalError::PartyEnded {
            party: "the dealer",
        })?;
        // Where the dealer or the server failed first, the client only saw a closed channel.
        dealer?;
        server?;
        answer
    }

    fn answer<E: marill_mpc::engine::Engine>(
        &mut self,
        mut session: ClientSession<E>,
        traffic: impl Fn(&ClientSession<E>) -> Traffic,
        announce: impl Fn(Step),
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &Stop<'_>,
    ) -> Result<Vec<u32>, EvalError> {
        self.prefix.truncate(0);
        let boundary = self.public.spec.encode(&self.prefix.forward(prompt)?)?;
        let start = Instant::now();
        announce(Step::Prefill {
            bucket: self.public.spec.bucket(prompt.len()),
        });
        let mut token = session.prefill(&boundary)?;
        let mut before = traffic(&session);
        self.cost
            .add_prefill(&before, start.elapsed().as_secs_f64());

        let mut answer = Vec::new();
        while answer.len() < max_new_tokens && !stop(&answer, token) {
            answer.push(token);
            if answer.len() < max_new_tokens {
                let start = Instant::now();
                let boundary = self.public.spec.encode(&self.prefix.forward(&[token])?)?;
                announce(Step::Decode);
                token = session.decode(&boundary)?;
                let now = traffic(&session);
                self.cost
                    .add_decode(&before, &now, start.elapsed().as_secs_f64());
                before = now;
            }
        }
        Ok(answer)
    }
}

impl SecureCost {
    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            prompts: self.prompts - earlier.prompts,
            prefill_seconds: self.prefill_seconds - earlier.prefill_seconds,
            prefill_rounds: self.prefill_rounds - earlier.prefill_rounds,
            prefill_bytes_sent: self.prefill_bytes_sent - earlier.prefill_bytes_sent,
            prefill_bytes_received: self.prefill_bytes_received - earlier.prefill_bytes_received,
            decode_steps: self.decode_steps - earlier.decode_steps,
            decode_seconds: self.decode_seconds - earlier.decode_seconds,
            decode_rounds: self.decode_rounds - earlier.decode_rounds,
            decode_bytes_sent: self.decode_bytes_sent - earlier.decode_bytes_sent,
            decode_bytes_received: self.decode_bytes_received - earlier.decode_bytes_received,
        }
    }

    /// Both together.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        Self {
            prompts: self.prompts + other.prompts,
            prefill_seconds: self.prefill_seconds + other.prefill_seconds,
            prefill_rounds: self.prefill_rounds + other.prefill_rounds,
            prefill_bytes_sent: self.prefill_bytes_sent + other.prefill_bytes_sent,
            prefill_bytes_received: self.prefill_bytes_received + other.prefill_bytes_received,
            decode_steps: self.decode_steps + other.decode_steps,
            decode_seconds: self.decode_seconds + other.decode_seconds,
            decode_rounds: self.decode_rounds + other.decode_rounds,
            decode_bytes_sent: self.decode_bytes_sent + other.decode_bytes_sent,
            decode_bytes_received: self.decode_bytes_received + other.decode_bytes_received,
        }
    }

    fn add_prefill(&mut self, traffic: &Traffic, seconds: f64) {
        self.prompts += 1;
        self.prefill_seconds += seconds;
        self.prefill_rounds += traffic.rounds;
        self.prefill_bytes_sent += traffic.bytes_sent;
        self.prefill_bytes_received += traffic.bytes_received;
    }

    fn add_decode(&mut self, before: &Traffic, now: &Traffic, seconds: f64) {
        self.decode_steps += 1;
        self.decode_seconds += seconds;
        self.decode_rounds += now.rounds - before.rounds;
        self.decode_bytes_sent += now.bytes_sent - before.bytes_sent;
        self.decode_bytes_received += now.bytes_received - before.bytes_received;
    }
}

impl Engine for SecureEngine {
    fn name(&self) -> &'static str {
        match self.parties {
            Parties::Dealt { .. } => "secure",
            Parties::Server => TWO_PARTY,
        }
    }

    fn gives_likelihoods(&self) -> bool {
        false
    }

    fn context(&self) -> usize {
        self.public.spec.max_positions + 1 - self.public.spec.bucket(1)
    }

    fn score(
        &mut self,
        _prompt: &[u32],
        _continuations: &[Vec<u32>],
    ) -> Result<Vec<f64>, EvalError> {
        Err(EvalError::NeedsLogits {
            task: "likelihoods".into(),
        })
    }

    fn token_scores(&mut self, _tokens: &[u32]) -> Result<Vec<f64>, EvalError> {
        Err(EvalError::NeedsLogits {
            task: "perplexity".into(),
        })
    }

    fn generate(
        &mut self,
        prompt: &[u32],
        max_new_tokens: usize,
        stop: &Stop<'_>,
    ) -> Result<Vec<u32>, EvalError> {
        self.run(prompt, max_new_tokens, stop)
    }
}
