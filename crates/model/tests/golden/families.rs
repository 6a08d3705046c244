//! Families of decoders against their definitions in `f64`, written here once more and plainly, and
//! against transformers' figures where its checkpoints are at hand.

mod reference;

use std::{collections::BTreeMap, f64::consts::PI, path::Path};

use candle_core::{Device, Tensor};
use marill_model::{
    BatchedModel, Checkpoint, FloatModel, LlamaConfig, ModelConfig, ModelError, Piece, Prefix,
    RopeScaling, Transforms,
};
use serde_json::{Value, json};

use self::reference::{ALL, Definition, Reference};
use crate::folder::{Folder, VOCAB};

/// A checkpoint of four layers with these keys beside, or in place of, LLaMA's; one that is `null`
/// is left out.
fn family(keys: &Value) -> (Folder, Result<Checkpoint, ModelError>) {
    let mut folder = Folder::new();
    folder.config = json!({
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": VOCAB,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 256, "tie_word_embeddings": true, "eos_token_id": 2
    });
    for (key, value) in keys.as_object().unwrap() {
        folder.config[key] = value.clone();
    }
    let table = folder.config.as_object_mut().unwrap();
    table.retain(|_, value| !value.is_null());
    folder.write();
    let config = match LlamaConfig::read(&folder.path().join("config.json")) {
        Ok(config) => config,
        Err(error) => return (folder, Err(error)),
    };
    let mut state = 1u32;
    let mut random = |shape: &[usize], mean: f32, spread: f32| {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            mean + spread * ((state >> 8) as f32 / f64::from(1 << 23) as f32 - 1.0)
        };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| next()).collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let tensor = |(name, shape): (String, Vec<usize>)| {
        let tensor = match shape[..] {
            [_, cols] if config.layer_of(&name).is_some() => {
                random(&shape, 0.0, 1.5 / (cols as f32).sqrt())
            }
            [_] if name.ends_with("norm.weight") => random(&shape, 1.0, 0.5),
            _ => random(&shape, 0.0, 1.0),
        };
        (name, tensor)
    };
    folder.tensors = config.tensors().into_iter().map(tensor).collect();
    let base = folder.open();
    (folder, base)
}

fn tokens(count: u32) -> Vec<u32> {
    (0..count).map(|k| (k * 37 + 11) % 256).collect()
}

/// The floats of a tiny checkpoint are those of a definition: at once, in pieces over cached rows,
/// and in what a client computes.
fn is_defined_by(keys: &Value, definition: Definition) {
    let base = family(keys).1.unwrap();
    let tokens = tokens(23);
    let reference = Reference {
        base: &base,
        definition,
    };
    let expected = reference.logits(&tokens);
    let plain = Transforms::default();
    let mut model = FloatModel::new(&base, &plain, None).unwrap();
    let got = model.all_logits(&tokens).unwrap().to_vec2::<f32>().unwrap();
    near(&got, &expected, "at once");

    let mut batched = BatchedModel::new(&base, &plain, None).unwrap();
    let own = batched.new_block();
    let piece = |tokens: &[u32]| Piece {
        past: Vec::new(),
        own,
        tokens: tokens.to_vec(),
    };
    batched.forward(&[piece(&tokens[..9])], &[8]).unwrap();
    let wanted: Vec<u32> = (0..14).collect();
    let rows = batched.forward(&[piece(&tokens[9..])], &wanted).unwrap();
    let got = batched.each_logits(&rows, |_, logits| logits.to_vec());
    near(&got.unwrap(), &expected[9..], "in pieces");

    let mut prefix = Prefix::new(&base, 4).unwrap();
    let got = [&tokens[..9], &tokens[9..]].map(|piece| prefix.forward(piece).unwrap());
    let layers = model.layer_outputs(&tokens).unwrap();
    let worst = got
        .concat()
        .iter()
        .zip(&layers[4])
        .fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
    // Sums in another order; values are up to some ten.
    assert!(worst < 1e-3, "the client's: {worst}");
}

fn near(got: &[Vec<f32>], expected: &[Vec<f64>], how: &str) {
    assert_eq!(got.len(), expected.len());
    for (row, (got, expected)) in got.iter().zip(expected).enumerate() {
        for (got, expected) in got.iter().zip(expected) {
            // 32-bit sums of some hundred products near ten.
            let far = (f64::from(*got) - expected).abs();
            assert!(far < 2e-3, "{how}, row {row}: {got} for {expected}");
        }
    }
}

