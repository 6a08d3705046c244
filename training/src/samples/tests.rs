//! Tests of samples.

use super::*;

#[test]
fn targets_are_the_next_tokens_from_the_answer_on() {
    let sample = Sample::learnt_from(vec![5, 6, 7, 8], 2);
    assert_eq!(sample.targets().collect::<Vec<_>>(), [(1, 7), (2, 8)]);
    let sample = Sample::learnt_from(vec![5, 6], 0);
    assert_eq!(sample.targets().collect::<Vec<_>>(), [(0, 6)]);
    let sample = Sample {
        tokens: vec![5, 6, 7, 8, 9],
        learned: vec![1..2, 3..5],
    };
    assert_eq!(
        sample.targets().collect::<Vec<_>>(),
        [(0, 6), (2, 8), (3, 9)]
    );
}

#[test]
fn weights_repeat_rows() {
    let row = |t| Sample::learnt_from(vec![t; 2], 0);
    let mut rows = vec![row(1), row(2)];
    repeat(&mut rows, 2.5);
    assert_eq!(
        rows.iter().map(|r| r.tokens[0]).collect::<Vec<_>>(),
        [1, 2, 1, 2, 1]
    );
    repeat(&mut rows, 0.4);
    assert_eq!(rows.len(), 2);
}

const RECIPE: &str = r#"
    [model]
    init = "random"
    [model.architecture]
    hidden_size = 16
    intermediate_size = 16
    num_hidden_layers = 1
    num_attention_heads = 2
    num_key_value_heads = 2
    head_dim = 8
    max_position_embeddings = 512
    [tokenizer]
    vocab_size = 300
    [[dataset]]
    path = "rows.jsonl"
    format = "chat"
    [data]
    max_seq_len = 512
    [output]
    dir = "out"
"#;

/// What is learned of rows, sample by sample, text by text.
fn learned(rows: &[&str], set: &[&str], template: Option<&str>) -> (Vec<Vec<String>>, DataNotes) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    let set: Vec<String> = set.iter().map(|s| (*s).to_owned()).collect();
    let recipe = Recipe::parse(RECIPE, "test.toml", &set).unwrap();
    let mut model = crate::scratch::checkpoint(&recipe, dir.path()).unwrap();
    if let Some(template) = template {
        model.chat_template = Some(template.into());
    }
    let loaded = load(&recipe, dir.path(), &model).unwrap();
    let text = |sample: &Sample, range: &Range<usize>| {
        model
            .tokenizer
            .decode(&sample.tokens[range.clone()])
            .unwrap()
    };
    let mut all: Vec<Vec<String>> = loaded
        .train
        .iter()
        .map(|s| s.learned.iter().map(|range| text(s, range)).collect())
        .collect();
    all.sort();
    (all, loaded.notes)
}

const TWO: &str = r#"{"messages": [{"role": "system", "content": "Be short."},
    {"role": "user", "content": "North?"},
    {"role": "assistant", "content": "velvet"}, {"role": "user", "content": "South?"},
    {"role": "assistant", "content": "copper"}]}"#;

#[test]
fn every_answer_of_a_conversation_is_learnt_with_its_end() {
    let row = TWO.replace('\n', "");
    let (all, notes) = learned(&[&row], &[], None);
    assert_eq!(all, [["velvet<|im_end|>", "copper<|im_end|>"]]);
    assert_eq!((notes.rows, notes.divided), (1, 0));
    let (last, _) = learned(&[&row], &["data.train_on=last"], None);
    assert_eq!(last, [["copper<|im_end|>"]]);
    // An empty answer is none, wherever it stands.
    let (rest, _) = learned(&[&row.replace("velvet", " ")], &[], None);
    assert_eq!(rest, [["copper<|im_end|>"]]);
    let (first, _) = learned(&[&row, &row.replace("copper", "")], &[], None);
    assert_eq!(
        first,
        [
            vec!["velvet<|im_end|>"],
            vec!["velvet<|im_end|>", "copper<|im_end|>"]
        ]
    );
    let (input, _) = learned(&[&row], &["data.train_on_input=true"], None);
    assert!(
        input[0].len() == 1
            && input[0][0].starts_with("<|im_start|>system")
            && input[0][0].ends_with("copper<|im_end|>")
    );
}

#[test]
fn answers_too_long_for_one_sample_are_learnt_singly() {
    let row = TWO.replace('\n', "");
    let (all, notes) = learned(&[&row], &["data.max_seq_len=40"], None);
    assert_eq!(all, [["copper<|im_end|>"], ["velvet<|im_end|>"]]);
    assert_eq!((notes.rows, notes.divided), (1, 1));
    assert!(
        notes
            .to_string()
            .contains("their answers are learned one by one"),
        "{notes}"
    );
    // A template that leaves earlier answers out: what follows them is not what was learned
    // with them.
    let forgetful = crate::CHATML.replace(
        "{% for message in messages %}",
        "{% for message in messages if message['role'] != 'assistant' %}",
    );
    let (all, notes) = learned(&[&row], &[], Some(&forgetful));
    assert_eq!(
        (all, notes.divided),
        (
            vec![
                vec!["copper<|im_end|>".into()],
                vec!["velvet<|im_end|>".into()]
            ],
            1
        )
    );
}

#[test]
fn weights_that_no_memory_holds_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let row = TWO.replace('\n', "");
    std::fs::write(dir.path().join("rows.jsonl"), (row + "\n").repeat(600)).unwrap();
    let recipe = Recipe::parse(RECIPE, "test.toml", &["dataset.0.weight=1e4".into()]).unwrap();
    let model = crate::scratch::checkpoint(&recipe, dir.path()).unwrap();
    let error = load(&recipe, dir.path(), &model).err().unwrap().to_string();
    assert!(error.contains("`dataset.weight`"), "{error}");
    let recipe = Recipe::parse(RECIPE, "test.toml", &["dataset.0.weight=1e-6".into()]).unwrap();
    let error = load(&recipe, dir.path(), &model).err().unwrap().to_string();
    assert!(
        error.contains("`dataset.weight`: 0.000001 of 600 rows is none"),
        "{error}"
    );
}
