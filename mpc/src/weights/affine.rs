//! Weights of the architectures with layer norms and biases: GPT-2 and BERT.

use marill_numeric::PublicMatrix;
use rayon::prelude::*;

use crate::{
    spec::{GAIN_FRAC_BITS, MapSpec, Module, NormKind, ProgramSpec, SpecError},
    weights::{
        PostNorm, PublicLayer, PublicMap, PublicWeights, QuantizedLayer, Rope, behind_norm,
        expect_len,
    },
};

/// A linear map in floats.
#[derive(Clone, Copy)]
pub struct MapFloats<'a> {
    /// `[out, in]`, row-major. GPT-2's checkpoints hold the transpose.
    pub weight: &'a [f32],
    pub bias: &'a [f32],
}

/// A layer norm in floats.
#[derive(Clone, Copy)]
pub struct NormFloats<'a> {
    pub gain: &'a [f32],
    pub bias: &'a [f32],
}

/// The float weights of one layer.
#[derive(Clone, Copy)]
pub struct AffineLayerFloats<'a> {
    /// GPT-2: before attention and before the MLP (`ln_1`, `ln_2`). BERT: after each
    /// (`attention.output.LayerNorm`, `output.LayerNorm`).
    pub norms: [NormFloats<'a>; 2],
    pub q: MapFloats<'a>,
    pub k: MapFloats<'a>,
    pub v: MapFloats<'a>,
    pub o: MapFloats<'a>,
    pub up: MapFloats<'a>,
    pub down: MapFloats<'a>,
}

impl<'a> AffineLayerFloats<'a> {
    /// A map by what it is; nothing for one that these architectures do not have.
    fn map(&self, module: Module) -> MapFloats<'a> {
        match module {
            Module::Q => self.q,
            Module::K => self.k,
            Module::V => self.v,
            Module::O => self.o,
            Module::Up => self.up,
            Module::Down => self.down,
            Module::Gate => unreachable!("an MLP without a gate"),
        }
    }
}

/// The output head in floats.
#[derive(Clone, Copy)]
pub struct HeadFloats<'a> {
    /// GPT-2's `ln_f`; a BERT classifier has none.
    pub norm: Option<NormFloats<'a>>,
    /// BERT's dense map in front of tanh, `[hidden_size, hidden_size]`, where the pooling has one.
    pub pooler: Option<MapFloats<'a>>,
    /// `[vocab_size, hidden_size]`; empty when an embedding is revealed.
    pub map: MapFloats<'a>,
}

