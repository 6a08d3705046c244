//! Shares of a matrix product of which the client has one factor and the server the other.
//!
//! # Functionality
//! The client holds vectors `r` of `columns` numbers modulo `2^bits`, the server a matrix `W` of
//! `rows` times `columns` factors. Both get additive shares modulo `2^bits` of `W r` for each
//! vector, exact: the client's from [`Client::finish`], the server's from [`Server::respond`],
//! which draws them. One message each way ([`Product::request_bytes`],
//! [`Product::response_bytes`]).
//!
//! # Packing
//! A ciphertext holds `v` vectors, `k·m` coefficients apart, `r_j` of one at `j`; a polynomial of
//! factors `k` rows, `m` apart, `W_ij` of one at `i m + m - 1 - j`. Then coefficient
//! `(b k + i) m + m - 1` of the product is row `i` times vector `b`: of all pairs of terms only
//! those of equal `j` meet there, and what wraps past `n` ends below `m - 1` (Huang et al.,
//! Cheetah, ePrint 2022/207, with several vectors). Long rows are cut into pieces whose products
//! add up. Of the layouts that fit, the one of fewest bytes is taken; both parties compute it from
//! the shape.
//!
//! # Security
//! Semi-honest. The request is pseudorandom to the server (RLWE). The response is an encryption of
//! the client's own share whose second polynomial is pseudorandom, and whose noise is within 2^-41
//! of noise that depends on public numbers alone, for each value: see `bfv.rs`. Lengths depend on
//! the shape. A client that sends malformed ciphertexts is outside the model.
//!
//! What the caller must keep: vectors that are masks are used in one product and then erased, also
//! where it failed; nothing decrypted is sent back.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    bfv::{
        Ciphertext, Factor, Factors, PublicKey, Rerandomized, SecretKey, Sum, ciphertext_bytes,
        switched_bytes,
    },
    error::LatticeError,
    parameters::ParameterSet,
    ring::Ring,
    sample::Randomness,
    wire::{TAG_BYTES, behind_tag},
};

const REQUEST: &str = "request of products";
const RESPONSE: &str = "response of products";

/// More rows, columns or vectors are cut by the caller.
const MOST: usize = 1 << 17;

/// A party holds whole messages; larger products are cut by the caller.
const MOST_BYTES: usize = 1 << 30;

/// The public shape of a product.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Product {
    set: ParameterSet,
    bits: u32,
    factors: Factors,
    rows: usize,
    columns: usize,
    vectors: usize,
    layout: Layout,
    flood: u32,
}

/// How vectors and rows lie in polynomials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Columns of a piece, and pieces of a row.
    piece: usize,
    pieces: usize,
    /// Vectors of a ciphertext, rows of a polynomial of factors.
    vectors: usize,
    rows: usize,
}

/// Where a product is about to be made: which numbers of a whole are in one polynomial.
struct Span {
    vectors: std::ops::Range<usize>,
    rows: std::ops::Range<usize>,
}

impl Product {
    /// Shares modulo `2^bits` of a matrix of `rows` times `columns` factors with `vectors` vectors.
    ///
    /// # Errors
    /// Widths or sizes out of range; noise that the set cannot hold.
    pub fn new(
        set: ParameterSet,
        bits: u32,
        factors: Factors,
        [rows, columns, vectors]: [usize; 3],
    ) -> Result<Self, LatticeError> {
        let range = |what, allowed, got: u64| Err(LatticeError::Range { what, allowed, got });
        if !(1..=64).contains(&bits) {
            return range("the width of plaintexts", "1 to 64 bits", bits.into());
        }
        let width = factors.width(bits);
        if !(1..=64).contains(&width) {
            return range("the width of factors", "1 to 64 bits", width.into());
        }
        for size in [rows, columns, vectors] {
            if !(1..=MOST).contains(&size) {
                return range("a side of a product", "1 to 131072", size as u64);
            }
        }
        let mut product = Self {
            set,
            bits,
            factors,
            rows,
            columns,
            vectors,
            layout: Layout {
                piece: 1,
                pieces: columns,
                vectors: 1,
                rows: 1,
            },
            flood: 0,
        };
        product.layout = product.cheapest();
        let layout = product.layout;
        for bytes in product.bytes(layout) {
            if bytes > MOST_BYTES {
                return range("a message", "1 GiB at most", bytes as u64);
            }
        }
        let count = layout.rows * layout.piece * layout.pieces;
        product.flood = factors.flood(set, bits, count)?;
        Ok(product)
    }

