//! Symmetric cryptography under every protocol: AES, pseudorandom streams, a tweakable hash and
//! distributed comparison functions; and the allocator that wipes what held secrets.
//!
//! Nothing here knows a program, a party or a channel.

pub mod aes;
pub mod dcf;
pub mod prg;
pub mod wipe;

pub use dcf::HashKey;
pub use prg::{Prg, Seed};
