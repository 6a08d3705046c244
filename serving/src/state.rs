//! What a service remembers over restarts and crashes: who may use it, what they have used, which
//! sessions are used up.
//!
//! Everything that a server decides by goes through the trait [`State`]; [`FileState`] keeps it in
//! one folder, one process to a folder: keys in a text file that people edit, records in an
//! embedded database ([`store`]). SQLite would do the same, but its C source takes 43 CPU-seconds
//! to compile at the optimization level of the dependencies here. A fleet of servers needs an
//! implementation over a database that they share, and nothing else.

use crate::error::Refusal;
mod files;
mod keys;
mod store;
mod tables;
mod takeover;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};

use crate::error::StateError;
pub use crate::state::{
    files::FileState,
    keys::{KEYS_FILE, Key, Keys, Limits},
    store::{RECORDS_FILE, export},
};
pub(crate) use crate::state::{
    keys::KeyFile,
    store::{Store, WhenInUse},
};

/// SHA-256 of an API key: what is stored instead of the key.
pub type KeyDigest = [u8; 32];

/// The digest under which a key is known.
#[must_use]
pub fn key_digest(key: &str) -> KeyDigest {
    Sha256::digest(key.as_bytes()).into()
}

/// The rate limit of a key looks back this far.
pub(crate) const WINDOW: Duration = Duration::from_secs(60);

/// Whose session this is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub digest: KeyDigest,
    pub name: String,
}

/// The durable state of a server. Every method is safe to call from any thread; what it returned
/// `Ok` for is on disk.
pub trait State: Send + Sync {
    /// Records that `role` now uses `session`, once and for all.
    ///
    /// # Errors
    /// [`StateError::SessionUsed`] when it was recorded before, by any run; [`StateError::Io`].
    fn claim(&self, role: &str, session: &str) -> Result<(), StateError>;

    /// Whether [`Self::claim`] was called for this role and session.
    ///
    /// # Errors
    /// [`StateError::Io`].
    fn is_claimed(&self, role: &str, session: &str) -> Result<bool, StateError>;

    /// The principal of `key`; `Ok(Ok(None))` where no keys are asked for.
    ///
    /// # Errors
    /// [`StateError::Io`] when the keys cannot be read: nobody is served then.
    fn principal(
        &self,
        key: Option<&str>,
    ) -> Result<Result<Option<Principal>, Refusal>, StateError>;

    /// Counts a session against the principal's rate, and checks that budget is left.
    ///
    /// # Errors
    /// [`StateError::Io`].
    fn start_session(
        &self,
        principal: &Principal,
        now: SystemTime,
    ) -> Result<Result<(), Refusal>, StateError>;

    /// Charges `tokens` positions before they are computed. An aborted step stays charged.
    ///
    /// # Errors
    /// [`StateError::Io`].
    fn charge(
        &self,
        principal: &Principal,
        tokens: u64,
        now: SystemTime,
    ) -> Result<Result<(), Refusal>, StateError>;

    /// Whether the principal's key is still one, without a charge.
    ///
    /// # Errors
    /// [`StateError::Io`].
    fn check(&self, principal: &Principal) -> Result<Result<(), Refusal>, StateError>;

    /// Gives back tokens that were charged and never used.
    ///
    /// # Errors
    /// [`StateError::Io`].
    fn refund(&self, principal: &Principal, tokens: u64) -> Result<(), StateError>;
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |elapsed| elapsed.as_secs())
}
