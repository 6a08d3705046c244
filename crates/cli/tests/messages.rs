//! What a person reads who makes a mistake: exit code and words of each kind of error. After a
//! change on purpose: `INSTA_UPDATE=always cargo test -p marill --test messages`, then read the
//! difference.

use std::{fmt::Write, path::Path, process::Command};

/// Runs commands in one folder and writes down what each says; the folder is `[DIR]`.
struct Session {
    dir: tempfile::TempDir,
    said: String,
}

impl Session {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            said: String::new(),
        }
    }

    fn file(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// A command that must fail.
    fn refused(&mut self, args: &[&str]) {
        let dir: &Path = self.dir.path();
        let output = Command::new(env!("CARGO_BIN_EXE_marill"))
            .args(args)
            .current_dir(dir)
            .env_clear()
            .env("HOME", dir)
            .env("COLUMNS", "100")
            .output()
            .expect("the binary starts");
        assert!(!output.status.success(), "{args:?} is no mistake");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains("panicked"), "{text}");
        let text = text.replace(&dir.display().to_string(), "[DIR]");
        let code = output.status.code().expect("no signal ends it");
        writeln!(
            self.said,
            "$ marill {}\n{}\n[{code}]\n",
            args.join(" "),
            text.trim_end()
        )
        .unwrap();
    }
}

const RECIPE: &str = r#"[model]
base_model = "base"

[[dataset]]
path = "rows.jsonl"
format = "classify"
labels = ["no", "yes"]

[freeze]
layers = 2

[output]
dir = "out"
"#;

#[test]
fn messages_about_commands_and_flags() {
    let mut session = Session::new();
    for args in [
        &["trian"][..],
        &["train"],
        &["train", "--lr", "1", "recipe.toml"],
        &["serve", "DIR", "--max-sessions", "0"],
        &["serve", "DIR", "--setting", "4pc"],
        &["bench", "DIR", "--tokens", "0"],
        &["bench", "--arch", "gpt5"],
        &["bench", "--arch", "gpt2", "--layers", "13"],
        &["generate", "DIR", "-p", "x", "--stop", ""],
        &["generate", "DIR", "-p", "x", "--temperature", "3"],
        &["keys", "add", "alice", "--tokens", "0"],
        &["keys", "revoke", "bob"],
        &["eval", "DIR", "--tasks", "agnews", "--engine", "fast"],
        &["completions", "cmd"],
    ] {
        session.refused(args);
    }
    insta::assert_snapshot!(session.said);
}

#[test]
fn messages_about_recipes() {
    let mut session = Session::new();
    session.refused(&["train", "missing.toml"]);
    for (name, from, to) in [
        ("syntax", "[model]", "[model"),
        ("key", "layers = 2", "layer = 2"),
        ("kind", "layers = 2", "layers = \"two\""),
        ("choice", "\"classify\"", "\"classes\""),
        ("absent", "[output]\ndir = \"out\"\n", ""),
        ("labels", "[\"no\", \"yes\"]", "[\"no\", \"no\"]"),
    ] {
        let file = format!("{name}.toml");
        assert!(RECIPE.contains(from), "{from}");
        session.file(&file, &RECIPE.replace(from, to));
        session.refused(&["train", &file]);
    }
    session.file("recipe.toml", RECIPE);
    session.refused(&["train", "recipe.toml"]);
    session.refused(&["train", "recipe.toml", "--set", "freeze.layer=3"]);
    session.refused(&["train", "recipe.toml", "--set", "freeze.layers"]);
    session.file("named.toml", &RECIPE.replace("\"base\"", "\"org/name\""));
    session.refused(&["train", "named.toml", "--offline"]);
    session.refused(&["recipes", "cp", "nothing", "to.toml"]);
    insta::assert_snapshot!(session.said);
}

#[test]
fn messages_about_models_and_files() {
    let mut session = Session::new();
    session.file("empty/nothing", "");
    session.file("model.gguf", "no GGUF");
    session.file("partition/manifest.json", "{\"schema\": 99}");
    session.file("folder/config.json", "{\"model_type\": \"mamba\"}");
    for args in [
        &["inspect", "missing"][..],
        &["inspect", "empty"],
        &["inspect", "partition"],
        &["serve", "missing"],
        &["serve", "empty"],
        &["eval", "model.gguf", "--tasks", "agnews"],
        &["eval", "folder", "--tasks", "agnews"],
        &["eval", "empty", "--tasks", "nothing"],
        &["export", "empty"],
    ] {
        session.refused(args);
    }
    insta::assert_snapshot!(session.said);
}

#[test]
fn messages_about_services() {
    let mut session = Session::new();
    for args in [
        &["generate", "http://192.0.2.1:8100", "-p", "x"][..],
        &["generate", "127.0.0.1:8100", "-p", "x"],
        &[
            "generate",
            "http://127.0.0.1:9",
            "-p",
            "x",
            "--dealer",
            "http://127.0.0.1:9",
        ],
        &["party", "--host", "0.0.0.0"],
        &["gateway", "--server", "ftp://127.0.0.1:8100"],
        &["dealer", "--host", "0.0.0.0"],
        &["dealer", "--preprocess", "files"],
    ] {
        session.refused(args);
    }
    insta::assert_snapshot!(session.said);
}
