//! Secure evaluation of the private layers of a language model.
//!
//! One program ([`program`]), written against the [`engine::Engine`] trait, and several
//! interpreters of it:
//!
//! | interpreter | what a tensor is | file |
//! |---|---|---|
//! | [`Twin`] | the integers in clear: the definition | `reference/twin.rs` |
//! | [`RealTwin`] | what the integers approximate, in floats | `reference/real.rs` |
//! | evaluators E0, E1 | additive shares and masked wires | `masked.rs` |
//! | dealer | the masks of the wires; writes corrections | `masked.rs` |
//! | E0, E1 without a dealer | additive shares, oblivious transfer | `two_party.rs` |
//! | range | bounds; proves that nothing overflows | `reference/range.rs` |
//! | tally | shapes; counts rounds and bytes | `masked.rs` |
//!
//! The crate is synchronous and free of files, sockets and floats at run time: sessions
//! ([`session`]) talk through [`marill_net::Channel`].
//!
//! Shares and masks live in tensors and temporaries that the crate does not erase where they are
//! dropped: a program that runs a session installs [`marill_crypto::wipe::WipingAllocator`], which
//! overwrites whatever is freed, moved vectors included. Seeds and keys erase themselves.
//!
//! The tokens that a secure session must give, from the integers in clear:
//!
//! ```
//! use marill_mpc::{
//!     Twin,
//!     random_model::{gaussian, random_weights, tiny_spec},
//! };
//!
//! let spec = tiny_spec();
//! let (public, private) = random_weights(&spec, 1);
//! let mut twin = Twin::new(public, private);
//! // Three rows of activations, in the fixed point in which they enter.
//! let prompt = spec.encode(&gaussian(1, "prompt", 3 * spec.hidden_size, 1.0))?;
//! let first = twin.prefill(&prompt)?;
//! let next = twin.decode(&prompt[..spec.hidden_size])?;
//! assert!(first < 100 && next < 100, "a vocabulary of 100");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod cost;
pub mod engine;
pub mod error;
mod kernels;
pub mod masked;
pub mod program;
pub mod random_model;
pub mod reference;
pub mod sampling;
pub mod session;
pub mod spec;
pub mod tally;
pub mod two_party;
pub mod weights;

pub use marill_crypto::{HashKey, Seed};

pub use crate::{
    cost::Traffic,
    error::ProtocolError,
    masked::{
        AdapterKey, Comparison, EncryptedAdapter, PrecomputedStep, Precomputer, PrivateProducts,
    },
    reference::{
        real::RealTwin,
        twin::{Twin, TwinBeginning},
    },
    sampling::{Sampling, Selection},
    session::{
        ClientSession, DealerSession, InputShare, OutsourcedSession, ServerSession, join_token,
    },
    spec::{Architecture, Pooling, PrivateForm, ProgramSpec, QkNorm, Reveal, SpecError, Variant},
    tally::{tally_by_label, tally_decode, tally_prefill, tally_step, tally_with},
    two_party::{Extension, TwoParty, tally_two_party},
    weights::{
        AffineLayerFloats, HeadFloats, LayerFloats, LoraFloats, MapFloats, MaskedAdapter,
        MatrixMasks, NormFloats, PrivateWeights, PublicWeights,
    },
};
