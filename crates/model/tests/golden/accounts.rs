//! What a checkpoint's configuration says is used, changes nothing, or is refused by name.

use marill_model::Checkpoint;
use serde_json::{Value, json};

use crate::folder::{Folder, VOCAB, logits, with_config};

#[test]
fn a_key_that_changes_answers_is_refused_or_ignored() {
    let plain = logits(&Folder::new().open().unwrap());
    for (key, value) in [
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!("all")),
        ("mlp_bias", json!(1)),
        ("partial_rotary_factor", json!(0.5)),
        ("sliding_window", json!(16)),
        ("logits_scaling", json!(2.0)),
        ("embedding_multiplier", json!(12)),
        ("architectures", json!(["LlamaForSequenceClassification"])),
        (
            "quantization_config",
            json!({ "quant_method": "gptq", "bits": 4 }),
        ),
        ("repetition_penalty", json!(1.3)),
        ("auto_map", json!({ "AutoModel": "own.py" })),
        ("a_key_of_next_year", json!([1, 2])),
        (
            "rope_scaling",
            json!({ "rope_type": "mrope", "mrope_section": [16, 24, 24] }),
        ),
        ("rope_scaling", json!({ "type": "ntk", "factor": 2.0 })),
        (
            "rope_parameters",
            json!({ "rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0 }),
        ),
        (
            "rope_parameters",
            json!({ "rope_type": "default", "factor": 4.0 }),
        ),
        (
            "rope_parameters",
            json!({ "full_attention": { "rope_theta": 1e6 } }),
        ),
    ] {
        let folder = with_config(key, value.clone());
        let error = folder.error();
        assert!(
            error.contains("config.json") && error.contains(&format!("`{key}")),
            "{key}: {error}"
        );
        assert!(error.contains("model.ignore"), "{error}");
        let model = folder
            .open_ignoring(&[key])
            .unwrap_or_else(|e| panic!("{key} = {value}: {e}"));
        assert_eq!(
            (logits(&model), model.ignored),
            (plain.clone(), vec![key.to_owned()]),
            "{key}"
        );
    }
    let error = with_config("model_type", json!("mamba")).error();
    assert!(error.contains("model_type = mamba"), "{error}");
}

#[test]
fn what_transformers_writes_besides_changes_nothing() {
    let plain = logits(&Folder::new().open().unwrap());
    let mut folder = Folder::new();
    for (key, value) in [
        // transformers 4.40.
        ("attention_bias", json!(false)),
        ("attention_dropout", json!(0.1)),
        ("pretraining_tp", json!(2)),
        ("rope_scaling", json!(null)),
        ("pruned_heads", json!({})),
        ("torch_dtype", json!("bfloat16")),
        ("use_cache", json!(true)),
        ("id2label", json!({ "0": "LABEL_0" })),
        ("num_beams", json!(1)),
        ("repetition_penalty", json!(1)),
        ("bad_words_ids", json!(null)),
        ("is_encoder_decoder", json!(false)),
        // transformers 5.24.
        ("mlp_bias", json!(false)),
        ("dtype", json!("float32")),
        (
            "rope_parameters",
            json!({ "rope_theta": 10000, "rope_type": "default" }),
        ),
        // Other tools.
        ("head_dim", json!(null)),
        ("num_key_value_heads", json!(1)),
        ("pad_token_id", json!(-1)),
        ("bos_token_id", json!([1])),
        ("sliding_window", json!(null)),
        ("transformers.js_config", json!({})),
    ] {
        folder.config[key] = value;
    }
    let model = folder.open().unwrap();
    assert_eq!(logits(&model), plain);
    assert_eq!(
        (
            model.config.llama().unwrap().head_dim,
            model.config.llama().unwrap().bos_token_id,
            model.config.llama().unwrap().pad_token_id
        ),
        (4, Some(1), None)
    );
}

#[test]
fn the_base_of_the_rotation_is_read_wherever_it_stands() {
    let legacy = logits(&with_config("rope_theta", json!(500_000.0)).open().unwrap());
    assert_ne!(legacy, logits(&Folder::new().open().unwrap()));
    for (key, table) in [
        (
            "rope_parameters",
            json!({ "rope_type": "default", "rope_theta": 500_000.0 }),
        ),
        ("rope_parameters", json!({ "rope_theta": 500_000 })),
        (
            "rope_scaling",
            json!({ "type": "default", "rope_theta": 5e5, "factor": null }),
        ),
    ] {
        let mut folder = with_config(key, table);
        folder.config["rope_theta"] = Value::Null;
        assert_eq!(logits(&folder.open().unwrap()), legacy, "{key}");
    }
    let error = with_config("rope_parameters", json!({ "rope_theta": 5e5 })).error();
    assert!(error.contains("contradict"), "{error}");
}

#[test]
fn an_entry_that_leaves_nothing_out_is_refused_by_name() {
    let mut folder = with_config("odd", json!(1));
    for entry in [
        "hidden_akt",
        "model.layers.*.q_proj.bias",
        "<nowhere>",
        "quantization_config.odd",
    ] {
        let error = folder
            .open_ignoring(&["odd", entry])
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(&format!("`{entry}` of `model.ignore`")),
            "{error}"
        );
        let ignore = ["odd".to_owned(), entry.to_owned()];
        folder.write();
        assert_eq!(
            Checkpoint::open_ignoring_any(folder.path(), &ignore)
                .unwrap()
                .1,
            [entry]
        );
    }
    folder.config["sliding_window"] = json!(null);
    folder
        .open_ignoring(&["odd", "sliding_*", "sliding_window"])
        .err()
        .expect("a star is a whole part");
    folder
        .open_ignoring(&["odd", "sliding_window"])
        .expect("it is there, if empty");
    folder
        .open_ignoring(&["*"])
        .err()
        .expect("nothing is left to read");
}

