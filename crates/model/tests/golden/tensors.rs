//! Tensors of a checkpoint: used as they are named, scaled, or refused by name.

use marill_model::{Checkpoint, TensorDtype};
use serde_json::json;

use crate::folder::{Folder, f8, logits, with_config};

#[test]
fn a_tensor_that_is_not_used_is_refused_by_name() {
    let folder = Folder::new();
    let plain = logits(&folder.open().unwrap());
    let zeros = |n: usize| {
        candle_core::Tensor::zeros(n, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap()
    };
    for name in [
        "model.layers.0.self_attn.q_proj.bias",
        "model.layers.0.self_attn.q_norm.weight",
        "model.layers.1.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.0.self_attn.q_proj.weight_scale",
        "score.weight",
    ] {
        let mut folder = Folder::new();
        folder.tensors.insert(name.into(), zeros(8));
        let error = folder.error();
        assert!(error.contains(&format!("tensor `{name}`")), "{error}");
        let everywhere = name.replace(".0.", ".*.");
        let model = folder.open_ignoring(&[&everywhere]).unwrap();
        assert_eq!(logits(&model), plain, "{name}");
        assert!(
            !model.tensors.contains_key(name),
            "it is as if it were not there"
        );
    }
    let mut folder = Folder::new();
    folder.tensors.insert(
        "model.layers.0.self_attn.rotary_emb.inv_freq".into(),
        zeros(2),
    );
    assert_eq!(logits(&folder.open().unwrap()), plain);
}

#[test]
fn a_head_beside_tied_embeddings_is_the_embedding_or_refused() {
    let mut folder = Folder::new();
    let embedding = folder.tensors["model.embed_tokens.weight"].clone();
    folder
        .tensors
        .insert("lm_head.weight".into(), embedding.clone());
    assert!(folder.open().is_ok());
    folder
        .tensors
        .insert("lm_head.weight".into(), (embedding * 2.0).unwrap());
    let error = folder.error();
    assert!(
        error.contains("lm_head.weight") && error.contains("tie_word_embeddings"),
        "{error}"
    );
    folder.config["tie_word_embeddings"] = json!(false);
    assert!(folder.open().is_ok());
}

#[test]
fn a_weight_that_is_no_number_is_refused_by_its_tensor() {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut folder = Folder::new();
        let name = "model.layers.0.mlp.down_proj.weight";
        let mut values: Vec<f32> = folder.tensors[name]
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        values[33] = odd;
        let tensor =
            candle_core::Tensor::from_vec(values, (8, 16), &candle_core::Device::Cpu).unwrap();
        folder.tensors.insert(name.into(), tensor);
        let error = folder.error();
        assert!(
            error.contains(name) && error.contains("value 33"),
            "{error}"
        );
    }
}

fn scale(values: Vec<f32>, shape: &[usize]) -> candle_core::Tensor {
    candle_core::Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap()
}

#[test]
fn scales_beside_8_bit_weights_are_applied() {
    let name = "model.layers.0.mlp.down_proj";
    // Scales for [8, 16], their config, and the scale of row 5, column 11.
    let cases = [
        (
            "weight_scale",
            scale(vec![3.0], &[1]),
            json!({ "quant_method": "compressed-tensors", "format": "float-quantized" }),
            3.0,
        ),
        ("weight_scale", scale(vec![3.0], &[]), json!(null), 3.0),
        (
            "weight_scale",
            scale((0..8).map(|i| i as f32 + 1.0).collect(), &[8, 1]),
            json!({ "quant_method": "fbgemm_fp8" }),
            6.0,
        ),
        (
            "weight_scale_inv",
            scale((0..6).map(|i| i as f32 + 1.0).collect(), &[2, 3]),
            json!({
                "quant_method": "fp8", "weight_block_size": [4, 6], "activation_scheme": "dynamic"
            }),
            5.0,
        ),
        (
            "weight_scale_inv",
            scale((0..4).map(|i| i as f32 + 1.0).collect(), &[2, 2]),
            json!({ "quant_method": "fp8" }),
            4.0,
        ),
    ];
    for (kind, scales, config, at) in cases {
        let mut folder = with_config("quantization_config", config.clone());
        let stored = f8(&folder.tensors[&format!("{name}.weight")]);
        let bare: Vec<f32> = stored
            .to_dtype(candle_core::DType::F32)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        folder.tensors.insert(format!("{name}.weight"), stored);
        folder.tensors.insert(format!("{name}.{kind}"), scales);
        let of_inputs = format!("{name}.input_scale");
        folder
            .tensors
            .insert(of_inputs.clone(), scale(vec![1.0], &[1]));
        let error = folder.error();
        assert!(
            error.contains(&format!("tensor `{of_inputs}` is a fixed scale")),
            "{error}"
        );
        folder
            .open_ignoring(&["model.layers.*.mlp.down_proj.input_scale"])
            .unwrap();
        folder.tensors.remove(&of_inputs);
        let model = folder.open().unwrap_or_else(|e| panic!("{config}: {e}"));
        let meant = model.floats(&format!("{name}.weight")).unwrap();
        assert_eq!(meant[5 * 16 + 11], bare[5 * 16 + 11] * at, "{config}");
        assert_eq!(meant[0], bare[0] * if at == 3.0 { 3.0 } else { 1.0 });
        // Scales are in the weights of what is saved.
        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path(), TensorDtype::F32).unwrap();
        assert_eq!(
            Checkpoint::open(saved.path()).unwrap().digest(),
            model.digest()
        );
    }
}

#[test]
fn scales_that_are_missing_or_do_not_fit_are_refused() {
    let name = "model.layers.0.mlp.down_proj";
    let mut folder = with_config("quantization_config", json!({ "quant_method": "fp8" }));
    let stored = f8(&folder.tensors[&format!("{name}.weight")]);
    folder.tensors.insert(format!("{name}.weight"), stored);
    assert!(
        folder.error().contains("down_proj.weight_scale"),
        "a scale that is missing is missed"
    );
    folder
        .tensors
        .insert(format!("{name}.weight_scale"), scale(vec![1.0; 5], &[5]));
    assert!(
        folder.error().contains("down_proj.weight_scale"),
        "a scale that does not fit is refused"
    );
    let mut folder = Folder::new();
    let stored = f8(&folder.tensors[&format!("{name}.weight")]);
    folder.tensors.insert(format!("{name}.weight"), stored);
    let error = folder.error();
    assert!(
        error.contains(&format!("tensor `{name}.weight` is of 8-bit floats")),
        "{error}"
    );
    for config in [
        json!({ "quant_method": "compressed-tensors", "format": "int-quantized" }),
        json!({ "quant_method": "awq" }),
        json!({ "quant_method": "fp8", "fmt": "e5m2" }),
        json!({}),
    ] {
        let error = with_config("quantization_config", config).error();
        assert!(error.contains("quantization_config."), "{error}");
    }
}
