//! Shares of a two-dimensional convolution of the client's numbers with the server's weights.
//!
//! # Functionality
//! The client holds `channels` images of numbers modulo `2^bits` (its shares of an input, say), the
//! server `outputs · channels` kernels of signed numbers. Both get additive shares modulo `2^bits`
//! of all output images, exact; borders are zeros. One message each way.
//!
//! # Packing
//! A convolution of stride `s` is one of stride 1 with `s²` times the channels: a channel is taken
//! apart into its pixels of equal rest modulo `s`, a kernel too ([`ConvolutionShape::phases`]; what
//! a kernel has none of is left out). Outputs are then neighbors, whatever the stride.
//!
//! A ciphertext holds a tile of `c` channels, `A = h·w` numbers each: that of channel `k` at row
//! `y` and column `x` at `k A + y w + x`; a polynomial of factors holds `r` outputs, `c A` apart,
//! the weight at `(a, b)` of channel `k` of one at `O - (k A + a w + b)` with `O = (c - 1) A +
//! (kernel height - 1) w + kernel width - 1`. Coefficient `O + i w + j` of the product, plus `c A`
//! for each output before, is the output at `(i, j)`: indices of weight and input are digits in
//! the bases `w`, `h`, `c`, of which only equal differences meet there, and what wraps past `n`
//! ends below `O` (Huang et al., Cheetah, ePrint 2022/207). More channels are more
//! ciphertexts whose products add up, larger images are tiles that overlap by a kernel. Of the
//! layouts that fit, the one of fewest bytes is taken.
//!
//! # Merged results
//! With packing keys ([`Convolution::merged`]) `S = 2^depth` channels lie between each other: all
//! of the above holds of blocks of `S` channels, at multiples of `S`; channel `k` of a block is at
//! `k` more, its weights at `k` less. Only equal channels then meet at multiples of `S`, where a
//! result's values are. `S` results become one by automorphisms, see `packing.rs`: a response
//! carries up to `n` values a polynomial, however few channels a ciphertext has room for. Of the
//! layouts the one is taken that costs least in bytes and in time, see `layouts.rs`.
//!
//! # Security
//! That of [`Product`](crate::Product), value by value.

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

mod layouts;
mod shape;
mod work;

pub use self::shape::ConvolutionShape;
use self::{
    layouts::{bytes, cheapest, cost},
    work::Work,
};
use crate::{
    bfv::{Ciphertext, Factor, Factors, Rerandomized},
    error::LatticeError,
    galois::PackingKeys,
    packing::noise,
    parameters::ParameterSet,
    product::{Client, Server},
    ring::Ring,
    sample::Randomness,
    wire::{TAG_BYTES, behind_tag},
};

const REQUEST: &str = "request of a convolution";
const RESPONSE: &str = "response of a convolution";

/// More channels, pixels of a side or outputs are cut by the caller.
const MOST: usize = 1 << 14;

/// A party holds whole messages.
const MOST_BYTES: usize = 1 << 30;

/// How numbers lie in polynomials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    /// Rows and columns of the outputs of a tile.
    tile: [usize; 2],
    /// Rows and columns of its inputs.
    window: [usize; 2],
    /// Parts of channels of a ciphertext, outputs of a polynomial of factors.
    channels: usize,
    outputs: usize,
    /// Channels of a block, and results that are merged, are `2^depth`.
    depth: u32,
}

impl Layout {
    fn new(
        shape: &ConvolutionShape,
        n: usize,
        tile: [usize; 2],
        channels: usize,
        depth: u32,
    ) -> Option<Self> {
        let kernel = shape.part_kernel();
        let window = [0, 1].map(|at| tile[at] + kernel[at] - 1);
        let piece = window[0] * window[1] * channels.div_ceil(1 << depth);
        let outputs = ((n >> depth) / piece).min(shape.outputs);
        (outputs > 0).then_some(Self {
            tile,
            window,
            channels,
            outputs,
            depth,
        })
    }

