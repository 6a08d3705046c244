//! The weights of a secure program as integers: public matrices, the private adapter, and the
//! adapter under its mask.

use std::sync::Arc;

use marill_numeric::{PublicMatrix, hex};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, ZeroizeOnDrop};

mod affine;
mod full;

use marill_crypto::{Prg, Seed};

use crate::spec::{Module, ProgramSpec, SpecError};
pub(crate) use crate::weights::full::{FullRankLayer, RingLayer};
pub use crate::weights::{
    affine::{AffineLayerFloats, HeadFloats, MapFloats, NormFloats},
    full::MatrixMasks,
};

/// The float weights of one layer, row-major `[out, in]`, named as in the checkpoint.
#[derive(Clone, Copy)]
pub struct LayerFloats<'a> {
    pub input_layernorm: &'a [f32],
    pub q_proj: &'a [f32],
    pub k_proj: &'a [f32],
    pub v_proj: &'a [f32],
    pub o_proj: &'a [f32],
    pub post_attention_layernorm: &'a [f32],
    pub gate_proj: &'a [f32],
    pub up_proj: &'a [f32],
    pub down_proj: &'a [f32],
}

/// One private layer's public matrices. Norm gains are folded into the columns of the maps that
/// follow them, the softmax scale into the rows of the query map.
pub struct PublicLayer {
    matrices: [PublicMatrix; 7],
    /// Biases at the scale of the maps' products; empty where there are none.
    biases: [Vec<u64>; 7],
    /// Column factors of the maps behind each norm, which the adapter folds too.
    norm_scale: [Vec<f32>; 2],
    /// The norms' own biases, which the adapter sees too; empty where there are none.
    norm_bias: [Vec<f32>; 2],
    /// An encoder's norms after attention and after the MLP; empty elsewhere.
    pub(crate) post_norms: Vec<PostNorm>,
}

/// A layer norm's gain and bias as public rows.
pub struct PostNorm {
    pub(crate) gain: Vec<u64>,
    pub(crate) bias: Vec<u64>,
}

impl PublicLayer {
    /// The shapes of a layer whose weights are not here.
    fn shapes_only(spec: &ProgramSpec) -> Self {
        Self {
            matrices: Module::ALL.map(|m| {
                let (cols, rows) = spec.shape(m);
                PublicMatrix::shape_only(rows, cols)
            }),
            biases: Default::default(),
            norm_scale: Default::default(),
            norm_bias: Default::default(),
            post_norms: (0..2)
                .map(|_| PostNorm {
                    gain: Vec::new(),
                    bias: Vec::new(),
                })
                .collect(),
        }
    }

    /// What is public of a layer whose maps are private.
    fn without_maps(spec: &ProgramSpec, post_norms: Vec<PostNorm>) -> Self {
        Self {
            matrices: [(); 7].map(|()| PublicMatrix::shape_only(0, 0)),
            post_norms,
            ..Self::shapes_only(spec)
        }
    }

    #[must_use]
    pub fn matrix(&self, module: Module) -> &PublicMatrix {
        &self.matrices[module as usize]
    }

    /// The bias of a map; empty when it has none.
    #[must_use]
    pub fn bias(&self, module: Module) -> &[u64] {
        &self.biases[module as usize]
    }

    /// Everything but the matrices, for the digest.
    fn rows(&self) -> impl Iterator<Item = u64> + '_ {
        let norms = self
            .post_norms
            .iter()
            .flat_map(|n| n.gain.iter().chain(&n.bias));
        self.biases.iter().flatten().chain(norms).copied()
    }
}

/// Everything that both evaluators hold in clear.
pub struct PublicWeights {
    pub spec: ProgramSpec,
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

/// Rotary tables in fixed point.
pub struct Rope {
    pub half: usize,
    pub cos: Vec<i64>,
    pub sin: Vec<i64>,
}

impl Rope {
    /// For architectures without rotation.
    fn none(spec: &ProgramSpec) -> Self {
        Self {
            half: spec.head_dim / 2,
            cos: Vec::new(),
            sin: Vec::new(),
        }
    }

