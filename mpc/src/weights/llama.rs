//! Weights of the LLaMA family: RMS norms, gated MLP, and what a [`crate::Variant`] adds.

use marill_numeric::{PublicMatrix, norm_rest};
use rayon::prelude::*;

use crate::{
    spec::{GAIN_FRAC_BITS, MapSpec, Module, ProgramSpec, SpecError},
    weights::{
        PublicLayer, PublicMap, PublicWeights, QuantizedLayer, Rope, affine::encode_row,
        behind_norm, expect_len,
    },
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
    /// Of each map in the order of [`Module::ALL`], empty where it has none; no list where no map
    /// has one.
    pub biases: &'a [Vec<f32>],
    /// Gains of the norms of queries and keys; empty where there are none.
    pub qk_norms: [&'a [f32]; 2],
}

impl<'a> LayerFloats<'a> {
    /// What a layer has whose maps and norms are private: the gains of the norms of queries and
    /// keys alone.
    #[must_use]
    pub fn public_gains(qk_norms: [&'a [f32]; 2]) -> Self {
        Self {
            input_layernorm: &[],
            q_proj: &[],
            k_proj: &[],
            v_proj: &[],
            o_proj: &[],
            post_attention_layernorm: &[],
            gate_proj: &[],
            up_proj: &[],
            down_proj: &[],
            biases: &[],
            qk_norms,
        }
    }

    /// Values of a layer without those gains.
    fn private_values(&self) -> usize {
        let norms = [self.input_layernorm, self.post_attention_layernorm];
        let maps = Module::ALL.iter().map(|module| self.named(*module).1);
        let biases = self.biases.iter().map(Vec::as_slice);
        let all = norms.into_iter().chain(maps).chain(biases);
        all.map(<[f32]>::len).sum()
    }

    /// A map's name in the checkpoint, and its weights.
    fn named(&self, module: Module) -> (&'static str, &'a [f32]) {
        match module {
            Module::Q => ("self_attn.q_proj", self.q_proj),
            Module::K => ("self_attn.k_proj", self.k_proj),
            Module::V => ("self_attn.v_proj", self.v_proj),
            Module::O => ("self_attn.o_proj", self.o_proj),
            Module::Gate => ("mlp.gate_proj", self.gate_proj),
            Module::Up => ("mlp.up_proj", self.up_proj),
            Module::Down => ("mlp.down_proj", self.down_proj),
        }
    }
}

impl PublicWeights {
    /// Quantizes the public weights of the private layers and the output head. Where full-rank
    /// weights are private, `layers` is empty, or [`LayerFloats::public_gains`] where queries and
    /// keys are normed.
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
            if spec.is_full_rank() && spec.variant.qk_norm.is_none() {
                0
            } else {
                spec.num_layers
            },
            layers.len(),
        )?;
        expect_len("model.norm", spec.hidden_size, final_norm.len())?;
        expect_len("lm_head", spec.vocab_size * spec.hidden_size, lm_head.len())?;
        let quantized = layers
            .par_iter()
            .enumerate()
            .map(|(l, floats)| match spec.is_full_rank() {
                true => public_gains(spec, l, floats),
                false => quantize_layer(spec, l, floats),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (maps, mut layers): (Vec<_>, Vec<_>) = quantized.into_iter().unzip();
        let mut maps: Vec<PublicMap> = maps.into_iter().flatten().collect();
        // Private maps have no public part, but keep their place in the list.
        maps.resize_with(spec.num_maps(), PublicMap::private);
        layers.resize_with(spec.num_layers, PublicLayer::default);
        let bits = spec.numeric.weight_frac_bits;
        let (lm_head, lm_head_frac_bits) = PublicMatrix::quantize(
            lm_head,
            spec.vocab_size,
            spec.hidden_size,
            Some(final_norm),
            &|_| 1.0,
            bits,
            "lm_head",
        )?
        .with_common_scale(bits);
        let weights = Self {
            spec: spec.clone(),
            maps,
            layers,
            lm_head,
            lm_head_frac_bits,
            lm_head_bias: Vec::new(),
            pooler: None,
            rope: Rope::of(spec),
            digest: String::new(),
        };
        Ok(weights.with_digest())
    }
}

/// One layer's maps and what the adapter has to know of its norms.
pub(super) fn quantize_layer(
    spec: &ProgramSpec,
    layer: usize,
    floats: &LayerFloats<'_>,
) -> Result<QuantizedLayer, SpecError> {
    // x = h / |h| · 2^norm_bits; what is missing to sqrt(hidden_size) goes into the gain.
    let rest = spec.norm_rest();
    let fold = |name: &str, gain: &[f32]| {
        expect_len(name, spec.hidden_size, gain.len())?;
        let folded = gain.iter().map(|g| (f64::from(*g) * rest) as f32);
        Ok::<_, SpecError>(folded.collect::<Vec<f32>>())
    };
    let norm_scale = [
        fold("input_layernorm", floats.input_layernorm)?,
        fold("post_attention_layernorm", floats.post_attention_layernorm)?,
    ];
    let quantize = |map: MapSpec| {
        let (name, weights) = floats.named(map.module);
        let label = format!("layers.{layer}.{name}");
        expect_len(&label, map.len(), weights.len())?;
        let columns = behind_norm(&norm_scale, map.module);
        let matrix = PublicMatrix::quantize(
            weights,
            map.rows,
            map.cols,
            columns,
            &|row| spec.row_factor(&map, row),
            spec.numeric.weight_frac_bits,
            &label,
        )?;
        let bias = quantize_bias(spec, &map, floats)?;
        Ok(PublicMap { matrix, bias })
    };
    let maps = spec.maps_of(layer).map(quantize);
    let maps = maps.collect::<Result<Vec<_>, SpecError>>()?;
    let layer = PublicLayer {
        norm_scale,
        qk_gains: qk_gains(spec, layer, floats)?,
        ..PublicLayer::default()
    };
    Ok((maps, layer))
}

/// What is public of a layer whose maps are private. That nothing else comes here keeps a private
/// tensor from being published by mistake.
fn public_gains(
    spec: &ProgramSpec,
    layer: usize,
    floats: &LayerFloats<'_>,
) -> Result<QuantizedLayer, SpecError> {
    let label = format!("layers.{layer}.public maps");
    expect_len(&label, 0, floats.private_values())?;
    let maps = spec.maps_of(layer).map(|_| PublicMap::private());
    let layer = PublicLayer {
        qk_gains: qk_gains(spec, layer, floats)?,
        ..PublicLayer::default()
    };
    Ok((maps.collect(), layer))
}

/// A map's bias at the scale of its product; empty where it has none.
fn quantize_bias(
    spec: &ProgramSpec,
    map: &MapSpec,
    floats: &LayerFloats<'_>,
) -> Result<Vec<u64>, SpecError> {
    let place = Module::ALL.iter().position(|m| *m == map.module);
    let bias = place.and_then(|place| floats.biases.get(place));
    let bias = bias.map_or(&[][..], Vec::as_slice);
    if bias.is_empty() {
        return Ok(Vec::new());
    }
    let label = format!("layers.{}.{}.bias", map.layer, floats.named(map.module).0);
    expect_len(
        &label,
        if spec.variant.biases { map.rows } else { 0 },
        bias.len(),
    )?;
    let row = bias.iter().enumerate();
    let row: Vec<f64> = row
        .map(|(i, b)| f64::from(*b) * spec.row_factor(map, i))
        .collect();
    let frac_bits = map.input_frac_bits + spec.numeric.weight_frac_bits;
    encode_row(&row, frac_bits, &label)
}

/// Gains of the norms of queries and keys for each column, with what `2^norm_bits` leaves of the
/// root of a row's size, and in the queries' the softmax scale.
fn qk_gains(
    spec: &ProgramSpec,
    layer: usize,
    floats: &LayerFloats<'_>,
) -> Result<[Vec<u64>; 2], SpecError> {
    let sizes = spec.qk_norm_sizes(layer).unwrap_or([0; 2]);
    let heads = [spec.heads(layer), spec.num_key_value_heads];
    let mut gains = [Vec::new(), Vec::new()];
    for (nth, (name, size)) in ["q_norm", "k_norm"].into_iter().zip(sizes).enumerate() {
        let label = format!("layers.{layer}.self_attn.{name}");
        let gain = floats.qk_norms[nth];
        expect_len(&label, size, gain.len())?;
        if size == 0 {
            continue;
        }
        let of_column = |i: usize| {
            let factor = match nth {
                0 => spec.query_factor(layer, i / spec.head_dim),
                _ => 1.0,
            };
            f64::from(gain[i % size]) * norm_rest(size) * factor
        };
        let row: Vec<f64> = (0..heads[nth] * spec.head_dim).map(of_column).collect();
        gains[nth] = encode_row(&row, GAIN_FRAC_BITS, &label)?;
    }
    Ok(gains)
}
