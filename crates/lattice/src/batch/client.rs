//! The client of a batch: what it sends, and its shares.

use zeroize::Zeroizing;

use super::{Batch, RESPONSE, Upload, Value};
use crate::{error::LatticeError, galois::levels, product::Client, wire::behind_tag};

impl Client {
    /// What the server needs once to pack products with inputs of `vectors` vectors and more:
    /// [`PackingKeys::bytes`](crate::PackingKeys::bytes) long.
    ///
    /// # Errors
    /// A key of `N4096`, which has no room for them.
    pub fn packing_keys(&self, vectors: usize) -> Result<Vec<u8>, LatticeError> {
        self.key.packing_keys(levels(self.key.set(), vectors))
    }

    /// Encrypts the vectors of each input, modulo `2^bits`, vector by vector.
    ///
    /// # Panics
    /// When there are more or fewer, or for an upload of another parameter set.
    #[must_use]
    pub fn upload(&self, upload: &Upload, values: &[&[u64]]) -> Vec<u8> {
        assert_eq!(values.len(), upload.inputs.len(), "values of each input");
        assert_eq!(upload.set, self.key.set(), "the key is of another set");
        let n = upload.set.n();
        let mask = u64::MAX >> (64 - upload.bits);
        let mut plain = Zeroizing::new(vec![0; upload.ciphertexts * n]);
        for (at, (input, values)) in upload.inputs.iter().zip(values).enumerate() {
            assert_eq!(values.len(), input.vectors * input.columns, "whole vectors");
            for j in 0..input.columns * input.digits {
                let [j, digit] = [j / input.digits, j % input.digits];
                let column = upload.column(at, j, digit);
                let first = column.ciphertext * n + column.class(n);
                let shift = digit as u32 * input.digit_bits;
                for b in 0..input.vectors {
                    let value = values[b * input.columns + j].unbounded_shl(shift) & mask;
                    plain[first + b * (n / column.vectors)] = value;
                }
            }
        }
        let mut out = Vec::with_capacity(upload.request_bytes());
        out.extend(upload.tag);
        for plain in plain.chunks_exact(n) {
            self.key.encrypt(&mut out, upload.bits, plain);
        }
        out
    }

    /// The client's shares of each product: the wanted vectors times `rows`, vector by vector.
    ///
    /// # Errors
    /// A message of another length or batch, or bits where none belong.
    pub fn finish_batch(
        &self,
        batch: &Batch,
        response: &[u8],
    ) -> Result<Vec<Zeroizing<Vec<u64>>>, LatticeError> {
        let expected = batch.response_bytes();
        let mut rest = behind_tag(response, expected, batch.tag, RESPONSE)?;
        let mut shares = batch.empty_shares();
        let rows = batch.by_rows.iter();
        let rows = rows.map(|leaves| batch.values_of_rows(leaves));
        let columns = batch.by_columns.iter();
        let columns = columns.map(|runs| batch.values_of_columns(runs));
        for values in rows.chain(columns) {
            let places: Vec<usize> = values.iter().map(|value| value.place).collect();
            let read = self
                .key
                .decrypt_switched(&mut rest, batch.bits, &places, RESPONSE)?;
            scatter(&mut shares, &values, &read);
        }
        Ok(shares)
    }
}

impl Batch {
    pub(super) fn empty_shares(&self) -> Vec<Zeroizing<Vec<u64>>> {
        let products = self.products.iter();
        products
            .map(|product| Zeroizing::new(vec![0; product.results()]))
            .collect()
    }
}

/// Writes the values of a polynomial where they belong.
pub(super) fn scatter(shares: &mut [Zeroizing<Vec<u64>>], values: &[Value], numbers: &[u64]) {
    for (value, number) in values.iter().zip(numbers) {
        shares[value.product][value.at] = *number;
    }
}
