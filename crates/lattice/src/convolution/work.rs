//! The server's sums of products, one after the other or merged.

use std::ops::Range;

use super::Convolution;
use crate::{
    bfv::{Ciphertext, Factor, Packed, Sum},
    galois::PackingKeys,
    packing::merge,
    ring::Ring,
};

/// A request and what it meets.
pub(super) struct Work<'a> {
    pub(super) convolution: &'a Convolution,
    pub(super) ring: &'a Ring,
    pub(super) keys: Option<&'a PackingKeys>,
    pub(super) weights: &'a [i64],
    /// By tile, then by piece.
    pub(super) ciphertexts: &'a [Ciphertext],
    /// Ciphertexts of a tile.
    pub(super) pieces: usize,
}

impl Work<'_> {
    /// Sums of one polynomial's outputs, by tile.
    pub(super) fn sums(&self, outputs: &Range<usize>) -> Vec<Sum> {
        let shape = &self.convolution.shape;
        let channels = Convolution::groups(shape.parts(), self.convolution.layout.channels);
        let factors: Vec<Factor> = channels
            .map(|channels| {
                self.convolution
                    .factor(self.ring, self.weights, outputs, channels)
            })
            .collect();
        let tiles = self.ciphertexts.chunks(self.pieces);
        tiles
            .map(|ciphertexts| {
                let mut sum = Sum::new(self.ring);
                for (ciphertext, factor) in ciphertexts.iter().zip(&factors) {
                    sum.add_product(self.ring, ciphertext, factor);
                }
                sum
            })
            .collect()
    }

    /// Merged sums of a group's outputs, by tile: of those members whose number is `first` modulo
    /// `2^depth`, at multiples of that. None where there are no such members.
    pub(super) fn merged(
        &self,
        outputs: &Range<usize>,
        depth: u32,
        first: usize,
    ) -> Option<Vec<Packed>> {
        let layout = &self.convolution.layout;
        let start = outputs.start + first * layout.outputs;
        if start >= outputs.end {
            return None;
        }
        if depth == layout.depth {
            let end = (start + layout.outputs).min(outputs.end);
            let sums = self.sums(&(start..end)).into_iter();
            return Some(sums.map(|sum| sum.pack(self.ring)).collect());
        }
        let even = self.merged(outputs, depth + 1, first)?;
        let odd = self.merged(outputs, depth + 1, first + (1 << depth));
        let keys = self.keys.expect("levels were compared");
        let odd = odd.map_or_else(
            || even.iter().map(|_| None).collect(),
            |odd| odd.into_iter().map(Some).collect::<Vec<_>>(),
        );
        let pairs = even.into_iter().zip(odd);
        Some(
            pairs
                .map(|(even, odd)| merge(keys, depth, even, odd))
                .collect(),
        )
    }
}
