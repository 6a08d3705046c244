//! What can go wrong while a program runs.

use marill_lattice::LatticeError;
use marill_net::NetError;
use marill_numeric::NumericError;
use marill_ot::OtError;

/// What can go wrong while a program runs. Every variant says where; none says what a share was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProtocolError {
    #[error("lost the peer in step `{label}`: {source}")]
    Peer {
        label: &'static str,
        source: NetError,
    },
    #[error("lost the dealer: {0}")]
    Dealer(NetError),
    #[error("the peer sent {got} bytes in step `{label}` where {expected} belong")]
    Frame {
        label: &'static str,
        expected: usize,
        got: usize,
    },
    #[error("the client gave no input")]
    MissingInput,
    #[error(
        "an earlier step of this session failed, and its masks are spent: open another session"
    )]
    Spent,
    #[error("the session would pass the {limit} positions that this model serves")]
    TooLong { limit: usize },
    #[error("overflow in step: {0}")]
    Range(NumericError),
    #[error("this partition reveals {revealed} and nothing else")]
    Reveal { revealed: &'static str },
    #[error("the session compares with DCF, and the connection from the dealer to E0 is missing")]
    NoDcfKeys,
    #[error("{0}")]
    TwoParty(OtError),
    #[error(transparent)]
    Lattice(#[from] LatticeError),
    #[error("the setting `2pc` does not support {what}")]
    Unsupported { what: &'static str },
    #[error("private products by lattice do not support {what}")]
    NoLattice { what: &'static str },
    #[error("the peer prepares {steps} tokens at once, and 1 to {most} are allowed")]
    Preparation { steps: usize, most: usize },
    #[error("the adapter does not belong to this model")]
    AdapterMismatch,
}

impl From<OtError> for ProtocolError {
    fn from(error: OtError) -> Self {
        match error {
            OtError::Peer { step, source } => Self::Peer {
                label: step,
                source,
            },
            OtError::Frame {
                step,
                expected,
                got,
            } => Self::Frame {
                label: step,
                expected,
                got,
            },
            other => Self::TwoParty(other),
        }
    }
}

/// Result of an operation that talks to a peer.
pub type ProtocolResult<T> = Result<T, ProtocolError>;
