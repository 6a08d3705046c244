//! The words of the glossary: retired ones are in no file and in no help.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
};

use regex::Regex;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// The expressions of the glossary's last block.
fn retired() -> Vec<Regex> {
    let glossary = std::fs::read_to_string(root().join("docs/glossary.md")).unwrap();
    let (_, block) = glossary.split_once("```retired\n").unwrap();
    let (block, _) = block.split_once("```").unwrap();
    block
        .lines()
        .map(|line| Regex::new(line).unwrap())
        .collect()
}

/// Every retired phrase in a text, whose line breaks count as spaces, comment marks included.
fn found(expressions: &[Regex], text: &str) -> Vec<String> {
    let breaks = Regex::new(r"\\?\n[ \t]*(?://[/!]?|#|>)?[ \t]*").unwrap();
    let text = breaks.replace_all(text, " ");
    let matches = |expression: &Regex| {
        let phrases: Vec<String> = expression
            .find_iter(&text)
            .map(|found| found.as_str().to_owned())
            .collect();
        phrases
    };
    expressions.iter().flat_map(matches).collect()
}

fn pages(folder: &Path, found: &mut Vec<PathBuf>) {
    let kinds = [
        "rs", "md", "toml", "py", "js", "mjs", "html", "sh", "yml", "snap",
    ];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let extension = path.extension().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            // Reports are evidence and keep the words of their day.
            let skipped = [
                "target",
                "runs",
                "models",
                "shared",
                "reports",
                "node_modules",
            ];
            if !skipped.contains(&&*name) && !name.starts_with('.') {
                pages(&path, found);
            }
        } else if kinds.contains(&&*extension)
            && !["compat.rs", "CHANGELOG.md", "glossary.md"].contains(&&*name)
        {
            found.push(path);
        }
    }
}

#[test]
fn retired_phrases_are_in_no_file() {
    let expressions = retired();
    let mut files = Vec::new();
    pages(&root(), &mut files);
    assert!(files.len() > 200, "the files were not found");
    let mut wrong = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        for phrase in found(&expressions, &text) {
            wrong.push(format!("{}: {phrase}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_retired_phrase_is_seen_across_a_line_break() {
    // In parts, so that this file does not have it.
    let text = ["    /// It was written", "ahead."].join("\n    /// ");
    assert_eq!(found(&retired(), &text), [["written", "ahead"].join(" ")]);
}

fn marill(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_marill"))
        .args(arguments)
        .output()
        .unwrap()
}

/// The help of a command and of all below it.
fn helps(command: &[&str], found: &mut Vec<String>) {
    let output = marill(&[command, &["--help"]].concat());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{command:?}");
    let listed = text.split_once("Commands:\n").map_or("", |(_, rest)| rest);
    let names = listed.lines().take_while(|line| !line.trim().is_empty());
    // A name stands two columns in; what goes on from the line before stands further in.
    let names = names.filter(|line| !line.starts_with("   "));
    for name in names.filter_map(|line| line.split_whitespace().next()) {
        if name != "help" {
            helps(&[command, &[name]].concat(), found);
        }
    }
    found.push(text);
}

#[test]
fn retired_phrases_are_in_no_help() {
    let expressions = retired();
    let mut texts = Vec::new();
    helps(&[], &mut texts);
    assert!(texts.len() > 20, "{} helps", texts.len());
    for text in texts {
        let phrases = found(&expressions, &text);
        assert!(phrases.is_empty(), "{phrases:?} in\n{text}");
    }
}
