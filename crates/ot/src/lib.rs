//! Oblivious transfer between two parties, and what comparisons are made of: random transfers
//! hashed to bits, correlated transfers modulo a power of two, bit triples.
//!
//! # Functionality
//! The parties E0 and E1 hold base transfers ([`base`]), made once and, where both keep them, used
//! again ([`keep`]). A [`Session`] expands them to any number of correlated transfers in both
//! directions ([`softspoken`], [`silent`]; both parties name the same one, [`plan`], or let link
//! and machines choose, [`choose`]), hashes those at once to the bits that a protocol needs
//! ([`stock`]), and spends them ([`transfer`]). What depends on no input can be made before an
//! input is there ([`Session::prepare`]); what is missing is made when it is asked for.
//!
//! # Security
//! Semi-honest, 128 bits computational; transfers have no statistical error. A source of transfers
//! says in its type what it withstands ([`source::Security`]). Choices and messages are never
//! branched on, nor used as an index. What is made is used once and erased when dropped; a vector
//! that grew leaves its earlier place to the allocator, so a program that holds secrets should wipe
//! what is freed, with [`marill_crypto::wipe`], as `marill` does. Messages are not authenticated:
//! [`Session::confirm`] notices any that the link changed, and a peer that deviates is outside the
//! model.
//!
//! # Errors
//! A message of another length, a point off the curve, parameters that differ, or a silent peer are
//! an [`OtError`]; nothing of a session is usable after one.

pub mod base;
pub mod bits;
pub mod choose;
mod error;
mod ggm;
pub mod hash;
#[cfg(feature = "insecure-ideal")]
pub mod insecure;
pub mod keep;
pub mod link;
pub mod plan;
pub mod session;
pub mod silent;
pub mod softspoken;
pub mod source;
pub mod stock;
pub mod transfer;
mod transpose;
pub mod world;

pub use base::{BaseId, BaseOts};
pub use bits::{BitReader, BitWriter, Bits};
pub use choose::{Choice, Chosen, Conditions};
pub use error::OtError;
pub use link::{Link, Party, Phase, Traffic};
pub use plan::{AnySource, Extension, Plan};
pub use session::Session;
pub use silent::{LpnSet, Silent};
pub use softspoken::SoftSpoken;
pub use source::{SemiHonest, Source};
pub use stock::{Kind, Needs};
