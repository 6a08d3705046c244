//! Weights of the LLaMA family: RMS norms, gated MLP, no biases.

use marill_numeric::PublicMatrix;
use rayon::prelude::*;

use crate::{
    spec::{MapSpec, Module, ProgramSpec, SpecError},
    weights::{
        PublicLayer, PublicMap, PublicWeights, QuantizedLayer, Rope, behind_norm, expect_len,
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
}

impl<'a> LayerFloats<'a> {
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
        let quantized = layers
            .par_iter()
            .enumerate()
            .map(|(l, floats)| quantize_layer(spec, l, floats))
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
        let bias = Vec::new();
        Ok(PublicMap { matrix, bias })
    };
    let maps = spec.maps_of(layer).map(quantize);
    let maps = maps.collect::<Result<Vec<_>, SpecError>>()?;
    let layer = PublicLayer {
        norm_scale,
        ..PublicLayer::default()
    };
    Ok((maps, layer))
}
