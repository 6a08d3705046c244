//! What can go wrong on the user's machine: the prompt, and what was downloaded.

use std::path::PathBuf;

use marill_partition::PartitionError;

/// An error of the client's own, before or beside a session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    #[error("the prompt is empty")]
    PromptEmpty,
    #[error("the prompt is {tokens} tokens, and {limit} fit with at least one token of answer")]
    PromptTooLong { tokens: usize, limit: usize },
    #[error("the model's template leaves out the turn that is to be continued")]
    NoContinuation,
    #[error(
        "what was downloaded is damaged: {source}\n\
         hint: delete `{}`, and it is fetched again", folder.display()
    )]
    BadCache {
        folder: PathBuf,
        source: Box<PartitionError>,
    },
    #[error("`{what}` has the digest {got}, the server announced {expected}")]
    Digest {
        what: String,
        expected: String,
        got: String,
    },
}
