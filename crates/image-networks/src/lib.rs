//! Image classifiers between two parties: the client has an image, the server trained weights, and
//! the client alone learns the class.
//!
//! | what | type |
//! |---|---|
//! | ResNet-50 and DenseNet-121, of any image, width and classes | [`resnet50`], [`densenet121`] |
//! | a network as a list of layers | [`Network`], [`Layer`], [`Op`], [`Format`] |
//! | the server's integers, from a file or a seed | [`from_safetensors`], [`Weights`] |
//! | the integer program in clear | [`twin::run`] |
//! | protocols and what they cost | [`Plan`] |
//! | one party | [`run`], [`Input`] |
//!
//! # Construction
//! That of CrypTFlow2 (Rathee et al., CCS '20) with ciphertexts for linear layers, as Cheetah
//! (Huang et al., ePrint 2022/207): both parties hold additive shares modulo `2^bits` of every
//! layer. A convolution multiplies the client's share under its key
//! ([`marill_lattice::Convolution`]) and the server's in clear. ReLU, truncation, pooling, division
//! and arg-max are protocols on oblivious transfers ([`marill_two_party`]). Every layer equals the
//! integer program, bit for bit.
//!
//! What costs less here than there, at the same integers: ReLU and the truncation behind it are
//! one gate; a max-pool goes before them, since both grow with their argument; shortcuts are added
//! at the scale of products, so that nothing is truncated for them; an average over `2^k` values is
//! a change of scale; DenseNet's batch norms before ReLUs are folded forwards, see
//! [`Op::SidedRelu`].
//!
//! # Security
//! Semi-honest, 128 bits computational, 2^-41 statistical for each value of a convolution's
//! response; what [`marill_lattice`] and [`marill_two_party`] promise. Both learn the network's
//! shapes and the format; the client the class. Weights, biases, batch norms and their signs stay
//! the server's, the image and all activations nobody's.

mod convolve;
mod error;
mod graph;
mod party;
mod plan;
mod shapes;
pub mod twin;
mod weights;

pub use self::{
    error::NetworkError,
    graph::{Format, Kernel, Layer, Network, Op},
    party::{Input, run},
    plan::Plan,
    shapes::{Size, densenet121, resnet50},
    weights::{LayerWeights, Weights, from_safetensors},
};
