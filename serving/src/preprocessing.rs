//! Preprocessed correlations: what a dealer would stream to a server during a session, in files.
//!
//! A file holds E1's correlations of one session and nothing of E0's: seed1, the adapter's mask and
//! the corrections of one prompt bucket and a number of tokens. It is sealed to the server:
//! ChaCha20-Poly1305 under a key that only who holds the server's X25519 key or the
//! dealer's `server.key` can derive, so that nobody else can read one or make one. E0 still gets
//! its seed from the dealer, over its own connection, when the session starts.
//!
//! One use, whatever is restored. The dealer keeps a key for each session in a [vault] outside its
//! state folder, and both halves need it: E0's seed lies encrypted in the dealer's folder, and the
//! file does not open without what the dealer releases. The key is erased before either is given
//! out, at the server's word that the session's client is there, proved to be it and charged. So a
//! server, a dealer and files that are set back to yesterday's state, each alone or all together,
//! open no used session, neither for another client nor for the one that kept its seed. Client and
//! server also record each session of their own before they use it.

pub(crate) mod seal;
pub(crate) mod store;
mod vault;

use marill_mpc::{ProgramSpec, Selection};
use serde::{Deserialize, Serialize};

pub(crate) use crate::preprocessing::vault::Vault;
pub use crate::preprocessing::{
    seal::{SealedCorrelations, SealingKey},
    store::{AvailableSession, CorrelationStore, Found},
};
use crate::terms::SessionParameters;

/// Version of files and orders.
pub(crate) const FORMAT: u32 = 3;

/// What a dealer needs to know to write files for a server; `marill serve DIR --request FILE`
/// writes it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreprocessRequest {
    pub format: u32,
    #[serde(rename = "terms")]
    pub parameters: SessionParameters,
    pub spec: ProgramSpec,
    pub private_sha256: String,
    /// The server's X25519 key, hexadecimal.
    pub server_key: String,
}

/// The readable head of a file; everything in it is bound to every sealed piece.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub format: u32,
    pub session: String,
    #[serde(rename = "terms")]
    pub parameters: SessionParameters,
    pub private_sha256: String,
    /// Padded length of the prompt.
    pub bucket: usize,
    /// Tokens of the answer, the prompt's own first one included.
    pub tokens: usize,
    /// How the tokens are chosen: each way is another program.
    pub selection: Selection,
    /// Corrections in the file, as the tally declares them.
    pub corrections_bytes: u64,
    /// One key pair a file: its public half, hexadecimal.
    pub ephemeral_key: String,
}
