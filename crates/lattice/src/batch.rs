//! Many products at once, that share ciphertexts and responses.
//!
//! # Functionality
//! The client sends vectors of numbers modulo `2^bits`, once ([`Upload`]); the server keeps them
//! ([`Received`]) for as many batches as take them. In a [`Batch`] the server multiplies matrices
//! of its factors with vectors of any uploads; both get additive shares modulo `2^bits` of each
//! product ([`BatchProduct`]), exact: the client's from [`Client::finish_batch`], the server's from
//! [`Server::respond_batch`], which draws them. Both compute shapes, layouts and lengths from
//! public numbers.
//!
//! # Layout
//! Of a ciphertext with `n` coefficients a column of an input (one number of each of its `v`
//! vectors, `v` a power of two or rounded up to one) takes `v` slots: one class of places modulo
//! `n / v`, vector `b` at `class + b n / v`. Columns of all inputs lie side by side, so requests
//! have no holes. Products are made in one of two ways:
//! - **by rows**: a factor of column `j` at `-class`: the coefficients at multiples of `n / v` are
//!   the row times all vectors, from any number of ciphertexts, all others are of no use. Such rows
//!   are merged into one polynomial, one automorphism a row (less where a polynomial is not full);
//! - **by columns**: a column is taken out of its ciphertext, one automorphism a column (and some
//!   more where few are taken), and multiplied by a polynomial with the factors of up to `n / v`
//!   rows: all coefficients are results.
//!
//! The one with fewer automorphisms is taken where its noise fits: by rows for 8 x 576, by columns
//! for 1536 x 8.
//!
//! # Masks that both share
//! With `S = S0 + S1` and `r = r0 + r1`, a half of each at each party, `S r` is each party's own
//! product ([`Batch::own_products`]) and two cross terms, `S0 r1` and `S1 r0`. Either party uploads
//! its half of that factor which is used more often, or which is smaller, and multiplies the
//! other's by its half of the other factor: the same [`Upload`] and [`Batch`] in both directions.
//! What is never encrypted is then free: queries of kept keys, weights of kept values, rows that
//! scalars scale.
//!
//! # Noise
//! By rows: that of a [`Product`](crate::Product) of as many factors, and what merging adds
//! ([`crate::packing`]). By columns the noise of taking a column out meets the factors of all rows
//! of a polynomial, `R = n / v` at most, since it is not zero between useful places. What a step at
//! depth `l` of `d` adds is turned by `2^(d-l)` automorphisms after it. Those of a place of
//! valuation `u` lie evenly over the polynomial: a window of `R` places has `2^(d-l) / v` of them,
//! or, where that is less, `2^(u-l)` that coincide. With the number of places of each valuation the
//! squares sum up to `4^(d-l) (R/v + d/2 + 1)` times the square of the largest factor, whatever
//! their signs. So the bound is nine deviations of the errors (which one key has for all columns),
//! times nine of the digits that they meet, times `sqrt(columns (R/v + d/2 + 1) (4^d - 1) / 3)`
//! factors. Wide factors are cut into digits of both signs, each for a multiple of its column
//! ([`Input::of_columns`]). The largest bound of a batch decides its flood.
//!
//! Masks are uniform, and so are their digits, independent of each other up to a carry and of all
//! errors: they have no bad signs. A window of `R` places has one useful place, of variance
//! `(4^d - 1) / 3`, and `R / 2^(u+1)` of valuation `u`, of variance `2^(d-u)` at most, together
//! `4^d · 2/3`, so that all have three times the useful one's. A uniform digit is sub-Gaussian with
//! its own variance, a third of the square of the largest, so the bound is nine deviations of
//! digits, times nine of what they meet at each place, times `sqrt(columns (4^d - 1) / 3)` of the
//! largest; and half of the bound above for a magnitude of one, since means are 1/2 at most, of
//! either sign.
//!
//! # Security
//! That of [`Product`](crate::Product): results are re-randomized after merging, then flooded,
//! masked and switched, and only useful coefficients of the first polynomial are sent. A kept
//! upload is bound to its shape and to the public key that it came with. What keys for packing rest
//! on: [`PackingKeys`].
//!
//! What the caller must keep: a *factor* that is a mask is used in one batch and then erased, also
//! where it failed. A mask of the client may be multiplied any number of times, since its
//! ciphertext stays one; as a mask of an opened value it is used once.
//!
//! [`Client::finish_batch`]: crate::Client::finish_batch
//! [`PackingKeys`]: crate::PackingKeys
//! [`Server::respond_batch`]: crate::Server::respond_batch

