//! Data files as other programs write them: every row is read, where an editor finds it, and
//! nothing is guessed.

use std::{io::Write, path::PathBuf};

use flate2::{Compression, write::GzEncoder};
use marill_recipe::{Dataset, Format, Prompt, RecipeError, Rows, questions, read_records};

fn dataset(format: &str) -> Dataset {
    toml::from_str(&format!("path = \"x\"\nformat = \"{format}\"")).unwrap()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn rows(
        &self,
        set: &Dataset,
        name: &str,
        content: impl AsRef<[u8]>,
    ) -> Result<Rows, RecipeError> {
        Rows::read_files(set, &self.file(name, content), None)
    }

    fn refusal(&self, set: &Dataset, name: &str, content: impl AsRef<[u8]>) -> String {
        self.rows(set, name, content).unwrap_err().to_string()
    }
}

fn packed(text: &str) -> Vec<u8> {
    let mut member = GzEncoder::new(Vec::new(), Compression::fast());
    member.write_all(text.as_bytes()).unwrap();
    member.finish().unwrap()
}

const BLUE: &str = "{\"instruction\": \"Name a color\", \"input\": \"\", \"output\": \"Blue.\"}\n";
const PLUM: &str = "{\"instruction\": \"Name a fruit\", \"input\": \"\", \"output\": \"Plum.\"}\n";

#[test]
fn all_members_of_a_packed_file_are_read() {
    let folder = Folder::new();
    let set = dataset("instruct");
    for name in ["rows.jsonl.gz", "ROWS.JSONL.GZ"] {
        let rows = folder
            .rows(
                &set,
                name,
                [packed(BLUE), packed(PLUM), packed(BLUE)].concat(),
            )
            .unwrap();
        assert_eq!(rows.examples.len(), 3);
        assert_eq!(rows.examples[1].completion, "Plum.");
    }
    let cut = packed(BLUE);
    let error = folder.refusal(
        &set,
        "cut.jsonl.gz",
        [packed(PLUM), cut[..cut.len() - 3].to_vec()].concat(),
    );
    assert!(error.contains("cut.jsonl.gz"), "{error}");
    let error = folder.refusal(&set, "rows.jsonl", packed(BLUE));
    assert!(
        error.contains("not UTF-8") && error.contains("hint: it is packed"),
        "{error}"
    );
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_row() {
    let folder = Folder::new();
    assert_eq!(
        folder
            .rows(&dataset("instruct"), "a.jsonl", format!("\u{feff}{BLUE}"))
            .unwrap()
            .examples
            .len(),
        1
    );
    assert_eq!(
        folder
            .rows(&dataset("instruct"), "a.json", format!("\u{feff}[{BLUE}]"))
            .unwrap()
            .examples
            .len(),
        1
    );
    for (name, text, column) in [
        ("a.tsv", "a fine day\t1\n", "0"),
        ("a.csv", "text\na fine day\n", "text"),
    ] {
        let rows = read_records(&folder.file(name, format!("\u{feff}{text}"))).unwrap();
        assert_eq!(rows[0].record[column], "a fine day", "{name}");
    }
    let rows = folder
        .rows(&dataset("text"), "a.txt", "\u{feff}Once")
        .unwrap();
    assert_eq!(rows.examples[0].completion, "Once");
    let (de, en) = (
        folder.file("a.de", "\u{feff}eins\n"),
        folder.file("a.en", "\u{feff}one\n"),
    );
    let pair = &Rows::read_files(&dataset("translate"), &de, Some(&en))
        .unwrap()
        .examples[0];
    assert!(
        matches!(&pair.prompt, Prompt::Chat(turns) if turns[0].content == "eins")
            && pair.completion == "one"
    );
    let rows = folder
        .rows(
            &dataset("instruct"),
            "a.jsonl.gz",
            packed(&format!("\u{feff}{BLUE}")),
        )
        .unwrap();
    assert_eq!(rows.examples.len(), 1);
    let wide: Vec<u8> = "\u{feff}a"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert!(
        folder
            .refusal(&dataset("text"), "a.txt", wide)
            .contains("it is UTF-16")
    );
}

#[test]
fn line_n_belongs_to_line_n() {
    let folder = Folder::new();
    let (de, en) = (
        folder.file("a.de", "eins\n\ndrei\nvier\nfünf\n"),
        folder.file("a.en", "one\ntwo\nthree\n\nfive\n"),
    );
    let rows = Rows::read_files(&dataset("translate"), &de, Some(&en)).unwrap();
    let pairs: Vec<_> = rows
        .examples
        .iter()
        .map(|e| (e.prompt.question(), e.completion.as_str()))
        .collect();
    let pair = |de: &str, en: &'static str| (format!("user: {de}"), en);
    assert_eq!(
        pairs,
        [
            pair("eins", "one"),
            pair("drei", "three"),
            pair("fünf", "five")
        ]
    );
    assert_eq!(rows.unpaired, 2);
    // A line is missing, or blank at the end only.
    let short = folder.file("b.en", "one\ntwo\nthree\n");
    let error = Rows::read_files(&dataset("translate"), &de, Some(&short))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("has 5 lines") && error.contains("has 3"),
        "{error}"
    );
    let longer = folder.file("c.en", "one\ntwo\nthree\n\nfive\n\n  \n");
    assert_eq!(
        Rows::read_files(&dataset("translate"), &de, Some(&longer))
            .unwrap()
            .examples
            .len(),
        3
    );
    let table = folder.file("d.tsv", "one\ttwo\n");
    let error = Rows::read_files(&dataset("translate"), &de, Some(&table))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("d.tsv") && error.contains("line by line"),
        "{error}"
    );
    // Questions of one side are found again.
    assert!(
        questions(&dataset("translate"), &de)
            .unwrap()
            .contains("user: vier")
    );
}

