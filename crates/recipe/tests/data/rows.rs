//! What rows of data become.

use marill_recipe::{Dataset, Prompt, RecipeError, Rows, Style, read_records};

use crate::folder::{Folder, dataset};

fn rows_of(set: &Dataset, name: &str, content: &str) -> Result<Rows, RecipeError> {
    Folder::new().rows(set, name, content)
}

fn refusal(set: &Dataset, name: &str, content: &str) -> String {
    Folder::new().refusal(set, name, content)
}

#[test]
fn classify_takes_labels_by_name_or_number() {
    let mut set = dataset("classify");
    set.labels = vec!["World".into(), "Sports".into()];
    set.template = Some("Topic of {{this}}: {0}?".into());
    set.label = Some("1".into());
    set.style = Style::Plain;
    let rows = rows_of(&set, "a.tsv", "a match\t1\na war\tworld\n").unwrap();
    assert_eq!(
        rows.examples[0].prompt,
        Prompt::Plain("Topic of {this}: a match?".into())
    );
    let got: Vec<_> = rows
        .examples
        .iter()
        .map(|e| (e.completion.as_str(), e.label))
        .collect();
    assert_eq!(got, [("Sports", Some(1)), ("World", Some(0))]);
    let error = refusal(&set, "a.tsv", "a match\t1\na war\t7\n");
    assert!(
        error.contains("row 2: `7` is none of the labels World, Sports"),
        "{error}"
    );
}

#[test]
fn instruct_and_chat_rows_become_turns() {
    let mut set = dataset("instruct");
    set.system = Some("Be brief".into());
    let line = r#"{"instruction": "Add", "input": "1 2", "output": "3"}"#;
    let example = &rows_of(&set, "a.jsonl", line).unwrap().examples[0];
    let Prompt::Chat(turns) = &example.prompt else {
        panic!()
    };
    assert_eq!(
        (turns[0].role.as_str(), turns[1].content.as_str()),
        ("system", "Add\n\n1 2")
    );
    assert_eq!(example.completion, "3");

    let line = concat!(
        r#"{"messages": [{"role": "user", "content": "hi"}, "#,
        r#"{"role": "assistant", "content": "ho"}]}"#
    );
    let example = &rows_of(&dataset("chat"), "a.jsonl", line).unwrap().examples[0];
    assert_eq!(example.completion, "ho");
    let error = refusal(
        &dataset("chat"),
        "a.jsonl",
        r#"{"messages": [{"role": "user", "content": "hi"}]}"#,
    );
    assert!(error.contains("assistant's turn"), "{error}");
}

#[test]
fn aligned_files_are_one_data_set() {
    let folder = Folder::new();
    let de = folder.file("a.de", "Ein Hund\nEine Katze\n");
    let en = folder.file("a.en", "A dog\nA cat\n");
    let rows = Rows::read_files(&dataset("translate"), &de, Some(&en)).unwrap();
    assert_eq!(rows.examples[1].completion, "A cat");
    folder.file("a.en", "A dog\n");
    let error = Rows::read_files(&dataset("translate"), &de, Some(&en))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("has 2 lines") && error.ends_with("has 1"),
        "{error}"
    );
}

#[test]
fn rows_that_another_file_asks_too_are_left_out() {
    let folder = Folder::new();
    let write = |name: &str, content: &str| drop(folder.file(name, content));
    write("train.tsv", "Who ?\tHUM\nHow  far ?\tNUM\nWhy ?\tNUM\n");
    // Other capitals, other white space, another answer.
    write("test.tsv", "how far ?\tHUM\nWhere ?\t?\n");
    write("more.tsv", "Why ?\n");
    let mut set = dataset("classify");
    (set.path, set.label, set.template) = (
        "train.tsv".into(),
        Some("1".into()),
        Some("Question: {0}".into()),
    );
    set.labels = vec!["HUM".into(), "NUM".into()];
    let read = |set: &Dataset| Rows::read(set, folder.path());
    assert_eq!(
        (
            read(&set).unwrap().examples.len(),
            read(&set).unwrap().excluded
        ),
        (3, 0)
    );
    set.exclude = vec!["test.tsv".into(), "more.tsv".into()];
    let rows = read(&set).unwrap();
    assert_eq!((rows.examples.len(), rows.excluded), (1, 2));
    assert!(matches!(
        &rows.examples[0].prompt,
        Prompt::Chat(turns) if turns[0].content == "Question: Who ?"
    ));

    set.exclude = vec!["train.tsv".into()];
    let error = read(&set).unwrap_err().to_string();
    assert!(
        error.contains("train.tsv") && error.contains("`dataset.exclude`"),
        "{error}"
    );
    set.exclude = vec!["gone.tsv".into()];
    assert!(
        read(&set)
            .unwrap_err()
            .to_string()
            .contains("`gone.tsv` was not found")
    );
    write("one.jsonl", "{\"text\": \"Who ?\"}\n");
    set.exclude = vec!["one.jsonl".into()];
    let error = read(&set).unwrap_err().to_string();
    assert!(
        error.contains("one.jsonl`, row 1: no column `0`"),
        "{error}"
    );
}

#[test]
fn rows_of_translations_are_left_out_by_their_source() {
    let folder = Folder::new();
    let write = |name: &str, content: &str| drop(folder.file(name, content));
    write("train.de", "Ein Hund\nEine Katze\n");
    write("train.en", "A dog\nA cat\n");
    write("test.de", "Eine Katze\n");
    let mut set = dataset("translate");
    (set.path, set.target_path, set.exclude) = (
        "train.de".into(),
        Some("train.en".into()),
        vec!["test.de".into()],
    );
    let answers: Vec<String> = Rows::read(&set, folder.path())
        .unwrap()
        .examples
        .into_iter()
        .map(|e| e.completion)
        .collect();
    assert_eq!(answers, ["A dog"]);
}

#[test]
fn bad_rows_name_file_and_row() {
    let set = dataset("instruct");
    assert!(
        refusal(
            &set,
            "a.jsonl",
            "{\"instruction\": \"x\", \"output\": \"y\"}\n{oops\n"
        )
        .contains("row 2: no JSON: ")
    );
    let error = refusal(&set, "a.json", "3");
    assert!(
        error.contains("row 1: not a JSON object") && error.contains("an object on each line"),
        "{error}"
    );
    let error = refusal(
        &set,
        "a.jsonl",
        "{\"instruction\": \"x\", \"output\": null}\n",
    );
    assert!(error.contains("row 1: column `output` is null"), "{error}");
    assert!(refusal(&set, "a.jsonl", "{\"output\": \"y\"}\n").contains("no column `instruction`"));
    assert!(refusal(&set, "a.jsonl", "\n").contains("the data set is empty"));
    let blank = "{\"instruction\": \"x\", \"output\": \" \"}\n";
    assert!(refusal(&set, "a.jsonl", blank).contains("every answer is empty"));
}

#[test]
fn csv_cells_may_be_quoted() {
    let folder = Folder::new();
    let path = folder.file("a.csv", "text,label\n\"a, \"\"b\"\"\nc\",1\r\nplain,0\n");
    let records = read_records(&path).unwrap();
    assert_eq!(records[0].record["text"], "a, \"b\"\nc");
    assert_eq!(
        (&records[0].record["label"], &records[1].record["text"]),
        (&"1".into(), &"plain".into())
    );
    assert_eq!((records[0].line, records[1].line), (2, 4));
    folder.file("a.csv", "text,label\nplain\n");
    assert!(
        read_records(&path)
            .unwrap_err()
            .to_string()
            .contains("1 cells under a header of 2")
    );
}