use std::ops::Range;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use crate::{
    bfv::{Factors, switched_bytes},
    error::LatticeError,
    galois::levels,
    packing::noise,
    parameters::ParameterSet,
    wire::TAG_BYTES,
};

mod client;
mod server;
mod upload;

use upload::{Column, Taken};
pub use {
    server::Received,
    upload::{Input, Upload},
};

const UPLOAD: &str = "request of a batch";
const RESPONSE: &str = "response of a batch";

/// Longer sides are cut by the caller.
const MOST: usize = 1 << 17;

/// A party holds whole messages; larger ones are cut by the caller.
const MOST_BYTES: usize = 1 << 30;

/// Columns of an input that a product takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// The upload, in the order in which a batch names them.
    pub upload: usize,
    pub input: usize,
    pub columns: Range<usize>,
}

/// A matrix of the server's factors, times vectors of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatchProduct {
    /// What its columns meet, one after the other: all of as many vectors.
    pub terms: Vec<Term>,
    pub rows: usize,
    pub factors: Factors,
    /// The vectors whose results are wanted.
    pub vectors: Range<usize>,
}

impl BatchProduct {
    /// Columns of its matrix.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.terms.iter().map(|term| term.columns.len()).sum()
    }

    /// Numbers that it gives.
    #[must_use]
    pub fn results(&self) -> usize {
        self.rows * self.vectors.len()
    }
}

/// A result of the way by rows: which slots of its polynomial a row takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Leaf {
    product: usize,
    row: usize,
    place: Column,
}

/// Results of the way by columns: rows of a product from a place of a polynomial.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Run {
    product: usize,
    rows: Range<usize>,
    vectors: usize,
    place: usize,
}

/// Where a value of a response belongs.
struct Value {
    place: usize,
    product: usize,
    at: usize,
}

/// The public shape of products that are made together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    set: ParameterSet,
    bits: u32,
    uploads: Vec<Upload>,
    products: Vec<BatchProduct>,
    /// By polynomial of the response: first those of merged rows, then those by columns.
    by_rows: Vec<Vec<Leaf>>,
    by_columns: Vec<Vec<Run>>,
    flood: u32,
    tag: [u8; TAG_BYTES],
}

impl Batch {
    /// Products with vectors of these uploads.
    ///
    /// # Errors
    /// Widths or sizes out of range, terms that are not there or of other vectors, noise that the
    /// set cannot hold, more than a gibibyte.
    ///
    /// # Panics
    /// Without an upload, or with uploads of several sets or widths.
    pub fn new(uploads: &[&Upload], products: &[BatchProduct]) -> Result<Self, LatticeError> {
        let set = uploads[0].set;
        let bits = uploads[0].bits;
        let same = uploads.iter().all(|u| u.set == set && u.bits == bits);
        assert!(same, "uploads of one set and width");
        let mut batch = Self {
            set,
            bits,
            uploads: uploads.iter().map(|u| (*u).clone()).collect(),
            products: products.to_vec(),
            by_rows: Vec::new(),
            by_columns: Vec::new(),
            flood: 0,
            tag: [0; TAG_BYTES],
        };
        let mut rows = Vec::new();
        let mut columns = Vec::new();
        for (at, product) in products.iter().enumerate() {
            let vectors = batch.check(product)?;
            let by_rows = batch.flood_by_rows(product, vectors);
            let taken = batch.taken_of(product);
            let by_columns = taken.flood(set, bits, product.factors, vectors);
            let fewer = taken.columns < product.rows;
            let flood = if fewer && by_columns.is_ok() {
                columns.push((at, vectors));
                by_columns
            } else {
                rows.push((at, vectors));
                by_rows
            };
            batch.flood = batch.flood.max(flood?);
        }
        batch.place_rows(rows);
        batch.place_columns(columns);
        batch.tag = batch.digest();
        let bytes = batch.response_bytes();
        if bytes > MOST_BYTES {
            return Err(LatticeError::Range {
                what: "a message",
                allowed: "1 GiB at most",
                got: bytes as u64,
            });
        }
        Ok(batch)
    }