#[test]
fn a_json_list_is_so_many_rows() {
    let folder = Folder::new();
    let set = dataset("instruct");
    let pretty = format!(
        "[\n {},\n\n {}\n]\n",
        BLUE.replace(", ", ",\n  "),
        PLUM.trim()
    );
    for name in ["a.json", "a.jsonl", "a.ndjson", "A.JSON"] {
        assert_eq!(
            folder.rows(&set, name, &pretty).unwrap().examples.len(),
            2,
            "{name}"
        );
    }
    assert_eq!(
        folder
            .rows(&set, "a.ndjson", format!("{BLUE}{PLUM}"))
            .unwrap()
            .examples
            .len(),
        2
    );
    let row = "{\"instruction\": \"x\",\n \"output\": \"y\"}";
    for (list, said) in [
        (
            format!("[\n{row},\n{row}\n,\n {{\"instruction\": \"x\"}}]"),
            "row 7: no column `output`",
        ),
        (format!("[\n{row},\n3]"), "row 4: not a JSON object"),
        (format!("[\n{row},\n]"), "row 4: no JSON"),
        (
            format!("[\n{row}\n{row}]"),
            "row 4: no JSON: a list goes on with a comma",
        ),
        (format!("[\n{row}\n"), "row 4: no JSON"),
        (
            format!("[\n{row}]\n{row}"),
            "row 4: no JSON: something stands behind the list",
        ),
        (format!("[{row},\n{{\"a\":\n oops}}]"), "row 4: no JSON"),
        ("[]".into(), "the data set is empty"),
    ] {
        let error = folder.refusal(&set, "a.json", &list);
        assert!(error.contains(said), "{list}: {error}");
    }
}

#[test]
fn rows_have_the_numbers_of_their_lines() {
    let folder = Folder::new();
    let set = dataset("instruct");
    let text =
        format!("\n\n{BLUE}\n{{\"instruction\": \"Name a sea\", \"outptu\": \"Baltic.\"}}\n");
    assert!(
        folder
            .refusal(&set, "a.jsonl", &text)
            .contains("row 5: no column `output`")
    );
    let table = "instruction,input,output\nName a sea,,Baltic.\nName a lake,\n";
    assert!(
        folder
            .refusal(&set, "a.csv", table)
            .contains("row 3: 2 cells under a header of 3")
    );
    // A quoted cell of three lines, a blank line, and Windows' line ends.
    let table = "instruction,output\r\n\"a\r\nb\r\nc\",d\r\n\r\ne\r\n";
    assert!(
        folder
            .refusal(&set, "a.csv", table)
            .contains("row 6: 1 cells")
    );
    assert!(
        folder
            .refusal(&set, "a.csv", "a,b\nc,d\n\"e\n\n,f\n")
            .contains("row 3: a quote is never closed")
    );
    assert!(
        folder
            .refusal(&set, "a.csv", "\na,b,a\n1,2,3\n")
            .contains("row 2: the header has the column `a` twice")
    );
    let mut labels = dataset("classify");
    labels.labels = vec!["no".into(), "yes".into()];
    assert!(
        folder
            .refusal(&labels, "a.csv", "text,label\na,no\n\nb,maybe\n")
            .contains("row 4: `maybe`")
    );
    labels.label = Some("1".into());
    labels.template = Some("{0}".into());
    assert!(
        folder
            .refusal(&labels, "a.tsv", "a\tno\n\n\nb\tmaybe\n")
            .contains("row 4: `maybe`")
    );
}

