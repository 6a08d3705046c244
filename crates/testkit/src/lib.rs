//! What tests of several crates share: small models, parties in one process or in many, and relays
//! that listen in or spoil frames.
//!
//! A development dependency only; a test of the workspace's shape sees to it that no build that
//! ships reaches it. Each crate asks for the features that its tests need, so that the secure
//! program's own tests compile without candle and without the services.

#[cfg(feature = "faults")]
pub mod faults;
#[cfg(feature = "models")]
pub mod models;
#[cfg(feature = "parties")]
pub mod parties;
#[cfg(feature = "processes")]
pub mod processes;
#[cfg(feature = "parties")]
pub mod proxy;
pub mod recipes;
#[cfg(feature = "parties")]
pub mod tampering_proxy;
#[cfg(feature = "sessions")]
pub mod world;
