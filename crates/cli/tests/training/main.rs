//! `marill train` as a process: killed, resumed, out of space, planned.

mod disk;
mod dry_run;
mod evaluated;
mod interrupted;

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use marill_testkit::{recipes::BASE, tune_recipe};

const TUNE: &str = tune_recipe!(
    "",
    r#"[freeze]
layers = 1
[lora]
rank = 4
dropout = 0.2
[heads]
merge = 2
[train]
epochs = 40
max_steps = 60
micro_batch_size = 8
gradient_accumulation_steps = 4
checkpoint_steps = 3
"#
);

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// Rows, recipes and a small random base model.
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let line = |n: u32| format!("{{\"text\": \"number {n}\", \"label\": {}}}\n", n % 2);
        place.write("rows.jsonl", &(100..260).map(line).collect::<String>());
        place.write("base.toml", BASE);
        place.write("tune.toml", TUNE);
        let output = place
            .marill(&["train", "base.toml", "--no-progress"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        place
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn marill(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_marill"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("MARILL_CACHE", self.path("cache"));
        command
    }

    fn tune(&self, threads: &str, dir: &str, more: &[&str]) -> Command {
        let mut command =
            self.marill(&["train", "tune.toml", "--no-progress", "--output-dir", dir]);
        // A cache of its own: the killed run must not live on what an uninterrupted one left.
        command
            .args(more)
            .env("RAYON_NUM_THREADS", threads)
            .env("MARILL_CACHE", self.path(&format!("cache-{dir}")))
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        command
    }

    fn adapter(&self, dir: &str) -> Vec<u8> {
        std::fs::read(self.path(dir).join("adapter.safetensors")).unwrap()
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

/// The step of the newest whole checkpoint.
fn newest_step(run: &Path) -> usize {
    let entries = std::fs::read_dir(run.join("checkpoints"))
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names
        .filter_map(|name| name.strip_prefix("step-")?.parse().ok())
        .max()
        .unwrap_or(0)
}

#[test]
fn a_name_on_the_hub_that_is_not_here_says_what_can_be_done() {
    let place = Place::new();
    let output = place
        .marill(&[
            "train",
            "tune.toml",
            "--offline",
            "--set",
            "model.base_model=org/name",
        ])
        .env("HF_HUB_CACHE", place.path("cache"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = stderr(&output);
    assert!(
        text.contains("`org/name` is no path on this machine")
            && text.contains("hint: run once without"),
        "{text}"
    );
    let output = place
        .marill(&["eval", "org/name", "--tasks", "trec", "--offline"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        stderr(&output).contains("`org/name` is no path on this machine"),
        "{}",
        stderr(&output)
    );
    let output = place
        .marill(&["train", "tune.toml", "--set", "model.revision=main"])
        .output()
        .unwrap();
    assert!(
        stderr(&output).contains("hint: drop `revision`"),
        "{}",
        stderr(&output)
    );
}

/// What a run will do, and what had to be done to its rows, comes before its first step.
#[test]
fn a_run_is_described_before_its_first_step() {
    let place = Place::new();
    let short = ["train", "tune.toml", "--set", "train.max_steps=2"];
    let output = place
        .marill(&[&short[..], &["--set", "data.max_seq_len=5"]].concat())
        .output()
        .unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    let at = |part: &str| {
        said.find(part)
            .unwrap_or_else(|| panic!("no `{part}` in\n{said}"))
    };
    let first = at("training 2/2");
    for part in [
        "\nmodel ",
        "\nrows ",
        "\nrun       2 steps",
        "\nprivate   low-rank factors (rank 4)",
        "\ntime ",
        "\nmemory ",
        "note: ",
    ] {
        assert!(at(part) < first, "{part} comes late in\n{said}");
    }
    assert!(at("2 steps, ") < first && at("trained parameters") > first);
    let output = place
        .marill(&[&short[..], &["--no-progress", "--output-dir", "quiet"]].concat())
        .output()
        .unwrap();
    assert!(!stderr(&output).contains("memory "), "{}", stderr(&output));
}

#[test]
fn a_run_that_ends_early_says_so() {
    let place = Place::new();
    let keys = [
        "data.val_fraction=0.2",
        "eval.every_steps=1",
        "train.early_stopping_patience=1",
        // No loss can be less by so much, once there is one.
        "train.early_stopping_threshold=900",
        "train.keep_best=true",
    ];
    let mut command = place.marill(&["train", "tune.toml", "--json"]);
    for key in keys {
        command.args(["--set", key]);
    }
    let output = command.output().unwrap();
    let said = stderr(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("ended early behind step 2 of 60"), "{said}");
    assert!(said.contains("kept: step "), "{said}");
    let found = &json(&output)["train"];
    assert_eq!(
        (&found["steps"], &found["ended_early_of"]),
        (&2.into(), &60.into())
    );
    assert_eq!(found["keeps_best"], true);
    assert!(found["best"]["val_loss"].is_number());
}
