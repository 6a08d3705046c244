//! Adapters that the `peft` package wrote, against the logits that it computes itself; the folder
//! `peft` is what `evals/reference/peft_round_trip.py --fixtures` wrote.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use marill_model::{
    Checkpoint, FloatModel, ModelError, PeftAdapter, TensorDtype, Transforms,
    peft::{CONFIG_FILE, WEIGHTS_FILE},
};
use serde_json::{Value, json};

const TOLERANCE: f64 = 1e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peft")
}

fn expected() -> Value {
    let text = std::fs::read_to_string(fixtures().join("expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn base_of(case: &Value) -> Checkpoint {
    Checkpoint::open(&fixtures().join(case["base"].as_str().unwrap())).unwrap()
}

fn tokens() -> Vec<u32> {
    serde_json::from_value(expected()["tokens"].clone()).unwrap()
}

/// The largest difference from PEFT's logits.
fn difference(model: &mut FloatModel, case: &Value) -> f64 {
    let rows = model.all_logits(&tokens()).unwrap();
    let rows = rows.to_vec2::<f32>().unwrap();
    let last: Vec<f64> = serde_json::from_value(case["last"].clone()).unwrap();
    let spots: Vec<Vec<f64>> = serde_json::from_value(case["spots"].clone()).unwrap();
    assert_eq!((rows.len(), rows[0].len()), (spots.len(), last.len()));
    let whole = rows.last().unwrap().iter().zip(last);
    let some = rows.iter().zip(&spots).flat_map(|(row, spots)| {
        let every = row.iter().step_by(52);
        every.zip(spots.iter().copied())
    });
    let apart = whole.chain(some).map(|(a, b)| (f64::from(*a) - b).abs());
    apart.fold(0.0, f64::max)
}

#[test]
fn adapters_give_the_logits_that_peft_computes() {
    let expected = expected();
    let cases = expected["cases"].as_object().unwrap();
    assert!(cases.len() >= 7);
    for (name, case) in cases {
        let base = base_of(case);
        let config = base.config.llama().unwrap();
        let found = PeftAdapter::open(&fixtures().join(name), config).unwrap();
        for frozen_layers in [0, found.first_layer] {
            let transforms = Transforms {
                frozen_layers,
                lora: Some(found.lora.clone()),
                ..Default::default()
            };
            let adapter = found.from_layer(frozen_layers, config).unwrap();
            let mut model = FloatModel::new(&base, &transforms, Some(&adapter)).unwrap();
            let apart = difference(&mut model, case);
            assert!(apart < TOLERANCE, "{name}, {frozen_layers} frozen: {apart}");
        }
        let mut plain = FloatModel::new(&base, &Transforms::default(), None).unwrap();
        let effect = difference(&mut plain, case);
        assert!(
            effect > 100.0 * TOLERANCE,
            "{name} changes something: {effect}"
        );
    }
}

#[test]
fn a_merged_checkpoint_gives_them_too() {
    let place = tempfile::tempdir().unwrap();
    for (name, case) in expected()["cases"].as_object().unwrap() {
        let base = base_of(case);
        let config = base.config.llama().unwrap();
        let found = PeftAdapter::open(&fixtures().join(name), config).unwrap();
        let adapter = found.from_layer(found.first_layer, config).unwrap();
        let merged = base.merged(&found.lora, &adapter).unwrap();
        let path = place.path().join(name);
        merged.save(&path, TensorDtype::F32).unwrap();
        let merged = Checkpoint::open(&path).unwrap();
        let mut model = FloatModel::new(&merged, &Transforms::default(), None).unwrap();
        let apart = difference(&mut model, case);
        assert!(apart < TOLERANCE, "{name}: {apart}");
    }
}

/// A copy of an adapter whose files may be spoiled.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(name: &str) -> Self {
        let copy = Self(tempfile::tempdir().unwrap());
        for file in [CONFIG_FILE, WEIGHTS_FILE] {
            std::fs::copy(fixtures().join(name).join(file), copy.0.path().join(file)).unwrap();
        }
        copy
    }

    fn set(&self, key: &str, value: Value) {
        let path = self.0.path().join(CONFIG_FILE);
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        config[key] = value;
        std::fs::write(&path, config.to_string()).unwrap();
    }

    fn change(&self, change: impl FnOnce(&mut std::collections::HashMap<String, Tensor>)) {
        let path = self.0.path().join(WEIGHTS_FILE);
        let mut tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
        change(&mut tensors);
        candle_core::safetensors::save(&tensors, &path).unwrap();
    }

    fn open(&self) -> Result<PeftAdapter, ModelError> {
        let base = Checkpoint::open(&fixtures().join("llama")).unwrap();
        PeftAdapter::open(self.0.path(), base.config.llama().unwrap())
    }

    fn refusal(&self) -> String {
        self.open().unwrap_err().to_string()
    }
}

