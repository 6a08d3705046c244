//! The weights of a secure program as integers: public maps, the private adapter, and the adapter
//! under its mask. Whatever belongs to a map is a list in the order of [`ProgramSpec::maps`].

use marill_numeric::{PublicMatrix, hex};
use sha2::{Digest, Sha256};

mod affine;
mod full;
mod llama;
mod lora;
mod private;
mod rope;

use crate::spec::{MapId, MapSpec, Module, NormKind, ProgramSpec, SpecError};
pub use crate::weights::{
    affine::{AffineLayerFloats, HeadFloats, MapFloats, NormFloats},
    full::MatrixMasks,
    llama::LayerFloats,
    lora::LoraFloats,
    private::{MaskedAdapter, PrivateWeights},
    rope::Rope,
};
pub(crate) use crate::weights::{full::FullRankMap, lora::Lora, private::adapter_masks};

/// A map's public part. Norm gains are folded into the columns of the maps that follow them, the
/// softmax scale into the rows of the query map.
pub struct PublicMap {
    pub matrix: PublicMatrix,
    /// The bias at the scale of the product; empty where there is none.
    pub bias: Vec<u64>,
}

impl PublicMap {
    /// The shape of a map whose weights are not here.
    fn shape_only(map: &MapSpec) -> Self {
        Self {
            matrix: PublicMatrix::shape_only(map.rows, map.cols),
            bias: Vec::new(),
        }
    }

    /// What is public of a private map: nothing.
    fn private() -> Self {
        Self {
            matrix: PublicMatrix::shape_only(0, 0),
            bias: Vec::new(),
        }
    }
}

/// What is public of one private layer beside its maps.
#[derive(Default)]
pub struct PublicLayer {
    /// Column factors of the maps behind each norm, which the adapter folds too.
    norm_scale: [Vec<f32>; 2],
    /// The norms' own biases, which the adapter sees too; empty where there are none.
    norm_bias: [Vec<f32>; 2],
    /// Norms after attention and after the MLP; empty elsewhere.
    pub(crate) post_norms: Vec<PostNorm>,
    /// Gains of the norms of queries and keys, an entry for each column; empty where there are
    /// none.
    pub(crate) qk_gains: [Vec<u64>; 2],
}

/// A layer norm's gain and bias as public rows.
#[derive(Default)]
pub struct PostNorm {
    pub(crate) gain: Vec<u64>,
    pub(crate) bias: Vec<u64>,
}

/// One layer as it is quantized: its maps in order, and what stands beside them.
type QuantizedLayer = (Vec<PublicMap>, PublicLayer);

/// Everything that both evaluators hold in clear.
pub struct PublicWeights {
    pub spec: ProgramSpec,
    /// In the order of [`ProgramSpec::maps`].
    pub maps: Vec<PublicMap>,
    pub layers: Vec<PublicLayer>,
    /// The output head behind the final norm's gain, all rows on one scale.
    pub lm_head: PublicMatrix,
    /// Fractional bits that a product with `lm_head` gains.
    pub lm_head_frac_bits: u32,
    /// At the scale of a product with `lm_head`; empty when there is none.
    pub lm_head_bias: Vec<u64>,
    /// An encoder's dense map behind its pooling, with its bias; none elsewhere.
    pub(crate) pooler: Option<(PublicMatrix, Vec<u64>)>,
    /// Cosines and sines `[position][head_dim / 2]`.
    pub rope: Rope,
    digest: String,
}

impl PublicWeights {
    /// The shapes of a program without its weights, for the dealer and the tally, which multiply
    /// nothing.
    pub(crate) fn shapes_only(spec: &ProgramSpec) -> Self {
        let post_norms = match spec.architecture.norm() {
            NormKind::Rms | NormKind::Layer => 0,
            NormKind::PostLayer => 2,
        };
        let layer = || PublicLayer {
            post_norms: std::iter::repeat_with(PostNorm::default)
                .take(post_norms)
                .collect(),
            ..PublicLayer::default()
        };
        Self {
            spec: spec.clone(),
            maps: spec.maps().map(|map| PublicMap::shape_only(&map)).collect(),
            layers: std::iter::repeat_with(layer)
                .take(spec.num_layers)
                .collect(),
            lm_head: PublicMatrix::shape_only(spec.vocab_size, spec.hidden_size),
            lm_head_frac_bits: 0,
            lm_head_bias: Vec::new(),
            pooler: spec.has_pooler().then(|| {
                (
                    PublicMatrix::shape_only(spec.hidden_size, spec.hidden_size),
                    Vec::new(),
                )
            }),
            // The dealer rotates what a product has deferred.
            rope: Rope::of(spec),
            digest: String::new(),
        }
    }

    /// The public part of a map.
    #[must_use]
    pub fn map(&self, id: MapId) -> &PublicMap {
        &self.maps[id.index()]
    }

    /// SHA-256 over every public integer; both evaluators must agree on it.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Returns self under its digest.
    fn with_digest(mut self) -> Self {
        let mut hash = Sha256::new();
        // The spec, then all matrices, then all rows, then the tables: an order that manifests rely
        // on.
        hash.update(serde_json::to_vec(&self.spec).expect("a plain struct serializes"));
        for matrix in self
            .maps
            .iter()
            .map(|map| &map.matrix)
            .chain([&self.lm_head])
            .chain(self.pooler.iter().map(|p| &p.0))
        {
            matrix.hash_into(&mut |bytes| hash.update(bytes));
        }
        let rows = (0..self.layers.len()).flat_map(|layer| self.rows(layer));
        let rows = rows.chain(self.lm_head_bias.iter().copied());
        let rows = rows.chain(self.pooler.iter().flat_map(|p| p.1.iter().copied()));
        hash.update(rows.flat_map(u64::to_le_bytes).collect::<Vec<u8>>());
        let rope = self.rope.cos.iter().chain(&self.rope.sin);
        hash.update(rope.flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        self.digest = hex(&hash.finalize());
        self
    }

    /// Everything of a layer but the matrices: biases, then gain and bias of its own norms.
    fn rows(&self, layer: usize) -> impl Iterator<Item = u64> + '_ {
        let biases = self
            .spec
            .maps_of(layer)
            .flat_map(|map| &self.map(map.id).bias);
        let norms = &self.layers[layer].post_norms;
        let norms = norms.iter().flat_map(|n| n.gain.iter().chain(&n.bias));
        let gains = self.layers[layer].qk_gains.iter().flatten();
        biases.chain(norms).chain(gains).copied()
    }
}

fn expect_len(name: &str, expected: usize, got: usize) -> Result<(), SpecError> {
    if expected == got {
        Ok(())
    } else {
        Err(SpecError::Length {
            name: name.to_owned(),
            expected,
            got,
        })
    }
}

/// What belongs to the norm before a map, where there is one.
fn behind_norm(of_norms: &[Vec<f32>; 2], module: Module) -> Option<&[f32]> {
    // Queries, keys and values stand behind the first norm, gate and up behind the second.
    let row = match module {
        Module::Q | Module::K | Module::V => &of_norms[0],
        Module::Gate | Module::Up => &of_norms[1],
        Module::O | Module::Down => return None,
    };
    (!row.is_empty()).then_some(row)
}
