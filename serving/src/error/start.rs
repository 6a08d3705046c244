//! Why a service does not start, or does not go on: addresses, certificates, threads.

use std::path::PathBuf;

use marill_net::NetError;

use crate::error::StateError;

/// An error of a service as a process.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    #[error("cannot listen on `{address}`: {source}")]
    Listen {
        address: String,
        source: std::io::Error,
    },
    /// The address of a listener that is no address to connect to.
    #[error("the connection to the service failed: {source}")]
    Endpoint { source: NetError },
    /// Plain text beyond this machine.
    #[error("{0}")]
    PlainText(NetError),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("`{}` cannot be used: {reason}\nhint: {hint}", path.display())]
    BadIdentity {
        path: PathBuf,
        reason: String,
        hint: String,
    },
    #[error(
        "a server without API keys answers anyone, who can then read the adapter out of the \
         protocol; on `{address}` that is the whole network\nhint: `marill keys add NAME` makes a \
         key, and `--allow-anonymous` serves everyone all the same"
    )]
    Anonymous { address: String },
    #[error(
        "a gateway without keys answers anyone, with this user's key and budget; on `{address}` \
         that is the whole network\nhint: `marill keys --keys FILE add NAME` makes a key, \
         `--keys FILE` asks for one, and `--allow-anonymous` answers everyone all the same"
    )]
    OpenGateway { address: String },
    #[error("{reason}")]
    Parties { reason: &'static str },
    #[error("the operating system gives no thread: {0}")]
    Thread(std::io::Error),
    #[error("a task of the service failed: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error(transparent)]
    State(#[from] StateError),
}