    /// Vectors that a product's inputs have room for.
    fn check(&self, product: &BatchProduct) -> Result<usize, LatticeError> {
        let range = |what, allowed, got: usize| LatticeError::Range {
            what,
            allowed,
            got: got as u64,
        };
        let width = product.factors.width(self.bits);
        if !(1..=64).contains(&width) {
            return Err(range(
                "the width of factors",
                "1 to 64 bits",
                width as usize,
            ));
        }
        for size in [product.rows, product.columns()] {
            if !(1..=MOST).contains(&size) {
                return Err(range("a side of a product", "1 to 131072", size));
            }
        }
        let mut vectors = None;
        for term in &product.terms {
            let upload = self.uploads.get(term.upload);
            let input = upload.and_then(|upload| upload.inputs.get(term.input));
            let input = input.ok_or(range("an input", "one of an upload", term.input))?;
            if term.columns.start > term.columns.end || term.columns.end > input.columns {
                let end = term.columns.end;
                return Err(range("a column", "one of its input", end));
            }
            let wanted = &product.vectors;
            if wanted.start >= wanted.end || wanted.end > input.vectors {
                return Err(range("a vector", "one of its input", wanted.end));
            }
            if *vectors.get_or_insert(input.padded()) != input.padded() {
                let got = input.vectors;
                return Err(range("vectors of a product", "as many in each input", got));
            }
        }
        Ok(vectors.expect("a product has columns"))
    }

    fn flood_by_rows(&self, product: &BatchProduct, vectors: usize) -> Result<u32, LatticeError> {
        let own = product
            .factors
            .noise(self.set, self.bits, product.columns());
        let merged = noise(self.set, levels(self.set, vectors));
        product
            .factors
            .flood_above(self.set, self.bits, own + merged)
    }

    fn taken_of(&self, product: &BatchProduct) -> Taken {
        let width = product.factors.width(self.bits);
        let mut taken = Taken {
            columns: 0,
            width: 1,
        };
        for term in &product.terms {
            let input = self.uploads[term.upload].inputs[term.input];
            taken.columns += term.columns.len() * input.digits;
            taken.width = taken.width.max(input.widest(width));
        }
        taken
    }

    /// Slots of merged rows: those of most vectors first, as in an upload.
    fn place_rows(&mut self, mut products: Vec<(usize, usize)>) {
        let n = self.set.n();
        products.sort_by_key(|(_, vectors)| std::cmp::Reverse(*vectors));
        let mut slot = 0;
        for (product, vectors) in products {
            for row in 0..self.products[product].rows {
                if slot % n == 0 {
                    self.by_rows.push(Vec::new());
                }
                let place = Column {
                    ciphertext: slot / n,
                    vectors,
                    first: slot % n,
                };
                let leaf = Leaf {
                    product,
                    row,
                    place,
                };
                self.by_rows[slot / n].push(leaf);
                slot += vectors;
            }
        }
    }

    /// Places of rows by columns; polynomials have rows of one number of vectors.
    fn place_columns(&mut self, mut products: Vec<(usize, usize)>) {
        let n = self.set.n();
        products.sort_by_key(|(_, vectors)| std::cmp::Reverse(*vectors));
        let mut open = (0, 0);
        for (product, vectors) in products {
            let room = n / vectors;
            let mut first = 0;
            let rows = self.products[product].rows;
            while first < rows {
                if open.0 != vectors || open.1 == room {
                    self.by_columns.push(Vec::new());
                    open = (vectors, 0);
                }
                let end = rows.min(first + room - open.1);
                let run = Run {
                    product,
                    rows: first..end,
                    vectors,
                    place: open.1,
                };
                open.1 += end - first;
                first = end;
                self.by_columns.last_mut().expect("pushed").push(run);
            }
        }
    }

    fn digest(&self) -> [u8; TAG_BYTES] {
        let mut hash = Sha256::new_with_prefix(b"marill lattice batch 1");
        for upload in &self.uploads {
            hash.update(upload.tag);
        }
        let mut add = |number: usize| hash.update((number as u64).to_le_bytes());
        add(self.flood as usize);
        for product in &self.products {
            add(product.rows);
            add(product.factors.width(self.bits) as usize);
            add(usize::from(product.factors == Factors::Masks));
            add(product.vectors.start);
            add(product.vectors.end);
            add(product.terms.len());
            for term in &product.terms {
                add(term.upload);
                add(term.input);
                add(term.columns.start);
                add(term.columns.end);
            }
        }
        *hash.finalize().first_chunk().expect("a digest is longer")
    }