#[test]
fn codes_that_are_numbers_are_no_places_in_the_list() {
    let folder = Folder::new();
    let mut set = dataset("classify");
    (set.label, set.template) = (Some("1".into()), Some("{0}".into()));
    set.labels = vec!["moving".into(), "still".into()];
    set.label_codes = vec!["1".into(), "0".into()];
    let rows = folder.rows(&set, "a.tsv", "truck\t1\nhouse\t0\n").unwrap();
    assert_eq!(
        rows.examples
            .iter()
            .map(|e| e.completion.as_str())
            .collect::<Vec<_>>(),
        ["moving", "still"]
    );
    set.label_codes = vec!["1".into(), "2".into()];
    assert!(
        folder
            .refusal(&set, "a.tsv", "truck\t1\nhouse\t0\n")
            .contains("row 2: `0` is none of the labels")
    );
}

fn turns(rows: &Rows) -> Vec<String> {
    let Prompt::Chat(turns) = &rows.examples[0].prompt else {
        panic!()
    };
    let said = turns
        .iter()
        .map(|turn| format!("{}: {}", turn.role, turn.content));
    said.chain([rows.examples[0].completion.clone()]).collect()
}

#[test]
fn conversations_of_sharegpt_are_chats() {
    let folder = Folder::new();
    let set = dataset("chat");
    let row = r#"{"conversations": [{"from": "system", "value": "Be short."},
        {"from": "human", "value": "Name a color"},
        {"from": "gpt", "value": "Blue.", "weight": null}]}"#
        .replace('\n', "");
    let rows = folder.rows(&set, "a.jsonl", &row).unwrap();
    assert_eq!(
        turns(&rows),
        ["system: Be short.", "user: Name a color", "Blue."]
    );
    let asked = questions(&set, &folder.file("b.jsonl", &row)).unwrap();
    assert!(asked.contains(&rows.examples[0].prompt.question()));
    for (wrong, said) in [
        (
            row.replace("human", "user"),
            "turn 2: `from` is `user`, and a chat knows `human`, `gpt`, `system` only",
        ),
        (
            row.replace("gpt", "function_call"),
            "turn 3: `from` is `function_call`",
        ),
        (
            row.replace("\"value\": \"Blue.\"", "\"content\": \"Blue.\""),
            "turn 3: it has no `value`",
        ),
        (
            row.replace("\"value\": \"Blue.\"", "\"value\": 3"),
            "turn 3: `value` is no text",
        ),
        (
            row.replace("\"weight\": null", "\"weight\": 0"),
            "turn 3: `weight` is not offered",
        ),
        (
            row.replace(
                "{\"conversations\"",
                "{\"system\": \"Be kind.\", \"conversations\"",
            ),
            "`system` is not offered",
        ),
        (
            row.replace("gpt", "human"),
            "must end with the assistant's turn",
        ),
        (
            row.replace("{\"conversations\"", "{\"messages\": [], \"conversations\""),
            "both `messages`",
        ),
        (
            "{\"text\": \"hi\"}".into(),
            "neither `messages` nor `conversations`",
        ),
    ] {
        let error = folder.refusal(&set, "a.jsonl", &wrong);
        assert!(
            error.contains("row 1: ") && error.contains(said),
            "{wrong}: {error}"
        );
    }
}

#[test]
fn roles_that_no_template_knows_are_refused() {
    let folder = Folder::new();
    let set = dataset("chat");
    let row = concat!(
        r#"{"messages": [{"role": "user", "content": "Name a tree"}, "#,
        r#"{"role": "assistant", "content": "Elm."}]}"#
    );
    assert_eq!(
        turns(&folder.rows(&set, "a.jsonl", row).unwrap()),
        ["user: Name a tree", "Elm."]
    );
    for (wrong, said) in [
        (
            row.replace("\"user\"", "\"human\""),
            "turn 1: `role` is `human`, and a chat knows `system`, `user`, `assistant`",
        ),
        (row.replace("\"user\"", "\"tool\""), "`role` is `tool`"),
        (row.replace("\"user\"", "\"User\""), "`role` is `User`"),
        (
            row.replace("\"Name a tree\"", "null"),
            "turn 1: `content` is no text",
        ),
        (
            row.replace("\"Elm.\"", "\"Elm.\", \"tool_calls\": [{}]"),
            "turn 2: `tool_calls` is not offered",
        ),
        (
            row.replace("{\"messages\"", "{\"tools\": [{}], \"messages\""),
            "`tools` is not offered",
        ),
        (
            row.replace("[{\"role\": \"user\"", "[3, {\"role\": \"user\""),
            "turn 1: it is no object",
        ),
    ] {
        let error = folder.refusal(&set, "a.jsonl", format!("\n{wrong}"));
        assert!(
            error.contains("row 2: ") && error.contains(said),
            "{wrong}: {error}"
        );
    }
    assert_eq!(set.format, Format::Chat);
}

