//! Secure evaluation of the private layers of a decoder.
//!
//! One program ([`decoder`]), written against the [`engine::Engine`] trait, and several
//! interpreters of it:
//!
//! | interpreter | what a tensor is | file |
//! |---|---|---|
//! | [`Twin`] | the integers in clear: the definition | `twin.rs` |
//! | [`RealTwin`] | what the integers approximate, in floats | `real.rs` |
//! | evaluators E0, E1 | additive shares and masked wires | `masked.rs` |
//! | dealer | the masks of the wires; writes corrections | `masked.rs` |
//! | range | bounds; proves that nothing overflows | `range.rs` |
//! | tally | shapes; counts rounds and bytes | `masked.rs` |
//!
//! The crate is synchronous and free of files, sockets and floats at run time: sessions
//! ([`session`]) talk through [`marill_net::Channel`].

pub mod cost;
pub mod engine;
pub mod error;
mod kernels;
pub mod masked;
pub mod program;
pub mod reference;
pub mod sampling;
pub mod session;
pub mod spec;
pub mod tally;
pub mod testing;
pub mod weights;

pub use marill_crypto::{HashKey, Seed};

pub use crate::{
    cost::Traffic,
    error::ProtocolError,
    masked::{Comparison, PrecomputedStep, Precomputer},
    reference::{real::RealTwin, twin::Twin},
    sampling::{Sampling, Selection},
    session::{
        ClientSession, DealerSession, InputShare, OutsourcedSession, ServerSession, join_token,
    },
    spec::{Architecture, DecoderSpec, Pooling, PrivateForm, Reveal, SpecError},
    tally::{tally_by_label, tally_decode, tally_prefill, tally_step},
    weights::{
        AffineLayerFloats, HeadFloats, LayerFloats, LoraFloats, MapFloats, MaskedAdapter,
        MatrixMasks, NormFloats, PrivateWeights, PublicWeights,
    },
};
