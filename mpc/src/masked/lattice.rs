//! Private LoRA updates without a mask of the adapter: products with E0's masks, made by lattices
//! before the step that takes them.
//!
//! # Functionality
//! E1 holds `A`, `B`; E0 reveals `x` to E1 ([`crate::masked::reveal`]) under a mask `r` of its own.
//! They get additive shares of `B·(A·x)`. The dealer takes no part.
//!
//! # Protocol
//! Once: E1 sends encryptions of `A` and `B` under a key of its own ([`AdapterKey`]); E0 keeps them
//! ([`EncryptedAdapter`]) for all its sessions.
//! - Before a step E0 draws `r`, multiplies `A` by it under encryption and sends what E1 decrypts:
//!   `A·r = a_0 + a_1`, a share each, `a_0` uniform and E0's own. In the same message it sends
//!   `B·a_0 = b_0 + b_1` ([`steps`]).
//! - In the step E1 sees `x + r` and holds `u = A·(x + r) - a_1 = A·x + a_0`, so that
//!   `B·u - b_1` and `-b_0` are shares of `B·(A·x)` ([`update`]). Nothing else is sent for it.
//!
//! # Who learns what
//! E0 sees ciphertexts, beside the openings of every session: of a client that follows the protocol
//! the adapter rests on RLWE ([`marill_lattice`]). E1 decrypts `a_1` and `b_1`, which are uniform
//! by E0's own `a_0` and `b_0`, with a noise that is flooded and a first polynomial that is
//! re-randomized; then it sees `x + r`, uniform by `r`. The dealer sees neither `r` nor anything of
//! the adapter.
//!
//! Against parties that deviate it promises less than masks do. An E0 that sends what is no
//! response makes E1 decrypt it: a chosen second polynomial gives numbers of the secret key, which
//! go into E1's share, so into the token. At 24 bits per step all 8,192 digits of the key, 13
//! kilobits, take some 540 steps, and with the key the ciphertexts open; an E0 that is also the
//! dealer reads them behind an opening of one step. An E1 that makes its keys or ciphertexts
//! otherwise than it should can make `r` come out, thus `x`: by noise of unknown size, or by a
//! public key that hides nothing.
//!
//! A client that is also the dealer knows every mask of its own sessions, so it still sees what is
//! opened there, and following the protocol it can solve for `B·A` over many tokens. What ends is
//! that it reads `A` and `B` at once by following the protocol.
//!
//! # What is used once
//! `r`, `a_0` and `b_0` are drawn for one row of one step, and gone with it: [`Preparing`] gives
//! each step once, and a step that fails takes its session with it.
//!
//! Source: Gilboa (CRYPTO '99) with RLWE in place of transfers, as in Juvekar et al. (GAZELLE,
//! USENIX Security '18) and Mishra et al. (Delphi, USENIX Security '20, section 4.1), the model's
//! owner as the one who encrypts.

mod keys;
mod pieces;
mod shape;
mod steps;
mod update;

use serde::{Deserialize, Serialize};

#[cfg(test)]
pub(super) use self::pieces::PIECE;
pub(super) use self::steps::Preparing;
pub use self::{
    keys::{AdapterKey, EncryptedAdapter},
    pieces::prepared_bytes,
};

/// How private LoRA updates of public maps are made, where there is a dealer. One of the session
/// parameters: all parties take the same.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrivateProducts {
    /// With masks of the adapter, which server and dealer expand; the client holds it masked.
    #[default]
    Masks,
    /// With encryptions of the adapter, which the client holds.
    Lattice,
}

impl PrivateProducts {
    pub const ALL: [Self; 2] = [Self::Masks, Self::Lattice];

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Masks => "masks",
            Self::Lattice => "lattice",
        }
    }

    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.as_str() == text)
    }

    /// Whether it is the usual one.
    #[must_use]
    pub fn is_masks(&self) -> bool {
        *self == Self::Masks
    }
}
