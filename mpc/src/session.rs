//! The parties of a session, each one synchronous object on its own thread.

use crate::{
    error::ProtocolError,
    program,
    program::{cache::Cache, padding::check_remaining_context, run_blind},
    weights::PublicWeights,
};
mod client;
mod dealer;
mod outsourced;
mod server;
mod two_party;

use std::sync::Arc;

use crate::engine::Engine;
pub use crate::session::{
    client::ClientSession,
    dealer::DealerSession,
    outsourced::{InputShare, OutsourcedSession, join_token},
    server::ServerSession,
};

/// What every party of a session has: what it runs over, what it runs on, and what it keeps.
struct State<E: Engine> {
    weights: Arc<PublicWeights>,
    engine: E,
    cache: Cache<E>,
    /// A step failed: what it took of masks may have been seen, and no other step takes it.
    spent: bool,
}

impl<E: Engine> State<E> {
    fn new(weights: Arc<PublicWeights>, engine: E) -> Self {
        let cache = Cache::new(&weights.spec);
        Self {
            weights,
            engine,
            cache,
            spent: false,
        }
    }

    /// What an engine does with its masks; nothing behind a failure.
    fn run<T>(
        &mut self,
        step: impl FnOnce(&mut E, &PublicWeights, &mut Cache<E>) -> Result<T, ProtocolError>,
    ) -> Result<T, ProtocolError> {
        if self.spent {
            return Err(ProtocolError::Spent);
        }
        let result = step(&mut self.engine, &self.weights, &mut self.cache);
        self.spent = result.is_err();
        result
    }

    /// One step at a party that has an input, or a share of one.
    fn step(
        &mut self,
        boundary: &[u64],
        bias: Option<&[u64]>,
        rows: usize,
    ) -> Result<u32, ProtocolError> {
        check_remaining_context(&self.weights.spec, self.cache.len(), rows)?;
        self.run(|engine, weights, cache| {
            let token = program::step(engine, weights, cache, Some(boundary), bias, rows)?;
            token.ok_or(ProtocolError::MissingInput)
        })
    }

    /// One step at a party without an input.
    fn blind(&mut self, rows: usize) -> Result<(), ProtocolError> {
        check_remaining_context(&self.weights.spec, self.cache.len(), rows)?;
        self.run(|engine, weights, cache| run_blind(engine, weights, cache, rows))
    }
}
