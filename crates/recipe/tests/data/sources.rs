//! Where rows come from: folders, patterns, packed files, and files held out.

use marill_recipe::{Dataset, Prompt, Rows};

use crate::folder::{BLUE, Folder, PLUM, dataset};

/// Two frames of a JSON line each, and one without content between them: `make_frames.py`.
const FRAMES: &[u8] = include_bytes!("frames.jsonl.zst");

fn answers(rows: &Rows) -> Vec<&str> {
    rows.examples
        .iter()
        .map(|e| e.completion.as_str())
        .collect()
}

fn at(folder: &Folder, format: &str, path: &str) -> Dataset {
    Dataset {
        path: folder.path().join(path).display().to_string(),
        ..dataset(format)
    }
}

#[test]
fn every_data_file_of_a_folder_is_read_by_name() {
    let folder = Folder::new();
    for (name, text) in [
        ("b.jsonl", PLUM),
        ("a.jsonl", BLUE),
        ("README.md", "# Rows"),
        (".x", ""),
    ] {
        folder.file(name, text);
    }
    let set = at(&folder, "instruct", "");
    let rows = Rows::read(&set, folder.path()).unwrap();
    assert_eq!(answers(&rows), ["Blue.", "Plum."]);
    assert_eq!(
        Rows::read_files(&set, folder.path(), None)
            .unwrap()
            .examples
            .len(),
        2
    );
    for (name, said) in [
        ("c.csv", "files of several kinds"),
        ("model.bin", "holds `model.bin`, which is no data file"),
    ] {
        let path = folder.file(name, "x\n");
        let error = Rows::read(&set, folder.path()).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("pattern"), "{error}");
        std::fs::remove_file(path).unwrap();
    }
    let empty = tempfile::tempdir().unwrap();
    let error = Rows::read_files(&set, empty.path(), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("holds no data file"), "{error}");
}

#[test]
fn a_pattern_means_all_that_it_matches() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path().join("deep")).unwrap();
    for (name, text) in [
        ("2.jsonl", PLUM),
        ("1.jsonl", BLUE),
        ("deep/3.jsonl", BLUE),
        ("x.txt", ""),
    ] {
        folder.file(name, text);
    }
    for (pattern, expected) in [
        ("*.jsonl", &["Blue.", "Plum."][..]),
        ("[2-3].jsonl", &["Plum."]),
        ("**/*.jsonl", &["Blue.", "Plum.", "Blue."]),
    ] {
        let rows = Rows::read(&at(&folder, "instruct", pattern), folder.path()).unwrap();
        assert_eq!(answers(&rows), expected, "{pattern}");
        // As it stands it may match elsewhere first.
        if pattern.starts_with("**") {
            continue;
        }
        let beside = Dataset {
            path: pattern.into(),
            ..dataset("instruct")
        };
        assert_eq!(
            answers(&Rows::read(&beside, folder.path()).unwrap()),
            expected
        );
    }
    let error = Rows::read(&at(&folder, "instruct", "*.csv"), folder.path());
    assert!(error.unwrap_err().to_string().contains("was not found"));
    let mut excluding = at(&folder, "instruct", "1.jsonl");
    excluding.exclude = vec!["2*.jsonl".into()];
    assert_eq!(
        answers(&Rows::read(&excluding, folder.path()).unwrap()),
        ["Blue."]
    );
}

#[test]
fn a_row_is_named_by_its_own_file() {
    let folder = Folder::new();
    folder.file("1.jsonl", BLUE);
    folder.file("2.jsonl", format!("{PLUM}{{\"instruction\": \"x\"}}\n"));
    let set = at(&folder, "instruct", "*.jsonl");
    let error = Rows::read(&set, folder.path()).unwrap_err().to_string();
    assert!(error.contains("2.jsonl`, row 2"), "{error}");
}

#[test]
fn all_frames_of_a_packed_file_are_read() {
    let folder = Folder::new();
    let set = dataset("instruct");
    let rows = folder.rows(&set, "rows.jsonl.zst", FRAMES).unwrap();
    assert_eq!(answers(&rows), ["Blue.", "Plum."]);
    let cut = folder.refusal(&set, "cut.jsonl.zst", &FRAMES[..FRAMES.len() - 5]);
    assert!(cut.contains("cut.jsonl.zst"), "{cut}");
    let mut spoiled = FRAMES.to_vec();
    let last = spoiled.len() - 1;
    spoiled[last] ^= 1;
    let said = folder.refusal(&set, "spoiled.jsonl.zst", spoiled);
    assert!(said.contains("checksum"), "{said}");
    let said = folder.refusal(&set, "rows.jsonl", FRAMES);
    assert!(said.contains("its name must end in `.zst`"), "{said}");
}

