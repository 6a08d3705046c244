//! Preprocessed sessions, on the day they are used.
//!
//! 1. A client asks for one of several that its server has: the dealer reserves the first that
//!    nobody uses, and gives out a token and nothing else. Who then goes away has used nothing up.
//! 2. The client opens the session at the server with a proof of the token, and the server, which
//!    has charged it, asks the dealer to release the session. The session's key leaves the
//!    [vault](crate::preprocessing::Vault) for good; the server gets what opens its file.
//! 3. The client collects E0's seed with the token.
//!
//! Whichever of dealer, server and files was set back to a backup, a used session has no key any
//! more.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderMap, StatusCode},
};
use marill_mpc::Seed;
use marill_numeric::{hex, unhex};
use zeroize::Zeroizing;

use crate::{
    dealer::{
        Dealer, bad_request, body,
        grants::{Grant, Seeds},
        new_token,
        owners::Owner,
        produce::StoredSession,
    },
    error::{HttpError, ServingError, SessionError, StartError, StateError},
    messages::{CollectSeed, CollectedSeed, NewRelease, NewSession, Release, SessionGrant},
    metrics::Metrics,
};

const MAX_CANDIDATES: usize = 64;

impl Dealer {
    /// Reserves the first candidate that was preprocessed under these parameters and is neither
    /// used nor reserved.
    pub(super) fn reserve(
        &self,
        request: &NewSession,
        owner: &Owner,
    ) -> Result<Option<SessionGrant>, HttpError> {
        for session in request
            .candidates
            .iter()
            .take(MAX_CANDIDATES)
            .filter(|name| unhex::<16>(name).is_some())
        {
            let stored = match StoredSession::read(&self.preprocessed, session) {
                Ok(Some(stored)) => stored,
                Ok(None) => continue,
                // One damaged file keeps nobody from the others.
                Err(error) => {
                    tracing::error!("a preprocessed session cannot be used: {error}");
                    continue;
                }
            };
            if stored.owner != owner.name
                || stored.parameters != request.parameters
                || !self.vault.has(session)
            {
                continue;
            }
            let token = new_token()?;
            let parameters = (request.parameters.clone(), request.client_id.clone());
            let grant = Grant::new(
                &owner.name,
                parameters,
                &request.ticket,
                token.clone(),
                Seeds::Reserved,
            );
            if self.grants.insert(session, grant)? {
                return Ok(Some(SessionGrant {
                    session: session.clone(),
                    token,
                    seed: None,
                }));
            }
        }
        Ok(None)
    }

    /// Takes the key of a reserved session out of the vault; returns what opens the server's file.
    fn release(&self, owner: &Owner, request: &NewRelease) -> Result<Release, ServingError> {
        let session = &request.session;
        let used = || StateError::SessionUsed {
            session: session.clone(),
        };
        if unhex::<16>(session).is_none() {
            return Err(used().into());
        }
        self.grants
            .reserved(session, &owner.name, &request.proof)?
            .check(&request.parameters)?;
        let stored = StoredSession::read(&self.preprocessed, session)?.ok_or_else(used)?;
        self.records.claim("e1", session)?;
        let key = self.vault.take(session)?.ok_or_else(used)?;
        stored.remove(&self.preprocessed);
        let damaged = || {
            StateError::io(self.preprocessed.join(session))(std::io::Error::other(
                "its seed does not open",
            ))
        };
        let seed0 = key.unwrap(session, &stored.seed0).ok_or_else(damaged)?;
        if !self.grants.release(session, Seed::from_bytes(*seed0)) {
            return Err(used().into());
        }
        Metrics::add(&self.metrics.sessions_started, 1);
        Ok(Release {
            key: Zeroizing::new(hex(key.release().as_slice())),
        })
    }
}

fn refusal(error: ServingError) -> HttpError {
    match error {
        ServingError::State(StateError::SessionUsed { .. } | StateError::WrongProof { .. }) => {
            HttpError::new(
                StatusCode::CONFLICT,
                "invalid_request_error",
                "session_used",
                error.for_peer(),
            )
        }
        ServingError::Session(SessionError::Mismatch { .. }) => bad_request(error.for_peer()),
        error => crate::dealer::internal(error),
    }
}

pub(super) async fn release(
    State(dealer): State<Arc<Dealer>>,
    headers: HeaderMap,
    Json(request): Json<serde_json::Value>,
) -> Result<Json<Release>, HttpError> {
    let owner = dealer.owner_of(&headers)?;
    let request: NewRelease = body(request)?;
    let released = tokio::task::spawn_blocking(move || dealer.release(&owner, &request)).await;
    released
        .map_err(|error| crate::dealer::internal(StartError::from(error)))?
        .map(Json)
        .map_err(refusal)
}

pub(super) async fn collect(
    State(dealer): State<Arc<Dealer>>,
    request: Request,
) -> Result<Json<CollectedSeed>, HttpError> {
    let bytes = axum::body::to_bytes(request.into_body(), 4096).await;
    let bytes = bytes.map_err(|_| bad_request("the request is too long"))?;
    let CollectSeed { session, token } =
        serde_json::from_slice(&bytes).map_err(|error| bad_request(error.to_string()))?;
    let seed = dealer.grants.collect(&session, &token);
    let seed = seed.ok_or_else(|| refusal(StateError::SessionUsed { session }.into()))?;
    Ok(Json(CollectedSeed {
        seed: Zeroizing::new(hex(&*Zeroizing::new(seed.to_bytes()))),
    }))
}
