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
    spec::{Module, ProgramSpec, SpecError},
    weights::{
        AffineLayerFloats, LayerFloats, PrivateWeights, PublicLayer, affine, expect_len,
        quantize_layer,
    },
};

/// One layer's private matrices and what is added to their products, in clear: E1's.
pub(crate) struct FullRankLayer {
    /// In the format of public matrices; the norm's gain and the softmax scale are folded in.
    pub(crate) matrices: [PublicMatrix; 7],
    /// Biases at the scale of the products, with what a map makes of its norm's bias; empty where
    /// there are none.
    pub(crate) rows: [Vec<u64>; 7],
}

/// Ring elements of one layer's matrices, row-major `[out, in]`: `Ŵ` at E0, `R_W` at the dealer.
pub(crate) type RingLayer = [Vec<u64>; 7];

impl From<PublicLayer> for FullRankLayer {
    fn from(layer: PublicLayer) -> Self {
        Self {
            matrices: layer.matrices,
            rows: layer.biases,
        }
    }
}

impl PrivateWeights {
    /// Quantizes the private layers of a full fine-tune: all maps with their norms' gains.
    ///
    /// # Errors
    /// [`SpecError::Invalid`] when the spec keeps a LoRA update, [`SpecError::Length`] for a tensor
    /// of the wrong size, [`SpecError::Numeric`] for a weight that does not fit.
    pub fn full_from_floats(
        spec: &ProgramSpec,
        layers: &[LayerFloats<'_>],
    ) -> Result<Self, SpecError> {
        Self::full(spec, layers, quantize_layer)
    }

    /// As [`Self::full_from_floats`] for GPT-2 and BERT. BERT's own norms are not taken: they stay
    /// public.
    ///
    /// # Errors
    /// As [`Self::full_from_floats`].
    pub fn full_from_affine_floats(
        spec: &ProgramSpec,
        layers: &[AffineLayerFloats<'_>],
    ) -> Result<Self, SpecError> {
        Self::full(spec, layers, affine::layer)
    }

    fn full<F: Sync>(
        spec: &ProgramSpec,
        layers: &[F],
        quantize: impl Fn(&ProgramSpec, usize, &F) -> Result<PublicLayer, SpecError> + Sync,
    ) -> Result<Self, SpecError> {
        spec.validate()?;
        if !spec.is_full_rank() {
            let problem = "keeps LoRA updates, not full-rank weights".to_owned();
            return Err(SpecError::Invalid {
                field: "private",
                problem,
            });
        }
        expect_len("private layers", spec.num_layers, layers.len())?;
        let full = layers
            .par_iter()
            .enumerate()
            .map(|(l, floats)| quantize(spec, l, floats).map(FullRankLayer::from))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            layers: Vec::new(),
            full: Arc::new(full),
        })
    }
}

impl FullRankLayer {
    /// `Ŵ` of every map.
    fn masked(&self, spec: &ProgramSpec, masks: RingLayer) -> RingLayer {
        let mut masked = masks;
        for (module, words) in Module::ALL.into_iter().zip(&mut masked) {
            let (matrix, bits) = (&self.matrices[module as usize], spec.private_bits(module));
            let (cols, modulus) = (matrix.cols(), marill_numeric::fixed::low_mask(bits));
            words.par_iter_mut().enumerate().for_each(|(i, word)| {
                *word = word.wrapping_add(ring_weight(matrix, i / cols, i % cols)) & modulus;
            });
        }
        masked
    }

    /// Everything in it, for a digest.
    pub(crate) fn append_bytes(&self, out: &mut Vec<u8>) {
        for (matrix, row) in self.matrices.iter().zip(&self.rows) {
            matrix.hash_into(&mut |bytes| out.extend_from_slice(bytes));
            out.extend(row.iter().flat_map(|v| v.to_le_bytes()));
        }
    }
}

/// A weight as the integer by which it multiplies.
fn ring_weight(matrix: &PublicMatrix, row: usize, col: usize) -> u64 {
    // `weight` divides by 2^frac_bits what multiplies; 16 bits and a power of two are exact in a
    // float.
    const FRAC_BITS: u32 = 24;
    (matrix.weight(row, col, FRAC_BITS) * f64::from(1 << FRAC_BITS)) as i64 as u64
}