    fn area(&self) -> usize {
        self.window[0] * self.window[1]
    }

    /// Blocks of channels of a ciphertext.
    fn blocks(&self) -> usize {
        self.channels.div_ceil(1 << self.depth)
    }

    /// Outputs of a polynomial of the response.
    fn merged(&self) -> usize {
        self.outputs << self.depth
    }

    /// Where the first output of a polynomial is, counted in blocks.
    fn origin(&self) -> usize {
        let [rows, columns] = [0, 1].map(|at| self.window[at] - self.tile[at]);
        let last = rows * self.window[1] + columns;
        (self.blocks() - 1) * self.area() + last
    }
}

/// A tile, by its outputs.
struct Tile {
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

/// The public shape of a convolution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Convolution {
    set: ParameterSet,
    bits: u32,
    width: u32,
    shape: ConvolutionShape,
    layout: Layout,
    flood: u32,
}

impl Convolution {
    /// Shares modulo `2^bits` of a convolution with weights of `width` bits, their sign among them.
    ///
    /// # Errors
    /// Widths or sizes out of range, a kernel that is larger than the image or whose tiles fit no
    /// polynomial, noise that the set cannot hold.
    pub fn new(
        set: ParameterSet,
        bits: u32,
        width: u32,
        shape: ConvolutionShape,
    ) -> Result<Self, LatticeError> {
        let layout = |shape: &ConvolutionShape| {
            let bytes = |layout| bytes(set, bits, shape, layout).iter().sum();
            cheapest(set.n(), shape, 0, bytes)
        };
        Self::with(set, bits, width, shape, layout)
    }

    /// As [`Self::new`], with results that may be merged by packing keys of so many levels
    /// ([`PackingKeys`]); none where merging costs more than it saves.
    ///
    /// # Errors
    /// As [`Self::new`], and for a set without packing keys.
    pub fn merged(
        set: ParameterSet,
        bits: u32,
        width: u32,
        shape: ConvolutionShape,
        levels: u32,
    ) -> Result<Self, LatticeError> {
        crate::galois::Switcher::of(set)?;
        let most = levels.min(set.n().ilog2());
        let layout = |shape: &ConvolutionShape| {
            let cost = |layout| cost(set, bits, shape, layout);
            cheapest(set.n(), shape, most, cost)
        };
        Self::with(set, bits, width, shape, layout)
    }

    fn with(
        set: ParameterSet,
        bits: u32,
        width: u32,
        shape: ConvolutionShape,
        layout: impl Fn(&ConvolutionShape) -> Option<Layout>,
    ) -> Result<Self, LatticeError> {
        let range = |what, allowed, got: usize| LatticeError::Range {
            what,
            allowed,
            got: got as u64,
        };
        for (what, bits) in [
            ("the width of plaintexts", bits),
            ("the width of weights", width),
        ] {
            if !(1..=64).contains(&bits) {
                return Err(range(what, "1 to 64 bits", bits as usize));
            }
        }
        let [rows, columns] = shape.image;
        let [tall, wide] = shape.kernel;
        for size in [
            shape.channels,
            shape.outputs,
            rows,
            columns,
            tall,
            wide,
            shape.stride,
        ] {
            if !(1..=MOST).contains(&size) {
                return Err(range("a side of a convolution", "1 to 16384", size));
            }
        }
        if shape.padding >= tall.max(wide) {
            return Err(range("padding", "less than the kernel", shape.padding));
        }
        if shape.output().contains(&0) {
            return Err(range("a kernel", "at most its image", tall.max(wide)));
        }
        let layout = layout(&shape).ok_or(range(
            "a kernel",
            "small enough for a polynomial",
            tall * wide,
        ))?;
        let mut convolution = Self {
            set,
            bits,
            width,
            shape,
            layout,
            flood: 0,
        };
        for bytes in bytes(set, bits, &shape, layout) {
            if bytes > MOST_BYTES {
                return Err(range("a message", "1 GiB at most", bytes));
            }
        }
        let count = layout.outputs * shape.channels * tall * wide;
        let factors = Factors::Signed(width);
        let merging = match layout.depth {
            0 => 0.0,
            depth => noise(set, depth),
        };
        let noise = factors.noise(set, bits, count) + merging;
        convolution.flood = factors.flood_above(set, bits, noise)?;
        Ok(convolution)
    }

