//! The services around the protocol: dealer, server, the client's library, and the gateway on the
//! user's machine.
//!
//! Only HTTP is asynchronous here. A session leaves the runtime with its upgraded connection and
//! runs on a thread of its own, because a protocol is a long chain of small rounds.

pub mod client;
mod compat;
mod connections;
pub mod dealer;
mod error;
pub mod gateway;
pub mod kept;
pub mod local;
pub mod log;
pub mod messages;
mod metrics;
mod pace;
pub mod party;
pub mod preprocessing;
pub mod probe;
mod ready;
mod request_id;
mod secret_files;
pub mod server;
mod service;
mod set_ups;
mod slots;
pub mod state;
pub mod terms;
pub mod ticket;
pub mod tls;
pub mod web;
pub mod wipe;

pub use marill_net::Endpoint;

pub use crate::{
    error::{ClientError, PreprocessingError, ServingError, SessionError, StartError, StateError},
    set_ups::SetUpLimits,
};
