//! Spellings of the version before, which are still read, and words of the protocol that keep them.

/// How a party other than the client is called as E0 in session parameters and `/v1/models`.
pub(crate) const E0_PARTY: &str = "operator";

/// Where servers of the version before open the stream of corrections.
pub(crate) const CORRECTIONS_PATH: &str = "/v1/source";

/// Where clients of the version before receive DCF keys.
pub(crate) const DCF_KEYS_PATH: &str = "/v1/words";

/// Where clients of the version before open a session at a computing party.
pub(crate) const PARTY_PATH: &str = "/v1/evaluate";
