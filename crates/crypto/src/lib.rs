//! Symmetric cryptography under every protocol: AES, pseudorandom streams, a tweakable hash and
//! distributed comparison functions.
//!
//! Nothing here knows a program, a party or a channel.

pub mod aes;
pub mod dcf;
pub mod prg;

pub use dcf::HashKey;
pub use prg::{Prg, Seed};
