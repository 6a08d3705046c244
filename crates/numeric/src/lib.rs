//! The numeric specification: what every secure operation means, as integers.
//!
//! Values are two's-complement fixed point in Z_{2^64}, held as `u64`. Every engine (cleartext
//! twin, dealer, three parties) returns exactly the integers that the functions of this crate
//! return. Nothing here reads the platform's floating-point library at run time except the encoding
//! of weights and boundary activations.
//!
//! - [`fixed`]: encoding, rounding, range checks
//! - [`tables`]: the committed tables (integer-only construction, pinned by a digest)
//! - [`approx`]: cheaper functions that a model may be trained to live with
//! - [`functions`]: exp, reciprocal, reciprocal square root, sigmoid, SiLU, GeLU on integers
//! - [`integer`]: comparison, ReLU, truncation and shifts as two parties compute them
//! - [`ring`]: matrix kernels over Z_{2^64}, chosen at run time, identical results
//! - [`spec`]: the scales and widths that fix a numeric format

pub mod approx;
pub mod fixed;
pub mod functions;
mod hex;
pub mod integer;
mod modules;
pub mod ring;
pub mod spec;
pub mod tables;

pub use approx::{ActivationForm, Approximations, SoftmaxForm};
pub use fixed::{NumericError, decode, encode, norm_bits, norm_rest, truncate};
pub use hex::{hex, unhex};
pub use modules::MODULES;
pub use ring::{PublicMatrix, RingTensor, Word};
pub use spec::{NumericSpec, Rounding};
