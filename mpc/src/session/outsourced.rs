//! Outsourced sessions: E0 is an independent computing party, and the client is none.
//!
//! The client splits its boundary activations, and the padding's bias, into one additive share for
//! each evaluator, and adds the two shares of the token that come back. Each share alone is
//! uniform, so neither evaluator learns anything from it (additive sharing over Z_2^64, perfectly
//! private against one of the two). Entering costs one exchange more than a client of its own; the
//! token costs none. What a cheating client could read out of a two-party protocol it cannot here;
//! that it chooses its input freely stays true in every deployment.

use std::sync::Arc;

use marill_crypto::{Prg, Seed, dcf::HashKey};
use marill_net::Channel;
use marill_numeric::{fixed::low_mask, ring};

use crate::{
    cost::Traffic,
    engine::Engine,
    error::ProtocolError,
    masked::{EncryptedAdapter, INDEX_BITS, Masked},
    program::padding::pad_prompt,
    sampling::Sampling,
    session::State,
    spec::ProgramSpec,
    weights::{MaskedAdapter, PublicWeights},
};

/// What one evaluator gets of a step's input.
#[derive(Clone, PartialEq, Eq)]
pub struct InputShare {
    /// `rows · hidden_size` ring elements.
    pub boundary: Vec<u64>,
    /// One ring element per row of a padded prompt; none in later steps.
    pub bias: Option<Vec<u64>>,
}

impl std::fmt::Debug for InputShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "InputShare({} elements)", self.boundary.len())
    }
}

impl InputShare {
    /// Splits a prompt of `n · hidden_size` encoded boundary activations, padded to its bucket:
    /// shares for E0 and E1, and the bucket.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] past the context, [`ProtocolError::MissingInput`] for an empty
    /// prompt.
    pub fn of_prompt(
        spec: &ProgramSpec,
        boundary: &[u64],
    ) -> Result<([Self; 2], usize), ProtocolError> {
        let (padded, bias, bucket) = pad_prompt(spec, boundary)?;
        Ok((Self::split(&padded, Some(&bias)), bucket))
    }

    /// Splits one row.
    #[must_use]
    pub fn of_row(boundary: &[u64]) -> [Self; 2] {
        Self::split(boundary, None)
    }

    fn split(boundary: &[u64], bias: Option<&[u64]>) -> [Self; 2] {
        // A fresh key for every split: no stream to keep, nothing to use twice.
        let mut prg = Prg::new(&Seed::random(), "input share");
        let mut halves = |values: &[u64]| {
            // A uniform half, and the value less it.
            let first = prg.words(values.len());
            let mut second = values.to_vec();
            ring::subtract_from(&mut second, &first);
            (first, second)
        };
        let (first, second) = halves(boundary);
        let (first_bias, second_bias) = bias.map(&mut halves).unzip();
        [
            Self {
                boundary: first,
                bias: first_bias,
            },
            Self {
                boundary: second,
                bias: second_bias,
            },
        ]
    }
}

/// The token that two evaluators' shares add up to.
#[must_use]
pub fn join_token(e0: u32, e1: u32) -> u32 {
    e0.wrapping_add(e1) & low_mask(INDEX_BITS) as u32
}

/// E0 as an outsourced computing party: holds shares, learns shapes.
pub struct OutsourcedSession<E: Engine = Masked> {
    state: State<E>,
}

impl OutsourcedSession {
    /// # Errors
    /// [`ProtocolError::AdapterMismatch`] when the masked adapter is of another model,
    /// [`ProtocolError::Reveal`] for an encoder, whose pooling weights are not shared yet.
    pub fn new(
        weights: Arc<PublicWeights>,
        adapter: &MaskedAdapter,
        seed: Seed,
        peer: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        // Pooling weights would have to enter as shares too.
        if weights.spec.architecture.is_encoder() {
            return Err(ProtocolError::Reveal {
                revealed: "a token",
            });
        }
        let engine = Masked::client(&weights.spec, adapter, &seed, peer)?.with_shared_io();
        Ok(Self {
            state: State::new(weights, engine),
        })
    }

    /// As [`Self::new`], with the adapter under its owner's key
    /// ([`crate::PrivateProducts::Lattice`]).
    ///
    /// # Errors
    /// As [`Self::new`], for an encoder.
    pub fn with_encrypted(
        weights: Arc<PublicWeights>,
        adapter: Arc<EncryptedAdapter>,
        seed: Seed,
        peer: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        if weights.spec.architecture.is_encoder() {
            return Err(ProtocolError::Reveal {
                revealed: "a token",
            });
        }
        let engine = Masked::client_with_encrypted(&weights.spec, adapter, &seed, peer);
        let engine = engine.with_shared_io();
        Ok(Self {
            state: State::new(weights, engine),
        })
    }

    /// Returns self comparing with DCF ([`crate::Comparison::Dcf`]); `dcf_keys` leads from the
    /// dealer. Before the first step.
    #[must_use]
    pub fn with_dcf(mut self, dcf_keys: Box<dyn Channel>) -> Self {
        self.state.engine = self.state.engine.with_dcf(dcf_keys);
        self
    }

    /// Returns self with DCF keys hashed under this session's key, the same at all parties. Before
    /// the first step.
    #[must_use]
    pub fn with_hash_key(mut self, key: &HashKey) -> Self {
        self.state.engine = self.state.engine.with_hash_key(key);
        self
    }

    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.state.engine.traffic()
    }
}

impl<E: Engine> OutsourcedSession<E> {
    /// As [`crate::ClientSession::with_sampling`].
    #[must_use]
    pub fn with_sampling(mut self, sampling: Option<Sampling>) -> Self {
        self.state.cache = self.state.cache.with_sampling(sampling);
        self
    }

