//! The services around the protocol: dealer, server, the client's library, and the gateway on the user's machine.
//!
//! Only HTTP is asynchronous here. A session leaves the runtime with its upgraded connection and runs on a thread of
//! its own, because a protocol is a long chain of small rounds.

pub mod client;
pub mod dealer;
mod error;
pub mod gateway;
mod ledger;
pub mod local;
mod metrics;
pub mod server;
mod state;
pub mod tls;
pub mod web;
pub mod wire;

pub use error::ServingError;
pub use marill_net::Endpoint;
