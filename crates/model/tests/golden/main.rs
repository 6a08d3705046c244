//! Texts and token ids of chats and plain texts against transformers' own, also after a checkpoint
//! was saved.

mod accounts;
mod families;
mod folder;
mod tensors;
mod texts;

use marill_model::{Checkpoint, Message, TensorDtype, render_chat};
use serde_json::Value;

use crate::folder::{Folder, golden};

fn ids(value: &Value) -> Vec<u32> {
    value
        .as_array()
        .unwrap()
        .iter()
        .map(|id| id.as_u64().unwrap() as u32)
        .collect()
}

fn compare(model: &Checkpoint, case: &Value) {
    let name = case["name"].as_str().unwrap();
    let template = model.chat_template.as_ref().unwrap();
    for chat in case["chats"].as_array().unwrap() {
        let messages: Vec<Message> = serde_json::from_value(chat["messages"].clone()).unwrap();
        let rendered = render_chat(
            template,
            &messages,
            chat["add_generation_prompt"].as_bool().unwrap(),
        );
        match chat["error"].as_str() {
            Some(said) => {
                let error = rendered.expect_err(name).to_string();
                assert!(error.contains(said), "{name}: {error}");
            }
            None => {
                let text = rendered.expect(name);
                assert_eq!(text, chat["text"].as_str().unwrap(), "{name}");
                assert_eq!(
                    model.tokenizer.encode(&text).unwrap(),
                    ids(&chat["ids"]),
                    "{name}: {text}"
                );
            }
        }
    }
    for plain in case["plain"].as_array().unwrap() {
        let text = plain["text"].as_str().unwrap();
        let mut expected = ids(&plain["ids"]);
        if expected.starts_with(&[1, 1]) {
            // A text that begins with the token gets it once here.
            expected.remove(0);
        }
        assert_eq!(
            model.tokenizer.encode_plain(text).unwrap(),
            expected,
            "{name}: {text}"
        );
    }
}

#[test]
fn templates_and_plain_texts_are_transformers_own() {
    let golden = golden();
    let cases = golden["cases"].as_array().unwrap();
    // The reference script writes at least six; less is a damaged file.
    assert!(cases.len() >= 6);
    for case in cases {
        let mut folder = Folder::new();
        folder.tokenizer = golden["tokenizers"][case["tokenizer"].as_str().unwrap()].clone();
        folder.tokenizer_config = case["tokenizer_config"].clone();
        let model = folder.open().unwrap();
        compare(&model, case);
        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path(), TensorDtype::F32).unwrap();
        let again = Checkpoint::open(saved.path()).unwrap();
        compare(&again, case);
        assert_eq!(again.chat_template, model.chat_template);
    }
}

#[test]
fn a_turn_ends_with_what_the_template_writes_behind_it() {
    let golden = golden();
    let ends = [
        ("llama-2", Some("</s>")),
        ("llama-3", Some("<|eot_id|>")),
        ("mistral", Some("</s>")),
        ("zephyr", Some("</s>")),
        ("smollm2", Some("<|im_end|>")),
        ("chatml-generation", Some("<|im_end|>")),
        // `<end_of_turn>` ends nothing as long as no file says so.
        ("gemma", None),
    ];
    for (name, end) in ends {
        let case = golden["cases"]
            .as_array()
            .unwrap()
            .iter()
            .find(|case| case["name"] == name)
            .unwrap();
        let mut folder = Folder::new();
        folder.tokenizer = golden["tokenizers"][case["tokenizer"].as_str().unwrap()].clone();
        folder.tokenizer_config = case["tokenizer_config"].clone();
        let model = folder.open().unwrap();
        let id = end.map(|token| model.tokenizer.token_id(token).unwrap());
        assert_eq!(model.chat_template.unwrap().turn_end(), id, "{name}");
    }
}

#[test]
fn what_goes_on_behind_a_text_gets_no_space_of_its_own() {
    let golden = golden();
    for kind in ["pieces", "metaspace", "bytes"] {
        let mut folder = Folder::new();
        folder.tokenizer = golden["tokenizers"][kind].clone();
        let tokenizer = folder.open().unwrap().tokenizer;
        let whole = tokenizer.encode("the ferry: yes").unwrap();
        let parts = [
            tokenizer.encode("the ferry:").unwrap(),
            tokenizer.encode_continuing(" yes").unwrap(),
        ]
        .concat();
        assert_eq!(parts, whole, "{kind}");
        let parts = [
            tokenizer.encode("the fer").unwrap(),
            tokenizer.encode_continuing("ry: yes").unwrap(),
        ]
        .concat();
        assert_eq!(parts, whole, "{kind}");
        // What stands behind a special token is as in the whole text, wherever that is parted.
        let chat = "<s>[INST] A [/INST] B </s><s>[INST] the C [/INST]";
        let whole = tokenizer.encode(chat).unwrap();
        for before in [
            "<s>[INST] A [/INST]",
            "<s>[INST] A [/INST] B",
            "<s>[INST] A [/INST] B </s>",
        ] {
            let behind = chat.strip_prefix(before).unwrap();
            let parts = [
                tokenizer.encode(before).unwrap(),
                tokenizer.encode_continuing(behind).unwrap(),
            ]
            .concat();
            assert_eq!(parts, whole, "{kind}: {before}");
        }
    }
}