    #[must_use]
    pub fn shape(&self) -> &ConvolutionShape {
        &self.shape
    }

    #[must_use]
    pub fn set(&self) -> ParameterSet {
        self.set
    }

    /// Levels of packing keys that its results take; none where they are not merged.
    #[must_use]
    pub fn levels(&self) -> u32 {
        self.layout.depth
    }

    /// Bytes from the client to the server.
    #[must_use]
    pub fn request_bytes(&self) -> usize {
        bytes(self.set, self.bits, &self.shape, self.layout)[0]
    }

    /// Bytes from the server to the client.
    #[must_use]
    pub fn response_bytes(&self) -> usize {
        bytes(self.set, self.bits, &self.shape, self.layout)[1]
    }

    fn tag(&self) -> [u8; TAG_BYTES] {
        let shape = &self.shape;
        let layout = &self.layout;
        let mut hash = Sha256::new_with_prefix(b"marill lattice convolution 1");
        hash.update(self.set.digest());
        let widths = [self.bits, self.width, self.flood].map(|bits| bits as usize);
        let sizes = [
            shape.channels,
            shape.outputs,
            shape.stride,
            shape.padding,
            layout.channels,
            layout.outputs,
        ];
        let pairs = [shape.image, shape.kernel, layout.tile];
        for number in widths.into_iter().chain(sizes).chain(pairs.concat()) {
            hash.update((number as u64).to_le_bytes());
        }
        if layout.depth > 0 {
            hash.update(layout.depth.to_le_bytes());
        }
        *hash.finalize().first_chunk().expect("a digest is longer")
    }

    fn tiles(&self) -> Vec<Tile> {
        let [rows, columns] = self.shape.output();
        let [tall, wide] = self.layout.tile;
        let cut = |first: usize, step: usize, end: usize| first..(first + step).min(end);
        let mut tiles = Vec::new();
        for row in (0..rows).step_by(tall) {
            for column in (0..columns).step_by(wide) {
                tiles.push(Tile {
                    rows: cut(row, tall, rows),
                    columns: cut(column, wide, columns),
                });
            }
        }
        tiles
    }

    /// Groups of channels of a ciphertext, or of outputs of a polynomial.
    fn groups(all: usize, each: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
        (0..all)
            .step_by(each)
            .map(move |first| first..(first + each).min(all))
    }

    /// Coefficients of a result and where its values belong.
    fn values(&self, tile: &Tile, outputs: &std::ops::Range<usize>) -> Vec<[usize; 2]> {
        let layout = &self.layout;
        let [rows, columns] = self.shape.output();
        let origin = layout.origin();
        let mut values = Vec::new();
        for (m, output) in outputs.clone().enumerate() {
            // Which of the merged results, and where in it.
            let [member, m] = [m / layout.outputs, m % layout.outputs];
            let first = m * layout.blocks() * layout.area() + origin;
            for (i, row) in tile.rows.clone().enumerate() {
                for (j, column) in tile.columns.clone().enumerate() {
                    values.push([
                        ((first + i * layout.window[1] + j) << layout.depth) + member,
                        (output * rows + row) * columns + column,
                    ]);
                }
            }
        }
        values
    }

