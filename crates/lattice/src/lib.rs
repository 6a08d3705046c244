//! Products of secrets by lattices: one party encrypts its numbers once, the other multiplies by
//! its own, and both hold shares of the result modulo a power of two, exact.
//!
//! | what | type |
//! |---|---|
//! | a matrix of the server times vectors of the client | [`Product`], [`Matrix`] |
//! | the two parties | [`Client`], [`Server`] |
//! | products of masks that both parties share | [`SharedProduct`] |
//! | two-dimensional convolutions | [`Convolution`], [`ConvolutionShape`] |
//! | many products of vectors that are sent once, packed | [`Upload`], [`Batch`], [`PackingKeys`] |
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
//! Many products together take a fraction of the bytes: requests have no holes, and results of many
//! share a polynomial. Both parties name the same shapes; the server keeps an upload for as many
//! batches as take it.
//!
//! ```
//! use marill_lattice::{
//!     Batch, BatchProduct, Client, Factors, Input, PackingKeys, ParameterSet, Server, Term,
//!     Upload,
//! };
//!
//! let set = ParameterSet::N8192;
//! let client = Client::new(set);
//! let server = Server::new(set, &client.public_key())?;
//! // Once a session, for inputs of two vectors and more.
//! let keys = PackingKeys::from_bytes(set, 2, &client.packing_keys(2)?)?;
//!
//! // Two vectors of three numbers, and two of one number for a tall matrix, modulo 2^48.
//! let factors = Factors::Signed(8);
//! let tall = Input::of_columns(set, 48, factors, [2, 1])?;
//! let upload = Upload::new(set, 48, &[Input::new(2, 3), tall])?;
//! let product = |input, columns, rows| BatchProduct {
//!     terms: vec![Term { upload: 0, input, columns: 0..columns }],
//!     rows,
//!     factors,
//!     vectors: 0..2,
//! };
//! let batch = Batch::new(&[&upload], &[product(0, 3, 1), product(1, 1, 4)])?;
//!
//! let request = client.upload(&upload, &[&[10, 20, 30, 1, 2, 3], &[5, 6]]);
//! assert_eq!(request.len(), upload.request_bytes());
//! let received = server.receive(&upload, &request)?;
//! let matrices: [&[i64]; 2] = [&[1, -2, 3], &[1, 2, 3, 4]];
//! let (response, ours) = server.respond_batch(&batch, &keys, &[&received], &matrices)?;
//! assert_eq!(response.len(), batch.response_bytes());
//! let theirs = client.finish_batch(&batch, &response)?;
//!
//! let sum = |product: usize, at: usize| {
//!     theirs[product][at].wrapping_add(ours[product][at]) % (1 << 48)
//! };
//! // Vector by vector, rows in order.
//! assert_eq!([sum(0, 0), sum(0, 1)], [60, 6]);
//! assert_eq!([sum(1, 0), sum(1, 3), sum(1, 4), sum(1, 7)], [5, 20, 6, 24]);
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

mod batch;
mod bfv;
mod convolution;
mod error;
mod galois;
mod modulus;
mod ntt;
mod packing;
mod parameters;
mod product;
mod ring;
mod sample;
mod shared_product;
#[cfg(test)]
mod speed;
mod wire;

pub use batch::{Batch, BatchProduct, Input, Received, Term, Upload};
pub use bfv::{Factors, PublicKey};
pub use convolution::{Convolution, ConvolutionShape};
pub use error::LatticeError;
pub use galois::PackingKeys;
pub use parameters::ParameterSet;
pub use product::{Client, Matrix, Product, Server};
pub use shared_product::SharedProduct;