impl PublicWeights {
    /// Quantizes the public weights of a GPT-2 or BERT program. Where full-rank weights are
    /// private, the maps of `layers` are empty, and so are GPT-2's norms, which are folded into
    /// them.
    ///
    /// # Errors
    /// [`SpecError::Invalid`] for a LLaMA spec, [`SpecError::Length`] for a tensor of the wrong
    /// size, [`SpecError::Numeric`] for a weight that does not fit.
    pub fn from_affine_floats(
        spec: &ProgramSpec,
        layers: &[AffineLayerFloats<'_>],
        head: &HeadFloats<'_>,
    ) -> Result<Self, SpecError> {
        spec.validate()?;
        if !spec.architecture.has_biases() {
            let problem = "llama has neither layer norms nor biases".to_owned();
            return Err(SpecError::Invalid {
                field: "architecture",
                problem,
            });
        }
        expect_len("layers", spec.num_layers, layers.len())?;
        let layers = layers
            .par_iter()
            .enumerate()
            .map(|(l, floats)| {
                if spec.is_full_rank() {
                    public_norms(spec, l, floats)
                } else {
                    layer(spec, l, floats)
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        let (maps, layers): (Vec<_>, Vec<_>) = layers.into_iter().unzip();
        let (lm_head, lm_head_frac_bits, lm_head_bias) = quantize_head(spec, head)?;
        let pooler = quantize_pooler(spec, head.pooler.as_ref())?;
        let weights = Self {
            spec: spec.clone(),
            maps: maps.into_iter().flatten().collect(),
            layers,
            lm_head,
            lm_head_frac_bits,
            lm_head_bias,
            pooler,
            rope: Rope::of(spec),
            digest: String::new(),
        };
        Ok(weights.with_digest())
    }
}

/// Refuses norms of another width.
fn expect_norms(
    spec: &ProgramSpec,
    layer: usize,
    norms: &[NormFloats<'_>; 2],
) -> Result<(), SpecError> {
    for norm in norms {
        expect_len(
            &format!("layers.{layer}.norm"),
            spec.hidden_size,
            norm.gain.len(),
        )?;
        expect_len(
            &format!("layers.{layer}.norm.bias"),
            spec.hidden_size,
            norm.bias.len(),
        )?;
    }
    Ok(())
}

/// One quantized map with the norm before it folded in, and its bias.
fn public_map(
    spec: &ProgramSpec,
    map: &MapSpec,
    floats: MapFloats<'_>,
    norms: &PublicLayer,
) -> Result<PublicMap, SpecError> {
    let label = format!("layers.{}.{:?}", map.layer, map.module);
    expect_len(&label, map.len(), floats.weight.len())?;
    expect_len(&format!("{label}.bias"), map.rows, floats.bias.len())?;
    let factor = |row| spec.row_factor(map, row);
    let bits = spec.numeric.weight_frac_bits;
    let matrix = PublicMatrix::quantize(
        floats.weight,
        map.rows,
        map.cols,
        behind_norm(&norms.norm_scale, map.module),
        &factor,
        bits,
        &label,
    )?;
    let beta = behind_norm(&norms.norm_bias, map.module);
    // W·(x·gain + beta) + bias = (W·gain)·x + (W·beta + bias).
    let bias = bias_behind(&floats, beta, &factor);
    let bias = encode_row(&bias, map.input_frac_bits + bits, &label)?;
    Ok(PublicMap { matrix, bias })
}

/// One layer's maps, and its norms: folded into the maps, or kept as rows.
pub(super) fn layer(
    spec: &ProgramSpec,
    layer: usize,
    floats: &AffineLayerFloats<'_>,
) -> Result<QuantizedLayer, SpecError> {
    expect_norms(spec, layer, &floats.norms)?;
    // A norm behind the sum is the residual stream itself, so nothing can be folded.
    let norms = if spec.architecture.norm() == NormKind::PostLayer {
        PublicLayer {
            post_norms: post_norms(spec, layer, &floats.norms)?,
            ..PublicLayer::default()
        }
    } else {
        PublicLayer {
            norm_scale: floats.norms.map(|norm| folded_gain(spec, norm.gain)),
            norm_bias: floats.norms.map(|norm| norm.bias.to_vec()),
            ..PublicLayer::default()
        }
    };
    let maps = spec
        .maps_of(layer)
        .map(|map| public_map(spec, &map, floats.map(map.module), &norms));
    Ok((maps.collect::<Result<_, _>>()?, norms))
}

/// What is public of a layer whose maps are private: an encoder's norms. That nothing else comes
/// here keeps a private tensor from being published by mistake.
fn public_norms(
    spec: &ProgramSpec,
    layer: usize,
    floats: &AffineLayerFloats<'_>,
) -> Result<QuantizedLayer, SpecError> {
    for map in spec.maps_of(layer) {
        let floats = floats.map(map.module);
        expect_len(
            &format!("layers.{layer}.public maps"),
            0,
            floats.weight.len() + floats.bias.len(),
        )?;
    }
    let keeps_norms = spec.architecture.norm() == NormKind::PostLayer;
    let size = if keeps_norms { spec.hidden_size } else { 0 };
    for norm in &floats.norms {
        expect_len(&format!("layers.{layer}.norm"), size, norm.gain.len())?;
        expect_len(&format!("layers.{layer}.norm.bias"), size, norm.bias.len())?;
    }
    let mut norms = PublicLayer::default();
    if keeps_norms {
        norms.post_norms = post_norms(spec, layer, &floats.norms)?;
    }
    let maps = spec.maps_of(layer).map(|_| PublicMap::private());
    Ok((maps.collect(), norms))
}

/// The gain with what `2^norm_bits` leaves of `sqrt(hidden_size)`.
fn folded_gain(spec: &ProgramSpec, gain: &[f32]) -> Vec<f32> {
    let rest = spec.norm_rest();
    gain.iter().map(|g| (f64::from(*g) * rest) as f32).collect()
}

/// `factor · (bias + W · beta)`: the bias of a map behind a norm whose own bias is `beta`.
fn bias_behind(
    map: &MapFloats<'_>,
    beta: Option<&[f32]>,
    row_factor: &dyn Fn(usize) -> f64,
) -> Vec<f64> {
    let of_norm = |i: usize| {
        let Some(beta) = beta else { return 0.0 };
        let row = &map.weight[i * beta.len()..][..beta.len()];
        row.iter()
            .zip(beta)
            .map(|(w, b)| f64::from(*w) * f64::from(*b))
            .sum()
    };
    map.bias
        .iter()
        .enumerate()
        .map(|(i, b)| (f64::from(*b) + of_norm(i)) * row_factor(i))
        .collect()
}

/// A public row as integers, at most 2^(15 + frac_bits).
pub(super) fn encode_row(
    values: &[f64],
    frac_bits: u32,
    label: &str,
) -> Result<Vec<u64>, SpecError> {
    let limit = f64::from(1 << 15);
    let encoded = values
        .iter()
        .enumerate()
        .map(|(i, &v)| marill_numeric::encode(v, frac_bits, limit, label, i));
    Ok(encoded.collect::<Result<_, _>>()?)
}

fn post_norms(
    spec: &ProgramSpec,
    layer: usize,
    norms: &[NormFloats<'_>; 2],
) -> Result<Vec<PostNorm>, SpecError> {
    let label = format!("layers.{layer}.norm");
    let encode = |norm: &NormFloats<'_>| {
        let gain: Vec<f64> = folded_gain(spec, norm.gain)
            .into_iter()
            .map(f64::from)
            .collect();
        let bias: Vec<f64> = norm.bias.iter().map(|b| f64::from(*b)).collect();
        let bias_bits = spec.numeric.frac_bits + GAIN_FRAC_BITS;
        Ok(PostNorm {
            gain: encode_row(&gain, GAIN_FRAC_BITS, &label)?,
            bias: encode_row(&bias, bias_bits, &label)?,
        })
    };
    norms.iter().map(encode).collect()
}

fn quantize_head(
    spec: &ProgramSpec,
    head: &HeadFloats<'_>,
) -> Result<(PublicMatrix, u32, Vec<u64>), SpecError> {
    if spec.reveals_embedding() {
        return Ok((PublicMatrix::shape_only(0, spec.hidden_size), 0, Vec::new()));
    }
    let rows = if spec.vocab_size * spec.hidden_size == head.map.weight.len() {
        spec.vocab_size
    } else {
        0
    };
    expect_len("head", spec.vocab_size, rows)?;
    let none = head.map.bias.is_empty();
    expect_len(
        "head.bias",
        if none { 0 } else { spec.vocab_size },
        head.map.bias.len(),
    )?;
    let gain = head.norm.map(|norm| folded_gain(spec, norm.gain));
    let bits = spec.numeric.weight_frac_bits;
    let (matrix, frac_bits) = PublicMatrix::quantize(
        head.map.weight,
        spec.vocab_size,
        spec.hidden_size,
        gain.as_deref(),
        &|_| 1.0,
        bits,
        "head",
    )?
    .with_common_scale(bits);
    let zeros = vec![0.0; spec.vocab_size];
    let map = MapFloats {
        bias: if none { &zeros } else { head.map.bias },
        ..head.map
    };
    let bias = bias_behind(&map, head.norm.as_ref().map(|norm| norm.bias), &|_| 1.0);
    // GPT-2's head takes a normalized row, an encoder's a row of the residual stream.
    let row = encode_row(&bias, spec.map_input_frac_bits() + frac_bits, "head.bias")?;
    Ok((matrix, frac_bits, row))
}

fn quantize_pooler(
    spec: &ProgramSpec,
    map: Option<&MapFloats<'_>>,
) -> Result<Option<(PublicMatrix, Vec<u64>)>, SpecError> {
    let size = spec.hidden_size;
    let (weights, biases) = map.map_or((0, 0), |map| (map.weight.len(), map.bias.len()));
    let expected = if spec.has_pooler() { size } else { 0 };
    expect_len("pooler", expected * size, weights)?;
    expect_len("pooler.bias", expected, biases)?;
    let Some(map) = map else { return Ok(None) };
    let bits = spec.numeric.weight_frac_bits;
    let matrix = PublicMatrix::quantize(map.weight, size, size, None, &|_| 1.0, bits, "pooler")?;
    let bias = encode_row(
        &bias_behind(map, None, &|_| 1.0),
        spec.map_input_frac_bits() + bits,
        "pooler.bias",
    )?;
    Ok(Some((matrix, bias)))
}