    /// The products, in the order in which they were named.
    #[must_use]
    pub fn products(&self) -> &[BatchProduct] {
        &self.products
    }

    /// The products of numbers that one party has itself, in clear and modulo `2^bits`: values of
    /// each input of each upload, factors of each product, as for the two parties.
    ///
    /// # Panics
    /// When there are more or fewer.
    #[must_use]
    pub fn own_products(
        &self,
        values: &[&[&[u64]]],
        factors: &[&[i64]],
    ) -> Vec<Zeroizing<Vec<u64>>> {
        assert_eq!(values.len(), self.uploads.len(), "values of each upload");
        assert_eq!(
            factors.len(),
            self.products.len(),
            "factors of each product"
        );
        let products = self.products.iter().zip(factors);
        products
            .map(|(product, factors)| self.own_product(product, values, factors))
            .collect()
    }

    fn own_product(
        &self,
        product: &BatchProduct,
        values: &[&[&[u64]]],
        factors: &[i64],
    ) -> Zeroizing<Vec<u64>> {
        let columns = product.columns();
        assert_eq!(factors.len(), product.rows * columns, "whole rows");
        let low = u64::MAX >> (64 - self.bits);
        let mut out = Zeroizing::new(Vec::with_capacity(product.results()));
        let mut vector = Zeroizing::new(Vec::with_capacity(columns));
        for b in product.vectors.clone() {
            vector.clear();
            for term in &product.terms {
                let width = self.uploads[term.upload].inputs[term.input].columns;
                let row = &values[term.upload][term.input][b * width..][..width];
                vector.extend_from_slice(&row[term.columns.clone()]);
            }
            for row in factors.chunks_exact(columns) {
                let terms = row.iter().zip(&*vector);
                let sum = terms.fold(0u64, |sum, (w, r)| {
                    sum.wrapping_add(r.wrapping_mul(*w as u64))
                });
                out.push(sum & low);
            }
        }
        out
    }

    /// Bytes from the server to the client.
    #[must_use]
    pub fn response_bytes(&self) -> usize {
        let wanted = |product: usize| self.products[product].vectors.len();
        let rows = self.by_rows.iter();
        let rows = rows.map(|leaves| leaves.iter().map(|leaf| wanted(leaf.product)).sum());
        let columns = self.by_columns.iter();
        let of_runs = |run: &Run| run.rows.len() * wanted(run.product);
        let columns = columns.map(|runs| runs.iter().map(of_runs).sum());
        let bytes = |values| switched_bytes(self.set, self.bits, values);
        TAG_BYTES + rows.chain(columns).map(bytes).sum::<usize>()
    }

    /// Polynomials of the response.
    #[must_use]
    pub fn polynomials(&self) -> usize {
        self.by_rows.len() + self.by_columns.len()
    }

    /// The fewest vectors of an input, which packing keys must be made for.
    #[must_use]
    pub fn least_vectors(&self) -> usize {
        let inputs = self.uploads.iter().flat_map(|upload| &upload.inputs);
        inputs.map(|input| input.padded()).min().unwrap_or(1)
    }

    /// Values of a merged polynomial, in the order of its response.
    fn values_of_rows(&self, leaves: &[Leaf]) -> Vec<Value> {
        let n = self.set.n();
        let mut values = Vec::new();
        for leaf in leaves {
            let product = &self.products[leaf.product];
            let class = leaf.place.class(n);
            for b in product.vectors.clone() {
                values.push(Value {
                    place: class + b * (n / leaf.place.vectors),
                    product: leaf.product,
                    at: (b - product.vectors.start) * product.rows + leaf.row,
                });
            }
        }
        values
    }

    /// Values of a polynomial by columns, in the order of its response.
    fn values_of_columns(&self, runs: &[Run]) -> Vec<Value> {
        let n = self.set.n();
        let mut values = Vec::new();
        for run in runs {
            let product = &self.products[run.product];
            for b in product.vectors.clone() {
                for (i, row) in run.rows.clone().enumerate() {
                    values.push(Value {
                        place: run.place + i + b * (n / run.vectors),
                        product: run.product,
                        at: (b - product.vectors.start) * product.rows + row,
                    });
                }
            }
        }
        values
    }
}

#[cfg(test)]
pub(crate) mod tests;
