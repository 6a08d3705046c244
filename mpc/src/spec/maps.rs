//! The linear maps of a program: a list, in which a map is named by its place.
//!
//! Weights, masks and private updates are lists in the same order, layer by layer and, in a layer,
//! in the order of [`Architecture::modules`].
//!
//! [`Architecture::modules`]: crate::Architecture::modules

use crate::spec::{Module, NormKind, ProgramSpec, width};

/// A linear map of a program, by its place in [`ProgramSpec::maps`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MapId(usize);

impl MapId {
    /// The place itself.
    #[must_use]
    pub fn index(self) -> usize {
        self.0
    }
}

/// What everyone may know of a linear map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MapSpec {
    pub id: MapId,
    /// Private layer, from 0.
    pub layer: usize,
    pub module: Module,
    /// Columns in.
    pub cols: usize,
    /// Rows out.
    pub rows: usize,
    /// Rank of its private LoRA update; 0 where it has none.
    pub rank: usize,
    /// Width of the ring in which it multiplies when it is private, and therefore of its mask: that
    /// of the wire behind it, since a narrower mask would not hide what the ring keeps of the
    /// product.
    pub private_bits: u32,
    /// Fractional bits of what it takes.
    pub input_frac_bits: u32,
}

impl MapSpec {
    /// Weights of the map.
    #[must_use]
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }

    /// Whether it has no weights.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Elements of the update's factors, `A [rank, cols]` and `B [rows, rank]`.
    #[must_use]
    pub fn factor_lens(&self) -> [usize; 2] {
        [self.rank * self.cols, self.rows * self.rank]
    }
}

impl ProgramSpec {
    /// A map by what it is in its layer.
    ///
    /// # Panics
    /// When the architecture has no such map.
    #[must_use]
    pub fn map(&self, layer: usize, module: Module) -> MapId {
        let modules = self.architecture.modules();
        let place = modules.iter().position(|m| *m == module);
        MapId(layer * modules.len() + place.expect("a map of this architecture"))
    }

    /// What the weights of a map's row are multiplied by before they are integers: of the query map
    /// the softmax scale's part that is no power of two, and the weight of the row's head.
    pub(crate) fn row_factor(&self, map: &MapSpec, row: usize) -> f64 {
        match map.module {
            // Behind a norm of the queries it is in that norm's gain.
            Module::Q if self.variant.qk_norm.is_none() => {
                // softmax(Σ s_i q_i·k) = softmax(Σ (s_i q_i)·k), so the factor is the query's.
                self.query_factor(map.layer, row / self.head_dim)
            }
            _ => 1.0,
        }
    }

    /// The softmax scale's part that is no power of two, times the weight of a head.
    pub(crate) fn query_factor(&self, layer: usize, head: usize) -> f64 {
        self.score_scale(layer).0 * self.head_weight(layer, head)
    }

    /// How many maps there are.
    #[must_use]
    pub fn num_maps(&self) -> usize {
        self.num_layers * self.architecture.modules().len()
    }

    /// What is known of a map.
    #[must_use]
    pub fn map_spec(&self, id: MapId) -> MapSpec {
        let modules = self.architecture.modules();
        let layer = id.0 / modules.len();
        let place = id.0 % modules.len();
        let module = modules[place];
        let ranks = &self.lora_ranks;
        let (cols, rows) = self.shape(layer, module);
        // Rotation multiplies before the truncation, so the product needs the whole ring; in front
        // of a norm there is a truncation.
        let rotates = self.rotates(layer) && self.variant.qk_norm.is_none();
        let private_bits = match module {
            Module::Q | Module::K | Module::V if rotates => width::FULL,
            _ => width::PRODUCT,
        };
        let input_frac_bits = match module {
            Module::O | Module::Down => self.numeric.frac_bits,
            _ => self.map_input_frac_bits(),
        };
        MapSpec {
            id,
            layer,
            module,
            cols,
            rows,
            rank: ranks.get(place).copied().unwrap_or(self.lora_rank),
            private_bits,
            input_frac_bits,
        }
    }

    /// All linear maps, in order.
    pub fn maps(&self) -> impl Iterator<Item = MapSpec> + '_ {
        (0..self.num_maps()).map(|place| self.map_spec(MapId(place)))
    }

    /// The maps of one layer, in order.
    pub fn maps_of(&self, layer: usize) -> impl Iterator<Item = MapSpec> + '_ {
        let modules = self.architecture.modules();
        modules
            .iter()
            .map(move |&module| self.map_spec(self.map(layer, module)))
    }

    /// Fractional bits of what the maps of a layer's two halves take: normalized rows, or an
    /// encoder's residual stream. The same holds for poolers and heads.
    #[must_use]
    pub fn map_input_frac_bits(&self) -> u32 {
        match self.architecture.norm() {
            NormKind::Rms | NormKind::Layer => self.numeric.frac_bits,
            NormKind::PostLayer => self.numeric.residual_frac_bits,
        }
    }

    /// Columns in and rows out of a layer's map.
    fn shape(&self, layer: usize, module: Module) -> (usize, usize) {
        let heads = self.heads(layer) * self.head_dim;
        let kv = self.num_key_value_heads * self.head_dim;
        match module {
            Module::Q => (self.hidden_size, heads),
            Module::K | Module::V => (self.hidden_size, kv),
            Module::O => (heads, self.hidden_size),
            Module::Gate | Module::Up => (self.hidden_size, self.intermediate_size),
            Module::Down => (self.intermediate_size, self.hidden_size),
        }
    }
}