    /// The same integers on every platform: every party builds its own.
    fn new(spec: &ProgramSpec) -> Self {
        let half = spec.head_dim / 2;
        let one = f64::from(1u32 << spec.numeric.rope_frac_bits);
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in 0..spec.max_positions {
            for i in 0..half {
                let angle = position as f64
                    / libm::pow(spec.rope_theta, 2.0 * i as f64 / spec.head_dim as f64);
                cos.push((libm::cos(angle) * one).round() as i64);
                sin.push((libm::sin(angle) * one).round() as i64);
            }
        }
        Self { half, cos, sin }
    }
}

impl PublicWeights {
    /// Quantizes the public weights of the private layers and the output head. Where full-rank
    /// weights are private, `layers` is empty.
    ///
    /// # Errors
    /// [`SpecError::Length`] for a tensor of the wrong size, [`SpecError::Numeric`] for a weight
    /// that does not fit.
    pub fn from_floats(
        spec: &ProgramSpec,
        layers: &[LayerFloats<'_>],
        final_norm: &[f32],
        lm_head: &[f32],
    ) -> Result<Self, SpecError> {
        spec.validate()?;
        expect_len(
            "public layers",
            if spec.is_full_rank() {
                0
            } else {
                spec.num_layers
            },
            layers.len(),
        )?;
        expect_len("model.norm", spec.hidden_size, final_norm.len())?;
        expect_len("lm_head", spec.vocab_size * spec.hidden_size, lm_head.len())?;
        let mut quantized = layers
            .par_iter()
            .enumerate()
            .map(|(l, floats)| quantize_layer(spec, l, floats))
            .collect::<Result<Vec<_>, _>>()?;
        quantized.resize_with(spec.num_layers, || {
            PublicLayer::without_maps(spec, Vec::new())
        });
        let bits = spec.numeric.weight_frac_bits;
        let (lm_head, lm_head_frac_bits) = PublicMatrix::quantize(
            lm_head,
            spec.vocab_size,
            spec.hidden_size,
            Some(final_norm),
            1.0,
            bits,
            "lm_head",
        )?
        .with_common_scale(bits);
        let mut weights = Self {
            spec: spec.clone(),
            layers: quantized,
            lm_head,
            lm_head_frac_bits,
            lm_head_bias: Vec::new(),
            pooler: None,
            rope: Rope::new(spec),
            digest: String::new(),
        };
        weights.digest = weights.compute_digest();
        Ok(weights)
    }

    /// The shapes of a program without its weights, for the dealer and the tally, which multiply
    /// nothing.
    pub(crate) fn shapes_only(spec: &ProgramSpec) -> Self {
        Self {
            spec: spec.clone(),
            layers: (0..spec.num_layers)
                .map(|_| PublicLayer::shapes_only(spec))
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
            rope: if spec.architecture.is_llama() {
                Rope::new(spec)
            } else {
                Rope::none(spec)
            },
            digest: String::new(),
        }
    }

    /// SHA-256 over every public integer; both evaluators must agree on it.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    fn compute_digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(serde_json::to_vec(&self.spec).expect("a plain struct serializes"));
        for matrix in self
            .layers
            .iter()
            .flat_map(|l| &l.matrices)
            .chain([&self.lm_head])
            .chain(self.pooler.iter().map(|p| &p.0))
        {
            matrix.hash_into(&mut |bytes| hash.update(bytes));
        }
        let rows = self
            .layers
            .iter()
            .flat_map(PublicLayer::rows)
            .chain(self.lm_head_bias.iter().copied());
        let rows = rows.chain(self.pooler.iter().flat_map(|p| p.1.iter().copied()));
        hash.update(rows.flat_map(u64::to_le_bytes).collect::<Vec<u8>>());
        let rope = self.rope.cos.iter().chain(&self.rope.sin);
        hash.update(rope.flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
        hex(&hash.finalize())
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

fn quantize_layer(
    spec: &ProgramSpec,
    layer: usize,
    floats: &LayerFloats<'_>,
) -> Result<PublicLayer, SpecError> {
    // x = h / |h| · 2^norm_bits; what is missing to sqrt(hidden_size) goes into the gain.
    let rest = (spec.hidden_size as f64).sqrt() / f64::from(1u32 << spec.norm_bits());
    let fold = |gain: &[f32]| {
        gain.iter()
            .map(|g| (f64::from(*g) * rest) as f32)
            .collect::<Vec<f32>>()
    };
    expect_len(
        "input_layernorm",
        spec.hidden_size,
        floats.input_layernorm.len(),
    )?;
    expect_len(
        "post_attention_layernorm",
        spec.hidden_size,
        floats.post_attention_layernorm.len(),
    )?;
    let norm_scale = [
        fold(floats.input_layernorm),
        fold(floats.post_attention_layernorm),
    ];
    let quantize = |module: Module, name: &str, weights: &[f32]| {
        let (cols, rows) = spec.shape(module);
        let label = format!("layers.{layer}.{name}");
        expect_len(&label, rows * cols, weights.len())?;
        let columns = behind_norm(&norm_scale, module);
        let factor = if module == Module::Q {
            spec.score_scale(layer).0
        } else {
            1.0
        };
        let bits = spec.numeric.weight_frac_bits;
        Ok::<_, SpecError>(PublicMatrix::quantize(
            weights, rows, cols, columns, factor, bits, &label,
        )?)
    };
    Ok(PublicLayer {
        matrices: [
            quantize(Module::Q, "self_attn.q_proj", floats.q_proj)?,
            quantize(Module::K, "self_attn.k_proj", floats.k_proj)?,
            quantize(Module::V, "self_attn.v_proj", floats.v_proj)?,
            quantize(Module::O, "self_attn.o_proj", floats.o_proj)?,
            quantize(Module::Gate, "mlp.gate_proj", floats.gate_proj)?,
            quantize(Module::Up, "mlp.up_proj", floats.up_proj)?,
            quantize(Module::Down, "mlp.down_proj", floats.down_proj)?,
        ],
        biases: Default::default(),
        norm_scale,
        norm_bias: Default::default(),
        post_norms: Vec::new(),
    })
}

/// What belongs to the norm before a map, where there is one.
fn behind_norm(of_norms: &[Vec<f32>; 2], module: Module) -> Option<&[f32]> {
    let row = match module {
        Module::Q | Module::K | Module::V => &of_norms[0],
        Module::Gate | Module::Up => &of_norms[1],
        Module::O | Module::Down => return None,
    };
    (!row.is_empty()).then_some(row)
}

/// A LoRA update in floats: `delta W = scale · B · A`, `A` `[rank, in]`, `B` `[out, rank]`, both
/// row-major. Erased when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct LoraFloats {
    pub a: Vec<f32>,
    pub b: Vec<f32>,
    pub scale: f32,
}

/// A LoRA update as ring elements, masked or not. Erased when dropped: a session's own copy ends
/// with it.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub(crate) struct Lora {
    /// `[rank, in]`
    pub(crate) a: Vec<u64>,
    /// `[out, rank]`
    pub(crate) b: Vec<u64>,
    /// `B·A` times the bias of the norm before the map, `[out]`; empty where there is none, and in
    /// every masked form.
    pub(crate) row: Vec<u64>,
}

/// The server's secret as integers: the adapter, or full-rank weights. Never printed.
#[derive(Default)]
pub struct PrivateWeights {
    /// `[layer][module]`; empty when the rank is 0.
    pub(crate) layers: Vec<[Lora; 7]>,
    /// `[layer]`; empty where the spec keeps LoRA updates.
    pub(crate) full: Arc<Vec<FullRankLayer>>,
}

/// The private weights plus a mask that only the server and the dealer can expand; sent to the
/// client once.
pub struct MaskedAdapter {
    pub(crate) layers: Vec<[Lora; 7]>,
    pub(crate) full: Arc<Vec<RingLayer>>,
    /// Widths of the matrices of `full`.
    full_bits: [u32; 7],
}

impl PrivateWeights {
    /// Quantizes an adapter. A missing module is a zero update, so that shapes tell nothing about
    /// it.
    ///
    /// # Errors
    /// [`SpecError::Length`] for a factor of the wrong size, [`SpecError::Invalid`] for a value
    /// that does not fit.
    pub fn from_floats(
        public: &PublicWeights,
        layers: Vec<[Option<LoraFloats>; 7]>,
    ) -> Result<Self, SpecError> {
        let spec = &public.spec;
        if spec.is_full_rank() {
            let problem = "keeps full-rank weights, not LoRA updates".to_owned();
            return Err(SpecError::Invalid {
                field: "private",
                problem,
            });
        }
        if spec.lora_rank == 0 {
            return Ok(Self::default());
        }
        expect_len("adapter layers", spec.num_layers, layers.len())?;
        let mut quantized = Vec::new();
        for (l, modules) in layers.into_iter().enumerate() {
            let mut lora = Vec::new();
            for (module, floats) in Module::ALL.into_iter().zip(modules) {
                lora.push(quantize_lora(public, l, module, floats)?);
            }
            quantized.push(
                lora.try_into()
                    .unwrap_or_else(|_| unreachable!("seven modules in, seven out")),
            );
        }
        Ok(Self {
            layers: quantized,
            full: Arc::default(),
        })
    }