    /// A tile of some parts of channels as a plaintext.
    fn plain(&self, tile: &Tile, parts: std::ops::Range<usize>, x: &[u64], out: &mut [u64]) {
        let shape = &self.shape;
        let [rows, columns] = shape.image;
        let mask = u64::MAX >> (64 - self.bits);
        out.fill(0);
        for (k, part) in parts.enumerate() {
            let [channel, down, right] = shape.part(part);
            for y in 0..self.layout.window[0] {
                let below = (tile.rows.start + y) * shape.stride + down;
                let row = below.wrapping_sub(shape.padding);
                for c in 0..self.layout.window[1] {
                    let across = (tile.columns.start + c) * shape.stride + right;
                    let column = across.wrapping_sub(shape.padding);
                    // What lies outside, below zero too, is a border of zeros.
                    if row < rows && column < columns {
                        let block = k >> self.layout.depth;
                        let at = block * self.layout.area() + y * self.layout.window[1] + c;
                        let at = (at << self.layout.depth) + (k - (block << self.layout.depth));
                        out[at] = x[(channel * rows + row) * columns + column] & mask;
                    }
                }
            }
        }
    }

    /// Encrypts the client's images, channel by channel, row by row.
    ///
    /// # Panics
    /// When there are more or fewer numbers, or for a key of another parameter set.
    #[must_use]
    pub fn request(&self, client: &Client, x: &[u64]) -> Vec<u8> {
        assert_eq!(x.len(), self.shape.inputs(), "whole images");
        assert_eq!(self.set, client.key.set(), "the key is of another set");
        let mut out = Vec::with_capacity(self.request_bytes());
        out.extend(self.tag());
        let mut plain = Zeroizing::new(vec![0; self.set.n()]);
        for tile in self.tiles() {
            for channels in Self::groups(self.shape.parts(), self.layout.channels) {
                self.plain(&tile, channels, x, &mut plain);
                client.key.encrypt(&mut out, self.bits, &plain);
            }
        }
        out
    }

    /// Weights of some outputs and parts of channels as a polynomial.
    fn factor(
        &self,
        ring: &Ring,
        weights: &[i64],
        outputs: &std::ops::Range<usize>,
        parts: std::ops::Range<usize>,
    ) -> Factor {
        let shape = &self.shape;
        let layout = &self.layout;
        let [tall, wide] = shape.kernel;
        let mut numbers = Zeroizing::new(Vec::new());
        for (m, output) in outputs.clone().enumerate() {
            let origin = m * layout.blocks() * layout.area() + layout.origin();
            for (k, part) in parts.clone().enumerate() {
                let [channel, down, right] = shape.part(part);
                let block = k >> layout.depth;
                let inside = k - (block << layout.depth);
                let kernel = (output * shape.channels + channel) * tall * wide;
                for (a, row) in (down..tall).step_by(shape.stride).enumerate() {
                    for (b, column) in (right..wide).step_by(shape.stride).enumerate() {
                        let before = block * layout.area() + a * layout.window[1] + b;
                        let w = weights[kernel + row * wide + column];
                        let at = (origin - before) << layout.depth;
                        // X^-k is -X^(n-k).
                        let negated = at < inside;
                        let at = if negated { ring.n + at } else { at } - inside;
                        numbers.push((at, negated, w));
                    }
                }
            }
        }
        Factor(ring.sparse(&numbers, layout.depth))
    }

    /// The response to a request, and the server's shares by output, row and column, fresh and
    /// uniform. Weights are by output, channel, row and column; they are transformed as they are
    /// used.
    ///
    /// # Errors
    /// A message of another length or shape, a residue that is not below its prime, a weight wider
    /// than declared; results that are merged.
    ///
    /// # Panics
    /// When there are more or fewer weights, or for a key of another parameter set.
    pub fn respond(
        &self,
        server: &Server,
        weights: &[i64],
        request: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u64>>), LatticeError> {
        self.respond_merged(server, None, weights, request)
    }

