//! Random models: what `marill bench` and the benches time, and what tests run.

mod affine;
pub mod operations;

use std::sync::Arc;

use marill_crypto::{Prg, Seed};
use marill_numeric::NumericSpec;

pub use crate::random_model::affine::{AffineModel, LORA_SCALE, MAPS, tiny_affine_spec};
use crate::{
    spec::{Module, PrivateForm, ProgramSpec, QkNorm, Variant},
    weights::{LayerFloats, LoraFloats, PrivateWeights, PublicWeights},
};

/// A tiny decoder: 2 layers, 6 query and 2 key-value heads of 8, merged `strided` in threes.
#[must_use]
pub fn tiny_spec() -> ProgramSpec {
    ProgramSpec {
        hidden_size: 48,
        intermediate_size: 80,
        num_attention_heads: 6,
        num_key_value_heads: 2,
        head_dim: 8,
        vocab_size: 100,
        num_layers: 2,
        max_positions: 64,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        head_groups: vec![vec![vec![0, 3], vec![1, 4], vec![2, 5]]; 2],
        attn_scale: vec![0.25; 2],
        head_weights: Vec::new(),
        lora_rank: 4,
        lora_ranks: Vec::new(),
        numeric: NumericSpec::default(),
        architecture: Default::default(),
        private: Default::default(),
        approx: Default::default(),
        variant: Default::default(),
    }
}

/// The same with other heads in each layer: one of each key-value head's three is left in the
/// first, and in the second they are all by themselves, with weights of their own.
#[must_use]
pub fn with_mixed_heads(spec: ProgramSpec) -> ProgramSpec {
    ProgramSpec {
        head_groups: vec![vec![vec![0], vec![1]], (0..6).map(|h| vec![h]).collect()],
        head_weights: vec![vec![0.75, 1.0], vec![1.0, 0.5, 0.9, -0.3, 0.0, 0.6]],
        ..spec
    }
}

/// What families of decoders add to LLaMA's layers, each by itself and then together, for the
/// shapes of [`tiny_spec`].
#[must_use]
pub fn variants() -> Vec<Variant> {
    let none = Variant::default;
    let normed = |qk_norm| Variant {
        qk_norm: Some(qk_norm),
        ..none()
    };
    vec![
        Variant {
            rope_divisors: vec![1.0, 1.5, 4.0, 4.0],
            ..none()
        },
        Variant {
            unrotated_layers: vec![1],
            ..none()
        },
        Variant {
            biases: true,
            ..none()
        },
        normed(QkNorm::Head),
        normed(QkNorm::Whole),
        Variant {
            rope_divisors: vec![2.0; 4],
            unrotated_layers: vec![0],
            biases: true,
            qk_norm: Some(QkNorm::Head),
        },
    ]
}

/// The same shapes with full-rank weights private.
#[must_use]
pub fn with_private_matrices(spec: ProgramSpec) -> ProgramSpec {
    ProgramSpec {
        lora_rank: 0,
        lora_ranks: Vec::new(),
        private: PrivateForm::FullRank,
        ..spec
    }
}

/// Numbers that look normal, from a seed.
pub fn gaussian(seed: u64, label: &str, n: usize, deviation: f32) -> Vec<f32> {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let words = Prg::new(&Seed::from_bytes(bytes), label).words(n);
    words
        .into_iter()
        .map(|w| {
            let sum: u64 = (0..4).map(|k| (w >> (16 * k)) & 0xffff).sum();
            (sum as f32 / 65535.0 - 2.0) * 1.732 * deviation
        })
        .collect()
}

