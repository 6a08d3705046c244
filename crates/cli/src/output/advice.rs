//! What a person can do about a failed service: a hint where there is one, and whose fault it is.

use std::io::ErrorKind;

use marill_net::NetError;
use marill_serving::{ClientError, ServingError, SessionError, StartError, StateError};

use crate::output::failure::BadInput;

/// Adds the hint; errors about what the user handed in become [`BadInput`].
pub fn advise(error: impl Into<ServingError>) -> anyhow::Error {
    let error = error.into();
    let hint = match &error {
        ServingError::Session(error) => session_hint(error),
        ServingError::Start(StartError::Listen { .. }) => {
            "choose another port with `--port`, or 0 for a free one"
        }
        ServingError::State(StateError::LedgerInUse { .. }) => {
            "give each process a folder of its own with `--state`"
        }
        ServingError::State(StateError::Io { source, .. })
            if source.kind() == ErrorKind::StorageFull =>
        {
            "free space on that disk; what was written there before is whole"
        }
        ServingError::Client(ClientError::PromptTooLong { .. }) => "shorten the prompt",
        _ => "",
    };
    let is_input = matches!(
        error,
        ServingError::Client(ClientError::PromptTooLong { .. } | ClientError::PromptEmpty)
            | ServingError::Partition(_)
            | ServingError::Model(_)
            | ServingError::Spec(_)
    );
    let error = match hint {
        "" => anyhow::Error::new(error),
        hint => anyhow::anyhow!("{error}\nhint: {hint}"),
    };
    if is_input {
        BadInput(error).into()
    } else {
        error
    }
}

fn session_hint(error: &SessionError) -> &'static str {
    match error {
        SessionError::Net {
            peer: "server",
            source: NetError::Unreachable { .. },
        } => "start it with `marill serve DIR`, or name another one",
        SessionError::Net {
            peer: "dealer",
            source: NetError::Unreachable { .. },
        } => "start it with `marill dealer`, or name another one with `--dealer`",
        SessionError::NoParty => {
            "ask the model's owner who runs `marill party`, and name it with `--party`"
        }
        SessionError::Mismatch { field: "e0", .. } => {
            "`--party` and `marill serve --e0 party` belong together"
        }
        SessionError::Mismatch {
            field: "setting", ..
        } => "leave `--setting` away for the one that the server offers, or ask its owner",
        SessionError::Mismatch { .. } => {
            "client, server and dealer need the same version of `marill`"
        }
        SessionError::NoCorrelations => "leave `--correlations` away",
        SessionError::NoComparison => "leave `--comparison` away",
        SessionError::NoDcf { .. } => {
            "leave it to `--comparison auto`, or ask for `--comparison one-hot`"
        }
        _ => "",
    }
}