    fn cheapest(&self) -> Layout {
        let n = self.set.n();
        // More pieces than this cost more requests than they save responses.
        let few = self.columns.div_ceil(n);
        let candidates = (few..=self.columns.min(few + 63)).flat_map(|pieces| {
            let piece = self.columns.div_ceil(pieces);
            (1..=self.vectors.min(n / piece)).map(move |vectors| Layout {
                piece,
                pieces: self.columns.div_ceil(piece),
                vectors,
                rows: self.rows.min(n / (vectors * piece)),
            })
        });
        candidates
            .min_by_key(|layout| (self.bytes(*layout).iter().sum::<usize>(), layout.pieces))
            .expect("one row of a piece fits a polynomial")
    }

    /// Bytes of the request and of the response.
    fn bytes(&self, layout: Layout) -> [usize; 2] {
        let groups = self.vectors.div_ceil(layout.vectors);
        let ciphertext = ciphertext_bytes(self.set);
        // Full spans and the last one, with how many of each there are.
        let cut = |whole: usize, step: usize| [(step, whole / step), (whole % step, 1)];
        let mut results = 0;
        for (vectors, of_vectors) in cut(self.vectors, layout.vectors) {
            for (rows, of_rows) in cut(self.rows, layout.rows) {
                if vectors * rows > 0 {
                    let each = switched_bytes(self.set, self.bits, vectors * rows);
                    results += of_vectors * of_rows * each;
                }
            }
        }
        [
            TAG_BYTES + groups * layout.pieces * ciphertext,
            TAG_BYTES + results,
        ]
    }

    /// Bytes from the client to the server.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        self.bytes(self.layout)[0]
    }

    /// Bytes from the server to the client.
    #[must_use]
    pub fn response_bytes(&self) -> usize {
        self.bytes(self.layout)[1]
    }

    /// Ciphertexts up, result polynomials down.
    #[must_use]
    pub fn polynomials(&self) -> [usize; 2] {
        let groups = self.vectors.div_ceil(self.layout.vectors);
        let results = groups * self.rows.div_ceil(self.layout.rows);
        [groups * self.layout.pieces, results]
    }

    /// The results in the order of the response.
    fn spans(&self, layout: Layout) -> impl Iterator<Item = Span> + use<> {
        let rows = self.rows;
        let vectors = self.vectors;
        let cut = move |start: usize, step: usize, end: usize| start..(start + step).min(end);
        (0..vectors).step_by(layout.vectors).flat_map(move |first| {
            (0..rows).step_by(layout.rows).map(move |row| Span {
                vectors: cut(first, layout.vectors, vectors),
                rows: cut(row, layout.rows, rows),
            })
        })
    }

    /// Coefficients of a result, vector by vector, rows in order.
    fn positions(&self, span: &Span) -> Vec<usize> {
        let Layout { piece, rows, .. } = self.layout;
        let vector =
            |b: usize| (0..span.rows.len()).map(move |i| (b * rows + i) * piece + piece - 1);
        (0..span.vectors.len()).flat_map(vector).collect()
    }

    fn columns_of(&self, piece: usize) -> std::ops::Range<usize> {
        let first = piece * self.layout.piece;
        first..(first + self.layout.piece).min(self.columns)
    }

    fn tag(&self) -> [u8; TAG_BYTES] {
        let mut hash = Sha256::new_with_prefix(b"marill lattice product 1");
        hash.update(self.set.digest());
        let masks = u64::from(self.factors == Factors::Masks);
        let Layout {
            piece,
            pieces,
            vectors,
            rows,
        } = self.layout;
        let sizes = [
            self.rows,
            self.columns,
            self.vectors,
            piece,
            pieces,
            vectors,
            rows,
        ];
        let widths = [self.bits, self.factors.width(self.bits), self.flood].map(u64::from);
        for number in widths
            .into_iter()
            .chain([masks])
            .chain(sizes.map(|x| x as u64))
        {
            hash.update(number.to_le_bytes());
        }
        *hash.finalize().first_chunk().expect("a digest is longer")
    }
}

