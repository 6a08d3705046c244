//! The tables of the records.

use redb::TableDefinition;

use crate::state::KeyDigest;

/// `role session` to the second at which it was claimed.
pub(super) const SESSIONS: TableDefinition<'_, &str, u64> = TableDefinition::new("sessions");

/// What each key has used in all: tokens, sessions.
pub(super) const CHARGES: TableDefinition<'_, &KeyDigest, (u64, u64)> =
    TableDefinition::new("charges");

/// What each key has used in a second of the window.
pub(super) const RECENT: TableDefinition<'_, (&KeyDigest, u64), (u64, u64)> =
    TableDefinition::new("recent");

/// Earlier records that were taken over, by name and digest.
pub(super) const TAKEN_OVER: TableDefinition<'_, &str, u64> = TableDefinition::new("taken over");

/// What one key has used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Used {
    pub(super) tokens: u64,
    pub(super) sessions: u64,
}

impl From<(u64, u64)> for Used {
    fn from((tokens, sessions): (u64, u64)) -> Self {
        Self { tokens, sessions }
    }
}
