//! How an adapter lies in ciphertexts: the same for all who know the program.
//!
//! `A` of maps that take the same row is one input, a vector for each of its rows. `B` is cut into
//! pieces of a power of two rows, a vector each, so that none is padded by much. Its factors are
//! E0's shares, as wide as the ring, which are cut into two digits: a piece has `B`, and `B` times
//! the weight of the second digit.

use std::collections::BTreeMap;

use marill_lattice::{Input, ParameterSet, Upload};

use crate::{
    error::{ProtocolError, ProtocolResult},
    masked::precompute::{RevealSpec, reveals},
    spec::{MapId, ProgramSpec},
    weights::PrivateWeights,
};

/// Of all keys.
pub(super) const SET: ParameterSet = ParameterSet::N8192;

/// Rows of the smallest piece of `B` that has room for no more.
const LEAST_PIECE: usize = 64;

/// Where a map's factors are, in the ring of its product.
#[derive(Clone)]
pub(super) struct Place {
    pub bits: u32,
    /// The input with its `A`, and the first of its vectors there.
    pub a: usize,
    pub first: usize,
    pub rank: usize,
    pub cols: usize,
    /// Inputs with pieces of its `B`, and their rows.
    pub pieces: Vec<(usize, usize)>,
}

/// All factors of a program.
pub(super) struct Shape {
    /// By width of the ring.
    pub uploads: BTreeMap<u32, Upload>,
    /// By map; none where there is no update.
    places: Vec<Option<Place>>,
}

/// Bits of a digit of what has so many.
pub(super) fn half(bits: u32) -> u32 {
    bits.div_ceil(2)
}

/// Two digits of least magnitude: `low + high 2^half(bits)` is `x` modulo `2^bits`.
pub(super) fn digits(x: u64, bits: u32) -> [i64; 2] {
    let spare = 64 - half(bits);
    let low = (x << spare) as i64 >> spare;
    let high = x.wrapping_sub(low as u64) >> half(bits);
    [low, (high << spare) as i64 >> spare]
}

impl Shape {
    /// # Errors
    /// [`ProtocolError::NoLattice`] for a program without private updates of public maps.
    pub(super) fn new(spec: &ProgramSpec) -> ProtocolResult<Self> {
        if spec.architecture.is_encoder() {
            let what = "an encoder";
            return Err(ProtocolError::NoLattice { what });
        }
        if spec.is_full_rank() || spec.lora_rank == 0 {
            let what = "a program without LoRA updates of public maps";
            return Err(ProtocolError::NoLattice { what });
        }
        let mut inputs: BTreeMap<u32, Vec<Input>> = BTreeMap::new();
        let mut places = vec![None; spec.num_maps()];
        for reveal in reveals(spec, 1)? {
            let maps = reveal.maps.iter().map(|map| spec.map_spec(*map));
            let updated: Vec<_> = maps.filter(|map| map.rank > 0).collect();
            let inputs = inputs.entry(reveal.bits).or_default();
            let a = inputs.len();
            let vectors = updated.iter().map(|map| map.rank).sum();
            inputs.push(Input::new(vectors, reveal.cols));
            // A of each map, then the pieces of its B.
            let mut first = 0;
            for map in updated {
                let mut pieces = Vec::new();
                for rows in pieces_of(map.rows) {
                    pieces.push((inputs.len(), rows));
                    inputs.push(Input::new(rows, 2 * map.rank));
                }
                places[map.id.index()] = Some(Place {
                    bits: reveal.bits,
                    a,
                    first,
                    rank: map.rank,
                    cols: reveal.cols,
                    pieces,
                });
                first += map.rank;
            }
        }
        let uploads = inputs
            .into_iter()
            .map(|(bits, inputs)| Ok((bits, Upload::new(SET, bits, &inputs)?)))
            .collect::<ProtocolResult<_>>()?;
        Ok(Self { uploads, places })
    }

    pub(super) fn place(&self, map: MapId) -> Option<&Place> {
        self.places[map.index()].as_ref()
    }

    /// The fewest vectors of an input, which keys for packing are made for.
    pub(super) fn least_vectors(&self) -> usize {
        let inputs = self.uploads.values().flat_map(Upload::inputs);
        let least = inputs
            .map(|input| input.vectors().next_power_of_two())
            .min();
        least.unwrap_or(1)
    }

    /// The values of each ring's inputs.
    pub(super) fn values(&self, private: &PrivateWeights) -> BTreeMap<u32, Vec<Vec<u64>>> {
        let mut values: BTreeMap<u32, Vec<Vec<u64>>> = self
            .uploads
            .iter()
            .map(|(bits, upload)| (*bits, vec![Vec::new(); upload.inputs().len()]))
            .collect();
        for (place, lora) in self.places.iter().zip(&private.lora) {
            let Some(place) = place else { continue };
            let ring = values.get_mut(&place.bits).expect("a ring of each place");
            // Maps of one input are in the order of their vectors.
            ring[place.a].extend(&lora.a);
            let mut rows = lora.b.chunks_exact(place.rank);
            for (input, count) in &place.pieces {
                for row in rows.by_ref().take(*count) {
                    // B, and 2^half·B for the second digit.
                    ring[*input].extend(row);
                    ring[*input].extend(row.iter().map(|b| b << half(place.bits)));
                }
            }
        }
        values
    }

    /// Maps of a reveal that have an update, where they are.
    pub(super) fn updated<'a>(
        &'a self,
        of: &'a RevealSpec,
    ) -> impl Iterator<Item = (MapId, &'a Place)> {
        of.maps
            .iter()
            .filter_map(|map| Some((*map, self.place(*map)?)))
    }
}

/// Powers of two that add up to so many rows; what is less than the smallest piece is one.
fn pieces_of(rows: usize) -> Vec<usize> {
    let mut left = rows;
    let mut pieces = Vec::new();
    while left > 0 {
        let piece = match left {
            0..LEAST_PIECE => left,
            _ => 1 << left.ilog2().min(SET.n().ilog2()),
        };
        pieces.push(piece);
        left -= piece;
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_add_up_and_are_small() {
        for bits in [48, 56, 64] {
            let mask = u64::MAX >> (64 - bits);
            for x in [
                0,
                1,
                (1 << 27) - 1,
                1 << 27,
                1 << 31,
                1 << 32,
                u64::MAX,
                0x1234_5678_9abc,
            ] {
                let [low, high] = digits(x & mask, bits);
                let sum = (high as u64)
                    .wrapping_shl(half(bits))
                    .wrapping_add(low as u64);
                assert_eq!(sum & mask, x & mask, "{bits}, {x}");
                let most = 1 << (half(bits) - 1);
                assert!((-most..most).contains(&low) && (-most..most).contains(&high));
            }
        }
    }

    #[test]
    fn pieces_add_up() {
        for rows in [1, 63, 64, 65, 192, 576, 1536, 11008, 20000] {
            let pieces = pieces_of(rows);
            assert_eq!(pieces.iter().sum::<usize>(), rows);
            let whole = |piece: &&usize| piece.is_power_of_two();
            assert!(pieces.iter().filter(whole).count() + 1 >= pieces.len());
        }
        assert_eq!(pieces_of(576), [512, 64]);
    }
}
