//! What can go wrong between the services: one enum for each concern, and one that holds them all.

mod client;
mod http;
mod peer;
mod preprocessing;
mod refusal;
mod session;
mod start;
mod state;

use marill_model::ModelError;
use marill_mpc::{ProtocolError, SpecError};
use marill_net::NetError;

pub(crate) use self::session::refused;
pub use self::{
    client::ClientError,
    http::HttpError,
    peer::{CLOSE_BUDGET, CLOSE_SLOW},
    preprocessing::PreprocessingError,
    refusal::Refusal,
    session::SessionError,
    start::StartError,
    state::StateError,
};

/// Whatever can go wrong, of a function that works in several rooms. No error carries text, token
/// ids or shares; each names the peer or the place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServingError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Preprocessing(PreprocessingError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Start(StartError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Partition(#[from] marill_partition::PartitionError),
}

/// An error of the state is one wherever it is met.
impl From<PreprocessingError> for ServingError {
    fn from(error: PreprocessingError) -> Self {
        match error {
            PreprocessingError::State(error) => Self::State(error),
            error => Self::Preprocessing(error),
        }
    }
}

/// As above.
impl From<StartError> for ServingError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::State(error) => Self::State(error),
            error => Self::Start(error),
        }
    }
}

impl From<ProtocolError> for ServingError {
    fn from(error: ProtocolError) -> Self {
        Self::Session(error.into())
    }
}

impl ServingError {
    /// What went wrong on the connection to the peer, where that is what failed.
    pub fn net_source(&self) -> Option<&NetError> {
        match self {
            Self::Session(error) => error.net_source(),
            _ => None,
        }
    }
}