    /// What is added to a module's product in clear; empty when there is nothing.
    pub(crate) fn row(&self, layer: usize, module: Module) -> &[u64] {
        match (self.full.get(layer), self.layers.get(layer)) {
            (Some(full), _) => &full.rows[module as usize],
            (None, Some(lora)) => &lora[module as usize].row,
            (None, None) => &[],
        }
    }

    /// Everything in it as bytes, by which a server names its private part: little-endian 32-bit
    /// integers, `A` then `B` of each module, then the rows of 64 bits where there are any;
    /// full-rank weights with their scales and rows.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let values = self
            .layers
            .iter()
            .flatten()
            .flat_map(|l| l.a.iter().chain(&l.b));
        let rows = self
            .layers
            .iter()
            .flatten()
            .flat_map(|l| l.row.iter().flat_map(|v| v.to_le_bytes()));
        let mut bytes: Vec<u8> = values
            .flat_map(|v| (*v as i64 as i32).to_le_bytes())
            .chain(rows)
            .collect();
        self.full
            .iter()
            .for_each(|layer| layer.append_bytes(&mut bytes));
        bytes
    }

    /// The private weights under the mask of one client, and the only form in which it leaves the
    /// server.
    ///
    /// The mask is a one-time pad: one `adapter_seed` belongs to one (client, partition), never to
    /// two adapters.
    #[must_use]
    pub fn mask(&self, spec: &ProgramSpec, adapter_seed: &Seed) -> MaskedAdapter {
        let masks = adapter_masks(spec, adapter_seed);
        let add = |x: &[u64], r: &[u64]| x.iter().zip(r).map(|(x, r)| x.wrapping_add(*r)).collect();
        let layers = self.layers.iter().zip(&masks).map(|(layer, masks)| {
            std::array::from_fn(|m| Lora {
                a: add(&layer[m].a, &masks[m].a),
                b: add(&layer[m].b, &masks[m].b),
                row: Vec::new(),
            })
        });
        let full = Arc::new(full::mask(&self.full, spec, adapter_seed));
        MaskedAdapter {
            layers: layers.collect(),
            full,
            full_bits: Module::ALL.map(|m| spec.private_bits(m)),
        }
    }
}

impl MaskedAdapter {
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        if !self.full.is_empty() {
            return full::to_bytes(&self.full_bits, &self.full);
        }
        let values = self
            .layers
            .iter()
            .flatten()
            .flat_map(|l| l.a.iter().chain(&l.b));
        values.flat_map(|v| v.to_le_bytes()).collect()
    }