/// Random weights of a spec; the same maps whether they are private or not.
///
/// # Panics
/// When the spec is invalid.
#[must_use]
pub fn random_weights(spec: &ProgramSpec, seed: u64) -> (Arc<PublicWeights>, Arc<PrivateWeights>) {
    use crate::spec::Module::{Down, Gate, K, O, Q, Up, V};
    let normal = |label: String, n: usize, deviation: f32| gaussian(seed, &label, n, deviation);
    let layers: Vec<[Vec<f32>; 9]> = (0..spec.num_layers)
        .map(|l| {
            let matrix = |m: Module| {
                let map = spec.map_spec(spec.map(l, m));
                let deviation = 1.0 / (map.cols as f32).sqrt();
                normal(format!("{l}.{m:?}"), map.len(), deviation)
            };
            let gain = |name: &str| {
                normal(format!("{l}.{name}"), spec.hidden_size, 0.2)
                    .iter()
                    .map(|g| 1.0 + g)
                    .collect()
            };
            let [q, k, v, o, gate, up, down] = [Q, K, V, O, Gate, Up, Down].map(matrix);
            [gain("input"), q, k, v, o, gain("post"), gate, up, down]
        })
        .collect();
    let extras: Vec<Extras> = (0..spec.num_layers)
        .map(|layer| Extras::random(spec, layer, seed))
        .collect();
    let floats: Vec<LayerFloats<'_>> = layers
        .iter()
        .zip(&extras)
        .map(
            |([input, q, k, v, o, post, gate, up, down], extras)| LayerFloats {
                input_layernorm: input,
                q_proj: q,
                k_proj: k,
                v_proj: v,
                o_proj: o,
                post_attention_layernorm: post,
                gate_proj: gate,
                up_proj: up,
                down_proj: down,
                biases: &extras.biases,
                qk_norms: extras.qk_norms.each_ref().map(Vec::as_slice),
            },
        )
        .collect();
    let norm = vec![1.0; spec.hidden_size];
    let head = normal("head".into(), spec.vocab_size * spec.hidden_size, 0.1);
    let gains: Vec<LayerFloats<'_>> = floats
        .iter()
        .filter(|_| spec.variant.qk_norm.is_some())
        .map(|layer| LayerFloats::public_gains(layer.qk_norms))
        .collect();
    let maps = if spec.is_full_rank() { &gains } else { &floats };
    let public =
        PublicWeights::from_floats(spec, maps, &norm, &head).expect("a random model is valid");
    if spec.is_full_rank() {
        let private =
            PrivateWeights::full_from_floats(spec, &floats).expect("a random model is valid");
        return (Arc::new(public), Arc::new(private));
    }
    let adapter = spec.maps().map(|map| {
        let name = format!("{}.{:?}", map.layer, map.module);
        let [a, b] = map.factor_lens();
        (map.rank > 0).then(|| LoraFloats {
            a: normal(format!("{name}.a"), a, 1.0 / (map.cols as f32).sqrt()),
            b: normal(format!("{name}.b"), b, 0.1),
            scale: 2.0,
        })
    });
    let adapter = adapter.collect();
    let private = PrivateWeights::from_floats(&public, adapter).expect("a random adapter is valid");
    (Arc::new(public), Arc::new(private))
}

/// What a [`crate::Variant`] adds to a layer.
struct Extras {
    biases: Vec<Vec<f32>>,
    qk_norms: [Vec<f32>; 2],
}

impl Extras {
    fn random(spec: &ProgramSpec, layer: usize, seed: u64) -> Self {
        let normal = |name: &str, n: usize| gaussian(seed, &format!("{layer}.{name}"), n, 0.2);
        // The output map has none, so that a map without a bias is met too.
        let bias = |module: Module| {
            let map = spec.map_spec(spec.map(layer, module));
            let rows = if spec.variant.biases && module != Module::O {
                map.rows
            } else {
                0
            };
            normal(&format!("{module:?}.bias"), rows)
        };
        let sizes = spec.qk_norm_sizes(layer).unwrap_or([0; 2]);
        let gain = |(nth, size): (usize, usize)| {
            let gain = normal(&format!("qk_norm.{nth}"), size);
            gain.iter().map(|g| 1.0 + g).collect()
        };
        Self {
            biases: Module::ALL.iter().map(|module| bias(*module)).collect(),
            qk_norms: [gain((0, sizes[0])), gain((1, sizes[1]))],
        }
    }
}
