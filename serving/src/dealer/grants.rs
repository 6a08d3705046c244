//! Sessions that were granted to a client and wait for their server.
//!
//! Each takes a place for a minute at most. Places are limited in all, for each owner, for each
//! user of a key (or address) and for each client, so that nobody can take those of others. Who is
//! refused takes no place, no memory and no line of a record.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::http::StatusCode;
use marill_mpc::{Comparison, Seed};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    error::{HttpError, StateError},
    messages::proof_of,
    terms::SessionParameters,
    ticket::Ticket,
};

/// A session that no server takes up in this time is used up, or, where it was preprocessed, free
/// again.
pub(super) const GRANT_LIFETIME: Duration = Duration::from_secs(60);
pub(super) const MAX_OPEN: usize = 1024;
const MAX_OF_OWNER: usize = 512;
const MAX_OF_PRINCIPAL: usize = 128;
const MAX_OF_CLIENT: usize = 64;

/// What is known of a granted session.
pub(super) struct Grant {
    pub(super) owner: String,
    pub(super) parameters: SessionParameters,
    /// The name under which E0's masked adapter is kept.
    pub(super) client_id: String,
    token: Zeroizing<String>,
    principal: String,
    client: String,
    pub(super) seeds: Seeds,
    since: Instant,
}

/// Where the seeds of a session are.
pub(super) enum Seeds {
    /// E0 has its own already.
    Live { seed0: Seed, seed1: Seed },
    /// Preprocessed, and still as it was.
    Reserved,
    /// Its server has taken it up: E0's seed waits for the client.
    Released { seed0: Seed },
}

impl Grant {
    pub(super) fn new(
        owner: &str,
        (parameters, client_id): (SessionParameters, String),
        ticket: &Ticket,
        token: Zeroizing<String>,
        seeds: Seeds,
    ) -> Self {
        let principal = ticket.principal.clone();
        let client = ticket.client.clone();
        Self {
            owner: owner.into(),
            parameters,
            client_id,
            token,
            principal,
            client,
            seeds,
            since: Instant::now(),
        }
    }

    fn is_open(&self) -> bool {
        self.since.elapsed() < GRANT_LIFETIME
    }
}

/// All of a dealer's.
#[derive(Default)]
pub(super) struct Grants(Mutex<HashMap<String, Grant>>);

/// Digests are compared, so the time taken says nothing about the secret.
fn same(a: &str, b: &str) -> bool {
    Sha256::digest(a.as_bytes()) == Sha256::digest(b.as_bytes())
}

impl Grants {
    fn open(&self) -> MutexGuard<'_, HashMap<String, Grant>> {
        let mut grants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        grants.retain(|_, grant| grant.is_open());
        grants
    }

    /// Takes a place for a session. `Ok(false)`: the session has one already.
    pub(super) fn insert(&self, session: &str, grant: Grant) -> Result<bool, HttpError> {
        let mut grants = self.open();
        if grants.contains_key(session) {
            return Ok(false);
        }
        let full = |among: &dyn Fn(&Grant) -> bool, limit: usize| {
            let taken: Vec<&Grant> = grants.values().filter(|other| among(other)).collect();
            let oldest = taken
                .iter()
                .map(|grant| grant.since.elapsed())
                .max()
                .unwrap_or_default();
            (taken.len() >= limit).then(|| GRANT_LIFETIME.saturating_sub(oldest))
        };
        let of_owner = |other: &Grant| other.owner == grant.owner;
        let of_principal = |other: &Grant| of_owner(other) && other.principal == grant.principal;
        let of_client = |other: &Grant| of_owner(other) && other.client == grant.client;
        let limits: [(&str, &dyn Fn(&Grant) -> bool, usize); 4] = [
            ("of this client", &of_client, MAX_OF_CLIENT),
            ("of this key or address", &of_principal, MAX_OF_PRINCIPAL),
            ("of this model's owner", &of_owner, MAX_OF_OWNER),
            ("", &|_| true, MAX_OPEN),
        ];
        for (whose, among, limit) in limits {
            if let Some(wait) = full(among, limit) {
                let message =
                    format!("{limit} sessions {whose} wait for their server, which is the limit");
                let message = message.replace("  ", " ");
                let mut error = HttpError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "rate_limit_error",
                    "too_many_grants",
                    message,
                );
                error.retry_after_seconds = Some(wait.as_secs() + 1);
                return Err(error);
            }
        }
        grants.insert(session.into(), grant);
        Ok(true)
    }

    /// Gives a place back.
    pub(super) fn remove(&self, session: &str) {
        self.open().remove(session);
    }

    /// Takes a live session out: no other server gets it, and whoever does not know the client's
    /// proof none.
    pub(super) fn redeem(
        &self,
        session: &str,
        owner: &str,
        proof: &str,
    ) -> Result<Grant, StateError> {
        let mut grants = self.open();
        let grant = Self::find(&grants, session, owner, proof)?;
        if !matches!(grant.seeds, Seeds::Live { .. }) {
            return Err(StateError::SessionUsed {
                session: session.into(),
            });
        }
        Ok(grants.remove(session).expect("it was just found"))
    }

    /// The parameters of a preprocessed session that is reserved for the client with this proof.
    pub(super) fn reserved(
        &self,
        session: &str,
        owner: &str,
        proof: &str,
    ) -> Result<SessionParameters, StateError> {
        let grants = self.open();
        let grant = Self::find(&grants, session, owner, proof)?;
        match grant.seeds {
            Seeds::Reserved => Ok(grant.parameters.clone()),
            _ => Err(StateError::SessionUsed {
                session: session.into(),
            }),
        }
    }

    fn find<'a>(
        grants: &'a HashMap<String, Grant>,
        session: &str,
        owner: &str,
        proof: &str,
    ) -> Result<&'a Grant, StateError> {
        let of_owner = |grant: &&Grant| grant.owner == owner;
        let grant = grants.get(session).filter(of_owner);
        let grant = grant.ok_or_else(|| StateError::SessionUsed {
            session: session.into(),
        })?;
        if !same(&proof_of(&grant.token), proof) {
            return Err(StateError::WrongProof {
                session: session.into(),
            });
        }
        Ok(grant)
    }

    /// Keeps E0's seed of a preprocessed session until its client comes. `false`: the client waited
    /// too long.
    pub(super) fn release(&self, session: &str, seed0: Seed) -> bool {
        let mut grants = self.open();
        let Some(grant) = grants
            .get_mut(session)
            .filter(|grant| matches!(grant.seeds, Seeds::Reserved))
        else {
            return false;
        };
        grant.seeds = Seeds::Released { seed0 };
        grant.since = Instant::now();
        true
    }

    /// E0's seed of a session that its server has taken up, for the client with this token; once.
    pub(super) fn collect(&self, session: &str, token: &str) -> Option<Seed> {
        let mut grants = self.open();
        let grant = grants.get(session)?;
        if !same(&grant.token, token) || !matches!(grant.seeds, Seeds::Released { .. }) {
            return None;
        }
        match grants.remove(session)?.seeds {
            Seeds::Released { seed0 } => Some(seed0),
            _ => None,
        }
    }

    /// Comparison protocol and E0's seed of a live session that waits for its server.
    pub(super) fn granted(&self, session: &str) -> Option<(Comparison, Seed)> {
        match self.open().get(session) {
            Some(Grant {
                parameters,
                seeds: Seeds::Live { seed0, .. },
                ..
            }) => Some((parameters.comparison, seed0.clone())),
            _ => None,
        }
    }
}
