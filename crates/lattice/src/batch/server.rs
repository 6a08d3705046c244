//! The server of a batch: what it keeps of uploads, and its response.

use std::{collections::BTreeMap, ops::Range};

use rayon::prelude::*;
use zeroize::Zeroizing;

use super::{Batch, Column, Leaf, TAG_BYTES, UPLOAD, Upload, Value, client::scatter};
use crate::{
    bfv::{Ciphertext, Factor, Factors, Packed, Rerandomized, Sum},
    error::LatticeError,
    galois::PackingKeys,
    packing::{merge, split},
    product::Server,
    ring::Ring,
    sample::Randomness,
    wire::behind_tag,
};

/// Vectors of a client as the server keeps them, for any number of batches: ciphertexts of its
/// key, in transformed form, 384 KiB each.
pub struct Received {
    tag: [u8; TAG_BYTES],
    key: [u8; 32],
    ciphertexts: Vec<Ciphertext>,
}

/// A product's factors, cut to their width.
struct Checked {
    columns: usize,
    factors: Zeroizing<Vec<i64>>,
}

/// A product that takes a column out: which column of its own it is, and for which digit.
struct User {
    product: usize,
    column: usize,
    digit: usize,
    /// Digits of a factor, and their bits.
    digits: (usize, u32),
}

impl User {
    /// The digit of a factor: of both signs, what is left in the last.
    fn digit_of(&self, mut w: i64) -> i64 {
        let (digits, bits) = self.digits;
        let spare = 64 - bits;
        for _ in 0..self.digit {
            let low = w << spare >> spare;
            w = w.wrapping_sub(low) >> bits;
        }
        if self.digit + 1 == digits {
            w
        } else {
            w << spare >> spare
        }
    }
}

impl Server {
    /// Reads what [`Client::upload`](crate::Client::upload) made.
    ///
    /// # Errors
    /// Another length or shape, a residue that is not below its prime.
    pub fn receive(&self, upload: &Upload, request: &[u8]) -> Result<Received, LatticeError> {
        let ring: &Ring = &self.key().ring;
        let mut rest = behind_tag(request, upload.request_bytes(), upload.tag, UPLOAD)?;
        let ciphertexts = (0..upload.ciphertexts)
            .map(|_| Ciphertext::read(&mut rest, ring, UPLOAD))
            .collect::<Result<_, _>>()?;
        Ok(Received {
            tag: upload.tag,
            key: self.key().id,
            ciphertexts,
        })
    }

    /// The response to a batch, and the server's shares of each product: the wanted vectors times
    /// `rows`, vector by vector, fresh and uniform. Factors are row by row: signed numbers of the
    /// declared width, or masks, of which the lowest `bits` bits count.
    ///
    /// # Errors
    /// Uploads of another shape or key, keys of fewer levels, a factor wider than declared.
    ///
    /// # Panics
    /// When there are more or fewer uploads, matrices or factors.
    pub fn respond_batch(
        &self,
        batch: &Batch,
        keys: &PackingKeys,
        uploads: &[&Received],
        factors: &[&[i64]],
    ) -> Result<(Vec<u8>, Vec<Zeroizing<Vec<u64>>>), LatticeError> {
        assert_eq!(uploads.len(), batch.uploads.len(), "all uploads");
        for (shape, upload) in batch.uploads.iter().zip(uploads) {
            if shape.tag != upload.tag || self.key().id != upload.key {
                return Err(LatticeError::Parameters { message: UPLOAD });
            }
        }
        let needed = crate::galois::levels(batch.set, batch.least_vectors());
        if keys.levels() < needed {
            return Err(LatticeError::Range {
                what: "the levels of packing keys",
                allowed: "those of the fewest vectors of a batch",
                got: keys.levels().into(),
            });
        }
        let work = Work {
            server: self,
            batch,
            keys,
            uploads,
            factors: batch.checked(factors)?,
        };
        let mut out = Vec::with_capacity(batch.response_bytes());
        out.extend(batch.tag);
        let mut shares = batch.empty_shares();
        let whole = |leaves: &Vec<Leaf>| {
            let merged = work.merged(leaves, 0..batch.set.n());
            merged.expect("a polynomial has rows")
        };
        let (by_rows, by_columns) = rayon::join(
            || batch.by_rows.par_iter().map(whole).collect::<Vec<_>>(),
            || work.by_columns(),
        );
        for (leaves, merged) in batch.by_rows.iter().zip(by_rows) {
            let values = batch.values_of_rows(leaves);
            let result = merged.rerandomize(self.key());
            work.give(&mut out, &mut shares, &values, result);
        }
        for (runs, sum) in batch.by_columns.iter().zip(by_columns) {
            let values = batch.values_of_columns(runs);
            let result = sum.rerandomize(self.key());
            work.give(&mut out, &mut shares, &values, result);
        }
        Ok((out, shares))
    }
}

