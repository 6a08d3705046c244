//! What can go wrong with keys, products and messages.

/// What can go wrong. No variant says what was secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LatticeError {
    #[error("a {message} has {got} bytes where {expected} belong")]
    Length {
        message: &'static str,
        expected: usize,
        got: usize,
    },
    #[error("a {message} is malformed: {reason}")]
    Malformed {
        message: &'static str,
        reason: &'static str,
    },
    #[error(
        "a {message} was made with other parameters\n\
         hint: both parties must name the same product, the same parameter set and version"
    )]
    Parameters { message: &'static str },
    #[error("{what} must be {allowed}, not {got}")]
    Range {
        what: &'static str,
        allowed: &'static str,
        got: u64,
    },
    #[error(
        "the noise of this product needs {needed} bits of the {available} that are there\n\
         hint: fewer plaintext bits, smaller factors or `ParameterSet::N8192`"
    )]
    Noise { needed: u32, available: u32 },
}