#[test]
fn what_is_not_computed_is_refused_by_its_key() {
    for (key, value) in [
        ("peft_type", json!("IA3")),
        ("task_type", json!("SEQ_CLS")),
        ("use_dora", json!(true)),
        ("bias", json!("lora_only")),
        ("lora_bias", json!(true)),
        ("modules_to_save", json!(["lm_head"])),
        ("layer_replication", json!([[0, 2], [1, 3]])),
        ("trainable_token_indices", json!([3])),
        ("target_parameters", json!(["mlp.experts.gate_up_proj"])),
        ("alora_invocation_tokens", json!([1, 2])),
        ("init_lora_weights", json!("pissa")),
        ("layers_to_transform", json!([7])),
        ("layers_to_transform", json!("two")),
        ("rank_pattern", json!({ "q_proj": "four" })),
        ("rank_pattern", json!({ "(q_proj": 4 })),
        ("alpha_pattern", json!({ "q_proj": 1, ".*_proj": 2 })),
        ("target_modules", Value::Null),
        ("target_modules", json!(["nothing"])),
        ("r", json!(0)),
        ("r", json!(2.5)),
        ("lora_alpha", Value::Null),
        ("alpha_pattern", json!({ "q_proj": 1e300 })),
        ("tomorrows_key", json!(1)),
    ] {
        let copy = Copy::of("plain");
        copy.set(key, value.clone());
        let said = copy.refusal();
        assert!(said.contains(key), "{key} = {value}: {said}");
    }
}

#[test]
fn keys_that_change_no_answer_are_let_through() {
    for (key, value) in [
        ("task_type", Value::Null),
        ("lora_dropout", json!(0.3)),
        ("init_lora_weights", json!("gaussian")),
        ("fan_in_fan_out", json!(true)),
        ("modules_to_save", json!([])),
        ("layers_to_transform", json!([])),
        ("peft_version", json!("9.9.9")),
    ] {
        let copy = Copy::of("plain");
        copy.set(key, value.clone());
        assert!(copy.open().is_ok(), "{key} = {value}: {}", copy.refusal());
    }
}

#[test]
fn factors_that_do_not_fit_are_refused_by_their_name() {
    let name = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let spoil = |new: Option<Tensor>, at: &str| {
        let copy = Copy::of("plain");
        copy.change(|tensors| match new {
            Some(tensor) => drop(tensors.insert(at.into(), tensor)),
            None => drop(tensors.remove(at)),
        });
        let said = copy.refusal();
        assert!(said.contains(at), "{said}");
        said
    };
    spoil(None, name);
    spoil(Some(zeros(&[4, 31])), name);
    spoil(Some(zeros(&[3, 32])), name);
    let head = "base_model.model.lm_head.lora_A.weight";
    spoil(Some(zeros(&[4, 32])), head);
    spoil(Some((zeros(&[4, 32]) / 0.0).unwrap()), name);
    let integers = zeros(&[4, 32]).to_dtype(DType::U8).unwrap();
    assert!(spoil(Some(integers), name).contains("factors are floats"));
}

#[test]
fn a_pickle_is_refused_with_the_way_out() {
    let copy = Copy::of("plain");
    let weights = copy.0.path().join(WEIGHTS_FILE);
    std::fs::rename(&weights, weights.with_file_name("adapter_model.bin")).unwrap();
    assert!(PeftAdapter::is_in(copy.0.path()));
    let said = copy.refusal();
    assert!(
        said.contains("adapter_model.bin") && said.contains("safe_serialization"),
        "{said}"
    );
}