/// A scaling of LLaMA's rotation, in both spellings.
fn rotates_as(table: &Value, theta: f64, frequencies: Vec<f64>, attention_factor: f64) {
    let definition = || Definition {
        frequencies: frequencies.clone(),
        attention_factor,
        ..Definition::plain(8, theta)
    };
    let four = json!({ "rope_theta": theta, "rope_scaling": table });
    is_defined_by(&four, definition());
    let mut table = table.clone();
    table["rope_theta"] = theta.into();
    is_defined_by(&json!({ "rope_parameters": table }), definition());
}

#[test]
fn a_linear_scaling_divides_every_frequency() {
    let plain = Definition::plain(8, 20_000.0).frequencies;
    let slower = plain.iter().map(|f| f / 4.0).collect();
    rotates_as(
        &json!({ "rope_type": "linear", "factor": 4.0 }),
        20_000.0,
        slower,
        1.0,
    );
}

#[test]
fn a_dynamic_scaling_begins_where_the_context_ends() {
    let plain = Definition::plain(8, 100.0).frequencies;
    rotates_as(
        &json!({ "type": "dynamic", "factor": 8.0 }),
        100.0,
        plain,
        1.0,
    );
}

#[test]
fn llama3_divides_low_frequencies_and_mixes_middle_ones() {
    // Wavelengths of 6.3, 19.9, 63 and 199 positions; low from 64 on, high up to 16.
    let slower = |f: f64| {
        let turns = 64.0 * f / (2.0 * PI);
        let smooth = (turns - 1.0) / 3.0;
        match turns {
            t if t > 4.0 => f,
            t if t < 1.0 => f / 4.0,
            _ => (1.0 - smooth) * f / 4.0 + smooth * f,
        }
    };
    let plain = Definition::plain(8, 100.0).frequencies;
    let frequencies: Vec<f64> = plain.iter().map(|f| slower(*f)).collect();
    let kept = plain.iter().zip(&frequencies).map(|(a, b)| b / a);
    let kept: Vec<f64> = kept.collect();
    assert_eq!((kept[0], kept[3]), (1.0, 0.25));
    assert!(kept[1] < 1.0 && kept[2] > 0.25, "both are mixed: {kept:?}");
    let table = json!({ "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64 });
    rotates_as(&table, 100.0, frequencies, 1.0);
}

#[test]
fn yarn_mixes_along_a_ramp_and_sharpens_the_softmax() {
    // Pairs that turn 32 times and once over 64 positions: 8 ln(64 / (32 · 2π)) / (2 ln 100), below
    // 0, and 8 ln(64 / 2π) / (2 ln 100) = 2.02, at whole pairs 0 and 3.
    let plain = Definition::plain(8, 100.0).frequencies;
    let frequencies = plain.iter().enumerate().map(|(i, f)| {
        let ramp = i as f64 / 3.0;
        f / 4.0 * ramp + f * (1.0 - ramp)
    });
    let table = json!({ "rope_type": "yarn", "factor": 4.0,
        "original_max_position_embeddings": 64 });
    let factor = 0.1 * 4f64.ln() + 1.0;
    rotates_as(&table, 100.0, frequencies.collect(), factor);
}

#[test]
fn longrope_divides_each_frequency_by_its_own_number() {
    let short = [1.0, 1.25, 2.0, 3.5];
    let plain = Definition::plain(8, 100.0).frequencies;
    let frequencies = plain.iter().zip(short).map(|(f, divisor)| f / divisor);
    let table = json!({ "rope_type": "longrope", "factor": 4.0, "short_factor": short,
        "long_factor": [9.0, 9.0, 9.0, 9.0], "original_max_position_embeddings": 64 });
    let factor = (1.0 + 4f64.ln() / 64f64.ln()).sqrt();
    rotates_as(&table, 100.0, frequencies.collect(), factor);
    // Where the long divisors would begin, the context ends.
    let base = family(&json!({ "rope_scaling": table })).1.unwrap();
    assert_eq!(base.config.max_position_embeddings(), 64);
    let mut model = FloatModel::new(&base, &Transforms::default(), None).unwrap();
    assert!(model.logits(&tokens(64)).is_ok());
    let error = model.logits(&[1]).unwrap_err().to_string();
    assert!(error.contains("holds 64 tokens"), "{error}");
}

#[test]
fn mistral_is_llama_with_a_window_in_every_layer() {
    let of = |window: Value| json!({ "model_type": "mistral", "sliding_window": window });
    is_defined_by(&of(Value::Null), Definition::plain(8, 10_000.0));
    let windows = [5; 4];
    let definition = Definition {
        windows,
        ..Definition::plain(8, 10_000.0)
    };
    is_defined_by(&of(json!(5)), definition);
}

#[test]
fn qwen2_has_biases_and_windows_where_it_says_so() {
    let plain = || Definition::plain(8, 1e6);
    let mut keys = json!({ "model_type": "qwen2", "head_dim": null, "rope_theta": 1e6,
        "use_sliding_window": false, "sliding_window": 5, "max_window_layers": 3 });
    is_defined_by(&keys, plain());
    keys["use_sliding_window"] = true.into();
    let definition = Definition {
        windows: [ALL, ALL, ALL, 5],
        ..plain()
    };
    is_defined_by(&keys, definition);
    let full = "full_attention";
    let slides = "sliding_attention";
    keys["layer_types"] = json!([full, slides, slides, full]);
    let definition = Definition {
        windows: [ALL, 5, 5, ALL],
        ..plain()
    };
    is_defined_by(&keys, definition);
}

#[test]
fn qwen3_norms_queries_and_keys_head_by_head() {
    let mut keys = json!({ "model_type": "qwen3", "head_dim": 16 });
    is_defined_by(&keys, Definition::plain(16, 10_000.0));
    keys["attention_bias"] = true.into();
    is_defined_by(&keys, Definition::plain(16, 10_000.0));
}

#[test]
fn llama_has_biases_where_its_keys_say_so() {
    for keys in [
        json!({ "attention_bias": true }),
        json!({ "mlp_bias": true }),
    ] {
        is_defined_by(&keys, Definition::plain(8, 10_000.0));
    }
}

#[test]
fn smollm3_does_not_rotate_some_layers() {
    let definition = |rotates| Definition {
        rotates,
        ..Definition::plain(8, 2e6)
    };
    let mut keys = json!({ "model_type": "smollm3" });
    is_defined_by(&keys, definition([true, true, true, false]));
    keys["no_rope_layers"] = json!([1, 0, 0, 1]);
    is_defined_by(&keys, definition([true, false, false, true]));
}

#[test]
fn granite_multiplies_what_its_keys_say() {
    let keys = json!({ "model_type": "granite", "embedding_multiplier": 2.5,
        "residual_multiplier": 0.6, "attention_multiplier": 0.1, "logits_scaling": 2.0,
        "attention_bias": true, "mlp_bias": true });
    let definition = Definition {
        scores: 0.1,
        embeddings: 2.5,
        residuals: 0.6,
        logits: 2.0,
        ..Definition::plain(8, 10_000.0)
    };
    is_defined_by(&keys, definition);
    // A missing multiplier of scores is 1.
    let definition = Definition {
        scores: 1.0,
        ..Definition::plain(8, 10_000.0)
    };
    is_defined_by(&json!({ "model_type": "granite" }), definition);
}

#[test]
fn phi3_is_llama_in_fused_tensors() {
    let keys = json!({ "model_type": "phi3", "sliding_window": 7 });
    let definition = || Definition {
        windows: [7; 4],
        ..Definition::plain(8, 10_000.0)
    };
    is_defined_by(&keys, definition());
    // As its files are, and as one that fits no module is refused.
    let (mut folder, base) = family(&keys);
    let base = base.unwrap();
    let path = folder.path().join("again");
    base.save(&path, marill_model::TensorDtype::F32).unwrap();
    let file = path.join("model.safetensors");
    let stored = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
    let name = "model.layers.2.self_attn.qkv_proj.weight";
    assert_eq!(stored[name].dims(), [32 + 2 * 16, 32]);
    assert!(!stored.contains_key("model.layers.2.mlp.up_proj.weight"));
    assert_eq!(Checkpoint::open(&path).unwrap().digest(), base.digest());
    let cut = stored[name].narrow(0, 0, 63).unwrap();
    folder.tensors = stored;
    folder.tensors.insert(name.into(), cut);
    let error = folder.error();
    assert!(
        error.contains(name) && error.contains("[64, 32]"),
        "{error}"
    );
}

fn refusal(keys: &Value) -> String {
    let refused = family(keys).1.err().expect("is refused");
    refused.to_string()
}

#[test]
fn what_a_family_does_not_compute_is_refused_by_name() {
    let qwen2 = |key: &str, value: Value| {
        let mut keys = json!({ "model_type": "qwen2", "use_sliding_window": true,
            "sliding_window": 5 });
        keys[key] = value;
        keys
    };
    for (keys, named) in [
        (json!({ "model_type": "mamba" }), "`llama`, `mistral`"),
        (
            json!({ "model_type": "qwen3", "head_dim": null }),
            "`head_dim`",
        ),
        (
            json!({ "model_type": "mistral", "num_key_value_heads": null }),
            "`num_key_value_heads`",
        ),
        (
            json!({ "model_type": "mistral", "architectures": ["LlamaForCausalLM"] }),
            "`architectures`",
        ),
        (
            json!({ "model_type": "mistral", "attention_bias": true }),
            "`attention_bias`",
        ),
        (
            json!({ "model_type": "granite", "logits_scaling": 0.0 }),
            "`logits_scaling`",
        ),
        (
            json!({ "model_type": "smollm3", "no_rope_layers": [1, 2, 1, 1] }),
            "`no_rope_layers`",
        ),
        (
            json!({ "model_type": "smollm3",
                "rope_scaling": { "rope_type": "yarn", "factor": 4.0 } }),
            "`rope_scaling` beside `no_rope_layers`",
        ),
        (
            json!({ "model_type": "smollm3", "use_sliding_window": true, "sliding_window": 8 }),
            "`layer_types`",
        ),
        (qwen2("sliding_window", Value::Null), "`sliding_window`"),
        (
            qwen2("layer_types", json!(["full_attention"])),
            "`layer_types`",
        ),
        (
            qwen2("layer_types", json!(vec!["chunked_attention"; 4])),
            "`layer_types`",
        ),
    ] {
        let error = refusal(&keys);
        assert!(error.contains(named), "{keys}: {error}");
    }
}

#[test]
fn a_rotation_that_is_not_computed_is_refused_by_name() {
    let rope = |table: Value| json!({ "rope_scaling": table });
    let yarn = |key: &str, value: Value| {
        let mut table = json!({ "rope_type": "yarn", "factor": 4.0 });
        table[key] = value;
        rope(table)
    };
    for (keys, named) in [
        (
            rope(json!({ "rope_type": "mrope", "factor": 2.0 })),
            "`rope_scaling.rope_type`",
        ),
        (
            rope(json!({ "rope_type": "linear" })),
            "`rope_scaling.factor`",
        ),
        (
            rope(json!({ "rope_type": "linear", "factor": 0.0 })),
            "`rope_scaling.factor`",
        ),
        (
            rope(json!({ "rope_type": "dynamic", "factor": 2.0,
                "original_max_position_embeddings": 64 })),
            "`rope_scaling.original_max_position_embeddings`",
        ),
        (
            rope(
                json!({ "rope_type": "longrope", "factor": 4.0, "short_factor": [1.0, 1.0, 1.0],
                "long_factor": [1.0, 1.0, 1.0, 1.0], "original_max_position_embeddings": 64 }),
            ),
            "`rope_scaling.short_factor`",
        ),
        (
            rope(json!({ "rope_type": "longrope", "factor": 8.0,
                "short_factor": [1.0, 1.0, 1.0, 1.0],
                "long_factor": [1.0, 1.0, 1.0, 1.0], "original_max_position_embeddings": 64 })),
            "`rope_scaling.factor`",
        ),
        (
            yarn("long_factor", json!([1.0])),
            "`rope_scaling.long_factor`",
        ),
        (yarn("truncate", json!("no")), "`rope_scaling.truncate`"),
    ] {
        let error = refusal(&keys);
        assert!(error.contains(named), "{keys}: {error}");
    }
    let mut both = rope(json!({ "rope_type": "linear", "factor": 2.0 }));
    both["rope_parameters"] = json!({ "rope_type": "linear", "factor": 4.0 });
    let error = refusal(&both);
    assert!(error.contains("contradict"), "{error}");
}

/// What a partition stores is read as the same model.
#[test]
fn a_written_configuration_is_read_as_the_same_one() {
    let scalings = [
        json!({ "rope_type": "linear", "factor": 2.5 }),
        json!({ "rope_type": "dynamic", "factor": 2.0 }),
        json!({ "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 64 }),
        json!({ "rope_type": "yarn", "factor": 3.0, "mscale": 0.7, "mscale_all_dim": 1.0 }),
        json!({ "rope_type": "longrope", "factor": 4.0, "short_factor": [1.0, 1.1, 1.3, 2.0],
            "long_factor": [9.0, 9.0, 9.0, 9.0], "original_max_position_embeddings": 64 }),
    ];
    let scaled = scalings.map(|table| json!({ "rope_scaling": table }));
    let others = [
        json!({ "attention_bias": true, "mlp_bias": true }),
        json!({ "model_type": "mistral", "sliding_window": 64 }),
        json!({ "model_type": "qwen2", "use_sliding_window": true, "sliding_window": 9,
            "max_window_layers": 2 }),
        json!({ "model_type": "qwen3" }),
        json!({ "model_type": "smollm3", "no_rope_layers": [1, 0, 0, 1] }),
        json!({ "model_type": "phi3" }),
        json!({ "model_type": "granite", "residual_multiplier": 0.22 }),
    ];
    for keys in scaled.iter().chain(&others) {
        let (folder, base) = family(keys);
        let base = base.unwrap();
        let again = folder.path().join("again");
        base.save(&again, marill_model::TensorDtype::F32).unwrap();
        let read = Checkpoint::open(&again).unwrap();
        assert_eq!(read.config, base.config, "{keys}");
        assert_eq!(read.digest(), base.digest(), "{keys}");
    }
}

#[test]
fn a_scaling_that_leaves_everything_alone_is_one() {
    let dynamic = RopeScaling::Dynamic { factor: 2.0 };
    assert!(dynamic.divisors(8, 100.0).is_empty());
    assert_eq!(dynamic.attention_factor(), 1.0);
}

/// The checkpoints and figures of a folder as its `expected.json` describes them, by transformers:
/// `MARILL_ARCHITECTURES=FOLDER cargo test -p marill-model --test golden -- --ignored`.
#[test]
#[ignore = "needs a folder of checkpoints with transformers' figures"]
fn figures_of_transformers_are_met() {
    let folder = std::env::var("MARILL_ARCHITECTURES").expect("names a folder");
    let folder = Path::new(&folder);
    let text = std::fs::read_to_string(folder.join("expected.json")).unwrap();
    let expected: Value = serde_json::from_str(&text).unwrap();
    let mut met = 0;
    let mut refused = BTreeMap::new();
    for case in expected["cases"].as_array().unwrap() {
        let name = case["folder"].as_str().unwrap();
        let Some(nats) = case["nats"].as_f64() else {
            continue;
        };
        match Checkpoint::open(&folder.join(name)) {
            Ok(base) => {
                meets(&base, &expected, case, nats);
                met += 1;
            }
            Err(error) => {
                refused.insert(name, error.to_string());
            }
        }
    }
    println!("{met} met; refused: {refused:#?}");
    assert!(met >= 9, "{refused:#?}");
}

fn ids(value: &Value) -> Vec<u32> {
    let ids = value.as_array().unwrap().iter();
    ids.map(|id| id.as_u64().unwrap() as u32).collect()
}

fn meets(base: &Checkpoint, expected: &Value, case: &Value, nats: f64) {
    let name = &case["folder"];
    let mut model = FloatModel::new(base, &Transforms::default(), None).unwrap();
    let text = ids(&expected["text_ids"]);
    let logits = model.all_logits(&text).unwrap().to_vec2::<f32>().unwrap();
    let sum: f64 = text[1..]
        .iter()
        .zip(&logits)
        .fold(0.0, |sum, (&next, row)| {
            let largest = row.iter().copied().fold(f32::MIN, f32::max);
            let total: f64 = row.iter().map(|l| f64::from(l - largest).exp()).sum();
            sum + total.ln() - f64::from(row[next as usize] - largest)
        });
    println!("{name}: {sum:.4} nats, {nats} expected");
    assert!((sum - nats).abs() < 0.05, "{name}: {sum} for {nats}");

    model.reset();
    let mut row = model.logits(&ids(&expected["prompt_ids"])).unwrap();
    for (nth, token) in ids(&case["greedy"]).into_iter().enumerate() {
        let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
        assert_eq!(best, Some(token as usize), "{name}: greedy token {nth}");
        row = model.logits(&[token]).unwrap();
    }
}