#[test]
fn sizes_without_sense_are_refused_by_key_and_file() {
    for key in [
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "vocab_size",
        "max_position_embeddings",
    ] {
        for value in [
            json!(1u64 << 60),
            json!(1u64 << 62),
            json!(1e300),
            json!(-1),
            json!(0),
            json!(2.5),
            json!("8"),
        ] {
            let error = with_config(key, value.clone()).error();
            assert!(
                error.contains("config.json") && error.contains(&format!("`{key}`")),
                "{key} = {value}: {error}"
            );
        }
    }
    assert!(
        with_config("num_hidden_layers", json!(1_000_000))
            .error()
            .contains("`num_hidden_layers`")
    );
    for (key, value) in [
        ("rope_theta", json!(0)),
        ("rope_theta", json!(-5)),
        ("rms_norm_eps", json!(-1)),
        ("rms_norm_eps", json!(1.5)),
        ("rms_norm_eps", json!("x")),
    ] {
        assert!(
            with_config(key, value.clone()).error().contains(key),
            "{key} = {value}"
        );
    }
    let mut folder = Folder::new();
    folder.config.as_object_mut().unwrap().remove("hidden_size");
    assert!(folder.error().contains("has no `hidden_size`"));
    // All tokens have a row.
    let mut folder = Folder::new();
    folder.tokenizer["added_tokens"]
        .as_array_mut()
        .unwrap()
        .push(json!({
            "id": VOCAB, "content": "<far>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        }));
    folder.config["vocab_size"] = json!(270);
    let embedding = folder.tensors["model.embed_tokens.weight"]
        .narrow(0, 0, 270)
        .unwrap();
    folder.tensors.insert(
        "model.embed_tokens.weight".into(),
        embedding.contiguous().unwrap(),
    );
    let error = folder.error();
    assert!(
        error.contains("has id 27") && error.contains("270 rows"),
        "{error}"
    );
}
