//! Values without sense are refused where they are given, by their name, before anything is begun.

use std::{
    path::Path,
    process::{Command, Output},
};

fn marill(args: &[&str]) -> Output {
    let scratch = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_marill"));
    command
        .args(args)
        .current_dir(scratch.path())
        .env("MARILL_STATE", scratch.path().join("state"));
    command
        .env("MARILL_CACHE", scratch.path().join("cache"))
        .output()
        .unwrap()
}

/// Runs a command that must fail, and checks its exit code and what it says.
fn refused(args: &[&str], code: i32, said: &[&str]) {
    let output = marill(args);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
    for part in said {
        assert!(text.contains(part), "{args:?} does not say {part}: {text}");
    }
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn numbers_and_texts_without_sense() {
    for service in [&["serve", "DIR"][..], &["dealer"], &["gateway"], &["party"]] {
        refused(
            &[service, &["--max-sessions", "0"]].concat(),
            2,
            &["--max-sessions", "'0'"],
        );
        refused(
            &[service, &["--max-sessions", "99999999999999"]].concat(),
            2,
            &["--max-sessions"],
        );
    }
    refused(
        &["generate", "DIR", "-p", "x", "--stop", ""],
        2,
        &["--stop"],
    );
    refused(
        &["keys", "add", "alice", "--tokens", "0"],
        2,
        &["--tokens", "0 is not in"],
    );
    let preprocess = [
        "dealer",
        "--preprocess",
        "DIR",
        "--preprocess-request",
        "FILE",
    ];
    for flag in ["--bucket", "--tokens", "--sessions"] {
        refused(
            &[&preprocess[..], &[flag, "18446744073709551615"]].concat(),
            2,
            &[flag],
        );
        refused(&[&preprocess[..], &[flag, "0"]].concat(), 2, &[flag]);
    }
    refused(
        &["eval", "DIR", "--tasks", "dolly4", "--min", "nan"],
        2,
        &["--min", "a finite number"],
    );
    refused(
        &["eval", "DIR", "--tasks", "dolly4", "--limit", "0"],
        2,
        &["--limit"],
    );
}

#[test]
fn what_does_nothing_beside_merge() {
    for (flag, value) in [
        ("--engine", "twin"),
        ("--shots", "4"),
        ("--exclude", "rows.tsv"),
        ("--batch-size", "8"),
        ("--ignore", "KEY"),
        ("--recipe", "recipe.toml"),
        ("--max-new-tokens", "5"),
        ("--show", "1"),
        ("--reference", "rows.txt"),
    ] {
        let args = ["eval", flag, value, "--merge", "a.json", "b.json"];
        refused(&args, 2, &[flag, "--merge"]);
    }
    let code = ["eval", "--allow-code-execution", "--merge", "a.json"];
    refused(&code, 2, &["--allow-code-execution", "--merge"]);
    let seed = ["eval", "--seed", "1", "--merge", "a.json"];
    refused(&seed, 1, &["`--seed` cannot be used with `--merge`"]);
    refused(&["eval", "--merge", "a.json"], 1, &["cannot read `a.json`"]);
}

#[test]
fn benchmarks_of_no_or_too_many_layers_and_positions() {
    refused(
        &["bench", "DIR", "--tokens", "0"],
        2,
        &["--tokens", "0 is not in"],
    );
    refused(
        &["bench", "--arch", "gpt2", "--layers", "0"],
        2,
        &["--layers"],
    );
    refused(
        &["bench", "--arch", "gpt2", "--merge", "0"],
        2,
        &["--merge"],
    );
    let wide = ["bench", "--arch", "gpt2", "--layers", "1"];
    for (flag, phase) in [
        ("--tokens", "decode"),
        ("--context", "decode"),
        ("--tokens", "prefill"),
    ] {
        refused(
            &[&wide[..], &[flag, "4294967295", "--phase", phase]].concat(),
            1,
            &[flag, "2032"],
        );
    }
    refused(
        &["bench", "--arch", "gpt2", "--layers", "4294967295"],
        1,
        &["`--layers` 4294967295: `gpt2` has 12 layers"],
    );
}

#[test]
fn plain_text_to_another_machine_is_refused_at_the_start() {
    let far = "http://192.0.2.1:8200";
    for args in [
        &["serve", "DIR", "--dealer", far][..],
        &["gateway", "--dealer", far],
        &["gateway", "--server", far],
        &["gateway", "--party", far],
        &["party", "--dealer", far],
        &["generate", far, "-p", "x"],
        &["generate", "http://127.0.0.1:1", "--dealer", far, "-p", "x"],
    ] {
        let output = marill(args);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && text.contains("plain text is only allowed on this machine"),
            "{args:?}: {text}"
        );
        assert!(text.contains("192.0.2.1:8200"), "{text}");
    }
}

#[test]
fn what_an_evaluation_cannot_use() {
    let base = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../recipes/base")
        .display()
        .to_string();
    let eval = |more: &[&'static str], said: &[&str]| {
        let args = [&["eval", base.as_str(), "--no-progress"], more].concat();
        let output = marill(&args);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{more:?}: {text}");
        said.iter()
            .for_each(|part| assert!(text.contains(part), "{more:?} does not say {part}: {text}"));
        text
    };
    let first = ["--tasks", "dolly4", "--limit", "1"];
    eval(
        &[&first[..], &["--shots", "99999999999"]].concat(),
        &["`--shots` 99999999999 are more than"],
    );
    let text = eval(
        &[&first[..], &["--exclude", "/nonexistent"]].concat(),
        &["`--exclude`", "/nonexistent"],
    );
    assert!(!text.contains("--data"), "{text}");
    let text = eval(
        &[&first[..], &["--data", "/nonexistent"]].concat(),
        &["`--data`", "/nonexistent"],
    );
    assert!(!text.contains("--exclude"), "{text}");
    eval(
        &["--tasks", "dolly4,dolly4"],
        &["the task `dolly4` is named twice"],
    );
    eval(
        &["--tasks", "dolly4", "--engine", "float,float"],
        &["`--engine` names one twice"],
    );
    eval(
        &["--tasks", "wikitext-2", "--min", "3"],
        &["`--min` is a least score"],
    );
    eval(&[], &["no task is named", "hint: `--tasks NAMES`"]);
}
