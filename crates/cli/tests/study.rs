//! An experiment on the embedded base: cells are run once, kept, and told in a table.

use std::{path::Path, process::Output};

use marill_testkit::processes::marill;

const PLAN: &str = r#"
tokens = 3000
rate_tokens = 1500
[[task]]
name = "dolly4"
recipe = "demo"
train_rows = 200
rows = 30
shots = [0, 2]
seeds = [1]
expect = { gain = 0.5, stderr = 0.05 }
[[rates]]
name = "full"
arm = "full"
values = [1e-3, 2e-3]
[[rates]]
name = "lora"
arm = "plain"
values = [2e-3]
[[arm]]
name = "full"
about = "every layer"
rates = "full"
remove = ["lora", "heads"]
set = ["freeze.layers=0", "freeze.embedding=true"]
[[arm]]
name = "plain"
about = "the recipe"
rates = "lora"
[[arm]]
name = "unmerged"
about = "the recipe without merged heads"
rates = "lora"
remove = ["heads"]
"#;

fn headline(dir: &Path, more: &[&str]) -> Output {
    let recipes = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    marill()
        .current_dir(dir)
        .env("MARILL_SHARED", recipes)
        .env("MARILL_CACHE", dir.join("cache"))
        .args(["bench", "headline", "--quality", "--plan", "plan.toml"])
        .args(["--cells", "cells", "--runs", "runs", "--no-progress"])
        .args(more)
        .output()
        .unwrap()
}

fn out(output: &Output) -> String {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plan.toml"), PLAN).unwrap();
    dir
}

#[test]
fn what_was_not_run_is_named_and_nothing_is_made_up() {
    let dir = folder();
    let output = headline(dir.path(), &["--minutes", "0"]);
    let text = out(&output);
    assert!(
        text.contains("Not run: dolly4 full at rate 1e-3;"),
        "{text}"
    );
    assert!(text.contains("dolly4 unmerged of seed 1."), "{text}");
    // 3.92 standard errors of 0.05, of a difference of two scores, over a gain of 0.5.
    assert!(
        said(&output).contains("about 0.55 wide"),
        "{}",
        said(&output)
    );
    assert!(
        said(&output).contains("0 cells run, 8 left"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_second_call_runs_nothing_again() {
    let dir = folder();
    let first = headline(dir.path(), &[]);
    let text = out(&first);
    assert!(
        said(&first).contains("8 cells run, 0 left"),
        "{}",
        said(&first)
    );
    assert!(!text.contains("Not run"), "{text}");
    assert!(text.contains("| dolly4 | unmerged |     1 |"), "{text}");
    // The base and the full fine-tune are the ends of the scale.
    assert!(text.contains("| dolly4 | base     |"), "{text}");
    let second = headline(dir.path(), &[]);
    assert_eq!(out(&second), text);
    assert!(
        said(&second).contains("0 cells run, 0 left"),
        "{}",
        said(&second)
    );

    // A lost cell is run again and is the same; a damaged one is named, not believed.
    let cells = dir.path().join("cells");
    let mut files: Vec<_> = cells
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().path())
        .collect();
    files.sort();
    assert_eq!(files.len(), 8);
    let lost = files
        .iter()
        .find(|file| file.to_string_lossy().contains("-run-"));
    std::fs::remove_file(lost.unwrap()).unwrap();
    let third = headline(dir.path(), &[]);
    assert_eq!(out(&third), text);
    assert!(said(&third).contains("1 cells run"), "{}", said(&third));
    std::fs::write(lost.unwrap(), "{}").unwrap();
    let fourth = headline(dir.path(), &[]);
    assert!(!fourth.status.success());
    assert!(said(&fourth).contains("is no cell"), "{}", said(&fourth));
}

#[test]
fn another_recipe_is_another_cell() {
    let dir = folder();
    out(&headline(dir.path(), &["--minutes", "0"]));
    let wrong = PLAN.replace("freeze.layers=0", "freeze.layer=0");
    std::fs::write(dir.path().join("plan.toml"), wrong).unwrap();
    let output = headline(dir.path(), &["--minutes", "0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("freeze.layer"), "{}", said(&output));
}
