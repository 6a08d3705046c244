//! Sessions in which neither evaluator is the client: input and output are additive shares.
//!
//! The client splits each row of boundary activations into two uniform shares, one for E0 and one for E1, and gets one
//! share of the token from each. It computes nothing between, so it holds no masked wires and no adapter: what a cheating
//! client can do to a semi-honest two-party protocol (Lehmkuhl et al., "Muse", USENIX Security '21) it cannot do here. What
//! remains is that it chooses its inputs freely.
//!
//! Either evaluator alone sees uniform shares and opened values under fresh masks; the input costs one exchange in both
//! directions in place of a message from the client, and the token's last message is left out.

use std::sync::Arc;

use marill_net::Channel;

use crate::decoder::{self, Cache};
use crate::masked::{INDEX_BITS, Masked, ProtocolError, Traffic};
use crate::seed::{Prg, Seed};
use crate::spec::DecoderSpec;
use crate::twin::{check_room, pad_prompt};
use crate::weights::{MaskedAdapter, PrivateWeights, PublicWeights};

/// E0 or E1 of such a session.
pub struct SharedSession {
    weights: Arc<PublicWeights>,
    engine: Masked,
    cache: Cache<Masked>,
}

impl SharedSession {
    /// E0: an operator of its own.
    ///
    /// # Errors
    /// [`ProtocolError::AdapterMismatch`] when the masked adapter is of another model.
    pub fn first(
        weights: Arc<PublicWeights>,
        adapter: &MaskedAdapter,
        seed: Seed,
        peer: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        let engine = Masked::client(&weights.spec, adapter, &seed, peer)?;
        Ok(Self::new(weights, engine))
    }

    /// E1: the server.
    ///
    /// # Errors
    /// [`ProtocolError::AdapterMismatch`] when the private weights are of another model.
    pub fn second(
        weights: Arc<PublicWeights>,
        private: &PrivateWeights,
        seed: Seed,
        peer: Box<dyn Channel>,
        source: Box<dyn Channel>,
    ) -> Result<Self, ProtocolError> {
        let engine = Masked::server(&weights.spec, private, &seed, peer, source)?;
        Ok(Self::new(weights, engine))
    }

    fn new(weights: Arc<PublicWeights>, engine: Masked) -> Self {
        let cache = Cache::new(&weights.spec);
        Self { weights, engine: engine.with_shared_io(), cache }
    }

    /// Runs a padded prompt from shares of its rows, `bucket · hidden_size`, and of the padding's bias, `bucket`; returns
    /// a share of the token.
    ///
    /// # Errors
    /// [`ProtocolError::MissingInput`] for shares of another length, [`ProtocolError::TooLong`] past the context,
    /// [`ProtocolError::Peer`] and [`ProtocolError::Source`] on a lost party.
    pub fn prefill(&mut self, rows: &[u64], bias: &[u64]) -> Result<u32, ProtocolError> {
        check_room(&self.weights.spec, self.cache.len(), bias.len())?;
        self.step(rows, Some(bias), bias.len())
    }

    /// Runs one more row.
    ///
    /// # Errors
    /// As [`Self::prefill`].
    pub fn decode(&mut self, row: &[u64]) -> Result<u32, ProtocolError> {
        check_room(&self.weights.spec, self.cache.len(), 1)?;
        self.step(row, None, 1)
    }

    fn step(&mut self, rows: &[u64], bias: Option<&[u64]>, count: usize) -> Result<u32, ProtocolError> {
        let token = decoder::step(&mut self.engine, &self.weights, &mut self.cache, Some(rows), bias, count)?;
        token.ok_or(ProtocolError::MissingInput)
    }

    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.engine.traffic()
    }
}

/// A prompt in shares: for each evaluator its rows, then the padding's bias.
pub struct PromptShares {
    pub rows: [Vec<u64>; 2],
    pub bias: [Vec<u64>; 2],
}

