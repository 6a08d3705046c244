//! What the last steps of a training run may see instead of floats: the values of the integer
//! program.

use std::{ops::Range, sync::Arc};

use marill_model::{HeadMethod, Llama, ModelConfig, Prefix, Rows, Transforms, ops::FakeQuant};
use marill_mpc::Twin;
use marill_numeric::{Approximations, NumericSpec, approx};
use marill_testkit::models::{tiny_adapter, tiny_base, tiny_mixed_heads, tiny_transforms};

/// The squared distance of a decoder's last logits from the integer program's; layers below
/// `private` are those of `float`.
fn distance(
    decoder: &Llama,
    float: &Llama,
    private: Range<usize>,
    tokens: &[u32],
    integers: &[f32],
    fake_quant: Option<FakeQuant>,
) -> f64 {
    let rows = Rows::packed(&[tokens.len()]);
    let x = float
        .run(float.embed(tokens).unwrap(), 0..private.start, &rows, None)
        .unwrap();
    let x = decoder
        .run(x, private, &Rows { fake_quant, ..rows }, None)
        .unwrap();
    let last = x
        .narrow(0, tokens.len() - 1, 1)
        .unwrap()
        .contiguous()
        .unwrap();
    let logits = decoder.logits(&decoder.finish(&last).unwrap()).unwrap();
    let logits: Vec<f32> = logits.flatten_all().unwrap().to_vec1().unwrap();
    logits
        .iter()
        .zip(integers)
        .map(|(a, b)| f64::from(a - b).powi(2))
        .sum::<f64>()
}

#[test]
fn fake_quantized_layers_are_nearer_to_the_integer_program() {
    let ratio = explained(Approximations::default());
    // Fake quantization must explain most of the distance: less than half of it is left.
    assert!(
        ratio < 0.4,
        "the distance of the fake-quantized layers is {ratio} of the floats'"
    );
}

#[test]
fn fake_quantized_approximations_are_nearer_too() {
    for approx in approx::EACH {
        let ratio = explained(approx);
        // As above.
        assert!(ratio < 0.4, "{approx:?}: {ratio}");
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

/// What fake quantization leaves of the floats' distance from the integer program.
fn explained(approx: Approximations) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    // Both round: a value at the edge of a rounding may fall on its other side, and one model may
    // be far off. Twenty-four are not.
    let mut floats = 0.0;
    let mut fake_quantized = 0.0;
    for seed in 1..=24 {
        let base = tiny_base(dir.path(), seed).unwrap();
        let transforms = Transforms {
            approx,
            ..with_heads(&base.config, seed)
        };
        let adapter = tiny_adapter(&base.config, &transforms, seed + 10).unwrap();
        let spec =
            marill_partition::program_spec(&base.config, &transforms, NumericSpec::default())
                .unwrap();
        let public = Arc::new(marill_partition::public_weights(&spec, &base, &transforms).unwrap());
        let private =
            marill_partition::private_weights(&public, &base.config, &transforms, &adapter)
                .unwrap();
        // A whole bucket: padding in front would move the rotary table, whose rounding counts.
        let tokens: Vec<u32> = (0..32u32)
            .map(|k| (k * 37 + seed as u32 * 11) % 256)
            .collect();
        let mut prefix = Prefix::new(&base, transforms.frozen_layers).unwrap();
        let mut twin = Twin::new(Arc::clone(&public), Arc::new(private));
        twin.prefill(&spec.encode(&prefix.forward(&tokens).unwrap()).unwrap())
            .unwrap();
        let integers = twin.last_logits();

        let vb = base.var_builder_with(adapter.tensors.clone());
        let float = Llama::new(base.config.llama().unwrap(), &transforms, vb).unwrap();
        let format = FakeQuant::from(&spec.numeric);
        let quantized = float.quantized(transforms.frozen_layers, format).unwrap();
        let private = transforms.frozen_layers..base.config.num_hidden_layers();
        let far = |decoder, fake_quant| {
            distance(
                decoder,
                &float,
                private.clone(),
                &tokens,
                &integers,
                fake_quant,
            )
        };
        floats += far(&float, None);
        fake_quantized += far(&quantized, Some(format));
    }
    (fake_quantized / floats).sqrt()
}