    /// Runs E0's share of a padded prompt; returns E0's share of the token.
    ///
    /// # Errors
    /// [`ProtocolError::TooLong`] past the context, [`ProtocolError::MissingInput`] for a share of
    /// another shape, [`ProtocolError::Peer`] on a lost server.
    pub fn prefill(&mut self, input: &InputShare, bucket: usize) -> Result<u32, ProtocolError> {
        self.state
            .step(&input.boundary, input.bias.as_deref(), bucket)
    }

    /// Runs E0's share of one more row.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, input: &InputShare) -> Result<u32, ProtocolError> {
        self.state.step(&input.boundary, input.bias.as_deref(), 1)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use marill_net::memory_pair;

    use super::*;
    use crate::{
        Comparison, DealerSession, PrivateWeights, ServerSession, Twin,
        random_model::{gaussian, random_weights, tiny_spec},
    };

    #[test]
    fn an_outsourced_session_returns_the_twins_tokens() {
        for comparison in [Comparison::OneHot, Comparison::Dcf] {
            a_session_returns_the_twins_tokens(comparison);
        }
    }

    /// A prompt and two tokens of a dealer.
    fn deal(
        spec: ProgramSpec,
        [adapter_seed, seed0, seed1]: [Seed; 3],
        sink: Box<dyn Channel>,
        dcf_keys: Option<Box<dyn Channel>>,
        bucket: usize,
    ) {
        let dealer = DealerSession::new(spec, adapter_seed, seed0, seed1, sink).with_shared_io();
        let mut dealer = match dcf_keys {
            Some(keys) => dealer.with_dcf(keys),
            None => dealer,
        };
        dealer.prefill(bucket).unwrap();
        dealer.decode().unwrap();
        dealer.decode().unwrap();
    }

    /// Each step's input, as its two shares.
    type Steps = Vec<[InputShare; 2]>;

    fn a_session_returns_the_twins_tokens(comparison: Comparison) {
        let (public, private) = random_weights(&tiny_spec(), 3);
        let spec = public.spec.clone();
        let row = |seed, n: usize| {
            spec.encode(&gaussian(seed, "row", n * spec.hidden_size, 1.5))
                .unwrap()
        };
        let prompt = row(1, 5);
        let rows = [row(2, 1), row(3, 1)];
        let mut twin = Twin::new(Arc::clone(&public), Arc::clone(&private));
        let mut expected = vec![twin.prefill(&prompt).unwrap()];
        expected.extend(rows.iter().map(|r| twin.decode(r).unwrap()));

        let (shares, bucket) = InputShare::of_prompt(&spec, &prompt).unwrap();
        let steps: Steps = std::iter::once(shares)
            .chain(rows.iter().map(|r| InputShare::of_row(r)))
            .collect();
        let tokens = run(&public, &private, &steps, bucket, comparison);
        assert_eq!(tokens, expected);
    }

    /// The tokens that both parties' shares make together.
    fn run(
        public: &Arc<PublicWeights>,
        private: &PrivateWeights,
        steps: &Steps,
        bucket: usize,
        comparison: Comparison,
    ) -> Vec<u32> {
        let seeds = marill_testkit::world::session_seeds();
        let [adapter_seed, seed0, seed1] = seeds.clone();
        let (e0, e1) = memory_pair();
        let (sink, stream) = memory_pair();
        let (dcf_keys_sink, dcf_keys) = memory_pair();
        let uses_dcf = comparison == Comparison::Dcf;
        let adapter = private.mask(&public.spec, &adapter_seed);
        thread::scope(|scope| {
            scope.spawn(move || {
                deal(
                    public.spec.clone(),
                    seeds,
                    Box::new(sink),
                    uses_dcf.then(|| Box::new(dcf_keys_sink) as _),
                    bucket,
                );
            });
            let server = scope.spawn(|| {
                let peer = Box::new(e1);
                let corrections = Box::new(stream);
                let mut server =
                    ServerSession::new(public.clone(), private, seed1, peer, corrections)
                        .unwrap()
                        .with_comparison(comparison)
                        .with_shared_io();
                let mut tokens = vec![server.prefill_shared(&steps[0][1], bucket).unwrap()];
                tokens.extend(
                    steps[1..]
                        .iter()
                        .map(|s| server.decode_shared(&s[1]).unwrap()),
                );
                tokens
            });
            let party =
                OutsourcedSession::new(public.clone(), &adapter, seed0, Box::new(e0)).unwrap();
            let mut party = if uses_dcf {
                party.with_dcf(Box::new(dcf_keys))
            } else {
                party
            };
            let mut own = vec![party.prefill(&steps[0][0], bucket).unwrap()];
            own.extend(steps[1..].iter().map(|s| party.decode(&s[0]).unwrap()));
            let theirs = server.join().unwrap();
            assert!(
                !uses_dcf || party.traffic().dealer_bytes > 0,
                "E0 reads keys"
            );
            own.iter()
                .zip(theirs)
                .map(|(a, b)| join_token(*a, b))
                .collect()
        })
    }

    #[test]
    fn one_share_of_an_input_is_random_and_both_add_up() {
        let values = vec![7u64; 4096];
        let [a, b] = InputShare::of_row(&values);
        assert!(
            a.boundary
                .iter()
                .zip(&b.boundary)
                .all(|(a, b)| a.wrapping_add(*b) == 7)
        );
        let ones: u32 = a.boundary.iter().map(|v| v.count_ones()).sum();
        // Ten standard deviations of 262,144 fair bits.
        assert!((ones as f64 / (64.0 * 4096.0) - 0.5).abs() < 0.01);
        assert_ne!(InputShare::of_row(&values)[0], a, "every split is fresh");
    }
}
