//! What a client keeps between sessions.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use marill_mpc::{
    ClientSession, EncryptedAdapter, MaskedAdapter, OutsourcedSession, PrivateProducts,
    ProgramSpec, ProtocolError, PublicWeights, Seed,
};
use marill_net::Channel;

use crate::{
    error::{ServingError, SessionError, StateError},
    secret_files::{read_or_create_key, replace_file},
    set_ups::{SetUpLimits, SetUps},
    state::{Store, WhenInUse},
    terms::{Correlations, SessionParameters},
};

/// The private part as a client holds it.
#[derive(Clone)]
pub(super) enum HeldAdapter {
    Masked(Arc<MaskedAdapter>),
    Encrypted(Arc<EncryptedAdapter>),
}

impl HeldAdapter {
    /// Reads what the server sent, in the form of these parameters; also its digest.
    pub(super) fn read(
        parameters: &SessionParameters,
        spec: &ProgramSpec,
        bytes: &[u8],
    ) -> Result<(String, Self), ServingError> {
        match parameters.private_products {
            PrivateProducts::Masks => {
                let masked = MaskedAdapter::from_bytes(spec, bytes)?;
                Ok((masked.digest(), Self::Masked(Arc::new(masked))))
            }
            PrivateProducts::Lattice => {
                let read = EncryptedAdapter::from_bytes(spec, bytes);
                let encrypted = read.map_err(SessionError::from)?;
                let digest = encrypted.digest().to_string();
                Ok((digest, Self::Encrypted(Arc::new(encrypted))))
            }
        }
    }
}

impl HeldAdapter {
    /// A session of this client's.
    pub(super) fn session(
        self,
        public: Arc<PublicWeights>,
        seed0: Seed,
        peer: Box<dyn Channel>,
    ) -> Result<ClientSession, ProtocolError> {
        match self {
            Self::Masked(adapter) => ClientSession::new(public, &adapter, seed0, peer),
            Self::Encrypted(adapter) => {
                Ok(ClientSession::with_encrypted(public, adapter, seed0, peer))
            }
        }
    }

    /// A computing party's side of a session.
    pub(super) fn outsourced(
        self,
        public: Arc<PublicWeights>,
        seed0: Seed,
        peer: Box<dyn Channel>,
    ) -> Result<OutsourcedSession, ProtocolError> {
        match self {
            Self::Masked(adapter) => OutsourcedSession::new(public, &adapter, seed0, peer),
            Self::Encrypted(adapter) => {
                OutsourcedSession::with_encrypted(public, adapter, seed0, peer)
            }
        }
    }
}

/// What a client keeps: its random name, the sessions it has used, the private part as it was sent.
pub struct ClientState {
    pub(super) client_id: String,
    records: PathBuf,
    adapters: PathBuf,
    /// Preprocessed sessions have a mask of their own.
    kept: Mutex<[Option<(String, HeldAdapter)>; 2]>,
    /// Of the setting `2pc`.
    pub(super) set_ups: SetUps,
    /// Held by the one session that fetches the adapter of its kind.
    fetching: [Mutex<()>; 2],
}

impl ClientState {
    /// # Errors
    /// [`StateError::Io`].
    pub fn open(state: &Path, cache: &Path) -> Result<Self, StateError> {
        Ok(Self {
            client_id: read_or_create_key(&state.join("id"))?.to_string(),
            records: state.into(),
            adapters: cache.join("adapters"),
            kept: Mutex::default(),
            set_ups: SetUps::open(state, SetUpLimits::CLIENT),
            fetching: Default::default(),
        })
    }

    /// Returns self keeping so many set-ups of two parties.
    #[must_use]
    pub fn with_set_ups(mut self, limits: SetUpLimits) -> Self {
        self.set_ups = self.set_ups.limited(limits);
        self
    }

    /// Before a session is asked for: where the adapter is not here yet, one session fetches it and
    /// the others wait for that one. The guard is kept until the session stands.
    pub(super) fn fetch_turn(
        &self,
        parameters: &SessionParameters,
        spec: &ProgramSpec,
        correlations: Correlations,
    ) -> Option<MutexGuard<'_, ()>> {
        if self.kept(parameters, spec, correlations).is_some() {
            return None;
        }
        let turn = self.fetching[correlations as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Whoever had the turn before may have brought it.
        self.kept(parameters, spec, correlations)
            .is_none()
            .then_some(turn)
    }

    fn adapter_path(&self, parameters: &SessionParameters, correlations: Correlations) -> PathBuf {
        let kind = if correlations == Correlations::Preprocessed {
            ".ahead"
        } else {
            ""
        };
        let form = match parameters.private_products {
            PrivateProducts::Masks => "masked",
            PrivateProducts::Lattice => "encrypted",
        };
        self.adapters
            .join(format!("{}{kind}.{form}", parameters.partition_id))
    }

    /// The kept adapter, from memory or disk.
    pub(super) fn kept(
        &self,
        parameters: &SessionParameters,
        spec: &ProgramSpec,
        correlations: Correlations,
    ) -> Option<(String, HeldAdapter)> {
        let adapter =
            &mut self.kept.lock().unwrap_or_else(PoisonError::into_inner)[correlations as usize];
        if adapter.is_none() {
            let bytes = std::fs::read(self.adapter_path(parameters, correlations)).ok()?;
            *adapter = Some(HeldAdapter::read(parameters, spec, &bytes).ok()?);
        }
        adapter.clone()
    }

    pub(super) fn keep(
        &self,
        parameters: &SessionParameters,
        correlations: Correlations,
        digest: String,
        bytes: &[u8],
        adapter: HeldAdapter,
    ) -> Result<(), StateError> {
        replace_file(&self.adapter_path(parameters, correlations), bytes)?;
        let kept =
            &mut self.kept.lock().unwrap_or_else(PoisonError::into_inner)[correlations as usize];
        *kept = Some((digest, adapter));
        Ok(())
    }

    /// Where the records are.
    pub(crate) fn folder(&self) -> &Path {
        &self.records
    }

    /// Written before the seed is used; another process of this client may wait for a moment.
    pub(super) fn claim(&self, session: &str) -> Result<(), StateError> {
        Store::open(&self.records, WhenInUse::Wait)?.claim("e0", session)
    }
}
