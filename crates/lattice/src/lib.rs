//! Products of secrets by lattices: one party encrypts its numbers once, the other multiplies by
//! its own, and both hold shares of the result modulo a power of two, exact.
//!
//! | what | type |
//! |---|---|
//! | a matrix of the server times vectors of the client | [`Product`], [`Matrix`] |
//! | the two parties | [`Client`], [`Server`] |
//! | products of masks that both parties share | [`SharedProduct`] |
//! | what the server needs of the client's key | [`PublicKey`] |
//! | ring, primes and what they withstand | [`ParameterSet`] |
//!
//! Messages are plain bytes, one each way, of a length that the shape decides; how they travel is
//! the caller's.
//!
//! ```
//! use marill_lattice::{Client, Factors, Matrix, ParameterSet, Product, Server};
//!
//! let set = ParameterSet::N8192;
//! let client = Client::new(set);
//! let server = Server::new(set, &client.public_key())?;
//!
//! // Two rows of three factors of 8 bits, one vector, modulo 2^48.
//! let product = Product::new(set, 48, Factors::Signed(8), [2, 3, 1])?;
//! let matrix = Matrix::new(server.key(), &product, &[1, -2, 3, 0, 0, 100])?;
//! let request = client.request(&product, &[10, 20, 30]);
//! let (response, server_shares) = server.respond(&matrix, &request)?;
//! let client_shares = client.finish(&product, &response)?;
//!
//! let sum = |row: usize| client_shares[row].wrapping_add(server_shares[row]) % (1 << 48);
//! assert_eq!([sum(0), sum(1)], [60, 3000]);
//! # Ok::<(), marill_lattice::LatticeError>(())
//! ```
//!
//! # Security
//! Semi-honest. 128 bits computational at least, from RLWE ([`ParameterSet`] has the estimates);
//! 2^-41 statistical for each value that a response gives. Fresh randomness is the operating
//! system's. No branch, index or division depends on a secret. Keys, plaintexts and shares are
//! erased when dropped; copies in registers and in the stack of a call are not. Messages are not
//! authenticated: that is the channel's.
//!
//! A secret key never leaves its owner. Nothing that the owner decrypts may go back to the server:
//! a ciphertext that was tampered with would then tell of the key.

mod bfv;
mod error;
mod modulus;
mod ntt;
mod parameters;
mod product;
mod ring;
mod sample;
mod shared_product;
#[cfg(test)]
mod speed;
mod wire;

pub use bfv::{Factors, PublicKey};
pub use error::LatticeError;
pub use parameters::ParameterSet;
pub use product::{Client, Matrix, Product, Server};
pub use shared_product::SharedProduct;
