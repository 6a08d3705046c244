//! A decoder that runs rows of many sequences in one pass; what sequences have in common is cached
//! once.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::{
    Adapter, Checkpoint, Llama, ModelConfig, ModelError, Rows, Transforms,
    float_model::tuned,
    ops::{CachedAttention, Positions, Queries, with_floats},
    size::memory,
};

/// Logits that are in memory at once: 32 MiB.
const LOGITS: usize = 1 << 23;

/// A number of a block of cached rows; see [`BatchedModel::new_block`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockId(usize);

impl BlockId {
    /// The block of this number.
    pub fn new(nth: usize) -> Self {
        Self(nth)
    }
}

/// The first `rows` rows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub block: BlockId,
    pub rows: usize,
}

/// New tokens of one sequence.
#[derive(Debug, Clone)]
pub struct Piece {
    /// What comes before the block that the tokens are appended to, in order. Rows that are
    /// appended in the same pass count.
    pub past: Vec<View>,
    /// Where the tokens go, behind all rows that it has.
    pub own: BlockId,
    pub tokens: Vec<u32>,
}

/// Keys and values of consecutive positions, `[rows, KV * D]` in each layer.
struct Block {
    keys: Vec<Vec<f32>>,
    values: Vec<Vec<f32>>,
    rows: usize,
}

/// The whole model in floats for many sequences at once.
///
/// Their keys and values stand in blocks; a sequence is a list of them, so that a beginning or a
/// prompt that several sequences share is computed and stored once. Logits equal those of
/// [`crate::FloatModel`] within float noise: sums over keys run block by block, and a matrix
/// product rounds differently with another number of rows.
pub struct BatchedModel {
    decoder: Llama,
    blocks: Vec<Option<Block>>,
}

impl BatchedModel {
    /// A base model with what a fine-tune changed.
    ///
    /// # Errors
    /// [`ModelError`] when the adapter or the transforms do not fit the base.
    pub fn new(
        base: &Checkpoint,
        transforms: &Transforms,
        adapter: Option<&Adapter>,
    ) -> Result<Self, ModelError> {
        Ok(Self {
            decoder: tuned(base, transforms, adapter)?,
            blocks: Vec::new(),
        })
    }

    /// An empty block.
    pub fn new_block(&mut self) -> BlockId {
        let layers = self.decoder.layers.len();
        let block = Block {
            keys: vec![Vec::new(); layers],
            values: vec![Vec::new(); layers],
            rows: 0,
        };
        match self.blocks.iter().position(Option::is_none) {
            Some(free) => {
                self.blocks[free] = Some(block);
                BlockId(free)
            }
            None => {
                self.blocks.push(Some(block));
                BlockId(self.blocks.len() - 1)
            }
        }
    }

    /// Forgets a block.
    pub fn free(&mut self, block: BlockId) {
        self.blocks[block.0] = None;
    }

    /// Number of rows in a block; 0 for one that was freed.
    pub fn rows(&self, block: BlockId) -> usize {
        self.blocks[block.0].as_ref().map_or(0, |block| block.rows)
    }

    /// Keeps the first `rows` rows of a block.
    pub fn truncate(&mut self, block: BlockId, rows: usize) {
        let width = self.kv_width();
        if let Some(block) = &mut self.blocks[block.0] {
            block.rows = block.rows.min(rows);
            for values in block.keys.iter_mut().chain(&mut block.values) {
                values.truncate(block.rows * width);
            }
        }
    }

    /// Appends the tokens of all pieces, each to its own block, and returns the rows that were
    /// `wanted` of those added, counted over all pieces, behind the final norm:
    /// `[wanted, hidden]`, for [`BatchedModel::each_logits`].
    ///
    /// # Errors
    /// [`ModelError::ContextFull`], [`ModelError::TokenOutOfRange`]; nothing is appended then.
    pub fn forward(&mut self, pieces: &[Piece], wanted: &[u32]) -> Result<Tensor, ModelError> {
        let tokens: Vec<u32> = pieces.iter().flat_map(|p| p.tokens.clone()).collect();
        let mut positions = Vec::with_capacity(tokens.len());
        let mut added = vec![0; self.blocks.len()];
        for Piece { past, own, tokens } in pieces {
            let before = past.iter().map(|view| view.rows).sum::<usize>();
            let first = before + self.rows(*own) + added[own.0];
            positions.extend(first..first + tokens.len());
            added[own.0] += tokens.len();
        }
        let rows = Rows::at(positions);
        self.decoder.check_positions(&rows)?;
        let mut x = self.decoder.embed(&tokens)?;
        let layers = self.decoder.layers.len();
        for layer in 0..layers {
            let last = (layer + 1 == layers)
                .then(|| Tensor::new(wanted, &Device::Cpu))
                .transpose()?;
            let blocks = &mut self.blocks;
            let decoder = &self.decoder;
            let attend = |q: &Tensor, k: &Tensor, v: &Tensor| {
                append(blocks, pieces, layer, k, v)?;
                attend(decoder, blocks, pieces, layer, q)
            };
            let (out, _) = decoder.block_with(layer, x, &rows, last.as_ref(), attend)?;
            x = out;
        }
        for (block, added) in self.blocks.iter_mut().zip(added) {
            if let Some(block) = block {
                block.rows += added;
            }
        }
        self.decoder.finish(&x)
    }