    /// Length of [`Self::to_bytes`] for a spec.
    #[must_use]
    pub fn bytes_of(spec: &ProgramSpec) -> usize {
        let factors =
            |module: Module| spec.lora_rank * (spec.shape(module).0 + spec.shape(module).1) * 8;
        spec.num_layers * Module::ALL.into_iter().map(factors).sum::<usize>()
            + full::masked_bytes(spec)
    }

    /// # Errors
    /// [`SpecError::Corrupt`] when the length does not fit the spec.
    pub fn from_bytes(spec: &ProgramSpec, bytes: &[u8]) -> Result<Self, SpecError> {
        let full_bits = Module::ALL.map(|m| spec.private_bits(m));
        if spec.is_full_rank() {
            return Ok(Self {
                layers: Vec::new(),
                full: Arc::new(full::from_bytes(spec, bytes)?),
                full_bits,
            });
        }
        let values = bytes
            .chunks_exact(8)
            .map(|b| u64::from_le_bytes(b.try_into().expect("eight bytes")));
        let layers = unflatten(spec, values.collect(), bytes.len() / 8 * 8 == bytes.len())?;
        Ok(Self {
            layers,
            full: Arc::default(),
            full_bits,
        })
    }

    /// SHA-256 in hex, for caching.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(&Sha256::digest(self.to_bytes()))
    }
}

