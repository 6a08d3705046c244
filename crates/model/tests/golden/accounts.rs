//! What a checkpoint's files say is used, changes nothing, or is refused by name.

use marill_model::{Checkpoint, FloatModel, TensorDtype, TokenIds, Transforms};
use serde_json::{Value, json};

use crate::folder::{Folder, VOCAB, f8, golden};

fn logits(model: &Checkpoint) -> Vec<f32> {
    FloatModel::new(model, &Transforms::default(), None)
        .unwrap()
        .logits(&[20, 30, 40, 50])
        .unwrap()
}

fn with_config(key: &str, value: Value) -> Folder {
    let mut folder = Folder::new();
    folder.config[key] = value;
    folder
}

#[test]
fn a_key_that_changes_answers_is_refused_or_ignored() {
    let plain = logits(&Folder::new().open().unwrap());
    for (key, value) in [
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("mlp_bias", json!(true)),
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
            json!({ "rope_type": "linear", "factor": 2.0 }),
        ),
        ("rope_scaling", json!({ "type": "dynamic", "factor": 2.0 })),
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
    let error = with_config("model_type", json!("qwen2")).error();
    assert!(error.contains("model_type = qwen2"), "{error}");
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

#[test]
fn all_ends_of_all_files_end_an_answer() {
    let mut folder = with_config("eos_token_id", json!([2, -1, 4]));
    folder.more.push((
        "generation_config.json",
        json!({ "eos_token_id": [2, 9], "temperature": 0.6, "do_sample": true }),
    ));
    folder.tokenizer_config = json!({ "eos_token": "<|eot_id|>" });
    let model = folder.open().unwrap();
    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path(), TensorDtype::F32).unwrap();
    for model in [&model, &Checkpoint::open(saved.path()).unwrap()] {
        assert_eq!(
            model.config.llama().unwrap().eos_token_id,
            Some(TokenIds::Many(vec![2, 4, 9, 7]))
        );
        assert!(
            [2, 4, 9, 7]
                .into_iter()
                .all(|id| model.tokenizer.is_eos(id))
                && !model.tokenizer.is_eos(5)
        );
    }
    for (key, value) in [
        ("repetition_penalty", json!(1.1)),
        ("suppress_tokens", json!([3])),
        ("odd", json!(1)),
    ] {
        folder.more = vec![(
            "generation_config.json",
            json!({ "eos_token_id": 2, key: value }),
        )];
        let error = folder.error();
        assert!(
            error.contains("generation_config.json") && error.contains(key),
            "{error}"
        );
        assert!(folder.open_ignoring(&[key]).is_ok());
    }
    folder.more = vec![(
        "generation_config.json",
        json!({ "eos_token_id": [2, VOCAB] }),
    )];
    let error = folder.error();
    assert!(
        error.contains("generation_config.json") && error.contains("`eos_token_id`"),
        "{error}"
    );
    with_config("eos_token_id", json!(VOCAB - 1))
        .open()
        .unwrap();
    for wrong in [
        json!(VOCAB),
        json!([2, VOCAB]),
        json!("two"),
        json!(1.5),
        json!(-2),
        json!([[2]]),
        json!(1u64 << 40),
    ] {
        assert!(
            with_config("eos_token_id", wrong.clone())
                .error()
                .contains("`eos_token_id`"),
            "{wrong}"
        );
    }
}

#[test]
fn plain_text_begins_as_the_files_say_and_never_twice() {
    let golden = golden();
    let begins = |kind: &str, settings: Value| {
        let mut folder = Folder::new();
        folder.tokenizer = golden["tokenizers"][kind].clone();
        folder.tokenizer_config = settings;
        let tokenizer = folder.open().unwrap().tokenizer;
        let ids = tokenizer.encode_plain("ferry").unwrap();
        let twice = tokenizer.encode_plain("<s>ferry").unwrap();
        assert_eq!(twice.iter().filter(|&&id| id == 1).count(), 1);
        ids[0]
    };
    assert_eq!(
        begins(
            "bytes",
            json!({ "bos_token": "<s>", "add_bos_token": true })
        ),
        1
    );
    assert_eq!(
        begins("pieces", json!({ "bos_token": "<s>" })),
        1,
        "the post-processor says so"
    );
    assert_eq!(
        begins(
            "pieces",
            json!({ "bos_token": "<s>", "add_bos_token": true })
        ),
        1
    );
    assert_ne!(
        begins(
            "pieces",
            json!({ "bos_token": "<s>", "add_bos_token": false })
        ),
        1
    );
    assert_ne!(begins("bytes", json!({ "bos_token": "<s>" })), 1);
    let mut folder = Folder::new();
    folder.tokenizer_config = json!({ "add_bos_token": true });
    assert!(folder.error().contains("bos_token"));
    folder.tokenizer_config = json!({ "bos_token": "<nowhere>" });
    assert!(folder.error().contains("<nowhere>"));
    folder.more.push((
        "special_tokens_map.json",
        json!({ "bos_token": { "content": "<s>" } }),
    ));
    folder.tokenizer_config = json!({ "add_bos_token": true });
    assert_eq!(
        folder.open().unwrap().tokenizer.encode_plain("a").unwrap()[0],
        1
    );
}

