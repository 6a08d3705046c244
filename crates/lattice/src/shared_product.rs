//! Shares of a product of two matrices of random masks that are themselves shared.
//!
//! # Functionality
//! Client and server hold additive shares modulo `2^bits` of random `S` (`rows` times `columns`)
//! and of vectors `r` of `columns` numbers; both get shares of `S r` for each vector, exact. With
//! these a product of secrets costs openings only: of `x + r` and `Y + S` online. One row and one
//! vector are an inner product, one column an outer one, or a row times a scalar.
//!
//! # Protocol
//! `(S0 + S1)(r0 + r1)`: each party multiplies its own shares, and the two cross terms are a
//! [`Product`] each, in which the client encrypts and the server's masks are the factors. `S0 r1`
//! is made transposed, with the rows of `S0` as vectors. One message each way.
//!
//! # Security
//! That of [`Product`], message by message. The server's shares must be uniform and chosen without
//! regard to the request, as masks are: the bound on noise rests on it. Masks are used once.
//!
//! Sources: Beaver (CRYPTO '91); cross terms by one-sided encryption as in Rathee et al., Cheetah's
//! and CrypTFlow2's linear layers.

use zeroize::Zeroizing;

use crate::{
    bfv::Factors,
    error::LatticeError,
    parameters::ParameterSet,
    product::{Client, Matrix, Product, Server},
};

/// The public shape of a product of shared masks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedProduct {
    bits: u32,
    shape: [usize; 3],
    /// `S1 r0`; `S0 r1` transposed.
    by_right: Product,
    by_left: Product,
}

impl SharedProduct {
    /// Shares modulo `2^bits` of a matrix of `rows` times `columns` with `vectors` vectors.
    ///
    /// # Errors
    /// See [`Product::new`]; 48 bits are the most whose noise `N8192` holds in every shape.
    pub fn new(set: ParameterSet, bits: u32, shape: [usize; 3]) -> Result<Self, LatticeError> {
        let [rows, columns, vectors] = shape;
        Ok(Self {
            bits,
            shape,
            by_right: Product::new(set, bits, Factors::Masks, shape)?,
            by_left: Product::new(set, bits, Factors::Masks, [vectors, columns, rows])?,
        })
    }

    /// Bytes from the client to the server.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        self.by_right.request_bytes() + self.by_left.request_bytes()
    }

    /// Bytes from the server to the client.
    #[must_use]
    pub fn response_bytes(&self) -> usize {
        self.by_right.response_bytes() + self.by_left.response_bytes()
    }

    /// Encrypts the client's shares: `left` row by row, `right` vector by vector.
    ///
    /// # Panics
    /// See [`Client::request`].
    #[must_use]
    pub fn request(&self, client: &Client, [left, right]: [&[u64]; 2]) -> Vec<u8> {
        let mut out = client.request(&self.by_right, right);
        out.extend(client.request(&self.by_left, left));
        out
    }

    /// The response to a request, and the server's shares: `vectors` times `rows`, vector by
    /// vector.
    ///
    /// # Errors
    /// See [`Server::respond`].
    ///
    /// # Panics
    /// When there are more or fewer numbers than the shape says.
    pub fn respond(
        &self,
        server: &Server,
        [left, right]: [&[u64]; 2],
        request: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u64>>), LatticeError> {
        let parts = split(
            request,
            "request of products",
            [self.by_right.request_bytes(), self.by_left.request_bytes()],
        )?;
        let answer = |product: &Product, factors: &[u64], request: &[u8]| {
            let factors: Vec<i64> = factors.iter().map(|x| *x as i64).collect();
            let factors = Zeroizing::new(factors);
            let matrix = Matrix::new(server.key(), product, &factors)?;
            server.respond(&matrix, request)
        };
        let (mut out, straight) = answer(&self.by_right, left, parts[0])?;
        let (rest, transposed) = answer(&self.by_left, right, parts[1])?;
        out.extend(rest);
        Ok((out, self.gather(left, right, &straight, &transposed)))
    }

    /// The client's shares from the response: `vectors` times `rows`, vector by vector.
    ///
    /// # Errors
    /// See [`Client::finish`].
    pub fn finish(
        &self,
        client: &Client,
        [left, right]: [&[u64]; 2],
        response: &[u8],
    ) -> Result<Zeroizing<Vec<u64>>, LatticeError> {
        let parts = split(
            response,
            "response of products",
            [
                self.by_right.response_bytes(),
                self.by_left.response_bytes(),
            ],
        )?;
        let straight = client.finish(&self.by_right, parts[0])?;
        let transposed = client.finish(&self.by_left, parts[1])?;
        Ok(self.gather(left, right, &straight, &transposed))
    }

    /// A party's own product and its shares of the cross terms.
    fn gather(
        &self,
        left: &[u64],
        right: &[u64],
        straight: &[u64],
        transposed: &[u64],
    ) -> Zeroizing<Vec<u64>> {
        let [rows, columns, vectors] = self.shape;
        let low = u64::MAX >> (64 - self.bits);
        let mut out = Zeroizing::new(straight.to_vec());
        for (b, out) in out.chunks_mut(rows).enumerate() {
            for (i, out) in out.iter_mut().enumerate() {
                let row = left[i * columns..].iter();
                let terms = row.zip(&right[b * columns..][..columns]);
                let own = terms.fold(transposed[i * vectors + b], |sum, (s, r)| {
                    sum.wrapping_add(s.wrapping_mul(*r))
                });
                *out = out.wrapping_add(own) & low;
            }
        }
        out
    }
}