#[test]
fn parquet_is_refused_with_the_way_out() {
    let folder = Folder::new();
    let set = dataset("instruct");
    for name in ["rows.parquet", "rows.jsonl"] {
        let said = folder.refusal(&set, name, b"PAR1\xff\xfe");
        assert!(said.contains(name) && said.contains("to_json"), "{said}");
    }
}

#[test]
fn rows_of_another_file_are_held_out() {
    let folder = Folder::new();
    folder.file("train.jsonl", BLUE);
    folder.file("val.jsonl", PLUM);
    let mut set = at(&folder, "instruct", "train.jsonl");
    assert!(
        Rows::read_validation(&set, folder.path())
            .unwrap()
            .is_none()
    );
    set.val_path = Some("val.jsonl".into());
    let held_out = Rows::read_validation(&set, folder.path()).unwrap().unwrap();
    assert_eq!(answers(&held_out), ["Plum."]);
    assert_eq!(
        answers(&Rows::read(&set, folder.path()).unwrap()),
        ["Blue."]
    );
}

#[test]
fn formats_have_the_names_of_other_tools() {
    let folder = Folder::new();
    assert_eq!(
        answers(&folder.rows(&dataset("alpaca"), "a.jsonl", BLUE).unwrap()),
        ["Blue."]
    );
    let row =
        r#"{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "ho"}]}"#;
    let rows = folder.rows(&dataset("sharegpt"), "b.jsonl", row).unwrap();
    assert_eq!(answers(&rows), ["ho"]);
    let Prompt::Chat(turns) = &rows.examples[0].prompt else {
        panic!()
    };
    assert_eq!(turns[0].role, "user");
}

#[test]
fn parts_that_are_texts_are_joined_others_refused() {
    let folder = Folder::new();
    let row = |content: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": {content}}}, \
             {{\"role\": \"assistant\", \"content\": \"ho\"}}]}}\n"
        )
    };
    let text = r#"[{"type": "text", "text": "a ", "image": null}, {"type": "text", "text": "b"}]"#;
    let rows = folder.rows(&dataset("chat"), "a.jsonl", row(text)).unwrap();
    let Prompt::Chat(turns) = &rows.examples[0].prompt else {
        panic!()
    };
    assert_eq!(turns[0].content, "a b");
    for (content, said) in [
        (
            r#"[{"type": "text", "text": "a"}, {"type": "image_url"}]"#,
            "part 2 is of type `image_url`",
        ),
        (r#"[{"text": "a"}]"#, "part 1 has no `type`"),
        (r#"[{"type": "text"}]"#, "part 1 has no `text`"),
        (
            r#"[{"type": "text", "text": "a", "audio": "b"}]"#,
            "part 1 has `audio`",
        ),
        ("null", "`content` is no text but null"),
        ("7", "no text and no list of parts"),
    ] {
        let error = folder.refusal(&dataset("chat"), "b.jsonl", row(text) + &row(content));
        assert!(error.contains("row 2") && error.contains(said), "{error}");
    }
}

#[test]
fn turns_of_tools_are_refused_by_row() {
    let folder = Folder::new();
    for turn in [
        r#"{"role": "tool", "tool_call_id": "1", "content": "7"}"#,
        r#"{"role": "assistant", "content": null, "tool_calls": [{"id": "1"}]}"#,
        r#"{"from": "observation", "value": "7"}"#,
    ] {
        let row =
            format!("{{\"messages\": [{turn}, {{\"role\": \"assistant\", \"content\": \"x\"}}]}}");
        let error = folder.refusal(&dataset("chat"), "a.jsonl", row);
        assert!(error.contains("row 1") && error.contains("tool"), "{error}");
        assert!(error.contains("not offered"), "{error}");
    }
}

#[test]
fn rows_of_other_objectives_are_named() {
    let folder = Folder::new();
    let pair = r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#;
    for format in ["instruct", "chat"] {
        let error = folder.refusal(&dataset(format), "a.jsonl", pair);
        assert!(
            error.contains("preference pairs are not offered"),
            "{error}"
        );
    }
    let error = folder.refusal(
        &dataset("instruct"),
        "a.jsonl",
        r#"{"prompt": "a", "completion": "b"}"#,
    );
    assert!(error.contains("template = \"{prompt}\""), "{error}");
}
