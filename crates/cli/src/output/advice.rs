//! What a person can do about a failed service: a hint where there is one, and whose fault it is.

use std::io::ErrorKind;

use marill_net::NetError;
use marill_serving::ServingError;

use crate::output::failure::BadInput;

/// Adds the hint; errors about what the user handed in become [`BadInput`].
pub fn advise(error: ServingError) -> anyhow::Error {
    let hint = match &error {
        ServingError::Net {
            peer: "server",
            source: NetError::Unreachable { .. },
        } => "start it with `marill serve DIR`, or name another one",
        ServingError::Net {
            peer: "dealer",
            source: NetError::Unreachable { .. },
        } => "start it with `marill dealer`, or name another one with `--dealer`",
        ServingError::Listen { .. } => "choose another port with `--port`, or 0 for a free one",
        ServingError::LedgerInUse { .. } => "give each process a folder of its own with `--state`",
        ServingError::NoParty => {
            "ask the model's owner who runs `marill party`, and name it with `--party`"
        }
        ServingError::Mismatch { field: "e0", .. } => {
            "`--party` and `marill serve --e0 party` belong together"
        }
        ServingError::Mismatch { .. } => {
            "client, server and dealer need the same version of `marill`"
        }
        ServingError::NoDcf { .. } => {
            "leave it to `--comparison auto`, or ask for `--comparison one-hot`"
        }
        ServingError::PromptTooLong { .. } => "shorten the prompt",
        ServingError::Io { source, .. } if source.kind() == ErrorKind::StorageFull => {
            "free space on that disk; what was written there before is whole"
        }
        _ => "",
    };
    let is_input = matches!(
        error,
        ServingError::PromptTooLong { .. }
            | ServingError::PromptEmpty
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
