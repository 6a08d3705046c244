//! The turns of a conversation in one session: which request each belongs to, as the log says.

use marill_net::Channel;
use tracing::span::EnteredSpan;

use super::{CLIENT, Connection};
use crate::{
    error::SessionError,
    log,
    messages::{Step, parse_turn},
};

/// What the log says of the turn that runs.
pub(super) struct Turns {
    partition: String,
    session: String,
    /// Whether the next frame is the first of a further turn.
    has_rested: bool,
    /// That of a turn which said its request's name; until then the session's own.
    named: Option<EnteredSpan>,
}

impl Turns {
    /// Of a session of this partition.
    pub(super) fn new(partition: &str, session: &str) -> Self {
        Self {
            partition: partition.into(),
            session: session.into(),
            has_rested: false,
            named: None,
        }
    }

    /// A further turn comes.
    pub(super) fn rested(&mut self) {
        self.has_rested = true;
    }

    /// The next step that the client announces; before the first one of a further turn it may say
    /// the name of its request.
    pub(super) fn next_step(&mut self, client: &mut Connection) -> Result<Step, SessionError> {
        let bad = |reason| SessionError::BadMessage {
            peer: CLIENT,
            reason,
        };
        let mut frame = client.recv().map_err(SessionError::net(CLIENT))?;
        if std::mem::take(&mut self.has_rested) {
            if let Some(id) = parse_turn(&frame).map_err(bad)? {
                // In place of the turn before.
                self.named = None;
                let span = log::request(&id, Some(&self.partition));
                span.record("session", self.session.as_str());
                self.named = Some(span.entered());
                frame = client.recv().map_err(SessionError::net(CLIENT))?;
            }
            tracing::info!("a session goes on");
        }
        Step::parse(&frame).map_err(bad)
    }
}