/// A fixed sequence: the same damage every time.
fn damage(bytes: &[u8], state: &mut u64) -> Vec<u8> {
    let mut next = |bound: usize| {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize % bound.max(1)
    };
    let mut bytes = bytes.to_vec();
    for _ in 0..=next(4) {
        let at = next(bytes.len());
        match next(6) {
            0 => bytes.truncate(at),
            1 if !bytes.is_empty() => bytes[at] ^= 1 << next(8),
            2 => bytes.insert(at, b"\"[]{},:\n\r\t\\\0"[next(12)]),
            3 => drop(bytes.drain(at..(at + next(9)).min(bytes.len()))),
            4 => bytes
                .splice(at..at, "\u{feff}ü\u{2028}".bytes())
                .for_each(drop),
            _ => bytes.extend_from_within(at..),
        }
    }
    bytes
}

#[test]
fn damaged_files_are_read_or_refused_by_name() {
    let folder = Folder::new();
    let chat = concat!(
        r#"{"messages": [{"role": "user", "content": "Name a tree"}, "#,
        r#"{"role": "assistant", "content": "Elm."}]}"#
    );
    let mut labels = dataset("classify");
    (labels.label, labels.template) = (Some("1".into()), Some("{0}".into()));
    labels.labels = vec!["no".into(), "yes".into()];
    let list = format!("[{},\n{}]", BLUE.trim(), PLUM.trim());
    let table = "instruction,output\n\"a, \"\"b\"\"\nc\",d\n\ne,f\n".to_owned();
    let files = [
        (
            dataset("instruct"),
            "a.jsonl",
            format!("{BLUE}{PLUM}").into_bytes(),
        ),
        (dataset("instruct"), "a.json", list.into_bytes()),
        (dataset("instruct"), "a.csv", table.into_bytes()),
        (
            dataset("instruct"),
            "a.jsonl.gz",
            [packed(BLUE), packed(PLUM)].concat(),
        ),
        (dataset("chat"), "b.jsonl", chat.as_bytes().to_vec()),
        (
            dataset("chat"),
            "c.jsonl",
            chat.replace("messages", "conversations").into_bytes(),
        ),
        (labels, "a.tsv", b"truck\t1\n\nhouse\t0\n".to_vec()),
        (dataset("text"), "a.txt", b"Once\n\nupon\n".to_vec()),
    ];
    let (mut state, mut refused, mut taken) = (7, 0, 0);
    for (set, name, content) in &files {
        for _ in 0..300 {
            match folder.rows(set, name, damage(content, &mut state)) {
                Ok(_) => taken += 1,
                Err(error) => {
                    assert!(error.to_string().contains(name), "{error}");
                    refused += 1;
                }
            }
        }
    }
    // Both happen often, or the damage tests nothing.
    assert!(
        refused > 500 && taken > 200,
        "{refused} refused, {taken} taken"
    );
    let en = folder.file("a.en", "one\n\nthree\n");
    for _ in 0..300 {
        let de = folder.file(
            "a.de",
            damage("eins\nzwei\n\ndrei\n".as_bytes(), &mut state),
        );
        if let Ok(rows) = Rows::read_files(&dataset("translate"), &de, Some(&en)) {
            assert!(
                rows.examples.len() <= 2,
                "no more pairs than the other side has lines"
            );
        }
    }
}

#[test]
fn damaged_recipes_are_read_or_refused_with_a_place() {
    let demo = include_str!("../../../recipes/demo.toml");
    let mut state = 11;
    for nth in 0..1500 {
        let text = String::from_utf8_lossy(&damage(demo.as_bytes(), &mut state)).into_owned();
        if let Err(error) = marill_recipe::Recipe::parse(&text, "damaged.toml", &[]) {
            assert!(!error.to_string().is_empty(), "{nth}");
        }
    }
}
