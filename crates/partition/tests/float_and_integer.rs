//! The two definitions of a model, the float decoder and the integer program, layer by layer.

use std::{path::Path, sync::Arc};

use marill_model::{Checkpoint, FloatModel, HeadMethod, ModelConfig, Prefix, Transforms};
use marill_mpc::Twin;
use marill_numeric::{Approximations, NumericSpec, SoftmaxForm, approx};
use marill_testkit::models::{
    tiny_adapter, tiny_base, tiny_family, tiny_mixed_heads, tiny_transforms,
};
use serde_json::json;

/// Largest difference of any residual value, relative to the layer's root mean square.
const BOUND: f32 = 2e-3;

#[test]
fn integer_layers_are_float_layers_within_the_stated_error() {
    for seed in 1..=5 {
        compare(seed, |_| {});
    }
}

#[test]
fn approximated_integers_are_floats_within_their_errors() {
    for approx in approx::EACH {
        for seed in 1..=5 {
            let approx = near_scores(approx);
            compare(seed, |transforms| transforms.approx = approx);
        }
    }
}

/// The bound of clipped scores near those of the tiny model, as it should be near any model's.
fn near_scores(approx: Approximations) -> Approximations {
    let clipped = approx.softmax == Some(SoftmaxForm::Clipped);
    Approximations {
        bound: clipped.then_some(2.0),
        ..approx
    }
}

/// Weights of `2relu` have 10 fractional bits, and may all be small.
fn bound(approx: Approximations) -> f32 {
    if approx.softmax == Some(SoftmaxForm::Relu) {
        2.0 * BOUND
    } else {
        BOUND
    }
}

#[test]
fn ranks_and_scales_of_modules_are_those_of_the_floats() {
    for seed in 1..=5 {
        compare(seed, |transforms| {
            let lora = transforms.lora.as_mut().unwrap();
            lora.rslora = true;
            lora.alpha = 2.0;
            lora.target_modules.retain(|module| module != "o_proj");
            lora.ranks = [("q_proj".into(), 1), ("down_proj".into(), 7)].into();
        });
    }
}

/// Heads merged, whole, of factors of their own, and pruned.
fn with_heads(config: &dyn ModelConfig, seed: u64) -> Transforms {
    match seed % 5 {
        4 => tiny_mixed_heads(config, HeadMethod::Merge),
        0 => tiny_mixed_heads(config, HeadMethod::Prune),
        _ => tiny_transforms(config, seed % 2 == 1),
    }
}

/// What families of decoders add, as floats and as integers; the norm of whole rows has no family
/// yet whose layers are else LLaMA's.
#[test]
fn integers_of_every_family_are_its_floats() {
    let llama3 = json!({ "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64 });
    let yarn = json!({ "rope_type": "yarn", "factor": 4.0 });
    for keys in [
        json!({ "rope_theta": 100.0, "rope_scaling": llama3 }),
        json!({ "rope_theta": 100.0, "rope_scaling": yarn, "attention_bias": true }),
        json!({ "mlp_bias": true }),
        json!({ "model_type": "mistral", "sliding_window": 32 }),
        json!({ "model_type": "qwen2", "head_dim": null }),
        json!({ "model_type": "qwen3", "head_dim": 16 }),
        json!({ "model_type": "smollm3", "no_rope_layers": [1, 0, 1, 0] }),
        json!({ "model_type": "phi3" }),
        json!({ "model_type": "granite", "embedding_multiplier": 2.5, "mlp_bias": true,
            "residual_multiplier": 0.6, "attention_multiplier": 0.1, "logits_scaling": 2.0 }),
    ] {
        for seed in 1..=5 {
            compare_base(seed, |dir| tiny_family(dir, &keys, seed).unwrap(), |_| {});
        }
    }
}

fn compare(seed: u64, change: impl Fn(&mut Transforms)) {
    compare_base(seed, |dir| tiny_base(dir, seed).unwrap(), change);
}

fn compare_base(seed: u64, base: impl Fn(&Path) -> Checkpoint, change: impl Fn(&mut Transforms)) {
    let dir = tempfile::tempdir().unwrap();
    {
        let base = base(dir.path());
        let mut transforms = with_heads(&base.config, seed);
        change(&mut transforms);
        let adapter = tiny_adapter(&base.config, &transforms, seed + 10).unwrap();
        let spec =
            marill_partition::program_spec(&base.config, &transforms, NumericSpec::default())
                .unwrap();
        let public = Arc::new(marill_partition::public_weights(&spec, &base, &transforms).unwrap());
        let private =
            marill_partition::private_weights(&public, &base.config, &transforms, &adapter)
                .unwrap();

        let tokens: Vec<u32> = (0..23u32)
            .map(|k| (k * 37 + seed as u32 * 11) % 256)
            .collect();
        let float = FloatModel::new(&base, &transforms, Some(&adapter)).unwrap();
        let layers = float.layer_outputs(&tokens).unwrap();
        let mut twin = Twin::new(Arc::clone(&public), Arc::new(private));
        twin.start_trace();
        let mut prefix = Prefix::new(&base, transforms.frozen_layers).unwrap();
        let boundary = prefix.forward(&tokens).unwrap();
        twin.prefill(&spec.encode(&boundary).unwrap()).unwrap();

        let unit = f64::from(spec.numeric.residual_frac_bits).exp2();
        let hidden: Vec<Vec<f32>> = twin
            .take_trace()
            .into_iter()
            .filter(|(place, _)| *place == "attention.hidden")
            .map(|(_, values)| {
                values[values.len() - boundary.len()..]
                    .iter()
                    .map(|&v| (v as i64 as f64 / unit) as f32)
                    .collect()
            })
            .collect();
        assert_eq!(
            hidden.len(),
            spec.num_layers - 1,
            "the last layer's output is never opened"
        );
        for (l, got) in hidden.iter().enumerate() {
            let expected = &layers[transforms.frozen_layers + l + 1];
            let rms = (expected.iter().map(|v| v * v).sum::<f32>() / expected.len() as f32).sqrt();
            let worst = got
                .iter()
                .zip(expected)
                .map(|(a, b)| (a - b).abs() / rms)
                .fold(0.0, f32::max);
            assert!(
                worst < bound(transforms.approx),
                "seed {seed}, private layer {l}: {worst}"
            );
        }
        let logits = twin.last_logits();
        let expected = FloatModel::new(&base, &transforms, Some(&adapter))
            .unwrap()
            .logits(&tokens)
            .unwrap();
        let spread =
            expected.iter().map(|v| v * v).sum::<f32>().sqrt() / (expected.len() as f32).sqrt();
        let worst = logits
            .iter()
            .zip(&expected)
            .map(|(a, b)| (a - b).abs() / spread)
            .fold(0.0, f32::max);
        // The head adds up what the layers are off by.
        assert!(worst < 2.0 * BOUND, "seed {seed}: logits differ by {worst}");
    }
}
