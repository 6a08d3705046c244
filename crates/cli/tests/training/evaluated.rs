//! Rows and thresholds that a recipe names for its evaluation.

use std::process::Output;

use crate::{Place, TUNE, json, stderr};

/// A run whose recipe names rows and a threshold for its evaluation.
struct Evaluated {
    place: Place,
}

impl Evaluated {
    fn new() -> Self {
        let place = Place::new();
        std::fs::create_dir(place.path("sub")).unwrap();
        let row = |n: u32| format!("{{\"text\": \"number {n}\", \"label\": {}}}\n", n % 2);
        std::fs::write(
            place.path("sub/asked.jsonl"),
            (300..312).map(row).collect::<String>(),
        )
        .unwrap();
        let recipe = format!("{TUNE}[eval]\npath = \"asked.jsonl\"\nmin = 0.0\n");
        std::fs::write(place.path("sub/tune.toml"), &recipe).unwrap();
        Self { place }
    }

    fn train(&self, more: &[&str]) -> Output {
        let args = [
            &[
                "train",
                "sub/tune.toml",
                "--no-progress",
                "--set",
                "train.max_steps=2",
            ],
            more,
        ]
        .concat();
        self.place.marill(&args).output().unwrap()
    }

    fn eval(&self, more: &[&str]) -> Output {
        self.place
            .marill(&[&["eval", "tuned", "--no-progress"], more].concat())
            .output()
            .unwrap()
    }
}

#[test]
fn an_evaluation_finds_the_rows_beside_the_recipe() {
    let run = Evaluated::new();
    let output = run.train(&[]);
    assert!(output.status.success(), "{}", stderr(&output));
    // The rows lie beside the recipe file, and are found from the run's folder.
    let output = run.eval(&["--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let found = json(&output);
    assert_eq!(
        (&found["n"], &found["metric"]),
        (&12.into(), &"acc".into()),
        "{found}"
    );
    assert!(found["results"]["recipe"]["score"].is_number(), "{found}");
    let output = run.eval(&["--min", "1.5"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("below `--min` = 1.5"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn an_evaluation_fails_below_the_recipes_threshold() {
    let run = Evaluated::new();
    assert!(run.train(&["--set", "eval.min=1.5"]).status.success());
    let output = run.eval(&[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("`recipe` scored")
            && stderr(&output).contains("below `eval.min` = 1.5")
    );
    // Its threshold is about its own rows.
    run.place.write("text.txt", "numbers of many kinds\n");
    let output = run.eval(&["--tasks", "wikitext-2", "--data", "text.txt"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
}

#[test]
fn tasks_of_a_recipe_are_checked_before_the_run() {
    let run = Evaluated::new();
    let output = run.train(&["--set", "eval.tasks=[\"treck\"]"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("`eval.tasks`") && stderr(&output).contains("`treck`"),
        "{}",
        stderr(&output)
    );
    let output = run.train(&["--set", "eval.tasks=[\"wikitext-2\"]"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("task `wikitext-2`: `eval.min` is a least score"),
        "{}",
        stderr(&output)
    );
    let rows = run.place.path("sub/asked.jsonl").display().to_string();
    let named = [
        "--set",
        "eval.tasks=[\"sst2\"]",
        "--set",
        &format!("eval.path={rows}"),
    ];
    let output = run.train(&named);
    assert!(output.status.success(), "{}", stderr(&output));
    // The task's own columns are asked of the recipe's file.
    let output = run.eval(&[]);
    assert!(
        stderr(&output).contains("task `sst2` needs its data") && stderr(&output).contains("row 1")
    );
}
