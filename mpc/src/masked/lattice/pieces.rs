//! What is prepared in one message: the shapes of its products, the same at both parties.

use std::{collections::BTreeMap, ops::Range};

use marill_lattice::{Batch, BatchProduct, Factors, Term, Upload};

use super::shape::{Place, Shape, half};
use crate::{
    error::{ProtocolError, ProtocolResult},
    masked::precompute::{RevealSpec, reveals},
    spec::{MapId, ProgramSpec},
};

/// Numbers of a message, about.
pub(in crate::masked) const PIECE: usize = 1 << 20;

/// Tokens that are prepared at once, at most.
const MOST_STEPS: usize = 32;

/// Bytes that are sent to prepare tokens at once, about: what a step may wait for.
const MOST_BYTES: u64 = 24 << 20;

/// A program's factors, where the noise of their products fits the parameters.
///
/// # Errors
/// [`ProtocolError::NoLattice`].
pub(super) fn checked(spec: &ProgramSpec) -> ProtocolResult<Shape> {
    let shape = Shape::new(spec)?;
    // Products of one row: with more rows they are made by rows too, or otherwise where that fits.
    match pieces(&shape, reveals(spec, 1)?, 1, PIECE) {
        Err(ProtocolError::Lattice(_)) => Err(ProtocolError::NoLattice {
            what: "a model of this width: the noise of its products would not fit",
        }),
        Err(error) => Err(error),
        Ok(_) => Ok(shape),
    }
}

/// Tokens that E0 may prepare at once.
///
/// # Errors
/// As [`prepared_bytes`].
pub(super) fn most_steps(shape: &Shape, spec: &ProgramSpec) -> ProtocolResult<usize> {
    let one: usize = pieces(shape, reveals(spec, 1)?, 1, PIECE)?
        .iter()
        .map(Piece::bytes)
        .sum();
    let most = MOST_BYTES / (one as u64).max(1);
    Ok((most as usize).clamp(1, MOST_STEPS))
}

/// Bytes that E0 sends to prepare a step of so many rows, or so many tokens; at once.
///
/// # Errors
/// As [`crate::AdapterKey::encrypt`]; [`ProtocolError::TooLong`] past the context.
pub fn prepared_bytes(spec: &ProgramSpec, rows: usize, steps: usize) -> ProtocolResult<u64> {
    let shape = Shape::new(spec)?;
    let pieces = pieces(&shape, reveals(spec, rows)?, steps, PIECE)?;
    let bytes: usize = pieces.iter().map(Piece::bytes).sum();
    // Of tokens E0 says how many.
    Ok(bytes as u64 + if rows > 1 { 0 } else { 4 })
}

/// Reveals of all steps that are prepared in one message.
pub(super) struct Piece {
    pub reveals: Vec<RevealSpec>,
    pub steps: usize,
    /// By ring: products with `A`, then those with `B`.
    pub rings: BTreeMap<u32, [Batch; 2]>,
    /// Of each reveal, where its maps' products are.
    pub places: Vec<Vec<MapProducts>>,
}

/// Where a map's products are among those of its ring.
pub(super) struct MapProducts {
    pub map: MapId,
    pub bits: u32,
    pub rank: usize,
    /// With `A`: the product, and the first of the map's vectors in it.
    pub a: (usize, usize),
    /// With each piece of `B`: the product, and its vectors.
    pub b: Vec<(usize, usize)>,
}

impl Piece {
    pub(super) fn bytes(&self) -> usize {
        let batches = self.rings.values().flatten();
        batches.map(Batch::response_bytes).sum()
    }
}

/// Reveals in order, cut into messages of about so many `numbers`, and of one reveal at least.
pub(super) fn pieces(
    shape: &Shape,
    reveals: Vec<RevealSpec>,
    steps: usize,
    numbers: usize,
) -> ProtocolResult<Vec<Piece>> {
    let mut cut: Vec<Vec<RevealSpec>> = Vec::new();
    let mut room = 0;
    for of in reveals {
        let of_map = |(_, place): (MapId, &Place)| {
            place.rank + place.pieces.iter().map(|(_, rows)| rows).sum::<usize>()
        };
        let size = steps * of.rows * shape.updated(&of).map(of_map).sum::<usize>();
        if cut.is_empty() || size > room {
            cut.push(Vec::new());
            room = numbers;
        }
        room = room.saturating_sub(size);
        cut.last_mut().expect("one at least").push(of);
    }
    let pieces = cut.into_iter().map(|of| piece(shape, of, steps));
    pieces.collect()
}

fn piece(shape: &Shape, reveals: Vec<RevealSpec>, steps: usize) -> ProtocolResult<Piece> {
    let mut products: BTreeMap<u32, [Vec<BatchProduct>; 2]> = BTreeMap::new();
    let mut places = Vec::with_capacity(reveals.len());
    for of in &reveals {
        // The rows of all steps go through the same products.
        let rows = steps * of.rows;
        let mut maps: Vec<MapProducts> = Vec::new();
        // What the product before has of which input, for the maps that go on there.
        let mut before: Option<(usize, Range<usize>)> = None;
        for (map, place) in shape.updated(of) {
            let [with_a, with_b] = products.entry(place.bits).or_default();
            let end = place.first + place.rank;
            let goes_on = |(input, vectors): &&mut (usize, Range<usize>)| {
                *input == place.a && vectors.end == place.first
            };
            let first = match before.as_mut().filter(goes_on) {
                Some((_, vectors)) => {
                    vectors.end = end;
                    with_a.last_mut().expect("the one before").vectors = vectors.clone();
                    place.first - vectors.start
                }
                None => {
                    // A·r of both digits: 2 rows for each of r.
                    with_a.push(product(place.a, place.cols, 2 * rows, place.bits));
                    let vectors = place.first..end;
                    with_a.last_mut().expect("pushed").vectors = vectors.clone();
                    before = Some((place.a, vectors));
                    0
                }
            };
            let mut b = Vec::with_capacity(place.pieces.len());
            for (input, vectors) in &place.pieces {
                // B·a_0: columns of both digits in one row.
                let mut piece = product(*input, 2 * place.rank, rows, place.bits);
                piece.vectors = 0..*vectors;
                b.push((with_b.len(), *vectors));
                with_b.push(piece);
            }
            maps.push(MapProducts {
                map,
                bits: place.bits,
                rank: place.rank,
                a: (with_a.len() - 1, first),
                b,
            });
        }
        places.push(maps);
    }
    let batches = |(bits, products): (u32, [Vec<BatchProduct>; 2])| {
        let upload: &Upload = &shape.uploads[&bits];
        let [a, b] = products.map(|products| Batch::new(&[upload], &products));
        Ok((bits, [a?, b?]))
    };
    Ok(Piece {
        rings: products
            .into_iter()
            .map(batches)
            .collect::<ProtocolResult<_>>()?,
        reveals,
        steps,
        places,
    })
}

/// A product of digits with all columns of an input; which vectors is said later.
fn product(input: usize, columns: usize, rows: usize, bits: u32) -> BatchProduct {
    BatchProduct {
        terms: vec![Term {
            upload: 0,
            input,
            columns: 0..columns,
        }],
        rows,
        factors: Factors::Signed(half(bits)),
        vectors: 0..1,
    }
}