impl Batch {
    fn checked(&self, factors: &[&[i64]]) -> Result<Vec<Checked>, LatticeError> {
        assert_eq!(
            factors.len(),
            self.products.len(),
            "factors of each product"
        );
        let mut out = Vec::with_capacity(factors.len());
        for (product, factors) in self.products.iter().zip(factors) {
            let columns = product.columns();
            assert_eq!(factors.len(), product.rows * columns, "whole rows");
            let width = product.factors.width(self.bits);
            let spare = 64 - width;
            let cut = |w: &i64| *w << spare >> spare;
            if product.factors != Factors::Masks {
                // All are looked at, so that the time says nothing of them.
                let wide = factors.iter().fold(0, |wide, w| wide | (cut(w) ^ w));
                if wide != 0 {
                    return Err(LatticeError::Range {
                        what: "a factor",
                        allowed: "in the declared width",
                        got: width.into(),
                    });
                }
            }
            let factors = Zeroizing::new(factors.iter().map(cut).collect());
            out.push(Checked { columns, factors });
        }
        Ok(out)
    }

    /// What products by columns take out of each ciphertext, by number of vectors and first slot.
    fn taken(&self) -> BTreeMap<(usize, usize, usize), Columns> {
        let mut taken: BTreeMap<_, Columns> = BTreeMap::new();
        let mut before = None;
        for run in self.by_columns.iter().flatten() {
            if before.replace(run.product) == Some(run.product) {
                continue;
            }
            let mut at = 0;
            for term in &self.products[run.product].terms {
                let upload = &self.uploads[term.upload];
                let input = upload.inputs[term.input];
                for j in term.columns.clone() {
                    for digit in 0..input.digits {
                        let column = upload.column(term.input, j, digit);
                        let of = (term.upload, column.ciphertext, column.vectors);
                        let users = taken.entry(of).or_default().entry(column.first);
                        users.or_default().push(User {
                            product: run.product,
                            column: at,
                            digit,
                            digits: (input.digits, input.digit_bits),
                        });
                    }
                    at += 1;
                }
            }
        }
        taken
    }
}

/// By first slot, who takes the column there.
type Columns = BTreeMap<usize, Vec<User>>;

/// One response in the making.
struct Work<'a> {
    server: &'a Server,
    batch: &'a Batch,
    keys: &'a PackingKeys,
    uploads: &'a [&'a Received],
    factors: Vec<Checked>,
}