/// The masks `R_A`, `R_B` of every module, expanded from the seed that server and dealer share.
pub(crate) fn adapter_masks(spec: &ProgramSpec, adapter_seed: &Seed) -> Vec<[Lora; 7]> {
    if spec.lora_rank == 0 {
        return Vec::new();
    }
    let mut prg = Prg::new(adapter_seed, "adapter mask");
    (0..spec.num_layers)
        .map(|_| {
            Module::ALL.map(|module| {
                let (cols, rows) = spec.shape(module);
                Lora {
                    a: prg.words(spec.lora_rank * cols),
                    b: prg.words(rows * spec.lora_rank),
                    row: Vec::new(),
                }
            })
        })
        .collect()
}

fn unflatten(
    spec: &ProgramSpec,
    values: Vec<u64>,
    whole: bool,
) -> Result<Vec<[Lora; 7]>, SpecError> {
    let sizes = Module::ALL.map(|m| {
        let (cols, rows) = spec.shape(m);
        (spec.lora_rank * cols, rows * spec.lora_rank)
    });
    let per_layer: usize = sizes.iter().map(|(a, b)| a + b).sum();
    let layers = if spec.lora_rank == 0 {
        0
    } else {
        spec.num_layers
    };
    if !whole || values.len() != per_layer * layers {
        return Err(SpecError::Corrupt(format!(
            "{} values where {} belong",
            values.len(),
            per_layer * layers
        )));
    }
    let mut values = values.into_iter();
    let mut take = |n: usize| values.by_ref().take(n).collect::<Vec<u64>>();
    Ok((0..layers)
        .map(|_| {
            sizes.map(|(a, b)| Lora {
                a: take(a),
                b: take(b),
                row: Vec::new(),
            })
        })
        .collect())
}

fn quantize_lora(
    public: &PublicWeights,
    layer: usize,
    module: Module,
    floats: Option<LoraFloats>,
) -> Result<Lora, SpecError> {
    let spec = &public.spec;
    let (cols, rows) = spec.shape(module);
    let rank = spec.lora_rank;
    let Some(floats) = floats else {
        return Ok(Lora {
            a: vec![0; rank * cols],
            b: vec![0; rows * rank],
            row: Vec::new(),
        });
    };
    expect_len(
        &format!("layers.{layer}.{module:?}.lora_A"),
        rank * cols,
        floats.a.len(),
    )?;
    expect_len(
        &format!("layers.{layer}.{module:?}.lora_B"),
        rows * rank,
        floats.b.len(),
    )?;
    let columns = behind_norm(&public.layers[layer].norm_scale, module);
    let factor = if module == Module::Q {
        spec.score_scale(layer).0
    } else {
        1.0
    };
    let row = affine::private_row(public, layer, module, &floats, factor)?;
    let a: Vec<f64> = (0..floats.a.len())
        .map(|i| f64::from(floats.a[i]) * columns.map_or(1.0, |c| f64::from(c[i % cols])))
        .collect();
    let b: Vec<f64> = floats
        .b
        .iter()
        .map(|&v| f64::from(v) * f64::from(floats.scale) * factor)
        .collect();
    let largest = |v: &[f64]| v.iter().fold(0f64, |m, x| m.max(x.abs()));
    let (max_a, max_b) = (largest(&a), largest(&b));
    // Both factors share the fractional bits of the product; an even split of their magnitudes
    // rounds best.
    let tilt = if max_a > 0.0 && max_b > 0.0 {
        ((max_b / max_a).log2() / 2.0).round() as i32
    } else {
        0
    };
    let half = (spec.numeric.weight_frac_bits / 2) as i32;
    let quantize = |values: Vec<f64>, bits: i32| {
        values
            .into_iter()
            .map(|v| {
                let scaled = (v * f64::from(bits).exp2()).round_ties_even();
                if scaled.abs() < f64::from(1 << 30) {
                    Ok(scaled as i64 as u64)
                } else {
                    let problem =
                        format!("layer {layer}, {module:?}: {v} does not fit in fixed point");
                    Err(SpecError::Invalid {
                        field: "adapter",
                        problem,
                    })
                }
            })
            .collect::<Result<Vec<u64>, _>>()
    };
    Ok(Lora {
        a: quantize(a, half + tilt)?,
        b: quantize(b, half - tilt)?,
        row,
    })
}
