//! Full-rank weights as the private part: an ordinary full fine-tune of the private layers.
//!
//! E1 holds `W` as 16-bit integers with a scale per row, both secret; E0 holds
//! `Ŵ = W·2^shift + R_W mod 2^k`, once for a partition, with masks that E1 and the dealer expand
//! from the adapter seed. What the gate makes of them stands in `masked/private_matrix.rs`.
//!
//! # How wide the mask is
//! `k` is the width of the ring in which the product is used: 64 bits for LLaMA's queries, keys and
//! values, which are rotated before their truncation, and 56 for every other map. E0 computes
//! `-Ŵ·[r]_0`, whose error against `-W·[r]_0` must be exactly `R_W·[r]_0` modulo `2^k`, and `[r]_0`
//! is uniform, so that every bit of `Ŵ` below `k` counts. With row scales known to everyone, the
//! `shift` lowest bits would be zero and `k - shift` bits would do (46 to 48 of 56); the scales are
//! kept secret instead, since they tell the size of every row's largest weight. A mask that is
//! wider than the weights by a statistical margin alone (16 + 40 bits) would be as long as this
//! exact one.

use std::sync::Arc;

use marill_crypto::{Prg, Seed};
use marill_numeric::PublicMatrix;
use rayon::prelude::*;

use crate::{
    spec::{MapSpec, ProgramSpec, SpecError},
    weights::PublicMap,
};

/// A private matrix and what is added to its product, in clear: E1's.
pub(crate) struct FullRankMap {
    /// In the format of public matrices; the norm's gain and the softmax scale are folded in.
    pub(crate) matrix: PublicMatrix,
    /// The bias at the scale of the product, with what the map makes of its norm's bias; empty
    /// where there is none.
    pub(crate) row: Vec<u64>,
}

impl From<PublicMap> for FullRankMap {
    fn from(PublicMap { matrix, bias }: PublicMap) -> Self {
        Self { matrix, row: bias }
    }
}

impl FullRankMap {
    /// `Ŵ` modulo `2^bits`, of the mask `R_W`.
    fn masked(&self, bits: u32, mask: Vec<u64>) -> Vec<u64> {
        let cols = self.matrix.cols();
        let modulus = marill_numeric::fixed::low_mask(bits);
        let mut masked = mask;
        masked.par_iter_mut().enumerate().for_each(|(i, word)| {
            let weight = ring_weight(&self.matrix, i / cols, i % cols);
            *word = word.wrapping_add(weight) & modulus;
        });
        masked
    }

    /// Its weights as they multiply, row by row.
    pub(crate) fn weights(&self) -> Vec<u64> {
        let cols = self.matrix.cols();
        let all = 0..self.matrix.rows() * cols;
        all.into_par_iter()
            .map(|i| ring_weight(&self.matrix, i / cols, i % cols))
            .collect()
    }

    /// Everything in it, for a digest.
    pub(crate) fn append_bytes(&self, out: &mut Vec<u8>) {
        self.matrix
            .hash_into(&mut |bytes| out.extend_from_slice(bytes));
        out.extend(self.row.iter().flat_map(|v| v.to_le_bytes()));
    }
}

/// A weight as the integer by which it multiplies.
fn ring_weight(matrix: &PublicMatrix, row: usize, col: usize) -> u64 {
    // `weight` divides by 2^frac_bits what multiplies; 16 bits and a power of two are exact in a
    // float.
    const FRAC_BITS: u32 = 24;
    (matrix.weight(row, col, FRAC_BITS) * f64::from(1 << FRAC_BITS)) as i64 as u64
}

/// `Ŵ` of every map.
pub(super) fn mask(maps: &[FullRankMap], spec: &ProgramSpec, adapter_seed: &Seed) -> Vec<Vec<u64>> {
    // Nothing is expanded where there is nothing to mask.
    let layers = if maps.is_empty() { 0 } else { spec.num_layers };
    let masks = (0..layers).flat_map(|layer| layer_masks(spec, adapter_seed, layer));
    spec.maps()
        .zip(maps)
        .zip(masks)
        .map(|((map, full), mask)| full.masked(map.private_bits, mask))
        .collect()
}

/// `R_W` of every map at the dealer, for all sessions under one seed: 8 bytes per private weight.
/// None where the spec keeps LoRA updates.
#[derive(Clone, Default)]
pub struct MatrixMasks(pub(crate) Arc<Vec<Vec<u64>>>);

impl MatrixMasks {
    #[must_use]
    pub fn expand(spec: &ProgramSpec, adapter_seed: &Seed) -> Self {
        let layers = if spec.is_full_rank() {
            spec.num_layers
        } else {
            0
        };
        Self(Arc::new(
            (0..layers)
                .into_par_iter()
                .flat_map_iter(|layer| layer_masks(spec, adapter_seed, layer))
                .collect(),
        ))
    }
}

