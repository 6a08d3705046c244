//! Random GPT-2 and BERT models.

use std::sync::Arc;

use crate::{
    random_model::{gaussian, tiny_spec},
    spec::{Architecture, Module, ProgramSpec},
    weights::{
        AffineLayerFloats, HeadFloats, LoraFloats, MapFloats, NormFloats, PrivateWeights,
        PublicWeights,
    },
};

/// Two layers, 4 heads of 8, an MLP of 96; rank 4.
#[must_use]
pub fn tiny_affine_spec(architecture: Architecture) -> ProgramSpec {
    let spec = ProgramSpec {
        hidden_size: 32,
        intermediate_size: 96,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        head_groups: vec![(0..4).map(|h| vec![h]).collect(); 2],
        attn_scale: vec![8f64.powf(-0.5); 2],
        architecture,
        ..tiny_spec()
    };
    let vocab_size = if spec.reveals_embedding() {
        0
    } else {
        spec.vocab_size
    };
    ProgramSpec { vocab_size, ..spec }
}

/// One layer's floats: two norms, then `q`, `k`, `v`, `o`, `up`, `down`.
pub struct AffineLayer {
    pub norms: [(Vec<f32>, Vec<f32>); 2],
    pub maps: [(Vec<f32>, Vec<f32>); 6],
    /// `(A, B)` of each map.
    pub lora: [(Vec<f32>, Vec<f32>); 6],
}

/// A random model in floats.
pub struct AffineModel {
    pub spec: ProgramSpec,
    pub layers: Vec<AffineLayer>,
    pub final_norm: (Vec<f32>, Vec<f32>),
    /// Used where the pooling asks for it.
    pub pooler: (Vec<f32>, Vec<f32>),
    pub head: (Vec<f32>, Vec<f32>),
}

/// The factor on every random LoRA update.
pub const LORA_SCALE: f32 = 2.0;
/// The maps in the order of [`AffineLayer::maps`].
pub const MAPS: [Module; 6] = [
    Module::Q,
    Module::K,
    Module::V,
    Module::O,
    Module::Up,
    Module::Down,
];

impl AffineModel {
    #[must_use]
    pub fn random(spec: &ProgramSpec, seed: u64) -> Self {
        let normal = |label: String, n: usize, deviation: f32| gaussian(seed, &label, n, deviation);
        let norm = |label: String| {
            let gain = normal(format!("{label}.gain"), spec.hidden_size, 0.2)
                .iter()
                .map(|g| 1.0 + g)
                .collect();
            (gain, normal(format!("{label}.bias"), spec.hidden_size, 0.3))
        };
        let layer = |l: usize| AffineLayer {
            norms: [norm(format!("{l}.first")), norm(format!("{l}.second"))],
            maps: MAPS.map(|m| {
                let map = spec.map_spec(spec.map(l, m));
                let deviation = 1.0 / (map.cols as f32).sqrt();
                let weight = normal(format!("{l}.{m:?}"), map.len(), deviation);
                (weight, normal(format!("{l}.{m:?}.bias"), map.rows, 0.3))
            }),
            lora: MAPS.map(|m| {
                let map = spec.map_spec(spec.map(l, m));
                let [a, b] = map.factor_lens();
                let deviation = 1.0 / (map.cols as f32).sqrt();
                let a = normal(format!("{l}.{m:?}.a"), a, deviation);
                (a, normal(format!("{l}.{m:?}.b"), b, 0.1))
            }),
        };
        let head = normal("head".into(), spec.vocab_size * spec.hidden_size, 0.1);
        let head_bias = if spec.architecture == Architecture::Gpt2 {
            Vec::new()
        } else {
            normal("head.bias".into(), spec.vocab_size, 0.2)
        };
        let layers = (0..spec.num_layers).map(layer).collect();
        let d = spec.hidden_size;
        let pooler = (
            normal("pooler".into(), d * d, 1.0 / (d as f32).sqrt()),
            normal("pooler.bias".into(), d, 0.3),
        );
        Self {
            spec: spec.clone(),
            layers,
            final_norm: norm("final".into()),
            pooler,
            head: (head, head_bias),
        }
    }

    /// The model as integers.
    ///
    /// # Panics
    /// When the spec is invalid.
    #[must_use]
    pub fn quantize(&self) -> (Arc<PublicWeights>, Arc<PrivateWeights>) {
        fn map((weight, bias): &(Vec<f32>, Vec<f32>)) -> MapFloats<'_> {
            MapFloats { weight, bias }
        }
        fn norm((gain, bias): &(Vec<f32>, Vec<f32>)) -> NormFloats<'_> {
            NormFloats { gain, bias }
        }
        let layers: Vec<AffineLayerFloats<'_>> = self
            .layers
            .iter()
            .map(|layer| {
                let [q, k, v, o, up, down] = layer.maps.each_ref().map(map);
                AffineLayerFloats {
                    norms: layer.norms.each_ref().map(norm),
                    q,
                    k,
                    v,
                    o,
                    up,
                    down,
                }
            })
            .collect();
        let head_norm =
            (self.spec.architecture == Architecture::Gpt2).then(|| norm(&self.final_norm));
        let pooler = self.spec.has_pooler().then(|| map(&self.pooler));
        let head = HeadFloats {
            norm: head_norm,
            pooler,
            map: map(&self.head),
        };
        if self.spec.is_full_rank() {
            let public = self.public_part(&layers, &head);
            let private = PrivateWeights::full_from_affine_floats(&self.spec, &layers);
            return (
                Arc::new(public),
                Arc::new(private.expect("a random model is valid")),
            );
        }
        let public = PublicWeights::from_affine_floats(&self.spec, &layers, &head)
            .expect("a random model is valid");
        let adapter = self.layers.iter().flat_map(|layer| {
            layer.lora.iter().map(|(a, b)| {
                (self.spec.lora_rank > 0).then(|| LoraFloats {
                    a: a.clone(),
                    b: b.clone(),
                    scale: LORA_SCALE,
                })
            })
        });
        let private = PrivateWeights::from_floats(&public, adapter.collect())
            .expect("a random adapter is valid");
        (Arc::new(public), Arc::new(private))
    }
}

impl AffineModel {
    /// What is public where the maps are not.
    fn public_part<'a>(
        &self,
        layers: &[AffineLayerFloats<'a>],
        head: &HeadFloats<'_>,
    ) -> PublicWeights {
        // Private maps and the norms folded into them: a public part must not hold them.
        let no_map = MapFloats {
            weight: &[],
            bias: &[],
        };
        let no_norm = NormFloats {
            gain: &[],
            bias: &[],
        };
        let of = |layer: &AffineLayerFloats<'a>| {
            let norms = if self.spec.architecture == Architecture::Gpt2 {
                [no_norm; 2]
            } else {
                layer.norms
            };
            AffineLayerFloats {
                norms,
                q: no_map,
                k: no_map,
                v: no_map,
                o: no_map,
                up: no_map,
                down: no_map,
            }
        };
        let layers: Vec<_> = layers.iter().map(of).collect();
        PublicWeights::from_affine_floats(&self.spec, &layers, head)
            .expect("a random model is valid")
    }
}