#[test]
fn settings_of_a_tokenizer_that_change_its_tokens_are_refused() {
    for (key, value) in [
        ("add_eos_token", json!(true)),
        ("add_prefix_space", json!(true)),
        ("split_special_tokens", json!(true)),
        ("additional_special_tokens", json!(["<tool>"])),
        (
            "added_tokens_decoder",
            json!({ "390": { "content": "<tool>" } }),
        ),
        ("added_tokens_decoder", json!({ "3": { "content": "<s>" } })),
        ("chat_template", json!(7)),
        (
            "chat_template",
            json!([{ "name": "tool_use", "template": "x" }]),
        ),
        ("odd", json!(1)),
    ] {
        let mut folder = Folder::new();
        folder.tokenizer_config = json!({ key: value });
        let error = folder.error();
        assert!(
            error.contains("tokenizer_config.json") && error.contains(&format!("`{key}")),
            "{key}: {error}"
        );
    }
    let mut folder = Folder::new();
    folder.tokenizer_config = json!({
        "add_prefix_space": false, "additional_special_tokens": ["<s>"],
        "clean_up_tokenization_spaces": false,
        "added_tokens_decoder": { "1": { "content": "<s>" } }, "model_max_length": 1e30,
        "tokenizer_class": "X",
        "backend": "tokenizers", "extra_special_tokens": {}, "is_local": true, "legacy": false,
        "eos_token": null
    });
    folder.open().unwrap();
    folder.tokenizer["truncation"] =
        json!({ "direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0 });
    folder.tokenizer["padding"] = json!({
        "strategy": { "Fixed": 64 }, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<unk>"
    });
    let tokenizer = folder.open().unwrap().tokenizer;
    assert_eq!(
        tokenizer.encode("one two three").unwrap().len(),
        12,
        "it is neither cut nor filled"
    );
    let part = |name: &str| json!({ "Sequence": { "id": name, "type_id": 0 } });
    let end = json!({ "SpecialToken": { "id": "</s>", "type_id": 0 } });
    folder.tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing", "single": [part("A"), end], "pair": [part("A"), part("B")],
        "special_tokens": { "</s>": { "id": "</s>", "ids": [2], "tokens": ["</s>"] } }
    });
    assert!(folder.error().contains("puts `</s>` behind every text"));
    assert_eq!(
        folder
            .open_ignoring(&["post_processor"])
            .unwrap()
            .tokenizer
            .encode_plain("a")
            .unwrap()
            .len(),
        1
    );
    folder.tokenizer["post_processor"] = json!(null);
    folder.tokenizer["model"]["dropout"] = json!(0.1);
    assert!(folder.error().contains("dropout"));
}

#[test]
fn templates_are_found_wherever_they_stand() {
    let source = |folder: &Folder| folder.open().unwrap().chat_template.map(|t| t.source);
    let mut folder = Folder::new();
    assert_eq!(source(&folder), None);
    folder.tokenizer_config = json!({ "chat_template": "a" });
    assert_eq!(source(&folder).as_deref(), Some("a"));
    let named =
        json!([{ "name": "tool_use", "template": "t" }, { "name": "default", "template": "d" }]);
    folder.tokenizer_config = json!({ "chat_template": named });
    assert_eq!(source(&folder).as_deref(), Some("d"));
    std::fs::write(folder.path().join("chat_template.jinja"), "j").unwrap();
    assert_eq!(source(&folder).as_deref(), Some("j"));
}

#[test]
fn a_template_that_is_no_jinja_is_refused_by_its_file() {
    let mut folder = Folder::new();
    folder.tokenizer_config = json!({ "chat_template": "{% for m in messages %}{{ m.content }}" });
    let error = folder.error();
    assert!(
        error.contains("tokenizer_config.json") && error.contains("chat_template"),
        "{error}"
    );
    folder.open_ignoring(&["chat_template"]).unwrap();
    folder.tokenizer_config = json!({ "chat_template": "{{ messages }}" });
    folder.open().unwrap();
    std::fs::write(folder.path().join("chat_template.jinja"), "{{ messages ").unwrap();
    let error = folder.error();
    assert!(error.contains("chat_template.jinja"), "{error}");
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
