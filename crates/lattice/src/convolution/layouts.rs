//! Which layout a convolution takes: bytes and time of each, and the search.

use super::{ConvolutionShape, Layout};
use crate::{
    bfv::{ciphertext_bytes, switched_bytes},
    parameters::ParameterSet,
    wire::TAG_BYTES,
};

/// What a microsecond of one thread is worth where layouts are compared by bytes and by time: four
/// threads behind a link of 200 Mbit/s. Of ResNet-50 it takes a sixth more bytes than none would,
/// and half of the time; 25 would take a third more bytes again for a quarter of the time.
pub(super) const BYTES_PER_MICROSECOND: usize = 6;

/// Tiles of an image, ciphertexts of a tile, polynomials of factors for all outputs.
fn counts(shape: &ConvolutionShape, layout: Layout) -> [usize; 3] {
    let [rows, columns] = shape.output();
    [
        rows.div_ceil(layout.tile[0]) * columns.div_ceil(layout.tile[1]),
        shape.parts().div_ceil(layout.channels),
        shape.outputs.div_ceil(layout.outputs),
    ]
}

/// Bytes of the request and of the response.
pub(super) fn bytes(
    set: ParameterSet,
    bits: u32,
    shape: &ConvolutionShape,
    layout: Layout,
) -> [usize; 2] {
    // Full spans and the last one, with how many of each there are.
    let cut = |whole: usize, step: usize| [(step, whole / step), (whole % step, 1)];
    let [rows, columns] = shape.output();
    let mut results = 0;
    for (rows, of_rows) in cut(rows, layout.tile[0]) {
        for (columns, of_columns) in cut(columns, layout.tile[1]) {
            for (outputs, of_outputs) in cut(shape.outputs, layout.merged()) {
                let values = rows * columns * outputs;
                if values > 0 {
                    let each = switched_bytes(set, bits, values);
                    results += of_rows * of_columns * of_outputs * each;
                }
            }
        }
    }
    let [tiles, pieces, _] = counts(shape, layout);
    [
        TAG_BYTES + tiles * pieces * ciphertext_bytes(set),
        TAG_BYTES + results,
    ]
}

/// Bytes in both directions, and what time is worth in bytes: microseconds of steps at `n = 8192`,
/// as `docs/lattices.md` has them.
pub(super) fn cost(
    set: ParameterSet,
    bits: u32,
    shape: &ConvolutionShape,
    layout: Layout,
) -> usize {
    let [tiles, pieces, factors] = counts(shape, layout);
    let results = tiles * shape.outputs.div_ceil(layout.merged());
    let turned = if layout.depth == 0 {
        0
    } else {
        tiles * factors
    };
    // Encrypt and read; transform factors; multiply; turn; give and decrypt.
    let work = [
        (tiles * pieces, 690),
        (factors * pieces, 92),
        (tiles * factors * pieces, 11),
        (turned, 420),
        (results, 1950),
    ];
    let time: usize = work.iter().map(|(count, each)| count * each).sum();
    let bytes: usize = bytes(set, bits, shape, layout).iter().sum();
    bytes + BYTES_PER_MICROSECOND * time
}

/// The layout of least cost, of `2^most` channels to a block at most; none where a kernel fits no
/// polynomial.
pub(super) fn cheapest(
    n: usize,
    shape: &ConvolutionShape,
    most: u32,
    cost: impl Fn(Layout) -> usize,
) -> Option<Layout> {
    // Sides that cut into different numbers of tiles.
    let sides = |all: usize| {
        let mut sides: Vec<usize> = (1..=all).map(|tiles| all.div_ceil(tiles)).collect();
        sides.dedup();
        sides
    };
    let [rows, columns] = shape.output();
    let mut best: Option<(usize, Layout)> = None;
    for depth in 0..=most {
        for tall in sides(rows) {
            for wide in sides(columns) {
                for channels in sides(shape.parts()) {
                    let Some(layout) = Layout::new(shape, n, [tall, wide], channels, depth) else {
                        continue;
                    };
                    let total = cost(layout);
                    if best.is_none_or(|(least, _)| total < least) {
                        best = Some((total, layout));
                    }
                }
            }
        }
    }
    best.map(|(_, layout)| layout)
}