/// Two messages in one, of exactly these lengths.
fn split<'m>(
    bytes: &'m [u8],
    message: &'static str,
    [first, second]: [usize; 2],
) -> Result<[&'m [u8]; 2], LatticeError> {
    if bytes.len() != first + second {
        return Err(LatticeError::Length {
            message,
            expected: first + second,
            got: bytes.len(),
        });
    }
    Ok(bytes.split_at(first).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Randomness;

    const SET: ParameterSet = ParameterSet::N8192;

    #[test]
    fn products_of_shared_masks_are_exact() {
        let client = Client::new(SET);
        let server = Server::new(SET, &client.public_key()).unwrap();
        // An inner product, scores and weighted values of a head, an outer product, scaled rows.
        for shape in [
            [1, 64, 1],
            [128, 64, 3],
            [64, 128, 3],
            [64, 1, 64],
            [576, 1, 2],
        ] {
            for bits in [32, 48] {
                let product = SharedProduct::new(SET, bits, shape).unwrap();
                let [rows, columns, vectors] = shape;
                let mut randomness = Randomness::fresh();
                let mut draw = |n| randomness.words(n, bits);
                let left = [draw(rows * columns), draw(rows * columns)];
                let right = [draw(columns * vectors), draw(columns * vectors)];

                let request = product.request(&client, [&left[0], &right[0]]);
                assert_eq!(request.len(), product.request_bytes());
                let own = [&left[1][..], &right[1][..]];
                let (response, second) = product.respond(&server, own, &request).unwrap();
                assert_eq!(response.len(), product.response_bytes());
                let own = [&left[0][..], &right[0][..]];
                let first = product.finish(&client, own, &response).unwrap();

                let low = u64::MAX >> (64 - bits);
                let sum = |x: &[Zeroizing<Vec<u64>>; 2], at: usize| x[0][at].wrapping_add(x[1][at]);
                for b in 0..vectors {
                    for i in 0..rows {
                        let exact = (0..columns).fold(0u64, |all, j| {
                            let s: u64 = sum(&left, i * columns + j);
                            all.wrapping_add(s.wrapping_mul(sum(&right, b * columns + j)))
                        });
                        let at = b * rows + i;
                        assert_eq!(first[at].wrapping_add(second[at]) & low, exact & low);
                    }
                }
            }
        }
    }

    /// The figures of `docs/lattices.md`.
    #[test]
    fn bytes_are_those_of_the_page() {
        for (shape, bytes) in [
            ([1, 64, 1], [307_296, 118_830]),
            ([128, 64, 1], [307_296, 120_448]),
            ([64, 128, 1], [307_296, 119_632]),
            ([576, 1, 1], [307_296, 126_160]),
            ([64, 1, 64], [307_296, 171_040]),
        ] {
            let product = SharedProduct::new(SET, 48, shape).unwrap();
            let declared = [product.request_bytes(), product.response_bytes()];
            assert_eq!(declared, bytes, "{shape:?}");
        }
    }

    #[test]
    fn messages_of_another_length_are_refused() {
        let client = Client::new(SET);
        let server = Server::new(SET, &client.public_key()).unwrap();
        let product = SharedProduct::new(SET, 48, [1, 8, 1]).unwrap();
        let mut request = product.request(&client, [&[1; 8], &[2; 8]]);
        request.push(0);
        let refused = product.respond(&server, [&[1; 8], &[2; 8]], &request).err();
        assert!(matches!(refused, Some(LatticeError::Length { .. })));
        let refused = product.finish(&client, [&[1; 8], &[2; 8]], &[]).err();
        assert!(matches!(refused, Some(LatticeError::Length { .. })));
    }
}