/// The side that encrypts.
#[derive(Debug)]
pub struct Client {
    pub(crate) key: SecretKey,
}

impl Client {
    /// A client with a fresh key.
    #[must_use]
    pub fn new(set: ParameterSet) -> Self {
        Self {
            key: SecretKey::generate(set),
        }
    }

    /// The secret key, to be kept between sessions where only its owner reads it: whoever else does
    /// decrypts all that was ever encrypted to it.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        self.key.to_bytes()
    }

    /// Reads what [`Self::to_bytes`] gave. Encryptions under it are fresh as before.
    ///
    /// # Errors
    /// Another length or set, what is no secret key.
    pub fn from_bytes(set: ParameterSet, bytes: &[u8]) -> Result<Self, LatticeError> {
        let key = SecretKey::from_bytes(set, bytes)?;
        Ok(Self { key })
    }

    /// What the server needs once, before the first request. Another one at each call, of the same
    /// secret.
    #[must_use]
    pub fn public_key(&self) -> Vec<u8> {
        self.key.public_key()
    }

    /// Encrypts `vectors` times `columns` numbers modulo `2^bits`, vector by vector.
    ///
    /// # Panics
    /// When there are more or fewer, or for a product of another parameter set.
    #[must_use]
    pub fn request(&self, product: &Product, r: &[u64]) -> Vec<u8> {
        assert_eq!(r.len(), product.vectors * product.columns, "whole vectors");
        assert_eq!(product.set, self.key.set(), "the key is of another set");
        let layout = product.layout;
        let mask = u64::MAX >> (64 - product.bits);
        let mut out = Vec::with_capacity(product.request_bytes());
        out.extend(product.tag());
        let mut plain = Zeroizing::new(vec![0; product.set.n()]);
        for group in r.chunks(layout.vectors * product.columns) {
            for piece in 0..layout.pieces {
                let columns = product.columns_of(piece);
                plain.fill(0);
                for (b, vector) in group.chunks(product.columns).enumerate() {
                    let first = b * layout.rows * layout.piece;
                    for (slot, x) in plain[first..].iter_mut().zip(&vector[columns.clone()]) {
                        *slot = x & mask;
                    }
                }
                self.key.encrypt(&mut out, product.bits, &plain);
            }
        }
        out
    }

    /// The client's shares from the response: `vectors` times `rows`, vector by vector.
    ///
    /// # Errors
    /// A message of another length or product, or bits where none belong.
    pub fn finish(
        &self,
        product: &Product,
        response: &[u8],
    ) -> Result<Zeroizing<Vec<u64>>, LatticeError> {
        let mut rest = behind_tag(response, product.response_bytes(), product.tag(), RESPONSE)?;
        let mut shares = Zeroizing::new(vec![0; product.vectors * product.rows]);
        for span in product.spans(product.layout) {
            let positions = product.positions(&span);
            let read = self
                .key
                .decrypt_switched(&mut rest, product.bits, &positions, RESPONSE)?;
            scatter(&mut shares, product.rows, &span, &read);
        }
        Ok(shares)
    }
}

/// Writes the values of a result where they belong.
fn scatter(out: &mut [u64], rows: usize, span: &Span, values: &[u64]) {
    for (b, values) in span.vectors.clone().zip(values.chunks(span.rows.len())) {
        out[b * rows..][span.rows.clone()].copy_from_slice(values);
    }
}

/// A matrix in the form that products take, transformed once. Erased when dropped.
pub struct Matrix {
    product: Product,
    /// By rows of a polynomial, then by pieces.
    polynomials: Vec<Factor>,
}