impl Work<'_> {
    fn ring(&self) -> &Ring {
        &self.server.key().ring
    }

    /// A row times all vectors at multiples of `n / vectors`, over as many halves as merging
    /// doubles it.
    fn row(&self, leaf: &Leaf) -> Packed {
        let n = self.batch.set.n();
        let ring = self.ring();
        let checked = &self.factors[leaf.product];
        let mut factors = checked.factors[leaf.row * checked.columns..].iter();
        let mut polynomials: BTreeMap<_, Zeroizing<Vec<(usize, bool, i64)>>> = BTreeMap::new();
        for term in &self.batch.products[leaf.product].terms {
            for (j, w) in term.columns.clone().zip(&mut factors) {
                let column = self.batch.uploads[term.upload].column(term.input, j, 0);
                // X^-class is -X^(n - class).
                let class = column.class(n);
                let number = ((n - class) % n, class != 0, *w);
                let of = (term.upload, column.ciphertext);
                polynomials.entry(of).or_default().push(number);
            }
        }
        let mut sum = Sum::new(ring);
        for ((upload, ciphertext), numbers) in &polynomials {
            let factor = Factor(ring.sparse(numbers, leaf.place.depth(n)));
            let ciphertext = &self.uploads[*upload].ciphertexts[*ciphertext];
            sum.add_product(ring, ciphertext, &factor);
        }
        sum.pack(ring)
    }

    /// The rows of these slots in one polynomial; none where there are none.
    fn merged(&self, leaves: &[Leaf], slots: Range<usize>) -> Option<Packed> {
        let n = self.batch.set.n();
        let at = leaves.partition_point(|leaf| leaf.place.first < slots.start);
        let leaf = leaves
            .get(at)
            .filter(|leaf| slots.contains(&leaf.place.first))?;
        if leaf.place.vectors == slots.len() {
            return Some(self.row(leaf));
        }
        let middle = slots.start + slots.len() / 2;
        let (even, odd) = rayon::join(
            || self.merged(leaves, slots.start..middle),
            || self.merged(leaves, middle..slots.end),
        );
        let even = even?;
        let depth = (n / slots.len()).ilog2();
        Some(merge(self.keys, depth, even, odd))
    }

    /// Sums of the polynomials by columns.
    fn by_columns(&self) -> Vec<Sum> {
        let n = self.batch.set.n();
        let ring = self.ring();
        let polynomials = self.batch.by_columns.iter();
        let mut sums: Vec<Sum> = polynomials.map(|_| Sum::new(ring)).collect();
        for ((upload, ciphertext, vectors), columns) in self.batch.taken() {
            let mut whole = self.uploads[upload].ciphertexts[ciphertext].to_packed(ring);
            let depth = (n / vectors).ilog2();
            ring.halve(&mut whole.c0, depth);
            ring.halve(&mut whole.c1, depth);
            let all = Column {
                ciphertext,
                vectors,
                first: 0,
            };
            self.take(&mut sums, &columns, all, 0..n, &whole);
        }
        sums
    }

    /// Takes columns out of what is left of a ciphertext: these slots.
    fn take(
        &self,
        sums: &mut [Sum],
        columns: &Columns,
        of: Column,
        slots: Range<usize>,
        rest: &Packed,
    ) {
        let Some((_, users)) = columns.range(slots.clone()).next() else {
            return;
        };
        if slots.len() == of.vectors {
            return self.multiply(sums, users, rest);
        }
        let depth = (self.batch.set.n() / slots.len()).ilog2();
        let middle = slots.start + slots.len() / 2;
        let halves = [slots.start..middle, middle..slots.end];
        let wanted = halves.each_ref().map(|half| {
            let mut inside = columns.range(half.clone());
            inside.next().is_some()
        });
        let parts = split(self.keys, depth, rest, wanted);
        for (half, part) in halves.into_iter().zip(&parts) {
            if let Some(part) = part {
                self.take(sums, columns, of, half, part);
            }
        }
    }

    /// Adds a column, times the factors that meet it, to every polynomial.
    fn multiply(&self, sums: &mut [Sum], users: &[User], column: &Packed) {
        let ring = self.ring();
        let column = column.to_ciphertext(ring);
        for (runs, sum) in self.batch.by_columns.iter().zip(sums) {
            let mut numbers = Zeroizing::new(Vec::new());
            for user in users {
                let checked = &self.factors[user.product];
                for run in runs.iter().filter(|run| run.product == user.product) {
                    for (i, row) in run.rows.clone().enumerate() {
                        let w = checked.factors[row * checked.columns + user.column];
                        numbers.push((run.place + i, false, user.digit_of(w)));
                    }
                }
            }
            if !numbers.is_empty() {
                let factor = Factor(ring.sparse(&numbers, 0));
                sum.add_product(ring, &column, &factor);
            }
        }
    }

    /// Appends a result under fresh masks and keeps what takes them away.
    fn give(
        &self,
        out: &mut Vec<u8>,
        shares: &mut [Zeroizing<Vec<u64>>],
        values: &[Value],
        result: Rerandomized,
    ) {
        let bits = self.batch.bits;
        let places: Vec<usize> = values.iter().map(|value| value.place).collect();
        let masks = Randomness::fresh().words(places.len(), bits);
        result.switch(out, bits, &places, &masks, self.batch.flood);
        let low = u64::MAX >> (64 - bits);
        let own = masks.iter().map(|mask| mask.wrapping_neg() & low);
        let own: Zeroizing<Vec<u64>> = Zeroizing::new(own.collect());
        scatter(shares, values, &own);
    }
}

/// Sums of a batch of one product by columns, for measuring noise.
#[cfg(test)]
pub(super) fn sums_by_columns(
    server: &Server,
    batch: &Batch,
    keys: &PackingKeys,
    upload: &Received,
    factors: &[i64],
) -> Vec<Sum> {
    let work = Work {
        server,
        batch,
        keys,
        uploads: &[upload],
        factors: batch.checked(&[factors]).unwrap(),
    };
    work.by_columns()
}