    /// As [`Self::respond`], with the client's packing keys, which merged results take.
    ///
    /// # Errors
    /// As [`Self::respond`], and for keys of fewer levels than [`Self::levels`].
    ///
    /// # Panics
    /// As [`Self::respond`].
    pub fn respond_merged(
        &self,
        server: &Server,
        keys: Option<&PackingKeys>,
        weights: &[i64],
        request: &[u8],
    ) -> Result<(Vec<u8>, Zeroizing<Vec<u64>>), LatticeError> {
        assert_eq!(weights.len(), self.shape.weights(), "all weights");
        assert_eq!(self.set, server.key().set(), "the key is of another set");
        let levels = keys.map_or(0, PackingKeys::levels);
        if levels < self.levels() {
            return Err(LatticeError::Range {
                what: "the levels of packing keys",
                allowed: "those of a merged convolution",
                got: levels.into(),
            });
        }
        self.check(weights)?;
        let ring: &Ring = &server.key().ring;
        let mut rest = behind_tag(request, self.request_bytes(), self.tag(), REQUEST)?;
        let tiles = self.tiles();
        let pieces = self.shape.parts().div_ceil(self.layout.channels);
        let ciphertexts = (0..tiles.len() * pieces)
            .map(|_| Ciphertext::read(&mut rest, ring, REQUEST))
            .collect::<Result<Vec<_>, _>>()?;
        let work = Work {
            convolution: self,
            ring,
            keys,
            weights,
            ciphertexts: &ciphertexts,
            pieces,
        };
        let mut out = Vec::with_capacity(self.response_bytes());
        out.extend(self.tag());
        let mut shares = Zeroizing::new(vec![0; self.shape.results()]);
        let low = u64::MAX >> (64 - self.bits);
        for outputs in Self::groups(self.shape.outputs, self.layout.merged()) {
            let results: Vec<Rerandomized> = if self.layout.depth == 0 {
                let sums = work.sums(&outputs).into_iter();
                sums.map(|sum| sum.rerandomize(server.key())).collect()
            } else {
                let merged = work.merged(&outputs, 0, 0).expect("a group has outputs");
                let merged = merged.into_iter();
                merged.map(|sum| sum.rerandomize(server.key())).collect()
            };
            for (tile, result) in tiles.iter().zip(results) {
                let values = self.values(tile, &outputs);
                let places: Vec<usize> = values.iter().map(|[place, _]| *place).collect();
                let masks = Randomness::fresh().words(places.len(), self.bits);
                result.switch(&mut out, self.bits, &places, &masks, self.flood);
                for ([_, at], mask) in values.iter().zip(&*masks) {
                    shares[*at] = mask.wrapping_neg() & low;
                }
            }
        }
        Ok((out, shares))
    }

    /// # Errors
    /// A weight wider than declared.
    fn check(&self, weights: &[i64]) -> Result<(), LatticeError> {
        let spare = 64 - self.width;
        // All are looked at, so that the time says nothing of them.
        let wide = weights
            .iter()
            .fold(0, |wide, w| wide | ((w << spare >> spare) ^ w));
        if wide != 0 {
            return Err(LatticeError::Range {
                what: "a weight",
                allowed: "in the declared width",
                got: self.width.into(),
            });
        }
        Ok(())
    }

    /// The client's shares from the response, by output, row and column.
    ///
    /// # Errors
    /// A message of another length or shape, or bits where none belong.
    pub fn finish(
        &self,
        client: &Client,
        response: &[u8],
    ) -> Result<Zeroizing<Vec<u64>>, LatticeError> {
        let mut rest = behind_tag(response, self.response_bytes(), self.tag(), RESPONSE)?;
        let mut shares = Zeroizing::new(vec![0; self.shape.results()]);
        for outputs in Self::groups(self.shape.outputs, self.layout.merged()) {
            for tile in self.tiles() {
                let values = self.values(&tile, &outputs);
                let places: Vec<usize> = values.iter().map(|[place, _]| *place).collect();
                let key = &client.key;
                let read = key.decrypt_switched(&mut rest, self.bits, &places, RESPONSE)?;
                for ([_, at], value) in values.iter().zip(&*read) {
                    shares[*at] = *value;
                }
            }
        }
        Ok(shares)
    }
}

#[cfg(test)]
pub(crate) mod tests;
