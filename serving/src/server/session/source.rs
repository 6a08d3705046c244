//! Where a session's corrections come from, and what its steps still owe.

use marill_net::Channel;

use super::{CLIENT, Connection, DEALER};
use crate::{error::SessionError, messages::Step};

/// Where this session's corrections come from.
pub(super) enum CorrelationSource {
    /// The dealer, who hears of each step.
    Live(Connection),
    /// A file for a prompt of this bucket and so many tokens; the prompt was charged when the file
    /// was opened.
    Preprocessed {
        bucket: usize,
        tokens_left: usize,
        prompt_paid: bool,
    },
    /// There are none: client and server compute alone. Some decodes are prepared, and paid for.
    None { prepaid: u64 },
}

impl CorrelationSource {
    /// Before a step: the dealer is told of it, or the file must cover it.
    pub(super) fn announce(&mut self, step: Step) -> Result<(), SessionError> {
        let uncovered = |reason: String| {
            Err(SessionError::BadMessage {
                peer: CLIENT,
                reason,
            })
        };
        match (self, step) {
            (Self::Live(dealer), step) => dealer
                .send(step.encode())
                .map_err(SessionError::net(DEALER)),
            (Self::None { .. }, _) | (Self::Preprocessed { .. }, Step::Wait) => Ok(()),
            (Self::Preprocessed { .. }, Step::Extend { .. } | Step::DecodeBefore { .. }) => {
                uncovered("preprocessed correlations are for one token after the other".into())
            }
            (Self::Preprocessed { bucket, .. }, Step::Prefill { bucket: asked })
                if *bucket != asked =>
            {
                uncovered(format!(
                    "the preprocessed correlations are for a prompt of {bucket}, not of {asked}"
                ))
            }
            (Self::Preprocessed { tokens_left: 0, .. }, _) => {
                uncovered("the preprocessed correlations are used up".into())
            }
            (Self::Preprocessed { tokens_left, .. }, _) => {
                *tokens_left -= 1;
                Ok(())
            }
        }
    }

    /// The dealer, where it streams.
    pub(super) fn dealer(&self) -> Option<&Connection> {
        match self {
            Self::Live(dealer) => Some(dealer),
            _ => None,
        }
    }

    /// What a step that needs so many tokens has still to pay.
    pub(super) fn owed(&mut self, tokens: u64) -> u64 {
        match self {
            Self::None { prepaid } if tokens == 1 && *prepaid > 0 => {
                *prepaid -= 1;
                0
            }
            Self::Preprocessed {
                prompt_paid: paid @ true,
                ..
            } => {
                *paid = false;
                0
            }
            _ => tokens,
        }
    }

    pub(super) fn end(&mut self) {
        if let Self::Live(dealer) = self {
            let _ = dealer.send(Step::End.encode());
        }
    }
}
