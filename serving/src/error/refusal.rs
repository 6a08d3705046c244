//! Why a key is not served now.

use std::time::Duration;

/// Why a principal is not served now.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody, or nobody any more, has this key.
    #[error("the server asks for an API key that it knows")]
    Unknown,
    /// The budget is spent; it grows only when the owner raises it.
    #[error("this key's budget of {limit} tokens is too small for the next step")]
    BudgetSpent { limit: u64 },
    #[error(
        "this key is allowed {limit} {what} per minute; come back in {} s",
        retry_after.as_secs(),
    )]
    TooFast {
        what: &'static str,
        limit: u64,
        retry_after: Duration,
    },
}

impl Refusal {
    /// The `code` of an error object.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "invalid_api_key",
            Self::BudgetSpent { .. } => "budget_spent",
            Self::TooFast { .. } => "rate_limited",
        }
    }

    /// After how many seconds it makes sense to ask again.
    #[must_use]
    pub fn retry_after_seconds(&self) -> u64 {
        match self {
            Self::TooFast { retry_after, .. } => retry_after.as_secs(),
            _ => 3600,
        }
    }
}
