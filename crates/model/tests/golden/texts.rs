//! What a checkpoint's files say of texts: ends, beginnings, tokens, templates.

use marill_model::{Checkpoint, TensorDtype, TokenIds};
use serde_json::{Value, json};

use crate::folder::{Folder, VOCAB, golden, with_config};

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