/// Pads a prompt of `n · hidden_size` encoded boundary activations to its bucket and splits it.
///
/// # Errors
/// [`ProtocolError::MissingInput`] for an empty prompt, [`ProtocolError::TooLong`] past the context.
pub fn split_prompt(spec: &DecoderSpec, boundary: &[u64]) -> Result<PromptShares, ProtocolError> {
    let (rows, bias, _) = pad_prompt(spec, boundary)?;
    Ok(PromptShares { rows: split(&rows), bias: split(&bias) })
}

/// Two additive shares of each value modulo 2^64, each uniform on its own.
#[must_use]
pub fn split(values: &[u64]) -> [Vec<u64>; 2] {
    let first = Prg::new(&Seed::random(), "input shares").words(values.len());
    let second = values.iter().zip(&first).map(|(value, share)| value.wrapping_sub(*share)).collect();
    [first, second]
}

/// The token from the evaluators' shares of it.
#[must_use]
pub fn join_token(first: u32, second: u32) -> u32 {
    first.wrapping_add(second) & ((1 << INDEX_BITS) - 1)
}

#[cfg(test)]
mod tests {
    use std::thread;

    use marill_net::memory_pair;

    use super::*;
    use crate::session::DealerSession;
    use crate::testing::{gaussian, random_weights, tiny_spec};
    use crate::twin::Twin;

    #[test]
    fn two_operators_and_a_source_give_the_twins_tokens_from_shares() {
        let spec = tiny_spec();
        let (public, private) = random_weights(&spec, 3);
        let rows = |seed, n: usize| spec.encode(&gaussian(seed, "boundary", n * spec.hidden_size, 1.5)).unwrap();
        let prompt = rows(1, 21);
        let further = [rows(2, 1), rows(3, 1)];
        let mut twin = Twin::new(public.clone(), private.clone());
        let mut expected = vec![twin.prefill(&prompt).unwrap()];
        expected.extend(further.iter().map(|row| twin.decode(row).unwrap()));

        let shares = split_prompt(&spec, &prompt).unwrap();
        let further = further.map(|row| split(&row));
        let [adapter_seed, seed0, seed1] = [Seed::random(), Seed::random(), Seed::random()];
        let (first_end, second_end) = memory_pair();
        let (sink, source) = memory_pair();
        let adapter = private.mask(&spec, &adapter_seed);
        let run = |mut session: SharedSession, party: usize| {
            let mut tokens = vec![session.prefill(&shares.rows[party], &shares.bias[party]).unwrap()];
            tokens.extend(further.iter().map(|row| session.decode(&row[party]).unwrap()));
            (tokens, session.traffic())
        };
        let run = &run;
        let (first, second) = thread::scope(|scope| {
            let (spec, seeds) = (spec.clone(), (seed0.clone(), seed1.clone()));
            scope.spawn(move || {
                let session = DealerSession::new(spec, adapter_seed, seeds.0, seeds.1, Box::new(sink));
                let mut session = session.with_shared_io();
                session.prefill(32).unwrap();
                (0..2).for_each(|_| session.decode().unwrap());
            });
            let session =
                SharedSession::second(public.clone(), &private, seed1, Box::new(second_end), Box::new(source)).unwrap();
            let second = scope.spawn(move || run(session, 1));
            let session = SharedSession::first(public.clone(), &adapter, seed0, Box::new(first_end)).unwrap();
            (run(session, 0), second.join().unwrap())
        });
        let tokens: Vec<u32> = first.0.iter().zip(&second.0).map(|(a, b)| join_token(*a, *b)).collect();
        assert_eq!(tokens, expected);
        assert_eq!(first.1.bytes_sent, second.1.bytes_received);
        // Alone, a share of a token is as likely one number as another: at least it is no index into the vocabulary.
        assert!(first.0.iter().any(|share| *share as usize >= spec.vocab_size));
    }
}
