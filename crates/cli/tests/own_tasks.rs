//! Tasks of one's own, and the folder of results that lm-evaluation-harness would have written.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use marill_testkit::{models::tiny_family, processes::marill};
use serde_json::{Value, json};

const MINE: &str = r#"
name = "mine"
version = 3
kind = "classify"
max_new_tokens = 4

[dataset]
path = "rows.csv"
format = "classify"
style = "plain"
label = "kind"
template = "{body} is"
labels = [" no", " yes", " perhaps"]
"#;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        tiny_family(&place.path("base"), &json!({ "model_type": "llama" }), 1).unwrap();
        std::fs::create_dir(place.path("tasks")).unwrap();
        place.file("tasks/mine.toml", MINE);
        place.file(
            "tasks/rows.csv",
            "body,kind\na fine day,1\nrain,no\nfog,perhaps\n",
        );
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn eval(&self, model: &str, args: &[&str]) -> Output {
        let mut command = marill();
        let command = command.args(["eval", model, "--no-progress"]).args(args);
        command.current_dir(self.0.path()).output().unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.eval("base", &[args, &["--json"]].concat());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.eval("base", args);
        assert_eq!(output.status.code(), Some(1), "{args:?} is no bad input");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }
}

/// The one file in a folder whose name begins so.
fn only(folder: &Path, begin: &str) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap();
    let names = files.map(|entry| entry.unwrap().path());
    let begins = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        name.starts_with(begin)
    };
    let found: Vec<PathBuf> = names.filter(begins).collect();
    assert_eq!(found.len(), 1, "{begin}: {found:?}");
    found.into_iter().next().unwrap()
}

#[test]
fn a_task_file_is_scored_as_an_embedded_task_is() {
    let place = Place::new();
    let told = place.json(&["--tasks", "tasks/mine.toml"]);
    let report = &told["results"]["mine"];
    assert_eq!((&report["n"], &report["version"]), (&json!(3), &json!(3)));
    assert_eq!((&report["metric"], &told["n"]), (&json!("acc"), &json!(3)));
    // Beside embedded ones, and other rows in place of its own.
    place.file("other.csv", "body,kind\nsun,yes\n");
    let other = place.json(&["--tasks", "tasks/mine.toml", "--data", "other.csv"]);
    assert_eq!(other["n"], 1);
    let min = place.eval("base", &["--tasks", "tasks/mine.toml", "--min", "1.1"]);
    assert_eq!(min.status.code(), Some(1));
}

#[test]
fn mistakes_of_a_task_file_end_a_run_with_their_place() {
    let place = Place::new();
    place.file("tasks/odd.toml", &MINE.replace("label = ", "lable = "));
    let said = place.refused(&["--tasks", "tasks/odd.toml"]);
    assert!(
        said.contains("tasks/odd.toml") && said.contains("lable"),
        "{said}"
    );
    assert!(said.contains("line 11"), "{said}");
    let said = place.refused(&["--tasks", "tasks/none.toml"]);
    assert!(said.contains("`tasks/none.toml` was not found"), "{said}");
    let said = place.refused(&["--tasks", "tasks/mine.toml,tasks/mine.toml"]);
    assert!(said.contains("the task `mine` is named twice"), "{said}");
}

#[test]
fn the_results_folder_is_the_harnesss() {
    let place = Place::new();
    let told = place.json(&["--tasks", "tasks/mine.toml", "--output-path", "out"]);
    let folder = place.path("out/base");
    let read = |path: &Path| std::fs::read_to_string(path).unwrap();
    let results: Value = serde_json::from_str(&read(&only(&folder, "results_"))).unwrap();
    let entry = &results["results"]["mine"];
    assert_eq!(entry["alias"], "mine");
    assert_eq!(entry["acc,none"], told["score"]);
    assert_eq!(entry["acc_stderr,none"], told["stderr"]);
    assert_eq!(results["versions"]["mine"], 3);
    assert_eq!(results["n-shot"]["mine"], 0);
    assert_eq!(
        results["n-samples"]["mine"],
        json!({ "original": 3, "effective": 3 })
    );
    assert_eq!(results["higher_is_better"]["mine"]["acc"], true);
    assert_eq!(results["configs"]["mine"]["output_type"], "multiple_choice");
    assert_eq!(results["config"]["model_args"]["pretrained"], "base");
    // Our own report stands beside theirs, whole.
    assert_eq!(
        results["marill"]["results"]["mine"]["answers_sha256"],
        told["results"]["mine"]["answers_sha256"]
    );

    let samples = read(&only(&folder, "samples_mine_"));
    let lines: Vec<Value> = samples
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    let right: f64 = lines.iter().map(|line| line["acc"].as_f64().unwrap()).sum();
    assert!((right / 3.0 - told["score"].as_f64().unwrap()).abs() < 1e-12);
    for (nth, line) in lines.iter().enumerate() {
        assert_eq!(line["doc_id"], nth);
        assert_eq!(line["filtered_resps"].as_array().unwrap().len(), 3);
        assert_eq!(line["arguments"]["gen_args_2"]["arg_1"], " perhaps");
        // One label is the likeliest.
        let best = line["filtered_resps"].as_array().unwrap().iter();
        assert_eq!(best.filter(|told| told[1] == "true").count(), 1, "{line}");
        assert!(line["doc_hash"].as_str().unwrap().len() == 64);
    }
}