    /// What `read` makes of the logits `[vocab]` of each row that [`BatchedModel::forward`]
    /// returned, with the row's number. Logits of few rows are in memory at once.
    ///
    /// # Errors
    /// From candle.
    pub fn each_logits<T: Send>(
        &self,
        finished: &Tensor,
        read: impl Fn(usize, &[f32]) -> T + Sync,
    ) -> Result<Vec<T>, ModelError> {
        let vocab = self.decoder.config.vocab_size;
        let rows = finished.dim(0)?;
        let at_once = (LOGITS / vocab).max(1);
        let mut all = Vec::with_capacity(rows);
        for start in (0..rows).step_by(at_once) {
            let some = finished.narrow(0, start, at_once.min(rows - start))?;
            let logits = self.decoder.logits(&some)?;
            all.extend(with_floats(&logits, "logits", |logits| {
                let rows = logits.par_chunks(vocab).enumerate();
                rows.map(|(nth, logits)| read(start + nth, logits))
                    .collect::<Vec<T>>()
            })?);
        }
        Ok(all)
    }

    /// Rows of keys and values that take an eighth of this machine's memory.
    pub fn rows_in_memory(&self) -> usize {
        let rows = memory() / 8 / self.row_bytes().max(1) as u64;
        usize::try_from(rows).unwrap_or(usize::MAX)
    }

    /// Bytes of the keys and values of one row.
    fn row_bytes(&self) -> usize {
        2 * self.kv_width() * self.decoder.layers.len() * size_of::<f32>()
    }

    fn kv_width(&self) -> usize {
        self.decoder.config.num_key_value_heads() * self.decoder.config.head_dim()
    }
}

/// Puts the new keys and values of a layer behind those of their blocks.
fn append(
    blocks: &mut [Option<Block>],
    pieces: &[Piece],
    layer: usize,
    k: &Tensor,
    v: &Tensor,
) -> candle_core::Result<()> {
    let width = k.dim(1)?;
    let mut put = |of: fn(&mut Block) -> &mut Vec<Vec<f32>>, rows: &[f32]| {
        let mut rest = rows;
        for piece in pieces {
            let (new, later) = rest.split_at(piece.tokens.len() * width);
            if let Some(block) = &mut blocks[piece.own.0] {
                of(block)[layer].extend_from_slice(new);
            }
            rest = later;
        }
    };
    with_floats(k, "append", |rows| put(|block| &mut block.keys, rows))?;
    with_floats(v, "append", |rows| put(|block| &mut block.values, rows))
}

fn attend(
    decoder: &Llama,
    blocks: &[Option<Block>],
    pieces: &[Piece],
    layer: usize,
    q: &Tensor,
) -> candle_core::Result<Tensor> {
    let config = &decoder.config;
    let kv_width = config.num_key_value_heads * config.head_dim;
    // Of its own block a sequence sees all rows, those of this pass included.
    let positions = |(id, rows): (BlockId, Option<usize>)| {
        let block = blocks[id.0].as_ref()?;
        let end = rows.map_or(block.keys[layer].len(), |rows| rows * kv_width);
        (end > 0).then(|| Positions {
            keys: &block.keys[layer][..end],
            values: &block.values[layer][..end],
        })
    };
    let sequences: Vec<Queries<'_>> = pieces
        .iter()
        .map(|piece| {
            let past = piece.past.iter().map(|view| (view.block, Some(view.rows)));
            let all = past.chain([(piece.own, None)]);
            Queries {
                q_len: piece.tokens.len(),
                pieces: all.filter_map(positions).collect(),
            }
        })
        .collect();
    let block = &decoder.layers[layer];
    let attention = CachedAttention {
        heads: &block.heads,
        approx: block.approx,
        head_dim: config.head_dim,
        q_width: config.num_attention_heads * config.head_dim,
        kv_width,
    };
    let out = with_floats(q, "attention", |q| attention.forward(q, &sequences))?;
    Tensor::from_vec(out, q.shape(), q.device())
}