/// `R_W` of the maps of one layer, row-major `[out, in]`.
fn layer_masks(spec: &ProgramSpec, adapter_seed: &Seed, layer: usize) -> Vec<Vec<u64>> {
    // A stream of its own for each layer, so that layers expand in parallel.
    let mut prg = Prg::new(adapter_seed, &format!("matrix masks {layer}"));
    let masks = spec.maps_of(layer).map(|map| prg.words(map.len()));
    masks.collect()
}

/// Bytes of an element of a map's mask, or of the masked matrix.
fn element_bytes(map: &MapSpec) -> usize {
    map.private_bits as usize / 8
}

/// Bytes that E0 downloads once for its masked matrices.
pub(super) fn masked_bytes(spec: &ProgramSpec) -> usize {
    if !spec.is_full_rank() {
        return 0;
    }
    spec.maps().map(|map| map.len() * element_bytes(&map)).sum()
}

pub(super) fn to_bytes(widths: &[u32], maps: &[Vec<u64>]) -> Vec<u8> {
    let mut out = Vec::new();
    for (words, bits) in maps.iter().zip(widths) {
        let bytes = *bits as usize / 8;
        out.reserve(words.len() * bytes);
        words
            .iter()
            .for_each(|word| out.extend_from_slice(&word.to_le_bytes()[..bytes]));
    }
    out
}

pub(super) fn from_bytes(spec: &ProgramSpec, bytes: &[u8]) -> Result<Vec<Vec<u64>>, SpecError> {
    let expected = masked_bytes(spec);
    if bytes.len() != expected {
        return Err(SpecError::Corrupt(format!(
            "{} bytes where {expected} belong",
            bytes.len()
        )));
    }
    let mut rest = bytes;
    let take = |map: MapSpec| {
        let width = element_bytes(&map);
        // The length was checked above, so that no split falls short.
        let (own, tail) = rest.split_at(map.len() * width);
        rest = tail;
        let word = |b: &[u8]| {
            b.iter()
                .rev()
                .fold(0u64, |word, byte| word << 8 | u64::from(*byte))
        };
        own.chunks_exact(width).map(word).collect::<Vec<u64>>()
    };
    Ok(spec.maps().map(take).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        random_model::{random_weights, tiny_spec, with_private_matrices},
        spec::PrivateForm,
        weights::{MaskedAdapter, PrivateWeights},
    };

    fn full_spec() -> ProgramSpec {
        with_private_matrices(tiny_spec())
    }

    #[test]
    fn masked_matrices_travel_and_unmask_to_the_weights() {
        let spec = full_spec();
        let (_, private) = random_weights(&spec, 1);
        let seed = Seed::from_bytes([5; 32]);
        let masked = private.mask(&spec, &seed);
        let bytes = masked.to_bytes();
        assert_eq!(bytes.len(), MaskedAdapter::bytes_of(&spec));
        let back = MaskedAdapter::from_bytes(&spec, &bytes).unwrap();
        assert_eq!(back.digest(), masked.digest());
        let masks = MatrixMasks::expand(&spec, &seed).0;
        for map in spec.maps() {
            let place = map.id.index();
            let matrix = &private.full[place].matrix;
            let modulus = marill_numeric::fixed::low_mask(map.private_bits);
            for (i, word) in back.full[place].iter().enumerate() {
                let weight = word.wrapping_sub(masks[place][i]) & modulus;
                assert_eq!(
                    weight,
                    ring_weight(matrix, i / matrix.cols(), i % matrix.cols()) & modulus
                );
            }
        }
        assert!(MaskedAdapter::from_bytes(&spec, &bytes[1..]).is_err());
    }

    /// The bits that a client gets are a one-time pad's: as often set as not, at every position.
    #[test]
    fn every_bit_of_a_masked_matrix_is_uniform() {
        let spec = full_spec();
        let (_, private) = random_weights(&spec, 2);
        let masked = private.mask(&spec, &Seed::random());
        for (map, words) in spec.maps().zip(masked.full.iter()) {
            for bit in 0..map.private_bits {
                let ones = words.iter().filter(|w| *w >> bit & 1 == 1).count() as f64;
                let n = words.len() as f64;
                let half = words.len() as f64 / 2.0;
                // 5.5 standard deviations: once in 26 million for each of some hundred bits.
                assert!(
                    (ones - half).abs() < 5.5 * (n / 4.0).sqrt(),
                    "{map:?}, bit {bit}: {ones} of {n}"
                );
            }
            assert!(words.iter().all(|w| w >> (map.private_bits - 1) <= 1));
        }
    }

    #[test]
    fn a_spec_has_low_rank_factors_or_whole_matrices() {
        let error = PrivateWeights::full_from_floats(&tiny_spec(), &[])
            .err()
            .unwrap();
        assert!(error.to_string().contains("LoRA updates"), "{error}");
        let both = ProgramSpec {
            private: PrivateForm::FullRank,
            ..tiny_spec()
        };
        assert!(
            both.validate()
                .unwrap_err()
                .to_string()
                .contains("lora_rank")
        );
        let (public, _) = random_weights(&full_spec(), 3);
        assert!(PrivateWeights::from_floats(&public, Vec::new()).is_err());
    }
}