impl Matrix {
    /// `rows` times `columns` factors, row by row: signed numbers of the declared width, or masks,
    /// of which the lowest `bits` bits count.
    ///
    /// # Errors
    /// A factor wider than declared.
    ///
    /// # Panics
    /// When there are more or fewer.
    pub fn new(key: &PublicKey, product: &Product, factors: &[i64]) -> Result<Self, LatticeError> {
        assert_eq!(factors.len(), product.rows * product.columns, "whole rows");
        assert_eq!(product.set, key.set(), "the key is of another set");
        let spare = 64 - product.factors.width(product.bits);
        let cut = |w: i64| w << spare >> spare;
        if product.factors != Factors::Masks {
            // All are looked at, so that the time says nothing of them.
            let wide = factors.iter().fold(0, |wide, w| wide | (cut(*w) ^ w));
            if wide != 0 {
                return Err(LatticeError::Range {
                    what: "a factor",
                    allowed: "in the declared width",
                    got: u64::from(64 - spare),
                });
            }
        }
        let layout = product.layout;
        let mut polynomials = Vec::new();
        let mut plain = Zeroizing::new(vec![0; product.set.n()]);
        for rows in factors.chunks(layout.rows * product.columns) {
            for piece in 0..layout.pieces {
                let columns = product.columns_of(piece);
                plain.fill(0);
                for (i, row) in rows.chunks(product.columns).enumerate() {
                    let last = i * layout.piece + layout.piece - 1;
                    for (j, w) in row[columns.clone()].iter().enumerate() {
                        plain[last - j] = cut(*w);
                    }
                }
                polynomials.push(Factor::new(&key.ring, &plain));
            }
        }
        Ok(Self {
            product: product.clone(),
            polynomials,
        })
    }
}

/// The side that multiplies.
pub struct Server {
    key: PublicKey,
}

impl Server {
    /// Takes the client's public key.
    ///
    /// # Errors
    /// See [`PublicKey::from_bytes`].
    pub fn new(set: ParameterSet, public_key: &[u8]) -> Result<Self, LatticeError> {
        Ok(Self {
            key: PublicKey::from_bytes(set, public_key)?,
        })
    }

    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The response to a request, and the server's shares: `vectors` times `rows`, vector by
    /// vector, fresh and uniform.
    ///
    /// # Errors
    /// A message of another length or product, a residue that is not below its prime.
    pub fn respond(
        &self,
        matrix: &Matrix,
        request: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u64>>), LatticeError> {
        let product = &matrix.product;
        let layout = product.layout;
        let ring: &Ring = &self.key.ring;
        let mut rest = behind_tag(request, product.request_bytes(), product.tag(), REQUEST)?;
        let groups = product.vectors.div_ceil(layout.vectors);
        let ciphertexts = (0..groups * layout.pieces)
            .map(|_| Ciphertext::read(&mut rest, ring, REQUEST))
            .collect::<Result<Vec<_>, _>>()?;

        let mut out = Vec::with_capacity(product.response_bytes());
        out.extend(product.tag());
        let mut shares = Zeroizing::new(vec![0; product.vectors * product.rows]);
        for span in product.spans(layout) {
            let group = span.vectors.start / layout.vectors;
            let rows = span.rows.start / layout.rows;
            let mut sum = Sum::new(ring);
            for piece in 0..layout.pieces {
                let ciphertext = &ciphertexts[group * layout.pieces + piece];
                sum.add_product(
                    ring,
                    ciphertext,
                    &matrix.polynomials[rows * layout.pieces + piece],
                );
            }
            let own = self.give(&mut out, product, &span, sum.rerandomize(&self.key));
            scatter(&mut shares, product.rows, &span, &own);
        }
        Ok((out, shares))
    }

    /// Appends a result under fresh masks; gives what takes them away.
    fn give(
        &self,
        out: &mut Vec<u8>,
        product: &Product,
        span: &Span,
        result: Rerandomized,
    ) -> Zeroizing<Vec<u64>> {
        let positions = product.positions(span);
        let masks = Randomness::fresh().words(positions.len(), product.bits);
        result.switch(out, product.bits, &positions, &masks, product.flood);
        let low = u64::MAX >> (64 - product.bits);
        Zeroizing::new(masks.iter().map(|mask| mask.wrapping_neg() & low).collect())
    }
}

#[cfg(test)]
mod tests;
