//! Data files as other programs write them: every row is read, where an editor finds it, and
//! nothing is guessed.

use marill_recipe::{Format, Prompt, Rows, questions, read_records};

use crate::folder::{BLUE, Folder, PLUM, dataset, packed};

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
    let de = folder.file("a.de", "\u{feff}eins\n");
    let en = folder.file("a.en", "\u{feff}one\n");
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
    let de = folder.file("a.de", "eins\n\ndrei\nvier\nfünf\n");
    let en = folder.file("a.en", "one\ntwo\nthree\n\nfive\n");
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
            row.replace("human", "robot"),
            "turn 2: `from` is `robot`, and a chat knows `human`, `gpt`, `system`, `user`",
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
