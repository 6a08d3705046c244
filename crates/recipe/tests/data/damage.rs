//! Damaged files are read or refused by name, and end no process.

use marill_recipe::Rows;

use crate::folder::{BLUE, Folder, PLUM, dataset, packed};

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
    let mut state = 7;
    let mut refused = 0;
    let mut taken = 0;
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
    let demo = include_str!("../../../../recipes/demo.toml");
    let mut state = 11;
    for nth in 0..1500 {
        let text = String::from_utf8_lossy(&damage(demo.as_bytes(), &mut state)).into_owned();
        if let Err(error) = marill_recipe::Recipe::parse(&text, "damaged.toml", &[]) {
            assert!(!error.to_string().is_empty(), "{nth}");
        }
    }
}