/// `Ŵ` of every layer.
pub(super) fn mask(
    layers: &[FullRankLayer],
    spec: &ProgramSpec,
    adapter_seed: &Seed,
) -> Vec<RingLayer> {
    layers
        .iter()
        .enumerate()
        .map(|(l, layer)| layer.masked(spec, layer_masks(spec, adapter_seed, l)))
        .collect()
}

/// `R_W` of every layer at the dealer, for all sessions under one seed: 8 bytes a private weight.
/// None where the spec keeps LoRA updates.
#[derive(Clone)]
pub struct MatrixMasks(pub(crate) Arc<Vec<RingLayer>>);

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
                .map(|l| layer_masks(spec, adapter_seed, l))
                .collect(),
        ))
    }
}

fn layer_masks(spec: &ProgramSpec, adapter_seed: &Seed, layer: usize) -> RingLayer {
    let mut prg = Prg::new(adapter_seed, &format!("matrix masks {layer}"));
    Module::ALL.map(|module| {
        let (cols, rows) = spec.shape(module);
        prg.words(rows * cols)
    })
}

/// Bytes of a mask or a masked matrix of a module.
fn element_bytes(spec: &ProgramSpec, module: Module) -> usize {
    spec.private_bits(module) as usize / 8
}

/// Bytes that E0 downloads once for its masked matrices.
pub(super) fn masked_bytes(spec: &ProgramSpec) -> usize {
    let of = |module: Module| {
        let (cols, rows) = spec.shape(module);
        rows * cols * element_bytes(spec, module)
    };
    if spec.is_full_rank() {
        spec.num_layers * Module::ALL.into_iter().map(of).sum::<usize>()
    } else {
        0
    }
}

pub(super) fn to_bytes(spec_bits: &[u32; 7], layers: &[RingLayer]) -> Vec<u8> {
    let mut out = Vec::new();
    for layer in layers {
        for (words, bits) in layer.iter().zip(spec_bits) {
            let bytes = *bits as usize / 8;
            out.reserve(words.len() * bytes);
            words
                .iter()
                .for_each(|word| out.extend_from_slice(&word.to_le_bytes()[..bytes]));
        }
    }
    out
}

pub(super) fn from_bytes(spec: &ProgramSpec, bytes: &[u8]) -> Result<Vec<RingLayer>, SpecError> {
    let expected = masked_bytes(spec);
    if bytes.len() != expected {
        return Err(SpecError::Corrupt(format!(
            "{} bytes where {expected} belong",
            bytes.len()
        )));
    }
    let mut rest = bytes;
    let mut take = |module: Module| {
        let ((cols, rows), width) = (spec.shape(module), element_bytes(spec, module));
        let (own, tail) = rest.split_at(rows * cols * width);
        rest = tail;
        let word = |b: &[u8]| {
            b.iter()
                .rev()
                .fold(0u64, |word, byte| word << 8 | u64::from(*byte))
        };
        own.chunks_exact(width).map(word).collect::<Vec<u64>>()
    };
    Ok((0..spec.num_layers)
        .map(|_| Module::ALL.map(&mut take))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        spec::PrivateForm,
        testing::{random_weights, tiny_spec, with_private_matrices},
        weights::MaskedAdapter,
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
        for (module, words) in Module::ALL.into_iter().zip(&back.full[1]) {
            let matrix = &private.full[1].matrices[module as usize];
            let modulus = marill_numeric::fixed::low_mask(spec.private_bits(module));
            for (i, word) in words.iter().enumerate() {
                let weight = word.wrapping_sub(masks[1][module as usize][i]) & modulus;
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
        for (module, words) in Module::ALL.into_iter().zip(&masked.full[0]) {
            for bit in 0..spec.private_bits(module) {
                let ones = words.iter().filter(|w| *w >> bit & 1 == 1).count() as f64;
                let (n, half) = (words.len() as f64, words.len() as f64 / 2.0);
                // 5.5 standard deviations: once in 26 million for each of some hundred bits.
                assert!(
                    (ones - half).abs() < 5.5 * (n / 4.0).sqrt(),
                    "{module:?}, bit {bit}: {ones} of {n}"
                );
            }
            assert!(
                words
                    .iter()
                    .all(|w| w >> (spec.private_bits(module) - 1) <= 1)
            );
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
